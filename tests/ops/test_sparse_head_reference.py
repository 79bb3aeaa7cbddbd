import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.ops.sparse_head import reference
from skxmc.ops.sparse_head._types import Loss, Optimizer, Part, State
from skxmc.ops.sparse_head.initial import initialise, new_state
from skxmc.ops.sparse_head.low_precision import COMPENSATION, decode, encode

N_INPUTS = 23
SGD = Optimizer("sgd", learning_rate=0.05)
MOMENTUM = Optimizer("sgd", learning_rate=0.02, momentum=0.9, weight_decay=0.1)
ADAM = Optimizer("adam", learning_rate=0.01, weight_decay=0.1)

# Layers: (n_labels, fan_in, group_size) of each part.
LAYERS = {
    "fixed": [(7, 5, 1)],
    "groups": [(12, 6, 4)],
    "smaller last group": [(11, 6, 4)],
    "one group": [(3, 6, 4)],
    "dense": [(5, None, 1)],
    "all inputs": [(5, N_INPUTS, 2)],
    "dense head and tail": [(4, None, 1), (10, 5, 4), (3, 7, 1)],
    "one label": [(1, 1, 1)],
}
PRECISIONS = ["float32", "bfloat16", "float8"]


def make_layer(name, precision="float32", seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        initialise(
            *(n_labels, N_INPUTS, fan_in, group_size, precision, seed + number),
            bias=rng.normal(size=n_labels),
        )
        for number, (n_labels, fan_in, group_size) in enumerate(LAYERS[name])
    )


def make_batch(n_labels, n_rows=9, seed=1):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, N_INPUTS)).astype(np.float32)
    targets = sp.csr_array((rng.random((n_rows, n_labels)) < 0.3).astype(np.float32))
    return features, targets


def n_labels_of(parts):
    return sum(part.n_labels for part in parts)


def to_dense(part, weights=None):
    """The (n_labels, N_INPUTS) matrix that a part stands for, one entry after the other."""
    if weights is None:
        weights = decode(part.weights, part.precision)
    matrix = np.zeros((part.n_labels, N_INPUTS))
    for label in range(part.n_labels):
        for slot in range(part.fan_in):
            given = part.indices is not None
            column = int(part.indices[label // part.group_size, slot]) if given else slot
            matrix[label, column] += weights[label, slot]
    return matrix


def dense_layer(parts):
    matrix = np.vstack([to_dense(part) for part in parts])
    return matrix, np.concatenate([part.bias for part in parts]).astype(np.float64)


def pair_loss(name, margin, positive, weight):
    y = 1.0 if positive else -1.0
    if name == "squared_hinge":
        value = max(0.0, 1.0 - y * margin) ** 2
    else:
        value = np.log1p(np.exp(-y * margin))
    return (weight if positive else 1.0) * value


def total_loss(name, margins, positive, weight=None):
    weight = np.ones(margins.shape[1]) if weight is None else weight
    return sum(
        pair_loss(name, margins[i, j], positive[i, j], weight[j])
        for i, j in np.ndindex(*margins.shape)
    )


def numeric_gradient(function, x, h=1e-6):
    """Central differences of a function of a float64 array."""
    gradient = np.empty(x.shape)
    for at in np.ndindex(*x.shape):
        moved = x.copy()
        moved[at] += h
        above = function(moved)
        moved[at] -= 2 * h
        gradient[at] = (above - function(moved)) / (2 * h)
    return gradient


# ---------------------------------------------------------------------------------- scores, top k


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_those_of_the_dense_matrix(name, precision):
    parts = make_layer(name, precision)
    features, _ = make_batch(n_labels_of(parts))
    matrix, bias = dense_layer(parts)
    got = reference.scores(features, parts)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, features @ matrix.T + bias, rtol=2e-7, atol=1e-7)


def test_scores_of_a_part_by_hand():
    part = Part(
        weights=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32),
        indices=np.array([[2, 0], [1, 3]], dtype=np.uint16),
        bias=np.array([10.0, 20.0, 30.0], dtype=np.float32),
        group_size=2,
        precision="float32",
    )
    features = np.array([[1.0, 10.0, 100.0, 1000.0]], dtype=np.float32)
    np.testing.assert_array_equal(
        reference.scores(features, (part,)), [[100 + 2 + 10, 300 + 4 + 20, 50 + 6000 + 30]]
    )


