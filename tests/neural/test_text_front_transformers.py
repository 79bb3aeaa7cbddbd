"""The text front on models of transformers: a tiny BERT, made here, no network."""

import copy
import json
import pickle

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from skxmc.neural.torch_text import TextFront, text_footprint, text_width

TEXTS = [
    "the quick brown fox",
    "fox",
    "",
    "a lazy dog jumps over the quick brown fox and the dog",
    "unknownword dog",
]
WORDS = ["the", "quick", "brown", "fox", "a", "lazy", "dog", "jumps", "over", "and"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is computed here is too small to be shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def word_tokenizer():
    """Return a WordPiece tokenizer of the library ``tokenizers`` with BERT's special tokens."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS + ["un", "##known", "##word"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def bert(**options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS) + 3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=24,
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **options},
    )
    return transformers.BertModel(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    bert().save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(),
        model_max_length=24,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def sentence_folder(folder, tmp_path):
    """The same in the layout of sentence-transformers, which wants the first token."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pooling = tmp_path / "1_Pooling"
    pooling.mkdir()
    modes = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    (pooling / "config.json").write_text(json.dumps({**modes, "pooling_mode_mean_tokens": False}))
    return tmp_path


def embed_one_by_one(model, tokenizer, pooling="mean"):
    """Return embeddings without padding, by transformers' own calls."""
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        rows.append(hidden.mean(0) if pooling == "mean" else hidden[0])
    return torch.stack(rows)


def test_folder_gives_what_transformers_gives(folder, capfd):
    front = TextFront(folder)
    assert "Loading" not in capfd.readouterr().err
    expected = embed_one_by_one(bert().eval(), word_tokenizer()).detach().numpy()
    assert front.n_outputs == 32
    for path in (folder, str(folder)):
        np.testing.assert_allclose(TextFront(path).transform(TEXTS), expected, atol=2e-6)
    # An empty text has its special tokens.
    assert front.prepare([""]).row(0).tolist() == [2, 3]
    assert np.abs(front.transform([""])).max() > 0.01


def test_pooling_of_a_sentence_transformers_folder(sentence_folder):
    expected = embed_one_by_one(bert().eval(), word_tokenizer(), "cls").detach().numpy()
    np.testing.assert_allclose(TextFront(sentence_folder).transform(TEXTS), expected, atol=2e-6)
    mean = TextFront(sentence_folder, pooling="mean").transform(TEXTS)
    assert np.abs(mean - expected).max() > 0.1
    settings = sentence_folder / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_lasttoken": True}))
    with pytest.raises(ValueError, match="pooling_mode_lasttoken"):
        TextFront(sentence_folder)
    assert TextFront(sentence_folder, pooling="max").n_outputs == 32


@pytest.mark.parametrize("kind", ["tokenizers", "transformers", "callable"])
def test_kinds_of_tokenizers(folder, kind):
    """All cut after max_length tokens; those that know of special tokens keep the last one."""
    tokenizer = {
        "tokenizers": word_tokenizer,
        "transformers": lambda: transformers.AutoTokenizer.from_pretrained(folder),
        "callable": lambda: lambda texts: [e.ids for e in word_tokenizer().encode_batch(texts)],
    }[kind]()
    front = TextFront((tokenizer, bert()), max_length=5)
    rows = front.prepare(TEXTS)
    assert rows.lengths.tolist() == [5, 3, 2, 5, 5]
    assert rows.row(3).tolist() == [2, 9, 10, 11, 12 if kind == "callable" else 3]
    if kind == "tokenizers":  # its settings are its owner's
        assert tokenizer.truncation is None
        assert len(tokenizer.encode(TEXTS[3]).ids) == 14


def test_gradients_as_autograd_through_the_whole_loss(folder):
    front = TextFront(folder, normalize=True, max_grad_norm=None, epsilon=1e-3, weight_decay=0.0)
    reference, tokenizer = bert().eval(), word_tokenizer()
    adam = torch.optim.AdamW(reference.parameters(), lr=0.01, eps=1e-3, weight_decay=0.0)
    head = np.random.default_rng(0).normal(size=(7, 32)).astype(np.float32)
    for step in range(3):
        features = front.forward(TEXTS, training=True, seed=step)
        front.backward(2 * np.maximum(0, 1 + features @ head.T) @ head)
        embedded = torch.nn.functional.normalize(embed_one_by_one(reference, tokenizer), dim=1)
        adam.zero_grad()
        torch.relu(1 + embedded @ torch.from_numpy(head).T).square().sum().backward()
        for name, parameter in front.module.named_parameters():
            expected = reference.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4)
        adam.step()
        front.step(0.01)
    for name, parameter in front.module.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-3, atol=2e-5)


