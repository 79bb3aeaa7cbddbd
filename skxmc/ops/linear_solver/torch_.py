"""One-vs-all linear solver on a torch device: blocks of labels, all rows, truncated Newton.

The objective, the starts, the stopping rule and the Newton method are those of the Numba solver
(`numba_`, `_newton`), so both come to the same solution within ``tol``. What differs is what fits
the hardware: a label is not solved on a working set of its own. The labels of a block are columns
of dense matrices, and a Hessian product of all of them (thesis eq. 5.1) is two products with the
sparse X,

    H D = D + X^T (C o (X D)),        C: curvatures, zero for rows outside the margin.

Each column has its own step lengths and ends for itself: labels that are done leave the block, in
conjugate gradients as in Newton. What happens in a column does not depend on the others but for the
order of float64 sums.

The bias is the last row of every matrix of weights. Its feature, the constant, is not stored: sums
over it are taken in float64.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skxmc.ops._device import default_block_bytes
from skxmc.ops.linear_solver._newton import (
    _ARMIJO,
    _CG_TOLERANCE,
    _MAX_BACKTRACKS,
    _NEGLIGIBLE,
    _PRECONDITIONER_MIX,
    _RESOLUTION,
    FAILED,
    LOGISTIC,
    RESOLVED,
    SQUARED_HINGE,
    UNFINISHED,
)
from skxmc.ops.linear_solver._pruning import _ABSOLUTE
from skxmc.ops.linear_solver.numba_ import (
    _MAX_MULTI_POSITIVE,
    _START_NEGATIVE,
    _START_POSITIVE,
    _START_RIDGE,
    LOSSES,
    LinearSolution,
)
from skxmc.ops.torch_sparse import SparseRows, on_device, product, sparse_rows

#: Labels of a block, at most: more fill a GPU no better.
_MAX_BLOCK = 4096


class DeviceRows(NamedTuple):
    """X on a device as the solver reads it; made once by `prepare` and shared by all labels."""

    X: SparseRows  # (n_samples, n_features)
    XT: SparseRows  # (n_features + 1, n_samples), the last row, of the bias, empty
    squared: SparseRows  # XT with squared values
    host: sp.csr_array  # X
    total: np.ndarray  # (n_features,) float64: sum of all rows
    total_norm2: float  # || sum of the rows, bias feature included ||^2
    bias_value: float  # the constant feature, 0 without an intercept
    device: str

    @property
    def n_samples(self):
        return self.host.shape[0]

    @property
    def n_features(self):
        return self.host.shape[1]


def prepare(indptr, indices, data, n_features, bias_value=1.0, *, device="cpu"):
    """Put X on a device, by rows and by features.

    Parameters
    ----------
    indptr, indices, data : ndarray
        CSR rows without duplicates; a stored zero is no entry.
    n_features : int
    bias_value : float, default=1.0
        The constant feature, 0 without an intercept.
    device : str, default="cpu"

    Returns
    -------
    DeviceRows

    Notes
    -----
    Memory: 28 bytes an entry on the device, and X once more on the host.
    """
    narrow = np.int32 if len(indices) < 2**31 else np.int64
    host = sp.csr_array(
        (np.array(data, np.float32), np.array(indices, narrow), np.array(indptr, narrow)),
        shape=(len(indptr) - 1, n_features),
    )
    host.sort_indices()
    host.eliminate_zeros()
    by_feature = host.tocsc()
    total = np.bincount(host.indices, weights=host.data, minlength=n_features).astype(np.float64)
    XT = sparse_rows(
        np.append(by_feature.indptr, host.nnz), by_feature.indices, by_feature.data, device
    )
    return DeviceRows(
        X=sparse_rows(host.indptr, host.indices, host.data, device),
        XT=XT,
        squared=XT._replace(data=XT.data.square()),
        host=host,
        total=total,
        total_norm2=float(total @ total) + (host.shape[0] * bias_value) ** 2,
        bias_value=float(bias_value),
        device=str(device),
    )


def block_size(n_samples, n_features, block_bytes):
    """Labels that are solved together: as many as take ``block_bytes``, and one at least."""
    return max(1, min(_MAX_BLOCK, block_bytes // label_bytes(n_samples, n_features)))


def label_bytes(n_samples, n_features):
    """Bytes that a label of a block takes on the device."""
    return 48 * n_samples + 44 * (n_features + 1)


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
    block_bytes=None,
):
    """Solve the labels whose positive rows are ``pos_rows[pos_indptr[l]:pos_indptr[l + 1]]``.

    Parameters
    ----------
    rows : DeviceRows
        From `prepare`.
    pos_indptr, pos_rows, loss, start, C, positive_cost, regularize_bias, tol, max_iter, \
            threshold, loss_tolerance
        As for `skxmc.ops.linear_solver.solve`.
    block_bytes : int, optional
        Bytes of the device that a block of labels may take beside X; 256 MiB on the processor and
        2 GiB on a GPU by default. One label is always solved, whatever it takes.

    Returns
    -------
    LinearSolution
        As of `skxmc.ops.linear_solver.solve`; of the counters only Hessian products and Newton
        steps are counted. It is the same, bit for bit, for the same device and ``block_bytes``.

    Notes
    -----
    Time of a CG iteration: two passes over X for the whole block. Memory: `label_bytes` a label.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.linear_solver import torch_
    >>> row = np.array([0, 1]), np.array([0]), np.array([1.0])
    >>> rows = torch_.prepare(*row, n_features=1, bias_value=0.0)
    >>> solution = torch_.solve(rows, np.array([0, 1]), np.array([0]), tol=1e-6)
    >>> solution.data  # minimises w^2 / 2 + (1 - w)^2
    array([0.6666667], dtype=float32)
    """
    pos_indptr = np.asarray(pos_indptr, np.int64)
    pos_rows = np.asarray(pos_rows, np.int64)
    n_labels = len(pos_indptr) - 1
    if positive_cost is None:
        positive_cost = np.ones(n_labels)
    problem = _Problem(
        loss=LOSSES[loss],
        start=start,
        C=float(C),
        ridge_b=float(regularize_bias),
        tol=float(tol),
        max_iter=int(max_iter),
        threshold=float(threshold),
        loss_tolerance=loss_tolerance,
    )
    if block_bytes is None:
        block_bytes = default_block_bytes(rows.device)
    size = block_size(rows.n_samples, rows.n_features, block_bytes)
    counters = np.zeros(8, np.int64)
    parts = [_no_labels()]
    with torch.inference_mode():
        for first in range(0, n_labels, size):
            stop = min(first + size, n_labels)
            positives = _positives(pos_indptr, pos_rows, first, stop)
            cost = np.asarray(positive_cost, np.float64)[first:stop]
            parts.append(_solve_block(problem, rows, positives, cost, counters))
    counts, indices, data, bias, n_iter, converged = map(np.concatenate, zip(*parts, strict=True))
    indptr = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    return LinearSolution(indptr, indices, data, bias, n_iter, converged, counters)


class _Problem(NamedTuple):
    """What is asked of every label."""

    loss: int
    start: str
    C: float
    ridge_b: float  # 1 if the bias is regularised, else 0
    tol: float
    max_iter: int
    threshold: float
    loss_tolerance: float | None


class _Positives(NamedTuple):
    """Positive pairs of a block of labels."""

    counts: np.ndarray  # of each label
    rows: np.ndarray
    labels: np.ndarray  # numbered within the block


def _positives(pos_indptr, pos_rows, first, stop):
    counts = np.diff(pos_indptr[first : stop + 1])
    return _Positives(
        counts,
        pos_rows[pos_indptr[first] : pos_indptr[stop]],
        np.repeat(np.arange(stop - first), counts),
    )


def _no_labels():
    kinds = (np.int64, np.int32, np.float32, np.float32, np.int32, bool)
    return tuple(np.empty(0, kind) for kind in kinds)


# ---------------------------------------------------------------------------- products and sums


def _scores(rows, W):
    """X W + beta b for each row and label."""
    return product(rows.X, W).add_(W[-1] * rows.bias_value)


def _combine(rows, coefs):
    """X^T coefs, bias feature included."""
    out = product(rows.XT, coefs)
    out[-1] = coefs.sum(0, dtype=torch.float64) * rows.bias_value
    return out


def _combine_squares(rows, coefs):
    """(X o X)^T coefs, bias feature included."""
    out = product(rows.squared, coefs)
    out[-1] = coefs.sum(0, dtype=torch.float64) * rows.bias_value**2
    return out


def _dot(a, b):
    """Column by column, in float64."""
    return a.double().mul_(b).sum(0)


def _quick_dot(a, b):
    """The same with products in float32: what CG needs, at less than half the traffic."""
    return (a * b).sum(0, dtype=torch.float64)


def _inner(problem, a, b):
    """a.b in the norm that is regularised: without the bias if it is free."""
    total = _dot(a, b)
    return total if problem.ridge_b else total - a[-1].double() * b[-1].double()


def _add_ridge(problem, out, W):
    """``out + W`` in place, without the bias if it is free."""
    if problem.ridge_b:
        return out.add_(W)
    out[:-1] += W[:-1]
    return out


# ---------------------------------------------------------------------------- losses
# ``costs`` carries the sign of the label: +C c+ for its positive rows, -C for the others.


def _total_loss(loss, costs, scores):
    """Sum over the rows of c_i l(y_i s_i), float64."""
    margins = costs.sign().mul_(scores)
    if loss == SQUARED_HINGE:
        slack = margins.neg_().add_(1).clamp_min_(0)
        values = slack.double().mul_(slack)
    else:
        values = torch.nn.functional.softplus(margins.double().neg_())
    return values.mul_(costs.abs()).sum(0)


def _slopes(loss, costs, scores):
    """First and second derivatives of each loss in the score."""
    margins = costs.sign().mul_(scores)
    if loss == SQUARED_HINGE:
        slack = margins.neg_().add_(1).clamp_min_(0)
        curvature = (slack > 0) * costs.abs().mul_(2)
        return slack.mul_(costs).mul_(-2), curvature
    sigma = margins.double().neg_().sigmoid_()  # 1 / (1 + exp(margin))
    curvature = (sigma * (1 - sigma)).float().mul_(costs.abs())
    return sigma.float().mul_(costs).neg_(), curvature


# ---------------------------------------------------------------------------- start


def _starts(problem, rows, positives, positive_cost, costs):
    """Starting vectors and gradient norms to be reached: see `numba_._open_lane`."""
    n, counts = rows.n_samples, positives.counts
    sums = _combine(rows, (costs > 0).float())  # of the positive rows
    total = on_device(np.append(rows.total, n * rows.bias_value), np.float64, rows.device)[:, None]
    pos_norm2 = _dot(sums, sums).cpu().numpy()
    pos_total = (sums * total).sum(0).cpu().numpy()
    target = _targets(problem, rows, counts, positive_cost, pos_norm2, pos_total)
    if problem.start == "zero":
        return torch.zeros_like(sums), target
    of_sums, of_mean = _mean_separating(rows, counts, pos_norm2, pos_total)
    entries = np.zeros(len(positives.rows))
    if problem.start == "multi-positive":
        bounds = np.concatenate(([0], np.cumsum(counts)))
        for label in np.flatnonzero((counts <= _MAX_MULTI_POSITIVE) & (counts < n)):
            own = slice(bounds[label], bounds[label + 1])
            entries[own], of_mean[label] = _multi_positive(
                rows, positives.rows[own], pos_norm2[label], pos_total[label]
            )
            of_sums[label] = 0
    of_sums, of_mean = (on_device(c, np.float64, rows.device) for c in (of_sums, of_mean))
    W = (sums * of_sums + total * (of_mean / n)).float()
    if entries.any():
        coefs = torch.zeros_like(costs)
        coefs[_at(positives, rows.device)] = on_device(entries, np.float32, rows.device)
        W += _combine(rows, coefs)
    return W, target


def _mean_separating(rows, counts, pos_norm2, pos_total):
    """Coefficients of the positive rows and of the mean: see `reference.mean_separating_start`."""
    n = rows.n_samples
    PP, PA, AA = pos_norm2 / counts**2, pos_total / counts / n, rows.total_norm2 / n**2
    f = counts / n * (_START_POSITIVE - _START_NEGATIVE) + _START_NEGATIVE
    determinant = PA**2 - PP * AA
    alike = (np.abs(PA) < 1e-12) | (np.abs(determinant) < 1e-9 * PP * AA)
    determinant, PA = np.where(alike, 1, determinant), np.where(alike, 1, PA)
    u = (f * PA - _START_POSITIVE * AA) / determinant
    v = (_START_POSITIVE - u * PP) / PA
    return np.where(alike, 0, u / counts), np.where(alike, -1, v)


def _targets(problem, rows, counts, positive_cost, pos_norm2, pos_total):
    """LIBLINEAR's rule, see `reference.stopping_target`."""
    n, a = rows.n_samples, -(1.0 + positive_cost)
    # g(0) = -l'(0) C (c+ sum_pos x - sum_neg x)
    norm2 = np.maximum(rows.total_norm2 + 2 * a * pos_total + a * a * pos_norm2, 0.0)
    slope0 = 2.0 if problem.loss == SQUARED_HINGE else 0.5
    imbalance = np.maximum(np.minimum(counts, n - counts), 1) / n
    target = problem.tol * imbalance * slope0 * problem.C * np.sqrt(norm2)
    return on_device(target, np.float64, rows.device)


