import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traced import traced_memory

from skxmc.ops.sparse_head._types import Optimizer, Part, State
from skxmc.ops.sparse_head.initial import initialise, new_state
from skxmc.ops.sparse_head.low_precision import COMPENSATION, decode, encode
from skxmc.ops.sparse_head.rewire import cosine_fraction, decaying_threshold, rewire

ADAM = Optimizer("adam", learning_rate=0.1)
PRECISIONS = ["float32", "bfloat16", "float8"]


def make_part(n_labels, n_inputs, fan_in, group_size=1, precision="float32", seed=0):
    """A part with weights other than 0 and a state without zeros."""
    part = initialise(n_labels, n_inputs, fan_in, group_size, precision, seed)
    part.weights[decode(part.weights, precision) == 0] = encode(np.float32(0.125), precision)
    state = new_state(part, ADAM, n_compensated=n_labels // 3)
    for array in state:
        if array is not None:
            array[...] = 1
    return part, state


def copy_of(items):
    return items._replace(
        **{k: v.copy() for k, v in items._asdict().items() if isinstance(v, np.ndarray)}
    )


def slot_scores(part):
    """Mean |w| over the labels of each group: one group after the other."""
    weights = np.abs(decode(part.weights, part.precision)).astype(np.float64)
    size = part.group_size
    if size == 1:
        return weights.astype(np.float32)
    return np.array(
        [
            weights[group * size : (group + 1) * size].mean(axis=0).astype(np.float32)
            for group in range(len(part.indices))
        ]
    )


def zeroed_slots(part):
    """Slots whose weights are all 0."""
    return slot_scores(part) == 0


def assert_rows_are_sets(part, n_inputs):
    indices = part.indices.astype(np.int64)
    assert indices.min() >= 0
    assert indices.max() < n_inputs
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()


def assert_only_slots_changed(old, new, slots, n_inputs):
    """The slots have a new input and zeros; all the others are as before."""
    (part, state), (before, state_before) = new, old
    assert_rows_are_sets(part, n_inputs)
    np.testing.assert_array_equal(part.indices[~slots], before.indices[~slots])
    rows = np.nonzero(slots)[0]
    assert not (part.indices[slots][:, None] == before.indices[rows]).any()  # none that it had
    of_weights = np.repeat(slots, part.group_size, axis=0)[: part.n_labels]
    pairs = [(part.weights, before.weights), *zip(state[:3], state_before[:3])]
    for array, array_before in pairs:
        if array is not None:
            mine = of_weights[: len(array)]
            assert not array[mine].any()
            np.testing.assert_array_equal(array[~mine], array_before[~mine])
    np.testing.assert_array_equal(part.bias, before.bias)
    for array, array_before in zip(state[3:], state_before[3:]):
        np.testing.assert_array_equal(array, array_before)


def smallest(scores, count):
    """The `count` smallest, ties by position, by a stable sort of everything."""
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


SHAPES = [  # labels, inputs, fan-in, group size
    (1, 2, 1, 1),
    (50, 40, 8, 1),
    (50, 9, 4, 1),
    (33, 100, 7, 4),
    (5, 30, 6, 16),
    (3000, 70_000, 5, 1),
    (17_000, 300, 64, 1),  # more than one chunk
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.43])
def test_global_pruning_takes_exactly_the_smallest_of_the_part(precision, shape, fraction):
    n_inputs = shape[1]
    part, state = make_part(*shape, precision)
    old = copy_of(part), copy_of(state)
    expected = smallest(slot_scores(part), round(fraction * part.indices.size))
    # No row of these layers has more of them than it has other inputs.
    assert expected.sum(axis=1).max() <= n_inputs - part.fan_in
    result = rewire(part, state, n_inputs, fraction=fraction, seed=1, step=2)
    assert result.n_rewired == expected.sum() == round(fraction * part.indices.size)
    assert result.n_slots == part.indices.size
    np.testing.assert_array_equal(zeroed_slots(part), expected)
    assert_only_slots_changed(old, (part, state), expected, n_inputs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.0, 0.26, 0.5])
