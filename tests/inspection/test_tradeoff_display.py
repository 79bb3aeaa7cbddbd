"""The curves of precision@k against a macro metric, and their drawing."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from skxmc import DismecClassifier
from skxmc.datasets import make_xmc_classification
from skxmc.decision import MacroAtKPredictor
from skxmc.inspection._tradeoff import TradeoffDisplay
from skxmc.metrics import macro_f1_at_k, precision_at_k
from skxmc.ops.topk import topk_csr, topk_to_csr

K = 3
ALPHAS = [0.0, 0.5, 0.9, 1.0]


@pytest.fixture(scope="module")
def data():
    data = make_xmc_classification(360, 80, 25, random_state=0)
    return data.X[:240], data.Y[:240], data.X[240:], data.Y[240:]


@pytest.fixture(scope="module")
def base(data):
    X, Y, _, _ = data
    return DismecClassifier().fit(X, Y)


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_each_point_is_a_decision(data, base):
    X, Y, X_test, Y_test = data
    model = MacroAtKPredictor(FrozenEstimator(base), k=K, random_state=0).fit(X, Y)
    display = TradeoffDisplay.from_estimator(
        model, X_test, Y_test, alphas=ALPHAS, random_state=model._seed, plot=False
    )
    assert display.k == K
    assert display.metric == "macro_f1"
    np.testing.assert_array_equal(display.alphas, ALPHAS)
    precision, value = display.curves["mixture"]
    for i, alpha in enumerate(ALPHAS):
        decision = model.set_params(alpha=alpha).predict(X_test)
        assert precision[i] == pytest.approx(precision_at_k(Y_test, decision, k=K))
        assert value[i] == pytest.approx(macro_f1_at_k(Y_test, decision, k=K))


def test_weightings_by_hand(data, base):
    _, Y, X_test, Y_test = data
    eta = base.predict_proba(X_test)
    frequency = np.asarray(Y.mean(axis=0)).ravel()
    display = TradeoffDisplay.from_predictions(
        Y_test, eta, alphas=ALPHAS, k=K, label_frequency=frequency, plot=False
    )
    for i, alpha in enumerate(ALPHAS):
        weights = {
            "power": frequency**-alpha,
            "log": (1 - alpha) + alpha * np.log(1 / frequency),
        }
        for name, weight in weights.items():
            weighted = sp.csr_array(eta.multiply(weight))
            decision = topk_to_csr(topk_csr(weighted, K), 25)
            precision, value = display.curves[name]
            assert precision[i] == pytest.approx(precision_at_k(Y_test, decision, k=K))
            assert value[i] == pytest.approx(macro_f1_at_k(Y_test, decision, k=K))


def test_all_curves_start_at_the_most_probable_labels(data, base):
    _, _, X_test, Y_test = data
    display = TradeoffDisplay.from_estimator(base, X_test, Y_test, alphas=3, k=K, plot=False)
    np.testing.assert_array_equal(display.alphas, [0, 0.5, 1])
    answers = base.predict_topk(X_test, k=K)
    for precision, value in display.curves.values():
        assert precision.shape == value.shape == (3,)
        assert precision[0] == pytest.approx(precision_at_k(Y_test, answers, k=K))
        assert value[0] == pytest.approx(macro_f1_at_k(Y_test, answers, k=K))


def test_defaults_come_from_the_predictor(data, base):
    X, Y, X_test, Y_test = data
    model = MacroAtKPredictor(
        FrozenEstimator(base), metric="coverage", k=2, method="greedy", random_state=0
    ).fit(X, Y)
    display = TradeoffDisplay.from_estimator(
        model, X_test, Y_test, alphas=[1.0], weightings=(), random_state=model._seed, plot=False
    )
    assert (display.metric, display.k, list(display.curves)) == ("coverage", 2, ["mixture"])
    decision = model.predict(X_test)
    covered = (decision * Y_test).sum(axis=0) > 0
    assert display.curves["mixture"][1][0] == pytest.approx(covered.mean())


def test_classifier_of_scikit_learn_and_psp(data):
    X, Y, X_test, Y_test = data
    wrapped = OneVsRestClassifier(LogisticRegression(solver="liblinear")).fit(X, Y)
    display = TradeoffDisplay.from_estimator(wrapped, X_test, Y_test, alphas=2, plot=False)
    assert display.k == 5
    model = MacroAtKPredictor(FrozenEstimator(wrapped), metric="psp", k=K).fit(X, Y)
    display = TradeoffDisplay.from_estimator(model, X_test, Y_test, alphas=2, plot=False)
    _, psp = display.curves["mixture"]
    assert psp[0] < psp[1]


def test_drawing(axes):
    curves = {
        "mixture": (np.array([0.6, 0.5, 0.2]), np.array([0.1, 0.3, 0.4])),
        "log": (np.array([0.6, 0.4, 0.3]), np.array([0.1, 0.2, 0.2])),
    }
    display = TradeoffDisplay(alphas=np.array([0, 0.5, 1]), curves=curves, metric="macro_f1", k=5)
    assert display.plot(ax=axes, color="red") is display
    assert display.ax_ is axes
    assert display.figure_ is axes.figure
    assert list(display.lines_) == ["mixture", "log"]
    for name, line in display.lines_.items():
        np.testing.assert_array_equal(line.get_xdata(), curves[name][1])
        np.testing.assert_array_equal(line.get_ydata(), curves[name][0])
        assert line.get_color() == "red"
    assert axes.get_xlabel() == "macro F1 @5"
    assert axes.get_ylabel() == "precision @5"
    assert [text.get_text() for text in axes.texts] == ["0", "0.5", "1"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["optimised mixture", "log weights"]


def test_a_new_figure_is_made(axes, data, base):
    import matplotlib.pyplot as plt

    _, _, X_test, Y_test = data
    display = TradeoffDisplay.from_estimator(base, X_test, Y_test, alphas=2, k=K, marker="x")
    assert display.ax_ is not axes
    assert set(display.lines_) == {"mixture", "power", "log"}
    assert display.lines_["log"].get_marker() == "x"
    plt.close(display.figure_)


def test_without_matplotlib(monkeypatch, data, base):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    _, _, X_test, Y_test = data
    with pytest.raises(ImportError, match="plot=False"):
        TradeoffDisplay.from_estimator(base, X_test, Y_test, alphas=2)
    TradeoffDisplay.from_estimator(base, X_test, Y_test, alphas=2, plot=False)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alphas": []}, "alphas"),
        ({"alphas": [0.5, 1.5]}, "alphas"),
        ({"alphas": [np.nan]}, "alphas"),
        ({"alphas": 0}, "alphas"),
        ({"method": "frank-wolfe"}, "method must be one of"),
        ({"weightings": ("sqrt",)}, "weightings"),
        ({"metric": "accuracy"}, "Unknown metric"),
        ({"metric": "psp"}, "propensity"),
        ({"label_frequency": np.ones(3)}, "label_frequency"),
        ({"label_frequency": np.full(25, 2.0)}, "label_frequency"),
    ],
)
def test_bad_input(params, message, data, base):
    _, _, X_test, Y_test = data
    with pytest.raises(ValueError, match=message):
        TradeoffDisplay.from_estimator(base, X_test, Y_test, **{"plot": False, **params})


def test_bad_predictions(data, base):
    _, _, X_test, Y_test = data
    with pytest.raises(ValueError, match="shape of y_true"):
        TradeoffDisplay.from_predictions(Y_test, base.predict_proba(X_test)[:5], plot=False)
    with pytest.raises(ValueError, match="probabilities"):
        TradeoffDisplay.from_predictions(Y_test, base.decision_function(X_test), plot=False)
