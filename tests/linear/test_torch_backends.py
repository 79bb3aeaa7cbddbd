"""DismecClassifier and ParabelTree with torch: the same models and answers as with Numba."""

import builtins
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from contract import contract_params
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc import DismecClassifier, ParabelTree, load_model, save_model
from skxmc.datasets import load_debtags, make_xmc_classification
from skxmc.exceptions import MemoryLimitError
from skxmc.metrics import precision_at_k
from skxmc.ops import _device

ESTIMATORS = [
    DismecClassifier(backend="torch"),
    ParabelTree("parabel", arity=4, max_leaf=6, backend="torch", random_state=0),
]
KINDS = pytest.mark.parametrize("estimator", ESTIMATORS, ids=["dismec", "tree"])

# The contract of every estimator, but for what is about the base alone or takes long.
WITHOUT = dict.fromkeys(
    ("check_wide_target", "check_grid_search", "check_feature_names", "check_bad_targets"), "base"
)
CLUSTERED = {
    "check_label_permutation": "k-means starts from other labels, which gives another tree",
    "check_topk_ties": "labels with the same rows can be in different clusters",
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(160, 60, 24, avg_features_per_sample=12, random_state=0)


@pytest.fixture
def without_torch(monkeypatch):
    """A machine on which torch is not installed."""
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def restrictions(shape):
    rng = np.random.default_rng(1)
    some = sp.csr_array((rng.random(shape) < 0.4).astype(np.uint8))
    others = sp.csr_array((rng.random(shape) < 0.5).astype(np.uint8))
    return {}, {"exclude": some}, {"candidates": others}, {"exclude": some, "candidates": others}


@KINDS
def test_answers_of_one_model_are_those_of_numba(estimator, data):
    model = clone(estimator).fit(data.X, data.Y)
    numba = pickle.loads(pickle.dumps(model)).set_params(backend="numba")
    assert model.backend_ == "torch"
    for k in (1, 5, 24, 30):
        for options in restrictions(data.Y.shape):
            mine, expected = (m.predict_topk(data.X, k, **options) for m in (model, numba))
            np.testing.assert_allclose(mine.scores, expected.scores, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(mine.labels, expected.labels)
    mine, expected = (m.predict(data.X) for m in (model, numba))
    assert abs(mine.astype(float) - expected.astype(float)).sum() == 0


@KINDS
def test_dense_outputs_are_those_of_numba(estimator, data):
    model = clone(estimator).fit(data.X, data.Y.toarray())
    mine = model.decision_function(data.X)
    expected = model.set_params(backend="numba").decision_function(data.X)
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "logistic"},
        {"weighting": "propensity", "regularize_intercept": False, "init": "multi-positive"},
        {"prune_tolerance": 0.1, "fit_intercept": False, "normalize": None},
    ],
)
def test_dismec_fits_the_model_of_numba(options, data):
    options = {"tol": 1e-5, "prune_threshold": 0.0, **options}
    mine = DismecClassifier(backend="torch", **options).fit(data.X, data.Y)
    numba = DismecClassifier(**options).fit(data.X, data.Y)
    assert numba.backend_ == "numba"
    weights, expected = mine.coef_.toarray(), numba.coef_.toarray()
    if options.get("prune_tolerance"):  # one weight more or less, where the loss is at the bound
        both = (weights != 0) & (expected != 0)
        assert both.sum() >= 0.98 * max(mine.coef_.nnz, numba.coef_.nnz)
        weights, expected = weights[both], expected[both]
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(mine.intercept_, numba.intercept_, rtol=1e-3, atol=1e-3)
    assert mine.coef_.dtype == mine.intercept_.dtype == np.float32
    assert isinstance(mine.coef_, sp.csr_array)