def _multi_positive(rows, positives, pos_norm2, pos_total):
    """Coefficients of each positive row and of the mean: see `reference.multi_positive_start`."""
    n, n_pos, constant = rows.n_samples, len(positives), rows.bias_value**2
    n_neg = n - n_pos
    own = rows.host[positives].astype(np.float64)
    gram = np.empty((n_pos + 1, n_pos + 1))
    gram[:-1, :-1] = (own @ own.T).toarray() + constant
    with_all = own @ rows.total + constant * n
    gram[:-1, -1] = gram[-1, :-1] = (with_all - gram[:-1, :-1].sum(axis=1)) / n_neg
    gram[-1, -1] = (rows.total_norm2 - 2 * pos_total + pos_norm2) / n_neg**2
    gram[np.diag_indices(n_pos + 1)] += _START_RIDGE
    scores = np.append(np.full(n_pos, _START_POSITIVE), _START_NEGATIVE)
    solution = np.linalg.solve(gram, scores)
    return solution[:-1] - solution[-1] / n_neg, solution[-1] * n / n_neg


def _at(positives, device):
    """Positions of the positive pairs in a matrix (rows, labels)."""
    return tuple(on_device(part, np.int64, device) for part in (positives.rows, positives.labels))


# ---------------------------------------------------------------------------- Newton


