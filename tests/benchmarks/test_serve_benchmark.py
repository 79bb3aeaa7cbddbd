"""The benchmark of the service runs and writes figures that fit together."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.mark.slow
def test_bench_serve(run, data_folder, tmp_path):
    printed, rows = run(
        *("bench_serve.py", "--data", data_folder, "--clients", 1, 4, "--seconds", 0.3),
        output=tmp_path,
    )
    assert "requests/s" in printed
    assert [row["clients"] for row in rows] == ["1", "4"]
    for row in rows:
        assert int(row["labels"]) == 25
        assert int(row["requests"]) > 0
        assert 0 < float(row["p50_ms"]) <= float(row["p99_ms"])
        assert 1 <= float(row["rows_per_batch"]) <= int(row["clients"])
    assert [file.name for file in tmp_path.iterdir()] == ["bench_serve.csv"]
