"""One-vs-all losses: a sum of binary losses over the labels (thesis 3.2)."""

import numpy as np

from skxmc.ops.missing_labels._normalized import unbiased_label_shares
from skxmc.ops.missing_labels._types import as_block, check_inverse


def _logistic(margins):
    # log(1 + exp(-m)) and -sigmoid(-m), without overflow
    small = np.exp(-np.abs(margins))
    values = np.log1p(small) + np.maximum(-margins, 0)
    return values, np.where(margins >= 0, -small, -1) / (1 + small)


def _hinge(margins):
    slack = np.maximum(1 - margins, 0)
    return slack, -(slack > 0).astype(margins.dtype)


def _squared_hinge(margins):
    slack = np.maximum(1 - margins, 0)
    return slack * slack, -2 * slack


# l(s, 1) as a function of the margin, and its derivative; l(s, 0) is l(-s, 1).
_MARGIN_LOSSES = {"logistic": _logistic, "hinge": _hinge, "squared_hinge": _squared_hinge}


def _one_vs_all(block, loss, positive, negative):
    """Sum over all labels of l(s, 0) + over the positives of positive l(s, 1) - negative l(s, 0).

    `positive` and `negative` are coefficients, one for each positive of the block.
    """
    if loss not in _MARGIN_LOSSES:
        raise ValueError(f"loss must be one of {sorted(_MARGIN_LOSSES)}, got {loss!r}.")
    margin_loss = _MARGIN_LOSSES[loss]
    values, slopes = margin_loss(-block.scores)
    total = block.sum_rows(values)
    at = block.positives
    values_if_positive, slopes_if_positive = margin_loss(block.scores[at])
    total += block.sum_positives(positive * values_if_positive - negative * values[at])
    gradient = -slopes
    gradient[at] = positive * slopes_if_positive + (1 - negative) * gradient[at]
    return block.result(total, gradient)


def ova_unbiased_loss(scores, Y, inv_propensity=None, *, loss="logistic"):
    r"""Unbiased one-vs-all loss under missing labels.

    .. math::

        \tilde\ell(s, y) = \sum_j \ell(s_j, 0)
            + \frac{y_j}{p_j} \left(\ell(s_j, 1) - \ell(s_j, 0)\right)

    Where :math:`p_j < 1` it is not bounded below, and convex for the logistic loss only, so it is
    for estimating a loss; to train, take `ova_convex_loss`.

    Parameters
    ----------
    scores : ndarray or sparse matrix of shape (n_samples, n_labels)
        Margins. Dense: a block of rows, or of rows and labels (with the same columns of `Y` and the
        propensities). Sparse: the stored entries are the candidates of a row, all others take no
        part in the loss.
    Y : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
        Observed labels.
    inv_propensity : array-like of shape (n_labels,), default=None
        1 / p of each label, at least 1. None: nothing is missing, the usual loss.
    loss : {"logistic", "hinge", "squared_hinge"}, default="logistic"
        Binary loss with :math:`\ell(s, 0) = \ell(-s, 1)`.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), and ``gradient`` in the container and dtype of the scores.

    Raises
    ------
    ValueError
        If the shapes differ, `Y` holds other values than 0 and 1, a score is NaN or infinite, an
        inverse propensity is below 1 or not finite, or `loss` is unknown.

    Notes
    -----
    Time O(scores + labels), memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.9).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import ova_unbiased_loss
    >>> scores, Y = np.array([[2.0, -3.0]]), np.array([[1, 0]])
    >>> ova_unbiased_loss(scores, Y, [2.0, 1.0], loss="hinge").loss  # 2 * 0 - 1 * 3, and 0
    array([-3.])
    """
    block = as_block(scores, Y)
    weights = check_inverse(inv_propensity, block.Y.shape[1])[block.positive_labels]
    return _one_vs_all(block, loss, weights, weights)


