"""Top-k selection in plain NumPy: the definition that every other implementation is tested against.

Of the candidates of a row, the k with the largest scores, best first; of equal scores the smaller
label id first. Scores are compared at the precision they come in. A score of -inf is no candidate,
a NaN is an error. What is missing to k is padded with label -1 and score -inf.
"""

import numpy as np
import scipy.sparse as sp

from skxmc.ops.topk._types import TopK, check_csr_scores, check_dense_scores, check_k


def topk_row(labels, scores, k):
    """Return `(labels, scores)` of the k best of one row, not padded."""
    candidate = scores > -np.inf
    labels, scores = labels[candidate], scores[candidate]
    order = np.lexsort((labels, -scores))[:k]
    return labels[order], scores[order]


def topk_dense(scores, k):
    """See `skxmc.ops.topk.topk_dense`."""
    scores, k = check_dense_scores(scores), check_k(k)
    label_ids = np.arange(scores.shape[1])
    return _topk_rows([(label_ids, row) for row in scores], k)


def topk_csr(scores, k):
    """See `skxmc.ops.topk.topk_csr`."""
    k = check_k(k)
    data, indices, indptr, shape = check_csr_scores(scores)
    rows = [slice(indptr[i], indptr[i + 1]) for i in range(shape[0])]
    return _topk_rows([(indices[row], data[row]) for row in rows], k)


def _topk_rows(rows, k):
    labels = np.full((len(rows), k), -1, dtype=np.int32)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for i, (row_labels, row_scores) in enumerate(rows):
        if np.isnan(row_scores).any():
            raise ValueError(f"scores: row {i} holds NaN.")
        best_labels, best_scores = topk_row(row_labels, row_scores, k)
        labels[i, : len(best_labels)] = best_labels
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf
            scores[i, : len(best_scores)] = best_scores
    return TopK(labels, scores)


def topk_to_csr(topk, n_labels, dtype=np.float32):
    """See `skxmc.ops.topk.topk_to_csr`."""
    rows = [sorted((j, s) for j, s in zip(*row, strict=True) if j >= 0) for row in zip(*topk)]
    return sp.csr_array(
        (
            np.array([s for row in rows for _, s in row], dtype=dtype),
            np.array([j for row in rows for j, _ in row], dtype=np.int32),
            np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        ),
        shape=(len(rows), n_labels),
    )
