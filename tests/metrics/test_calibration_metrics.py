"""Calibration metrics: brute force, scikit-learn, closed forms, simulation, and bad input."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_brute_force import dense_scores, indicator, ranked, sparse_scores
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from skxmc.metrics import (
    CalibrationError,
    ace_at_k,
    brier_at_k,
    ece_at_k,
    evaluate_topk,
    format_evaluation,
    nll_at_k,
    reliability_curve_at_k,
)
from skxmc.ops.topk import TopK, topk_csr

KS = [1, 2, 3, 10]  # 10 is more than there are labels
ALL = [ece_at_k, ace_at_k, brier_at_k, nll_at_k, reliability_curve_at_k]
# Many on the edges of 4 bins; all of them exact in float32.
PROBABILITIES = [0.0, 0.125, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0]


@st.composite
def problems(draw):
    """Labels, probabilities with many ties, -inf among them, and excluded pairs of 1 to 5 rows."""
    n_labels, n_rows = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    label = st.integers(0, n_labels - 1)

    def rows(of):
        return draw(st.lists(of, min_size=n_rows, max_size=n_rows))

    true_rows = rows(st.sets(label))
    score_rows = rows(st.dictionaries(label, st.sampled_from([-math.inf, *PROBABILITIES])))
    excluded_rows = rows(st.sets(label, max_size=3))
    return n_labels, true_rows, score_rows, excluded_rows


def pairs_of(true_rows, score_rows, k, excluded_rows):
    """The pooled (probability, hit) pairs, from the definition."""
    return [
        (row[j], j in true)
        for true, row, excluded in zip(true_rows, score_rows, excluded_rows, strict=True)
        for j in ranked(row, k, excluded)
    ]


def uniform_bins(pairs, n_bins):
    """Bins (b / n_bins, (b + 1) / n_bins], 0 in the first; empty ones left out."""
    bins = {}
    for score, hit in pairs:
        b = max(math.ceil(score * n_bins) - 1, 0)
        bins.setdefault(b, []).append((score, hit))
    return list(bins.values())


def quantile_bins(pairs, n_bins):
    """A pair belongs to the first bin whose last score is not below it."""
    ordered = sorted(score for score, _ in pairs)
    ends = [ordered[math.ceil(b * len(pairs) / n_bins) - 1] for b in range(1, n_bins + 1)]
    bins = {}
    for score, hit in pairs:
        end = next(end for end in ends if score <= end)
        bins.setdefault(end, []).append((score, hit))
    return list(bins.values())


def error_of(bins, norm, n_pairs):
    over, under, both = [], [], []
    for pairs in bins:
        gap = math.fsum(s - h for s, h in pairs) / len(pairs)
        for gaps, value in ((over, max(gap, 0)), (under, max(-gap, 0)), (both, abs(gap))):
            gaps.append((len(pairs) / n_pairs, value))

    def norm_of(gaps):
        if norm == "max":
            return max(value for _, value in gaps)
        power = {"l1": 1, "l2": 2}[norm]
        return math.fsum(weight * value**power for weight, value in gaps) ** (1 / power)

    return norm_of(both), norm_of(over), norm_of(under)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), n_bins=st.sampled_from([1, 2, 4, 8]), with_exclude=st.booleans())
def test_is_brute_force(problem, n_bins, with_exclude):
    n_labels, true_rows, score_rows, excluded_rows = problem
    Y, scores = indicator(true_rows, n_labels), sparse_scores(score_rows, n_labels)
    exclude = sp.csr_array(indicator(excluded_rows, n_labels)) if with_exclude else None
    if not with_exclude:
        excluded_rows = [set()] * len(true_rows)
    pools = [pairs_of(true_rows, score_rows, k, excluded_rows) for k in KS]
    containers = (scores, dense_scores(score_rows, n_labels), topk_csr(scores, 10))
    for container in containers:
        if not pools[0]:
            for metric in ALL:
                with pytest.raises(ValueError, match="no row has an answer"):
                    metric(Y, container, 2, exclude=exclude)
            continue
        for metric, bins_of in ((ece_at_k, uniform_bins), (ace_at_k, quantile_bins)):
            for norm in ("l1", "l2", "max"):
                parts = metric(
                    Y, container, KS, n_bins=n_bins, norm=norm, return_parts=True, exclude=exclude
                )
                expected = [error_of(bins_of(pairs, n_bins), norm, len(pairs)) for pairs in pools]
                np.testing.assert_allclose(np.transpose(parts), expected, atol=1e-14)
        np.testing.assert_allclose(
            brier_at_k(Y, container, KS, exclude=exclude),
            [math.fsum((s - h) ** 2 for s, h in pairs) / len(pairs) for pairs in pools],
        )
        expected = [
            math.fsum(-math.log(max(s if h else 1 - s, 1e-7)) for s, h in pairs) / len(pairs)
            for pairs in pools
        ]
        np.testing.assert_allclose(nll_at_k(Y, container, KS, exclude=exclude), expected, atol=2e-7)


def a_problem(n_rows=300, n_labels=12, seed=0):
    """Over-confident probabilities, all different, sparse with rows of different length."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.6, 1.5, (n_rows, n_labels)).astype(np.float32)
    Y = (rng.random((n_rows, n_labels)) < scores**1.6).astype(np.int8)
    scores[rng.random((n_rows, n_labels)) < 0.6] = 0
    return Y, sp.csr_array(scores)


