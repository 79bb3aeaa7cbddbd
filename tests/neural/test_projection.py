"""Heads of the dual encoder: gradients against numeric ones, rows of unit length."""

import numpy as np
import pytest

from skxmc.neural._projection import Projection, unit_rows, unit_rows_backward


def new(tanh, dropout=0.0, shape=(5, 3)):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(shape).astype(np.float32)
    bias = rng.standard_normal(shape[1]).astype(np.float32)
    return Projection(weights, bias, tanh=tanh, dropout=dropout)


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient(tanh, dropout):
    """Of sum(c * unit(g(x))), with respect to rows, weights and bias; in float64."""
    rng = np.random.default_rng(1)
    head = new(tanh, dropout)
    head.weights, head.bias = head.weights.astype(float), head.bias.astype(float)
    rows, direction = rng.standard_normal((7, 5)), rng.standard_normal((7, 3))

    def value():
        return float((unit_rows(head.forward(rows, seed=3))[0] * direction).sum())

    unit, lengths = unit_rows(head.forward(rows, seed=3))
    gradients = [head.backward(unit_rows_backward(unit, lengths, direction)), *head._gradient]
    for parameter, gradient in zip((rows, head.weights, head.bias), gradients, strict=True):
        numeric = np.zeros_like(parameter)
        for index in np.ndindex(*parameter.shape):
            kept = parameter[index]
            for sign in (1, -1):
                parameter[index] = kept + sign * 1e-6
                numeric[index] += sign * value() / 2e-6
            parameter[index] = kept
        np.testing.assert_allclose(gradient, numeric, atol=1e-6)


@pytest.mark.parametrize("tanh", [False, True])
def test_transform_is_the_forward_without_dropout(tanh):
    head = new(tanh)
    rows = np.random.default_rng(2).standard_normal((9, 5)).astype(np.float32)
    expected = rows.astype(float) @ head.weights + head.bias
    expected = np.tanh(expected) if tanh else expected
    np.testing.assert_allclose(head.forward(rows, seed=0), expected, rtol=1e-4, atol=1e-5)
    found = head.transform(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for row in range(9):  # alone: the same bits
        np.testing.assert_array_equal(head.transform(rows[row : row + 1])[0], found[row])


def test_begins_with_the_geometry_of_the_encoder():
    rows = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)
    same = Projection.new(6, 6, seed=0)
    np.testing.assert_array_equal(same.transform(rows), rows)
    narrow = Projection.new(6, 3, seed=0)
    np.testing.assert_allclose(narrow.weights.T @ narrow.weights, np.eye(3), atol=1e-6)


def test_first_step_of_adam_moves_by_the_learning_rate():
    head = new(False)
    before = head.weights.copy(), head.bias.copy()
    head.forward(np.ones((2, 5), np.float32), seed=0)
    head.backward(np.full((2, 3), -1.0, np.float32))
    head.step(0.25)
    np.testing.assert_allclose(head.weights - before[0], 0.25, rtol=1e-4)
    np.testing.assert_allclose(head.bias - before[1], 0.25, rtol=1e-4)


def test_state_goes_on_bit_for_bit():
    rows = np.random.default_rng(4).standard_normal((6, 5)).astype(np.float32)

    def train(head, n_steps, first=0):
        for step in range(first, first + n_steps):
            head.backward(head.forward(rows, seed=step))
            head.step(0.1)

    whole, first, second = new(True, 0.3), new(True, 0.3), new(True, 0.3)
    train(whole, 4)
    train(first, 2)
    second.load_state(first.state())
    train(first, 1)  # the copy does not notice
    train(second, 2, first=2)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], array)


def test_rows_of_zeros_stay_zero():
    unit, lengths = unit_rows(np.float32([[3, 4], [0, 0]]))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]])
    gradient = unit_rows_backward(unit, lengths, np.ones((2, 2), np.float32))
    assert np.isfinite(gradient).all()
