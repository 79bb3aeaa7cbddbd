"""MacroAtKPredictor: decisions of each method, containers, wrapped classifiers, grid search."""

import pickle

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skxmc import DismecClassifier
from skxmc.calibration import IsotonicXMCCalibrator
from skxmc.datasets import load_debtags, make_xmc_classification
from skxmc.decision import MacroAtKPredictor
from skxmc.decision._rules import decide_together
from skxmc.decision._utilities import make_objective
from skxmc.exceptions import DenseOutputError
from skxmc.label_space import jpv_propensity
from skxmc.metrics import (
    macro_f1_at_k,
    macro_recall_at_k,
    make_topk_scorer,
    precision_at_k,
)
from skxmc.ops.macro_at_k import (
    Objective,
    Term,
    Utility,
    block_coordinate_ascent,
    greedy_pass,
    objective_value,
    online_pass,
)

K = 3
METHODS = ("bca", "greedy", "online", "frank-wolfe", "closed-form")


@numba.njit
def f1_function(tp, fp, fn, tn):
    down = 2 * tp + fp + fn
    return 2 * tp / down if down > 0 else 0.0


@pytest.fixture(scope="module")
def data():
    data = make_xmc_classification(360, 80, 25, random_state=0)
    return data.X[:240], data.Y[:240], data.X[240:], data.Y[240:]


@pytest.fixture(scope="module")
def base(data):
    X, Y, _, _ = data
    return DismecClassifier(top_k=12).fit(X, Y)


def predictor(base, **params):
    """A predictor on a classifier that is fitted already."""
    return MacroAtKPredictor(FrozenEstimator(base), **{"k": K, "random_state": 0, **params})


def metric_for(method):
    return "macro_balanced_accuracy" if method == "closed-form" else "macro_f1"


def dense_topk(scores, k):
    """The k largest of each row, ties by the smaller label; absent candidates are -inf."""
    chosen = np.zeros(scores.shape, dtype=int)
    order = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), -scores))[:, :k]
    np.put_along_axis(chosen, order, 1, axis=1)
    return chosen * np.isfinite(scores)


def candidates(eta):
    """Dense marginals with -inf where nothing is stored."""
    dense = np.full(eta.shape, -np.inf)
    rows = np.repeat(np.arange(eta.shape[0]), np.diff(eta.indptr))
    dense[rows, eta.indices] = eta.data
    return dense


# ------------------------------------------------------------------ what is decided


@pytest.mark.parametrize("method", METHODS)
def test_exactly_k_labels_a_row(method, data, base):
    X, Y, X_test, _ = data
    model = predictor(base, method=method, metric=metric_for(method), cv=3).fit(X, Y)
    decision = model.predict(X_test)
    assert isinstance(decision, sp.csr_array)
    assert decision.shape == (120, 25)
    assert decision.dtype == Y.dtype
    assert set(decision.data) == {1}
    assert decision.has_canonical_format
    np.testing.assert_array_equal(np.diff(decision.indptr), K)
    # only candidates are answered
    assert (decision > (model.predict_proba(X_test) > 0)).nnz == 0


def test_joint_methods_are_those_of_ops(data, base):
    X, Y, X_test, _ = data
    eta = base.set_params(top_k=25).predict_proba(X_test)
    base.set_params(top_k=12)
    objective = make_objective("macro_f1", k=K, n_labels=25, alpha=0.8)
    params = {"alpha": 0.8, "top_k": 25}
    model = predictor(base, **params).fit(X, Y)
    expected, _ = block_coordinate_ascent(eta, K, objective, seed=model._seed)
    assert (model.predict(X_test) != expected).nnz == 0
    model.set_params(method="greedy")  # joint methods need no other fit
    expected = greedy_pass(eta, K, objective, seed=model._seed)
    assert (model.predict(X_test) != expected).nnz == 0
    model.set_params(method="online")
    expected, _ = online_pass(eta, K, objective)
    assert (model.predict(X_test) != expected).nnz == 0


