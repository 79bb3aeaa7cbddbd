"""Propensities: the probability that a relevant label was in fact recorded, by its frequency."""

import numbers
from types import MappingProxyType

import numpy as np
import scipy.sparse as sp

from skxmc.ops.csr import canonical_indicator

_DEFAULT = MappingProxyType({"A": 0.55, "B": 1.5})
_WIKIPEDIA = MappingProxyType({"A": 0.5, "B": 0.4})
_AMAZON = MappingProxyType({"A": 0.6, "B": 2.6})

#: Constants ``{"A": ..., "B": ...}`` of the JPV formula by data set, as published results use them.
#: Data sets that are not listed use "default", the mean of the two fitted pairs.
PROPENSITY_CONSTANTS = MappingProxyType(
    {
        "default": _DEFAULT,
        "AmazonCat-13K": _DEFAULT,
        "Delicious-200K": _DEFAULT,
        "EURLex-4K": _DEFAULT,
        "Wiki10-31K": _DEFAULT,
        "WikiLSHTC-325K": _WIKIPEDIA,
        "Wikipedia-500K": _WIKIPEDIA,
        "LF-Wikipedia-500K": _WIKIPEDIA,
        "LF-WikiSeeAlso-320K": _WIKIPEDIA,
        "LF-WikiTitles-500K": _WIKIPEDIA,
        "LF-WikiSeeAlsoTitles-320K": _WIKIPEDIA,
        "LF-WikiHierarchy-1M": _WIKIPEDIA,
        "Amazon-670K": _AMAZON,
        "Amazon-3M": _AMAZON,
        "LF-Amazon-131K": _AMAZON,
        "LF-Amazon-1.3M": _AMAZON,
        "LF-AmazonTitles-131K": _AMAZON,
        "LF-AmazonTitles-1.3M": _AMAZON,
    }
)


def jpv_propensity(Y_train, n_samples=None, A=0.55, B=1.5):
    r"""Estimate the propensity of each label from its training frequency (Jain, Prabhu, Varma).

    .. math::

        p_l = \frac{1}{1 + C (N_l + B)^{-A}}, \qquad C = (\ln N - 1) (B + 1)^A

    with :math:`N` training rows, of which :math:`N_l` have label :math:`l`. The rarer a label, the
    smaller its propensity. For :math:`N < e` the formula exceeds 1 and is clamped to 1.

    Parameters
    ----------
    Y_train : 0/1 matrix of shape (n_samples, n_labels), or array-like of shape (n_labels,)
        Labels of the *training* rows, sparse or dense; or the number of training rows per label.
    n_samples : int, default=None
        Number of training rows. Required with counts, and refused with a matrix, which has it.
    A, B : float, default=0.55 and 1.5
        Constants of the data set, positive or zero; `PROPENSITY_CONSTANTS` has the published ones.

    Returns
    -------
    propensity : ndarray of shape (n_labels,), float64
        Probabilities in (0, 1].

    Raises
    ------
    ValueError
        If a count is negative, not finite, or larger than `n_samples`; if there are no rows; if
        `n_samples` is missing or superfluous; if A or B is out of range; if the matrix holds other
        values than 0 and 1.
    TypeError
        If `n_samples` is not an integer.

    See Also
    --------
    inverse_propensity : 1 / p, the weight of a hit in propensity-scored metrics.

    Notes
    -----
    Time and memory O(stored entries + n_labels).

    References
    ----------
    H. Jain, Y. Prabhu, M. Varma. Extreme multi-label loss functions for recommendation, tagging,
    ranking & other missing label applications. KDD 2016. https://doi.org/10.1145/2939672.2939756
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.24).

    Examples
    --------
    >>> from skxmc.label_space import PROPENSITY_CONSTANTS, jpv_propensity
    >>> jpv_propensity([1, 25], n_samples=50).round(5)
    array([0.25562, 0.55715])
    >>> jpv_propensity([1, 25], n_samples=50, **PROPENSITY_CONSTANTS["Amazon-670K"]).round(5)
    array([0.25562, 0.53825])
    """
    return 1.0 / inverse_propensity(Y_train, n_samples, A, B)


