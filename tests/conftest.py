"""Settings shared by all tests, and the fixtures of the tests of the benchmarks."""

import csv
import gc
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.datasets import dump_folder, make_xmc_classification

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def pytest_collection_finish():
    """Spare the garbage collector what is there anyway: 700,000 objects, of the tests mainly."""
    gc.freeze()


# Makes helpers such as `contract` importable from test files in any folder.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def module(monkeypatch):
    """Import a module of the benchmarks by its name."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return __import__


@pytest.fixture
def harness(module):
    return module("harness")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    data = make_xmc_classification(400, 120, 25, random_state=0)
    folder = tmp_path_factory.mktemp("data") / "tiny"
    parts = {}
    for part, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        parts[f"X_{part}"], parts[f"Y_{part}"] = data.X[rows], data.Y[rows]
    dump_folder(parts, folder)
    return folder


@pytest.fixture
def text_folder(tmp_path):
    """A tiny data folder of texts and label texts; the first words of the texts all differ."""
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(30)]
    names = ["".join(letters) for letters in itertools.product("kmnprstvwz", "aeiou", "lnrs")]

    def texts(n, kind):
        return [f"{kind}{names[i]}-dev: " + " ".join(rng.choice(words, 4)) for i in range(n)]

    def labels(n):
        Y = (rng.random((n, 15)) < 0.2).astype(np.uint8)
        Y[:, 0] = 1
        return sp.csr_array(Y)

    parts = {
        "Y_train": labels(80),
        "Y_test": labels(20),
        "train_texts": texts(80, "a"),
        "test_texts": texts(20, "b"),
        "label_texts": texts(15, "c"),
        "filter_test": sp.csr_array(([1], ([0], [0])), shape=(20, 15), dtype=np.uint8),
        "filter_train": sp.csr_array((80, 15), dtype=np.uint8),
    }
    dump_folder(parts, tmp_path / "texts")
    return tmp_path / "texts"


@pytest.fixture
def run():
    """Run a script; return what it printed and the rows of its CSV."""

    def call(script, *arguments, output):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / script, *map(str, arguments), "--output", output],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        with open(output / f"{Path(script).stem}.csv", newline="") as stream:
            return done.stdout, list(csv.DictReader(stream))

    return call
