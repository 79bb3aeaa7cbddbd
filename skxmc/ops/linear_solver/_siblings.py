"""Labels that share their rows, solved ``LANES`` at a time: truncated Newton in row coordinates.

The children of a tree node learn from the same rows, few beside all of X, and most of these rows
are near the margin of some child. So nothing is gained by working sets of each label's own; what
can be shared is the rows. Every pass over them serves 16 labels.

A vector v of the weight space that the method meets (iterate, gradient, CG direction, step) is a
combination of the rows, since the regulariser is the identity: v = X^T a. It is kept as the pair
of its coefficients a and its scores z = X v = K a with K = X X^T. Then v.v' = a.z', so inner
products, line search and curvature cost O(rows), not O(features), and one CG iteration costs one
product with K: a scatter of the rows into a block of feature vectors and a gather from it. A
feature that occurs in one row only adds to the diagonal of K and is left out of the block (in a
small node that is most of them).

The bias b is eliminated from each Newton system, because its feature, which all rows have, would
be the worst direction for CG. With s the slopes c_i y_i l', D the curvatures c_i l'', beta the
value of the bias feature and r = 1 or 0 its ridge,

    g_w = w + X^T s,    g_b = r b + beta 1^T s,    h_bb = r + beta^2 1^T D 1,
    (I + X^T D X) d_w + beta X^T D 1 d_b = -g_w,    beta 1^T D X d_w + h_bb d_b = -g_b.

The second equation gives d_b = -(g_b + beta 1^T D X d_w) / h_bb. The first then reads

    H' d_w = -g',    g' = g_w - beta X^T D 1 g_b / h_bb,
    H' = I + X^T (D - beta^2 D 1 1^T D / h_bb) X.

g' has the coefficients a + s - beta D 1 g_b / h_bb, and H' d those of d plus
u = D (X d + beta d_b), d_b = -beta 1^T D X d / h_bb. ||(g', g_b)|| is the *reduced gradient* of the
stopping rule; it is zero where the gradient is. The iterates are those of Newton-CG with H' in
weight space, without a preconditioner.

A row may be a positive of a child and at the same time a negative of it, with a cost of its own: a
soft target. Such a row is read twice (its *twin* follows after the rows).
"""

import math
from typing import NamedTuple

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops._lanes import (
    LANES,
    add_row_to_block,
    aligned_zeros,
    over_rows,
    row_times_block_plus,
)
from skxmc.ops._memory import new_zeros
from skxmc.ops.linear_solver._newton import FAILED, LOGISTIC, RESOLVED, SQUARED_HINGE, UNFINISHED

LOSSES = {"squared_hinge": SQUARED_HINGE, "logistic": LOGISTIC}

#: Where a CG iteration lowers the quadratic model by less than this share of the mean so far, the
#: step is good enough (LIBLINEAR's rule).
_CG_TOLERANCE = 0.5
_MAX_CG = 60
_ARMIJO = 0.01
_MAX_BACKTRACKS = 30
#: As in `_newton`: what float32 scores can resolve of the objective.
_RESOLUTION = 1e-8
_NEGLIGIBLE = 1e-6

#: `_gather` looks for the features of a node in groups of this many (as a power of two).
_GROUP_BITS = 6

#: Blocks of shape (rows, LANES) that a call works on.
_N_ROW_BLOCKS = 10

#: From so many entries a feature of X on, the rows of a node are read where they are: a copy would
#: take more memory than is saved by a block of its own features only.
_DIRECT = 8


# ------------------------------------------------------------------ lane kernels
# ``costs`` carries the label's sign: +c_i for its positives, -c_i for the others, 0 for rows that
# the label does not see.


def _squared_hinge_slope(z, costs, offset):
    """Slope and curvature of each row's loss."""
    slack = (1.0 - costs.sign() * (z + offset)).clip_below(0.0)
    return costs * slack * -2.0, (costs.absolute() * 2.0).where(slack.positive(), 0.0)


def _logistic_slope(z, costs, offset):
    margin = costs.sign() * (z + offset)
    e = (-margin.absolute()).exp()
    sigma = e.where(margin.positive(), 1.0) / (e + 1.0)  # 1 / (1 + exp(margin))
    return -(costs * sigma), costs.absolute() * sigma * (1.0 - sigma)


def _gradient_of(slope_of):
    @over_rows(2)
    def gradient(blocks, vectors):
        """Slope and curvature; direction and step begin at zero."""
        z, costs, *_ = blocks
        (offset,) = vectors
        slope, curvature = slope_of(z, costs, offset)
        zero = slope * 0.0
        return {2: slope, 3: curvature, 4: zero, 5: zero, 6: zero, 7: zero}, [slope, curvature]

    return gradient


