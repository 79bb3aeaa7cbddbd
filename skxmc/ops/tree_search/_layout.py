"""From the stored arrays of a tree to those that are searched, and their checks."""

from typing import NamedTuple

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.ops._jit import jit
from skxmc.ops._lanes import aligned_zeros
from skxmc.ops.tree_search import _kernels
from skxmc.ops.tree_search._simd import LANES
from skxmc.ops.tree_search._types import LINKS, TreeWeights

_INT32_MAX = np.iinfo(np.int32).max
#: A feature with weights for this share of the children, in whole blocks, becomes a dense row.
_DENSE_SHARE = 1 / 8


class SearchTree(NamedTuple):
    """A label tree and its weights as they are searched; made by `prepare_search`.

    Attributes
    ----------
    n_features, n_labels, n_nodes, n_inner, max_children, max_depth : int
        ``max_depth`` is the depth of the deepest leaf, the root having the depth 0.
    link : int
        Position of the link in ``LINKS``.
    arrays : tuple of ndarray
        What the kernels take: ``child_start, chunk_indptr, row_feature, row_indptr, child, weight,
        bias, shift, bucket_indptr, bucket, label, dense_row, dense``. Read-only; those stored share
        memory with what was given. Then ``checked``, what is known of the chunk of each node, which
        searches write to, and ``n_features``.
    parent : ndarray of shape (n_nodes,), int32
        -1 for the root.
    leaf_of : ndarray of shape (n_labels,), int32
        The leaf of each label.
    min_label : ndarray of shape (n_nodes,), int32
        The smallest label at or below a node.
    """

    n_features: int
    n_labels: int
    n_nodes: int
    n_inner: int
    max_children: int
    max_depth: int
    link: int
    arrays: tuple
    parent: np.ndarray
    leaf_of: np.ndarray
    min_label: np.ndarray

    @property
    def nbytes(self):
        """Bytes held, those shared with the stored arrays included."""
        mine = (self.parent, self.leaf_of, self.min_label)
        return sum(array.nbytes for array in (*self.arrays, *mine))


def frozen(*arrays):
    """Read-only views: Numba compiles one version, whether an array was writable or not."""
    views = [array.view(np.ndarray) for array in arrays]
    for view in views:
        view.flags.writeable = False
    return tuple(views)


@jit
def _check_tree(child_start, label, found):
    """Return the first node where the tree is wrong, or -1; `found` gets the leaf of each label."""
    n_nodes = len(label)
    if child_start[0] != 1 or child_start[n_nodes] != n_nodes:
        return 0
    for v in range(n_nodes):
        # Children come after their parent, so that every walk ends.
        if child_start[v + 1] < child_start[v] or child_start[v] <= v < n_nodes - 1:
            return v
        is_leaf = child_start[v + 1] == child_start[v]
        if is_leaf != (label[v] >= 0) or label[v] < -1 or label[v] >= len(found):
            return v
        if is_leaf:
            if found[label[v]] >= 0:
                return v
            found[label[v]] = v
    return -1


@jit
def _check_rows(child_start, chunk_indptr, row_feature, row_indptr, child, n_features):
    """Check all but the order within rows: `(first wrong node or -1, descents)`.

    A descent is a row that begins with a child not above the last one of the row before.
    """
    descents, last_child = 0, np.int64(-1)  # the first entry of all is no descent
    if chunk_indptr[0] != 0 or row_indptr[0] != 0 or row_indptr[len(row_feature)] != len(child):
        return 0, 0
    for v in range(len(chunk_indptr) - 1):
        n_children = child_start[v + 1] - child_start[v]
        begin, end = chunk_indptr[v], chunk_indptr[v + 1]
        if end < begin or end > len(row_feature) or (end > begin and n_children == 0):
            return v, 0
        previous = np.int64(-1)
        for r in range(np.uint64(begin), np.uint64(end)):
            feature = np.int64(row_feature[r])
            first, last = row_indptr[r], row_indptr[r + np.uint64(1)]
            if feature <= previous or last < first or last > len(child):
                return v, 0
            previous = feature
            if first < last:
                if child[np.uint64(first)] < 0:
                    return v, 0
                descents += np.int64(child[np.uint64(first)]) <= last_child
                last_child = np.int64(child[np.uint64(last - 1)])
                if last_child >= n_children:
                    return v, 0
        if previous >= n_features:
            return v, 0
    if chunk_indptr[len(chunk_indptr) - 1] != len(row_feature):
        return len(chunk_indptr) - 2, 0
    return -1, descents