@pytest.mark.parametrize("method", METHODS)
def test_precision_alone_is_answered_by_the_most_probable_labels(method, data, base):
    X, Y, X_test, _ = data
    model = predictor(base, method=method, metric="precision").fit(X, Y)
    mixed = predictor(base, method=method, metric=metric_for(method), alpha=0.0).fit(X, Y)
    expected = dense_topk(candidates(base.predict_proba(X_test)), K)
    np.testing.assert_array_equal(model.predict(X_test).toarray(), expected)
    np.testing.assert_array_equal(mixed.predict(X_test).toarray(), expected)


def test_closed_forms_by_hand(data, base):
    X, Y, X_test, _ = data
    eta = candidates(base.predict_proba(X_test))
    prior = np.asarray(Y.mean(axis=0)).ravel()
    assert (prior > 0).all()
    gains = {
        "macro_recall": eta / prior,
        "macro_balanced_accuracy": eta / prior - (1 - eta) / (1 - prior),
        "psp": eta / jpv_propensity(Y),
    }
    for metric, gain in gains.items():
        model = predictor(base, method="closed-form", metric=metric, top_k=12).fit(X, Y)
        gain[~np.isfinite(eta)] = -np.inf
        np.testing.assert_array_equal(model.predict(X_test).toarray(), dense_topk(gain, K))
        np.testing.assert_allclose(model.label_frequency_, prior)
        assert model.a_.shape == model.b_.shape == (1, 25)
    mixed = predictor(base, method="closed-form", metric="psp", alpha=0.5, top_k=12).fit(X, Y)
    gain = eta * (0.5 + 0.5 / jpv_propensity(Y))
    np.testing.assert_array_equal(mixed.predict(X_test).toarray(), dense_topk(gain, K))


