"""The Triton kernels, in Triton's interpreter on the CPU, against the reference.

The interpreter must be chosen before Triton is imported, and for a whole process. The functions
marked ``interpreted`` therefore run in one process of their own, where TRITON_INTERPRET is set;
what they raise is raised here.
"""

import functools
import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.ops.sparse_head import _random as random_reference
from skxmc.ops.sparse_head import low_precision, reference
from skxmc.ops.sparse_head._types import Loss, Optimizer, Part, State
from skxmc.ops.sparse_head.initial import initialise, new_state

# Triton exists for Linux only.
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
torch = pytest.importorskip("torch")
triton_ = pytest.importorskip("skxmc.ops.sparse_head.triton_")
triton_bits = pytest.importorskip("skxmc.ops.sparse_head.triton_bits")
torch_ = pytest.importorskip("skxmc.ops.sparse_head.torch_")

_worker = None


def interpreted(function):
    """Run a test function in the process that interprets kernels."""

    @functools.wraps(function)
    def wrapper(**arguments):
        _start_worker().submit(_call, function.__module__, function.__name__, arguments).result()

    return wrapper


def _call(module, name, arguments):
    assert triton.knobs.runtime.interpret
    getattr(importlib.import_module(module), name).__wrapped__(**arguments)


def _start_worker():
    global _worker
    if _worker is None:
        _worker = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        before = os.environ.get("TRITON_INTERPRET")
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            _worker.submit(os.getpid).result()  # starts the process
        finally:
            if before is None:
                del os.environ["TRITON_INTERPRET"]
            else:
                os.environ["TRITON_INTERPRET"] = before
    return _worker


@pytest.fixture(scope="module", autouse=True)
def _stop_worker():
    yield
    global _worker
    if _worker is not None:
        _worker.shutdown()
        _worker = None


# Labels, inputs, fan-in (None: dense), labels of a group.
LAYOUTS = {
    "fixed": (7, 13, 5, 1),
    "grouped": (21, 13, 9, 8),  # the last group has 5 labels
    "dense": (9, 13, None, 1),
}


def make(layout, precision, optimizer=None, n_compensated=0, seed=0):
    n_labels, n_inputs, fan_in, group_size = LAYOUTS.get(layout, layout)
    part = initialise(
        n_labels,
        n_inputs,
        fan_in,
        group_size,
        precision,
        seed,
        bias=np.linspace(-0.5, 0.5, n_labels, dtype=np.float32),
    )
    return part, new_state(part, optimizer or Optimizer("sgd", 0.1), n_compensated)


def make_batch(n_rows, n_inputs, n_labels, seed=0, density=0.2):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
    targets = sp.csr_array((rng.random((n_rows, n_labels)) < density).astype(np.uint8))
    return features, targets


def move(parts, states=None):
    moved = [torch_.to_device(*pair, "cpu") for pair in zip(parts, states or [None] * len(parts))]
    return [part for part, _ in moved], [state for _, state in moved]


def step_both(features, targets, parts, states, loss, optimizer, seed=5, step=3, **options):
    """A training step of the kernels and of the reference, each on its own copy."""
    tensors, tensor_states = move(parts, states)
    mine = triton_.train_step(
        *(torch.from_numpy(features), targets, tensors, tensor_states),
        *(loss, optimizer, seed, step),
        **{"dot": "ieee", **options},
    )
    got = [torch_.to_numpy(*pair) for pair in zip(tensors, tensor_states)]
    parts = [_copy(part) for part in parts]
    states = [_copy(state) for state in states]
    true = reference.train_step(features, targets, parts, states, loss, optimizer, seed, step)
    return mine, got, true, list(zip(parts, states))


def _copy(arrays):
    return type(arrays)(*(a.copy() if isinstance(a, np.ndarray) else a for a in arrays))


