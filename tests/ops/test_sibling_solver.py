"""The solver of a node's children against the reference, scikit-learn and the one-vs-all solver."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from skxmc.datasets import load_debtags
from skxmc.ops.linear_solver import LANES, SiblingSolver, prepare, reference, solve

LOSSES = ["squared_hinge", "logistic"]
BIASES = [(1.0, True), (1.0, False), (2.5, True), (0.0, True)]
DEFAULTS = {
    "loss": "squared_hinge",
    "C": 1.0,
    "tol": 1e-6,
    "max_iter": 1000,
    "bias_value": 1.0,
    "regularize_bias": True,
    "threshold": 0.0,
}


def random_rows(n_samples, n_features, density=0.2, seed=0):
    X = sp.random_array(
        (n_samples, n_features), density=density, rng=np.random.default_rng(seed), format="csr"
    )
    return X.astype(np.float32)


def text_rows(n_samples, n_features, seed=0):
    """Rows of unit length over features of power-law frequency: many occur in one row only."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n_features + 1) ** 0.9
    expected = np.minimum(20 * popularity / popularity.sum(), 0.9)
    X = (rng.random((n_samples, n_features)) < expected) * rng.random((n_samples, n_features))
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    return sp.csr_array(X.astype(np.float32))


def random_children(n_children, n_rows, seed=0):
    """Positives of all sizes, one to all rows."""
    rng = np.random.default_rng(seed)
    sizes = np.maximum(1, np.geomspace(1, n_rows, n_children).astype(int))
    return [np.sort(rng.choice(n_rows, k, replace=False)) for k in rng.permutation(sizes)]


class Node:
    """A node's problem: rows of X, positives of the children, costs, and the options."""

    def __init__(self, X, children, *, rows=None, costs=None, negatives=None, **options):
        self.X = X
        self.rows = np.arange(X.shape[0]) if rows is None else np.asarray(rows)
        self.children = [np.asarray(c, np.int64) for c in children]
        self.costs = [np.ones(len(c)) for c in children] if costs is None else costs
        m = len(self.rows)
        self.negatives = np.ones(m, bool) if negatives is None else np.asarray(negatives)
        self.twin_costs = options.pop("twin_costs", None)
        self.negative_cost = options.pop("negative_cost", 1.0)
        self.options = {**DEFAULTS, **options}

    def solver(self):
        return SiblingSolver(self.X.indptr, self.X.indices, self.X.data, self.X.shape[1])

    def solve(self, solver=None):
        solution = (solver or self.solver()).solve(
            self.rows,
            np.cumsum([0, *map(len, self.children)]),
            np.concatenate([np.empty(0), *self.children]).astype(np.int32),
            np.concatenate([np.empty(0), *self.costs]),
            self.negatives,
            twin_costs=None if self.twin_costs is None else np.concatenate(self.twin_costs),
            negative_cost=self.negative_cost,
            **self.options,
        )
        assert_valid(solution, len(self.children), self.X.shape[1])
        return solution

    def problem(self, k):
        """Child k in float64, on the rows that it sees."""
        c = self.negatives * self.options["C"] * self.negative_cost
        c[self.children[k]] = self.options["C"] * np.asarray(self.costs[k])
        y = reference.signs(self.children[k], len(self.rows))
        seen = self.negatives > 0
        seen[self.children[k]] = True
        X = self.X[self.rows].toarray().astype(np.float64)
        if self.twin_costs is not None:
            twin_costs = self.options["C"] * self.negative_cost * self.twin_costs[k]
            X = np.vstack([X, X[self.children[k]]])
            y, c = np.append(y, -np.ones(len(twin_costs))), np.append(c, twin_costs)
            seen = np.append(seen, twin_costs > 0)
        names = ("loss", "bias_value", "regularize_bias")
        return SimpleNamespace(
            args=(X[seen], y[seen], c[seen]), setting={name: self.options[name] for name in names}
        )


def weights_of(solution, child, n_features):
    """Dense float64 w and b of a child."""
    w = np.zeros(n_features)
    feature = np.repeat(solution.row_feature, np.diff(solution.row_indptr))
    mine = solution.child == child
    w[feature[mine]] = solution.weight[mine]
    return w, float(solution.bias[child])


def objective_of(p, w, b):
    return reference.objective(w, b, *p.args, **p.setting)


