"""Rules that decide each row on its own: affine top-k, mixtures of them, and sampling."""

import numpy as np
import scipy.sparse as sp

from skxmc.ops._jit import jit
from skxmc.ops.csr import _make_csr, canonical_csr
from skxmc.ops.macro_at_k._inputs import (
    check_inclusion,
    check_marginals,
    chosen_to_csr,
    csr_views,
    longest_row,
    readonly,
    row_lengths,
)
from skxmc.ops.macro_at_k._kernels import choose_affine
from skxmc.ops.topk._types import check_k

# How far the inclusion probabilities of a row may be off a whole number in all.
_SUM_TOLERANCE = 1e-4


def _check_coefficients(a, b, n_labels, ndim):
    result = []
    for name, values in (("a", a), ("b", b)):
        values = np.asarray(values)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be numbers, got dtype {values.dtype}.")
        if values.ndim != ndim or values.shape[-1] != n_labels:
            shape = f"({n_labels},)" if ndim == 1 else f"(n_rules, {n_labels})"
            raise ValueError(f"{name} must have the shape {shape}, got {values.shape}.")
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"{name} must be finite; label {place[-1]} has {values[tuple(place)]}."
            )
        result.append(values)
    if result[0].shape != result[1].shape:
        raise ValueError(f"a and b differ in shape: {result[0].shape} and {result[1].shape}.")
    return result


def _choose(eta, k, a, b):
    chosen = np.full((eta.shape[0], k), -1, dtype=np.int32)
    coefficients = readonly(*(np.ascontiguousarray(c, dtype=np.float64) for c in (a, b)))
    if choose_affine(*csr_views(eta), *coefficients, k, chosen) >= 0:
        raise ValueError("a eta + b overflows: scale a and b down.")
    return chosen


def affine_topk(eta, k, a, b):
    """Answer the k stored labels of each row with the largest a_j eta_j + b_j.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of the candidates.
    k : int
        Answers a row, at least 1.
    a, b : array-like of shape (n_labels,)
        Coefficients, finite, such as those of `closed_form_gains` or a row of `frank_wolfe`.

    Returns
    -------
    decision : csr_array of shape (n_rows, n_labels), uint8
        Canonical, min(k, stored entries) ones a row; ties by the smaller label.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Notes
    -----
    Equation 4.21 of [1]_; computed in float64. O(stored entries) time.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import affine_topk
    >>> affine_topk(sp.csr_array([[0.75, 0.25]]), 1, a=[1.0, 4.0], b=[0.0, 0.0]).toarray()
    array([[0, 1]], dtype=uint8)
    """
    eta = check_marginals(eta)
    k = min(check_k(k), max(longest_row(eta), 1))
    a, b = _check_coefficients(a, b, eta.shape[1], 1)
    return chosen_to_csr(_choose(eta, k, a, b), eta)


def mixture_inclusion(eta, k, a, b, weight):
    """Probability that each candidate is answered by a mixture of affine top-k rules.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of the candidates.
    k : int
        Answers a row, at least 1.
    a, b : array-like of shape (n_rules, n_labels)
        Coefficients of the rules.
    weight : array-like of shape (n_rules,)
        Probability of each rule; they sum to 1.

    Returns
    -------
    inclusion : csr_array of shape (n_rows, n_labels), float64
        Probabilities in (0, 1]; a row sums to min(k, stored entries). Labels that no rule answers
        are not stored.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Notes
    -----
    O(n_rules * stored entries) time, O(stored entries) memory.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import mixture_inclusion
    >>> eta = sp.csr_array([[0.75, 0.25]])
    >>> mixture_inclusion(eta, 1, [[1, 1], [1, 4]], [[0, 0], [0, 0]], [0.75, 0.25]).toarray()
    array([[0.75, 0.25]])
    """
    eta = check_marginals(eta)
    k = min(check_k(k), max(longest_row(eta), 1))
    a, b = _check_coefficients(a, b, eta.shape[1], 2)
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (len(a),):
        raise ValueError(f"weight must have the shape ({len(a)},), got {weight.shape}.")
    if not (weight >= 0).all() or not abs(weight.sum() - 1.0) < 1e-6:
        raise ValueError("weight must be probabilities that sum to 1.")
    inclusion = np.zeros(eta.nnz)
    starts = eta.indptr[:-1, None]
    for rule in range(len(a)):
        if weight[rule] == 0.0:
            continue
        chosen = _choose(eta, k, a[rule], b[rule])
        inclusion[(starts + chosen)[chosen >= 0]] += weight[rule]
    np.minimum(inclusion, 1.0, out=inclusion)
    kept = inclusion > 0.0
    before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return _make_csr(inclusion[kept], eta.indices[kept], before[eta.indptr], eta.shape)


_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _11 = (np.uint64(i) for i in (27, 30, 31, 11))


