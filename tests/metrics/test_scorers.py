"""Scorers inside scikit-learn's model selection, with sparse and dense Y."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skxmc import metrics
from skxmc.label_space import inverse_propensity
from skxmc.metrics import get_topk_scorer, make_topk_scorer, precision_at_k
from skxmc.ops.topk import topk_dense, topk_to_csr

FUNCTIONS = {
    "precision": metrics.precision_at_k,
    "recall": metrics.recall_at_k,
    "dcg": metrics.dcg_at_k,
    "ndcg": metrics.ndcg_at_k,
    "hit_rate": metrics.hit_rate_at_k,
    "psp": metrics.psp_at_k,
    "psndcg": metrics.psndcg_at_k,
    "ps_recall": metrics.ps_recall_at_k,
    "macro_precision": metrics.macro_precision_at_k,
    "macro_recall": metrics.macro_recall_at_k,
    "macro_f1": metrics.macro_f1_at_k,
    "coverage": metrics.coverage_at_k,
}
ERRORS = {
    "neg_ece": metrics.ece_at_k,
    "neg_ace": metrics.ace_at_k,
    "neg_brier": metrics.brier_at_k,
    "neg_nll": metrics.nll_at_k,
}
PROPENSITY_SCORED = ("psp", "psndcg", "ps_recall")


class CooccurrenceClassifier(ClassifierMixin, BaseEstimator):
    """Probabilities from co-occurrence counts, in the container that Y had."""

    n_predictions = 0

    def __init__(self, smoothing=1.0, top_k=4):
        self.smoothing = smoothing
        self.top_k = top_k

    def fit(self, X, Y):
        self.is_sparse_ = sp.issparse(Y)
        self.classes_ = np.arange(Y.shape[1])
        counts = X.T @ Y
        counts = counts.toarray() if sp.issparse(counts) else counts
        totals = np.asarray(X.sum(axis=0)).reshape(-1, 1)
        self.rates_ = counts / (totals + self.smoothing)
        return self

    def predict_proba(self, X):
        type(self).n_predictions += 1
        scores = np.clip(np.asarray(X @ self.rates_) / X.shape[1], 1e-6, 1 - 1e-6)
        if not self.is_sparse_:
            return scores
        return topk_to_csr(topk_dense(scores, self.top_k), scores.shape[1], dtype=np.float64)


def make_data(n_labels, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.random((60, 8)) < 0.4).astype(float)
    Y = ((X @ rng.random((8, n_labels)) * rng.random((60, n_labels))) > 0.6).astype(int)
    return X, Y


def by_hand(name, estimator, X, Y, k, cv, kwargs):
    scores = []
    for train, test in cv.split(X):
        fitted = clone(estimator).fit(X[train], Y[train])
        scores.append(FUNCTIONS[name](Y[test], fitted.predict_proba(X[test]), k=k, **kwargs))
    return np.mean(scores)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix, np.asarray])
def test_grid_search(name, container):
    X, Y = make_data(n_labels=7)
    X, Y = sp.csr_array(X), container(Y)
    kwargs = {"inv_propensity": inverse_propensity(Y)} if name in PROPENSITY_SCORED else {}
    scorer = make_topk_scorer(name, k=2, **kwargs)
    smoothings, cv = [0.1, 300.0], KFold(3)
    search = GridSearchCV(
        CooccurrenceClassifier(), {"smoothing": smoothings}, scoring=scorer, cv=cv
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.fit(X, Y)
        score = search.score(X, Y)
    expected = [
        by_hand(name, CooccurrenceClassifier(smoothing=s), X, Y, 2, cv, kwargs) for s in smoothings
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-12)
    whole = FUNCTIONS[name](Y, search.best_estimator_.predict_proba(X), k=2, **kwargs)
    assert score == whole


# With one or two labels classes_ looks like that of a binary problem.
@pytest.mark.parametrize("n_labels", [1, 2, 3, 40])
@pytest.mark.parametrize("container", [sp.csr_array, np.asarray])
def test_any_number_of_labels(n_labels, container):
    X, Y = make_data(n_labels)
    Y = container(Y)
    estimator = CooccurrenceClassifier().fit(X, Y)
    pipeline = make_pipeline(FunctionTransformer(), CooccurrenceClassifier()).fit(X, Y)
    expected = precision_at_k(Y, estimator.predict_proba(X), k=1)
    assert expected > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_topk_scorer("precision@1")(estimator, X, Y) == expected
        assert get_topk_scorer("precision@1")(pipeline, X, Y) == expected


@pytest.mark.parametrize("n_labels", [2, 5])
def test_estimators_that_return_one_array_per_label(n_labels):
    X, Y = make_data(n_labels)
    estimator = KNeighborsClassifier(3).fit(X, Y)
    scores = np.column_stack([of_label[:, 1] for of_label in estimator.predict_proba(X)])
    expected = metrics.ndcg_at_k(Y, scores, 2)
    assert make_topk_scorer("ndcg", 2)(estimator, X, Y) == expected
    cross_validated = cross_val_score(estimator, X, Y, scoring=make_topk_scorer("ndcg", 2), cv=3)
    assert np.isfinite(cross_validated).all()


def test_several_scorers_share_one_prediction():
    X, Y = make_data(n_labels=7)
    scoring = {name: get_topk_scorer(name) for name in ("precision@1", "ndcg@3", "coverage@3")}
    search = GridSearchCV(
        CooccurrenceClassifier(), {"smoothing": [1.0]}, scoring=scoring, cv=3, refit="ndcg@3"
    )
    CooccurrenceClassifier.n_predictions = 0
    search.fit(X, sp.csr_array(Y))
    assert CooccurrenceClassifier.n_predictions == 3
    assert {f"mean_test_{name}" for name in scoring} <= set(search.cv_results_)


def test_pickle_clone_and_processes():
    X, Y = make_data(n_labels=7)
    Y = sp.csr_array(Y)
    scorer = make_topk_scorer("psp", k=2, inv_propensity=inverse_propensity(Y), normalize=False)
    estimator = CooccurrenceClassifier().fit(X, Y)
    expected = scorer(estimator, X, Y)
    assert pickle.loads(pickle.dumps(scorer))(estimator, X, Y) == expected
    search = GridSearchCV(
        CooccurrenceClassifier(), {"smoothing": [0.1, 300.0]}, scoring=scorer, cv=2
    )
    serial = clone(search).fit(X, Y).cv_results_["mean_test_score"]
    parallel = clone(search).set_params(n_jobs=2).fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(serial, parallel)


def test_names():
    X, Y = make_data(n_labels=7)
    estimator = CooccurrenceClassifier().fit(X, Y)
    for name, function in FUNCTIONS.items():
        kwargs = {"inv_propensity": inverse_propensity(Y)} if name in PROPENSITY_SCORED else {}
        expected = function(Y, estimator.predict_proba(X), k=3, **kwargs)
        assert get_topk_scorer(f"{name}@3", **kwargs)(estimator, X, Y) == expected
    assert repr(get_topk_scorer("ndcg@3")) == (
        "make_scorer(ndcg_at_k, response_method='predict_proba', k=3)"
    )


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("container", [sp.csr_array, np.asarray])
def test_errors_of_probabilities_have_the_opposite_sign(name, container):
    X, Y = make_data(n_labels=7)
    Y = container(Y)
    estimator = CooccurrenceClassifier().fit(X, Y)
    expected = -ERRORS[name](Y, estimator.predict_proba(X), k=3)
    assert expected < 0
    assert get_topk_scorer(f"{name}@3")(estimator, X, Y) == expected
    search = GridSearchCV(
        CooccurrenceClassifier(), {"smoothing": [0.1, 1.0]}, scoring=make_topk_scorer(name, 3), cv=2
    )
    assert -np.inf < search.fit(X, Y).best_score_ < 0


def test_an_error_takes_its_arguments():
    X, Y = make_data(n_labels=7)
    estimator = CooccurrenceClassifier().fit(X, Y)
    expected = -metrics.ece_at_k(Y, estimator.predict_proba(X), k=3, n_bins=4, norm="max")
    assert make_topk_scorer("neg_ece", 3, n_bins=4, norm="max")(estimator, X, Y) == expected


def test_own_metric():
    def n_answers(y_true, scores, k):
        return float(k)

    X, Y = make_data(n_labels=7)
    assert make_topk_scorer(n_answers, 4)(CooccurrenceClassifier().fit(X, Y), X, Y) == 4.0


class DecidingClassifier(CooccurrenceClassifier):
    """Decides for its k best labels, fewer in the first row."""

    def __init__(self, smoothing=1.0, top_k=4, k=2):
        super().__init__(smoothing, top_k)
        self.k = k

    def predict(self, X):
        best = topk_dense(np.asarray(X @ self.rates_), self.k).labels
        decisions = np.zeros((X.shape[0], len(self.classes_)), dtype=int)
        np.put_along_axis(decisions, best, 1, axis=1)
        decisions[0, best[0, 0]] = 0
        return sp.csr_array(decisions) if self.is_sparse_ else decisions


@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix, np.asarray])
def test_decisions_are_scored_as_they_are(container):
    X, Y = make_data(n_labels=7)
    estimator = DecidingClassifier().fit(X, container(Y))
    predicted = np.asarray(sp.csr_array(estimator.predict(X)).todense())
    assert predicted[0].sum() == 1
    assert (predicted[1:].sum(axis=1) == 2).all()
    for k in (2, 3):  # a larger k adds no answers
        scorer = make_topk_scorer("precision", k=k, response="predict")
        assert scorer(estimator, X, container(Y)) == pytest.approx((predicted * Y).sum() / 60 / k)
        macro = get_topk_scorer(f"macro_f1@{k}", response="predict")
        expected = f1_score(Y, predicted, average="macro", zero_division=0)
        assert macro(estimator, X, container(Y)) == pytest.approx(expected)
    search = GridSearchCV(DecidingClassifier(), {"k": [1, 2]}, scoring=macro, cv=3)
    assert (search.fit(X, container(Y)).cv_results_["mean_test_score"] > 0).all()
    assert "'predict'" in repr(macro)
    assert "macro_f1_at_k" in repr(macro)
    assert pickle.loads(pickle.dumps(macro))(estimator, X, Y) == macro(estimator, X, Y)


@pytest.mark.parametrize("n_labels", [1, 2])
def test_decisions_on_few_labels(n_labels):
    X, Y = make_data(n_labels)
    estimator = DecidingClassifier(k=1).fit(X, sp.csr_array(Y))
    expected = (estimator.predict(X).toarray() * Y).sum() / 60
    assert make_topk_scorer("precision", 1, response="predict")(estimator, X, Y) == expected


def test_more_decisions_than_the_scorer_looks_at():
    X, Y = make_data(n_labels=7)
    estimator = DecidingClassifier(k=3).fit(X, Y)
    estimator.predict(X)
    with pytest.raises(ValueError, match="3 labels in row 1, but the scorer looks at k=2"):
        make_topk_scorer("precision", 2, response="predict")(estimator, X, Y)


def test_decisions_about_classes_are_refused():
    X, Y = make_data(n_labels=3)
    estimator = KNeighborsClassifier(3).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"got an array of shape \(60,\)"):
        make_topk_scorer("precision", 1, response="predict")(estimator, X, Y)


def test_margins_are_ranked():
    X, Y = make_data(n_labels=7)
    estimator = RidgeClassifier().fit(X, Y)
    expected = metrics.ndcg_at_k(Y, estimator.decision_function(X), 2)
    assert make_topk_scorer("ndcg", 2, response="decision_function")(estimator, X, Y) == expected


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_topk_scorer("ndcg", response="transform"), ValueError, "response must be"),
        (lambda: make_topk_scorer("neg_ece", response="predict"), ValueError, "'predict_proba'"),
        (lambda: make_topk_scorer("neg_ece", return_parts=True), TypeError, "return_parts"),
        (lambda: get_topk_scorer("precision"), ValueError, "'<metric>@<k>'"),
        (lambda: get_topk_scorer("precision@five"), ValueError, "'<metric>@<k>'"),
        (lambda: get_topk_scorer("precision@-1"), ValueError, "'<metric>@<k>'"),
        (lambda: get_topk_scorer("precision@0"), ValueError, "at least 1"),
        (lambda: get_topk_scorer("accuracy@5"), ValueError, "Unknown metric 'accuracy'"),
        (lambda: make_topk_scorer("precision", [1, 3]), TypeError, "one integer"),
        (lambda: make_topk_scorer("precision", 1.5), TypeError, "k must be an integer"),
        (lambda: make_topk_scorer("psp"), TypeError, "inv_propensity"),
        (lambda: make_topk_scorer("precision", beta=2), TypeError, "beta"),
        (lambda: make_topk_scorer("precision", exclude=sp.eye_array(3)), TypeError, "exclude"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_dimensional_y_is_refused():
    X, Y = make_data(n_labels=3)
    estimator = CooccurrenceClassifier().fit(X, Y)
    with pytest.raises(ValueError, match="label_binarize"):
        get_topk_scorer("precision@1")(estimator, X, Y[:, 0])