def reduced_gradient_norm(p, w, b):
    """|| (g_w - H_wb g_b / h_bb, g_b) || by the dense Hessian."""
    g = reference.gradient(w, b, *p.args, **p.setting)
    H = reference.hessian(w, b, *p.args, **p.setting)
    reduced = g[:-1] - (H[:-1, -1] * g[-1] / H[-1, -1] if H[-1, -1] > 0 else 0)
    return np.linalg.norm(np.append(reduced, g[-1]))


def assert_valid(solution, n_children, n_features):
    row_feature, row_indptr, child, weight, bias, n_iter, converged = solution
    assert row_feature.dtype == child.dtype == np.int32
    assert row_indptr.dtype == n_iter.dtype == np.int64
    assert weight.dtype == np.float32
    assert bias.dtype == np.float64
    assert converged.dtype == bool
    assert bias.shape == n_iter.shape == converged.shape == (n_children,)
    assert row_indptr.shape == (len(row_feature) + 1,)
    assert row_indptr[0] == 0
    assert row_indptr[-1] == len(child) == len(weight)
    assert (np.diff(row_indptr) > 0).all()  # no feature without a weight
    assert (np.diff(row_feature) > 0).all()
    assert ((row_feature >= 0) & (row_feature < n_features)).all()
    assert ((child >= 0) & (child < n_children)).all()
    inside = np.ones(len(child), bool)
    inside[row_indptr[:-1]] = False  # first of a feature
    assert (np.diff(child)[inside[1:]] > 0).all()
    assert np.isfinite(weight).all()
    assert (weight != 0).all()
    assert (np.isfinite(bias) | np.isneginf(bias)).all()
    assert ((n_iter >= 0) & (n_iter <= 1000)).all()


def assert_optimal(node, solution=None, rel=1e-6):
    """Gap of the objective to the float64 optimum, for every child."""
    solution = node.solve() if solution is None else solution
    for k, positives in enumerate(node.children):
        if len(positives) == 0:
            continue
        p = node.problem(k)
        value = objective_of(p, *weights_of(solution, k, node.X.shape[1]))
        optimum = objective_of(p, *reference.solve_reference(*p.args, **p.setting))
        assert abs(value - optimum) <= rel * max(optimum, 1e-3)
    return solution


