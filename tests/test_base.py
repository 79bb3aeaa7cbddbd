"""The estimator base, tried on a classifier whose margins have a closed form."""

import re

import numpy as np
import pytest
import scipy.sparse as sp
from contract import contract_params, make_data
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc.base import XMCClassifierMixin
from skxmc.exceptions import DenseOutputError
from skxmc.ops.csr import take_rows
from skxmc.ops.topk import TopK, topk_dense


class CentroidClassifier(XMCClassifierMixin, BaseEstimator):
    """Is the row nearer to the mean of the label's rows or to the mean of the others?

    The margin is half the difference of the squared distances, computed from sparse label means. A
    label without positives is no candidate (minus infinity), and one without negatives has the
    margin 1.
    """

    _parameter_constraints = {**XMCClassifierMixin._parameter_constraints}

    def __init__(self, top_k=100, max_dense_bytes=2**30):
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes

    def _fit_indicator(self, X, Y):
        n_samples, self.n_columns_ = Y.shape
        X = sp.csr_array(X, dtype=np.float64)
        # only the labels that have positives take memory
        self.present_, column = np.unique(Y.indices, return_inverse=True)
        Y = sp.csr_array((Y.data.astype(np.float64), column, Y.indptr))
        n_positive = Y.sum(axis=0)
        everywhere = n_positive == n_samples
        n_negative = np.where(everywhere, 1, n_samples - n_positive)
        sums = (Y.T @ X).tocsr()
        self.total_ = X.sum(axis=0)
        squares = sums.multiply(sums).sum(axis=1)
        off = self.total_ @ self.total_ - 2 * (sums @ self.total_) + squares
        self.bias_ = (off / n_negative**2 - squares / n_positive**2) / 2
        self.bias_[everywhere] = 1.0
        self.shared_ = np.where(everywhere, 0.0, 1 / n_negative)
        weight = np.where(everywhere, 0.0, 1 / n_positive + 1 / n_negative)
        self.coef_ = sp.csr_array(sp.diags_array(weight) @ sums)

    def _score_dense(self, X):
        X = sp.csr_array(X, dtype=np.float64)
        margins = np.full((X.shape[0], self.n_columns_), -np.inf)
        margins[:, self.present_] = (
            (X @ self.coef_.T).toarray() - (X @ self.total_)[:, None] * self.shared_ + self.bias_
        )
        return margins

    def _score_topk(self, X, k, exclude, candidates):
        assert exclude is None or candidates is None
        labels, scores = [], []
        for i in range(X.shape[0]):
            margins = self._score_dense(take_rows(X, slice(i, i + 1)))
            if candidates is not None:
                allowed = np.full(margins.shape, -np.inf)
                chosen = take_rows(candidates, slice(i, i + 1)).indices
                allowed[0, chosen] = margins[0, chosen]
                margins = allowed
            if exclude is not None:
                margins[0, take_rows(exclude, slice(i, i + 1)).indices] = -np.inf
            best = topk_dense(margins, k)
            labels.append(best.labels)
            scores.append(best.scores)
        return TopK(np.vstack(labels), np.vstack(scores))


@parametrize_with_checks([CentroidClassifier()])
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), contract_params([CentroidClassifier()]))
def test_contract(estimator, check):
    check(estimator)


class FixedMargins(XMCClassifierMixin, BaseEstimator):
    """The margins are the features: every case of the outputs can be written down."""

    _parameter_constraints = {**XMCClassifierMixin._parameter_constraints}

    def __init__(self, top_k=100, max_dense_bytes=2**30, steepness=None):
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.steepness = steepness

    def _fit_indicator(self, X, Y, note=None):
        self.note_ = note

    def _margins(self, X):
        margins = np.array(X.toarray() if sp.issparse(X) else X)
        margins[margins == -99] = -np.inf
        return margins

    def _score_dense(self, X):
        return self._margins(X)

    def _score_topk(self, X, k, exclude, candidates):
        return topk_dense(self._margins(X), k)

    def _scores_to_proba(self, scores):
        if self.steepness is None:
            return super()._scores_to_proba(scores)
        return 0.5 + 0.4 * np.tanh(self.steepness * scores)


def fixed(margins, Y=None, **params):
    """``FixedMargins`` and an X on which it has these margins."""
    margins = np.array(margins, dtype=np.float64)
    if Y is None:
        Y = sp.csr_array(np.ones(margins.shape, dtype=int))
    return FixedMargins(**params).fit(margins, Y), margins


