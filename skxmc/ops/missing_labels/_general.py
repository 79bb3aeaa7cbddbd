"""The unbiased estimate of any function of a label set (thesis eq. 3.20)."""

import numbers

import numpy as np

# Subsets of one call of the function.
_CHUNK = 1 << 14


def sublabeling_weights(inv_propensity):
    r"""Weight of each subset of the observed labels in the general unbiased estimator.

    .. math::

        w(y') = \prod_{j: y'_j = 1} \frac{1}{p_j} \prod_{j: y'_j = 0} \left(1 - \frac{1}{p_j}\right)

    Parameters
    ----------
    inv_propensity : array-like of shape (c,)
        1 / p of each of the observed labels of a row, at least 1; at most 20 labels.

    Returns
    -------
    weights : ndarray of shape (2**c,), float64
        Entry b is the weight of the subset that has label j where bit j of b is 1. They sum to 1
        and have alternating signs.

    Raises
    ------
    ValueError
        If there are more than 20 labels, or an inverse propensity is below 1 or not finite.

    Notes
    -----
    Time and memory O(2**c).

    Equation (3.20) of the thesis prints the second factor as (1 - p) / p; the sign follows from its
    derivation, which replaces each :math:`y_j` by :math:`y_j / p_j` in
    :math:`y'_j y_j + (1 - y'_j)(1 - y_j)`, eq. (3.17).

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.17) to (3.20).

    Examples
    --------
    >>> from skxmc.ops.missing_labels import sublabeling_weights
    >>> sublabeling_weights([2.0, 4.0])  # none, label 0, label 1, both
    array([ 3., -6., -4.,  8.])
    """
    inverse = _check_row(inv_propensity)
    if len(inverse) > 20:
        raise ValueError(
            f"{len(inverse)} labels have too many subsets to be listed; at most 20 can be."
        )
    weights = np.ones(1)
    for value in inverse:
        weights = np.concatenate([weights * (1.0 - value), weights * value])
    return weights


def general_estimate(function, inv_propensity, *, max_exact=12, n_draws=1024, random_state=None):
    r"""Estimate a function of the complete label set of a row from its observed labels.

    .. math::

        \tilde f = \sum_{y' \le \tilde y} w(y') f(y')

    over all subsets y' of the observed labels (`sublabeling_weights`): over the masks, the
    expectation of this is f of the complete set. It is the only such estimate, up to terms that do
    not depend on the prediction.

    Labels with p = 1 are in every subset of non-zero weight, so with c labels of p < 1 there are
    2^c terms. For more than `max_exact` such labels, subsets are drawn instead, each with a
    probability proportional to its absolute weight (label j is taken with probability
    1 / (2 - p_j)); the estimate remains unbiased, with additional variance.

    Parameters
    ----------
    function : callable
        ``function(subsets)`` with a bool array of shape (t, n_observed) returns an array of shape
        (t, ...): the values of t subsets of the observed labels. It may return gradients as well as
        numbers. The empty set is among the subsets.
    inv_propensity : array-like of shape (n_observed,)
        1 / p of each of the observed labels of the row, at least 1.
    max_exact : int, default=12
        Up to this number of labels with p < 1 the sum is exact; at most 20.
    n_draws : int, default=1024
        Number of subsets drawn for more labels.
    random_state : int or numpy Generator, default=None
        Only used for drawing.

    Returns
    -------
    estimate : float64 scalar or ndarray of shape (...)
        Not restricted to the range of the function. Its variance grows with the product over the
        observed labels of (2 - p) / p.

    Raises
    ------
    ValueError
        If an inverse propensity is below 1 or not finite, `max_exact` or `n_draws` is out of range,
        or the function returns an array of another length.
    TypeError
        If `max_exact` or `n_draws` is not an integer.

    See Also
    --------
    unbiased_label_shares : The exact estimate of y_j / ||y||_1 in O(c^2).

    Notes
    -----
    2^c or `n_draws` evaluations of the function, in calls of at most 16384 subsets.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.20) and section 3.5.

    Examples
    --------
    The number of labels, of which two are observed with p = 1/2 and p = 1/4:

    >>> from skxmc.ops.missing_labels import general_estimate
    >>> float(general_estimate(lambda subsets: subsets.sum(axis=1), [2.0, 4.0]))
    6.0
    """
    inverse = _check_row(inv_propensity)
    max_exact = _integer(max_exact, "max_exact", 0, 20)
    n_draws = _integer(n_draws, "n_draws", 1, None)
    uncertain = np.flatnonzero(inverse > 1.0)
    estimate = 0.0
    if len(uncertain) <= max_exact:
        weights = sublabeling_weights(inverse[uncertain])
        for start in range(0, len(weights), _CHUNK):
            part = weights[start : start + _CHUNK]
            bits = np.arange(start, start + len(part))
            subsets = np.ones((len(part), len(inverse)), dtype=bool)
            subsets[:, uncertain] = bits[:, np.newaxis] >> np.arange(len(uncertain)) & 1
            estimate = estimate + _weighted_sum(function, subsets, part)
        return estimate

    rng = np.random.default_rng(random_state)
    masses = 2.0 * inverse - 1.0  # |1/p| + |1 - 1/p| of each label
    total = np.prod(masses)
    for start in range(0, n_draws, _CHUNK):
        shape = (min(_CHUNK, n_draws - start), len(inverse))
        subsets = rng.random(shape) < inverse / masses
        signs = 1.0 - 2.0 * (np.count_nonzero(~subsets, axis=1) % 2)
        estimate = estimate + _weighted_sum(function, subsets, signs * (total / n_draws))
    return estimate


def _weighted_sum(function, subsets, weights):
    values = np.asarray(function(subsets), dtype=np.float64)
    if values.ndim == 0 or len(values) != len(subsets):
        raise ValueError(
            f"function was given {len(subsets)} subsets and must return an array of that length, "
            f"got the shape {values.shape}."
        )
    return np.tensordot(weights, values, axes=1)


def _check_row(inv_propensity):
    inverse = np.asarray(inv_propensity, dtype=np.float64)
    if inverse.ndim != 1:
        raise ValueError(
            f"inv_propensity must have one value for each observed label, got {inverse.shape}."
        )
    bad = np.flatnonzero(~((inverse >= 1.0) & (inverse < np.inf)))
    if len(bad):
        raise ValueError(
            f"inv_propensity[{bad[0]}] is {inverse[bad[0]]}: 1 / propensity is a finite number of "
            "at least 1."
        )
    return inverse


def _integer(value, name, low, high):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {limits}, got {value}.")
    return int(value)
