"""StaticEncoder: bags by hand, gradients by differences and by torch, vectors from files."""

import copy
import gzip
import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import tokenizers
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skxmc.neural import StaticEncoder
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._tokenizers import train_tokenizer, unknown_id
from skxmc.ops.csr import canonical_csr

TEXTS = [
    "the quick brown fox jumps",
    "The lazy dog, the lazy fox!",
    "dog and fox and dog",
    "quickest über-fast jumper",
]
rng = np.random.default_rng(0)


def built(*args, texts=TEXTS, **options):
    return StaticEncoder(*args, **{"dimension": 6, "vocabulary_size": 60, **options}).build(texts)


# ------------------------------------------------------------------ tokens and bags


@pytest.mark.parametrize("weighting", ["mean", "sqrt", "idf"])
def test_features_are_weighted_sums_of_the_vectors(weighting):
    encoder = built(tokenizer="word", weighting=weighting)
    table = encoder.state()["weights"]
    ids = {token: encoder.tokenizer_.token_to_id(token) for token in ("the", "lazy", "dog", "!")}
    df = {"the": 2, "lazy": 1, "dog": 2, "!": 1}
    counts = {"the": 2, "lazy": 1, "dog": 1, "!": 1}
    expected = np.zeros(6)
    total = 0
    for token, count in counts.items():
        weight = np.log(5 / (1 + df[token])) + 1 if weighting == "idf" else 1.0
        expected += count * weight * table[ids[token]].astype(float)
        total += count * weight
    expected /= np.sqrt(total) if weighting == "sqrt" else total
    found = encoder.transform(["The LAZY the dog!"])
    assert_allclose(found, [expected], rtol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "word"])
def test_tokens_are_those_of_the_tokenizer(kind):
    """What is tokenised word by word is what the tokenizer makes of the whole text."""
    encoder = built(tokenizer=kind, weighting="mean")
    text = "The  quick\tdog, über foxes!\nzzz"
    expected = encoder.tokenizer_.encode(text, add_special_tokens=False).ids
    expected = [i for i in expected if i != unknown_id(encoder.tokenizer_)]
    bag = encoder.prepare([text])
    counts = np.bincount(expected, minlength=encoder.n_tokens)
    assert_allclose(bag.toarray()[0] * len(expected), counts, rtol=1e-6)


def test_max_length_and_empty_and_unknown_texts():
    encoder = built(tokenizer="word", max_length=2)
    bags = encoder.prepare(["dog fox quick", "", "  ", "unheard", "dog fox"])
    assert_array_equal(bags.toarray()[0], bags.toarray()[4])
    assert bags.indptr.tolist() == [0, 2, 2, 2, 2, 4]
    assert not encoder.transform(["", "unheard"]).any()
    assert encoder.transform([]).shape == (0, 6)


def test_lower_case_and_accents():
    encoder = built(tokenizer="word")
    assert_array_equal(encoder.transform(["UBER Fox"]), encoder.transform(["über fox"]))
    cased = built(tokenizer="word", lowercase=False)
    assert not cased.transform(["FOX"]).any()