def test_margins_follow_their_definition():
    X, Y = make_data()
    expected = np.empty(Y.shape)
    X_dense, Y_dense = X.toarray().astype(np.float64), Y.toarray() == 1
    for label in range(Y.shape[1]):
        inside = X_dense[Y_dense[:, label]].mean(axis=0)
        outside = X_dense[~Y_dense[:, label]].mean(axis=0)
        distances = [((X_dense - mean) ** 2).sum(axis=1) for mean in (outside, inside)]
        expected[:, label] = (distances[0] - distances[1]) / 2
    sparse = CentroidClassifier().fit(X, Y)
    dense = CentroidClassifier().fit(X, Y.toarray())
    assert_allclose(dense.decision_function(X), expected, atol=1e-8)
    assert_allclose(dense.predict_proba(X), 1 / (1 + np.exp(-expected)), atol=1e-8)
    assert_allclose(sparse.decision_function(X).toarray(), expected, rtol=1e-5, atol=1e-6)
    assert_array_equal(sparse.predict(X).toarray(), expected > 0)


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
def test_minus_infinity_is_no_candidate(kind):
    margins = [[1.0, -99, -2.0], [-99, -99, -99], [0.0, 3.0, -99]]
    model, X = fixed(margins, kind(np.ones((3, 3))))
    scores, proba = model.decision_function(X), model.predict_proba(X)
    assert_array_equal(scores.indptr, [0, 2, 2, 4])
    assert_array_equal(scores.indices, [0, 2, 0, 1])
    assert_array_equal(scores.data, [1, -2, 0, 3])  # the zero is stored
    assert_allclose(proba.data, 1 / (1 + np.exp(-scores.data)), rtol=1e-6)
    assert_array_equal(model.predict(X).toarray(), [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert_array_equal(model.predict_topk(X, k=2).labels, [[0, 2], [-1, -1], [1, 0]])
    dense, X = fixed(margins, np.ones((3, 3), dtype=np.int8))
    assert dense.decision_function(X)[1].max() == -np.inf
    proba = dense.predict_proba(X)
    assert (proba > 0).all()
    assert (proba < 1e-300).sum() == 5
    assert_array_equal(dense.predict(X), [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert dense.predict(X).dtype == np.int8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_margins_give_probabilities_inside_the_interval(dtype):
    X = np.array([[1e30, -1e30, 1e-30], [800.0, -800.0, -0.0]], dtype=dtype)
    for Y in (np.ones((2, 3)), sp.csr_array(np.ones((2, 3)))):
        proba = FixedMargins().fit(X, Y).predict_proba(X)
        values = proba.data if sp.issparse(proba) else proba
        assert (values > 0).all()
        assert (values < 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predicted_class_has_the_largest_probability(dtype):
    """Also where the probabilities of different margins round to the same number."""
    X = np.array(
        [[900.0, 901.0, 0.0], [-900.0, -901.0, -800.0], [1e-30, 2e-30, 0.0], [5.0, 5.0, 5.0]],
        dtype=dtype,
    )
    model = FixedMargins().fit(X, ["a", "b", "c", "a"])
    proba = model.predict_proba(X)
    assert_array_equal(model.predict(X), ["b", "c", "b", "a"])
    assert_array_equal(proba.argmax(axis=1), [1, 2, 1, 0])
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    margins = np.array([[1e-30], [-1e-30], [0.0], [900.0], [-900.0]], dtype=dtype)
    binary = FixedMargins().fit(margins, ["no", "no", "no", "yes", "no"])
    proba = binary.predict_proba(margins)
    assert_array_equal(binary.predict(margins), ["yes", "no", "no", "yes", "no"])
    assert_array_equal(proba.argmax(axis=1), [1, 0, 0, 1, 0])
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert_array_equal(binary.predict_topk(margins, k=1).labels[:, 0], [1, 0, 0, 1, 0])


def test_own_probability_map():
    model, X = fixed([[1.0, -1.0, 0.0]], steepness=2.0)
    assert_allclose(
        model.predict_proba(X).data, [0.5 + 0.4 * np.tanh(2), 0.5 - 0.4 * np.tanh(2), 0.5]
    )
    assert_array_equal(model.predict(X).toarray(), [[1, 0, 0]])


@pytest.mark.parametrize("top_k", [1, 2, 7, 64, 200])
def test_predict_is_complete(top_k, monkeypatch):
    """All labels above the threshold, whatever top_k and the size of the blocks."""
    rng = np.random.default_rng(0)
    margins = rng.normal(size=(50, 200)) - np.linspace(-3, 3, 50)[:, None]
    margins[4], margins[5] = 1.0, -1.0  # all labels and none
    for block_bytes in (1, 2000, 2**26):
        monkeypatch.setattr("skxmc.base._BLOCK_BYTES", block_bytes)
        model, X = fixed(margins, top_k=top_k)
        predicted = model.predict(X)
        assert_array_equal(predicted.toarray(), margins > 0)
        assert predicted.has_canonical_format
        dense, X = fixed(margins, np.ones(margins.shape, dtype=bool))
        assert_array_equal(dense.predict(X), margins > 0)
        classes, X = fixed(margins[:, :25], np.arange(50) // 2 + 100)
        assert_array_equal(classes.predict(X), margins[:, :25].argmax(axis=1) + 100)


def test_predict_refuses_a_sparse_result_over_the_limit():
    model, X = fixed(np.ones((10, 50)), max_dense_bytes=12 * 499)
    with pytest.raises(DenseOutputError, match="predict_topk"):
        model.predict(X)
    assert model.set_params(max_dense_bytes=12 * 500).predict(X).nnz == 500


def test_dense_limit_of_each_kind_of_target():
    margins = np.zeros((10, 5))
    for Y, advice in ((np.ones((10, 5)), "csr_array"), (np.arange(10) % 5, "predict_topk")):
        model, X = fixed(margins, Y, max_dense_bytes=399)
        for method in ("predict_proba", "decision_function"):
            with pytest.raises(DenseOutputError, match=re.escape("400 bytes")) as error:
                getattr(model, method)(X)
            assert advice in str(error.value)
        model.set_params(max_dense_bytes=400)
        assert model.predict_proba(X).shape == (10, 5)
    # one class a row is no dense output
    assert model.set_params(max_dense_bytes=0).predict(X).shape == (10,)


def test_hooks_see_canonical_input():
    seen = {}

    class Spy(FixedMargins):
        def _fit_indicator(self, X, Y):
            seen["X"], seen["Y"] = X, Y

        def _score_topk(self, X, k, exclude, candidates):
            seen["X"], seen["exclude"], seen["candidates"] = X, exclude, candidates
            return super()._score_topk(X, k, None, None)

    def assert_canonical(A, dtype):
        assert type(A) is sp.csr_array
        assert (A.dtype, A.indices.dtype, A.indptr.dtype) == (dtype, np.int32, np.int64)
        assert A.has_canonical_format

    X, Y = make_data()
    model = Spy().fit(sp.coo_matrix(X.astype(np.float64)), sp.csc_matrix(Y.astype(bool)))
    assert_canonical(seen["X"], np.float32)
    assert_canonical(seen["Y"], np.uint8)
    pairs = sp.coo_matrix(Y)
    model.predict_topk(X.tocsc(), exclude=pairs)
    assert_canonical(seen["X"], np.float32)
    assert_canonical(seen["exclude"], np.uint8)
    assert seen["candidates"] is None
    model.predict_topk(X, candidates=pairs)
    assert_canonical(seen["candidates"], np.uint8)
    assert seen["exclude"] is None
    model.predict_topk(X, candidates=pairs, exclude=pairs)
    assert seen["candidates"].nnz == 0
    assert seen["exclude"] is None
    for dtype, expected in ((np.float32, np.float32), (np.int64, np.float64), (">f8", np.float64)):
        model.predict_topk(np.asfortranarray(X.toarray().astype(dtype)))
        assert seen["X"].dtype == expected
        assert seen["X"].flags.c_contiguous
    dense = X.toarray()
    model.fit(dense, Y)
    assert np.shares_memory(seen["X"], dense)
    model.fit(X, Y.toarray()[:, :2][:, 0])
    assert seen["Y"].shape == (X.shape[0], 1)
    model.fit(X, np.arange(X.shape[0]) % 3)
    assert_array_equal(seen["Y"].indices, np.arange(X.shape[0]) % 3)


def test_further_fit_arguments_reach_the_hook():
    class WithText(FixedMargins):
        def fit(self, X, Y, note=None):
            return self._fit(X, Y, note=note)

    X, Y = make_data()
    assert WithText().fit(X, Y, note="seen").note_ == "seen"
    assert WithText().fit(X, Y).note_ is None


def test_missing_hook_is_named():
    class Nothing(XMCClassifierMixin, BaseEstimator):
        def __init__(self, top_k=100, max_dense_bytes=2**30):
            self.top_k = top_k
            self.max_dense_bytes = max_dense_bytes

    class OnlyFit(Nothing):
        def _fit_indicator(self, X, Y):
            pass

    X, Y = make_data()
    with pytest.raises(TypeError, match="Nothing must define _fit_indicator"):
        Nothing().fit(X, Y)
    with pytest.raises(TypeError, match="OnlyFit must define _score_topk"):
        OnlyFit().fit(X, Y).predict_topk(X)
    with pytest.raises(TypeError, match="OnlyFit must define _score_dense"):
        OnlyFit().fit(X, Y.toarray()).predict(X)


def test_contract_params_refuses_unknown_names():
    with pytest.raises(ValueError, match="check_nothing"):
        contract_params([CentroidClassifier()], without={"check_nothing": "a misspelt name"})
    params = contract_params([CentroidClassifier()], without={"check_topk": "reason"})
    assert len(params) == len(contract_params([CentroidClassifier()])) - 1
