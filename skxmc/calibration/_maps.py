"""Increasing maps from scores to probabilities, several of them in one table.

A table is a dictionary of arrays, which can be saved with a model. Scores are like log-odds.
"""

import numpy as np
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit

from skxmc.ops._jit import jit

METHODS = ("isotonic", "platt", "temperature", "beta")

# A parametric map is fitted to the means of so many groups of neighbouring scores.
_MAX_GROUPS = 4096

# Scores that are looked up together.
_LANES = 16


def fit_map(method, scores, targets):
    """One map, as a pair of arrays (knots and values) or an array of coefficients.

    Parameters
    ----------
    method : str of ``METHODS``
    scores : float array of shape (n,), ascending
    targets : float array of shape (n,)
        0 or 1; or such a value divided by a propensity, whose mean is the true probability.

    Returns
    -------
    ndarray of shape (2, n_knots) or (n_coefficients,), float64
    """
    if method == "isotonic":
        return _fit_isotonic(scores, targets)
    return _fit_parametric(method, scores, targets)


def _fit_isotonic(scores, targets):
    """Isotonic regression, as knots at the centres of its blocks.

    Linear interpolation between the centres has a higher likelihood on held-out rows than steps
    (on each of the data sets and models of the user guide), and is increasing between them.
    A pseudo-observation at either end, a hit at the lowest and a miss at the highest score, keeps
    the blocks at the ends from the probabilities 0 and 1 that a few pairs cannot prove: it is
    Laplace's rule of succession there.
    """
    if not len(scores):
        return np.zeros((2, 0))
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))
    weights = np.diff(starts, append=len(scores)).astype(np.float64)
    sums = np.add.reduceat(targets, starts, dtype=np.float64)
    weights[0] += 1
    sums[0] += 1
    weights[-1] += 1
    x = scores[starts].astype(np.float64)
    solution = isotonic_regression(sums / weights, weights=weights)
    first = solution.blocks[:-1]
    centres = np.add.reduceat(x * weights, first) / np.add.reduceat(weights, first)
    return np.stack([centres, np.clip(solution.x[first], 0, 1)])


def _features(method, scores):
    if method == "platt":
        return np.stack([scores, np.ones_like(scores)])
    if method == "temperature":
        return scores[np.newaxis]
    # beta calibration: a ln p - b ln(1 - p) + c with p = sigma(s)
    return np.stack([log_expit(scores), -log_expit(-scores), np.ones_like(scores)])


def _fit_parametric(method, scores, targets):
    r"""Minimise the log loss :math:`\ln(1 + e^z) - t z`, which is convex in the coefficients.

    With a target y / p this is the unbiased log loss under missing labels (thesis eq. 3.9).
    The targets are smoothed as by Platt: 0 becomes 1 / (N- + 2), and 1 becomes
    (N+ + 1) / (N+ + 2).
    """
    n = len(scores)
    n_groups = min(n, _MAX_GROUPS)
    bounds = np.linspace(0, n, n_groups + 1).astype(np.int64)
    weight = np.diff(bounds).astype(np.float64)
    if n:
        x = np.add.reduceat(scores, bounds[:-1], dtype=np.float64) / weight
        t = np.add.reduceat(targets, bounds[:-1], dtype=np.float64) / weight
    else:
        x = t = np.zeros(0)
    n_hits = (t * weight).sum()
    n_misses = max(n - n_hits, 0.0)
    low, high = 1 / (n_misses + 2), (n_hits + 1) / (n_hits + 2)
    t = low + t * (high - low)
    features = _features(method, x)
    n_slopes = 1 if method != "beta" else 2
    start = np.zeros(len(features))
    start[:n_slopes] = 1.0
    if not n:
        return start
    share = weight / n

    def loss(coef):
        z = coef @ features
        value = share @ (np.logaddexp(0, z) - t * z)
        return value, features @ (share * (expit(z) - t))

    limits = [(0, None)] * n_slopes + [(None, None)] * (len(features) - n_slopes)
    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9}
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options=options).x


def make_table(method, maps):
    """Put fitted maps of one method into a dictionary of arrays."""
    if method != "isotonic":
        return {"method": method, "coef": np.stack(maps)}
    indptr = np.concatenate(([0], np.cumsum([one.shape[1] for one in maps])))
    knots = np.concatenate(maps, axis=1)
    return {"method": method, "indptr": indptr, "knots": knots[0], "values": knots[1]}


