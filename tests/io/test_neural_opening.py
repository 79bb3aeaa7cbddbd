"""Neural models that are mapped: what opening reads, what a prediction copies, and forged files.

`small_as_large` opens the small models of these tests as models of a gigabyte are opened: without
a first question.
"""

import json
import mmap
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import tokenizers
from numpy.testing import assert_array_equal
from test_model_opening import LINUX, assert_same, forge, mapped, put

from skxmc import (
    LMTXClassifier,
    ParabelTree,
    SparseDSTClassifier,
    UniDECClassifier,
    XRTransformerClassifier,
    load_model,
    save_model,
)
from skxmc.exceptions import ModelFormatError
from skxmc.io import _model
from skxmc.neural import StaticEncoder, _loaded
from skxmc.neural._bi_encoder import BiEncoder
from skxmc.neural._encoders import ProjectedFront, encoder_from_model, encoder_model
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._tokenizers import from_json

N_LABELS = 12
LABEL_TEXT = [f"word{i} thing{i}" for i in range(N_LABELS)]


def rows_and_labels():
    rng = np.random.default_rng(0)
    Y = rng.random((60, N_LABELS)) < 0.1
    Y[np.arange(60), np.arange(60) % N_LABELS] = True
    X = rng.random((60, 24)) * (rng.random((60, 24)) < 0.3)
    X[:, :N_LABELS] += Y
    texts = [" ".join(f"word{label}" for label in np.flatnonzero(row)) for row in Y]
    return sp.csr_array(X.astype(np.float32)), texts, sp.csr_array(Y.astype(np.uint8))


def teach(texts, labels):
    return [bool({*a.split()} & {*b.split()}) for a, b in zip(texts, labels, strict=True)]


def fit(name):
    """A small fitted model, and rows to ask."""
    X, texts, Y = rows_and_labels()
    head = {"epochs": 2, "fan_in": 4, "random_state": 0}
    text = {"dimension": 8, "random_state": 0}
    if name == "sparse-dst":
        return SparseDSTClassifier(**head, hidden=None).fit(X, Y), X
    if name == "sparse-dst-hidden":
        return SparseDSTClassifier(**head, hidden=16, dense_head=0.2).fit(X, Y), X
    if name == "sparse-dst-groups":
        model = SparseDSTClassifier(**head, layout="group", group_size=3, precision="bfloat16")
        return model.fit(X, Y[:, 1:]), X  # with labels that are never answered, further below
    if name.startswith("unidec"):
        model = UniDECClassifier(**text, mode=name.removeprefix("unidec-"), epochs=2)
        return model.fit(texts, Y, label_text=LABEL_TEXT), texts
    if name == "rows-dense":  # the rows themselves are the features
        model = UniDECClassifier("precomputed", mode="classifier", epochs=2, random_state=0)
        return model.fit(X.toarray(), Y), X.toarray()
    if name == "rows-sparse":
        model = UniDECClassifier("precomputed", mode="classifier", **text, epochs=2)
        return model.fit(X, Y), X
    if name == "lmtx":
        model = LMTXClassifier(teach, **text, n_questions=3, n_rounds=1)
        return model.fit(texts, label_text=LABEL_TEXT), texts
    model = XRTransformerClassifier(**text, n_steps=4, arity=4, max_leaf=4)
    return model.fit(texts, Y), texts


