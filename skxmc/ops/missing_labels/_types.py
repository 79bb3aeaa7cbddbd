"""What the losses return, and their input in one flat form for dense scores and for lists."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops.csr import canonical_csr, canonical_indicator, check_finite


class LossAndGradient(NamedTuple):
    """The loss of each row and its derivatives.

    Attributes
    ----------
    loss : ndarray of shape (n_samples,), float64
    gradient : ndarray or csr_array of shape (n_samples, n_labels), float32 or float64
        d loss[i] / d scores[i, j], in the container of the scores and at their stored entries.
    """

    loss: np.ndarray
    gradient: np.ndarray | sp.csr_array


class Block(NamedTuple):
    """Scores as one flat array, row after row, and the positives among them.

    Attributes
    ----------
    scores : ndarray of shape (n_scores,), float32 or float64
    indptr : ndarray of shape (n_samples + 1,), int64
        The scores of row i are ``scores[indptr[i]:indptr[i + 1]]``.
    positives : ndarray of shape (n_positives,), int64
        Ascending positions in `scores` of the observed labels.
    positive_rows : ndarray of shape (n_positives,), int64
        Row of each positive.
    entries : ndarray of shape (n_positives,), int64
        Position of each positive among the stored entries of `Y`.
    Y : csr_array of shape (n_samples, n_labels), uint8
        The observed labels, canonical.
    container : ndarray or csr_array
        The scores as they came.
    """

    scores: np.ndarray
    indptr: np.ndarray
    positives: np.ndarray
    positive_rows: np.ndarray
    entries: np.ndarray
    Y: sp.csr_array
    container: np.ndarray | sp.csr_array

    @property
    def n_rows(self):
        return self.Y.shape[0]

    @property
    def positive_labels(self):
        """Label of each positive."""
        return self.Y.indices[self.entries]

    def sum_rows(self, values):
        """Sum of flat `values` in each row; 0 in rows without scores."""
        return self._reduce(np.add, values, 0.0)

    def max_rows(self, values):
        """Maximum of flat `values` in each row; 0 in rows without scores."""
        return self._reduce(np.maximum, values, 0.0)

    def _reduce(self, ufunc, values, empty):
        out = np.full(self.n_rows, empty)
        filled = self.indptr[1:] > self.indptr[:-1]
        if filled.any():
            starts = self.indptr[:-1][filled]
            out[filled] = ufunc.reduceat(values, starts, dtype=np.float64)
        return out

    def spread(self, values):
        """Repeat the value of each row for all its scores."""
        return np.repeat(values.astype(self.scores.dtype), np.diff(self.indptr))

    def sum_positives(self, values):
        """Sum of `values`, one for each positive, in each row."""
        return np.bincount(self.positive_rows, weights=values, minlength=self.n_rows)

    def result(self, loss, gradient):
        """Pack the loss and the flat gradient, which gets the container of the scores."""
        if isinstance(self.container, np.ndarray):
            return LossAndGradient(loss, gradient.reshape(self.container.shape))
        pattern = self.container
        gradient = sp.csr_array((gradient, pattern.indices, pattern.indptr), shape=pattern.shape)
        return LossAndGradient(loss, gradient)


def as_block(scores, Y):
    """Check scores and labels of one block and bring them into the flat form."""
    Y = canonical_indicator(Y)
    if sp.issparse(scores):
        dtype = np.float32 if scores.dtype == np.float32 else np.float64
        scores = canonical_csr(scores, dtype=dtype, name="scores")
    else:
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.dtype.kind not in "biuf":
            raise ValueError(
                "scores must be a numeric matrix of shape (n_samples, n_labels), got the shape "
                f"{scores.shape} and dtype {scores.dtype}."
            )
        dtype = np.float32 if scores.dtype == np.float32 else np.float64
        scores = np.ascontiguousarray(scores, dtype=dtype)
        check_finite(scores, name="scores")
    if scores.shape != Y.shape:
        raise ValueError(f"scores has the shape {scores.shape}, but Y the shape {Y.shape}.")

    n_rows, n_labels = Y.shape
    label_rows = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(Y.indptr))
    observed = label_rows * n_labels + Y.indices
    if isinstance(scores, np.ndarray):
        indptr = np.arange(n_rows + 1, dtype=np.int64) * n_labels
        entries = np.arange(Y.nnz)
        return Block(scores.ravel(), indptr, observed, label_rows, entries, Y, scores)
    # A label that is no candidate of its row has no score, so it takes no part in the loss.
    score_rows = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(scores.indptr))
    candidates = score_rows * n_labels + scores.indices
    _, positives, entries = np.intersect1d(
        candidates, observed, assume_unique=True, return_indices=True
    )
    return Block(scores.data, scores.indptr, positives, score_rows[positives], entries, Y, scores)


def check_inverse(inv_propensity, n_labels):
    """Return inverse propensities as the functions of this package take them.

    Parameters
    ----------
    inv_propensity : array-like of shape (n_labels,) or None
        At least 1. None are all 1: nothing is missing.
    n_labels : int
        How many there must be.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        The inverse propensities.

    Raises
    ------
    ValueError
        For another number of them, and for one below 1 or not finite.

    Examples
    --------
    >>> from skxmc.ops.missing_labels import check_inverse
    >>> check_inverse(None, 3)
    array([1., 1., 1.])
    """
    if inv_propensity is None:
        return np.ones(n_labels)
    inverse = np.asarray(inv_propensity)
    if inverse.shape != (n_labels,):
        raise ValueError(
            f"inv_propensity must have one value for each of the {n_labels} labels, got the shape "
            f"{inverse.shape}."
        )
    if inverse.dtype.kind not in "iuf":
        raise TypeError(f"inv_propensity must be real numbers, got dtype {inverse.dtype}.")
    inverse = inverse.astype(np.float64)
    bad = np.flatnonzero(~((inverse >= 1.0 - 1e-6) & (inverse < np.inf)))
    if len(bad):
        raise ValueError(
            f"inv_propensity of label {bad[0]} is {inverse[bad[0]]}: 1 / propensity is a finite "
            "number of at least 1 (skxmc.label_space.inverse_propensity computes it)."
        )
    return np.maximum(inverse, 1.0)
