"""Weights of the positives: losses for missing labels and for imbalance (thesis 3.2)."""

import numbers

import numpy as np

from skxmc.label_space._propensity import check_propensities, jpv_propensity

WEIGHTINGS = ("vanilla", "propensity", "class-balanced", "propensity-class-balanced")


def positive_weights(weighting, counts, n_samples, *, propensity="jpv", beta=0.9):
    """Weight w+ c+ of a positive in the one-vs-all loss; a negative weighs 1.

    ====================================  =====================================================
    weighting                             weight of a positive of label j
    ====================================  =====================================================
    ``"vanilla"`` or None                 1
    ``"propensity"``                      w+ = 2 / p_j - 1: convex surrogate of the unbiased
                                          0-1 loss under missing labels, eq. 3.14 left
    ``"class-balanced"``                  c+ = (1 - beta) / (1 - beta^n_j), eq. 3.14 right
    ``"propensity-class-balanced"``       w+ c+, eq. 3.13
    array of shape (n_labels,)            as given
    ====================================  =====================================================

    Parameters
    ----------
    weighting : str, array or None
    counts : int array of shape (n_labels,)
        Positive rows n_j of each label.
    n_samples : int
    propensity : "jpv", tuple ("jpv", A, B) or array of shape (n_labels,)
        Probability p_j in (0, 1] that a relevant label was recorded.
    beta : float in [0, 1)

    Returns
    -------
    float64 array of shape (n_labels,)
    """
    n_labels = len(counts)
    if weighting is None or isinstance(weighting, str):
        name = weighting or "vanilla"
        if name not in WEIGHTINGS:
            raise ValueError(f"weighting must be an array, None or one of {WEIGHTINGS}: {name!r}.")
        weights = np.ones(n_labels)
        if name.startswith("propensity"):
            weights *= 2 / _propensities(propensity, counts, n_samples) - 1
        if name.endswith("class-balanced"):
            seen = np.maximum(counts, 1)
            # -expm1(n log beta) = 1 - beta^n without cancellation; beta = 0 gives 1
            weights *= (1 - beta) / -np.expm1(seen * np.log(beta)) if beta > 0 else 1.0
        return weights
    return _per_label(weighting, n_labels, "weighting", lambda v: v > 0, "positive")


def _propensities(propensity, counts, n_samples):
    if isinstance(propensity, str) and propensity == "jpv":
        return jpv_propensity(counts, n_samples)
    if isinstance(propensity, tuple) and propensity and isinstance(propensity[0], str):
        if len(propensity) != 3 or propensity[0] != "jpv":
            raise ValueError(
                f"propensity must be 'jpv', ('jpv', A, B) or an array: {propensity!r}."
            )
        return jpv_propensity(counts, n_samples, A=propensity[1], B=propensity[2])
    if isinstance(propensity, str | numbers.Number):
        raise ValueError(f"propensity must be 'jpv', ('jpv', A, B) or an array: {propensity!r}.")
    return check_propensities(propensity, len(counts))


def _per_label(values, n_labels, name, valid, meaning):
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n_labels,):
        raise ValueError(
            f"{name} must have one value for each of the {n_labels} labels, got an array of "
            f"shape {values.shape}."
        )
    bad = np.flatnonzero(~(np.isfinite(values) & valid(values)))
    if len(bad):
        raise ValueError(
            f"{name} must be finite and {meaning}; label {bad[0]} has {values[bad[0]]!r}."
        )
    return values
