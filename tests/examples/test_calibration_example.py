"""The calibration example, on less data: errors fall, the ranking stays, the picture is drawn."""

import re
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "calibration.py"


@pytest.mark.slow
def test_calibration_errors_fall_and_the_ranking_stays(tmp_path, capsys):
    figure = tmp_path / "reliability.png"
    evaluations, probabilities = runpy.run_path(str(EXAMPLE))["main"](figure, every=12, n_splits=2)
    assert list(probabilities) == list(evaluations)
    for name in ("linear", "tree"):
        raw, calibrated = evaluations[f"{name}, raw"], evaluations[f"{name}, calibrated"]
        for k in (1, 3, 5):
            assert calibrated[f"P@{k}"] == raw[f"P@{k}"]
            assert calibrated[f"ECE@{k}"] < raw[f"ECE@{k}"]
    out = capsys.readouterr().out
    of_tables = [row for row in out.splitlines() if re.match(r"(linear|tree), ", row)]
    assert len(of_tables) == 8
    # the second table: calibrated answers are right about as often as their range says
    for row in of_tables[4:]:
        rates = [float(rate) for rate in re.findall(r"\d+\.\d", row)]
        assert len(rates) == 4
        if "calibrated" in row:
            for rate, middle in zip(rates, (30, 50, 70, 90), strict=True):
                assert abs(rate - middle) < 15
    assert plt.imread(figure).std() > 0
    plt.close("all")
