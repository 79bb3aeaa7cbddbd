"""Shares Y_j / ||Y||_1 of the labels of a row, estimated from the observed labels."""

import numpy as np

from skxmc.ops.csr import canonical_indicator
from skxmc.ops.missing_labels._types import check_inverse

# Values of one temporary array.
_CHUNK = 1 << 20


def unbiased_label_shares(Y, inv_propensity=None):
    r"""Unbiased estimate of the share of each label, ``Y_j / ||Y||_1`` with 0 / 0 = 0.

    The general estimator (3.20) of the share is a sum over all subsets of the observed labels. For
    this function it need not be enumerated. The weights of (3.20) are a product over the labels and
    :math:`1 / (1 + s) = \int_0^1 z^s dz`, therefore

    .. math::

        \tilde T_j = \frac{1}{p_j} \int_0^1 \prod_{j' \ne j}
            \left(1 - \frac{1 - z}{p_{j'}}\right) dz ,

    the product over the other observed labels: a polynomial of degree c - 1 for c observed labels,
    which Gauss-Legendre quadrature with c / 2 nodes integrates exactly.

    Parameters
    ----------
    Y : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
        Observed labels.
    inv_propensity : array-like of shape (n_labels,), default=None
        1 / p of each label, at least 1. None: nothing is missing.

    Returns
    -------
    shares : ndarray of shape (number of ones in Y,), float64
        One for each observed label, row after row, by ascending label. Of any sign and size: their
        variance grows exponentially with the number of labels of a row where p < 1/2.

    Raises
    ------
    ValueError
        If `Y` is no 0/1 matrix, an inverse propensity is below 1 or not finite, or a share exceeds
        the range of float64; the row is named.

    Notes
    -----
    Time O(c^2) for a row with c labels, memory O(labels of all rows).

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.20) to (3.22).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import unbiased_label_shares
    >>> unbiased_label_shares(np.array([[1, 1, 0]]), [2.0, 1.0, 1.0])
    array([1., 0.])
    """
    Y = canonical_indicator(Y)
    inverse = check_inverse(inv_propensity, Y.shape[1])[Y.indices]
    shares = np.empty(len(inverse))
    counts = np.diff(Y.indptr)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        n_nodes = (int(count) + 1) // 2  # exact up to degree 2 n_nodes - 1 >= count - 1
        for chunk in np.array_split(rows, 1 + len(rows) * count * n_nodes // _CHUNK):
            entries = Y.indptr[chunk, np.newaxis] + np.arange(count)
            shares[entries] = _integrate_shares(inverse[entries], n_nodes)
    bad = np.flatnonzero(~np.isfinite(shares))
    if len(bad):
        row = int(np.searchsorted(Y.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"Row {row} has {counts[row]} labels of such small propensity that the unbiased "
            "estimate exceeds the range of floating-point numbers. It would be of no use: take the "
            "bound instead."
        )
    return shares


def _integrate_shares(inverse, n_nodes):
    """The formula for rows of equally many labels, `inverse` (n_rows, count)."""
    nodes, node_weights = np.polynomial.legendre.leggauss(n_nodes)
    nodes, node_weights = (nodes + 1) / 2, node_weights / 2  # from [-1, 1] to [0, 1]
    factors = 1.0 - (1.0 - nodes) * inverse[:, :, np.newaxis]
    # The product over all other labels, without a division: factors may be 0.
    others = np.ones_like(factors)
    with np.errstate(over="ignore", invalid="ignore"):
        np.cumprod(factors[:, :-1], axis=1, out=others[:, 1:])
        after = np.cumprod(factors[:, :0:-1], axis=1)[:, ::-1]
        others[:, :-1] *= after
        return inverse * (others @ node_weights)


def bounded_label_shares(Y, inv_propensity=None):
    r"""Estimate of the share of each label that is too large on average, with little variance.

    .. math::

        \tilde T_j = \frac{\tilde Y_j / p_j}{1 + \sum_{j' \ne j} \tilde Y_{j'} / p_{j'}} ,
        \qquad E[\tilde T_j] \ge Y_j / \|Y\|_1

    by Jensen's inequality.

    Parameters
    ----------
    Y : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
        Observed labels.
    inv_propensity : array-like of shape (n_labels,), default=None
        1 / p of each label, at least 1. None: nothing is missing.

    Returns
    -------
    shares : ndarray of shape (number of ones in Y,), float64
        One for each observed label, row after row, by ascending label; positive.

    Raises
    ------
    ValueError
        If `Y` is no 0/1 matrix, or an inverse propensity is below 1 or not finite.

    Notes
    -----
    Time and memory O(labels of all rows).

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.23).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.missing_labels import bounded_label_shares
    >>> bounded_label_shares(np.array([[1, 1, 0]]), [2.0, 1.0, 1.0]).round(3)
    array([1.   , 0.333])
    """
    Y = canonical_indicator(Y)
    inverse = check_inverse(inv_propensity, Y.shape[1])[Y.indices]
    counts = np.diff(Y.indptr)
    rows = np.repeat(np.arange(Y.shape[0]), counts)
    total = np.bincount(rows, weights=inverse, minlength=Y.shape[0])
    return inverse / (1.0 + np.maximum(total[rows] - inverse, 0.0))