def pooled(Y, scores, k):
    topk = topk_csr(scores, k)
    rows, places = np.nonzero(topk.labels >= 0)
    labels = topk.labels[rows, places]
    return topk.scores[rows, places].astype(np.float64), np.asarray(Y)[rows, labels]


@pytest.mark.parametrize("k", [1, 5])
def test_curve_is_that_of_scikit_learn(k):
    Y, scores = a_problem()
    score, hit = pooled(Y, scores, k)
    for n_bins in (1, 7, 15):
        curve = reliability_curve_at_k(Y, scores, k, n_bins=n_bins, n_bootstrap=0)
        hit_rate, mean_score = calibration_curve(hit, score, n_bins=n_bins)
        filled = curve.count > 0
        np.testing.assert_allclose(curve.hit_rate[filled], hit_rate, rtol=1e-12)
        np.testing.assert_allclose(curve.mean_score[filled], mean_score, rtol=1e-12)
        assert np.isnan(curve.hit_rate[~filled]).all()
        assert curve.count.sum() == len(score)
        np.testing.assert_allclose(curve.edges, np.linspace(0, 1, n_bins + 1))
        assert curve.low is None
        assert curve.high is None


@pytest.mark.parametrize("k", [1, 5])
def test_brier_and_nll_are_those_of_scikit_learn(k):
    Y, scores = a_problem()
    score, hit = pooled(Y, scores, k)
    assert brier_at_k(Y, scores, k) == pytest.approx(brier_score_loss(hit, score), rel=1e-12)
    assert nll_at_k(Y, scores, k) == pytest.approx(log_loss(hit, score), rel=1e-9)


def test_quantile_bins_of_different_scores_are_equally_full():
    Y, scores = a_problem()
    score, hit = pooled(Y, scores, 4)
    assert len(np.unique(score)) == len(score)
    order = np.argsort(score)
    for n_bins in (2, 7, 15):
        curve = reliability_curve_at_k(
            Y, scores, 4, n_bins=n_bins, strategy="quantile", n_bootstrap=0
        )
        assert curve.count.max() - curve.count.min() <= 1
        ends = np.cumsum(curve.count)[:-1]
        parts = np.split(order, ends)
        np.testing.assert_allclose(curve.mean_score, [score[part].mean() for part in parts])
        np.testing.assert_allclose(curve.hit_rate, [hit[part].mean() for part in parts])
        np.testing.assert_allclose(curve.edges[1:], [score[part].max() for part in parts])
        assert curve.edges[0] == score.min()
        gaps = [abs(score[part].mean() - hit[part].mean()) * len(part) for part in parts]
        assert ace_at_k(Y, scores, 4, n_bins=n_bins) == pytest.approx(sum(gaps) / len(score))


def test_more_quantile_bins_than_answers():
    Y, scores = np.array([[1, 0], [0, 1]]), np.array([[0.75, 0.25], [0.5, 0.125]])
    # every answer has a bin of its own
    assert ace_at_k(Y, scores, 1, n_bins=100) == pytest.approx((0.25 + 0.5) / 2)
    curve = reliability_curve_at_k(Y, scores, 1, n_bins=100, strategy="quantile", n_bootstrap=0)
    assert curve.count.tolist() == [1, 1]


def test_the_order_of_rows_does_not_matter_with_ties():
    rng = np.random.default_rng(0)
    scores = rng.choice([0.1, 0.3, 0.30000001, 0.9], (60, 8), p=[0.1, 0.7, 0.1, 0.1])
    Y = rng.random((60, 8)) < 0.4
    order = rng.permutation(60)
    for metric in (ece_at_k, ace_at_k):
        assert metric(Y, scores, 3) == pytest.approx(metric(Y[order], scores[order], 3), rel=1e-12)


