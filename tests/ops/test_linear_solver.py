"""The linear solver against its definition, scikit-learn's LIBLINEAR and closed forms."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from skxmc.datasets import load_debtags
from skxmc.ops.linear_solver import LinearSolution, numba_, prepare, reference, solve

STARTS = ["zero", "mean-separating", "multi-positive"]
LOSSES = ["squared_hinge", "logistic"]
TIGHT = 1e-6


def random_rows(n_samples, n_features, density=0.2, seed=0):
    X = sp.random_array(
        (n_samples, n_features), density=density, rng=np.random.default_rng(seed), format="csr"
    )
    return X.astype(np.float32)


def power_law_problem(n_samples=400, n_features=600, n_labels=60, seed=0):
    """Rows of unit length over features and labels of power-law frequency, and related to them."""
    rng = np.random.default_rng(seed)

    def draw(width, a, mean):
        popularity = 1 / np.arange(1, width + 1) ** a
        expected = np.minimum(mean * popularity / popularity.sum(), 0.9)
        return rng.random((n_samples, width)) < expected

    X = draw(n_features, 0.9, 30) * rng.random((n_samples, n_features))
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    planted = X @ (rng.standard_normal((n_features, n_labels)))
    quantile = 1 - np.geomspace(0.3, 1 / n_samples, n_labels)
    Y = planted > np.quantile(planted, quantile, axis=0).diagonal()
    Y[rng.integers(n_samples, size=n_labels), np.arange(n_labels)] = True
    return sp.csr_array(X.astype(np.float32)), [np.flatnonzero(y) for y in Y.T]


def solve_labels(X, labels, *, bias_value=1.0, rows=None, **options):
    """Solve for a list of arrays of positive rows."""
    if rows is None:
        rows = prepare(X.indptr, X.indices, X.data, X.shape[1], bias_value)
    pos_indptr = np.cumsum([0, *map(len, labels)]).astype(np.int64)
    pos_rows = np.concatenate([*labels, []]).astype(np.int32)
    return solve(rows, pos_indptr, pos_rows, **options)


def weights_of(solution, label, n_features):
    """Dense float64 w and b of one label."""
    stored = slice(solution.indptr[label], solution.indptr[label + 1])
    w = np.zeros(n_features)
    w[solution.indices[stored]] = solution.data[stored]
    return w, float(solution.bias[label])


def problem(X, positives, *, C=1.0, positive_cost=1.0, **setting):
    """One label in float64 for the reference functions."""
    X = X.toarray().astype(np.float64) if X.shape[1] < 5000 else X.astype(np.float64)
    y = reference.signs(positives, X.shape[0])
    return SimpleNamespace(args=(X, y, reference.costs(y, C, positive_cost)), setting=setting)


def objective_of(p, w, b):
    return reference.objective(w, b, *p.args, **p.setting)


def optimum_of(p):
    return objective_of(p, *reference.solve_reference(*p.args, **p.setting))


def assert_valid(solution, n_labels, n_features):
    assert isinstance(solution, LinearSolution)
    assert solution.indptr.shape == (n_labels + 1,)
    assert solution.indptr[0] == 0
    assert solution.indptr[-1] == len(solution.indices) == len(solution.data)
    assert solution.data.dtype == solution.bias.dtype == np.float32
    assert solution.bias.shape == solution.n_iter.shape == solution.converged.shape == (n_labels,)
    assert np.isfinite(solution.data).all()
    assert np.isfinite(solution.bias).all()
    for label in range(n_labels):
        features = solution.indices[solution.indptr[label] : solution.indptr[label + 1]]
        assert (np.diff(features) > 0).all()
        assert ((features >= 0) & (features < n_features)).all()


def assert_same_bits(a, b):
    np.testing.assert_array_equal(a.indptr, b.indptr)
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.data.view(np.uint32), b.data.view(np.uint32))
    np.testing.assert_array_equal(a.bias.view(np.uint32), b.bias.view(np.uint32))
    np.testing.assert_array_equal(a.n_iter, b.n_iter)
    np.testing.assert_array_equal(a.converged, b.converged)


def label_of_size(n_pos, n_samples, seed=0):
    return np.sort(np.random.default_rng(seed).choice(n_samples, n_pos, replace=False))


# --- the reference itself --------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
@pytest.mark.parametrize("bias_value", [0.0, 2.5])
def test_reference_derivatives_are_those_of_the_objective(loss, regularize_bias, bias_value):
    X = random_rows(12, 5, 0.6)
    setting = {"loss": loss, "regularize_bias": regularize_bias, "bias_value": bias_value}
    p = problem(X, [0, 3, 4], C=0.7, positive_cost=3.0, **setting)
    v = np.random.default_rng(1).standard_normal(6)

    def value(v):
        return reference.objective(v[:-1], v[-1], *p.args, **setting)

    def gradient(v):
        return reference.gradient(v[:-1], v[-1], *p.args, **setting)

    assert check_grad(value, gradient, v) < 1e-5
    H = reference.hessian(v[:-1], v[-1], *p.args, **setting)
    steps = 1e-6 * np.eye(6)
    numeric = [(gradient(v + h) - gradient(v - h)) / 2e-6 for h in steps]
    np.testing.assert_allclose(H, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_reference_solution_has_no_gradient(loss, regularize_bias):
    X = random_rows(40, 12, 0.4)
    p = problem(X, np.arange(9), C=5.0, loss=loss, regularize_bias=regularize_bias)
    w, b = reference.solve_reference(*p.args, **p.setting)
    assert np.linalg.norm(reference.gradient(w, b, *p.args, **p.setting)) < 1e-8


def test_objective_by_hand():
    X = np.array([[2.0, 0.0], [0.0, 1.0]])
    y = reference.signs([0], 2)
    c = reference.costs(y, C=3.0, positive_cost=2.0)
    np.testing.assert_array_equal(c, [6.0, 3.0])
    w, b = np.array([0.25, 0.5]), 0.1
    # margins 0.5 + 0.05 and -(0.5 + 0.05) with a bias feature of 0.5
    expected = (0.0625 + 0.25 + 0.01) / 2 + 6 * 0.45**2 + 3 * 1.55**2
    assert reference.objective(w, b, X, y, c, bias_value=0.5) == pytest.approx(expected)
    expected = (0.0625 + 0.25) / 2 + 6 * np.log1p(np.exp(-0.55)) + 3 * np.log1p(np.exp(0.55))
    value = reference.objective(
        w, b, X, y, c, loss="logistic", bias_value=0.5, regularize_bias=False
    )
    assert value == pytest.approx(expected)


def test_unknown_loss_is_refused_by_the_reference():
    with pytest.raises(ValueError, match="hinge"):
        reference.loss_values(np.zeros(1), "hinge")


@pytest.mark.parametrize("n_pos", [1, 4, 12, 19])
@pytest.mark.parametrize("bias_value", [0.0, 1.0])
def test_mean_separating_start_separates_the_means(n_pos, bias_value):
    X = random_rows(20, 30, 0.3).toarray()
    positives = label_of_size(n_pos, 20)
    w, b = reference.mean_separating_start(X, positives, bias_value)
    scores = X @ w + bias_value * b
    assert scores[positives].mean() == pytest.approx(1)
    assert np.delete(scores, positives).mean() == pytest.approx(-2)


@pytest.mark.parametrize("n_pos", [1, 4, 12, 19])
@pytest.mark.parametrize("bias_value", [0.0, 1.0])
def test_multi_positive_start_separates_each_positive(n_pos, bias_value):
    X = random_rows(20, 40, 0.3).toarray()
    positives = label_of_size(n_pos, 20)
    w, b = reference.multi_positive_start(X, positives, bias_value, ridge=1e-9)
    scores = X @ w + bias_value * b
    np.testing.assert_allclose(scores[positives], 1, atol=1e-5)
    assert np.delete(scores, positives).mean() == pytest.approx(-2, abs=1e-5)


def test_stopping_target_by_hand():
    X = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    # g(0) = -2 C (c+ sum_pos x - sum_neg x) with the bias feature: -2 (3, -2, 3 - 2)
    expected = 0.1 * 1 / 3 * 2 * np.sqrt(9 + 4 + 1)
    assert reference.stopping_target(X, [0], positive_cost=3.0, tol=0.1) == pytest.approx(expected)
    # l'(0) of the logistic loss is a quarter of that
    value = reference.stopping_target(X, [0], positive_cost=3.0, tol=0.1, loss="logistic")
    assert value == pytest.approx(expected / 4)


def test_prune_by_threshold_keeps_what_reaches_it():
    w = np.array([0.5, -0.01, 0.009, -0.5, 0.0, 0.01])
    np.testing.assert_array_equal(
        reference.prune_by_threshold(w, 0.01), [0.5, -0.01, 0, -0.5, 0, 0.01]
    )


@pytest.mark.parametrize("tol", [0.0, 0.01, 0.2, 1e6])
def test_prune_by_loss_takes_the_largest_cutoff_within_the_tolerance(tol):
    p = problem(random_rows(40, 25, 0.3), np.arange(12))
    w, b = reference.solve_reference(*p.args)
    pruned, cutoff = reference.prune_by_loss(w, b, *p.args, tol)
    limit = (1 + tol) * reference.total_loss(w, b, *p.args) + 1e-5
    assert reference.total_loss(pruned, b, *p.args) <= limit
    np.testing.assert_array_equal(pruned, np.where(abs(w) >= cutoff, w, 0))
    for magnitude in abs(w):
        if magnitude > cutoff:
            larger = np.where(abs(w) >= magnitude, w, 0)
            assert reference.total_loss(larger, b, *p.args) > limit
    assert tol < 1e6 or not pruned.any()


# --- the optimum -----------------------------------------------------------------------------


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("bias_value", [0.0, 1.0, 3.0])
def test_squared_hinge_agrees_with_liblinear(C, bias_value):
    X = random_rows(60, 25)
    labels = [label_of_size(k, 60, seed=k) for k in (1, 5, 30, 59)]
    solution = solve_labels(X, labels, bias_value=bias_value, C=C, tol=TIGHT)
    assert_valid(solution, len(labels), 25)
    assert solution.converged.all()
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=C, bias_value=bias_value)
        svm = LinearSVC(
            C=C,
            dual=False,
            tol=1e-10,
            max_iter=10000,
            fit_intercept=bias_value > 0,
            intercept_scaling=bias_value or 1.0,
        ).fit(X.astype(np.float64), p.args[1])
        # LIBLINEAR reports the bias times the bias feature
        b = float(np.ravel(svm.intercept_)[0]) / bias_value if bias_value else 0.0
        expected = objective_of(p, svm.coef_[0], b)
        value = objective_of(p, *weights_of(solution, label, 25))
        assert value == pytest.approx(expected, rel=1e-6)


def test_positive_cost_agrees_with_class_weight():
    X = random_rows(60, 25)
    labels = [label_of_size(k, 60, seed=k) for k in (1, 5, 30)]
    weights = np.array([20.0, 3.0, 0.25])
    solution = solve_labels(X, labels, positive_cost=weights, C=0.5, tol=TIGHT)
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=0.5, positive_cost=weights[label])
        svm = LinearSVC(
            C=0.5, dual=False, tol=1e-10, max_iter=10000, class_weight={1: weights[label]}
        ).fit(X.astype(np.float64), p.args[1])
        expected = objective_of(p, svm.coef_[0], float(svm.intercept_[0]))
        value = objective_of(p, *weights_of(solution, label, 25))
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_logistic_agrees_with_logistic_regression(C, regularize_bias):
    X = random_rows(60, 25)
    labels = [label_of_size(k, 60, seed=k) for k in (1, 5, 30, 59)]
    solution = solve_labels(
        X, labels, C=C, loss="logistic", regularize_bias=regularize_bias, tol=TIGHT
    )
    assert solution.converged.all()
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=C, loss="logistic", regularize_bias=regularize_bias)
        solver = "liblinear" if regularize_bias else "newton-cholesky"
        model = LogisticRegression(C=C, solver=solver, tol=1e-10, max_iter=10000)
        model.fit(X.astype(np.float64), p.args[1])
        expected = objective_of(p, model.coef_[0], float(model.intercept_[0]))
        value = objective_of(p, *weights_of(solution, label, 25))
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
@pytest.mark.parametrize("start", STARTS)
def test_every_start_reaches_the_reference_optimum(loss, regularize_bias, start):
    X, labels = power_law_problem(150, 80, 12, seed=3)
    setting = {"loss": loss, "regularize_bias": regularize_bias}
    if loss == "squared_hinge" or regularize_bias:  # else the bias grows for ever
        labels.append(np.arange(150))
    solution = solve_labels(X, labels, C=2.0, start=start, tol=TIGHT, **setting)
    assert_valid(solution, len(labels), 80)
    assert solution.converged.all()
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=2.0, **setting)
        value = objective_of(p, *weights_of(solution, label, 80))
        assert value == pytest.approx(optimum_of(p), rel=1e-6, abs=1e-6)


def test_closed_form_of_one_row():
    # min w^2/2 + b^2/2 + C (1 - 2 w - b)^2: (w, b) = 2 C / (1 + 10 C) (2, 1)
    X = sp.csr_array(np.array([[2.0]], dtype=np.float32))
    solution = solve_labels(X, [[0]], C=0.5, tol=1e-7)
    np.testing.assert_allclose(solution.data, [1 / 3], rtol=1e-5)
    np.testing.assert_allclose(solution.bias, [1 / 6], rtol=1e-5)


def test_weights_are_in_the_callers_numbering():
    # feature 3 is rarest, 0 unused: the solver renumbers, the answer does not show it
    dense = np.zeros((6, 5), dtype=np.float32)
    dense[:, 1] = 1
    dense[:4, 4] = 1
    dense[:2, 2] = 1
    dense[0, 3] = 1
    X = sp.csr_array(dense)
    solution = solve_labels(X, [[0]], tol=TIGHT, C=10.0)
    w, b = reference.solve_reference(*problem(X, [0], C=10.0).args)
    np.testing.assert_allclose(weights_of(solution, 0, 5)[0], w, atol=1e-4)
    assert solution.bias[0] == pytest.approx(b, abs=1e-4)
    assert 0 not in solution.indices


# --- the stopping rule -----------------------------------------------------------------------


def assert_gradients_within_target(X, labels, solution, *, tol=0.01, C=1.0, **setting):
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=C, **setting)
        w, b = weights_of(solution, label, X.shape[1])
        norm = np.linalg.norm(reference.gradient(w, b, *p.args, **p.setting))
        loss = setting.get("loss", "squared_hinge")
        target = reference.stopping_target(p.args[0], positives, C=C, tol=tol, loss=loss)
        # the solver knows the gradient in float32
        assert norm <= target * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("tol", [0.1, 0.01, 1e-3])
def test_converged_means_the_gradient_over_all_rows_is_within_the_target(loss, start, tol):
    X, labels = power_law_problem()
    solution = solve_labels(X, labels, loss=loss, start=start, tol=tol)
    assert solution.converged.all()
    assert_gradients_within_target(X, labels, solution, tol=tol, loss=loss)


@pytest.mark.parametrize("C", [0.01, 30.0])
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_converged_holds_for_other_settings(C, regularize_bias):
    X, labels = power_law_problem(seed=1)
    solution = solve_labels(X, labels, C=C, regularize_bias=regularize_bias)
    assert solution.converged.all()
    assert_gradients_within_target(X, labels, solution, C=C, regularize_bias=regularize_bias)


def test_converged_holds_on_real_text():
    data = load_debtags(return_tfidf=True)
    X = data.X_train[:6000]
    Y = sp.csc_array(data.Y_train[:6000])
    counts = np.diff(Y.indptr)
    candidates = np.flatnonzero(counts)
    candidates = candidates[np.argsort(counts[candidates], kind="stable")]
    chosen = candidates[np.linspace(0, len(candidates) - 1, 24).astype(int)]  # rare to frequent
    labels = [np.sort(Y.indices[Y.indptr[j] : Y.indptr[j + 1]]) for j in chosen]
    solution = solve_labels(X, labels)
    assert_valid(solution, len(labels), X.shape[1])
    assert solution.converged.all()
    assert_gradients_within_target(X, labels, solution)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_exhausted_budget_is_reported(loss):
    X, labels = power_law_problem(150, 80, 20)
    solution = solve_labels(X, labels, loss=loss, C=100.0, tol=1e-5, max_iter=1)
    assert_valid(solution, len(labels), 80)
    assert (solution.n_iter == 1).all()
    assert not solution.converged.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tolerance_of_zero_ends_at_the_optimum(loss):
    X, labels = power_law_problem(100, 50, 20)
    solution = solve_labels(X, labels, loss=loss, tol=0.0)
    assert (solution.n_iter < 100).all()  # of 1000: it saw that float32 resolves no more
    for label, positives in enumerate(labels):
        p = problem(X, positives, loss=loss)
        value = objective_of(p, *weights_of(solution, label, 50))
        assert value == pytest.approx(optimum_of(p), rel=1e-6)


# --- the same bits ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_problem():
    X, labels = power_law_problem(300, 400, 50, seed=5)
    return SimpleNamespace(
        X=X, labels=labels, rows=prepare(X.indptr, X.indices, X.data, X.shape[1])
    )


def assert_label_is(part, position, whole, label):
    a, b = part.indptr[position : position + 2], whole.indptr[label : label + 2]
    np.testing.assert_array_equal(part.indices[a[0] : a[1]], whole.indices[b[0] : b[1]])
    np.testing.assert_array_equal(
        part.data[a[0] : a[1]].view(np.uint32), whole.data[b[0] : b[1]].view(np.uint32)
    )
    assert part.bias[position] == whole.bias[label]
    assert part.n_iter[position] == whole.n_iter[label]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_labels_solved_alone_or_together_or_in_another_order_are_the_same(
    shared_problem, start, loss
):
    options = {"rows": shared_problem.rows, "start": start, "loss": loss}
    labels = shared_problem.labels
    whole = solve_labels(shared_problem.X, labels, **options)
    assert_same_bits(whole, solve_labels(shared_problem.X, labels, **options))
    order = np.random.default_rng(0).permutation(len(labels))
    bounds = [0, 1, 2, 18, 35, len(labels)]
    blocks = [order, *(order[a:b] for a, b in itertools.pairwise(bounds))]
    blocks += [[label] for label in range(0, len(labels), 7)]
    for block in blocks:
        part = solve_labels(shared_problem.X, [labels[j] for j in block], **options)
        for position, label in enumerate(block):
            assert_label_is(part, position, whole, label)


def test_threads_do_not_disturb_each_other(shared_problem):
    labels, options = shared_problem.labels, {"rows": shared_problem.rows}
    blocks = [range(25), range(25, 50), range(10, 40), range(50)] * 3
    whole = solve_labels(shared_problem.X, labels, **options)

    def work(block):
        return solve_labels(shared_problem.X, [labels[j] for j in block], **options)

    with ThreadPoolExecutor(2) as pool:
        for block, part in zip(blocks, pool.map(work, blocks)):
            for position, label in enumerate(block):
                assert_label_is(part, position, whole, label)


def test_the_order_of_the_entries_of_a_row_does_not_matter(shared_problem):
    X = shared_problem.X
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(X.indptr, X.indptr[1:])]).astype(
        int
    )
    rows = prepare(X.indptr, X.indices[order], X.data[order], X.shape[1])
    labels = shared_problem.labels[:20]
    expected = solve_labels(X, labels, rows=shared_problem.rows)
    assert_same_bits(solve_labels(X, labels, rows=rows), expected)


# --- soft targets ----------------------------------------------------------------------------


def soft_problem(X, positives, targets, *, C=1.0, positive_cost=1.0, **setting):
    """One label with soft targets in float64, each row twice."""
    dense = np.zeros(X.shape[0])
    dense[positives] = targets
    return SimpleNamespace(args=reference.soft_rows(X, dense, C, positive_cost), setting=setting)


def random_targets(n, seed=0):
    """A quarter of them hard."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.25, 1, rng.uniform(0.05, 1, n)).astype(np.float32)


