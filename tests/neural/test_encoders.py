"""Encoders assembled on demand, long texts in windows, and models without code."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.neural import StaticEncoder, _front
from skxmc.neural._encoders import (
    ProjectedFront,
    check_rows,
    encoder_from_model,
    encoder_model,
    initial_projection,
    resolve_encoder,
    stack_rows,
    takes_texts,
)
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._text import TokenRows, WindowRows
from skxmc.ops.csr import canonical_csr

torch = pytest.importorskip("torch")

from skxmc.neural.torch_text import TextFront  # noqa: E402

TEXTS = ["abc", "a longer text of many letters", "", "zz"]
TAGS = ["abc", "letters"]
rng = np.random.default_rng(0)
DENSE = rng.standard_normal((6, 5)).astype(np.float32)


class Bag(torch.nn.Module):
    """Letters to vectors, with context: what a token gets depends on its neighbours."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(128, 4)

    def forward(self, ids, mask):
        hidden = self.embedding(ids) * mask.unsqueeze(2)
        return torch.tanh(hidden + hidden.sum(dim=1, keepdim=True))


def letters(texts):
    return [[ord(c) for c in text] for text in texts]


PAIR = (letters, Bag())


# ------------------------------------------------------------------ resolve_encoder


def test_each_form_of_encoder():
    static = resolve_encoder("static", TEXTS, TAGS, seed=3, dimension=7)
    assert isinstance(static, StaticEncoder)
    assert static.transform(TAGS).any(axis=1).all()  # the tags are in the vocabulary
    assert static.n_outputs == 7
    own = StaticEncoder(5)
    resolved = resolve_encoder(own, TEXTS, TAGS, seed=3)
    assert resolved is not own
    assert not own.is_built
    built = StaticEncoder(5).build(TEXTS)
    again = resolve_encoder(built, TAGS)
    assert_array_equal(built.transform(TEXTS), again.transform(TEXTS))
    text = resolve_encoder(PAIR, TEXTS, pooling="max", max_length=2, trainable=False)
    assert isinstance(text, TextFront)
    assert not text.trainable
    assert text.max_length == 2
    assert isinstance(resolve_encoder(text, TEXTS), TextFront)
    assert isinstance(resolve_encoder("precomputed", DENSE), _front.IdentityFront)
    assert_array_equal(resolve_encoder("precomputed", DENSE).transform(DENSE), DENSE)
    wide = resolve_encoder("precomputed", DENSE, dimension=8)
    assert_array_equal(wide.transform(DENSE), np.pad(DENSE, ((0, 0), (0, 3))))
    sparse = resolve_encoder("precomputed", canonical_csr(sp.csr_array(DENSE)), dimension=3)
    assert isinstance(sparse, LinearFront)
    assert sparse.weights.shape == (5, 3)


def test_seeds_of_random_weights():
    def transform(seed, encoder="static", rows=TEXTS):
        return resolve_encoder(encoder, rows, dimension=4, seed=seed).transform(rows)

    assert_array_equal(transform(1), transform(1))
    assert not np.array_equal(transform(1), transform(2))
    fixed = StaticEncoder(4, seed=5)
    assert_array_equal(transform(1, fixed), transform(2, fixed))


def test_what_is_no_encoder():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        resolve_encoder("nowhere", TEXTS)
    with pytest.raises(TypeError, match="encoder must be one of"):
        resolve_encoder(3, TEXTS)
    with pytest.raises(ValueError, match="long_texts"):
        resolve_encoder(PAIR, TEXTS, long_texts="cut")


