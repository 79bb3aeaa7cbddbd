"""The torch solver against the definition, the Numba solver and closed forms, on the processor."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skxmc.ops import linear_solver
from skxmc.ops.linear_solver import reference, torch_

LOSSES = ["squared_hinge", "logistic"]
STARTS = ["zero", "mean-separating", "multi-positive"]


@pytest.fixture(autouse=True)
def one_thread():
    """The problems are small: threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_problem(n_samples=150, n_features=120, n_labels=23, seed=0):
    """Rows of unit length and labels of falling frequency that depend on them, the last by one."""
    rng = np.random.default_rng(seed)
    X = rng.random((n_samples, n_features)) * (rng.random((n_samples, n_features)) < 0.1)
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    X[3] = 0
    X[:, 5] = 0
    planted = X @ rng.standard_normal((n_features, n_labels))
    n_pos = np.linspace(n_samples // 3, 1, n_labels).astype(int)
    labels = [np.sort(np.argsort(-planted[:, j])[: n_pos[j]]) for j in range(n_labels)]
    return sp.csr_array(X.astype(np.float32)), labels


def arrays_of(labels):
    indptr = np.cumsum([0, *map(len, labels)])
    return indptr, np.concatenate([*labels, []]).astype(np.int32)


def solve(X, labels, *, bias_value=1.0, **options):
    rows = torch_.prepare(X.indptr, X.indices, X.data, X.shape[1], bias_value)
    return torch_.solve(rows, *arrays_of(labels), **options)


def solve_numba(X, labels, *, bias_value=1.0, **options):
    rows = linear_solver.prepare(X.indptr, X.indices, X.data, X.shape[1], bias_value)
    return linear_solver.solve(rows, *arrays_of(labels), **options)


def dense_weights(solution, n_features):
    shape = len(solution.bias), n_features
    coef = sp.csr_array((solution.data, solution.indices, solution.indptr), shape=shape)
    return coef.toarray().astype(np.float64)


def excess(X, positives, w, b, *, C=1.0, positive_cost=1.0, **setting):
    """Objective over the optimum of the reference, relative."""
    y = reference.signs(positives, X.shape[0])
    problem = X.toarray().astype(np.float64), y, reference.costs(y, C, positive_cost)
    best = reference.objective(*reference.solve_reference(*problem, **setting), *problem, **setting)
    return reference.objective(w, float(b), *problem, **setting) / best - 1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_every_start_reaches_the_reference_optimum(loss, start, regularize_bias):
    X, labels = make_problem()
    labels = labels[::4]
    setting = {"loss": loss, "regularize_bias": regularize_bias}
    solution = solve(X, labels, start=start, tol=1e-4, **setting)
    assert solution.converged.all()
    for positives, w, b in zip(
        labels, dense_weights(solution, X.shape[1]), solution.bias, strict=True
    ):
        assert abs(excess(X, positives, w, b, **setting)) < 1e-5


@pytest.mark.parametrize("bias_value", [0.0, 2.5])
@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_solutions_are_those_of_the_numba_solver(loss, C, bias_value):
    X, labels = make_problem()
    cost = np.linspace(0.5, 4.0, len(labels))
    setting = {"loss": loss, "C": C, "positive_cost": cost, "bias_value": bias_value, "tol": 1e-5}
    mine, numba = solve(X, labels, **setting), solve_numba(X, labels, **setting)
    weights, expected = (dense_weights(solution, X.shape[1]) for solution in (mine, numba))
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(mine.bias, numba.bias, rtol=1e-3, atol=1e-3)
    for positives, c, w, b, v, a in zip(
        labels, cost, weights, mine.bias, expected, numba.bias, strict=True
    ):
        args = {"loss": loss, "C": C, "positive_cost": c, "bias_value": bias_value}
        assert abs(excess(X, positives, w, b, **args) - excess(X, positives, v, a, **args)) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_over_all_rows_is_within_the_target(loss):
    X, labels = make_problem()
    solution = solve(X, labels, loss=loss, C=3.0, tol=0.05)
    assert solution.converged.all()
    dense = X.toarray().astype(np.float64)
    for positives, w, b in zip(labels, dense_weights(solution, X.shape[1]), solution.bias):
        y = reference.signs(positives, X.shape[0])
        g = reference.gradient(w, float(b), dense, y, reference.costs(y, 3.0), loss=loss)
        target = reference.stopping_target(dense, positives, loss=loss, C=3.0, tol=0.05)
        assert np.linalg.norm(g) <= 1.001 * target + 1e-5


@pytest.mark.parametrize("n_pos", [1, 5, 40])
@pytest.mark.parametrize("bias_value", [0.0, 2.5])
def test_starts_follow_their_formulas(n_pos, bias_value):
    X, _ = make_problem(n_samples=60, n_features=80)
    positives = np.sort(np.random.default_rng(1).choice(60, n_pos, replace=False))
    rows = torch_.prepare(X.indptr, X.indices, X.data, X.shape[1], bias_value)
    block = torch_._positives(*arrays_of([positives, positives[:1]]), 0, 2)
    for start in STARTS:
        problem = torch_._Problem(torch_.SQUARED_HINGE, start, 1.0, 1.0, 0.01, 9, 0.0, None)
        costs = torch.full((60, 2), -1.0)
        costs[torch_._at(block, "cpu")] = 1.0
        W, target = torch_._starts(problem, rows, block, np.ones(2), costs)
        w, b = np.zeros(X.shape[1]), 0.0
        if start == "mean-separating" or (start == "multi-positive" and n_pos > 32):
            w, b = reference.mean_separating_start(X, positives, bias_value)
        elif start == "multi-positive":
            w, b = reference.multi_positive_start(X, positives, bias_value)
        scale = max(np.abs(w).max(), 1)
        np.testing.assert_allclose(W[:-1, 0], w, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(W[-1, 0], b, rtol=1e-4, atol=1e-5 * scale)
        expected = reference.stopping_target(X, positives, tol=0.01, bias_value=bias_value)
        np.testing.assert_allclose(target[0], expected, rtol=1e-5)


def test_closed_form_of_one_row():
    X = sp.csr_array(np.array([[1.0]], np.float32))
    for loss, minimum in (("squared_hinge", 2 / 3), ("logistic", 0.4010581)):  # w = 1 / (1 + e^w)
        solution = solve(X, [np.array([0])], bias_value=0.0, loss=loss, tol=1e-7)
        np.testing.assert_allclose(solution.data, [minimum], rtol=1e-6)


def test_the_size_of_a_block_changes_nothing():
    X, labels = make_problem()
    one = torch_.label_bytes(*X.shape)
    whole = solve(X, labels, tol=1e-3)
    for n_block in (1, 7):
        assert torch_.block_size(*X.shape, n_block * one) == n_block
        parts = solve(X, labels, tol=1e-3, block_bytes=n_block * one)
        for mine, expected in zip(parts[:6], whole[:6], strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_the_same_bits_again():
    X, labels = make_problem()
    first, second = (solve(X, labels, loss="logistic") for _ in range(2))
    for mine, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_threshold_returns_exactly_the_weights_that_reach_it(threshold):
    X, labels = make_problem()
    every = dense_weights(solve(X, labels), X.shape[1])
    pruned = solve(X, labels, threshold=threshold)
    np.testing.assert_array_equal(
        dense_weights(pruned, X.shape[1]), reference.prune_by_threshold(every, threshold)
    )
    assert (pruned.data != 0).all()
    assert (np.diff(pruned.indptr) == (np.abs(every) >= max(threshold, 1e-30)).sum(axis=1)).all()


def test_no_weights_for_features_of_no_row_inside_the_margin():
    """Unpruned weights are as few as the solution has: what the start had elsewhere is gone."""
    X, labels = make_problem()
    mine, numba = solve(X, labels), solve_numba(X, labels)
    assert len(mine.data) <= 1.1 * len(numba.data)
    assert 5 not in mine.indices  # the empty column


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tol", [0.0, 0.1, 1e9])
def test_loss_tolerance_drops_as_many_small_weights_as_the_bound_allows(loss, tol):
    X, labels = make_problem()
    labels = labels[::5]
    every = solve(X, labels, loss=loss)
    pruned = dense_weights(solve(X, labels, loss=loss, loss_tolerance=tol), X.shape[1])
    for label, w in enumerate(dense_weights(every, X.shape[1])):
        y = reference.signs(labels[label], X.shape[0])
        args = X.toarray().astype(np.float64), y, reference.costs(y)
        expected, _ = reference.prune_by_loss(w, every.bias[label], *args, tol, loss=loss)
        # float32 scores decide about the last weight or two
        assert abs(np.count_nonzero(pruned[label]) - np.count_nonzero(expected)) <= 2
        kept = pruned[label] != 0
        np.testing.assert_array_equal(pruned[label][kept], w[kept])
        assert np.abs(w[~kept]).max(initial=0) <= np.abs(w[kept]).min(initial=np.inf)


def test_an_exhausted_budget_is_reported():
    X, labels = make_problem()
    solution = solve(X, labels, tol=1e-6, max_iter=2)
    assert not solution.converged.all()
    assert solution.n_iter.max() == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tolerance_of_zero_ends_at_the_optimum(loss):
    X, labels = make_problem(80, 60, 4)
    solution = solve(X, labels, loss=loss, tol=0.0)
    assert solution.n_iter.max() < 100
    for positives, w, b in zip(labels, dense_weights(solution, X.shape[1]), solution.bias):
        assert abs(excess(X, positives, w, b, loss=loss)) < 1e-6


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ["all positive", "one row", "identical rows", "zero rows"])
def test_odd_rows_reach_the_reference_optimum(kind, start):
    X, _ = make_problem(30, 20)
    positives = np.arange(4)
    if kind == "all positive":
        positives = np.arange(30)
    elif kind == "one row":
        X, positives = X[:1], np.array([0])
    elif kind == "identical rows":
        X = sp.csr_array(np.repeat(X[[1]].toarray(), 30, axis=0))
    else:
        X = sp.csr_array(X.shape, dtype=np.float32)
    solution = solve(X, [positives], start=start, tol=1e-5)
    w, b = dense_weights(solution, X.shape[1])[0], solution.bias[0]
    assert abs(excess(X, positives, w, b)) < 1e-5


def test_long_rows_and_columns_are_summed_in_pieces():
    rng = np.random.default_rng(0)
    X = rng.random((1300, 3)).astype(np.float32)
    X[:, 1] *= rng.random(1300) < 0.5
    positives = np.flatnonzero(X[:, 0] > 0.8)
    rows = torch_.prepare(*(lambda A: (A.indptr, A.indices, A.data))(sp.csr_array(X)), 3)
    assert rows.XT.rows is not None
    assert rows.X.rows is None
    solution = solve(sp.csr_array(X), [positives], tol=1e-5)
    assert abs(excess(sp.csr_array(X), positives, *dense_weights(solution, 3), *solution.bias)) < (
        1e-5
    )


def test_nothing_to_solve():
    X, _ = make_problem(10, 8, 2)
    solution = solve(X, [])
    assert solution.indptr.tolist() == [0]
    assert solution.data.dtype == solution.bias.dtype == np.float32
    no_features = solve(sp.csr_array((10, 0), dtype=np.float32), [np.array([1, 2])])
    assert len(no_features.data) == 0
    assert no_features.bias[0] < 0


def test_read_only_arrays_and_stored_zeros():
    X, labels = make_problem(40, 30, 3)
    expected = solve(X, labels)
    padded = X.toarray()
    padded = sp.csr_array(
        (padded.ravel(), np.tile(np.arange(30), 40), np.arange(0, 1201, 30)), shape=X.shape
    )
    arrays = [padded.indptr, padded.indices, padded.data, *arrays_of(labels)]
    for array in arrays:
        array.flags.writeable = False
    before = [array.copy() for array in arrays]
    mine = torch_.solve(torch_.prepare(*arrays[:3], 30), *arrays[3:])
    for a, b in zip(mine[:6], expected[:6], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
