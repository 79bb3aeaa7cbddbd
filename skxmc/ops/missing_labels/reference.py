"""The definitions, one row at a time and straight from the formulas: slow, and only for tests.

`scores` and `y` are arrays of shape (n_labels,), `p` the propensities. The general estimator goes
through all subsets of the observed labels.
"""

import itertools

import numpy as np


def hinge(score, y):
    """Binary hinge loss of one label."""
    return max(0.0, 1 - score if y else 1 + score)


def squared_hinge(score, y):
    """Binary squared hinge loss of one label."""
    return hinge(score, y) ** 2


def logistic(score, y):
    """Binary logistic loss of one label."""
    return np.log1p(np.exp(-score if y else score))


BINARY_LOSSES = {"hinge": hinge, "squared_hinge": squared_hinge, "logistic": logistic}


def ova(scores, y, loss):
    """One-vs-all on complete labels."""
    return sum(loss(s, t) for s, t in zip(scores, y, strict=True))


def ova_normalized(scores, y, loss):
    """Normalised one-vs-all on complete labels."""
    share = 1 / max(sum(y), 1)
    return sum(
        share * t * loss(s, 1) + (1 - share * t) * loss(s, 0)
        for s, t in zip(scores, y, strict=True)
    )


def pal(scores, y):
    """Pick-all-labels on complete labels."""
    log_normalizer = np.log(np.exp(scores).sum())
    return sum(log_normalizer - s for s, t in zip(scores, y, strict=True) if t)


def pal_normalized(scores, y):
    """Normalised pick-all-labels on complete labels, 0 without labels."""
    return pal(scores, y) / max(sum(y), 1)


def ova_unbiased(scores, y, p, loss):
    """Equation (3.9), summed over the labels."""
    return sum(
        (loss(s, 1) + (q - 1) * loss(s, 0)) / q if t else loss(s, 0)
        for s, t, q in zip(scores, y, p, strict=True)
    )


def ova_convex(scores, y, p, loss, c):
    """Equations (3.13) and (3.14) left, with rebalancing weights c."""
    return sum(
        (2 / q - 1) * weight * loss(s, 1) if t else loss(s, 0)
        for s, t, q, weight in zip(scores, y, p, c, strict=True)
    )


def pal_unbiased(scores, y, p):
    """Pick-all-labels with each label divided by its propensity."""
    log_normalizer = np.log(np.exp(scores).sum())
    return sum((log_normalizer - s) / q for s, t, q in zip(scores, y, p, strict=True) if t)


def pal_normalized_bound(scores, y, p):
    """Equation (3.21) with (3.23)."""
    log_normalizer = np.log(np.exp(scores).sum())
    total = 0.0
    for j in np.flatnonzero(y):
        others = sum(1 / p[q] for q in np.flatnonzero(y) if q != j)
        total += (1 / p[j]) / (1 + others) * (log_normalizer - scores[j])
    return total


def general(function, y, p):
    """Equation (3.20) of `function(label set as a 0/1 array)`, all subsets enumerated."""
    observed = np.flatnonzero(y)
    estimate = 0.0
    for kept in itertools.product([0, 1], repeat=len(observed)):
        subset = np.zeros(len(y), dtype=int)
        subset[observed] = kept
        weight = np.prod([1 / p[j] if subset[j] else 1 - 1 / p[j] for j in observed])
        estimate += weight * function(subset)
    return estimate
