"""Containers of the weights of a label tree: as stored, and as searched."""

from typing import NamedTuple

import numpy as np

#: Edge functions: how the score of a node becomes the logarithm of a probability.
LINKS = ("logistic", "l1-hinge", "l2-hinge", "l3-hinge")


class TreeWeights(NamedTuple):
    """Linear classifiers of all nodes of a label tree but the root, grouped by parent.

    The classifiers of the children of a node form a chunk, feature rows inside: the layout called
    MSCM by Etter et al. 2022 (arXiv 2106.02697). The score of child c of node v for a row x is
    ``bias[c] + sum_f x_f W[f, c]``.

    Attributes
    ----------
    chunk_indptr : ndarray of shape (n_nodes + 1,), int64
        The feature rows of node v's chunk are ``chunk_indptr[v] .. chunk_indptr[v + 1] - 1``.
    row_feature : ndarray of shape (n_rows,), int32
        Feature of a row, strictly ascending within a chunk.
    row_indptr : ndarray of shape (n_rows + 1,), int64
        Where the entries of a row begin.
    child : ndarray of shape (n_entries,), uint16 or int32
        Position of the child among its siblings, strictly ascending within a row.
    weight : ndarray of shape (n_entries,), float32
    bias : ndarray of shape (n_nodes,), float32
        Offset of a node's score. -inf for a node that is never answered, nor anything below it.
        ``bias[0]`` is not used.
    """

    chunk_indptr: np.ndarray
    row_feature: np.ndarray
    row_indptr: np.ndarray
    child: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @property
    def nbytes(self):
        """Bytes held."""
        return sum(array.nbytes for array in self)