def _solve_block(problem, rows, positives, positive_cost, counters):
    """Counts, features and weights, bias, steps and convergence of the labels of a block."""
    device, n_labels = rows.device, len(positives.counts)
    costs = torch.full((rows.n_samples, n_labels), -problem.C, device=device)
    cost = (problem.C * positive_cost)[positives.labels]
    costs[_at(positives, device)] = on_device(cost, np.float32, device)
    W, target = _starts(problem, rows, positives, positive_cost, costs)
    solved = torch.empty_like(W)
    n_iter = torch.zeros(n_labels, dtype=torch.int32, device=device)
    converged = torch.zeros(n_labels, dtype=torch.bool, device=device)
    lanes = _open_lanes(problem, rows, W, costs, target)
    del W, target
    while True:
        slope, curvature = _slopes(problem.loss, lanes.costs, lanes.scores)
        g = _add_ridge(problem, _combine(rows, slope), lanes.W)
        del slope
        g_norm = _dot(g, g).sqrt_()
        reached = g_norm <= lanes.target
        done = reached | (lanes.outcome != UNFINISHED) | (lanes.steps >= problem.max_iter)
        if done.any():
            at = lanes.label[done]
            solved[:, at] = lanes.W[:, done]
            n_iter[at] = lanes.steps[done]
            converged[at] = (reached | (lanes.outcome == RESOLVED))[done]
            if done.all():
                break
            live = (~done).nonzero()[:, 0]
            lanes = _Lanes(*(part.index_select(-1, live) for part in lanes))
            g, curvature = g.index_select(1, live), curvature.index_select(1, live)
        counters[1] += len(lanes.label)
        lanes = _newton_step(problem, rows, lanes, g, curvature, counters)
    del lanes, g, curvature
    parts = _pruned(problem, rows, solved, costs)
    return *parts, *(part.cpu().numpy() for part in (solved[-1], n_iter, converged))