@pytest.mark.parametrize("limits", ["none", "exclude", "candidates", "both"])
def test_topk_gives_original_ids_in_the_order_of_score_and_id(limits):
    parts = make_layer("dense head and tail")
    n_labels = n_labels_of(parts)
    features, _ = make_batch(n_labels)
    features[3] = 0
    for part in parts:  # so that row 3 has equal scores
        part.bias[:] = np.round(part.bias)
    rng = np.random.default_rng(5)
    labels = rng.permutation(n_labels).astype(np.int32)
    shape = len(features), n_labels
    exclude = rng.random(shape) < 0.3 if limits in ("exclude", "both") else np.zeros(shape, bool)
    allowed = rng.random(shape) < 0.6 if limits in ("candidates", "both") else np.ones(shape, bool)
    allowed[5] &= limits in ("none", "exclude")  # a row without candidates
    answer = reference.topk(
        *(features, parts, labels, 4),
        exclude=sp.csr_array(exclude) if limits in ("exclude", "both") else None,
        candidates=sp.csr_array(allowed) if limits in ("candidates", "both") else None,
    )
    scores = reference.scores(features, parts)
    for row in range(len(features)):
        ranking = sorted(
            (-scores[row, place], labels[place])
            for place in range(n_labels)
            if allowed[row, labels[place]] and not exclude[row, labels[place]]
        )[:4]
        expected = [label for _, label in ranking] + [-1] * (4 - len(ranking))
        assert answer.labels[row].tolist() == expected
        assert answer.scores[row, : len(ranking)].tolist() == [-score for score, _ in ranking]


# -------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["squared_hinge", "bce"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_of_margins(name, weighted):
    rng = np.random.default_rng(0)
    margins = 2 * rng.normal(size=(6, 5))
    margins[0, :4] = [1.0, -1.0, 30.0, -30.0]  # the kinks, and far out
    positive = rng.random(margins.shape) < 0.5
    positive[0, :4] = [True, False, True, False]
    weight = rng.uniform(0.5, 20, 5).astype(np.float32) if weighted else None
    loss, gradient = reference.loss_and_gradient(name, margins, positive, weight)
    np.testing.assert_allclose(loss, total_loss(name, margins, positive, weight), rtol=1e-12)
    numeric = numeric_gradient(lambda z: total_loss(name, z, positive, weight), margins)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


def test_squared_hinge_has_no_gradient_beyond_the_margin():
    margins = np.array([[1.0, 1.5, -1.0, -7.0, 0.999]])
    positive = np.array([[True, True, False, False, True]])
    _, gradient = reference.loss_and_gradient("squared_hinge", margins, positive)
    assert (gradient[0, :4] == 0).all()
    assert gradient[0, 4] < 0


def test_bce_is_exact_for_margins_of_any_size():
    margins = np.array([[-1e4, 1e4, -1e4, 1e4]])
    positive = np.array([[True, True, False, False]])
    loss, gradient = reference.loss_and_gradient("bce", margins, positive)
    assert loss == 2e4
    np.testing.assert_array_equal(gradient, [[-1, 0, 0, 1]])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