def check_table(table):
    """Return how many maps a table has that comes from a file; ValueError if it is damaged.

    The kernel does not check bounds.
    """
    if table["method"] != "isotonic":
        coef = np.asarray(table["coef"])
        n_features = len(_features(table["method"], np.zeros(1)))
        if coef.dtype != np.float64 or coef.ndim != 2 or coef.shape[1] != n_features:
            raise ValueError("the coefficients of the maps have a wrong shape or dtype")
        if not np.isfinite(coef).all():
            raise ValueError("the coefficients of the maps are not finite")
        return len(coef)
    indptr, knots, values = (np.asarray(table[name]) for name in ("indptr", "knots", "values"))
    if indptr.dtype.kind != "i" or indptr.ndim != 1 or len(indptr) == 0 or knots.ndim != 1:
        raise ValueError("the maps must be vectors of numbers")
    if indptr[0] != 0 or indptr[-1] != len(knots) or (indptr[1:] < indptr[:-1]).any():
        raise ValueError("the beginnings of the maps are damaged")
    if knots.dtype != np.float64 or values.dtype != np.float64 or values.shape != knots.shape:
        raise ValueError("knots and values of the maps do not fit together")
    if not np.isfinite(knots).all() or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("knots or values of the maps are out of range")
    rises = np.diff(knots) >= 0
    starts = indptr[1:-1]
    rises[starts[(starts > 0) & (starts < len(knots))] - 1] = True  # from one map to the next
    if not rises.all():
        raise ValueError("the knots of a map do not ascend")
    return len(indptr) - 1


def apply_map(table, index, scores, mix=0.0):
    """Probabilities in [0, 1] of scores by the maps of a table; float64.

    Parameters
    ----------
    table : dict
        Of `make_table`.
    index : int, or int array of the shape of ``scores``
        Number of the map, of all scores or of each.
    scores : float array
    mix : float, default=0.0
        Share of the logistic function, which is mixed in.
    """
    scores = np.ascontiguousarray(scores, dtype=np.float64)
    out = expit(scores)
    if table["method"] == "isotonic":
        index = np.broadcast_to(np.asarray(index, dtype=np.int32), scores.shape)
        indptr = np.asarray(table["indptr"], dtype=np.int64)
        _interpolate(
            *(np.ascontiguousarray(index).ravel(), scores.ravel(), indptr),
            *(table["knots"], table["values"], float(mix), out.reshape(-1)),
        )
        return out
    features = _features(table["method"], scores)
    coef = np.moveaxis(table["coef"][index], -1, 0)
    proba = expit(sum(c * feature for c, feature in zip(coef, features, strict=True)))
    return (1 - mix) * proba + mix * out


@jit(allocates=True)
def _interpolate(index, scores, indptr, knots, values, mix, out):
    """Piecewise linear functions, constant outside of their knots, which ascend.

    ``out`` holds what is mixed in, and what remains where a group has not a single pair. A search
    waits for memory at each step, so those of ``_LANES`` scores take their steps in turn.
    """
    low, left = np.empty(_LANES, dtype=np.int64), np.empty(_LANES, dtype=np.int64)
    for begin in range(0, len(scores), _LANES):
        n = min(_LANES, len(scores) - begin)
        steps = 0
        for i in range(n):
            low[i] = indptr[index[begin + i]]
            left[i] = indptr[index[begin + i] + 1] - low[i]
            steps = max(steps, left[i])
        while steps:  # to the first knot above the score, without branches
            for i in range(n):
                half = (left[i] + 1) >> 1
                low[i] += half * (knots[max(low[i] + half - 1, 0)] <= scores[begin + i])
                left[i] -= half
            steps -= (steps + 1) >> 1
        for i in range(n):
            first, stop = indptr[index[begin + i]], indptr[index[begin + i] + 1]
            if first == stop:
                continue
            above = low[i]
            if above == first:
                value = values[first]
            elif above == stop:
                value = values[stop - 1]
            else:
                s, x = scores[begin + i], knots[above - 1]
                share = (s - x) / (knots[above] - x)
                value = values[above - 1] + share * (values[above] - values[above - 1])
            out[begin + i] = (1 - mix) * value + mix * out[begin + i]
