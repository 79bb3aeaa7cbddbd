"""IsotonicXMCCalibrator: calibrated at every k on held-out rows, with the ranking unchanged."""

import contract
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc.base import XMCClassifierMixin
from skxmc.calibration import IsotonicXMCCalibrator
from skxmc.datasets import load_debtags
from skxmc.linear import DismecClassifier, ParabelTree
from skxmc.metrics import make_topk_scorer, precision_at_k
from skxmc.ops.topk import topk_csr, topk_dense

METHODS = ["isotonic", "platt", "temperature", "beta"]


class GivenScores(XMCClassifierMixin, BaseEstimator):
    """The margins are the features."""

    def __init__(self, top_k=100, max_dense_bytes=2**30):
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes

    def _fit_indicator(self, X, Y):
        pass

    def _score_dense(self, X):
        return np.asarray(X, dtype=np.float32)

    def _score_topk(self, X, k, exclude, candidates):
        margins = self._score_dense(X).copy()
        if exclude is not None:
            margins[exclude.toarray() != 0] = -np.inf
        if candidates is not None:
            margins[candidates.toarray() == 0] = -np.inf
        return topk_dense(margins, k)


def make_scores(n, n_labels=30, seed=0):
    """Margins three times too large, and the true probabilities."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1.5, 1.5, (n, n_labels))
    truth[np.arange(n), rng.integers(0, n_labels, n)] += 2
    Y = sp.csr_array((rng.random(truth.shape) < expit(truth)).astype(np.int64))
    return (3 * truth + 1).astype(np.float32), Y, expit(truth)


def ece(proba, hits, n_bins=15):
    """Expected calibration error by its definition."""
    error = 0.0
    for b in range(n_bins):
        inside = (proba >= b / n_bins) & (proba < (b + 1) / n_bins)
        if inside.any():
            error += inside.mean() * abs(proba[inside].mean() - hits[inside].mean())
    return error


def ece_at(model, X, Y, k):
    answers = model.predict_topk(X, k=k)
    hits = np.take_along_axis(Y.toarray(), answers.labels, axis=1)
    return ece(expit(answers.scores).ravel(), hits.ravel())


@pytest.mark.parametrize("method", METHODS)
def test_recovers_probabilities_at_every_k(method):
    X, Y, _ = make_scores(4000)
    X_new, Y_new, truth = make_scores(4000, seed=1)
    model = IsotonicXMCCalibrator(GivenScores(), method=method, cv=2, random_state=0).fit(X, Y)
    for k in (1, 3, 5):
        limit = 0.03 if method != "temperature" else 0.1  # it has no shift
        assert ece_at(model, X_new, Y_new, k) < limit
        assert ece_at(model.estimator_, X_new, Y_new, k) > 0.06
    if method != "temperature":
        proba = model.predict_proba(X_new).toarray()
        assert np.abs(proba - truth).mean() < 0.03


def test_ranges_of_ranks_calibrate_the_best_answers():
    """Where the hit rate at equal scores depends on the rank, one map for all is not enough."""

    def ranked(seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(0, 1, (6000, 20)).astype(np.float32)
        rank = np.argsort(np.argsort(-X, axis=1), axis=1)
        return X, sp.csr_array((rng.random(X.shape) < expit(X - rank)).astype(np.int64))

    X, Y = ranked(0)
    X_new, Y_new = ranked(1)
    options = {"cv": 2, "grouping": "pooled"}
    by_rank = IsotonicXMCCalibrator(GivenScores(), **options).fit(X, Y)
    pooled = IsotonicXMCCalibrator(GivenScores(), rank_ends=None, **options).fit(X, Y)
    for k in (1, 3, 5):
        assert ece_at(by_rank, X_new, Y_new, k) < 0.02
    assert ece_at(pooled, X_new, Y_new, 1) > 0.05


def test_a_sample_of_the_scores_makes_nearly_the_same_maps():
    X, Y, truth = make_scores(6000)
    models = [
        IsotonicXMCCalibrator(
            FrozenEstimator(GivenScores().fit(X, Y)),
            grouping=grouping,
            max_pairs=n,
            random_state=0,
        ).fit(X, Y)
        for grouping in ("pooled", "label")
        for n in (None, 30 * 1500)
    ]
    probas = [model.predict_proba(X[:500]).toarray() for model in models]
    whole, proba, *of_labels = probas
    assert 0 < np.abs(whole - proba).mean() < 0.02
    assert_array_equal(*of_labels)  # which learn from all scores
    assert np.abs(proba - truth[:500]).mean() < 0.03


def test_many_rows_are_calibrated_as_few_are():
    X, Y, _ = make_scores(300)
    model = IsotonicXMCCalibrator(FrozenEstimator(GivenScores().fit(X, Y)), n_jobs=2).fit(X, Y)
    many = model.predict_topk(np.tile(X, (20, 1)), k=30)  # more pairs than one block takes
    assert_array_equal(many.labels, np.tile(model.predict_topk(X, k=30).labels, (20, 1)))
    assert_array_equal(many.scores, np.tile(model.predict_topk(X, k=30).scores, (20, 1)))


def test_auto_chooses_maps_of_labels_where_labels_differ():
    X, _, _ = make_scores(3000, n_labels=6)
    rng = np.random.default_rng(2)
    shift = np.array([-3, 3, -2, 2, -1, 1])
    Y = sp.csr_array((rng.random(X.shape) < expit(X / 3 + shift)).astype(int))
    model = IsotonicXMCCalibrator(GivenScores(), cv=2, random_state=0).fit(X, Y)
    assert set(model.scores_) == {"pooled", "frequency", "label"}
    assert model.grouping_ == max(model.scores_, key=model.scores_.get) != "pooled"
    assert model.scores_["label"] > model.scores_["pooled"] + 0.05
    at_zero = [model.calibration_map([0.0], label=j)[0] for j in range(6)]
    assert at_zero[0] < at_zero[1]
    same, _, _ = make_scores(3000, n_labels=6, seed=3)
    Y = sp.csr_array((rng.random(same.shape) < expit(same / 3)).astype(int))
    model = IsotonicXMCCalibrator(GivenScores(), cv=2, random_state=0).fit(same, Y)
    assert model.scores_["pooled"] > model.scores_["label"]


@pytest.mark.parametrize("grouping", ["pooled", "frequency", "label"])
@pytest.mark.parametrize("method", METHODS)
def test_ranking_of_every_row_is_kept(method, grouping):
    X, Y, _ = make_scores(600)
    X[::5] = X[::5].round()  # ties
    model = IsotonicXMCCalibrator(
        GivenScores(), method=method, grouping=grouping, min_positives=20, cv=2
    ).fit(X, Y)
    base = model.estimator_.predict_topk(X, k=30)
    answers = model.predict_topk(X, k=30)
    assert_array_equal(answers.labels, base.labels)
    equal = base.scores[:, 1:] == base.scores[:, :-1]
    assert_array_equal(answers.scores[:, 1:] == answers.scores[:, :-1], equal)
    assert_array_equal(topk_csr(model.predict_proba(X), 30).labels, base.labels)
    assert_array_equal(topk_csr(model.decision_function(X), 30).labels, base.labels)
    dense = IsotonicXMCCalibrator(
        GivenScores(), method=method, grouping=grouping, min_positives=20, cv=2
    ).fit(X, Y.toarray())
    assert_array_equal(topk_dense(dense.predict_proba(X), 30).labels, base.labels)
    assert_array_equal(topk_dense(dense.decision_function(X), 30).labels, base.labels)


def test_precision_is_the_same_on_real_data_and_calibration_better():
    data = load_debtags(return_tfidf=True)
    X, Y = sp.csr_array(data.X_train), sp.csr_array(data.Y_train)
    fit, new = np.arange(0, X.shape[0], 2), np.arange(1, X.shape[0], 2)
    tree = ParabelTree("parabel", n_trees=1, random_state=0)
    model = IsotonicXMCCalibrator(tree, cv=3, random_state=0).fit(X[fit], Y[fit])
    base, proba = model.estimator_.predict_proba(X[new]), model.predict_proba(X[new])
    for k in (1, 3, 5):
        assert precision_at_k(Y[new], proba, k=k) == precision_at_k(Y[new], base, k=k)
        assert ece_at(model, X[new], Y[new], k) < 0.5 * ece_at(model.estimator_, X[new], Y[new], k)


def test_without_keep_ranking_answers_follow_the_probabilities():
    X, _, _ = make_scores(1500, n_labels=4)
    rng = np.random.default_rng(4)
    Y = sp.csr_array((rng.random(X.shape) < expit(X / 3 + [-4, 4, 0, 0])).astype(int))
    options = {"cv": 2, "grouping": "label", "keep_ranking": False}
    model = IsotonicXMCCalibrator(GivenScores(), **options).fit(X, Y)
    answers = model.predict_topk(X, k=4)
    assert (np.diff(answers.scores, axis=1) <= 0).all()
    proba = model.predict_proba(X)
    assert_array_equal(topk_csr(proba, 4).labels, answers.labels)
    before = precision_at_k(Y, model.estimator_.predict_proba(X), k=1)
    assert precision_at_k(Y, proba, k=1) > before + 0.05


@pytest.mark.parametrize("method", ["isotonic", "platt", "beta"])
def test_known_propensities_give_the_true_probabilities(method):
    X, Y, _ = make_scores(6000)
    X_new, _, truth = make_scores(2000, seed=1)
    rng = np.random.default_rng(5)
    propensity = rng.choice([0.4, 0.6, 0.9], 30)
    Y = Y.tocoo()
    seen = rng.random(Y.nnz) < propensity[Y.col]
    recorded = sp.csr_array((Y.data[seen], (Y.row[seen], Y.col[seen])), shape=Y.shape)
    options = {"method": method, "cv": 2, "grouping": "pooled"}

    class Model:
        propensity_ = propensity

    results = {}
    for name, given in (("array", propensity), ("model", Model()), ("none", None)):
        model = IsotonicXMCCalibrator(GivenScores(), propensity=given, **options).fit(X, recorded)
        results[name] = model.predict_proba(X_new).toarray()
    assert_array_equal(results["array"], results["model"])
    assert np.abs(results["array"] - truth).mean() < 0.03
    assert (results["none"] - truth).mean() < -0.05


@pytest.mark.parametrize("values", [np.ones(3), np.zeros(30), np.full(30, 1.5), "jpv", np.nan])
def test_wrong_propensities_are_refused(values):
    X, Y, _ = make_scores(50)
    with pytest.raises(ValueError, match="propensity"):
        IsotonicXMCCalibrator(GivenScores(), cv=2, propensity=values).fit(X, Y)


@pytest.mark.parametrize("ends", [(0, 1), (2, 2), (3, 1), (1.5,), ((1, 2),)])
def test_wrong_rank_ends_are_refused(ends):
    X, Y, _ = make_scores(50)
    with pytest.raises(ValueError, match="rank_ends"):
        IsotonicXMCCalibrator(GivenScores(), cv=2, rank_ends=ends).fit(X, Y)


def test_restrictions_do_not_change_probabilities():
    X, Y, _ = make_scores(400)
    model = IsotonicXMCCalibrator(GivenScores(), cv=2, min_positives=10).fit(X, Y)
    everything = model.predict_topk(X, k=30)
    first = sp.csr_array((np.ones(400), (np.arange(400), everything.labels[:, 0])), shape=Y.shape)
    rest = model.predict_topk(X, k=3, exclude=first)
    assert_array_equal(rest.labels, everything.labels[:, 1:4])
    assert_allclose(rest.scores, everything.scores[:, 1:4], rtol=1e-5, atol=1e-6)
    some = sp.csr_array((np.random.default_rng(6).random(Y.shape) < 0.2).astype(int))
    only = model.predict_topk(X, k=30, candidates=some)
    scores = np.full(Y.shape, -np.inf, np.float32)
    np.put_along_axis(scores, everything.labels, everything.scores, axis=1)
    for row in range(0, 400, 7):
        kept = only.labels[row][only.labels[row] >= 0]
        assert_array_equal(np.sort(kept), some[[row]].indices)
        assert_allclose(only.scores[row, : len(kept)], scores[row, kept], rtol=1e-5, atol=1e-6)
    assert_array_equal(model.predict_topk(X, k=2).scores, everything.scores[:, :2])
    few = IsotonicXMCCalibrator(GivenScores(), cv=2, top_k=3).fit(X, Y)
    beyond = few.predict_topk(X, k=3, candidates=some)
    assert (np.diff(np.where(beyond.labels >= 0, beyond.scores, -1e9), axis=1) <= 0).all()


def test_calibration_map_is_what_the_first_answers_get():
    X, Y, _ = make_scores(500)
    model = IsotonicXMCCalibrator(GivenScores(), cv=2, grouping="label", min_positives=5).fit(X, Y)
    grid = np.linspace(-5, 5, 50)
    assert (np.diff(model.calibration_map(grid)) > 0).all()
    base = model.estimator_.predict_topk(X, k=1)
    got = expit(model.predict_topk(X, k=1).scores[:, 0])
    expected = [
        model.calibration_map([score], label=label)[0]
        for label, score in zip(base.labels[:, 0], base.scores[:, 0], strict=True)
    ]
    assert np.median(np.abs(got - expected)) < 1e-6
    with pytest.raises(ValueError, match="label"):
        model.calibration_map(grid, label=30)


def test_frozen_estimator_is_not_refitted():
    X, Y = contract.make_data(200)
    base = DismecClassifier().fit(X[:100], Y[:100])
    coef = base.coef_.toarray()
    model = IsotonicXMCCalibrator(FrozenEstimator(base)).fit(X[100:], Y[100:])
    assert_array_equal(model.estimator_.estimator.coef_.toarray(), coef)
    assert_array_equal(model.predict_topk(X, 5).labels, base.predict_topk(X, 5).labels)
    with pytest.raises(ValueError, match="9"):
        IsotonicXMCCalibrator(FrozenEstimator(base)).fit(X, Y[:, :4])


def test_wraps_pipelines_searches_and_classifiers_of_scikit_learn():
    texts = ["fast web server", "web browser", "chess game", "puzzle game"] * 6
    Y = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1]] * 6))
    pipeline = make_pipeline(TfidfVectorizer(), DismecClassifier())
    search = GridSearchCV(pipeline, {"dismecclassifier__C": [0.5, 1]}, cv=2, scoring="f1_micro")
    for estimator in (
        pipeline,
        search,
        make_pipeline(TfidfVectorizer(), OneVsRestClassifier(LogisticRegression())),
    ):
        model = IsotonicXMCCalibrator(estimator, cv=2, min_positives=2).fit(texts, Y)
        assert_array_equal(model.predict_topk(["web page", "board game"], 1).labels, [[0], [1]])
        assert sp.issparse(model.predict_proba(texts))
        assert_array_equal(model.predict(texts).toarray(), Y.toarray())


def test_grid_search_over_the_calibrator():
    X, Y = contract.make_data(100)
    search = GridSearchCV(
        IsotonicXMCCalibrator(DismecClassifier(), cv=2),
        {"method": ["platt", "isotonic"], "estimator__C": [0.1, 1]},
        scoring=make_topk_scorer("precision", k=3),
        cv=2,
    ).fit(X, Y)
    assert search.best_estimator_.predict_proba(X).shape == Y.shape


@pytest.mark.parametrize("estimator", [IsotonicXMCCalibrator(DismecClassifier(), cv=3)])
@pytest.mark.parametrize(
    "check",
    [
        contract.check_output_container,
        contract.check_dense_target,
        contract.check_dense_output_limit,
        contract.check_one_dimensional_target,
        contract.check_row_invariance,
        contract.check_deterministic,
        contract.check_clone_and_refit,
        contract.check_failed_fit,
    ],
)
def test_contract_of_sparse_targets(estimator, check):
    check(estimator.set_params(random_state=0))


@parametrize_with_checks(
    [
        IsotonicXMCCalibrator(DismecClassifier(), cv=3),
        IsotonicXMCCalibrator(OneVsRestClassifier(LogisticRegression()), method="platt", cv=3),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
