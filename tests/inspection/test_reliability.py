"""The reliability diagram, drawn by matplotlib."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from skxmc import DismecClassifier
from skxmc.inspection import ReliabilityDisplay
from skxmc.metrics import ace_at_k, ece_at_k, reliability_curve_at_k

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def problem():
    """Labels and over-confident probabilities."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.5, 2, (300, 20))
    return rng.random((300, 20)) < probabilities**1.7, probabilities


@pytest.fixture
def samples():
    """Rows and labels that the features say something about."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 8))
    Y = (X @ rng.normal(size=(8, 6)) + rng.normal(size=(200, 6)) > 0.5).astype(int)
    return X, Y


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_draws_the_curve(problem, strategy):
    Y, scores = problem
    display = ReliabilityDisplay.from_predictions(
        Y, scores, 3, n_bins=10, strategy=strategy, random_state=0, name="trees"
    )
    curve = reliability_curve_at_k(Y, scores, 3, n_bins=10, strategy=strategy, random_state=0)
    filled = curve.count > 0
    np.testing.assert_array_equal(display.line_.get_xdata(), curve.mean_score[filled])
    np.testing.assert_array_equal(display.line_.get_ydata(), curve.hit_rate[filled])
    # the outline of the band: along the lower limits and back along the upper ones
    outline = display.band_.get_paths()[0].vertices
    for limits in (curve.low, curve.high):
        for point in zip(curve.mean_score[filled], limits[filled], strict=True):
            assert np.isclose(outline, point, atol=1e-12).all(axis=1).any()
    assert outline[:, 1].min() >= 0
    assert outline[:, 1].max() <= 1
    # the histogram has bins of equal width, whatever the curve has
    values, edges, _ = display.histogram_.get_data()
    answers = np.sort(scores, axis=1)[:, -3:]
    np.testing.assert_allclose(edges, np.linspace(0, 1, 11))
    np.testing.assert_allclose(values, np.histogram(answers, edges)[0] / answers.size)


def test_texts(problem):
    Y, scores = problem
    display = ReliabilityDisplay.from_predictions(Y, scores, 3, n_bins=10, name="trees")
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    error = ece_at_k(Y, scores, 3, n_bins=10)
    assert texts == ["perfectly calibrated", f"trees (ECE@3 = {error:.3f})"]
    assert display.histogram_ax_.get_xlabel() == "Probability of each of the 3 best answers"
    assert display.ax_.get_ylabel() == "Fraction right"
    scores = scores**1.5  # not over-confident in each bin, where the two errors are equal
    one = ReliabilityDisplay.from_predictions(Y, scores, 1, strategy="quantile")
    assert one.histogram_ax_.get_xlabel() == "Probability of the best answer"
    # the error of the legend is that of equal-width bins
    assert one.line_.get_label() == f"ECE@1 = {ece_at_k(Y, scores, 1):.3f}"
    assert round(ace_at_k(Y, scores, 1), 3) != round(one.ece, 3)


def test_the_histogram_lies_below_the_diagram(problem):
    Y, scores = problem
    _, ax = plt.subplots()
    before = ax.get_position()
    for axes in (None, ax):
        display = ReliabilityDisplay.from_predictions(Y, scores, ax=axes)
        display.figure_.canvas.draw()
        renderer = display.figure_.canvas.get_renderer()
        above = display.ax_.get_tightbbox(renderer)
        below = display.histogram_ax_.get_window_extent(renderer)
        assert below.y1 < display.ax_.get_window_extent(renderer).y0
        assert below.y1 < above.y1
        assert below.x0 == pytest.approx(display.ax_.get_window_extent(renderer).x0, abs=1)
        assert below.x1 == pytest.approx(display.ax_.get_window_extent(renderer).x1, abs=1)
        assert display.ax_.get_xlim() == display.histogram_ax_.get_xlim()
    assert display.ax_ is ax
    # both fit into the place that the one had
    inside = ax.get_window_extent(renderer).y1, display.histogram_ax_.get_window_extent(renderer).y0
    figure_height = ax.figure.get_window_extent(renderer).height
    assert inside[0] <= before.y1 * figure_height + 1
    assert inside[1] >= before.y0 * figure_height - 1


def test_several_models_in_one_diagram(problem):
    Y, scores = problem
    first = ReliabilityDisplay.from_predictions(Y, scores, name="raw", color="tab:red")
    n_figures = len(plt.get_fignums())
    second = ReliabilityDisplay.from_predictions(
        Y, scores**1.7, name="better", ax=(first.ax_, first.histogram_ax_), linestyle="--"
    )
    assert len(plt.get_fignums()) == n_figures
    assert second.ax_ is first.ax_
    assert len(first.ax_.lines) == 3  # one diagonal
    assert len(first.histogram_ax_.patches) == 2
    texts = [text.get_text() for text in first.ax_.get_legend().get_texts()]
    assert [text.split(" ")[0] for text in texts] == ["perfectly", "raw", "better"]
    assert first.line_.get_color() == "tab:red"
    assert second.line_.get_linestyle() == "--"
    assert second.ece < first.ece
    highest = max(max(d.histogram_.get_data().values) for d in (first, second))
    assert first.histogram_ax_.get_ylim()[1] >= highest


def test_without_band_and_diagonal(problem):
    Y, scores = problem
    display = ReliabilityDisplay.from_predictions(Y, scores, n_bootstrap=0)
    assert display.band_ is None
    assert not display.ax_.collections
    again = display.plot(name="another", ref_line=False)
    assert again is display
    assert display.ax_.lines[:] == [display.line_]
    assert display.line_.get_label().startswith("another (")


def test_of_a_given_curve(problem):
    Y, scores = problem
    curve = reliability_curve_at_k(Y, scores, 3, n_bins=8, random_state=0)
    display = ReliabilityDisplay(curve).plot()
    values, edges, _ = display.histogram_.get_data()
    np.testing.assert_allclose(values, curve.count / curve.count.sum())
    np.testing.assert_allclose(edges, curve.edges)
    assert display.histogram_ax_.get_xlabel() == "Probability of an answer"
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["perfectly calibrated"]
    quantile = reliability_curve_at_k(Y, scores, 3, strategy="quantile", n_bootstrap=0)
    n_figures = len(plt.get_fignums())
    with pytest.raises(ValueError, match="pass score_counts"):
        ReliabilityDisplay(quantile).plot()
    assert len(plt.get_fignums()) == n_figures
    ReliabilityDisplay(quantile, score_counts=[1, 3]).plot()


def test_writes_a_picture(problem, tmp_path):
    Y, scores = problem
    display = ReliabilityDisplay.from_predictions(Y, scores, name="trees")
    display.figure_.savefig(tmp_path / "diagram.png", dpi=50)
    picture = plt.imread(tmp_path / "diagram.png")
    assert picture.shape[:2] == (300, 250)
    colours = {tuple(pixel) for pixel in np.round(picture[..., :3].reshape(-1, 3), 2)}
    line = tuple(np.round(mpl.colors.to_rgb(display.line_.get_color()), 2).astype(np.float32))
    assert line in colours


def test_few_answers():
    # One row, one answer: the band cannot be wider than the point.
    display = ReliabilityDisplay.from_predictions([[1, 0]], [[0.8, 0.1]], 1, random_state=0)
    assert display.line_.get_xydata().tolist() == [[0.8, 1.0]]
    display.figure_.canvas.draw()


def test_from_estimator_predicts(samples):
    X, Y = samples
    models = {
        "DismecClassifier": DismecClassifier().fit(X, sp.csr_array(Y)),
        "Pipeline": make_pipeline(MaxAbsScaler(), DismecClassifier()).fit(X, Y),
        "OneVsRestClassifier": OneVsRestClassifier(LogisticRegression()).fit(X, Y),
    }
    for name, model in models.items():
        display = ReliabilityDisplay.from_estimator(model, X, sp.csr_array(Y), k=2, random_state=0)
        curve = reliability_curve_at_k(Y, model.predict_proba(X), 2, random_state=0)
        for ours, theirs in zip(display.curve, curve, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert display.line_.get_label().startswith(f"{name} (ECE@2 = ")
    display = ReliabilityDisplay.from_estimator(model, X, Y, k=2, name="logistic", color="k")
    assert display.line_.get_label().startswith("logistic (")
    assert display.line_.get_color() == "k"


def test_from_estimator_with_a_list_of_probabilities(samples):
    # scikit-learn's forests give an array a label; one without positives in training has a single
    # column, the probability of 0.
    X, Y = samples
    Y = Y.copy()
    Y[:, 3] = 0
    model = RandomForestClassifier(5, random_state=0).fit(X, Y)
    assert model.predict_proba(X)[3].shape == (200, 1)
    display = ReliabilityDisplay.from_estimator(model, X, Y, k=6, n_bootstrap=0)
    expected = np.column_stack([of_label[:, -1] for of_label in model.predict_proba(X)])
    expected[:, 3] = 0
    curve = reliability_curve_at_k(Y, expected, 6, n_bootstrap=0)
    np.testing.assert_array_equal(display.curve.hit_rate, curve.hit_rate)
    np.testing.assert_array_equal(display.curve.count, curve.count)


def test_excluded_pairs(problem):
    Y, scores = problem
    exclude = sp.csr_array(np.random.default_rng(2).random(Y.shape) < 0.4)
    display = ReliabilityDisplay.from_predictions(Y, scores, 2, n_bootstrap=0, exclude=exclude)
    curve = reliability_curve_at_k(Y, scores, 2, n_bootstrap=0, exclude=exclude)
    np.testing.assert_array_equal(display.curve.count, curve.count)
    assert display.ece == ece_at_k(Y, scores, 2, exclude=exclude)


def test_bad_input(problem):
    Y, scores = problem
    draw = ReliabilityDisplay.from_predictions
    with pytest.raises(TypeError, match=r"one integer, not \[1, 3\]"):
        draw(Y, scores, [1, 3])
    with pytest.raises(ValueError, match="predict_proba"):
        draw(Y, scores * 5)
    with pytest.raises(ValueError, match="n_bins"):
        draw(Y, scores, n_bins=0)
    with pytest.raises(ValueError, match="strategy"):
        draw(Y, scores, strategy="log")
    with pytest.raises(ValueError, match="n_bootstrap"):
        draw(Y, scores, n_bootstrap=-1)
    with pytest.raises(ValueError, match="pair"):
        draw(Y, scores, ax=plt.subplots(3)[1])
    with pytest.raises(ValueError, match="label_binarize"):
        draw(np.arange(300) % 20, scores)


def test_without_matplotlib(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    Y, scores = problem
    with pytest.raises(ImportError, match="reliability_curve_at_k"):
        ReliabilityDisplay.from_predictions(Y, scores)

    class Unasked:
        def predict_proba(self, X):
            raise AssertionError("predicted in vain")

    with pytest.raises(ImportError, match=r"skxmc\[plot\]"):
        ReliabilityDisplay.from_estimator(Unasked(), scores, Y)