def assert_same_bits(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def assert_child_is(part, position, whole, child, n_features):
    for a, b in zip(
        weights_of(part, position, n_features), weights_of(whole, child, n_features), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert part.n_iter[position] == whole.n_iter[child]
    assert part.converged[position] == whole.converged[child]


# --- the optimum -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("bias_value", "regularize_bias"), BIASES)
@pytest.mark.parametrize("C", [0.05, 1.0, 20.0])
def test_children_reach_the_reference_optimum(loss, bias_value, regularize_bias, C):
    setting = {"loss": loss, "bias_value": bias_value, "regularize_bias": regularize_bias, "C": C}
    children = [c for c in random_children(20, 45) if len(c) < 45]
    solution = assert_optimal(Node(text_rows(45, 80), children, **setting))
    assert solution.converged.all()
    assert (solution.bias == 0).all() or bias_value > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_soft_targets_and_weights_of_negatives(loss, regularize_bias):
    """A row of the weight r and the target t costs t as a positive and r - t as a negative."""
    X = text_rows(60, 90, seed=2)
    rng = np.random.default_rng(2)
    children = [c for c in random_children(21, 60, seed=2) if len(c) < 60]
    weight = rng.uniform(0.1, 1, 60).astype(np.float32)
    weight[::4] = 1
    weight[1::8] = 0  # positives only
    targets = [(weight[c] * rng.choice([0.3, 0.8, 1], len(c))).astype(np.float32) for c in children]
    targets = [np.where(weight[c] == 0, 0.5, t) for c, t in zip(children, targets, strict=True)]
    twin_costs = [np.maximum(weight[c] - t, 0) for c, t in zip(children, targets, strict=True)]
    node = Node(
        *(X, children),
        costs=[2 * t for t in targets],
        negatives=weight,
        twin_costs=twin_costs,
        negative_cost=1.6,
        C=1.5,
        loss=loss,
        regularize_bias=regularize_bias,
    )
    assert_optimal(node)
    hard = Node(X, children, C=1.5, negative_cost=1.6, loss=loss, regularize_bias=regularize_bias)
    assert abs(hard.solve().bias - node.solve().bias).max() > 0.1


def test_twins_of_no_weight_change_nothing():
    X, children = text_rows(50, 80, seed=4), random_children(18, 50, seed=4)
    expected = Node(X, children).solve()
    none = [np.zeros(len(c)) for c in children]
    assert_same_bits(Node(X, children, twin_costs=none).solve(), expected)
    assert_same_bits(Node(X, children, negatives=np.ones(50, np.float32)).solve(), expected)


def test_children_with_twins_do_not_depend_on_their_siblings():
    X, children = text_rows(50, 80, seed=4), random_children(18, 50, seed=4)
    twins = [np.full(len(c), 0.25) for c in children]
    together = Node(X, children, twin_costs=twins).solve()
    for k in (0, 5, 17):
        alone = Node(X, [children[k]], twin_costs=[twins[k]]).solve()
        w, b = weights_of(together, k, 80)
        v, c = weights_of(alone, 0, 80)
        # the rows that only siblings have twice add to the order of float32 sums
        np.testing.assert_allclose(w, v, rtol=1e-4, atol=1e-5)
        assert b == pytest.approx(c, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_costs_and_rows_that_are_no_negatives(loss, regularize_bias):
    rng = np.random.default_rng(1)
    children = random_children(18, 50, seed=2)
    children[3] = np.arange(0, 50, 2)  # all that are no negatives, and no others
    negatives = np.arange(50) % 2 == 1
    node = Node(
        text_rows(50, 80),
        children,
        costs=[rng.uniform(0.1, 3, len(c)) for c in children],
        negatives=negatives,
        negative_cost=0.3,
        C=2.0,
        loss=loss,
        regularize_bias=regularize_bias,
    )
    if loss == "logistic" and not regularize_bias:  # only positives: the bias grows for ever
        node.children = [
            c if (~np.isin(np.arange(50), c) & negatives).any() else c[:3] for c in children
        ]
        node.costs = [cost[: len(c)] for cost, c in zip(node.costs, node.children, strict=True)]
    assert_optimal(node)
    # the costs count
    plain = Node(node.X, node.children, C=2.0, loss=loss, regularize_bias=regularize_bias).solve()
    assert abs(plain.bias - node.solve().bias).max() > 0.1


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_that_no_child_sees_changes_nothing(loss):
    X, children = text_rows(40, 60), [np.array([0, 5]), np.array([7, 8, 9])]
    negatives = np.ones(40, bool)
    negatives[20:30] = False
    kept = np.r_[0:20, 30:40]
    without = Node(X, children, rows=kept, loss=loss).solve()
    assert_optimal(Node(X, children, negatives=negatives, loss=loss))
    for k in range(2):
        a = weights_of(Node(X, children, negatives=negatives, loss=loss).solve(), k, 60)
        b = weights_of(without, k, 60)
        np.testing.assert_allclose(a[0], b[0], atol=3e-4)
        assert a[1] == pytest.approx(b[1], abs=3e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_children", [1, 15, 16, 17, 40])
def test_any_number_of_children(loss, n_children):
    node = Node(random_rows(30, 20), random_children(n_children, 30), loss=loss)
    solution = assert_optimal(node)
    assert len(solution.bias) == n_children
    assert set(solution.child) == set(range(n_children))


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_in_any_order_and_more_than_once(loss):
    X = random_rows(25, 15)
    rows = np.random.default_rng(3).integers(25, size=40)
    assert_optimal(Node(X, random_children(6, 40), rows=rows, loss=loss))


def test_closed_form_of_one_row():
    # min w^2/2 + b^2/2 + C (1 - 2 w - b)^2: (w, b) = 2 C / (1 + 10 C) (2, 1)
    X = sp.csr_array(np.array([[0.0, 2.0]], np.float32))
    solution = Node(X, [[0]], C=0.5).solve()
    np.testing.assert_array_equal(solution.row_feature, [1])
    np.testing.assert_allclose(solution.weight, [1 / 3], rtol=1e-6)
    np.testing.assert_allclose(solution.bias, [1 / 6], rtol=1e-6)


# --- independent implementations -------------------------------------------------------------


@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("bias_value", [0.0, 1.0])
def test_squared_hinge_agrees_with_liblinear(C, bias_value):
    rng = np.random.default_rng(4)
    children = random_children(5, 59, seed=1)[:-1]
    costs = [rng.uniform(0.2, 4, len(c)) for c in children]
    node = Node(
        text_rows(80, 100),
        children,
        rows=np.sort(rng.choice(80, 59, replace=False)),
        costs=costs,
        negative_cost=0.5,
        C=C,
        bias_value=bias_value,
    )
    solution = node.solve()
    checked = 0
    for k in range(len(children)):
        p = node.problem(k)
        X, y, c = p.args
        if len(np.unique(y)) < 2:
            continue
        svm = LinearSVC(
            C=1.0,
            dual=False,
            tol=1e-10,
            max_iter=10000,
            fit_intercept=bias_value > 0,
            intercept_scaling=bias_value or 1.0,
        ).fit(X, y, sample_weight=c)
        b = float(np.ravel(svm.intercept_)[0]) if bias_value else 0.0
        w, mine = weights_of(solution, k, 100)
        np.testing.assert_allclose(w, svm.coef_[0], atol=2e-4 * max(1, abs(svm.coef_).max()))
        assert mine == pytest.approx(b, abs=2e-4 * max(1, abs(b)))
        assert objective_of(p, w, mine) == pytest.approx(objective_of(p, svm.coef_[0], b), rel=1e-6)
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("regularize_bias", [True, False])
def test_logistic_agrees_with_logistic_regression(regularize_bias):
    children = [c for c in random_children(6, 60, seed=1) if len(c) < 60]
    node = Node(
        text_rows(60, 100), children, loss="logistic", C=5.0, regularize_bias=regularize_bias
    )
    solution = node.solve()
    for k in range(len(children)):
        p = node.problem(k)
        X, y, _ = p.args
        solver = "liblinear" if regularize_bias else "newton-cholesky"
        model = LogisticRegression(C=5.0, solver=solver, tol=1e-10, max_iter=10000).fit(X, y)
        value = objective_of(p, *weights_of(solution, k, 100))
        expected = objective_of(p, model.coef_[0], float(model.intercept_[0]))
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularize_bias", [True, False])
def test_a_node_with_all_rows_is_the_one_vs_all_problem(loss, regularize_bias):
    X = text_rows(200, 300, seed=2)
    children = [c for c in random_children(20, 200, seed=3) if len(c) < 200]
    setting = {"loss": loss, "regularize_bias": regularize_bias, "C": 2.0, "tol": 1e-6}
    solution = Node(X, children, **setting).solve()
    rows = prepare(X.indptr, X.indices, X.data, 300)
    pos_indptr = np.cumsum([0, *map(len, children)])
    expected = solve(rows, pos_indptr, np.concatenate(children).astype(np.int32), **setting)
    assert solution.converged.all()
    assert expected.converged.all()
    for k in range(len(children)):
        w, b = weights_of(solution, k, 300)
        stored = slice(expected.indptr[k], expected.indptr[k + 1])
        other = np.zeros(300)
        other[expected.indices[stored]] = expected.data[stored]
        np.testing.assert_allclose(w, other, atol=5e-4)
        assert b == pytest.approx(expected.bias[k], abs=5e-4)


def test_default_tolerance_on_real_text():
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[:800], sp.csc_array(data.Y_train[:800])
    X = sp.csr_array(X).astype(np.float32)
    chosen = np.flatnonzero(np.diff(Y.indptr))[:20]
    children = [np.sort(Y.indices[Y.indptr[j] : Y.indptr[j + 1]]) for j in chosen]
    solution = Node(X, children, tol=0.01).solve()
    assert solution.converged.all()
    rows = prepare(X.indptr, X.indices, X.data, X.shape[1])
    pos_indptr = np.cumsum([0, *map(len, children)])
    tight = solve(rows, pos_indptr, np.concatenate(children).astype(np.int32), tol=1e-4)
    X64 = X.astype(np.float64)
    for k, positives in enumerate(children):
        y = reference.signs(positives, X.shape[0])
        c = np.ones(len(y))
        w, b = weights_of(solution, k, X.shape[1])
        best = np.zeros(X.shape[1])
        stored = slice(tight.indptr[k], tight.indptr[k + 1])
        best[tight.indices[stored]] = tight.data[stored]
        value = reference.objective(w, b, X64, y, c)
        assert value == pytest.approx(reference.objective(best, tight.bias[k], X64, y, c), rel=1e-3)


# --- the stopping rule -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("bias_value", "regularize_bias"), BIASES)
@pytest.mark.parametrize("tol", [0.1, 0.01, 1e-3])
def test_converged_means_the_reduced_gradient_is_within_the_target(
    loss, bias_value, regularize_bias, tol
):
    rng = np.random.default_rng(0)
    children = [c for c in random_children(20, 80, seed=4) if len(c) < 80]
    node = Node(
        text_rows(80, 120, seed=1),
        children,
        costs=[rng.uniform(0.5, 2, len(c)) for c in children],
        negatives=np.arange(80) < 70,
        loss=loss,
        bias_value=bias_value,
        regularize_bias=regularize_bias,
        tol=tol,
        C=3.0,
    )
    solution = node.solve()
    assert solution.converged.all()
    shares = []
    for k in range(len(children)):
        p = node.problem(k)
        _, y, _ = p.args
        n_pos = (y > 0).sum()
        imbalance = max(min(n_pos, len(y) - n_pos), 1) / len(y)
        target = tol * imbalance * reduced_gradient_norm(p, np.zeros(120), 0.0)
        norm = reduced_gradient_norm(p, *weights_of(solution, k, 120))
        # the solver knows the gradient in float32
        assert norm <= target * (1 + 1e-3) + 1e-5
        shares.append(norm / target)
    assert max(shares) > 0.01  # and it does not go on for long after that


@pytest.mark.parametrize("loss", LOSSES)
def test_an_exhausted_budget_is_reported(loss):
    children = random_children(20, 60)
    node = Node(text_rows(60, 100), children, loss=loss, C=100.0, tol=1e-6, max_iter=1)
    solution = node.solve()
    assert (solution.n_iter == 1).all()
    assert not solution.converged.any()
    none = Node(node.X, children, loss=loss, max_iter=0).solve()
    assert not none.converged.any()
    assert len(none.weight) == 0
    np.testing.assert_array_equal(none.bias, 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tolerance_of_zero_ends_at_the_optimum(loss):
    node = Node(text_rows(45, 80), random_children(20, 45), loss=loss, tol=0.0)
    solution = assert_optimal(node)
    assert solution.converged.all()  # it saw that float32 resolves no more
    assert (solution.n_iter < 100).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_step_lowers_the_objective(loss):
    node = Node(random_rows(50, 30, 0.4), random_children(17, 50), loss=loss, C=50.0)
    values = []
    for max_iter in range(7):
        node.options["max_iter"] = max_iter
        solution = node.solve()
        values.append(
            [objective_of(node.problem(k), *weights_of(solution, k, 30)) for k in range(17)]
        )
    assert (np.diff(values, axis=0) <= 1e-5 * np.array(values[:-1])).all()
    assert (values[1] < np.array(values[0])).all()


# --- the same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_child_does_not_depend_on_its_siblings(loss):
    X, children = text_rows(70, 110), random_children(40, 70)
    costs = [np.random.default_rng(k).uniform(0.5, 2, len(c)) for k, c in enumerate(children)]

    def part(chosen):
        return Node(
            X, [children[k] for k in chosen], costs=[costs[k] for k in chosen], loss=loss, tol=1e-3
        ).solve()

    whole = part(range(40))
    assert len(np.unique(whole.n_iter)) > 1  # they end at different steps
    for k in (0, 15, 16, 39):
        assert_child_is(part([k]), 0, whole, k, 110)
    order = np.random.default_rng(0).permutation(40)
    for chosen in (order, order[:17], order[17:], [3] * LANES + [5]):
        solution = part(chosen)
        for position, k in enumerate(chosen):
            assert_child_is(solution, position, whole, k, 110)


@pytest.mark.parametrize("loss", LOSSES)
def test_work_space_is_used_again(loss):
    X = text_rows(120, 200)
    big = Node(X, random_children(40, 120), loss=loss, tol=1e-3)
    small = Node(X, random_children(3, 9, seed=1), rows=np.arange(40, 49), loss=loss, tol=1e-3)
    wide = Node(X, random_children(17, 70, seed=2), rows=np.arange(50, 120), loss=loss, tol=1e-3)
    alone = [node.solve() for node in (big, small, wide)]
    solver = small.solver()
    for k in (1, 0, 1, 2, 0, 2, 1):
        assert_same_bits((big, small, wide)[k].solve(solver), alone[k])
    np.testing.assert_array_equal(solver.seen, 0)
    assert not solver.groups.any()


def test_solutions_do_not_share_memory_with_the_work_space():
    X = text_rows(40, 60)
    node, other = (Node(X, random_children(5, 40, seed=k)) for k in range(2))
    solver = node.solver()
    solution = node.solve(solver)
    copies = [a.copy() for a in solution]
    other.solve(solver)
    assert_same_bits(solution, copies)


def test_read_only_and_other_types_are_accepted():
    X = text_rows(40, 60)
    node = Node(X, random_children(5, 40), tol=1e-3)
    expected = node.solve()
    wide = SiblingSolver(
        X.indptr.astype(np.int64), X.indices.astype(np.int64), X.data.astype(np.float64), 60
    )
    assert_same_bits(node.solve(wide), expected)
    arrays = [X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data.copy()]
    for a in arrays:
        a.flags.writeable = False  # as from a memory map
    node.rows, node.negatives = node.rows.astype(np.int32), node.negatives.copy()
    node.rows.flags.writeable = node.negatives.flags.writeable = False
    assert_same_bits(node.solve(SiblingSolver(*arrays, 60)), expected)


def test_counters_count():
    node = Node(text_rows(40, 60), random_children(5, 40))
    solver = node.solver()
    solution = node.solve(solver)
    products, steps, cg = solver.counters
    assert steps == solution.n_iter.sum()
    assert cg >= steps  # of all children
    assert solution.n_iter.max() < products <= cg + steps + 1


# --- odd shapes and values -------------------------------------------------------------------


def with_empty_rows():
    dense = random_rows(30, 20, 0.3).toarray()
    dense[[0, 7, 8, 29]] = 0
    dense[:, [0, 5, 19]] = 0
    return dense


def with_stored_zeros():
    X = random_rows(30, 20, 0.3)
    X.data[::3] = 0
    return X


ODD_ROWS = {
    "empty rows and columns": with_empty_rows(),
    "all rows zero": np.zeros((9, 4)),
    "stored zeros": with_stored_zeros(),
    "every row twice": np.repeat(random_rows(12, 10, 0.4).toarray(), 2, axis=0),
    "all rows the same": np.ones((8, 3)),
    "one row": np.array([[1.0, 0.0, 2.0]]),
    "two rows": np.array([[1.0, 0.0], [0.0, 1.0]]),
    "each feature in one row": np.diag(np.arange(1.0, 10.0)),
    "wide: most features in one row": random_rows(7, 60, 0.1).toarray(),
    "each feature in all rows": random_rows(40, 8, 1.0).toarray(),
    "one feature": random_rows(25, 1, 0.8).toarray(),
    "signs": random_rows(40, 15, 0.5).toarray() * np.where(np.arange(15) % 2, 1, -1),
    "tiny values": 1e-6 * random_rows(30, 20, 0.3).toarray(),
}


@pytest.mark.parametrize("kind", ODD_ROWS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("bias_value", "regularize_bias"), [(1.0, True), (1.0, False), (0.0, True)]
)
def test_odd_rows_reach_the_reference_optimum(kind, loss, bias_value, regularize_bias):
    X = sp.csr_array(ODD_ROWS[kind]).astype(np.float32)
    n = X.shape[0]
    sizes = sorted({1, (n + 1) // 2, n})
    if loss == "logistic" and not regularize_bias:
        sizes = [k for k in sizes if k < n]  # else no optimum: the bias grows for ever
    children = [np.sort(np.random.default_rng(k).permutation(n)[:k]) for k in sizes]
    setting = {"loss": loss, "bias_value": bias_value, "regularize_bias": regularize_bias}
    solution = assert_optimal(Node(X, children, **setting))
    assert solution.converged.all()


def test_features_of_one_row_follow_the_same_formula():
    # the same problem with every row stored twice at half the cost has no such features
    X = text_rows(30, 200)
    children = random_children(6, 30)
    once = Node(X, children).solve()
    twice = Node(
        X,
        [np.concatenate([c, c + 30]) for c in children],
        rows=np.tile(np.arange(30), 2),
        C=0.5,
    ).solve()
    counts = np.bincount(X.indices, minlength=200)
    assert (counts == 1).sum() > 10
    assert (counts > 1).sum() > 10
    for k in range(6):
        a, b = weights_of(once, k, 200), weights_of(twice, k, 200)
        np.testing.assert_allclose(a[0], b[0], atol=3e-4)
        assert a[1] == pytest.approx(b[1], abs=3e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_children_without_positives_have_no_score(loss):
    children = [[], [1, 2], [], [3], *[[]] * 14, [0, 4]]
    node = Node(random_rows(10, 8, 0.5), children, loss=loss)
    solution = assert_optimal(node)
    never = np.array([len(c) == 0 for c in children])
    np.testing.assert_array_equal(np.isneginf(solution.bias), never)
    assert not np.isin(solution.child, np.flatnonzero(never)).any()
    assert solution.converged.all()
    np.testing.assert_array_equal(solution.n_iter[never], 0)


def test_no_children_no_rows_no_features():
    X = random_rows(10, 8, 0.5)
    solution = Node(X, []).solve()
    assert len(solution.weight) == 0
    solution = Node(X, [[], []], rows=np.empty(0, np.int32)).solve()
    assert len(solution.weight) == 0
    assert np.isneginf(solution.bias).all()
    solution = Node(sp.csr_array((10, 0), dtype=np.float32), [[0, 1]]).solve()
    # min b^2/2 + 2 (1 - b)^2 + 8 (1 + b)^2
    assert solution.bias[0] == pytest.approx(-12 / 21, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_positives_and_a_free_bias_end(loss):
    X = random_rows(20, 6, 0.5)
    node = Node(X, [np.arange(20)], loss=loss, regularize_bias=False, tol=0.01)
    solution = node.solve()  # the infimum of the logistic loss is at infinity
    w, b = weights_of(solution, 0, 6)
    assert (X @ w + b > 0.9).all()


def test_costs_of_zero_are_the_zero_vector():
    X = random_rows(6, 4, 0.8)
    solution = Node(X, [[0, 1]], costs=[[0.0, 0.0]], negative_cost=0.0).solve()
    assert len(solution.weight) == 0
    assert solution.bias[0] == 0
    assert solution.converged.all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e-4, 10.0, 1e2, 1e3])
def test_rows_of_any_length_come_close_to_the_optimum(loss, scale):
    X = random_rows(50, 20, 1.0, seed=4)
    X.data *= np.float32(scale)
    node = Node(X, random_children(5, 50), loss=loss, tol=0.01)
    solution = node.solve()
    for k in range(5):
        p = node.problem(k)
        optimum = objective_of(p, *reference.solve_reference(*p.args, **p.setting))
        gap = objective_of(p, *weights_of(solution, k, 20)) - optimum
        assert gap <= 0.05 * objective_of(p, np.zeros(20), 0.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e10, 1e18, 1e19, 1e38])
@pytest.mark.parametrize("bias_value", [0.0, 1.0])
@pytest.mark.parametrize("affected", ["all rows", "one row", "one feature"])
def test_values_out_of_range_end_in_a_finite_result(loss, scale, bias_value, affected):
    dense = random_rows(30, 12, 0.5, seed=5).toarray()
    if affected == "all rows":
        dense *= np.float32(scale)
    elif affected == "one row":
        dense[7] *= np.float32(scale)
    else:
        dense[:, 3] *= np.float32(scale)
    node = Node(sp.csr_array(dense), random_children(4, 30), loss=loss, bias_value=bias_value)
    node.options["max_iter"] = 100
    solution = node.solve()  # which asserts that it is finite
    for k in range(4):
        p = node.problem(k)
        at_zero = objective_of(p, np.zeros(12), 0.0)
        with np.errstate(over="ignore"):
            value = objective_of(p, *weights_of(solution, k, 12))
        assert value <= at_zero * (1 + 1e-6) or not solution.converged[k]
        if scale < 1:
            optimum = objective_of(p, *reference.solve_reference(*p.args, **p.setting))
            assert value == pytest.approx(optimum, rel=1e-5)
        if scale >= 1e19 and affected == "all rows":
            assert not solution.converged[k]  # K overflows


# --- pruning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_children", [5, 37])
@pytest.mark.parametrize("threshold", [0.01, 0.1, 1e9])
def test_threshold_returns_exactly_the_weights_that_reach_it(n_children, threshold):
    X, children = text_rows(80, 150), random_children(n_children, 80)
    full = Node(X, children).solve()
    pruned = Node(X, children, threshold=threshold).solve()
    np.testing.assert_array_equal(pruned.bias, full.bias)
    kept = abs(full.weight) >= np.float32(threshold)
    assert 0 < kept.sum() < len(kept) or threshold == 1e9
    feature = np.repeat(full.row_feature, np.diff(full.row_indptr))[kept]
    np.testing.assert_array_equal(
        np.repeat(pruned.row_feature, np.diff(pruned.row_indptr)), feature
    )
    np.testing.assert_array_equal(pruned.child, full.child[kept])
    np.testing.assert_array_equal(pruned.weight, full.weight[kept])


# --- bad input -------------------------------------------------------------------------------


def call(**changes):
    X = sp.csr_array(np.eye(3, dtype=np.float32))
    arrays = {
        "rows": np.array([0, 1, 2]),
        "pos_indptr": np.array([0, 1, 2]),
        "pos_rows": np.array([0, 2]),
        "pos_costs": np.ones(2),
        "negatives": np.ones(3, bool),
    }
    solver = SiblingSolver(X.indptr, X.indices, X.data, 3)
    twin_costs = changes.pop("twin_costs", None)
    return solver.solve(*{**arrays, **changes}.values(), twin_costs=twin_costs, **DEFAULTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [0, 1, 3]}, "rows must be from 0 to 2, got 0 to 3"),
        ({"rows": [-1, 1, 2]}, "rows must be from 0 to 2, got -1 to 2"),
        ({"pos_rows": [0, 3]}, "pos_rows must be from 0 to 2, got 0 to 3"),
        ({"pos_rows": [0, -1]}, "pos_rows must be"),
        ({"pos_rows": [0]}, "ends with 2, but there are 1 pos_rows"),
        ({"pos_costs": np.ones(3)}, "3 pos_costs"),
        ({"negatives": np.ones(2, bool)}, "2 negatives for 3 rows"),
        ({"negatives": np.array([1, np.nan, 0])}, "negatives must be finite and not negative.*nan"),
        ({"negatives": np.array([1.0, 0, -1])}, "negatives must be finite.*-1.0 at 2"),
        ({"twin_costs": np.ones(7)}, "7 twin_costs"),
        ({"pos_indptr": [0, 2, 1]}, "pos_indptr"),
        ({"pos_indptr": [0, 3, 2]}, "not decrease"),
        ({"pos_indptr": [1, 1, 2]}, "begin with 0"),
        ({"pos_indptr": []}, "begin with 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    call()  # fits
    with pytest.raises(ValueError, match=message):
        call(**{name: np.asarray(value) for name, value in changes.items()})


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1, 2], [0, 3], "indices must be from 0 to 2, got 0 to 3"),
        ([0, 1, 2], [0, -1], "indices must be"),
        ([0, 1, 3], [0, 1], "indptr ends with 3, but there are 2 indices"),
        ([0, 2, 1], [0, 1], "indptr must not"),
        ([-1, 1, 2], [0, 1], "indptr must not"),
        ([], [], "indptr must not"),
    ],
)
def test_rows_that_are_no_csr_are_refused(indptr, indices, message):
    with pytest.raises(ValueError, match=message):
        SiblingSolver(np.array(indptr), np.array(indices), np.ones(len(indices), np.float32), 3)


# --- random problems -------------------------------------------------------------------------


@st.composite
def small_nodes(draw):
    m = draw(st.integers(1, 12))
    n_features = draw(st.integers(1, 6))
    values = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, -1.0, 3.0])
    row = st.lists(values, min_size=n_features, max_size=n_features)
    dense = draw(st.lists(row, min_size=m, max_size=m))
    positives = st.sets(st.integers(0, m - 1)).map(sorted)
    children = draw(st.lists(positives, min_size=1, max_size=20))
    costs = [[draw(st.sampled_from([0.1, 1.0, 4.0]))] * len(c) for c in children]
    options = {
        "loss": draw(st.sampled_from(LOSSES)),
        "C": draw(st.sampled_from([0.05, 1.0, 20.0])),
        "negatives": draw(st.lists(st.booleans(), min_size=m, max_size=m)),
        "negative_cost": draw(st.sampled_from([0.2, 1.0])),
        "bias_value": draw(st.sampled_from([0.0, 1.0])),
        "regularize_bias": draw(st.booleans()),
    }
    if options["loss"] == "logistic":  # a free bias may have no optimum there
        options["regularize_bias"] = True
    return Node(sp.csr_array(np.array(dense, np.float32)), children, costs=costs, **options)


@settings(max_examples=100, deadline=None)
@given(small_nodes())
def test_random_nodes_reach_the_reference_optimum(node):
    assert_optimal(node, rel=1e-5)