def test_soft_rows_are_the_mean_loss_over_drawn_labels():
    rng = np.random.default_rng(0)
    X, targets = rng.normal(size=(3, 4)), np.array([0.25, 0.0, 1.0])
    w, b = rng.normal(size=4), 0.3
    soft = reference.total_loss(w, b, *reference.soft_rows(X, targets, 1.5, 2.0))
    mean = 0.0
    for drawn in itertools.product([False, True], repeat=3):
        probability = np.prod(np.where(drawn, targets, 1 - targets))
        y = reference.signs(np.flatnonzero(drawn), 3)
        mean += probability * reference.total_loss(w, b, X, y, reference.costs(y, 1.5, 2.0))
    assert soft == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("bias_value", "regularize_bias"), [(1.0, True), (2.0, False), (0.0, True)]
)
def test_soft_targets_reach_the_optimum(loss, start, bias_value, regularize_bias):
    X = random_rows(90, 40, seed=3)
    labels = [label_of_size(k, 90, seed=k) for k in (1, 2, 9, 40, 90)]
    targets = [random_targets(len(label), seed=k) for k, label in enumerate(labels)]
    targets[1][:] = 0.01  # hardly a positive at all
    costs = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    solution = solve_labels(
        *(X, labels),
        bias_value=bias_value,
        pos_targets=np.concatenate(targets),
        positive_cost=costs,
        loss=loss,
        start=start,
        C=0.8,
        tol=TIGHT,
        regularize_bias=regularize_bias,
    )
    assert_valid(solution, len(labels), 40)
    for k, label in enumerate(labels):
        p = soft_problem(
            *(X, label, targets[k]),
            C=0.8,
            positive_cost=costs[k],
            loss=loss,
            bias_value=bias_value,
            regularize_bias=regularize_bias,
        )
        best = optimum_of(p)
        found = objective_of(p, *weights_of(solution, k, 40))
        assert best <= found * (1 + 1e-9)
        assert found <= best * (1 + 1e-5) + 1e-7


