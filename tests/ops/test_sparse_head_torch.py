"""The torch backend of the sparse output layer against the NumPy reference, on the CPU."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.ops.sparse_head import reference
from skxmc.ops.sparse_head._random import random_bits, step_key
from skxmc.ops.sparse_head._types import Loss, Optimizer, State
from skxmc.ops.sparse_head.initial import initialise, new_state
from skxmc.ops.sparse_head.low_precision import COMPENSATION, decode, encode

torch = pytest.importorskip("torch")
torch_ = pytest.importorskip("skxmc.ops.sparse_head.torch_")
rounding = pytest.importorskip("skxmc.ops.sparse_head.torch_rounding")
SparseLinear = torch_.SparseLinear

# n_rows, n_labels, n_inputs, fan_in (None: dense), group_size
SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 17, 16, 5, 1),
    (33, 130, 40, 16, 1),
    (3, 17, 16, 16, 1),
    (1, 17, 20, 5, 4),
    (33, 130, 40, 16, 16),
    (3, 1, 5, 1, 8),
    (3, 17, 9, None, 1),
    (33, 130, 16, None, 1),
]
OPTIMIZERS = [
    Optimizer("sgd", 0.03125),
    Optimizer("sgd", 0.03, momentum=0.9, weight_decay=0.1),
    Optimizer("sgd", 0.03, weight_decay=0.1, train_bias=False),
    Optimizer("adam", 0.01, weight_decay=0.1, n_updates=3),
]
EPS = 2.0**-23


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[None, 1 << 12, 1])
def chunks(request, monkeypatch):
    """All labels in one chunk, in a few, or in as many as there are groups."""
    if request.param:
        monkeypatch.setattr(torch_, "_CHUNK_CPU", request.param)


def make_part(n_labels, n_inputs, fan_in, group_size, precision="float32", seed=0, dyadic=False):
    rng = np.random.default_rng(seed)
    part = initialise(n_labels, n_inputs, fan_in, group_size, precision, seed)
    bias = rng.normal(size=n_labels).astype(np.float32)
    if dyadic:  # multiples of 1/64 that every format has
        weights = rng.integers(-8, 9, part.weights.shape) / 64
        part = part._replace(weights=encode(weights, precision))
        bias = (rng.integers(-8, 4, n_labels) / 2).astype(np.float32)
    return part._replace(bias=bias)


def make_batch(n_rows, n_labels, n_inputs, seed=0, dyadic=False):
    rng = np.random.default_rng([seed, 1])
    features = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
    if dyadic:
        features = (rng.integers(-4, 5, (n_rows, n_inputs)) / 4).astype(np.float32)
    dense = rng.random((n_rows, n_labels)) < 0.1
    dense[::3] = False  # rows without a positive
    dense[-1, -1] = True
    return features, sp.csr_array(dense.astype(np.uint8))


def random_state(part, optimizer, n_compensated, seed=0):
    rng = np.random.default_rng([seed, 2])
    state = new_state(part, optimizer, n_compensated)
    for name in ("momentum", "second", "bias_momentum", "bias_second"):
        array = getattr(state, name)
        if array is not None:
            array[:] = rng.normal(size=array.shape) ** 2
    if state.compensation is not None:
        values = rng.normal(size=state.compensation.shape) * 2.0**-9
        state.compensation[:] = encode(values, COMPENSATION[part.precision])
    return state


def frozen(part):
    """A copy of the part with read-only arrays."""
    arrays = {name: np.copy(getattr(part, name)) for name in ("weights", "bias")}
    if part.indices is not None:
        arrays["indices"] = np.copy(part.indices)
    for array in arrays.values():
        array.flags.writeable = False
    return part._replace(**arrays)


def magnitudes(part):
    weights = np.abs(decode(part.weights, part.precision))
    return part._replace(weights=weights, bias=np.abs(part.bias), precision="float32")


def assert_sum(got, want, terms):
    """A float32 sum is right: `terms` is the sum of the absolute values of what is summed."""
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 8 * EPS * terms + 1e-30).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_against_reference(shape, precision, chunks):
    n_rows, n_labels, n_inputs, fan_in, group_size = shape
    part = make_part(n_labels, n_inputs, fan_in, group_size, precision)
    features, _ = make_batch(n_rows, n_labels, n_inputs)
    rng = np.random.default_rng(5)
    dmargins = rng.normal(size=(n_rows, n_labels)).astype(np.float32)
    for array in (features, dmargins):
        array.flags.writeable = False
    moved, _ = torch_.to_device(frozen(part), None, "cpu")
    size, absolute = magnitudes(part), np.abs(features)

    got = torch_.scores(features, [moved]).numpy()
    assert_sum(got, reference.scores(features, [part]), reference.scores(absolute, [size]))
    got = torch_.grad_weights(features, dmargins, moved).numpy()
    want = reference.grad_weights(features, dmargins, part)
    assert_sum(got, want, reference.grad_weights(absolute, np.abs(dmargins), part))
    got = torch_.grad_features(dmargins, moved, n_inputs).numpy()
    want = reference.grad_features(dmargins, part, n_inputs)
    assert_sum(got, want, reference.grad_features(np.abs(dmargins), size, n_inputs))
    first, stop = n_labels // 3, n_labels
    got = torch_.input_gradients(features, dmargins, moved, first, stop).numpy()
    want = reference.input_gradients(features, dmargins, part, first, stop)
    terms = reference.input_gradients(absolute, np.abs(dmargins), part, first, stop)
    assert_sum(got, want, terms)


def test_scores_of_many_rows_in_two_parts():
    parts = [make_part(7, 12, None, 1), make_part(11, 12, 5, 4, "bfloat16", seed=1)]
    features, _ = make_batch(2500, 18, 12)
    moved = [torch_.to_device(part, None, "cpu")[0] for part in parts]
    got = torch_.scores(torch.from_numpy(features), moved).numpy()
    terms = reference.scores(np.abs(features), [magnitudes(part) for part in parts])
    assert_sum(got, reference.scores(features, parts), terms)


def train_both(shape, precision, loss, optimizer, share_compensated, dyadic, n_parts=1):
    """One step of the reference and of torch; returns parts, states, results of both."""
    n_rows, n_labels, n_inputs, fan_in, group_size = shape
    layouts = [(fan_in, group_size), (None, 1)][:n_parts]
    parts, states = [], []
    for number, (part_fan_in, part_group) in enumerate(layouts):
        part = make_part(n_labels, n_inputs, part_fan_in, part_group, precision, number, dyadic)
        parts.append(part)
        n_compensated = round(share_compensated * n_labels)
        states.append(random_state(part, optimizer, n_compensated, number))
    features, targets = make_batch(n_rows, n_labels * n_parts, n_inputs, dyadic=dyadic)
    rng = np.random.default_rng(9)
    weight = rng.choice([0.5, 1.0, 4.0], n_labels * n_parts).astype(np.float32)
    loss = Loss(loss, weight if optimizer.n_updates else None)
    moved = [torch_.to_device(*pair, "cpu") for pair in zip(parts, states)]
    args = loss, optimizer, (5 << 40) + 3, 17
    want = reference.train_step(features, targets, parts, states, *args)
    features.flags.writeable = False
    t_parts, t_states = zip(*moved)
    got = torch_.train_step(features, targets, t_parts, t_states, *args)
    back = [torch_.to_numpy(*pair) for pair in moved]
    return parts, states, want, [part for part, _ in back], [state for _, state in back], got


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step_bit_for_bit(shape, precision, optimizer):
    """Margins and gradients are exact with these numbers, so all that is stored must be equal."""
    check_step_bit_for_bit(shape, precision, optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2])
@pytest.mark.parametrize("shape", SHAPES[2::3])
def test_step_bit_for_bit_in_chunks(shape, optimizer, chunks):
    check_step_bit_for_bit(shape, "float8", optimizer)


def check_step_bit_for_bit(shape, precision, optimizer):
    parts, states, want, t_parts, t_states, got = train_both(
        shape, precision, "squared_hinge", optimizer, 0.3, dyadic=True, n_parts=2
    )
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-6)
    np.testing.assert_array_equal(got.grad_features.numpy(), want.grad_features)
    for part, state, t_part, t_state in zip(parts, states, t_parts, t_states):
        assert t_part.weights.dtype == part.weights.dtype
        np.testing.assert_array_equal(
            decode(t_part.weights, precision), decode(part.weights, precision)
        )
        np.testing.assert_array_equal(t_part.bias, part.bias)
        for name, array in state._asdict().items():
            if array is None:
                assert getattr(t_state, name) is None
            elif name == "compensation":
                stored = COMPENSATION[precision]
                np.testing.assert_array_equal(
                    decode(t_state.compensation, stored), decode(array, stored)
                )
            else:
                np.testing.assert_array_equal(getattr(t_state, name), array)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize("shape", SHAPES[2::3])
def test_step_close(shape, loss, precision, optimizer):
    """With rounding in the sums: float32 close, low precision at most one neighbour away."""
    parts, states, want, t_parts, t_states, got = train_both(
        shape, precision, loss, optimizer, 0.3, dyadic=False, n_parts=2
    )
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert got.grad_features.dtype == torch.float32
    np.testing.assert_allclose(got.grad_features, want.grad_features, rtol=1e-4, atol=1e-4)
    for part, state, t_part, t_state in zip(parts, states, t_parts, t_states):
        new, old = (decode(one.weights, precision) for one in (t_part, part))
        if precision == "float32":
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
        else:
            spacing = {"bfloat16": 2.0**-7, "float8": 2.0**-3}[precision]
            apart = np.abs(new - old) / np.maximum(spacing * np.abs(old), 2.0**-9)
            assert apart.max() <= 1.001
            assert (new == old).mean() > 0.98
        np.testing.assert_allclose(t_part.bias, part.bias, rtol=1e-5, atol=1e-5)
        if state.momentum is not None:
            np.testing.assert_allclose(t_state.momentum, state.momentum, rtol=1e-4, atol=1e-4)
        if state.second is not None:
            np.testing.assert_allclose(t_state.second, state.second, rtol=1e-4, atol=1e-4)


def test_bad_input():
    part = make_part(7, 12, 4, 4)
    moved, state = torch_.to_device(part, new_state(part, OPTIMIZERS[0]), "cpu")
    dense, _ = torch_.to_device(make_part(7, 12, None, 1), None, "cpu")
    features, targets = make_batch(3, 7, 12)
    ids = np.arange(7)

    def step(features, targets, parts, optimizer=OPTIMIZERS[0], weight=None):
        loss = Loss("bce", weight)
        torch_.train_step(features, targets, parts, [state], loss, optimizer, 0, 0)

    wrong = [
        ("at least one part", lambda: torch_.scores(features, [])),
        ("features must have the shape", lambda: torch_.scores(features[0], [moved])),
        ("12 inputs, but features has 5", lambda: torch_.scores(features[:, :5], [moved, dense])),
        ("dmargins must have", lambda: torch_.grad_weights(features, np.ones((3, 6)), moved)),
        ("dmargins must have", lambda: torch_.grad_weights(features, np.ones((2, 7)), moved)),
        ("dmargins must have", lambda: torch_.grad_features(np.ones((2, 8)), moved, 12)),
        ("targets must have the shape", lambda: step(features, targets[:2], [moved])),
        ("one value for each of the 7", lambda: step(features, targets, [moved], weight=ids[1:])),
        ("needs the state 'momentum'", lambda: step(features, targets, [moved], OPTIMIZERS[1])),
        ("needs the state 'momentum'", lambda: step(features, targets, [moved], OPTIMIZERS[3])),
        ("permutation", lambda: torch_.topk(features, [moved], ids * 0, 2)),
        ("exclude must", lambda: torch_.topk(features, [moved], ids, 2, exclude=targets[:2])),
        ("candidates must", lambda: torch_.topk(features, [moved], ids, 2, candidates=targets.T)),
    ]
    for message, call in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="targets must be a scipy sparse"):
        step(features, targets.toarray(), [moved])
    np.testing.assert_array_equal(moved.weights, part.weights)  # nothing was changed


def test_unknown_loss_and_optimizer():
    part, state = torch_.to_device(make_part(3, 4, 2, 1), State(), "cpu")
    features, targets = make_batch(2, 3, 4)
    arguments = features, targets, [part], [state]
    sgd, unknown = OPTIMIZERS[0], Optimizer("lbfgs", 0.1)
    with pytest.raises(ValueError, match="loss must be"):
        torch_.train_step(*arguments, Loss("hinge"), sgd, 0, 0)
    with pytest.raises(ValueError, match="optimizer must be"):
        torch_.train_step(*arguments, Loss("bce"), unknown, 0, 0)


def test_positive_weight_as_tensor():
    part = make_part(7, 12, 4, 4)
    features, targets = make_batch(3, 7, 12)
    weight = np.linspace(0.5, 3, 7, dtype=np.float32)
    results = []
    for given in (weight, torch.from_numpy(weight)):
        moved, state = torch_.to_device(part, new_state(part, OPTIMIZERS[0]), "cpu")
        args = Loss("bce", given), OPTIMIZERS[0], 0, 0
        loss = torch_.train_step(torch.from_numpy(features), targets, [moved], [state], *args).loss
        results.append((loss, moved.weights.numpy()))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize(("fan_in", "group_size"), [(16, 1), (16, 16), (None, 1)])
def test_easy_negatives_are_not_updated(monkeypatch, fan_in, group_size):
    """With squared hinge and plain SGD only labels (groups) with a gradient are touched."""
    part = make_part(96, 40, fan_in, group_size)
    part.bias[:] = -100.0
    part.bias[40] = 0.0
    features, _ = make_batch(5, 96, 40)
    updated = []
    original = torch_.update_weights

    def record(part, state, labels, *args):
        updated.extend(np.arange(96)[labels if isinstance(labels, slice) else labels.numpy()])
        original(part, state, labels, *args)

    monkeypatch.setattr(torch_, "update_weights", record)
    moved, state = torch_.to_device(part, new_state(part, OPTIMIZERS[0]), "cpu")
    targets = sp.csr_array((5, 96), dtype=np.uint8)
    args = Loss("squared_hinge"), OPTIMIZERS[0], 0, 0
    torch_.train_step(features, targets, [moved], [state], *args)
    assert updated == (list(range(32, 48)) if group_size == 16 else [40])
    changed = np.flatnonzero((moved.weights.numpy() != part.weights).any(axis=1))
    np.testing.assert_array_equal(changed, [40])


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the bytes of the largest memory that an operation returns, but that of the layer."""

    def __init__(self, part, state):
        super().__init__()
        tensors = [one for one in (*part, *state) if isinstance(one, torch.Tensor)]
        self._known = {one.untyped_storage().data_ptr() for one in tensors}
        self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self.n_bytes = max(self.n_bytes, storage.nbytes())
        return out


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[0], OPTIMIZERS[3]])
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize(("fan_in", "group_size"), [(16, 1), (16, 16), (None, 1)])
def test_no_margins_and_no_gradient_of_all_labels(fan_in, group_size, loss, optimizer, monkeypatch):
    monkeypatch.setattr(torch_, "_CHUNK_CPU", 1 << 16)
    n_rows, n_labels, n_inputs = 32, 6000, 24
    part = make_part(n_labels, n_inputs, fan_in, group_size, "bfloat16")
    features, _ = make_batch(n_rows, 10, n_inputs)
    targets = sp.random_array((n_rows, n_labels), density=1e-3, format="csr", rng=0)
    moved, state = torch_.to_device(part, new_state(part, optimizer), "cpu")

    with LargestTensor(moved, state) as probe:
        torch_.grad_weights(features, np.ones((n_rows, n_labels), np.float32), moved)
    assert probe.n_bytes == 4 * n_rows * n_labels  # the probe sees what there is
    with LargestTensor(moved, state) as probe:
        args = Loss(loss), optimizer, 0, 0
        torch_.train_step(features, targets, [moved], [state], *args)
    assert 10_000 < probe.n_bytes <= 4 << 16  # the chunk
    assert probe.n_bytes < 4 * n_rows * n_labels
    assert probe.n_bytes < 4 * part.weights.size