_squared_hinge_gradient = _gradient_of(_squared_hinge_slope)
_logistic_gradient = _gradient_of(_logistic_slope)


@over_rows(0)
def _reduced_gradient(blocks, vectors):
    """r = -(w + X^T slope) with the bias eliminated; the slope is where r is to be."""
    a, curvature, slope = blocks
    (shift,) = vectors
    return {2: shift * curvature - (a + slope)}, []


@over_rows(2)
def _residual_products(blocks, vectors):
    ra, rz, curvature = blocks
    return {}, [ra.wide() * rz.wide(), curvature * rz]


@over_rows(3)
def _next_direction(blocks, vectors):
    """d = r + beta d;  u = D X d, with the sums of u, d.d and d.X^T D X d."""
    ra, rz, da, dz, curvature, _ = blocks
    beta, offset = vectors
    da = ra + beta * da
    dz = rz + beta * dz
    u = curvature * (dz + offset)
    return {2: da, 3: dz, 5: u}, [u, da.wide() * dz.wide(), u.wide() * dz.wide()]


@over_rows(0)
def _advance(blocks, vectors):
    """Step += alpha d."""
    da, dz, sa, sz = blocks
    (alpha,) = vectors
    return {2: sa + alpha * da, 3: sz + alpha * dz}, []


@over_rows(2)
def _advance_and_reduce(blocks, vectors):
    """Step += alpha d;  r -= alpha H d, whose coefficients are da + u and scores dz + K u."""
    da, dz, sa, sz, ra, rz, ku, curvature = blocks
    alpha, offset = vectors
    u = curvature * (dz + offset)  # K u has taken its place
    ra = ra - alpha * (da + u)
    rz = rz - alpha * (dz + ku)
    products = [ra.wide() * rz.wide(), curvature * rz]
    return {2: sa + alpha * da, 3: sz + alpha * dz, 4: ra, 5: rz}, products


def _step_products_of(slope_of):
    @over_rows(3)
    def step_products(blocks, vectors):
        a, z, costs, sa, sz = blocks
        (offset,) = vectors
        slope, _ = slope_of(z, costs, offset)
        along = sz.wide()
        return {}, [a.wide() * along, sa.wide() * along, slope.wide() * along]

    return step_products


_squared_hinge_step_products = _step_products_of(_squared_hinge_slope)
_logistic_step_products = _step_products_of(_logistic_slope)


@over_rows(1)
def _squared_hinge_loss(blocks, vectors):
    z, sz, costs = blocks
    offset, along_offset, t = vectors
    margin = costs.sign() * (z + offset + t * (sz + along_offset))
    slack = (1.0 - margin).clip_below(0.0)
    return {}, [(costs.absolute() * slack).wide() * slack.wide()]


@over_rows(1)
def _logistic_loss(blocks, vectors):
    z, sz, costs = blocks
    offset, along_offset, t = vectors
    margin = costs.sign() * (z + offset + t * (sz + along_offset))
    value = (-margin.absolute()).exp().log1p() + (-margin).clip_below(0.0)
    return {}, [costs.absolute().wide() * value.wide()]


@over_rows(1)
def _take_step(blocks, vectors):
    a, z, sa, sz = blocks
    (t,) = vectors
    moved = t.positive()  # a step that overflowed has t = 0 and must leave no NaN
    a_next = (a + t * sa).where(moved, a)
    z_next = (z + t * sz).where(moved, z)
    return {0: a_next, 1: z_next}, [a_next.wide() * z_next.wide()]


@jit
def _multiply(starts, stops, indices, data, diagonal, m, n_shared, block, u, out):
    """out = K u for all lanes, K = X X^T; ``out`` may be ``u``."""
    n_lanes = block.shape[1]
    for j in range(n_shared):
        for b in range(n_lanes):
            block[j, b] = np.float32(0)
    for i in range(m):
        add_row_to_block(indices, data, block, u, i, starts[i], stops[i])
    for i in range(m):
        row_times_block_plus(indices, data, block, out, i, starts[i], stops[i], u, diagonal[i])


# ------------------------------------------------------------------ Newton's method