def test_closed_form_of_a_known_miscalibration():
    # One label, probability s uniform, right with probability s^2: the gap s - s^2 is never
    # negative, its mean is 1/6, its mean square 1/30, its largest value 1/4.
    rng = np.random.default_rng(0)
    scores = rng.random((200_000, 1))
    Y = rng.random((200_000, 1)) < scores**2
    parts = ece_at_k(Y, scores, 1, return_parts=True)
    assert parts.total == parts.over + parts.under
    assert parts.over == pytest.approx(1 / 6, abs=0.004)
    assert parts.under == 0
    assert ece_at_k(Y, scores, 1, norm="l2") == pytest.approx(math.sqrt(1 / 30), abs=0.004)
    assert ece_at_k(Y, scores, 1, norm="max") == pytest.approx(1 / 4, abs=0.02)
    assert ace_at_k(Y, scores, 1) == pytest.approx(1 / 6, abs=0.004)
    # E[(s - h)^2] = E[s^2 - 2 s^3 + s^2] = 2/3 - 1/2;  -E[s^2 ln s + (1 - s^2) ln(1 - s)]
    assert brier_at_k(Y, scores, 1) == pytest.approx(1 / 6, abs=0.004)
    assert nll_at_k(Y, scores, 1) == pytest.approx(1 / 9 + 1 - 11 / 18, abs=0.01)
    # turned around, it is under-confident
    turned = ece_at_k(~Y, 1 - scores, 1, return_parts=True)
    assert turned.under == pytest.approx(parts.over, abs=1e-3)


def test_calibrated_answers_have_a_small_error():
    rng = np.random.default_rng(0)
    scores = rng.beta(0.5, 2, (40_000, 10))
    Y = rng.random(scores.shape) < scores
    for metric in (ece_at_k, ace_at_k):
        assert np.all(metric(Y, scores, [1, 3, 5]) < 0.01)
        assert np.all(metric(Y, scores**0.5, [1, 3, 5]) > 0.05)


def test_certain_answers():
    Y = np.array([[1, 0], [1, 0]])
    right, wrong = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1.0]] * 2)
    for scores, value in ((right, 0.0), (wrong, 1.0)):
        assert ece_at_k(Y, scores, 2) == ace_at_k(Y, scores, 2) == value
        assert brier_at_k(Y, scores, 2) == value
    assert nll_at_k(Y, right, 2) == pytest.approx(0, abs=1e-6)
    assert nll_at_k(Y, wrong, 2) == pytest.approx(-math.log(1e-7))
    assert nll_at_k(Y, wrong, 2, eps=0.01) == pytest.approx(-math.log(0.01))
    assert ece_at_k(Y, right.astype(bool)) == ece_at_k(Y, right.astype(int)) == 0


def test_only_answers_that_there_are_count():
    Y = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    one_each = sp.csr_array(np.array([[0.75, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0]]))
    # neither the missing answers nor the empty row
    assert brier_at_k(Y, one_each, 3) == (0.25**2 + 0.5**2) / 2
    stored_zero = sp.csr_array(([0.75, 0.5, 0.0], [0, 0, 1], [0, 1, 2, 3]), shape=(3, 4))
    assert brier_at_k(Y, stored_zero, 3) == (0.25**2 + 0.5**2 + 1) / 3


def test_containers_agree():
    Y, scores = a_problem()
    expected = [metric(Y, scores, 3) for metric in ALL[:4]]
    dense = scores.toarray()
    dense[dense == 0] = -np.inf
    topk = topk_csr(scores, 6)
    split = sp.coo_array(  # each entry as the sum of two
        (
            np.concatenate([scores.data / 2] * 2),
            (np.concatenate([scores.tocoo().row] * 2), np.concatenate([scores.indices] * 2)),
        ),
        shape=scores.shape,
    )
    unsorted = scores.copy()
    for i in range(scores.shape[0]):
        row = slice(scores.indptr[i], scores.indptr[i + 1])
        unsorted.indices[row] = unsorted.indices[row][::-1].copy()
        unsorted.data[row] = unsorted.data[row][::-1].copy()
    unsorted.has_sorted_indices = unsorted.has_canonical_format = False
    long = sp.csr_array(
        (scores.data, scores.indices.astype(np.int64), scores.indptr.astype(np.int64)),
        shape=scores.shape,
    )
    read_only = scores.copy()
    for array in (read_only.data, read_only.indices, read_only.indptr):
        array.flags.writeable = False
    containers = {
        "csr_matrix": sp.csr_matrix(scores),
        "csc": scores.tocsc(),
        "coo with duplicates": split,
        "unsorted": unsorted,
        "int64 indices": long,
        "read only": read_only,
        "float64": scores.astype(np.float64),
        "dense": dense,
        "Fortran": np.asfortranarray(dense),
        "TopK": topk,
        "int64 TopK": TopK(topk.labels.astype(np.int64), topk.scores.astype(np.float64)),
    }
    before = unsorted.indices.copy(), split.data.copy()
    for name, container in containers.items():
        for Y_as in (Y, sp.csr_array(Y)):
            values = [metric(Y_as, container, 3) for metric in ALL[:4]]
            np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(unsorted.indices, before[0])
    np.testing.assert_array_equal(split.data, before[1])


