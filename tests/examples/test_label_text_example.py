"""The example of label texts: keywords without any row are found by their texts."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "label_text.py"


@pytest.mark.slow
def test_label_text_finds_what_was_never_trained(capsys):
    results, model = runpy.run_path(str(EXAMPLE))["main"](epochs=12)
    plain = results["ParabelTree"]
    assert plain[1] == 0  # no row, no answer
    for half in ("encoder", "both"):
        p1, without_row = results[f"UniDEC, {half}"][:2]
        assert p1 > plain[0] + 5
        assert without_row > 20
    assert model.n_iter_ == 12
    out = capsys.readouterr().out
    assert "added: " in out
    assert len(out.splitlines()) == 11