def test_rows_are_checked():
    assert check_rows("static", np.array(["a", "b"])) == ["a", "b"]
    assert takes_texts("static")
    assert takes_texts(PAIR)
    assert not takes_texts("precomputed")
    assert not takes_texts(LinearFront(DENSE))
    found = check_rows("precomputed", DENSE.astype(float).tolist())
    assert found.dtype == np.float32
    for rows, error in [
        (["a"], TypeError),
        (np.array(["a"]), TypeError),
        ([[1.0, np.nan]], ValueError),
        (np.ones(3), ValueError),
        (sp.csr_array([[np.inf]]), ValueError),
    ]:
        with pytest.raises(error):
            check_rows("precomputed", rows)
    with pytest.raises(ValueError, match="columns"):
        check_rows("precomputed", DENSE, n_columns=4)
    with pytest.raises(ValueError, match="at least 1"):
        check_rows("precomputed", DENSE[:0], min_rows=1)
    stacked = stack_rows(*(canonical_csr(sp.csr_array(part)) for part in (DENSE[:2], DENSE[2:])))
    assert_array_equal(stacked.toarray(), DENSE)
    assert_array_equal(stack_rows(DENSE[:2], DENSE[2:]), DENSE)


# ------------------------------------------------------------------ projections


def test_first_projections():
    assert_array_equal(initial_projection(3, 3, 0), np.eye(3))
    W = initial_projection(50, 20, 0)
    assert_allclose(W.T @ W, np.eye(20), atol=1e-6)
    assert_array_equal(W, initial_projection(50, 20, 0))


@pytest.mark.parametrize("trainable", [False, True])
def test_gradients_of_a_projected_encoder(trainable):
    """Against the same two layers in torch."""
    front = resolve_encoder(PAIR, TEXTS, dimension=3, trainable=trainable, max_grad_norm=None)
    front.relative_rate = 1.0
    assert front.n_outputs == 3
    upstream = rng.standard_normal((4, 3)).astype(np.float32)
    module = copy.deepcopy(PAIR[1])
    weights = torch.tensor(front.projection.weights.copy(), requires_grad=True)
    parts = [
        module(torch.tensor([ids]), torch.ones(1, len(ids), dtype=int)).mean(dim=1)
        if ids
        else torch.zeros(1, 4)
        for ids in letters(TEXTS)
    ]
    expected = torch.cat(parts) @ weights
    (expected * torch.tensor(upstream)).sum().backward()
    rows = front.prepare(TEXTS)
    assert isinstance(rows, TokenRows if trainable else np.ndarray)
    features = front.forward(rows, training=True, seed=0)
    assert_allclose(features, expected.detach(), atol=1e-6)
    assert_allclose(front.transform(TEXTS), expected.detach(), atol=1e-6)
    front.backward(upstream)
    ((_, sent),) = front.projection._pending
    assert_array_equal(sent, upstream)
    if trainable:
        found = front.encoder.module.embedding.weight.grad
        assert_allclose(found, module.embedding.weight.grad, atol=1e-6)
    before = front.projection.weights.copy()
    front.step(0.01)
    moved = (before - front.projection.weights) / 0.01
    gradient = weights.grad.numpy()
    assert_allclose(moved, gradient / (np.abs(gradient) + 1e-8), atol=1e-2)
    after = front.encoder.module.embedding.weight
    assert torch.equal(after, PAIR[1].embedding.weight) != trainable


def test_state_of_a_projected_encoder_goes_on():
    def train(front, steps):
        for _ in range(steps):
            features = front.forward(TEXTS, training=True, seed=0)
            front.backward(features - 1)
            front.step(0.05)

    first, second = (resolve_encoder(PAIR, TEXTS, dimension=3) for _ in range(2))
    train(first, 3)
    second.load_state(first.state())
    train(first, 2)
    train(second, 2)
    assert_array_equal(first.transform(TEXTS), second.transform(TEXTS))


# ------------------------------------------------------------------ models


