"""Fronts: what turns rows into the features of the output layer. Here those on NumPy arrays.

A front has ``n_outputs`` and the methods of `IdentityFront`. A training step is
``forward(training=True)`` and ``backward``, in pairs, and one ``step``: the gradients of several
pairs add up.
"""

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import effective_n_jobs, map_chunks
from skxmc.io._arrays import make_compressed
from skxmc.label_space import meta_labels
from skxmc.neural import _hidden_kernels, _row_adam
from skxmc.ops.csr import take_rows

# Rows whose products with all rows of a batch exist at a time.
_NORM_ROWS = 256

# Rows from which the mean and the deviation of a new hidden unit are taken, about.
_STATISTICS_ROWS = 4096


class IdentityFront:
    """The rows themselves, times a constant; a sparse batch becomes dense.

    Parameters
    ----------
    n_outputs : int
        Features of a row.
    scale : float, default=1.0
    dropout : float, default=0.0
        Share of the features set to 0 in training; the others are divided by one less this.
    """

    def __init__(self, n_outputs, *, scale=1.0, dropout=0.0):
        self.n_outputs = n_outputs
        self.scale = np.float32(scale)
        self.dropout = dropout

    def prepare(self, X):
        """Rows as `forward` takes them, canonical already: as they are."""
        return X

    def forward(self, batch, *, training=False, seed=None):
        """Features of a batch of rows, float32 of shape (n_rows, n_outputs).

        Parameters
        ----------
        batch : csr_array or ndarray
        training : bool
            Drop features, and remember what `backward` needs.
        seed : sequence of int
            Of the features to drop.
        """
        features = self.transform(batch)
        if training and self.dropout:
            features *= dropout_mask(features.shape, self.dropout, seed)
        return features

    def transform(self, X, *, n_jobs=None):
        """Features of rows for prediction: nothing dropped, each row by itself."""
        X = X.toarray() if sp.issparse(X) else X
        return np.multiply(X, self.scale, dtype=np.float32)

    def backward(self, gradient):
        """Take the gradient of the loss with respect to the last features."""

    def step(self, learning_rate):
        """Update the parameters by the gradient."""

    def model(self):
        """What prediction needs: a dictionary of NumPy arrays."""
        return {"scale": np.array([self.scale]), "n_outputs": np.array([self.n_outputs])}

    def state(self):
        """Parameters and optimiser: a dictionary of arrays, not copied."""
        return {}

    def load_state(self, state):
        """Go on from such a dictionary."""


