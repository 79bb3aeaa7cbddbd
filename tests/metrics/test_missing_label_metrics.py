"""Estimates from incomplete labels: over all masks they average to the metric on complete ones."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose

from skxmc.datasets import make_xmc_classification
from skxmc.metrics import (
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    psp_at_k,
    recall_at_k,
    unbiased_metric_at_k,
    unbiased_precision_at_k,
    unbiased_recall_at_k,
)
from skxmc.ops.topk import topk_dense

P = np.array([0.4, 0.7, 1.0, 0.55])
Y = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
SCORES = np.array([[0.9, 0.1, 0.5, 0.4], [0.2, 0.8, 0.1, 0.3], [0.4, 0.3, 0.2, 0.1]])
KS = [1, 2, 3, 6]


def all_masks():
    """Every observed version of Y with its probability."""
    rows, columns = np.nonzero(Y)
    p = P[columns]
    for kept in itertools.product([0, 1], repeat=len(rows)):
        observed = np.zeros_like(Y)
        observed[rows, columns] = kept
        yield np.prod(np.where(kept, p, 1 - p)), observed


def expectation(estimate):
    return sum(
        probability * np.asarray(estimate(observed)) for probability, observed in all_masks()
    )


def test_precision_is_unbiased():
    mean = expectation(lambda observed: unbiased_precision_at_k(observed, SCORES, 1 / P, KS))
    assert_allclose(mean, precision_at_k(Y, SCORES, KS), rtol=1e-12)


def test_recall_is_unbiased():
    mean = expectation(lambda observed: unbiased_recall_at_k(observed, SCORES, 1 / P, KS))
    assert_allclose(mean, recall_at_k(Y, SCORES, KS), rtol=1e-12)


def test_propensity_scored_recall_is_not():
    # what 1 / p alone does: the reason for the general estimator
    naive = expectation(lambda observed: recall_at_k(observed, SCORES, KS))
    assert (naive < recall_at_k(Y, SCORES, KS) - 0.01).all()


def test_recall_bound_is_too_large_on_average():
    mean = expectation(
        lambda observed: unbiased_recall_at_k(observed, SCORES, 1 / P, KS, estimator="bound")
    )
    assert (mean > recall_at_k(Y, SCORES, KS) + 0.01).all()


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("precision", precision_at_k),
        ("recall", recall_at_k),
        ("ndcg", ndcg_at_k),
        ("hit_rate", hit_rate_at_k),
    ],
)
def test_any_metric_is_unbiased(name, metric):
    mean = expectation(lambda observed: unbiased_metric_at_k(observed, SCORES, 1 / P, name, KS))
    assert_allclose(mean, metric(Y, SCORES, KS), rtol=1e-12)


def test_own_metric_and_f1():
    def f1(hits, n_true):
        assert hits.dtype == bool
        assert hits.shape == (len(n_true), 2)
        return 2 * hits.sum(axis=1) / (2 + n_true)

    complete = np.mean([2 * 1 / (2 + 3), 2 * 1 / (2 + 2), 0.0])
    mean = expectation(lambda observed: unbiased_metric_at_k(observed, SCORES, 1 / P, f1, 2))
    assert mean == pytest.approx(complete)
    observed = Y * [1, 0, 1, 1]
    assert unbiased_metric_at_k(observed, SCORES, 1 / P, "f1", 2) == pytest.approx(
        unbiased_metric_at_k(observed, SCORES, 1 / P, f1, 2)
    )


def test_closed_form_recall_is_the_general_estimator():
    rng = np.random.default_rng(0)
    Y = (rng.random((40, 12)) < 0.35).astype(int)
    scores, p = rng.random(Y.shape), rng.uniform(0.5, 1, 12)
    for exclude in (None, sp.csr_array(rng.random(Y.shape) < 0.1)):
        options = {"k": [1, 3, 20], "exclude": exclude, "return_std_error": True}
        closed = unbiased_recall_at_k(Y, scores, 1 / p, **options)
        general = unbiased_metric_at_k(Y, scores, 1 / p, "recall", **options)
        assert_allclose(closed, general, rtol=1e-9)


def test_precision_is_unnormalised_psp():
    rng = np.random.default_rng(1)
    Y = rng.random((50, 9)) < 0.3
    scores, inverse = rng.random(Y.shape), rng.uniform(1, 5, 9)
    expected = psp_at_k(Y, scores, inverse, KS, normalize=False)
    assert_allclose(unbiased_precision_at_k(Y, scores, inverse, KS), expected)
    answers = topk_dense(scores, 6)
    assert_allclose(unbiased_precision_at_k(sp.csr_array(Y), answers, inverse, KS), expected)


def test_nothing_missing_gives_the_usual_metrics():
    ones = np.ones(4)
    assert_allclose(unbiased_recall_at_k(Y, SCORES, ones, KS), recall_at_k(Y, SCORES, KS))
    bound = unbiased_recall_at_k(Y, SCORES, ones, KS, estimator="bound")
    assert_allclose(bound, recall_at_k(Y, SCORES, KS))
    assert unbiased_metric_at_k(Y, SCORES, ones, "ndcg", 2) == pytest.approx(
        ndcg_at_k(Y, SCORES, 2)
    )


def test_simulation_with_known_masks():
    # A single draw of the masks of many rows lands within a few of the stated standard errors.
    data = make_xmc_classification(
        6000, 200, 60, avg_labels_per_sample=4, propensity=0.7, random_state=0
    )
    inverse = np.full(60, 1 / 0.7)
    for estimate, metric in (
        (unbiased_precision_at_k, precision_at_k),
        (unbiased_recall_at_k, recall_at_k),
    ):
        value, error = estimate(data.Y, data.marginals, inverse, 3, return_std_error=True)
        complete = metric(data.Y_true, data.marginals, 3)
        assert 0 < error < 0.02
        assert abs(value - complete) < 4 * error
        # the observed labels alone are further off than chance
        assert abs(metric(data.Y, data.marginals, 3) - complete) > 4 * error


def test_standard_error():
    rows = unbiased_recall_at_k(Y, SCORES, 1 / P, 2, return_std_error=True)
    single = [unbiased_recall_at_k(Y[[i]], SCORES[[i]], 1 / P, 2) for i in range(3)]
    assert rows[0] == pytest.approx(np.mean(single))
    assert rows[1] == pytest.approx(np.std(single, ddof=1) / np.sqrt(3))
    value, error = unbiased_precision_at_k(Y[:1], SCORES[:1], 1 / P, [1, 2], return_std_error=True)
    assert value.shape == error.shape == (2,)
    assert np.isnan(error).all()


def test_drawn_subsets_agree_with_all_of_them():
    exact = unbiased_metric_at_k(Y, SCORES, 1 / P, "ndcg", 3)
    drawn = [
        unbiased_metric_at_k(Y, SCORES, 1 / P, "ndcg", 3, max_exact=0, n_draws=400, random_state=s)
        for s in range(60)
    ]
    error = np.std(drawn, ddof=1) / np.sqrt(60)
    assert error > 0
    assert abs(np.mean(drawn) - exact) < 5 * error


def test_rows_with_many_labels():
    # 2^40 subsets: both are exact without listing them
    rng = np.random.default_rng(2)
    Y = np.ones((4, 60), dtype=int)
    Y[:, 40:] = rng.random((4, 20)) < 0.5
    scores = rng.random(Y.shape)
    inverse = 1 / rng.uniform(0.8, 1, 60)
    recall = unbiased_recall_at_k(Y, scores, inverse, [3, 10])
    general = unbiased_metric_at_k(Y, scores, inverse, "recall", [3, 10])
    assert_allclose(general, recall, rtol=1e-8)
    drawn = [
        unbiased_metric_at_k(Y, scores, inverse, "recall", 10, max_exact=3, random_state=seed)
        for seed in range(40)
    ]
    error = np.std(drawn, ddof=1) / np.sqrt(40)
    assert 0 < error < 0.1
    assert abs(np.mean(drawn) - recall[1]) < 5 * error


@pytest.mark.parametrize(
    "estimate",
    [
        unbiased_precision_at_k,
        unbiased_recall_at_k,
        lambda y, s, w, k=5: unbiased_metric_at_k(y, s, w, "ndcg", k),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Y, SCORES[:, :3], 1 / P), ValueError, "shape"),
        ((Y, SCORES * np.nan, 1 / P), ValueError, "NaN"),
        ((Y * 2, SCORES, 1 / P), ValueError, "only 0 and 1"),
        ((Y, SCORES, P), ValueError, "label 0 is 0.4"),
        ((Y, SCORES, [1.0]), ValueError, "each of the 4 labels"),
        ((Y, SCORES, 1 / P, 0), ValueError, "at least 1"),
        ((Y, SCORES, 1 / P, 1.5), TypeError, "integer"),
        ((Y[:0], SCORES[:0], 1 / P), ValueError, "nothing to evaluate"),
    ],
)
def test_bad_input(estimate, arguments, error, message):
    with pytest.raises(error, match=message):
        estimate(*arguments)


def test_bad_options():
    with pytest.raises(ValueError, match="'unbiased' or 'bound'"):
        unbiased_recall_at_k(Y, SCORES, 1 / P, estimator="jensen")
    for metric in ("f2", 3):
        with pytest.raises(ValueError, match="metric must be one of"):
            unbiased_metric_at_k(Y, SCORES, 1 / P, metric)
    with pytest.raises(ValueError, match="array of shape"):
        unbiased_metric_at_k(Y, SCORES, 1 / P, lambda hits, n_true: hits)
    with pytest.raises(ValueError, match="max_exact"):
        unbiased_metric_at_k(Y, SCORES, 1 / P, "f1", max_exact=50)
