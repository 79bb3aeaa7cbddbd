"""The container of ranked answers and the input checks shared by all implementations."""

import numbers
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops.csr import check_sparse_structure

MAX_LABELS = np.iinfo(np.int32).max


class TopK(NamedTuple):
    """The k best labels of each row, best first.

    Equal scores are ordered by the smaller label id. Rows with fewer than k candidates are
    padded at the end with label -1 and score -inf.

    Attributes
    ----------
    labels : ndarray of shape (n_samples, k), int32
        Label ids, -1 where there is no answer.
    scores : ndarray of shape (n_samples, k), float32
        Scores in the unit of the scores they were selected from, -inf where there is no answer.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.topk import topk_dense
    >>> answer = topk_dense(np.array([[0.1, 0.7, 0.7]]), k=2)
    >>> answer.labels
    array([[1, 2]], dtype=int32)
    """

    labels: np.ndarray
    scores: np.ndarray


def check_k(k):
    """Return `k` as a Python int; refuse what is not an integer of at least 1."""
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, numbers.Integral):
        raise TypeError(f"k must be an integer of at least 1, got {k!r}.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    return int(k)


def check_n_threads(n_threads):
    """Return `n_threads` as a Python int; refuse what is not an integer of at least 1."""
    if isinstance(n_threads, (bool, np.bool_)) or not isinstance(n_threads, numbers.Integral):
        raise TypeError(f"n_threads must be an integer of at least 1, got {n_threads!r}.")
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}.")
    return int(n_threads)


def score_dtype(dtype):
    """Return the dtype in which scores of `dtype` are compared: float32 or float64."""
    dtype = np.dtype(dtype)
    if dtype in (np.dtype(np.float32), np.dtype(np.float16)):
        return np.dtype(np.float32)
    if dtype.kind in "biuf":
        return np.dtype(np.float64)
    raise TypeError(f"scores must be real numbers, got dtype {dtype}.")


def check_dense_scores(scores):
    """Return `scores` as a C-contiguous 2-D float32 or float64 array."""
    if sp.issparse(scores):
        raise TypeError("scores is a sparse matrix: use topk_csr for it.")
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(
            f"scores must have two dimensions (n_samples, n_labels), got shape {scores.shape}."
        )
    if scores.shape[1] > MAX_LABELS:
        raise ValueError(f"At most {MAX_LABELS} labels are supported, got {scores.shape[1]}.")
    return np.ascontiguousarray(scores, dtype=score_dtype(scores.dtype))


def check_csr_scores(scores):
    """Return `(data, indices, indptr, shape)`: float32/float64, int32, int64, no duplicates.

    Explicit zeros stay: they are candidates with the score 0. Duplicates are summed, as SciPy
    defines them. The caller's object and its arrays are never modified.
    """
    if not sp.issparse(scores):
        raise TypeError(
            f"scores must be a SciPy sparse matrix or array, got {type(scores).__name__}: "
            "use topk_dense for dense scores."
        )
    check_sparse_structure(scores, "scores")  # kernels do not check bounds
    if scores.shape[1] > MAX_LABELS:
        raise ValueError(f"At most {MAX_LABELS} labels are supported, got {scores.shape[1]}.")
    dtype = score_dtype(scores.dtype)
    scores = scores.astype(dtype, copy=False).tocsr()
    if not scores.has_canonical_format:
        scores = scores.copy()
        scores.sum_duplicates()
    data = np.ascontiguousarray(scores.data, dtype=dtype)
    indices = np.ascontiguousarray(scores.indices, dtype=np.int32)
    indptr = np.ascontiguousarray(scores.indptr, dtype=np.int64)
    return data, indices, indptr, scores.shape
