"""The zero-shot example, on less data: the rounds pay, by the teacher and by the true tags."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "zero_shot.py"


@pytest.mark.slow
def test_a_teacher_that_errs_teaches(capsys):
    evaluations, model = runpy.run_path(str(EXAMPLE))["main"](every=24)
    assert evaluations["trained"]["P@1"] > 1.5 * evaluations["untrained"]["P@1"]
    assert model.n_questions_ <= 10 * 1003
    out = capsys.readouterr().out
    assert "<- kept" in out
    assert "untrained" in out