@jit(error_model="numpy")  # lanes that overflow become NaN and fail; they must not raise
def _solve_block(
    loss,
    starts,
    stops,
    indices,
    data,
    diagonal,
    m,
    n_shared,
    costs_of,
    bias_value,
    ridge_b,
    tol,
    max_iter,
    block,
    work,
    at_zero,
    imbalance,
    bias,
    lanes32,
    lanes64,
    flags,
    n_iter,
    outcome,
    counters,
):
    """Solve a block of children, whose costs are `_set_costs(costs, m, *costs_of, ...)`.

    work[0][:m] gets their coefficients. bias (coefficient of the bias feature), n_iter and outcome:
    of each lane. The other arrays are work space. counters += products with K, Newton steps, CG
    iterations (the latter two summed over the lanes).
    """
    n_lanes = block.shape[1]  # LANES, but unknown to the compiler, which would unroll the loops
    a, z, curvature = work[0], work[1], work[2]
    ra, rz = work[3], work[4]
    da, dz = work[5], work[6]
    sa, sz = work[7], work[8]
    # The costs are needed before and after conjugate gradients, u only in between.
    costs = u = work[9]
    target, objective, norm2 = lanes64[0], lanes64[1], lanes64[2]
    slope_sum, g_b, h_bb = lanes64[3], lanes64[4], lanes64[5]
    b_d, b_s = lanes64[6], lanes64[7]  # bias of direction and step
    rho, model = lanes64[8], lanes64[9]  # r.r; what CG has lowered the model by, later g.s
    c_r, c_d = lanes64[10], lanes64[11]  # 1^T D X r, 1^T D X d
    w_s, s_s = lanes64[12], lanes64[13]
    sums = lanes64[14:17]
    offset, along_offset, t, alpha, beta = (
        lanes32[0],
        lanes32[1],
        lanes32[2],
        lanes32[3],
        lanes32[4],
    )
    live, searching = flags[0], flags[1]
    _set_costs(costs, m, *costs_of, at_zero, imbalance)
    for b in range(n_lanes):
        offset[b] = np.float32(0)
        bias[b] = 0.0
        norm2[b] = 0.0
        objective[b] = at_zero[b] if loss == SQUARED_HINGE else at_zero[b] * math.log(2.0)
        live[b] = at_zero[b] > 0
        n_iter[b] = 0
        outcome[b] = UNFINISHED if live[b] else RESOLVED
    for i in range(m):
        for b in range(n_lanes):
            a[i, b] = np.float32(0)
            z[i, b] = np.float32(0)
    first = True
    while True:
        gradient_blocks = (z, costs, ra, curvature, da, dz, sa, sz)  # r begins as the slope
        if loss == SQUARED_HINGE:
            _squared_hinge_gradient(gradient_blocks, (offset,), m, sums)
        else:
            _logistic_gradient(gradient_blocks, (offset,), m, sums)
        for b in range(n_lanes):
            slope_sum[b] = sums[0, b]
            h_bb[b] = ridge_b + bias_value * bias_value * sums[1, b]
            g_b[b] = ridge_b * bias[b] + bias_value * slope_sum[b]
            b_s[b] = -g_b[b] / h_bb[b] if h_bb[b] > 0 else 0.0
            alpha[b] = np.float32(-bias_value * b_s[b])
        _reduced_gradient((a, curvature, ra), (alpha,), m, sums)
        _multiply(starts, stops, indices, data, diagonal, m, n_shared, block, ra, rz)
        counters[0] += 1
        _residual_products((ra, rz, curvature), (), m, sums)
        n_live = 0
        for b in range(n_lanes):
            rho[b] = max(sums[0, b], 0.0)
            c_r[b] = sums[1, b]
            c_d[b] = 0.0
            g_norm = math.sqrt(rho[b] + g_b[b] * g_b[b])
            if first:
                target[b] = tol * imbalance[b] * g_norm
            if live[b]:
                if not math.isfinite(g_norm):
                    outcome[b] = FAILED
                elif g_norm <= target[b]:
                    outcome[b] = RESOLVED
                if outcome[b] != UNFINISHED or n_iter[b] >= max_iter:
                    live[b] = False
                else:
                    n_live += 1
                    n_iter[b] += 1
            searching[b] = live[b]
            model[b] = 0.0
            beta[b] = np.float32(0)
        if n_live == 0:
            break
        first = False
        counters[1] += n_live
        # conjugate gradients for H' s = -g'
        n_cg = 0
        while True:
            for b in range(n_lanes):
                c_d[b] = c_r[b] + beta[b] * c_d[b]
                b_d[b] = -bias_value * c_d[b] / h_bb[b] if h_bb[b] > 0 else 0.0
                along_offset[b] = np.float32(bias_value * b_d[b])
            _next_direction((ra, rz, da, dz, curvature, u), (beta, along_offset), m, sums)
            n_cg += 1
            n_searching = 0
            for b in range(n_lanes):
                alpha[b] = np.float32(0)
                if searching[b]:
                    counters[2] += 1
                    d_hd = sums[1, b] + sums[2, b]
                    if not d_hd >= 1e-16:  # NaN included
                        searching[b] = False
                        continue
                    step = rho[b] / d_hd
                    alpha[b] = np.float32(step)
                    b_s[b] += step * b_d[b]
                    # CG lowers the quadratic model by alpha rho / 2
                    model[b] += 0.5 * step * rho[b]
                    if n_cg * 0.5 * step * rho[b] <= _CG_TOLERANCE * model[b] or n_cg >= _MAX_CG:
                        searching[b] = False
                    else:
                        n_searching += 1
            if n_searching == 0:
                _advance((da, dz, sa, sz), (alpha,), m, sums)
                break
            _multiply(starts, stops, indices, data, diagonal, m, n_shared, block, u, u)
            counters[0] += 1
            _advance_and_reduce(
                (da, dz, sa, sz, ra, rz, u, curvature), (alpha, along_offset), m, sums
            )
            for b in range(n_lanes):
                beta[b] = np.float32(0)
                if searching[b]:
                    rho_next = max(sums[0, b], 0.0)
                    c_r[b] = sums[1, b]
                    beta[b] = np.float32(rho_next / rho[b])
                    rho[b] = rho_next
        # Armijo line search; all of it is in the scores
        _set_costs(costs, m, *costs_of, at_zero, imbalance)
        if loss == SQUARED_HINGE:
            _squared_hinge_step_products((a, z, costs, sa, sz), (offset,), m, sums)
        else:
            _logistic_step_products((a, z, costs, sa, sz), (offset,), m, sums)
        for b in range(n_lanes):
            along_offset[b] = np.float32(bias_value * b_s[b])
            w_s[b] = sums[0, b] + ridge_b * bias[b] * b_s[b]
            s_s[b] = sums[1, b] + ridge_b * b_s[b] * b_s[b]
            model[b] = w_s[b] + sums[2, b] + bias_value * slope_sum[b] * b_s[b]
            t[b] = np.float32(1) if live[b] else np.float32(0)
            searching[b] = live[b]
        for _ in range(_MAX_BACKTRACKS):
            if loss == SQUARED_HINGE:
                _squared_hinge_loss((z, sz, costs), (offset, along_offset, t), m, sums)
            else:
                _logistic_loss((z, sz, costs), (offset, along_offset, t), m, sums)
            n_searching = 0
            for b in range(n_lanes):
                if searching[b]:
                    step = np.float64(t[b])
                    value = sums[0, b] + 0.5 * (norm2[b] + step * (2 * w_s[b] + step * s_s[b]))
                    if value - objective[b] <= _ARMIJO * step * model[b]:
                        searching[b] = False
                        negligible = -model[b] <= _NEGLIGIBLE * objective[b]
                        if negligible and objective[b] - value <= _RESOLUTION * objective[b]:
                            outcome[b] = RESOLVED
                        objective[b] = value
                    else:
                        n_searching += 1
                        t[b] *= np.float32(0.5)
            if n_searching == 0:
                break
        for b in range(n_lanes):
            if searching[b]:  # no step lowers the objective
                negligible = -model[b] <= _NEGLIGIBLE * objective[b]
                outcome[b] = RESOLVED if negligible else FAILED
                t[b] = np.float32(0)
            if t[b] > 0:
                bias[b] += np.float64(t[b]) * b_s[b]
            offset[b] = np.float32(bias[b] * bias_value)
        _take_step((a, z, sa, sz), (t,), m, sums)
        for b in range(n_lanes):
            norm2[b] = sums[0, b] + ridge_b * bias[b] * bias[b]


