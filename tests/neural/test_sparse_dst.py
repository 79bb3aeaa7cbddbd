"""SparseDSTClassifier: it learns, and is the same by every way that should not matter."""

import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from contract import make_data
from numpy.testing import assert_allclose, assert_array_equal
from traced import traced_memory

from skxmc import SparseDSTClassifier, load_model, save_model
from skxmc.exceptions import CheckpointError, MemoryLimitError, ModelFormatError
from skxmc.neural import _training
from skxmc.neural._head_learner import HeadLearner
from skxmc.neural._output_layer import load_backend

X, Y = make_data()
SMALL = {"hidden": 16, "fan_in": 6, "epochs": 4, "random_state": 0}


def fitted(X=X, Y=Y, **params):
    return SparseDSTClassifier(**{**SMALL, **params}).fit(X, Y)


def margins(model, X=X):
    answers = model.predict_topk(X, k=Y.shape[1])
    out = np.full((X.shape[0], Y.shape[1]), -np.inf, dtype=np.float32)
    np.put_along_axis(out, answers.labels, answers.scores, axis=1)
    return out


@pytest.fixture
def reference(monkeypatch):
    """Have the backend "numba" compute by the reference."""

    def load(name):
        return load_backend("reference")

    def use():
        monkeypatch.setattr("skxmc.neural._output_layer.load_backend", load)
        monkeypatch.setattr("skxmc.neural._sparse_dst.load_backend", load)

    return use


# ------------------------------------------------------------------ it learns


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": None},
        {"hidden": None, "connections": "random", "rewire_interval": 10, "rewire_fraction": 0.3},
        {"hidden": 32, "layout": "group", "group_size": 3, "dense_head": 0.2},
        {"hidden": 32, "layout": "dense", "optimizer": "sgd", "hidden_init": "labels"},
        {"hidden": 32, "loss": "bce", "dynamics": "set", "prune": "row", "auxiliary": 0.4},
        {"hidden": 32, "precision": "bfloat16", "optimizer": "sgd"},
        {"hidden": 32, "precision": "float8", "layout": "group", "group_size": 2},
    ],
)
def test_learns_the_labels_of_its_rows(params):
    model = fitted(**{"fan_in": 12, "epochs": 60, "dropout": 0.0, "weight_decay": 0.0, **params})
    wrong = np.count_nonzero((model.predict(X) != Y).toarray())
    assert wrong <= 0.05 * Y.nnz
    assert model.history_[-1]["loss"] < 0.3 * model.history_[0]["loss"]
    assert len(model.history_) == model.n_iter_ == 60


def test_all_inputs_are_the_dense_layer():
    sparse = fitted(fan_in=10**6, hidden=12)
    dense = fitted(layout="dense", hidden=12)
    assert_allclose(margins(sparse), margins(dense), rtol=1e-4, atol=1e-5)


def test_inputs_of_the_first_layer_are_those_of_largest_covariance():
    model = fitted(hidden=None, fan_in=5, dynamics="static")
    rows = X.toarray() / np.linalg.norm(X.toarray(), axis=1, keepdims=True)
    covariance = (rows - rows.mean(axis=0)).T @ Y.toarray()
    for label, inputs in zip(model._layer_labels, model._parts[0]["indices"], strict=True):
        assert set(inputs) == set(np.argsort(-covariance[:, label])[:5])


@pytest.mark.parametrize("dynamics", ["static", "set", "rigl"])
def test_dynamics(dynamics):
    options = {"hidden": None, "fan_in": 5, "rewire_fraction": 0.4, "rewire_interval": 5}
    before = fitted(**options, dynamics="static")._parts[0]["indices"]
    after = fitted(**options, dynamics=dynamics)._parts[0]["indices"]
    assert np.array_equal(before, after) == (dynamics == "static")
    for row in after:
        assert len(set(row.tolist())) == 5


def test_weighted_positives_are_answered_more():
    plain, weighted = (fitted(weighting=w, epochs=40) for w in (None, np.full(Y.shape[1], 5.0)))
    assert weighted.predict(X).nnz > plain.predict(X).nnz
    with pytest.raises(ValueError, match="weighting"):
        fitted(weighting=np.ones(2))


