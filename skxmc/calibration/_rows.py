"""What is done row by row: hits, ranks, and probabilities in the order of the scores."""

import numpy as np
from scipy.optimize import isotonic_regression

from skxmc._parallel import map_chunks
from skxmc.ops._jit import jit

_ROWS = 1 << 13  # rows a task of a thread


@jit
def _mark_hits(labels, indptr, indices, out):
    for row in range(labels.shape[0]):
        for r in range(labels.shape[1]):
            low, high = indptr[row], indptr[row + 1]
            while low < high:
                middle = (low + high) // 2
                if indices[middle] < labels[row, r]:
                    low = middle + 1
                else:
                    high = middle
            out[row, r] = low < indptr[row + 1] and indices[low] == labels[row, r]


def hits(labels, Y, n_jobs=None):
    """Which answers (n_samples, k), -1 for none, are labels of their row of a canonical CSR."""
    out = np.empty(labels.shape, dtype=np.bool_)
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    indptr = np.asarray(Y.indptr, dtype=np.int64)
    indices = np.asarray(Y.indices, dtype=np.int32)

    def mark(start):
        rows = slice(start, start + _ROWS)
        _mark_hits(labels[rows], indptr[start : start + _ROWS + 1], indices, out[rows])

    for _ in map_chunks(mark, range(0, len(labels), _ROWS), n_jobs):
        pass
    return out


@jit
def _find_places(labels, scores, all_labels, all_scores, place, found):
    for row in range(labels.shape[0]):
        for r in range(labels.shape[1]):
            better = 0
            for q in range(all_labels.shape[1]):
                if all_labels[row, q] == labels[row, r]:
                    found[row, r] = True
                    better = q
                    break
                if all_labels[row, q] >= 0 and all_scores[row, q] >= scores[row, r]:
                    better += 1
            place[row, r] = better


def places(answers, among):
    """Place of each answer among other answers to the same rows.

    Parameters
    ----------
    answers, among : TopK of shapes (n_samples, k) and (n_samples, m)

    Returns
    -------
    place : ndarray of shape (n_samples, k), int64
        Number of better ones, from 0.
    found : ndarray of shape (n_samples, k), bool
        Whether the label is among them.
    """
    place = np.zeros(answers.labels.shape, dtype=np.int64)
    found = np.zeros(answers.labels.shape, dtype=np.bool_)
    _find_places(*_c_order(answers), *_c_order(among), place, found)
    return place, found


def _c_order(answers):
    labels = np.ascontiguousarray(answers.labels, dtype=np.int32)
    return labels, np.ascontiguousarray(answers.scores, dtype=np.float32)


@jit
def _split_ties(values, n_answers, falls, low):
    """Make the values of each row fall where ``falls`` says so, and stay equal where it does not.

    They do not rise in a row before, but by rounding. Values are moved to the next number of
    float32, downwards, and upwards again where the lowest number allowed is reached.
    """
    for row in range(values.shape[0]):
        n = n_answers[row]
        for r in range(1, n):
            before = values[row, r - 1]
            if not falls[row, r]:
                values[row, r] = before
            elif values[row, r] >= before:
                values[row, r] = np.nextafter(before, np.float32(-np.inf))
        if n and values[row, n - 1] < low:
            values[row, n - 1] = low
            for r in range(n - 2, -1, -1):
                after = values[row, r + 1]
                if not falls[row, r + 1]:
                    values[row, r] = after
                elif values[row, r] <= after:
                    values[row, r] = np.nextafter(after, np.float32(np.inf))


def split_ties(values, n_answers, falls, low=-np.inf):
    """Float32 values that fall in each row exactly where the scores do.

    Parameters
    ----------
    values : ndarray of shape (n_samples, k)
        In each row not increasing; converted to float32.
    n_answers : ndarray of shape (n_samples,), int64
        Values of each row; the others are left alone.
    falls : ndarray of shape (n_samples, k), bool
        Whether a score is lower than the one before.
    low : float, default=-inf
        Lowest value allowed.
    """
    values = np.array(values, dtype=np.float32, order="C")
    _split_ties(values, n_answers, falls, np.float32(low))
    return values


def falling(proba, scores, n_answers):
    """The closest values that do not rise in a row, and are equal where the scores are.

    Isotonic regression of each row, best answer first, in one call for all rows: twice the number
    of the row is added, so that no block can reach over a row's end.

    Parameters
    ----------
    proba, scores : ndarray of shape (n_samples, k)
        Values in [0, 1], and scores that do not rise.
    n_answers : ndarray of shape (n_samples,)

    Returns
    -------
    ndarray of shape (n_samples, k), float64
        The values behind the answers of a row are of no meaning.
    """
    k = proba.shape[1]
    answered = np.arange(k) < n_answers[:, np.newaxis]
    tied = (scores[:, 1:] == scores[:, :-1]) & answered[:, 1:]
    rises = (proba[:, 1:] > proba[:, :-1]) & answered[:, 1:]
    rows = np.flatnonzero((rises | (tied & (proba[:, 1:] != proba[:, :-1]))).any(axis=1))
    if not len(rows):
        return proba
    tied = tied[rows]
    values = np.where(answered[rows], proba[rows], 0.0)
    if tied.any():
        # a run of equal scores is one observation, its mean
        starts = np.concatenate([np.ones((len(rows), 1), dtype=bool), ~tied], axis=1).ravel()
        run = np.cumsum(starts) - 1
        values = (np.bincount(run, values.ravel()) / np.bincount(run))[run].reshape(values.shape)
    offset = 2.0 * np.arange(len(rows))[:, np.newaxis]
    fitted = isotonic_regression((offset - values).ravel()).x.reshape(values.shape)
    proba = proba.copy()
    proba[rows] = np.clip(offset - fitted, 0, 1)
    return proba