def test_learned_tokenizers_are_the_same_in_every_process():
    code = (
        "import sys, json, hashlib\n"
        "from skxmc.neural._tokenizers import train_tokenizer\n"
        "texts = json.loads(sys.argv[1])\n"
        "for kind in ('wordpiece', 'bpe', 'word'):\n"
        "    text = train_tokenizer(texts, kind, 90).to_str()\n"
        "    print(hashlib.sha256(text.encode()).hexdigest())\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    letters = np.array(list("abcdeé "))
    texts = ["".join(rng.choice(letters, 30)) for _ in range(40)]
    command = [sys.executable, "-c", code, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    here = [train_tokenizer(texts, kind, 90).to_str() for kind in ("wordpiece", "bpe", "word")]
    assert done.stdout.split() == [hashlib.sha256(text.encode()).hexdigest() for text in here]


def test_a_word_vocabulary_is_the_most_frequent_words():
    tokenizer = train_tokenizer(["b b b a a c d"], "word", 3)
    assert tokenizer.get_vocab() == {"[UNK]": 0, "b": 1, "a": 2}
    pieces = train_tokenizer(["ab ab ac"], "wordpiece", 20).get_vocab()
    assert {"a", "##b", "##c", "ab"} <= set(pieces)


def test_a_given_tokenizer(tmp_path):
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"fox": 0, "[UNK]": 1}, "[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.save(str(tmp_path / "tokenizer.json"))
    for given in (own, str(tmp_path), tmp_path / "tokenizer.json"):
        encoder = built(tokenizer=given)
        assert encoder.n_tokens == 2
        assert_allclose(encoder.transform(["fox fox dog"])[0], encoder.state()["weights"][0])


# ------------------------------------------------------------------ training


def test_gradient_by_differences():
    encoder = built()
    upstream = rng.standard_normal((len(TEXTS), 6)).astype(np.float32)
    bags = encoder.prepare(TEXTS)
    gradient = bags.toarray().T @ upstream
    table = encoder.state()["weights"].copy()
    encoder.forward(TEXTS, training=True)
    encoder.backward(upstream)
    encoder.step(0.125)
    moved = (encoder.state()["weights"] - table) / -0.125
    used = np.unique(bags.indices)
    expected = gradient / (np.abs(gradient) + 1e-8)  # the first step of Adam
    assert_allclose(moved[used], expected[used], atol=1e-3)
    unused = np.setdiff1d(np.arange(len(table)), used)
    assert len(unused) == 0 or not moved[unused].any()


def test_the_same_steps_as_a_torch_embedding_bag():
    torch = pytest.importorskip("torch")
    encoder = built(tokenizer="word")
    bags = encoder.prepare(TEXTS)
    bag = torch.nn.EmbeddingBag(encoder.n_tokens, 6, mode="sum", sparse=False)
    bag.weight.data = torch.tensor(encoder.state()["weights"].copy())
    optimizer = torch.optim.Adam(bag.parameters(), lr=0.01)
    target = rng.standard_normal((len(TEXTS), 6)).astype(np.float32)
    for _ in range(5):  # all tokens are in each batch: lazy and usual Adam agree
        features = encoder.forward(bags, training=True)
        encoder.backward(features - target)
        encoder.step(0.01)
        optimizer.zero_grad()
        out = bag(
            torch.tensor(bags.indices).long(),
            torch.tensor(bags.indptr[:-1]),
            per_sample_weights=torch.tensor(bags.data),
        )
        (0.5 * (out - torch.tensor(target)) ** 2).sum().backward()
        optimizer.step()
    used = np.unique(bags.indices)
    assert_allclose(encoder.state()["weights"][used], bag.weight.detach()[used], atol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_gradients_of_several_batches_add_up(dense):
    weights = rng.standard_normal((9, 4)).astype(np.float32)
    X = sp.random_array((8, 9), density=0.4, rng=rng, dtype=np.float32)
    X = X.toarray() if dense else canonical_csr(X)
    upstream = rng.standard_normal((8, 4)).astype(np.float32)
    whole, parts = LinearFront(weights.copy()), LinearFront(weights.copy())
    whole.forward(X, training=True)
    whole.backward(upstream)
    whole.step(0.1)
    for rows in (slice(0, 3), slice(3, 8)):
        part = X[rows] if dense else canonical_csr(X[rows])
        parts.forward(part, training=True)
        parts.backward(upstream[rows])
    parts.step(0.1)
    assert_allclose(whole.weights, parts.weights, atol=1e-6)


def test_dropout_scales_and_is_set_by_the_seed():
    encoder = built(dropout=0.5)
    plain = encoder.transform(TEXTS)
    first = encoder.forward(TEXTS, training=True, seed=3)
    kept = first != 0
    assert 0 < kept.mean() < 1
    assert_allclose(first[kept], 2 * plain[kept], rtol=1e-6)
    assert_array_equal(first, encoder.forward(TEXTS, training=True, seed=3))
    upstream = np.ones_like(plain)
    table = encoder.state()["weights"].copy()
    encoder.backward(upstream)
    encoder.step(0.1)
    dead = ~kept.any(axis=0)
    assert_array_equal(encoder.state()["weights"][:, dead], table[:, dead])
    assert_array_equal(plain, built(dropout=0.5).forward(TEXTS))


def test_frozen_and_order_of_calls():
    encoder = built(trainable=False)
    before = encoder.state()["weights"].copy()
    features = encoder.forward(TEXTS, training=True)
    encoder.backward(features)
    encoder.step(0.1)
    assert_array_equal(before, encoder.state()["weights"])
    with pytest.raises(RuntimeError, match="forward"):
        built().backward(features)
    encoder = built()
    encoder.forward(TEXTS, training=True)
    with pytest.raises(ValueError, match="shape"):
        encoder.backward(features[:1])


def test_state_goes_on_bit_for_bit():
    def train(encoder, steps):
        for _ in range(steps):
            features = encoder.forward(TEXTS, training=True)
            encoder.backward(features - 1)
            encoder.step(0.05)

    whole, first, second = built(), built(), built()
    train(whole, 4)
    train(first, 2)
    second.load_state({name: array.copy() for name, array in first.state().items()})
    train(second, 2)
    for name, array in whole.state().items():
        assert_array_equal(array, second.state()[name])
    with pytest.raises(ValueError, match="shape"):
        second.load_state(built(dimension=5).state())


def test_threads_rows_alone_and_read_only_tables():
    texts = [" ".join(rng.choice(TEXTS, 3)) for _ in range(50)]
    encoder = built(n_jobs=1, dimension=700)
    expected = encoder.transform(texts)
    assert_array_equal(expected, encoder.transform(texts, n_jobs=2))
    assert_array_equal(expected[7:8], encoder.transform(texts[7:8]))
    arrays = encoder.model()
    for array in arrays.values():
        array.setflags(write=False)
    loaded = StaticEncoder.from_model(arrays)
    assert_array_equal(expected, loaded.transform(texts))
    loaded.forward(texts, training=True)
    loaded.backward(np.ones_like(expected))
    loaded.step(0.1)
    assert not np.array_equal(expected, loaded.transform(texts))


# ------------------------------------------------------------------ vectors


WORDS = ["fox", "dog", "web", "the"]
TABLE = rng.standard_normal((4, 5)).astype(np.float32)


@pytest.mark.parametrize("form", ["pair", "glove", "word2vec", "gzip"])
def test_word_vectors(form, tmp_path):
    path = tmp_path / ("vectors.txt.gz" if form == "gzip" else "vectors.txt")
    lines = [" ".join([word, *map(repr, row.tolist())]) for word, row in zip(WORDS, TABLE)]
    if form == "word2vec":
        lines.insert(0, "4 5")
    text = "\n".join(lines) + "\n"
    if form == "gzip":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    vectors = (WORDS, TABLE) if form == "pair" else path
    encoder = StaticEncoder(vectors=vectors, weighting="mean").build(TEXTS)
    assert encoder.n_outputs == 5
    found = encoder.transform(["Fox, web", "dog unknown", ""])
    assert_allclose(found, [(TABLE[0] + TABLE[2]) / 2, TABLE[1], np.zeros(5)], rtol=1e-5)


def test_of_a_large_file_the_words_of_the_texts_and_the_first_are_read(tmp_path):
    path = tmp_path / "vectors.txt"
    words = [*(f"filler{i}" for i in range(20)), "fox", "rare"]
    path.write_text("".join(f"{w} {i} 1\n" for i, w in enumerate(words)))
    encoder = StaticEncoder(vectors=path, vocabulary_size=3).build(TEXTS)
    vocabulary = encoder.tokenizer_.get_vocab()
    assert set(vocabulary) == {"filler0", "filler1", "filler2", "fox", "[UNK]"}
    assert_allclose(encoder.transform(["fox"]), [[20, 1]])


def test_wider_vectors_keep_inner_products_in_their_principal_components():
    basis = rng.standard_normal((2, 5))
    table = (rng.standard_normal((4, 2)) @ basis).astype(np.float32)
    encoder = StaticEncoder(2, vectors=(WORDS, table)).build(TEXTS)
    found = encoder.transform(WORDS)
    assert found.shape == (4, 2)
    assert_allclose(found @ found.T, table @ table.T, atol=1e-4)
    with pytest.raises(ValueError, match="wide"):
        StaticEncoder(6, vectors=(WORDS, table)).build(TEXTS)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_token_embeddings_of_safetensors(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    table = torch.tensor(TABLE).to(getattr(torch, dtype))
    arrays = {
        "bert.embeddings.word_embeddings.weight": table,
        "encoder.weight": torch.zeros(7, 7),
        "bias": torch.zeros(3),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="the"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        encoder = StaticEncoder(vectors=path).build(TEXTS)
        expected = table.float().numpy()
        assert_array_equal(encoder.transform(["fox", "web"]), expected[[0, 2]])


def test_damaged_and_missing_vectors(tmp_path):
    cases = {
        "short.txt": ("fox 1 2\ndog 1\n", "Line 2"),
        "words.txt": ("fox 1 2\ndog one two\n", "Line 2"),
        "infinite.txt": ("fox 1 2\ndog 1 inf\n", "not finite"),
        "empty.txt": ("", "no word vectors"),
        "broken.safetensors": ("x" * 40, "no safetensors"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            StaticEncoder(vectors=path).build(TEXTS)
    with pytest.raises(FileNotFoundError):
        StaticEncoder(vectors=tmp_path / "nowhere").build(TEXTS)
    with pytest.raises(FileNotFoundError):
        StaticEncoder(tokenizer="nowhere").build(TEXTS)
    with pytest.raises(ValueError, match="safetensors"):
        StaticEncoder(vectors=tmp_path / "..").build(TEXTS)
    for pair, message in [
        ((["a"], np.ones((2, 3))), "one row a word"),
        ((["a", "a"], np.ones((2, 3))), "twice"),
        ((["a", "b"], np.array([[1, np.nan], [0, 0]])), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            StaticEncoder(vectors=pair).build(TEXTS)
    with pytest.raises(TypeError, match="vectors"):
        StaticEncoder(vectors=3).build(TEXTS)


# ------------------------------------------------------------------ an object of scikit-learn


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dimension": 0}, ValueError),
        ({"dimension": 2.5}, TypeError),
        ({"vocabulary_size": None}, TypeError),
        ({"max_length": 0}, ValueError),
        ({"weighting": "max"}, ValueError),
        ({"dropout": 1.0}, ValueError),
        ({"tokenizer": 7}, TypeError),
    ],
)
def test_bad_parameters(options, error):
    with pytest.raises(error):
        built(**options)


def test_bad_texts():
    for texts, error in [([], ValueError), ("one", TypeError), (["a", None], TypeError)]:
        with pytest.raises(error):
            StaticEncoder().build(texts)
    with pytest.raises(TypeError, match="Row 1"):
        built().transform(["a", 3.0])
    with pytest.raises(RuntimeError, match="build"):
        StaticEncoder().transform(["a"])
    with pytest.raises(ValueError, match="columns"):
        built().prepare(sp.csr_array(np.ones((1, 3))))


def test_copies_keep_the_table_and_new_parameters_give_it_up():
    encoder = built(weighting="idf")
    expected = encoder.transform(TEXTS)
    for other in (
        clone(encoder),
        copy.deepcopy(encoder),
        pickle.loads(pickle.dumps(encoder)),
        StaticEncoder.from_model(encoder.model()),
    ):
        assert_array_equal(expected, other.transform(TEXTS))
        other.forward(TEXTS, training=True)
        other.backward(expected)
        other.step(0.1)
    assert_array_equal(expected, encoder.transform(TEXTS))
    assert clone(encoder).set_params(dropout=0.1).is_built
    assert not clone(encoder).set_params(dimension=3).is_built
    assert StaticEncoder(dimension=3).n_outputs == 3
    assert "dimension=6" in repr(encoder)


def test_seed_of_the_vectors():
    assert_array_equal(built(seed=1).transform(TEXTS), built(seed=1).transform(TEXTS))
    assert not np.array_equal(built(seed=1).transform(TEXTS), built(seed=2).transform(TEXTS))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_stored_document_frequencies_must_be_positive(bad):
    arrays = dict(built().model())
    arrays["idf"] = np.full_like(arrays["idf"], bad)
    with pytest.raises(ValueError, match="document frequencies"):
        StaticEncoder.from_model(arrays)
