"""Fronts: gradients by differences, Adam by its definition, rows that do not depend on others."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.neural import _front
from skxmc.ops.csr import canonical_csr

rng = np.random.default_rng(0)
ROWS = canonical_csr(sp.random_array((11, 20), density=0.3, rng=rng, dtype=np.float32))
WEIGHTS = rng.standard_normal((20, 7)).astype(np.float32)
BIAS = rng.standard_normal(7).astype(np.float32)


def numpy_front(**options):
    return _front.HiddenLayerFront(WEIGHTS.copy(), BIAS.copy(), **options)


def torch_front(**options):
    pytest.importorskip("torch")
    from skxmc.neural import torch_front

    return torch_front.HiddenLayerFront(WEIGHTS, BIAS, **options)


FRONTS = pytest.mark.parametrize("make", [numpy_front, torch_front])


@FRONTS
@pytest.mark.parametrize("form", [lambda X: X, lambda X: X.toarray()])
def test_hidden_layer_is_adam_on_its_gradient(make, form):
    """Three steps against Adam written down in float64; the gradient by its formula."""
    front = make()
    weights, bias = WEIGHTS.astype(float), BIAS.astype(float)
    moments = [np.zeros_like(weights), np.zeros_like(weights)]
    bias_moments = [np.zeros(7), np.zeros(7)]
    counts = np.zeros(20)
    for step, rows in enumerate(([0, 1, 2], [3, 4], [5, 1, 8, 9]), start=1):
        batch = canonical_csr(ROWS[rows])
        dense = batch.toarray().astype(float)
        features = front.forward(form(batch), training=True, seed=step)
        expected = np.maximum(dense @ weights + bias, 0)
        assert_allclose(np.asarray(features), expected, rtol=1e-4, atol=1e-5)
        upstream = rng.standard_normal(expected.shape).astype(np.float32)
        front.backward(type(features)(upstream) if make is torch_front else upstream)
        front.step(0.01)
        slope = upstream * (expected > 0)
        gradient = dense.T @ slope
        # sparse rows: features that are not in the batch stay as they are
        used = np.unique(batch.indices) if sp.issparse(form(batch)) else np.arange(20)
        counts[used] += 1
        for values, g, (m, v), at, t in (
            (weights, gradient, moments, used, counts[used][:, None]),
            (bias, slope.sum(axis=0), bias_moments, slice(None), step),
        ):
            m[at] = 0.9 * m[at] + 0.1 * g[at]
            v[at] = 0.999 * v[at] + 0.001 * g[at] ** 2
            values[at] -= 0.01 * (m[at] / (1 - 0.9**t)) / (np.sqrt(v[at] / (1 - 0.999**t)) + 1e-8)
        state = front.state()
        assert_allclose(state["weights"], weights, rtol=1e-4, atol=2e-5)
        assert_allclose(state["bias"], bias, rtol=1e-4, atol=2e-5)


@FRONTS
def test_dropout(make):
    front = make(dropout=0.4)
    plain = np.asarray(front.transform(ROWS))
    dropped = np.asarray(front.forward(ROWS, training=True, seed=3))
    assert_array_equal(dropped, np.asarray(front.forward(ROWS, training=True, seed=3)))
    kept = dropped != 0
    assert 0 < kept.sum() < (plain > 0).sum()
    assert_allclose(dropped[kept], plain[kept] / 0.6, rtol=1e-5)


@FRONTS
def test_state_goes_on_bit_for_bit(make):
    first, second = make(dropout=0.2), make(dropout=0.2)

    def step(front, number):
        front.backward(front.forward(ROWS, training=True, seed=number))
        front.step(0.05)

    for number in range(3):
        step(first, number)
    second.load_state({name: np.array(a) for name, a in first.state().items()})
    for front in (first, second):
        step(front, 3)
    for name, array in first.state().items():
        assert_array_equal(array, second.state()[name])


@pytest.mark.parametrize("width", [1, 7, 300])
def test_a_row_has_the_same_bits_alone_and_dense(width):
    weights = rng.standard_normal((20, width)).astype(np.float32)
    front = _front.HiddenLayerFront(weights, np.zeros(width, np.float32), n_jobs=2)
    together = front.transform(ROWS)
    assert_array_equal(front.transform(ROWS.toarray()), together)
    for row in range(11):
        for one in (ROWS[[row]], ROWS.toarray()[[row]]):
            assert_array_equal(
                front.transform(canonical_csr(one) if sp.issparse(one) else one)[0], together[row]
            )
    assert_allclose(together, np.maximum(ROWS.toarray() @ weights, 0), rtol=1e-5, atol=1e-6)


def test_identity_front():
    front = _front.IdentityFront(20, scale=2.0, dropout=0.5)
    assert_array_equal(front.transform(ROWS), 2 * ROWS.toarray())
    dropped = front.forward(ROWS, training=True, seed=1)
    kept = dropped != 0
    assert_array_equal(dropped[kept], 4 * ROWS.toarray()[kept])


def test_units_of_the_first_hidden_layer():
    """With labels: mean 0 and variance 1 over the rows, before rectification; one unit a label."""
    embeddings = canonical_csr(sp.random_array((5, 20), density=0.5, rng=rng, dtype=np.float32))
    for width in (3, 5, 12):
        weights, bias = _front.initial_hidden_layer(ROWS, width, embeddings, seed=0)
        units = ROWS @ weights + bias
        assert weights.shape == (20, width)
        assert_allclose(units.mean(axis=0), 0, atol=1e-4)
        assert_allclose(units.std(axis=0), 1, rtol=1e-3)
    directions = weights[:, :5] / np.linalg.norm(weights[:, :5], axis=0)
    expected = embeddings.toarray().T / np.linalg.norm(embeddings.toarray().T, axis=0)
    assert_allclose(directions, expected, rtol=1e-4, atol=1e-5)
    random, zeros = _front.initial_hidden_layer(ROWS, 400, None, seed=0)
    assert not zeros.any()
    assert random.std() == pytest.approx(
        0.1 * np.sqrt(2) / _front.root_mean_square_norm(ROWS), rel=0.05
    )
