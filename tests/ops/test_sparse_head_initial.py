import numpy as np
import pytest
from traced import traced_memory

from skxmc.ops.sparse_head._types import Optimizer
from skxmc.ops.sparse_head.initial import draw_inputs, footprint, initialise, new_state
from skxmc.ops.sparse_head.low_precision import STORAGE, decode

SGD = Optimizer("sgd", learning_rate=0.1)
MOMENTUM = Optimizer("sgd", learning_rate=0.1, momentum=0.9)
ADAM = Optimizer("adam", learning_rate=0.1)
NO_BIAS = ADAM._replace(train_bias=False)
PRECISIONS = ["float32", "bfloat16", "float8"]


def assert_same_part(a, b):
    for array, other in zip(a[:3], b[:3]):
        np.testing.assert_array_equal(array, other)
    assert a[3:] == b[3:]


@pytest.mark.parametrize(
    ("n_labels", "n_inputs", "fan_in", "group_size"),
    [
        *[(1, 1, 1, 1), (5, 3, 3, 2), (7, 10, 9, 1), (40, 33, 16, 16), (33, 100, 8, 16)],
        *[(9, 65536, 64, 1), (9, 65537, 64, 4), (3, 2_000_000, 8, 1)],
    ],
)
def test_inputs_of_each_row_are_different_sorted_and_in_range(
    n_labels, n_inputs, fan_in, group_size
):
    part = initialise(n_labels, n_inputs, fan_in, group_size, seed=3)
    assert part.indices.shape == (-(-n_labels // group_size), fan_in)
    assert part.indices.dtype == (np.uint16 if n_inputs <= 65536 else np.int32)
    inputs = part.indices.astype(np.int64)
    assert (np.diff(inputs, axis=1) > 0).all()
    assert inputs.min() >= 0
    assert inputs.max() < n_inputs
    assert part.weights.shape == (n_labels, fan_in)
    assert part.n_labels == n_labels
    assert part.fan_in == fan_in
    assert part.group_size == group_size


def test_the_last_input_is_drawn_in_16_bits():
    assert draw_inputs(3000, 65536, 64, key=1).max() > 65500
    assert draw_inputs(1, 65536, 65536, key=1)[0, -1] == 65535


@pytest.mark.parametrize(("n_inputs", "fan_in"), [(10, 3), (10, 5), (10, 6), (10, 8), (97, 2)])
def test_inputs_are_drawn_uniformly_and_alone_and_in_pairs(n_inputs, fan_in):
    n_groups = 20_000
    indices = draw_inputs(n_groups, n_inputs, fan_in, key=12)
    has = np.zeros((n_groups, n_inputs))
    np.put_along_axis(has, indices.astype(np.int64), 1.0, axis=1)
    share = fan_in / n_inputs
    bound = 5 * np.sqrt(share * (1 - share) / n_groups)
    assert np.abs(has.mean(axis=0) - share).max() < bound
    together = has.T @ has / n_groups
    pair = share * (fan_in - 1) / (n_inputs - 1)
    off_diagonal = together[~np.eye(n_inputs, dtype=bool)]
    assert np.abs(off_diagonal - pair).max() < 5.5 * np.sqrt(pair * (1 - pair) / n_groups)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_normal_with_the_stated_spread(precision):
    part = initialise(3000, 200, 64, precision=precision, seed=1, scale=2.0)
    assert part.weights.dtype == STORAGE[precision]
    weights = decode(part.weights, precision).astype(np.float64).ravel()
    std = 2.0 / 8
    n = weights.size
    rounding = {"float32": 0, "bfloat16": 1e-4, "float8": 0.01}[precision]
    assert abs(weights.mean()) < 5 * std / np.sqrt(n)
    assert abs(weights.std() / std - 1) < 5 / np.sqrt(2 * n) + rounding
    assert abs((weights**4).mean() / weights.var() ** 2 - 3) < 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_seeds_give_equal_parts_and_others_do_not(precision):
    sizes = 2000, 300, 40, 4, precision  # more than one chunk of weights
    part = initialise(*sizes, seed=2**40 + 1)
    assert_same_part(part, initialise(*sizes, seed=2**40 + 1))
    for seed in (1, 2**40, 2**41 + 1):
        other = initialise(*sizes, seed=seed)
        assert (part.weights != other.weights).mean() > 0.5
        assert (part.indices != other.indices).mean() > 0.5


def test_bias_is_a_number_or_one_for_each_label():
    np.testing.assert_array_equal(initialise(3, 4, 2, bias=-2.5).bias, np.full(3, -2.5, np.float32))
    biases = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(initialise(3, 4, None, bias=biases).bias, biases)
    assert initialise(3, 4, 2, bias=biases).bias.dtype == np.float32


@pytest.mark.parametrize("fan_in", [None, 8])
@pytest.mark.parametrize("group_size", [1, 16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM, ADAM, NO_BIAS])
@pytest.mark.parametrize("n_inputs", [65536, 65537])
def test_footprint_is_the_size_of_the_arrays(fan_in, group_size, precision, optimizer, n_inputs):
    if fan_in is None:
        n_inputs = n_inputs // 512
    n_labels, n_compensated = 37, 8
    part = initialise(n_labels, n_inputs, fan_in, group_size, precision)
    state = new_state(part, optimizer, n_compensated)
    sizes = footprint(n_labels, n_inputs, fan_in, group_size, precision, optimizer, n_compensated)
    assert sizes.weights == part.weights.nbytes
    assert sizes.indices == (0 if fan_in is None else part.indices.nbytes)
    assert sizes.bias == part.bias.nbytes
    assert sizes.state == sum(array.nbytes for array in state if array is not None)
    assert sizes.total == sizes.weights + sizes.indices + sizes.bias + sizes.state
    untrained = footprint(n_labels, n_inputs, fan_in, group_size, precision)
    assert untrained == sizes._replace(state=0)


def test_state_has_what_the_optimizer_needs_and_no_more():
    part = initialise(6, 10, 4, precision="bfloat16")
    kept = {
        SGD: {"compensation"},
        MOMENTUM: {"momentum", "bias_momentum", "compensation"},
        ADAM: {"momentum", "second", "bias_momentum", "bias_second", "compensation"},
        NO_BIAS: {"momentum", "second", "compensation"},
    }
    for optimizer, names in kept.items():
        state = new_state(part, optimizer, 2)
        assert {name for name, array in state._asdict().items() if array is not None} == names
        assert all(not array.any() for array in state if array is not None)
    assert new_state(part, SGD).compensation is None
    assert new_state(part, SGD, 2).compensation.shape == (2, 4)
    assert new_state(part, SGD, 2).compensation.dtype == np.uint16
    assert new_state(part._replace(precision="float32"), SGD, 2).compensation is None
    narrow = initialise(6, 10, 4, precision="float8")
    assert new_state(narrow, SGD, 6).compensation.dtype == np.uint16


def test_the_layer_of_amazon_670k_takes_what_the_arithmetic_says():
    # 670,091 labels, fan-in 64, 16,384 inputs: 4 + 4 + 2, 2 + 2 and 1 + 2 bytes a weight; biases.
    n, f = 670_091, 64
    biases = 4 * n
    assert footprint(n, 16_384, f, optimizer=MOMENTUM).total == 10 * n * f + 2 * biases
    assert footprint(n, 16_384, f, 1, "bfloat16", SGD).total == 4 * n * f + biases
    assert footprint(n, 16_384, f, 1, "float8", SGD).total == 3 * n * f + biases
    assert footprint(n, 16_384, f, 16, "float8", SGD).total == n * f + 2 * 41881 * f + biases


def test_making_a_part_needs_little_more_than_the_part():
    initialise(4, 8, 2, precision="float8")  # compiles
    with traced_memory() as peak:
        part = initialise(60_000, 5000, 64, precision="float8")
        extra = peak() - part.weights.nbytes - part.indices.nbytes - part.bias.nbytes
    assert extra < 3 * 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 2), "n_labels must be at least 1; got 0"),
        ((3, 0, 2), "n_inputs must be at least 1; got 0"),
        ((3, 3, 0), "fan_in must be at least 1; got 0"),
        ((3, 3, 2, 0), "group_size must be at least 1; got 0"),
        ((3, 3, 4), "fan_in must be at most the number of inputs, 3; got 4"),
        ((3, 2**31, 4), "At most 2147483647 inputs are supported; got 2147483648"),
        ((3, 3, 2, 1, "float16"), "precision must be one of float32, bfloat16, float8; got"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    for function in (initialise, footprint):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@pytest.mark.parametrize("n_compensated", [-1, 4])
def test_more_compensated_labels_than_labels_are_refused(n_compensated):
    with pytest.raises(ValueError, match="n_compensated must be from 0 to the number of labels, 3"):
        new_state(initialise(3, 4, 2, precision="float8"), SGD, n_compensated)
    with pytest.raises(ValueError, match="n_compensated must be from 0 to the number of labels, 3"):
        footprint(3, 4, 2, 1, "float8", SGD, n_compensated)
