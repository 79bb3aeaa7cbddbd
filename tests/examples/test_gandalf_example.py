"""The Gandalf example: label text helps, rare labels most."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gandalf.py"


def test_label_text_helps_rare_labels_most(tmp_path, capsys):
    figure = tmp_path / "figure.png"
    results = runpy.run_path(str(EXAMPLE))["main"](figure)
    plain = results["no label text"]
    for name in ("one-hot", "co-occurrence", "random walk"):
        p1, p5, psp5, found = results[name]
        assert p1 > plain[0] + 3
        assert p5 > plain[1] + 1
        assert psp5 > plain[2] + 4
        gain = found - plain[3]  # by frequency, the rarest labels first
        assert gain[0] > gain[1] > gain[2] - 1 > gain[3] - 1
        assert gain[0] > 10
    assert results["co-occurrence"][2] > results["one-hot"][2]
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 7
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert not figure.exists()
    else:
        assert figure.read_bytes().startswith(b"\x89PNG")
