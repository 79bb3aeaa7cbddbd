"""What every metric needs: the labels of each row, its best answers, and which of them hit."""

import numbers
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops.csr import (
    canonical_indicator,
    canonical_pattern,
    check_sparse_structure,
    subtract_pattern,
)
from skxmc.ops.missing_labels import check_inverse
from skxmc.ops.topk import TopK, topk_csr, topk_dense


class Ranking(NamedTuple):
    """The answers of each row, compared with its labels.

    Attributes
    ----------
    y_true : csr_array of shape (n_samples, n_labels)
        Canonical 0/1 matrix, without the excluded pairs.
    labels : ndarray of shape (n_samples, <= k_max), int
        Answers best first, padded at the end with -1. Columns beyond `n_labels` are left out.
    hits : ndarray of the same shape, bool
        Which answers are labels of their row.
    """

    y_true: sp.csr_array
    labels: np.ndarray
    hits: np.ndarray

    @property
    def n_true(self):
        """Number of labels of each row."""
        return np.diff(self.y_true.indptr)


def check_ks(k):
    """Return the values of `k` as a list of ints, and whether `k` was a single number."""
    is_single = np.ndim(k) == 0
    ks = [k] if is_single else list(k)
    if not ks:
        raise ValueError("k is an empty sequence: give at least one number of answers.")
    for value in ks:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
            raise TypeError(f"k must be an integer or a sequence of integers, got {value!r}.")
        if value < 1:
            raise ValueError(f"k must be at least 1, got {value}.")
    return [int(value) for value in ks], is_single


def rank(y_true, scores, k_max, exclude=None):
    """Check the input of a metric and rank the answers of each row up to `k_max`."""
    if not sp.issparse(y_true) and np.ndim(y_true) != 2:
        raise ValueError(
            "y_true must be a 0/1 matrix of shape (n_samples, n_labels), got an array of shape "
            f"{np.shape(y_true)}. For 1-D classes use sklearn.preprocessing.label_binarize."
        )
    y_true = canonical_indicator(y_true, name="y_true")
    n_samples, n_labels = y_true.shape
    if n_samples == 0 or n_labels == 0:
        raise ValueError(f"There is nothing to evaluate: y_true has the shape {y_true.shape}.")
    if exclude is not None:
        exclude = canonical_pattern(exclude, y_true.shape, name="exclude")
        y_true = subtract_pattern(y_true, exclude)

    if isinstance(scores, TopK):
        labels = _answers_of_topk(scores, y_true.shape, k_max, exclude)
    else:
        labels = _answers_of_scores(scores, y_true.shape, k_max, exclude)
    return Ranking(y_true, labels, _contains(y_true, labels))


def _answers_of_scores(scores, shape, k_max, exclude):
    is_sparse = sp.issparse(scores)
    if not is_sparse:
        scores = np.asarray(scores)
    if scores.shape != shape:
        raise ValueError(
            f"scores must have the shape of y_true, {shape}, got {scores.shape}. (Ranked answers "
            "are passed as skxmc.ops.topk.TopK.)"
        )
    # More answers than labels would only be padding.
    k = min(k_max, shape[1])
    if is_sparse:
        if exclude is not None:
            scores = _without(scores, exclude)
        return topk_csr(scores, k).labels
    if exclude is not None:
        scores = scores.astype(np.result_type(scores.dtype, np.float32))
        scores[_stored_rows(exclude), exclude.indices] = -np.inf
    return topk_dense(scores, k).labels


def _without(scores, exclude):
    """Sparse `scores` with -inf, which is no candidate, at the excluded pairs."""
    check_sparse_structure(scores, "scores")
    scores = scores.tocsr().copy()
    scores.sum_duplicates()
    excluded = _contains_pairs(exclude, _stored_rows(scores), scores.indices)
    scores.data = scores.data.astype(np.result_type(scores.dtype, np.float32))
    scores.data[excluded] = -np.inf
    return scores


def _answers_of_topk(topk, shape, k_max, exclude):
    n_samples, n_labels = shape
    labels, scores = np.asarray(topk.labels), np.asarray(topk.scores)
    if labels.ndim != 2 or labels.shape != scores.shape or len(labels) != n_samples:
        raise ValueError(
            f"scores is a TopK whose labels and scores must both have the shape ({n_samples}, k), "
            f"got {labels.shape} and {scores.shape}."
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"The labels of a TopK must be integers, got dtype {labels.dtype}.")
    if labels.shape[1] < min(k_max, n_labels):
        raise ValueError(
            f"scores is a TopK of {labels.shape[1]} answers per row, too few for k={k_max}: "
            "predict it with a larger k."
        )
    _refuse_row((labels < -1) | (labels >= n_labels), f"holds a label outside 0..{n_labels - 1}")
    labels = labels.astype(np.int64)
    _refuse_row(np.isnan(scores) & (labels >= 0), "holds NaN")
    ordered = np.sort(labels, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _refuse_row(repeated, "holds a label more than once")

    no_answer = (labels < 0) | (scores == -np.inf)
    if exclude is not None:
        no_answer |= _contains(exclude, labels)
    labels = np.where(no_answer, -1, labels)
    # The answers behind a gap move up.
    order = np.argsort(no_answer, axis=1, kind="stable")
    return np.take_along_axis(labels, order, axis=1)[:, :k_max]


def _refuse_row(bad, what):
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        raise ValueError(f"scores: row {row} of the TopK {what}.")


def _contains(pattern, labels):
    """Which of `labels` (n_samples, k), -1 for none, are entries of their row of `pattern`."""
    rows = np.arange(len(labels), dtype=np.int64)[:, np.newaxis]
    return _contains_pairs(pattern, rows, labels) & (labels >= 0)


def _contains_pairs(pattern, rows, columns):
    """Which of the pairs are stored in the canonical CSR `pattern`; O(log entries) each."""
    n_columns = pattern.shape[1]
    # Ascending, because the pattern is canonical.
    keys = _stored_rows(pattern) * n_columns + pattern.indices
    wanted = rows * n_columns + columns
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool)
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[position] == wanted


def _stored_rows(matrix):
    """Row of each stored entry of a CSR matrix, int64."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))


def check_inv_propensity(inv_propensity, n_labels):
    """Return the inverse propensities as float64, one for each label, all at least 1."""
    if inv_propensity is None:
        raise ValueError("inv_propensity is required: 1 / propensity of each label.")
    return check_inverse(inv_propensity, n_labels)