def test_soft_targets_of_one_change_nothing(shared_problem):
    labels = shared_problem.labels[:12]
    ones = np.ones(sum(map(len, labels)), np.float32)
    hard = solve_labels(shared_problem.X, labels, rows=shared_problem.rows)
    soft = solve_labels(shared_problem.X, labels, rows=shared_problem.rows, pos_targets=ones)
    assert_same_bits(soft, hard)


def test_a_soft_label_does_not_depend_on_its_neighbours(shared_problem):
    labels = shared_problem.labels[:20]
    targets = [random_targets(len(label), seed=k) for k, label in enumerate(labels)]
    together = solve_labels(
        shared_problem.X, labels, rows=shared_problem.rows, pos_targets=np.concatenate(targets)
    )
    for k in (0, 7, 19):
        alone = solve_labels(
            shared_problem.X, [labels[k]], rows=shared_problem.rows, pos_targets=targets[k]
        )
        part = slice(together.indptr[k], together.indptr[k + 1])
        np.testing.assert_array_equal(together.indices[part], alone.indices)
        np.testing.assert_array_equal(together.data[part], alone.data)


def test_soft_targets_converge_by_the_stopping_rule(shared_problem):
    """At tol, over all rows: the gradient at zero counts each positive with its target."""
    X, labels, tol = shared_problem.X, shared_problem.labels[:20], 0.01
    targets = [random_targets(len(label), seed=k) for k, label in enumerate(labels)]
    solution = solve_labels(
        X, labels, rows=shared_problem.rows, pos_targets=np.concatenate(targets), tol=tol
    )
    assert solution.converged.all()
    n = X.shape[0]
    for k, label in enumerate(labels):
        p = soft_problem(X, label, targets[k])
        at_zero = np.linalg.norm(reference.gradient(np.zeros(X.shape[1]), 0.0, *p.args))
        share = max(min(targets[k].sum(), n - targets[k].sum()), 1) / n
        g = reference.gradient(*weights_of(solution, k, X.shape[1]), *p.args)
        assert np.linalg.norm(g) <= 1.01 * tol * share * at_zero


