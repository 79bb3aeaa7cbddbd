"""The GLaS regulariser: label vectors whose inner products are the co-occurrence of the labels."""

import numpy as np
import scipy.sparse as sp

__all__ = ["glas"]


def glas(W, S):
    r"""Value and gradient of the GLaS regulariser on some labels (Kharbanda, thesis eq. 1.8).

    .. math::

        R(W) = \frac{1}{L^2} \sum_{i,j=1}^{L} (w_i \cdot w_j - S_{ij})^2, \qquad
        \nabla_W R = \frac{4}{L^2} (W W^T - S) W,

    taken over the labels that are handed over, those of a batch as a rule: L is their number.

    Parameters
    ----------
    W : float32 or float64 array of shape (n_labels, dimension)
        One vector a label: classifier weights, or embeddings of the label texts.
    S : sparse or dense matrix of shape (n_labels, n_labels)
        Symmetric, such as ``S[labels][:, labels]`` of
        `skxmc.label_space.symmetrized_cooccurrence`, whose diagonal is 1.

    Returns
    -------
    value : float
    gradient : array of the shape and dtype of ``W``

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``S`` is not symmetric.

    Notes
    -----
    With the matrix :math:`W^T W` of shape (dimension, dimension) no (n_labels, n_labels) matrix is
    needed: time O(n_labels * dimension**2 + stored(S) * dimension), memory that of ``W`` in
    float64. Sums are taken in float64, as the value is a difference of larger numbers.

    References
    ----------
    C. Guo et al. Breaking the glass ceiling for embedding-based classifiers for large output
    spaces. NeurIPS 2019.

    Examples
    --------
    Two labels that always occur together and have orthogonal vectors:

    >>> import numpy as np
    >>> from skxmc.ops.glas import glas
    >>> value, gradient = glas(np.eye(2), np.ones((2, 2)))
    >>> value  # (0 + 1 + 1 + 0) / 4
    0.5
    >>> gradient  # towards each other
    array([[ 0., -1.],
           [-1.,  0.]])
    """
    W = np.asarray(W)
    if W.ndim != 2 or W.dtype.kind != "f" or len(W) == 0:
        raise ValueError(
            f"W must be a floating array of shape (n_labels, dimension) with a label at least, got "
            f"the shape {W.shape} and the dtype {W.dtype}."
        )
    n_labels = len(W)
    S = sp.csr_array(S, dtype=np.float64) if sp.issparse(S) else np.asarray(S, dtype=np.float64)
    if S.shape != (n_labels, n_labels):
        raise ValueError(f"S must have the shape {(n_labels, n_labels)} by W, got {S.shape}.")
    if abs(S - S.T).max() > 1e-6 * max(1.0, abs(S).max()):
        raise ValueError("S must be symmetric.")
    wide = W.astype(np.float64)
    gram = wide.T @ wide
    SW = S @ wide
    # ||W W^T - S||^2 = ||W^T W||^2 - 2 <W, S W> + ||S||^2
    S2 = float((S.data**2).sum() if sp.issparse(S) else (S**2).sum())
    value = (float((gram**2).sum()) - 2 * float((wide * SW).sum()) + S2) / n_labels**2
    gradient = (4 / n_labels**2) * (wide @ gram - SW)
    return max(value, 0.0), gradient.astype(W.dtype)
