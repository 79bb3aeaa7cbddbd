"""Propensity models recover known propensities; the check finds what contradicts them."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone

from skxmc.datasets import make_xmc_classification
from skxmc.label_space import (
    GivenPropensity,
    JointPropensity,
    JPVPropensity,
    PropensityModel,
    PropensityWarning,
    RichardsonPropensity,
    check_propensity,
    inverse_propensity,
    jpv_propensity,
)
from skxmc.ops.topk import TopK, topk_csr


def make_audited(propensity, n_labels=150, n_samples=6000, seed=0):
    """Labels with known masks: all rows, and the first half of them as the audited ones."""
    data = make_xmc_classification(
        n_samples, 300, n_labels, propensity=propensity, random_state=seed
    )
    audited = slice(0, n_samples // 2)
    return data, {"Y_observed": data.Y[audited], "Y_complete": data.Y_true[audited]}


# ------------------------------------------------------------------ JPV and given values


def test_jpv_model_is_the_function():
    Y = sp.random_array((40, 6), density=0.3, rng=0).astype(bool)
    model = JPVPropensity(A=0.6, B=2.6).fit(Y)
    assert_array_equal(model.propensity_, jpv_propensity(Y, A=0.6, B=2.6))
    assert_allclose(model.inverse_, inverse_propensity(Y, A=0.6, B=2.6), rtol=1e-15)
    assert isinstance(model, PropensityModel)
    counts = np.asarray(Y.sum(axis=0)).ravel()
    assert_array_equal(clone(model).fit(counts, 40).propensity_, model.propensity_)
    with pytest.raises(ValueError, match="A must be"):
        JPVPropensity(A=-1.0).fit(Y)


def test_given_values():
    Y = np.eye(3, dtype=int)
    values = np.array([0.2, 1.0, 0.5])
    model = GivenPropensity(values).fit(Y)
    assert_array_equal(model.propensity_, values)
    assert_array_equal(model.inverse_, [5.0, 1.0, 2.0])
    model.propensity_[0] = 1.0
    assert values[0] == 0.2  # a copy
    assert_array_equal(GivenPropensity(0.25).fit(Y).propensity_, [0.25] * 3)


@pytest.mark.parametrize(
    ("propensity", "message"),
    [
        ([0.5, 0.5], "each of the 3 labels"),
        ([0.5, 0.0, 1.0], "label 1 is 0.0"),
        ([0.5, 0.5, 1.1], "label 2 is 1.1"),
        (np.nan, "label 0 is nan"),
        ("jpv", "dtype"),
    ],
)
def test_given_values_out_of_range(propensity, message):
    with pytest.raises(ValueError, match=message):
        GivenPropensity(propensity).fit(np.eye(3, dtype=int))


# ------------------------------------------------------------------ Richardson's curve


def test_richardson_recovers_a_jpv_curve():
    data, audit = make_audited(("jpv", 0.6, 2.6))
    model = RichardsonPropensity().fit(data.Y, **audit)
    error = np.abs(model.propensity_ - data.propensities)
    assert error.mean() < 0.04
    # JPV with the constants of another data set is further off.
    assert np.abs(
        JPVPropensity(A=0.5, B=0.4).fit(data.Y).propensity_ - data.propensities
    ).mean() > (2 * error.mean())
    assert model.growth_ > 0
    assert model.concentration_ > 50


@pytest.mark.parametrize(("lower", "upper", "growth"), [(0.0, 1.0, 1.5), (0.2, 0.7, 4.0)])
def test_richardson_recovers_its_own_curve(lower, upper, growth):
    rng = np.random.default_rng(0)
    n_labels, n_rows = 400, 4000
    priors = 10 ** rng.uniform(-2.5, -0.8, n_labels)
    p = lower + (upper - lower) * expit(growth * (np.log(priors) + 3.5))
    complete = rng.random((n_rows, n_labels)) < priors
    observed = complete & (rng.random(complete.shape) < p)
    model = RichardsonPropensity().fit(
        observed, Y_observed=observed[:2000], Y_complete=complete[:2000]
    )
    frequent = priors > 0.01  # where the observed share says what the label is
    assert np.abs(model.propensity_ - p)[frequent].mean() < 0.05


def test_richardson_curve_may_fall():
    rng = np.random.default_rng(0)
    priors = 10 ** rng.uniform(-2, -0.7, 200)
    p = 0.9 - 0.6 * (np.log10(priors) + 2) / 1.3
    complete = rng.random((3000, 200)) < priors
    observed = complete & (rng.random(complete.shape) < p)
    model = RichardsonPropensity().fit(observed, Y_observed=observed, Y_complete=complete)
    assert model.growth_ < 0
    assert np.abs(model.propensity_ - p).mean() < 0.1


def test_richardson_does_not_change_with_the_size_of_the_data():
    data, audit = make_audited(("jpv", 0.55, 1.5))
    model = RichardsonPropensity().fit(data.Y, **audit)
    counts = np.array([10, 100, 1000])
    assert_allclose(model.curve(10 * counts, 60_000), model.curve(counts, 6000), rtol=0.05)
    jpv = [jpv_propensity(counts, 6000)[0], jpv_propensity(1000 * counts, 6_000_000)[0]]
    assert jpv[1] > jpv[0] + 0.3  # the flaw that this avoids


def test_richardson_per_label_helps_where_frequency_explains_little():
    rng = np.random.default_rng(1)
    data, audit = make_audited(rng.beta(3, 3, 150))
    curve = RichardsonPropensity().fit(data.Y, **audit)
    own = RichardsonPropensity(per_label=True).fit(data.Y, **audit)
    assert 2 < curve.concentration_ < 20  # Beta(3, 3) has the concentration 6
    error = [np.abs(m.propensity_ - data.propensities).mean() for m in (curve, own)]
    assert error[1] < 0.7 * error[0]
    assert ((own.propensity_ > 0) & (own.propensity_ <= 1)).all()


def test_richardson_with_labels_that_were_never_audited():
    data, audit = make_audited(0.5)
    counts = np.bincount(data.Y.indices, minlength=150)
    audit = {name: Y[:20] for name, Y in audit.items()}
    for per_label in (False, True):
        model = RichardsonPropensity(per_label).fit(counts, 6000, **audit)
        assert model.propensity_.shape == (150,)
        assert ((model.propensity_ > 0) & (model.propensity_ <= 1)).all()
        assert 0.3 < model.propensity_.mean() < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Y_observed": np.ones((2, 3))}, "Row 0 has the observed label 1"),
        ({"Y_observed": np.eye(3)}, "shape"),
        ({"Y_observed": np.eye(2), "Y_complete": np.eye(2)}, "2 labels, Y_train has 3"),
        ({"Y_complete": np.zeros((2, 3)), "Y_observed": np.zeros((2, 3))}, "nothing to fit"),
        ({"Y_complete": np.full((2, 3), 2)}, "only 0 and 1"),
    ],
)
def test_richardson_bad_input(change, message):
    audit = {"Y_observed": [[1, 0, 0], [0, 0, 0]], "Y_complete": [[1, 0, 0], [0, 1, 1]], **change}
    with pytest.raises(ValueError, match=message):
        RichardsonPropensity().fit([1, 1, 1], 5, **audit)


# ------------------------------------------------------------------ learned jointly


def make_logistic(p, n_samples=2500, n_features=6, scale=3.0, offset=-1.5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    W = rng.normal(size=(n_features, len(p)))
    W *= scale / np.linalg.norm(W, axis=0)
    complete = rng.random((n_samples, len(p))) < expit(X @ W + offset)
    return X, complete & (rng.random(complete.shape) < p), complete


def test_joint_recovers_known_propensities():
    p = np.array([0.25, 0.5, 0.75, 1.0])
    X, Y, _ = make_logistic(p, n_samples=4000)
    model = JointPropensity(random_state=0).fit(Y, X=X)
    assert np.abs(model.propensity_ - p).max() < 0.12
    assert (np.abs(model.propensity_ - p) < 4 * model.std_ + 0.03).all()
    assert (model.std_ < 0.1).all()
    assert_allclose(model.inverse_, 1 / model.propensity_)


def test_joint_survives_many_sparse_features():
    # Enough features to separate the training rows: a likelihood of the same rows says p = 1.
    rng = np.random.default_rng(3)
    X = sp.random_array((2000, 300), density=0.04, rng=rng, format="csr")
    w = rng.normal(size=(300, 2))
    margins = X @ w
    margins = 4 * margins / margins.std(axis=0) - 1
    p = np.array([0.3, 0.9])
    Y = (rng.random(margins.shape) < expit(margins)) & (rng.random(margins.shape) < p)
    model = JointPropensity(random_state=0).fit(sp.csr_array(Y), X=X)
    assert np.abs(model.propensity_ - p).max() < 0.15


def test_joint_says_where_the_data_say_nothing():
    p = np.array([0.2, 0.5, 0.9])
    X, Y, _ = make_logistic(p, n_samples=2500)
    noise = np.random.default_rng(5).random((2500, 1)) < 0.1  # independent of X: not identified
    rare = np.zeros((2500, 1), dtype=bool)
    rare[:5] = True
    model = JointPropensity(random_state=0).fit(np.hstack([Y, noise, rare]), X=X)
    assert model.std_[3] > 2 * model.std_[:3].max()
    # a label below min_positives gets the mean of the fitted distribution of the others
    alpha, beta = model.prior_
    assert model.propensity_[4] == pytest.approx(alpha / (alpha + beta), abs=0.02)
    assert model.std_[4] > model.std_[:3].max()


def test_joint_is_the_same_for_sparse_rows_and_in_parallel():
    p = np.array([0.4, 0.8])
    X, Y, _ = make_logistic(p, n_samples=400, n_features=3)
    model = JointPropensity(random_state=1).fit(Y, X=X)
    with parallel_config(backend="threading"):
        again = JointPropensity(random_state=1, n_jobs=2).fit(sp.csr_array(Y), X=sp.csr_array(X))
    assert_allclose(again.propensity_, model.propensity_, rtol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({"cv": 1}, {}, ValueError, "cv must be at least 2"),
        ({"cv": 2.0}, {}, TypeError, "cv must be an integer"),
        ({"C": 0.0}, {}, ValueError, "C must be"),
        ({"min_positives": 0}, {}, ValueError, "min_positives must be"),
        ({"min_positives": 50}, {}, ValueError, "No label has min_positives=50"),
        ({}, {"X": np.ones((29, 2))}, ValueError, "30 rows"),
        ({}, {"X": np.full((30, 2), np.nan)}, ValueError, "NaN"),
        ({"cv": 16}, {}, ValueError, "too few for cv=16"),
        ({}, {"Y_train": np.array([3, 4])}, ValueError, "label matrix"),
    ],
)
def test_joint_bad_input(parameters, arguments, error, message):
    Y = np.tile([[1, 0], [0, 1], [1, 1]], (10, 1))
    arguments = {"Y_train": Y, "X": np.arange(60.0).reshape(30, 2), **arguments}
    with pytest.raises(error, match=message):
        JointPropensity(**parameters).fit(**arguments)


# ------------------------------------------------------------------ what contradicts propensities


def simulate(p, n_labels=40, n_samples=3000, seed=0):
    rng = np.random.default_rng(seed)
    complete = rng.random((n_samples, n_labels)) < rng.uniform(0.02, 0.3, n_labels)
    complete[:, 0] = True
    p = np.broadcast_to(p, n_labels).astype(float)
    return complete & (rng.random(complete.shape) < p), complete, p


@pytest.mark.parametrize("seed", range(5))
def test_right_propensities_are_not_blamed(seed):
    p = np.random.default_rng(seed).uniform(0.2, 1.0, 40)
    observed, complete, p = simulate(p, seed=seed)
    answers = np.tile(np.arange(5), (3000, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = check_propensity(observed, 1 / p, answers, ks=(3, 5), Y_complete=complete)
    assert findings == []


def test_psp_above_one_is_reported_with_its_standard_error():
    observed = simulate(0.8)[0]
    answers = np.zeros((3000, 1), dtype=np.int32)  # always label 0, which every row has
    with pytest.warns(PropensityWarning, match="do not fit the data") as record:
        findings = check_propensity(observed, np.full(40, 3.0), answers, ks=(1, 3))
    assert record[0].filename == __file__
    mean = 3 * observed[:, 0].mean()
    error = 3 * observed[:, 0].std(ddof=1) / np.sqrt(3000)
    assert f"PSP@1 = {mean:.3g} ± {error:.2g}" in findings[0]
    assert "PSP@3" not in findings[0]  # no third answer
    assert "more than chance explains" in findings[0]
    ranked = TopK(answers, np.ones((3000, 1), dtype=np.float32))
    assert check_propensity(observed, np.full(40, 3.0), ranked, ks=[1], warn=False) == findings


def test_psp_above_one_by_chance_is_reported_as_such():
    # Right propensities, few rows: an estimate of 1 that may exceed it.
    Y = np.array([[1], [1], [0]])
    (finding,) = check_propensity(Y, [2.0], np.zeros((3, 1), int), ks=[1], warn=False)
    assert "may be chance" in finding


def test_frequency_above_the_propensity():
    observed, _, _ = simulate(1.0)
    inverse = np.ones(40)
    inverse[0] = 1.25
    (finding,) = check_propensity(observed, inverse, warn=False)
    assert "label 0 in 100.0 % of the rows, with p = 0.8" in finding


def test_wrong_shares_of_audited_labels():
    observed, complete, p = simulate(0.5)
    wrong = p.copy()
    wrong[7] = 0.8
    findings = check_propensity(observed, 1 / wrong, Y_complete=complete, warn=False)
    assert len(findings) == 1
    assert "most for label 7" in findings[0]
    certain = np.ones(40)
    findings = check_propensity(observed, certain, Y_complete=complete, warn=False)
    assert findings[0].startswith("Label 0 has p = 1, but")


def test_labels_that_go_missing_together():
    rng = np.random.default_rng(0)
    _, complete, _ = simulate(1.0)
    # some annotators are diligent: the right propensities, but not independent masks
    p_of_row = np.where(rng.random(3000) < 0.5, 0.2, 0.8)
    observed = complete & (rng.random(complete.shape) < p_of_row[:, None])
    findings = check_propensity(observed, np.full(40, 2.0), Y_complete=complete, warn=False)
    assert len(findings) == 1
    assert "as if labels went missing independently" in findings[0]


def test_jpv_on_a_data_set_that_misses_nothing():
    # Thesis, table 3.1: the formula does not know that nothing is missing.
    data = make_xmc_classification(3000, 300, 100, random_state=0)
    inverse = inverse_propensity(data.Y, A=0.6, B=2.6)
    answers = topk_csr(data.marginals, 1)
    with pytest.warns(PropensityWarning, match=r"PSP@1 = 1\.\d+"):
        check_propensity(data.Y, inverse, answers, ks=(1,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inv_propensity": [1.0]}, "each of the 2 labels"),
        ({"inv_propensity": [1.0, 0.5]}, "label 1 is 0.5"),
        ({"answers": np.zeros((2, 1), int)}, "shape"),
        ({"answers": np.zeros((3, 1))}, "dtype"),
        ({"answers": np.full((3, 1), 2)}, "outside 0..1"),
        ({"Y_complete": np.zeros((3, 2), int)}, "Row 0 has the observed label 0"),
        ({"Y_complete": np.ones((2, 2), int)}, "shape"),
        ({"y_true": np.full((3, 2), 5)}, "only 0 and 1"),
    ],
)
def test_check_bad_input(arguments, message):
    arguments = {"y_true": [[1, 0], [0, 1], [0, 0]], "inv_propensity": [2.0, 1.0], **arguments}
    with pytest.raises(ValueError, match=message):
        check_propensity(**arguments)
