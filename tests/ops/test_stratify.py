"""The stratification kernel against its reference, and both against the paper's algorithm."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from skxmc.ops.stratify import assign_folds, assign_folds_reference, compact_labels


def algorithm_1(rows, n_labels, ratios):
    """Algorithm 1 of Sechidis et al. (2011), line by line, on sets and exact fractions.

    Where the paper draws at random, the smallest label or fold number is taken. Rows without labels
    are left out, as in the algorithm.
    """
    D = {i: labels for i, labels in enumerate(rows) if labels}
    c = [len(rows) * r for r in ratios]
    c_label = [[sum(i in labels for labels in rows) * r for r in ratios] for i in range(n_labels)]
    S = {}
    while D:
        D_sizes = [sum(i in labels for labels in D.values()) for i in range(n_labels)]
        label = min((i for i in range(n_labels) if D_sizes[i]), key=lambda i: D_sizes[i])
        for x in sorted(x for x in D if label in D[x]):
            M = [j for j in range(len(c)) if c_label[label][j] == max(c_label[label])]
            if len(M) > 1:
                M = [j for j in M if c[j] == max(c[j] for j in M)]
            m = M[0]
            S[x] = m
            for i in D.pop(x):
                c_label[i][m] -= 1
            c[m] -= 1
    return S


@st.composite
def label_matrices(draw):
    n_rows = draw(st.integers(1, 14))
    n_labels = draw(st.integers(1, 7))
    density = draw(st.floats(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    Y = rng.random((n_rows, n_labels)) < density * rng.random(n_labels)
    return sp.csr_array(Y.astype(np.uint8))


@settings(deadline=None, max_examples=150)
@given(label_matrices(), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_equals_the_reference(Y, weights, seed):
    draws = np.random.default_rng(seed).random(Y.shape[0])
    folds = assign_folds(Y, weights, draws)
    assert folds.dtype == np.int32
    np.testing.assert_array_equal(folds, assign_folds_reference(Y, weights, draws))


@settings(deadline=None, max_examples=150)
@given(label_matrices(), st.integers(1, 5))
def test_equal_folds_follow_the_paper(Y, n_folds):
    rows = [set(Y.indices[Y.indptr[i] : Y.indptr[i + 1]].tolist()) for i in range(Y.shape[0])]
    expected = algorithm_1(rows, Y.shape[1], [Fraction(1, n_folds)] * n_folds)
    folds = assign_folds(Y, np.ones(n_folds, dtype=int), np.zeros(Y.shape[0]))
    assert {row: folds[row] for row in expected} == expected


@settings(deadline=None, max_examples=100)
@given(label_matrices(), st.integers(1, 5), st.integers(0, 99))
def test_no_equal_fold_is_empty(Y, n_folds, seed):
    folds = assign_folds(
        Y, np.ones(n_folds, dtype=int), np.random.default_rng(seed).random(Y.shape[0])
    )
    assert len(np.unique(folds)) == min(n_folds, Y.shape[0])


def test_a_single_label_is_exactly_proportional():
    Y = sp.csr_array(np.repeat([[1], [0]], [50, 150], axis=0))
    folds = assign_folds(Y, [7, 2, 1], np.zeros(200))
    np.testing.assert_array_equal(np.bincount(folds), [140, 40, 20])
    np.testing.assert_array_equal(np.bincount(folds[:50]), [35, 10, 5])


def test_labels_with_one_positive_are_shared_out_by_size():
    # The paper's literal rule would give all of them to the larger fold (0.8 desired against 0.2).
    folds = assign_folds(sp.eye_array(100).tocsr(), [80, 20], np.zeros(100))
    np.testing.assert_array_equal(np.bincount(folds), [80, 20])


def test_draws_choose_among_the_ties():
    Y = sp.csr_array(np.ones((1, 1)))
    for draw, fold in [(0.0, 0), (0.34, 1), (0.67, 2), (np.nextafter(1, 0), 2)]:
        assert assign_folds(Y, [1, 1, 1], [draw]) == [fold]


def test_columns_without_positives_change_nothing():
    rng = np.random.default_rng(0)
    narrow = sp.csr_array((rng.random((40, 6)) < 0.3).astype(np.uint8))
    columns = np.sort(rng.choice(3_000_000, 6, replace=False))
    wide = sp.csr_array(
        (narrow.data, columns[narrow.indices], narrow.indptr), shape=(40, 3_000_000)
    )
    draws = rng.random(40)
    np.testing.assert_array_equal(
        assign_folds(wide, [3, 2], draws), assign_folds(narrow, [3, 2], draws)
    )


def test_accepts_read_only_arrays_and_any_index_dtype():
    rng = np.random.default_rng(0)
    Y = sp.csr_array((rng.random((30, 5)) < 0.3).astype(np.uint8))
    draws = rng.random(30)
    expected = assign_folds_reference(Y, [1, 1], draws)
    for dtype in (np.int32, np.int64):
        frozen = Y.copy()
        frozen.indices, frozen.indptr = Y.indices.astype(dtype), Y.indptr.astype(dtype)
        for array in (frozen.data, frozen.indices, frozen.indptr, draws):
            array.flags.writeable = False
        np.testing.assert_array_equal(assign_folds(frozen, [1, 1], draws), expected)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_empty_shapes(shape):
    folds = assign_folds(sp.csr_array(shape, dtype=np.uint8), [1, 1], np.zeros(shape[0]))
    np.testing.assert_array_equal(folds, np.arange(shape[0]) % 2)


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [[1, 1]]])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="weights"):
        assign_folds(sp.csr_array(np.eye(3)), weights, np.zeros(3))


@pytest.mark.parametrize("draws", [[0.0, 0.0], [0.0, 0.5, 1.0], [-0.1, 0, 0], [np.nan, 0, 0]])
def test_draws_must_fit(draws):
    with pytest.raises(ValueError, match="draws"):
        assign_folds(sp.csr_array(np.eye(3)), [1, 1], draws)


@pytest.mark.parametrize("n_labels", [4, 1_000_000])
def test_compact_labels(n_labels):
    indices = np.array([3, 0, 3, 1, 1])
    compact, n_used = compact_labels(indices, n_labels)
    np.testing.assert_array_equal(compact, [2, 0, 2, 1, 1])
    assert (compact.dtype, n_used) == (np.int32, 3)