def test_same_bits_in_any_run_with_any_threads():
    def run(n_threads):
        torch.set_num_threads(n_threads)
        out = []
        for shape in SHAPES[2:9:3]:
            args = "bfloat16", "squared_hinge", OPTIMIZERS[0], 0.3, False
            *_, parts, states, result = train_both(shape, *args)
            arrays = [parts[0].weights, parts[0].bias, states[0].compensation]
            out += [*arrays, result.grad_features.numpy(), np.float64(result.loss)]
        return out

    first, again, two = run(1), run(1), run(2)
    for one, other, third in zip(first, again, two):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_round_trip():
    for precision, fan_in in itertools.product(["float32", "bfloat16", "float8"], [3, None]):
        part = make_part(9, 11, fan_in, 2 if fan_in else 1, precision)
        for optimizer in OPTIMIZERS:
            state = random_state(part, optimizer, 4)
            moved, moved_state = torch_.to_device(frozen(part), state, "cpu")
            assert moved.weights.dtype == getattr(
                torch, {"float8": "float8_e4m3fn"}.get(precision, precision)
            )
            assert moved.indices is None or moved.indices.dtype == torch.uint16
            back, back_state = torch_.to_numpy(moved, moved_state)
            for array, copy in zip((*part, *state), (*back, *back_state)):
                assert np.asarray(array).dtype == np.asarray(copy).dtype
                np.testing.assert_array_equal(array, copy)
            moved.weights.zero_()  # a copy: the NumPy arrays stay as they are
            np.testing.assert_array_equal(back.weights, part.weights)
    assert torch_.to_numpy(moved)[1] is None