@jit
def _count_descents(child):
    descents = 0
    for q in range(1, len(child)):
        descents += child[q] <= child[q - 1]
    return descents


@jit
def _all_finite(values):
    n_wrong = 0
    for q in range(len(values)):
        n_wrong += not abs(values[q]) < np.inf
    return n_wrong == 0


@jit
def _fill_buckets(chunk_indptr, row_feature, shift, bucket_indptr, bucket):
    """Note for each chunk where in it the features from b * 2**shift begin.

    `bucket` comes filled with its largest value. Without branches, which could not be predicted.
    """
    for v in range(len(shift)):
        begin, end = chunk_indptr[v], chunk_indptr[v + 1]
        if begin == end:
            continue
        width, first = np.int64(shift[v]), bucket_indptr[v]
        for r in range(end - 1, begin - 1, -1):
            bucket[np.uint64(first + (row_feature[np.uint64(r)] >> width))] = r
        following = np.uint32(end)
        for b in range(bucket_indptr[v + 1] - 1, first - 1, -1):
            following = min(following, bucket[np.uint64(b)])
            bucket[np.uint64(b)] = following


@jit
def _choose_dense(child_start, chunk_indptr, row_indptr, share, dense_row):
    """Number the first block of each row that becomes dense; return the number of blocks."""
    n_blocks = np.int64(0)
    for v in range(len(chunk_indptr) - 1):
        width = (child_start[v + 1] - child_start[v] + (LANES - 1)) // LANES
        for r in range(chunk_indptr[v], chunk_indptr[v + 1]):
            is_dense = row_indptr[r + 1] - row_indptr[r] >= share * width
            dense_row[r] = n_blocks if is_dense else -1
            n_blocks += width if is_dense else 0
    return n_blocks


@jit
def _fill_dense(row_indptr, child, weight, dense_row, dense):
    for r in range(len(dense_row)):
        if dense_row[r] >= 0:
            first = np.int64(dense_row[r]) * LANES
            for q in range(row_indptr[r], row_indptr[r + 1]):
                dense[first + child[q]] = weight[q]


@jit
def _derive(child_start, label, parent, depth, min_label):
    n_nodes = len(label)
    parent[0], depth[0] = -1, 0
    for v in range(n_nodes):
        min_label[v] = label[v] if label[v] >= 0 else _INT32_MAX
        for c in range(child_start[v], child_start[v + 1]):
            parent[c] = v
            depth[c] = depth[v] + 1
    for v in range(n_nodes - 1, 0, -1):
        if min_label[v] < min_label[parent[v]]:
            min_label[parent[v]] = min_label[v]


def _require(array, name, dtypes, shape):
    array = np.asarray(array)
    if array.dtype not in [np.dtype(d) for d in dtypes] or array.shape != shape:
        wanted = " or ".join(np.dtype(d).name for d in dtypes)
        raise ValueError(
            f"{name} must be a {wanted} array of shape {shape}; got {array.dtype} {array.shape}."
        )
    return np.ascontiguousarray(array)


def _length(array, name):
    if np.ndim(array) != 1 or len(array) == 0:
        raise ValueError(f"{name} must be a one-dimensional array that is not empty.")
    return len(array)


