"""Rows, costs and classifiers of the nodes of a label tree, against brute force."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.datasets import make_xmc_classification
from skxmc.label_space import LabelTree
from skxmc.linear import _tree_training
from skxmc.linear._rows import scaled_rows
from skxmc.linear._tree_training import TreeTask, node_rows, positive_costs, train_tree
from skxmc.linear._tree_weights import node_weights, pack_weights, unpack_weights
from skxmc.ops.csr import canonical_csr
from skxmc.ops.linear_solver import reference as solver_reference
from skxmc.ops.tree_search import reference as search_reference

TASK = TreeTask(
    loss="squared_hinge",
    C=1.0,
    tol=1e-6,
    max_iter=200,
    bias_value=1.0,
    regularize_bias=True,
    threshold=0.0,
    negative_cost=1.0,
    teacher=True,
    n_matcher=0,
    link="l2-hinge",
)


def random_tree(n_labels, seed=0, arity=3):
    """Labels at different depths below random clusters."""
    rng = np.random.default_rng(seed)
    parent, label, open_nodes = [-1], [-1], [0]
    for _ in range(4):
        for v in list(open_nodes):
            for _ in range(rng.integers(1, arity + 1)):
                parent.append(v)
                label.append(-1)
            open_nodes.remove(v)
            open_nodes += list(range(len(parent)))[-arity:]
        open_nodes = sorted(set(open_nodes))[:4]
    inner = np.arange(len(parent))
    childless = np.setdiff1d(inner, parent)  # each inner node needs a child
    places = np.concatenate([childless, rng.choice(inner, n_labels - len(childless))])
    return LabelTree.from_parents(
        np.concatenate([parent, rng.permutation(places)]),
        np.concatenate([label, np.arange(n_labels)]),
    )


def problem(n_samples=120, n_features=50, n_labels=25, seed=0):
    data = make_xmc_classification(
        n_samples, n_features, n_labels, avg_features_per_sample=18, random_state=seed
    )
    return scaled_rows(canonical_csr(data.X, np.float32), "l2"), canonical_csr(data.Y)


def rows_below(tree, Y, v):
    return np.flatnonzero(Y.toarray()[:, tree.labels_below(v)].any(axis=1))


@pytest.fixture(scope="module")
def fitted_parts():
    X, Y = problem()
    return X, Y, random_tree(Y.shape[1])


# ------------------------------------------------------------------ rows and costs


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_relevance_of_nodes_are_those_of_their_labels(seed):
    rng = np.random.default_rng(seed)
    tree = random_tree(25, seed)
    R = sp.random_array((40, 25), density=0.2, rng=rng, format="csr", dtype=np.float32)
    R.sort_indices()
    R = canonical_csr(R)
    nodes = node_rows(tree, R.indptr, R.indices, R.data)
    dense = R.toarray()
    for v in range(1, tree.n_nodes):
        part = slice(nodes.indptr[v], nodes.indptr[v + 1])
        total = dense[:, tree.labels_below(v)].sum(axis=1)
        assert_array_equal(nodes.rows[part], np.flatnonzero(total))
        assert_allclose(nodes.value[part], total[total > 0], rtol=1e-5)
    counts = node_rows(tree, R.indptr, R.indices).value
    expected = [(dense[:, tree.labels_below(v)] > 0).sum(axis=1) for v in range(1, tree.n_nodes)]
    assert_array_equal(counts, np.concatenate([c[c > 0] for c in expected]))


@pytest.mark.parametrize("norm", [None, "l1", "l2", "max"])
@pytest.mark.parametrize("mode", [None, "induce", "leaf"])
def test_costs_are_normalised_relevances_of_the_level(mode, norm):
    rng = np.random.default_rng(0)
    tree = random_tree(25, 3)
    R = canonical_csr(sp.random_array((40, 25), density=0.2, rng=rng, format="csr"))
    nodes = node_rows(tree, R.indptr, R.indices, R.data)
    costs = positive_costs(tree, nodes, 40, mode, norm)
    dense = R.toarray()
    relevance = np.stack([dense[:, tree.labels_below(v)].sum(axis=1) for v in range(tree.n_nodes)])
    for v in range(1, tree.n_nodes):
        level = relevance[tree.depth == tree.depth[v]]
        for p in range(nodes.indptr[v], nodes.indptr[v + 1]):
            i = nodes.rows[p]
            if mode is None or (mode == "leaf" and tree.label[v] < 0):
                expected = 1.0
            else:
                of_row = level[:, i]
                size = {
                    None: 1.0,
                    "l1": of_row.sum(),
                    "l2": np.sqrt((of_row**2).sum()),
                    "max": of_row.max(),
                }[norm]
                expected = relevance[v, i] / size
            assert costs.value[p] == pytest.approx(expected, rel=1e-5)
    # what was handed over is not changed
    assert_allclose(nodes.value, node_rows(tree, R.indptr, R.indices, R.data).value)


def soft_problem(seed=0):
    """Targets that are multiples of a quarter, and the four equally likely draws of the labels."""
    X, Y = problem(60, seed=seed)
    rng = np.random.default_rng(seed)
    quarters = rng.integers(1, 5, Y.nnz)
    T = canonical_csr(sp.csr_array((quarters / 4, Y.indices, Y.indptr), shape=Y.shape))
    drawn = []
    for draw in range(4):  # one random number for the row: labels with t above it are relevant
        D = sp.csr_array((quarters > draw, Y.indices, Y.indptr), shape=Y.shape).astype(np.uint8)
        D.eliminate_zeros()
        drawn.append(canonical_csr(D))
    return X, T, drawn


def soft_positives(tree, T):
    positives = node_rows(tree, T.indptr, T.indices)
    positives = positive_costs(tree, positives, T.shape[0], None, None)
    target = node_rows(tree, T.indptr, T.indices, T.data, largest=True).value
    return positives._replace(target=target)


def test_target_of_a_node_is_the_largest_below_it():
    _, T, _ = soft_problem()
    tree = random_tree(T.shape[1])
    nodes, dense = soft_positives(tree, T), T.toarray()
    for v in range(1, tree.n_nodes):
        largest = dense[:, tree.labels_below(v)].max(axis=1, initial=0)
        part = slice(nodes.indptr[v], nodes.indptr[v + 1])
        assert_array_equal(nodes.rows[part], np.flatnonzero(largest))
        assert_array_equal(nodes.target[part], largest[largest > 0])


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
@pytest.mark.parametrize(("teacher", "with_given"), [(True, False), (True, True), (False, True)])
def test_soft_targets_are_the_mean_over_drawn_labels(loss, teacher, with_given):
    """The classifiers are those of four copies of the rows, each with a draw of the labels."""
    X, T, drawn = soft_problem()
    tree = random_tree(T.shape[1])
    # where each node has rows in all draws: nodes that no draw reaches are trained by none
    task = TASK._replace(loss=loss, teacher=teacher, negative_cost=1.6, C=2.0, tol=1e-7)
    pairs = canonical_csr(
        sp.random_array(T.shape, density=0.05, rng=np.random.default_rng(1), format="csr")
    )

    def given(pairs):
        return node_rows(tree, pairs.indptr, pairs.indices) if with_given else None

    soft, _, converged = train_tree(tree, X, soft_positives(tree, T), task, given=given(pairs))
    assert converged.all()
    copies = canonical_csr(sp.vstack([X] * 4, format="csr"))
    D = canonical_csr(sp.vstack(drawn, format="csr"))
    positives = positive_costs(tree, node_rows(tree, D.indptr, D.indices), 240, None, None)
    pairs = canonical_csr(sp.vstack([pairs] * 4, format="csr"))
    hard, _, _ = train_tree(tree, copies, positives, task._replace(C=0.5), given=given(pairs))
    assert_allclose(soft.bias, hard.bias, rtol=1e-3, atol=1e-4)
    for v in np.flatnonzero(tree.label < 0):
        for k in range(tree.child_start[v + 1] - tree.child_start[v]):
            a, b = np.zeros((2, X.shape[1]))
            for w, weights in ((a, soft), (b, hard)):
                features, values = node_weights(weights, v, k)
                w[features] = values
            assert_allclose(a, b, rtol=1e-3, atol=2e-3)


def _watch(monkeypatch, tree, positives):
    """Record what each node's solver is given: {node: (rows, negatives)}."""
    seen = {}
    solve = _tree_training.SiblingSolver.solve

    def watched(self, rows, pos_indptr, pos_rows, pos_costs, negatives, **options):
        seen[len(seen)] = (rows.copy(), negatives.copy(), np.asarray(rows)[pos_rows], pos_indptr)
        return solve(self, rows, pos_indptr, pos_rows, pos_costs, negatives, **options)

    monkeypatch.setattr(_tree_training.SiblingSolver, "solve", watched)
    rows_of = _tree_training._Trainer._rows
    order = []

    def noted(self, v):
        order.append(v)
        return rows_of(self, v)

    monkeypatch.setattr(_tree_training._Trainer, "_rows", noted)
    return seen, order


