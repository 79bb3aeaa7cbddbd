"""The training loop with learners made for it, gradient accumulation, clipping."""

import numpy as np
import pytest
import scipy.sparse as sp
from contract import make_data
from numpy.testing import assert_allclose, assert_array_equal

from skxmc import SparseDSTClassifier
from skxmc.neural import _front, _output_layer, _training
from skxmc.neural._accumulation import AccumulatingFront
from skxmc.neural._checkpoint import Checkpoint
from skxmc.neural._schedule import learning_rate_factor
from skxmc.neural._training import Learner, Plan, Trainer
from skxmc.ops.csr import canonical_csr

X, Y = make_data()
rng = np.random.default_rng(0)


class Sums(Learner):
    """A learner whose only parameter is moved by the rows and by what an epoch begins with."""

    def __init__(self, measures=None, own_batches=False):
        self.value, self.offset = np.zeros(1), np.zeros(1)
        self.calls, self.begun, self.seen = [], [], []
        self._measures, self._own_batches = measures, own_batches

    def begin_epoch(self, epoch):
        self.begun.append(epoch)
        self.offset = self.value + epoch

    def batches(self, epoch, rng):
        if not self._own_batches:
            return None
        order = rng.permutation(12) + int(self.offset[0] > 0)
        return [order[:7], order[7:9]]

    def train_step(self, rows, *, step, n_steps, factor):
        self.calls.append((step, n_steps, factor))
        self.seen.append(rows)
        self.value = 0.9 * self.value + factor * (rows.sum() * (step + 1) + self.offset)
        return float(len(rows) * (step + 1))

    def evaluate(self):
        return {} if self._measures is None else next(self._measures)

    def parameters(self):
        return {"value": self.value.copy()}

    def load_parameters(self, arrays):
        self.value = arrays["value"]

    def state(self):
        return {"value": self.value, "offset": self.offset}, {"n": len(self.begun)}

    def load_state(self, arrays, meta):
        self.value, self.offset = arrays["value"], arrays["offset"]
        self.restored = meta["n"]


def test_batches_are_a_permutation_in_each_epoch():
    learner = Sums()
    trainer = Trainer(learner, Plan(epochs=3, batch_size=5))
    trainer.fit(12)
    epochs = [learner.seen[first : first + 3] for first in (0, 3, 6)]
    for batches in epochs:
        assert [len(rows) for rows in batches] == [5, 5, 2]
        assert sorted(np.concatenate(batches)) == list(range(12))
        assert all((np.diff(rows) > 0).all() for rows in batches)
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    assert learner.begun == [0, 1, 2]
    # the mean over the rows of the losses, step + 1 for each row
    assert [epoch["loss"] for epoch in trainer.history] == pytest.approx(
        [(5 * 1 + 5 * 2 + 2 * 3) / 12, (5 * 4 + 5 * 5 + 2 * 6) / 12, (5 * 7 + 5 * 8 + 2 * 9) / 12]
    )


def test_factors_are_those_of_the_schedule():
    learner = Sums()
    Trainer(learner, Plan(epochs=2, batch_size=4, warmup=2)).fit(12)
    assert learner.calls == [(s, 6, learning_rate_factor(s, 6, 2, "cosine")) for s in range(6)]
    learner = Sums(own_batches=True)
    Trainer(learner, Plan(epochs=2, batch_size=4, n_steps=4)).fit(12)
    assert learner.calls == [(s, 4, learning_rate_factor(s, 4, 0, "cosine")) for s in range(4)]


def test_a_learner_has_its_own_batches():
    learner = Sums(own_batches=True)
    trainer = Trainer(learner, Plan(epochs=2, batch_size=3))
    trainer.fit(12)
    assert [len(rows) for rows in learner.seen] == [7, 2, 7, 2]
    assert trainer.history[0]["loss"] == pytest.approx((7 * 1 + 2 * 2) / 9)
    again = Sums(own_batches=True)
    Trainer(again, Plan(epochs=2, batch_size=3)).fit(12)
    assert_array_equal(np.concatenate(again.seen), np.concatenate(learner.seen))