def test_real_text_is_ranked_alike():
    bunch = load_debtags(return_tfidf=True)
    rows = np.random.default_rng(0).permutation(bunch.X_train.shape[0])[:700]
    keep = np.argsort(-np.bincount(bunch.Y_train.indices, minlength=567), kind="stable")[:30]
    used = np.flatnonzero(np.bincount(bunch.X_train[rows].indices) > 1)
    X, Y = bunch.X_train[rows][:, used], bunch.Y_train[rows][:, keep]
    X_test, Y_test = bunch.X_test[:1000][:, used], bunch.Y_test[:1000][:, keep]
    models = [
        DismecClassifier(tol=1e-5, backend=backend).fit(X, Y) for backend in ("torch", "numba")
    ]
    weights, expected = (model.coef_.toarray() for model in models)
    both = (weights != 0) & (expected != 0)
    assert both.sum() >= 0.999 * models[1].coef_.nnz  # others are next to the threshold
    np.testing.assert_allclose(weights[both], expected[both], rtol=1e-3, atol=5e-4)
    for k in (1, 3, 5):
        mine, numba = (precision_at_k(Y_test, m.predict_topk(X_test, k), k=k) for m in models)
        assert numba > 0.2
        assert mine == numba


@KINDS
def test_the_same_bits_each_time(estimator, data):
    models = [clone(estimator).fit(data.X, data.Y) for _ in range(2)]
    mine, again = (model.predict_topk(data.X, 5) for model in models)
    np.testing.assert_array_equal(mine.labels, again.labels)
    np.testing.assert_array_equal(mine.scores, again.scores)


def test_a_tree_of_torch_is_that_of_numba(data):
    torch_tree = clone(ESTIMATORS[1]).fit(data.X, data.Y)
    numba = clone(ESTIMATORS[1]).set_params(backend="auto").fit(data.X, data.Y)
    for mine, expected in zip(torch_tree.weights_, numba.weights_, strict=True):
        for a, b in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    gain = np.linspace(0.1, 2, 24)
    for method, options in (("predict_gain", {"gain": gain}), ("predict_above", {})):
        mine, expected = (getattr(m, method)(data.X, **options) for m in (torch_tree, numba))
        parts = ("labels", "scores") if method == "predict_gain" else ("indices", "data")
        for part in parts:  # both of Numba
            np.testing.assert_array_equal(getattr(mine, part), getattr(expected, part))
    more = sp.hstack([data.Y, data.Y[:, :2]], format="csr")
    torch_tree.predict_topk(data.X, 3)  # the trees on the device must not outlive the growth
    torch_tree.add_labels(data.X, more)
    numba.add_labels(data.X, more)
    mine, expected = (model.predict_topk(data.X, 26) for model in (torch_tree, numba))
    np.testing.assert_array_equal(mine.labels, expected.labels)


def test_link_and_exact_search_can_change_after_the_fit(data):
    model = clone(ESTIMATORS[1]).fit(data.X, data.Y)
    for options in ({"link": "logistic"}, {"link": "l3-hinge"}, {"search": "exact"}):
        model.set_params(**options)
        mine = model.predict_topk(data.X, 4)
        expected = model.set_params(backend="numba").predict_topk(data.X, 4)
        model.set_params(backend="torch")
        np.testing.assert_array_equal(mine.labels, expected.labels)


@KINDS
def test_files_of_torch_models_need_no_torch(estimator, data, tmp_path):
    model = clone(estimator).fit(data.X, data.Y)
    expected = model.predict_topk(data.X, 3)  # with what is on the device in place
    save_model(model, tmp_path / "model")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    sp.save_npz(tmp_path / "X.npz", data.X)
    code = """
import pickle, sys

class Absent:
    def find_spec(self, name, *arguments):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Absent())
import numpy as np, scipy.sparse as sp
from skxmc import load_model
X = sp.csr_array(sp.load_npz("X.npz"))
models = load_model("model"), pickle.load(open("model.pkl", "rb"))
answers = [model.predict_topk(X, 3) for model in models]
assert models[0].backend == "torch"
assert (answers[0].labels == answers[1].labels).all()
np.save("labels.npy", answers[0].labels)
"""
    root = str(_device.__file__).rsplit("skxmc", 1)[0]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n" + code],
        cwd=tmp_path,
        check=True,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected.labels)
    loaded = load_model(tmp_path / "model", mmap=False)
    np.testing.assert_array_equal(loaded.predict_topk(data.X, 3).scores, expected.scores)
    for kind in (pickle.dumps(model), (tmp_path / "model" / "model.json").read_bytes()):
        assert b"torch." not in io.BytesIO(kind).read()


