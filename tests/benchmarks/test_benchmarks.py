"""The benchmark scripts: their arithmetic, and that each runs on a tiny task without peers."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_ratio_is_taken_within_each_round(harness):
    # the machine slows down threefold in round 1: the ratio does not see it
    ours = [{"round": r, "fit_s": t} for r, t in enumerate([1.0, 3.0, 1.0])]
    peer = [{"round": r, "fit_s": t} for r, t in enumerate([10.0, 30.0, 12.0])]
    assert harness.median_ratio(peer, ours, "fit_s") == 10.0
    assert harness.median_ratio(peer, [], "fit_s") is None
    assert harness.median_of([*ours, {"round": 3}], "fit_s") == 1.0


def test_rows_get_unit_length_and_empty_rows_stay(harness):
    X = sp.csr_array(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(harness.unit_rows(X).toarray(), [[0.6, 0.8], [0, 0], [0, 1]])
    np.testing.assert_array_equal(X.toarray(), [[3, 4], [0, 0], [0, 2]])


def test_markdown_table(harness):
    table = harness.markdown(
        [{"a": "x", "b": 1.234}, {"a": "y", "b": None}, {"a": "z", "b": float("nan")}],
        {"name": "a", "value": ("b", ".1f")},
    )
    assert table.splitlines() == [
        "| name | value |",
        "|---|---|",
        *("| x | 1.2 |", "| y |  |", "| z |  |"),
    ]


def test_csv_grows_by_rows_and_columns(harness, tmp_path):
    path = tmp_path / "new" / "results.csv"
    harness.append_csv(path, [{"method": "a, b", "fit_s": 1.5}])
    harness.append_csv(path, [{"method": "c", "row_ms": 0.25}])
    with open(path, newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"method": "a, b", "fit_s": "1.5", "row_ms": ""},
            {"method": "c", "fit_s": "", "row_ms": "0.25"},
        ]
    assert os.listdir(path.parent) == ["results.csv"]


def test_children_have_a_clean_environment(harness, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    ours = harness.child_environment(3, own=True)
    peer = harness.child_environment(3, own=False)
    for env in (ours, peer):
        assert "OPENBLAS_CORETYPE" not in env
        assert env["OMP_NUM_THREADS"] == "3"
    assert ours["PYTHONPATH"].split(os.pathsep) == [str(BENCHMARKS.parent), "/elsewhere"]
    assert "PYTHONPATH" not in peer


def test_meter_sees_the_peak_of_the_block_only(harness):
    before = np.ones(120_000_000 // 8)  # a peak before the block does not count
    del before
    with harness.Meter() as meter:
        inside = np.ones(64_000_000 // 8)  # above what malloc keeps to itself
        del inside
    if Path("/proc/self/clear_refs").exists():
        assert 56 < meter.peak_mb < 80
    else:
        assert np.isnan(meter.peak_mb)
    assert meter.wall_s > 0


def test_missing_peer_says_what_to_do(harness, tmp_path):
    with pytest.raises(SystemExit, match=r"README\.md"):
        harness.peer_python(tmp_path, "pecos")


def test_failing_child_ends_the_script(data_folder, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "bench_train.py", "--data", data_folder),
            *("--rounds", "1", "--svc-labels", "0", "--output", tmp_path),
            *("--params", '{"no_such_parameter": 1}'),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "no_such_parameter" in done.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_reader(tmp_path, run):
    out, rows = run("bench_reader.py", "--mb", 0.1, "--rounds", 1, output=tmp_path)
    assert [row["method"] for row in rows] == ["skxmc", "skxmc, gzip", "scikit-learn"]
    assert len({(row["nnz"], row["rows"]) for row in rows}) == 1  # all read the same
    assert "| scikit-learn |" in out
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


@pytest.mark.slow
def test_train(data_folder, tmp_path, run):
    out, rows = run(
        *("bench_train.py", "--data", data_folder, "--labels", 20, "--rounds", 1),
        *("--svc-labels", 4),
        output=tmp_path,
    )
    ours, svc = rows
    assert (ours["method"], svc["method"]) == ("skxmc", "LinearSVC")
    assert float(svc["scaled_s"]) == pytest.approx(5 * float(svc["fit_s"]), rel=1e-4)
    assert 0 < float(ours["P@1"]) <= 100
    assert "numba" in ours["versions"]
    assert "| skxmc | 20 |" in out


@pytest.mark.slow
def test_predict(data_folder, tmp_path, run):
    _, rows = run(
        *("bench_predict.py", "--data", data_folder, "--rounds", 1, "--latency-rows", 10),
        output=tmp_path,
    )
    assert [row["method"] for row in rows] == [
        *("skxmc", "saved plain", "saved compressed", "saved compressed float16"),
    ]
    assert float(rows[0]["row_ms"]) > 0
    assert float(rows[0]["model_mb"]) == float(rows[1]["model_mb"])


@pytest.mark.slow
def test_scaling(tmp_path, run):
    _, rows = run(
        *("bench_scaling.py", "--label-counts", 50, 100, "--rows", 300, 600),
        *("--features", 400, "--rounds", 1),
        output=tmp_path,
    )
    assert [(row["n_rows"], row["n_labels"]) for row in rows] == [
        *(("300", "50"), ("300", "100"), ("600", "50")),
    ]
    assert all(float(row["fit_s"]) > 0 for row in rows)


@pytest.mark.slow
def test_solver(data_folder, tmp_path, run):
    _, rows = run(
        *("bench_solver.py", "--data", data_folder, "--rounds", 1, "--tols", 0.1, 0.01),
        output=tmp_path,
    )
    by_method = {row["method"]: row for row in rows}
    assert float(by_method["machine"]["pass_s"]) > 0
    loose, tight = (by_method[f"mean-separating, tol {tol}"] for tol in ("0.1", "0.01"))
    assert float(tight["newton"]) >= float(loose["newton"]) > 0


@pytest.mark.slow
def test_compile(tmp_path, run):
    _, rows = run("bench_compile.py", "--rounds", 1, output=tmp_path)
    by_method = {row["method"]: row for row in rows}
    assert by_method["import skxmc"]["imports"] == "-"
    assert float(by_method["cold, sparse X and Y"]["compile_fit_s"]) > 0
