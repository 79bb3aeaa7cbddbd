"""The benchmark of decisions runs on small data, without the peer, and reports it as missing."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skxmc.datasets import dump_folder, make_xmc_classification

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments, output):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "bench_decisions.py", *arguments, "--output", output],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with open(output / "bench_decisions.csv", newline="") as stream:
        return done.stdout, list(csv.DictReader(stream))


@pytest.mark.slow
def test_values_of_our_decisions(tmp_path):
    data = make_xmc_classification(400, 120, 25, random_state=0)
    parts = {}
    for part, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        parts[f"X_{part}"], parts[f"Y_{part}"] = data.X[rows], data.Y[rows]
    folder = tmp_path / "tiny"
    dump_folder(parts, folder)
    metrics = ["macro_recall", "macro_recall:0"]
    out, rows = run(
        *("--data", folder, "--rounds", "1", "--top-k", "10", "--k", "3", "--metrics", *metrics),
        output=tmp_path,
    )
    assert "xCOLUMNs failed and is left out: xcolumns: pass --venv-root" in out
    assert [row["metric"] for row in rows] == metrics
    alone, precision = rows
    # Without a share of the metric the objective is precision@k itself.
    assert float(precision["true"]) == pytest.approx(float(precision["P@k"]), rel=1e-4)
    assert float(precision["P@k"]) >= float(alone["P@k"])
    assert 0 < float(alone["expected"]) <= 1
    assert out.count("| macro_recall | skxmc |") == 1


def test_sweep(tmp_path):
    out, rows = run(
        *("--sweep", "--rounds", "1", "--sweep-rows", "200", "--sweep-labels", "300"),
        *("--top-k", "20", "--metrics", "macro_f1"),
        output=tmp_path,
    )
    assert "One sweep: 200 rows, 20 candidates each, 300 labels" in out
    assert rows[0]["method"] == "macro_f1, skxmc"


def test_synthetic_marginals(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    eta = __import__("bench_decisions").synthetic_marginals(50, 40, 7)
    assert eta.shape == (50, 40)
    assert (np.diff(eta.indptr) == 7).all()
    assert eta.has_canonical_format  # distinct and sorted
    assert eta.data.min() > 0
    assert eta.data.max() <= 1