def test_every_parameter_is_used(folder):
    """BERT's own pooling layer, which gets no gradient here, is not there."""
    front = TextFront(folder)
    front.forward(TEXTS, training=True)
    front.backward(np.ones((len(TEXTS), 32)))
    assert all(p.grad is not None for p in front.module.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_checkpointing_changes_memory_and_nothing_else(precision):
    pair = (word_tokenizer(), bert(hidden_dropout_prob=0.2))
    plain = TextFront(pair, precision=precision)
    saving = TextFront(pair, precision=precision, gradient_checkpointing=True)
    for step in range(2):
        features = plain.forward(TEXTS, training=True, seed=step)
        np.testing.assert_array_equal(features, saving.forward(TEXTS, training=True, seed=step))
        plain.backward(features)
        saving.backward(features)
        plain.step(0.01)
        saving.step(0.01)
    for name, array in plain.state().items():
        np.testing.assert_array_equal(saving.state()[name], array)
    few, many = saving.footprint(64, 20)["activations"], plain.footprint(64, 20)["activations"]
    assert 0.5 < few / many < 0.8  # one of two layers, and the inputs
    copied = pickle.loads(pickle.dumps(saving))
    np.testing.assert_array_equal(copied.transform(TEXTS), saving.transform(TEXTS))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_footprint_without_the_weights(folder, precision, monkeypatch):
    loaded = TextFront(folder, precision=precision).footprint(8, 20)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", None)  # would fail
    predicted = text_footprint(folder, 8, 20, precision=precision)
    # Without weights the attention that keeps most is assumed.
    bound, activations = predicted.pop("activations"), loaded.pop("activations")
    assert activations <= bound < 1.6 * activations
    del predicted["total"], loaded["total"]
    assert predicted == loaded


def test_max_length_is_limited_by_the_positions(folder):
    assert TextFront(folder).max_length == 24
    long = "dog " * 100
    assert TextFront(folder).prepare([long]).lengths.tolist() == [24]
    with pytest.raises(ValueError, match="at most 24"):
        TextFront(folder, max_length=25)
    with pytest.raises(ValueError, match="at most 24"):
        TextFront((lambda texts: [[1]] * len(texts), bert()), max_length=25)


def test_positions_of_roberta_begin_after_the_padding_index():
    config = transformers.RobertaConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        pad_token_id=1,
    )
    pair = (lambda texts: [[5] * len(text) for text in texts], transformers.RobertaModel(config))
    front = TextFront(pair)
    assert front.max_length == 10
    assert np.isfinite(front.transform(["x" * 30])).all()


def test_tokenizer_with_a_larger_vocabulary_is_refused():
    front = TextFront((lambda texts: [[len(text)] for text in texts], bert()))
    with pytest.raises(ValueError, match=r"Row 1 has token id 18, .* 0 to 17"):
        front.transform(["ok", "x" * 18])


def test_encoder_of_an_encoder_decoder_model(tmp_path, folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=18, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    front = TextFront(tmp_path)
    assert front.transform(TEXTS).shape == (len(TEXTS), 16)
    assert not any("decoder" in name for name, _ in front.module.named_parameters())


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_folders_are_refused(folder, tmp_path, damage):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / damage).write_bytes(b"{" * 30)
    with pytest.raises(ValueError, match=r"cannot be loaded"):
        TextFront(tmp_path)


def test_without_transformers_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"skxmc\[text\]"):
        TextFront(folder)


def test_front_of_a_folder_can_be_copied_and_resumed(folder):
    front = TextFront(folder, dropout=0.1)

    def train(front, steps):
        for step in steps:
            front.backward(front.forward(TEXTS, training=True, seed=step))
            front.step(0.01)

    train(front, range(2))
    resumed = TextFront(folder, dropout=0.1)
    resumed.load_state(front.state())
    copied = copy.deepcopy(front)
    for other in (front, resumed, copied):
        train(other, range(2, 4))
    for name, array in front.state().items():
        np.testing.assert_array_equal(resumed.state()[name], array)
        np.testing.assert_array_equal(copied.state()[name], array)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stored_model_gives_the_same_features(folder, tmp_path, precision):
    options = {"precision": precision, "normalize": True, "pooling": "max", "max_length": 9}
    front = TextFront(folder, betas=[0.8, 0.9], **options)
    front.backward(front.forward(TEXTS, training=True, seed=0))
    front.step(0.01)
    arrays = front.model()
    assert not any(name.startswith("optimizer.") for name in arrays)
    np.savez(tmp_path / "model.npz", **arrays)
    state = torch.random.get_rng_state()
    with np.load(tmp_path / "model.npz") as stored:
        loaded = TextFront.from_model(dict(stored))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.options == front.options
    np.testing.assert_array_equal(loaded.transform(TEXTS), front.transform(TEXTS))
    assert np.abs(loaded.transform(TEXTS) - TextFront(folder).transform(TEXTS)).max() > 0.01


def test_files_of_a_stored_model_stay_in_their_folder(folder):
    arrays = TextFront(folder).model()
    arrays["file.../outside"] = arrays["options"]
    with pytest.raises(ValueError, match="outside"):
        TextFront.from_model(arrays)


def test_a_pair_of_other_libraries_is_not_stored():
    with pytest.raises(TypeError, match="pickle"):
        TextFront((word_tokenizer(), bert())).model()


def test_width_without_the_weights(folder, monkeypatch):
    assert text_width(TextFront(folder)) == 32
    assert text_width((word_tokenizer(), bert())) == 32
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", None)  # would fail
    assert text_width(folder) == 32