class HiddenLayerFront:
    r"""A hidden layer of rectified linear units, :math:`h = \max(0, W^T x + b)`, trained by Adam.

    For sparse rows an update touches the weights of the features in the batch only, with the count
    of updates of each feature in Adam's bias correction.

    Parameters
    ----------
    weights : float32 array of shape (n_inputs, n_outputs)
    bias : float32 array of shape (n_outputs,)
    dropout : float, default=0.0
        Share of the units set to 0 in training; the others are divided by one less this.
    max_grad_norm : float or None, default=None
        Longer gradients (over weights and biases) are scaled to this length.
    n_jobs : int or None, default=None
        Threads; the result does not depend on it.
    """

    def __init__(self, weights, bias, *, dropout=0.0, max_grad_norm=None, n_jobs=None):
        self.weights, self.bias = weights, bias
        self.n_outputs = weights.shape[1]
        self.dropout, self.max_grad_norm = dropout, max_grad_norm
        self.n_jobs = effective_n_jobs(n_jobs)
        self._moments = None
        self._pairs = []  # batches since the last step, with the gradients of their sums

    def forward(self, batch, *, training=False, seed=None):
        if sp.issparse(batch):
            features = self._sums(batch, self.n_jobs)
        else:
            batch = np.asarray(batch, dtype=np.float32)
            features = batch @ self.weights
            features += self.bias
        np.maximum(features, 0, out=features)
        if training:
            slope = features > 0
            if self.dropout:
                mask = dropout_mask(features.shape, self.dropout, seed)
                features *= mask
                slope = slope * mask
            self._batch, self._slope = batch, slope
        return features

    def transform(self, X, *, n_jobs=None):
        features = self._sums(X, self.n_jobs if n_jobs is None else n_jobs)
        return np.maximum(features, 0, out=features)

    def _sums(self, X, n_jobs):
        out = np.empty((X.shape[0], self.n_outputs), dtype=np.float32)
        if sp.issparse(X):
            kernel, arrays = _hidden_kernels.sparse_rows, (X.indptr, X.indices, X.data)
        else:
            X = np.ascontiguousarray(X, dtype=np.float32)
            kernel, arrays = _hidden_kernels.dense_rows, (X,)

        def compute(rows):
            kernel(*arrays, self.weights, self.bias, rows.start, rows.stop, out)

        for _ in map_chunks(compute, _row_adam.chunks(*out.shape), n_jobs):
            pass
        return out

    def backward(self, gradient):
        self._pairs.append((self._batch, gradient * self._slope))

    def step(self, learning_rate):
        if not self._pairs:
            return
        batch, gradient = joined(self._pairs)
        self._pairs = []
        if self.max_grad_norm is not None:
            norm = gradient_norm(batch, gradient)
            if norm > self.max_grad_norm:
                gradient = gradient * np.float32(self.max_grad_norm / norm)
        if self._moments is None:
            self._moments = _new_moments(self.weights, self.bias)
        moments = self._moments
        if sp.issparse(batch):
            _row_adam.adam_touched_rows(
                self.weights, moments, batch, gradient, learning_rate, self.n_jobs
            )
        else:
            moments["n_updates"] += 1
            slope = batch.T @ gradient
            t = int(moments["n_updates"][0])
            self._adam(self.weights, slope, moments["first"], moments["second"], learning_rate, t)
        moments["bias_updates"] += 1
        t = int(moments["bias_updates"][0])
        bias = (self.bias, gradient.sum(axis=0), moments["bias_first"])
        self._adam(*(a[None] for a in bias), moments["bias_second"][None], learning_rate, t)

    def _adam(self, weights, gradient, first, second, learning_rate, t):
        _row_adam.adam_all_rows(weights, gradient, first, second, learning_rate, t, self.n_jobs)

    def model(self):
        return {"weights": self.weights, "bias": self.bias}

    def state(self):
        if self._moments is None:
            self._moments = _new_moments(self.weights, self.bias)
        return {"weights": self.weights, "bias": self.bias, **self._moments}

    def load_state(self, state):
        state = {name: np.array(array) for name, array in state.items()}
        self.weights, self.bias = state.pop("weights"), state.pop("bias")
        self._moments = state


def joined(pairs):
    """Batches and gradients one below the other."""
    if len(pairs) == 1:
        return pairs[0]
    batches, gradients = zip(*pairs, strict=True)
    return stacked(batches), np.concatenate(gradients)


def stacked(batches):
    """Canonical CSR or dense batches one below the other."""
    if not sp.issparse(batches[0]):
        return np.concatenate(batches)
    indptr = np.concatenate([[0], *(np.diff(batch.indptr) for batch in batches)])
    return make_compressed(
        np.concatenate([batch.data for batch in batches]),
        np.concatenate([batch.indices for batch in batches]),
        np.cumsum(indptr),
        (sum(batch.shape[0] for batch in batches), batches[0].shape[1]),
    )


def gradient_norm(batch, gradient):
    r"""Length of the gradient of weights W and biases b, :math:`(X^T G, 1^T G)`.

    It is :math:`\sqrt{\sum_{ij} (X X^T + 1)_{ij} (G G^T)_{ij}}`: products of rows, not the gradient
    itself, which is as large as the weights. O(n_rows^2 (n_outputs + entries of a row)) time.
    """
    gradient = np.asarray(gradient, dtype=np.float64)
    batch = batch.astype(np.float64)
    total = 0.0
    for first in range(0, len(gradient), _NORM_ROWS):
        rows = slice(first, first + _NORM_ROWS)
        products = batch[rows] @ batch.T
        products = products.toarray() if sp.issparse(products) else products
        total += float(((products + 1) * (gradient[rows] @ gradient.T)).sum())
    return np.sqrt(max(total, 0.0))


