"""The example of decisions, on less data than it takes by itself, shows what it says it shows."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "decisions.py"


def test_each_decision_is_best_at_its_own_metric(capsys, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    figure = tmp_path / "tradeoff.png"
    evaluations, display = runpy.run_path(str(EXAMPLE))["main"](figure, every=12)
    out = capsys.readouterr().out

    top, mixture = "the 5 most probable", "0.9 macro_f1 + 0.1 precision"
    assert len(evaluations) == 6
    for metric, name in (
        ("macro_precision", "macro-P@5"),
        ("macro_recall", "macro-R@5"),
        ("macro_f1", "macro-F1@5"),
        ("coverage", "coverage@5"),
    ):
        assert evaluations[f"{metric} alone"][name] > evaluations[top][name]
        assert evaluations[f"{metric} alone"]["P@5"] < evaluations[top]["P@5"]
    assert evaluations["macro_f1 alone"]["P@5"] < evaluations[mixture]["P@5"]
    assert evaluations[top]["macro-F1@5"] < evaluations[mixture]["macro-F1@5"]

    for name, of_name in evaluations.items():
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert f"{100 * of_name['macro-F1@5']:.2f}" in row
    assert "a row alone gets the answer that it gets among others: True" in out
    assert [f"  {name:<8}" in out for name in display.curves] == [True] * 3
    assert figure.stat().st_size > 1000