def test_gradients_are_those_of_numeric_differentiation(name, precision, loss):
    parts = make_layer(name, precision)
    n_labels = n_labels_of(parts)
    features, targets = make_batch(n_labels, n_rows=4)
    positive = targets.toarray() != 0
    weight = np.random.default_rng(2).uniform(1, 5, n_labels).astype(np.float32)
    matrix, bias = dense_layer(parts)
    wide = features.astype(np.float64)

    def loss_of(features, matrix, bias):
        return total_loss(loss, features @ matrix.T + bias, positive, weight)

    by_features = numeric_gradient(lambda x: loss_of(x, matrix, bias), wide)
    by_bias = numeric_gradient(lambda b: loss_of(wide, matrix, b), bias)

    # One step with rate 1 moves each bias by its gradient.
    before = [part.bias.copy() for part in parts]
    states = tuple(new_state(part, SGD) for part in parts)
    margins = wide @ matrix.T + bias
    _, dmargins = reference.loss_and_gradient(loss, margins, positive, weight)
    moved = tuple(part._replace(weights=part.weights.copy()) for part in parts)
    optimizer = SGD._replace(learning_rate=1.0)
    result = reference.train_step(
        *(features, targets, moved, states, Loss(loss, weight), optimizer), seed=0, step=0
    )
    assert result.loss == pytest.approx(loss_of(wide, matrix, bias), rel=1e-12)
    assert result.grad_features.dtype == np.float32
    np.testing.assert_allclose(result.grad_features, by_features, rtol=1e-5, atol=1e-4)
    change = np.concatenate(before) - np.concatenate([part.bias for part in parts])
    np.testing.assert_allclose(change, by_bias, rtol=1e-5, atol=1e-4)

    first = 0
    total = np.zeros(features.shape)
    for part in parts:
        labels = slice(first, first + part.n_labels)
        mine = dmargins[:, labels].astype(np.float32)

        def loss_of_weights(weights, part=part, labels=labels):
            changed = matrix.copy()
            changed[labels] = to_dense(part, weights)
            return loss_of(wide, changed, bias)

        weights = decode(part.weights, part.precision).astype(np.float64)
        numeric = numeric_gradient(loss_of_weights, weights)
        got = reference.grad_weights(features, mine, part)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-4)
        by_part = reference.grad_features(mine, part, N_INPUTS)
        assert by_part.dtype == np.float32
        total += by_part
        first = labels.stop
    np.testing.assert_allclose(total, by_features, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["fixed", "smaller last group", "dense"])
def test_input_gradients_are_the_gradient_of_the_dense_matrix(name):
    (part,) = make_layer(name)
    features, _ = make_batch(part.n_labels)
    rng = np.random.default_rng(0)
    dmargins = rng.normal(size=(len(features), part.n_labels)).astype(np.float32)
    first, stop = 1, part.n_labels
    dense = reference.input_gradients(features, dmargins, part, first, stop)
    assert dense.shape == (stop - first, N_INPUTS)
    expected = np.einsum("bl,bd->ld", dmargins.astype(np.float64), features.astype(np.float64))
    np.testing.assert_allclose(dense, expected[first:stop], rtol=1e-5, atol=1e-6)
    # Where the part has weights it is their gradient.
    at_weights = reference.grad_weights(features, dmargins, part)
    mask = to_dense(part, np.ones(part.weights.shape)) != 0
    expected = np.zeros(mask.shape, dtype=np.float32)
    expected[:] = to_dense(part, at_weights)
    np.testing.assert_allclose(
        dense[mask[first:stop]], expected[mask][mask[:first].sum() :], rtol=1e-5
    )


# ---------------------------------------------------------------------------------------- updates


def copy_of(parts):
    return tuple(
        part._replace(weights=part.weights.copy(), bias=part.bias.copy()) for part in parts
    )


