"""Metrics that average over rows: brute force, values by hand, scikit-learn, and bad input."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_brute_force import dense_scores, indicator, over_rows, problems, sparse_scores
from sklearn.metrics import dcg_score, ndcg_score, precision_score, recall_score

from skxmc.metrics import (
    dcg_at_k,
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    ps_recall_at_k,
    psndcg_at_k,
    psp_at_k,
    recall_at_k,
)
from skxmc.ops.topk import TopK, topk_csr, topk_dense

PLAIN = {
    "precision": precision_at_k,
    "recall": recall_at_k,
    "dcg": dcg_at_k,
    "ndcg": ndcg_at_k,
    "hit_rate": hit_rate_at_k,
}
WEIGHTED = {"precision": psp_at_k, "ndcg": psndcg_at_k, "recall": ps_recall_at_k}
KS = [1, 2, 3, 10]  # 10 is more than there are labels


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=60, deadline=None)
@given(problem=problems(), normalize=st.booleans(), with_exclude=st.booleans())
def test_plain_is_brute_force(name, problem, normalize, with_exclude):
    n_labels, true_rows, score_rows, _, excluded_rows = problem
    Y, scores = indicator(true_rows, n_labels), sparse_scores(score_rows, n_labels)
    excluded_rows = excluded_rows if with_exclude else None
    exclude = sp.csr_array(indicator(excluded_rows, n_labels)) if with_exclude else None
    ones = [1.0] * n_labels
    expected = [
        over_rows(name, true_rows, score_rows, k, ones, normalize, excluded_rows) for k in KS
    ]
    for container in (scores, dense_scores(score_rows, n_labels), topk_csr(scores, 10)):
        result = PLAIN[name](sp.csr_array(Y), container, KS, normalize=normalize, exclude=exclude)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", WEIGHTED)
@settings(max_examples=60, deadline=None)
@given(problem=problems(), normalize=st.booleans(), with_exclude=st.booleans())
def test_weighted_is_brute_force(name, problem, normalize, with_exclude):
    n_labels, true_rows, score_rows, weights, excluded_rows = problem
    Y, scores = indicator(true_rows, n_labels), sparse_scores(score_rows, n_labels)
    excluded_rows = excluded_rows if with_exclude else None
    exclude = sp.csr_array(indicator(excluded_rows, n_labels)) if with_exclude else None
    expected = [
        over_rows(name, true_rows, score_rows, k, weights, normalize, excluded_rows) for k in KS
    ]
    for container in (scores, dense_scores(score_rows, n_labels), topk_csr(scores, 10)):
        result = WEIGHTED[name](Y, container, weights, KS, normalize=normalize, exclude=exclude)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)


# Row 0: labels 0, 2, 3; answers 2, 1, 0, 3.   Row 1: label 1; answers 0, 1, 2, 3 (ties).
# Row 2: no label; answers as row 0.           Row 3: label 3, one answer only, which is right.
Y_HAND = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
NONE = -np.inf
SCORES_HAND = np.array(
    [[0.3, 0.4, 0.9, 0.1], [0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.9, 0.1], [NONE, NONE, NONE, 0.2]]
)
W_HAND = [1.0, 2.0, 4.0, 8.0]
D2, D3 = 1 / math.log2(3), 1 / 2


@pytest.mark.parametrize(
    ("function", "k", "expected"),
    [
        (precision_at_k, 1, 2 / 4),
        (precision_at_k, 2, (1 + 1 + 0 + 1) / 8),
        (precision_at_k, 3, (2 + 1 + 0 + 1) / 12),
        (precision_at_k, 5, (3 + 1 + 0 + 1) / 20),
        (recall_at_k, 1, (1 / 3 + 0 + 0 + 1) / 4),
        (recall_at_k, 3, (2 / 3 + 1 + 0 + 1) / 4),
        (dcg_at_k, 2, (1 + D2 + 0 + 1) / 4),
        (dcg_at_k, 3, (1 + D3 + D2 + 0 + 1) / 4),
        (ndcg_at_k, 2, (1 / (1 + D2) + D2 + 0 + 1) / 4),
        (ndcg_at_k, 3, ((1 + D3) / (1 + D2 + D3) + D2 + 0 + 1) / 4),
        (hit_rate_at_k, 1, 2 / 4),
        (hit_rate_at_k, 2, 3 / 4),
    ],
)
def test_values_by_hand(function, k, expected):
    assert function(Y_HAND, SCORES_HAND, k) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("function", "k", "value", "best"),
    [
        # Best ranking by 1 / p: row 0 has 8, 4, 1; row 1 has 2; row 3 has 8.
        (psp_at_k, 1, (4 + 0 + 8) / 4, (8 + 2 + 8) / 4),
        (psp_at_k, 3, (4 + 1 + 2 + 8) / 12, (8 + 4 + 1 + 2 + 8) / 12),
        (
            psndcg_at_k,
            2,
            (4 / (1 + D2) + 2 * D2 + 8) / 4,
            ((8 + 4 * D2) / (1 + D2) + 2 + 8) / 4,
        ),
        (ps_recall_at_k, 2, (4 / 3 + 2 + 8) / 4, ((8 + 4) / 3 + 2 + 8) / 4),
    ],
)
def test_propensity_scored_by_hand(function, k, value, best):
    unnormalised = function(Y_HAND, SCORES_HAND, W_HAND, k, normalize=False)
    assert unnormalised == pytest.approx(value, rel=1e-14)
    # The default is the ratio of the two corpus values.
    assert function(Y_HAND, SCORES_HAND, W_HAND, k) == pytest.approx(value / best, rel=1e-14)


def test_normalised_is_no_mean_of_ratios():
    Y = np.array([[1, 0], [0, 1]])
    scores = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert psp_at_k(Y, scores, [1.0, 9.0], k=1) == 1 / 10  # a mean of ratios would be 1 / 2


def test_unit_propensities_are_the_plain_metrics():
    rng = np.random.default_rng(0)
    Y, scores = rng.random((20, 9)) < 0.3, rng.random((20, 9))
    ones = np.ones(9)
    for name, function in WEIGHTED.items():
        for normalize in (True, False):
            np.testing.assert_array_equal(
                function(Y, scores, ones, KS, normalize=normalize),
                PLAIN[name](Y, scores, KS, normalize=normalize),
            )


def test_perfect_ranking_is_one():
    rng = np.random.default_rng(1)
    Y = rng.random((20, 9)) < 0.3
    weights = rng.uniform(1, 20, size=9)
    for function in WEIGHTED.values():
        np.testing.assert_allclose(function(Y, Y * weights, weights, KS), 1.0, rtol=1e-13)
    for function in PLAIN.values():
        np.testing.assert_allclose(function(Y, Y, KS, normalize=True), 1.0, rtol=1e-13)


@pytest.fixture
def problem_without_ties():
    rng = np.random.default_rng(2)
    Y = (rng.random((40, 12)) < 0.3).astype(int)
    Y[Y.sum(axis=1) == 0, 0] = 1
    return Y, rng.permutation(40 * 12).reshape(40, 12) / 480


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_agrees_with_scikit_learn(problem_without_ties, k):
    Y, scores = problem_without_ties
    assert ndcg_at_k(Y, scores, k) == pytest.approx(ndcg_score(Y, scores, k=k), rel=1e-12)
    assert dcg_at_k(Y, scores, k) == pytest.approx(dcg_score(Y, scores, k=k), rel=1e-12)
    chosen = np.zeros_like(Y)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
    expected = precision_score(Y, chosen, average="samples")
    assert precision_at_k(Y, scores, k) == pytest.approx(expected, rel=1e-12)
    expected = recall_score(Y, chosen, average="samples")
    assert recall_at_k(Y, scores, k) == pytest.approx(expected, rel=1e-12)


def test_precision_is_the_correctly_rounded_fraction():
    # Row i has label i only. Every row answers label 0 first, then labels 3 to 6: one hit.
    Y = np.eye(3, 7, dtype=int)
    scores = np.tile([0.9, 0, 0, 0.5, 0.5, 0.5, 0.5], (3, 1))
    assert precision_at_k(Y, scores, 1) == 1 / 3
    assert precision_at_k(Y, scores, 5) == 1 / 15


def test_row_order_and_duplication_do_not_matter(problem_without_ties):
    Y, scores = problem_without_ties
    order = np.random.default_rng(0).permutation(len(Y))
    for function in PLAIN.values():
        expected = function(Y, scores, KS)
        np.testing.assert_allclose(function(Y[order], scores[order], KS), expected, rtol=1e-13)
        twice = function(np.vstack([Y, Y]), np.vstack([scores, scores]), KS)
        np.testing.assert_allclose(twice, expected, rtol=1e-13)


def test_k_int_gives_float_and_sequence_gives_array():
    assert type(precision_at_k(Y_HAND, SCORES_HAND, 3)) is float
    assert type(precision_at_k(Y_HAND, SCORES_HAND, np.int64(3))) is float
    expected = [precision_at_k(Y_HAND, SCORES_HAND, k) for k in (3, 1, 3)]
    for ks in ((3, 1, 3), [3, 1, 3], np.array([3, 1, 3])):
        np.testing.assert_array_equal(precision_at_k(Y_HAND, SCORES_HAND, ks), expected)


def test_an_explicit_zero_is_an_answer_and_an_absent_entry_is_none():
    Y = np.array([[1, 0, 0]])
    zero = sp.csr_array((np.array([0.0]), np.array([0]), np.array([0, 1])), shape=(1, 3))
    negative = sp.csr_array((np.array([-2.0]), np.array([0]), np.array([0, 1])), shape=(1, 3))
    assert precision_at_k(Y, zero, 1) == 1.0
    assert precision_at_k(Y, negative, 1) == 1.0
    assert precision_at_k(Y, sp.csr_array((1, 3)), 1) == 0.0
    assert precision_at_k(Y, np.zeros((1, 3)), 1) == 1.0  # dense: a tie, label 0 first


def test_no_labels_at_all_is_zero():
    Y, scores = sp.csr_array((3, 4)), np.ones((3, 4))
    for function in PLAIN.values():
        for normalize in (True, False):
            assert function(Y, scores, 2, normalize=normalize) == 0.0
    for function in WEIGHTED.values():
        assert function(Y, scores, W_HAND, 2) == 0.0


def test_containers_of_labels_and_scores(problem_without_ties):
    Y, scores = problem_without_ties
    expected = ndcg_at_k(Y, scores, 3)
    for labels in (
        Y.astype(bool),
        Y.astype(np.float32),
        Y.tolist(),
        sp.csr_array(Y),
        sp.csr_matrix(Y.astype(np.int8)),
        sp.csc_array(Y),
        sp.coo_array(Y),
    ):
        assert ndcg_at_k(labels, scores, 3) == expected
    sparse = sp.csr_array(scores + 1.0)
    for container in (scores.tolist(), np.asfortranarray(scores), sparse, sp.csr_matrix(sparse)):
        assert ndcg_at_k(Y, container, 3) == expected
    wide = sparse.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert ndcg_at_k(Y, wide, 3) == expected


def test_unsorted_read_only_and_explicit_zeros_in_labels():
    data = np.array([1, 1, 0, 1], dtype=np.int32)
    indices = np.array([3, 0, 1, 2], dtype=np.int32)
    Y = sp.csr_array((data, indices, np.array([0, 4])), shape=(1, 4))
    scores = sparse_scores([{2: 0.1, 1: 0.9, 0: 0.5}], 4)
    before = scores.indices.copy()
    for matrix in (Y, scores):
        for array in (matrix.data, matrix.indices, matrix.indptr):
            array.flags.writeable = False
    exclude = sp.csr_array(np.array([[0, 0, 1, 0]]))
    assert precision_at_k(Y, scores, [1, 2, 3]).tolist() == [0, 1 / 2, 2 / 3]
    assert recall_at_k(Y, scores, 2, exclude=exclude) == 1 / 2
    np.testing.assert_array_equal(scores.indices, before)


def test_duplicate_scores_are_summed():
    scores = sp.csr_array(
        (np.array([1.0, 2.0, 1.5]), np.array([1, 0, 1]), np.array([0, 3])), shape=(1, 2)
    )
    assert precision_at_k([[0, 1]], scores, 1) == 1.0
    assert precision_at_k([[0, 1]], scores, 1, exclude=sp.csr_array([[1, 0]])) == 1.0


def test_topk_answers():
    Y = Y_HAND
    answers = topk_dense(SCORES_HAND, 4)
    expected = ndcg_at_k(Y, SCORES_HAND, [1, 3])
    np.testing.assert_array_equal(ndcg_at_k(Y, answers, [1, 3]), expected)
    wide = TopK(answers.labels.astype(np.int64), answers.scores.astype(np.float64))
    np.testing.assert_array_equal(ndcg_at_k(Y, wide, [1, 3]), expected)
    # The order of the answers counts, not their scores; a gap is closed.
    shuffled = TopK(np.array([[3, -1, 1]]), np.array([[0.1, 9.0, 0.9]]))
    assert precision_at_k([[0, 0, 0, 1]], shuffled, 1) == 1.0
    assert dcg_at_k([[0, 1, 0, 0]], shuffled, 2) == pytest.approx(D2)
    removed = dcg_at_k([[0, 1, 0, 0]], shuffled, 2, exclude=sp.csr_array([[0, 0, 0, 1]]))
    assert removed == 1.0


def test_padding_of_topk_answers():
    # The scores of padding mean nothing. Row 1 has no answer: -1 is not the last label of row 0.
    answers = TopK(np.array([[1, -1], [-1, -1]]), np.array([[0.9, np.nan], [-np.inf, 0.5]]))
    assert recall_at_k([[0, 1, 1], [0, 0, 1]], answers, 2) == 1 / 4


def test_topk_answers_need_not_exceed_the_number_of_labels():
    answers = TopK(np.array([[1, 0]]), np.array([[0.9, 0.1]]))
    assert precision_at_k([[1, 1]], answers, 5) == 2 / 5
    with pytest.raises(ValueError, match="2 answers per row, too few for k=3"):
        precision_at_k([[1, 1, 0]], answers, 3)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[0, 1], [1, 4]], None, "row 1 of the TopK holds a label outside 0..3"),
        ([[0, 1], [1, -2]], None, "row 1 of the TopK holds a label outside 0..3"),
        ([[0, 1], [1, 1]], None, "row 1 of the TopK holds a label more than once"),
        ([[0, 1], [1, 2]], [[1, 1], [1, np.nan]], "row 1 of the TopK holds NaN"),
        ([[0, 1]], None, r"shape \(2, k\)"),
        ([[0, 1], [1, 2]], [[1], [1]], r"shape \(2, k\)"),
    ],
)
def test_bad_topk(labels, scores, message):
    labels = np.array(labels)
    scores = np.ones(labels.shape) if scores is None else np.array(scores, dtype=float)
    with pytest.raises(ValueError, match=message):
        precision_at_k(Y_HAND[:2], TopK(labels, scores), 2)


def test_topk_of_floats():
    with pytest.raises(TypeError, match="must be integers, got dtype float64"):
        precision_at_k(Y_HAND[:1], TopK(np.ones((1, 1)), np.ones((1, 1))), 1)


@pytest.mark.parametrize("function", [*PLAIN.values(), *WEIGHTED.values()])
def test_bad_input(function):
    arguments = (W_HAND,) if function in WEIGHTED.values() else ()
    scores_with_nan = SCORES_HAND.copy()
    scores_with_nan[2, 1] = np.nan
    wrong_value = Y_HAND.copy()
    wrong_value[1, 2] = 2
    for y_true, scores, k, error, message in [
        (Y_HAND, SCORES_HAND[:3], 1, ValueError, r"shape of y_true, \(4, 4\), got \(3, 4\)"),
        (Y_HAND, SCORES_HAND[:, :3], 1, ValueError, r"got \(4, 3\)"),
        (Y_HAND, sp.csr_array((4, 5)), 1, ValueError, r"got \(4, 5\)"),
        (Y_HAND, SCORES_HAND[0], 1, ValueError, r"got \(4,\)"),
        (Y_HAND, scores_with_nan, 1, ValueError, "row 2 holds NaN"),
        (Y_HAND, sp.csr_array(scores_with_nan), 1, ValueError, "row 2 holds NaN"),
        (Y_HAND, np.ones((4, 4)) * 1j, 1, TypeError, "dtype complex128"),
        (wrong_value, SCORES_HAND, 1, ValueError, "row 1, column 2 holds 2"),
        (sp.csr_array(wrong_value), SCORES_HAND, 1, ValueError, "row 1, column 2 holds 2"),
        (-Y_HAND, SCORES_HAND, 1, ValueError, "row 0, column 0 holds -1"),
        (Y_HAND * np.nan, SCORES_HAND, 1, ValueError, "row 0, column 0 holds nan"),
        (Y_HAND[:, 0], SCORES_HAND, 1, ValueError, r"array of shape \(4,\)"),
        (Y_HAND[:0], SCORES_HAND[:0], 1, ValueError, "nothing to evaluate"),
        (Y_HAND[:, :0], SCORES_HAND[:, :0], 1, ValueError, "nothing to evaluate"),
        (Y_HAND, SCORES_HAND, 0, ValueError, "k must be at least 1, got 0"),
        (Y_HAND, SCORES_HAND, [1, -1], ValueError, "k must be at least 1, got -1"),
        (Y_HAND, SCORES_HAND, [], ValueError, "k is an empty sequence"),
        (Y_HAND, SCORES_HAND, 2.0, TypeError, "k must be an integer"),
        (Y_HAND, SCORES_HAND, True, TypeError, "k must be an integer"),
        (Y_HAND, SCORES_HAND, [1, "2"], TypeError, "k must be an integer"),
    ]:
        with pytest.raises(error, match=message):
            function(y_true, scores, *arguments, k)
    with pytest.raises(ValueError, match="exclude must have the shape"):
        function(Y_HAND, SCORES_HAND, *arguments, 1, exclude=sp.csr_array((4, 5)))


def test_corrupt_scores_are_refused_before_any_compiled_code():
    for exclude in (None, sp.csr_array((2, 3))):
        scores = sp.csr_array(np.ones((2, 3)))
        scores.indices[4] = 1_000_000
        with pytest.raises(ValueError, match="row 1 has the column index 1000000"):
            precision_at_k(np.eye(2, 3), scores, 1, exclude=exclude)


@pytest.mark.parametrize("function", WEIGHTED.values())
@pytest.mark.parametrize(
    ("inv_propensity", "error", "message"),
    [
        (None, ValueError, "inv_propensity is required"),
        ([1.0, 2.0], ValueError, r"each of the 4 labels, got the shape \(2,\)"),
        ([1.0, 2.0, 0.5, 1.0], ValueError, "of label 2 is 0.5"),
        ([1.0, np.nan, 2.0, 1.0], ValueError, "of label 1 is nan"),
        ([1.0, np.inf, 2.0, 1.0], ValueError, "of label 1 is inf"),
        (["1", "2", "3", "4"], TypeError, "real numbers"),
    ],
)
def test_bad_propensities(function, inv_propensity, error, message):
    with pytest.raises(error, match=message):
        function(Y_HAND, SCORES_HAND, inv_propensity, 1)


def test_very_large_k_costs_no_memory():
    assert recall_at_k(Y_HAND, SCORES_HAND, 10**12) == 3 / 4
    assert psp_at_k(Y_HAND, SCORES_HAND, W_HAND, 10**12) == pytest.approx(1.0)
    assert ndcg_at_k(Y_HAND, topk_dense(SCORES_HAND, 4), 10**12, normalize=True) < 1


def test_wide_label_matrix():
    n_labels = 3_000_000
    Y = sp.csr_array((np.ones(2), np.array([5, n_labels - 1]), np.array([0, 1, 2])), (2, n_labels))
    scores = sp.csr_array(
        (np.array([0.5, 0.7]), np.array([4, n_labels - 1]), np.array([0, 1, 2])), (2, n_labels)
    )
    assert precision_at_k(Y, scores, 1) == 0.5
