"""bench_xr_transformer.py on a small folder of texts, with the static encoder."""

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.datasets import dump_folder


@pytest.fixture
def folder(tmp_path):
    """Texts whose words are their labels, in the layout of `load_folder`."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "words"
    parts = {}
    for part, n_rows in (("train", 120), ("test", 40)):
        Y = rng.random((n_rows, 24)) < 0.06
        Y[np.arange(n_rows), np.arange(n_rows) % 24] = True
        texts = [" ".join(f"word{label}" for label in np.flatnonzero(row)) for row in Y]
        parts[f"X_{part}"] = sp.csr_array(Y.astype(np.float32))
        parts[f"Y_{part}"] = sp.csr_array(Y.astype(np.uint8))
        parts[f"{part}_texts"] = texts
    dump_folder(parts, folder)
    return folder


@pytest.mark.slow
def test_table_five(folder, tmp_path, run):
    out, rows = run(
        *("bench_xr_transformer.py", "--data", folder, "--params", '{"n_steps": 10}'),
        *("--models", "parabel", "tf-idf", "pre-trained + tf-idf", "XR-Transformer"),
        *("--train-rows", 100, "--test-rows", 30, "--checkpoint", tmp_path / "checkpoints"),
        output=tmp_path,
    )
    assert [row["method"] for row in rows] == [
        *("parabel", "tf-idf", "pre-trained + tf-idf", "XR-Transformer"),
    ]
    assert all(float(row["P@1"]) > 80 for row in rows)
    assert [row["tune_s"] != "" for row in rows] == [False, False, False, True]
    assert "words[100 rows]" in rows[0]["data"]
    assert "P@1 - parabel" in out