def _new_moments(weights, bias):
    return {
        **_row_adam.new_moments(weights),
        "bias_first": np.zeros_like(bias),
        "bias_second": np.zeros_like(bias),
        "bias_updates": np.zeros(1, dtype=np.int32),
    }


def initial_hidden_layer(X, width, embeddings, seed):
    r"""First weights and biases of a hidden layer.

    Without ``embeddings``, weights are drawn from :math:`N(0, 0.02 / r^2)` for rows of root mean
    square norm r: a tenth of what keeps the size of features (He et al., ICCV 2015), so that the
    weights of rare inputs, which learn little, disturb little.

    With ``embeddings``, each unit looks for the rows of some similar labels: its weights are the
    sum of their embeddings. The labels are clustered into as many groups as there are units; if
    there are fewer labels, the other units are random combinations of two labels. Weights and
    biases are scaled such that a unit has mean 0 and variance 1 over the rows, before
    rectification.

    Parameters
    ----------
    X : csr_array or ndarray of shape (n_rows, n_inputs)
    width : int
        Units.
    embeddings : csr_array of shape (n_labels, n_inputs), or None
        Features of the rows of each label.
    seed : int

    Returns
    -------
    weights : float32 ndarray of shape (n_inputs, width)
    bias : float32 ndarray of shape (width,)
    """
    rng = np.random.default_rng(seed)
    if embeddings is None:
        weights = rng.standard_normal((X.shape[1], width), dtype=np.float32)
        weights *= np.float32(0.1 * np.sqrt(2) / root_mean_square_norm(X))
        return weights, np.zeros(width, dtype=np.float32)
    n_labels = embeddings.shape[0]
    if n_labels >= width:
        cluster = meta_labels(embeddings, width, seed % (1 << 31))
        labels = np.arange(n_labels)
    else:
        extra = rng.integers(n_labels, size=(width - n_labels, 2))
        labels = np.concatenate([np.arange(n_labels), extra.ravel()])
        cluster = np.concatenate([np.arange(n_labels), np.repeat(np.arange(n_labels, width), 2)])
    ones = np.ones(len(labels), dtype=np.float32)
    members = sp.csr_array((ones, (labels, cluster)), shape=(n_labels, width))
    weights = np.ascontiguousarray((embeddings.T @ members).toarray(), dtype=np.float32)
    mean, deviation = _unit_statistics(X, weights)
    weights /= deviation
    return weights, (-mean / deviation).astype(np.float32)


def _unit_statistics(X, weights):
    """Mean and standard deviation of ``X @ weights`` over a sample of the rows."""
    step = -(-X.shape[0] // _STATISTICS_ROWS)
    sample = np.asarray(rows_of(X, np.arange(0, X.shape[0], step)) @ weights)
    mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)


def root_mean_square_norm(X):
    """Root mean square of the norms of the rows; 1 for rows that are all empty."""
    norm = np.linalg.norm(X.data if sp.issparse(X) else X.ravel()) / np.sqrt(X.shape[0])
    return float(norm) if norm > 0 else 1.0


def root_mean_square_entry(X):
    """Root mean square of the entries of the rows that are not 0; 1 where there are none."""
    n_entries = np.count_nonzero(X.data if sp.issparse(X) else X)
    return root_mean_square_norm(X) * np.sqrt(X.shape[0] / n_entries) if n_entries else 1.0


def dropout_mask(shape, dropout, seed):
    """0 with probability ``dropout``, else 1 / (1 - dropout); the same for the same seed."""
    kept = np.random.default_rng(seed).random(shape, dtype=np.float32) >= dropout
    return kept * np.float32(1 / (1 - dropout))


def rows_of(X, rows):
    """The given rows of a canonical CSR or dense X, or of texts, tokenised or not."""
    if sp.issparse(X) or isinstance(X, np.ndarray):
        return take_rows(X, rows)
    return X[rows]