def inverse_propensity(Y_train, n_samples=None, A=0.55, B=1.5):
    """Compute 1 / p of each label, the weight of a hit in propensity-scored metrics.

    Parameters
    ----------
    Y_train, n_samples, A, B : as in `jpv_propensity`
        Labels or their counts, and the constants of the formula.

    Returns
    -------
    inv_propensity : ndarray of shape (n_labels,), float64
        At least 1.

    Examples
    --------
    >>> from skxmc.label_space import inverse_propensity
    >>> inverse_propensity([1, 25], n_samples=50).round(3)
    array([3.912, 1.795])
    """
    counts, n_samples = _label_counts(Y_train, n_samples)
    for name, value in (("A", A), ("B", B)):
        if not (isinstance(value, numbers.Real) and np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")
    with np.errstate(divide="ignore"):  # B = 0 and a label without positives: p = 0
        rarity = (counts + B) ** -float(A)
    C = (np.log(n_samples) - 1.0) * (B + 1.0) ** A
    if C <= 0.0:  # fewer than e rows
        return np.ones(len(counts))
    inverse = 1.0 + C * rarity
    if not np.isfinite(inverse).all():
        label = int(np.flatnonzero(~np.isfinite(inverse))[0])
        raise ValueError(f"Label {label} has no training row, which needs B > 0; got B={B!r}.")
    return inverse


def check_propensities(propensity, n_labels):
    """Propensities as float64 of shape (n_labels,), all in (0, 1].

    ``propensity``: an array, or an object such as a fitted `PropensityModel` that has one as
    ``propensity_``.
    """
    values = np.asarray(getattr(propensity, "propensity_", propensity))
    if values.shape != (n_labels,) or values.dtype.kind not in "iuf":
        raise ValueError(
            f"propensity must have one value for each of the {n_labels} labels, got an array of "
            f"shape {values.shape} and dtype {values.dtype}."
        )
    values = values.astype(np.float64)
    bad = np.flatnonzero(~((values > 0) & (values <= 1 + 1e-6)))
    if len(bad):
        raise ValueError(
            f"propensity must be finite and in (0, 1]; label {bad[0]} has "
            f"{values[bad[0]].item()!r} (the probability that it is recorded, not the inverse)."
        )
    return np.minimum(values, 1.0)


def _label_counts(Y_train, n_samples):
    """Return the training frequency of each label (float64) and the number of training rows."""
    if sp.issparse(Y_train) or np.ndim(Y_train) == 2:
        if n_samples is not None:
            raise ValueError(
                "n_samples is only for label counts: a label matrix has its own number of rows."
            )
        Y_train = canonical_indicator(Y_train, name="Y_train")
        n_samples = Y_train.shape[0]
        counts = np.bincount(Y_train.indices, minlength=Y_train.shape[1]).astype(np.float64)
    else:
        counts = np.asarray(Y_train)
        if counts.ndim != 1 or counts.dtype.kind not in "iuf":
            raise ValueError(
                "Expected a label matrix of shape (n_samples, n_labels) or label counts of shape "
                f"(n_labels,), got an array of shape {counts.shape} and dtype {counts.dtype}."
            )
        counts = counts.astype(np.float64)
        if n_samples is None:
            raise ValueError(
                "n_samples, the number of training rows, is required with label counts."
            )
        if isinstance(n_samples, bool) or not isinstance(n_samples, numbers.Integral):
            raise TypeError(f"n_samples must be an integer, got {n_samples!r}.")
        bad = ~((counts >= 0) & (counts <= n_samples))  # NaN is bad too
        if bad.any():
            label = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"The count of label {label} is {counts[label]}: it must be between 0 and "
                f"n_samples={n_samples}."
            )
    if n_samples < 1:
        raise ValueError("Propensities need at least one training row, got none.")
    return counts, int(n_samples)
