"""The fine-tuning of XR-Transformer against its equations, written out densely."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.label_space import LabelTree
from skxmc.linear._tree_training import node_rows, positive_costs
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._training import Plan, Trainer
from skxmc.neural._xr_learner import (
    Level,
    Settings,
    XRLearner,
    concatenated_rows,
    dense_rows,
    unit_features,
)
from skxmc.ops.csr import canonical_csr, canonical_indicator

SETTINGS = Settings(
    batch_size=8,
    learning_rate=0.01,
    head_learning_rate=0.02,
    warmup=0.1,
    schedule="cosine",
    C=1.0,
    negative_cost=0.7,
    n_shortlist=2,
    seed=0,
    n_jobs=1,
)

# 3 clusters of labels and a label of its own on the first level; 8 labels below
TREE = LabelTree.from_parents(
    [-1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3], [-1, -1, -1, -1, 8, 0, 1, 2, 3, 4, 5, 6, 7]
)
N_LABELS = 9


def make_rows(n_rows=40, n_features=12, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.random((n_rows, N_LABELS)) < 0.25
    Y[np.arange(n_rows), np.arange(n_rows) % N_LABELS] = True
    X = Y @ rng.random((N_LABELS, n_features)) + 0.3 * rng.random((n_rows, n_features))
    X[rng.random(X.shape) < 0.3] = 0
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return canonical_csr(sp.csr_array(X.astype(np.float32)), np.float32, name="X"), Y


def make_learner(*, front=None, settings=SETTINGS, levels=((1, 5), (2, 9)), norm="l1"):
    X, Y = make_rows()
    indicator = canonical_indicator(sp.csr_array(Y.astype(np.uint8)))
    positives = positive_costs(
        TREE,
        node_rows(TREE, indicator.indptr, indicator.indices),
        len(Y),
        None if norm is None else "induce",
        norm,
    )
    if front is None:
        weights = np.random.default_rng(1).standard_normal((X.shape[1], 6)).astype(np.float32)
        front = LinearFront(weights, dropout=0.2)
    return XRLearner(
        front, X, X, 0.8, TREE, positives, [Level(*level) for level in levels], settings
    )


def chain():
    """C of each level, by equation: children times parents, nodes of a level from 0."""
    depth, parent = TREE.depth, TREE.parent
    matrices = {}
    for t in (1, 2):
        nodes, above = np.flatnonzero(depth == t), np.flatnonzero(depth == t - 1)
        matrices[t] = (parent[nodes][:, None] == above[None, :]).astype(int)
    return matrices


def level_targets(t):
    """Y and R of a level: eq. 5 and 6. The label of depth 1 is no node of depth 2."""
    _, Y = make_rows()
    leaf = {t: np.flatnonzero((TREE.depth == t) & (TREE.label >= 0)) for t in (1, 2)}
    R2 = Y[:, TREE.label[leaf[2]]].astype(int)
    if t == 2:
        return R2 > 0, R2
    R1 = R2 @ chain()[2]
    R1[:, leaf[1] - np.flatnonzero(TREE.depth == 1)[0]] = Y[:, TREE.label[leaf[1]]]
    return R1 > 0, R1


# ------------------------------------------------------------------ rows


def test_concatenation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for n_rows, n_columns, width in [(1, 1, 1), (7, 5, 3), (30, 2, 4)]:
        A = sp.random_array((n_rows, n_columns), density=0.4, rng=rng, format="csr")
        A = canonical_csr(A, np.float32, name="A")
        B = rng.standard_normal((n_rows, width)).astype(np.float32)
        rows = concatenated_rows(A, B)
        assert_array_equal(rows.toarray(), np.hstack([A.toarray(), B]))
        assert rows.has_canonical_format
        assert (rows.indptr.dtype, rows.indices.dtype) == (np.int64, np.int32)
        assert_array_equal(dense_rows(B).toarray(), B)


def test_unit_features_keep_empty_rows():
    features, lengths = unit_features(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert_allclose(features, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert_allclose(lengths, [[5], [1]])


# ------------------------------------------------------------------ equations


@pytest.mark.parametrize("norm", ["l1", None])
def test_targets_and_costs_of_each_level(norm):
    """The batch's shortlist, signs and costs are those of eq. 5, 6 and 8."""
    learner = make_learner(norm=norm)
    rows = np.array([0, 3, 4, 11, 39])
    for number, t in enumerate((1, 2)):
        learner._begin_level(number)
        labels, R = level_targets(t)
        above, _ = level_targets(t - 1) if t > 1 else (np.ones((len(R), 1), bool), None)
        if t == 1:
            expected = np.ones((len(R), len(chain()[1])), bool)
        else:
            matched = learner.shortlist.toarray() > 0
            inner = TREE.label[TREE.depth == 1] < 0
            assert (matched >= (above & inner)).all()  # every parent of a label is there
            assert not matched[:, ~inner].any()
            # and at most k more
            assert ((matched & ~above).sum(axis=1) <= SETTINGS.n_shortlist).all()
            assert (matched & ~above).any()
            expected = matched @ chain()[t].T > 0
        costs = R / R.sum(axis=1, keepdims=True).clip(1) if norm else labels.astype(float)
        costs = np.where(labels, costs, SETTINGS.negative_cost) * expected
        nodes, sign, cost = learner._batch_targets(rows)
        assert_array_equal(nodes, np.flatnonzero(expected[rows].any(axis=0)))
        assert_allclose(cost, costs[np.ix_(rows, nodes)], rtol=1e-6)
        assert_array_equal(sign > 0, labels[np.ix_(rows, nodes)])