@pytest.mark.parametrize(
    ("teacher", "n_matcher", "with_given"),
    [(True, 0, False), (False, 2, False), (True, 2, False), (True, 0, True), (False, 0, True)],
)
def test_rows_that_nodes_see(monkeypatch, fitted_parts, teacher, n_matcher, with_given):
    X, Y, tree = fitted_parts
    rng = np.random.default_rng(1)
    pairs = canonical_csr(sp.random_array(Y.shape, density=0.05, rng=rng, format="csr"))
    positives = node_rows(tree, Y.indptr, Y.indices)
    given = node_rows(tree, pairs.indptr, pairs.indices) if with_given else None
    seen, order = _watch(monkeypatch, tree, positives)
    task = TASK._replace(teacher=teacher, n_matcher=n_matcher, tol=0.1)
    weights, _, _ = train_tree(tree, X, positives, task, given=given)
    # the levels above a node are final when its rows are chosen
    paths = search_reference.node_scores(tree.child_start, weights, X, task.link)
    inner = [v for v in np.flatnonzero(tree.label < 0) if v == 0 or len(rows_below(tree, Y, v))]
    assert sorted(order) == inner
    for position, v in enumerate(order):
        rows, negatives, pos_rows, pos_indptr = seen[position]
        below = rows_below(tree, Y, v)
        shared = set(below) if teacher else set()
        if n_matcher and v:
            for i in range(X.shape[0]):
                found = search_reference.beam_nodes(
                    tree.child_start, tree.label, paths[i], n_matcher, depth=tree.depth[v]
                )
                best = sorted(found, key=lambda c, i=i: (-paths[i, c], c))[:n_matcher]
                shared |= {i} if v in best else set()
        if with_given:
            shared |= set(rows_below(tree, pairs, v))
        if v == 0:
            shared = set(range(X.shape[0]))
        assert_array_equal(rows, sorted(shared | set(below)))
        assert_array_equal(rows[negatives], sorted(shared))
        for q, c in enumerate(range(tree.child_start[v], tree.child_start[v + 1])):
            assert_array_equal(pos_rows[pos_indptr[q] : pos_indptr[q + 1]], rows_below(tree, Y, c))


