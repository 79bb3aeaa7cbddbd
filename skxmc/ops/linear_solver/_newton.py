"""Truncated Newton method for one label on the rows of its working set.

The inner solver of Fan et al.'s LIBLINEAR and of DiSMEC++: preconditioned conjugate gradients on
the rows that have curvature, Armijo line search on cached scores.
"""

import math

import numpy as np

from skxmc.ops._jit import jit

# Contraction to FMA and re-association of sums: the order is then fixed at compile time, so that a
# label's solution stays the same for any number of threads. NaN and inf keep their meaning.
_FAST = {"contract", "reassoc", "nsz", "arcp"}

SQUARED_HINGE = 0
LOGISTIC = 1

#: LIBLINEAR / DiSMEC++ settings: reference_facts A2.
_PRECONDITIONER_MIX = 0.01
_CG_TOLERANCE = 0.5
_ARMIJO = 0.01
_MAX_BACKTRACKS = 50

#: Decrease of the objective, relative, that float32 scores can still resolve.
_RESOLUTION = 1e-8
#: Where no step helps any more, the promised decrease must be below this share of the objective.
_NEGLIGIBLE = 1e-6

#: What `minimise` came to: steps left to do, no step left that float32 resolves, no step found.
UNFINISHED = 0
RESOLVED = 1
FAILED = 2

#: Vectors of the size of the problem that `minimise` works on.
N_VECTORS = 6


@jit(fastmath=_FAST)
def _row_dot(indices, data, start, stop, w):
    total = np.float32(0)
    for p in range(np.uint64(start), np.uint64(stop)):
        total += data[p] * w[indices[p]]
    return total


@jit(fastmath=_FAST)
def _dot(a, b, size):
    total = 0.0
    for j in range(size):
        total += np.float64(a[j]) * np.float64(b[j])
    return total


@jit(fastmath=_FAST)
def _axpy_row(indices, data, start, stop, scale, out):
    for p in range(np.uint64(start), np.uint64(stop)):
        out[indices[p]] += scale * data[p]


@jit(fastmath=_FAST)
def _losses(loss, margins_y, costs, scores, step, direction, size):
    """Sum of c_i l(y_i (s_i + step t_i))."""
    total = 0.0
    for i in range(size):
        margin = margins_y[i] * (scores[i] + step * direction[i])
        if loss == SQUARED_HINGE:
            slack = np.float32(1) - margin
            if slack > 0:
                total += np.float64(costs[i]) * slack * slack
        elif margin > 0:
            total += np.float64(costs[i]) * math.log1p(math.exp(-margin))
        else:
            total += np.float64(costs[i]) * (math.log1p(math.exp(margin)) - margin)
    return total


@jit(fastmath=_FAST)
def _slopes(loss, y, costs, scores, size, active, slope, curvature):
    """First and second derivatives of the loss at the scores, and the rows that have any."""
    n_active = 0
    for i in range(size):
        margin = y[i] * scores[i]
        if loss == SQUARED_HINGE:
            slack = np.float32(1) - margin
            if slack > 0:
                active[n_active] = i
                slope[n_active] = -np.float32(2) * costs[i] * y[i] * slack
                curvature[n_active] = np.float32(2) * costs[i]
                n_active += 1
        else:
            if margin > 0:
                e = math.exp(-margin)
                sigma = e / (1 + e)
            else:
                sigma = 1 / (1 + math.exp(margin))
            active[n_active] = i
            slope[n_active] = -costs[i] * y[i] * np.float32(sigma)
            curvature[n_active] = costs[i] * np.float32(sigma * (1 - sigma))
            n_active += 1
    return n_active


@jit(fastmath=_FAST)
def _gradient(
    indptr, indices, data, active, n_active, slope, curvature, w, n, bias_value, ridge_b, g, diag
):
    """g = w + sum_i l'_i x_i and diag(H) = 1 + sum_i l''_i x_i*x_i in one pass (A3)."""
    for j in range(n):
        g[j] = w[j]
        diag[j] = np.float32(1)
    g_bias = ridge_b * np.float64(w[n])
    diag_bias = np.float64(ridge_b)
    for q in range(n_active):
        i = active[q]
        a = slope[q]
        c = curvature[q]
        for p in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            j = indices[p]
            v = data[p]
            g[j] += a * v
            diag[j] += c * v * v
        g_bias += a * bias_value
        diag_bias += c * bias_value * bias_value
    g[n] = g_bias
    diag[n] = diag_bias


@jit(fastmath=_FAST)
def _hessian_product(
    indptr, indices, data, active, n_active, curvature, d, n, bias_value, ridge_b, out
):
    """out = d + sum_{i active} l''_i (x_i.d) x_i, thesis eq. 5.1."""
    for j in range(n):
        out[j] = d[j]
    out_bias = ridge_b * np.float64(d[n])
    d_bias = d[n] * bias_value
    for q in range(n_active):
        i = active[q]
        start = indptr[i]
        stop = indptr[i + 1]
        a = curvature[q] * (_row_dot(indices, data, start, stop, d) + d_bias)
        _axpy_row(indices, data, start, stop, a, out)
        out_bias += a * bias_value
    out[n] = out_bias