def check_tree_arrays(child_start, label, weights, n_features):
    """Refuse arrays of a tree that a search could not rely on.

    Parameters
    ----------
    child_start : ndarray of shape (n_nodes + 1,), int32
        The children of node v are ``child_start[v] .. child_start[v + 1] - 1``; nodes are numbered
        breadth first.
    label : ndarray of shape (n_nodes,), int32
        The label of a leaf, -1 for an inner node.
    weights : TreeWeights
    n_features : int

    Returns
    -------
    tuple
        ``child_start, label, weights, leaf_of`` as contiguous arrays, the last of shape
        (n_labels,), int32.

    Raises
    ------
    ValueError
        If a dtype or shape is wrong, an index is out of range or not ascending, a label is missing
        or at two leaves, a weight is not finite or a bias is NaN or inf.

    Notes
    -----
    One pass over all arrays.
    """
    n_nodes = _length(label, "label")
    child_start = _require(child_start, "child_start", [np.int32], (n_nodes + 1,))
    label = _require(label, "label", [np.int32], (n_nodes,))
    n_labels = int(np.count_nonzero(label >= 0))
    leaf_of = np.full(n_labels, -1, dtype=np.int32)
    wrong = _check_tree(*frozen(child_start, label), leaf_of)
    if wrong >= 0:
        raise ValueError(
            f"The label tree is corrupt at node {wrong}: nodes must be numbered breadth first, "
            "each leaf must have a label of its own, labels must be 0, 1, ... without gaps."
        )
    if not 0 <= n_features <= _INT32_MAX:
        raise ValueError(f"n_features must be from 0 to {_INT32_MAX}; got {n_features}.")
    n_rows = len(np.atleast_1d(weights.row_feature))
    n_entries = len(np.atleast_1d(weights.weight))
    weights = type(weights)(
        _require(weights.chunk_indptr, "chunk_indptr", [np.int64], (n_nodes + 1,)),
        _require(weights.row_feature, "row_feature", [np.int32], (n_rows,)),
        _require(weights.row_indptr, "row_indptr", [np.int64], (n_rows + 1,)),
        _require(weights.child, "child", [np.uint16, np.int32], (n_entries,)),
        _require(weights.weight, "weight", [np.float32], (n_entries,)),
        _require(weights.bias, "bias", [np.float32], (n_nodes,)),
    )
    if n_rows > np.iinfo(np.uint32).max:
        raise ValueError(f"At most 2**32 - 1 feature rows are supported; got {n_rows}.")
    checked = frozen(child_start, *weights[:5])
    wrong, descents = _check_rows(*checked[:5], int(n_features))
    if wrong >= 0:
        raise ValueError(
            f"The weights of the children of node {wrong} are corrupt: index arrays must ascend "
            f"and stay in range, features from 0 to {n_features - 1}."
        )
    if _count_descents(checked[4]) != descents:
        raise ValueError("The weights of the tree are corrupt: the children of a row must ascend.")
    if not _all_finite(checked[5]):
        raise ValueError("The weights of the tree are corrupt: they must be finite.")
    bad_bias = ~(weights.bias < np.inf)
    bad_bias[0] = False
    if bad_bias.any():
        node = int(np.argmax(bad_bias))
        raise ValueError(f"bias of node {node} is {weights.bias[node]}.")
    return child_start, label, weights, leaf_of


