"""Contrastive losses: against the definition, closed forms and numeric differences."""

import numpy as np
import pytest
from scipy.special import logsumexp

from skxmc.ops.contrastive import LOSSES, Pairs, contrastive_loss, numpy_, reference

SHAPES = [(1, 1), (1, 5), (7, 1), (5, 9), (13, 4)]


def problem(shape, seed=0, *, share=0.3, scale=3.0, soft=False, dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal(shape)).astype(dtype)
    state = rng.random(shape)
    rows, labels = np.nonzero(state < share)
    weights = rng.uniform(0.1, 1, len(rows)) if soft else None
    ignored = Pairs(*np.nonzero(state > 0.85))
    return logits, Pairs(rows, labels, weights), ignored


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("row_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(loss, row_share, shape):
    for seed in range(3):
        logits, positives, ignored = problem(shape, seed, soft=seed == 2)
        options = {"loss": loss, "row_share": row_share, "ignored": ignored}
        expected = reference.contrastive_loss(logits, positives, **options)
        result = contrastive_loss(logits, positives, **options)
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(result.gradient, expected.gradient, rtol=1e-10, atol=1e-13)
        single = contrastive_loss(logits.astype(np.float32), positives, **options)
        assert single.gradient.dtype == np.float32
        np.testing.assert_allclose(single.loss, expected.loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(single.gradient, expected.gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_numeric_one(loss):
    logits, positives, ignored = problem((4, 6), 1, soft=True)
    options = {"loss": loss, "row_share": 0.4, "ignored": ignored}
    gradient = contrastive_loss(logits, positives, **options).gradient
    numeric, step = np.zeros_like(logits), 1e-6
    for index in np.ndindex(*logits.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            numeric[index] += sign * contrastive_loss(moved, positives, **options).loss
    np.testing.assert_allclose(gradient, numeric / (2 * step), atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_blocks_do_not_matter(loss, monkeypatch):
    logits, positives, ignored = problem((11, 8), 4)
    whole = contrastive_loss(logits, positives, loss=loss, ignored=ignored)
    monkeypatch.setattr(numpy_, "_BLOCK", 16)  # two rows, one label
    parts = contrastive_loss(logits, positives, loss=loss, ignored=ignored)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-13)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-13, atol=1e-16)


def test_one_positive_a_row_is_the_softmax_cross_entropy():
    rng = np.random.default_rng(3)
    logits, target = rng.standard_normal((6, 5)), rng.integers(5, size=6)
    positives = Pairs(np.arange(6), target)
    expected = np.mean(logsumexp(logits, axis=1) - logits[np.arange(6), target])
    for loss in ("supcon", "decoupled"):
        result = contrastive_loss(logits, positives, loss=loss, row_share=1)
        np.testing.assert_allclose(result.loss, expected)


def test_decoupled_positives_do_not_compete():
    # two positives and one negative: each is a softmax of two, whatever the other positive scores
    logits, positives = np.array([[1.0, -2.0, 0.5]]), Pairs([0, 0], [0, 1])
    result = contrastive_loss(logits, positives, loss="decoupled", row_share=1)
    expected = (np.log1p(np.exp(0.5 - 1)) + np.log1p(np.exp(0.5 + 2))) / 2
    np.testing.assert_allclose(result.loss, expected)
    higher = np.array([[9.0, -2.0, 0.5]])
    other = contrastive_loss(higher, positives, loss="decoupled", row_share=1)
    np.testing.assert_allclose(other.gradient[0, 1], result.gradient[0, 1])
    supcon = [
        contrastive_loss(x, positives, loss="supcon", row_share=1).gradient[0, 1]
        for x in (logits, higher)
    ]
    assert supcon[1] < supcon[0]  # its pull upwards grows: it has lost probability


def test_transposed_problem_exchanges_the_directions():
    logits, positives, ignored = problem((5, 7), 2)
    swap = np.lexsort((positives.rows, positives.labels))
    swapped = Pairs(positives.labels[swap], positives.rows[swap])
    hide = np.lexsort((ignored.rows, ignored.labels))
    hidden = Pairs(ignored.labels[hide], ignored.rows[hide])
    one = contrastive_loss(logits, positives, row_share=0.2, ignored=ignored)
    other = contrastive_loss(np.ascontiguousarray(logits.T), swapped, row_share=0.8, ignored=hidden)
    np.testing.assert_allclose(one.loss, other.loss)
    np.testing.assert_allclose(one.gradient, other.gradient.T, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.filterwarnings("ignore:overflow")  # of the definition
def test_huge_logits_are_finite(loss, size):
    logits, positives, ignored = problem((6, 5), 5, scale=size, dtype=np.float32)
    result = contrastive_loss(logits, positives, loss=loss, ignored=ignored)
    expected = reference.contrastive_loss(logits, positives, loss=loss, ignored=ignored)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(result.gradient, expected.gradient, atol=1e-6)


def test_all_positive_and_none():
    logits = np.random.default_rng(0).standard_normal((3, 4))
    rows, labels = np.nonzero(np.ones((3, 4)))
    result = contrastive_loss(logits, Pairs(rows, labels))
    assert result.loss == 0
    assert not result.gradient.any()
    empty = Pairs(np.zeros(0, int), np.zeros(0, int))
    result = contrastive_loss(logits, empty)
    assert result.loss == 0
    assert not result.gradient.any()


def test_ignored_pairs_have_no_gradient_and_positives_win():
    logits, positives, _ = problem((4, 5), 6)
    everything = Pairs(*np.nonzero(np.ones((4, 5))))
    result = contrastive_loss(logits, positives, loss="decoupled+bce", ignored=everything)
    target = np.zeros((4, 5), dtype=bool)
    target[positives.rows, positives.labels] = True
    assert not result.gradient[~target].any()
    assert (result.gradient[target] < 0).all()


def test_read_only_logits():
    logits, positives, ignored = problem((4, 5), 7)
    logits.flags.writeable = False
    before = logits.copy()
    contrastive_loss(logits, positives, loss="supcon+bce", ignored=ignored)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        (Pairs([0], [9]), "outside"),
        (Pairs([-1], [0]), "outside"),
        (Pairs([1, 0], [0, 0]), "sorted"),
        (Pairs([0, 0], [1, 1]), "once"),
        (Pairs([0, 1], [1]), "equal length"),
        (Pairs([0], [1], [0.0]), r"\(0, 1\]"),
        (Pairs([0], [1], [0.5, 0.5]), "one weight"),
    ],
)
def test_bad_pairs(positives, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(np.zeros((2, 3)), positives)


def test_bad_arguments():
    with pytest.raises(ValueError, match="loss must be one of"):
        contrastive_loss(np.zeros((2, 3)), Pairs([0], [1]), loss="hinge")
    with pytest.raises(TypeError, match="integers"):
        contrastive_loss(np.zeros((2, 3)), Pairs([0.5], [1.0]))
    with pytest.raises(ValueError, match="float32 or float64"):
        contrastive_loss(np.zeros((2, 3), dtype=int), Pairs([0], [1]))