# ------------------------------------------------------------------ classifiers


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("teacher", {}),
        ("given", {"negative_cost": 0.3, "C": 2.5}),
        ("teacher", {"bias_value": 0.0}),
        ("teacher", {"bias_value": 2.0, "regularize_bias": False}),
    ],
)
def test_classifiers_are_the_optimum_for_their_rows_and_costs(fitted_parts, loss, mode, options):
    X, Y, tree = fitted_parts
    rng = np.random.default_rng(2)
    R = canonical_csr(Y)
    R.data = rng.uniform(0.5, 2, len(R.data)).astype(np.float32)
    pairs = canonical_csr(sp.random_array(Y.shape, density=0.05, rng=rng, format="csr"))
    positives = positive_costs(
        tree, node_rows(tree, R.indptr, R.indices, R.data), X.shape[0], "induce", "l1"
    )
    given = node_rows(tree, pairs.indptr, pairs.indices) if mode == "given" else None
    task = TASK._replace(loss=loss, teacher=mode == "teacher", **options)
    weights, n_iter, converged = train_tree(tree, X, positives, task, given=given)
    assert converged.all()
    assert n_iter[0] == 0
    dense = X.toarray().astype(np.float64)
    n_compared = 0
    for v in np.flatnonzero(tree.label < 0):
        below = rows_below(tree, Y, v)
        shared = below if given is None else rows_below(tree, pairs, v)
        shared = np.arange(X.shape[0]) if v == 0 else shared
        for q, c in enumerate(range(tree.child_start[v], tree.child_start[v + 1])):
            part = slice(positives.indptr[c], positives.indptr[c + 1])
            mine = positives.rows[part]
            features, values = node_weights(weights, v, q)
            if len(mine) == 0:
                assert weights.bias[c] == -np.inf
                assert len(features) == 0
                continue
            n_compared += 1
            rows = np.union1d(shared, mine)
            y = np.where(np.isin(rows, mine), 1.0, -1.0)
            costs = np.full(len(rows), task.C * task.negative_cost)
            costs[y > 0] = task.C * positives.value[part]
            w, b = solver_reference.solve_reference(
                dense[rows],
                y,
                costs,
                loss=loss,
                bias_value=task.bias_value,
                regularize_bias=task.regularize_bias,
            )
            found = np.zeros(X.shape[1])
            found[features] = values
            if task.regularize_bias or (y < 0).any():  # else the free bias has no optimum
                assert_allclose(found, w, atol=2e-3)
                assert weights.bias[c] == pytest.approx(task.bias_value * b, abs=4e-3)
    assert n_compared > tree.n_nodes // 2