def prepare_search(child_start, label, weights, n_features, link):
    """Check the arrays of a tree and add what the search needs.

    Parameters
    ----------
    child_start, label, weights, n_features
        As for `check_tree_arrays`. The weights are used as they are, also if read-only or
        memory-mapped. Nodes may lack weights.
    link : {"logistic", "l1-hinge", "l2-hinge", "l3-hinge"}
        Log-probability of a node given its parent, s being its score: ``-log(1 + exp(-s))``,
        ``-max(0, 1 - s)``, ``-max(0, 1 - s)**2`` or ``-max(0, 1 - s)**3``.

    Returns
    -------
    SearchTree

    Raises
    ------
    ValueError
        If ``link`` is unknown, or the arrays are corrupt: see `check_tree_arrays`.

    Notes
    -----
    One pass over the weights. The result shares the memory of the weights; new are up to 4 bytes
    a feature row and about 25 bytes a node.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}; got {link!r}.")
    child_start, label, weights, leaf_of = check_tree_arrays(
        child_start, label, weights, n_features
    )
    n_nodes = len(label)
    rows = np.diff(weights.chunk_indptr)
    # The finest buckets that are no more than the rows of the chunk.
    shift = np.zeros(n_nodes, dtype=np.int64)
    last_feature = max(int(n_features) - 1, 0)
    for bits in range(31):
        coarser = (last_feature >> shift) + 1 > np.maximum(rows, 1)
        if not coarser.any():
            break
        shift[coarser] = bits + 1
    n_buckets = np.where(rows > 0, (last_feature >> shift) + 2, 0)
    bucket_indptr = np.zeros(n_nodes + 1, dtype=np.int64)
    np.cumsum(n_buckets, out=bucket_indptr[1:])
    bucket = np.full(bucket_indptr[-1], np.iinfo(np.uint32).max, dtype=np.uint32)
    shift = shift.astype(np.uint8)
    _fill_buckets(
        *frozen(weights.chunk_indptr, weights.row_feature),
        *(*frozen(shift, bucket_indptr), bucket),
    )
    dense_row = np.empty(len(weights.row_feature), dtype=np.int32)
    n_blocks = _choose_dense(
        *frozen(child_start, weights.chunk_indptr, weights.row_indptr),
        *(_DENSE_SHARE * LANES, dense_row),
    )
    if n_blocks > _INT32_MAX:  # 128 GiB of them
        dense_row[:], n_blocks = -1, 0
    dense = aligned_zeros((n_blocks * LANES,))
    _fill_dense(*frozen(*weights[2:5], dense_row), dense)
    arrays = (child_start, *weights, shift, bucket_indptr, bucket, label, dense_row, dense)
    return _search_tree(arrays, leaf_of, n_features, link, _kernels.SOUND)


def _search_tree(arrays, leaf_of, n_features, link, state):
    child_start, label = arrays[0], arrays[10]
    n_nodes = len(label)
    parent, depth, min_label = (np.empty(n_nodes, dtype=np.int32) for _ in range(3))
    _derive(*frozen(child_start, label), parent, depth, min_label)
    checked = np.full(n_nodes, state, dtype=np.uint8)
    return SearchTree(
        n_features=int(n_features),
        n_labels=len(leaf_of),
        n_nodes=n_nodes,
        n_inner=n_nodes - len(leaf_of),
        max_children=int(np.diff(child_start).max()),
        max_depth=int(depth.max()),
        link=LINKS.index(link),
        arrays=(*frozen(*arrays), checked, np.int64(n_features)),
        parent=parent,
        leaf_of=leaf_of,
        min_label=min_label,
    )


#: The arrays of a `SearchTree` that a file holds beside ``child_start`` and ``label``.
STORED = (*TreeWeights._fields, "shift", "bucket_indptr", "bucket", "dense_row", "dense")


def stored_arrays(tree):
    """Return the arrays of a tree that a file has to hold for `mapped_search`.

    Parameters
    ----------
    tree : SearchTree
        From `prepare_search`.

    Returns
    -------
    dict of str to ndarray
        By the names in ``STORED``; not copied.
    """
    arrays = (*tree.arrays[1:10], *tree.arrays[11:13])
    return dict(zip(STORED, arrays, strict=True))


def mapped_search(child_start, label, arrays, n_features, link):
    """Make a tree of arrays that come from a file, without reading the weights.

    Parameters
    ----------
    child_start, label, n_features, link
        As for `prepare_search`.
    arrays : dict of str to ndarray
        As `stored_arrays` returned them; read-only or memory-mapped too.

    Returns
    -------
    SearchTree
        On these arrays. The chunk of a node is checked when a search first comes to the node:
        features and children ascending and in range, weights finite, buckets and dense rows those
        of the chunk. Every search raises `ModelFormatError` where they are not, before anything of
        the chunk is used.

    Raises
    ------
    ModelFormatError
        If an array by node is wrong, or they do not fit together.

    Notes
    -----
    Time and memory O(nodes); a check costs one pass over the chunk, once.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    try:
        return _mapped_search(child_start, label, arrays, n_features, link)
    except ValueError as error:
        raise ModelFormatError(f"The label tree is damaged: {error}") from error