def test_wide_inputs():
    """More than 65,536 inputs: indices of 4 bytes, and the order of torch's sort."""
    part = make_part(40, 70_000, 30, 1, dyadic=True)
    assert part.indices.dtype == np.int32
    moved, _ = torch_.to_device(part, None, "cpu")
    dmargins = (np.random.default_rng(0).integers(-8, 9, (3, 40)) / 4).astype(np.float32)
    np.testing.assert_array_equal(
        torch_.grad_features(dmargins, moved, 70_000),
        reference.grad_features(dmargins, part, 70_000),
    )
    small = make_part(40, 300, 30, 1, dyadic=True)
    for n_inputs in (65_536, 65_537):  # either way of sorting
        last = small._replace(indices=small.indices.astype(np.int32) + (n_inputs - 300))
        moved, _ = torch_.to_device(last, None, "cpu")
        np.testing.assert_array_equal(
            torch_.grad_features(dmargins, moved, n_inputs)[:, n_inputs - 300 :],
            reference.grad_features(dmargins, small, 300),
        )


# ------------------------------------------------------------------------------- low precision


def special_floats():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    sizes = (rng.normal(size=200_000) * 10.0 ** rng.uniform(-5, 3, 200_000)).astype(np.float32)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 448.0, 447.9, 464.0, 2.0**-6, 2.0**-9, 2.0**-10]
    edges += [np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45, 57344.0, 61440.0]
    return np.concatenate([patterns, sizes, np.array(edges, dtype=np.float32)])


