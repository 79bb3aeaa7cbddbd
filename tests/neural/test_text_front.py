"""The text front against plain torch: gradients, updates, order, resume, bad input."""

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skxmc.neural._text import TokenRows, check_texts, is_front, length_buckets
from skxmc.neural.torch_text import TextFront, text_footprint, text_front
from skxmc.neural.torch_text_optimizer import KahanAdamW, make_optimizer

WIDTH = 16
VOCABULARY = 40
TEXTS = [
    "a",
    "some words of a text",
    "x y",
    "one two three four five six seven eight nine ten",
    "yes",
    "alpha beta gamma",
]


def tokenizer(texts):
    """Return a token id (2 to 39) a word."""
    return [[2 + sum(map(ord, word)) % (VOCABULARY - 2) for word in text.split()] for text in texts]


class TinyTransformer(torch.nn.Module):
    """Two layers of attention; no dropout unless asked for."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.positions = torch.nn.Embedding(64, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=dropout, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids, mask):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.layers(x, src_key_padding_mask=mask == 0)


@pytest.fixture(autouse=True)
def one_thread():
    """What is computed here is too small to be shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return TinyTransformer()


@pytest.fixture
def pair(module):
    return tokenizer, module


def embed_one_by_one(module, pooling="mean", texts=TEXTS):
    """Return the embeddings without any padding, one row at a time."""
    rows = []
    for ids in tokenizer(texts):
        hidden = module(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))[0]
        rows.append(
            {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values}[pooling]
        )
    return torch.stack(rows)


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


# ---- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("training", [False, True])
def test_features_are_those_of_rows_alone(pair, pooling, training):
    front = TextFront(pair, pooling=pooling)
    expected = embed_one_by_one(pair[1], pooling).detach().numpy()
    features = front.forward(TEXTS, training=training, seed=3)
    assert features.dtype == np.float32
    assert features.shape == (len(TEXTS), front.n_outputs) == (len(TEXTS), WIDTH)
    np.testing.assert_allclose(features, expected, atol=2e-6)


def test_normalized_features_have_unit_length(pair):
    plain = TextFront(pair).transform(TEXTS)
    unit = TextFront(pair, normalize=True).transform(TEXTS)
    np.testing.assert_allclose(
        unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize("batch_tokens", [1, 7, 8192])
def test_transform_keeps_the_order_of_the_rows(pair, batch_tokens):
    texts = TEXTS * 5
    features = TextFront(pair, batch_tokens=batch_tokens).transform(texts)
    expected = embed_one_by_one(pair[1], texts=texts).detach().numpy()
    np.testing.assert_allclose(features, expected, atol=2e-6)


def test_prepared_rows_can_be_picked(pair):
    front = TextFront(pair)
    rows = front.prepare(TEXTS)
    picked = np.array([4, 1, 1])
    expected = front.transform([TEXTS[i] for i in picked])
    np.testing.assert_array_equal(front.transform(rows[picked]), expected)
    np.testing.assert_array_equal(front.forward(rows[picked], training=False), expected)


def test_a_module_may_pool_itself(module):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, ids, mask):
            hidden = self.module(ids, mask)
            return (hidden * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)

    np.testing.assert_allclose(
        TextFront((tokenizer, Pooled()), pooling="none").transform(TEXTS),
        TextFront((tokenizer, module)).transform(TEXTS),
        atol=2e-6,
    )


def test_hidden_states_may_come_in_a_tuple(module):
    class InTuple(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, ids, mask):
            return self.module(ids, mask), "something else"

    np.testing.assert_array_equal(
        TextFront((tokenizer, InTuple())).transform(TEXTS),
        TextFront((tokenizer, module)).transform(TEXTS),
    )


def test_tensors_on_demand(pair):
    front = TextFront(pair, as_numpy=False)
    features = front.forward(TEXTS, training=True, seed=0)
    assert isinstance(features, torch.Tensor)
    assert not features.requires_grad
    features.zero_()  # the caller's own: the graph does not see it
    front.backward(torch.ones_like(features))
    assert isinstance(front.transform(TEXTS), np.ndarray)


