"""The example of sparse output layers, on less data, shows what it says."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sparse_head.py"


@pytest.mark.slow
def test_inputs_chosen_by_the_data_are_better(capsys):
    found, model = runpy.run_path(str(EXAMPLE))["main"](every=20, fan_in=32, epochs=6)
    out = capsys.readouterr().out
    assert found["by covariance"][0] > found["random, static"][0] + 5
    assert abs(found["bfloat16"][0] - found["by covariance"][0]) < 5
    assert model.precision == "bfloat16"
    assert "414 MiB" in out
    for name, (first, _) in found.items():
        assert any(line.startswith(name) and f"{first:.2f}" in line for line in out.splitlines())
