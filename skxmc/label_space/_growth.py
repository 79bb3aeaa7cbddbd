"""New labels in an existing tree."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.label_space._clustering import build_tree
from skxmc.label_space._tree import LabelTree

# New labels that are compared with the nodes at a time.
_BLOCK = 256


class TreeGrowth(NamedTuple):
    """A tree with new labels, and what it has to do with the one before; see `grow_tree`.

    Attributes
    ----------
    tree : LabelTree
        The tree with the new labels.
    old_tree : LabelTree
        The tree without them.
    new_number : ndarray of shape (n_nodes of old_tree,)
        The number of each old node in ``tree``.
    touched : ndarray of int
        Inner nodes of ``tree`` below which the set of labels is another.
    """

    tree: LabelTree
    old_tree: LabelTree
    new_number: np.ndarray
    touched: np.ndarray


def grow_tree(
    tree, Z, *, max_leaf=100, max_depth=None, arity=2, clustering="bisect", random_state=None
):
    """Put labels into a tree that it does not have yet.

    A new label goes from the root to the child whose mean label feature is most similar (cosine),
    down to a node whose children are labels, and becomes one of them. A label without features goes
    where there are the fewest labels.

    Parameters
    ----------
    tree : LabelTree
        The tree without them; it is not changed.
    Z : csr_array of shape (n_labels, n_features)
        Features of all labels, those of the tree first, l2-normalised.
    max_leaf, max_depth, arity, clustering, random_state : as in `build_tree`
        A node that gets new labels and then has more than ``2 * max_leaf`` is
        clustered again, into nodes below it, as far as ``max_depth`` allows.

    Returns
    -------
    TreeGrowth
        The new tree, and what became of the nodes of the old one.

    Raises
    ------
    ValueError
        If ``Z`` has no more rows than the tree has labels.

    Notes
    -----
    Time and memory: one sparse product of all label features with the path of each label.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.label_space import build_tree, grow_tree
    >>> Z = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32))
    >>> tree = build_tree(Z[:4], arity=2, max_leaf=2, random_state=0)
    >>> grown = grow_tree(tree, Z, max_leaf=2).tree
    >>> grown.path(4)[:-1].tolist() == grown.path(3)[:-1].tolist()
    True
    """
    n_old, n_labels = tree.n_labels, Z.shape[0]
    if n_labels <= n_old:
        raise ValueError(
            f"Z must have more rows than the tree has labels ({n_old}), got {n_labels}."
        )
    cluster = _places(tree, Z)
    parent = np.concatenate([tree.parent, cluster])
    label = np.concatenate([tree.label, np.arange(n_old, n_labels, dtype=np.int32)])
    is_leaf = label >= 0
    sizes = np.bincount(parent[is_leaf], minlength=tree.n_nodes)
    before = np.bincount(tree.parent[tree.label >= 0], minlength=tree.n_nodes)
    changed = [np.arange(n_old, n_labels)]
    for v in np.flatnonzero((sizes > 2 * max_leaf) & (sizes > before)):
        depth_below = None if max_depth is None else max_depth - int(tree.depth[v])
        if depth_below is not None and depth_below < 2:
            continue
        leaves = np.flatnonzero(is_leaf & (parent == v))
        members = label[leaves]
        below = build_tree(
            Z[members],
            arity=arity,
            max_leaf=max_leaf,
            max_depth=depth_below,
            clustering=clustering,
            random_state=random_state,
        )
        inner = np.flatnonzero(below.label < 0)
        number = np.full(below.n_nodes, -1)
        number[inner[1:]] = len(parent) + np.arange(len(inner) - 1)
        number[0] = v
        parent[leaves] = number[below.parent[below.leaf_of]]
        parent = np.concatenate([parent, number[below.parent[inner[1:]]]])
        label = np.concatenate([label, np.full(len(inner) - 1, -1, np.int32)])
        is_leaf = label >= 0
        changed.append(members)
    grown = LabelTree.from_parents(parent, label)
    touched = np.zeros(grown.n_nodes, bool)
    nodes = np.unique(grown.parent[grown.leaf_of[np.concatenate(changed)]])
    while len(nodes):
        touched[nodes] = True
        nodes = np.unique(grown.parent[nodes])
        nodes = nodes[nodes >= 0]
    return TreeGrowth(grown, tree, _new_numbers(tree, grown), np.flatnonzero(touched))


def _places(tree, Z):
    """The node that each new label is put under."""
    n_old = tree.n_labels
    inner = np.flatnonzero(tree.label < 0)
    row_of = np.full(tree.n_nodes, -1)
    row_of[inner] = np.arange(len(inner))
    # labels below each inner node
    nodes, labels = [], []
    at, who = tree.parent[tree.leaf_of], np.arange(n_old)
    while len(at):
        nodes.append(row_of[at])
        labels.append(who)
        at = tree.parent[at]
        at, who = at[at >= 0], who[at >= 0]
    nodes, labels = np.concatenate(nodes), np.concatenate(labels)
    below = sp.csr_array(
        (np.ones(len(nodes), np.float32), (nodes, labels)), shape=(len(inner), n_old)
    )
    means = sp.csr_array(below @ Z[:n_old])
    norms = np.sqrt(np.asarray(means.multiply(means).sum(axis=1)).ravel())
    norms[norms == 0] = 1
    directions = sp.csr_array(sp.diags_array(1 / norms) @ means).T.tocsr()
    n_below = below.sum(axis=1)
    children = [
        [c for c in range(tree.child_start[v], tree.child_start[v + 1]) if tree.label[c] < 0]
        for v in inner
    ]
    places = np.empty(Z.shape[0] - n_old, dtype=np.int64)
    for first in range(n_old, Z.shape[0], _BLOCK):
        similarity = (Z[first : first + _BLOCK] @ directions).toarray()
        for q, row in enumerate(similarity):
            v = 0
            n_below[0] += 1
            while children[row_of[v]]:
                options = row_of[children[row_of[v]]]
                # the most similar; of equal ones the one with the fewest labels
                best = np.lexsort((n_below[options], -row[options]))[0]
                v = inner[options[best]]
                n_below[options[best]] += 1
            places[first - n_old + q] = v
    return places


def _new_numbers(old, new):
    """The node of ``new`` above the same labels, for each node of ``old``."""
    number = np.empty(old.n_nodes, dtype=np.int64)
    # a label below each node: children have larger numbers than their parent
    witness = old.label.copy()
    for v in range(old.n_nodes - 1, 0, -1):
        if witness[old.parent[v]] < 0:
            witness[old.parent[v]] = witness[v]
    is_leaf = old.label >= 0
    number[is_leaf] = new.leaf_of[old.label[is_leaf]]
    inner = np.flatnonzero(~is_leaf)
    at = new.leaf_of[witness[inner]]
    while True:
        deeper = new.depth[at] > old.depth[inner]
        if not deeper.any():
            break
        at = np.where(deeper, new.parent[at], at)
    number[inner] = at
    return number
