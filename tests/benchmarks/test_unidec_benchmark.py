"""The benchmark of UniDEC: its hold-out, its script on a tiny folder."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.datasets import dump_folder

NAMES = ["".join(letters) for letters in itertools.product("kmnprstvwz", "aeiou", "lnrs")]


@pytest.fixture
def text_folder(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(30)]

    def texts(n, kind):
        return [f"{kind}{NAMES[i]}-dev: " + " ".join(rng.choice(words, 4)) for i in range(n)]

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


def test_siblings_are_held_out_together(module):
    group = module("bench_unidec")._group
    out = [group(name + ": a text", 5) for name in NAMES]
    assert 20 < sum(out) < 60  # of 200
    for name, expected in zip(NAMES, out, strict=True):
        assert group(f"lib{name}-dev: another text", 5) == expected
        assert group(f"{name}2.0: a third one", 5) == expected
    assert isinstance(group("", 5), bool)


@pytest.mark.parametrize("options", [(), ("--held-out", "4")])
def test_script(run, text_folder, tmp_path, options):
    out, rows = run(
        *("bench_unidec.py", "--data", text_folder, "--threads", "1"),
        *("--params", '{"epochs": 2, "dimension": 8, "cluster_from": 1, "batch_size": 16}'),
        *("--models", "unidec", "DePSL", "Gandalf", *options),
        output=tmp_path / "results",
    )
    methods = [row["method"] for row in rows]
    assert methods == [
        *(f"unidec / {half}" for half in ("both", "encoder", "classifier")),
        "DePSL / encoder",
        *(f"Gandalf / {half}" for half in ("both", "encoder", "classifier")),
    ]
    assert all(0 <= float(row["P@1"]) <= 100 for row in rows)
    assert ("held-out training rows" in out) == bool(options)
