"""Nearest labels: against a full sort; the graph of faiss against a stand-in of its interface."""

import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.neural._hard_negatives import LabelIndex, mine_hard_negatives
from skxmc.ops.csr import canonical_pattern


def problem(n_rows=13, n_labels=90, width=8, seed=0):
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((n_rows, width)).astype(np.float32)
    vectors = rng.standard_normal((n_labels, width)).astype(np.float32)
    bias = rng.standard_normal(n_labels).astype(np.float32)
    exclude = sp.random_array((n_rows, n_labels), density=0.2, rng=rng, format="csr")
    return queries, vectors, bias, canonical_pattern(exclude, (n_rows, n_labels))


def sorted_scores(queries, vectors, bias, exclude):
    scores = queries.astype(float) @ vectors.T.astype(float) + bias
    scores[exclude.toarray() != 0] = -np.inf
    return scores, np.argsort(-scores, axis=1, kind="stable")


@pytest.mark.parametrize("k", [1, 7, 60, 85, 90])
def test_exact_search(k):
    queries, vectors, bias, exclude = problem()
    answers = LabelIndex(vectors, bias).topk(queries, k, exclude=exclude)
    scores, order = sorted_scores(queries, vectors, bias, exclude)
    expected = order[:, :k]
    missing = ~np.isfinite(np.take_along_axis(scores, expected, axis=1))
    np.testing.assert_array_equal(answers.labels, np.where(missing, -1, expected))
    found = np.take_along_axis(scores, expected, axis=1)
    np.testing.assert_allclose(answers.scores, found, rtol=1e-4, atol=1e-5)


def test_a_row_alone_has_the_same_bits():
    queries, vectors, bias, exclude = problem()
    index = LabelIndex(vectors, bias, n_jobs=2)
    together = index.topk(queries, 5, exclude=exclude)
    for row in range(len(queries)):
        alone = index.topk(queries[[row]], 5, exclude=exclude[[row]])
        np.testing.assert_array_equal(alone.labels[0], together.labels[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])
    np.testing.assert_array_equal(
        np.take_along_axis(index.scores(queries), together.labels, axis=1), together.scores
    )


def test_candidates():
    queries, vectors, bias, only = problem()
    answers = LabelIndex(vectors, bias).topk(queries, 3, candidates=only)
    for row, labels in enumerate(answers.labels):
        own = only.indices[only.indptr[row] : only.indptr[row + 1]]
        scores = queries[row] @ vectors[own].T + bias[own]
        np.testing.assert_array_equal(labels, own[np.argsort(-scores)[:3]])


def test_negatives_are_the_nearest_others():
    queries, vectors, _, exclude = problem()
    found = mine_hard_negatives(queries, vectors, 6, exclude=exclude)
    _, order = sorted_scores(queries, vectors, 0, exclude)
    np.testing.assert_array_equal(found, order[:, :6])


def test_negatives_among_some_labels():
    queries, vectors, _, exclude = problem()
    some = np.arange(3, 90, 7)
    found = mine_hard_negatives(queries, vectors, 20, exclude=exclude, labels=some)
    scores, _ = sorted_scores(queries, vectors, 0, exclude)
    for row in range(len(queries)):
        allowed = some[np.isfinite(scores[row, some])]
        expected = allowed[np.argsort(-scores[row, allowed])]
        own = found[row][found[row] >= 0]
        np.testing.assert_array_equal(own, expected)
    none = mine_hard_negatives(queries, vectors, 2, exclude=exclude, labels=some[:0])
    assert (none == -1).all()


def test_faiss_is_asked_for_more_where_labels_are_excluded(monkeypatch):
    class Graph:
        def __init__(self, width, links, metric):
            self.width, self.hnsw = width, types.SimpleNamespace()

        def add(self, rows):
            self.rows = rows

        def search(self, queries, k):
            scores = queries @ self.rows.T
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            order[:, -1] = -1  # a graph may find too few
            return np.take_along_axis(scores, order, axis=1), order

    module = types.SimpleNamespace(IndexHNSWFlat=Graph, METRIC_INNER_PRODUCT=0)
    monkeypatch.setitem(sys.modules, "faiss", module)
    queries, vectors, bias, exclude = problem()
    exact = LabelIndex(vectors, bias).topk(queries, 4, exclude=exclude)
    graph = LabelIndex(vectors, bias, search="faiss")
    answers = graph.topk(queries, 4, exclude=exclude)
    counts = np.diff(exclude.indptr)
    sure = counts < counts.max()  # the others may have lost the last one
    np.testing.assert_array_equal(answers.labels[sure], exact.labels[sure])
    np.testing.assert_allclose(answers.scores[sure], exact.scores[sure], atol=1e-5)
    assert graph.topk(queries[:0], 4).labels.shape == (0, 4)


def test_the_graph_of_faiss_finds_nearly_the_same():
    queries, vectors, _, _ = problem(300, 2000, 16)
    exclude = sp.random_array((300, 2000), density=0.002, rng=np.random.default_rng(0))
    exclude = canonical_pattern(sp.csr_array(exclude), (300, 2000))
    expected = LabelIndex(vectors).topk(queries, 10, exclude=exclude).labels
    found = LabelIndex(vectors, search="faiss").topk(queries, 10, exclude=exclude).labels
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]) > 0.9
    assert not exclude.toarray()[np.arange(300)[:, None], found].any()


def test_faiss_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="faiss-cpu"):
        LabelIndex(np.eye(2, dtype=np.float32), search="faiss")