def test_long_texts_are_cut_to_max_length(pair):
    words = [f"word{i}" for i in range(30)]
    short, long = " ".join(words[:4]), " ".join(words)
    front = TextFront(pair, max_length=4)
    np.testing.assert_array_equal(front.transform([long]), front.transform([short]))
    assert front.prepare([long]).lengths.tolist() == [4]


def test_only_the_beginning_of_an_enormous_text_is_tokenised(module):
    seen = []

    def spy(texts):
        seen.extend(map(len, texts))
        return tokenizer(texts)

    TextFront((spy, module), max_length=4).transform(["word " * 100_000])
    assert max(seen) == 4 * 1000


def test_a_row_without_tokens_is_zero_and_gets_no_gradient(pair):
    front = TextFront(pair, normalize=True)
    texts = ["", "a b", "   "]
    features = front.forward(texts, training=True)
    np.testing.assert_array_equal(features[[0, 2]], 0)
    np.testing.assert_array_equal(front.transform(texts)[[0, 2]], 0)
    gradient = np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    front.backward(gradient)
    with_empty = gradients(front.module)
    alone = TextFront(pair, normalize=True)
    alone.forward(["a b"], training=True)
    alone.backward(gradient[1:2])
    for name, grad in gradients(alone.module).items():
        torch.testing.assert_close(with_empty[name], grad)


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_nothing_to_encode(pair, texts):
    front = TextFront(pair)
    before = front.state()
    assert front.transform(texts).shape == (len(texts), WIDTH)
    features = front.forward(texts, training=True)
    assert features.shape == (len(texts), WIDTH)
    front.backward(np.zeros_like(features))
    front.step(0.1)
    assert all(np.array_equal(before[name], array) for name, array in front.state().items())


# ---- backward and step ---------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_three_steps_as_autograd_through_the_whole_loss(module, pooling, checkpointing):
    """The head's gradient by hand and the encoder's by `backward`; in torch all by autograd."""
    front = TextFront(
        (tokenizer, module),
        pooling=pooling,
        normalize=True,
        max_grad_norm=1.0,
        weight_decay=0.1,
        epsilon=1e-3,
        gradient_checkpointing=checkpointing,
    )
    rng = np.random.default_rng(0)
    head = rng.normal(size=(9, WIDTH)).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], size=(len(TEXTS), 9)).astype(np.float32)

    reference = copy.deepcopy(module)
    decay = [p for p in reference.parameters() if p.ndim > 1]
    rest = [p for p in reference.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        eps=1e-3,  # the key biases have gradient 0: their rounding errors are not to be divided
    )
    for step, rate in enumerate((0.01, 0.02, 0.005)):
        features = front.forward(TEXTS, training=True, seed=step)
        margins = features @ head.T
        loss = (np.maximum(0, 1 - signs * margins) ** 2).sum()
        front.backward((-2 * signs * np.maximum(0, 1 - signs * margins)) @ head)

        embedded = torch.nn.functional.normalize(embed_one_by_one(reference, pooling), dim=1)
        slack = torch.relu(1 - torch.from_numpy(signs) * (embedded @ torch.from_numpy(head).T))
        reference_loss = slack.square().sum()
        adam.zero_grad()
        reference_loss.backward()
        assert loss == pytest.approx(reference_loss.item(), rel=1e-5)
        for name, expected in gradients(reference).items():
            torch.testing.assert_close(
                front.module.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-4
            )
        assert torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0) > 1.0
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        front.step(rate)
        assert all(p.grad is None for p in front.module.parameters())
    for name, expected in reference.named_parameters():
        torch.testing.assert_close(front.module.get_parameter(name), expected, rtol=1e-3, atol=2e-5)
    moved = (reference.tokens.weight - module.tokens.weight).abs().max()
    assert moved > 0.01


def test_gradients_of_several_batches_add_up(pair):
    gradient = np.random.default_rng(1).normal(size=(6, WIDTH)).astype(np.float32)
    whole, parts = TextFront(pair), TextFront(pair)
    whole.forward(TEXTS, training=True)
    whole.backward(gradient)
    for rows in (slice(0, 2), slice(2, 6)):
        parts.forward(TEXTS[rows], training=True)
        parts.backward(gradient[rows])
    for name, expected in gradients(whole.module).items():
        torch.testing.assert_close(gradients(parts.module)[name], expected, rtol=1e-4, atol=1e-5)