def test_excluded_answers_of_a_topk_move_up():
    Y, scores = a_problem()
    exclude = sp.csr_array(np.random.default_rng(1).random(Y.shape) < 0.3)
    topk = topk_csr(scores, 12)
    for metric in ALL[:4]:
        plain, excluded = metric(Y, scores, 2), metric(Y, scores, 2, exclude=exclude)
        assert plain != excluded
        assert metric(Y, topk, 2, exclude=exclude) == excluded


def test_sequences_of_k_and_parts():
    Y, scores = a_problem()
    for metric in ALL[:4]:
        single, several = metric(Y, scores, 3), metric(Y, scores, [3, 1])
        assert type(single) is float
        assert several.dtype == np.float64
        assert several.tolist() == [single, metric(Y, scores, 1)]
    parts = ece_at_k(Y, scores, [3, 1], return_parts=True)
    assert isinstance(parts, CalibrationError)
    assert parts.over.tolist() == [ece_at_k(Y, scores, k, return_parts=True).over for k in (3, 1)]
    curves = reliability_curve_at_k(Y, scores, [3, 1], random_state=0)
    for curve, k in zip(curves, (3, 1), strict=True):
        alone = reliability_curve_at_k(Y, scores, k, random_state=0)
        for ours, theirs in zip(curve, alone, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------------------- bootstrap


def test_bootstrap_is_the_curve_of_repeated_rows():
    Y, scores = a_problem(n_rows=60)
    curve = reliability_curve_at_k(
        Y, scores, 3, n_bins=6, n_bootstrap=40, confidence_level=0.8, random_state=7
    )
    random_state = np.random.RandomState(7)
    rates = []
    for _ in range(40):
        drawn = random_state.randint(60, size=60)
        sample = reliability_curve_at_k(Y[drawn], scores[drawn], 3, n_bins=6, n_bootstrap=0)
        rates.append(sample.hit_rate)
    low, high = np.nanquantile(rates, [0.1, 0.9], axis=0)
    np.testing.assert_allclose(curve.low, low, rtol=1e-12)
    np.testing.assert_allclose(curve.high, high, rtol=1e-12)


def test_band_has_the_width_of_dependent_answers():
    # All answers of a row are right or all are wrong: 400 independent events, not 2000.
    rng = np.random.default_rng(0)
    right = rng.random((400, 1)) < 0.5
    Y, scores = np.tile(right, 5), np.full((400, 5), 0.5)
    curve = reliability_curve_at_k(Y, scores, 5, n_bins=1, n_bootstrap=1000, random_state=0)
    width = curve.high[0] - curve.low[0]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.1)
    assert curve.low[0] < curve.hit_rate[0] < curve.high[0]