def test_row_pruning_takes_exactly_the_smallest_of_each_row(precision, shape, fraction):
    n_inputs = shape[1]
    part, state = make_part(*shape, precision)
    old = copy_of(part), copy_of(state)
    count = round(fraction * part.fan_in)
    expected = np.vstack([smallest(row[None], count) for row in slot_scores(part)])
    result = rewire(part, state, n_inputs, prune="row", fraction=fraction, seed=1, step=2)
    assert result.n_rewired == count * len(part.indices)
    np.testing.assert_array_equal(zeroed_slots(part), expected)
    assert_only_slots_changed(old, (part, state), expected, n_inputs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_threshold_pruning_takes_all_below_and_none_at_it(precision, shape):
    n_inputs = shape[1]
    part, state = make_part(*shape, precision)
    scores = slot_scores(part)
    for threshold in (0.0, float(np.quantile(scores, 0.2, method="lower"))):
        old = copy_of(part), copy_of(state)
        expected = scores < threshold
        assert expected.sum(axis=1).max() <= n_inputs - part.fan_in
        result = rewire(
            *(part, state, n_inputs), prune="threshold", threshold=threshold, seed=1, step=2
        )
        assert result.n_rewired == expected.sum()
        np.testing.assert_array_equal(zeroed_slots(part), expected)
        assert_only_slots_changed(old, (part, state), expected, n_inputs)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_layer_with_any_ties_keeps_its_promises(data):
    n_inputs = data.draw(st.integers(1, 12))
    fan_in = data.draw(st.integers(1, n_inputs))
    group_size = data.draw(st.integers(1, 3))
    n_labels = data.draw(st.integers(1, 12))
    prune = data.draw(st.sampled_from(["global", "row", "threshold"]))
    grow = data.draw(st.sampled_from(["random", "gradient"]))
    part = initialise(n_labels, n_inputs, fan_in, group_size, seed=data.draw(st.integers(0, 9)))
    levels = data.draw(st.integers(1, 4))  # of few different weights: many ties
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    part.weights[:] = rng.integers(1, levels + 1, part.weights.shape)
    state = new_state(part, ADAM)
    old = copy_of(part), copy_of(state)
    scores = slot_scores(part)
    if prune == "threshold":
        options = {"threshold": data.draw(st.sampled_from([0.0, 1.5, 2.0, 9.0]))}
        wanted = scores < options["threshold"]
    else:
        options = {"fraction": data.draw(st.floats(0, 1))}
        if prune == "global":
            wanted = smallest(scores, round(options["fraction"] * scores.size))
        else:
            count = round(options["fraction"] * fan_in)
            wanted = np.vstack([smallest(row[None], count) for row in scores])
    if grow == "gradient":
        dense = rng.integers(0, 3, (n_labels, n_inputs)).astype(np.float32)
        options["gradient"] = lambda first, stop: dense[first:stop]
    # A row gives up no more slots than it has other inputs: the smallest.
    limited = [
        smallest(np.where(mine, row, np.inf)[None], min(n_inputs - fan_in, mine.sum()))
        for row, mine in zip(scores, wanted)
    ]
    expected = np.vstack(limited)
    result = rewire(part, state, n_inputs, prune=prune, grow=grow, seed=3, step=4, **options)
    assert result.n_rewired == expected.sum()
    assert_only_slots_changed(old, (part, state), expected, n_inputs)


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_a_row_with_all_inputs_stays_as_it_is(grow):
    part, state = make_part(10, 8, 8, 2)
    old = copy_of(part), copy_of(state)
    gradient = None if grow == "random" else lambda first, stop: np.ones((stop - first, 8))
    for options in (
        {"fraction": 1.0},
        {"prune": "row", "fraction": 1.0},
        {"prune": "threshold", "threshold": 1e9},
    ):
        result = rewire(part, state, 8, grow=grow, gradient=gradient, seed=0, step=0, **options)
        assert result.n_rewired == 0
    assert_only_slots_changed(old, (part, state), np.zeros(part.indices.shape, bool), 8)


def test_a_dense_part_stays_as_it_is():
    part, state = make_part(4, 8, None)
    before = part.weights.copy()
    assert rewire(part, state, 8, fraction=0.5, seed=0, step=0) == (0, 0)
    np.testing.assert_array_equal(part.weights, before)


@pytest.mark.parametrize(("n_inputs", "dtype"), [(65536, np.uint16), (65537, np.int32)])
@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_the_last_inputs_can_be_grown_at_the_edge_of_16_bits(n_inputs, dtype, grow):
    part, state = make_part(40, n_inputs, 64)
    assert part.indices.dtype == dtype

    def gradient(first, stop):
        return np.tile(np.arange(n_inputs, dtype=np.float32), (stop - first, 1))

    result = rewire(
        *(part, state, n_inputs),
        prune="row",
        fraction=1.0,
        grow=grow,
        seed=0,
        step=0,
        gradient=gradient if grow == "gradient" else None,
    )
    assert result.n_rewired == 40 * 64
    assert_rows_are_sets(part, n_inputs)
    assert part.indices.max() >= n_inputs - 300


def test_every_input_that_a_row_does_not_have_is_equally_likely():
    for n_inputs, fan_in in ((40, 8), (12, 8)):  # drawn until it fits, and from a list
        n = 4000
        part = initialise(1, n_inputs, fan_in)
        part = part._replace(
            weights=np.ones((n, fan_in), np.float32),
            indices=np.tile(part.indices, (n, 1)),
            bias=np.zeros(n, np.float32),
        )
        had = set(part.indices[0].tolist())
        part.weights[:, :2] = 0.5
        rewire(part, State(), n_inputs, prune="threshold", threshold=0.6, seed=5, step=6)
        new = part.indices[:, :2].astype(np.int64)
        free = n_inputs - fan_in
        # Pairs, in order: n_free (n_free - 1) of them, all alike.
        others = [i for i in range(n_inputs) if i not in had]
        counts = np.zeros((n_inputs, n_inputs))
        np.add.at(counts, (new[:, 0], new[:, 1]), 1)
        assert counts[np.ix_(others, others)].sum() == n
        assert np.diag(counts).sum() == 0
        share = n / free
        for single in (counts.sum(axis=0), counts.sum(axis=1)):
            assert np.abs(single[others] - share).max() < 5 * np.sqrt(share)
        pairs = counts[np.ix_(others, others)][~np.eye(free, dtype=bool)]
        expected = n / len(pairs)
        chi_square = ((pairs - expected) ** 2 / expected).sum()
        assert abs(chi_square - (len(pairs) - 1)) < 6 * np.sqrt(2 * len(pairs))


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_seeds_give_equal_results_and_others_do_not(grow, precision):
    def outcome(seed=1, step=2, part_number=0):
        part, state = make_part(200, 60, 10, 3, precision)
        gradient = None if grow == "random" else lambda first, stop: np.zeros((stop - first, 60))
        rewire(
            *(part, state, 60),
            fraction=0.3,
            grow=grow,
            gradient=gradient,
            seed=seed,
            step=step,
            part_number=part_number,
        )
        return part.indices

    first = outcome()
    np.testing.assert_array_equal(first, outcome())
    for other in ({"seed": 2}, {"step": 3}, {"part_number": 1}, {"seed": 2**40 + 1}):
        assert (first != outcome(**other)).any()


# --------------------------------------------------------------------------------------- gradient


@pytest.mark.parametrize(
    "shape", [(40, 30, 6, 1), (41, 30, 6, 4), (7, 12, 9, 2), (300, 20_000, 3, 1), (5, 9, 4, 16)]
)
@pytest.mark.parametrize("prune", ["global", "row"])
def test_gradient_growth_takes_the_largest_gradients(shape, prune):
    n_labels, n_inputs, _, group_size = shape
    part, state = make_part(*shape)
    before = part.indices.astype(np.int64)
    old = copy_of(part), copy_of(state)
    dense = np.random.default_rng(3).normal(size=(n_labels, n_inputs)).astype(np.float32)
    calls = []

    def gradient(first, stop):
        calls.append((first, stop))
        return dense[first:stop]

    result = rewire(
        *(part, state, n_inputs),
        prune=prune,
        fraction=0.3,
        grow="gradient",
        seed=0,
        step=0,
        gradient=gradient,
    )
    slots = zeroed_slots(part)
    assert result.n_rewired == slots.sum() > 0
    assert_only_slots_changed(old, (part, state), slots, n_inputs)
    for group, row in enumerate(before):
        labels = slice(group * group_size, (group + 1) * group_size)
        norm = (dense[labels].astype(np.float64) ** 2).sum(axis=0)
        norm[row] = -1
        best = np.argsort(-norm, kind="stable")[: slots[group].sum()]
        assert part.indices[group][slots[group]].tolist() == best.tolist()  # best first
    # Whole groups, each label once at most, no large array at a time.
    assert all(first % group_size == 0 for first, _ in calls)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(calls))
    assert max((stop - first) * n_inputs for first, stop in calls) <= 2**22
    if n_inputs == 20_000:
        assert len(calls) > 1


