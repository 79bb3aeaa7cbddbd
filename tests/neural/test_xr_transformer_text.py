"""XRTransformerClassifier on models of transformers: a tiny BERT, made here, no network."""

import numpy as np
import pytest
import scipy.sparse as sp
import tokenizers
import torch
import transformers
from numpy.testing import assert_array_equal

from skxmc import load_model, save_model
from skxmc.metrics import precision_at_k
from skxmc.neural import XRTransformerClassifier
from skxmc.neural.torch_freezing import freeze_layers
from skxmc.neural.torch_text import TextFront

N_LABELS = 12
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{label}{letter}" for label in range(N_LABELS) for letter in "ab"]
SMALL = {
    "n_steps": 20,
    "arity": 4,
    "max_leaf": 4,
    "random_state": 0,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "max_length": 12,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is computed here is too small to be shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_bert")
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=16,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def make_texts(n_rows, seed):
    rng = np.random.default_rng(seed)
    first = np.arange(n_rows) % N_LABELS
    second = rng.integers(N_LABELS, size=n_rows)
    rows = np.arange(n_rows)
    Y = sp.csr_array(
        (np.ones(2 * n_rows), (np.tile(rows, 2), np.concatenate([first, second]))),
        shape=(n_rows, N_LABELS),
    )
    Y.data[:] = 1
    letters = "ab"
    texts = [
        f"w{a}{letters[rng.integers(2)]} w{b}{letters[rng.integers(2)]}"
        for a, b in zip(first, second, strict=True)
    ]
    return texts, Y


TEXTS, Y = make_texts(96, 0)
NEW_TEXTS, NEW_Y = make_texts(40, 1)


def assert_same(first, second):
    texts = [*NEW_TEXTS, "", "unknown"]
    for a, b in zip(first.predict_topk(texts, k=4), second.predict_topk(texts, k=4), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"dimension": 8}, {"precision": "mixed"}])
def test_transformer_is_fine_tuned(folder, options, tmp_path):
    model = XRTransformerClassifier(str(folder), **SMALL, **options).fit(TEXTS, Y)
    plain = XRTransformerClassifier(str(folder), fine_tune=False, **SMALL, **options).fit(TEXTS, Y)
    before, after = (m._fitted_fronts()[0].transform(NEW_TEXTS) for m in (plain, model))
    assert np.abs(before - after).max() > 0.01
    depth = model.history_[0][-1]["depth"]
    losses = [epoch["loss"] for epoch in model.history_[0] if epoch["depth"] == depth]
    assert losses[-1] < losses[0]
    assert precision_at_k(NEW_Y, model.predict_topk(NEW_TEXTS, k=1), k=1) > 0.8
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", mmap=False)
    assert_same(loaded, model)
    assert loaded.get_params() == model.get_params()


def test_two_encoders_and_the_same_seed(folder, tmp_path):
    models = [
        XRTransformerClassifier([folder, "static"], n_estimators=2, **SMALL).fit(TEXTS, Y)
        for _ in range(2)
    ]
    assert_same(*models)
    save_model(models[0], tmp_path / "model")
    assert_same(load_model(tmp_path / "model"), models[0])
    widths = [front.n_outputs for front in models[0]._fitted_fronts()]
    assert widths == [16, 256]


def test_a_given_module_is_copied(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.AutoModel.from_pretrained(folder)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    XRTransformerClassifier((tokenizer, module), **SMALL).fit(TEXTS, Y)
    front = TextFront(folder, max_length=12)
    XRTransformerClassifier(front, **SMALL).fit(TEXTS, Y)
    for found in (module, front.module):
        state = found.state_dict()
        assert all(torch.equal(state[n], before[n]) for n in before if n in state)


def test_frozen_layers_stay(folder):
    start = {n: v.clone() for n, v in TextFront(folder).module.named_parameters()}
    model = XRTransformerClassifier(str(folder), frozen_layers=2, **SMALL).fit(TEXTS, Y)
    changed = {
        name
        for name, value in model._fitted_fronts()[0].module.named_parameters()
        if not torch.equal(value, start[name])
    }
    assert changed
    assert all("layer.2." in name for name in changed)


def test_frozen_layers_of_what_has_none():
    bag = torch.nn.Embedding(9, 4)
    front = TextFront((lambda texts: [[1] for _ in texts], Bag(bag)))
    with pytest.raises(ValueError, match="frozen_layers"):
        freeze_layers(front, 1)


class Bag(torch.nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, ids, mask):
        return self.table(ids)


def test_a_folder_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        XRTransformerClassifier("no/such/folder", **SMALL).fit(TEXTS, Y)
    with pytest.raises(TypeError, match="tokenizer"):
        XRTransformerClassifier(("a", "b"), **SMALL).fit(TEXTS, Y)