def train(parts, optimizer, loss, n_steps, n_compensated=0, seed=0, targets_seed=1):
    """Train a copy; return its parts and states."""
    parts = copy_of(parts)
    states = tuple(new_state(part, optimizer, min(n_compensated, part.n_labels)) for part in parts)
    for step in range(n_steps):
        features, targets = make_batch(n_labels_of(parts), seed=targets_seed + step)
        reference.train_step(
            *(features, targets, parts, states, loss, optimizer._replace(n_updates=step)),
            *(seed, step),
        )
    return parts, states


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("loss", ["squared_hinge", "bce"])
@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM, ADAM], ids=["sgd", "momentum", "adam"])
def test_training_is_that_of_torch_autograd_and_its_optimizers(name, loss, optimizer):
    import torch

    parts = make_layer(name)
    n_labels = n_labels_of(parts)
    weight = np.random.default_rng(2).uniform(1, 5, n_labels).astype(np.float32)
    trained, _ = train(parts, optimizer, Loss(loss, weight), n_steps=4)

    # A dense float64 layer with a mask, in its own optimiser.
    matrix, bias = dense_layer(parts)
    mask = torch.from_numpy(np.vstack([to_dense(p, np.ones(p.weights.shape)) for p in parts]))
    W = torch.tensor(matrix, requires_grad=True)
    b = torch.tensor(bias, requires_grad=True)
    groups = [
        {"params": [W], "weight_decay": optimizer.weight_decay},
        {"params": [b], "weight_decay": 0.0},
    ]
    if optimizer.name == "adam":
        torch_optimizer = torch.optim.AdamW(groups, lr=optimizer.learning_rate)
    else:  # torch's SGD adds the decay to the gradient: here it is decoupled
        plain = [{**group, "weight_decay": 0.0} for group in groups]
        torch_optimizer = torch.optim.SGD(
            plain, lr=optimizer.learning_rate, momentum=optimizer.momentum
        )
    for step in range(4):
        features, targets = make_batch(n_labels, seed=1 + step)
        x = torch.from_numpy(features).double()
        y = torch.from_numpy(2.0 * (targets.toarray() != 0) - 1)
        margins = x @ (W * mask).T + b
        if loss == "squared_hinge":
            values = torch.relu(1 - y * margins) ** 2
        else:
            values = torch.nn.functional.softplus(-y * margins)
        value = torch.where(y > 0, values * torch.from_numpy(weight).double(), values).sum()
        torch_optimizer.zero_grad()
        value.backward()
        if optimizer.name == "sgd":
            with torch.no_grad():
                W *= 1 - optimizer.learning_rate * optimizer.weight_decay
        torch_optimizer.step()
    expected = (W * mask).detach().numpy()
    np.testing.assert_allclose(dense_layer(trained)[0], expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dense_layer(trained)[1], b.detach().numpy(), rtol=2e-5, atol=2e-5)


def test_momentum_and_decay_by_hand():
    # One weight, one row, z = w = 2 and then less; negative: gradient 2 (1 + z).
    part = Part(
        *(np.array([[2.0]], np.float32), np.array([[0]], np.uint16), np.zeros(1, np.float32)),
        *(1, "float32"),
    )
    optimizer = Optimizer("sgd", 0.125, momentum=0.5, weight_decay=0.5, train_bias=False)
    state = new_state(part, optimizer)
    features, targets = np.ones((1, 1), np.float32), sp.csr_array((1, 1), dtype=np.float32)
    result = reference.train_step(
        features, targets, (part,), (state,), Loss("squared_hinge"), optimizer, 0, 0
    )
    assert result.loss == 9.0
    np.testing.assert_array_equal(result.grad_features, [[12.0]])  # 6 by the old weight
    assert state.momentum == 6.0
    assert part.weights == 2.0 * (1 - 0.0625) - 0.125 * 6.0  # 1.125
    result = reference.train_step(
        features, targets, (part,), (state,), Loss("squared_hinge"), optimizer, 0, 1
    )
    assert result.loss == 2.125**2
    assert state.momentum == 3.0 + 4.25
    assert part.weights == 1.125 * (1 - 0.0625) - 0.125 * 7.25
    assert part.bias == 0