def test_pruning_by_loss_counts_soft_targets():
    X = random_rows(80, 60, seed=5)
    labels = [label_of_size(k, 80, seed=k) for k in (3, 30)]
    targets = [random_targets(len(label), seed=k) for k, label in enumerate(labels)]
    options = {"pos_targets": np.concatenate(targets), "tol": TIGHT}
    full = solve_labels(X, labels, **options)
    pruned = solve_labels(X, labels, loss_tolerance=0.1, **options)
    for k, label in enumerate(labels):
        w, b = weights_of(full, k, 60)
        p = soft_problem(X, label, targets[k])
        expected, _ = reference.prune_by_loss(w, b, *p.args, 0.1)
        np.testing.assert_array_equal(weights_of(pruned, k, 60)[0], expected)
        assert 0 < np.count_nonzero(expected) < np.count_nonzero(w)


# --- starts ----------------------------------------------------------------------------------


def internal_start(X, positives, start, bias_value):
    """The solver's starting vector in the caller's numbering."""
    n_samples, n_features = X.shape
    rows = prepare(X.indptr, X.indices, X.data, n_features, bias_value)
    chosen = np.asarray(positives, dtype=np.int32)
    n_pos = len(chosen)
    coefs = np.zeros(n_samples)
    column = np.zeros(n_features)
    *sums, total_targets = numba_._positive_sums(rows, chosen, np.ones(n_pos, np.float32), column)
    assert total_targets == n_pos
    dense = np.hstack([X.toarray(), np.full((n_samples, 1), bias_value)])
    P, total = dense[chosen].sum(axis=0), dense.sum(axis=0)
    np.testing.assert_allclose(sums, [P @ P, P @ total], rtol=1e-5, atol=1e-12)
    if start == "mean-separating":
        coefs[:n_pos], shared = numba_._mean_separating(rows, n_pos, *sums)
    else:
        gram = np.empty((n_pos + 2, n_pos + 1))
        shared = numba_._multi_positive(rows, chosen, *sums, gram, column, coefs)
    assert not column.any()
    v = coefs[:n_pos] @ dense[chosen] + shared * total / n_samples
    return v[:-1], v[-1]


