"""Checks shared by all functions of this folder, and conversions of decisions."""

import contextlib

import numpy as np
from numba.core.errors import NumbaError

from skxmc.ops._jit import jit
from skxmc.ops.csr import _make_csr, canonical_csr, canonical_indicator
from skxmc.ops.macro_at_k._kernels import N_COLUMNS, WEIGHT, P


def check_marginals(eta):
    """Return marginals as a canonical float32 CSR of values in [0, 1]."""
    eta = canonical_csr(eta, name="eta")
    _check_probabilities(eta, "eta", 1.0, " Use predict_proba, not decision_function.")
    return eta


def check_inclusion(inclusion):
    """Return inclusion probabilities as a canonical float64 CSR of values in [0, 1]."""
    inclusion = canonical_csr(inclusion, dtype=np.float64, name="inclusion")
    # sums of weights may end a little above 1
    _check_probabilities(inclusion, "inclusion", 1.0 + 1e-9, "")
    data = np.minimum(inclusion.data, 1.0)
    return _make_csr(data, inclusion.indices, inclusion.indptr, inclusion.shape)


def _check_probabilities(matrix, name, largest, advice):
    outside = (matrix.data < 0) | (matrix.data > largest)
    if outside.any():
        position = int(np.argmax(outside))
        row = int(np.searchsorted(matrix.indptr, position, side="right")) - 1
        raise ValueError(
            f"{name} must hold probabilities in [0, 1]; row {row}, column "
            f"{matrix.indices[position]} holds {matrix.data[position]}.{advice}"
        )


def readonly(*arrays):
    """Read-only views: one version of a kernel, whether an array was writable or not."""
    views = [array.view(np.ndarray) for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views


def csr_views(matrix):
    """``(data, indices, indptr)`` as read-only views."""
    return readonly(matrix.data, matrix.indices, matrix.indptr)


def check_labels(y, shape, name):
    """Return a label matrix or decision of this shape as a canonical 0/1 CSR."""
    y = canonical_indicator(y, name=name)
    if y.shape != tuple(shape):
        raise ValueError(f"{name} has the shape {y.shape}, but eta has {tuple(shape)}.")
    return y


def row_lengths(matrix):
    return np.diff(matrix.indptr)


def longest_row(matrix):
    return int(row_lengths(matrix).max(initial=0))


def new_state(n_labels, weight):
    """Counts of zero, with the weights (2, n_labels) of the two terms."""
    state = np.zeros((n_labels, N_COLUMNS))
    state[:, WEIGHT : WEIGHT + 2] = weight.T
    return state


def set_positives(state, matrix):
    """Set P: the sums of the columns of the marginals or labels."""
    state[:, P] = column_sums(matrix)


def column_sums(matrix):
    return np.bincount(matrix.indices, weights=matrix.data, minlength=matrix.shape[1])


@jit
def _locate(indices, indptr, wanted, wanted_indptr, entries):
    for i in range(len(indptr) - 1):
        entry, stop = indptr[i], indptr[i + 1]
        for w in range(wanted_indptr[i], wanted_indptr[i + 1]):
            while entry < stop and indices[entry] < wanted[w]:
                entry += 1
            entries[w] = entry if entry < stop and indices[entry] == wanted[w] else -1


def locate(eta, wanted):
    """For each stored pair of ``wanted`` the number of the entry in ``eta``, -1 if not stored."""
    entries = np.empty(wanted.nnz, dtype=np.int64)
    _locate(*csr_views(eta)[1:], *csr_views(wanted)[1:], entries)
    return entries


def hits_of(eta, y):
    """For each stored entry of ``eta`` whether it is a true label, as float32 0 or 1."""
    entries = locate(eta, y)
    hits = np.zeros(eta.nnz, dtype=np.float32)
    hits[entries[entries >= 0]] = 1.0
    return hits


def chosen_to_csr(chosen, eta):
    """Decisions as a canonical uint8 CSR from positions in the rows of ``eta``."""
    ordered = np.sort(chosen, axis=1)
    answered = ordered >= 0
    entries = (ordered + eta.indptr[:-1, None])[answered]
    indptr = np.zeros(eta.shape[0] + 1, dtype=np.int64)
    np.cumsum(answered.sum(axis=1), out=indptr[1:])
    ones = np.ones(len(entries), dtype=np.uint8)
    return _make_csr(ones, eta.indices[entries], indptr, eta.shape)


def csr_to_chosen(decision, eta, k):
    """Positions in the rows of ``eta`` of the answers of a decision with at most k a row."""
    counts = row_lengths(decision)
    if counts.max(initial=0) > k:
        row = int(np.argmax(counts > k))
        raise ValueError(f"init: row {row} has {counts[row]} answers, but k is {k}.")
    rows = np.repeat(np.arange(eta.shape[0], dtype=np.int64), counts)
    entries = locate(eta, decision)
    if entries.min(initial=0) < 0:
        bad = int(np.argmin(entries))
        raise ValueError(
            f"init: row {rows[bad]} answers label {decision.indices[bad]}, which has no stored "
            "marginal there: only stored entries of eta can be answered."
        )
    chosen = np.full((eta.shape[0], k), -1, dtype=np.int32)
    chosen[rows, np.arange(len(rows)) - decision.indptr[rows]] = entries - eta.indptr[rows]
    return chosen


@contextlib.contextmanager
def user_errors(functions):
    """Say what to do where a user's utility cannot be compiled or divides by zero."""
    names = ", ".join(getattr(f, "__name__", repr(f)) for f in functions)
    try:
        yield
    except ZeroDivisionError as error:
        if not functions:
            raise
        raise ValueError(
            f"The utility {names} divides by zero. It is called with rates of 0 too: define its "
            "0 / 0, for example as 0."
        ) from error
    except NumbaError as error:
        if not functions:
            raise
        raise TypeError(
            f"The utility {names} must be a function psi(tp, fp, fn, tn) -> float that Numba can "
            f"compile. Numba says: {error}"
        ) from error


def raise_not_finite(row, functions):
    names = ", ".join(getattr(f, "__name__", repr(f)) for f in functions) or "built in"
    raise ValueError(
        f"The utility ({names}) gives NaN or infinity for a label of row {row}. It must be finite "
        "for all rates from 0 to 1: define its 0 / 0, for example as 0."
    )
