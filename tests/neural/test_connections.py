"""The first inputs of sparse labels, against the covariances written out."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from traced import traced_memory

from skxmc.neural import _connections
from skxmc.neural._front import IdentityFront
from skxmc.neural._output_layer import initial_parts

FAN_IN = 3


def problem(n_rows=60, n_inputs=11, n_labels=10, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
    Y = (rng.random((n_rows, n_labels)) < 0.2).astype(np.float32)
    Y[:, 4:6] = 0  # a group without positives
    return X, Y


def sparse_problem(n_rows, n_inputs, n_labels, density):
    """Sparse rows with one label each."""
    rng = np.random.default_rng(0)
    X = sp.random_array((n_rows, n_inputs), density=density, rng=rng, dtype="f4", format="csr")
    labels = rng.integers(n_labels, size=n_rows)
    Y = sp.csr_array((np.ones(n_rows), (np.arange(n_rows), labels)), shape=(n_rows, n_labels))
    return X, Y


def parts_of(plan, n_inputs):
    return initial_parts(plan, n_inputs, "float32", 5, bias=0.0)


def best_inputs(X, Y, group_size):
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    n_groups = -(-Y.shape[1] // group_size)
    for group in range(n_groups):
        members = Y[:, group * group_size : (group + 1) * group_size].sum(axis=1)
        yield (
            np.sort(np.argsort(-(members @ centred), kind="stable")[:FAN_IN])
            if members.any()
            else None
        )


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("chunk", [1 << 20, 40])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_largest_covariances(group_size, chunk, sparse, monkeypatch):
    monkeypatch.setattr(_connections, "_CHUNK", chunk)
    monkeypatch.setattr(_connections, "_ENTRIES", chunk)
    X, Y = problem()
    plan = [(2, None, 1), (8, FAN_IN, group_size)]  # a dense head before it
    parts, random = parts_of(plan, X.shape[1]), parts_of(plan, X.shape[1])
    front = IdentityFront(X.shape[1], scale=2.0)
    rows = sp.csr_array(X) if sparse else X
    _connections.connect_to_data(parts, front, rows, sp.csr_array(Y))
    expected = list(best_inputs(X, Y[:, 2:], group_size))
    assert sum(inputs is None for inputs in expected) == 2 // group_size
    for found, before, inputs in zip(parts[1].indices, random[1].indices, expected, strict=True):
        assert_array_equal(found, before if inputs is None else inputs)


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("entries", [1 << 18, 10])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_covariances_of_few_entries(group_size, entries, density, sign, monkeypatch):
    """Labels whose rows have fewer entries than a label has weights, and inputs without any."""
    monkeypatch.setattr(_connections, "_ENTRIES", entries)
    X, Y = problem(n_inputs=30)
    X = sign * np.abs(X) * (np.random.default_rng(1).random(X.shape) < density)
    X[:, 20] = 0
    parts = parts_of([(10, FAN_IN, group_size)], 30)
    front = IdentityFront(30)
    _connections.connect_to_data(parts, front, sp.csr_array(X), sp.csr_array(Y))
    for found, inputs in zip(parts[0].indices, best_inputs(X, Y, group_size), strict=True):
        if inputs is not None:
            assert_array_equal(found, inputs)


@pytest.mark.parametrize("sparse", [False, True])
def test_equal_covariances_take_the_smaller_input(sparse):
    X = np.repeat(np.array([[1.0], [0.0]], dtype=np.float32), 6, axis=1)
    parts = parts_of([(1, FAN_IN, 1)], 6)
    Y = sp.csr_array(np.array([[1.0], [0.0]], dtype=np.float32))
    _connections.connect_to_data(parts, IdentityFront(6), sp.csr_array(X) if sparse else X, Y)
    assert_array_equal(parts[0].indices, [[0, 1, 2]])


@pytest.mark.parametrize("shape", [(3000, 400, 900), (200, 900, 3000), (5000, 300, 40)])
def test_memory_is_what_it_says(shape):
    n_rows, n_inputs, n_labels = shape
    X, Y = sparse_problem(*shape, density=0.01)
    plan = [(n_labels, 16, 1)]
    parts, front = parts_of(plan, n_inputs), IdentityFront(n_inputs)
    with traced_memory() as peak:
        _connections.connect_to_data(parts, front, X.toarray(), Y)
        taken = peak() - 4 * n_rows * n_inputs
    said = _connections.connection_bytes(plan, n_inputs, n_rows)
    assert said <= 1.05 * taken
    assert taken <= 1.05 * said + 100 * n_rows  # and pairs of rows and labels


def test_memory_of_sparse_rows_is_what_it_says():
    n_rows, n_inputs, n_labels = 20_000, 30_000, 3000
    X, Y = sparse_problem(n_rows, n_inputs, n_labels, density=2e-3)
    plan = [(n_labels, 16, 1)]
    parts, front = parts_of(plan, n_inputs), IdentityFront(n_inputs)
    with traced_memory() as peak:
        _connections.connect_to_data(parts, front, X, Y)
        taken = peak()
    said = _connections.connection_bytes(plan, n_inputs, n_rows, sparse=True)
    assert 0.5 * said <= taken
    assert taken <= said + 100 * n_rows  # and pairs of rows and labels


def test_nothing_to_choose_takes_nothing():
    for sparse in (False, True):
        plan = [(9, None, 1), (5, 30, 1)]
        assert _connections.connection_bytes(plan, 30, 100, sparse=sparse) == 0
