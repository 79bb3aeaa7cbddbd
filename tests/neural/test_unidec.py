"""UniDECClassifier: learning, label texts, later labels, the contract, stored models, bad input."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skxmc.io import load_model, save_model
from skxmc.label_space import LabelText
from skxmc.metrics import precision_at_k
from skxmc.neural import UniDECClassifier

TOPICS = [
    *("web server http", "chess board game", "latex document", "sound music player"),
    *("python module", "image viewer", "database sql", "network monitor"),
]
WORDS = [topic.split() for topic in TOPICS]
LABEL_TEXT = [f"{a} {b}" for words in WORDS for a, b in ((words[0], words[-1]), (words[-1], "kit"))]
N_LABELS = len(LABEL_TEXT)

SMALL = {
    "dimension": 16,
    "epochs": 12,
    "batch_size": 16,
    "random_state": 0,
    "cluster_from": 2,
    "refresh_every": 3,
    "n_hard_negatives": 2,
}


def problem(n_rows=64, seed=0):
    """Rows of words of a topic; two labels a topic."""
    rng = np.random.default_rng(seed)
    filler = ["fast", "small", "tool", "library", "the", "common"]
    texts, pairs = [], []
    for row in range(n_rows):
        topic = row % len(TOPICS)
        words = [*rng.choice(WORDS[topic], 2), *rng.choice(filler, 2)]
        texts.append(" ".join(rng.permutation(words)))
        pairs.append((row, 2 * topic))
        if row % 3:
            pairs.append((row, 2 * topic + 1))
    rows, labels = np.transpose(pairs)
    Y = sp.csr_array((np.ones(len(rows)), (rows, labels)), shape=(n_rows, N_LABELS))
    return texts, Y


@pytest.fixture(scope="module")
def data():
    return problem()


@pytest.fixture(scope="module")
def fitted(data):
    texts, Y = data
    return UniDECClassifier(**SMALL).fit(texts, Y, label_text=LABEL_TEXT)


# ---------------------------------------------------------------------- learning


@pytest.mark.parametrize("mode", ["both", "encoder", "classifier"])
@pytest.mark.parametrize("loss", ["decoupled", "supcon", "bce", "decoupled+bce", "supcon+bce"])
def test_learns_in_every_mode_and_loss(data, mode, loss):
    texts, Y = data
    model = UniDECClassifier(**SMALL, mode=mode, loss=loss).fit(texts, Y, label_text=LABEL_TEXT)
    fresh, truth = problem(seed=5)
    assert precision_at_k(truth, model.predict_topk(fresh, 1), k=1) > 0.8
    losses = [epoch["loss"] for epoch in model.history_]  # rise where hard negatives begin
    assert losses[-1] < 0.95 * losses[0]
    assert model.n_iter_ == 12


def test_encodes_what_its_parts_say(fitted, data):
    """Scores by hand, from the encoder, the two heads, and the vectors of the labels."""
    texts, _ = data

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    features = fitted.encoder_.transform(texts)
    of_labels = fitted.encoder_.transform(LABEL_TEXT)
    dual, head = fitted._heads["encoder"], fitted._heads["classifier"]
    left, right = (
        unit(np.tanh(rows @ dual["weights"] + dual["bias"])) for rows in (features, of_labels)
    )
    queries = unit(features @ head["weights"] + head["bias"])
    cosines = {
        "encoder": left @ right.T,
        "classifier": queries @ fitted._label_halves["classifier"].T,
    }
    cosines["both"] = (cosines["encoder"] + cosines["classifier"]) / 2
    for choice, expected in cosines.items():
        model = clone(fitted)
        model.__dict__.update(fitted.__dict__)
        model.set_params(score_with=choice)
        margins = (expected - fitted.thresholds_[choice]) / fitted.temperature
        answers = model.predict_topk(texts, N_LABELS)
        found = np.take_along_axis(margins, answers.labels, axis=1)
        np.testing.assert_allclose(answers.scores, found, atol=2e-4)


def test_threshold_lets_as_many_pairs_pass_as_are_positive(fitted, data):
    texts, Y = data
    assert abs(fitted.predict(texts).nnz - Y.nnz) <= 1


def test_validation_rows_stop_early(data):
    texts, Y = data
    model = UniDECClassifier(**{**SMALL, "epochs": 40}, validation_fraction=0.25, patience=2)
    model.fit(texts, Y, label_text=LABEL_TEXT)
    measured = [epoch["P@1"] for epoch in model.history_]
    assert model.best_epoch_ == 1 + int(np.argmax(measured))
    assert model.n_iter_ == min(40, model.best_epoch_ + 2)


def test_soft_targets_of_one_are_hard_ones(data):
    texts, Y = data
    hard = UniDECClassifier(**SMALL).fit(texts, Y.astype(np.uint8), label_text=LABEL_TEXT)
    halves = Y.copy()
    halves.data[:] = 0.5  # the shares of a row are the same
    soft = UniDECClassifier(**SMALL).fit(texts, halves, label_text=LABEL_TEXT)
    for name, half in hard._label_halves.items():
        np.testing.assert_allclose(soft._label_halves[name], half, atol=1e-5)


# ---------------------------------------------------------------------- labels


def test_labels_without_rows_are_served_by_their_text(data):
    texts, Y = data
    Y = Y.tolil()
    Y[:, 6] = 0  # "sound player"
    Y = sp.csr_array(Y)
    model = UniDECClassifier(**SMALL).fit(texts, Y, label_text=LABEL_TEXT)
    assert not model._label_halves["classifier"][6].any()
    for choice in ("both", "encoder", "classifier"):
        answer = model.set_params(score_with=choice).predict_topk(["sound music player"], 2)
        assert 6 in answer.labels[0]
    alone = UniDECClassifier(**SMALL, mode="classifier").fit(texts, Y)
    assert 6 not in alone.predict_topk(texts, N_LABELS).labels  # nothing is known of it


@pytest.mark.parametrize("mode", ["both", "encoder"])
def test_add_labels(data, mode):
    texts, Y = data
    model = UniDECClassifier(**SMALL, mode=mode).fit(texts, Y, label_text=LABEL_TEXT)
    before = model.predict_topk(texts, 3)
    assert model.add_labels(["chess sql", "sound network"]) is model
    assert model.n_labels_ == len(model.classes_) == N_LABELS + 2
    old = sp.csr_array(np.hstack([np.zeros((len(texts), N_LABELS)), np.ones((len(texts), 2))]))
    after = model.predict_topk(texts, 3, exclude=old)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-4)
    assert model.predict_topk(["chess sql"], 1).labels[0, 0] == N_LABELS
    assert model.decision_function(texts[:2]).shape == (2, N_LABELS + 2)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        again.predict_topk(texts, 3).labels, model.predict_topk(texts, 3).labels
    )


def test_add_labels_needs_a_dual_encoder(data):
    texts, Y = data
    model = UniDECClassifier(**SMALL, mode="classifier").fit(texts, Y)
    with pytest.raises(ValueError, match="dual encoder"):
        model.add_labels(["new"])
    model = UniDECClassifier(**SMALL).fit(texts[:8], np.arange(8) % 2, label_text=["a", "b"])
    with pytest.raises(ValueError, match="indicator"):
        model.add_labels(["new"])


def test_row_that_equals_another_label_is_no_negative():
    texts = ["alpha", "beta", "gamma", "delta"]
    Y = sp.csr_array(np.roll(np.eye(4, dtype=int), 1, axis=1))  # each one's answer is the next
    model = UniDECClassifier(dimension=8, epochs=60, batch_size=4, random_state=0, dropout=0.0)
    model.fit(texts, Y, label_text=texts)
    answers = model.predict_topk(texts, 1, exclude=sp.eye_array(4, format="csr"))
    assert answers.labels.ravel().tolist() == [1, 2, 3, 0]


def test_duplicate_and_empty_label_texts(data):
    texts, Y = data
    label_text = [*LABEL_TEXT[:-2], "", ""]
    model = UniDECClassifier(**SMALL).fit(texts, Y, label_text=label_text)
    assert np.isfinite(model.predict_topk(texts, N_LABELS).scores).all()
    # the classifier tells them apart: label 14 has more rows than 15
    monitor = [text for row, text in enumerate(texts) if row % 8 == 7]
    answers = model.set_params(score_with="classifier").predict_topk(monitor, 2)
    assert set(answers.labels.ravel()) == {14, 15}


def test_rows_without_tokens(fitted):
    answers = fitted.predict_topk(["", "\u4e00", "web"], 3)
    assert np.isfinite(answers.scores).all()
    np.testing.assert_array_equal(answers.scores[0], answers.scores[1])


def test_rows_without_tokens_in_fit(data):
    texts, Y = data
    model = UniDECClassifier(**SMALL).fit(["", *texts[1:]], Y, label_text=LABEL_TEXT)
    assert np.isfinite(model.predict_topk(texts, 3).scores).all()


# ---------------------------------------------------------------------- contract


def test_same_seed_same_model_for_any_number_of_threads(data, fitted):
    texts, Y = data
    other = UniDECClassifier(**SMALL, n_jobs=2).fit(texts, Y, label_text=LABEL_TEXT)
    expected, found = (model.predict_topk(texts, 4) for model in (fitted, other))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    different = UniDECClassifier(**{**SMALL, "random_state": 1})
    different.fit(texts, Y, label_text=LABEL_TEXT)
    assert (different.predict_topk(texts, 4).scores != expected.scores).any()


def test_row_by_row(fitted, data):
    texts, _ = data
    together = fitted.predict_topk(texts, 5)
    for row in range(0, len(texts), 9):
        alone = fitted.predict_topk([texts[row]], 5)
        np.testing.assert_array_equal(alone.labels[0], together.labels[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_outputs_agree(fitted, data):
    texts, Y = data
    margins = fitted.decision_function(texts)
    proba = fitted.predict_proba(texts)
    assert sp.issparse(margins)
    assert sp.issparse(proba)
    np.testing.assert_allclose(proba.data, 1 / (1 + np.exp(-margins.data)), rtol=1e-4)
    dense = UniDECClassifier(**SMALL).fit(texts, Y.toarray(), label_text=LABEL_TEXT)
    np.testing.assert_array_equal(dense.decision_function(texts), margins.toarray())
    np.testing.assert_array_equal(dense.predict(texts), fitted.predict(texts).toarray())
    best = fitted.predict_topk(texts, 2)
    some = sp.csr_array((np.ones(len(texts)), (np.arange(len(texts)), best.labels[:, 1])), Y.shape)
    only = fitted.predict_topk(texts, 2, candidates=some)
    np.testing.assert_array_equal(only.labels, np.c_[best.labels[:, 1], np.full(len(texts), -1)])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes(data, n_classes):
    texts, _ = data
    y = np.array(["a", "b", "c", "d"])[np.arange(64) % 8 % n_classes]
    names = ["first", "second", "third", "fourth"][:n_classes]
    model = UniDECClassifier(**{**SMALL, "epochs": 60}).fit(texts, y, label_text=names)
    assert (model.predict(texts) == y).mean() > 0.9
    np.testing.assert_allclose(model.predict_proba(texts).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("container", [tuple, np.array, lambda x: np.array(x, dtype=object)])
def test_containers_of_texts(fitted, data, container):
    texts, Y = data
    model = UniDECClassifier(**SMALL).fit(container(texts), Y, label_text=container(LABEL_TEXT))
    np.testing.assert_array_equal(
        model.predict_topk(container(texts), 3).scores, fitted.predict_topk(texts, 3).scores
    )


def test_parameters(fitted):
    model = UniDECClassifier(dimension=8, lambda_=0.25)
    assert "dimension=8" in repr(model)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(mode="encoder").mode == "encoder"
    assert not hasattr(clone(fitted), "thresholds_")


def test_grid_search_over_a_pipeline():
    texts, Y = problem(N_LABELS)  # as many rows as labels: label texts must not be split
    search = GridSearchCV(
        Pipeline([("model", UniDECClassifier(**{**SMALL, "epochs": 3}))]),
        {"model__mode": ["encoder", "both"]},
        cv=2,
        scoring=lambda model, X, y: precision_at_k(y, model[-1].predict_topk(X, 1), k=1),
        error_score="raise",
    )
    search.fit(texts, Y, model__label_text=LabelText(LABEL_TEXT))
    assert search.predict(texts[:3]).shape == (3, N_LABELS)


@pytest.mark.parametrize("mode", ["both", "encoder", "classifier"])
def test_stored_models(data, mode, tmp_path):
    texts, Y = data
    model = UniDECClassifier(**SMALL, mode=mode).fit(texts, Y, label_text=LABEL_TEXT)
    expected = model.predict_topk(texts, 4)
    save_model(model, tmp_path / "model")
    for other in (pickle.loads(pickle.dumps(model)), load_model(tmp_path / "model")):
        found = other.predict_topk(texts, 4)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_stored_models_are_checked(fitted):
    broken = pickle.loads(pickle.dumps(fitted))
    broken._label_halves = {**broken._label_halves}
    broken._label_halves["classifier"] = broken._label_halves["classifier"][:-1]
    with pytest.raises(ValueError, match="label vectors"):
        broken._check_loaded_model()


def test_checkpoint_goes_on(data, fitted, tmp_path, monkeypatch):
    from skxmc.neural._unidec_learner import UniDECLearner

    texts, Y = data
    model = UniDECClassifier(**SMALL, checkpoint_dir=tmp_path)
    original = UniDECLearner.train_step

    def broken(self, rows, *, step, **arguments):
        if step == 30:
            raise MemoryError
        return original(self, rows, step=step, **arguments)

    monkeypatch.setattr(UniDECLearner, "train_step", broken)
    with pytest.raises(MemoryError):
        model.fit(texts, Y, label_text=LABEL_TEXT)
    monkeypatch.undo()
    assert any(tmp_path.iterdir())
    model.fit(texts, Y, label_text=LABEL_TEXT)
    assert not any(tmp_path.iterdir())
    np.testing.assert_array_equal(
        model.predict_topk(texts, 3).scores, fitted.predict_topk(texts, 3).scores
    )


# ---------------------------------------------------------------------- rows of numbers


@pytest.mark.parametrize("sparse", [False, True])
def test_precomputed(sparse, tmp_path):
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((10, 12))
    labels = np.arange(60) % 10
    X = Z[labels] + 0.3 * rng.standard_normal((60, 12))
    Y = sp.csr_array((np.ones(60), (np.arange(60), labels)))
    if sparse:
        X, Z = sp.csr_array(X), sp.csr_array(Z)
    model = UniDECClassifier("precomputed", **SMALL).fit(X, Y, label_text=Z)
    assert (model.predict_topk(X, 1).labels[:, 0] == labels).mean() > 0.9
    save_model(model, tmp_path / "model")
    np.testing.assert_array_equal(
        load_model(tmp_path / "model").predict_topk(X, 3).scores, model.predict_topk(X, 3).scores
    )
    model.add_labels(Z[:1])
    assert 10 in model.predict_topk(Z[:1], 2).labels
    with pytest.raises(ValueError, match="features"):
        model.predict_topk(X[:, :5])
    with pytest.raises(ValueError, match="columns"):
        model.add_labels(Z[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        model.predict_topk(X * np.nan)


def test_precomputed_sides_of_different_kinds():
    X, Y = np.eye(4), sp.eye_array(4, format="csr")
    with pytest.raises(TypeError, match="both be sparse, or both dense"):
        UniDECClassifier("precomputed").fit(X, Y, label_text=sp.csr_array(X))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label_text": None}, ValueError, "needs label_text"),
        ({"label_text": LABEL_TEXT[:-1]}, ValueError, "15 rows, but there are 16"),
        ({"label_text": [*LABEL_TEXT[:-1], None]}, TypeError, "Row 15 of label_text"),
        ({"label_text": "web"}, TypeError, "single str"),
        ({"X": [1.5] * 64}, TypeError, "Row 0 of X"),
        ({"X": "web"}, TypeError, "single str"),
        ({"X": ["web"] * 3}, ValueError, "inconsistent"),
        ({"X": []}, ValueError, "at least 1"),
        ({"Y": np.zeros((64, 16))}, ValueError, "no positive"),
        ({"Y": np.full((64, 16), 2)}, ValueError, "2"),
        ({"Y": None}, ValueError, "None"),
    ],
)
def test_bad_input(data, change, error, message):
    arguments = {"X": data[0], "Y": data[1], "label_text": LABEL_TEXT, **change}
    with pytest.raises(error, match=message):
        UniDECClassifier(**SMALL).fit(**arguments)


@pytest.mark.parametrize(
    "parameters",
    [
        *({"mode": "dual"}, {"loss": "hinge"}, {"temperature": 0}, {"lambda_": 1.5}),
        *({"n_positives": 0}, {"epochs": 0}, {"search": "annoy"}, {"encoder": 3}),
        {"glas": -1},
        {"mode": "encoder", "score_with": "both"},
        {"validation_fraction": 0.999},
    ],
)
def test_bad_parameters(data, parameters):
    with pytest.raises(ValueError, match=next(reversed(parameters))):
        UniDECClassifier(**{**SMALL, **parameters}).fit(*data, label_text=LABEL_TEXT)


def test_encoder_that_does_not_exist(data):
    with pytest.raises((FileNotFoundError, ImportError)):
        UniDECClassifier("no/such/folder").fit(*data, label_text=LABEL_TEXT)


def test_checkpoint_needs_a_random_state(data, tmp_path):
    model = UniDECClassifier(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="random_state"):
        model.fit(*data, label_text=LABEL_TEXT)


def test_training_that_diverges_says_so(data):
    model = UniDECClassifier(**SMALL, learning_rate=1e38)
    with pytest.raises(FloatingPointError, match="diverged"), np.errstate(all="ignore"):
        model.fit(*data, label_text=LABEL_TEXT)
    with pytest.raises(Exception, match="not fitted"):
        model.predict_topk(data[0])