def test_biases_stay_where_they_are_unless_trained():
    parts = make_layer("dense head and tail")
    trained, states = train(parts, ADAM._replace(train_bias=False), Loss("bce"), 2)
    for part, before, state in zip(trained, parts, states):
        np.testing.assert_array_equal(part.bias, before.bias)
        assert state.bias_momentum is None
        assert (part.weights != before.weights).any()


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_a_low_precision_update_takes_a_neighbour_of_the_exact_one_right_on_average(precision):
    parts = make_layer("smaller last group", precision)
    features, targets = make_batch(n_labels_of(parts))
    loss = Loss("squared_hinge")
    (part,) = parts
    weights = decode(part.weights, precision)
    exact = part._replace(weights=weights.copy(), precision="float32", bias=part.bias.copy())
    reference.train_step(features, targets, (exact,), (State(),), loss, SGD, 0, 0)
    numbers = np.sort(
        decode(
            np.arange(256 if precision == "float8" else 65536).astype(part.weights.dtype), precision
        )
    )
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    place = np.searchsorted(numbers, exact.weights, side="right")
    below, above = numbers[place - 1], numbers[place]
    n = 2000
    total = np.zeros(weights.shape)
    for seed in range(n):
        (moved,) = copy_of(parts)
        reference.train_step(features, targets, (moved,), (State(),), loss, SGD, seed, 3)
        got = decode(moved.weights, precision)
        assert ((got == below) | (got == above)).all()
        total += got
    share = (exact.weights - below) / (above - below)
    bound = 5 * np.sqrt(share * (1 - share) / n) * (above - below)
    assert (np.abs(total / n - exact.weights) <= bound + 1e-12).all()


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_parts_steps_and_seeds_draw_different_bits_and_equal_ones_equal_bits(precision):
    (part,) = make_layer("groups", precision)
    features, targets = make_batch(2 * part.n_labels)
    targets = sp.csr_array(np.hstack([targets.toarray()[:, : part.n_labels]] * 2))

    def step(seed, step):
        twice = copy_of((part, part))
        reference.train_step(
            *(features, targets, twice, (State(), State()), Loss("bce"), SGD, seed, step)
        )
        return np.array([p.weights for p in twice])

    once = step(1, 2)
    np.testing.assert_array_equal(once, step(1, 2))
    assert (once[0] != once[1]).any()
    assert (once != step(1, 3)).any()
    assert (once != step(2, 2)).any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_label_without_gradient_keeps_its_weights(precision):
    (part,) = make_layer("fixed", precision)
    part.bias[:] = -1000.0  # easy negatives
    part.bias[2] = 0.0
    features, _ = make_batch(part.n_labels)
    targets = sp.csr_array((len(features), part.n_labels), dtype=np.float32)
    (moved,) = copy_of((part,))
    result = reference.train_step(
        features, targets, (moved,), (State(),), Loss("squared_hinge"), SGD, 0, 0
    )
    assert result.loss > 0
    idle = np.arange(part.n_labels) != 2
    np.testing.assert_array_equal(moved.weights[idle], part.weights[idle])
    np.testing.assert_array_equal(moved.bias[idle], part.bias[idle])
    assert (moved.weights[2] != part.weights[2]).any()


# ------------------------------------------------------------------------------------------ Kahan


def drift(precision, n_compensated, n_steps, learning_rate, n_labels=256):
    """Train labels by small updates of about the same size; also in float64."""
    part = Part(
        *(encode(np.ones((n_labels, 1)), precision), None, np.zeros(n_labels, np.float32)),
        *(1, precision),
    )
    optimizer = Optimizer("sgd", learning_rate, train_bias=False)
    state = new_state(part, optimizer, n_compensated)
    x = np.float32(2.0**-7)
    features = np.array([[x]])
    targets = sp.csr_array((1, n_labels), dtype=np.float32)
    exact = 1.0
    for step in range(n_steps):  # of a negative: gradient 2 (1 + w x) x
        reference.train_step(
            features, targets, (part,), (state,), Loss("squared_hinge"), optimizer, 11, step
        )
        exact -= learning_rate * 2 * (1 + exact * x) * x
    return decode(part.weights, precision).astype(np.float64).ravel(), state, exact


