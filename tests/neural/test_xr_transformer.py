"""XRTransformerClassifier: the contract of an estimator on texts, its two parts, its ensemble."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfVectorizer,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import normalize

from skxmc import DismecClassifier, ParabelTree, load_model, save_model
from skxmc.exceptions import DenseOutputError, ModelFormatError
from skxmc.metrics import precision_at_k
from skxmc.neural import StaticEncoder, XRTransformerClassifier
from skxmc.neural._xr_learner import XRLearner

N_LABELS = 30
SMALL = {"dimension": 16, "n_steps": 15, "arity": 4, "max_leaf": 4, "random_state": 0}


def make_texts(n_rows=150, seed=0):
    """Texts of words that belong to their labels, and of others; each label has two words."""
    rng = np.random.default_rng(seed)
    Y = rng.random((n_rows, N_LABELS)) < 0.05
    Y[np.arange(n_rows), np.arange(n_rows) % N_LABELS] = True
    texts = []
    for row in Y:
        words = [f"word{label}{'ab'[rng.integers(2)]}" for label in np.flatnonzero(row)]
        words += [f"noise{number}" for number in rng.integers(40, size=4)]
        texts.append(" ".join(rng.permutation(words)))
    return texts, sp.csr_array(Y.astype(np.int64))


TEXTS, Y = make_texts()
NEW_TEXTS, NEW_Y = make_texts(60, seed=1)
ODD_TEXTS = ["", "neverseen", "word3a " * 500]


def fitted(texts=TEXTS, Y=Y, **params):
    return XRTransformerClassifier(**{**SMALL, **params}).fit(texts, Y)


@pytest.fixture(scope="module")
def model():
    return fitted()


@pytest.fixture(scope="module")
def ensemble():
    return fitted(n_estimators=2)


def assert_same(first, second, texts=NEW_TEXTS):
    for a, b in zip(first.predict_topk(texts, k=7), second.predict_topk(texts, k=7), strict=True):
        assert_array_equal(a, b)


# ------------------------------------------------------------------ what it computes


def test_finds_the_labels_of_new_texts(model):
    assert precision_at_k(NEW_Y, model.predict_topk(NEW_TEXTS, k=1), k=1) > 0.8
    predicted = fitted(ranker=ParabelTree(C=20.0)).predict(NEW_TEXTS)
    assert predicted.nnz > 30
    assert predicted.multiply(NEW_Y).nnz > 0.8 * predicted.nnz


def test_fine_tunes_from_coarse_to_fine(model):
    sizes = np.bincount(model.tree_.depth)
    (history,) = model.history_
    assert [epoch["depth"] for epoch in history] == sorted(epoch["depth"] for epoch in history)
    assert {epoch["depth"] for epoch in history} == set(range(1, len(sizes)))
    assert all(epoch["n_outputs"] == sizes[epoch["depth"]] for epoch in history)
    assert model.tree_.n_labels == N_LABELS
    assert len(sizes) >= 4
    limited = fitted(max_clusters=int(sizes[1]))
    assert {epoch["depth"] for epoch in limited.history_[0]} == {1}


def test_steps_of_the_levels():
    n_levels = len(np.bincount(fitted().tree_.depth)) - 1
    model = fitted(n_steps=[3, *[1] * (n_levels - 2), 7], batch_size=50)
    assert [e["depth"] for e in model.history_[0]] == [1, *range(2, n_levels), *[n_levels] * 3]
    auto = fitted(n_steps="auto", batch_size=30)  # 5 batches: 1, and 8 on the last
    assert [e["depth"] for e in auto.history_[0]] == [*range(1, n_levels), *[n_levels] * 2]


def test_not_fine_tuned_is_a_tree_on_tfidf_and_the_embedding():
    """Eq. 10, built by scikit-learn."""
    encoder = StaticEncoder(16, seed=3).build(TEXTS)
    ranker = ParabelTree(random_state=5)
    model = fitted(
        encoder=encoder, fine_tune=False, ranker=ranker, embedding_weight=0.5, dimension=None
    )
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    expected = ParabelTree(random_state=5)

    def features(texts, rows):
        return sp.csr_array(sp.hstack([rows, 0.5 * normalize(encoder.transform(texts))]))

    expected.fit(features(TEXTS, vectorizer.fit_transform(TEXTS)), Y)
    answers = expected.predict_topk(features(NEW_TEXTS, vectorizer.transform(NEW_TEXTS)), k=5)
    found = model.predict_topk(NEW_TEXTS, k=5)
    assert_allclose(found.scores, answers.scores, rtol=1e-3, atol=1e-3)
    assert (found.labels == answers.labels).mean() > 0.95
    assert model.tree_ is None
    assert model.history_ == [[]]


def test_fine_tuning_changes_a_copy_of_the_encoder():
    encoder = StaticEncoder(16, seed=3).build(TEXTS)
    before = encoder.transform(NEW_TEXTS)
    model = fitted(encoder=encoder, dimension=None)
    assert_array_equal(encoder.transform(NEW_TEXTS), before)
    after = model._fitted_fronts()[0].transform(NEW_TEXTS)
    assert np.abs(after - before).max() > 0.01
    frozen = fitted(encoder=encoder, dimension=None, fine_tune=False)
    assert_array_equal(frozen._fitted_fronts()[0].transform(NEW_TEXTS), before)


def test_fine_tuning_makes_the_better_embedding():
    """Words that are unlike at first come to be alike, by the labels that they share."""
    steps = {"n_steps": 60, "learning_rate": 0.02, "dropout": 0.0, "batch_size": 16}
    cosines = {}
    for fine_tune in (False, True):
        model = fitted(fine_tune=fine_tune, **steps)
        (front,) = model._fitted_fronts()
        first = normalize(front.transform([f"word{label}a" for label in range(N_LABELS)]))
        second = normalize(front.transform([f"word{label}b" for label in range(N_LABELS)]))
        alike = first @ second.T
        cosines[fine_tune] = np.diag(alike).mean() - alike.mean()
    assert cosines[True] > cosines[False] + 0.2


@pytest.mark.parametrize(
    "params",
    [
        {"relevance": None},
        {"ranker": DismecClassifier()},
        {"vectorizer": HashingVectorizer(n_features=512, alternate_sign=False)},
        {"vectorizer": CountVectorizer()},
        {"schedule": "constant", "warmup": 0.0, "negative_cost": 0.3, "n_shortlist": 1},
    ],
)
def test_options(params):
    model = fitted(**params)
    assert precision_at_k(NEW_Y, model.predict_topk(NEW_TEXTS, k=1), k=1) > 0.7


# ------------------------------------------------------------------ ensemble


def test_ensemble_averages_the_probabilities_of_its_members(ensemble):
    rows = ensemble._check_predict(NEW_TEXTS)
    members = [
        ranker._scores_to_proba(ranker._score_dense(part))
        for ranker, part in zip(ensemble.rankers_, ensemble._member_rows(rows), strict=True)
    ]
    assert np.abs(members[0] - members[1]).max() > 0.01
    mean = np.mean(members, axis=0)
    dense = fitted(Y=Y.toarray(), n_estimators=2)
    assert_allclose(dense.predict_proba(NEW_TEXTS), mean, rtol=1e-3, atol=1e-5)
    best = ensemble.predict_topk(NEW_TEXTS, k=3)
    assert_allclose(
        1 / (1 + np.exp(-np.float64(best.scores))),
        -np.sort(-mean, axis=1)[:, :3],
        rtol=1e-3,
        atol=1e-5,
    )


def test_members_may_have_encoders_of_their_own():
    first, second = (StaticEncoder(n, seed=0).build(TEXTS) for n in (8, 12))
    model = fitted(encoder=[first, second], n_estimators=3, dimension=None)
    assert [front.n_outputs for front in model._fitted_fronts()] == [8, 12, 8]
    assert (
        model._fitted_fronts()[0].transform(["word1a"])[0, 0]
        != (model._fitted_fronts()[2].transform(["word1a"])[0, 0])
    )
    assert precision_at_k(NEW_Y, model.predict_topk(NEW_TEXTS, k=1), k=1) > 0.7


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize("n_estimators", [1, 2])
def test_exclude_and_candidates(n_estimators, model, ensemble):
    model = model if n_estimators == 1 else ensemble
    plain = model.predict_topk(NEW_TEXTS, k=4)
    rows = np.arange(len(NEW_TEXTS))
    first = sp.csr_array((np.ones(len(rows)), (rows, plain.labels[:, 0])), NEW_Y.shape)
    rest = model.predict_topk(NEW_TEXTS, k=3, exclude=first)
    assert_array_equal(rest.labels, plain.labels[:, 1:])
    assert_allclose(rest.scores, plain.scores[:, 1:], rtol=1e-5)
    only = model.predict_topk(NEW_TEXTS, k=3, candidates=first)
    assert_array_equal(only.labels[:, 0], plain.labels[:, 0])
    assert_array_equal(only.labels[:, 1:], -1)


@pytest.mark.parametrize("n_estimators", [1, 2])
def test_outputs_have_the_container_of_the_targets(n_estimators):
    params = {"n_estimators": n_estimators, "top_k": 4}
    sparse, dense = fitted(**params), fitted(Y=Y.toarray(), **params)
    proba, all_proba = sparse.predict_proba(NEW_TEXTS), dense.predict_proba(NEW_TEXTS)
    assert isinstance(proba, sp.csr_array)
    assert_array_equal(np.diff(proba.indptr), 4)
    assert all_proba.shape == NEW_Y.shape
    found = proba.tocoo()
    assert_allclose(all_proba[found.row, found.col], found.data, rtol=1e-3, atol=1e-6)
    assert_array_equal(dense.predict(NEW_TEXTS), sparse.predict(NEW_TEXTS).toarray())
    assert isinstance(fitted(Y=sp.csr_matrix(Y)).predict(NEW_TEXTS), sp.csr_matrix)
    with pytest.raises(DenseOutputError):
        dense.set_params(max_dense_bytes=100).predict_proba(NEW_TEXTS)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes(n_classes):
    texts = [TEXTS[i] for i in range(120)]
    y = np.array(["cat", "dog", "emu"])[np.arange(120) % n_classes]
    texts = [f"{text} {name}" for text, name in zip(texts, y, strict=True)]
    model = fitted(texts, y, n_estimators=2)
    assert (model.predict(texts) == y).mean() > 0.9
    assert model.predict_proba(texts).shape == (120, n_classes)
    assert_allclose(model.predict_proba(texts).sum(axis=1), 1, rtol=1e-5)


def test_is_an_estimator():
    estimator = XRTransformerClassifier("static", n_steps=[1, 2], C=2.0)
    assert repr(estimator) == "XRTransformerClassifier(C=2.0, n_steps=[1, 2])"
    copied = clone(estimator).set_params(vectorizer=TfidfVectorizer(min_df=2))
    assert copied.get_params()["n_steps"] == [1, 2]
    assert copied.get_params()["vectorizer__min_df"] == 2
    tags = estimator.__sklearn_tags__().input_tags
    assert tags.string
    assert not tags.two_d_array
    with pytest.raises(NotFittedError):
        estimator.predict(TEXTS)


def test_inputs_are_not_changed():
    texts, targets = list(TEXTS), Y.copy()
    params = {"vectorizer": TfidfVectorizer(), "ranker": ParabelTree()}
    fitted(texts, targets, **params)
    assert texts == TEXTS
    assert (targets != Y).nnz == 0
    assert not hasattr(params["vectorizer"], "vocabulary_")
    assert not hasattr(params["ranker"], "trees_")


def test_the_seed_decides(model):
    assert_same(model, fitted())
    other = fitted(random_state=1).predict_topk(NEW_TEXTS, k=5)
    assert (other.scores != model.predict_topk(NEW_TEXTS, k=5).scores).any()


def test_threads_do_not_matter(model):
    assert_same(model, fitted(n_jobs=3))


def test_rows_do_not_depend_on_each_other(model):
    together = model.predict_topk(NEW_TEXTS + ODD_TEXTS, k=3)
    for row in (0, 17, len(NEW_TEXTS), len(NEW_TEXTS) + 1, len(NEW_TEXTS) + 2):
        alone = model.predict_topk([(NEW_TEXTS + ODD_TEXTS)[row]], k=3)
        assert_array_equal(alone.labels[0], together.labels[row])
        assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5, atol=1e-5)


def test_grid_search_over_texts():
    pipeline = Pipeline([("model", XRTransformerClassifier(**SMALL))])
    search = GridSearchCV(pipeline, {"model__embedding_weight": [0.5, 1.0]}, cv=2).fit(TEXTS, Y)
    assert search.best_estimator_.predict(NEW_TEXTS[:3]).shape == (3, N_LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_estimators": 2},
        {"vectorizer": TfidfVectorizer(use_idf=False, ngram_range=(1, 2), dtype=np.float64)},
        {"vectorizer": HashingVectorizer(n_features=256)},
        {"vectorizer": CountVectorizer(vocabulary={"word1a": 1, "word2b": 0})},
        {"fine_tune": False, "ranker": DismecClassifier()},
    ],
)
def test_comes_back_from_a_file_and_from_a_pickle(params, tmp_path):
    model = fitted(**params)
    for compress in (False, True):
        save_model(model, tmp_path / str(compress), compress=compress)
        loaded = load_model(tmp_path / str(compress), mmap=False)
        assert_same(loaded, model, NEW_TEXTS + ODD_TEXTS)
        assert str(loaded.get_params()) == str(model.get_params())
        assert (loaded.tree_ is None) == (model.tree_ is None)
    assert_same(pickle.loads(pickle.dumps(model)), model)
    save_model(loaded, tmp_path / "again")  # a loaded model can be saved
    assert_same(load_model(tmp_path / "again"), model)


def test_a_vectorizer_with_functions_is_stored_by_pickle_only(tmp_path):
    model = fitted(vectorizer=CountVectorizer(tokenizer=str.split, token_pattern=None))
    assert_same(pickle.loads(pickle.dumps(model)), model)
    with pytest.raises(TypeError, match="tokenizer"):
        save_model(model, tmp_path / "model")


def test_a_damaged_vocabulary_is_refused(model, tmp_path):
    save_model(model, tmp_path / "model", compress=True)  # with the terms in the header
    header = tmp_path / "model" / "model.json"
    text = header.read_text()
    assert '"word3a"' in text
    header.write_text(text.replace('"word3a"', '"word3b"'))  # twice now
    with pytest.raises(ModelFormatError, match="terms"):
        load_model(tmp_path / "model")


# ------------------------------------------------------------------ checkpoints


def test_goes_on_from_a_checkpoint(tmp_path, monkeypatch, model):
    step, done = XRLearner.train_step, []

    def dying(self, rows, **numbers):
        done.append(numbers["step"])
        if len(done) == 20:
            raise RuntimeError("power cut")
        return step(self, rows, **numbers)

    monkeypatch.setattr(XRLearner, "train_step", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("training.npz"))) == 1
    steps = []
    monkeypatch.setattr(
        XRLearner,
        "train_step",
        lambda self, rows, **numbers: steps.append(numbers) or step(self, rows, **numbers),
    )
    resumed = fitted(checkpoint_dir=tmp_path)
    assert 0 < steps[0]["step"] < 20
    assert_same(resumed, model)
    assert resumed.history_ == model.history_
    assert not list(tmp_path.rglob("training.npz"))  # removed with the fit complete


# ------------------------------------------------------------------ bad input


def test_odd_texts_have_answers(model):
    answers = model.predict_topk(ODD_TEXTS, k=3)
    assert (answers.labels >= 0).all()
    assert np.isfinite(answers.scores).all()
    assert_array_equal(answers.labels[0], answers.labels[1])  # nothing is known of either
    assert answers.labels[2, 0] == 3


def test_odd_rows_in_training():
    texts = [*TEXTS, "", "", "neverseen"]
    rows = sp.vstack([Y, sp.csr_array((3, N_LABELS), dtype=Y.dtype)])
    targets = sp.csr_array(sp.hstack([rows, sp.csr_array((len(texts), 1), dtype=Y.dtype)]))
    model = fitted(texts, targets)
    answers = model.predict_topk(NEW_TEXTS, k=N_LABELS)
    assert N_LABELS not in answers.labels  # a label without rows is never answered
    assert (
        precision_at_k(
            sp.csr_array(sp.hstack([NEW_Y, sp.csr_array((60, 1), dtype=Y.dtype)])),
            model.predict_topk(NEW_TEXTS, k=1),
            k=1,
        )
        > 0.7
    )


def test_few_rows_and_labels():
    model = fitted(["a cat", "a dog"], sp.csr_array([[1], [0]]))
    assert model.predict_topk(["a cat"], k=1).labels.tolist() == [[0]]
    model = fitted(["a cat"], sp.csr_array([[1, 1]]))
    assert model.predict_topk(["a cat"], k=3).labels.shape == (1, 3)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, "single str"),
        ([], ValueError, "0 rows"),
        ([*TEXTS[:-1], None], TypeError, "Row 149 of X is a missing value"),
        ([*TEXTS[:-1], float("nan")], TypeError, "Row 149 of X is a missing value"),
        ([*TEXTS[:-1], float("inf")], TypeError, "Row 149"),
        ([b"bytes", *TEXTS[1:]], TypeError, "Row 0 of X is bytes"),
        (np.ones((150, 3)), ValueError, "shape"),
        (TEXTS[:-1], ValueError, "inconsistent"),
        (["!"] * 150, ValueError, "empty vocabulary"),
    ],
)
def test_texts_that_are_none(texts, error, message):
    with pytest.raises(error, match=message):
        fitted(texts)


def test_texts_that_are_none_at_predict(model):
    for texts in ("one text", [None], np.ones((2, 3)), sp.csr_array((2, 3)), []):
        with pytest.raises((TypeError, ValueError), match=r"X|text"):
            model.predict_topk(texts)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"encoder": "precomputed"}, ValueError, "rows are texts"),
        ({"encoder": []}, ValueError, "empty list"),
        ({"encoder": 3}, ValueError, "encoder"),
        ({"arity": 6}, ValueError, "power of two"),
        ({"n_steps": [1, 2]}, ValueError, "n_steps"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"max_clusters": 1}, ValueError, "max_clusters"),
        ({"frozen_layers": 1}, ValueError, "frozen_layers"),
        ({"checkpoint_dir": "x", "random_state": None}, ValueError, "random_state"),
        ({"C": 0.0}, ValueError, "'C'"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"dropout": 1.0}, ValueError, "dropout"),
        ({"ranker": "tree"}, ValueError, "ranker"),
        ({"vectorizer": TfidfVectorizer(min_df=1000)}, ValueError, "max_df|min_df"),
    ],
)
def test_parameters_out_of_range(params, error, message):
    with pytest.raises(error, match=message):
        fitted(**params)


def test_a_training_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match=r"diverge|finite"):
        fitted(learning_rate=1e30, head_learning_rate=1e30)


def test_a_failed_fit_leaves_no_model():
    model = fitted()
    with pytest.raises(ValueError, match="power of two"):
        model.set_params(arity=6).fit(TEXTS, Y)
    with pytest.raises(NotFittedError):
        model.predict(TEXTS)
