"""What the meta-estimators share: margins of any classifier, in and out of fold."""

import numpy as np
import pytest
import scipy.sparse as sp
from contract import make_data
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from skxmc import DismecClassifier, ParabelTree, _meta
from skxmc.exceptions import DenseOutputError
from skxmc.ops.csr import to_dense

X, Y = make_data()
ONE_VS_REST = OneVsRestClassifier(LogisticRegression())


class PassOn(_meta.MetaClassifierMixin, BaseEstimator):
    """The least of a meta-estimator."""

    def __init__(self, estimator, top_k=100, max_dense_bytes=2**30):
        self.estimator = estimator
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes

    def _fit_wrapped(self, X, Y, indicator, fit_params):
        self.indicator_ = indicator
        self.estimator_ = _meta.fit_wrapped(self.estimator, X, Y, fit_params)


class WithoutScores(BaseEstimator):
    """Fitted, and has nothing to rank by."""

    classes_ = np.arange(9)


def wrapped():
    return [
        DismecClassifier(),
        ParabelTree(random_state=0),
        make_pipeline(MaxAbsScaler(), DismecClassifier()),
        GridSearchCV(DismecClassifier(), {"C": [1.0]}, cv=2, scoring="f1_micro"),
        ONE_VS_REST,
        make_pipeline(MaxAbsScaler(), ONE_VS_REST),
    ]