@pytest.mark.parametrize("own_batches", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_an_epoch_that_goes_on_is_not_begun_again(tmp_path, monkeypatch, own_batches, stop):
    plan = Plan(epochs=3, batch_size=6, seed=1)
    expected = Sums(own_batches=own_batches)
    Trainer(expected, plan).fit(12)
    monkeypatch.setattr(_training, "_CHECKPOINT_SECONDS", 0.0)
    first, checkpoint = Sums(own_batches=own_batches), Checkpoint(tmp_path, "digest")
    step = first.train_step

    def stopping(rows, **options):
        if options["step"] == stop:
            raise RuntimeError("stopped")
        return step(rows, **options)

    first.train_step = stopping
    with pytest.raises(RuntimeError, match="stopped"):
        Trainer(first, plan).fit(12, checkpoint=checkpoint)
    second = Sums(own_batches=own_batches)
    trainer = Trainer(second, plan)
    assert checkpoint.restore(trainer)
    assert second.restored == len(first.begun) - (stop % 2 == 0)
    trainer.fit(12, checkpoint=checkpoint)
    assert_array_equal(second.value, expected.value)
    assert second.begun == [epoch for epoch in range(3) if 2 * epoch >= stop]
    for one, other in zip(first.seen + second.seen, expected.seen, strict=True):
        assert_array_equal(one, other)


def test_the_first_measure_decides_which_epoch_is_kept():
    measures = [(0.1, 9), (0.5, 8), (0.5, 7), (0.2, 9), (0.3, 9), (0.9, 9)]
    learner = Sums(measures=iter([{"judged": a, "P@1": b} for a, b in measures]))
    trainer = Trainer(learner, Plan(epochs=20, batch_size=6, patience=3))
    kept = []
    step = trainer._evaluate
    trainer._evaluate = lambda: (kept.append(learner.value.copy()), step())[1]
    trainer.fit(12)
    assert trainer.best_epoch == 2
    assert trainer.n_epochs == 5
    assert_array_equal(learner.value, kept[1])
    assert trainer.history[3]["P@1"] == 9


def test_a_loss_that_is_not_finite_ends_the_training():
    learner = Sums()
    learner.train_step = lambda rows, *, step, n_steps, factor: np.nan if step == 3 else 1.0
    with pytest.raises(FloatingPointError, match="step 4"):
        Trainer(learner, Plan(epochs=2, batch_size=4)).fit(12)


# ------------------------------------------------------------------ accumulation


def layer(**options):
    draws = np.random.default_rng(1)
    weights = draws.standard_normal((20, 7)).astype(np.float32)
    return _front.HiddenLayerFront(weights, np.ones(7, dtype=np.float32), **options)


ROWS = canonical_csr(sp.random_array((11, 20), density=0.3, rng=rng, dtype=np.float32))


def trained(front, rows, n_steps=3):
    """Weights after steps of a loss that compares the rows of the batch with each other."""
    for _ in range(n_steps):
        features = front.forward(rows, training=True, seed=0)
        front.backward(features @ (features.T @ features) / len(features) ** 2 - features.mean(0))
        front.step(0.05)
    return front.state()


@pytest.mark.parametrize("n_parts", [1, 2, 5, 40])
@pytest.mark.parametrize("form", [lambda X: X, lambda X: X.toarray()])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(n_parts, form):
    expected = trained(layer(), form(ROWS))
    found = trained(AccumulatingFront(layer(), n_parts), form(ROWS))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_parts_of_a_batch_on_torch():
    torch = pytest.importorskip("torch")
    from skxmc.neural import torch_front

    one = layer()
    expected = trained(one, ROWS)
    for n_parts in (1, 4):
        front = torch_front.HiddenLayerFront(layer().weights, layer().bias)
        found = trained(AccumulatingFront(front, n_parts), ROWS)
        assert isinstance(front.forward(ROWS), torch.Tensor)
        for name in ("weights", "bias"):
            assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_part_computed_again_drops_the_same_units():
    front = layer(dropout=0.5)
    masks = []
    forward = front.forward

    def remembered(batch, **options):
        features = forward(batch, **options)
        masks.append((options["seed"], features != 0))
        return features

    front.forward = remembered
    accumulating = AccumulatingFront(front, 3)
    features = accumulating.forward(ROWS, training=True, seed=5)
    accumulating.backward(features)
    seeds = [seed for seed, _ in masks]
    assert len(set(seeds[:3])) == 3  # each part has its own
    assert seeds[3:] == [seeds[1], seeds[0]]  # the last one is still known
    assert_array_equal(masks[3][1], masks[1][1])
    assert_array_equal(masks[4][1], masks[0][1])
    with pytest.raises(RuntimeError, match="backward comes after"):
        accumulating.backward(features)
    with pytest.raises(ValueError, match="n_parts"):
        AccumulatingFront(front, 0)


def test_parts_of_texts_keep_the_activations_of_one_part():
    torch = pytest.importorskip("torch")
    from skxmc.neural.torch_text import TextFront

    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(128, 4)
            self.layer = torch.nn.Linear(4, 6)

        def forward(self, ids, mask):
            most.append(len(ids))
            return self.layer(self.embedding(ids))

    torch.manual_seed(0)
    pair, most = (lambda texts: [[ord(c) for c in text] for text in texts]), []
    pair, texts = (pair, Bag()), ["one", "three", "", "seven", "two", "eight", "four"]
    whole, parts = TextFront(pair), AccumulatingFront(TextFront(pair), 3)
    expected = trained(whole, texts)
    most.clear()
    found = trained(parts, texts)
    assert max(most) <= 3
    for name, array in found.items():
        assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert_allclose(parts.transform(texts), whole.transform(texts), atol=1e-4)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_accumulation_of_an_estimator_is_the_large_batch(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    options = {"hidden": 16, "fan_in": 6, "epochs": 2, "random_state": 0, "dropout": 0.0}
    options |= {"backend": backend, "batch_size": 24, "dynamics": "rigl", "rewire_interval": 2}
    models = [SparseDSTClassifier(**options, accumulation=n).fit(X, Y) for n in (1, 4)]
    one, other = (model.predict_topk(X, 9) for model in models)
    assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-4)
    assert models[0].history_[-1]["loss"] == pytest.approx(models[1].history_[-1]["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="accumulation"):
        SparseDSTClassifier(accumulation=0).fit(X, Y)


# ------------------------------------------------------------------ gradient clipping


@pytest.mark.parametrize("n_rows", [1, 11])
@pytest.mark.parametrize("form", [lambda X: X, lambda X: X.toarray()])
def test_norm_of_a_gradient_from_products_of_rows(form, n_rows, monkeypatch):
    monkeypatch.setattr(_front, "_NORM_ROWS", 4)
    batch, gradient = form(ROWS[:n_rows]), rng.standard_normal((n_rows, 7)).astype(np.float32)
    weights = ROWS[:n_rows].toarray().astype(float).T @ gradient
    expected = np.sqrt((weights**2).sum() + (gradient.sum(axis=0, dtype=float) ** 2).sum())
    assert _front.gradient_norm(batch, gradient) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_long_gradients_are_scaled(kind):
    """The first moment of Adam after a step is a tenth of the gradient."""
    if kind == "torch":
        torch = pytest.importorskip("torch")
        from skxmc.neural import torch_front

        def make(limit):
            draws = layer()
            return torch_front.HiddenLayerFront(draws.weights, draws.bias, max_grad_norm=limit)

        def tensor(array):
            return torch.from_numpy(array)
    else:

        def make(limit):
            return layer(max_grad_norm=limit)

        def tensor(array):
            return array

    upstream = rng.standard_normal((11, 7)).astype(np.float32)

    def moments(limit):
        front = make(limit)
        front.forward(ROWS, training=True, seed=0)
        front.backward(tensor(upstream))
        front.step(0.1)
        state = front.state()
        return np.concatenate([state["first"].ravel(), state["bias_first"]])

    free = moments(None)
    length = 10 * np.linalg.norm(free)
    assert_allclose(moments(1.5 * length), free, rtol=1e-6)
    assert_allclose(moments(0.2 * length), 0.2 * free, rtol=1e-4, atol=1e-7)


def test_clipping_of_an_estimator():
    options = {"hidden": 16, "fan_in": 6, "epochs": 1, "random_state": 0, "n_jobs": 1}
    free, wide, tight = (
        SparseDSTClassifier(**options, max_grad_norm=limit).fit(X, Y).predict_topk(X, 9).scores
        for limit in ("auto", 1e9, 1e-9)
    )
    assert_array_equal(free, wide)
    assert not np.allclose(free, tight)
    with pytest.raises(ValueError, match="max_grad_norm"):
        SparseDSTClassifier(max_grad_norm=0.0).fit(X, Y)


# ------------------------------------------------------------------ gradients for RigL


@pytest.mark.parametrize("name", ["squared_hinge", "bce"])
@pytest.mark.parametrize("weighted", [False, True])
def test_dense_gradients_are_those_of_autograd(name, weighted):
    """On NumPy and on torch, for whole groups within both parts of a layer."""
    torch = pytest.importorskip("torch")
    from skxmc.ops.sparse_head._types import Loss, Optimizer

    parts = _output_layer.initial_parts([(4, 5, 1), (11, 3, 2)], 7, "float32", 0, scale=0.5)
    features = rng.standard_normal((9, 7)).astype(np.float32)
    targets = canonical_csr(sp.random_array((9, 15), density=0.2, rng=rng, dtype=np.float32))
    targets.data[:] = 1
    weight = np.linspace(1, 3, 15, dtype=np.float32) if weighted else None
    dense = np.zeros((15, 7))
    for label in range(4):
        dense[label, parts[0].indices[label]] = parts[0].weights[label]
    for label in range(11):
        dense[4 + label, parts[1].indices[label // 2]] = parts[1].weights[label]
    variable = torch.tensor(dense, requires_grad=True)
    bias = np.concatenate([part.bias for part in parts])
    margins = torch.tensor(features.astype(float)) @ variable.T + torch.tensor(bias)
    sign = torch.tensor(2 * targets.toarray() - 1.0)
    cost = torch.relu(1 - sign * margins) ** 2
    if name == "bce":
        cost = torch.nn.functional.softplus(-sign * margins)
    if weighted:
        cost = cost * torch.where(sign > 0, torch.tensor(weight), 1.0)
    cost.sum().backward()
    for backend in ("reference", "numba", "torch"):
        layer = _output_layer.OutputLayer(
            parts, 7, Loss(name, weight), Optimizer("sgd", 0.1), backend=backend, device="cpu"
        )
        first, second = layer._gradients(features, targets)
        for found, labels in ((first(1, 3), slice(1, 3)), (second(2, 11), slice(6, 15))):
            assert_allclose(found, variable.grad[labels], rtol=1e-4, atol=1e-5)
