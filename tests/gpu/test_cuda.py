"""The GPU backends on a GPU, against the reference and against Numba on the processor.

Skipped where torch sees no CUDA device. There the kernels are tested in Triton's interpreter
(`tests/ops/test_sparse_head_triton.py`) and torch on the processor (`tests/ops/*_torch.py`).
"""

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc import DismecClassifier, ParabelTree, SparseDSTClassifier
from skxmc.datasets import make_xmc_classification
from skxmc.metrics import precision_at_k
from skxmc.ops.sparse_head import low_precision, reference
from skxmc.ops.sparse_head._types import Loss, Optimizer
from skxmc.ops.sparse_head.initial import initialise, new_state

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

DEVICE = "cuda:0"
BACKENDS = ("torch", "triton")
# Labels, inputs, fan-in (None: dense), labels of a group.
LAYOUTS = {
    "fixed": (1_003, 257, 31, 1),
    "fixed, aligned": (2_048, 768, 64, 1),
    "grouped": (1_003, 257, 24, 16),  # the last group is smaller
    "grouped, aligned": (2_048, 768, 64, 16),
    "dense": (201, 257, None, 1),
}
PRECISIONS = ("float32", "bfloat16", "float8")
OPTIMIZERS = {
    "sgd": Optimizer("sgd", 0.02),
    "momentum": Optimizer("sgd", 0.02, momentum=0.9, weight_decay=0.01),
    "adam": Optimizer("adam", 0.02, weight_decay=0.01, n_updates=2),
}


