"""Kernels of the decision rules.

Decisions are kept as ``chosen`` (n_rows, k) int32: the positions of the answered entries among the
stored entries of their row, -1 where there are fewer. What is known of a label is kept in a row of
``state`` (n_labels, 16) float64. A sweep reads the first half of it, one line of the processor's
cache, for each candidate, and the rest where an answer comes or goes:

* T, Q, P: expected true positives, predicted and positives, as sums over rows;
* MISS: for coverage, its weight times the probability that no answer of the label is right;
* BASE: the value of the label's other terms, which do not depend on the candidate;
* WEIGHT and the next: the coefficients of the two terms;
* LOG_MISS, SURE: MISS as the sum of log(1 - eta) over answers with eta < 1 and the number of
  answers with eta = 1, so that an answer can be taken back, also where eta is 1.
"""

import functools
from typing import NamedTuple

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.macro_at_k._types import Utility
from skxmc.ops.macro_at_k._utilities import LAST_WITHOUT_TN, value_and_slopes, value_without_tn
from skxmc.ops.topk import select_topk_dense_row

T, Q, P, MISS, BASE, WEIGHT = 0, 1, 2, 3, 4, 5
LOG_MISS, SURE = 8, 9
N_COLUMNS = 16

_COVERAGE, _TP = int(Utility.COVERAGE), int(Utility.TP)


@jit(error_model="numpy")
def add_answer(state, label, mass):
    """Count an answer with the probability ``mass`` of being right."""
    state[label, T] += mass
    state[label, Q] += 1.0
    if mass < 1.0:
        state[label, LOG_MISS] += np.log1p(-mass)
    else:
        state[label, SURE] += 1.0


@jit(error_model="numpy")
def _take_back(state, label, mass):
    state[label, Q] -= 1.0
    if state[label, Q] == 0.0:  # no rounding error may be left of it: 0 / 0 is 0
        state[label, T] = state[label, LOG_MISS] = state[label, SURE] = 0.0
        return
    state[label, T] -= mass
    if mass < 1.0:
        state[label, LOG_MISS] -= np.log1p(-mass)
    else:
        state[label, SURE] -= 1.0


@jit(error_model="numpy")
def _rates(t, q, p, scale):
    # Rounding may leave a difference of equal sums a little below 0.
    tp = max(t, 0.0) * scale
    fp = max(q - t, 0.0) * scale
    fn = max(p - t, 0.0) * scale
    return tp, fp, fn, max(1.0 - tp - fp - fn, 0.0)


@jit
def count_answers(mass, indices, indptr, chosen, state):
    """Set T, Q, LOG_MISS and SURE of all labels."""
    # loops, because an assignment to a slice takes Numba seconds to compile
    for label in range(len(state)):
        for column in (T, Q, LOG_MISS, SURE):
            state[label, column] = 0.0
    for i in range(len(chosen)):
        for position in chosen[i]:
            if position < 0:
                break
            entry = indptr[i] + position
            add_answer(state, indices[entry], np.float64(mass[entry]))


@jit(allocates=True)
def choose_affine(data, indices, indptr, a, b, k, chosen):
    """Answer the top k of a eta + b (equation 4.21); return a row that holds a NaN, or -1."""
    longest = 0
    for i in range(len(indptr) - 1):
        longest = max(longest, indptr[i + 1] - indptr[i])
    gains, best = np.empty(longest), np.empty(k, dtype=np.float32)
    for i in range(len(indptr) - 1):
        start, count = indptr[i], indptr[i + 1] - indptr[i]
        for c in range(count):
            label = indices[start + c]
            gains[c] = np.float64(a[label]) * data[start + c] + b[label]
        if select_topk_dense_row(gains[:count], k, chosen[i], best) < min(k, count):
            return i
    return -1


