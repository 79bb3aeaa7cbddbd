"""Write the model files that later versions have to read: ``python tools/make_format_fixture.py``.

For each class one small fitted model in each form of storage, and beside it, in ``expected.json``,
some rows and what the model answers to them. Made once for each format version, with the code that
wrote that version::

    python tools/make_format_fixture.py tests/io/formats/v2

and never changed after a release: ``tests/io/test_formats.py`` loads them all.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).parents[1]))

N_LABELS = 12
LABEL_TEXT = [f"word{i} thing{i}" for i in range(N_LABELS)]

#: Forms of storage, and the options of `save_model` that give them.
FORMS = {
    "plain": {},
    "compressed": {"compress": True},
    "half": {"weights_dtype": "float16"},
}


def data(n_rows=60, seed=0):
    """Rows, texts and labels that belong together: sparse (n, 24), list of str, (n, 12)."""
    rng = np.random.default_rng(seed)
    Y = rng.random((n_rows, N_LABELS)) < 0.1
    Y[np.arange(n_rows), np.arange(n_rows) % N_LABELS] = True
    X = rng.random((n_rows, 24)) * (rng.random((n_rows, 24)) < 0.2)
    X[:, :N_LABELS] += Y
    texts = []
    for row in Y:
        words = [f"word{label}" for label in np.flatnonzero(row)]
        texts.append(" ".join([*words, f"noise{rng.integers(5)}"]))
    return sp.csr_array(X.astype(np.float32)), texts, sp.csr_array(Y.astype(np.uint8))


def teach(texts, labels):
    """A teacher that knows: a label belongs to a text if they share a word."""
    return [bool({*a.split()} & {*b.split()}) for a, b in zip(texts, labels, strict=True)]


def models():
    """Fitted models by name: (model, rows to ask, forms of storage)."""
    from sklearn.frozen import FrozenEstimator

    import skxmc
    from skxmc import neural

    X, texts, Y = data()
    rows, new_texts, _ = data(5, seed=1)
    static = {"encoder": neural.StaticEncoder(4, tokenizer="word", seed=0), "random_state": 0}
    dismec = skxmc.DismecClassifier().fit(X, Y)
    parabel = skxmc.ParabelTree("parabel", n_trees=2, max_leaf=3, random_state=0).fit(X, Y)
    every = tuple(FORMS)
    yield "dismec", dismec, rows, every
    binary = skxmc.DismecClassifier().fit(X, Y[:, [0]].toarray().ravel())
    yield "dismec-binary", binary, rows, every[:1]
    yield "parabel", parabel, rows, every
    bonsai = skxmc.ParabelTree("bonsai", n_trees=1, arity=3, max_leaf=3, random_state=0)
    yield "bonsai", bonsai.fit(X, Y), rows, every[:2]
    calibrator = skxmc.IsotonicXMCCalibrator(skxmc.DismecClassifier(), cv=2, random_state=0)
    yield "calibrator", calibrator.fit(X, Y), rows, every[:1]
    frozen = skxmc.IsotonicXMCCalibrator(FrozenEstimator(dismec)).fit(X, Y)
    yield "frozen", frozen, rows, every[:1]
    macro = skxmc.MacroAtKPredictor(skxmc.DismecClassifier(), k=2, random_state=0)
    yield "macro", macro.fit(X, Y), rows, every[:2]
    sparse_head = {"epochs": 2, "fan_in": 4, "random_state": 0}
    for name, options in (("sparse-dst", {"hidden": 8}), ("sparse-dst-direct", {"hidden": None})):
        model = skxmc.SparseDSTClassifier(**sparse_head, **options).fit(X, Y)
        yield name, model, rows, every[:2]
    unidec = skxmc.UniDECClassifier(**static, dimension=8, epochs=2).fit(
        texts, Y, label_text=LABEL_TEXT
    )
    yield "unidec", unidec, new_texts, every[:2]
    lmtx = skxmc.LMTXClassifier(teach, **static, n_questions=3, n_rounds=1)
    yield "lmtx", lmtx.fit(texts, label_text=LABEL_TEXT), new_texts, every[:1]
    xr = skxmc.XRTransformerClassifier(**static, n_steps=4, arity=4, max_leaf=4).fit(texts, Y)
    yield "xr-transformer", xr, new_texts, every[:1]
    from skxmc.io._model import FORMAT_VERSION

    if FORMAT_VERSION >= 2:
        yield from _of_version_2(X, texts, Y, rows, new_texts)


def _of_version_2(X, texts, Y, rows, new_texts):
    from sklearn.feature_extraction.text import (
        CountVectorizer,
        HashingVectorizer,
        TfidfTransformer,
        TfidfVectorizer,
    )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, Normalizer

    import skxmc

    pipeline = make_pipeline(TfidfVectorizer(), skxmc.DismecClassifier()).fit(texts, Y)
    yield "pipeline", pipeline, new_texts, ("plain", "compressed")
    steps = HashingVectorizer(n_features=64), MaxAbsScaler(), Normalizer()
    pipeline = make_pipeline(*steps, skxmc.ParabelTree(n_trees=1, random_state=0)).fit(texts, Y)
    yield "hashing", pipeline, new_texts, ("plain",)
    inner = make_pipeline(CountVectorizer(), TfidfTransformer(), skxmc.DismecClassifier())
    calibrator = skxmc.IsotonicXMCCalibrator(inner, cv=2, random_state=0).fit(texts, Y)
    yield "calibrated-pipeline", calibrator, new_texts, ("plain",)


def answer(model, rows, k=3):
    """The k best labels of each row and their scores; of a Pipeline, those of its last step."""
    if hasattr(model, "steps"):
        rows = model[:-1].transform(rows) if len(model) > 1 else rows
        model = model[-1]
    return model.predict_topk(rows, k=min(k, len(model.classes_)))


def as_json(rows):
    """Rows of numbers as lists, texts as they are."""
    return rows if isinstance(rows, list) else rows.toarray().tolist()


def from_json(rows):
    """Undo `as_json`."""
    return rows if isinstance(rows[0], str) else sp.csr_array(np.array(rows, dtype=np.float32))


def main():
    """Write all fixtures into a folder that does not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    from skxmc.io import load_model, save_model

    warnings.simplefilter("ignore")
    for name, model, rows, forms in models():
        for form in forms:
            try:
                save_model(model, folder / f"{name}-{form}", **FORMS[form])
            except ValueError as error:  # no weights of its own
                print(f"{name} {form}: {error}")
                continue
            labels, scores = answer(load_model(folder / f"{name}-{form}"), rows)
            expected = {
                "rows": as_json(rows),
                "labels": labels.tolist(),
                "scores": [[float(s) if np.isfinite(s) else None for s in row] for row in scores],
            }
            path = folder / f"{name}-{form}.expected.json"
            path.write_text(json.dumps(expected))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{size:,} bytes in {folder}")


if __name__ == "__main__":
    main()
