"""One-vs-all linear solver: blocked scores, working sets, Newton steps in compact coordinates.

For each label the problem is

    min_w  ||w||^2 / 2 + C sum_i c_i l(y_i (w.x_i + b)),      y_i in {-1, +1},

with l the squared hinge max(0, 1 - z)^2 or the logistic loss. At the optimum of the squared hinge
only the rows inside the margin matter (thesis eq. 5.1: they alone have curvature), about 1 to 2 %
of them. So a label is solved on a *working set* of rows that grows until no row outside it is
inside the margin:

1. start: mean-separating (or multi-positive) initial vector; it is a combination of the positive
   rows and of one vector shared by all labels;
2. scores of all rows at the current vector, for ``LANES`` labels in one pass over X;
3. the rows deepest inside the margin join the working set;
4. truncated Newton on the working set, in coordinates of the features it holds;
5. back to 2, until 3 finds nothing to add or the gradient over all rows is small enough.

A positive row may have a *soft target* t in (0, 1]: its loss is t c l(s) + (1 - t) l(-s), the mean
over labels drawn with the probability t. Where t < 1 the row stands in the working set twice, as a
positive and, after the positives, as a negative (its *twin*).

A lane whose label is done takes the next label, so that every pass over X serves 16 labels. What
happens in a lane depends on its label alone: the result is the same for any order, sharding or
number of threads. The logistic loss has curvature everywhere; its working set is all rows.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops._jit import jit
from skxmc.ops._lanes import LANES, aligned_zeros, row_times_block
from skxmc.ops.linear_solver._newton import (
    LOGISTIC,
    N_VECTORS,
    RESOLVED,
    SQUARED_HINGE,
    UNFINISHED,
    minimise,
)
from skxmc.ops.linear_solver._pruning import keep_within_loss

LOSSES = {"squared_hinge": SQUARED_HINGE, "logistic": LOGISTIC}
STARTS = ("zero", "mean-separating", "multi-positive")

#: Scores that the starting vector gives the positives' mean and the negatives' mean
#: (reference_facts A4; -2 puts the bulk of the negatives well outside the margin).
_START_POSITIVE = 1.0
_START_NEGATIVE = -2.0
_START_RIDGE = 0.01
#: Multi-positive starts solve a dense system of this many rows at most.
_MAX_MULTI_POSITIVE = 32

#: The first working set: this many rows, and so many more per root of the number of positives.
_FIRST_ROWS = 50.0
_FIRST_ROWS_PER_ROOT = 40.0
#: Later rounds may grow it by this share.
_GROWTH = 0.5
#: Inner solves stop at this share of the label's own tolerance, and after a few Newton steps:
#: early working sets are not worth an exact solution. One step more where the working set is so
#: small, beside X, that a step costs less than the pass that it may save.
_INNER_TARGET = 0.7
_INNER_STEPS = 2
_SMALL_SHARE = 1 / 64

_BINS = 512
_BINS_PER_UNIT = 128.0
_CHUNK = 64


class PreparedRows(NamedTuple):
    """X as the solver reads it; made once by `prepare` and shared by all labels.

    Attributes
    ----------
    indptr : int64 array of shape (n_samples + 1,)
        Where the entries of each row begin.
    indices : uint32 array of shape (nnz,)
        Features, renumbered by falling frequency.
    data : float32 array of shape (nnz,)
        Values of the entries.
    feature_of : int32 array of shape (n_features,)
        The caller's feature of each number.
    total : float64 array of shape (n_features,)
        Sum of all rows.
    mean_scores : float32 array of shape (n_samples,)
        Products of the rows with their mean.
    bias_value : float
        The constant feature, 0 without an intercept.
    total_norm2 : float
        Squared length of the sum of the rows, bias feature included.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    feature_of: np.ndarray
    total: np.ndarray
    mean_scores: np.ndarray
    bias_value: float
    total_norm2: float