def test_equal_gradients_give_the_smaller_input_and_none_a_random_one():
    n = 500
    part = Part(
        np.ones((n, 4), np.float32),
        np.tile(np.array([0, 2, 4, 6], np.uint16), (n, 1)),
        *(np.zeros(n, np.float32), 1, "float32"),
    )
    dense = np.zeros((n, 40), np.float32)
    dense[:, [7, 5]] = 1.0, -1.0
    dense[:, [0, 2]] = 100.0  # the row has them
    rewire(
        *(part, State(), 40),
        prune="row",
        fraction=0.75,
        grow="gradient",
        seed=0,
        step=0,
        gradient=lambda first, stop: dense[first:stop],
    )
    assert (part.indices[:, :2] == [5, 7]).all()
    assert_rows_are_sets(part, 40)
    counts = np.bincount(part.indices[:, 2], minlength=40)
    free = [i for i in range(40) if i not in (0, 2, 4, 5, 6, 7)]
    assert counts[free].sum() == n
    assert np.abs(counts[free] - n / 34).max() < 5 * np.sqrt(n / 34)


def test_gradients_that_are_not_numbers_are_not_grown():
    part, state = make_part(20, 12, 4)
    dense = np.full((20, 12), np.nan, np.float32)
    before = part.indices.copy()
    outside = [next(i for i in range(12) if i not in row) for row in before]
    dense[np.arange(20), outside] = 1e-30
    rewire(
        *(part, state, 12),
        prune="row",
        fraction=0.5,
        grow="gradient",
        seed=0,
        step=0,
        gradient=lambda first, stop: dense[first:stop],
    )
    assert_rows_are_sets(part, 12)
    for row, wanted in zip(part.indices, outside):
        assert wanted in row


