"""Propensities against values computed by hand from the published formula."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import PROPENSITY_CONSTANTS, inverse_propensity, jpv_propensity


def by_hand(n_positives, n_samples, A, B):
    c = (math.log(n_samples) - 1) * (B + 1) ** A
    return 1 / (1 + c * math.exp(-A * math.log(n_positives + B)))


def test_published_values():
    # 50 rows: with one positive (B+1)^A cancels, p = 1 / ln 50.
    np.testing.assert_allclose(jpv_propensity([1, 25], 50), [0.25562, 0.55716], atol=1e-5)
    assert jpv_propensity([1], 50)[0] == pytest.approx(1 / math.log(50), rel=1e-14)


@pytest.mark.parametrize("name", PROPENSITY_CONSTANTS)
def test_formula(name):
    constants = PROPENSITY_CONSTANTS[name]
    counts = [0, 1, 2, 17, 1000]
    p = jpv_propensity(counts, n_samples=1000, **constants)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, [by_hand(c, 1000, **constants) for c in counts], rtol=1e-13)
    np.testing.assert_allclose(inverse_propensity(counts, 1000, **constants) * p, 1.0, rtol=1e-13)
    assert (np.diff(p) > 0).all()


def test_constants_of_the_data_sets():
    assert dict(PROPENSITY_CONSTANTS["default"]) == {"A": 0.55, "B": 1.5}
    assert dict(PROPENSITY_CONSTANTS["AmazonCat-13K"]) == {"A": 0.55, "B": 1.5}
    assert dict(PROPENSITY_CONSTANTS["Wikipedia-500K"]) == {"A": 0.5, "B": 0.4}
    assert dict(PROPENSITY_CONSTANTS["LF-AmazonTitles-1.3M"]) == {"A": 0.6, "B": 2.6}
    with pytest.raises(TypeError):
        PROPENSITY_CONSTANTS["default"]["A"] = 1.0


@pytest.mark.parametrize("n_samples", [1, 2])
def test_clamped_to_one_below_e_rows(n_samples):
    np.testing.assert_array_equal(jpv_propensity([0, 1], n_samples), [1.0, 1.0])


def test_a_zero_makes_all_labels_equal():
    np.testing.assert_allclose(jpv_propensity([0, 5], 100, A=0.0), 1 / math.log(100))


def test_label_matrix_gives_its_counts():
    rng = np.random.default_rng(0)
    Y = (rng.random((30, 8)) < 0.2).astype(int)
    Y[:, 3] = 0
    expected = jpv_propensity(Y.sum(axis=0), n_samples=30)
    for matrix in (
        Y,
        Y.astype(bool),
        Y.tolist(),
        sp.csr_array(Y),
        sp.csr_matrix(Y.astype(np.float32)),
        sp.csc_array(Y),
        sp.coo_array(Y),
    ):
        np.testing.assert_array_equal(jpv_propensity(matrix), expected)


def test_explicit_zeros_are_not_positives():
    Y = sp.csr_array((np.array([1, 0]), np.array([0, 1]), np.array([0, 2, 2])), shape=(2, 3))
    np.testing.assert_array_equal(jpv_propensity(sp.vstack([Y] * 5)), jpv_propensity([5, 0, 0], 10))


def test_wide_label_matrix_with_few_rows():
    Y = sp.csr_array(
        (np.ones(1), np.array([2_999_999]), np.array([0, 1, 1, 1])), shape=(3, 3_000_000)
    )
    p = jpv_propensity(Y)
    assert p.shape == (3_000_000,)
    assert p[-1] == pytest.approx(by_hand(1, 3, 0.55, 1.5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"Y_train": [1, 2]}, ValueError, "n_samples, .* is required"),
        ({"Y_train": np.eye(3), "n_samples": 3}, ValueError, "only for label counts"),
        ({"Y_train": [1, -1], "n_samples": 5}, ValueError, "count of label 1 is -1.0"),
        ({"Y_train": [1, 6], "n_samples": 5}, ValueError, "count of label 1 is 6.0"),
        ({"Y_train": [np.nan], "n_samples": 5}, ValueError, "count of label 0 is nan"),
        ({"Y_train": [1], "n_samples": 5.0}, TypeError, "n_samples must be an integer"),
        ({"Y_train": [0], "n_samples": 0}, ValueError, "at least one training row"),
        ({"Y_train": np.zeros((0, 3))}, ValueError, "at least one training row"),
        ({"Y_train": ["a"], "n_samples": 5}, ValueError, "dtype <U1"),
        ({"Y_train": np.zeros((1, 1, 1)), "n_samples": 5}, ValueError, "shape .1, 1, 1."),
        ({"Y_train": np.array([[0, 1], [2, 0]])}, ValueError, "row 1, column 0 holds 2"),
        ({"Y_train": [1], "n_samples": 5, "A": -0.1}, ValueError, "A must be"),
        ({"Y_train": [1], "n_samples": 5, "B": np.nan}, ValueError, "B must be"),
        ({"Y_train": [1, 0], "n_samples": 5, "B": 0.0}, ValueError, "Label 1 has no training row"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        jpv_propensity(**arguments)
