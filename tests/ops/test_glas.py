"""The GLaS regulariser against its double sum and finite differences."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import check_grad

from skxmc.label_space import symmetrized_cooccurrence
from skxmc.ops.glas import glas


def problem(n_labels, dimension, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.random((30, n_labels)) < 0.3
    Y[0] = True
    return rng.normal(size=(n_labels, dimension)) / 2, symmetrized_cooccurrence(Y)


@pytest.mark.parametrize(("n_labels", "dimension"), [(1, 1), (1, 4), (7, 3), (5, 16), (33, 8)])
@pytest.mark.parametrize("sparse", [True, False])
def test_value_is_the_double_sum_and_gradient_its_slope(n_labels, dimension, sparse):
    W, S = problem(n_labels, dimension)
    S = S if sparse else S.toarray()
    dense = S.toarray() if sparse else S
    value, gradient = glas(W, S)
    expected = sum(
        (W[i] @ W[j] - dense[i, j]) ** 2 for i in range(n_labels) for j in range(n_labels)
    )
    assert value == pytest.approx(expected / n_labels**2, rel=1e-10)
    assert gradient.shape == W.shape

    def at(v):
        return glas(v.reshape(W.shape), S)

    error = check_grad(lambda v: at(v)[0], lambda v: at(v)[1].ravel(), W.ravel())
    assert error <= 1e-5 * max(1, np.linalg.norm(gradient))


def test_descent_makes_the_inner_products_those_of_the_labels():
    W, S = problem(6, 6)
    S = S.toarray() + np.eye(6)  # well inside the positive definite matrices
    for _ in range(4000):
        W = W - 0.9 * glas(W, S)[1]
    np.testing.assert_allclose(W @ W.T, S, atol=1e-4)
    assert glas(W, S)[0] < 1e-8


def test_labels_of_a_batch_in_float32():
    W, S = problem(20, 5)
    W = W.astype(np.float32)
    labels = np.array([3, 17, 4])
    value, gradient = glas(W[labels], S[labels][:, labels])
    assert gradient.dtype == np.float32
    error = W[labels].astype(float) @ W[labels].T - S.toarray()[np.ix_(labels, labels)]
    assert value == pytest.approx((error**2).mean(), rel=1e-5)
    np.testing.assert_allclose(gradient, 4 / 9 * error @ W[labels], rtol=1e-4)


@pytest.mark.parametrize(
    ("W", "S", "message"),
    [
        (np.ones(3), np.eye(3), "floating array"),
        (np.ones((2, 2), int), np.eye(2), "floating array"),
        (np.ones((0, 2)), np.empty((0, 0)), "a label at least"),
        (np.ones((2, 3)), np.eye(3), r"shape \(2, 2\)"),
        (np.ones((2, 3)), np.array([[1.0, 1.0], [0.0, 1.0]]), "symmetric"),
        (np.ones((2, 3)), sp.csr_array([[1.0, 1.0], [0.0, 1.0]]), "symmetric"),
    ],
)
def test_what_does_not_fit_is_refused(W, S, message):
    with pytest.raises(ValueError, match=message):
        glas(W, S)