def assert_states_close(got, true, precision):
    for (part, state), (true_part, true_state) in zip(got, true):
        assert_allclose(part.bias, true_part.bias, rtol=1e-5, atol=1e-6)
        weights = low_precision.decode(part.weights, precision)
        expected = low_precision.decode(true_part.weights, precision)
        if precision == "float32":
            assert_allclose(weights, expected, rtol=1e-4, atol=1e-5)
        else:  # a gradient that differs in its last bit may be rounded the other way, rarely
            assert np.mean(part.weights != true_part.weights) < 0.02
            assert_allclose(weights, expected, rtol=0.13, atol=2**-8)
        for name in ("momentum", "second", "bias_momentum", "bias_second"):
            mine, theirs = getattr(state, name), getattr(true_state, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


SQUARED_HINGE = Loss("squared_hinge")
SGD = Optimizer("sgd", 0.05)
MOMENTUM = Optimizer("sgd", 0.05, momentum=0.9, weight_decay=0.01)
ADAM = Optimizer("adam", 0.05, weight_decay=0.01, n_updates=2)


# --- numbers --------------------------------------------------------------------------------------


@triton.jit
def _decode_kernel(codes, out, PRECISION: tl.constexpr, KIND: tl.constexpr, N: tl.constexpr):
    places = tl.arange(0, N)
    stored = tl.load(codes + places)
    if KIND == "weights":
        tl.store(out + places, triton_bits.decode(stored, PRECISION))
    else:
        tl.store(out + places, triton_bits.decode(stored, PRECISION))


@triton.jit
def _encode_kernel(values, bits, out, PRECISION: tl.constexpr, KIND: tl.constexpr, N: tl.constexpr):
    places = tl.arange(0, N)
    x = tl.load(values + places)
    if KIND == "weights":
        code = triton_bits.encode_stochastic(x, tl.load(bits + places), PRECISION)
    else:
        code = triton_bits.nearest_bfloat16(x)
    tl.store(out + places, code)


@triton.jit
def _random_kernel(offsets, out, key, N: tl.constexpr):
    places = tl.arange(0, N)
    bits = triton_bits.random_bits(key.to(tl.uint32), tl.load(offsets + places))
    tl.store(out + places, bits)


FORMATS = {
    ("bfloat16", "weights"): "bfloat16",
    ("float8", "weights"): "float8",
    ("bfloat16", "compensation"): "bfloat16",
}


@pytest.mark.parametrize(("precision", "kind"), FORMATS)
@interpreted
def test_every_code_decodes_as_in_the_reference(precision, kind):
    name = FORMATS[precision, kind]
    dtype = low_precision.STORAGE[name]
    codes = np.arange(1 << (8 * dtype.itemsize)).astype(dtype)
    out = torch.empty(len(codes))
    _decode_kernel[(1,)](torch.from_numpy(codes), out, precision, kind, len(codes))
    expected = low_precision.decode(codes, name)
    number = ~np.isnan(expected)
    assert_array_equal(out.numpy()[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(out.numpy()[~number]).all()


@pytest.mark.parametrize(("precision", "kind"), FORMATS)
@interpreted
def test_rounding_is_that_of_the_reference_bit_for_bit(precision, kind):
    rng = np.random.default_rng(0)
    n = 1 << 14
    # every exponent and sign, infinities, NaN, zeros, and random bits with their extremes
    values = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    values[: n // 2] = (rng.normal(size=n // 2) * 2.0 ** rng.integers(-18, 10, n // 2)).astype("f4")
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 448, 463.9, 464, 2**-6, 2**-9, 2**-14, 2**-16]
    largest = [np.finfo("f4").max, -np.finfo("f4").max, 57344, 61439, 61440, 1e-45, 0.015624999]
    values[-len(special + largest) :] = special + largest
    bits = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32)
    bits[::7], bits[1::7] = 0xFFFFFFFF, 0
    name = FORMATS[precision, kind]
    out = torch.from_numpy(np.empty(n, dtype=low_precision.STORAGE[name]))
    arrays = torch.from_numpy(values), torch.from_numpy(bits)
    _encode_kernel[(1,)](*arrays, out, precision, kind, n)
    expected = low_precision.encode(values, name, bits if kind == "weights" else None)
    assert_array_equal(out.numpy(), expected)


@interpreted
def test_random_bits_are_those_of_the_reference():
    offsets = np.concatenate([np.arange(500), np.arange(500) + (1 << 32) - 250, [1 << 40] * 24])
    for key in (0, 12345, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        out = torch.from_numpy(np.empty(1024, dtype=np.uint32))
        signed = key - (1 << 32) if key >= 1 << 31 else key
        _random_kernel[(1,)](torch.from_numpy(offsets), out, signed, 1024)
        assert_array_equal(out.numpy(), random_reference.random_bits(key, offsets))


# --- products -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@interpreted
def test_products_match_the_reference(layout, precision):
    part, _ = make(layout, precision)
    n_inputs = LAYOUTS[layout][1]
    features, _ = make_batch(5, n_inputs, part.n_labels)
    dmargins = np.random.default_rng(1).normal(size=(5, part.n_labels)).astype(np.float32)
    (moved,), _ = move([part])
    x, g = torch.from_numpy(features), torch.from_numpy(dmargins)
    close = functools.partial(assert_allclose, rtol=1e-5, atol=5e-6)
    close(triton_.scores(x, [moved], dot="ieee"), reference.scores(features, [part]))
    close(
        triton_.grad_weights(x, g, moved, dot="ieee"),
        reference.grad_weights(features, dmargins, part),
    )
    close(
        triton_.grad_features(g, moved, n_inputs, dot="ieee"),
        reference.grad_features(dmargins, part, n_inputs),
    )
    close(
        triton_.input_gradients(x, g, moved, 2, 7),
        reference.input_gradients(features, dmargins, part, 2, 7),
    )


SHAPES = {
    "one of everything": (1, (1, 1, 1, 1)),
    "one row, all inputs": (1, (3, 5, 5, 1)),
    "17 rows": (17, (3, 6, 2, 1)),
    "65 rows, 2 tiles of columns": (65, (2, 4, 3, 1)),
    "66 slots, 2 tiles": (2, (2, 70, 66, 1)),
    "one group, larger than the labels": (3, (3, 6, 4, 16)),
    "groups of 2": (3, (5, 6, 4, 2)),
    "group of 65, 2 tiles": (2, (66, 4, 3, 65)),
    "66 slots of a group": (2, (3, 70, 66, 2)),
    "dense, 65 labels": (2, (65, 3, None, 1)),
    "no rows": (0, (3, 4, 2, 1)),
}


@pytest.mark.parametrize("shape", SHAPES)
@interpreted
def test_odd_shapes(shape):
    n_rows, layout = SHAPES[shape]
    part, state = make(layout, "float32", MOMENTUM)
    features, targets = make_batch(n_rows, layout[1], layout[0], density=0.4)
    mine, got, true, expected = step_both(
        features, targets, [part], [state], SQUARED_HINGE, MOMENTUM
    )
    assert_allclose(mine.loss, true.loss, rtol=1e-5)
    assert mine.grad_features.shape == features.shape
    assert_allclose(mine.grad_features, true.grad_features, rtol=1e-4, atol=1e-5)
    assert_states_close(got, expected, "float32")
    (moved,), _ = move([part])
    assert_allclose(
        triton_.scores(torch.from_numpy(features), [moved]),
        reference.scores(features, [part]),
        rtol=1e-5,
        atol=1e-5,
    )


@interpreted
def test_int32_indices_and_many_inputs():
    part, _ = make((4, 70_000, 3, 1), "float32")
    assert part.indices.dtype == np.int32
    part.indices[0, 0] = 69_999
    features = np.random.default_rng(0).normal(size=(2, 70_000)).astype(np.float32)
    (moved,), _ = move([part])
    assert_allclose(
        triton_.scores(torch.from_numpy(features), [moved]),
        reference.scores(features, [part]),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("layout", ["grouped", "dense"])
@interpreted
def test_bfloat16_products_round_the_features_and_nothing_else(layout):
    part, _ = make(layout, "float8")
    features, _ = make_batch(4, LAYOUTS[layout][1], part.n_labels)
    rounded = low_precision.decode(low_precision.encode(features, "bfloat16"), "bfloat16")
    assert np.abs(rounded - features).max() > 1e-3
    (moved,), _ = move([part])
    # "auto" is "bf16" here
    got = triton_.scores(torch.from_numpy(features), [moved])
    assert_allclose(got, reference.scores(rounded, [part]), rtol=1e-5, atol=5e-6)
    dmargins = np.random.default_rng(1).normal(size=(4, part.n_labels)).astype(np.float32)
    coarse = low_precision.decode(low_precision.encode(dmargins, "bfloat16"), "bfloat16")
    gradient = triton_.grad_weights(torch.from_numpy(features), torch.from_numpy(dmargins), moved)
    expected = reference.grad_weights(rounded, coarse, part)
    assert_allclose(gradient, expected, rtol=1e-5, atol=5e-6)
    gradient = triton_.grad_features(torch.from_numpy(dmargins), moved, features.shape[1])
    expected = reference.grad_features(coarse, part, features.shape[1])
    assert_allclose(gradient, expected, rtol=1e-5, atol=5e-6)


# --- training step --------------------------------------------------------------------------------

STEPS = [
    ("fixed", "float32", "squared_hinge", SGD),
    ("fixed", "bfloat16", "bce", MOMENTUM),
    ("fixed", "float8", "bce", ADAM),
    ("grouped", "float32", "bce", ADAM),
    ("grouped", "bfloat16", "squared_hinge", SGD),
    ("grouped", "float8", "squared_hinge", MOMENTUM),
    ("dense", "float32", "bce", MOMENTUM),
    ("dense", "bfloat16", "squared_hinge", ADAM),
    ("dense", "float8", "bce", SGD),
]


@pytest.mark.parametrize(("layout", "precision", "loss", "optimizer"), STEPS)
@interpreted
def test_training_step_matches_the_reference(layout, precision, loss, optimizer):
    n_compensated = 0 if precision == "float32" else 4
    part, state = make(layout, precision, optimizer, n_compensated)
    other, other_state = make((3, 13, 2, 1), precision, optimizer, seed=1)
    n_labels = part.n_labels + 3
    weight = np.linspace(0.5, 3.0, n_labels, dtype=np.float32)
    if optimizer.name == "adam":
        state.second[:] = 0.01
        state.momentum[:] = 0.1
    mine, got, true, expected = step_both(
        *make_batch(5, 13, n_labels),
        *([part, other], [state, other_state], Loss(loss, weight), optimizer),
    )
    assert_allclose(mine.loss, true.loss, rtol=1e-5)
    assert_allclose(mine.grad_features, true.grad_features, rtol=1e-4, atol=1e-5)
    assert_states_close(got, expected, precision)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM, ADAM], ids=["sgd", "momentum", "adam"])
@interpreted
def test_all_training_steps_match_the_reference(layout, precision, loss, optimizer):
    test_training_step_matches_the_reference.__wrapped__(layout, precision, loss, optimizer)


def exact_batch(n_rows, n_inputs, part, seed):
    """Numbers whose sums and products are exact in float32, so that gradients are equal."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (n_rows, n_inputs)).astype(np.float32)
    targets = sp.csr_array((rng.random((n_rows, part.n_labels)) < 0.3).astype(np.uint8))
    weights = rng.integers(-6, 7, part.weights.shape) / 8
    part.weights[:] = low_precision.encode(weights, part.precision)
    part.bias[:] = rng.integers(-8, 9, part.n_labels) / 8
    return features, targets


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
@interpreted
def test_low_precision_update_is_that_of_the_reference_bit_for_bit(layout, precision):
    optimizer = Optimizer("sgd", 2.0**-9 * 1.1)
    part, state = make(layout, precision, optimizer, n_compensated=5)
    state.compensation[:] = low_precision.encode(
        np.full(state.compensation.shape, 0.003), low_precision.COMPENSATION[precision]
    )
    features, targets = exact_batch(4, 13, part, seed=2)
    before = part.weights.copy()
    mine, got, true, expected = step_both(
        features, targets, [part], [state], SQUARED_HINGE, optimizer
    )
    ((got_part, got_state),) = got
    ((true_part, true_state),) = expected
    assert np.mean(true_part.weights != before) > 0.1  # there was something to round
    assert_array_equal(got_part.weights, true_part.weights)
    assert_array_equal(got_state.compensation, true_state.compensation)
    assert_array_equal(got_part.bias, true_part.bias)
    assert mine.loss == true.loss
    assert_array_equal(mine.grad_features, true.grad_features)


@pytest.mark.parametrize("layout", LAYOUTS)
@interpreted
def test_slices_change_nothing_but_the_order_of_sums(layout):
    # The numbers are exact, so the order does not matter, and bits show any wrong offset.
    optimizer = Optimizer("sgd", 2.0**-9 * 1.1)
    part, state = make(layout, "bfloat16", optimizer, n_compensated=6)
    features, targets = exact_batch(4, 13, part, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_, "SLICE_LABELS", 8 if layout == "grouped" else 4)
        patch.setattr(triton_, "DENSE_SHARE", 3)
        patch.setattr(triton_, "_DENSE_GROUP", 4)
        mine, got, true, expected = step_both(
            features, targets, [part], [state], SQUARED_HINGE, optimizer
        )
        (moved,), _ = move([part])
        scores = triton_.scores(torch.from_numpy(features), [moved], dot="ieee")
    assert_array_equal(got[0][0].weights, expected[0][0].weights)
    assert_array_equal(got[0][1].compensation, expected[0][1].compensation)
    assert_array_equal(mine.grad_features, true.grad_features)
    assert mine.loss == true.loss
    assert_array_equal(scores, reference.scores(features, [part]))


@pytest.mark.parametrize("layout", ["fixed", "grouped"])
@interpreted
def test_labels_without_gradient_stay_as_they_are(layout):
    part, state = make(layout, "bfloat16", SGD)
    part.bias[:] = -1e4  # easy negatives in every row ...
    part.bias[3] = 0  # ... but one
    features, _ = make_batch(3, 13, part.n_labels)
    targets = sp.csr_array((3, part.n_labels), dtype=np.uint8)
    mine, got, true, expected = step_both(features, targets, [part], [state], SQUARED_HINGE, SGD)
    assert_array_equal(got[0][0].weights, expected[0][0].weights)
    changed = (got[0][0].weights != part.weights).any(axis=1)
    assert_array_equal(np.flatnonzero(changed), [3])
    assert_allclose(mine.grad_features, true.grad_features, rtol=1e-5, atol=1e-6)
    assert_allclose(mine.loss, true.loss, rtol=1e-6)


@interpreted
def test_extreme_margins():
    part, state = make("fixed", "float32", SGD)
    part.bias[:4] = [100, -100, 30, -30]
    features, targets = make_batch(3, 13, part.n_labels)
    mine, got, true, expected = step_both(features, targets, [part], [state], Loss("bce"), SGD)
    assert_allclose(mine.loss, true.loss, rtol=1e-6)
    assert_states_close(got, expected, "float32")
    # tiny losses are summed, not lost in 1 + exp(z)
    part.bias[:] = -18
    part.weights[:] = 0
    targets = sp.csr_array(targets.shape, dtype=np.uint8)
    mine, _, true, _ = step_both(features, targets, [part], [state], Loss("bce"), SGD)
    assert 0 < true.loss < 1e-6
    assert_allclose(mine.loss, true.loss, rtol=1e-5)


@interpreted
def test_nan_is_seen():
    for loss in ("squared_hinge", "bce"):
        part, state = make("fixed", "float32", SGD)
        features, targets = make_batch(3, 13, part.n_labels)
        part.weights[2, 0] = np.nan
        tensors, states = move([part], [state])
        result = triton_.train_step(
            *(torch.from_numpy(features), targets, tensors, states, Loss(loss), SGD, 0, 0)
        )
        assert np.isnan(result.loss)
        assert tensors[0].weights[2].isnan().all()
        assert not tensors[0].weights[3].isnan().any()


@interpreted
def test_frozen_biases_and_no_positives():
    optimizer = SGD._replace(train_bias=False)
    part, state = make("fixed", "float32", optimizer)
    features, _ = make_batch(3, 13, part.n_labels)
    targets = sp.csr_array((3, part.n_labels), dtype=np.uint8)
    mine, got, true, expected = step_both(
        features, targets, [part], [state], SQUARED_HINGE, optimizer
    )
    assert_array_equal(got[0][0].bias, part.bias)
    assert_states_close(got, expected, "float32")
    assert_allclose(mine.loss, true.loss, rtol=1e-6)


@interpreted
def test_atomic_gradient_is_the_same_up_to_rounding():
    part, state = make("fixed", "bfloat16", SGD)
    batch = make_batch(5, 13, part.n_labels)
    mine, got, true, expected = step_both(
        *batch, [part], [state], SQUARED_HINGE, SGD, deterministic=False
    )
    assert_allclose(mine.grad_features, true.grad_features, rtol=1e-4, atol=1e-5)
    assert_states_close(got, expected, "bfloat16")


@interpreted
def test_new_indices_are_noticed():
    part, _ = make("fixed", "float32")
    dmargins = np.random.default_rng(1).normal(size=(3, part.n_labels)).astype(np.float32)
    (moved,), _ = move([part])
    gradient = torch.from_numpy(dmargins)
    before = triton_.grad_features(gradient, moved, 13)
    part.indices[:] = (part.indices + 1) % 13  # rewired, then copied to the device
    moved.indices.copy_(torch.from_numpy(part.indices))
    after = triton_.grad_features(gradient, moved, 13)
    assert_allclose(before.roll(1, dims=1), after, rtol=1e-5, atol=1e-6)
    assert_allclose(after, reference.grad_features(dmargins, part, 13), rtol=1e-5, atol=1e-5)


# --- answers --------------------------------------------------------------------------------------


@interpreted
def test_topk_matches_the_reference():
    rng = np.random.default_rng(0)
    part, _ = make("grouped", "float32")
    other, _ = make("fixed", "float32", seed=1)
    features, _ = exact_batch(4, 13, part, seed=0)
    part.bias[:] = 0
    part.weights[5:] = 0  # ties
    n_labels = part.n_labels + other.n_labels
    labels = rng.permutation(n_labels).astype(np.int32)
    moved, _ = move([part, other])
    patterns = [sp.csr_array(rng.random((4, n_labels)) < share) for share in (0.3, 0.4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_, "_ROWS", 3)
        patch.setattr(triton_, "SLICE_LABELS", 8)
        for k, exclude, candidates in [
            (3, None, None),
            (n_labels + 2, patterns[0], None),
            (20, None, patterns[1]),
            (5, *patterns),
        ]:
            options = {"exclude": exclude, "candidates": candidates}
            x = torch.from_numpy(features)
            got = triton_.topk(x, moved, labels, k, **options, dot="ieee")
            true = reference.topk(features, [part, other], labels, k, **options)
            assert_allclose(got.scores, true.scores, rtol=1e-5, atol=1e-6)
            assert_array_equal(got.labels, true.labels)


@pytest.mark.parametrize("layout", LAYOUTS)
@interpreted
def test_autograd_matches_the_torch_backend(layout):
    from skxmc.ops.sparse_head import torch_autograd, triton_autograd

    part, _ = make(layout, "float32")
    features, _ = make_batch(4, 13, part.n_labels)
    upstream = torch.from_numpy(
        np.random.default_rng(1).normal(size=(4, part.n_labels)).astype(np.float32)
    )
    results = []
    for module in (triton_autograd, torch_autograd):
        tensors = [
            torch.tensor(array, requires_grad=True) for array in (features, part.weights, part.bias)
        ]
        x, weights, bias = tensors
        indices = None if part.indices is None else torch.tensor(part.indices)
        margins = module.SparseLinear.apply(x, weights, indices, bias, part.group_size)
        margins.backward(upstream)
        results.append([margins.detach(), *(tensor.grad for tensor in tensors)])
    for mine, theirs in zip(*results):
        assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="float32 features"):
        triton_autograd.SparseLinear.apply(x.double(), weights, indices, bias, part.group_size)


# --- bad input ------------------------------------------------------------------------------------


def small():
    weights, indices = torch.ones(3, 2), torch.tensor([[0, 1], [1, 2], [0, 2]])
    return Part(weights, indices.to(torch.int32), torch.zeros(3), 1, "float32"), torch.ones(2, 3)


@interpreted
def test_bad_input_is_refused():
    part, features = small()
    with pytest.raises(ValueError, match="index 2; the features have 2 inputs"):
        triton_.scores(features[:, :2].contiguous(), [part])
    with pytest.raises(ValueError, match="float32 tensor with two dimensions"):
        triton_.scores(features.double(), [part])
    with pytest.raises(ValueError, match="dot must be one of"):
        triton_.scores(features, [part], dot="fp16")
    with pytest.raises(ValueError, match="weights of a part must be contiguous"):
        triton_.scores(features, [part._replace(weights=torch.ones(2, 3).T)])
    dense = part._replace(indices=None)
    with pytest.raises(ValueError, match="dense part with 2 inputs got features with 3"):
        triton_.scores(features, [dense])
    step = functools.partial(triton_.train_step, features)
    with pytest.raises(ValueError, match=r"targets must have shape \(2, 3\)"):
        step(sp.csr_array((3, 3)), [part], [State()], SQUARED_HINGE, SGD, 0, 0)
    with pytest.raises(ValueError, match="loss must be"):
        step(sp.csr_array((2, 3)), [part], [State()], Loss("hinge"), SGD, 0, 0)
    with pytest.raises(ValueError, match="optimizer must be"):
        step(sp.csr_array((2, 3)), [part], [State()], SQUARED_HINGE, Optimizer("rms", 1), 0, 0)


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the whole process interprets")
def test_without_a_gpu_the_error_says_what_to_do():
    part, features = small()
    with pytest.raises(ValueError, match=r"need arrays on a CUDA device.*another backend"):
        triton_.scores(features, [part])