def _mapped_search(child_start, label, arrays, n_features, link):
    if not isinstance(arrays, dict) or set(arrays) != set(STORED):
        raise ValueError(f"a tree that is searched has the arrays {', '.join(STORED)}.")
    n_nodes = _length(label, "label")
    child_start = _require(child_start, "child_start", [np.int32], (n_nodes + 1,))
    label = _require(label, "label", [np.int32], (n_nodes,))
    leaf_of = np.full(int(np.count_nonzero(label >= 0)), -1, dtype=np.int32)
    if _check_tree(*frozen(child_start, label), leaf_of) >= 0:
        raise ValueError("its nodes are not numbered breadth first, or labels are missing.")
    if not 0 <= n_features <= _INT32_MAX:
        raise ValueError(f"n_features must be from 0 to {_INT32_MAX}; got {n_features}.")
    n_rows, n_entries = np.size(arrays["row_feature"]), np.size(arrays["weight"])
    shapes = {
        "chunk_indptr": ([np.int64], (n_nodes + 1,)),
        "row_feature": ([np.int32], (n_rows,)),
        "row_indptr": ([np.int64], (n_rows + 1,)),
        "child": ([np.uint16, np.int32], (n_entries,)),
        "weight": ([np.float32], (n_entries,)),
        "bias": ([np.float32], (n_nodes,)),
        "shift": ([np.uint8], (n_nodes,)),
        "bucket_indptr": ([np.int64], (n_nodes + 1,)),
        "bucket": ([np.uint32], (np.size(arrays["bucket"]),)),
        "dense_row": ([np.int32], (n_rows,)),
        "dense": ([np.float32], (np.size(arrays["dense"]) // LANES * LANES,)),
    }
    arrays = {name: _require(arrays[name], name, *shapes[name]) for name in STORED}
    chunk_indptr, bias = arrays["chunk_indptr"], arrays["bias"]
    shift, bucket_indptr = arrays["shift"], arrays["bucket_indptr"]
    rows = np.diff(chunk_indptr)
    if chunk_indptr[0] != 0 or chunk_indptr[-1] != n_rows or rows.min() < 0:
        raise ValueError(f"chunk_indptr does not rise from 0 to the {n_rows} feature rows.")
    if n_rows > np.iinfo(np.uint32).max or rows[label >= 0].any():
        raise ValueError("there are too many feature rows, or some at a leaf.")
    n_buckets = (max(int(n_features) - 1, 0) >> np.minimum(shift, 31).astype(np.int64)) + 2
    n_buckets = np.where(rows > 0, n_buckets, 0)
    wrong = bucket_indptr[0] != 0 or bucket_indptr[-1] != len(arrays["bucket"])
    if wrong or shift.max() > 31 or (np.diff(bucket_indptr) != n_buckets).any():
        raise ValueError("shift and bucket_indptr do not fit.")
    if not (bias[1:] < np.inf).all():
        raise ValueError("bias has values that are NaN or infinite.")
    weights = (arrays[name] for name in TreeWeights._fields)
    others = (shift, bucket_indptr, arrays["bucket"], label, arrays["dense_row"], arrays["dense"])
    return _search_tree(
        (child_start, *weights, *others), leaf_of, n_features, link, _kernels.UNKNOWN
    )


def check_search(tree, nodes=None):
    """Check the chunks of some nodes or of all; see `mapped_search`.

    Parameters
    ----------
    tree : SearchTree
        What to check.
    nodes : int array, default=None
        Numbers of the nodes; None are all.

    Raises
    ------
    ModelFormatError
        If a chunk is damaged.
    """
    nodes = np.arange(tree.n_nodes) if nodes is None else np.asarray(nodes, dtype=np.int64)
    _kernels.check_nodes(*frozen(nodes), tree.arrays)
    raise_if_damaged(tree)


def raise_if_damaged(tree):
    """Raise ModelFormatError if a search has come to a chunk that is damaged."""
    damaged = np.flatnonzero(tree.arrays[13] == _kernels.DAMAGED)
    if len(damaged):
        raise ModelFormatError(
            f"The weights of the children of node {damaged[0]} are damaged: index arrays must "
            f"ascend and stay in range, features from 0 to {tree.n_features - 1}, and weights must "
            "be finite."
        )
