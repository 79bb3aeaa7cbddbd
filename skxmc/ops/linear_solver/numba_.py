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

A lane whose label is done takes the next label, so that every pass over X serves 16 labels. What
happens in a lane depends on its label alone: the result is the same for any order, sharding or
number of threads. The logistic loss has curvature everywhere; its working set is all rows.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops._jit import jit
from skxmc.ops.linear_solver._lanes import LANES, aligned_zeros, row_times_block
from skxmc.ops.linear_solver._newton import LOGISTIC, N_VECTORS, SQUARED_HINGE, minimise

LOSSES = {"squared_hinge": SQUARED_HINGE, "logistic": LOGISTIC}
STARTS = {"zero": 0, "mean-separating": 1, "multi-positive": 2}

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
#: Inner solves stop at this share of the label's own tolerance, and after so many Newton steps:
#: early working sets are not worth an exact solution.
_INNER_TARGET = 0.7
_INNER_STEPS = 3

_BINS = 512
_BINS_PER_UNIT = 128.0
_CHUNK = 64


class PreparedRows(NamedTuple):
    """X as the solver reads it; made once by `prepare` and shared by all labels."""

    indptr: np.ndarray  # (n_samples + 1,) int64
    indices: np.ndarray  # (nnz,) uint32, features renumbered by falling frequency
    data: np.ndarray  # (nnz,) float32
    feature_of: np.ndarray  # (n_features,) int32: the caller's feature of each number
    total: np.ndarray  # (n_features,) float64: sum of all rows
    mean_scores: np.ndarray  # (n_samples,) float32: x_i . mean
    bias_value: float  # the constant feature, 0 without an intercept
    total_norm2: float  # || sum of the rows, bias feature included ||^2


class LinearSolution(NamedTuple):
    """Weights of the labels asked for, in their order; features as the caller numbers them."""

    indptr: np.ndarray  # (n_labels + 1,) int64
    indices: np.ndarray  # int32, sorted within a label
    data: np.ndarray  # float32
    bias: np.ndarray  # (n_labels,) float32: coefficient of the bias feature
    n_iter: np.ndarray  # (n_labels,) int32: Newton steps
    converged: np.ndarray  # (n_labels,) bool: tolerance reached, or float32 resolves no more
    counters: np.ndarray  # (8,) int64: see _fit_lanes


def prepare(indptr, indices, data, n_features, bias_value=1.0):
    """Renumber the features by falling frequency and sum what all labels share.

    Frequent features then lie together, which keeps the hot part of every weight block in cache
    (the thesis names this as the step left open after DiSMEC++).
    """
    n_samples = len(indptr) - 1
    frequency = np.bincount(indices, minlength=n_features)
    feature_of = np.argsort(-frequency, kind="stable").astype(np.int32)
    number_of = np.empty(n_features, dtype=np.uint32)
    number_of[feature_of] = np.arange(n_features, dtype=np.uint32)
    # scipy sorts each row; int32 is enough for the column numbers
    renumbered = sp.csr_array(
        (np.array(data, dtype=np.float32), number_of[indices].astype(np.int32), indptr),
        shape=(n_samples, n_features),
    )
    renumbered.sort_indices()
    indptr = renumbered.indptr.astype(np.int64)
    new_indices = renumbered.indices.astype(np.uint32)
    new_data = renumbered.data
    total = np.bincount(new_indices, weights=new_data, minlength=n_features)
    mean_scores = np.empty(n_samples, dtype=np.float32)
    _matvec(indptr, new_indices, new_data, total / max(n_samples, 1), mean_scores)
    total_norm2 = float(total @ total) + (n_samples * bias_value) ** 2
    return PreparedRows(
        indptr, new_indices, new_data, feature_of, total, mean_scores, float(bias_value), total_norm2
    )


@jit
def _matvec(indptr, indices, data, vector, out):
    for i in range(len(indptr) - 1):
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            total += data[p] * vector[indices[p]]
        out[i] = total


