"""The one-call evaluation equals the single metrics; the table shows it."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc import metrics
from skxmc.label_space import PropensityWarning, inverse_propensity
from skxmc.metrics import evaluate_topk, format_evaluation


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    Y = sp.csr_array((rng.random((25, 15)) < 0.2).astype(int))
    scores = sp.csr_array(rng.random((25, 15)) * (rng.random((25, 15)) < 0.6))
    exclude = sp.csr_array(rng.random((25, 15)) < 0.1)
    return Y, scores, exclude


def test_equals_the_single_metrics(problem):
    Y, scores, exclude = problem
    weights = inverse_propensity(Y)
    evaluation = evaluate_topk(Y, scores, (1, 4), inv_propensity=weights, exclude=exclude)
    plain = {
        "P": metrics.precision_at_k,
        "nDCG": metrics.ndcg_at_k,
        "R": metrics.recall_at_k,
        "hit-rate": metrics.hit_rate_at_k,
        "macro-P": metrics.macro_precision_at_k,
        "macro-R": metrics.macro_recall_at_k,
        "macro-F1": metrics.macro_f1_at_k,
        "coverage": metrics.coverage_at_k,
    }
    weighted = {
        "PSP": metrics.psp_at_k,
        "PSnDCG": metrics.psndcg_at_k,
        "PSR": metrics.ps_recall_at_k,
    }
    expected = {}
    for k in (1, 4):
        for name, function in plain.items():
            expected[f"{name}@{k}"] = function(Y, scores, k, exclude=exclude)
        for name, function in weighted.items():
            expected[f"{name}@{k}"] = function(Y, scores, weights, k, exclude=exclude)
    assert evaluation == expected
    assert all(type(value) is float for value in evaluation.values())


def test_without_propensities(problem):
    Y, scores, _ = problem
    evaluation = evaluate_topk(Y, scores)
    assert list(evaluation)[:4] == ["P@1", "P@3", "P@5", "nDCG@1"]
    assert not [name for name in evaluation if name.startswith("PS")]
    assert next(iter(evaluate_topk(Y, scores, 2))) == "P@2"


def test_propensities_that_do_not_fit_are_reported():
    Y = sp.csr_array(np.eye(6, dtype=int))
    # Six right answers, each said to stand for ten: an estimated precision of 10.
    with pytest.warns(PropensityWarning, match=r"PSP@1 = 10 .*PSP@2 = 5 "):
        evaluation = evaluate_topk(Y, Y, (1, 2), inv_propensity=np.full(6, 10.0))
    assert evaluation["PSP@1"] == 1  # where the normalised value shows nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_topk(Y, Y, (1, 2), inv_propensity=np.ones(6))


def test_bad_input(problem):
    Y, scores, _ = problem
    with pytest.raises(ValueError, match="k must be at least 1"):
        evaluate_topk(Y, scores, (0, 1))
    with pytest.raises(ValueError, match="shape of y_true"):
        evaluate_topk(Y, scores[:3])
    with pytest.raises(ValueError, match="of label 0 is"):
        evaluate_topk(Y, scores, inv_propensity=np.full(15, 0.5))


EVALUATION = {"P@1": 0.5, "P@10": 0.25, "coverage@1": 1.0, "coverage@10": 1 / 3}


def test_table_of_one_evaluation():
    assert format_evaluation(EVALUATION).splitlines() == [
        "              @1    @10",
        "P          50.00  25.00",
        "coverage  100.00  33.33",
    ]
    lines = format_evaluation(EVALUATION, metrics=["coverage@10", "P"]).splitlines()
    assert lines == [
        "              @1    @10",
        "coverage          33.33",
        "P          50.00  25.00",
    ]


def test_table_of_several_evaluations():
    other = {"P@1": 0.75, "P@10": 0.125}
    table = format_evaluation({"a": EVALUATION, "method b": other}, ["P@1", "coverage"])
    assert table.splitlines() == [
        "             P@1 coverage@1 coverage@10",
        "a          50.00     100.00       33.33",
        "method b   75.00                       ",
    ]


def test_table_bad_input():
    with pytest.raises(ValueError, match="empty"):
        format_evaluation({})
    with pytest.raises(ValueError, match="has no 'PSP'; it has P@1, P@10"):
        format_evaluation(EVALUATION, metrics=["PSP"])