@jit(fastmath=_FAST)
def _conjugate_gradient(
    indptr,
    indices,
    data,
    active,
    n_active,
    curvature,
    n,
    bias_value,
    ridge_b,
    g,
    diag,
    d,
    r,
    hd,
    step,
):
    """Approximate solution of H step = -g; returns the number of Hessian products."""
    size = n + 1
    rho = 0.0
    for j in range(size):
        # M = (1 - alpha) I + alpha diag(H), kept inverted
        diag[j] = np.float32(1) / (
            np.float32(1 - _PRECONDITIONER_MIX) + np.float32(_PRECONDITIONER_MIX) * diag[j]
        )
        r[j] = -g[j]
        d[j] = diag[j] * r[j]
        step[j] = np.float32(0)
        rho += np.float64(r[j]) * d[j]
    tolerance = min(_CG_TOLERANCE, math.sqrt(math.sqrt(rho)))
    model = 0.0
    n_products = 0
    while n_products < max(size, 5):
        _hessian_product(
            indptr, indices, data, active, n_active, curvature, d, n, bias_value, ridge_b, hd
        )
        n_products += 1
        curvature_d = _dot(d, hd, size)
        if curvature_d < 1e-16:
            break
        alpha = np.float32(rho / curvature_d)
        rho_next = 0.0
        model_next = 0.0
        for j in range(size):
            step[j] += alpha * d[j]
            rj = r[j] - alpha * hd[j]
            r[j] = rj
            rho_next += np.float64(rj) * rj * diag[j]
            model_next += np.float64(step[j]) * (g[j] - rj)
        # Q(step) = g.step + step.H.step / 2 = step.(g - r) / 2; LIBLINEAR's stopping test on it
        model_next *= 0.5
        if model_next > model:
            break
        if n_products * (model_next - model) >= tolerance * model_next:
            break
        model = model_next
        beta = np.float32(rho_next / rho)
        rho = rho_next
        for j in range(size):
            d[j] = diag[j] * r[j] + beta * d[j]
    return n_products


@jit(fastmath=_FAST)
def minimise(
    loss,
    indptr,
    indices,
    data,
    n_rows,
    n,
    y,
    costs,
    bias_value,
    ridge_b,
    w,
    target,
    max_steps,
    vectors,
    rows,
    active,
    counters,
):
    """Minimise ||w||^2/2 + ridge_b b^2/2 + sum_i c_i l(y_i (x_i.w + bias_value b)) from w.

    ``w`` has n + 1 entries, the bias b last, and is updated in place. ``rows`` is float32 scratch
    of shape (4, >= n_rows), ``active`` int32 of size n_rows, ``vectors`` float32 of shape
    (N_VECTORS, > n). Stops when ||g|| <= target, after max_steps, or where float32 cannot improve
    the objective any more. Returns (||g||, Newton steps, outcome);
    counters[0] += Hessian products.
    """
    g = vectors[0]
    diag = vectors[1]
    d = vectors[2]
    r = vectors[3]
    hd = vectors[4]
    step = vectors[5]
    scores = rows[0]
    along = rows[1]
    slope = rows[2]
    curvature = rows[3]
    size = n + 1
    bias = w[n] * bias_value
    for i in range(n_rows):
        scores[i] = _row_dot(indices, data, indptr[i], indptr[i + 1], w) + bias
        along[i] = np.float32(0)
    # A start may not be worse than zero: on long rows it can be so far off that float32 finds no
    # way back.
    at_zero = 0.0
    for i in range(n_rows):
        at_zero += costs[i]
    if loss == LOGISTIC:
        at_zero *= math.log(2.0)
    norm2 = _dot(w, w, n) + ridge_b * np.float64(w[n]) * w[n]
    objective = 0.5 * norm2 + _losses(loss, y, costs, scores, np.float32(0), along, n_rows)
    if not objective <= at_zero:  # NaN included
        for j in range(size):
            w[j] = np.float32(0)
        for i in range(n_rows):
            scores[i] = np.float32(0)
        norm2 = 0.0
        objective = at_zero
    n_steps = 0
    outcome = UNFINISHED
    while True:
        n_active = _slopes(loss, y, costs, scores, n_rows, active, slope, curvature)
        _gradient(
            indptr,
            indices,
            data,
            active,
            n_active,
            slope,
            curvature,
            w,
            n,
            bias_value,
            ridge_b,
            g,
            diag,
        )
        g_norm = math.sqrt(_dot(g, g, size))
        if g_norm <= target or n_steps >= max_steps or outcome != UNFINISHED:
            break
        n_steps += 1
        counters[0] += _conjugate_gradient(
            indptr,
            indices,
            data,
            active,
            n_active,
            curvature,
            n,
            bias_value,
            ridge_b,
            g,
            diag,
            d,
            r,
            hd,
            step,
        )
        slope0 = _dot(g, step, size)
        w_step = _dot(w, step, n) + ridge_b * np.float64(w[n]) * step[n]
        step2 = _dot(step, step, n) + ridge_b * np.float64(step[n]) * step[n]
        bias = step[n] * bias_value
        for i in range(n_rows):
            along[i] = _row_dot(indices, data, indptr[i], indptr[i + 1], step) + bias
        t = 1.0
        accepted = False
        trial = objective
        for _ in range(_MAX_BACKTRACKS):
            trial = 0.5 * (norm2 + 2 * t * w_step + t * t * step2)
            trial += _losses(loss, y, costs, scores, np.float32(t), along, n_rows)
            if trial - objective <= _ARMIJO * t * slope0:
                accepted = True
                break
            t *= 0.5
        negligible = -slope0 <= _NEGLIGIBLE * objective
        if not accepted:
            outcome = RESOLVED if negligible else FAILED
            break
        t32 = np.float32(t)
        for j in range(size):
            w[j] += t32 * step[j]
        for i in range(n_rows):
            scores[i] += t32 * along[i]
        norm2 = _dot(w, w, n) + ridge_b * np.float64(w[n]) * w[n]
        if negligible and objective - trial <= _RESOLUTION * objective:
            outcome = RESOLVED
        objective = trial
    return g_norm, n_steps, outcome
