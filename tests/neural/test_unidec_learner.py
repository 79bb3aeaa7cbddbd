"""The training step of UniDEC: pools, losses, gradients, batches, and what a checkpoint holds."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import symmetrized_cooccurrence
from skxmc.neural import _row_adam
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._projection import Projection
from skxmc.neural._training import Plan, Trainer
from skxmc.neural._unidec_learner import Parts, Settings, UniDECLearner, cluster_rows
from skxmc.ops.contrastive import Pairs, reference
from skxmc.ops.csr import canonical_indicator, canonical_pattern

N_ROWS, N_LABELS, N_FEATURES, WIDTH = 40, 24, 9, 6

SETTINGS = Settings(
    mode="both",
    losses=("decoupled", "supcon"),
    temperatures=(0.1, 0.7),
    row_shares=(0.5, 0.3),
    share=0.4,
    n_positives=2,
    n_hard_negatives=3,
    refresh_every=2,
    cluster_from=1,
    batch_size=10,
    learning_rates=(0.01, 0.01, 0.02),
    search="exact",
    seed=7,
)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    Y = (rng.random((N_ROWS, N_LABELS)) < 0.15).astype(np.uint8)
    Y[:, 5] = 0  # a label without rows
    Y[0] = 0
    inputs = rng.standard_normal((N_ROWS + N_LABELS, N_FEATURES)).astype(np.float32)
    return inputs, canonical_indicator(sp.csr_array(Y))


def new_learner(settings=SETTINGS, *, dtype=np.float32, dropout=0.2, seed=0, **options):
    rng = np.random.default_rng(seed)
    inputs, Y = problem(seed)

    def head(tanh):
        weights = rng.standard_normal((WIDTH, 4)).astype(dtype)
        return Projection(weights, np.zeros(4, dtype=dtype), tanh=tanh, dropout=dropout)

    front = LinearFront(rng.standard_normal((N_FEATURES, WIDTH)).astype(dtype) / 3)
    parts = Parts(front, head(True), head(False), rng.standard_normal((N_LABELS, 4)).astype(dtype))
    if settings.mode == "encoder":
        parts = parts._replace(head=None, classifier=None)
    if settings.mode == "classifier":
        parts, inputs = parts._replace(dual=None), inputs[:N_ROWS]
    options = {"train": np.arange(N_ROWS), **options}
    return UniDECLearner(parts, inputs.astype(dtype), Y, settings, **options)


def pairs_of(matrix, rows, pool):
    return Pairs(*np.nonzero(matrix.toarray()[rows][:, pool]))


def spied_pools(learner, monkeypatch):
    pools = []
    original = learner._pool
    monkeypatch.setattr(learner, "_pool", lambda *args: pools.append(original(*args)) or pools[-1])
    return pools


@pytest.mark.parametrize("mode", ["both", "encoder", "classifier"])
def test_loss_is_that_of_algorithm_1(mode, monkeypatch):
    """By the formulas: unit vectors and label texts on one side, plain label vectors else."""
    settings = SETTINGS._replace(mode=mode, cluster_from=0, glas=2.5)
    same_text = canonical_pattern(
        sp.csr_array((np.ones(3), ([1, 2, 3], [4, 4, 9])), shape=(N_ROWS, N_LABELS)),
        (N_ROWS, N_LABELS),
    )
    learner = new_learner(settings, dtype=np.float64, dropout=0.0, same_text=same_text)
    learner.parts.front.weights = learner.parts.front.weights.astype(np.float32)
    learner.begin_epoch(0)
    pools = spied_pools(learner, monkeypatch)
    rows = np.arange(0, 12)
    front, dual, head, table = learner.parts
    hidden = front.weights.astype(np.float64)
    heads = {
        name: (part.weights.copy(), part.bias.copy())
        for name, part in (("dual", dual), ("head", head))
        if part is not None
    }
    before = None if table is None else table.astype(np.float64)
    if table is not None:
        monkeypatch.setattr(_row_adam, "adam_touched_rows", lambda *args: None)
    monkeypatch.setattr(learner.parts.front, "step", lambda rate: None)
    for part in (dual, head):
        if part is not None:
            monkeypatch.setattr(part, "step", lambda rate: None)
    result = learner.train_step(rows, step=3, n_steps=10, factor=1.0)
    pool = pools[0]
    features = learner._inputs @ hidden
    positives = pairs_of(learner._Y, rows, pool)
    ignored = pairs_of(same_text, rows, pool)
    losses = {}
    if mode != "classifier":
        outputs = np.tanh(features @ heads["dual"][0] + heads["dual"][1])
        outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
        losses["encoder"] = reference.contrastive_loss(
            outputs[rows] @ outputs[N_ROWS + pool].T / 0.1,
            positives,
            loss="decoupled",
            row_share=0.5,
            ignored=ignored,
        ).loss
    if mode != "encoder":
        queries = features[rows] @ heads["head"][0] + heads["head"][1]
        losses["classifier"] = reference.contrastive_loss(
            queries @ before[pool].T / 0.7,
            positives,
            loss="supcon",
            row_share=0.3,
            ignored=ignored,
        ).loss
        W = before[pool]
        S = symmetrized_cooccurrence(learner._Y).toarray()[np.ix_(pool, pool)]
        losses["classifier"] += 2.5 * ((W @ W.T - S) ** 2).mean()
    expected = losses.get(mode, 0.4 * losses.get("encoder", 0) + 0.6 * losses.get("classifier", 0))
    np.testing.assert_allclose(result / len(rows), expected, rtol=1e-5)


def test_gradients_are_the_numeric_ones(monkeypatch):
    learner = new_learner(SETTINGS._replace(glas=1.5), dtype=np.float64)
    front, dual, head, table = learner.parts
    found = {}

    def keep_labels(table, moments, batch, gradient, *args):
        found["table"] = batch.T @ gradient

    monkeypatch.setattr(_row_adam, "adam_touched_rows", keep_labels)
    monkeypatch.setattr(LinearFront, "forward", lambda self, batch, **_: batch @ self.weights)
    monkeypatch.setattr(
        LinearFront, "backward", lambda self, gradient: found.update(features=gradient)
    )
    monkeypatch.setattr(LinearFront, "step", lambda self, rate: None)
    for name, part in (("dual", dual), ("head", head)):
        monkeypatch.setattr(
            part,
            "step",
            lambda rate, name=name, part=part: found.update({name: part._gradient[0]}),
        )
    rows = np.arange(3, 15)
    pools = spied_pools(learner, monkeypatch)

    def value():
        return learner.train_step(rows, step=5, n_steps=9, factor=1.0) / len(rows)

    value()
    texts = np.concatenate([rows, N_ROWS + pools[0]])
    gradients = {
        "table": found["table"],
        "dual": found["dual"],
        "head": found["head"],
        "front": learner._inputs[texts].T @ found["features"],
    }
    parameters = {
        "table": table,
        "dual": dual.weights,
        "head": head.weights,
        "front": front.weights,
    }
    rng = np.random.default_rng(0)
    for name, parameter in parameters.items():
        expected = gradients[name]
        assert np.abs(expected).max() > 1e-3
        for _ in range(12):
            index = tuple(rng.integers(parameter.shape))
            kept, numeric = parameter[index], 0.0
            for sign in (1, -1):
                parameter[index] = kept + sign * 1e-5
                numeric += sign * value() / 2e-5
            parameter[index] = kept
            # lengths of rows are float64, the constants of the settings float32
            np.testing.assert_allclose(expected[index], numeric, rtol=1e-4, atol=1e-6)


def test_pool_has_some_positives_and_hard_negatives(monkeypatch):
    learner = new_learner()
    learner.begin_epoch(1)
    pools, rows = spied_pools(learner, monkeypatch), np.arange(8)
    sizes = set()
    for step in range(20):
        learner.train_step(rows, step=step, n_steps=20, factor=0.0)
        pool = pools[-1]
        assert (np.diff(pool) > 0).all()
        truth = learner._Y.toarray()[rows] > 0
        hard = np.unique(learner._hard[rows])
        assert np.isin(pool, np.concatenate([np.flatnonzero(truth.any(axis=0)), hard])).all()
        for row in range(len(rows)):
            own = np.flatnonzero(truth[row])
            assert np.isin(own, pool).sum() >= min(2, len(own))
            assert np.isin(learner._hard[rows[row]], pool).sum() >= 3
        sizes.add(len(pool))
    assert len(sizes) > 1  # drawn anew


def test_one_positive_a_row_without_hard_negatives(monkeypatch):
    learner = new_learner(SETTINGS._replace(n_positives=1, n_hard_negatives=0))
    learner.begin_epoch(1)
    pools = spied_pools(learner, monkeypatch)
    learner.train_step(np.arange(1, 9), step=0, n_steps=1, factor=1.0)
    assert len(pools[0]) <= 8


def test_hard_negatives_are_the_nearest_labels_that_are_not_the_rows_own():
    learner = new_learner()
    learner.begin_epoch(1)
    queries, labels = (np.hstack(v[:1]) for v in learner.vectors(np.arange(N_ROWS)))
    scores = queries @ labels.T
    scores[learner._Y.toarray() > 0] = -np.inf
    scores[:, 5] = -np.inf  # it has no rows
    expected = np.argsort(-scores, axis=1)[:, : learner._hard.shape[1]]
    assert learner._hard.shape[1] == 6  # eta tau
    np.testing.assert_array_equal(learner._hard, expected)


def test_refresh_every_tau_epochs(monkeypatch):
    learner = new_learner(SETTINGS._replace(cluster_from=2, refresh_every=3))
    epochs = []
    for epoch in range(9):
        before = learner._order
        learner.begin_epoch(epoch)
        if learner._order is not before:
            epochs.append(epoch)
        rows = np.concatenate(learner.batches(epoch, np.random.default_rng(epoch)))
        np.testing.assert_array_equal(np.sort(rows), np.arange(N_ROWS))
    assert epochs == [2, 5, 8]


def test_clusters_are_batches_of_similar_rows():
    rng = np.random.default_rng(0)
    centres = np.eye(4, 5)
    rows = centres[np.arange(80) % 4] + 0.05 * rng.standard_normal((80, 5))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    order, bounds = cluster_rows(rows, 4, seed=0)
    found = [set((order[a:b] % 4).tolist()) for a, b in itertools.pairwise(bounds)]
    assert sorted(map(sorted, found)) == [[0], [1], [2], [3]]
    order, bounds = cluster_rows(rows, 1, seed=0)
    assert len(order) == 80
    assert bounds.tolist() == [0, 80]


def test_a_batch_without_positives_changes_nothing():
    learner = new_learner()
    before = learner.parameters()
    assert learner.train_step(np.array([0]), step=0, n_steps=1, factor=1.0) == 0
    for name, array in learner.parameters().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("mode", ["both", "encoder", "classifier"])
def test_a_training_that_goes_on_is_the_same_bit_for_bit(mode):
    settings = SETTINGS._replace(mode=mode)
    plan = Plan(epochs=4, batch_size=10, warmup=2, seed=7)
    whole = Trainer(new_learner(settings), plan)
    whole.fit(N_ROWS)

    class Stop(Exception):
        pass

    class Once:
        """Stops in the middle of an epoch, after a refresh."""

        def write(self, trainer):
            arrays, self.meta = trainer.state()
            self.arrays = {name: np.array(array) for name, array in arrays.items()}

    checkpoint, interrupted = Once(), Trainer(new_learner(settings), plan)
    original = interrupted.learner.train_step

    def step(rows, **arguments):
        if arguments["step"] == 10:
            checkpoint.write(interrupted)
            raise Stop
        return original(rows, **arguments)

    interrupted.learner.train_step = step
    with pytest.raises(Stop):
        interrupted.fit(N_ROWS)
    resumed = Trainer(new_learner(settings, seed=0), plan)
    resumed.load_state(checkpoint.arrays, checkpoint.meta)
    resumed.fit(N_ROWS)
    assert resumed.history == whole.history
    for name, array in whole.learner.state()[0].items():
        np.testing.assert_array_equal(resumed.learner.state()[0][name], array)


def test_precision_by_hand():
    rows = np.array([3, 8, 9, 20])
    learner = new_learner(validation=rows)
    queries, labels = (np.hstack(v) for v in learner.vectors(rows))
    order = np.argsort(-(queries @ labels.T), axis=1)
    truth = learner._Y.toarray()[rows] > 0
    hits = np.take_along_axis(truth, order, axis=1)
    expected = {"P@1": hits[:, :1].mean(), "P@3": hits[:, :3].mean()}
    assert learner.evaluate() == pytest.approx(expected)
