"""The compiled sparse output layer against the reference in NumPy."""

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.ops.sparse_head import _kernels, numba_, reference
from skxmc.ops.sparse_head._types import Loss, Optimizer, Part, State
from skxmc.ops.sparse_head.initial import initialise, new_state
from skxmc.ops.sparse_head.low_precision import COMPENSATION, decode, encode

BCE = Loss("bce")
SGD = Optimizer("sgd", learning_rate=0.01)
OPTIMIZERS = {
    "sgd": SGD,
    "momentum": Optimizer("sgd", learning_rate=0.01, momentum=0.9, weight_decay=0.1),
    "adam": Optimizer("adam", learning_rate=0.01, n_updates=3, weight_decay=0.01),
}
# name -> (group size, fan-in or None) of each part
LAYOUTS = {
    "fixed": [(1, 16)],
    "group 3": [(3, 16)],
    "group 16": [(16, 16)],
    "group 32": [(32, 16)],
    "dense": [(1, None)],
    "dense and group": [(1, None), (4, 16)],
}


def make_layer(n_labels, n_inputs, layout, precision="float32", seed=0):
    rng = np.random.default_rng(seed)
    sizes = [n_labels] if len(layout) == 1 else [n_labels // 4, n_labels - n_labels // 4]
    return tuple(
        initialise(
            *(size, n_inputs, fan_in, group_size, precision, seed + number),
            bias=rng.normal(size=size),
        )
        for number, (size, (group_size, fan_in)) in enumerate(zip(sizes, layout, strict=True))
    )


def copy_layer(parts, states=()):
    parts = tuple(
        part._replace(weights=part.weights.copy(), bias=part.bias.copy()) for part in parts
    )
    states = tuple(
        State(*(None if array is None else array.copy() for array in state)) for state in states
    )
    return parts, states


def make_batch(n_rows, n_inputs, n_labels, density=0.1, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
    positive = rng.random((n_rows, n_labels)) < density
    positive[::3] = False  # rows without any
    return features, sp.csr_array(positive)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def assert_same_step(layer, batch, loss, optimizer, n_compensated=0, warm=True, **options):
    """A step, after another one with the reference, changes all arrays as the reference does."""
    features, targets = batch
    states = tuple(new_state(part, optimizer, min(n_compensated, part.n_labels)) for part in layer)
    if warm:
        reference.train_step(features, targets, layer, states, loss, optimizer, 5, 1)
    expected_layer, expected_states = copy_layer(layer, states)
    expected = reference.train_step(
        features, targets, expected_layer, expected_states, loss, optimizer, 1 << 40, 2
    )
    result = numba_.train_step(
        features, targets, layer, states, loss, optimizer, 1 << 40, 2, **options
    )
    assert result.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(result.grad_features, expected.grad_features, rtol=1e-4, atol=1e-4)
    for part, right in zip(layer, expected_layer, strict=True):
        if part.precision == "float32":
            np.testing.assert_allclose(part.weights, right.weights, rtol=1e-4, atol=2e-5)
        else:
            # A gradient that differs in its last bits may fall on the other side of the random
            # threshold; that is rare.
            assert np.mean(part.weights != right.weights) < 0.01
            close(decode(part.weights, part.precision), decode(right.weights, part.precision))
        np.testing.assert_allclose(part.bias, right.bias, rtol=1e-4, atol=2e-5)
    for part, state, right in zip(layer, states, expected_states, strict=True):
        for field, array in state._asdict().items():
            expected_array = getattr(right, field)
            if field == "compensation" and array is not None:
                stored = COMPENSATION[part.precision]
                close(decode(array, stored), decode(expected_array, stored))
            elif array is not None:
                np.testing.assert_allclose(array, expected_array, rtol=1e-4, atol=2e-5)


def close(numbers, expected):
    """All but few agree, and these differ by a last place of float8."""
    different = ~np.isclose(numbers, expected, rtol=0.02, atol=1e-5)
    assert different.mean() < 0.02
    np.testing.assert_allclose(numbers, expected, rtol=0.2, atol=0.02)


# ---------------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_labels", [4, 17, 130])
@pytest.mark.parametrize("n_rows", [1, 3, 16, 33, 150])
def test_scores_and_gradients(layout, n_labels, n_rows):
    layer = make_layer(n_labels, 64, LAYOUTS[layout])
    features, _ = make_batch(n_rows, 64, n_labels)
    np.testing.assert_allclose(
        numba_.scores(features, layer), reference.scores(features, layer), rtol=1e-5, atol=1e-5
    )
    for part in layer:
        rng = np.random.default_rng(1)
        dmargins = rng.normal(size=(n_rows, part.n_labels)).astype(np.float32)
        dmargins[rng.random(dmargins.shape) < 0.5] = 0
        weights, inputs = numba_.gradients(features, dmargins, part)
        expected = reference.grad_weights(features, dmargins, part)
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(numba_.grad_weights(features, dmargins, part), weights)
        expected = reference.grad_features(dmargins, part, 64)
        np.testing.assert_allclose(inputs, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(numba_.grad_features(dmargins, part, 64), inputs)
        np.testing.assert_allclose(
            numba_.input_gradients(features, dmargins, part, 1, part.n_labels),
            reference.input_gradients(features, dmargins, part, 1, part.n_labels),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("group_size", [3, 8, 12, 16, 20, 40])
@pytest.mark.parametrize("n_rows", [1, 70, 200])
@pytest.mark.parametrize("fan_in", [16, 20])
def test_gradients_where_some_labels_and_rows_have_none(group_size, n_rows, fan_in):
    """With small integers all sums are exact: every number of labels and rows, bit by bit."""
    rng = np.random.default_rng(group_size)
    n_labels = 2 * group_size * group_size + 1  # the last group is not full
    (part,) = make_layer(n_labels, 50, [(group_size, fan_in)])
    part.weights[:] = rng.integers(-4, 5, size=part.weights.shape)
    features = rng.integers(-4, 5, size=(n_rows, 50)).astype(np.float32)
    dmargins = rng.integers(-4, 5, size=(n_rows, n_labels)).astype(np.float32)
    for group in range(2 * group_size):  # 1, 2, ... labels of a group, from anywhere in it
        members = group * group_size + rng.permutation(group_size)
        dmargins[:, members[group % group_size + 1 :]] = 0
        first = 16 * rng.integers(1 + n_rows // 16)
        dmargins[first : first + 16, members] = 0  # and 16 rows less
    weights, inputs = numba_.gradients(features, dmargins, part, n_jobs=2)
    np.testing.assert_array_equal(weights, reference.grad_weights(features, dmargins, part))
    np.testing.assert_array_equal(inputs, reference.grad_features(dmargins, part, 50))


@pytest.mark.parametrize("fan_in", [1, 5, 16, 64, None])
@pytest.mark.parametrize("n_labels", [1, 17])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("group_size", [1, 3, 16])
def test_fan_in_and_precision(fan_in, n_labels, precision, group_size):
    layer = make_layer(n_labels, 64, [(group_size, fan_in)], precision)
    batch = make_batch(33, 64, n_labels)
    np.testing.assert_allclose(
        numba_.scores(batch[0], layer), reference.scores(batch[0], layer), rtol=1e-5, atol=1e-5
    )
    assert_same_step(layer, batch, Loss("squared_hinge"), SGD, n_compensated=n_labels // 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
def test_train_step(layout, loss, optimizer, precision):
    layer = make_layer(130, 64, LAYOUTS[layout], precision)
    weight = np.random.default_rng(2).uniform(0.5, 3, size=130).astype(np.float32)
    assert_same_step(
        *(layer, make_batch(33, 64, 130), Loss(loss, weight), OPTIMIZERS[optimizer]),
        n_compensated=20,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
def test_equal_gradients_give_equal_bits(layout, optimizer, precision):
    """With numbers that make all sums exact, weights, moments and compensation agree bit by bit."""
    rng = np.random.default_rng(4)
    layer = make_layer(130, 20, [(g, 9 if f else None) for g, f in LAYOUTS[layout]], precision)
    for part in layer:
        values = rng.integers(-4, 5, size=part.weights.shape) / np.float32(8)
        part.weights[:] = encode(values.astype("f4"), precision)
        part.bias[:] = rng.integers(-4, 5, size=part.n_labels) / 4
    features = (rng.integers(-4, 5, size=(33, 20)) / 4).astype(np.float32)
    targets = sp.csr_array(rng.random((33, 130)) < 0.2)
    loss, optimizer = Loss("squared_hinge", np.full(130, 2, "f4")), OPTIMIZERS[optimizer]
    states = tuple(new_state(part, optimizer, 10) for part in layer)
    for part, state in zip(layer, states, strict=True):
        if state.compensation is not None:
            lost = rng.normal(size=state.compensation.shape).astype("f4") / 100
            state.compensation[:] = encode(lost, COMPENSATION[part.precision])
    expected_layer, expected_states = copy_layer(layer, states)
    arguments = loss, optimizer, (1 << 33) + 7, 9
    expected = reference.train_step(features, targets, expected_layer, expected_states, *arguments)
    result = numba_.train_step(features, targets, layer, states, *arguments)
    assert result.loss == expected.loss
    np.testing.assert_array_equal(result.grad_features, expected.grad_features)
    for got, right in zip((*layer, *states), (*expected_layer, *expected_states), strict=True):
        for array, right_array in zip(got, right, strict=True):
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(array, right_array)


@pytest.mark.parametrize("n_rows", [1, 3, 16, 130, 200])
@pytest.mark.parametrize("group_size", [1, 16])
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_train_step_batches(n_rows, group_size, density):
    layer = make_layer(40, 70, [(group_size, 20)])
    batch = make_batch(n_rows, 70, 40, density)
    assert_same_step(layer, batch, Loss("squared_hinge"), SGD)


@pytest.mark.parametrize("group_size", [1, 16])
def test_few_margins_with_gradient(group_size):
    """Nearly all negatives are beyond the margin: the paths for few labels and few rows."""
    layer = make_layer(64, 50, [(group_size, 16)])
    layer[0].bias[:] = -30
    layer[0].bias[[3, 20, 21, 22, 40]] = 0
    features, targets = make_batch(130, 50, 64, density=0.001)
    features[20:] *= 0.01
    features[:20] *= 20
    before = layer[0].weights.copy()
    assert_same_step(layer, (features, targets), Loss("squared_hinge"), SGD, warm=False)
    changed = (layer[0].weights != before).any(axis=1)
    assert 0 < changed.sum() < 64  # the others were left alone


def test_no_gradient_changes_nothing_but_what_is_compensated():
    layer = make_layer(20, 32, [(1, 8)], "bfloat16")
    layer[0].bias[:] = -100
    features, _ = make_batch(5, 32, 20)
    states = (new_state(layer[0], SGD, 4),)
    states[0].compensation[:] = encode(np.full((4, 8), 1e-3, np.float32), "bfloat16")
    before = layer[0].weights.copy()
    result = numba_.train_step(
        features, sp.csr_array((5, 20)), layer, states, Loss("squared_hinge"), SGD, 0, 0
    )
    assert result.loss == 0
    assert not result.grad_features.any()
    np.testing.assert_array_equal(layer[0].weights[4:], before[4:])
    assert (layer[0].weights[:4] != before[:4]).any()


def test_more_than_65536_inputs():
    layer = make_layer(30, 70_000, [(3, 8)])
    assert layer[0].indices.dtype == np.int32
    assert_same_step(layer, make_batch(4, 70_000, 30), Loss("bce"), SGD)


def test_wide_dense_part():
    layer = make_layer(40, 333, [(1, None)])
    assert_same_step(layer, make_batch(20, 333, 40), Loss("bce"), SGD)


# ---------------------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("layout", ["fixed", "group 16", "dense and group"])
def test_threads_chunks_and_read_only_arrays_do_not_matter(layout, monkeypatch):
    monkeypatch.setattr(numba_, "_WEIGHTS_A_VALUE", 1)  # several slices also here
    features, targets = make_batch(70, 64, 130)
    monkeypatch.setattr(numba_, "_LARGEST_TILE", 32)
    assert numba_._batch_shape(70) == (32, 3)  # the batch is cut
    results = []
    for n_jobs, chunk_bytes, held in [(1, 1 << 20, False), (2, 1, True), (3, 5000, False)]:
        layer = make_layer(130, 64, LAYOUTS[layout], "bfloat16")
        x = frozen(features) if held else features
        if held:
            layer = tuple(
                part if part.indices is None else part._replace(indices=frozen(part.indices))
                for part in layer
            )
        states = tuple(new_state(part, OPTIMIZERS["adam"], 10) for part in layer)
        scores = numba_.scores(x, layer, n_jobs=n_jobs)
        step = numba_.train_step(
            *(x, targets, layer, states, Loss("bce"), OPTIMIZERS["adam"], 3, 4),
            n_jobs=n_jobs,
            chunk_bytes=chunk_bytes,
        )
        dmargins = frozen(scores[:, : layer[0].n_labels])
        both = numba_.gradients(x, dmargins, layer[0], n_jobs=n_jobs)
        topk = numba_.topk(x, layer, np.arange(130), 7, n_jobs=n_jobs)
        arrays = [array for part in layer for array in (part.weights, part.bias)]
        arrays += [array for state in states for array in state if array is not None]
        results.append((scores, np.array(step.loss), step.grad_features, *both, *topk, *arrays))
    for other in results[1:]:
        for array, right in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(array, right)
    layer = make_layer(130, 64, LAYOUTS[layout], "bfloat16")
    assert_same_step(layer, (features, targets), Loss("bce"), SGD, chunk_bytes=5000)


@pytest.mark.parametrize("n_labels", [16, 112, 208, 211])
@pytest.mark.parametrize("layout", ["fixed", "group 3", "dense and group"])
def test_margins_written_past_the_caches_are_the_same(layout, n_labels, monkeypatch):
    """Also where a part or a slice of labels begins within a cache line."""
    layer = make_layer(n_labels, 64, LAYOUTS[layout])
    features, _ = make_batch(70, 64, n_labels)
    expected = numba_.scores(features, layer, n_jobs=3)
    assert expected.nbytes < numba_._PAST_CACHES
    monkeypatch.setattr(numba_, "_PAST_CACHES", 0)
    for n_jobs in (1, 3):
        np.testing.assert_array_equal(numba_.scores(features, layer, n_jobs=n_jobs), expected)


@pytest.mark.parametrize("layout", ["fixed", "group 3", "dense"])
def test_margins_of_a_row_do_not_depend_on_its_batch(layout):
    layer = make_layer(50, 64, LAYOUTS[layout])
    features, _ = make_batch(150, 64, 50)
    together = numba_.scores(features, layer)
    for rows in (slice(0, 1), slice(7, 40), slice(20, 148)):
        np.testing.assert_array_equal(numba_.scores(features[rows], layer), together[rows])


def test_read_only_layer_predicts():
    part = make_layer(20, 64, LAYOUTS["fixed"])[0]
    held = Part(frozen(part.weights), frozen(part.indices), frozen(part.bias), 1, "float32")
    features, _ = make_batch(5, 64, 20)
    np.testing.assert_array_equal(
        numba_.scores(features, (held,)), numba_.scores(features, (part,))
    )


def test_no_rows():
    layer = make_layer(20, 64, LAYOUTS["fixed"])
    features = np.empty((0, 64), dtype=np.float32)
    assert numba_.scores(features, layer).shape == (0, 20)
    states = (new_state(layer[0], SGD),)
    result = numba_.train_step(
        features, sp.csr_array((0, 20)), layer, states, Loss("bce"), SGD, 0, 0
    )
    assert result.loss == 0
    assert result.grad_features.shape == (0, 64)
    assert numba_.topk(features, layer, np.arange(20), 3).labels.shape == (0, 3)


# ---------------------------------------------------------------------------- top-k


@pytest.mark.parametrize("layout", ["fixed", "group 16", "dense and group"])
@pytest.mark.parametrize("k", [1, 5, 130, 200])
@pytest.mark.parametrize("restriction", ["none", "exclude", "candidates", "both"])
def test_topk(layout, k, restriction):
    rng = np.random.default_rng(3)
    layer = make_layer(130, 64, LAYOUTS[layout])
    features, _ = make_batch(37, 64, 130)
    features[5] = 0  # margins are the biases ...
    for part in layer:
        part.bias[:] = np.round(part.bias)  # ... which have ties
    labels = rng.permutation(130)
    exclude = candidates = None
    if restriction in ("exclude", "both"):
        exclude = sp.csr_array(rng.random((37, 130)) < 0.3)
    if restriction in ("candidates", "both"):
        candidates = sp.csr_array(rng.random((37, 130)) < 0.1)
    margins = np.empty((37, 130), dtype=np.float32)
    margins[:, labels] = numba_.scores(features, layer)
    if exclude is not None:
        margins[exclude.toarray()] = -np.inf
    if candidates is not None:
        margins[~candidates.toarray()] = -np.inf
    answer = numba_.topk(
        features, layer, labels, k, exclude=exclude, candidates=candidates, n_jobs=2
    )
    for row in range(37):
        order = sorted(np.flatnonzero(margins[row] > -np.inf), key=lambda j: (-margins[row, j], j))
        order = order[:k]
        np.testing.assert_array_equal(answer.labels[row, : len(order)], order)
        np.testing.assert_array_equal(answer.scores[row, : len(order)], margins[row, order])
        assert (answer.labels[row, len(order) :] == -1).all()
        assert (answer.scores[row, len(order) :] == -np.inf).all()


def test_topk_of_equal_margins_is_the_smaller_original_id():
    part = make_layer(100, 64, LAYOUTS["group 16"])[0]
    part.weights[:], part.bias[:] = 0, 1
    answer = numba_.topk(np.ones((2, 64), "f4"), (part,), np.arange(100)[::-1].copy(), 4, n_jobs=2)
    np.testing.assert_array_equal(answer.labels, [[0, 1, 2, 3]] * 2)


def test_topk_names_a_margin_that_is_nan():
    layer = make_layer(20, 64, LAYOUTS["fixed"])
    features, _ = make_batch(5, 64, 20)
    features[3, :] = np.nan
    with pytest.raises(ValueError, match=r"row 3 and label .* is NaN"):
        numba_.topk(features, layer, np.arange(20), 2)


def test_nan_reaches_the_loss():
    for name in ("squared_hinge", "bce"):
        layer = make_layer(20, 64, LAYOUTS["fixed"])
        features, targets = make_batch(5, 64, 20)
        features[3, :] = np.nan
        states = (new_state(layer[0], SGD),)
        result = numba_.train_step(features, targets, layer, states, Loss(name), SGD, 0, 0)
        assert np.isnan(result.loss)


@pytest.mark.parametrize("name", ["squared_hinge", "bce"])
def test_loss_and_gradient_of_extreme_margins(name):
    """One input of 1 and one weight each make any margin; the gradients are those of float64."""
    margins = np.array([-200, -90, -20, -1, -1e-4, 0, 1e-4, 0.5, 1, 3, 20, 90, 200], "f4")
    for positive in (False, True):
        n_labels = len(margins)
        part = Part(
            np.zeros((n_labels, 1), "f4"),
            np.zeros((n_labels, 1), "u2"),
            margins.copy(),
            1,
            "float32",
        )
        targets = sp.csr_array(np.full((1, n_labels), positive))
        result = numba_.train_step(
            *(np.ones((1, 1), "f4"), targets, (part,), (State(),), Loss(name)),
            *(Optimizer("sgd", learning_rate=1.0), 0, 0),
        )
        loss, gradient = reference.loss_and_gradient(
            name, margins[None], np.array(targets.toarray())
        )
        assert result.loss == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(part.weights[:, 0], -gradient[0], rtol=2e-6, atol=1e-37)


# ---------------------------------------------------------------------------- bad input


@pytest.fixture
def layer():
    return make_layer(20, 64, LAYOUTS["group 3"])


@pytest.mark.parametrize("bad", [64, 65_535])
def test_index_that_is_no_input(layer, bad):
    layer[0].indices[2, 5] = bad
    features, targets = make_batch(4, 64, 20)
    message = f"row 2 of indices holds {bad}, but the features have 64"
    with pytest.raises(ValueError, match=message):
        numba_.scores(features, layer)
    with pytest.raises(ValueError, match=message):
        numba_.topk(features, layer, np.arange(20), 2)
    with pytest.raises(ValueError, match=message):
        numba_.gradients(features, np.ones((4, 20), "f4"), layer[0])
    states = (new_state(layer[0], SGD),)
    with pytest.raises(ValueError, match=message):
        numba_.train_step(features, targets, layer, states, Loss("bce"), SGD, 0, 0)


def test_negative_index(layer):
    part = layer[0]._replace(indices=layer[0].indices.astype(np.int32))
    part.indices[0, 3] = -1
    with pytest.raises(ValueError, match="row 0 of indices holds -1"):
        numba_.scores(make_batch(4, 64, 20)[0], (part,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.zeros((20, 16), "f8")}, "weights of float32 must be"),
        ({"weights": np.zeros((20, 16), "u2")}, "weights of float32 must be"),
        ({"weights": np.zeros((16, 16), "f4")}, "bias must be"),
        ({"weights": np.zeros((16, 20), "f4").T}, "C-contiguous"),
        ({"weights": np.zeros((20, 0), "f4")}, "both at least 1"),
        ({"bias": np.zeros(19, "f4")}, "bias must be .* shape \\(20,\\)"),
        ({"indices": np.zeros((6, 16), "u2")}, "indices must be .* shape \\(7, 16\\)"),
        ({"indices": np.zeros((7, 16), "i8")}, "indices must be"),
        ({"indices": None}, "a dense part has one weight for each of the 64 inputs"),
        ({"group_size": 0}, "group_size must be"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_parts_that_do_not_fit(layer, change, message):
    with pytest.raises(ValueError, match=message):
        numba_.scores(make_batch(4, 64, 20)[0], (layer[0]._replace(**change),))


def test_other_arguments_that_do_not_fit(layer):
    features, targets = make_batch(4, 64, 20)
    states = (new_state(layer[0], SGD),)

    def step(parts=layer, states=states, targets=targets, loss=BCE, optimizer=SGD):
        numba_.train_step(features, targets, parts, states, loss, optimizer, 0, 0)

    with pytest.raises(ValueError, match="two dimensions"):
        numba_.scores(features[0], layer)
    with pytest.raises(TypeError, match="sparse"):
        numba_.scores(sp.csr_array(features), layer)
    with pytest.raises(ValueError, match="at least one part"):
        numba_.scores(features, ())
    with pytest.raises(ValueError, match="targets must have the shape"):
        step(targets=targets[:3])
    with pytest.raises(ValueError, match="loss must be one of"):
        step(loss=Loss("hinge"))
    with pytest.raises(ValueError, match="positive_weight must have"):
        step(loss=Loss("bce", np.ones(3)))
    with pytest.raises(ValueError, match="'sgd' or 'adam'"):
        step(optimizer=Optimizer("lamb", 0.1))
    with pytest.raises(ValueError, match="needs the state 'momentum'"):
        step(optimizer=OPTIMIZERS["momentum"])
    with pytest.raises(ValueError, match="no compensation"):
        step(states=(State(compensation=np.zeros((2, 16), "u2")),))
    with pytest.raises(ValueError, match="read-only"):
        step(parts=(layer[0]._replace(weights=frozen(layer[0].weights)),))
    with pytest.raises(ValueError):
        step(states=())
    with pytest.raises(ValueError, match="chunk_bytes"):
        numba_.train_step(features, targets, layer, states, Loss("bce"), SGD, 0, 0, chunk_bytes=0)
    with pytest.raises(ValueError, match="dmargins must be"):
        numba_.gradients(features, np.ones((4, 19), "f4"), layer[0])
    with pytest.raises(ValueError, match="first and stop"):
        numba_.input_gradients(features, np.ones((4, 20), "f4"), layer[0], 5, 21)
    with pytest.raises(ValueError, match="permutation"):
        numba_.topk(features, layer, np.zeros(20, int), 2)
    with pytest.raises(ValueError, match="original id of each"):
        numba_.topk(features, layer, np.arange(19), 2)
    with pytest.raises(ValueError, match="exclude must have the shape"):
        numba_.topk(features, layer, np.arange(20), 2, exclude=sp.csr_array((4, 19)))
    with pytest.raises(ValueError, match="k must be at least 1"):
        numba_.topk(features, layer, np.arange(20), 0)


def test_kernels_compile_one_version_each():
    """Formats, dtypes and read-only arrays must not multiply what has to be compiled."""
    for name in ("train_slice", "gradients_slice", "scores_slice", "topk_slice"):
        kernel = getattr(_kernels, name)
        if hasattr(kernel, "signatures"):  # not with NUMBA_DISABLE_JIT
            assert len(kernel.signatures) <= 1, name