def make_sweep(refresh, row_gains, cache=True):
    """One pass of block coordinate ascent, for one way to work out gains.

    Parameters
    ----------
    refresh : kernel (state, label, objective)
        Sets what ``row_gains`` needs after a label's counts have changed.
    row_gains : kernel (data, indices, start, count, state, objective, gains) -> float
        Writes what the value rises by if each of the candidates of a row is answered, none being
        it yet; returns the sum. It has the row, as a call for each candidate takes longer than its
        gain.
    cache : bool
        Whether the kernels can be kept on disk.

    Returns
    -------
    kernel (data, indices, indptr, order, objective, state, gains, chosen)
        Returns a row with a gain of NaN or inf, or -1.
    """

    @jit(allocates=True, cache=cache, error_model="numpy")
    def sweep(data, indices, indptr, order, objective, state, gains, chosen):
        k = chosen.shape[1]
        best = np.empty(k, dtype=np.float32)
        for label in range(len(state)):
            refresh(state, label, objective)
        for i in order:
            start, count, row = indptr[i], indptr[i + 1] - indptr[i], chosen[i]
            for position in row:
                if position < 0:
                    break
                label = indices[start + position]
                _take_back(state, label, np.float64(data[start + position]))
                refresh(state, label, objective)
            if count > k:
                if not np.isfinite(row_gains(data, indices, start, count, state, objective, gains)):
                    return i
                select_topk_dense_row(gains[:count], k, row, best)
            else:  # no choice: all stored entries are answered
                for c in range(count):
                    row[c] = c
            for position in row:
                if position < 0:
                    break
                label = indices[start + position]
                add_answer(state, label, np.float64(data[start + position]))
                refresh(state, label, objective)
        return -1

    return sweep


# ------------------------------------------------------------------ sweeps over quotients
# Precision, recall, F-beta, Jaccard and tp are all n t / (c_t t + c_q q + c_p p + c_1). A sweep
# that knows no other form, and of coverage its own, is several times as fast as one that asks for
# each candidate what is to be computed.


@jit(error_model="numpy")
def _quotient(forms, i, t, q, p):
    down = forms[i, 1] * t + forms[i, 2] * q + forms[i, 3] * p + forms[i, 4]
    return forms[i, 0] * t / down if down > 0.0 else 0.0


@jit(error_model="numpy")
def _refresh_quotients(state, label, objective):
    forms, coverage = objective
    t, q, p = state[label, T], state[label, Q], state[label, P]
    state[label, BASE] = state[label, WEIGHT] * _quotient(forms, 0, t, q, p)
    state[label, BASE] += state[label, WEIGHT + 1] * _quotient(forms, 1, t, q, p)
    state[label, MISS] = 0.0
    if coverage >= 0 and state[label, SURE] == 0.0:
        state[label, MISS] = state[label, WEIGHT + coverage] * np.exp(state[label, LOG_MISS])


@jit(error_model="numpy")
def _gains_of_quotients(data, indices, start, count, state, objective, gains):
    forms, _ = objective
    two_terms, total = forms[1, 0] != 0.0, 0.0
    for c in range(count):
        label, eta = np.uint32(indices[start + c]), np.float64(data[start + c])
        t, q, p = state[label, T] + eta, state[label, Q] + 1.0, state[label, P]
        gain = eta * state[label, MISS] - state[label, BASE]
        gain += state[label, WEIGHT] * _quotient(forms, 0, t, q, p)
        if two_terms:
            gain += state[label, WEIGHT + 1] * _quotient(forms, 1, t, q, p)
        gains[c] = gain
        total += gain
    return total


#: For terms of this form; ``objective`` is (forms, the term that is coverage or -1).
sweep_quotients = make_sweep(_refresh_quotients, _gains_of_quotients)


class Kernels(NamedTuple):
    value: object
    path_value: object
    sweep: object
    online: object
    slopes: object


