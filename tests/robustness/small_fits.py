"""A small fit of each estimator: seconds at most, with all that its class does."""

import os

import numpy as np
import scipy.sparse as sp

from skxmc import (
    DismecClassifier,
    IsotonicXMCCalibrator,
    LMTXClassifier,
    MacroAtKPredictor,
    ParabelTree,
    SparseDSTClassifier,
    StaticEncoder,
    UniDECClassifier,
    XRTransformerClassifier,
)
from skxmc.datasets import make_xmc_classification

N_LABELS = 300
N_TOPICS = 12


class Teacher:
    """Knows the topic of a text: the one of its first word."""

    def __call__(self, texts, labels):
        return [text.split("w")[0] == label.split("w")[0] for text, label in zip(texts, labels)]


def _rows(n_labels=N_LABELS):
    data = make_xmc_classification(500, 400, n_labels, random_state=0)
    return data.X, data.Y, {}


def _texts():
    rng = np.random.default_rng(0)
    topics = np.arange(160) % N_TOPICS
    texts = [
        " ".join([f"t{topic}w{rng.integers(6)}" for _ in range(4)] + [f"noise{rng.integers(20)}"])
        for topic in topics
    ]
    Y = sp.csr_array((np.ones(160), (np.arange(160), topics)), shape=(160, N_TOPICS))
    return texts, Y, {"label_text": [f"t{topic}w0 topic" for topic in range(N_TOPICS)]}


def _texts_without_label_text():
    texts, Y, _ = _texts()
    return texts, Y, {}


#: Estimator with fixed seeds, and the data: a function that returns X, Y and the options of fit.
FITS = {
    "dismec": (DismecClassifier(), _rows),
    "parabel": (ParabelTree("parabel", max_leaf=10, random_state=0), _rows),
    "sparse-dst": (SparseDSTClassifier(epochs=8, random_state=0), _rows),
    "calibrator": (
        IsotonicXMCCalibrator(DismecClassifier(), cv=3, random_state=0),
        lambda: _rows(60),
    ),
    "macro-at-k": (MacroAtKPredictor(DismecClassifier(), k=3), lambda: _rows(60)),
    "unidec": (
        UniDECClassifier(dimension=16, epochs=20, batch_size=16, random_state=0),
        _texts,
    ),
    "xr-transformer": (
        XRTransformerClassifier(
            dimension=16, n_steps=30, arity=4, max_leaf=4, n_estimators=2, random_state=0
        ),
        _texts_without_label_text,
    ),
    "lmtx": (
        LMTXClassifier(
            Teacher(),
            encoder=StaticEncoder(16, tokenizer="word", weighting="idf"),
            n_questions=4,
            n_rounds=3,
            learning_rate=0.01,
            random_state=0,
        ),
        _texts,
    ),
}


def with_folder(estimator, folder):
    """The estimator, with checkpoints in the folder if it has them; says whether."""
    name = "checkpoint_dir" if "checkpoint_dir" in estimator.get_params(deep=False) else None
    if name is None and "cache_dir" in estimator.get_params(deep=False):
        name = "cache_dir"
    if name is not None:
        estimator.set_params(**{name: os.fspath(folder)})
    return name == "checkpoint_dir"