def test_weights_below_the_threshold_are_dropped(fitted_parts):
    X, Y, tree = fitted_parts
    positives = node_rows(tree, Y.indptr, Y.indices)
    full, _, _ = train_tree(tree, X, positives, TASK)
    pruned, _, _ = train_tree(tree, X, positives, TASK._replace(threshold=0.2))
    assert len(pruned.weight) < len(full.weight)
    assert_array_equal(pruned.bias, full.bias)
    for v in np.flatnonzero(tree.label < 0):
        for q in range(tree.child_start[v + 1] - tree.child_start[v]):
            features, values = node_weights(full, v, q)
            kept = np.abs(values) >= 0.2
            for a, b in zip(node_weights(pruned, v, q), (features[kept], values[kept])):
                assert_array_equal(a, b)


@pytest.mark.parametrize("n_matcher", [0, 2])
def test_threads_do_not_change_a_bit(n_matcher):
    X, Y = problem(n_samples=200, n_labels=60)
    tree = LabelTree.flat(60) if n_matcher == 0 else random_tree(60, 1)
    positives = node_rows(tree, Y.indptr, Y.indices)
    task = TASK._replace(n_matcher=n_matcher, tol=0.01)
    results = [train_tree(tree, X, positives, task, n_jobs=n_jobs) for n_jobs in (1, 2, 5)]
    for weights, n_iter, converged in results[1:]:
        for a, b in zip(weights, results[0][0]):
            assert a.dtype == b.dtype
            assert_array_equal(a, b)
        assert_array_equal(n_iter, results[0][1])
        assert_array_equal(converged, results[0][2])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_rows_without_features_and_nodes_without_positives(n_jobs):
    tree = random_tree(25)
    Y = np.zeros((10, 25))
    Y[:, 3] = 1
    Y = canonical_csr(sp.csr_array(Y))
    X = canonical_csr(sp.csr_array((10, 7)), np.float32)
    positives = node_rows(tree, Y.indptr, Y.indices)
    done = []
    weights, _, _ = train_tree(tree, X, positives, TASK, n_jobs=n_jobs, advance=done.append)
    assert sum(done) == tree.n_nodes - 1
    assert len(weights.weight) == 0
    path = set(tree.path(3)[1:])
    for v in range(1, tree.n_nodes):
        assert np.isneginf(weights.bias[v]) == (v not in path)


# ------------------------------------------------------------------ storage


def test_packed_weights_come_back(fitted_parts):
    X, Y, tree = fitted_parts
    positives = node_rows(tree, Y.indptr, Y.indices)
    weights, _, _ = train_tree(tree, X, positives, TASK._replace(threshold=0.1))
    index, values = pack_weights(tree, weights)
    again = unpack_weights(tree, index, values)
    for name, a, b in zip(weights._fields, weights, again):
        assert a.dtype == b.dtype, name
        assert_array_equal(a, b, err_msg=name)
    assert sum(a.nbytes for a in index.values()) < sum(a.nbytes for a in weights) / 2
    for name in ("chunk_lengths", "row_lengths", "feature_steps", "child"):
        with pytest.raises(ValueError, match=name):
            unpack_weights(tree, {**index, name: index[name][:-1]}, values)
    with pytest.raises(ValueError, match="weight"):
        unpack_weights(tree, index, {"weight": values["weight"][:-1]})


def test_positions_of_more_than_65536_children_fit():
    n_labels = (1 << 16) + 2
    tree = LabelTree.flat(n_labels)
    Y = canonical_csr(sp.csr_array(([1, 1], ([0, 1], [0, n_labels - 1])), shape=(2, n_labels)))
    X = canonical_csr(sp.csr_array(np.eye(2)), np.float32)
    weights, _, _ = train_tree(tree, X, node_rows(tree, Y.indptr, Y.indices), TASK)
    assert weights.child.dtype == np.int32
    assert_array_equal(np.unique(weights.child), [0, n_labels - 1])
    again = unpack_weights(tree, *pack_weights(tree, weights))
    assert_array_equal(again.child, weights.child)
    assert again.child.dtype == np.int32