@pytest.mark.parametrize("n_pos", [1, 2, 7, 31, 32])
@pytest.mark.parametrize("bias_value", [0.0, 1.0, 4.0])
def test_starts_follow_their_formulas(n_pos, bias_value):
    X = random_rows(64, 40, 0.15)
    positives = label_of_size(n_pos, 64)
    for start, formula in (
        ("mean-separating", reference.mean_separating_start),
        ("multi-positive", reference.multi_positive_start),
    ):
        w, b = internal_start(X, positives, start, bias_value)
        expected_w, expected_b = formula(X, positives, bias_value)
        np.testing.assert_allclose(w, expected_w, rtol=1e-3, atol=1e-4)
        assert bias_value * b == pytest.approx(bias_value * expected_b, rel=1e-3, abs=1e-4)


INSEPARABLE = {
    "all rows positive": (random_rows(6, 4, 0.7).toarray(), range(6), 1.0),
    "identical rows": (np.ones((5, 3), dtype=np.float32), [1, 3], 1.0),
    "only the bias": (np.zeros((5, 3), dtype=np.float32), [1, 3], 1.0),
    "nothing": (np.zeros((5, 3), dtype=np.float32), [1, 3], 0.0),
    # the positives' mean is orthogonal to the mean of all rows
    "P.m = 0": (np.array([[1, 0], [-1, 0], [0, 1], [0, 1]], dtype=np.float32), [0, 1], 0.0),
    "one row": (np.ones((1, 1), dtype=np.float32), [0], 1.0),
}