# ------------------------------------------------------------------ what may not matter


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": None},
        {"layout": "group", "group_size": 2, "dynamics": "rigl", "rewire_interval": 4},
        {"layout": "dense", "loss": "bce", "optimizer": "sgd", "auxiliary": 0.4},
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_backends_agree(params, dense, reference):
    pytest.importorskip("torch")
    rows = X.toarray() if dense else X
    models = [fitted(rows, epochs=1, backend=backend, **params) for backend in ("numba", "torch")]
    reference()
    models.append(fitted(rows, epochs=1, **params))
    assert [model.backend_ for model in models] == ["numba", "torch", "numba"]
    expected = margins(models[-1])
    for model in models:
        assert_allclose(margins(model), expected, rtol=1e-3, atol=1e-4)
        assert_allclose(model.history_[0]["loss"], models[-1].history_[0]["loss"], rtol=1e-4)


def test_threads_and_seeds():
    expected = margins(fitted(n_jobs=1))
    assert_array_equal(margins(fitted(n_jobs=2)), expected)
    assert_array_equal(margins(fitted(n_jobs=2)), expected)
    assert not np.array_equal(margins(fitted(random_state=1)), expected)


def test_wide_hidden_layer_does_not_depend_on_threads():
    # wide enough for several chunks of rows and features
    for rows in (X, X.toarray()):
        models = [fitted(rows, hidden=4000, epochs=1, n_jobs=n) for n in (1, 3)]
        assert_array_equal(margins(models[0]), margins(models[1]))


@pytest.mark.parametrize("params", [{}, {"auxiliary": 0.5}, {"validation_fraction": 0.3}])
def test_training_goes_on_from_a_checkpoint(tmp_path, monkeypatch, params):
    options = {**params, "auxiliary_epochs": 2, "rewire_interval": 3, "dynamics": "rigl"}
    expected = fitted(**options)
    step, done = _training.Trainer._step, []

    def stop(trainer, *arguments):
        if len(done) == stop.after:
            raise KeyboardInterrupt
        done.append(1)
        step(trainer, *arguments)

    monkeypatch.setattr(_training.Trainer, "_step", stop)
    monkeypatch.setattr(_training, "_CHECKPOINT_SECONDS", 0.0)  # after each step
    for stop.after in (2, 9, 14):
        with pytest.raises(KeyboardInterrupt):
            fitted(**options, checkpoint_dir=tmp_path)
    assert len(list(tmp_path.glob("*/training.npz"))) == 1
    stop.after = -1
    n_trained = 48 - round(48 * params.get("validation_fraction", 0))
    again = fitted(**options, checkpoint_dir=tmp_path, n_jobs=2)
    assert_array_equal(margins(again), margins(expected))
    assert again.history_ == expected.history_
    assert len(done) == again.n_iter_ * len(range(0, n_trained, 8))  # no step was done twice
    assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_a_checkpoint_of_its_step(tmp_path, monkeypatch):
    step = _training.Trainer._step

    def press_key(trainer, *arguments):
        step(trainer, *arguments)
        if trainer.n_steps == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(_training.Trainer, "_step", press_key)
        with pytest.raises(KeyboardInterrupt):
            fitted(checkpoint_dir=tmp_path)
    done = []

    def count(trainer, *arguments):
        done.append(trainer.n_steps)
        step(trainer, *arguments)

    monkeypatch.setattr(_training.Trainer, "_step", count)
    assert_array_equal(margins(fitted(checkpoint_dir=tmp_path)), margins(fitted()))
    assert done[0] == 8


def test_checkpoints_of_other_fits_and_damaged_ones(tmp_path, monkeypatch):
    step = _training.Trainer._step

    def stop(trainer, *arguments):
        step(trainer, *arguments)
        if trainer.n_steps == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_training.Trainer, "_step", stop)
        for params in ({}, {"learning_rate": 0.1}):
            with pytest.raises(KeyboardInterrupt):
                fitted(checkpoint_dir=tmp_path, **params)
    paths = list(tmp_path.glob("*/training.npz"))
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="delete it"):
        fitted(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="random_state"):
        fitted(checkpoint_dir=tmp_path, random_state=None)


def test_partial_fit_is_fit_epoch_by_epoch():
    same = {"schedule": "constant", "warmup": 0.0, "rewire_end": 1.0, "rewire_interval": 4}
    expected = fitted(epochs=3, **same)
    model = SparseDSTClassifier(**SMALL, rewire_interval=4)
    for _ in range(3):
        model = pickle.loads(pickle.dumps(model.partial_fit(X, Y)))
    # 24 steps are a multiple of the interval, at which fit's rewiring has ended
    assert_array_equal(margins(model), margins(expected))
    assert model.n_iter_ == 3