# ------------------------------------------------------------------ one node


@jit
def _find_features(starts, stops, indices, seen, groups, touched):
    """Write the features of some rows to ``touched``, ascending; return how many they are.

    ``seen`` gets how many of the rows have each feature. ``groups`` (of features) is zero between
    calls.
    """
    for q in range(len(starts)):
        for p in range(starts[q], stops[q]):
            seen[indices[p]] += 1
            groups[indices[p] >> _GROUP_BITS] = True
    n_touched = 0
    for group in range(len(groups)):  # skips most features of a small node
        if groups[group]:
            groups[group] = False
            first = group << _GROUP_BITS
            for j in range(first, min(first + (1 << _GROUP_BITS), len(seen))):
                if seen[j] > 0:
                    touched[n_touched] = j
                    n_touched += 1
    return n_touched


@jit
def _gather(
    starts,
    stops,
    indices,
    data,
    seen,
    n_touched,
    touched,
    place,
    local_of,
    local_indptr,
    local_indices,
    local_data,
    single_row,
    single_data,
    diagonal,
):
    """The rows in coordinates of the features that at least two of them have.

    ``place[t]`` is the local number of the feature ``touched[t]``, or -1 - s where it has one entry
    only: in row ``single_row[s]``, with the value ``single_data[s]``. ``local_indptr``,
    ``local_indices``, ``local_data``: the entries with a local number; ``diagonal``: the sum of
    squares of the others, by row. ``seen`` is set back to zero. Returns the number of local
    features.
    """
    n_local = 0
    n_single = 0
    for t in range(n_touched):
        j = touched[t]
        if seen[j] > 1:
            place[t] = n_local
            n_local += 1
        else:
            place[t] = -1 - n_single
            n_single += 1
        local_of[j] = place[t]
        seen[j] = 0
    k = 0
    local_indptr[0] = 0
    for q in range(len(starts)):
        norm2 = np.float32(0)
        for p in range(starts[q], stops[q]):
            local = local_of[indices[p]]
            if local >= 0:
                local_indices[k] = local
                local_data[k] = data[p]
                k += 1
            else:
                single_row[-1 - local] = q
                single_data[-1 - local] = data[p]
                norm2 += data[p] * data[p]
        local_indptr[q + 1] = k
        diagonal[q] = norm2
    return n_local