@pytest.mark.parametrize("kind", INSEPARABLE)
def test_where_the_means_cannot_be_separated(kind):
    dense, positives, bias_value = INSEPARABLE[kind]
    X, positives = sp.csr_array(dense), list(positives)
    expected_w, expected_b = reference.mean_separating_start(X, positives, bias_value)
    np.testing.assert_allclose(expected_w, -dense.mean(axis=0), atol=1e-6)
    assert expected_b == pytest.approx(-bias_value)
    w, b = internal_start(X, positives, "mean-separating", bias_value)
    np.testing.assert_allclose(w, expected_w, atol=1e-6)
    assert b == pytest.approx(expected_b)
    for start in STARTS:
        solution = solve_labels(X, [positives], bias_value=bias_value, start=start, tol=TIGHT)
        p = problem(X, positives, bias_value=bias_value)
        value = objective_of(p, *weights_of(solution, 0, X.shape[1]))
        assert value == pytest.approx(optimum_of(p), rel=1e-6, abs=1e-6)


def test_many_positives_start_from_the_separated_means():
    # a dense system of the size of the label would cost too much
    X = random_rows(80, 60)
    labels = [label_of_size(33, 80), label_of_size(60, 80)]
    solutions = [solve_labels(X, labels, start=start) for start in STARTS[1:]]
    assert_same_bits(*solutions)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("scale", [10.0, 1e2, 1e3, 1e4])
def test_no_start_traps_the_solver_on_rows_of_any_length(loss, start, scale):
    X = random_rows(50, 20, 1.0, seed=4)
    X.data *= np.float32(scale)
    labels = [label_of_size(k, 50, seed=k) for k in (1, 10, 25, 49, 50)]
    solution = solve_labels(X, labels, loss=loss, start=start)
    assert_valid(solution, len(labels), 20)
    for label, positives in enumerate(labels):
        p = problem(X, positives, loss=loss)
        at_zero = objective_of(p, np.zeros(20), 0.0)
        gap = objective_of(p, *weights_of(solution, label, 20)) - optimum_of(p)
        assert gap <= 0.05 * at_zero


# --- odd shapes and values -------------------------------------------------------------------


def with_empty_rows_and_columns():
    dense = random_rows(30, 20, 0.3).toarray()
    dense[[0, 7, 8, 29]] = 0
    dense[:, [0, 5, 19]] = 0
    return dense