def test_shortlists_are_the_best_nodes_of_the_level_above():
    """k = all of them: each row sees all inner nodes."""
    learner = make_learner(settings=SETTINGS._replace(n_shortlist=4))
    learner._begin_level(1)
    assert_array_equal(learner.shortlist.toarray() > 0, [[True, True, True, False]] * 40)


def objective(w, features, signs, costs, C):
    """Eq. 9 of one node, its ridge for weights and bias being 1 / 2."""
    margins = signs * (features @ w[:-1] + w[-1])
    return 0.5 * w @ w + C * (costs * np.maximum(0, 1 - margins) ** 2).sum()


def test_head_begins_at_the_solution_of_its_linear_problem():
    """Eq. 11, against a general optimiser, on the rows of the shortlist only."""
    learner = make_learner()
    for number in (0, 1):
        learner._begin_level(number)
        features = np.float64(learner.embeddings())
        nodes, sign, cost = learner._batch_targets(np.arange(learner.n_rows))
        for node in nodes:
            seen = cost[:, node] > 0
            data = (features[seen], sign[seen, node], np.float64(cost[seen, node]), SETTINGS.C)
            best = scipy.optimize.minimize(objective, np.zeros(7), args=data, tol=1e-9).fun
            found = objective(np.float64(learner.head[node]), *data)
            start = objective(np.zeros(7), *data)
            assert found - best <= 0.01 * (start - best)


class Recorder:
    """A front whose features are its rows, and which keeps the gradient."""

    n_outputs = 12

    def prepare(self, X):
        return X

    def transform(self, X):
        return X.toarray()

    def forward(self, batch, *, training, seed=0):
        return batch.toarray() * self.lengths

    def backward(self, gradient):
        self.gradient = gradient

    def step(self, learning_rate):
        self.rate = learning_rate