def load(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    return importlib.import_module(f"skxmc.ops.sparse_head.{backend}_")


def make(layout, precision, optimizer, n_compensated=0, seed=0):
    n_labels, n_inputs, fan_in, group_size = LAYOUTS[layout]
    bias = np.linspace(-0.5, 0.5, n_labels, dtype=np.float32)
    part = initialise(n_labels, n_inputs, fan_in, group_size, precision, seed, bias=bias)
    return part, new_state(part, optimizer, n_compensated)


def make_batch(layout, n_rows=67, seed=0):
    n_labels, n_inputs, *_ = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
    targets = sp.csr_array((rng.random((n_rows, n_labels)) < 0.02).astype(np.uint8))
    return features, targets


def train(backend, features, targets, part, state, loss, optimizer, **options):
    """One step on the device: the result, and part and state afterwards as arrays."""
    ops = load(backend)
    arrays = importlib.import_module("skxmc.ops.sparse_head.torch_arrays")
    part, state = arrays.to_device(part, state, DEVICE)
    result = ops.train_step(
        *(features, targets, (part,), (state,), loss, optimizer, 5, 3), **options
    )
    return result, *arrays.to_numpy(part, state)


def copy(arrays):
    return type(arrays)(*(a.copy() if isinstance(a, np.ndarray) else a for a in arrays))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores(layout, precision, backend):
    part, _ = make(layout, precision, OPTIMIZERS["sgd"])
    features, _ = make_batch(layout)
    moved, _ = importlib.import_module("skxmc.ops.sparse_head.torch_arrays").to_device(
        part, None, DEVICE
    )
    options = {"dot": "ieee"} if backend == "triton" else {}
    found = load(backend).scores(features, (moved,), **options)
    assert found.device.type == "cuda"
    assert_allclose(found.cpu(), reference.scores(features, (part,)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_training_step(layout, precision, loss, optimizer, backend):
    optimizer, loss = OPTIMIZERS[optimizer], Loss(loss)
    kahan = 100 if precision != "float32" else 0
    part, state = make(layout, precision, optimizer, kahan)
    features, targets = make_batch(layout)
    options = {"dot": "ieee"} if backend == "triton" else {}
    mine, got, got_state = train(
        backend, features, targets, copy(part), copy(state), loss, optimizer, **options
    )
    true = reference.train_step(features, targets, [part], [state], loss, optimizer, 5, 3)
    assert_allclose(mine.loss, true.loss, rtol=1e-5)
    scale = np.abs(true.grad_features).max()
    assert_allclose(mine.grad_features.cpu(), true.grad_features, rtol=1e-3, atol=1e-4 * scale)
    assert_allclose(got.bias, part.bias, rtol=1e-4, atol=1e-5)
    weights = low_precision.decode(got.weights, precision)
    expected = low_precision.decode(part.weights, precision)
    if precision == "float32":
        close = np.isclose(weights, expected, rtol=1e-3, atol=1e-4)
        # a gradient that is 0 but for its rounding has another sign under Adam
        assert close.all() if optimizer.name == "sgd" else close.mean() > 0.999
    else:  # a gradient that differs in its last bits may be rounded the other way, rarely
        assert np.mean(got.weights != part.weights) < 0.02
    for name in ("momentum", "second"):
        mine, theirs = getattr(got_state, name), getattr(state, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert_allclose(mine, theirs, rtol=1e-2, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", ["fixed", "grouped", "dense"])
def test_two_runs_give_the_same_bits(layout, precision):
    optimizer = OPTIMIZERS["momentum"]
    part, state = make(layout, precision, optimizer)
    features, targets = make_batch(layout)
    runs = [
        train("triton", features, targets, copy(part), copy(state), Loss("bce"), optimizer)
        for _ in range(2)
    ]
    (one, part_one, _), (two, part_two, _) = runs
    assert one.loss == two.loss
    assert_array_equal(one.grad_features.cpu(), two.grad_features.cpu())
    assert_array_equal(part_one.weights, part_two.weights)


@pytest.mark.parametrize("dot", ["tf32", "bf16"])
def test_tensor_cores_round_their_factors_only(dot):
    load("triton")
    part, _ = make("grouped, aligned", "float32", OPTIMIZERS["sgd"])
    features, _ = make_batch("grouped, aligned")
    arrays = importlib.import_module("skxmc.ops.sparse_head.torch_arrays")
    moved, _ = arrays.to_device(part, None, DEVICE)
    found = load("triton").scores(features, (moved,), dot=dot).cpu().numpy()
    expected = reference.scores(features, (part,))
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-7 < error < {"tf32": 2e-3, "bf16": 2e-2}[dot]


@pytest.mark.parametrize("backend", BACKENDS)
def test_topk(backend):
    part, _ = make("grouped", "float32", OPTIMIZERS["sgd"])
    features, exclude = make_batch("grouped")
    labels = np.random.default_rng(1).permutation(part.n_labels)
    arrays = importlib.import_module("skxmc.ops.sparse_head.torch_arrays")
    moved, _ = arrays.to_device(part, None, DEVICE)
    found = load(backend).topk(features, (moved,), labels, 5, exclude=exclude)
    margins = np.empty((len(features), part.n_labels))
    margins[:, labels] = reference.scores(features, (part,))
    margins[exclude.nonzero()] = -np.inf
    assert_allclose(found.scores, -np.sort(-margins, axis=1)[:, :5], rtol=1e-4, atol=1e-4)
    assert_allclose(np.take_along_axis(margins, found.labels, axis=1), found.scores, rtol=1e-4)


# ------------------------------------------------------------------ estimators


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(1_200, 300, 120, avg_features_per_sample=20, random_state=0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", ["fixed", "group"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_dst(data, backend, layout, precision):
    load(backend)
    options = {"layout": layout, "precision": precision, "hidden": 128, "fan_in": 32}
    options |= {"epochs": 6, "random_state": 0}
    here = SparseDSTClassifier(**options).fit(data.X, data.Y)
    there = SparseDSTClassifier(**options, backend=backend, device=DEVICE).fit(data.X, data.Y)
    p_here, p_there = (
        precision_at_k(data.Y, model.predict_proba(data.X), k=1) for model in (here, there)
    )
    assert p_here > 0.5
    assert abs(p_here - p_there) < 0.05


def test_one_vs_all(data):
    options = {"tol": 1e-5, "prune_threshold": 0, "top_k": data.Y.shape[1]}
    here = DismecClassifier(**options).fit(data.X, data.Y)
    there = DismecClassifier(**options, backend="torch", device=DEVICE).fit(data.X, data.Y)
    margins = [model.decision_function(data.X).toarray() for model in (here, there)]
    assert_allclose(margins[1], margins[0], atol=2e-3)


def test_tree_prediction(data):
    tree = ParabelTree("parabel", random_state=0).fit(data.X, data.Y)
    here = tree.predict_topk(data.X, k=5)
    there = tree.set_params(backend="torch", device=DEVICE).predict_topk(data.X, k=5)
    assert_allclose(there.scores, here.scores, rtol=1e-4, atol=1e-5)
    assert np.mean(there.labels == here.labels) > 0.999