@jit
def _set_costs(
    costs,
    m,
    negatives,
    C,
    C_negative,
    pos_indptr,
    pos_rows,
    pos_costs,
    twins,
    twin_costs,
    first,
    count,
    at_zero,
    imbalance,
):
    """Signed costs of the children first..first + count, their sum and the rarer sign's share.

    Entry p of ``pos_rows`` has the row ``twins[p]`` as a negative too, if this is not -1.

    Lanes without a child, and children without a positive, get the sum zero.
    """
    n_lanes = costs.shape[1]
    n_negatives = 0
    weight = 0.0
    for i in range(m):
        cost = -C_negative * negatives[i]
        n_negatives += negatives[i] > 0
        weight += negatives[i]
        for b in range(n_lanes):
            costs[i, b] = cost if b < count else np.float32(0)
    for b in range(n_lanes):
        at_zero[b] = 0.0
        imbalance[b] = 0.0
        if b < count and pos_indptr[first + b + 1] > pos_indptr[first + b]:
            n_pos = pos_indptr[first + b + 1] - pos_indptr[first + b]
            n_neg = n_negatives
            left = weight
            for p in range(pos_indptr[first + b], pos_indptr[first + b + 1]):
                i = pos_rows[p]
                n_neg -= negatives[i] > 0
                left -= negatives[i]
                costs[i, b] = C * pos_costs[p]
                at_zero[b] += C * pos_costs[p]
                if twins[p] >= 0:
                    costs[twins[p], b] = -C_negative * twin_costs[p]
                    left += twin_costs[p]
            # the sums of weights that are no integers round
            at_zero[b] += np.float64(C_negative) * max(left, 0.0)
            imbalance[b] = max(min(n_pos, n_neg), 1) / (n_pos + n_neg)


@jit
def _emit(
    starts,
    stops,
    indices,
    data,
    m,
    n_local,
    block,
    a,
    threshold,
    n_touched,
    place,
    single_row,
    single_data,
    first,
    count,
    n_entries,
    entry_touched,
    entry_child,
    entry_weight,
):
    """Append the weights X^T a of a block that reach the threshold, feature by feature."""
    n_lanes = block.shape[1]
    for j in range(n_local):
        for b in range(n_lanes):
            block[j, b] = np.float32(0)
    for i in range(m):
        add_row_to_block(indices, data, block, a, i, starts[i], stops[i])
    for t in range(n_touched):
        local = place[t]
        for b in range(count):
            if local >= 0:
                w = block[local, b]
            else:
                w = single_data[-1 - local] * a[single_row[-1 - local], b]
            if abs(w) >= threshold and w != 0:
                entry_touched[n_entries] = t
                entry_child[n_entries] = first + b
                entry_weight[n_entries] = w
                n_entries += 1
    return n_entries


class SiblingSolution(NamedTuple):
    """Classifiers of the children of one node, by feature.

    Attributes
    ----------
    row_feature : int32 array of shape (n_rows,)
        Features with a weight, ascending.
    row_indptr : int64 array of shape (n_rows + 1,)
        Where the weights of each of them begin.
    child : int32 array of shape (nnz,)
        Children, ascending within a row.
    weight : float32 array of shape (nnz,)
        Weights.
    bias : float64 array of shape (n_children,)
        Coefficient of the bias feature; minus infinity for a child without positives.
    n_iter : int64 array of shape (n_children,)
        Newton steps.
    converged : bool array of shape (n_children,)
        Whether the tolerance was reached, or float32 resolves no more.
    """

    row_feature: np.ndarray
    row_indptr: np.ndarray
    child: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray


