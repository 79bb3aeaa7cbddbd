"""Objectives by name, against scikit-learn's metrics and those of skxmc on the same decisions."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import (
    f1_score,
    fbeta_score,
    jaccard_score,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
)

from skxmc.decision._utilities import METRICS, make_objective, metric_term
from skxmc.metrics import coverage_at_k, precision_at_k, psp_at_k
from skxmc.ops.macro_at_k import objective_value

K, N_ROWS, N_LABELS = 3, 40, 9


@pytest.fixture(scope="module")
def data():
    """Labels and decisions; the last label is never true, the one before never answered."""
    rng = np.random.default_rng(0)
    Y = (rng.random((N_ROWS, N_LABELS)) < 0.3).astype(np.int64)
    Y[:, -1] = 0
    scores = rng.random(Y.shape) + 0.5 * Y
    scores[:, -2] = 0
    decision = np.zeros_like(Y)
    np.put_along_axis(decision, np.argsort(-scores, axis=1)[:, :K], 1, axis=1)
    assert decision[:, -2].sum() == 0
    assert decision[:, -1].sum() > 0
    return Y, decision


def rates(Y, decision):
    """True positive and true negative rate of each label, 0 / 0 being 0."""
    confusion = multilabel_confusion_matrix(Y, decision).astype(float)
    tn, fp, fn, tp = confusion.reshape(-1, 4).T
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(tp / (tp + fn)), np.nan_to_num(tn / (tn + fp))


def expected_value(metric, Y, decision, propensity):
    average = {"average": "macro", "zero_division": 0}
    tpr, tnr = rates(Y, decision)
    sparse = sp.csr_array(Y), sp.csr_array(decision)
    with np.errstate(invalid="ignore"):
        harmonic = np.nan_to_num(2 * tpr * tnr / (tpr + tnr))
    values = {
        "macro_precision": lambda: precision_score(Y, decision, **average),
        "macro_recall": lambda: recall_score(Y, decision, **average),
        "macro_f1": lambda: f1_score(Y, decision, **average),
        "macro_fbeta": lambda: fbeta_score(Y, decision, beta=2.0, **average),
        "macro_jaccard": lambda: jaccard_score(Y, decision, **average),
        "macro_balanced_accuracy": lambda: np.mean((tpr + tnr) / 2),
        "macro_gmean": lambda: np.mean(np.sqrt(tpr * tnr)),
        "macro_hmean": lambda: np.mean(harmonic),
        "coverage": lambda: coverage_at_k(*sparse, k=K),
        "precision": lambda: precision_at_k(*sparse, k=K),
        "psp": lambda: psp_at_k(*sparse, k=K, inv_propensity=1 / propensity, normalize=False),
    }
    return values[metric]()


def value(metric, Y, decision, **options):
    objective = make_objective(metric, k=K, n_labels=N_LABELS, beta=2.0, **options)
    return objective_value((sp.csr_array(Y.astype(float)), sp.csr_array(decision)), objective)


@pytest.mark.parametrize("metric", METRICS)
def test_value_on_true_labels(metric, data):
    Y, decision = data
    propensity = np.linspace(0.2, 1, N_LABELS)
    expected = expected_value(metric, Y, decision, propensity)
    assert expected > 0
    assert value(metric, Y, decision, propensity=propensity) == pytest.approx(expected, rel=1e-6)


def test_macro_f1_ignores_beta(data):
    Y, decision = data
    assert value("macro_f1", Y, decision) != pytest.approx(value("macro_fbeta", Y, decision))


@pytest.mark.parametrize("metric", ["macro_f1", "coverage", "macro_balanced_accuracy"])
@pytest.mark.parametrize("mix_with", ["precision", "macro_recall"])
def test_mixture_is_linear(metric, mix_with, data):
    first, second = value(metric, *data), value(mix_with, *data)
    for alpha in (0.0, 0.3, 1.0):
        mixed = value(metric, *data, alpha=alpha, mix_with=mix_with)
        assert mixed == pytest.approx((1 - alpha) * second + alpha * first)


def test_parts_without_a_share_are_left_out():
    options = {"k": 2, "n_labels": 4}
    assert len(make_objective("macro_f1", alpha=0.5, **options).terms) == 2
    # Not even looked at: psp would need propensities.
    assert len(make_objective("macro_f1", alpha=1.0, mix_with="psp", **options).terms) == 1
    assert len(make_objective("psp", alpha=0.0, **options).terms) == 1


def test_function_is_averaged_over_labels(data):
    def accuracy(tp, fp, fn, tn):
        return tp + tn

    Y, decision = data
    assert value(accuracy, Y, decision) == pytest.approx((decision == Y).mean())


@pytest.mark.parametrize(
    ("metric", "propensity", "message"),
    [
        ("accuracy", None, "Unknown metric 'accuracy'; there are: macro_precision"),
        ("psp", None, "needs the propensity"),
        ("psp", np.ones(3), r"one value for each of the 4 labels, got an array of shape \(3,\)"),
        ("psp", np.array([0.5, 0.0, 1, 1]), "label 1 has 0.0"),
        ("psp", np.array([0.5, 1, 1, 2.0]), "label 3 has 2.0"),
        ("psp", np.array([np.nan, 1, 1, 1]), "label 0 has nan"),
        ("psp", np.array(["a", "b", "c", "d"]), "dtype"),
    ],
)
def test_bad_input(metric, propensity, message):
    with pytest.raises(ValueError, match=message):
        metric_term(metric, share=1.0, k=2, n_labels=4, propensity=propensity)
