"""Memory of a fit of label trees, predicted before it is allocated."""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.linear._tree_training import node_entries, solve_parts
from skxmc.ops.linear_solver import LANES

# What a fit takes whatever the size of the data.
_BASE_BYTES = 4 << 20

# Labels whose features are counted, and blocks of classifiers that are solved, to predict sizes.
_SAMPLED_LABELS = 256
_SAMPLED_BLOCKS = 32

# Most entries of label features that a thread sums at a time, in bytes (see `sum_row_groups`).
_SUM_BYTES = 4 << 20


class TreeSizes(NamedTuple):
    """What the memory of a fit depends on."""

    n_samples: int
    n_features: int
    n_entries: int  # of X
    n_labels: int
    n_nodes: int  # of a tree
    n_trees: int
    n_pairs: int  # (row, node) with a positive label of the row below the node
    label_entries: float  # of the label features
    centroid_entries: int  # of the clusters of a node
    n_weights: float  # of a tree
    n_weight_rows: float  # features of a tree's chunks
    largest_node: float  # share of the weights of the node that has the most


def expected_sizes(X, Y, *, n_trees, arity, max_leaf, label_entries, centroid_entries):
    """Sizes from the data alone, without the weights: what can be said before any work."""
    n_labels = Y.shape[1]
    depth = 1 + max(0, math.ceil(math.log(max(1.0, n_labels / max_leaf)) / math.log(arity)))
    return TreeSizes(
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_entries=X.nnz if sp.issparse(X) else np.count_nonzero(X),
        n_labels=n_labels,
        n_nodes=n_labels + 2 * n_labels // max_leaf,
        n_trees=n_trees,
        n_pairs=len(Y.indices) * depth,
        label_entries=label_entries,
        centroid_entries=centroid_entries,
        n_weights=0.0,
        n_weight_rows=0.0,
        largest_node=0.0,
    )


def row_pattern(X):
    """``X`` as CSR, whose values may be anything."""
    return X if sp.issparse(X) else sp.csr_array(X != 0)


def count_text(label_text):
    """Stored entries of text features, at most."""
    if sp.issparse(label_text):
        return float(label_text.nnz)
    if getattr(label_text, "ndim", 0) == 2:
        return float(np.count_nonzero(label_text))
    return float(sum(len(text.split()) for text in label_text if isinstance(text, str)))


def count_label_features(X, Y):
    """Stored entries of the sums of each label's rows, from a sample of the labels.

    Labels are drawn in proportion to the entries of their rows; of these the share counts that is
    left when equal features are merged.
    """
    by_label = Y.tocsc()
    entries = np.concatenate(([0], np.cumsum(np.diff(X.indptr)[by_label.indices])))
    ends = entries[by_label.indptr]
    total = int(ends[-1])
    if total == 0:
        return 0.0
    points = (np.arange(_SAMPLED_LABELS) + 0.5) * total / _SAMPLED_LABELS
    labels, times = np.unique(np.searchsorted(ends, points, "right") - 1, return_counts=True)
    seen = np.zeros(X.shape[1], bool)
    share = 0.0
    for label, count in zip(labels, times, strict=True):
        rows = by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]
        for row in rows:
            seen[X.indices[X.indptr[row] : X.indptr[row + 1]]] = True
        share += count * np.count_nonzero(seen) / (ends[label + 1] - ends[label])
        seen[:] = False
    return total * share / _SAMPLED_LABELS


def sampled_sizes(sizes, tree, X, positives, task):
    """Sizes with those of a tree, its weights from a sample of blocks of ``LANES`` siblings.

    Blocks are drawn in proportion to the entries of their node's rows, and solved.
    """
    nodes = np.flatnonzero(tree.label < 0)
    n_children = np.diff(tree.child_start)[nodes]
    n_blocks = -(-n_children // LANES)
    entries = 1.0 + node_entries(X, positives, nodes)
    work = np.cumsum(entries * n_blocks)
    points = (np.arange(_SAMPLED_BLOCKS) + 0.5) * work[-1] / _SAMPLED_BLOCKS
    of_node = np.searchsorted(work, points)
    block = ((work[of_node] - points) / entries[of_node]).astype(np.int64)
    blocks, times = np.unique(np.stack([of_node, block]), axis=1, return_counts=True)
    parts = []
    for q, b in blocks.T:
        first = LANES * int(b)
        parts.append((int(nodes[q]), first, min(first + LANES, int(n_children[q]))))
    n_weights = n_weight_rows = 0.0
    for (q, _), count, solution in zip(
        blocks.T, times, solve_parts(tree, X, positives, task, parts), strict=True
    ):
        n_weights += count * len(solution.weight) / entries[q]
        n_weight_rows += count * len(solution.row_feature) / entries[q]
    return sizes._replace(
        n_nodes=tree.n_nodes,
        n_pairs=len(positives.rows),
        n_weights=n_weights * work[-1] / _SAMPLED_BLOCKS,
        n_weight_rows=n_weight_rows * work[-1] / _SAMPLED_BLOCKS,
        largest_node=float((entries * n_blocks).max() / work[-1]),
    )


def fit_bytes(sizes, n_jobs, *, scaled):
    """Bytes of a fit at its peak, beside its inputs.

    The rows are there all the time: scaled, a copy of the values. Clustering and training come one
    after the other, so the larger one counts.

    * Clustering: 24 bytes an entry of the label features, which are copied for k-means, and the
      labels of the nodes at work once more; 8 a feature of a node's centroids; 100 a label.
    * Training: 32 bytes a node of each tree; 12 a pair of row and node; for each thread 670 bytes a
      row, 90 a feature and 24 for 16 weights of each feature, 8 an entry of X but at most 64 a
      feature, and 40 a weight of the largest node; 6 bytes a weight of a tree and 12 a feature of a
      node, and 4 and 8 more of the last tree as it is put together.
    """
    s = sizes
    rows = 4 * s.n_entries if scaled else 0
    clustering = (
        24 * s.label_entries
        + n_jobs * min(_SUM_BYTES, 8 * s.label_entries)
        + 8 * s.centroid_entries
        + 100 * s.n_labels
    )
    n_used = min(s.n_features, s.n_entries)
    thread = (
        670 * s.n_samples
        + min(8 * s.n_entries, 64 * s.n_features)
        + 9 * s.n_features
        + (80 + 24 * LANES) * n_used
        + 40 * s.largest_node * s.n_weights
    )
    training = (
        32 * s.n_nodes * s.n_trees
        + 12 * s.n_pairs
        + n_jobs * thread
        + (6 * s.n_trees + 4) * s.n_weights
        + (12 * s.n_trees + 8) * s.n_weight_rows
    )
    return int(_BASE_BYTES + rows + max(clustering, training))
