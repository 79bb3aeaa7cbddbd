"""Figure 3.2: what the example shows of the three estimates."""

import runpy
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "missing_label_losses.py"


def test_figure_shows_bias_and_variance(tmp_path, capsys):
    figure = tmp_path / "figure.png"
    propensities, estimates, recall = runpy.run_path(str(EXAMPLE))["main"](
        figure, n_samples=400, n_repetitions=40, propensities=(0.3, 0.6, 0.8, 1.0)
    )
    naive, unbiased, bound = np.moveaxis(estimates, -1, 0)
    np.testing.assert_allclose(estimates[-1], recall, rtol=1e-12)  # nothing is missing
    below = propensities < 1
    assert (naive.mean(axis=1)[below] < recall - 0.01).all()
    assert (bound.mean(axis=1)[below] > recall + 0.01).all()
    std = unbiased.std(axis=1, ddof=1)
    error = std / np.sqrt(unbiased.shape[1])
    assert (np.abs(unbiased.mean(axis=1) - recall)[below] < 4 * error[below]).all()
    # It is useless where p is small; the other two are not affected.
    assert std[0] > 5 * std[1] > 5 * std[2]
    assert std[0] > 3 * bound.std(axis=1, ddof=1)[0]
    out = capsys.readouterr().out
    assert f"True recall@5: {100 * recall:.2f}" in out
    assert len([line for line in out.splitlines() if "±" in line]) == 5  # with the heading
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert not figure.exists()
    else:
        assert figure.read_bytes().startswith(b"\x89PNG")