def test_weights_that_are_not_numbers_are_pruned_last():
    part, state = make_part(10, 30, 5)
    part.weights[3, 2] = np.nan
    rewire(part, state, 30, prune="row", fraction=0.8, seed=0, step=0)
    assert np.isnan(part.weights[3, 2])
    rewire(part, state, 30, prune="global", fraction=0.98, seed=0, step=1)
    assert np.isnan(part.weights[3, 2])


# ------------------------------------------------------------------------------ memory, schedules


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("prune", ["global", "row", "threshold"])
def test_rewiring_needs_little_memory(precision, prune):
    small, small_state = make_part(4, 100, 3, precision=precision)
    rewire(small, small_state, 100, fraction=0.5, seed=0, step=0)  # compiles
    part = initialise(150_000, 16_384, 32, precision=precision)
    state = new_state(part, Optimizer("sgd", 0.1, momentum=0.9), n_compensated=1000)
    options = {"threshold": 0.02} if prune == "threshold" else {"fraction": 0.2}
    with traced_memory() as peak:
        result = rewire(part, state, 16_384, prune=prune, seed=0, step=0, **options)
        extra = peak()
    assert result.n_rewired > 200_000
    assert extra < 40 * 2**20 + 20 * 16_384
    if precision == "float32":
        assert extra < part.weights.nbytes * 3  # so the bound says something


def test_cosine_fraction_falls_from_alpha_to_zero():
    assert cosine_fraction(0.3, 0, 1000) == pytest.approx(0.3)
    assert cosine_fraction(0.3, 500, 1000) == pytest.approx(0.15)
    assert cosine_fraction(0.3, 250, 1000) == pytest.approx(0.15 * (1 + np.sqrt(0.5)))
    assert cosine_fraction(0.3, 1000, 1000) == cosine_fraction(0.3, 5000, 1000) == 0
    assert cosine_fraction(0.3, 0, 0) == 0
    with pytest.raises(ValueError, match="step must not be negative; got -1"):
        cosine_fraction(0.3, -1, 10)


