"""The metrics @k as plain loops over Python dictionaries, written from their definitions."""

import math

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st


def ranked(row, k, excluded=()):
    """Return the k best labels of {label: score}: larger score first, then smaller label."""
    candidates = [j for j, s in row.items() if s > -math.inf and j not in excluded]
    return sorted(candidates, key=lambda j: (-row[j], j))[:k]


def discount(rank):
    return 1 / math.log2(rank + 1)


def dcg(answers, true, weights):
    return sum(weights[j] * discount(r) for r, j in enumerate(answers, 1) if j in true)


def row_value(metric, answers, true, k, weights):
    gain = sum(weights[j] for j in answers if j in true)
    if metric == "precision":
        return gain / k
    if metric == "recall":
        return gain / len(true) if true else 0.0
    if metric == "hit_rate":
        return float(any(j in true for j in answers))
    if metric == "dcg":
        return dcg(answers, true, weights)
    if metric == "ndcg":
        if not true:
            return 0.0
        best = sum(discount(r) for r in range(1, min(k, len(true)) + 1))
        return dcg(answers, true, weights) / best
    raise AssertionError(metric)


def over_rows(metric, true_rows, score_rows, k, weights, normalize=False, excluded_rows=None):
    """`true_rows`: list of sets; `score_rows`: list of dicts; `weights`: one for each label."""
    excluded_rows = excluded_rows or [set()] * len(true_rows)
    value = best = 0.0
    for true, row, excluded in zip(true_rows, score_rows, excluded_rows, strict=True):
        true = true - excluded
        value += row_value(metric, ranked(row, k, excluded), true, k, weights)
        ideal = sorted(true, key=lambda j: -weights[j])[:k]
        best += row_value(metric, ideal, true, k, weights)
    if normalize:
        return value / best if best else 0.0
    return value / len(true_rows)


def over_labels(metric, true_rows, score_rows, k, chosen):
    total = 0.0
    for j in chosen:
        answered = [j in ranked(row, k) for row in score_rows]
        true = [j in row for row in true_rows]
        tp = sum(a and t for a, t in zip(answered, true, strict=True))
        numerator, denominator = {
            "macro_precision": (tp, sum(answered)),
            "macro_recall": (tp, sum(true)),
            "macro_f1": (2 * tp, sum(answered) + sum(true)),
            "coverage": (tp > 0, 1),
        }[metric]
        total += numerator / denominator if denominator else 0.0
    return total / len(chosen) if chosen else 0.0


# ---- the same problems as matrices ----


def indicator(true_rows, n_labels):
    Y = np.zeros((len(true_rows), n_labels), dtype=np.int64)
    for i, true in enumerate(true_rows):
        Y[i, sorted(true)] = 1
    return Y


def sparse_scores(score_rows, n_labels):
    """CSR with exactly these stored entries, explicit zeros included, in the order of the dict."""
    indptr = np.cumsum([0] + [len(row) for row in score_rows])
    indices = np.array([j for row in score_rows for j in row], dtype=np.int32)
    data = np.array([s for row in score_rows for s in row.values()], dtype=np.float64)
    return sp.csr_array((data, indices, indptr), shape=(len(score_rows), n_labels))


def dense_scores(score_rows, n_labels):
    scores = np.full((len(score_rows), n_labels), -np.inf)
    for i, row in enumerate(score_rows):
        for j, s in row.items():
            scores[i, j] = s
    return scores


@st.composite
def problems(draw):
    """Labels, scores with many ties, weights and excluded pairs of 1 to 5 rows."""
    n_labels = draw(st.integers(1, 8))
    label = st.integers(0, n_labels - 1)
    n_rows = draw(st.integers(1, 5))

    def rows(of):
        return draw(st.lists(of, min_size=n_rows, max_size=n_rows))

    true_rows = rows(st.sets(label))
    score_rows = rows(st.dictionaries(label, st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.75])))
    excluded_rows = rows(st.sets(label, max_size=3))
    weights = draw(
        st.lists(st.sampled_from([1.0, 1.5, 2.0, 7.0]), min_size=n_labels, max_size=n_labels)
    )
    return n_labels, true_rows, score_rows, weights, excluded_rows