def test_encoders_from_arrays():
    cases = [
        (resolve_encoder("static", TEXTS, dimension=3), TEXTS),
        (resolve_encoder("precomputed", DENSE), DENSE),
        (resolve_encoder("precomputed", DENSE, dimension=2), DENSE),
    ]
    for front, rows in cases:
        arrays = encoder_model(front)
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
        other = encoder_from_model(arrays, n_jobs=2)
        assert_array_equal(front.transform(rows), other.transform(rows))
    for front in (resolve_encoder(PAIR, TEXTS), resolve_encoder(PAIR, TEXTS, dimension=2), Bag()):
        with pytest.raises(TypeError, match="pickle"):
            encoder_model(front)
    with pytest.raises(ValueError, match="kind"):
        encoder_from_model({"kind": np.frombuffer(b"other", dtype=np.uint8)})


def test_projected_transformer_from_arrays(tmp_path):
    transformers = pytest.importorskip("transformers")
    import tokenizers

    words = ["[UNK]", "[PAD]", "abc", "letters", "text", "of", "[CLS]"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 6)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    tokenizer.save_pretrained(tmp_path)
    transformers.BertModel(config).save_pretrained(tmp_path)
    front = resolve_encoder(str(tmp_path), TEXTS, dimension=3, long_texts="windows", max_length=3)
    text = "abc letters text of abc"
    windows = front.prepare([text]).windows
    # windows of the tokenizer: two words and [CLS] each
    assert [windows.row(i)[0] for i in range(len(windows))] == [6] * len(windows)
    words_of = front.encoder.transform
    expected = np.mean([words_of([t])[0] for t in ("abc letters", "text of", "abc")], axis=0)
    assert_allclose(words_of([text])[0], expected, atol=1e-5)
    other = encoder_from_model(encoder_model(front))
    assert isinstance(other, ProjectedFront)
    assert_array_equal(front.transform([text]), other.transform([text]))
    static = StaticEncoder(vectors=tmp_path).build(TEXTS)  # the token embeddings of the same folder
    assert static.n_outputs == 8


# ------------------------------------------------------------------ windows


def test_windows_are_a_mean_over_overlapping_parts():
    text = "abcdefghijk"
    plain = TextFront(PAIR, max_length=4)
    front = TextFront(PAIR, max_length=4, long_texts="windows")
    rows = front.prepare([text, "ab", "", "abcd"])
    assert isinstance(rows, WindowRows)
    cut = ["abcd", "defg", "ghij", "jk"]
    found = [bytes(rows.windows.row(i).tolist()).decode() for i in range(4)]
    assert found == cut
    assert rows.indptr.tolist() == [0, 4, 5, 6, 7]
    assert rows.lengths.tolist() == [14, 2, 0, 4]
    expected = plain.transform(cut).mean(axis=0)
    assert_allclose(front.transform([text])[0], expected, atol=1e-6)
    assert_allclose(front.transform(rows)[1:], plain.transform(["ab", "", "abcd"]), atol=1e-6)
    assert_array_equal(front.transform(rows[[3, 0]])[1], front.transform(rows)[0])
    features = front.forward(rows[:2], training=True)
    front.backward(np.ones_like(features))
    assert front.module.embedding.weight.grad[ord("k")].any()
    assert front.options["long_texts"] == "windows"


def test_windows_of_the_library_tokenizers_and_unit_length():
    import tokenizers

    vocabulary = {c: i for i, c in enumerate("abcdefghij?")}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    front = TextFront((own, Bag()), max_length=4, long_texts="windows", normalize=True)
    rows = front.prepare(["a b c d e f g", "a"])
    assert [rows.windows.row(i).tolist() for i in range(3)] == [[0, 1, 2, 3], [3, 4, 5, 6], [0]]
    assert_allclose(np.linalg.norm(front.transform(["a b c d e f g", "a"]), axis=1), 1, rtol=1e-5)


class Wrong(Bag):
    """Says that it has fewer embeddings than the tokenizer has tokens."""

    def get_input_embeddings(self):
        return torch.nn.Embedding(122, 4)


def test_a_token_without_embedding_is_named_by_its_text():
    front = TextFront((letters, Wrong()), long_texts="windows", max_length=4)
    with pytest.raises(ValueError, match="Row 2 has token id 122"):
        front.prepare(["abcdefabcdef", "abcde", "abcdefz"])
