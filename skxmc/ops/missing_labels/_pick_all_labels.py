"""Pick-all-labels losses: a softmax cross-entropy for each observed label (thesis 3.3)."""

import numpy as np

from skxmc.ops.missing_labels._normalized import bounded_label_shares, unbiased_label_shares
from skxmc.ops.missing_labels._types import as_block, check_inverse


def _weighted_cross_entropy(block, weights):
    """Sum over the positives of ``weights`` times -log softmax(s)_j."""
    peak = block.max_rows(block.scores)
    exponentials = np.exp(block.scores - block.spread(peak))
    normalizer = block.sum_rows(exponentials)
    normalizer[normalizer == 0] = 1.0  # a row without candidates
    log_normalizer = peak + np.log(normalizer)
    at = block.positives
    loss = block.sum_positives(weights * (log_normalizer[block.positive_rows] - block.scores[at]))
    gradient = exponentials
    gradient *= block.spread(block.sum_positives(weights) / normalizer)
    gradient[at] -= weights
    return block.result(loss, gradient)


def pal_unbiased_loss(scores, Y, inv_propensity=None):
    r"""Unbiased pick-all-labels loss under missing labels.

    .. math::

        \tilde\ell(s, y) = \sum_j \frac{y_j}{p_j} \left(\log \sum_q e^{s_q} - s_j\right)

    Parameters
    ----------
    scores : ndarray or sparse matrix of shape (n_samples, n_labels)
        Logits. Dense: a block of rows with all labels. Sparse: the stored entries are the
        candidates of a row, over which the softmax goes; labels that are no candidates are left
        out.
    Y : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
        Observed labels.
    inv_propensity : array-like of shape (n_labels,), default=None
        1 / p of each label, at least 1. None: nothing is missing, the usual loss.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), 0 in rows without labels, never negative; and ``gradient`` in the
        container and dtype of the scores.

    Raises
    ------
    ValueError
        If the shapes differ, `Y` holds other values than 0 and 1, a score is NaN or infinite, or an
        inverse propensity is below 1 or not finite.

    Notes
    -----
    Time O(scores + labels), memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 3.3, "Pick-all-labels".

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import pal_unbiased_loss
    >>> pal_unbiased_loss(np.zeros((1, 4)), np.array([[1, 1, 0, 0]]), [2.0, 1.0, 1.0, 1.0])
    LossAndGradient(loss=array([4.158...]), gradient=array([[-1.25, -0.25,  0.75,  0.75]]))
    """
    block = as_block(scores, Y)
    inverse = check_inverse(inv_propensity, block.Y.shape[1])
    return _weighted_cross_entropy(block, inverse[block.positive_labels])


def pal_normalized_unbiased_loss(scores, Y, inv_propensity=None):
    r"""Unbiased version of the normalised pick-all-labels loss.

    .. math::

        \sum_j T_j \left(\log \sum_q e^{s_q} - s_j\right), \qquad T_j = y_j / \|y\|_1

    with the share :math:`T_j` replaced by its unbiased estimate (`unbiased_label_shares`), which
    may be negative. Unbounded below and of a variance that grows exponentially with the number of
    labels: not to train with (thesis figure 3.3), see `pal_normalized_bound_loss`.

    Parameters
    ----------
    scores, Y, inv_propensity
        As in `pal_unbiased_loss`. With sparse scores, labels that are no candidates count in the
        shares.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), 0 in rows without labels; and ``gradient`` in the container and dtype
        of the scores.

    Raises
    ------
    ValueError
        As `pal_unbiased_loss`, and `unbiased_label_shares`.

    Notes
    -----
    Time O(scores + c^2) for a row with c labels, memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.20) to (3.22).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import pal_normalized_unbiased_loss
    >>> pal_normalized_unbiased_loss(np.zeros((1, 4)), np.array([[1, 1, 0, 0]])).loss
    array([1.386...])
    """
    block = as_block(scores, Y)
    shares = unbiased_label_shares(block.Y, inv_propensity)
    return _weighted_cross_entropy(block, shares[block.entries])


def pal_normalized_bound_loss(scores, Y, inv_propensity=None):
    r"""Upper bound of the normalised pick-all-labels loss under missing labels, to train with.

    .. math::

        \sum_j \tilde T_j \left(\log \sum_q e^{s_q} - s_j\right),
        \qquad \tilde T_j = \frac{y_j / p_j}{1 + \sum_{j' \ne j} y_{j'} / p_{j'}}

    On average at least the loss on the complete labels, convex in the scores, never negative.

    Parameters
    ----------
    scores, Y, inv_propensity
        As in `pal_unbiased_loss`. With sparse scores, labels that are no candidates count in the
        shares.

    Returns
    -------
    LossAndGradient
        ``loss`` (n_samples,), 0 in rows without labels; and ``gradient`` in the container and dtype
        of the scores.

    Raises
    ------
    ValueError
        As `pal_unbiased_loss`.

    Notes
    -----
    Time O(scores + labels), memory at most six times that of the scores.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.23).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import pal_normalized_bound_loss
    >>> pal_normalized_bound_loss(np.zeros((1, 4)), np.array([[1, 0, 0, 0]]), [2.0] * 4).loss
    array([2.772...])
    """
    block = as_block(scores, Y)
    shares = bounded_label_shares(block.Y, inv_propensity)
    return _weighted_cross_entropy(block, shares[block.entries])
