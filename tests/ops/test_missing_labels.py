"""Losses for missing labels: against the formulas, and unbiased over all masks of a row."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.ops.missing_labels import (
    bounded_label_shares,
    general_estimate,
    ova_convex_loss,
    ova_normalized_unbiased_loss,
    ova_unbiased_loss,
    pal_normalized_bound_loss,
    pal_normalized_unbiased_loss,
    pal_unbiased_loss,
    reference,
    sublabeling_weights,
    unbiased_label_shares,
)

BINARY = sorted(reference.BINARY_LOSSES)
P = np.array([0.3, 0.55, 1.0, 0.8, 0.45])
ALL_LOSSES = [
    ova_unbiased_loss,
    ova_convex_loss,
    ova_normalized_unbiased_loss,
    pal_unbiased_loss,
    pal_normalized_unbiased_loss,
    pal_normalized_bound_loss,
]


def make_block(n_rows=7, n_labels=5, seed=0):
    """Scores on both sides of the hinges, rows with no, some and all labels."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=1.5, size=(n_rows, n_labels))
    Y = (rng.random((n_rows, n_labels)) < 0.4).astype(np.uint8)
    Y[0], Y[1] = 0, 1
    return scores, Y


def masks_of(y, p):
    """All observed label sets of the complete labels y, with their probabilities."""
    present = np.flatnonzero(y)
    for kept in itertools.product([0, 1], repeat=len(present)):
        observed = np.zeros_like(y)
        observed[present] = kept
        yield np.prod(np.where(kept, p[present], 1 - p[present])), observed


def expectation(loss, scores, y, p):
    """Mean over the masks of a loss on the observed labels of one row, and of its gradient."""
    probabilities, observed = zip(*masks_of(y, p), strict=True)
    observed = np.array(observed)
    values, gradients = loss(np.tile(scores, (len(observed), 1)), observed, 1 / p)
    return probabilities @ values, probabilities @ gradients


# ------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("name", BINARY)
def test_one_vs_all_is_the_reference(name):
    scores, Y = make_block()
    loss = reference.BINARY_LOSSES[name]
    c = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    assert_allclose(
        ova_unbiased_loss(scores, Y, 1 / P, loss=name).loss,
        [reference.ova_unbiased(s, y, P, loss) for s, y in zip(scores, Y)],
        rtol=1e-12,
    )
    assert_allclose(
        ova_convex_loss(scores, Y, 1 / P, loss=name, positive_weight=c).loss,
        [reference.ova_convex(s, y, P, loss, c) for s, y in zip(scores, Y)],
        rtol=1e-12,
    )


def test_pick_all_labels_is_the_reference():
    scores, Y = make_block()
    for loss, formula in (
        (pal_unbiased_loss, reference.pal_unbiased),
        (pal_normalized_bound_loss, reference.pal_normalized_bound),
        (
            pal_normalized_unbiased_loss,
            lambda s, y, p: reference.general(lambda t: reference.pal_normalized(s, t), y, p),
        ),
    ):
        expected = [formula(s, y, P) for s, y in zip(scores, Y)]
        assert_allclose(loss(scores, Y, 1 / P).loss, expected, rtol=1e-10, atol=1e-12)


def test_without_propensities_they_are_the_usual_losses():
    scores, Y = make_block()
    rows = list(zip(scores, Y))
    for name in BINARY:
        binary = reference.BINARY_LOSSES[name]
        usual = [reference.ova(s, y, binary) for s, y in rows]
        assert_allclose(ova_unbiased_loss(scores, Y, loss=name).loss, usual)
        assert_allclose(ova_convex_loss(scores, Y, loss=name).loss, usual)
        assert_allclose(
            ova_normalized_unbiased_loss(scores, Y, loss=name).loss,
            [reference.ova_normalized(s, y, binary) for s, y in rows],
        )
    assert_allclose(pal_unbiased_loss(scores, Y).loss, [reference.pal(s, y) for s, y in rows])
    normalized = [reference.pal_normalized(s, y) for s, y in rows]
    assert_allclose(pal_normalized_unbiased_loss(scores, Y).loss, normalized)
    assert_allclose(pal_normalized_bound_loss(scores, Y).loss, normalized)