def test_partial_fit_over_parts():
    model = SparseDSTClassifier(**{**SMALL, "hidden": None, "fan_in": 20})
    never = Y.toarray()
    never[:, 4] = 0
    half = slice(0, 24), slice(24, 48)
    model.partial_fit(X[half[0]], sp.csr_array(never[half[0]]))
    assert (model.predict_topk(X, k=9).labels[:, -1] == -1).all()  # label 4 is not known yet
    for _ in range(30):
        for rows in half:
            model.partial_fit(X[rows], Y[rows])
    assert np.count_nonzero((model.predict(X) != Y).toarray()) <= 0.1 * Y.nnz
    assert (model.predict_topk(X, k=9).labels >= 0).all()
    with pytest.raises(ValueError, match="9"):
        model.partial_fit(X, Y[:, :5])


def test_partial_fit_with_classes():
    y = np.array(["a", "b", "c"])[np.arange(48) % 3]
    model = SparseDSTClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes must be passed"):
        model.partial_fit(X, y)
    model.partial_fit(X[:2], y[:2], classes=["c", "b", "a"])
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert model.partial_fit(X, y).predict_proba(X).shape == (48, 3)
    with pytest.raises(ValueError, match="'d'"):
        model.partial_fit(X, np.where(y == "a", "d", y))


# ------------------------------------------------------------------ early stopping


def test_early_stopping_keeps_the_best(monkeypatch):
    precisions = iter([0.2, 0.5, 0.4, 0.45, 0.3, 0.9])
    kept = []

    def scripted(learner):
        kept.append({n: a.copy() for n, a in learner.output.state().items()})
        return {"P@1": next(precisions)}

    monkeypatch.setattr(HeadLearner, "evaluate", scripted)
    model = fitted(validation_fraction=0.25, patience=3, epochs=30)
    assert model.n_iter_ == 5
    assert model.best_epoch_ == 2
    assert_array_equal(model._parts[0]["weights"], kept[1]["0.weights"])
    assert_array_equal(model._parts[0]["bias"], kept[1]["0.bias"])
    assert [epoch["P@1"] for epoch in model.history_] == [0.2, 0.5, 0.4, 0.45, 0.3]


def test_validation_precision_is_that_of_the_rows_kept_out():
    model = fitted(validation_fraction=0.25, epochs=1)
    known = sp.csr_array(Y)
    rows = np.sort(np.random.default_rng([model_seed(), 4]).permutation(48)[:12])
    best = model.predict_topk(X[rows], k=3).labels
    truth = known.toarray()[rows]
    hits = np.take_along_axis(truth, best, axis=1)
    assert model.history_[0]["P@1"] == pytest.approx(hits[:, 0].mean())
    assert model.history_[0]["P@3"] == pytest.approx(hits.mean())
    with pytest.raises(ValueError, match="validation_fraction"):
        fitted(X[:2], Y[:2], validation_fraction=0.9)


def model_seed():
    return int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": 512},
        {"hidden": 256, "optimizer": "sgd", "layout": "group", "auxiliary": 0.4},
        {"hidden": 256, "optimizer": "sgd", "momentum": 0.0, "precision": "bfloat16"},
    ],
)
def test_footprint_is_what_a_fit_takes(params):
    n_labels, n_features, n_samples = 60_000, 500, 60_000
    rng = np.random.default_rng(0)
    rows = np.arange(n_samples)
    indices = rng.integers(n_features, size=n_samples)
    wide = sp.csr_array((np.ones(n_samples, "f4"), (rows, indices)), shape=(n_samples, n_features))
    labels = sp.csr_array((np.ones(n_samples), (rows, rows)), shape=(n_samples, n_labels))
    model = SparseDSTClassifier(
        **params, epochs=1, random_state=0, n_jobs=1, grouping="frequency", dynamics="static",
        connections="random", hidden_init="random",
    )  # fmt: skip
    predicted = model.memory_footprint(n_labels, n_features, n_samples=n_samples, sparse=True)
    SparseDSTClassifier(**{**SMALL, **params, "hidden": 8}).fit(X, Y)  # compiles
    peak_of_layer = {}
    run = _training.Trainer.fit

    def measured(trainer, n_rows, **options):
        output = trainer.learner.output
        arrays = [
            a for record in (*output.parts, *output.states) for a in record if hasattr(a, "nbytes")
        ]
        peak_of_layer["layer"] = sum(a.nbytes for a in arrays)
        for first in (0, 64):
            trainer._step(np.arange(first, first + 64), 100)

    _training.Trainer.fit = measured
    try:
        with traced_memory() as peak:
            model.fit(wide, labels)
            taken = peak()
    finally:
        _training.Trainer.fit = run
    layer = predicted.weights + predicted.indices + predicted.optimizer
    assert peak_of_layer["layer"] == layer
    beside = 40 * n_samples + 40 * n_labels  # rows, targets and counts of labels
    assert predicted.total <= taken + 0.05 * predicted.total
    assert taken <= 1.1 * predicted.total + beside


