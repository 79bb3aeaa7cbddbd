"""Rules for a population: Frank-Wolfe against SciPy's optimum, mixtures and Madow's sampling."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from skxmc.ops.csr import canonical_csr
from skxmc.ops.macro_at_k import (
    Counts,
    Objective,
    Term,
    Utility,
    affine_topk,
    block_coordinate_ascent,
    closed_form_gains,
    expected_counts,
    frank_wolfe,
    madow_sample,
    mixture_inclusion,
    objective_value,
    reference,
)
from skxmc.ops.macro_at_k._inputs import new_state
from skxmc.ops.macro_at_k._kernels import N_COLUMNS, P, Q, T, kernels
from skxmc.ops.macro_at_k._types import prepare_objective

LINEAR = [Utility.TP, Utility.RECALL, Utility.BALANCED_ACCURACY]
CONCAVE = [*LINEAR, Utility.GMEAN, Utility.HMEAN]
OF_RATES = [utility for utility in Utility if utility != Utility.COVERAGE]


def root_of_hits(tp, fp, fn, tn):
    return tp**0.5 - 0.1 * fp


def macro(utility, n_labels, beta=1.0):
    return Objective((Term(utility, 1 / n_labels, beta),))


def mixed(utility, n_labels, k, alpha=0.5):
    return Objective((Term(Utility.TP, (1 - alpha) / k), Term(utility, alpha / n_labels)))


def marginals(n_rows, n_labels, seed, density=1.0):
    rng = np.random.default_rng(seed)
    eta = (0.02 + 0.96 * rng.random((n_rows, n_labels)) ** 2).astype(np.float32)
    stored = rng.random(eta.shape) < density
    return canonical_csr(sp.csr_array(np.where(stored, eta, 0.0)))


def randomised_counts(eta, inclusion, truth=None):
    """Confusion rates of a randomised decision with these inclusion probabilities."""
    truth = eta if truth is None else truth
    return Counts(*reference.rates(truth.toarray().astype(float), inclusion.toarray()))


def best_inclusion(eta, k, objective, starts=1):
    """Largest value over all inclusion probabilities with k in each row, by SciPy's SLSQP."""
    dense = eta.toarray().astype(float)

    def loss(x):
        inclusion = np.clip(x.reshape(dense.shape), 0, 1)
        return -reference.objective_value(dense, inclusion, objective)

    rows = {"type": "eq", "fun": lambda x: x.reshape(dense.shape).sum(axis=1) - k}
    best = -np.inf
    for seed in range(starts):
        weights = np.random.default_rng(seed).random(dense.shape) + 1.0
        x = k * weights / weights.sum(axis=1, keepdims=True)
        result = scipy.optimize.minimize(
            *(loss, np.clip(x, 0, 1).ravel()),
            method="SLSQP",
            bounds=[(0, 1)] * dense.size,
            constraints=rows,
            options={"maxiter": 300, "ftol": 1e-12},
        )
        best = max(best, -result.fun)
    return best


# ------------------------------------------------------------------------------------------- slopes


@pytest.mark.parametrize("utility", [*OF_RATES, root_of_hits])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_slopes_equal_difference_quotients(utility, beta):
    rates = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0, 3.0], size=50).T
    rates = 0.001 + 0.996 * rates
    weight = np.linspace(-1, 2, 50)
    objective = Objective((Term(utility, weight, beta), Term(Utility.TP, 0.3)))
    expected = reference.slopes(objective, *rates)
    prepared = prepare_objective(objective, 50)
    state = new_state(50, prepared.weight)
    tp, fp, fn, _ = rates
    state[:, T], state[:, Q], state[:, P] = tp, tp + fp, tp + fn
    a, b = np.empty((2, 50))
    kernels(prepared.functions).slopes(state, prepared.codes, prepared.betas, a, b)
    np.testing.assert_allclose(a, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b, expected[1], rtol=1e-5, atol=1e-6)
    assert state.shape[1] == N_COLUMNS


@pytest.mark.parametrize("utility", OF_RATES)
def test_slopes_are_finite_at_the_border(utility):
    prepared = prepare_objective(macro(utility, 1), 1)
    for t, q, p in ((0, 0, 0), (0, 0, 0.5), (0, 0.5, 0), (0.5, 0.5, 0.5), (0, 1, 0), (1, 1, 1)):
        state = new_state(1, prepared.weight)
        state[0, [T, Q, P]] = t, q, p
        a, b = np.empty((2, 1))
        kernels(()).slopes(state, prepared.codes, prepared.betas, a, b)
        assert np.isfinite([a, b]).all()


