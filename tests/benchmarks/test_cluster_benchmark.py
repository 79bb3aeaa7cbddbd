"""The benchmark of joblib's backends runs, and the models are the same everywhere."""

import pytest

pytest.importorskip("distributed")


@pytest.mark.slow
def test_bench_cluster(run, tmp_path):
    printed, rows = run("bench_cluster.py", "--rows", 300, "--labels", 60, output=tmp_path)
    assert [(row["method"], row["where"][:9]) for row in rows] == [
        (method, where)
        for method in ("DismecClassifier", "ParabelTree")
        for where in ("1 thread", "2 threads", "loky, 2 p", "dask, 2 p")
    ]
    for row in rows:
        assert (row["rows"], row["labels"], row["same"]) == ("300", "60", "True")
        assert float(row["fit_s"]) > 0
        sent = float(row["sent_mb"]) if row["where"].startswith("dask") else None
        assert (row["sent_mb"] == "") == (sent is None)
        if row["method"] == "DismecClassifier" and sent is not None:
            assert sent > 8e-6 * int(row["entries"])
    assert "300 rows" in printed
