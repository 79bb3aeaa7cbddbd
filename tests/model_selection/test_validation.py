"""Cross-validation and out-of-fold predictions with a sparse Y."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.model_selection import ShuffleSplit as PlainShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skxmc.model_selection import (
    IterativeStratifiedKFold,
    cross_val_predict_sparse,
    cross_val_predict_topk,
    cross_validate_sparse,
)
from skxmc.ops.csr import canonical_csr
from skxmc.ops.topk import TopK, topk_dense


class Votes(ClassifierMixin, BaseEstimator):
    """Score of a label: the number of shared features with its training rows, per feature count."""

    def __init__(self, bonus=0.0):
        self.bonus = bonus

    def fit(self, X, Y, label_text=None):
        self.classes_ = np.arange(Y.shape[1])
        self.sparse_ = sp.issparse(Y)
        self.text_ = label_text
        self.weights_ = (sp.csr_array(X).T @ sp.csr_array(Y)).astype(np.float32)
        return self

    def predict_topk(self, X, k=5, *, exclude=None, candidates=None):
        scores = (sp.csr_array(X) @ self.weights_).toarray() + np.float32(self.bonus)
        if exclude is not None:
            scores[exclude.toarray() != 0] = -np.inf
        if candidates is not None:
            scores[candidates.toarray() == 0] = -np.inf
        best = topk_dense(scores, min(k, scores.shape[1]))
        missing = ((0, 0), (0, k - best.labels.shape[1]))
        return TopK(
            np.pad(best.labels, missing, constant_values=-1),
            np.pad(best.scores, missing, constant_values=-np.inf),
        )

    def predict_proba(self, X):
        scores = sp.csr_array(X) @ self.weights_
        scores.data = scores.data / (1 + scores.data)
        return scores if self.sparse_ else scores.toarray()

    def predict(self, X):
        return (self.predict_proba(X) > 0.5).astype(np.int64)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    Y = sp.csr_array((rng.random((60, 7)) < 0.25).astype(np.int64))
    X = sp.csr_array(Y @ sp.eye_array(7, 12) + (rng.random((60, 12)) < 0.2)).astype(np.float32)
    return sp.csr_array(X), Y


class LastRows:
    """A splitter with one test set, so no partition."""

    def split(self, X, y=None, groups=None):
        yield np.arange(40), np.arange(40, 60)

    def get_n_splits(self, X=None, y=None, groups=None):
        return 1


# ------------------------------------------------------------------ cross_validate_sparse


def test_scikit_learn_still_refuses_sparse_y(data):
    """Once this fails, `cross_validate_sparse` has become superfluous."""
    with pytest.raises(ValueError, match="'y' parameter"):
        cross_validate(OneVsRestClassifier(LinearSVC()), *data)


def test_cross_validate_equals_that_of_scikit_learn_on_dense_y(data):
    X, Y = data
    arguments = {
        "cv": KFold(4),
        "scoring": ["f1_micro", "accuracy"],
        "return_train_score": True,
        "return_indices": True,
        "return_estimator": True,
    }
    estimator = OneVsRestClassifier(LinearSVC(random_state=0))
    ours = cross_validate_sparse(estimator, X, Y, **arguments)
    theirs = cross_validate(estimator, X, Y.toarray(), **arguments)
    assert ours.keys() == theirs.keys()
    for name in ("test_f1_micro", "train_f1_micro", "test_accuracy", "train_accuracy"):
        np.testing.assert_allclose(ours[name], theirs[name])
    for part in ("train", "test"):
        np.testing.assert_array_equal(ours["indices"][part], theirs["indices"][part])
    assert len(ours["estimator"]) == len(ours["fit_time"]) == 4
    assert (ours["fit_time"] > 0).all()


def test_cross_validate_equals_grid_search(data):
    """GridSearchCV is scikit-learn's own way in which sparse Y passes."""
    X, Y = data
    estimator = OneVsRestClassifier(LinearSVC(random_state=0))
    cv = IterativeStratifiedKFold(3)
    search = GridSearchCV(estimator, {}, cv=cv, scoring="f1_macro", refit=False).fit(X, Y)
    expected = [search.cv_results_[f"split{i}_test_score"][0] for i in range(3)]
    result = cross_validate_sparse(estimator, X, Y, cv=cv, scoring="f1_macro")
    np.testing.assert_allclose(result["test_score"], expected)


@pytest.mark.parametrize(("cv", "n_splits"), [(None, 5), (3, 3)])
def test_an_int_is_the_number_of_stratified_folds(data, cv, n_splits):
    result = cross_validate_sparse(Votes(), *data, cv=cv, return_indices=True)
    expected = [test for _, test in IterativeStratifiedKFold(n_splits).split(*data)]
    assert len(result["test_score"]) == n_splits
    for got, test in zip(result["indices"]["test"], expected, strict=True):
        np.testing.assert_array_equal(got, test)