class _Lanes(NamedTuple):
    """State of the labels under way; the last axis of every tensor is theirs."""

    label: torch.Tensor  # number within the block
    W: torch.Tensor  # (n_features + 1, labels)
    costs: torch.Tensor  # (n_samples, labels)
    scores: torch.Tensor
    target: torch.Tensor  # gradient norm to be reached
    norm2: torch.Tensor  # regularised norm of W, float64
    objective: torch.Tensor
    steps: torch.Tensor  # Newton steps so far
    outcome: torch.Tensor


def _open_lanes(problem, rows, W, costs, target):
    """The labels at their starts, which may not be worse than zero."""
    n_labels = costs.shape[1]
    scores = _scores(rows, W)
    if problem.loss == SQUARED_HINGE:
        # The solution is a combination of the rows inside the margin, so it has no weights for
        # features that none of them has. Those of the start would fade, and never quite vanish.
        _, curvature = _slopes(problem.loss, costs, scores)
        curvature += costs > 0
        W *= _combine_squares(rows, curvature) > 0
        scores = _scores(rows, W)
    at_zero = costs.abs().sum(0, dtype=torch.float64)
    if problem.loss == LOGISTIC:
        at_zero *= math.log(2.0)
    norm2 = _inner(problem, W, W)
    objective = 0.5 * norm2 + _total_loss(problem.loss, costs, scores)
    kept = objective <= at_zero  # not so for NaN
    W, scores = (part.masked_fill_(~kept, 0) for part in (W, scores))
    counts = torch.zeros((2, n_labels), dtype=torch.int32, device=W.device)
    return _Lanes(
        label=torch.arange(n_labels, device=W.device),
        W=W,
        costs=costs,
        scores=scores,
        target=target,
        norm2=norm2.masked_fill_(~kept, 0),
        objective=torch.where(kept, objective, at_zero),
        steps=counts[0],
        outcome=counts[1] + UNFINISHED,
    )