@pytest.mark.parametrize(
    ("precision", "learning_rate", "n_steps", "share"),
    # Updates of 1/16 and 1/64 of the spacing below 1.
    [("bfloat16", 2.0**-6, 600, 1 / 16), ("float8", 2.0**-4, 160, 1 / 64)],
)
def test_tiny_updates_are_not_lost(precision, learning_rate, n_steps, share):
    compensated, state, exact = drift(precision, 256, n_steps, learning_rate)
    plain, _, _ = drift(precision, 0, n_steps, learning_rate)
    spacing = {"bfloat16": 2.0**-8, "float8": 2.0**-4}[precision]
    assert (1 - exact) / n_steps == pytest.approx(spacing * share, rel=0.01)
    assert 1 - exact > 2 * spacing  # rounding to the nearest would stay at 1
    kept = decode(state.compensation, COMPENSATION[precision]).astype(np.float64).ravel()
    together = np.sqrt(((compensated + kept - exact) ** 2).mean())
    # A weight is one rounding away from the exact sum; with its compensation it is next to it.
    assert np.abs(compensated - exact).max() < 1.5 * spacing
    assert together < spacing / 4
    # Without compensation the errors of all roundings add up: unbiased, but a random walk.
    walk = np.sqrt(((plain - exact) ** 2).mean())
    assert walk > spacing
    assert together < walk / 5
    assert abs(plain.mean() - exact) < 5 * walk / np.sqrt(len(plain))


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_compensation_holds_what_the_rounding_took_off(precision):
    parts = make_layer("dense head and tail", precision)
    features, targets = make_batch(n_labels_of(parts))
    moved = copy_of(parts)
    states = tuple(new_state(part, SGD, 3) for part in parts)
    rng = np.random.default_rng(0)
    stored = COMPENSATION[precision]
    for state in states:
        small = rng.normal(size=state.compensation.shape).astype(np.float32) / 1000
        state.compensation[:] = encode(small, stored)
    before = [state.compensation.copy() for state in states]
    exact = tuple(
        part._replace(
            weights=decode(part.weights, precision).copy(),
            precision="float32",
            bias=part.bias.copy(),
        )
        for part in parts
    )
    no_states = tuple(State() for _ in parts)
    reference.train_step(features, targets, exact, no_states, Loss("bce"), SGD, 0, 0)
    reference.train_step(features, targets, moved, states, Loss("bce"), SGD, 0, 0)
    for new, float32, old, state in zip(moved, exact, before, states):
        head = slice(0, 3)
        wanted = float32.weights[head].astype(np.float64) + decode(old, stored)
        weights = decode(new.weights[head], precision).astype(np.float64)
        kept = decode(state.compensation, stored)
        lost = wanted - weights
        np.testing.assert_allclose(kept, lost, rtol=2.0**-8, atol=1e-5)
        assert np.abs(lost).max() > 0


def test_only_the_first_labels_are_compensated():
    parts = make_layer("fixed", "bfloat16")
    with_state, states = train(parts, SGD, Loss("bce"), 5, n_compensated=2)
    without, _ = train(parts, SGD, Loss("bce"), 5)
    assert states[0].compensation.shape == (2, 5)
    assert (states[0].compensation != 0).any()
    assert (with_state[0].weights[:2] != without[0].weights[:2]).any()


# ----------------------------------------------------------------------------------------- errors


def test_unknown_losses_and_optimizers_are_refused():
    parts = make_layer("fixed")
    features, targets = make_batch(n_labels_of(parts))
    arguments = features, targets, parts, (State(),)
    with pytest.raises(ValueError, match="The loss must be 'squared_hinge' or 'bce'; got 'hinge'"):
        reference.train_step(*arguments, Loss("hinge"), SGD, 0, 0)
    with pytest.raises(ValueError, match="The optimizer must be 'sgd' or 'adam'; got 'lamb'"):
        reference.train_step(*arguments, Loss("bce"), SGD._replace(name="lamb"), 0, 0)