# -------------------------------------------------------------------------------------- Frank-Wolfe


@pytest.mark.parametrize("utility", [*CONCAVE, root_of_hits])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("density", [1.0, 0.7])
def test_concave_utilities_reach_the_optimum_of_scipy(utility, k, density):
    eta = marginals(6, 4, 3, density=1.0)
    if density < 1:  # one label less in half of the rows
        eta = eta.toarray()
        eta[::2, 1] = 0.0
        eta = canonical_csr(sp.csr_array(eta))
    objective = macro(utility, 4)
    history = frank_wolfe(eta, k, objective, max_iter=300, tol=1e-9)[3]
    optimum = best_inclusion(eta, k, objective)
    assert history[-1] <= optimum + 1e-6
    assert history[-1] >= optimum - 1e-3
    if utility in LINEAR:
        assert history[-1] == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("utility", LINEAR)
def test_linear_utilities_need_one_step(utility):
    eta = marginals(50, 7, 1, density=0.8)
    objective = mixed(utility, 7, 2)
    a, b, weight, history = frank_wolfe(eta, 2, objective)
    assert len(weight) == 1
    assert len(history) <= 2
    best = affine_topk(eta, 2, *closed_form_gains(objective, eta.toarray().mean(axis=0)))
    assert history[-1] == pytest.approx(objective_value((eta, best), objective), abs=1e-9)
    np.testing.assert_array_equal(affine_topk(eta, 2, a[-1], b[-1]).toarray(), best.toarray())


@pytest.mark.parametrize("utility", [Utility.FBETA, Utility.JACCARD, Utility.FOWLKES_MALLOWS])
def test_other_utilities_come_close_to_the_best_of_many_local_optima(utility):
    """Not concave, so only a stationary point is promised: within 10 % here."""
    for seed in range(3):
        eta = marginals(4, 3, seed)
        objective = macro(utility, 3)
        history = frank_wolfe(eta, 1, objective, max_iter=300, tol=1e-9)[3]
        assert history[-1] >= 0.9 * best_inclusion(eta, 1, objective, starts=4)


@pytest.mark.parametrize("utility", [*OF_RATES, root_of_hits])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("init", ["top", "prior", "random"])
def test_the_mixture_has_the_value_that_the_history_ends_with(utility, labelled, init):
    """No share of a rule is lost or counted twice, and the value never falls."""
    eta = marginals(60, 8, 5, density=0.7)
    truth = None
    if labelled:
        draws = np.random.default_rng(0).random((60, 8)) < eta.toarray()
        draws[:, 3] = False
        draws[0, np.flatnonzero(eta.toarray()[0] == 0)[0]] = True  # a label without candidate
        truth = sp.csr_array(draws.astype(np.uint8))
    objective = mixed(utility, 8, 3, 0.9)
    a, b, weight, history = frank_wolfe(
        eta, 3, objective, y_true=truth, init=init, max_iter=30, seed=4
    )
    assert a.shape == b.shape == (len(weight), 8)
    assert a.dtype == b.dtype == np.float32
    assert weight.sum() == pytest.approx(1.0, abs=1e-12)
    assert (weight > 0).all()
    assert (np.diff(history) >= 0).all()
    inclusion = mixture_inclusion(eta, 3, a, b, weight)
    value = objective_value(randomised_counts(eta, inclusion, truth), objective)
    assert value == pytest.approx(history[-1], abs=1e-9)


def test_the_line_search_maximises():
    """From the worst rule to a good one the first step is the whole way for a linear utility."""
    eta = marginals(40, 5, 0)
    history = frank_wolfe(eta, 2, macro(Utility.RECALL, 5), init="random", seed=1)[3]
    assert history[1] > history[0]
    ternary = frank_wolfe(eta, 1, macro(Utility.GMEAN, 5), max_iter=1)[3]
    assert ternary[1] > ternary[0]