def ova_convex_loss(scores, Y, inv_propensity=None, *, loss="squared_hinge", positive_weight=None):
    r"""Convex surrogate of the unbiased one-vs-all 0-1 loss, with optional rebalancing.

    .. math::

        \tilde\ell(s, y) = \sum_j y_j w_j^+ c_j^+ \ell(s_j, 1) + (1 - y_j) \ell(s_j, 0),
        \qquad w_j^+ = 2 / p_j - 1

    The unbiased 0-1 loss is bounded; its convex upper bound, shifted to be 0 for answers that are
    right by a margin, is this loss. `DismecClassifier(weighting="propensity")` trains with it.

    Parameters
    ----------
    scores, Y, inv_propensity
        As in `ova_unbiased_loss`.
    loss : {"logistic", "hinge", "squared_hinge"}, default="squared_hinge"
        Convex upper bound of the 0-1 loss (the logistic one up to a factor log 2).
    positive_weight : array-like of shape (n_labels,), default=None
        Rebalancing weights :math:`c_j^+`, above 0; for instance (1 - beta) / (1 - beta^n_j) for n_j
        positives. None: 1.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), and ``gradient`` in the container and dtype of the scores.

    Raises
    ------
    ValueError
        As `ova_unbiased_loss`; and if a positive weight is not finite and above 0.

    Notes
    -----
    Time O(scores + labels), memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.13) and (3.14).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import ova_convex_loss
    >>> scores, Y = np.array([[0.0, -3.0]]), np.array([[1, 0]])
    >>> ova_convex_loss(scores, Y, [2.0, 1.0]).loss
    array([3.])
    """
    block = as_block(scores, Y)
    weights = 2.0 * check_inverse(inv_propensity, block.Y.shape[1]) - 1.0
    if positive_weight is not None:
        weights = weights * _check_positive_weight(positive_weight, block.Y.shape[1])
    return _one_vs_all(block, loss, weights[block.positive_labels], 1.0)


def ova_normalized_unbiased_loss(scores, Y, inv_propensity=None, *, loss="logistic"):
    r"""Unbiased version of the normalised one-vs-all loss.

    .. math::

        \sum_j \ell(s_j, 0) + T_j \left(\ell(s_j, 1) - \ell(s_j, 0)\right),
        \qquad T_j = y_j / \|y\|_1

    with the share :math:`T_j` replaced by its unbiased estimate. There is no upper bound of
    low variance as for pick-all-labels, because the bracket may be negative.

    Parameters
    ----------
    scores, Y, inv_propensity, loss
        As in `ova_unbiased_loss`. All labels of a row must be in `Y`: a block of labels will not
        do. With sparse scores, labels that are no candidates count in the shares.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), and ``gradient`` in the container and dtype of the scores.

    Raises
    ------
    ValueError
        As `ova_unbiased_loss`, and `unbiased_label_shares`.

    Notes
    -----
    Time O(scores + c^2) for a row with c labels, memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.20) and (3.21).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import ova_normalized_unbiased_loss
    >>> scores, Y = np.array([[0.0, 0.0, -1.0]]), np.array([[1, 1, 0]])
    >>> ova_normalized_unbiased_loss(scores, Y, loss="hinge").loss
    array([2.])
    """
    block = as_block(scores, Y)
    shares = unbiased_label_shares(block.Y, inv_propensity)[block.entries]
    return _one_vs_all(block, loss, shares, shares)


def _check_positive_weight(weights, n_labels):
    weights = np.asarray(weights)
    if weights.shape != (n_labels,) or weights.dtype.kind not in "iuf":
        raise ValueError(
            f"positive_weight must have one real number for each of the {n_labels} labels, got the "
            f"shape {weights.shape} and dtype {weights.dtype}."
        )
    bad = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
    if len(bad):
        raise ValueError(
            f"positive_weight of label {bad[0]} is {weights[bad[0]]}: it must be finite and above "
            "0."
        )
    return weights.astype(np.float64)