def test_matrices_decay_and_vectors_do_not(module):
    """A gradient of zero leaves only the decay."""
    optimizer = make_optimizer(
        module, precision="float32", weight_decay=0.5, betas=None, epsilon=1e-8
    )
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in module.named_parameters():
        factor = 1.0 if "norm" in name or name.endswith("bias") else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_frozen_encoder_stays_and_needs_no_graph(pair):
    front = TextFront(pair, trainable=False)
    before = front.state()
    features = front.forward(TEXTS, training=True)
    np.testing.assert_array_equal(features, front.transform(TEXTS))
    front.backward(np.ones_like(features))
    front.step(1.0)
    assert front.state().keys() == before.keys()
    assert all(np.array_equal(before[name], array) for name, array in front.state().items())


def test_the_given_module_is_left_as_it_is(pair):
    before = copy.deepcopy(pair[1].state_dict())
    front = TextFront(pair, precision="bfloat16")
    front.forward(TEXTS, training=True)
    front.backward(np.ones((6, WIDTH)))
    front.step(0.1)
    for name, tensor in pair[1].state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(pair):
    front = TextFront(pair)
    before = front.state()
    features = front.forward(TEXTS, training=True)
    features[0, 0] = np.nan
    front.backward(features)
    with pytest.raises(FloatingPointError, match="not finite"):
        front.step(0.1)
    assert all(np.array_equal(before[name], array) for name, array in front.state().items())
    front.step(0.1)  # the gradient is gone
    assert all(np.array_equal(before[name], array) for name, array in front.state().items())


def test_backward_needs_a_forward_in_training(pair):
    front = TextFront(pair)
    gradient = np.ones((6, WIDTH), dtype=np.float32)
    with pytest.raises(RuntimeError, match="forward"):
        front.backward(gradient)
    front.forward(TEXTS, training=False)
    with pytest.raises(RuntimeError, match="forward"):
        front.backward(gradient)
    front.forward(TEXTS, training=True)
    with pytest.raises(ValueError, match=r"shape \(5, 16\)"):
        front.backward(gradient[:5])


# ---- dropout -------------------------------------------------------------------------------------


def test_dropout_by_seed(pair):
    front = TextFront(pair, dropout=0.4)
    plain = TextFront(pair).transform(TEXTS * 50)
    first = front.forward(TEXTS * 50, training=True, seed=7)
    np.testing.assert_array_equal(first, front.forward(TEXTS * 50, training=True, seed=7))
    assert not np.array_equal(first, front.forward(TEXTS * 50, training=True, seed=8))
    kept = first != 0
    np.testing.assert_allclose(first[kept], (plain / 0.6)[kept], atol=1e-5)
    share, error = 1 - kept.mean(), math.sqrt(0.4 * 0.6 / kept.size)
    assert abs(share - 0.4) < 4 * error
    np.testing.assert_array_equal(front.forward(TEXTS * 50, training=False, seed=7), plain)
    np.testing.assert_array_equal(front.transform(TEXTS * 50), plain)


def test_dropped_features_pass_no_gradient(pair):
    front, reference = TextFront(pair, dropout=0.5), TextFront(pair)
    features = front.forward(TEXTS, training=True, seed=1)
    front.backward(np.ones_like(features))
    reference.forward(TEXTS, training=True)
    reference.backward(2.0 * (features != 0))
    for name, expected in gradients(reference.module).items():
        torch.testing.assert_close(gradients(front.module)[name], expected)


