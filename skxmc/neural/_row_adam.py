"""Adam on a matrix with one row for each input: all rows, or those that a sparse batch touches."""

import numpy as np

from skxmc._parallel import map_chunks
from skxmc.neural import _hidden_kernels

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

# Chunks of rows or features, at most and of so many numbers at least.
_CHUNKS, _CHUNK_SIZE = 16, 1 << 15


def new_moments(weights):
    """Moments of Adam and the count of updates of each row, all 0."""
    return {
        "first": np.zeros_like(weights),
        "second": np.zeros_like(weights),
        "n_updates": np.zeros(len(weights), dtype=np.int32),
    }


def adam_touched_rows(weights, moments, batch, gradient, learning_rate, n_jobs):
    """A step for ``batch @ weights``: only of the rows of the features in the batch.

    Each feature has its own count of updates in the bias correction; where it does not occur, its
    moments stay as they are too.

    Parameters
    ----------
    weights : float32 array of shape (n_features, n_outputs)
    moments : dict, as `new_moments` made it
        Changed in place, as the weights are.
    batch : csr_array of shape (n_rows, n_features)
    gradient : float32 array of shape (n_rows, n_outputs)
        Of the loss with respect to ``batch @ weights``.
    learning_rate : float
    n_jobs : int
        Threads; the result does not depend on it.
    """
    by_feature = np.argsort(batch.indices, kind="stable")
    features, lengths = np.unique(batch.indices, return_counts=True)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    rows = np.repeat(np.arange(batch.shape[0], dtype=np.int32), np.diff(batch.indptr))
    arrays = (indptr, rows[by_feature], batch.data[by_feature], features)

    def update(chunk):
        _hidden_kernels.adam_columns(
            *arrays,
            gradient,
            weights,
            moments["first"],
            moments["second"],
            moments["n_updates"],
            learning_rate,
            chunk.start,
            chunk.stop,
        )

    for _ in map_chunks(update, chunks(len(features), weights.shape[1]), n_jobs):
        pass


def adam_all_rows(weights, gradient, first, second, learning_rate, t, n_jobs):
    """Step ``t`` (from 1) of a whole matrix, in place."""
    rate = np.float32(learning_rate / (1 - _BETA1**t))
    settings = (*np.float32([_BETA1, _BETA2, _EPSILON]), np.float32(1 / (1 - _BETA2**t)))

    def update(rows):
        for i in range(rows.start, rows.stop):
            _hidden_kernels.adam_step(weights[i], gradient[i], first[i], second[i], rate, *settings)

    for _ in map_chunks(update, chunks(*weights.shape), n_jobs):
        pass


def chunks(n, width):
    """Slices of ``range(n)``, each worth a task of its own."""
    size = max(-(-n // _CHUNKS), -(-_CHUNK_SIZE // width))
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]