def _newton_step(problem, rows, lanes, g, curvature, counters):
    """The lanes after one step, with the outcomes that it has."""
    step = _conjugate_gradient(problem, rows, g, curvature, counters)
    slope0 = _dot(g, step)
    along = _scores(rows, step)
    t, trial = _line_search(problem, lanes, slope0, step, along)
    accepted = t > 0
    negligible = -slope0 <= _NEGLIGIBLE * lanes.objective
    exhausted = lanes.objective - trial <= _RESOLUTION * lanes.objective
    outcome = torch.where(negligible, RESOLVED, FAILED)
    outcome = torch.where(accepted & ~(negligible & exhausted), UNFINISHED, outcome)
    W = lanes.W.addcmul_(step, t.float())
    return lanes._replace(
        W=W,
        scores=lanes.scores.addcmul_(along, t.float()),
        norm2=_inner(problem, W, W),
        objective=torch.where(accepted, trial, lanes.objective),
        steps=lanes.steps + 1,
        outcome=outcome.int(),
    )


def _line_search(problem, lanes, slope0, step, along):
    """Largest t of 1, 1/2, ... that lowers the objective enough, and the objective there.

    t is 0 where there is none. On cached scores: a trial costs a pass over (rows, labels).
    """
    w_step, step2 = _inner(problem, lanes.W, step), _inner(problem, step, step)
    t, trial = torch.zeros_like(slope0), torch.zeros_like(slope0)
    pending, length = torch.arange(len(slope0), device=slope0.device), 1.0
    costs, scores = lanes.costs, lanes.scores
    for _ in range(_MAX_BACKTRACKS):
        value = 0.5 * (lanes.norm2 + 2 * length * w_step + length**2 * step2)[pending]
        value += _total_loss(problem.loss, costs, torch.add(scores, along, alpha=length))
        enough = value - lanes.objective[pending] <= _ARMIJO * length * slope0[pending]
        t[pending[enough]], trial[pending[enough]] = length, value[enough]
        if enough.all():
            break
        left = (~enough).nonzero()[:, 0]
        pending = pending[left]
        costs, scores, along = (part.index_select(1, left) for part in (costs, scores, along))
        length *= 0.5
    return t, trial