def test_dropout_inside_the_encoder_by_seed_and_without_a_trace():
    front = TextFront((tokenizer, TinyTransformer(dropout=0.3)))
    before = torch.random.get_rng_state()
    first = front.forward(TEXTS, training=True, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    np.testing.assert_array_equal(first, front.forward(TEXTS, training=True, seed=1))
    assert not np.array_equal(first, front.forward(TEXTS, training=True, seed=2))
    np.testing.assert_array_equal(front.transform(TEXTS), front.transform(TEXTS))


# ---- resume --------------------------------------------------------------------------------------


def train(front, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        features = front.forward(TEXTS, training=True, seed=step)
        losses.append(float((features**2).sum()))
        front.backward(2 * features)
        front.step(0.01 / (1 + step))
    return losses


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("done", [0, 2])
def test_resume_bit_for_bit(precision, done):
    torch.manual_seed(0)
    encoder = (tokenizer, TinyTransformer(dropout=0.1))
    options = {"precision": precision, "dropout": 0.2}
    whole = TextFront(encoder, **options)
    losses = train(whole, done + 3)
    interrupted = TextFront(encoder, **options)
    train(interrupted, done)
    state = interrupted.state()
    train(interrupted, 1)  # the state is a copy: this does not reach it
    assert all(type(array) is np.ndarray for array in state.values())
    resumed = TextFront((tokenizer, TinyTransformer(dropout=0.1)), **options)
    train(resumed, 1)  # what it has learned before is replaced
    resumed.load_state(state)
    assert train(resumed, 3, first=done) == losses[done:]
    last = resumed.state()
    assert last.keys() == whole.state().keys()
    for name, array in whole.state().items():
        assert array.dtype == last[name].dtype
        np.testing.assert_array_equal(array, last[name])


def test_state_of_another_encoder_is_refused(pair):
    front = TextFront(pair)
    train(front, 1)
    good = front.state()
    name = "module.tokens.weight"
    other = TextFront(pair, precision="bfloat16")
    train(other, 1)
    for bad, words in (
        ({k: v for k, v in good.items() if k != name}, "1 arrays are missing"),
        ({**good, "module.more": np.zeros(2)}, "1 are unknown"),
        ({**good, name: good[name][1:]}, r"shape \(39, 16\)"),
        ({**good, name: good[name].astype(np.float64)}, "float64"),
        (other.state(), "unknown|dtype"),
    ):
        with pytest.raises(ValueError, match=words):
            front.load_state(bad)
        assert all(np.array_equal(good[k], array) for k, array in front.state().items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda front: pickle.loads(pickle.dumps(front))])
def test_copies_go_on_alike(pair, copied):
    front = TextFront(pair, dropout=0.1)
    train(front, 2)
    front.forward(TEXTS, training=True)  # a graph that cannot be copied
    twin = copied(front)
    assert train(twin, 2, first=2) == train(front, 2, first=2)


# ---- bfloat16 ------------------------------------------------------------------------------------


def test_tiny_updates_are_not_lost_in_bfloat16():
    """256 updates of 2^-12: each is a sixteenth of what rounding to nearest lets pass."""
    weight = torch.nn.Parameter(torch.ones(3, 5, dtype=torch.bfloat16))
    optimizer = KahanAdamW([weight], lr=2**-12)
    for _ in range(256):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    torch.testing.assert_close(
        weight.detach().float(), torch.full((3, 5), 1 - 256 / 4096), rtol=0, atol=2**-9
    )
    plain = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(256):
        plain = plain - 2**-12
    assert plain.item() == 1.0


def test_bfloat16_follows_adam_in_float32():
    """Weights with their compensation stay close to AdamW on a float32 copy of them."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, 30, generator=generator).bfloat16()
    exact = torch.nn.Parameter(start.float())
    weight = torch.nn.Parameter(start.clone())
    options = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
    adam, kahan = torch.optim.AdamW([exact], **options), KahanAdamW([weight], **options)
    drift = torch.randn(40, 30, generator=generator)
    for _ in range(200):
        gradient = (drift + torch.randn(40, 30, generator=generator)).bfloat16()
        exact.grad, weight.grad = gradient.float(), gradient
        adam.step()
        kahan.step()
    moved = (exact - start.float()).abs().mean()
    total = weight.float() + kahan.state[weight]["compensation"].float()
    assert (total - exact).abs().mean() < 0.02 * moved
    # What is stored is the nearest bfloat16 of it, and more than half have moved.
    assert ((weight.float() - total).abs() <= total.abs() * 2**-8).all()
    assert (weight != start).float().mean() > 0.5
    assert all(
        kahan.state[weight][name].dtype == torch.bfloat16
        for name in ("exp_avg", "exp_avg_sq", "compensation")
    )


def test_bfloat16_front_is_near_float32_and_learns(pair):
    exact, front = TextFront(pair), TextFront(pair, precision="bfloat16")
    assert {p.dtype for p in front.module.parameters()} == {torch.bfloat16}
    features = front.transform(TEXTS)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, exact.transform(TEXTS), atol=0.08)
    losses, expected = train(front, 30), train(exact, 30)
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_mixed_front_is_near_float32_and_keeps_float32_parameters(pair):
    exact, front = TextFront(pair), TextFront(pair, precision="mixed")
    features = front.transform(TEXTS)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, exact.transform(TEXTS), atol=0.08)
    assert not np.allclose(features, exact.transform(TEXTS), atol=1e-5)  # bfloat16 was used
    losses, expected = train(front, 30), train(exact, 30)
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    for arrays in (front.state(), exact.state()):
        assert {a.dtype for n, a in arrays.items() if ".step." not in n} == {np.dtype(np.float32)}
    again = copy.deepcopy(front)
    again.load_state(front.state())
    assert train(again, 2) == train(front, 2)


def test_small_updates_count_in_mixed_precision(pair):
    """Steps of 1/2000 of a weight are lost in bfloat16, not in float32 master weights."""
    front = TextFront(pair, precision="mixed", weight_decay=0.0, max_grad_norm=None)
    before = {name: p.detach().clone() for name, p in front.module.named_parameters()}
    front.backward(np.ones_like(front.forward(TEXTS, training=True)))
    front.step(1e-5)
    after = dict(front.module.named_parameters())
    name = "layers.layers.0.linear1.weight"
    assert (after[name] != before[name]).float().mean() > 0.9
    assert (after[name] - before[name]).abs().max() < 1.1e-5


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_rows", "n_tokens"), [(1, 5), (4, 32), (16, 50)])
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_footprint_is_what_autograd_keeps(pair, n_rows, n_tokens, precision):
    front = TextFront(pair, max_length=64, precision=precision)
    n_parameters = sum(p.numel() for p in pair[1].parameters())
    predicted = front.footprint(n_rows, n_tokens)
    assert predicted["parameters"] == predicted["gradients"] == 4 * n_parameters
    assert predicted["optimizer"] == 8 * n_parameters
    assert predicted["total"] == sum(v for k, v in predicted.items() if k != "total")
    # Measured: all storages that are saved in a forward pass of that shape, parameters aside.
    own = {p.untyped_storage().data_ptr() for p in front.module.parameters()}
    kept = {}

    def remember(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        front.forward([" ".join(["word"] * n_tokens)] * n_rows, training=True)
    measured = sum(size for pointer, size in kept.items() if pointer not in own)
    assert predicted["activations"] == pytest.approx(measured, rel=0.1)


def test_footprint_counts_the_optimizer_that_is_there(pair):
    for precision, size in (("float32", 8), ("bfloat16", 6), ("mixed", 8)):
        front = TextFront(pair, precision=precision)
        train(front, 1)
        state = front.state()
        moments = [v for k, v in state.items() if k.startswith("optimizer.") and ".step." not in k]
        assert sum(v.nbytes for v in moments) == front.footprint(1)["optimizer"]
        assert front.footprint(1)["optimizer"] == size * sum(
            p.numel() for p in pair[1].parameters()
        )
        assert text_footprint(pair, 8, 20, precision=precision) == front.footprint(8, 20)


def test_footprint_of_a_frozen_encoder(pair):
    predicted = TextFront(pair, trainable=False).footprint(64)
    assert predicted["total"] == predicted["parameters"]


def test_footprint_leaves_the_front_as_it_was(pair):
    front = TextFront(pair, dropout=0.1)
    twin = copy.deepcopy(front)
    state = torch.random.get_rng_state()
    train(front, 1)
    front.footprint(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    train(twin, 1)
    assert train(front, 1, 1) == train(twin, 1, 1)


# ---- what comes in -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        np.array([np.str_("a"), "b"], dtype=object),
        pd.Series(["a", "b"], index=[7, 3]),
        pd.Series(["a", "b"], dtype="string"),
        pd.Series(["a", "b"], dtype=object),
        pd.Series(["a", "b"], dtype="category"),
        pd.array(["a", "b"], dtype="string"),
        np.array(["a", "b"], dtype=np.dtypes.StringDType()),
    ],
    ids=lambda texts: f"{type(texts).__name__}-{getattr(texts, 'dtype', '')}",
)
def test_sequences_of_texts(texts):
    checked = check_texts(texts)
    assert checked == ["a", "b"]
    assert {type(text) for text in checked} == {str}


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        ("a text", TypeError, "single str"),
        (b"a text", TypeError, "single bytes"),
        (None, TypeError, "sequence of str, got NoneType"),
        (3, TypeError, "sequence of str, got int"),
        (iter(["a"]), TypeError, r"list\(X\)"),
        ({"a": 1}, TypeError, "got dict"),
        ({"a"}, TypeError, "got set"),
        (["a", None], TypeError, r"Row 1 of X is a missing value \(None\)"),
        (["a", float("nan")], TypeError, r"Row 1 of X is a missing value \(nan\)"),
        (["a", pd.NA], TypeError, "Row 1 of X is a missing value"),
        (["a", pd.NaT], TypeError, "Row 1 of X is a missing value"),
        (pd.Series(["a", None, "b"]), TypeError, "Row 1 of X is a missing value"),
        (pd.Series(["a", None], dtype="string"), TypeError, "Row 1 of X is a missing value"),
        (["a", b"b"], TypeError, "Row 1 of X is bytes; decode"),
        (["a", "b", 3], TypeError, "Row 2 of X is of type int"),
        ([["a", "b"]], TypeError, "Row 0 of X is of type list"),
        (np.zeros(3), TypeError, "Row 0 of X is of type float"),
        (np.zeros((3, 2)), ValueError, r"shape \(3, 2\)"),
        (np.array("a"), ValueError, r"shape \(\)"),
        (pd.DataFrame({"text": ["a"]}), ValueError, "pass the column"),
        (["ok", "half \ud800 a pair"], ValueError, r"Row 1 .* character 5 .*ud800"),
    ],
)
def test_what_is_no_texts(pair, texts, error, words):
    with pytest.raises(error, match=words):
        check_texts(texts)
    front = TextFront(pair)
    texts = iter(["a"]) if hasattr(texts, "__next__") else texts
    with pytest.raises(error, match=words):
        front.transform(texts)


def test_messages_use_the_given_name_and_count_rows():
    with pytest.raises(TypeError, match="Row 0 of label_text"):
        check_texts([None], "label_text")
    with pytest.raises(ValueError, match="label_text has 0 rows; at least 1"):
        check_texts([], "label_text", min_rows=1)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"pooling": "median"}, ValueError, "pooling"),
        ({"precision": "float16"}, ValueError, "precision"),
        ({"dropout": 1.0}, ValueError, "dropout must be finite, at least 0 and less than 1"),
        ({"dropout": "0.1"}, TypeError, "dropout"),
        ({"weight_decay": -1}, ValueError, "weight_decay"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm"),
        ({"max_grad_norm": math.nan}, ValueError, "max_grad_norm"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas"),
        ({"epsilon": 0.0}, ValueError, "epsilon"),
        ({"max_length": 0}, ValueError, "max_length"),
        ({"max_length": 1.5}, TypeError, "max_length"),
        ({"max_length": True}, TypeError, "max_length"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens"),
        ({"device": "no-such-device"}, ValueError, "no-such-device"),
    ],
    ids=repr,
)
def test_parameters_out_of_range(pair, parameters, error, words):
    with pytest.raises(error, match=words):
        TextFront(pair, **parameters)


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, None])
def test_learning_rates_out_of_range(pair, rate):
    with pytest.raises((ValueError, TypeError), match="learning_rate"):
        TextFront(pair).step(rate)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda module: None, TypeError, "encoder must be"),
        (lambda module: module, TypeError, "encoder must be"),
        (lambda module: (tokenizer,), TypeError, "encoder must be"),
        (lambda module: (module, "not a module"), TypeError, "second of the pair"),
        (lambda module: (3, module), TypeError, "first of the pair"),
        (lambda module: "/no/such/folder", FileNotFoundError, "/no/such/folder"),
        (lambda module: (lambda texts: [[1]] * 9, module), ValueError, "9 rows for 1 texts"),
        (lambda module: (lambda texts: [["a"] for _ in texts], module), TypeError, "row 0"),
        (lambda module: (lambda texts: [[-1] for _ in texts], module), ValueError, "id -1"),
        (lambda module: (tokenizer, torch.nn.Embedding(40, 4)), TypeError, "forward|argument"),
    ],
)
def test_what_is_no_encoder(module, make, error, words):
    with pytest.raises(error, match=words):
        TextFront(make(module))


def test_hidden_states_of_another_shape_are_refused(module):
    class Summed(torch.nn.Module):
        def forward(self, ids, mask):
            return ids.float()

    with pytest.raises(ValueError, match=r"shape \(1, 1\) for 1 rows .*n_tokens, width"):
        TextFront((tokenizer, Summed()))
    with pytest.raises(ValueError, match=r'pooling="none".*\(n_rows, width\)'):
        TextFront((tokenizer, module), pooling="none")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        TextFront(tmp_path)


def test_a_front_is_copied(pair):
    class Own:
        n_outputs = 3

        def forward(self, batch, *, training, seed): ...
        def backward(self, gradient): ...
        def step(self, learning_rate): ...
        def state(self): ...
        def load_state(self, state): ...
        def transform(self, X): ...

    own = Own()
    assert is_front(own)
    taken = text_front(own, dropout=0.5)
    assert type(taken) is Own
    assert taken is not own
    assert not is_front(pair)
    assert not is_front(pair[1])
    front = text_front(pair, dropout=0.5)
    assert isinstance(front, TextFront)
    assert front.dropout == 0.5
    assert is_front(front)


def test_training_the_copy_of_a_front_leaves_the_given_one(pair):
    given = TextFront(pair, normalize=True)
    train(given, 1)
    before = given.state()
    front = text_front(given, as_numpy=False)
    assert isinstance(front.forward(TEXTS, training=False), torch.Tensor)
    assert front.normalize
    front.as_numpy = True
    expected = train(copy.deepcopy(given), 2, first=1)
    assert train(front, 2, first=1) == expected  # with the optimiser's state
    assert all(np.array_equal(before[name], array) for name, array in given.state().items())
    assert any(not np.array_equal(before[name], array) for name, array in front.state().items())
    with pytest.raises(ValueError, match="no-such-device"):
        text_front(given, device="no-such-device")


# ---- rows and buckets ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.one_of(st.none(), st.integers(1, 200)),
    st.integers(1, 10),
)
def test_buckets_hold_every_row_once_and_little_padding(lengths, max_tokens, min_rows):
    buckets = length_buckets(lengths, max_tokens=max_tokens, waste=0.2, min_rows=min_rows)
    lengths = np.array(lengths, dtype=np.int64)
    rows = np.concatenate([np.empty(0, dtype=np.int64), *buckets])
    assert sorted(rows) == list(np.flatnonzero(lengths))
    assert (np.diff(lengths[rows]) >= 0).all()
    for bucket in buckets:
        cells = len(bucket) * lengths[bucket].max()
        if max_tokens is not None and len(bucket) > 1:
            assert cells <= max_tokens
        if len(bucket) > min_rows:
            assert cells - lengths[bucket].sum() <= 0.2 * cells + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=8), st.randoms())
def test_token_rows_are_what_they_were_made_of(lists, random):
    rows = TokenRows.from_lists(lists)
    assert len(rows) == rows.shape[0] == len(lists)
    picked = np.array([random.randrange(len(lists)) for _ in range(4)])
    ids, mask = rows.padded(picked, pad_id=-7)
    for i, row in enumerate(picked):
        n = len(lists[row])
        assert rows.row(row).tolist() == lists[row] == rows[picked].row(i).tolist()
        assert ids[i].tolist() == lists[row] + [-7] * (ids.shape[1] - n)
        assert mask[i].tolist() == [1] * n + [0] * (ids.shape[1] - n)
    assert rows[1:].lengths.tolist() == [len(row) for row in lists[1:]]
    with pytest.raises(TypeError, match="slice"):
        rows[0]