@jit
def _mix(state, value):
    """One step of the generator SplitMix64, with ``value`` mixed in."""
    z = (state ^ value) + _GAMMA
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@jit
def _hash_rows(bits, indices, indptr, seed, uniform):
    """A number in [0, 1) for each row, from the seed, its columns and the bits of its values."""
    for i in range(len(uniform)):
        state = seed
        for entry in range(indptr[i], indptr[i + 1]):
            state = _mix(_mix(state, np.uint64(indices[entry])), np.uint64(bits[entry]))
        uniform[i] = np.float64(_mix(state, _GAMMA) >> _11) * 2.0**-53


@jit
def _madow_rows(data, indptr, sums, uniform, taken):
    for i in range(len(uniform)):
        start, stop = indptr[i], indptr[i + 1]
        target = np.int64(np.round(sums[i]))
        # The row's points are u, u + 1, ...; an entry is taken if one lies in its interval.
        total, n_taken = 0.0, 0
        for entry in range(start, stop):
            total += data[entry]
            due = np.int64(np.floor(total - uniform[i])) + 1
            if n_taken < min(due, target) and data[entry] > 0.0:
                taken[entry] = 1
                n_taken += 1
        # Rounding of the sum may have left the last point just outside.
        entry = stop - 1
        while n_taken < target:
            if taken[entry] == 0:
                taken[entry] = 1
                n_taken += 1
            entry -= 1


def madow_sample(inclusion, seed, *, key=None):
    """Draw exactly k labels in each row, each label with its probability (Madow's method).

    Parameters
    ----------
    inclusion : sparse array or matrix of shape (n_rows, n_labels)
        Inclusion probabilities in [0, 1]; each row sums to a whole number, its k (see
        `mixture_inclusion`).
    seed : int
        At least 0.
    key : sparse array or matrix of n_rows rows, or None, default=None
        What identifies a row: its random number is drawn from the seed, the columns and the values
        stored here; None takes ``inclusion``. Rows that are alike get the same number, so a
        key that differs between rows, such as the marginals, makes their draws independent.

    Returns
    -------
    decision : csr_array of shape (n_rows, n_labels), uint8
        Canonical. The draw of a row does not depend on the other rows or on its place.

    Raises
    ------
    ValueError, TypeError
        If a probability is outside [0, 1], a row does not sum to a whole number, or an argument is
        not as described.

    Notes
    -----
    Systematic sampling [1]_: with u uniform on [0, 1), the labels in whose interval of the
    cumulated probabilities one of u, u + 1, ..., u + k - 1 falls. O(stored entries) time and
    memory.

    References
    ----------
    .. [1] W. G. Madow, "On the theory of systematic sampling, II", Annals of Mathematical
       Statistics, 1949.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import madow_sample
    >>> madow_sample(sp.csr_array([[1.0, 0.0, 1.0], [0.5, 0.25, 0.25]]), seed=0).sum(axis=1)
    array([2, 1], dtype=uint64)
    """
    inclusion = check_inclusion(inclusion)
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer of at least 0, got {seed!r}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    source = inclusion if key is None else _check_key(key, inclusion.shape[0])
    sums = _row_sums(inclusion)
    off = np.abs(sums - np.round(sums))
    if off.max(initial=0.0) > _SUM_TOLERANCE:
        row = int(np.argmax(off))
        raise ValueError(
            f"The inclusion probabilities of row {row} sum to {sums[row]}, which is not a whole "
            "number of labels."
        )
    data, indices, indptr = csr_views(source)
    # -0.0 and 0.0 are one value; float32 is enough to tell rows apart
    bits = (data.astype(np.float32) + np.float32(0.0)).view(np.uint32)
    uniform = np.empty(inclusion.shape[0])
    seed_bits = np.random.SeedSequence(int(seed)).generate_state(1, np.uint64)[0]
    _hash_rows(bits, indices, indptr, seed_bits, uniform)
    taken = np.zeros(inclusion.nnz, dtype=np.uint8)
    data, _, indptr = csr_views(inclusion)
    _madow_rows(data, indptr, sums, uniform, taken)
    kept = taken > 0
    before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return _make_csr(
        taken[kept], inclusion.indices[kept], before[inclusion.indptr], inclusion.shape
    )


def _check_key(key, n_rows):
    if not sp.issparse(key):
        raise TypeError(f"key must be a sparse array or matrix, got {type(key).__name__}.")
    key = canonical_csr(key, name="key")
    if key.shape[0] != n_rows:
        raise ValueError(f"key has {key.shape[0]} rows, but inclusion has {n_rows}.")
    return key


def _row_sums(matrix):
    rows = np.repeat(np.arange(matrix.shape[0]), row_lengths(matrix))
    return np.bincount(rows, weights=matrix.data, minlength=matrix.shape[0])
