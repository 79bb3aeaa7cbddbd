"""LabelText: label texts on their way through scikit-learn."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from skxmc import ParabelTree
from skxmc.datasets import make_xmc_classification
from skxmc.label_space import LabelText, label_features
from skxmc.metrics import make_topk_scorer

N_LABELS = 48


def problem(n_samples):
    bunch = make_xmc_classification(
        n_samples, 60, N_LABELS, avg_features_per_sample=20, random_state=0
    )
    texts = [f"word{c % 6} other{c % 7} rare{c}" for c in range(N_LABELS)]
    return bunch.X, bunch.Y, texts


@pytest.fixture(scope="module", params=[N_LABELS, 60], ids=["n == L", "n != L"])
def data(request):
    return problem(request.param)


def tree(**params):
    defaults = {"max_leaf": 6, "label_representation": "pifa+text", "random_state": 0}
    return ParabelTree("xr-linear", **{**defaults, **params})


SEARCH = {"cv": 2, "error_score": "raise", "scoring": make_topk_scorer("precision", k=3)}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["list", "array", "tuple", "dense", "sparse"])
def test_kinds_of_text(data, kind, wrapped):
    X, Y, texts = data
    matrix = TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    given = {
        "list": texts,
        "array": np.array(texts),
        "tuple": tuple(texts),
        "dense": matrix.toarray(),
        "sparse": matrix,
    }[kind]
    expected = tree().fit(X, Y, label_text=texts)
    model = tree().fit(X, Y, label_text=LabelText(given) if wrapped else given)
    assert model.trees_ == expected.trees_
    by_text = tree(label_representation="text").fit(X, Y, label_text=texts)
    assert by_text.trees_ != tree(label_representation="pifa").fit(X, Y).trees_
    Z = label_features(X, Y, "text", label_text=given)
    assert Z.shape[0] == N_LABELS


@pytest.mark.parametrize("routing", [False, True])
def test_grid_search_leaves_wrapped_texts_alone(data, routing):
    X, Y, texts = data
    with config_context(enable_metadata_routing=routing):
        model = tree().set_fit_request(label_text=True) if routing else tree()
        search = GridSearchCV(model, {"C": [0.1, 1.0]}, **SEARCH)
        search.fit(X, Y, label_text=LabelText(texts))
        expected = tree(**search.best_params_).fit(X, Y, label_text=texts)
        assert search.best_estimator_.trees_ == expected.trees_
        assert 0 < search.best_score_ <= 1


@pytest.mark.parametrize("routing", [False, True])
def test_bare_texts_as_many_as_rows_are_refused_instead_of_misread(routing):
    X, Y, texts = problem(N_LABELS)
    with config_context(enable_metadata_routing=routing):
        model = tree().set_fit_request(label_text=True) if routing else tree()
        search = GridSearchCV(model, {"C": [1.0]}, **SEARCH)
        with pytest.raises(ValueError, match=r"24 labels.*48 columns"):
            search.fit(X, Y, label_text=texts)


def test_pipelines(data):
    X, Y, texts = data
    steps = [("scale", Normalizer()), ("tree", tree())]
    plain = Pipeline(steps).fit(X, Y, tree__label_text=texts)
    with config_context(enable_metadata_routing=True):
        model = tree().set_fit_request(label_text=True)
        routed = Pipeline([steps[0], ("tree", model)]).fit(X, Y, label_text=texts)
        search = GridSearchCV(
            Pipeline([steps[0], ("tree", clone(model))]), {"tree__C": [1.0]}, **SEARCH
        ).fit(X, Y, label_text=LabelText(texts))
        assert search.best_estimator_["tree"].trees_ == plain["tree"].trees_
    assert routed["tree"].trees_ == plain["tree"].trees_
    for a, b in zip(*(m.predict_proba(X).toarray() for m in (plain, routed))):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("routing", [False, True])
def test_relevance_and_negatives_are_split_with_the_rows(data, routing):
    X, Y, texts = data
    rng = np.random.default_rng(0)
    relevance = Y.astype(np.float32)
    relevance.data[:] = rng.uniform(0.5, 2, len(relevance.data))
    negatives = sp.csr_array(rng.random(Y.shape) < 0.1)
    seen = []

    class Recorder(ParabelTree):
        def fit(self, X, Y, *, label_text=None, relevance=None, negatives=None):
            seen.append((X, Y, relevance, negatives))
            return super().fit(
                X, Y, label_text=label_text, relevance=relevance, negatives=negatives
            )

    fit_arguments = {
        "label_text": LabelText(texts),
        "relevance": relevance,
        "negatives": negatives,
    }
    model = Recorder(label_representation="pifa+text", max_leaf=6, relevance="induce")
    with config_context(enable_metadata_routing=routing):
        if routing:
            model.set_fit_request(label_text=True, relevance=True, negatives=True)
        GridSearchCV(model, {"C": [1.0]}, refit=False, **SEARCH).fit(X, Y, **fit_arguments)
    assert len(seen) == 2
    whole = X.toarray()
    for X_part, Y_part, R_part, N_part in seen:
        rows = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in X_part.toarray()]
        assert len(set(rows)) == X.shape[0] // 2
        for part, full in ((Y_part, Y), (R_part, relevance), (N_part, negatives)):
            np.testing.assert_array_equal(part.toarray(), full[rows].toarray())


def test_representation_does_not_print_the_texts():
    assert repr(LabelText(["a"] * 1000)) == "LabelText(list)"