def test_labels_never_answered_are_found():
    """The slope of precision, F1 and G-mean at a label without answers is not used as it is."""
    eta = np.full((20, 3), 0.01, dtype=np.float32)
    eta[:, 0] = 0.9
    eta[3, 1] = eta[7, 2] = 0.5
    eta = canonical_csr(sp.csr_array(eta))
    for utility in (Utility.PRECISION, Utility.FBETA, Utility.GMEAN, Utility.HMEAN):
        a, b, weight, _ = frank_wolfe(eta, 1, macro(utility, 3))
        inclusion = mixture_inclusion(eta, 1, a, b, weight).toarray()
        assert inclusion[3, 1] > 0
        assert inclusion[7, 2] > 0


def test_population_and_test_utility_agree_on_many_rows():
    """The two optima converge to each other with the number of rows (thesis section 4.1)."""
    eta = marginals(3000, 20, 2, density=0.5)
    for utility in (Utility.FBETA, Utility.GMEAN, Utility.JACCARD, Utility.HMEAN):
        objective = macro(utility, 20)
        _, by_rows = block_coordinate_ascent(eta, 2, objective)
        by_rule = frank_wolfe(eta, 2, objective)[3]
        assert by_rule[-1] == pytest.approx(by_rows[-1], rel=0.01)


def test_a_rule_serves_new_rows():
    eta, new = marginals(2000, 10, 0), marginals(2000, 10, 1)
    objective = macro(Utility.FBETA, 10)
    a, b, weight, history = frank_wolfe(eta, 2, objective)
    decision = madow_sample(mixture_inclusion(new, 2, a, b, weight), 0, key=new)
    assert objective_value((new, decision), objective) == pytest.approx(history[-1], rel=0.03)


def test_frank_wolfe_degenerate_inputs():
    for shape in ((0, 3), (3, 0), (3, 3)):
        eta = sp.csr_array(shape, dtype=np.float32)
        a, _, weight, history = frank_wolfe(eta, 2, Objective((Term(Utility.FBETA, 1.0),)))
        assert a.shape == (1, shape[1])
        assert weight[0] == 1.0
        assert history[-1] == 0.0
    eta = sp.csr_array(np.array([[1.0, 1.0], [1.0, 1.0]], dtype=np.float32))
    for utility in OF_RATES:
        for k in (1, 2, 5):
            history = frank_wolfe(eta, k, macro(utility, 2))[3]
            assert np.isfinite(history).all()
    assert len(frank_wolfe(marginals(9, 3, 0), 1, macro(Utility.GMEAN, 3), max_iter=0)[3]) == 1


def test_frank_wolfe_refuses():
    eta = marginals(4, 3, 0)
    with pytest.raises(ValueError, match="Coverage is not a smooth function"):
        frank_wolfe(eta, 1, mixed(Utility.COVERAGE, 3, 1))
    with pytest.raises(ValueError, match="init must be"):
        frank_wolfe(eta, 1, macro(Utility.TP, 3), init="greedy")
    with pytest.raises(ValueError, match="max_iter"):
        frank_wolfe(eta, 1, macro(Utility.TP, 3), max_iter=-1)
    with pytest.raises(ValueError, match="k must be"):
        frank_wolfe(eta, 0, macro(Utility.TP, 3))
    with pytest.raises(ValueError, match="y_true has the shape"):
        frank_wolfe(eta, 1, macro(Utility.TP, 3), y_true=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="0 and 1"):
        frank_wolfe(eta, 1, macro(Utility.TP, 3), y_true=np.full((4, 3), 2))

    def not_finite(tp, fp, fn, tn):
        return np.nan

    with pytest.raises(ValueError, match="finite"):
        frank_wolfe(eta, 1, macro(not_finite, 3))


# ----------------------------------------------------------------------------- rules and mixtures


@pytest.mark.parametrize("k", [1, 3, 9])
def test_affine_topk_equals_the_definition(k):
    rng = np.random.default_rng(0)
    eta = marginals(20, 6, 0, density=0.6)
    a, b = rng.normal(size=6), rng.normal(size=6)
    expected = reference.affine_topk(
        eta.toarray().astype(float), eta.toarray() > 0, k, a.astype(float), b
    )
    decision = affine_topk(eta, k, a, b)
    np.testing.assert_array_equal(decision.toarray(), expected)
    a.flags.writeable = b.flags.writeable = False
    np.testing.assert_array_equal(affine_topk(eta, k, a, b).toarray(), expected)


