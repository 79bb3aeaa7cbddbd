"""Label trees by recursive spherical k-means on label features."""

import numbers

import numpy as np
from sklearn.utils import check_random_state

from skxmc._parallel import effective_n_jobs, map_chunks
from skxmc.label_space._tree import LabelTree
from skxmc.ops.csr import canonical_csr
from skxmc.ops.spherical_kmeans import balanced_bisection, compact_rows, spherical_kmeans

_CLUSTERINGS = ("bisect", "balanced", "unbalanced")

# Smaller clusters are merged into their nearest neighbour, as omikuji does.
_MIN_CLUSTER = 2


def build_tree(
    Z,
    *,
    arity=2,
    max_leaf=100,
    max_depth=None,
    clustering="bisect",
    order=None,
    keep=1.0,
    random_state=None,
    n_jobs=None,
):
    """Build a label tree by clustering label features from the root down.

    Parameters
    ----------
    Z : sparse array or matrix of shape (n_labels, n_features)
        Label features with rows of length one, or empty; see `label_features`.
    arity : int, default=2
        Children of a node above the last clusters: the number of clusters that a node is cut into
        (for "unbalanced": at most). At least 2, for "bisect" a power of two.
    max_leaf : int, default=100
        A node with at most that many labels is not cut further: its labels are its children.
    max_depth : int, default=None
        Largest depth of a leaf; 1 puts all labels under the root. A node of depth ``max_depth - 1``
        becomes the parent of its labels however many there are. None sets no limit.
    clustering : {"bisect", "balanced", "unbalanced"}, default="bisect"
        ``"bisect"`` halves all clusters by balanced spherical 2-means until none has more than
        ``max_leaf`` labels, then leaves out levels of this binary tree so that ``arity`` children
        remain; an odd remainder of levels goes to the top. With ``arity=2`` it is the tree of
        Parabel, with 16 that of XR-Linear: 36,874 labels give layers of 2, 32 and 512 clusters.
        ``"balanced"`` cuts a node of more than ``max_leaf`` labels into ``arity`` clusters whose
        sizes differ by at most one.
        ``"unbalanced"`` does so by spherical k-means, the tree of Bonsai: clusters of any size,
        those of a single label merged into their nearest neighbour.
    order : array-like of shape (n_labels,), default=None
        Labels that are siblings are put in falling order of these numbers, such as their
        frequencies. None sorts them by number.
    keep : float, default=1.0
        Share of the squared length of a label's features on which it is clustered, in (0, 1]: its
        smallest features are left out as long as this share remains. With 0.6 (one feature in
        seven of PIFA vectors of text) a tree is built two to three times as fast, but predicts
        worse: P@3 by 0.4 and PSP@5 by 0.9 points (XR-Linear, 1,966 labels, mean of three seeds).
    random_state : int, RandomState instance or None, default=None
        Seed of the random starts of k-means. An int makes the tree reproducible.
    n_jobs : int or None, default=None
        Number of threads; the tree does not depend on it.

    Returns
    -------
    LabelTree
        Every inner node has at least two children, except that the root of a single label has one.
        Labels without features are dealt out to clusters.

    Raises
    ------
    ValueError
        If a parameter is out of range, ``Z`` has no rows, or ``order`` does not fit.
    TypeError
        If ``Z`` is not sparse.

    See Also
    --------
    label_features : Z from training data or label text.

    Notes
    -----
    Time O(stored entries * log(n_labels / max_leaf)) for the balanced trees, and
    O(stored entries * arity * depth) for the unbalanced one, times the rounds of k-means. Memory:
    about 16 bytes a kept entry, and for "unbalanced" centroids of 4 bytes a feature and cluster.

    References
    ----------
    Y. Prabhu et al. Parabel. WWW 2018. https://doi.org/10.1145/3178876.3185998
    S. Khandagale, H. Xiao, R. Babbar. Bonsai: Diverse and shallow trees for extreme multi-label
    classification. Machine Learning, 2020. https://doi.org/10.1007/s10994-020-05888-2
    J. Zhang et al. Fast multi-resolution transformer fine-tuning for extreme multi-label text
    classification. NeurIPS 2021, section 3. https://arxiv.org/abs/2110.00685

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.label_space import build_tree
    >>> Z = sp.csr_array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, 1.0]])
    >>> print(build_tree(Z, max_leaf=2, random_state=0).export_text())
    root (4 labels)
    |-- node 1 (2 labels)
    |   |-- label 1
    |   `-- label 3
    `-- node 2 (2 labels)
        |-- label 0
        `-- label 2
    """
    Z = canonical_csr(Z, name="Z")
    n_labels = Z.shape[0]
    if n_labels < 1:
        raise ValueError("Z has no rows: a tree needs at least one label.")
    if clustering not in _CLUSTERINGS:
        raise ValueError(f"clustering must be one of {_CLUSTERINGS}, got {clustering!r}.")
    arity = _check_int(arity, "arity", 2)
    max_leaf = _check_int(max_leaf, "max_leaf", 1)
    max_depth = n_labels if max_depth is None else _check_int(max_depth, "max_depth", 1)
    if clustering == "bisect" and arity & (arity - 1):
        raise ValueError(
            f"clustering='bisect' needs an arity that is a power of two, got {arity}; "
            "clustering='balanced' takes any."
        )
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"keep must be in (0, 1], got {keep!r}.")
    leaves = _leaf_order(order, n_labels)
    seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    n_jobs = effective_n_jobs(n_jobs)
    if n_labels <= max_leaf or max_depth == 1:
        cluster_parent, cluster = np.array([-1]), np.zeros(n_labels, dtype=np.int64)
    else:
        rows = compact_rows(Z.data, Z.indices, Z.indptr, Z.shape[1], keep=keep, n_jobs=n_jobs)
        if clustering == "bisect":
            layers = _bisection_layers(n_labels, arity, max_leaf)[: max_depth - 1]
            cluster_parent, cluster = _bisect(rows, layers, seed, n_jobs)
        else:
            cluster_parent, cluster = _cut_recursively(
                rows, arity, max_leaf, max_depth, clustering == "balanced", seed, n_jobs
            )
    return _make_tree(cluster_parent, cluster, leaves)