def assert_same_codes(got, want):
    got = got.view({1: torch.uint8, 2: torch.int16}[got.itemsize]).numpy().view(want.dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
@pytest.mark.parametrize("extreme", [None, 0, 0xFFFFFFFF])
def test_stochastic_rounding_bit_for_bit(precision, extreme):
    values = special_floats()
    bits = np.random.default_rng(1).integers(0, 2**32, len(values), dtype=np.uint32)
    if extreme is not None:
        bits[:] = extreme
    got = rounding.round_stochastic(
        torch.from_numpy(values), precision, torch.from_numpy(bits.view(np.int32))
    )
    assert_same_codes(got, encode(values, precision, bits))


def test_nearest_rounding_bit_for_bit():
    values = special_floats()
    got = rounding.round_nearest(torch.from_numpy(values))
    is_nan = np.isnan(values)
    assert got.to(torch.float32).isnan().numpy()[is_nan].all()
    got = got[torch.from_numpy(~is_nan)]
    assert_same_codes(got, encode(values[~is_nan], "bfloat16"))


@pytest.mark.parametrize(("first", "fan_in"), [(0, 1), (0, 5), (2**26 - 20, 64), (2**27, 64)])
def test_random_bits(first, fan_in):
    key = step_key((77 << 32) + 12345, 6, 1)
    labels = np.arange(first, first + 50)
    got = rounding.random_bits(key, torch.from_numpy(labels), fan_in, first + 50)
    want = random_bits(key, labels[:, None] * fan_in + np.arange(fan_in))
    np.testing.assert_array_equal(got.numpy().view(np.uint32), want)


# ------------------------------------------------------------------------------- top k


def make_ties(n_rows=33, n_labels=130, seed=0):
    """Two parts whose margins are integers from -3 to 3, and a permutation of the labels."""
    rng = np.random.default_rng(seed)
    cut = n_labels // 3
    parts = []
    for n, fan_in, group_size in [(cut, None, 1), (n_labels - cut, 2, 4)]:
        part = initialise(n, 6, fan_in, group_size, "bfloat16")
        weights = rng.integers(-1, 2, part.weights.shape) * (rng.random(part.weights.shape) < 0.5)
        part = part._replace(weights=encode(weights, "bfloat16"))
        parts.append(part._replace(bias=np.where(rng.random(n) < 0.5, 0.0, -0.0).astype("f4")))
    features = rng.integers(-1, 2, (n_rows, 6)).astype(np.float32)
    return features, parts, rng.permutation(n_labels).astype(np.int32)


def pattern(n_rows, n_labels, density, seed):
    dense = np.random.default_rng(seed).random((n_rows, n_labels)) < density
    dense[0] = False
    dense[1:2] = True
    return sp.csr_array(dense.astype(np.uint8))


@pytest.mark.parametrize("k", [1, 5, 130, 200])
@pytest.mark.parametrize("with_exclude", [False, True])
@pytest.mark.parametrize("with_candidates", [False, True])
def test_topk(k, with_exclude, with_candidates, chunks):
    features, parts, labels = make_ties()
    options = {
        "exclude": pattern(33, 130, 0.3, 1) if with_exclude else None,
        "candidates": pattern(33, 130, 0.1, 2) if with_candidates else None,
    }
    want = reference.topk(features, parts, labels, k, **options)
    moved = [torch_.to_device(part, None, "cpu")[0] for part in parts]
    labels.flags.writeable = features.flags.writeable = False
    got = torch_.topk(features, moved, labels, k, **options)
    assert got.labels.dtype == np.int32
    assert got.scores.dtype == np.float32
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_array_equal(got.scores, want.scores)


def test_topk_of_real_margins_are_the_scores(chunks):
    parts = [make_part(50, 20, 6, 1), make_part(61, 20, 6, 8, "float8", seed=1)]
    features, _ = make_batch(3, 111, 20)
    labels = np.random.default_rng(3).permutation(111)
    moved = [torch_.to_device(part, None, "cpu")[0] for part in parts]
    best = torch_.topk(features, moved, labels, 10)
    margins = np.empty((3, 111), dtype=np.float32)
    margins[:, labels] = torch_.scores(features, moved)
    np.testing.assert_array_equal(best.labels, np.argsort(-margins, axis=1)[:, :10])
    np.testing.assert_array_equal(best.scores, -np.sort(-margins, axis=1)[:, :10])


def test_topk_in_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(torch_, "_ROWS", 10)
    features, parts, labels = make_ties()
    moved = [torch_.to_device(part, None, "cpu")[0] for part in parts]
    options = {"exclude": pattern(33, 130, 0.3, 1), "candidates": pattern(33, 130, 0.4, 2)}
    want = reference.topk(features, parts, labels, 7, **options)
    got = torch_.topk(features, moved, labels, 7, **options)
    np.testing.assert_array_equal(got.labels, want.labels)
    features[23, 0] = np.nan
    with pytest.raises(ValueError, match="row 23 holds NaN"):
        torch_.topk(features, moved, labels, 7)


def test_topk_refuses_bad_k():
    features, parts, labels = make_ties()
    moved = [torch_.to_device(part, None, "cpu")[0] for part in parts]
    with pytest.raises(ValueError, match="at least 1"):
        torch_.topk(features, moved, labels, 0)


def test_topk_of_infinite_margins():
    part = make_part(6, 4, 2, 1)
    part.bias[:] = [np.inf, -np.inf, 0.0, np.inf, -np.inf, -np.inf]
    features, _ = make_batch(2, 6, 4)
    got = torch_.topk(features, [torch_.to_device(part, None, "cpu")[0]], np.arange(6), 5)
    assert got.labels.tolist() == [[0, 3, 2, -1, -1]] * 2
    assert (got.scores[:, 3:] == -np.inf).all()


# ------------------------------------------------------------------------------- autograd

AUTOGRAD_SHAPES = [
    (3, 7, 5, 2, 1),
    (1, 1, 1, 1, 1),
    (4, 8, 6, 3, 4),
    (3, 7, 6, 3, 4),
    (2, 5, 4, 0, 1),
]


def autograd_arguments(shape, dtype, seed=0):
    n_rows, n_labels, n_inputs, fan_in, group_size = shape
    generator = torch.Generator().manual_seed(seed)
    indices = None
    if fan_in:
        n_groups = -(-n_labels // group_size)
        rows = [torch.randperm(n_inputs, generator=generator)[:fan_in] for _ in range(n_groups)]
        indices = torch.stack(rows)
    features = torch.randn(n_rows, n_inputs, dtype=dtype, generator=generator)
    weights = torch.randn(n_labels, fan_in or n_inputs, dtype=dtype, generator=generator)
    bias = torch.randn(n_labels, dtype=dtype, generator=generator)
    for tensor in (features, weights, bias):
        tensor.requires_grad_()
    return features, weights, indices, bias, group_size


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("shape", AUTOGRAD_SHAPES)
def test_gradcheck(shape, block, monkeypatch):
    monkeypatch.setattr("skxmc.ops.sparse_head.torch_autograd._BLOCK", block)
    features, weights, indices, bias, size = autograd_arguments(shape, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *inputs: SparseLinear.apply(inputs[0], inputs[1], indices, inputs[2], size),
        (features, weights, bias),
    )
    assert torch.autograd.gradcheck(
        lambda *inputs: SparseLinear.apply(inputs[0], inputs[1], indices, None, size),
        (features, weights),
    )


@pytest.mark.parametrize("index_type", [torch.uint16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", AUTOGRAD_SHAPES)
def test_autograd_against_dense_linear(shape, index_type):
    features, weights, indices, bias, size = autograd_arguments(shape, torch.float64)
    inputs = None if indices is None else indices.to(index_type)
    margins = SparseLinear.apply(features, weights, inputs, bias, size)
    upstream = torch.randn(margins.shape, dtype=torch.float64)
    got = torch.autograd.grad(margins, (features, weights, bias), upstream)

    dense = weights
    if indices is not None:
        each = indices.repeat_interleave(size, dim=0)[: len(weights)]
        dense = torch.zeros(len(weights), features.shape[1], dtype=torch.float64)
        dense = dense.scatter(1, each, weights)
    want = torch.nn.functional.linear(features, dense, bias)
    torch.testing.assert_close(margins, want)
    want = torch.autograd.grad(want, (features, weights, bias), upstream)
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other)


def test_autograd_of_low_precision():
    """Weights in bfloat16 are widened; their gradient comes back in bfloat16."""
    features, weights, indices, bias, size = autograd_arguments((3, 7, 6, 3, 4), torch.float32)
    low = weights.detach().to(torch.bfloat16).requires_grad_()
    wide = low.detach().to(torch.float32).requires_grad_()
    margins = SparseLinear.apply(features, low, indices, bias, size)
    want = SparseLinear.apply(features, wide, indices, bias, size)
    assert margins.dtype == torch.float32
    torch.testing.assert_close(margins, want, rtol=0, atol=0)
    margins.sum().backward()
    want.sum().backward()
    assert low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(low.grad, wide.grad.to(torch.bfloat16), rtol=0, atol=0)


def test_autograd_trains():
    """A torch optimiser on SparseLinear does what the chunked step does."""
    part = make_part(17, 12, 4, 4)
    features, targets = make_batch(6, 17, 12)
    rate = Optimizer("sgd", 0.01)
    moved, state = torch_.to_device(part, new_state(part, rate), "cpu")
    weights, bias = (tensor.clone().requires_grad_() for tensor in (moved.weights, moved.bias))
    inputs = torch.from_numpy(features).requires_grad_()
    margins = SparseLinear.apply(inputs, weights, moved.indices, bias, 4)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        margins, torch.from_numpy(targets.toarray()).float(), reduction="sum"
    )
    loss.backward()
    result = torch_.train_step(features, targets, [moved], [state], Loss("bce"), rate, 0, 0)
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(result.grad_features, inputs.grad)
    torch.testing.assert_close(moved.weights, (weights - 0.01 * weights.grad).detach())
    torch.testing.assert_close(moved.bias, (bias - 0.01 * bias.grad).detach())
