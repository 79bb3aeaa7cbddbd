"""Search in trees in plain NumPy: what every other implementation is tested against.

All labels are scored. The score of child c of node v for row x is ``sum_f x_f W[f, c] + bias[c]``,
the sum taken in the order of the features and each product and sum rounded to float32; ``link``
makes it an edge, and the path score is the sum of the edges from the root down.
"""

import numpy as np
import scipy.sparse as sp

from skxmc.ops.topk import TopK
from skxmc.ops.topk.reference import topk_dense


def edge(score, link):
    """Logarithm of the probability of a child given its parent, in the dtype of `score`."""
    score = np.asarray(score)
    with np.errstate(over="ignore"):
        if link == "logistic":
            small = np.log1p(np.exp(-np.abs(score)))
            return np.where(score >= 0, -small, score - small)
        power = {"l1-hinge": 1, "l2-hinge": 2, "l3-hinge": 3}[link]
        short = np.maximum(score.dtype.type(0), score.dtype.type(1) - score)
        out = short
        for _ in range(power - 1):
            out = out * short
        return -out


def chunk_of(weights, child_start, node):
    """Weights of the children of a node: features, (n_rows, n_children) dense."""
    rows = np.arange(weights.chunk_indptr[node], weights.chunk_indptr[node + 1])
    dense = np.zeros((len(rows), child_start[node + 1] - child_start[node]), dtype=np.float32)
    for i, row in enumerate(rows):
        entries = slice(weights.row_indptr[row], weights.row_indptr[row + 1])
        dense[i, weights.child[entries]] = weights.weight[entries]
    return weights.row_feature[rows], dense


def node_scores(child_start, weights, X, link):
    """Path scores of all nodes, (n_rows, n_nodes) float32."""
    X = sp.csr_array(X, dtype=np.float32)
    n_nodes = len(child_start) - 1
    paths = np.zeros((X.shape[0], n_nodes), dtype=np.float32)
    for node in range(n_nodes):
        children = slice(child_start[node], child_start[node + 1])
        features, dense = chunk_of(weights, child_start, node)
        for i in range(X.shape[0]):
            total = np.zeros(dense.shape[1], dtype=np.float32)
            for p in range(X.indptr[i], X.indptr[i + 1]):
                for row in np.flatnonzero(features == X.indices[p]):
                    total += X.data[p] * dense[row]
            below = edge(total + weights.bias[children], link)
            below[np.isneginf(weights.bias[children])] = -np.inf
            paths[i, children] = paths[i, node] + below
    return paths


def label_scores(child_start, label, weights, X, link):
    """Path scores of all labels, (n_rows, n_labels) float32."""
    leaves = np.flatnonzero(label >= 0)
    paths = node_scores(child_start, weights, X, link)
    return paths[:, leaves[np.argsort(label[leaves])]]


def mean_scores(scores_of_trees):
    """Logarithm of the probability averaged over the trees, float32."""
    scores = np.stack(scores_of_trees).astype(np.float64)
    best = scores.max(axis=0)
    with np.errstate(invalid="ignore"):
        mean = best + np.log1p(np.expm1(scores - best).mean(axis=0))
    return np.where(np.isneginf(best), best, mean).astype(np.float32)


def beam_nodes(child_start, label, paths, beam, depth=None):
    """Nodes that a beam search of one row looks at: leaves, or those at `depth`."""
    frontier, leaves, level = [0], [], 0
    while frontier:
        level += 1
        children = [c for v in frontier for c in range(child_start[v], child_start[v + 1])]
        children = [c for c in children if paths[c] > -np.inf]
        if level == depth:
            return children
        leaves += [c for c in children if label[c] >= 0]
        inner = [c for c in children if label[c] < 0]
        frontier = sorted(inner, key=lambda c: (-paths[c], c))[:beam]
    return leaves if depth is None else []


def beam_topk(child_start, label, paths, k, beam):
    """Top k of a beam search in one tree from the path scores of all nodes."""
    scores = np.full((len(paths), np.count_nonzero(label >= 0)), -np.inf, dtype=np.float32)
    for i, of_row in enumerate(paths):
        leaves = beam_nodes(child_start, label, of_row, beam)
        scores[i, label[leaves]] = of_row[leaves]
    return TopK(*topk_dense(scores, k))