def test_gradients_of_a_step():
    """Loss and gradients are those of eq. 9, by finite differences of the formula."""
    front = Recorder()
    learner = make_learner(front=front)
    rows = np.array([2, 5, 6, 30])
    front.lengths = np.float32([[1.5], [0.5], [3.0], [1.0]])
    learner._begin_level(1)
    head = np.float64(learner.head) + 0.1
    learner.head = head.astype(np.float32)
    hidden = np.float64(front.forward(learner.texts[rows], training=True))
    nodes, sign, cost = learner._batch_targets(rows)

    def loss(hidden, head):
        features = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        margins = sign * (features @ head[nodes, :-1].T + head[nodes, -1])
        return (cost * np.maximum(0, 1 - margins) ** 2).sum()

    def slopes(function, x):
        step, out = 1e-6, np.zeros(x.size)
        for i in range(x.size):
            delta = np.zeros(x.size)
            delta[i] = step
            delta = delta.reshape(x.shape)
            out[i] = (function(x + delta) - function(x - delta)) / (2 * step)
        return out.reshape(x.shape)

    before = learner.head.copy()
    found = learner.train_step(rows, step=6, n_steps=14, factor=99.0)
    assert_allclose(found, loss(hidden, head), rtol=1e-5)
    expected = slopes(lambda h: loss(h, head), hidden) / len(rows)
    assert_allclose(front.gradient, expected, rtol=1e-3, atol=1e-6)
    # Adam's first step is the sign of the gradient, times the rate of the level's second step
    by_head = slopes(lambda w: loss(hidden, w), head)
    rate = front.rate / SETTINGS.learning_rate * SETTINGS.head_learning_rate
    clear = np.abs(by_head) > 1e-4
    moved = (learner.head - before)[clear]
    assert_allclose(moved, -rate * np.sign(by_head[clear]), rtol=1e-2)
    assert_array_equal(learner.head[by_head.any(axis=1) == 0], before[by_head.any(axis=1) == 0])


# ------------------------------------------------------------------ the loop


def run(learner):
    steps = sum(level.n_steps for level in learner.levels)
    plan = Plan(epochs=len(learner.epochs), batch_size=8, schedule="constant", n_steps=steps)
    return Trainer(learner, plan), learner.n_rows


def test_levels_take_their_steps():
    learner = make_learner()
    assert learner.epochs == [(0, 0, 5), (1, 5, 5), (1, 5, 4)]
    batches = learner.batches(0, np.random.default_rng(0))
    assert_array_equal(np.sort(np.concatenate(batches)), np.arange(40))
    assert [len(b) for b in learner.batches(2, np.random.default_rng(0))] == [8] * 4
    trainer, n_rows = run(learner)
    trainer.fit(n_rows)
    assert (trainer.n_steps, learner.level) == (14, 1)


def test_training_lowers_the_loss():
    """On each level, and the better start of the second is the work of the first."""
    learner = make_learner(
        front=LinearFront(np.eye(12, 8, dtype=np.float32)),
        levels=((1, 100), (2, 200)),
        settings=SETTINGS._replace(learning_rate=0.03),
    )
    trainer, n_rows = run(learner)
    trainer.fit(n_rows)
    losses = [epoch["loss"] for epoch in trainer.history]
    assert losses[19] < 0.8 * losses[0]
    assert losses[-1] < 0.8 * losses[20]
    untrained = make_learner(front=LinearFront(np.eye(12, 8, dtype=np.float32)), levels=((2, 5),))
    start, _ = run(untrained)
    start.fit(n_rows)
    assert losses[20] < start.history[0]["loss"]


@pytest.mark.parametrize("n_steps", [0, 3, 5, 7, 10, 13])
def test_goes_on_bit_for_bit(n_steps):
    """Interrupted before a level, within one, between passes."""
    whole, n_rows = run(make_learner())
    whole.fit(n_rows)
    first, _ = run(make_learner())

    class Stop(Exception):
        pass

    step = first.learner.train_step

    def stopping(rows, **numbers):
        if numbers["step"] == n_steps:
            raise Stop
        return step(rows, **numbers)

    first.learner.train_step = stopping
    with pytest.raises(Stop):
        first.fit(n_rows)
    arrays, meta = first.state()
    arrays = {name: np.array(array) for name, array in arrays.items()}
    second, _ = run(make_learner())
    second.load_state(arrays, meta)
    second.fit(n_rows)
    assert second.history == whole.history
    for name, array in whole.state()[0].items():
        assert_array_equal(second.state()[0][name], array, err_msg=name)


def test_the_result_does_not_depend_on_threads():
    heads = []
    for n_jobs in (1, 3):
        trainer, n_rows = run(make_learner(settings=SETTINGS._replace(n_jobs=n_jobs)))
        trainer.fit(n_rows)
        heads.append(trainer.learner.head)
    assert_array_equal(*heads)
