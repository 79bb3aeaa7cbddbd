"""Metrics that average over labels: brute force, values by hand, scikit-learn, and bad input."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_brute_force import indicator, over_labels, problems, sparse_scores
from sklearn.metrics import f1_score, precision_score, recall_score

from skxmc.metrics import (
    coverage_at_k,
    macro_f1_at_k,
    macro_precision_at_k,
    macro_recall_at_k,
)
from skxmc.ops.topk import topk_csr

METRICS = {
    "macro_precision": macro_precision_at_k,
    "macro_recall": macro_recall_at_k,
    "macro_f1": macro_f1_at_k,
    "coverage": coverage_at_k,
}
KS = [1, 2, 10]


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=60, deadline=None)
@given(problem=problems(), data=st.data())
def test_is_brute_force(name, problem, data):
    n_labels, true_rows, score_rows, _, _ = problem
    labels = data.draw(
        st.one_of(
            st.sampled_from(["all", "present"]),
            st.sets(st.integers(0, n_labels - 1), min_size=1).map(sorted),
        )
    )
    chosen = {"all": range(n_labels), "present": sorted(set().union(*true_rows))}.get(
        labels if isinstance(labels, str) else None, labels
    )
    expected = [over_labels(name, true_rows, score_rows, k, list(chosen)) for k in KS]
    Y, scores = sp.csr_array(indicator(true_rows, n_labels)), sparse_scores(score_rows, n_labels)
    for container in (scores, topk_csr(scores, 10)):
        result = METRICS[name](Y, container, KS, labels=labels)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)


# Answers at k=2: row 0 has 0, 1; row 1 has 0, 2; row 2 has 0, 1. Label 3 is never answered, label
# 2 never true.
Y_HAND = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]])
SCORES_HAND = np.array([[0.9, 0.5, 0.1, 0.0], [0.9, 0.1, 0.5, 0.0], [0.9, 0.5, 0.1, 0.0]])


@pytest.mark.parametrize(
    ("function", "of_labels"),
    [
        (macro_precision_at_k, [2 / 3, 1 / 2, 0, 0]),
        (macro_recall_at_k, [2 / 2, 1 / 2, 0, 0]),
        (macro_f1_at_k, [4 / 5, 2 / 4, 0, 0]),
        (coverage_at_k, [1, 1, 0, 0]),
    ],
)
def test_values_by_hand(function, of_labels):
    assert function(Y_HAND, SCORES_HAND, 2) == pytest.approx(np.mean(of_labels))
    present = np.mean([of_labels[j] for j in (0, 1, 3)])
    assert function(Y_HAND, SCORES_HAND, 2, labels="present") == pytest.approx(present)
    assert function(Y_HAND, SCORES_HAND, 2, labels=[1]) == pytest.approx(of_labels[1])
    some = function(Y_HAND, SCORES_HAND, 2, labels=np.array([3, 1, 1]))
    assert some == pytest.approx(np.mean([of_labels[1], of_labels[3]]))
    assert type(function(Y_HAND, SCORES_HAND, 2)) is float


@pytest.mark.parametrize("k", [1, 3, 9])
def test_agrees_with_scikit_learn(k):
    rng = np.random.default_rng(0)
    Y = (rng.random((30, 9)) < 0.2).astype(int)
    scores = rng.permutation(30 * 9).reshape(30, 9) / 270
    chosen = np.zeros_like(Y)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
    for function, reference in (
        (macro_precision_at_k, precision_score),
        (macro_recall_at_k, recall_score),
        (macro_f1_at_k, f1_score),
    ):
        expected = reference(Y, chosen, average="macro", zero_division=0)
        assert function(Y, scores, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", METRICS.values())
def test_exclude(function):
    # Without label 0 in rows 0 and 1 it is never true.
    exclude = sp.csr_array(([1, 1], ([0, 1], [0, 0])), shape=(3, 4))
    Y, scores = Y_HAND.copy(), SCORES_HAND.copy()
    Y[:2, 0], scores[:2, 0] = 0, -np.inf
    result = function(Y_HAND, SCORES_HAND, [1, 2], exclude=exclude)
    np.testing.assert_array_equal(result, function(Y, scores, [1, 2]))
    assert (result != function(Y_HAND, SCORES_HAND, [1, 2])).any()


@pytest.mark.parametrize("function", METRICS.values())
def test_no_positives_at_all_is_zero(function):
    for labels in ("all", "present", [0]):
        assert function(np.zeros((2, 3)), np.ones((2, 3)), 1, labels=labels) == 0.0


@pytest.mark.parametrize("function", METRICS.values())
def test_bad_input(function):
    for labels in ("some", [], [0.5], [[0]], None):
        with pytest.raises(ValueError, match="labels must be 'all', 'present' or"):
            function(Y_HAND, SCORES_HAND, 2, labels=labels)
    for label in (4, -1):
        with pytest.raises(ValueError, match=f"labels holds the id {label}, outside 0..3"):
            function(Y_HAND, SCORES_HAND, 2, labels=[0, label])
    with pytest.raises(ValueError, match="k must be at least 1"):
        function(Y_HAND, SCORES_HAND, 0)
    with pytest.raises(ValueError, match="shape of y_true"):
        function(Y_HAND, SCORES_HAND[:2])
    with pytest.raises(ValueError, match="row 0 holds NaN"):
        function(Y_HAND, SCORES_HAND * np.nan)
