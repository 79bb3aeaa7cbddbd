"""Weights of a tree: one node's, and the compact form in which they are stored."""

import numpy as np

from skxmc.ops.tree_search import TreeWeights


def node_weights(weights, parent, position):
    """Features and weights of one child of a node."""
    rows = slice(weights.chunk_indptr[parent], weights.chunk_indptr[parent + 1])
    indptr = weights.row_indptr[rows.start : rows.stop + 1]
    entries = slice(indptr[0], indptr[-1])
    chosen = weights.child[entries] == position
    features = np.repeat(weights.row_feature[rows], np.diff(indptr))
    return features[chosen], weights.weight[entries][chosen]


def edge_log_probability(score, link):
    """Logarithm of an edge's probability: see the parameter ``link`` of `ParabelTree`."""
    if link == "logistic":
        return -np.logaddexp(0.0, -score)
    return -(max(0.0, 1.0 - score) ** int(link[1]))


def pack_weights(tree, weights):
    """The arrays of ``weights`` for storage: (index, weight), both dicts.

    Lengths and distances instead of offsets and features, each in the smallest unsigned integer
    that holds them: the rows of a chunk, the entries of a row, a row's distance to the feature
    before it in the chunk, and the child.
    """
    steps = np.diff(weights.row_feature, prepend=np.int32(0))
    first = weights.chunk_indptr[:-1][np.diff(weights.chunk_indptr) > 0]
    steps[first] = weights.row_feature[first]
    inner = tree.label < 0
    index = {
        "chunk_lengths": _smallest(np.diff(weights.chunk_indptr)[inner]),
        "row_lengths": _smallest(np.diff(weights.row_indptr)),
        "feature_steps": _smallest(steps),
        "child": _smallest(weights.child),
        "bias": weights.bias,
    }
    return index, {"weight": weights.weight}


def unpack_weights(tree, index, weight):
    """Inverse of `pack_weights`; shapes are checked here, values by `check_tree_arrays`."""
    inner = np.flatnonzero(tree.label < 0)
    if len(index["chunk_lengths"]) != len(inner):
        raise ValueError(
            f"chunk_lengths has {len(index['chunk_lengths'])} values for {len(inner)} inner nodes"
        )
    chunk_lengths = np.zeros(tree.n_nodes, np.int64)
    chunk_lengths[inner] = index["chunk_lengths"]
    chunk_indptr = np.concatenate(([0], np.cumsum(chunk_lengths)))
    row_indptr = np.concatenate(([0], np.cumsum(index["row_lengths"], dtype=np.int64)))
    n_rows, n_entries = len(row_indptr) - 1, len(weight["weight"])
    if chunk_indptr[-1] != n_rows or len(index["feature_steps"]) != n_rows:
        raise ValueError("chunk_lengths, row_lengths and feature_steps do not fit together")
    if row_indptr[-1] != n_entries or len(index["child"]) != n_entries:
        raise ValueError("row_lengths, child and weight do not fit together")
    # sums of steps from the beginning of each chunk
    total = np.concatenate(([0], np.cumsum(index["feature_steps"], dtype=np.int64)))
    row_feature = total[1:] - np.repeat(total[chunk_indptr[:-1]], chunk_lengths)
    if n_rows and not 0 <= row_feature.min() <= row_feature.max() < 2**31:
        raise ValueError("feature_steps lead out of the range of features")
    wide = np.diff(tree.child_start).max() > 1 << 16
    return TreeWeights(
        chunk_indptr,
        row_feature.astype(np.int32),
        row_indptr,
        np.asarray(index["child"]).astype(np.int32 if wide else np.uint16),
        np.asarray(weight["weight"]),
        np.asarray(index["bias"]),
    )


def _smallest(values):
    largest = int(values.max(initial=0))
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)