@jit(fastmath={"contract"})
def _score_block(indptr, indices, data, W, shared, mean_scores, offset, buffer, scores):
    """scores[b, i] = x_i . W[:, b] + shared[b] mean_scores[i] + offset[b] for the whole block."""
    n = len(indptr) - 1
    for first in range(0, n, _CHUNK):
        count = min(_CHUNK, n - first)
        for r in range(count):
            i = first + r
            row_times_block(indices, data, W, buffer, r, indptr[i], indptr[i + 1])
        for b in range(W.shape[1]):
            for r in range(count):
                scores[b, first + r] = (
                    buffer[r, b] + shared[b] * mean_scores[first + r] + offset[b]
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
def _gather_rows(indptr, indices, data, rows, known_rows, n_rows, local_of, features, n_local,
                 local_indptr, local_indices, local_data):
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


@jit
def _grown(array, used, size):
    """A copy with ``size`` entries at least; the first ``used`` are kept."""
    out = np.empty(max(size, 2 * len(array)), array.dtype)
    for p in range(used):
        out[p] = array[p]
    return out


@jit
def _grown_pool(pool, used, size):
    """The same for one row a lane, of which used[b] entries are kept."""
    out = np.empty((pool.shape[0], max(size, 2 * pool.shape[1])), pool.dtype)
    for b in range(pool.shape[0]):
        for p in range(used[b]):
            out[b, p] = pool[b, p]
    return out


@jit
def _start_vector(start, indptr, indices, data, positives, total, total_norm2, bias_value, column,
                  coefs):
    """Coefficients of the starting vector and the norm the stopping rule refers to.

    The vector is sum_q coefs[q] x_q + shared m over the positive rows q, m the mean of all rows
    (bias feature included). ``column`` is zero-initialised scratch of size n_features and is left
    zero. Returns (shared, ||c^2-weighted||...): see the return line.
    """
    n = len(indptr) - 1
    n_pos = len(positives)
    for q in range(n_pos):
        i = positives[q]
        for p in range(indptr[i], indptr[i + 1]):
            column[indices[p]] += data[p]
    pos_norm2 = np.float64(n_pos) * n_pos * bias_value * bias_value
    pos_total = np.float64(n_pos) * n * bias_value * bias_value
    for q in range(n_pos):
        i = positives[q]
        for p in range(indptr[i], indptr[i + 1]):
            pos_norm2 += np.float64(column[indices[p]]) * data[p]
            pos_total += total[indices[p]] * data[p]
    for q in range(n_pos):
        i = positives[q]
        for p in range(indptr[i], indptr[i + 1]):
            column[indices[p]] = 0
    shared = 0.0
    for q in range(n_pos):
        coefs[q] = 0
    if start == 2 and n_pos <= _MAX_MULTI_POSITIVE and n_pos < n:
        # multi-positive: w0 in span{mean of the negatives, each positive}, Gram system + ridge
        n_neg = n - n_pos
        size = n_pos + 1
        gram = np.zeros((size, size))
        for q in range(n_pos):
            i = positives[q]
            for p in range(indptr[i], indptr[i + 1]):
                column[indices[p]] = data[p]
            x_total = n * bias_value * bias_value
            x_pos = 0.0
            for r in range(n_pos):
                ir = positives[r]
                value = bias_value * bias_value
                for p in range(indptr[ir], indptr[ir + 1]):
                    value += np.float64(column[indices[p]]) * data[p]
                gram[q, r] = value
                x_pos += value
            for p in range(indptr[i], indptr[i + 1]):
                x_total += total[indices[p]] * data[p]
                column[indices[p]] = 0
            gram[q, n_pos] = (x_total - x_pos) / n_neg
            gram[n_pos, q] = gram[q, n_pos]
        gram[n_pos, n_pos] = (total_norm2 - 2 * pos_total + pos_norm2) / n_neg / n_neg
        solution = np.empty(size)
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
        shared = solution[n_pos] * n / n_neg
        for q in range(n_pos):
            coefs[q] = solution[q] - solution[n_pos] / n_neg
    elif start != 0:
        # mean-separating: w0 = u P + v m with w0.P = t+ and w0.m = f (reference_facts A4)
        pp = pos_norm2 / n_pos / n_pos
        pa = pos_total / n_pos / n
        aa = total_norm2 / n / n
        f = n_pos / n * (_START_POSITIVE - _START_NEGATIVE) + _START_NEGATIVE
        determinant = pa * pa - pp * aa
        if abs(pa) < 1e-12 or abs(determinant) < 1e-9 * pp * aa:
            shared = -1.0
        else:
            u = (f * pa - _START_POSITIVE * aa) / determinant
            shared = (_START_POSITIVE - u * pp) / pa
            coefs[:n_pos] = u / n_pos
    return shared, pos_norm2, pos_total


@jit
def _fit_lanes(loss, start, indptr, indices, data, total, mean_scores, total_norm2, bias_value,
               ridge_b, pos_indptr, pos_rows, C, positive_cost, tol, max_iter, threshold, W,
               scores, histogram, vectors, w, row_scratch, active, y, costs, local_of,
               counters):
    """Solve labels 0..n_labels-1; see the module docstring. Returns CSR parts in solver numbering.

    counters: Hessian products, Newton steps, passes over X, gathered entries, rounds, final
    working rows, final features.
    """
    n = len(indptr) - 1
    n_labels = len(pos_indptr) - 1
    # the logistic loss needs all rows in each lane: one lane at a time bounds the memory
    lanes = W.shape[1] if loss == SQUARED_HINGE else 1
    lane_label = np.full(lanes, -1, np.int64)
    lane_round = np.zeros(lanes, np.int64)
    lane_steps = np.zeros(lanes, np.int64)
    lane_rows = np.zeros(lanes, np.int64)
    lane_features = np.zeros(lanes, np.int64)
    target = np.zeros(lanes)
    reached = np.zeros(lanes)
    stalled = np.zeros(lanes, np.bool_)
    bias = np.zeros(lanes, np.float32)
    shared = np.zeros(W.shape[1], np.float32)
    offset = np.zeros(W.shape[1], np.float32)
    # the working sets, one a lane; pages that no lane reaches are never touched
    rows = np.empty((lanes, n), np.int32)
    features = np.empty((lanes, W.shape[0]), np.uint32)
    local_indptr = np.zeros((lanes, n + 1), np.int64)
    local_indices = np.empty((lanes, 1 << 14), np.uint32)
    local_data = np.empty((lanes, 1 << 14), np.float32)
    lane_nnz = np.zeros(lanes, np.int64)
    candidates = np.empty(n + 1, np.int32)
    coefs = np.empty(n, np.float64)
    buffer = np.empty((_CHUNK, W.shape[1]), np.float32)
    out_indices = np.empty(1 << 16, np.int32)
    out_data = np.empty(1 << 16, np.float32)
    out_start = np.zeros(n_labels, np.int64)
    out_stop = np.zeros(n_labels, np.int64)
    out_bias = np.zeros(n_labels, np.float32)
    out_steps = np.zeros(n_labels, np.int32)
    out_converged = np.zeros(n_labels, np.bool_)
    n_out = 0
    next_label = 0
    n_live = 0
    while True:
        for b in range(lanes):
            if lane_label[b] >= 0 or next_label >= n_labels:
                continue
            label = next_label
            next_label += 1
            n_live += 1
            positives = pos_rows[pos_indptr[label] : pos_indptr[label + 1]]
            n_pos = len(positives)
            lane_label[b] = label
            lane_round[b] = 0
            lane_steps[b] = 0
            lane_rows[b] = n_pos
            lane_features[b] = 0
            lane_nnz[b] = 0
            for q in range(n_pos):
                rows[b, q] = positives[q]
            v, pos_norm2, pos_total = _start_vector(
                start, indptr, indices, data, positives, total, total_norm2, bias_value,
                vectors[0], coefs
            )
            weight_sum = v
            for q in range(n_pos):
                weight_sum += coefs[q]
                i = positives[q]
                for p in range(indptr[i], indptr[i + 1]):
                    W[indices[p], b] += np.float32(coefs[q]) * data[p]
            shared[b] = v
            bias[b] = weight_sum * bias_value
            # g(0) = -l'(0) C (c+ sum_pos x - sum_neg x): the norm in LIBLINEAR's stopping rule
            a = -(1.0 + positive_cost[label])
            norm2 = total_norm2 + 2 * a * pos_total + a * a * pos_norm2
            slope0 = 2.0 if loss == SQUARED_HINGE else 0.5
            imbalance = max(min(n_pos, n - n_pos), 1) / n
            target[b] = tol * imbalance * slope0 * C * math.sqrt(max(norm2, 0.0))
        if n_live == 0:
            break
        if loss == SQUARED_HINGE:
            for b in range(lanes):
                offset[b] = bias[b] * bias_value
            _score_block(indptr, indices, data, W, shared, mean_scores, offset, buffer, scores)
            counters[2] += 1
        for b in range(lanes):
            label = lane_label[b]
            if label < 0:
                continue
            n_pos = pos_indptr[label + 1] - pos_indptr[label]
            known = lane_rows[b]
            first = lane_round[b] == 0
            left_out = 0
            m = known
            if loss == SQUARED_HINGE:
                if first:
                    quota = _FIRST_ROWS + _FIRST_ROWS_PER_ROOT * math.sqrt(n_pos)
                    lower = np.float32(_START_NEGATIVE - 0.5)
                else:
                    quota = _FIRST_ROWS + _GROWTH * known
                    lower = np.float32(-1)
                m, left_out = _take_rows(
                    scores[b], lower, quota, histogram, candidates, rows[b], known
                )
            elif first:
                for i in range(n):
                    scores[b, i] = 0
                for q in range(n_pos):
                    scores[b, rows[b, q]] = 1
                for i in range(n):
                    if scores[b, i] == 0:
                        rows[b, m] = i
                        m += 1
            # Without new rows inside the margin the working set's gradient is the gradient over
            # all rows; the first round's rows outside it have not been looked at yet.
            done = not first and m == known and (reached[b] <= target[b] or stalled[b])
            if not done:
                if first:
                    known = 0
                nnz = lane_nnz[b]
                for q in range(known, m):
                    nnz += indptr[rows[b, q] + 1] - indptr[rows[b, q]]
                if nnz > local_indices.shape[1]:
                    local_indices = _grown_pool(local_indices, lane_nnz, nnz)
                    local_data = _grown_pool(local_data, lane_nnz, nnz)
                counters[3] += nnz - lane_nnz[b]
                lane_nnz[b] = nnz
                n_local = _gather_rows(
                    indptr, indices, data, rows[b], known, m, local_of, features[b],
                    lane_features[b], local_indptr[b], local_indices[b], local_data[b]
                )
                for q in range(m):
                    y[q] = np.float32(1) if q < n_pos else np.float32(-1)
                    costs[q] = np.float32(C * positive_cost[label] if q < n_pos else C)
                for c in range(n_local):
                    w[c] = W[features[b, c], b]
                    if first:
                        # the part of the shared vector outside the working set's features only
                        # adds to ||w||, so it is dropped
                        w[c] += shared[b] * np.float32(total[features[b, c]] / n)
                w[n_local] = bias[b]
                budget = max_iter - lane_steps[b]
                if loss == SQUARED_HINGE:
                    budget = min(budget, _INNER_STEPS)
                reached[b], steps, stalled[b] = minimise(
                    loss, local_indptr[b], local_indices[b], local_data[b], m, n_local, y, costs,
                    np.float32(bias_value), ridge_b, w, _INNER_TARGET * target[b], budget,
                    vectors, row_scratch, active, counters
                )
                for c in range(n_local):
                    W[features[b, c], b] = w[c]
                bias[b] = w[n_local]
                shared[b] = 0
                lane_steps[b] += steps
                lane_rows[b] = m
                lane_features[b] = n_local
                lane_round[b] += 1
                counters[1] += steps
                counters[4] += 1
                # The last condition: the new rows leave the gradient within the tolerance.
                done = (
                    loss == LOGISTIC
                    or lane_steps[b] >= max_iter
                    or (not first and steps == 0 and left_out == 0 and reached[b] <= target[b])
                )
            if done:
                n_local = lane_features[b]
                if n_out + n_local > len(out_indices):
                    out_indices = _grown(out_indices, n_out, n_out + n_local)
                    out_data = _grown(out_data, n_out, n_out + n_local)
                out_start[label] = n_out
                for c in range(n_local):
                    j = features[b, c]
                    value = W[j, b]
                    if value != 0 and abs(value) >= threshold:
                        out_indices[n_out] = j
                        out_data[n_out] = value
                        n_out += 1
                    W[j, b] = 0
                out_stop[label] = n_out
                out_bias[label] = bias[b]
                out_steps[label] = lane_steps[b]
                out_converged[label] = reached[b] <= target[b] or stalled[b]
                counters[5] += lane_rows[b]
                counters[6] += n_local
                lane_label[b] = -1
                n_live -= 1
    return (
        out_start,
        out_stop,
        out_indices[:n_out],
        out_data[:n_out],
        out_bias,
        out_steps,
        out_converged,
    )


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
):
    """Solve the labels whose positive rows are ``pos_rows[pos_indptr[l]:pos_indptr[l + 1]]``.

    Parameters
    ----------
    rows : PreparedRows
        From `prepare`.
    pos_indptr : int64 array of shape (n_labels + 1,)
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

    Returns
    -------
    LinearSolution

    Notes
    -----
    Memory beside the result, in bytes: 64 (n_samples + n_features) for the block, and the rows of
    16 working sets.
    """
    n = len(rows.indptr) - 1
    d = len(rows.feature_of)
    n_labels = len(pos_indptr) - 1
    if positive_cost is None:
        positive_cost = np.ones(n_labels)
    counters = np.zeros(8, np.int64)
    begin, end, numbers, data, bias, n_iter, converged = _fit_lanes(
        LOSSES[loss],
        STARTS[start],
        rows.indptr,
        rows.indices,
        rows.data,
        rows.total,
        rows.mean_scores,
        rows.total_norm2,
        rows.bias_value,
        np.float32(regularize_bias),
        np.ascontiguousarray(pos_indptr, dtype=np.int64),
        np.ascontiguousarray(pos_rows, dtype=np.int32),
        float(C),
        np.ascontiguousarray(positive_cost, dtype=np.float64),
        float(tol),
        int(max_iter),
        np.float32(threshold),
        aligned_zeros((d, LANES)),
        np.zeros((LANES, n), np.float32),
        np.zeros(_BINS, np.int64),
        np.zeros((N_VECTORS, d + 1), np.float32),
        np.zeros(d + 1, np.float32),
        np.empty((4, n), np.float32),
        np.empty(n, np.int32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.full(d, 0xFFFFFFFF, np.uint32),
        counters,
    )
    # Lanes finish in an order of their own: sort by label, then by the caller's feature.
    lengths = end - begin
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    label_of = np.empty(len(numbers), np.int64)
    by_start = np.argsort(begin, kind="stable")
    label_of[:] = np.repeat(by_start, lengths[by_start])
    features = rows.feature_of[numbers]
    order = np.lexsort((features, label_of))
    return LinearSolution(
        indptr, features[order], data[order], bias, n_iter, converged, counters
    )