def _check_int(value, name, minimum):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return int(value)


def _leaf_order(order, n_labels):
    """The labels in the order in which siblings are to stand."""
    if order is None:
        return np.arange(n_labels)
    order = np.asarray(order)
    if order.shape != (n_labels,) or order.dtype.kind not in "iuf":
        raise ValueError(
            f"order must hold a number for each of the {n_labels} labels, got the shape "
            f"{order.shape} and the dtype {order.dtype}."
        )
    if order.dtype.kind == "f" and np.isnan(order).any():
        raise ValueError(f"order is NaN for label {int(np.argmax(np.isnan(order)))}.")
    return np.lexsort((np.arange(n_labels), -order.astype(np.float64)))


def _bisection_layers(n_labels, arity, max_leaf):
    """The levels of the binary tree that become layers of the label tree, top down."""
    depth = 0
    # A cluster without a label must not arise, so there are at most as many as labels.
    while max_leaf * 2**depth < n_labels and 2 ** (depth + 1) <= n_labels:
        depth += 1
    return list(range(depth, 0, -(arity.bit_length() - 1)))[::-1]


def _bisect(rows, layers, seed, n_jobs):
    """Return the parent of each cluster, the root first, and the cluster of each label."""
    labels, bounds = balanced_bisection(rows, 2 ** layers[-1], seed=seed, n_jobs=n_jobs)
    parent, n_above = [np.array([-1])], 0
    for above, below in zip([0, *layers], layers):
        parent.append(n_above + (np.arange(2**below) >> (below - above)))
        n_above += 2**above
    cluster = np.empty(len(labels), dtype=np.int64)
    cluster[labels] = n_above + np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return np.concatenate(parent), cluster


def _cut_recursively(rows, arity, max_leaf, max_depth, balanced, seed, n_jobs):
    """Return the parent of each cluster, the root first, and the cluster of each label."""
    n_labels = len(rows.indptr) - 1
    parent = [-1]
    cluster = np.empty(n_labels, dtype=np.int64)
    level = [(0, np.arange(n_labels, dtype=np.int32))]
    for depth in range(max_depth):
        to_cut = []
        for node, labels in level:
            if len(labels) <= max_leaf or depth == max_depth - 1:
                cluster[labels] = node
            else:
                to_cut.append((node, labels))
        if not to_cut:
            break
        threads_inside = n_jobs if len(to_cut) == 1 else 1

        def cut(item, n_threads=threads_inside):
            node, labels = item
            # The number of a node depends on the levels above alone, so no thread can change it.
            node_seed = int(np.random.SeedSequence([seed, node]).generate_state(1, np.uint64)[0])
            return _cut(rows, labels, arity, balanced, node_seed, n_threads)

        next_level = []
        parts = map_chunks(cut, to_cut, n_jobs)
        for (node, _), children in zip(to_cut, parts):
            for labels in children:
                if len(labels) == 1:  # a cluster of one label is the label itself
                    cluster[labels] = node
                else:
                    next_level.append((len(parent), labels))
                    parent.append(node)
        level = next_level
    return np.array(parent), cluster


def _cut(rows, labels, arity, balanced, seed, n_threads):
    """Cut the labels of a node into at least two parts."""
    n_clusters = max(2, min(arity, len(labels) // _MIN_CLUSTER))
    if balanced:
        order, bounds = balanced_bisection(
            rows, n_clusters, subset=labels, seed=seed, n_jobs=n_threads
        )
    else:
        order, bounds = spherical_kmeans(
            rows, n_clusters, subset=labels, seed=seed, min_size=_MIN_CLUSTER
        )
    if len(bounds) < 3:  # all labels alike: cut by number, which at least ends
        return np.array_split(labels, n_clusters)
    return np.split(order, bounds[1:-1])


def _make_tree(cluster_parent, cluster, leaves):
    parent = np.concatenate([cluster_parent, cluster[leaves]])
    label = np.concatenate([np.full(len(cluster_parent), -1), leaves])
    # A cluster of one label is the label itself.
    n_children = np.bincount(parent[1:], minlength=len(parent))
    only_child = np.zeros(len(parent), dtype=bool)
    only_child[1:] = (n_children[parent[1:]] == 1) & (parent[1:] > 0) & (label[1:] >= 0)
    if only_child.any():
        label[parent[only_child]] = label[only_child]
        keep = ~only_child
        number = np.cumsum(keep) - 1
        parent, label = parent[keep], label[keep]
        parent[1:] = number[parent[1:]]
    return LabelTree.from_parents(parent, label)