@pytest.mark.parametrize("method", ["bca", "greedy", "online"])
def test_labels_that_nobody_may_get_change_nothing(method):
    """Few rows among many labels are decided on the labels stored there; with the same result."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((8, 12)) < 0.6, rng.random((8, 12)), 0)
    weight = rng.random(40)
    places = np.sort(rng.permutation(40)[:12])
    wide = np.zeros((8, 40))
    wide[:, places] = dense
    for inner, outer in ((0.1, 0.1), (weight[places], weight)):
        terms = [Objective((Term(Utility.FBETA, w), Term(Utility.TP, w))) for w in (inner, outer)]
        narrow = decide_together(sp.csr_array(dense), 2, terms[0], method)
        found = decide_together(sp.csr_array(wide), 2, terms[1], method)
        assert sp.csr_array(wide).nnz > 40  # this is decided as it is ...
        np.testing.assert_array_equal(found.toarray()[:, places], narrow.toarray())
        rows = [0, 1, 2]
        assert sp.csr_array(wide[rows]).nnz < 40  # ... and this without the other labels
        found = decide_together(sp.csr_array(wide[rows]), 2, terms[1], method)
        narrow = decide_together(sp.csr_array(dense[rows]), 2, terms[0], method)
        np.testing.assert_array_equal(found.toarray()[:, places], narrow.toarray())
    empty = decide_together(sp.csr_array((3, 40)), 2, terms[1], method)
    assert empty.shape == (3, 40)
    assert empty.nnz == 0


def test_bca_agrees_with_the_closed_form_on_its_own_priors(data, base):
    """For a linear utility no decision has a larger expected utility."""
    X, Y, X_test, _ = data
    eta = base.predict_proba(X_test)
    mean = np.asarray(eta.mean(axis=0)).ravel()
    model = predictor(base, metric="macro_recall", top_k=12).fit(X, Y)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = dense_topk(np.where(mean > 0, candidates(eta) / mean, -np.inf), K)
    objective = make_objective("macro_recall", k=K, n_labels=25)
    expected = objective_value((eta, sp.csr_array(best)), objective)
    assert model.expected_utility(X_test) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("method", ["frank-wolfe", "closed-form"])
def test_rules_look_at_one_row(method, data, base):
    X, Y, X_test, _ = data
    model = predictor(base, method=method, metric=metric_for(method)).fit(X, Y)
    together = model.predict(X_test).toarray()
    alone = np.vstack([model.predict(X_test[[i]]).toarray() for i in range(30)])
    np.testing.assert_array_equal(alone, together[:30])
    np.testing.assert_array_equal(model.predict(X_test[::-1]).toarray(), together[::-1])


@pytest.mark.parametrize("metric", ["macro_f1", "macro_gmean", "macro_recall"])
def test_frank_wolfe_learns_a_mixture_that_sums_to_one(metric, data):
    X, Y, X_test, Y_test = data
    model = MacroAtKPredictor(
        DismecClassifier(), metric=metric, method="frank-wolfe", k=K, cv=3, random_state=0
    ).fit(X, Y)
    n_classifiers = len(model.weight_)
    assert model.a_.shape == model.b_.shape == (n_classifiers, 25)
    assert model.weight_.sum() == pytest.approx(1)
    assert (model.weight_ > 0).all()
    assert (np.diff(model.history_) > -1e-9).all()
    objective = make_objective(metric, k=K, n_labels=25)
    top = sp.csr_array(dense_topk(candidates(model.predict_proba(X_test)), K))
    reached = objective_value((Y_test, model.predict(X_test)), objective)
    assert reached > objective_value((Y_test, top), objective)
    # Another fit forgets the rule.
    model.set_params(method="bca").fit(X, Y)
    assert not hasattr(model, "a_")
    assert not hasattr(model, "history_")


def test_frank_wolfe_learns_from_rows_that_the_classifier_has_not_seen(data):
    """A classifier that knows its training rows by heart: in-fold marginals would be the labels."""
    X, Y, _, _ = data
    wrapped = OneVsRestClassifier(KNeighborsClassifier(1))
    model = MacroAtKPredictor(wrapped, method="frank-wolfe", k=K, cv=3, random_state=0).fit(X, Y)
    known = MacroAtKPredictor(
        FrozenEstimator(wrapped.fit(X, Y)), method="frank-wolfe", k=K, random_state=0
    ).fit(X, Y)
    # Known labels are answered without a mistake, so that no step improves the first rule.
    assert known.history_[-1] > 0.9
    assert model.history_[-1] < 0.9


@pytest.mark.parametrize("metric", ["macro_f1", "macro_precision", "macro_recall", "coverage"])
def test_expected_utility_rises_above_that_of_the_most_probable(metric, data, base):
    X, Y, X_test, _ = data
    model = predictor(base, metric=metric).fit(X, Y)
    eta, decision = model.predict_proba(X_test), model.predict(X_test)
    objective = make_objective(metric, k=K, n_labels=25)
    top = sp.csr_array(dense_topk(candidates(eta), K))
    reached = model.expected_utility(X_test)
    assert reached == pytest.approx(objective_value((eta, decision), objective))
    assert reached > objective_value((eta, top), objective)


def test_real_data_macro_f1_rises_and_alpha_trades_it_for_precision():
    data = load_debtags(return_tfidf=True)
    rows = slice(None, None, 8)
    X_test, Y_test = data.X_test[rows], data.Y_test[rows]
    base = DismecClassifier().fit(data.X_train[rows], data.Y_train[rows])
    model = predictor(base, k=5).fit(X_test[:50], Y_test[:50])
    precision, macro = [], []
    for alpha in (0.0, 0.9, 1.0):
        decision = model.set_params(alpha=alpha).predict(X_test)
        precision.append(precision_at_k(Y_test, decision, k=5))
        macro.append(macro_f1_at_k(Y_test, decision, k=5))
    assert precision[0] >= precision[1] > precision[2]
    assert macro[1] > 1.1 * macro[0]


def test_own_function(data, base):
    X, Y, X_test, _ = data
    expected = predictor(base, metric="macro_f1").fit(X, Y).predict(X_test)
    model = clone(predictor(base, metric=f1_function)).fit(X, Y)
    assert (model.predict(X_test) != expected).nnz == 0
    mixed = predictor(base, metric="macro_recall", mix_with=f1_function, alpha=0.3).fit(X, Y)
    named = predictor(base, metric="macro_recall", mix_with="macro_f1", alpha=0.3).fit(X, Y)
    assert (mixed.predict(X_test) != named.predict(X_test)).nnz == 0


def test_propensities(data, base):
    X, Y, X_test, _ = data
    p = np.linspace(0.1, 1, 25)

    class Fitted(BaseEstimator):
        propensity_ = p

        def fit(self, Y):
            return self

    expected = dense_topk(candidates(base.predict_proba(X_test)) / p, K)
    for propensity in (p, p.tolist(), Fitted()):
        model = predictor(base, metric="psp", propensity=propensity, top_k=12).fit(X, Y)
        np.testing.assert_array_equal(model.predict(X_test).toarray(), expected)


# ------------------------------------------------------------------ containers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_container_and_dtype_of_y(method, dtype, data):
    X, Y, X_test, _ = data
    options = {"method": method, "metric": metric_for(method), "k": K, "cv": 2, "random_state": 0}
    model = MacroAtKPredictor(DismecClassifier(), **options)
    expected = model.fit(X, Y).predict(X_test).toarray()
    for container, kind in (
        (sp.csr_array, sp.csr_array),
        (sp.csc_matrix, sp.csr_matrix),
        (lambda Y: Y.toarray(), np.ndarray),
    ):
        predicted = model.fit(X, container(Y.astype(dtype))).predict(X_test)
        assert type(predicted) is kind
        assert predicted.dtype == dtype
        dense = predicted if kind is np.ndarray else predicted.toarray()
        np.testing.assert_array_equal(dense, expected)


def test_other_outputs_pass_through(data):
    X, Y, X_test, _ = data
    base = DismecClassifier(top_k=6).fit(X, Y)
    model = MacroAtKPredictor(DismecClassifier(), top_k=6, k=K).fit(X, Y)
    exclude = model.predict(X_test)
    for restriction in ({}, {"exclude": exclude}, {"candidates": exclude}):
        answers = model.predict_topk(X_test, k=4, **restriction)
        expected = base.predict_topk(X_test, k=4, **restriction)
        np.testing.assert_array_equal(answers.labels, expected.labels)
        np.testing.assert_array_equal(answers.scores, expected.scores)
    for method in ("predict_proba", "decision_function"):
        assert abs(getattr(model, method)(X_test) - getattr(base, method)(X_test)).max() == 0
    dense = MacroAtKPredictor(DismecClassifier(), k=K).fit(X, Y.toarray())
    expected = DismecClassifier().fit(X, Y.toarray())
    for method in ("predict_proba", "decision_function"):
        np.testing.assert_array_equal(
            getattr(dense, method)(X_test), getattr(expected, method)(X_test)
        )


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_predicted_as_by_the_wrapped_classifier(method, data):
    X, Y, X_test, _ = data
    for y in (np.array(["no", "yes"])[Y[:, [0]].toarray().ravel()], Y.indices[Y.indptr[:-1]]):
        options = {"method": method, "metric": metric_for(method), "cv": 2}
        model = MacroAtKPredictor(DismecClassifier(), **options).fit(X, y)
        expected = DismecClassifier().fit(X, y)
        np.testing.assert_array_equal(model.predict(X_test), expected.predict(X_test))
        np.testing.assert_array_equal(model.classes_, np.unique(y))
        with pytest.raises(ValueError, match="no decision about k labels for a 1-D y"):
            model.expected_utility(X_test)


def test_dense_output_limit(data):
    X, Y, X_test, _ = data
    model = MacroAtKPredictor(DismecClassifier(), max_dense_bytes=100).fit(X, Y.toarray())
    with pytest.raises(DenseOutputError, match="predict of 120 rows"):
        model.predict(X_test)


def test_budgets_at_the_edges(data, base):
    X, Y, X_test, _ = data
    for k in (25, 40):  # all labels, more than there are
        for method in METHODS:
            model = predictor(base, method=method, metric=metric_for(method), k=k, top_k=1)
            assert model.fit(X, Y).predict(X_test).nnz == 25 * 120
    # A row with fewer candidates than k gets all of them.
    narrow = predictor(base, k=4, top_k=2).fit(X, Y)
    assert (np.diff(narrow.predict(X_test).indptr) == 4).all()  # top_k is at least k
    one = predictor(base, k=1).fit(X, Y)
    assert one.predict(X_test[[0]]).nnz == 1


def test_rows_with_fewer_candidates_than_k(data):
    X, Y, X_test, _ = data

    class Sparse(BaseEstimator):
        """Knows label i % 3 of row i only, and nothing of each fourth row."""

        def fit(self, X, Y):
            self.classes_ = np.arange(Y.shape[1])
            self.n_labels_ = Y.shape[1]
            return self

        def predict_topk(self, X, k=5):
            from skxmc.ops.topk import TopK

            rows = np.arange(X.shape[0])
            labels = np.full((len(rows), k), -1, np.int32)
            labels[:, 0] = np.where(rows % 4 == 3, -1, rows % 3)
            return TopK(labels, np.where(labels >= 0, 0.0, -np.inf).astype(np.float32))

    for method in METHODS:
        options = {"method": method, "metric": metric_for(method), "k": 2}
        model = MacroAtKPredictor(FrozenEstimator(Sparse().fit(X, Y)), **options).fit(X, Y)
        counts = np.diff(model.predict(X_test).indptr)
        np.testing.assert_array_equal(counts, np.where(np.arange(120) % 4 == 3, 0, 1))


# ------------------------------------------------------------------ wrapped classifiers


def test_frozen_estimator_is_not_fitted_again(data, base):
    X, Y, X_test, _ = data
    for method in METHODS:
        options = {"method": method, "metric": metric_for(method), "top_k": 12}
        model = predictor(base, **options).fit(X[:60], Y[:60])
        assert model.estimator_.estimator is base
        again = model.predict_proba(X_test)
        assert abs(again - base.predict_proba(X_test)).max() == 0


def test_pipeline_of_texts():
    texts = ["red apple", "green apple", "red car", "green car", "blue car", "blue sky"] * 6
    Y = sp.csr_array(
        np.array([[w in t for w in ("red", "green", "blue", "apple", "car")] for t in texts], int)
    )
    pipeline = make_pipeline(TfidfVectorizer(), DismecClassifier())
    for method in METHODS:
        options = {"method": method, "metric": metric_for(method), "k": 2, "cv": 2}
        model = MacroAtKPredictor(pipeline, **options).fit(texts, Y)
        predicted = model.predict(["a red apple", "a green car"]).toarray()
        np.testing.assert_array_equal(predicted, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])


@pytest.mark.parametrize("binary", [LogisticRegression(solver="liblinear"), LinearSVC()])
def test_classifiers_of_scikit_learn(binary, data):
    X, Y, X_test, _ = data
    X, Y = X[:80], Y[:80, :8]
    wrapped = OneVsRestClassifier(binary)
    for method in ("bca", "frank-wolfe"):
        model = MacroAtKPredictor(wrapped, method=method, k=K, cv=2, random_state=0).fit(X, Y)
        decision = model.predict(X_test)
        np.testing.assert_array_equal(np.diff(decision.indptr), K)
    model.set_params(method="bca")
    if hasattr(wrapped, "predict_proba"):
        eta = wrapped.fit(X, Y).predict_proba(X_test)
    else:  # margins count as log-odds
        eta = expit(wrapped.fit(X, Y).decision_function(X_test))
    objective = make_objective("macro_f1", k=K, n_labels=8)
    expected, _ = block_coordinate_ascent(sp.csr_array(eta), K, objective, seed=model._seed)
    assert (model.predict(X_test) != expected).nnz == 0


def test_calibrated_probabilities_help_a_rule_that_divides_by_frequencies(data):
    X, Y, X_test, Y_test = data
    reached = []
    for wrapped in (DismecClassifier(), IsotonicXMCCalibrator(DismecClassifier(), cv=3)):
        model = MacroAtKPredictor(wrapped, metric="macro_recall", method="closed-form", k=K)
        reached.append(macro_recall_at_k(Y_test, model.fit(X, Y).predict(X_test), k=K))
    assert reached[1] > reached[0]


# ------------------------------------------------------------------ model selection


def test_grid_search_over_the_decision(data, base):
    X, Y, _, _ = data
    search = GridSearchCV(
        MacroAtKPredictor(DismecClassifier(), random_state=0),
        {"alpha": [0.0, 1.0], "metric": ["macro_f1", "macro_precision"], "k": [2, 3]},
        scoring={
            "precision": make_topk_scorer("precision", k=3, response="predict"),
            "macro_f1": make_topk_scorer("macro_f1", k=3, response="predict"),
        },
        refit="macro_f1",
        cv=2,
        error_score="raise",
    ).fit(X, Y)
    results = search.cv_results_
    assert search.best_params_["alpha"] == 1.0
    assert search.best_params_["metric"] == "macro_f1"
    by_precision = results["params"][int(np.argmax(results["mean_test_precision"]))]
    assert by_precision["alpha"] == 0.0
    assert by_precision["k"] == 3  # two answers can reach 2/3 of precision@3 at most
    assert isinstance(search.predict(X), sp.csr_array)


def test_random_state(data, base):
    X, Y, X_test, _ = data
    first = predictor(base, init="random", max_sweeps=1).fit(X, Y)
    expected = first.predict(X_test)
    assert (first.predict(X_test) != expected).nnz == 0
    assert (clone(first).fit(X, Y).predict(X_test) != expected).nnz == 0
    unseeded = clone(first).set_params(random_state=None).fit(X, Y)
    assert (unseeded.predict(X_test) != unseeded.predict(X_test)).nnz == 0


@pytest.mark.parametrize("method", METHODS)
def test_pickle(method, data, base):
    X, Y, X_test, _ = data
    model = predictor(base, method=method, metric=metric_for(method)).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(X_test) != model.predict(X_test)).nnz == 0


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"metric": "accuracy"}, "'metric' parameter"),
        ({"mix_with": "ndcg"}, "'mix_with' parameter"),
        ({"k": 0}, "'k' parameter"),
        ({"alpha": 1.5}, "'alpha' parameter"),
        ({"alpha": np.nan}, "'alpha' parameter"),
        ({"beta": 0.0}, "'beta' parameter"),
        ({"method": "simplex"}, "'method' parameter"),
        ({"tol": -1e-3}, "'tol' parameter"),
        ({"max_sweeps": 0}, "'max_sweeps' parameter"),
        ({"init": "best"}, "'init' parameter"),
        ({"top_k": 0}, "'top_k' parameter"),
        ({"propensity": np.ones(3)}, "each of the 25 labels"),
        ({"propensity": np.full(25, 2.0)}, "label 0 has 2.0"),
        ({"method": "closed-form"}, "no closed form"),
        ({"method": "closed-form", "metric": f1_function}, "no closed form"),
        ({"method": "frank-wolfe", "metric": "coverage"}, "(?i)coverage"),
    ],
)
def test_bad_parameters(params, message, data, base):
    X, Y, _, _ = data
    with pytest.raises(ValueError, match=message):
        predictor(base, **params).fit(X, Y)


def test_not_fitted_and_bad_rows(data, base):
    X, Y, X_test, _ = data
    with pytest.raises(NotFittedError):
        predictor(base).predict(X_test)
    with pytest.raises(NotFittedError):
        predictor(base).expected_utility(X_test)
    model = predictor(base).fit(X, Y)
    with pytest.raises(ValueError, match="features"):
        model.predict(X_test[:, :5])
    with pytest.raises(ValueError, match="frozen estimator was fitted"):
        predictor(base).fit(X, Y[:, :7])