ODD_ROWS = {
    "empty rows and columns": with_empty_rows_and_columns(),
    "all rows zero": np.zeros((9, 4), dtype=np.float32),
    "every row twice": np.repeat(random_rows(12, 10, 0.4).toarray(), 2, axis=0),
    "one feature": random_rows(25, 1, 0.8).toarray(),
    "one row": np.array([[1.0, 0.0, 2.0]], dtype=np.float32),
    "two rows": np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32),
    "dense": random_rows(40, 8, 1.0).toarray(),
    "signs": random_rows(40, 15, 0.5).toarray() * np.where(np.arange(15) % 2, 1, -1),
    "tiny values": 1e-6 * random_rows(30, 20, 0.3).toarray(),
    "wide": random_rows(7, 300, 0.1).toarray(),
    "not a multiple of the lanes": random_rows(65, 33, 0.2).toarray(),
}


@pytest.mark.parametrize("kind", ODD_ROWS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_odd_rows_reach_the_reference_optimum(kind, loss, regularize_bias):
    X = sp.csr_array(ODD_ROWS[kind].astype(np.float32))
    n_samples, n_features = X.shape
    sizes = sorted({1, (n_samples + 1) // 2, n_samples})
    labels = [label_of_size(k, n_samples, seed=k) for k in sizes]
    setting = {"loss": loss, "regularize_bias": regularize_bias}
    solution = solve_labels(X, labels, tol=TIGHT, **setting)
    assert_valid(solution, len(labels), n_features)
    for label, positives in enumerate(labels):
        if len(positives) == n_samples and loss == "logistic" and not regularize_bias:
            continue  # no optimum: the bias grows for ever
        p = problem(X, positives, **setting)
        value = objective_of(p, *weights_of(solution, label, n_features))
        assert value == pytest.approx(optimum_of(p), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("C", [0.05, 1.0])
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_opposite_labels_on_identical_rows(loss, start, C, regularize_bias):
    # the zero vector is the optimum, and the stopping target is zero
    X = sp.csr_array(np.full((2, 2), 3, dtype=np.float32))
    setting = {"loss": loss, "regularize_bias": regularize_bias}
    solution = solve_labels(X, [[0]], C=C, start=start, **setting)
    value = objective_of(problem(X, [0], C=C, **setting), *weights_of(solution, 0, 2))
    assert value == pytest.approx(2 * C * (1 if loss == "squared_hinge" else np.log(2)), rel=1e-6)


def test_only_positives_and_a_free_bias_end():
    X = random_rows(20, 6, 0.5)
    solution = solve_labels(X, [np.arange(20)], loss="logistic", regularize_bias=False, max_iter=30)
    assert_valid(solution, 1, 6)  # the infimum is at infinity
    w, b = weights_of(solution, 0, 6)
    assert objective_of(problem(X, np.arange(20), loss="logistic"), w, 0 * b) < 20


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("scale", "C"), [(1e4, 1.0), (1e3, 1e-3), (1.0, 1e-8), (1.0, 1e5), (1e-4, 1e6)]
)
def test_extreme_scales_stay_close_to_the_optimum(loss, scale, C):
    X = random_rows(50, 20, 0.3)
    X.data *= np.float32(scale)
    labels = [label_of_size(k, 50, seed=k) for k in (1, 10, 25)]
    solution = solve_labels(X, labels, loss=loss, C=C)
    assert_valid(solution, 3, 20)
    for label, positives in enumerate(labels):
        p = problem(X, positives, C=C, loss=loss)
        at_zero = objective_of(p, np.zeros(20), 0.0)
        gap = objective_of(p, *weights_of(solution, label, 20)) - optimum_of(p)
        assert gap <= 0.01 * at_zero


def test_no_labels():
    X = random_rows(10, 5)
    solution = solve_labels(X, [])
    assert_valid(solution, 0, 5)


def test_no_features():
    X = sp.csr_array((10, 0), dtype=np.float32)
    solution = solve_labels(X, [[0, 1]], tol=TIGHT)
    assert_valid(solution, 1, 0)
    # min b^2/2 + 2 (1 - b)^2 + 8 (1 + b)^2
    assert solution.bias[0] == pytest.approx(-12 / 21, rel=1e-5)


def test_read_only_arrays_are_accepted_and_not_changed():
    X, labels = power_law_problem(60, 40, 20)
    arrays = [X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data.copy()]
    pos_indptr = np.cumsum([0, *map(len, labels)]).astype(np.int64)
    pos_rows = np.concatenate(labels).astype(np.int32)
    cost = np.linspace(1, 2, len(labels))
    frozen = [*arrays, pos_indptr, pos_rows, cost]
    copies = [a.copy() for a in frozen]
    expected = solve(prepare(*arrays, 40), pos_indptr, pos_rows, positive_cost=cost)
    for a in frozen:
        a.flags.writeable = False
    rows = prepare(*arrays, 40)
    for a in rows:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False  # as from a memory map
    solution = solve(rows, pos_indptr, pos_rows, positive_cost=cost)
    assert_same_bits(solution, expected)
    for a, copy in zip(frozen, copies):
        np.testing.assert_array_equal(a, copy)


def test_stored_zeros_are_no_entries():
    X, labels = power_law_problem(60, 40, 20)
    with_zeros = X.copy()
    with_zeros.data[::3] = 0
    without = with_zeros.copy()
    without.eliminate_zeros()
    arrays = [a.copy() for a in (with_zeros.indptr, with_zeros.indices, with_zeros.data)]
    solution = solve_labels(with_zeros, labels)
    assert_same_bits(solution, solve_labels(without, labels))
    for before, after in zip(arrays, (with_zeros.indptr, with_zeros.indices, with_zeros.data)):
        np.testing.assert_array_equal(after, before)


def test_other_integer_and_float_types_are_accepted():
    X, labels = power_law_problem(60, 40, 20)
    expected = solve_labels(X, labels)
    rows = prepare(
        X.indptr.astype(np.int32), X.indices.astype(np.int64), X.data.astype(np.float64), 40
    )
    assert_same_bits(solve_labels(X, labels, rows=rows), expected)


# --- pruning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.01, 0.1, 1e9])
def test_threshold_returns_exactly_the_weights_that_reach_it(threshold):
    X, labels = power_law_problem(200, 150, 20)
    rows = prepare(X.indptr, X.indices, X.data, 150)
    full = solve_labels(X, labels, rows=rows)
    pruned = solve_labels(X, labels, rows=rows, threshold=threshold)
    assert_valid(pruned, len(labels), 150)
    np.testing.assert_array_equal(pruned.bias, full.bias)
    kept = abs(full.data) >= np.float32(threshold)
    assert 0 < kept.sum() < len(kept) or threshold == 1e9
    np.testing.assert_array_equal(pruned.data, full.data[kept])
    np.testing.assert_array_equal(pruned.indices, full.indices[kept])
    for label in range(len(labels)):
        w, _ = weights_of(full, label, 150)
        expected = reference.prune_by_threshold(w.astype(np.float32), np.float32(threshold))
        np.testing.assert_array_equal(weights_of(pruned, label, 150)[0], expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tol", [0.0, 0.01, 0.3, 1e6])
def test_loss_tolerance_drops_as_many_small_weights_as_the_bound_allows(loss, tol):
    X, labels = power_law_problem(120, 90, 37)
    cost = np.linspace(0.5, 3, len(labels))
    options = {"loss": loss, "C": 2.0, "positive_cost": cost, "start": "multi-positive"}
    full = solve_labels(X, labels, **options)
    pruned = solve_labels(X, labels, loss_tolerance=tol, **options)
    assert_valid(pruned, len(labels), 90)
    np.testing.assert_array_equal(pruned.bias, full.bias)
    n_as_reference = 0
    for label, positives in enumerate(labels):
        args = problem(X, positives, C=2.0, positive_cost=cost[label]).args
        w, b = weights_of(full, label, 90)
        kept, _ = weights_of(pruned, label, 90)
        np.testing.assert_array_equal(kept[kept != 0], w[kept != 0])
        dropped = (kept == 0) & (w != 0)
        smallest_kept = abs(kept[kept != 0]).min(initial=np.inf)
        assert abs(w[dropped]).max(initial=0) <= smallest_kept
        limit = (1 + tol) * reference.total_loss(w, b, *args, loss=loss) + 1e-5
        assert reference.total_loss(kept, b, *args, loss=loss) <= limit * (1 + 1e-5)
        if kept.any():  # one more would be too many
            one_more = np.where(abs(kept) > smallest_kept, kept, 0)
            assert reference.total_loss(one_more, b, *args, loss=loss) > limit * (1 - 1e-5)
        expected, _ = reference.prune_by_loss(w, b, *args, tol, loss=loss)
        n_as_reference += np.array_equal(kept, expected)
    # where the loss falls and rises again with the cutoff, bisection may stop at an earlier one
    assert n_as_reference >= 0.7 * len(labels)
    assert tol < 1e6 or len(pruned.data) == 0


# --- random problems -------------------------------------------------------------------------


@st.composite
def small_problems(draw):
    n_samples = draw(st.integers(1, 12))
    n_features = draw(st.integers(1, 6))
    values = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, -1.0, 3.0])
    rows = st.lists(values, min_size=n_features, max_size=n_features)
    dense = draw(st.lists(rows, min_size=n_samples, max_size=n_samples))
    every = st.sets(st.integers(0, n_samples - 1), min_size=1)
    labels = draw(st.lists(every.map(sorted), min_size=1, max_size=20))
    options = {
        "loss": draw(st.sampled_from(LOSSES)),
        "C": draw(st.sampled_from([0.05, 1.0, 20.0])),
        "regularize_bias": draw(st.booleans()),
    }
    bias_value = draw(st.sampled_from([0.0, 1.0]))
    start = draw(st.sampled_from(STARTS))
    return sp.csr_array(np.array(dense, dtype=np.float32)), labels, bias_value, start, options


@settings(max_examples=150, deadline=None)
@given(small_problems())
def test_random_problems_reach_the_reference_optimum(case):
    X, labels, bias_value, start, options = case
    solution = solve_labels(X, labels, bias_value=bias_value, start=start, tol=TIGHT, **options)
    assert_valid(solution, len(labels), X.shape[1])
    for label, positives in enumerate(labels):
        if len(positives) == X.shape[0] and not options["regularize_bias"]:
            continue  # the logistic loss may have no optimum there
        p = problem(X, positives, bias_value=bias_value, **options)
        value = objective_of(p, *weights_of(solution, label, X.shape[1]))
        assert value <= optimum_of(p) * (1 + 1e-5) + 1e-6