def _conjugate_gradient(problem, rows, g, curvature, counters):
    """Approximate solution of H step = -g for each label, see `_newton._conjugate_gradient`."""
    diagonal = _combine_squares(rows, curvature)
    diagonal[:-1] += 1
    diagonal[-1] += problem.ridge_b
    M = diagonal.mul_(_PRECONDITIONER_MIX).add_(1 - _PRECONDITIONER_MIX).reciprocal_()
    r, steps = g.neg(), torch.zeros_like(g)
    d, step = M * r, torch.zeros_like(g)
    rho = _quick_dot(r, d)
    tolerance = rho.sqrt().sqrt().clamp_max(_CG_TOLERANCE)
    model = torch.zeros_like(rho)
    columns = torch.arange(len(rho), device=rho.device)  # where those still under way belong
    running = torch.ones_like(columns, dtype=torch.bool)
    for n_products in range(1, max(len(g), 5) + 1):
        u = _scores(rows, d).mul_(curvature)
        hd = _add_ridge(problem, _combine(rows, u), d)
        counters[0] += len(columns)
        curvature_d = _quick_dot(d, hd)
        running &= curvature_d >= 1e-16
        alpha = torch.where(running, rho / curvature_d, 0.0).float()
        step.addcmul_(d, alpha)
        r.addcmul_(hd, alpha, value=-1)
        # Q(step) = g.step + step.H.step / 2 = step.(g - r) / 2; LIBLINEAR's stopping test on it
        lower = 0.5 * _quick_dot(step, torch.sub(g, r, out=hd))
        running &= (lower <= model) & (n_products * (lower - model) < tolerance * lower)
        n_running = int(running.sum())
        if n_running == 0:
            break
        model = lower
        rho_next = _quick_dot(torch.mul(r, r, out=hd), M)
        beta = torch.where(running, rho_next / rho, 0.0).float()
        rho = rho_next
        d.mul_(beta).addcmul_(M, r)
        if 2 * n_running <= len(columns):  # those that have ended leave
            steps[:, columns] = step
            left = running.nonzero()[:, 0]
            state = (columns, running, rho, tolerance, model, g, curvature, M, r, d, step)
            columns, running, rho, tolerance, model, g, curvature, M, r, d, step = (
                part.index_select(-1, left) for part in state
            )
    steps[:, columns] = step
    return steps


# ---------------------------------------------------------------------------- pruning


def _pruned(problem, rows, W, costs):
    """Number of weights of each label, their features and values, in the order of the labels."""
    weights = W[:-1]
    keep = (weights != 0) & (weights.abs() >= problem.threshold)
    if problem.loss_tolerance is not None:
        pruned = W.clone()
        pruned[:-1] *= keep
        keep &= _within_loss(problem, rows, pruned, costs)
    label, feature = keep.t().nonzero(as_tuple=True)
    return tuple(
        part.cpu().numpy().astype(kind)
        for part, kind in (
            (keep.sum(0), np.int64),
            (feature, np.int32),
            (weights[feature, label], np.float32),
        )
    )


def _within_loss(problem, rows, W, costs):
    """Mask of the weights to keep within a loss bound, see `_pruning.keep_within_loss`."""
    weights = W[:-1]
    order = weights.abs().argsort(dim=0, stable=True)
    rank = torch.empty_like(order)  # smallest magnitude first, equal ones by feature
    rank.scatter_(0, order, torch.arange(len(weights), device=W.device)[:, None].expand_as(order))
    del order
    n_zeros = (weights == 0).sum(0)

    def loss_without(n_dropped):
        kept = W.clone()
        kept[:-1] *= rank >= n_dropped
        return _total_loss(problem.loss, costs, _scores(rows, kept))

    feasible, infeasible = n_zeros, torch.full_like(n_zeros, len(weights) + 1)
    bound = (1 + problem.loss_tolerance) * loss_without(feasible) + _ABSOLUTE
    while (infeasible - feasible > 1).any():
        trial = torch.where(infeasible - feasible > 1, (feasible + infeasible) // 2, feasible)
        within = loss_without(trial) <= bound
        feasible = torch.where(within, torch.maximum(feasible, trial), feasible)
        infeasible = torch.where(within, infeasible, torch.minimum(infeasible, trial))
    return rank >= feasible