@pytest.mark.parametrize("estimator", wrapped(), ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("frozen", [False, True])
def test_margins_and_probabilities_are_those_of_the_classifier(estimator, frozen):
    fitted = _meta.fit_wrapped(estimator, X, Y)
    scores = fitted.decision_function(X)
    expected = to_dense(scores) if sp.issparse(scores) else scores
    proba = fitted.predict_proba(X)
    proba = proba.toarray() if sp.issparse(proba) else proba
    model = FrozenEstimator(fitted) if frozen else fitted
    answers = _meta.base_topk(model, X, 20)
    assert answers.labels.shape == (48, 20)
    assert (answers.labels[:, 9:] == -1).all()
    order = np.argsort(-expected.astype(np.float32), axis=1, kind="stable")
    assert_array_equal(answers.labels[:, :9], order)
    assert_allclose(answers.scores[:, :9], np.take_along_axis(expected, order, 1), rtol=1e-5)
    margins, marginals = _meta.base_margins(model, X, 4), _meta.base_proba(model, X, 4)
    assert (margins.indptr.dtype, margins.indices.dtype) == (np.int64, np.int32)
    assert_array_equal(np.diff(margins.indptr), 4)
    assert_array_equal(margins.indices, marginals.indices)
    rows = np.repeat(np.arange(48), 4)
    assert_allclose(margins.data, expected[rows, margins.indices], rtol=1e-5)
    assert_allclose(marginals.data, proba[rows, margins.indices], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("estimator", wrapped(), ids=lambda e: type(e).__name__)
def test_restrictions_act_before_the_choice(estimator):
    model = _meta.fit_wrapped(estimator, X, Y)
    everything = _meta.base_topk(model, X, 9)
    first = sp.csr_array((np.ones(48), (np.arange(48), everything.labels[:, 0])), shape=Y.shape)
    without = _meta.base_topk(model, X, 2, exclude=first)
    assert_array_equal(without.labels, everything.labels[:, 1:3])
    only = _meta.base_topk(model, X, 2, candidates=first)
    assert_array_equal(only.labels[:, 0], everything.labels[:, 0])
    assert (only.labels[:, 1] == -1).all()
    none = _meta.base_topk(model, X, 1, candidates=first, exclude=first)
    assert (none.labels == -1).all()


@pytest.mark.parametrize("estimator", [DismecClassifier(), ONE_VS_REST])
def test_out_of_fold_scores_are_of_models_that_have_not_seen_the_row(estimator):
    cv = KFold(3, shuffle=True, random_state=0)
    margins = to_dense(_meta.out_of_fold_margins(estimator, X, Y, cv, 9))
    proba = _meta.out_of_fold_proba(estimator, X, Y, cv, 9).toarray()
    for train, test in cv.split(X):
        model = _meta.fit_wrapped(estimator, X[train], Y[train])
        expected = model.decision_function(X[test])
        expected = to_dense(expected) if sp.issparse(expected) else expected
        assert_allclose(margins[test], expected, rtol=1e-5)
        assert_allclose(proba[test], expit(expected), rtol=1e-4, atol=1e-7)
    frozen = FrozenEstimator(_meta.fit_wrapped(estimator, X, Y))
    same = _meta.out_of_fold_margins(frozen, X, Y, cv, 9)
    assert_array_equal(same.toarray(), _meta.base_margins(frozen, X, 9).toarray())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_out_of_fold_margins_of_classes(n_classes):
    y = np.array(["a", "b", "c"])[np.arange(48) % n_classes]
    meta = PassOn(DismecClassifier()).fit(X, y)
    cv = KFold(4, shuffle=True, random_state=0)
    got = _meta.out_of_fold_dense_margins(DismecClassifier(), X, y, cv, meta.indicator_)
    for train, test in cv.split(X):
        expected = DismecClassifier().fit(X[train], y[train]).decision_function(X[test])
        assert_allclose(got[test], expected.reshape(len(test), -1), rtol=1e-5)


def test_a_class_that_a_fold_has_not_seen_has_no_margin():
    y = np.array([0, 1, 2] * 16)
    y[y == 2] = np.arange(16) % 2
    y[[0, 1, 2]] = 2
    meta = PassOn(DismecClassifier()).fit(X, y)
    splits = [(np.arange(3, 48), np.arange(3)), (np.arange(3), np.arange(3, 48))]
    splits[1] = (np.r_[0:3, 24:48], np.arange(3, 24))
    splits.append((np.arange(24), np.arange(24, 48)))
    got = _meta.out_of_fold_dense_margins(DismecClassifier(), X, y, splits, meta.indicator_)
    assert (got[:3, 2] == -np.inf).all()
    assert np.isfinite(got[:3, :2]).all()
    assert np.isfinite(got[3:]).all()


def test_probabilities_alone_become_log_odds():
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, Y.toarray())
    proba = np.column_stack([p[:, -1] for p in model.predict_proba(X)])
    answers = _meta.base_topk(model, X, 9)
    assert_allclose(
        np.take_along_axis(proba, answers.labels, axis=1)[answers.scores > -np.inf],
        expit(answers.scores[answers.scores > -np.inf]),
        atol=1e-6,
    )
    marginals = _meta.base_proba(model, X, 9)
    assert ((marginals.data > 0) & (marginals.data < 1)).all()


def test_dense_scores_of_others_are_limited(monkeypatch):
    model = ONE_VS_REST.fit(X, Y)
    monkeypatch.setattr(_meta, "MAX_DENSE_BYTES", 48 * 9 * 8 - 1)
    for ask in (_meta.base_topk, _meta.base_margins, _meta.base_proba):
        with pytest.raises(DenseOutputError, match="48 rows and 9 labels"):
            ask(model, X, 3)
    assert _meta.base_topk(DismecClassifier().fit(X, Y), X, 3).labels.shape == (48, 3)


def test_wrong_estimators_are_refused():
    with pytest.raises(TypeError, match="none of predict_topk"):
        _meta.dense_margins(WithoutScores(), X)
    with pytest.raises(NotFittedError):
        PassOn(FrozenEstimator(DismecClassifier())).fit(X, Y)
    with pytest.raises(ValueError, match="4 labels"):
        PassOn(FrozenEstimator(DismecClassifier().fit(X, Y))).fit(X, Y[:, :4])


@pytest.mark.parametrize("estimator", [DismecClassifier(), ONE_VS_REST])
@pytest.mark.parametrize(
    "target", [Y, sp.csr_matrix(Y), Y.toarray(), np.arange(48) % 3, np.arange(48) % 2]
)
def test_container_in_container_out(estimator, target):
    model = PassOn(estimator).fit(X, target)
    base = _meta.fit_wrapped(estimator, X, target)
    assert model.n_features_in_ == 30
    assert_array_equal(model.classes_, np.unique(target) if target.ndim == 1 else np.arange(9))
    if sp.issparse(target):
        kind = sp.csr_matrix if sp.isspmatrix(target) else sp.csr_array
        assert isinstance(model.predict_proba(X), kind)
        assert isinstance(model.decision_function(X), kind)
    else:
        assert_allclose(model.predict_proba(X), base.predict_proba(X))
        assert_allclose(model.decision_function(X), base.decision_function(X))
    predicted, expected = model.predict(X), base.predict(X)
    assert_array_equal(*(p.toarray() if sp.issparse(p) else p for p in (predicted, expected)))