def test_shares_are_those_of_the_enumeration():
    _, Y = make_block(n_rows=9, n_labels=5, seed=3)
    expected = [
        reference.general(lambda t, j=j: t[j] / max(t.sum(), 1), y, P)
        for y in Y
        for j in np.flatnonzero(y)
    ]
    assert_allclose(unbiased_label_shares(Y, 1 / P), expected, rtol=1e-10)


def test_shares_of_many_labels():
    # p = 1: exactly 1 / c; and they sum to 1 for every p, because the weights do, less the weight
    # of the empty set.
    Y = np.ones((1, 60), dtype=int)
    assert_allclose(unbiased_label_shares(Y), 1 / 60, rtol=1e-12)
    inverse = np.full(60, 1 / 0.9)
    assert_allclose(unbiased_label_shares(Y, inverse).sum(), 1 - (1 - 1 / 0.9) ** 60, rtol=1e-9)


def test_shares_beyond_the_range_of_floats_name_the_row():
    Y = np.zeros((3, 500), dtype=int)
    Y[1] = 1
    with pytest.raises(ValueError, match="Row 1 has 500 labels"):
        unbiased_label_shares(Y, np.full(500, 1e3))


# ------------------------------------------------------------------ unbiasedness, by enumeration


@pytest.mark.parametrize("name", BINARY)
def test_one_vs_all_is_unbiased(name):
    scores, Y = make_block()
    for loss in (ova_unbiased_loss, ova_normalized_unbiased_loss):
        complete = loss(scores, Y, loss=name)
        for row, (s, y) in enumerate(zip(scores, Y)):
            value, gradient = expectation(lambda *a: loss(*a, loss=name), s, y, P)  # noqa: B023
            assert_allclose(value, complete.loss[row], rtol=1e-10)
            assert_allclose(gradient, complete.gradient[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [pal_unbiased_loss, pal_normalized_unbiased_loss])
def test_pick_all_labels_is_unbiased(loss):
    scores, Y = make_block()
    complete = loss(scores, Y)
    for row, (s, y) in enumerate(zip(scores, Y)):
        value, gradient = expectation(loss, s, y, P)
        assert_allclose(value, complete.loss[row], rtol=1e-10, atol=1e-12)
        assert_allclose(gradient, complete.gradient[row], rtol=1e-10, atol=1e-12)


def test_the_bound_bounds_and_the_usual_loss_does_not():
    scores, Y = make_block()
    for s, y in zip(scores, Y):
        complete = reference.pal_normalized(s, y)
        bound, _ = expectation(pal_normalized_bound_loss, s, y, P)
        naive, _ = expectation(lambda a, b, _: pal_normalized_unbiased_loss(a, b), s, y, P)
        assert bound >= complete - 1e-12
        if y.sum() == 5:
            assert bound > complete + 0.01
            assert naive < complete  # what is missing entirely counts 0


def test_shares_bound_in_expectation():
    y = np.array([1, 1, 1, 0, 1])
    for j in np.flatnonzero(y):
        mean = unbiased = 0.0
        for probability, observed in masks_of(y, P):
            if observed[j]:
                position = observed[:j].sum()
                mean += probability * bounded_label_shares(observed[None], 1 / P)[position]
                unbiased += probability * unbiased_label_shares(observed[None], 1 / P)[position]
        assert mean > 0.25
        assert_allclose(unbiased, 0.25, rtol=1e-12)


def test_convex_loss_is_an_upper_bound_of_the_shifted_unbiased_zero_one_loss():
    scores = np.linspace(-4, 4, 161)[:, None]
    p = np.array([0.75])
    # Shifted so that a right answer costs 0: (2 / p - 1) for an observed label that is not
    # answered, 1 for a wrong one; the unbiased 0-1 loss is this but for a constant.
    for label, cost in ((1, 2 / 0.75 - 1), (0, 1.0)):
        Y = np.full((161, 1), label)
        wrong = scores[:, 0] < 0 if label else scores[:, 0] > 0
        unbiased = np.where(wrong, 1 / 0.75, 1 - 1 / 0.75) if label else wrong.astype(float)
        shift = unbiased.min()
        for name in ("hinge", "squared_hinge"):
            surrogate = ova_convex_loss(scores, Y, 1 / p, loss=name).loss
            assert (surrogate >= unbiased - shift - 1e-12).all()
            assert (np.diff(surrogate, 2) >= -1e-9).all()  # convex
            at_margin_zero = surrogate[80]
            assert_allclose(at_margin_zero, cost)


def test_unbiased_one_vs_all_is_not_bounded_below():
    scores = np.linspace(-4, 8, 241)[:, None]
    Y = np.ones((241, 1), dtype=int)
    convex = {}
    for name in BINARY:
        values = ova_unbiased_loss(scores, Y, [4 / 3], loss=name).loss
        assert values[-1] < -2.5  # it falls with slope 1 - 1 / p, or faster
        assert values[-1] < values[-40]
        convex[name] = bool((np.diff(values, 2) >= -1e-9).all())
    # second derivatives of l(s, 0) and l(s, 1) agree for the logistic loss only (thesis 3.1)
    assert convex == {"hinge": False, "logistic": True, "squared_hinge": False}


# ------------------------------------------------------------------ gradients, containers


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_gradients_are_those_of_finite_differences(loss):
    scores, Y = make_block(seed=5)
    gradient = loss(scores, Y, 1 / P).gradient
    step = 1e-6
    for column in range(scores.shape[1]):
        up, down = scores.copy(), scores.copy()
        up[:, column] += step
        down[:, column] -= step
        slope = (loss(up, Y, 1 / P).loss - loss(down, Y, 1 / P).loss) / (2 * step)
        assert_allclose(gradient[:, column], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", BINARY)
def test_gradients_of_the_binary_losses(name):
    scores, Y = make_block(seed=6)
    gradient = ova_unbiased_loss(scores, Y, 1 / P, loss=name).gradient
    step = 1e-6
    total = [ova_unbiased_loss(scores + shift, Y, 1 / P, loss=name).loss for shift in (step, -step)]
    assert_allclose(gradient.sum(axis=1), (total[0] - total[1]) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_complete_lists_are_the_dense_block(loss):
    scores, Y = make_block()
    dense = loss(scores, Y, 1 / P)
    for container in (sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_array):
        value, gradient = loss(container(scores), sp.csc_array(Y), 1 / P)
        assert isinstance(gradient, sp.csr_array)
        assert_allclose(value, dense.loss, rtol=1e-12)
        assert_allclose(gradient.toarray(), dense.gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [ova_unbiased_loss, ova_convex_loss, pal_unbiased_loss])
def test_lists_are_blocks_of_their_candidates(loss):
    scores, Y = make_block(seed=2)
    candidates = [[0, 2, 4], [1, 2], [], [0, 1, 2, 3, 4], [3], [2, 4], [0, 1]]
    mask = np.zeros(scores.shape, dtype=bool)
    for row, columns in enumerate(candidates):
        mask[row, columns] = True
    scores[0, 2] = 0.0  # a stored zero is a candidate
    rows, columns = np.nonzero(mask)
    lists = sp.csr_array((scores[mask], (rows, columns)), shape=scores.shape)
    value, gradient = loss(lists, Y, 1 / P)
    assert gradient.nnz == mask.sum()
    for row, columns in enumerate(candidates):
        alone = loss(scores[row : row + 1, columns], Y[row : row + 1, columns], 1 / P[columns])
        assert_allclose(value[row], alone.loss[0])
        assert_allclose(gradient.toarray()[row, columns], alone.gradient[0])


def test_normalised_losses_of_lists_count_labels_outside_of_them():
    Y = np.array([[1, 1, 0]])
    lists = sp.csr_array((np.zeros(2), ([0, 0], [0, 2])), shape=(1, 3))
    # one of two labels, softmax over two candidates
    assert_allclose(pal_normalized_unbiased_loss(lists, Y).loss, np.log(2) / 2)
    assert_allclose(pal_normalized_bound_loss(lists, Y).loss, np.log(2) / 2)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_float32_read_only_and_large_scores(loss):
    scores, Y = make_block()
    expected = loss(scores, Y, 1 / P)
    single = scores.astype(np.float32)
    inverse = 1 / P
    for array in (single, Y, inverse):
        array.setflags(write=False)
    before = single.copy()
    value, gradient = loss(single, Y, inverse)
    assert gradient.dtype == np.float32
    assert value.dtype == np.float64
    assert_allclose(value, expected.loss, rtol=2e-5, atol=1e-5)
    assert_allclose(gradient, expected.gradient, rtol=2e-4, atol=1e-5)
    assert_array_equal(single, before)
    huge = loss(np.array([[1e4, -1e4, 0.0]]), np.array([[0, 1, 0]]), [2.0, 2.0, 2.0])
    assert np.isfinite(huge.loss).all()
    assert np.isfinite(huge.gradient).all()


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 1), (2, 0)])
def test_small_shapes(loss, shape):
    value, gradient = loss(np.ones(shape), np.ones(shape, dtype=int), np.full(shape[1], 2.0))
    assert value.shape == (shape[0],)
    assert gradient.shape == shape


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 2), dtype=int), None), "shape"),
        ((np.ones(3), np.ones((1, 3), dtype=int), None), "shape"),
        ((np.ones((1, 2)), np.array([[2, 0]]), None), "row 0, column 0 holds 2"),
        ((np.array([[0.0, np.nan]]), np.array([[1, 0]]), None), "row 0, column 1"),
        ((sp.csr_array([[1.0, np.inf]]), np.array([[1, 0]]), None), "row 0, column 1"),
        ((np.array([["a"]]), np.array([[1]]), None), "numeric"),
        ((np.ones((1, 2)), np.array([[1, 0]]), [1.0]), "each of the 2 labels"),
        ((np.ones((1, 2)), np.array([[1, 0]]), [2.0, 0.5]), "label 1 is 0.5"),
        ((np.ones((1, 2)), np.array([[1, 0]]), [np.nan, 1.0]), "label 0 is nan"),
        ((np.ones((1, 2)), np.array([[1, 0]]), [np.inf, 1.0]), "label 0 is inf"),
    ],
)
def test_bad_input(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(*arguments)


def test_bad_options():
    with pytest.raises(ValueError, match="loss must be one of"):
        ova_unbiased_loss(np.ones((1, 1)), np.ones((1, 1)), loss="zero_one")
    for weight, message in (([0.0], "label 0 is 0.0"), ([1.0, 2.0], "each of the 1 labels")):
        with pytest.raises(ValueError, match=message):
            ova_convex_loss(np.ones((1, 1)), np.ones((1, 1)), positive_weight=weight)


# ------------------------------------------------------------------ the general estimator


def f1_of(subsets):
    """A function that is no sum over labels: F1 of a fixed answer."""
    answer = np.array([1, 0, 1, 1])[: subsets.shape[1]]
    return 2 * (subsets * answer).sum(axis=1) / (answer.sum() + subsets.sum(axis=1))


def test_weights_are_the_product_and_sum_to_one():
    inverse = np.array([2.0, 4.0, 1.0])
    weights = sublabeling_weights(inverse)
    for code in range(8):
        bits = code >> np.arange(3) & 1
        assert weights[code] == np.prod(np.where(bits, inverse, 1 - inverse))
    assert weights.sum() == pytest.approx(1.0)
    assert_array_equal(sublabeling_weights([]), [1.0])


def test_general_estimate_is_unbiased_by_enumeration():
    for y in itertools.product([0, 1], repeat=4):
        y = np.array(y)
        mean = 0.0
        for probability, observed in masks_of(y, P[:4]):
            kept = np.flatnonzero(observed)

            def f1_of_observed(subsets, kept=kept):
                full = np.zeros((len(subsets), 4), dtype=int)
                full[:, kept] = subsets
                return f1_of(full)

            estimate = general_estimate(f1_of_observed, 1 / P[kept])
            reference_value = reference.general(lambda t: f1_of(t[None])[0], observed, P)
            assert_allclose(estimate, reference_value, rtol=1e-10, atol=1e-12)
            mean += probability * estimate
        assert_allclose(mean, f1_of(y[None])[0], atol=1e-12)


def test_drawn_estimate_agrees_with_the_exact_one():
    inverse = 1 / P[[0, 1, 3, 4]]
    exact = general_estimate(f1_of, inverse)
    drawn = np.array(
        [
            general_estimate(f1_of, inverse, max_exact=0, n_draws=500, random_state=s)
            for s in range(200)
        ]
    )
    error = drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert 0 < error < 0.3
    assert abs(drawn.mean() - exact) < 5 * error
    assert drawn[3] == general_estimate(f1_of, inverse, max_exact=0, n_draws=500, random_state=3)


def test_certain_labels_cost_nothing():
    calls = []

    def count(subsets):
        calls.append(len(subsets))
        return subsets.sum(axis=1)

    inverse = np.ones(200)
    inverse[7] = 4.0
    assert general_estimate(count, inverse) == pytest.approx(199 + 4)
    assert calls == [2]
    # also where subsets are drawn
    assert general_estimate(lambda t: t[:, 0], np.array([1.0] + [2.0] * 3), max_exact=0) != 0
    drawn = general_estimate(
        lambda t: (~t[:, 0]).astype(float), np.array([1.0] + [2.0] * 3), max_exact=0
    )
    assert drawn == 0.0


def test_general_estimate_of_gradients_and_in_chunks():
    scores = np.array([0.5, -1.0, 2.0])
    inverse = 1 / P[:3]

    def gradients(subsets):
        tiled = np.tile(scores, (len(subsets), 1))
        return pal_normalized_unbiased_loss(tiled, subsets.astype(int)).gradient

    expected = pal_normalized_unbiased_loss(scores[None], np.ones((1, 3), dtype=int), inverse)
    assert_allclose(general_estimate(gradients, inverse), expected.gradient[0], rtol=1e-10)
    sizes = []

    def total(subsets):
        sizes.append(len(subsets))
        return subsets.sum(axis=1)

    inverse = np.full(15, 1.25)
    assert_allclose(general_estimate(total, inverse, max_exact=15), 15 * 1.25, rtol=1e-9)
    assert max(sizes) <= 2**14
    assert sum(sizes) == 2**15


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inv_propensity": [0.5]}, ValueError, "inv_propensity.0. is 0.5"),
        ({"inv_propensity": [[2.0]]}, ValueError, "one value for each"),
        ({"max_exact": 21}, ValueError, "between 0 and 20"),
        ({"max_exact": 1.5}, TypeError, "max_exact must be an integer"),
        ({"n_draws": 0}, ValueError, "at least 1"),
        ({"function": lambda t: 3.0}, ValueError, "array of that length"),
        ({"function": lambda t: np.ones(7)}, ValueError, "array of that length"),
    ],
)
def test_general_estimate_bad_input(options, error, message):
    options = {"function": lambda t: t.sum(axis=1), "inv_propensity": [2.0], **options}
    with pytest.raises(error, match=message):
        general_estimate(**options)


def test_too_many_labels_are_not_listed():
    with pytest.raises(ValueError, match="too many subsets"):
        sublabeling_weights(np.full(21, 2.0))