def test_decaying_threshold_falls_from_start_to_stop():
    assert decaying_threshold(0.05, 1e-4, 0, 100) == pytest.approx(0.05)
    assert decaying_threshold(0.05, 1e-4, 50, 100) == pytest.approx((0.05 + 1e-4) / 2)
    assert decaying_threshold(0.05, 1e-4, 100, 100) == 1e-4
    assert decaying_threshold(0.05, 1e-4, 101, 100) == 1e-4
    values = [decaying_threshold(0.05, 1e-4, step, 100) for step in range(101)]
    assert (np.diff(values) < 0).all()
    with pytest.raises(ValueError, match="step must not be negative"):
        decaying_threshold(0.05, 1e-4, -1, 100)


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "random", "fraction": 0.1}, "prune must be 'global', 'row' or 'threshold'"),
        ({"grow": "set", "fraction": 0.1}, "grow must be 'random' or 'gradient'; got 'set'"),
        ({}, "prune='global' needs fraction"),
        ({"fraction": 0.1, "threshold": 1.0}, "prune='global' needs fraction, and takes no thresh"),
        ({"prune": "row"}, "prune='row' needs fraction"),
        ({"prune": "threshold"}, "prune='threshold' needs threshold"),
        ({"prune": "threshold", "threshold": 1.0, "fraction": 0.1}, "and takes no fraction"),
        ({"prune": "threshold", "threshold": -0.1}, r"threshold must not be negative; got -0\.1"),
        ({"prune": "threshold", "threshold": np.nan}, "threshold must not be negative; got nan"),
        ({"fraction": 1.1}, r"fraction must be from 0 to 1; got 1\.1"),
        ({"fraction": -0.1}, r"fraction must be from 0 to 1; got -0\.1"),
        ({"fraction": np.nan}, "fraction must be from 0 to 1; got nan"),
        ({"fraction": 0.1, "grow": "gradient"}, "grow='gradient' needs gradient"),
        ({"fraction": 0.1, "gradient": len}, "grow='gradient' needs gradient, and nothing else"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    part, state = make_part(5, 9, 3)
    before = copy_of(part)
    with pytest.raises(ValueError, match=message):
        rewire(part, state, 9, seed=0, step=0, **options)
    np.testing.assert_array_equal(part.indices, before.indices)


def test_indices_that_do_not_fit_are_refused():
    part, state = make_part(5, 9, 3)
    with pytest.raises(ValueError, match="fan_in must be at most the number of inputs, 2; got 3"):
        rewire(part, state, 2, fraction=0.5, seed=0, step=0)
    part.indices[:] = [0, 1, 2]
    part.indices[3, 1] = 5
    with pytest.raises(ValueError, match="row 3 holds an input outside 0 to 4"):
        rewire(part, state, 5, fraction=0.5, seed=0, step=0)
    signed = part._replace(indices=part.indices.astype(np.int32))
    signed.indices[3, 1], signed.indices[4, 0] = 1, -1
    with pytest.raises(ValueError, match="row 4 holds an input outside 0 to 8"):
        rewire(signed, state, 9, fraction=0.5, seed=0, step=0)


def test_a_gradient_of_the_wrong_shape_is_refused():
    part, state = make_part(5, 9, 3)
    with pytest.raises(ValueError, match=r"gradient\(0, 5\) must have the shape .* \(5, 9\); got"):
        rewire(
            *(part, state, 9),
            fraction=0.5,
            grow="gradient",
            seed=0,
            step=0,
            gradient=lambda first, stop: np.zeros((stop - first, 3)),
        )


def test_the_compensation_is_reset_for_the_labels_that_have_one():
    for precision in ("bfloat16", "float8"):
        part, state = make_part(12, 40, 4, 4, precision)
        assert state.compensation.shape == (4, 4)
        assert decode(state.compensation, COMPENSATION[precision]).all()
        rewire(part, state, 40, prune="row", fraction=0.5, seed=0, step=0)
        zero = decode(part.weights, precision) == 0
        np.testing.assert_array_equal(state.compensation == 0, zero[:4])
        assert zero.sum() == 24