NAMES = [
    *("sparse-dst", "sparse-dst-hidden", "sparse-dst-groups", "unidec-both", "unidec-encoder"),
    *("unidec-classifier", "lmtx", "xr-transformer", "rows-dense", "rows-sparse"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(name)``: a fitted model, where it is saved, and rows."""
    folder, done = tmp_path_factory.mktemp("neural"), {}

    def get(name):
        if name not in done:
            model, rows = fit(name)
            save_model(model, folder / name)
            done[name] = model, folder / name, rows
        return done[name]

    return get


@pytest.fixture
def small_as_large(monkeypatch):
    monkeypatch.setattr(_model, "_SMALL", -1)


def answers(model, rows):
    found = [*model.predict_topk(rows, k=5), *model.predict_topk(rows[:1], k=3)]
    for method in (model.predict, model.predict_proba, model.decision_function):
        out = method(rows[:7])
        found += [out.indptr, out.indices, out.data] if sp.issparse(out) else [out]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_the_model_that_was_saved(saved, small_as_large, tmp_path, name):
    model, path, rows = saved(name)
    expected = answers(model, rows)
    loaded = load_model(path)
    assert_same(answers(loaded, rows), expected)
    assert_same(answers(load_model(path, mmap=False), rows), expected)
    assert_same(answers(pickle.loads(pickle.dumps(loaded)), rows), expected)
    save_model(loaded, tmp_path / "again")
    assert_same(answers(load_model(tmp_path / "again"), rows), expected)
    save_model(loaded, tmp_path / "compact", compress=True)
    assert_same(answers(load_model(tmp_path / "compact"), rows), expected)


@pytest.mark.parametrize("name", NAMES)
def test_saving_leaves_the_model_as_it_is(saved, tmp_path, name):
    model, _, rows = saved(name)
    model.predict_topk(rows, k=2)
    before = dict(vars(model))
    save_model(model, tmp_path / "x")
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


def test_the_vectoriser_is_made_when_it_is_asked_for(saved, small_as_large):
    model, path, rows = saved("xr-transformer")
    loaded = load_model(path)
    assert "vectorizer_" not in vars(loaded)
    assert_same(answers(pickle.loads(pickle.dumps(loaded)), rows), answers(model, rows))
    loaded = load_model(path)
    assert loaded.vectorizer_.vocabulary_ == model.vectorizer_.vocabulary_
    assert loaded.vectorizer_ is loaded.vectorizer_
    assert hasattr(load_model(path, verify=True), "vectorizer_")


def test_a_mapped_model_knows_further_labels(saved, small_as_large):
    for name in ("unidec-both", "unidec-encoder", "lmtx"):
        model, path, rows = saved(name)
        mine = pickle.loads(pickle.dumps(model)).add_labels(["word3", "word7 more"])
        loaded = load_model(path).add_labels(["word3", "word7 more"])
        assert_same(answers(loaded, rows), answers(mine, rows))


# ---------------------------------------------------------------------------- nothing is copied


def is_mapped(array):
    """Whether the memory of an array is that of a file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_scored_is_the_file(saved, small_as_large, name):
    _, path, rows = saved(name)
    model = load_model(path)
    model.predict_topk(rows, k=3)
    if name.startswith("sparse-dst"):
        used = [part.weights for part in model._fitted_parts()]
        used += [part.indices for part in model._fitted_parts() if part.indices is not None]
        if "hidden" in name:
            used.append(model._fitted_front().weights)
    elif name.startswith("unidec"):
        used = [model._index()[0].vectors, model._fitted_front()._front.weights]
    elif name.startswith("rows"):
        used = [model._index()[0].vectors]
    elif name == "lmtx":
        used = [model._label_index().vectors, model._fitted_encoder().front._front.weights]
    else:
        used = [model._fitted_fronts()[0]._front.weights, *model.rankers_[0].weights_[0]]
        used = [array for array in used if array.size]
    assert all(is_mapped(array) for array in used)
    assert not any(array.flags.writeable for array in used)


LARGE_LABELS, WIDTH = 120_000, 64


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Models with 30 to 60 MB of weights: name -> folder, names of the large arrays, rows."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("large")
    found = {}
    for name in ("sparse-dst", "unidec-both", "lmtx"):
        model, rows = fit(name)
        vectors = rng.standard_normal((LARGE_LABELS, 2 * WIDTH), np.float32)
        if name == "sparse-dst":
            part = model._parts[0]
            part["weights"] = np.ascontiguousarray(vectors[:, :WIDTH])
            part["indices"] = rng.integers(0, 24, (LARGE_LABELS, WIDTH), dtype=np.uint16)
            part["bias"] = np.zeros(LARGE_LABELS, np.float32)
            model._layer_labels = rng.permutation(LARGE_LABELS).astype(np.int32)
            arrays = ["_parts.0.weights", "_parts.0.indices"]
        elif name == "lmtx":
            model = LMTXClassifier(teach, dimension=WIDTH, n_rounds=1, random_state=0)
            model.fit(rows, label_text=LABEL_TEXT)
            model._label_vectors = np.ascontiguousarray(vectors[:, :WIDTH])
            model._answerable = np.ones(LARGE_LABELS, bool)
            arrays = ["_label_vectors"]
        else:
            model = UniDECClassifier(dimension=WIDTH, epochs=1, random_state=0)
            model.fit(rows, rows_and_labels()[2], label_text=LABEL_TEXT)
            halves = {"encoder": vectors[:, :WIDTH], "classifier": vectors[:, WIDTH:]}
            model._label_halves = halves
            arrays = ["_label_vectors"]
        model.n_labels_, model.classes_ = LARGE_LABELS, np.arange(LARGE_LABELS)
        save_model(model, folder / name)
        found[name] = folder / name, [folder / name / f"{array}.npy" for array in arrays], rows
    return found


@LINUX
@pytest.mark.parametrize("name", ["sparse-dst", "unidec-both", "lmtx"])
def test_opening_reads_no_weights_and_a_prediction_copies_none(large, name):
    path, files, rows = large[name]
    n_bytes = sum(file.stat().st_size for file in files)
    assert n_bytes > 30_000_000
    load_model(path).predict_topk(rows[:1], k=5)  # imports and compiled kernels
    tracemalloc.start()
    try:
        model = load_model(path)
        assert all(mapped(file)["Rss"] == 0 for file in files)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        model.predict_topk(rows[:1], k=5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(mapped(file)["Rss"] * 1024 > 0.9 * file.stat().st_size for file in files)
    assert all(mapped(file)["Private_Dirty"] == 0 for file in files)
    assert peak - before < 0.2 * n_bytes


# ---------------------------------------------------------------------------- forged files

FORGED = {
    "index out of range": ("sparse-dst", "_parts.0.indices", put(24)),
    "index far out of range": ("sparse-dst", "_parts.0.indices", put(65535, (3, 2))),
    "index of a hidden unit": ("sparse-dst-hidden", "_parts.1.indices", put(16)),
    "index of a group": ("sparse-dst-groups", "_parts.0.indices", put(24)),
    "weight NaN": ("sparse-dst", "_parts.0.weights", put(np.nan, (-1, -1))),
    "weight infinite": ("sparse-dst", "_parts.0.weights", put(np.inf, (-1, 0))),
    "weight NaN, dense": ("sparse-dst-hidden", "_parts.0.weights", put(np.nan, (-1, -1))),
    "weight NaN, bfloat16": ("sparse-dst-groups", "_parts.0.weights", put(0x7FC0, (-1, -1))),
    "bias NaN": ("sparse-dst", "_parts.0.bias", put(np.nan)),
    "bias infinite": ("sparse-dst", "_parts.0.bias", put(np.inf)),
    "hidden weight NaN": (
        "sparse-dst-hidden",
        "_front_arrays.weights",
        put(np.nan, slice(None)),
    ),
    "table NaN": ("unidec-both", "_encoder_arrays.weights", put(np.nan, slice(None))),
    "label vector NaN": ("unidec-both", "_label_vectors", put(np.nan, (-1, -1))),
    "label vector NaN, alone": ("unidec-encoder", "_label_halves.encoder", put(np.nan, (-1, -1))),
    "head NaN": ("unidec-both", "_heads.encoder.weights", put(np.nan, slice(None))),
    "tokenizer": ("unidec-both", "_encoder_arrays.tokenizer", lambda a: a[::-1]),
    "frequencies": ("lmtx", "_encoder_arrays.idf", put(-1.0, slice(None))),
    "label vector infinite": ("lmtx", "_label_vectors", put(np.inf, slice(None))),
    "table of a bi-encoder": ("lmtx", "_encoder_arrays.weights", put(np.nan, slice(None))),
    "options": ("lmtx", "_encoder_arrays.options", lambda a: a[:-3]),
    "table of XR": ("xr-transformer", "0.weights", put(np.inf, slice(None))),
    "tokenizer of XR": ("xr-transformer", "0.tokenizer", lambda a: a[: len(a) // 2]),
    "terms of XR": ("xr-transformer", "vectorizer_.terms", lambda a: a[:-2]),
    "terms of XR, one less": (
        "xr-transformer",
        "vectorizer_.terms",
        lambda a: np.frombuffer(json.dumps(json.loads(a.tobytes())[1:]).encode(), np.uint8),
    ),
    "frequencies of XR": ("xr-transformer", "vectorizer_.idf", put(np.nan, 0)),
    "tree of XR": ("xr-transformer", "0.child", lambda a: a + np.uint16(1000)),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("what", FORGED)
def test_damage_is_found_by_the_first_prediction(saved, small_as_large, tmp_path, what):
    """Right checksums, wrong content: opened, as a large model, and refused when it is needed."""
    name, entry, change = FORGED[what]
    _, path, rows = saved(name)
    forged = forge(path, tmp_path / "model", entry, change)
    for options in ({"mmap": False}, {"verify": True}):
        with pytest.raises(ModelFormatError):
            load_model(forged, **options)
    for use in ("predict_topk", "predict", "predict_proba", "decision_function"):
        model = load_model(forged)
        for _ in range(2):  # not taken for good after the first time
            with pytest.raises(ModelFormatError):
                getattr(model, use)(rows)


SIZES = {
    "labels twice": ("sparse-dst", "_layer_labels", put(0, slice(None))),
    "labels out of range": ("sparse-dst", "_layer_labels", put(N_LABELS)),
    "labels in two dimensions": ("sparse-dst", "_layer_labels", lambda a: a[:, None]),
    "too few indices": ("sparse-dst", "_parts.0.indices", lambda a: a[:-1]),
    "indices of another dtype": ("sparse-dst", "_parts.0.indices", lambda a: a.astype("i8")),
    "too few weights": ("sparse-dst-groups", "_parts.0.weights", lambda a: a[:, :-1]),
    "hidden layer": ("sparse-dst-hidden", "_front_arrays.weights", lambda a: a[:-1]),
    "label vectors": ("unidec-both", "_label_vectors", lambda a: a[:-1]),
    "columns of label vectors": ("unidec-both", "_label_vectors", lambda a: a[:, 1:]),
    "heads": ("unidec-both", "_heads.encoder.weights", lambda a: a[1:]),
    "vectors of a bi-encoder": ("lmtx", "_label_vectors", lambda a: a[:, 1:]),
    "table of a bi-encoder": ("lmtx", "_encoder_arrays.weights", lambda a: a.astype("f8")),
    "table of XR": ("xr-transformer", "0.weights", lambda a: a[:, 1:]),
    "columns of dense rows": ("rows-dense", "_encoder_arrays.n_outputs", put(23)),
    "head over dense rows": ("rows-dense", "_heads.classifier.weights", lambda a: a[1:]),
    "matrix of sparse rows": ("rows-sparse", "_encoder_arrays.weights", lambda a: a[1:]),
}


@pytest.mark.parametrize("what", SIZES)
def test_sizes_that_do_not_fit_are_found_at_opening(saved, small_as_large, tmp_path, what):
    name, entry, change = SIZES[what]
    forged = forge(saved(name)[1], tmp_path / "model", entry, change)
    with pytest.raises(ModelFormatError):
        load_model(forged)


def test_negative_index(saved, small_as_large, tmp_path):
    model, _, rows = saved("sparse-dst")
    model = pickle.loads(pickle.dumps(model))
    model._parts[0]["indices"] = model._parts[0]["indices"].astype(np.int32)  # of a wide layer
    expected = answers(model, rows)
    save_model(model, tmp_path / "wide")
    assert_same(answers(load_model(tmp_path / "wide"), rows), expected)
    forged = forge(tmp_path / "wide", tmp_path / "x", "_parts.0.indices", put(-1, (4, 1)))
    with pytest.raises(ModelFormatError, match="Row 4 of the indices"):
        load_model(forged).predict_topk(rows, k=1)


def test_label_vectors_by_column_are_refused(saved, small_as_large, tmp_path):
    _, path, _ = saved("lmtx")
    file = shutil.copytree(path, tmp_path / "x") / "_label_vectors.npy"
    np.save(file, np.asfortranarray(np.load(file)))
    with pytest.raises(ModelFormatError, match="row by row"):
        load_model(tmp_path / "x")


def test_parts_of_an_encoder_must_fit():
    texts = ["a b", "b c"]
    encoder = StaticEncoder(4, tokenizer="word").build(texts)
    front = ProjectedFront(encoder, LinearFront(np.ones((4, 3), np.float32)))
    arrays = encoder_model(front)
    assert_array_equal(encoder_from_model(arrays).transform(texts), front.transform(texts))
    own = {"labels.weights": np.ones((4, 3), np.float32)}
    assert BiEncoder.from_model({**arrays, **own}).n_outputs == 3
    for name in ("projection.weights", "labels.weights"):
        wrong = {name: np.ones((5, 3), np.float32)}
        with pytest.raises(ModelFormatError, match="projection has the shape"):
            _loaded.build(BiEncoder.from_model, {**arrays, **own, **wrong})


def test_a_row_that_does_not_need_the_damaged_label_is_answered(saved, small_as_large, tmp_path):
    """Candidates: what no row asks for is not read, so not refused."""
    model, path, rows = saved("sparse-dst")
    forged = load_model(forge(path, tmp_path / "x", "_parts.0.indices", put(999)))
    wrong = int(model._layer_labels[-1])
    allowed = np.ones((rows.shape[0], N_LABELS))
    allowed[:, wrong] = 0
    allowed = sp.csr_array(allowed)
    expected = model.predict_topk(rows, k=3, candidates=allowed)
    assert_same(forged.predict_topk(rows, k=3, candidates=allowed), expected)
    with pytest.raises(ModelFormatError, match=r"indices of part 0 .* 0 to 23"):
        forged.predict_topk(rows, k=3)


def test_errors_of_the_rows_stay_what_they_are(saved, small_as_large):
    model = load_model(saved("sparse-dst")[1])
    huge = np.full((1, 24), 3e38)
    with pytest.raises(ValueError, match="features") as error:
        model.set_params(normalize=None).predict_topk(huge[:, 1:], k=1)
    assert not isinstance(error.value, ModelFormatError)


def test_halves_that_do_not_lie_side_by_side_are_joined(saved, small_as_large, tmp_path):
    """As in files of before, in Fortran order, and where each half is an array of its own."""
    model, path, rows = saved("unidec-both")
    apart = pickle.loads(pickle.dumps(model))
    apart._label_halves = {k: np.array(v) for k, v in apart._label_halves.items()}
    save_model(apart, tmp_path / "apart")
    assert_same(answers(load_model(tmp_path / "apart"), rows), answers(model, rows))
    assert_array_equal(
        np.load(tmp_path / "apart" / "_label_vectors.npy"), np.load(path / "_label_vectors.npy")
    )
    file = tmp_path / "apart" / "_label_vectors.npy"
    np.save(file, np.asfortranarray(np.load(file)))
    assert_same(answers(load_model(tmp_path / "apart"), rows), answers(model, rows))


@pytest.mark.parametrize("hidden", [8, None])
def test_an_encoder_that_is_not_stored_is_refused(hidden, tmp_path):
    X, _, Y = rows_and_labels()
    model = SparseDSTClassifier(hidden=hidden, epochs=1, fan_in=4, random_state=0).fit(X, Y)
    save_model(model, tmp_path / "model")
    header = tmp_path / "model" / "model.json"
    content = json.loads(header.read_text())
    content["model"]["params"]["encoder"] = "somewhere"
    header.write_text(json.dumps(content))
    with pytest.raises(ModelFormatError, match="names an encoder"):
        load_model(tmp_path / "model")


def test_what_predictions_ask_for_is_missed_at_opening(small_as_large, tmp_path):
    X, _, Y = rows_and_labels()
    layer = SparseDSTClassifier(epochs=1, fan_in=4, random_state=0).fit(X, Y)
    del layer._target_is_spmatrix
    tree = ParabelTree(random_state=0).fit(X, Y)
    tree.preset_ = {name: value for name, value in tree.preset_.items() if name != "search"}
    for model, message in ((layer, "kind of sparse target"), (tree, "preset has no search")):
        path = tmp_path / type(model).__name__
        save_model(model, path)
        with pytest.raises(ModelFormatError, match=message):
            load_model(path)


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece"])
def test_a_tokenizer_without_an_entry_for_unknown_words_is_refused(kind):
    model = getattr(tokenizers.models, kind)({"a": 0, "b": 1}, unk_token="[UNK]")
    with pytest.raises(ValueError, match=r"no entry for unknown words, \[UNK\]"):
        from_json(tokenizers.Tokenizer(model).to_str())
