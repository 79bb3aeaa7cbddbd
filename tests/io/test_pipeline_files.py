"""Pipelines of scikit-learn and objects as parameters in model files."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer

from skxmc import (
    DismecClassifier,
    IsotonicXMCCalibrator,
    MacroAtKPredictor,
    ParabelTree,
    load_model,
    save_model,
)
from skxmc.exceptions import ModelFormatError
from skxmc.neural import StaticEncoder, UniDECClassifier
from skxmc.neural._encoders import with_projection

WORDS = {0: "web server page", 1: "chess game board", 2: "bread flour oven", 3: "rain cloud wind"}
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 80)
TEXTS = [" ".join(RNG.choice(WORDS[label].split(), 4)) + " the" for label in LABELS]
Y = sp.csr_array((np.ones(80, dtype=np.uint8), (np.arange(80), LABELS)), shape=(80, 4))
NEW = ["a web page", "", "chess in the rain", "unheard of"]

PIPELINES = {
    "tfidf": lambda: make_pipeline(TfidfVectorizer(), DismecClassifier()),
    "counts": lambda: make_pipeline(
        CountVectorizer(ngram_range=(1, 2)), TfidfTransformer(), Normalizer(), DismecClassifier()
    ),
    "counts-without-idf": lambda: make_pipeline(
        CountVectorizer(), TfidfTransformer(use_idf=False), ParabelTree(random_state=0)
    ),
    "hashing": lambda: make_pipeline(
        HashingVectorizer(n_features=512), MaxAbsScaler(), ParabelTree(random_state=0)
    ),
    "passthrough": lambda: Pipeline(
        [("rows", TfidfVectorizer()), ("nothing", "passthrough"), ("model", DismecClassifier())]
    ),
    "pipeline-in-calibrator": lambda: IsotonicXMCCalibrator(
        make_pipeline(TfidfVectorizer(), DismecClassifier()), cv=2, random_state=0
    ),
    "calibrator-in-pipeline": lambda: make_pipeline(
        TfidfVectorizer(), IsotonicXMCCalibrator(DismecClassifier(), cv=2, random_state=0)
    ),
    "decision-over-calibrator": lambda: MacroAtKPredictor(
        IsotonicXMCCalibrator(
            make_pipeline(TfidfVectorizer(), ParabelTree(random_state=0)), cv=2, random_state=0
        ),
        k=2,
        random_state=0,
    ),
    "pipeline-in-pipeline": lambda: make_pipeline(
        make_pipeline(CountVectorizer(), TfidfTransformer()), DismecClassifier()
    ),
}


def same(a, b, rows=NEW):
    for method in ("predict", "predict_proba", "decision_function"):
        found, expected = getattr(a, method)(rows), getattr(b, method)(rows)
        for part in ("indptr", "indices", "data"):
            assert_array_equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", PIPELINES)
def test_saved_as_one(tmp_path, name, compress):
    model = PIPELINES[name]().fit(TEXTS, Y)
    save_model(model, tmp_path / "model", compress=compress)
    loaded = load_model(tmp_path / "model")
    same(loaded, model)
    assert str(loaded.get_params()) == str(model.get_params())
    save_model(loaded, tmp_path / "again")
    same(load_model(tmp_path / "again", mmap=False), model)
    same(loaded.fit(TEXTS, Y), model)  # by its own rules, not by what was stored


def test_frozen_pipeline_under_a_calibrator(tmp_path):
    inner = make_pipeline(TfidfVectorizer(), DismecClassifier()).fit(TEXTS, Y)
    model = IsotonicXMCCalibrator(FrozenEstimator(inner)).fit(TEXTS, Y)
    save_model(model, tmp_path / "model")
    same(load_model(tmp_path / "model"), model)


def test_what_is_not_stored_is_named(tmp_path):
    for last, match in (
        (LogisticRegression(), "Pipeline that ends in an estimator of skxmc"),
        (DismecClassifier(), "Pipeline with memory is not stored"),
    ):
        memory = str(tmp_path / "cache") if isinstance(last, DismecClassifier) else None
        model = Pipeline([("text", TfidfVectorizer()), ("model", last)], memory=memory)
        model.fit(TEXTS, Y if memory else LABELS)
        with pytest.raises(TypeError, match=match):
            save_model(model, tmp_path / "model")
    files = make_pipeline(TfidfVectorizer(input="filename"), DismecClassifier())
    names = []
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(WORDS[i])
        names.append(str(tmp_path / f"{i}.txt"))
    files.fit(names, np.eye(4, dtype=np.uint8))
    with pytest.raises(TypeError, match="reads files"):
        save_model(files, tmp_path / "model")

    class Pipeline2(Pipeline):
        pass

    Pipeline2.__name__, Pipeline2.__module__ = "Pipeline", "imblearn.pipeline"
    with pytest.raises(TypeError, match=r"got imblearn\.pipeline"):
        save_model(
            Pipeline2([("a", TfidfVectorizer()), ("b", DismecClassifier())]).fit(TEXTS, Y),
            tmp_path / "model",
        )
    assert not (tmp_path / "model").exists()


def step(header, number):
    return header["model"]["params"]["steps"][number]["items"]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["model"]["params"].update(memory="/tmp/pickles"),
        lambda h: h["model"]["params"].update(steps=[]),
        lambda h: h["model"]["params"].update(steps=3),
        lambda h: h["model"]["params"]["steps"].append("x"),
        lambda h: h["model"]["params"]["steps"].reverse(),
        lambda h: h["model"]["params"]["steps"].pop(),
        lambda h: step(h, 0).__setitem__(1, "eval"),
        lambda h: step(h, 0).__setitem__(0, "dismecclassifier"),
        lambda h: step(h, 0)[1]["terms"].pop(),
        lambda h: step(h, 0)[1]["terms"].append("more"),
        lambda h: step(h, 0)[1].update({"class": "HashingVectorizer"}),
        lambda h: step(h, 0)[1]["params"].update(input="filename"),
        lambda h: step(h, 0)[1]["params"].update(analyzer="exec"),
        lambda h: step(h, 0)[1].update(terms=None),
        lambda h: step(h, 1)[1]["attributes"].update(n_features_in_=3),
        lambda h: step(h, 1)[1]["attributes"].update(n_features_in_="x"),
        lambda h: step(h, 1)[1]["attributes"].pop("idf_"),
        lambda h: step(h, 1)[1]["attributes"].update(evil=3),
        lambda h: step(h, 1)[1]["params"].update(norm="l7"),
        lambda h: step(h, 2)[1].update(attributes={}),
    ],
)
def test_steps_that_do_not_fit_are_refused(tmp_path, change):
    model = make_pipeline(CountVectorizer(), TfidfTransformer(), DismecClassifier())
    save_model(model.fit(TEXTS, Y), tmp_path / "model")
    header = json.loads((tmp_path / "model" / "model.json").read_text())
    change(header)
    (tmp_path / "model" / "model.json").write_text(json.dumps(header))
    with pytest.raises(ModelFormatError):
        load_model(tmp_path / "model")


def test_columns_that_are_not_finite_or_zero_are_refused(tmp_path):
    for value in (np.nan, 0.0):
        model = make_pipeline(HashingVectorizer(n_features=64), MaxAbsScaler(), DismecClassifier())
        model.fit(TEXTS, Y)[1].scale_[3] = value
        path = tmp_path / str(value)
        save_model(model, path)
        with pytest.raises(ModelFormatError, match=r"scale_|divides by zero"):
            load_model(path)


# ---------------------------------------------------------------------------- encoders

LABEL_TEXT = list(WORDS.values())
SMALL = {"epochs": 2, "batch_size": 16, "random_state": 0}


def test_a_static_encoder_as_a_parameter(tmp_path):
    model = UniDECClassifier(StaticEncoder(8, max_length=5), **SMALL)
    model.fit(TEXTS, Y, label_text=LABEL_TEXT)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.encoder.get_params() == model.encoder.get_params()
    same(loaded, model)
    same(loaded.fit(TEXTS, Y, label_text=LABEL_TEXT), model)


def test_an_encoder_that_is_no_estimator(tmp_path):
    """Its weights are stored, the object is not: the model predicts and says what a fit needs."""
    encoder = with_projection(StaticEncoder(8).build(TEXTS), 6)
    model = UniDECClassifier(encoder, **SMALL).fit(TEXTS, Y, label_text=LABEL_TEXT)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    same(loaded, model)
    save_model(loaded, tmp_path / "again")
    loaded = load_model(tmp_path / "again", mmap=False)
    same(loaded, model)
    with pytest.raises(ValueError, match=r"ProjectedFront.*set_params\(encoder=\.\.\.\)"):
        loaded.fit(TEXTS, Y, label_text=LABEL_TEXT)
    loaded.set_params(encoder=encoder).fit(TEXTS, Y, label_text=LABEL_TEXT)
    same(loaded, model)


def test_a_folder_as_a_path_comes_back_as_a_string(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "web"]))
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    module = transformers.BertModel(config)
    tokenizer.save_pretrained(tmp_path / "encoder")
    module.save_pretrained(tmp_path / "encoder")
    for name, encoder in (("path", tmp_path / "encoder"), ("pair", (tokenizer, module))):
        model = UniDECClassifier(encoder, **SMALL).fit(TEXTS, Y, label_text=LABEL_TEXT)
        save_model(model, tmp_path / name)
        loaded = load_model(tmp_path / name)
        found, expected = loaded.predict_topk(NEW, 2), model.predict_topk(NEW, 2)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    with pytest.raises(ValueError, match=r"a builtins\.tuple"):
        loaded.fit(TEXTS, Y, label_text=LABEL_TEXT)