def test_memory_limit():
    model = SparseDSTClassifier(**SMALL)
    needed = model.memory_footprint(Y.shape[1], X.shape[1], n_samples=48, sparse=True).total
    model.set_params(memory_limit=needed).fit(X, Y)
    with pytest.raises(MemoryLimitError, match=f"{needed:,}.*memory_limit={needed - 1:,}"):
        model.set_params(memory_limit=needed - 1).fit(X, Y)
    assert "total" in str(model.memory_footprint(9, 30))


# ------------------------------------------------------------------ life after fit


def test_prediction_and_loading_need_no_torch(tmp_path):
    pytest.importorskip("torch")
    model = fitted(backend="torch")
    save_model(model, tmp_path / "model")
    np.save(tmp_path / "expected.npy", margins(model))
    sp.save_npz(tmp_path / "X.npz", X)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np, pickle, scipy.sparse as sp
from skxmc import load_model
folder = {str(tmp_path)!r}
X, expected = sp.load_npz(folder + "/X.npz"), np.load(folder + "/expected.npy")
for model in (load_model(folder + "/model"), pickle.load(open(folder + "/model.pickle", "rb"))):
    answers = model.predict_topk(X, k=9)
    found = np.empty_like(expected)
    np.put_along_axis(found, answers.labels, answers.scores, axis=1)
    np.testing.assert_array_equal(found, expected)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("params", [{}, {"hidden": None}, {"precision": "float8"}])
def test_save_and_load(tmp_path, params):
    model = fitted(**params).partial_fit(X, Y)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert_array_equal(margins(loaded), margins(model))
    assert_array_equal(margins(loaded.partial_fit(X, Y)), margins(model.partial_fit(X, Y)))


@pytest.mark.parametrize("name", ["indices", "labels", "hidden"])
def test_damaged_model_is_refused(tmp_path, name):
    model = fitted()
    if name == "indices":
        model._parts[0]["indices"] = model._parts[0]["indices"] + np.uint16(100)
    elif name == "labels":
        model._layer_labels = np.zeros_like(model._layer_labels)
    else:
        model._front_arrays["weights"] = model._front_arrays["weights"][:, :-1]
    save_model(model, tmp_path / "model")
    with pytest.raises(ModelFormatError):
        load_model(tmp_path / "model")


def test_progress_bar(capsys):
    fitted(verbose=1, epochs=2, validation_fraction=0.25)
    shown = capsys.readouterr().err
    assert "loss" in shown
    assert "P@1" in shown


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fan_in": 0}, "fan_in"),
        ({"layout": "tree"}, "layout"),
        ({"hidden": 0}, "hidden"),
        ({"dynamics": "deepr"}, "dynamics"),
        ({"precision": "float16"}, "precision"),
        ({"dropout": 1.0}, "dropout"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"backend": "jax"}, "backend"),
        ({"backend": "numba", "device": "cuda:0"}, "computes on the CPU"),
        ({"weighting": "rare"}, "weighting"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        fitted(**params)


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match="learning_rate"), np.errstate(all="ignore"):
        fitted(optimizer="sgd", learning_rate=1e30, epochs=20)


# ------------------------------------------------------------------ text


def text_data():
    texts = ["aaab", "aab", "aaaa", "ccd", "ccc", "cd", "zzz", "zy", "zyz"] * 6
    return texts, sp.csr_array(np.tile(np.repeat(np.eye(3, dtype=int), 3, axis=0), (6, 1)))


def test_text_encoder_end_to_end():
    torch = pytest.importorskip("torch")

    class Letters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(128, 16)

        def forward(self, ids, mask):
            return self.embedding(ids)

    torch.manual_seed(0)
    encoder = (lambda texts: [[ord(c) for c in text] for text in texts]), Letters()
    texts, labels = text_data()
    model = SparseDSTClassifier(
        encoder=encoder, fan_in=4, random_state=0, epochs=20, front_learning_rate=0.01,
        auxiliary=0.4, memory_limit=10**8,
    )  # fmt: skip
    assert_array_equal(model.fit(texts, labels).predict(texts).toarray(), labels.toarray())
    first = model.predict_topk(texts, k=3)
    assert_array_equal(model.fit(texts, labels).predict_topk(texts, k=3).scores, first.scores)
    with pytest.raises(TypeError, match="Row 1 of X"):
        model.predict(["a", None])
    with pytest.raises(MemoryLimitError):
        model.set_params(memory_limit=1000).fit(texts, labels)