def test_ties_of_a_rule_go_to_the_smaller_label():
    eta = sp.csr_array(np.full((1, 4), 0.5, dtype=np.float32))
    decision = affine_topk(eta, 2, np.ones(4), np.zeros(4))
    np.testing.assert_array_equal(decision.toarray(), [[1, 1, 0, 0]])


def test_mixture_inclusion_is_the_mean_of_the_rules():
    rng = np.random.default_rng(0)
    eta = marginals(20, 6, 0, density=0.6)
    a, b, weight = rng.normal(size=(3, 6)), rng.normal(size=(3, 6)), np.array([0.5, 0.0, 0.5])
    inclusion = mixture_inclusion(eta, 2, a, b, weight)
    expected = sum(
        w * affine_topk(eta, 2, *rule).toarray() for w, *rule in zip(weight, a, b, strict=True)
    )
    np.testing.assert_allclose(inclusion.toarray(), expected, atol=1e-15)
    np.testing.assert_allclose(inclusion.sum(axis=1), np.minimum(2, np.diff(eta.indptr)))
    assert (inclusion.data > 0).all()
    # a row alone gives the same bits
    alone = mixture_inclusion(eta[4:5], 2, a, b, weight)
    np.testing.assert_array_equal(alone.toarray(), inclusion[4:5].toarray())


def test_bad_rules():
    eta = marginals(4, 3, 0)
    good = np.ones(3)
    with pytest.raises(ValueError, match=r"b must have the shape \(3,\)"):
        affine_topk(eta, 1, good, np.ones(2))
    with pytest.raises(ValueError, match="a must be finite; label 1"):
        affine_topk(eta, 1, [1.0, np.nan, 1.0], good)
    with pytest.raises(TypeError, match="a must be numbers"):
        affine_topk(eta, 1, ["a", "b", "c"], good)
    with pytest.raises(ValueError, match="differ in shape"):
        mixture_inclusion(eta, 1, np.ones((2, 3)), np.ones((1, 3)), [0.5, 0.5])
    for weight in ([0.5, 0.4], [1.5, -0.5], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="sum to 1"):
            mixture_inclusion(eta, 1, np.ones((2, 3)), np.ones((2, 3)), weight)
    with pytest.raises(ValueError, match="weight must have the shape"):
        mixture_inclusion(eta, 1, np.ones((2, 3)), np.ones((2, 3)), [1.0])


# ---------------------------------------------------------------------------------- Madow's method


def inclusions(n_rows, n_labels, k, seed):
    """Random inclusion probabilities with k in each row, some of them 1."""
    rng = np.random.default_rng(seed)
    draws = rng.random((n_rows, 9, n_labels)).argsort(axis=2)[:, :, :k]
    inclusion = np.zeros((n_rows, n_labels))
    for i in range(n_rows):
        for draw in draws[i]:
            inclusion[i, draw] += 1 / 9
    inclusion[0] = 0
    inclusion[0, :k] = 1
    return canonical_csr(sp.csr_array(inclusion), np.float64)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_madow_takes_exactly_k_as_the_definition(k):
    inclusion = inclusions(200, 8, k, k)
    for seed in range(5):
        decision = madow_sample(inclusion, seed)
        np.testing.assert_array_equal(np.diff(decision.indptr), k)
        assert (decision.toarray() <= (inclusion.toarray() > 0)).all()
        assert decision.dtype == np.uint8
        for i in range(200):
            row = slice(inclusion.indptr[i], inclusion.indptr[i + 1])
            u = reference.row_uniform(inclusion.indices[row], inclusion.data[row], seed)
            taken = inclusion.indices[row][reference.madow_row(inclusion.data[row], u)]
            if len(taken) == k:  # the definition has no guard against rounding
                np.testing.assert_array_equal(np.flatnonzero(decision.toarray()[i]), taken)
    np.testing.assert_array_equal(np.flatnonzero(decision.toarray()[0]), np.arange(k))


def test_madow_frequencies():
    inclusion = np.array([[0.1, 0.9, 0.35, 0.65, 1.0, 0.0]])
    n_seeds = 2000
    total = np.zeros(6)
    for seed in range(n_seeds):
        total += madow_sample(sp.csr_array(inclusion), seed).toarray()[0]
    error = np.sqrt(inclusion[0] * (1 - inclusion[0]) / n_seeds)
    assert (np.abs(total / n_seeds - inclusion[0]) <= 4.5 * error).all()