class LinearSolution(NamedTuple):
    """Weights of the labels asked for, in their order; features as the caller numbers them.

    Attributes
    ----------
    indptr : int64 array of shape (n_labels + 1,)
        Where the weights of each label begin.
    indices : int32 array of shape (nnz,)
        Features, ascending within a label.
    data : float32 array of shape (nnz,)
        Weights.
    bias : float32 array of shape (n_labels,)
        Coefficient of the bias feature.
    n_iter : int32 array of shape (n_labels,)
        Newton steps.
    converged : bool array of shape (n_labels,)
        Whether the tolerance was reached, or float32 resolves no more.
    counters : int64 array of shape (8,)
        Work that was done, for benchmarks; see ``_fit_lanes``.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    bias: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    counters: np.ndarray


def prepare(indptr, indices, data, n_features, bias_value=1.0):
    """Renumber the features by falling frequency and sum what all labels share.

    Frequent features then lie together, which keeps the hot part of every weight block in cache
    (the thesis names this as the step left open after DiSMEC++).

    Parameters
    ----------
    indptr, indices, data : int64, int32 and float32 arrays
        CSR rows, sorted by feature.
    n_features : int
        Width of the rows.
    bias_value : float, default=1.0
        The constant feature; 0 for none.

    Returns
    -------
    PreparedRows
        For `solve`; it can be shared by threads.

    Notes
    -----
    O(nnz) time; a second copy of the rows, and O(n_samples + n_features).

    Examples
    --------
    Two rows, two labels, each with the row of its number:

    >>> import numpy as np
    >>> from skxmc.ops.linear_solver import prepare, solve
    >>> eye = np.array([0, 1, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32)
    >>> rows = prepare(*eye, n_features=2)
    >>> solution = solve(rows, np.array([0, 1, 2]), np.array([0, 1], np.int32))
    >>> np.sign(solution.data).reshape(2, 2)
    array([[ 1., -1.],
           [-1.,  1.]], dtype=float32)
    """
    n_samples = len(indptr) - 1
    # a stored zero is no entry: it must not move its feature forward
    frequency = np.bincount(indices[data != 0], minlength=n_features)
    feature_of = np.argsort(-frequency, kind="stable").astype(np.int32)
    number_of = np.empty(n_features, dtype=np.uint32)
    number_of[feature_of] = np.arange(n_features, dtype=np.uint32)
    # scipy sorts each row; int32 is enough for the column numbers
    # (of one width: scipy would widen the indices to that of indptr)
    narrow = np.int32 if len(indices) < 2**31 else np.int64
    renumbered = sp.csr_array(
        (np.array(data, np.float32), number_of[indices].astype(narrow), np.array(indptr, narrow)),
        shape=(n_samples, n_features),
    )
    renumbered.sort_indices()
    renumbered.eliminate_zeros()
    indptr = renumbered.indptr.astype(np.int64)
    new_indices = renumbered.indices.astype(np.uint32)
    new_data = renumbered.data
    del renumbered
    total = np.bincount(new_indices, weights=new_data, minlength=n_features)
    total = total.astype(np.float64)  # without entries it is an integer
    mean_scores = np.empty(n_samples, dtype=np.float32)
    _matvec(indptr, new_indices, new_data, total / max(n_samples, 1), mean_scores)
    total_norm2 = float(total @ total) + (n_samples * bias_value) ** 2
    return PreparedRows(
        indptr,
        new_indices,
        new_data,
        feature_of,
        total,
        mean_scores,
        float(bias_value),
        total_norm2,
    )


@jit
def _matvec(indptr, indices, data, vector, out):
    for i in range(len(indptr) - 1):
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            total += data[p] * vector[indices[p]]
        out[i] = total


@jit(fastmath={"contract"})
def _score_block(rows, W, shared, offset, buffer, scores):
    """scores[b, i] = x_i . W[:, b] + shared[b] mean_scores[i] + offset[b] for the whole block."""
    n = len(rows.indptr) - 1
    for first in range(0, n, _CHUNK):
        count = min(_CHUNK, n - first)
        for r in range(count):
            i = first + r
            row_times_block(
                rows.indices, rows.data, W, buffer, r, rows.indptr[i], rows.indptr[i + 1]
            )
        for b in range(W.shape[1]):
            for r in range(count):
                scores[b, first + r] = (
                    buffer[r, b] + shared[b] * rows.mean_scores[first + r] + offset[b]
                )


@jit
def _take_rows(scores, lower, quota, histogram, candidates, rows, n_rows):
    """Append about ``quota`` of the highest-scoring rows above ``lower`` to the working set.

    A histogram finds the cut; rows in the cut's bin all come along, so the choice does not depend
    on the order of equal scores. Returns (new size of the working set, rows left out).
    """
    for q in range(n_rows):  # rows already there are not candidates
        scores[rows[q]] = -np.inf
    n_candidates = 0
    for i in range(len(scores)):
        candidates[n_candidates] = i
        n_candidates += scores[i] > lower
    for k in range(_BINS):
        histogram[k] = 0
    for q in range(n_candidates):
        histogram[_bin(scores[candidates[q]] - lower)] += 1
    taken = 0
    cut = _BINS
    while cut > 0 and taken < quota:
        cut -= 1
        taken += histogram[cut]
    for q in range(n_candidates):
        if _bin(scores[candidates[q]] - lower) >= cut:
            rows[n_rows] = candidates[q]
            n_rows += 1
    return n_rows, n_candidates - taken


@jit
def _bin(excess):
    position = excess * np.float32(_BINS_PER_UNIT)
    return int(position) if position < _BINS - 1 else _BINS - 1


@jit
def _gather_rows(
    indptr,
    indices,
    data,
    rows,
    known_rows,
    n_rows,
    local_of,
    features,
    n_local,
    local_indptr,
    local_indices,
    local_data,
):
    """Append rows known_rows..n_rows of the working set in compact coordinates.

    ``local_of`` maps a feature to its local number (all bits set: none yet) and is left clean.
    Returns the number of features the working set holds.
    """
    missing = np.uint32(0xFFFFFFFF)
    for c in range(n_local):
        local_of[features[c]] = c
    next_local = np.uint32(n_local)
    k = np.uint64(local_indptr[known_rows])
    for q in range(known_rows, n_rows):
        i = rows[q]
        for p in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            j = indices[p]
            c = local_of[j]
            if c == missing:
                c = next_local
                local_of[j] = c
                features[c] = j
                next_local += np.uint32(1)
            local_indices[k] = c
            local_data[k] = data[p]
            k += np.uint64(1)
        local_indptr[q + 1] = k
    for c in range(np.int64(next_local)):
        local_of[features[c]] = missing
    return np.int64(next_local)


class _Problem(NamedTuple):
    """What is asked of every label."""

    loss: int
    start: str
    C: float
    ridge_b: np.float32  # 1 if the bias is regularised
    tol: float
    max_iter: int
    threshold: np.float32
    pos_indptr: np.ndarray
    pos_rows: np.ndarray
    pos_targets: np.ndarray  # float32, in (0, 1]
    positive_cost: np.ndarray


class _Lanes(NamedTuple):
    """State of the labels under way, one entry a lane."""

    label: np.ndarray  # -1: free
    round: np.ndarray
    steps: np.ndarray  # Newton steps so far
    n_twins: np.ndarray  # soft positives, which follow the positives as negatives
    n_rows: np.ndarray  # working set: rows, features, stored entries
    n_features: np.ndarray
    nnz: np.ndarray
    target: np.ndarray  # gradient norm to be reached
    reached: np.ndarray  # gradient norm on the working set
    outcome: np.ndarray  # of the last solution of the working set
    bias: np.ndarray
    shared: np.ndarray  # coefficient of the mean of all rows
    offset: np.ndarray


class _Scratch(NamedTuple):
    """Work space of one call."""

    W: np.ndarray  # (n_features, LANES): current vectors, without the shared part
    scores: np.ndarray  # (LANES, n_samples)
    buffer: np.ndarray  # (_CHUNK, LANES)
    rows: np.ndarray  # (LANES, n_samples + most twins): working sets, positives and twins first
    features: np.ndarray  # (LANES, n_features): the caller's number of each local feature
    local_indptr: np.ndarray  # (LANES, n_samples + most twins + 1)
    local_of: np.ndarray  # (n_features,): all bits set between uses
    column: np.ndarray  # (n_features,) float64: zero between uses
    histogram: np.ndarray
    candidates: np.ndarray
    coefs: np.ndarray
    gram: np.ndarray  # system of the multi-positive start; its last row is the right-hand side
    w: np.ndarray
    vectors: np.ndarray
    row_values: np.ndarray
    active: np.ndarray
    y: np.ndarray
    costs: np.ndarray


@jit
def _scatter_dot(rows, i, column):
    total = 0.0
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        total += np.float64(column[rows.indices[p]]) * rows.data[p]
    return total


@jit
def _add_row(rows, i, scale, column):
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        column[rows.indices[p]] += scale * rows.data[p]


@jit
def _clear_row(rows, i, column):
    for p in range(rows.indptr[i], rows.indptr[i + 1]):
        column[rows.indices[p]] = 0


@jit
def _positive_sums(rows, positives, targets, column):
    """||P||^2 and P.S of the sum P of the positive rows and the sum S of all, bias included.

    Each positive counts with its target; the third value is the sum of the targets.
    """
    n_pos = 0.0
    for q in range(len(positives)):
        n_pos += targets[q]
        _add_row(rows, positives[q], targets[q], column)
    constant = rows.bias_value * rows.bias_value * n_pos
    pos_norm2 = constant * n_pos
    pos_total = constant * (len(rows.indptr) - 1)
    for q in range(len(positives)):
        pos_norm2 += targets[q] * _scatter_dot(rows, positives[q], column)
        pos_total += targets[q] * _scatter_dot(rows, positives[q], rows.total)
    for q in range(len(positives)):
        _clear_row(rows, positives[q], column)
    return pos_norm2, pos_total, n_pos


def _mean_separating(rows, n_pos, pos_norm2, pos_total):
    """(u / n_pos, v) of w0 = u P + v m with w0.P = t+ and w0.m = f (reference_facts A4).

    P and m are the means of the positives and of all rows, each positive counted with its target;
    f makes the mean score of the negatives t-.
    """
    n = len(rows.indptr) - 1
    pp = pos_norm2 / n_pos / n_pos
    pa = pos_total / n_pos / n
    aa = rows.total_norm2 / n / n
    f = n_pos / n * (_START_POSITIVE - _START_NEGATIVE) + _START_NEGATIVE
    determinant = pa * pa - pp * aa
    if abs(pa) < 1e-12 or abs(determinant) < 1e-9 * pp * aa:
        return 0.0, -1.0
    u = (f * pa - _START_POSITIVE * aa) / determinant
    return u / n_pos, (_START_POSITIVE - u * pp) / pa


@jit
def _multi_positive(rows, positives, pos_norm2, pos_total, gram, column, coefs):
    """Coefficients of w0 in span{each positive row, mean of the negatives} (reference_facts A4).

    The Gram system with a small ridge asks for the scores t+, ..., t+, t-. Returns the coefficient
    of the mean of all rows; the negatives' mean is (n m - sum of positives) / n_neg.
    """
    n = len(rows.indptr) - 1
    n_pos = len(positives)
    n_neg = n - n_pos
    size = n_pos + 1
    solution = gram[len(gram) - 1]
    constant = rows.bias_value * rows.bias_value
    for q in range(n_pos):
        _add_row(rows, positives[q], np.float32(1), column)
        with_positives = 0.0
        for r in range(n_pos):
            gram[q, r] = constant + _scatter_dot(rows, positives[r], column)
            with_positives += gram[q, r]
        _clear_row(rows, positives[q], column)
        with_all = constant * n + _scatter_dot(rows, positives[q], rows.total)
        gram[q, n_pos] = (with_all - with_positives) / n_neg
        gram[n_pos, q] = gram[q, n_pos]
    gram[n_pos, n_pos] = (rows.total_norm2 - 2 * pos_total + pos_norm2) / n_neg / n_neg
    for q in range(size):
        gram[q, q] += _START_RIDGE
        solution[q] = _START_POSITIVE if q < n_pos else _START_NEGATIVE
    for q in range(size):  # Gaussian elimination; the ridge keeps the pivots positive
        for r in range(q + 1, size):
            factor = gram[r, q] / gram[q, q]
            for c in range(q, size):
                gram[r, c] -= factor * gram[q, c]
            solution[r] -= factor * solution[q]
    for q in range(size - 1, -1, -1):
        for c in range(q + 1, size):
            solution[q] -= gram[q, c] * solution[c]
        solution[q] /= gram[q, q]
    for q in range(n_pos):
        coefs[q] = solution[q] - solution[n_pos] / n_neg
    return solution[n_pos] * n / n_neg


@jit
def _add_rows(rows, positives, coefs, W, b):
    """W[:, b] += sum of the positive rows times their coefficients."""
    for q in range(len(positives)):
        i = positives[q]
        scale = np.float32(coefs[q])
        for p in range(rows.indptr[i], rows.indptr[i + 1]):
            W[rows.indices[p], b] += scale * rows.data[p]


def _open_lane(problem, rows, lanes, scratch, b, label):
    """Start ``label`` in lane ``b``: its starting vector and the gradient norm to be reached."""
    n = len(rows.indptr) - 1
    entries = slice(problem.pos_indptr[label], problem.pos_indptr[label + 1])
    positives, targets = problem.pos_rows[entries], problem.pos_targets[entries]
    count = len(positives)
    twins = positives[targets < 1]
    pos_norm2, pos_total, n_pos = _positive_sums(rows, positives, targets, scratch.column)
    coefs = scratch.coefs[:count]
    coefs[:] = 0
    shared = 0.0
    if (
        problem.start == "multi-positive"
        and count <= _MAX_MULTI_POSITIVE
        and count < n
        and len(twins) == 0
    ):
        shared = _multi_positive(
            rows, positives, pos_norm2, pos_total, scratch.gram, scratch.column, coefs
        )
    elif problem.start != "zero":
        coefs[:], shared = _mean_separating(rows, n_pos, pos_norm2, pos_total)
        coefs *= targets
    _add_rows(rows, positives, coefs, scratch.W, b)
    scratch.rows[b, :count] = positives
    scratch.rows[b, count : count + len(twins)] = twins
    lanes.label[b] = label
    lanes.round[b] = 0
    lanes.steps[b] = 0
    lanes.n_twins[b] = len(twins)
    lanes.n_rows[b] = count + len(twins)
    lanes.n_features[b] = 0
    lanes.nnz[b] = 0
    lanes.shared[b] = shared
    lanes.bias[b] = (coefs.sum() + shared) * rows.bias_value
    # g(0) = -l'(0) C (c+ sum_pos t x - sum_neg (1 - t) x): the norm that LIBLINEAR's rule refers to
    a = -(1.0 + problem.positive_cost[label])
    norm2 = rows.total_norm2 + 2 * a * pos_total + a * a * pos_norm2
    slope0 = 2.0 if problem.loss == SQUARED_HINGE else 0.5
    imbalance = max(min(n_pos, n - n_pos), 1) / n
    lanes.target[b] = problem.tol * imbalance * slope0 * problem.C * math.sqrt(max(norm2, 0.0))


def _choose_rows(problem, lanes, scratch, b):
    """Grow the working set of lane ``b``; returns (its new size, violators left out)."""
    known = int(lanes.n_rows[b])
    first = lanes.round[b] == 0
    if problem.loss == LOGISTIC:
        if not first:
            return known, 0
        others = np.ones(scratch.scores.shape[1], bool)
        others[scratch.rows[b, :known]] = False
        size = known + np.count_nonzero(others)
        scratch.rows[b, known:size] = np.flatnonzero(others)
        return size, 0
    if first:
        quota = _FIRST_ROWS + _FIRST_ROWS_PER_ROOT * math.sqrt(known)
        lower = _START_NEGATIVE - 0.5
    else:
        quota = _FIRST_ROWS + _GROWTH * known
        lower = -1.0
    return _take_rows(
        scratch.scores[b],
        np.float32(lower),
        quota,
        scratch.histogram,
        scratch.candidates,
        scratch.rows[b],
        known,
    )


@jit
def _load_lane(rows, lanes, scratch, local_indices, local_data, b, m, targets, cost, C):
    """Set up the problem of lane ``b`` on m rows in compact coordinates; returns its features."""
    first = lanes.round[b] == 0
    features = scratch.features[b]
    n_local = _gather_rows(
        rows.indptr,
        rows.indices,
        rows.data,
        scratch.rows[b],
        0 if first else lanes.n_rows[b],
        m,
        scratch.local_of,
        features,
        lanes.n_features[b],
        scratch.local_indptr[b],
        local_indices[b],
        local_data[b],
    )
    n_pos = len(targets)
    for q in range(m):
        positive = q < n_pos
        scratch.y[q] = np.float32(1) if positive else np.float32(-1)
        scratch.costs[q] = np.float32(C * cost) * targets[q] if positive else np.float32(C)
    twin = n_pos
    for q in range(n_pos):
        if targets[q] < 1:
            scratch.costs[twin] = np.float32(C) * (np.float32(1) - targets[q])
            twin += 1
    # The part of the shared vector outside the working set's features only adds to ||w||, so it
    # is dropped.
    share = lanes.shared[b] / (len(rows.indptr) - 1)
    for c in range(n_local):
        scratch.w[c] = scratch.W[features[c], b] + np.float32(share * rows.total[features[c]])
    scratch.w[n_local] = lanes.bias[b]
    return n_local


@jit
def _store_lane(lanes, scratch, b, n_local):
    for c in range(n_local):
        scratch.W[scratch.features[b, c], b] = scratch.w[c]
    lanes.bias[b] = scratch.w[n_local]
    lanes.shared[b] = 0


def _solve_lane(problem, rows, lanes, scratch, local_indices, local_data, b, m, nnz, counters):
    """Newton steps on the m rows of lane ``b``'s working set; updates its column of W."""
    label = lanes.label[b]
    entries = slice(problem.pos_indptr[label], problem.pos_indptr[label + 1])
    n_local = _load_lane(
        rows,
        lanes,
        scratch,
        local_indices,
        local_data,
        b,
        m,
        problem.pos_targets[entries],
        problem.positive_cost[label],
        problem.C,
    )
    budget = problem.max_iter - lanes.steps[b]
    if problem.loss == SQUARED_HINGE:
        small = nnz < _SMALL_SHARE * len(rows.data)
        budget = min(budget, _INNER_STEPS + small)
    lanes.reached[b], steps, lanes.outcome[b] = minimise(
        problem.loss,
        scratch.local_indptr[b],
        local_indices[b],
        local_data[b],
        m,
        n_local,
        scratch.y,
        scratch.costs,
        np.float32(rows.bias_value),
        problem.ridge_b,
        scratch.w,
        _INNER_TARGET * lanes.target[b],
        budget,
        scratch.vectors,
        scratch.row_values,
        scratch.active,
        counters,
    )
    _store_lane(lanes, scratch, b, n_local)
    lanes.steps[b] += steps
    lanes.n_rows[b] = m
    lanes.n_features[b] = n_local
    lanes.nnz[b] = nnz
    lanes.round[b] += 1
    counters[1] += steps
    counters[4] += 1
    return steps


@jit
def _close_lane(threshold, lanes, scratch, b, out_indices, out_data):
    """Write the weights of lane ``b`` that pass the threshold and clear its column."""
    count = 0
    for c in range(lanes.n_features[b]):
        j = scratch.features[b, c]
        value = scratch.W[j, b]
        if value != 0 and abs(value) >= threshold:
            out_indices[count] = j
            out_data[count] = value
            count += 1
        scratch.W[j, b] = 0
    lanes.label[b] = -1
    return count


def _fit_lanes(problem, rows, counters):
    """Solve all labels of the problem; see the module docstring.

    Yields (label, feature numbers, weights, bias, Newton steps, converged) in the order in which
    labels are done. counters: Hessian products, Newton steps, passes over X, gathered entries,
    rounds, and over the final working sets rows and features.

    This loop stays in Python: compiling it would compile all the kernels that it calls once more.
    It takes about 7 % of one thread's time (some 0.2 ms a label and round).
    """
    n, d = len(rows.indptr) - 1, len(rows.feature_of)
    n_labels = len(problem.pos_indptr) - 1
    hinge = problem.loss == SQUARED_HINGE
    # The logistic loss needs all rows in each lane: one lane at a time bounds the memory.
    n_lanes = LANES if hinge else 1
    lanes, scratch = _new_lanes(), _new_scratch(n, d, _most_twins(problem))
    lengths = np.diff(rows.indptr)
    # Pools of the working sets' entries, which grow: pages that no lane reaches are not touched.
    local_indices = np.empty((n_lanes, 1 << 14), np.uint32)
    local_data = np.empty((n_lanes, 1 << 14), np.float32)
    next_label = 0
    while True:
        for b in range(n_lanes):
            if lanes.label[b] < 0 and next_label < n_labels:
                _open_lane(problem, rows, lanes, scratch, b, next_label)
                next_label += 1
        live = np.flatnonzero(lanes.label >= 0).tolist()
        if not live:
            return
        if hinge:
            lanes.offset[:] = lanes.bias * np.float32(rows.bias_value)
            _score_block(
                rows, scratch.W, lanes.shared, lanes.offset, scratch.buffer, scratch.scores
            )
            counters[2] += 1
        for b in live:
            first = lanes.round[b] == 0
            m, left_out = _choose_rows(problem, lanes, scratch, b)
            # Without new rows inside the margin the working set's gradient is the gradient over
            # all rows. Before the first solution there is none to judge.
            done = (
                not first
                and m == lanes.n_rows[b]
                and (lanes.reached[b] <= lanes.target[b] or lanes.outcome[b] != UNFINISHED)
            )
            if not done:
                new_rows = scratch.rows[b, 0 if first else lanes.n_rows[b] : m]
                nnz = int(lanes.nnz[b] + lengths[new_rows].sum())
                if nnz > local_indices.shape[1]:
                    local_indices = _grown(local_indices, lanes.nnz, nnz)
                    local_data = _grown(local_data, lanes.nnz, nnz)
                counters[3] += nnz - lanes.nnz[b]
                steps = _solve_lane(
                    problem, rows, lanes, scratch, local_indices, local_data, b, m, nnz, counters
                )
                # The last condition: the new rows leave the gradient within the tolerance.
                done = (
                    not hinge
                    or lanes.steps[b] >= problem.max_iter
                    or (
                        not first
                        and steps == 0
                        and left_out == 0
                        and lanes.reached[b] <= lanes.target[b]
                    )
                )
            if done:
                label = int(lanes.label[b])
                numbers = np.empty(lanes.n_features[b], np.uint32)
                weights = np.empty(lanes.n_features[b], np.float32)
                count = _close_lane(problem.threshold, lanes, scratch, b, numbers, weights)
                counters[5] += lanes.n_rows[b]
                counters[6] += lanes.n_features[b]
                converged = lanes.reached[b] <= lanes.target[b] or lanes.outcome[b] == RESOLVED
                yield (
                    label,
                    numbers[:count].copy(),
                    weights[:count].copy(),
                    lanes.bias[b],
                    lanes.steps[b],
                    converged,
                )


def _grown(pool, used, size):
    """A pool with at least ``size`` columns; lane b keeps its first used[b] entries."""
    out = np.empty((len(pool), max(size, 2 * pool.shape[1])), pool.dtype)
    for b in range(len(pool)):
        out[b, : used[b]] = pool[b, : used[b]]
    return out


def solve(
    rows,
    pos_indptr,
    pos_rows,
    *,
    loss="squared_hinge",
    start="mean-separating",
    C=1.0,
    positive_cost=None,
    regularize_bias=True,
    tol=0.01,
    max_iter=1000,
    threshold=0.0,
    loss_tolerance=None,
    pos_targets=None,
):
    """Solve the labels whose positive rows are ``pos_rows[pos_indptr[l]:pos_indptr[l + 1]]``.

    Parameters
    ----------
    rows : PreparedRows
        From `prepare`.
    pos_indptr : int64 array of shape (n_labels + 1,)
        Where the rows of each label begin.
    pos_rows : int32 array
        Row numbers, ascending and distinct within a label; at least one for each label.
    loss : {"squared_hinge", "logistic"}
    start : {"mean-separating", "multi-positive", "zero"}
    C : float
        Weight of the loss, 1 / lambda.
    positive_cost : float64 array of shape (n_labels,), optional
        c+ of each label; negatives cost 1.
    regularize_bias : bool
    tol : float
        A label is done when ||g(w)|| <= tol max(min(n_pos, n_neg), 1) / n ||g(0)||.
    max_iter : int
        Newton steps a label.
    threshold : float
        Weights of smaller magnitude are not returned.
    loss_tolerance : float, optional
        Also drop per label as many of the smallest weights as raise its loss over all rows by at
        most this share.
    pos_targets : float32 array, optional
        Soft target t in (0, 1] of each entry of ``pos_rows``: the row's loss is
        ``t c+ l(s) + (1 - t) l(-s)`` (`reference.soft_rows`). Default: 1.

    Returns
    -------
    LinearSolution
        The weights, by label.

    Notes
    -----
    Memory beside the result, in bytes: 64 (n_samples + n_features) for the block, and the rows of
    16 working sets. The mean-separating start stands in for the multi-positive one where a label
    has soft targets.

    Examples
    --------
    See `prepare`.
    """
    n_labels = len(pos_indptr) - 1
    if pos_targets is None:
        pos_targets = np.ones(len(pos_rows), np.float32)
    if positive_cost is None:
        positive_cost = np.ones(n_labels)
    problem = _Problem(
        loss=LOSSES[loss],
        start=start,
        C=float(C),
        ridge_b=np.float32(regularize_bias),
        tol=float(tol),
        max_iter=int(max_iter),
        threshold=np.float32(threshold),
        pos_indptr=np.array(pos_indptr, np.int64),
        pos_rows=np.array(pos_rows, np.int32),
        pos_targets=np.array(pos_targets, np.float32),
        positive_cost=np.array(positive_cost, np.float64),
    )
    bias = np.zeros(n_labels, np.float32)
    n_iter = np.zeros(n_labels, np.int32)
    converged = np.zeros(n_labels, bool)
    counters = np.zeros(8, np.int64)
    parts = [None] * n_labels
    for label, numbers, weights, *state in _fit_lanes(problem, rows, counters):
        bias[label], n_iter[label], converged[label] = state
        order = np.argsort(rows.feature_of[numbers])
        parts[label] = numbers[order], weights[order]
    indptr = np.concatenate(([0], np.cumsum([len(part[0]) for part in parts], dtype=np.int64)))
    sorted_numbers = np.concatenate([np.empty(0, np.uint32), *(part[0] for part in parts)])
    sorted_data = np.concatenate([np.empty(0, np.float32), *(part[1] for part in parts)])
    if loss_tolerance is not None:
        keep = keep_within_loss(
            _scores_of_block,
            rows,
            problem.loss,
            problem.pos_indptr,
            problem.pos_rows,
            problem.pos_targets,
            problem.C,
            problem.positive_cost,
            bias,
            indptr,
            sorted_numbers,
            sorted_data,
            float(loss_tolerance),
        )
        kept_before = np.concatenate(([0], np.cumsum(keep)))
        indptr = kept_before[indptr]
        sorted_numbers, sorted_data = sorted_numbers[keep], sorted_data[keep]
    return LinearSolution(
        indptr, rows.feature_of[sorted_numbers], sorted_data, bias, n_iter, converged, counters
    )


def _scores_of_block(rows, W, shared, offset, scores):
    _score_block(rows, W, shared, offset, np.empty((_CHUNK, LANES), np.float32), scores)


def work_bytes(n, d):
    """Return the bytes of the work space of one call, the entries of working sets not counted.

    Parameters
    ----------
    n, d : int
        Rows and features.

    Returns
    -------
    int
        Bytes.

    Examples
    --------
    >>> from skxmc.ops.linear_solver import work_bytes
    >>> work_bytes(2_000, 1_000) > work_bytes(1_000, 1_000)
    True
    """
    per_row = 2 * 4 * LANES + 40
    per_feature = 2 * 4 * LANES + 4 * (N_VECTORS + 3)
    return per_row * n + per_feature * d


def _most_twins(problem):
    """Soft positives of the label that has the most."""
    soft = np.concatenate(([0], np.cumsum(problem.pos_targets < 1)))
    return int(np.diff(soft[problem.pos_indptr]).max(initial=0))


def _new_lanes():
    integers = [np.zeros(LANES, np.int64) for _ in range(7)]
    integers[0] -= 1
    floats = [np.zeros(LANES, np.float32) for _ in range(3)]
    return _Lanes(*integers, np.zeros(LANES), np.zeros(LANES), np.zeros(LANES, np.int64), *floats)


def _new_scratch(n, d, n_twins):
    m = n + n_twins  # rows of a working set, at most
    return _Scratch(
        W=aligned_zeros((d, LANES)),
        scores=np.zeros((LANES, n), np.float32),
        buffer=np.empty((_CHUNK, LANES), np.float32),
        rows=np.empty((LANES, m), np.int32),
        features=np.empty((LANES, d), np.uint32),
        local_indptr=np.zeros((LANES, m + 1), np.int64),
        local_of=np.full(d, 0xFFFFFFFF, np.uint32),
        column=np.zeros(d, np.float64),
        histogram=np.zeros(_BINS, np.int64),
        candidates=np.empty(n + 1, np.int32),
        coefs=np.empty(n, np.float64),
        gram=np.empty((_MAX_MULTI_POSITIVE + 2, _MAX_MULTI_POSITIVE + 1)),
        w=np.zeros(d + 1, np.float32),
        vectors=np.zeros((N_VECTORS, d + 1), np.float32),
        row_values=np.empty((4, m), np.float32),
        active=np.empty(m, np.int32),
        y=np.empty(m, np.float32),
        costs=np.empty(m, np.float32),
    )