def test_scorers_receive_y_in_its_container(data):
    X, Y = data
    seen = []

    def scorer(estimator, X, Y):
        seen.append(type(Y))
        return f1_score(Y, estimator.predict(X), average="micro")

    for target in (Y, Y.toarray(), sp.csr_matrix(Y)):
        cross_validate_sparse(Votes(), X, target, cv=2, scoring=scorer, error_score="raise")
    assert seen == [sp.csr_array] * 2 + [np.ndarray] * 2 + [sp.csr_matrix] * 2


def test_scores_do_not_depend_on_n_jobs(data):
    one, two = (
        cross_validate_sparse(Votes(), *data, cv=2, scoring="f1_micro", n_jobs=n)["test_score"]
        for n in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_cross_validate_groups(data):
    X, Y = data
    groups = np.arange(60) // 20
    result = cross_validate_sparse(
        Votes(), X, Y, cv=GroupKFold(3), groups=groups, return_indices=True, scoring="f1_micro"
    )
    for test in result["indices"]["test"]:
        assert len(set(groups[test])) == 1


def test_cross_validate_failing_fits(data):
    class Failing(Votes):
        def fit(self, X, Y):
            raise RuntimeError("no luck")

    with pytest.raises(ValueError, match="All the 5 fits failed"):
        cross_validate_sparse(Failing(), *data)
    with pytest.raises(RuntimeError, match="no luck"):
        cross_validate_sparse(Failing(), *data, error_score="raise")


def test_cross_validate_bad_input(data):
    X, Y = data
    with pytest.raises(ValueError, match="inconsistent"):
        cross_validate_sparse(Votes(), X[:10], Y)
    with pytest.raises(ValueError, match="no_such_scorer"):
        cross_validate_sparse(Votes(), X, Y, scoring="no_such_scorer")
    with pytest.raises(ValueError, match="cv"):
        cross_validate_sparse(Votes(), X, Y, cv="five")


# ------------------------------------------------------------------ cross_val_predict_topk


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("convert", [sp.csr_array, sp.csr_matrix, sp.csc_array, np.array])
def test_topk_is_that_of_the_models_of_the_folds(data, convert, n_jobs):
    X, Y = data
    cv = IterativeStratifiedKFold(4, shuffle=True, random_state=0)
    target = Y.toarray() if convert is np.array else convert(Y)
    labels, scores = cross_val_predict_topk(Votes(), X, target, cv=cv, k=3, n_jobs=n_jobs)
    assert labels.shape == scores.shape == (60, 3)
    for train, test in cv.split(X, Y):
        expected = Votes().fit(X[train], Y[train]).predict_topk(X[test], k=3)
        np.testing.assert_array_equal(labels[test], expected.labels)
        np.testing.assert_array_equal(scores[test], expected.scores)


def test_topk_is_padded_where_k_is_more_than_the_labels(data):
    labels, scores = cross_val_predict_topk(Votes(), *data, cv=3, k=9)
    assert isinstance(labels, np.ndarray)
    assert (labels[:, 7:] == -1).all()
    assert np.isneginf(scores[:, 7:]).all()
    np.testing.assert_array_equal(np.sort(labels[:, :7], axis=1), np.tile(np.arange(7), (60, 1)))


def test_topk_with_exclude_and_candidates(data):
    X, Y = data
    rng = np.random.default_rng(1)
    exclude = sp.csr_matrix((rng.random((60, 7)) < 0.3).astype(float))
    candidates = sp.coo_array((rng.random((60, 7)) < 0.6).astype(float))
    cv = KFold(3, shuffle=True, random_state=0)
    labels, scores = cross_val_predict_topk(
        Votes(), X, Y, cv=cv, k=2, exclude=exclude, candidates=candidates
    )
    allowed = (candidates.toarray() != 0) & (exclude.toarray() == 0)
    everything = cross_val_predict_topk(Votes(), X, Y, cv=cv, k=7)
    for row in range(60):
        ranked = [label for label in everything.labels[row] if allowed[row, label]]
        answered = labels[row][np.isfinite(scores[row])].tolist()
        assert answered == ranked[:2]


def test_topk_of_pipelines_and_searches_on_texts(data):
    _, Y = data
    texts = [
        " ".join(f"w{j}" for j in Y.indices[a:b]) + " all" for a, b in zip(Y.indptr, Y.indptr[1:])
    ]
    cv = IterativeStratifiedKFold(3)
    pipeline = make_pipeline(CountVectorizer(), Votes())
    search = GridSearchCV(pipeline, {"votes__bonus": [0.0]}, cv=2, scoring="f1_micro")
    nested = make_pipeline("passthrough", search)
    answers = [cross_val_predict_topk(e, texts, Y, cv=cv, k=3) for e in (pipeline, search, nested)]
    for train, test in cv.split(texts, Y):
        vectorizer = CountVectorizer()
        X_train = vectorizer.fit_transform([texts[i] for i in train])
        model = Votes().fit(X_train, Y[train])
        expected = model.predict_topk(vectorizer.transform([texts[i] for i in test]), k=3)
        for answer in answers:
            np.testing.assert_array_equal(answer.labels[test], expected.labels)


def test_fit_params_are_never_indexed_by_row(data):
    """A text for each label stays whole, also with as many labels as rows."""
    X, Y = data
    X, Y = X[:7], Y[:7]
    seen = []

    class Recorder(Votes):
        def fit(self, X, Y, label_text=None):
            seen.append(label_text)
            return super().fit(X, Y)

    names = list("abcdefg")
    cross_val_predict_topk(Recorder(), X, Y, cv=2, fit_params={"label_text": names})
    assert seen == [names, names]


def test_topk_bad_input(data):
    X, Y = data
    with pytest.raises(ValueError, match=r"partition of the 60 rows, but row 0 is in 0 of them"):
        cross_val_predict_topk(Votes(), X, Y, cv=LastRows())
    with pytest.raises(ValueError, match="partition"):
        cross_val_predict_topk(Votes(), X, Y, cv=PlainShuffleSplit(3, random_state=0))
    with pytest.raises(ValueError, match="partition"):
        cross_val_predict_topk(Votes(), X, Y, cv=[])
    with pytest.raises(ValueError, match="inconsistent"):
        cross_val_predict_topk(Votes(), X, Y[:10])
    with pytest.raises(ValueError, match="indicator of shape"):
        cross_val_predict_topk(Votes(), X, np.arange(60) % 3)
    with pytest.raises(TypeError, match="LinearSVC has no method predict_topk"):
        cross_val_predict_topk(make_pipeline(CountVectorizer(), LinearSVC()), X, Y)
    with pytest.raises(TypeError, match="OneVsRestClassifier has no method predict_topk"):
        cross_val_predict_topk(OneVsRestClassifier(LinearSVC()), X, Y)
    with pytest.raises(ValueError, match="exclude must have the shape"):
        cross_val_predict_topk(Votes(), X, Y, exclude=Y[:10])
    with pytest.raises(TypeError, match="candidates must be"):
        cross_val_predict_topk(Votes(), X, Y, candidates=Y.toarray())


# ------------------------------------------------------------------ cross_val_predict_sparse


@pytest.mark.parametrize("convert", [sp.csr_array, sp.csr_matrix, np.array])
@pytest.mark.parametrize("method", ["predict_proba", "predict"])
def test_outputs_are_those_of_the_models_of_the_folds(data, convert, method):
    X, Y = data
    cv = KFold(3, shuffle=True, random_state=0)
    target = Y.toarray() if convert is np.array else convert(Y)
    output = cross_val_predict_sparse(Votes(), X, target, cv=cv, method=method)
    assert sp.issparse(output) == sp.issparse(target)
    output = canonical_csr(sp.csr_array(output)).toarray()
    for train, test in cv.split(X, Y):
        expected = getattr(Votes().fit(X[train], Y[train]), method)(X[test])
        np.testing.assert_allclose(output[test], expected.toarray())


def test_stored_zeros_stay_stored(data):
    class Zeros(Votes):
        def predict_proba(self, X):
            return sp.csr_matrix(
                (np.zeros(X.shape[0]), np.zeros(X.shape[0], int), np.arange(X.shape[0] + 1)),
                shape=(X.shape[0], 7),
            )

    output = cross_val_predict_sparse(Zeros(), *data, cv=2)
    assert isinstance(output, sp.csr_matrix)
    assert (output.nnz, output.count_nonzero()) == (60, 0)


def test_sparse_outputs_bad_input(data):
    X, Y = data
    with pytest.raises(ValueError, match="method must be one of"):
        cross_val_predict_sparse(Votes(), X, Y, method="transform")
    with pytest.raises(ValueError, match="partition"):
        cross_val_predict_sparse(Votes(), X, Y, cv=LastRows())
    with pytest.raises(AttributeError, match="decision_function"):
        cross_val_predict_sparse(
            OneVsRestClassifier(MultinomialNB()), X, Y, method="decision_function"
        )
    with pytest.raises(TypeError, match="a list with an array for each label"):
        cross_val_predict_sparse(KNeighborsClassifier(1), X, Y.toarray(), cv=2)
