"""The benchmark of LMTX runs on a small folder and counts its questions."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from skxmc.datasets import dump_folder


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    labels = normalize(rng.standard_normal((12, 16))).astype(np.float32)
    parts = {}
    (tmp_path / "emb" / "toy").mkdir(parents=True)
    for part, n in (("train", 200), ("test", 80)):
        Y = rng.random((n, 12)) < 0.1
        Y[np.arange(n), rng.integers(12, size=n)] = True
        X = Y @ labels + 0.3 * rng.standard_normal((n, 16))
        np.save(tmp_path / "emb" / "toy" / f"X_{part}.npy", X.astype(np.float32))
        parts[f"X_{part}"], parts[f"Y_{part}"] = X.astype(np.float32), Y.astype(np.uint8)
    np.save(tmp_path / "emb" / "toy" / "labels.npy", labels)
    dump_folder(parts, tmp_path / "toy")
    return tmp_path


def test_table_and_rows(folders, run):
    printed, rows = run(
        "bench_lmtx.py",
        *("--data", folders / "toy", "--embeddings", folders / "emb", "--rounds", 1),
        *("--documents", 150, "--errors", 0.05, "--params", '{"n_questions": 4, "n_rounds": 2}'),
        output=folders / "results",
    )
    assert "| untrained |" in printed
    untrained, trained = rows
    assert (untrained["method"], trained["method"]) == ("untrained", "LMTX")
    assert 0 < float(trained["calls"]) <= 4.5
    for row in rows:
        assert 0 <= float(row["P@5"]) <= float(row["P@1"]) <= 100


def test_one_of_the_encoders_is_needed(folders, run):
    with pytest.raises(AssertionError, match="give --embeddings or --encoder"):
        run("bench_lmtx.py", "--data", folders / "toy", output=folders)