def test_band_of_empty_and_of_rarely_drawn_bins():
    Y = np.zeros((50, 1))
    Y[0] = 1
    scores = np.full((50, 1), 0.1)
    scores[0] = 0.95  # a bin that about a third of the samples misses
    curve = reliability_curve_at_k(Y, scores, 1, n_bins=10, n_bootstrap=50, random_state=0)
    assert curve.count.tolist() == [49, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    filled = curve.count > 0
    assert np.isnan(curve.low[~filled]).all()
    assert np.isnan(curve.high[~filled]).all()
    assert curve.low[9] == curve.high[9] == curve.hit_rate[9] == 1


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("metric", ALL)
def test_margins_are_refused(metric):
    Y = np.array([[1, 0, 0], [0, 1, 0]])
    for bad in (-0.5, 1.5, np.inf, 1.0000001):
        dense = np.array([[0.9, 0.8, 0.2], [0.3, 0.2, bad]])
        topk = TopK(np.array([[0, 1, 2], [2, 0, 1]]), np.array([[0.9, 0.8, 0.2], [bad, 0.3, 0.2]]))
        for scores in (dense, sp.csr_array(dense), topk):
            with pytest.raises(ValueError, match=r"row 1, label 2 has .*predict_proba"):
                metric(Y, scores, 1)


@pytest.mark.parametrize("metric", ALL)
def test_a_margin_behind_the_best_k_is_refused_too(metric):
    # Small margins may look like probabilities: all scores are looked at, not only the best.
    with pytest.raises(ValueError, match=r"row 0, label 1 has -3\.0"):
        metric(np.eye(2), np.array([[0.4, -3.0], [0.2, 0.1]]), 1)


def test_the_sum_of_duplicates_is_the_probability():
    Y = np.array([[0, 1]])

    def twice(first, second):
        return sp.csr_array(([first, second], [1, 1], [0, 2]), shape=(1, 2))

    assert brier_at_k(Y, twice(-0.25, 1.0), 1) == 0.25**2
    with pytest.raises(ValueError, match=r"label 1 has 1\.5"):
        brier_at_k(Y, twice(0.75, 0.75), 1)


@pytest.mark.parametrize("metric", ALL)
def test_other_bad_input(metric):
    Y, scores = a_problem(n_rows=5)
    with pytest.raises(ValueError, match="shape of y_true"):
        metric(Y, scores[:3])
    with pytest.raises(ValueError, match="y_true"):
        metric(Y * 2, scores)
    with pytest.raises(ValueError, match="k must be at least 1"):
        metric(Y, scores, 0)
    with pytest.raises(TypeError, match="k must be an integer"):
        metric(Y, scores, 1.5)
    with pytest.raises(ValueError, match="row 2 holds NaN"):
        metric(Y, np.where(np.arange(5)[:, None] == 2, np.nan, scores.toarray()))
    for none in (sp.csr_array(Y.shape), np.full(Y.shape, -np.inf)):
        with pytest.raises(ValueError, match="no row has an answer"):
            metric(Y, none)
    with pytest.raises(TypeError, match="real numbers"):
        metric(Y, scores.toarray() * 1j)


def test_bad_parameters():
    Y, scores = a_problem(n_rows=5)
    for metric in (ece_at_k, ace_at_k, reliability_curve_at_k):
        with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
            metric(Y, scores, n_bins=0)
        for bad in (2.5, True, "15"):
            with pytest.raises(TypeError, match="n_bins must be an integer"):
                metric(Y, scores, n_bins=bad)
    for metric in (ece_at_k, reliability_curve_at_k):
        with pytest.raises(ValueError, match="strategy must be 'uniform' or 'quantile', got 'x'"):
            metric(Y, scores, strategy="x")
    for metric in (ece_at_k, ace_at_k):
        with pytest.raises(ValueError, match="norm must be"):
            metric(Y, scores, norm="l3")
    for eps in (0, 0.5, -1, np.nan, None):
        with pytest.raises(ValueError, match="eps must be"):
            nll_at_k(Y, scores, eps=eps)
    with pytest.raises(ValueError, match="n_bootstrap must be at least 0"):
        reliability_curve_at_k(Y, scores, n_bootstrap=-1)
    with pytest.raises(TypeError, match="n_bootstrap must be an integer"):
        reliability_curve_at_k(Y, scores, n_bootstrap=1.0)
    for level in (0, 1, 95, None):
        with pytest.raises(ValueError, match="confidence_level must be"):
            reliability_curve_at_k(Y, scores, confidence_level=level)


# ---------------------------------------------------------------------------- in the table


def test_evaluation_adds_calibration_on_demand():
    Y, scores = a_problem()
    exclude = sp.csr_array(np.random.default_rng(1).random(Y.shape) < 0.1)
    plain = evaluate_topk(Y, scores, (1, 4), exclude=exclude)
    evaluation = evaluate_topk(Y, scores, (1, 4), calibration=True, exclude=exclude)
    expected = dict(plain)
    for name, metric in (
        ("ECE", ece_at_k),
        ("ACE", ace_at_k),
        ("Brier", brier_at_k),
        ("NLL", nll_at_k),
    ):
        for k in (1, 4):
            expected[f"{name}@{k}"] = metric(Y, scores, k, exclude=exclude)
    assert evaluation == expected
    assert list(evaluation) == list(expected)
    with pytest.raises(ValueError, match="predict_proba"):
        evaluate_topk(Y, scores * 3, calibration=True)


def test_table_shows_nll_in_nats():
    evaluation = {"ECE@1": 0.125, "NLL@1": 0.6931, "NLL@3": 1.5}
    assert format_evaluation(evaluation).splitlines() == [
        "         @1     @3",
        "ECE   12.50       ",
        "NLL    0.69   1.50",
    ]
    assert format_evaluation({"raw": evaluation}, ["NLL"]).splitlines() == [
        "      NLL@1  NLL@3",
        "raw    0.69   1.50",
    ]