class SiblingSolver:
    """Trains the classifiers of a node's children; to be used by one thread at a time.

    It holds the work space of `solve`, which grows as nodes need it.

    Parameters
    ----------
    indptr, indices, data : arrays of a CSR matrix X of shape (n_samples, n_features)
        int64, int32 and float32 (copied if they are not); values are finite.
    n_features : int

    Attributes
    ----------
    counters : int64 array of shape (3,)
        Over all calls: products of a block of ``LANES`` children with X X^T, Newton steps and CG
        iterations of children.

    Raises
    ------
    ValueError
        If the arrays are no CSR matrix of that width.

    Notes
    -----
    Memory: 8 bytes a feature and 8 a row of X, and what `solve` takes.

    Examples
    --------
    A node that sees the rows 0 and 2 of X, with two children. Each has one of them as its positive:

    >>> import numpy as np
    >>> from skxmc.ops.linear_solver import SiblingSolver
    >>> indptr, indices = np.array([0, 1, 2, 3]), np.array([0, 0, 2], dtype=np.int32)
    >>> solver = SiblingSolver(indptr, indices, np.ones(3, np.float32), n_features=3)
    >>> solution = solver.solve(
    ...     np.array([0, 2]),
    ...     np.array([0, 1, 2]),
    ...     np.array([0, 1]),
    ...     np.ones(2),
    ...     np.ones(2, bool),
    ...     loss="squared_hinge",
    ...     C=1.0,
    ...     tol=1e-6,
    ...     max_iter=100,
    ...     bias_value=0.0,
    ...     regularize_bias=True,
    ...     threshold=0.0,
    ... )
    >>> solution.row_feature, solution.row_indptr, solution.child
    (array([0, 2], dtype=int32), array([0, 2, 4]), array([0, 1, 0, 1], dtype=int32))
    >>> solution.weight.round(3)  # 2 / 3: minimises w^2 / 2 + (1 - w)^2
    array([ 0.667, -0.667, -0.667,  0.667], dtype=float32)
    """

    def __init__(self, indptr, indices, data, n_features):
        self.indptr = np.ascontiguousarray(indptr, np.int64)
        self.X = (
            _read_only(np.ascontiguousarray(indices, np.int32)),
            _read_only(np.ascontiguousarray(data, np.float32)),
        )
        self.row_lengths = np.diff(self.indptr)
        _check_rows(self.indptr, *self.X, self.row_lengths, n_features)
        self.seen = np.zeros(n_features, np.int32)
        self.groups = np.zeros((n_features >> _GROUP_BITS) + 1, np.bool_)
        self.local_of = np.empty(n_features, np.int32)
        self.n_rows = self.n_entries = self.n_touched = self.n_block = -1
        self.counters = np.zeros(3, np.int64)
        self.at_zero, self.imbalance, self.bias = np.zeros((3, LANES))
        self.lanes32 = np.zeros((5, LANES), np.float32)
        self.lanes64 = np.zeros((17, LANES))
        self.flags = np.zeros((2, LANES), np.bool_)
        self.n_iter = np.zeros(LANES, np.int64)
        self.outcome = np.zeros(LANES, np.int64)
        self.entries = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)

    def _take_rows(self, rows):
        """Where the rows are to be read, and their features.

        Returns ((starts, stops, indices, data), number of features of the rows, length of the block
        of feature vectors).
        """
        n_rows, n_features = len(rows), len(self.seen)
        n_entries = int(self.row_lengths[rows].sum())
        if n_rows > self.n_rows:
            self.n_rows = n_rows
            self.local_indptr = np.empty(n_rows + 1, np.int64)
            self.diagonal = np.empty(n_rows, np.float32)
            self.work = None  # goes before its successor comes
            self.work = aligned_zeros((_N_ROW_BLOCKS, n_rows, LANES))
        if min(n_entries, n_features) > self.n_touched:
            self.n_touched = min(n_entries, n_features)
            self.touched = np.empty(self.n_touched, np.int32)
            self.place = np.empty(self.n_touched, np.int32)
            self.single_row = np.empty(self.n_touched, np.int32)
            self.single_data = np.empty(self.n_touched, np.float32)
        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        n_touched = _find_features(starts, stops, self.X[0], self.seen, self.groups, self.touched)
        if n_entries >= _DIRECT * n_features:
            self.seen.fill(0)
            self.place[:n_touched] = self.touched[:n_touched]
            self.diagonal[:n_rows] = 0
            place = (starts, stops, *self.X)
            n_local = n_features
        else:
            if n_entries > self.n_entries:
                self.n_entries = n_entries
                self.local_indices = new_zeros(n_entries, np.int32)
                self.local_data = new_zeros(n_entries, np.float32)
            n_local = _gather(
                starts,
                stops,
                *self.X,
                self.seen,
                n_touched,
                self.touched,
                self.place,
                self.local_of,
                self.local_indptr,
                self.local_indices,
                self.local_data,
                self.single_row,
                self.single_data,
                self.diagonal,
            )
            bounds = self.local_indptr[: n_rows + 1]
            local = _read_only(self.local_indices), _read_only(self.local_data)
            place = (bounds[:-1], bounds[1:], *local)
        if n_local > self.n_block:
            self.n_block = n_local
            self.block = None
            self.block = aligned_zeros((n_local, LANES))
        return place, n_touched, n_local

    def solve(
        self,
        rows,
        pos_indptr,
        pos_rows,
        pos_costs,
        negatives,
        *,
        twin_costs=None,
        loss,
        C,
        negative_cost=1.0,
        tol,
        max_iter,
        bias_value,
        regularize_bias,
        threshold,
    ):
        """Solve the children of a node.

        Child k minimises, over its rows i,

            ||w||^2 / 2 + r b^2 / 2 + sum_i c_i l(y_i (w.x_i + bias_value b))

        (`reference.objective`; r is 1 or 0). Its rows are its positives, with c_i = C times their
        cost, and those of the node's negatives that are not among these, with
        c_i = C ``negative_cost`` times their weight as negatives. With ``twin_costs`` a positive
        row counts as a negative of the child as well.

        Parameters
        ----------
        rows : int32 array of shape (m,)
            Rows of X that the node sees. The other row numbers here are positions in it.
        pos_indptr : int64 array of shape (n_children + 1,)
            From 0, not decreasing.
        pos_rows : int32 array of shape (pos_indptr[-1],)
            Positives of child k: ``pos_rows[pos_indptr[k]:pos_indptr[k + 1]]``, positions in
            ``rows``, distinct within a child. There may be none.
        pos_costs : float32 array of shape (pos_indptr[-1],)
            Cost of each positive, not negative.
        negatives : bool or float32 array of shape (m,)
            Weight of each row as a negative of the children that it is no positive of, finite and
            not negative. The children see rows of the weight 0 (False) as positives only.
        twin_costs : float32 array of shape (pos_indptr[-1],), optional
            Weight of each positive's row as a negative of the same child, finite and not negative:
            for the soft target t of a row of the weight r, ``pos_costs`` is t and this is r - t.
            Default: 0.
        loss : {"squared_hinge", "logistic"}
        C : float
            Weight of the loss, 1 / lambda; above 0.
        negative_cost : float, default=1.0
            Not negative.
        tol : float
            A child is done when its reduced gradient (see the module) is at most
            ``tol max(min(n_pos, n_neg), 1) / (n_pos + n_neg)`` times that of the zero vector:
            LIBLINEAR's rule.
        max_iter : int
            Newton steps a child.
        bias_value : float
            The constant bias feature; 0: no bias.
        regularize_bias : bool
        threshold : float
            Weights of smaller magnitude are not returned.

        Returns
        -------
        SiblingSolution
            A child without positives has no weights and the bias -inf. ``converged`` is False where
            ``max_iter`` ended the search or float32 cannot hold the scores (rows of norms above
            1e18); the result is finite then, too.

        Raises
        ------
        ValueError
            If the arrays do not fit each other or hold row numbers out of range.

        Notes
        -----
        A child's result depends on its node's rows and its own positives, not on its siblings.

        Memory: 640 bytes a row of the largest node so far (rows with a twin count twice), 64 bytes
        and a few more a feature, 12 bytes a weight, and 8 an entry of the rows, of which at most 8
        a feature are copied. Time:
        each product with K takes O(LANES stored entries of the rows), and serves ``LANES``
        children.
        """
        rows = np.ascontiguousarray(rows, np.int32)
        pos_indptr = np.ascontiguousarray(pos_indptr, np.int64)
        pos_rows = np.ascontiguousarray(pos_rows, np.int32)
        pos_costs = np.ascontiguousarray(pos_costs, np.float32)
        negatives = np.ascontiguousarray(negatives, np.float32)
        m = len(rows)
        n_children = len(pos_indptr) - 1
        _check_range("rows", rows, len(self.row_lengths))
        _check_range("pos_rows", pos_rows, m)
        if n_children < 0 or pos_indptr[0] != 0 or (np.diff(pos_indptr) < 0).any():
            raise ValueError("pos_indptr must begin with 0 and not decrease.")
        if not len(pos_rows) == len(pos_costs) == pos_indptr[-1] or len(negatives) != m:
            raise ValueError(
                f"pos_indptr ends with {pos_indptr[-1]}, but there are {len(pos_rows)} pos_rows "
                f"and {len(pos_costs)} pos_costs; {len(negatives)} negatives for {m} rows."
            )
        if twin_costs is None:
            twin_costs = np.zeros(len(pos_rows), np.float32)
        twin_costs = np.ascontiguousarray(twin_costs, np.float32)
        if len(twin_costs) != len(pos_rows):
            raise ValueError(f"{len(twin_costs)} twin_costs for {len(pos_rows)} pos_rows.")
        _check_weights("negatives", negatives)
        _check_weights("twin_costs", twin_costs)
        # rows that are both, once more after the others
        twins = np.full(len(pos_rows), -1, np.int32)
        doubled, number = np.unique(pos_rows[twin_costs > 0], return_inverse=True)
        twins[twin_costs > 0] = m + number
        if len(doubled):
            rows = np.concatenate([rows, rows[doubled]])
            negatives = np.concatenate([negatives, np.zeros(len(doubled), np.float32)])
            m = len(rows)
        bias = np.empty(n_children)
        n_iter = np.empty(n_children, np.int64)
        outcome = np.empty(n_children, np.int64)
        local, n_touched, n_local = self._take_rows(rows)
        n_entries = 0
        for first in range(0, n_children, LANES):
            count = min(LANES, n_children - first)
            lanes = slice(first, first + count)
            if pos_indptr[first] == pos_indptr[first + count]:  # no positives: nothing to solve
                n_iter[lanes] = 0
                continue
            costs_of = (
                negatives,
                np.float32(C),
                np.float32(C * negative_cost),
                pos_indptr,
                pos_rows,
                pos_costs,
                twins,
                twin_costs,
                first,
                count,
            )
            _solve_block(
                LOSSES[loss],
                *local,
                self.diagonal,
                m,
                n_local,
                costs_of,
                float(bias_value),
                float(regularize_bias),
                float(tol),
                int(max_iter),
                self.block,
                self.work,
                self.at_zero,
                self.imbalance,
                self.bias,
                self.lanes32,
                self.lanes64,
                self.flags,
                self.n_iter,
                self.outcome,
                self.counters,
            )
            bias[lanes] = self.bias[:count]
            n_iter[lanes], outcome[lanes] = self.n_iter[:count], self.outcome[:count]
            self._reserve_entries(n_entries, n_entries + count * n_touched)
            n_entries = _emit(
                *local,
                m,
                n_local,
                self.block,
                self.work[0],
                np.float32(threshold),
                n_touched,
                self.place,
                self.single_row,
                self.single_data,
                first,
                count,
                n_entries,
                *self.entries,
            )
        never = np.diff(pos_indptr) == 0
        bias[never], outcome[never] = -np.inf, RESOLVED
        touched, child, weight = (array[:n_entries] for array in self.entries)
        counts = np.bincount(touched, minlength=n_touched)
        used = np.flatnonzero(counts)
        row_indptr = np.concatenate(([0], np.cumsum(counts[used])))
        # each block's entries are in order of the feature
        order = np.argsort(touched, kind="stable") if n_children > LANES else slice(None)
        return SiblingSolution(
            self.touched[used],
            row_indptr,
            child[order].copy(),
            weight[order].copy(),
            bias,
            n_iter,
            outcome == RESOLVED,
        )

    def _reserve_entries(self, used, size):
        if size > len(self.entries[0]):
            size = max(size, 2 * len(self.entries[0]))
            larger = tuple(np.empty(size, array.dtype) for array in self.entries)
            for new, old in zip(larger, self.entries, strict=True):
                new[:used] = old[:used]
            self.entries = larger


def _read_only(array):
    """A view, so that kernels are compiled once whether an array may be written to or not."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check_rows(indptr, indices, data, row_lengths, n_features):
    if len(indptr) == 0 or indptr[0] < 0 or (row_lengths < 0).any():
        raise ValueError("indptr must not be empty, negative or decreasing.")
    if not len(indices) == len(data) >= indptr[-1]:
        raise ValueError(
            f"indptr ends with {indptr[-1]}, but there are {len(indices)} indices and "
            f"{len(data)} values."
        )
    _check_range("indices", indices, n_features)


def _check_weights(name, weights):
    wrong = ~(weights >= 0) | np.isinf(weights)
    if wrong.any():
        raise ValueError(
            f"{name} must be finite and not negative, got {weights[np.argmax(wrong)]} at "
            f"{np.argmax(wrong)}."
        )


def _check_range(name, numbers, stop):
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < stop:
        raise ValueError(
            f"{name} must be from 0 to {stop - 1}, got {numbers.min()} to {numbers.max()}."
        )