def test_a_key_makes_equal_rows_independent():
    n_rows = 4000
    inclusion = canonical_csr(
        sp.csr_array(np.tile([0.25, 0.5, 0.75, 0.5], (n_rows, 1))), np.float64
    )
    alike = madow_sample(inclusion, 0).toarray()
    assert (alike == alike[0]).all()
    decision = madow_sample(inclusion, 0, key=marginals(n_rows, 4, 0)).toarray()
    error = np.sqrt(np.array([0.25, 0.5, 0.75, 0.5]) ** 2 / n_rows)
    assert (np.abs(decision.mean(axis=0) - [0.25, 0.5, 0.75, 0.5]) <= 4.5 * error).all()
    np.testing.assert_array_equal(decision.sum(axis=1), 2)


def test_a_row_gets_the_same_draw_alone_in_a_batch_and_elsewhere():
    inclusion, key = inclusions(50, 8, 3, 0), marginals(50, 8, 1)
    for given in (None, key):
        batch = madow_sample(inclusion, 7, key=given).toarray()
        for i in (0, 13, 49):
            alone = madow_sample(
                inclusion[i : i + 1], 7, key=None if given is None else given[i : i + 1]
            )
            np.testing.assert_array_equal(alone.toarray()[0], batch[i])
        order = np.random.default_rng(0).permutation(50)
        shuffled = madow_sample(inclusion[order], 7, key=None if given is None else given[order])
        np.testing.assert_array_equal(shuffled.toarray(), batch[order])
    assert (madow_sample(inclusion, 8).toarray() != madow_sample(inclusion, 7).toarray()).any()


def test_the_mean_of_samples_is_the_mixture():
    """Sampling keeps the expected confusion matrix that Frank-Wolfe optimised."""
    eta = marginals(400, 6, 0)
    a, b, weight, _ = frank_wolfe(eta, 2, macro(Utility.GMEAN, 6))
    assert len(weight) > 1
    inclusion = mixture_inclusion(eta, 2, a, b, weight)
    n_seeds = 200
    total = np.zeros(eta.shape)
    for seed in range(n_seeds):
        total += madow_sample(inclusion, seed, key=eta).toarray()
    # five standard errors of the most uncertain probability
    assert np.abs(total / n_seeds - inclusion.toarray()).max() < 5 * 0.5 / np.sqrt(n_seeds)
    counts = expected_counts(eta, madow_sample(inclusion, 0, key=eta))
    np.testing.assert_allclose(counts.tp, randomised_counts(eta, inclusion).tp, atol=0.03)


def test_madow_with_rounding_short_and_empty_rows():
    third = np.array([[1 / 3, 1 / 3, 1 / 3], [0, 0, 0], [0.1 + 0.2, 0.7, 1.0], [1, 1, 1]])
    third[0] -= 1e-9
    for seed in range(200):
        decision = madow_sample(sp.csr_array(third), seed)
        np.testing.assert_array_equal(np.diff(decision.indptr), [1, 0, 2, 3])
    tenth = sp.csr_array(np.full((1, 100), 0.07))
    for seed in range(200):
        assert madow_sample(tenth, seed).nnz == 7
    for shape in ((0, 3), (3, 0)):
        assert madow_sample(sp.csr_array(shape, dtype=float), 0).shape == shape


def test_madow_refuses():
    with pytest.raises(ValueError, match=r"row 1 sum to 0\.5"):
        madow_sample(sp.csr_array([[0.5, 0.5], [0.25, 0.25]]), 0)
    with pytest.raises(ValueError, match="inclusion must hold probabilities"):
        madow_sample(sp.csr_array([[1.5, 0.5]]), 0)
    with pytest.raises(TypeError, match="seed"):
        madow_sample(sp.csr_array([[1.0, 0.0]]), 0.5)
    with pytest.raises(ValueError, match="seed"):
        madow_sample(sp.csr_array([[1.0, 0.0]]), -1)
    with pytest.raises(ValueError, match="key has 2 rows"):
        madow_sample(sp.csr_array([[1.0, 0.0]]), 0, key=sp.csr_array((2, 3), dtype=float))
    with pytest.raises(TypeError, match="key must be a sparse"):
        madow_sample(sp.csr_array([[1.0, 0.0]]), 0, key=np.ones((1, 2)))