@KINDS
def test_numba_needs_no_torch(estimator, data, without_torch):
    with pytest.raises(ImportError, match=r'pip install "skxmc\[torch\]"'):
        clone(estimator).fit(data.X, data.Y)
    model = clone(estimator).set_params(backend="auto").fit(data.X, data.Y)
    expected = model.predict_topk(data.X, 3)
    found = model.set_params(backend="torch").predict_topk(data.X, 3)
    np.testing.assert_array_equal(found.scores, expected.scores)


@KINDS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch", "device": "cuda:63"}, "device='cuda:63' does not exist: torch"),
        ({"backend": "auto", "device": "cuda:63"}, "device='cuda:63' does not exist: torch"),
        ({"backend": "numba", "device": "cuda:0"}, 'backend="numba" runs on the processor only'),
        ({"device": "gpu"}, 'device must be None, "cpu" or "cuda:<number>", got \'gpu\''),
        ({"backend": "triton"}, "The 'backend' parameter"),
    ],
)
def test_devices_that_do_not_exist(estimator, data, options, message):
    with pytest.raises(ValueError, match=message):
        clone(estimator).set_params(**options).fit(data.X, data.Y)


def test_a_model_of_another_device_predicts_here(data):
    model = DismecClassifier().fit(data.X, data.Y)
    expected = model.predict_topk(data.X, 3)
    found = model.set_params(backend="torch", device="cuda:63").predict_topk(data.X, 3)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_what_the_parameters_stand_for(monkeypatch):
    assert _device.choose_place() == _device.choose_place("numba", "cpu") == ("numba", None)
    assert _device.choose_place("torch") == _device.choose_place("torch", "cpu") == ("torch", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _device.choose_place("auto", "cuda:1") == ("torch", "cuda:1")
    assert _device.choose_place("torch", "cuda") == ("torch", "cuda:0")
    with pytest.raises(ValueError, match="finds 2 CUDA devices"):
        _device.choose_place("auto", "cuda:2")
    for device in ("cuda:", "cuda:-1", "cpu:0", "", 0):
        with pytest.raises(ValueError, match="device must be"):
            _device.choose_place("auto", device)
    with pytest.raises(ValueError, match="backend must be one of"):
        _device.choose_place("triton")


def test_interrupted_fits_go_on(data, tmp_path, monkeypatch):
    from skxmc.linear import _dismec

    per_label = _dismec._solver(_device.Place("torch", "cpu")).label_bytes(*data.X.shape)
    monkeypatch.setitem(_device._BLOCK_BYTES, "cpu", 5 * per_label)  # blocks of 5 labels
    expected = DismecClassifier(backend="torch").fit(data.X, data.Y)
    model = DismecClassifier(backend="torch", checkpoint_dir=tmp_path)
    write, written = _dismec._Checkpoint.write, []

    def write_two(self, shard, solution):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append((shard.start, shard.stop))
        write(self, shard, solution)

    monkeypatch.setattr(_dismec._Checkpoint, "write", write_two)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data.X, data.Y)
    assert written == [(0, 5), (5, 10)]
    monkeypatch.setattr(_dismec._Checkpoint, "write", write)
    solved = []
    solve = _dismec._solve_labels
    monkeypatch.setattr(
        _dismec, "_solve_labels", lambda part, *a: solved.append(part.start) or solve(part, *a)
    )
    model.fit(data.X, data.Y)
    assert solved == [10, 15, 20]
    np.testing.assert_array_equal(model.coef_.toarray(), expected.coef_.toarray())
    assert not any(tmp_path.iterdir())


def test_memory_is_predicted(data):
    model = DismecClassifier(backend="torch")
    needed = model.estimate_memory(data.X, data.Y)
    assert needed > DismecClassifier().estimate_memory(data.X, data.Y)
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        model.set_params(memory_limit=needed // 100).fit(data.X, data.Y)
    model.set_params(memory_limit=2 * needed).fit(data.X, data.Y)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        *contract_params(ESTIMATORS[:1], without=WITHOUT),
        *contract_params(ESTIMATORS[1:], without={**WITHOUT, **CLUSTERED}),
    ],
)
def test_contract_checks(estimator, check):
    check(estimator)