@functools.lru_cache(maxsize=32)
def kernels(functions):
    """The kernels that need the utilities, for these functions of the user (none: cached on disk).

    Parameters
    ----------
    functions : tuple of callable
        At most two.

    Returns
    -------
    Kernels
    """
    utility, utility_slopes = value_and_slopes(functions)
    cache = not functions

    @jit(cache=cache, error_model="numpy")
    def psi(code, beta, t, q, p, log_miss, sure, scale):
        if code == _COVERAGE:
            return 1.0 if sure > 0.0 else -np.expm1(log_miss)
        if code == _TP:
            return t * scale
        if code <= LAST_WITHOUT_TN:
            return value_without_tn(code, beta, t, q, p, scale)
        tp, fp, fn, tn = _rates(t, q, p, scale)
        return utility(code, beta, tp, fp, fn, tn)

    @jit(cache=cache, error_model="numpy")
    def value(state, codes, betas, scale, worth):
        """Sum of the terms; ``worth`` (n_labels,) receives that of each label."""
        total = 0.0
        for label in range(len(state)):
            s = state[label]
            worth[label] = 0.0
            for i in range(len(codes)):
                if s[WEIGHT + i] != 0.0:
                    worth[label] += s[WEIGHT + i] * psi(
                        codes[i], betas[i], s[T], s[Q], s[P], s[LOG_MISS], s[SURE], scale
                    )
            total += worth[label]
        return total

    @jit(cache=cache, error_model="numpy")
    def path_value(state, target, step, codes, betas):
        """Value at (1 - step) state + step target, both in rates (T, Q and P)."""
        total = 0.0
        for label in range(len(state)):
            s, d = state[label], target[label]
            t = (1.0 - step) * s[T] + step * d[T]
            q = (1.0 - step) * s[Q] + step * d[Q]
            for i in range(len(codes)):
                if s[WEIGHT + i] != 0.0:
                    total += s[WEIGHT + i] * psi(codes[i], betas[i], t, q, s[P], 0.0, 0.0, 1.0)
        return total

    @jit(cache=cache, error_model="numpy")
    def value_with(state, label, eta, n_more, codes, betas, scale):
        """Value of a label's terms other than coverage with ``n_more`` answers more."""
        total = 0.0
        for i in range(len(codes)):
            weight = state[label, WEIGHT + i]
            if weight != 0.0 and codes[i] != _COVERAGE:
                t, q = state[label, T] + eta, state[label, Q] + n_more
                total += weight * psi(codes[i], betas[i], t, q, state[label, P], 0.0, 0.0, scale)
        return total

    @jit(cache=cache, error_model="numpy")
    def refresh(state, label, objective):
        codes, betas, scale = objective
        state[label, BASE] = value_with(state, label, 0.0, 0.0, codes, betas, scale)
        state[label, MISS] = 0.0
        if state[label, SURE] == 0.0:
            for i in range(len(codes)):
                if codes[i] == _COVERAGE:
                    weight = state[label, WEIGHT + i]
                    state[label, MISS] += weight * np.exp(state[label, LOG_MISS])

    @jit(cache=cache, error_model="numpy")
    def row_gains(data, indices, start, count, state, objective, gains):
        codes, betas, scale = objective
        total = 0.0
        for c in range(count):
            label, eta = indices[start + c], np.float64(data[start + c])
            after = value_with(state, label, eta, 1.0, codes, betas, scale)
            gains[c] = after - state[label, BASE] + eta * state[label, MISS]
            total += gains[c]
        return total

    @jit(cache=cache, error_model="numpy")
    def slopes(s, codes, betas, scale):
        """Derivatives of the value by T and Q of one label, times the number of rows."""
        a = b = 0.0
        tp, fp, fn, tn = _rates(s[T], s[Q], s[P], scale)
        for i in range(len(codes)):
            weight = s[WEIGHT + i]
            if weight == 0.0:
                continue
            if codes[i] == _COVERAGE:
                if s[SURE] == 0.0:
                    a += weight / scale * np.exp(s[LOG_MISS])
            else:
                to_t, to_q = utility_slopes(codes[i], betas[i], tp, fp, fn, tn)
                a += weight * to_t
                b += weight * to_q
        return a, b

    @jit(allocates=True, cache=cache, error_model="numpy")
    def online(
        data,
        hits,
        is_labelled,
        indices,
        indptr,
        prior,
        n_seen,
        codes,
        betas,
        state,
        y_indices,
        y_indptr,
        gains,
        chosen,
    ):
        """One pass in the order of the rows; return a row with a gain of NaN or inf, or -1."""
        k = chosen.shape[1]
        best, s = np.empty(k, dtype=np.float32), np.empty(N_COLUMNS)
        n_prior = prior[0] + prior[1] + prior[2] + prior[3]
        for i in range(len(chosen)):
            start, count = indptr[i], indptr[i + 1] - indptr[i]
            scale = 1.0 / (n_seen + n_prior)
            for c in range(count):
                entry = start + c
                for column in range(N_COLUMNS):
                    s[column] = state[indices[entry], column]
                s[T] += prior[0]
                s[Q] += prior[0] + prior[1]
                s[P] += prior[0] + prior[2]
                a, b = slopes(s, codes, betas, scale)
                gains[c] = a * data[entry] + b
                if not np.isfinite(gains[c]):
                    return i
            select_topk_dense_row(gains[:count], k, chosen[i], best)
            for position in chosen[i]:
                if position < 0:
                    break
                entry = start + position
                add_answer(state, indices[entry], np.float64(hits[entry]))
            if is_labelled:
                for q in range(y_indptr[i], y_indptr[i + 1]):
                    state[y_indices[q], P] += 1.0
            else:
                for entry in range(start, start + count):
                    state[indices[entry], P] += data[entry]
            n_seen += 1.0
        return -1

    @jit(cache=cache, error_model="numpy")
    def all_slopes(state, codes, betas, a, b):
        """The coefficients a and b (equation 4.22) of all labels, from rates."""
        for label in range(len(state)):
            a[label], b[label] = slopes(state[label], codes, betas, 1.0)

    return Kernels(
        value, path_value, make_sweep(refresh, row_gains, cache=cache), online, all_slopes
    )
