"""Decisions for a given test set against the definition, enumeration and scikit-learn."""

import functools
import itertools

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import (
    balanced_accuracy_score,
    fbeta_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from skxmc.ops._jit import jit
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
    greedy_pass,
    numba_,
    objective_value,
    online_pass,
    reference,
)
from skxmc.ops.macro_at_k._inputs import csr_views
from skxmc.ops.macro_at_k._kernels import count_answers

LINEAR = [Utility.TP, Utility.RECALL, Utility.BALANCED_ACCURACY]
NEEDS_TN = [Utility.BALANCED_ACCURACY, Utility.GMEAN, Utility.HMEAN]
OF_RATES = [utility for utility in Utility if utility != Utility.COVERAGE]


@jit(cache=False)
def user_f1(tp, fp, fn, tn):
    return 2 * tp / (2 * tp + fp + fn) if tp > 0 else 0.0


def plain_sqrt(tp, fp, fn, tn):
    return tp**0.5 - 0.1 * fp


def macro(utility, n_labels, beta=1.0):
    return Objective((Term(utility, 1 / n_labels, beta),))


def mixed(utility, n_labels, k, alpha=0.5, beta=1.0):
    """(1 - alpha) precision@k + alpha macro utility: section 4.5 of the thesis."""
    return Objective(
        (Term(Utility.TP, (1 - alpha) / k), Term(utility, alpha / n_labels, beta)),
    )


def marginals(n_rows, n_labels, seed, density=0.7, extremes=True):
    """Marginals with rows of different length, some of them exactly 0 or 1."""
    rng = np.random.default_rng(seed)
    eta = rng.random((n_rows, n_labels), dtype=np.float32)
    if extremes:
        eta[rng.random(eta.shape) < 0.1] = 1.0
        eta[rng.random(eta.shape) < 0.1] = 0.0
    stored = rng.random(eta.shape) < density
    rows, columns = np.nonzero(stored)
    return canonical_csr(sp.csr_array((eta[stored], (rows, columns)), shape=eta.shape)), stored


def answers_per_row(decision):
    return np.diff(decision.indptr)


OBJECTIVES = {
    **{u.name: macro(u, 6, 2.0 if u == Utility.FBETA else 1.0) for u in Utility},
    **{f"mixed {u.name}": mixed(u, 6, 2, beta=0.5) for u in Utility},
    "user": macro(user_f1, 6),
    "mixed user": mixed(user_f1, 6, 2),  # the same function, so that kernels compile once
    "two users": Objective((Term(user_f1, 0.1), Term(plain_sqrt, np.arange(6) / 6))),
    "weights of both signs": Objective(
        (Term(Utility.PRECISION, np.linspace(-1, 1, 6)), Term(Utility.COVERAGE, 0.2))
    ),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


# ---------------------------------------------------------------------------------------- values


@each_objective
@pytest.mark.parametrize("seed", range(2))
def test_value_equals_the_definition(objective, seed):
    eta, _ = marginals(7, 6, seed)
    decision = np.random.default_rng(seed).integers(0, 2, size=(7, 6))
    expected = reference.objective_value(eta.toarray().astype(float), decision, objective)
    value = objective_value((eta, sp.csr_array(decision)), objective)
    assert value == pytest.approx(expected, abs=1e-12)


def test_expected_counts_equal_the_definition():
    eta, _ = marginals(9, 5, 1)
    decision = np.random.default_rng(0).integers(0, 2, size=(9, 5))
    counts = expected_counts(eta, decision)
    for rate, expected in zip(
        counts, reference.rates(eta.toarray().astype(float), decision), strict=True
    ):
        np.testing.assert_allclose(rate, expected, atol=1e-12)
    np.testing.assert_allclose(np.sum(counts, axis=0), 1.0, atol=1e-12)
    objective = mixed(Utility.GMEAN, 5, 2)
    assert objective_value(counts, objective) == objective_value((eta, decision), objective)


@pytest.mark.parametrize(
    ("utility", "beta", "score"),
    [
        (Utility.PRECISION, 1.0, precision_score),
        (Utility.RECALL, 1.0, recall_score),
        (Utility.FBETA, 1.0, lambda *a, **k: fbeta_score(*a, beta=1, **k)),
        # The recall side carries beta^2, not the precision side.
        (Utility.FBETA, 2.0, lambda *a, **k: fbeta_score(*a, beta=2, **k)),
        (Utility.FBETA, 0.5, lambda *a, **k: fbeta_score(*a, beta=0.5, **k)),
        (Utility.JACCARD, 1.0, jaccard_score),
    ],
)
def test_values_on_labels_equal_scikit_learn(utility, beta, score):
    rng = np.random.default_rng(3)
    Y, decision = rng.integers(0, 2, size=(2, 40, 8))
    decision[:, 2] = 0
    Y[:, 3] = 0
    Y[:, 4] = decision[:, 4] = 0
    expected = score(Y, decision, average="macro", zero_division=0)
    value = objective_value((sp.csr_array(Y), sp.csr_array(decision)), macro(utility, 8, beta))
    assert value == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_on_labels_equals_scikit_learn():
    Y, decision = np.random.default_rng(3).integers(0, 2, size=(2, 40, 8))
    expected = np.mean([balanced_accuracy_score(Y[:, j], decision[:, j]) for j in range(8)])
    value = objective_value(
        (sp.csr_array(Y), sp.csr_array(decision)), macro(Utility.BALANCED_ACCURACY, 8)
    )
    assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("utility", OF_RATES)
def test_zero_by_zero_is_zero(utility):
    zero, one = np.zeros(1), np.ones(1)
    for rates in itertools.product([zero, one], repeat=4):
        if sum(rate[0] for rate in rates) != 1:
            continue
        expected = reference.utility_value(utility, 1.0, *rates)[0]
        assert objective_value(Counts(*rates), macro(utility, 1)) == expected
        assert np.isfinite(expected)
    assert objective_value(Counts(zero, zero, zero, one), macro(utility, 1)) == {
        Utility.BALANCED_ACCURACY: 0.5
    }.get(utility, 0.0)


def test_coverage_is_the_expectation_over_all_label_matrices():
    rng = np.random.default_rng(0)
    eta = rng.random((3, 3)).astype(np.float32)
    eta[0, 0], eta[1, 1] = 1.0, 0.0
    decision = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    expectation = 0.0
    for bits in itertools.product([0, 1], repeat=9):
        Y = np.reshape(bits, (3, 3))
        probability = np.prod(np.where(Y == 1, eta.astype(float), 1 - eta.astype(float)))
        expectation += probability * ((Y * decision).sum(axis=0) > 0).mean()
    value = objective_value((sp.csr_array(eta), decision), macro(Utility.COVERAGE, 3))
    assert value == pytest.approx(expectation, abs=1e-12)


@pytest.mark.parametrize("utility", LINEAR + [Utility.PRECISION])
def test_values_linear_in_the_labels_are_expectations(utility):
    """Equation 4.16 is exact where phi is linear in t, at fixed p."""
    eta = np.array([[0.5, 0.25], [0.75, 0.5], [0.25, 1.0]], dtype=np.float32)
    decision = np.array([[1, 0], [0, 1], [1, 0]])
    if utility in (Utility.TP, Utility.PRECISION):
        expectation = 0.0
        for bits in itertools.product([0, 1], repeat=6):
            Y = np.reshape(bits, (3, 2))
            probability = np.prod(np.where(Y == 1, eta, 1 - eta))
            expectation += probability * objective_value((Y_csr(Y), decision), macro(utility, 2))
        value = objective_value((sp.csr_array(eta), decision), macro(utility, 2))
        assert value == pytest.approx(expectation, abs=1e-12)
    else:  # p is random too: linear in the counts t and q only
        counts = expected_counts(sp.csr_array(eta), decision)
        half = Counts(counts.tp / 2, counts.fp / 2, counts.fn + counts.tp / 2, counts.tn)
        half = half._replace(tn=1 - half.tp - half.fp - half.fn)
        none = Counts(0 * half.tp, 0 * half.fp, counts.tp + counts.fn, counts.fp + counts.tn)
        objective = macro(utility, 2)
        middle = (objective_value(counts, objective) + objective_value(none, objective)) / 2
        assert objective_value(half, objective) == pytest.approx(middle, abs=1e-12)


def Y_csr(Y):
    return sp.csr_array(Y.astype(np.float32))


# ------------------------------------------------------------------------ block coordinate ascent


@each_objective
@pytest.mark.parametrize("seed", [1])
def test_each_row_is_decided_as_by_the_definition_and_the_value_never_falls(objective, seed):
    eta, stored = marginals(8, 6, seed)
    dense = eta.toarray().astype(float)
    k = 2
    eta, k, prepared, state, gains = numba_._setup(eta, k, objective)
    rng = np.random.default_rng(seed)
    chosen = numba_.initial_choice(eta, k, "random", rng)
    numba_.set_positives(state, eta)
    count_answers(*csr_views(eta), chosen, state)
    decision = numba_.chosen_to_csr(chosen, eta).toarray().astype(float)
    value = reference.objective_value(dense, decision, objective)
    for _ in range(3):
        for i in rng.permutation(8):
            numba_._sweep(eta, np.array([i]), prepared, state, gains, chosen)
            reference.decide_row(dense, stored, k, objective, decision, i)
            new = numba_.chosen_to_csr(chosen, eta).toarray().astype(float)
            new_value = reference.objective_value(dense, new, objective)
            # By value, because gains that differ by rounding alone are as good.
            assert new_value == pytest.approx(
                reference.objective_value(dense, decision, objective), abs=1e-12
            )
            assert new_value >= value - 1e-12
            value, decision = new_value, new


@each_objective
@pytest.mark.parametrize("init", ["top", "random", "greedy"])
def test_the_value_never_falls_from_sweep_to_sweep(objective, init):
    eta, _ = marginals(30, 6, 5)
    decision, history = block_coordinate_ascent(eta, 2, objective, init=init, tol=0, max_sweeps=20)
    steps = np.diff(history)[1 if init == "greedy" else 0 :]
    assert (steps >= -1e-12).all()
    assert history[-1] == pytest.approx(objective_value((eta, decision), objective), abs=1e-12)
    np.testing.assert_array_equal(answers_per_row(decision), np.minimum(2, np.diff(eta.indptr)))


def all_decisions(stored, k):
    """Every decision with min(k, candidates) answers in each row."""
    rows = []
    for candidates in stored:
        labels = np.flatnonzero(candidates)
        rows.append(list(itertools.combinations(labels, min(k, len(labels)))))
    for picks in itertools.product(*rows):
        decision = np.zeros(stored.shape)
        for i, labels in enumerate(picks):
            decision[i, list(labels)] = 1
        yield decision


@pytest.mark.parametrize("utility", Utility)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_optimum_by_enumeration(utility, alpha):
    """From a few starts the optimum is found; one start is at most 10 % away from it."""
    n_rows, n_labels, k = 4, 4, 2
    objective = mixed(utility, n_labels, k, alpha)
    for seed in range(3):
        eta, stored = marginals(n_rows, n_labels, seed, density=0.8)
        dense = eta.toarray().astype(float)
        optimum = max(
            reference.objective_value(dense, decision, objective)
            for decision in all_decisions(stored, k)
        )
        starts = ["top", "greedy"] + ["random"] * 10
        values = [
            block_coordinate_ascent(eta, k, objective, init=init, seed=i, tol=0)[1][-1]
            for i, init in enumerate(starts)
        ]
        assert max(values) == pytest.approx(optimum, abs=1e-10)
        assert values[0] >= 0.9 * optimum
        if utility in LINEAR:
            np.testing.assert_allclose(values, optimum, atol=1e-10)


@each_objective
def test_no_change_of_one_row_improves_the_result(objective):
    eta, stored = marginals(10, 6, 8)
    dense = eta.toarray().astype(float)
    decision, history = block_coordinate_ascent(eta, 2, objective, tol=0)
    dense_decision = decision.toarray().astype(float)
    for i in range(10):
        for row in all_decisions(stored[i : i + 1], 2):
            other = dense_decision.copy()
            other[i] = row[0]
            assert reference.objective_value(dense, other, objective) <= history[-1] + 1e-12


@pytest.mark.parametrize("utility", LINEAR)
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_closed_form_of_linear_utilities(utility, alpha):
    """Equations 4.17 and 4.18: no iteration is needed, and the optimum is found."""
    objective = mixed(utility, 5, 2, alpha)
    for seed in range(10):
        eta, stored = marginals(5, 5, seed)
        priors = eta.toarray().astype(float).mean(axis=0)
        a, b = closed_form_gains(objective, priors)
        value = objective_value((eta, affine_topk(eta, 2, a, b)), objective)
        _, history = block_coordinate_ascent(eta, 2, objective, tol=0)
        assert value == pytest.approx(history[-1], abs=1e-12)
        assert value == pytest.approx(history[1], abs=1e-12)  # one sweep is enough
        if seed < 2:
            optimum = max(
                reference.objective_value(eta.toarray().astype(float), decision, objective)
                for decision in all_decisions(stored, 2)
            )
            assert value == pytest.approx(optimum, abs=1e-12)


def test_closed_forms_are_those_of_the_literature():
    priors = np.array([0.0, 0.1, 0.5, 1.0])
    a, b = closed_form_gains(macro(Utility.RECALL, 1), priors)
    np.testing.assert_allclose(a, [0, 10, 2, 1])
    np.testing.assert_array_equal(b, 0)
    a, b = closed_form_gains(macro(Utility.BALANCED_ACCURACY, 1), priors)
    eta = 0.3
    gain = eta / priors[1:3] - (1 - eta) / (1 - priors[1:3])
    np.testing.assert_allclose((a * eta + b)[1:3], gain / 2)
    a, b = closed_form_gains(Objective((Term(Utility.TP, 1 / (3 * priors[1:])),)), priors[1:])
    np.testing.assert_allclose(a, 1 / (3 * priors[1:]))  # PSP@3
    with pytest.raises(ValueError, match="PRECISION is not linear"):
        closed_form_gains(macro(Utility.PRECISION, 4), priors)
    with pytest.raises(ValueError, match="user_f1 is not linear"):
        closed_form_gains(macro(user_f1, 4), priors)


def test_precision_at_k_is_the_top_k():
    eta, stored = marginals(20, 6, 3, extremes=False)
    decision, _ = block_coordinate_ascent(eta, 3, macro(Utility.TP, 3), init="random")
    top = reference.affine_topk(eta.toarray(), stored, 3, 1.0, 0.0)
    np.testing.assert_array_equal(decision.toarray(), top)
    np.testing.assert_array_equal(affine_topk(eta, 3, np.ones(6), np.zeros(6)).toarray(), top)


def test_greedy_pass_equals_the_definition_and_the_first_sweep():
    objective = mixed(Utility.JACCARD, 6, 2)
    eta, stored = marginals(12, 6, 4)
    order = np.random.default_rng(7).permutation(12)
    expected, _ = reference.block_coordinate_sweep(
        eta.toarray().astype(float), stored, 2, objective, np.zeros((12, 6)), order
    )
    decision = greedy_pass(eta, 2, objective, order=order)
    np.testing.assert_array_equal(decision.toarray(), expected)
    first, _ = block_coordinate_ascent(eta, 2, objective, init="greedy", max_sweeps=1, seed=7)
    np.testing.assert_array_equal(greedy_pass(eta, 2, objective, seed=7).toarray(), first.toarray())


def test_start_from_a_decision():
    eta, _ = marginals(15, 6, 0)
    objective = macro(Utility.FBETA, 6)
    start, _ = block_coordinate_ascent(eta, 2, macro(Utility.TP, 6))
    for init in (start, start.toarray(), sp.csc_matrix(start)):
        decision, history = block_coordinate_ascent(eta, 2, objective, init=init)
        assert history[0] == pytest.approx(objective_value((eta, start), objective), abs=1e-12)
    top, _ = block_coordinate_ascent(eta, 2, objective, init="top")
    np.testing.assert_array_equal(decision.toarray(), top.toarray())
    unchanged, history = block_coordinate_ascent(eta, 2, objective, init=start, max_sweeps=0)
    np.testing.assert_array_equal(unchanged.toarray(), start.toarray())
    assert len(history) == 1


def test_an_incomplete_start_is_completed():
    # The full row has a negative gain, so the first sweep lowers the value: it must not stop there.
    objective = Objective((Term(Utility.TP, np.array([-1.0, -2.0, 1.0])),))
    eta = sp.csr_array(np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32))
    decision, history = block_coordinate_ascent(eta, 1, objective, init=np.zeros((2, 3)))
    np.testing.assert_array_equal(decision.toarray(), [[1, 0, 0], [1, 0, 0]])
    assert history[0] == 0.0
    assert history[-1] == -0.5


def test_same_seed_same_answer():
    eta, _ = marginals(40, 6, 2)
    objective = macro(Utility.PRECISION, 6)
    first, _ = block_coordinate_ascent(eta, 2, objective, init="random", seed=3)
    again, _ = block_coordinate_ascent(eta, 2, objective, init="random", seed=3)
    np.testing.assert_array_equal(first.toarray(), again.toarray())


def test_macro_objectives_are_raised_over_the_top_k():
    """On a long tail the decision differs from the top k, and the true labels confirm it."""
    rng = np.random.default_rng(0)
    n_rows, n_labels, k = 2000, 50, 3
    propensity = 1 / np.arange(1, n_labels + 1)
    eta = (rng.random((n_rows, n_labels)) ** 3 * propensity**0.5).astype(np.float32)
    Y = sp.csr_array((rng.random(eta.shape) < eta).astype(np.float32))
    eta = sp.csr_array(eta)
    top = affine_topk(eta, k, np.ones(n_labels), np.zeros(n_labels))
    for utility in (Utility.PRECISION, Utility.FBETA, Utility.GMEAN, Utility.JACCARD):
        objective = macro(utility, n_labels)
        decision, history = block_coordinate_ascent(eta, k, objective)
        assert objective_value((Y, decision), objective) > 1.05 * objective_value(
            (Y, top), objective
        )
        # The semi-empirical value is close to the one on real labels (equation 4.16).
        assert objective_value((Y, decision), objective) == pytest.approx(history[-1], abs=0.02)


# ----------------------------------------------------- what went wrong in other implementations


def test_k_equal_to_and_above_the_number_of_labels():
    eta = sp.csr_array(np.full((3, 2), 0.5, dtype=np.float32))
    for k in (2, 3, 1000):
        for utility in Utility:
            decision, history = block_coordinate_ascent(eta, k, macro(utility, 2))
            np.testing.assert_array_equal(decision.toarray(), 1)
            assert np.isfinite(history).all()
            np.testing.assert_array_equal(greedy_pass(eta, k, macro(utility, 2)).toarray(), 1)
            np.testing.assert_array_equal(online_pass(eta, k, macro(utility, 2))[0].toarray(), 1)


@pytest.mark.parametrize("utility", Utility)
def test_short_and_empty_rows_are_not_padded_with_label_0(utility):
    eta = sp.csr_array(
        (
            np.array([0.5, 0.9, 0.1, 0.2, 0.3], dtype=np.float32),
            (np.array([0, 2, 2, 2, 2]), np.array([3, 0, 1, 2, 4])),
        ),
        shape=(4, 5),
    )
    for objective in (macro(utility, 5), mixed(utility, 5, 3)):
        for decide in (block_coordinate_ascent, online_pass):
            decision, _ = decide(eta, 3, objective)
            np.testing.assert_array_equal(answers_per_row(decision), [1, 0, 3, 0])
            np.testing.assert_array_equal(decision.toarray()[0], [0, 0, 0, 1, 0])
        np.testing.assert_array_equal(answers_per_row(greedy_pass(eta, 3, objective)), [1, 0, 3, 0])


@pytest.mark.parametrize("utility", Utility)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (3, 4)])
def test_no_rows_no_labels_no_candidates(utility, shape):
    eta = sp.csr_array(shape, dtype=np.float32)
    objective = Objective((Term(utility, 1.0),))
    decision, history = block_coordinate_ascent(eta, 2, objective)
    assert decision.shape == shape
    assert decision.nnz == 0
    assert np.isfinite(history).all()
    assert online_pass(eta, 2, objective)[0].shape == shape
    assert greedy_pass(eta, 2, objective).shape == shape
    assert np.isfinite(objective_value((eta, decision), objective))


@pytest.mark.parametrize("utility", Utility)
def test_certain_marginals_are_decided_rightly(utility):
    """With eta of 0 and 1 and k answers a row that are right, the best decision is known."""
    rng = np.random.default_rng(1)
    Y = np.zeros((30, 6), dtype=np.float32)
    for row in Y:
        row[rng.permutation(6)[:2]] = 1
    rows, columns = np.nonzero(np.ones_like(Y))
    eta = sp.csr_array((Y[rows, columns], (rows, columns)), shape=Y.shape)  # with stored zeros
    assert eta.nnz == Y.size
    for init in ("top", "random", "greedy"):
        decision, history = block_coordinate_ascent(eta, 2, mixed(utility, 6, 2, 0.5), init=init)
        assert history[-1] == pytest.approx(0.5 + 0.5 * (1 / 3 if utility == Utility.TP else 1))
        np.testing.assert_array_equal(decision.toarray(), Y)


def test_coverage_forgets_a_certain_answer():
    """Taking back an answer with eta = 1 must not divide by 1 - eta."""
    eta = sp.csr_array(np.array([[1.0, 0.9], [1.0, 0.1], [1.0, 0.0]], dtype=np.float32))
    start = np.array([[1, 0], [1, 0], [1, 0]])
    decision, history = block_coordinate_ascent(
        eta, 1, macro(Utility.COVERAGE, 2), init=start, shuffle=False
    )
    # Row 2 has no other stored candidate than label 0, so both others are free for label 1.
    assert history[-1] == pytest.approx((1 + 1 - 0.1 * 0.9) / 2, abs=1e-7)
    np.testing.assert_array_equal(decision.toarray(), [[0, 1], [0, 1], [1, 0]])


@pytest.mark.parametrize("n_rows", [2, 11])
def test_the_mixed_gain_is_that_of_the_stated_utility(n_rows):
    """Also where the numbers of rows and labels differ: alpha means what it says."""
    eta, stored = marginals(n_rows, 4, 2, density=1.0, extremes=False)
    dense = eta.toarray().astype(float)
    objective = mixed(Utility.COVERAGE, 4, 1, 0.7)
    decision, history = block_coordinate_ascent(eta, 1, objective, tol=0)
    dense_decision = decision.toarray()
    value = 0.3 * (dense_decision * dense).sum() / n_rows
    value += 0.7 * (1 - np.prod(1 - dense_decision * dense, axis=0)).mean()
    assert history[-1] == pytest.approx(value, abs=1e-12)
    if n_rows == 2:
        optimum = max(
            reference.objective_value(dense, other, objective) for other in all_decisions(stored, 1)
        )
        assert value == pytest.approx(optimum, abs=1e-12)


@pytest.mark.parametrize("utility", NEEDS_TN)
def test_true_negatives_count_in_mixtures(utility):
    """Three labels with the same tp, fp and fn gains but other numbers of negatives."""
    eta, stored = marginals(6, 3, 0, density=1.0, extremes=False)
    dense = eta.toarray().astype(float)
    objective = mixed(utility, 3, 1, 0.9)
    optimum = max(
        reference.objective_value(dense, decision, objective)
        for decision in all_decisions(stored, 1)
    )
    values = [
        block_coordinate_ascent(eta, 1, objective, init="random", seed=s, tol=0)[1][-1]
        for s in range(20)
    ]
    assert max(values) == pytest.approx(optimum, abs=1e-12)


def test_every_row_is_visited_and_the_best_labels_win():
    """A loop over the normalised number of rows, or a maximum with the wrong sign, fails here."""
    eta, _ = marginals(50, 6, 11, extremes=False)
    worst = affine_topk(eta, 2, -np.ones(6), np.zeros(6))
    decision, history = block_coordinate_ascent(eta, 2, macro(Utility.TP, 2), init=worst)
    top = affine_topk(eta, 2, np.ones(6), np.zeros(6))
    np.testing.assert_array_equal(decision.toarray(), top.toarray())
    assert len(history) == 2  # a linear objective needs no second sweep


def test_ties_go_to_the_smaller_label():
    eta = sp.csr_array(np.full((1, 5), 0.5, dtype=np.float32))
    for utility in Utility:
        decision, _ = block_coordinate_ascent(eta, 2, macro(utility, 5), init="random", seed=1)
        np.testing.assert_array_equal(decision.toarray(), [[1, 1, 0, 0, 0]])


def test_labels_without_answers_leave_no_rounding_error():
    """After an answer is taken back, its label is at 0 / 0 again and so worth 0."""
    rng = np.random.default_rng(0)
    eta, k, prepared, state, gains = numba_._setup(
        sp.csr_array(rng.random((200, 3)).astype(np.float32)), 1, macro(Utility.PRECISION, 3)
    )
    chosen = numba_.initial_choice(eta, k, "random", rng)
    numba_.set_positives(state, eta)
    count_answers(*csr_views(eta), chosen, state)
    for _ in range(3):
        numba_._sweep(eta, rng.permutation(200), prepared, state, gains, chosen)
        fresh = state.copy()
        count_answers(*csr_views(eta), chosen, fresh)
        np.testing.assert_allclose(state, fresh, atol=1e-12)
        np.testing.assert_array_equal(state[fresh[:, 1] == 0, :2], 0.0)


# --------------------------------------------------------------------------------- online decisions


@each_objective
@pytest.mark.parametrize("labelled", [False, True])
def test_online_equals_the_definition_row_by_row(objective, labelled):
    """The slopes of the definition are difference quotients at the same smoothed rates."""
    eta, stored = marginals(12, 6, 6)
    dense = eta.toarray().astype(float)
    Y = (np.random.default_rng(1).random(dense.shape) < 0.4).astype(float)
    truth = Y if labelled else dense
    decision, state = online_pass(eta, 2, objective, y_true=Y if labelled else None)
    decision = decision.toarray().astype(float)
    t, q, p = np.zeros((3, 6))
    miss = np.ones(6)
    prior = [1e-3, 1.0, 1e-2, 1.0]
    for i in range(12):
        n = i + sum(prior)
        tp, fp, fn = (t + prior[0]) / n, (q - t + prior[1]) / n, (p - t + prior[2]) / n
        smooth = [term for term in objective.terms if term.utility != Utility.COVERAGE]
        a, b = reference.slopes(Objective(tuple(smooth)), tp, fp, fn, 1 - tp - fp - fn)
        for term in objective.terms:
            if term.utility == Utility.COVERAGE:
                a += term.weight * miss * n
        gains = np.where(stored[i], a * dense[i] + b, -np.inf)
        best = np.sort(gains)[::-1][: int(decision[i].sum())]
        np.testing.assert_allclose(
            np.sort(gains[decision[i] > 0])[::-1], best, rtol=1e-5, atol=1e-5
        )
        assert decision[i].sum() == min(2, stored[i].sum())
        t += decision[i] * truth[i]
        q += decision[i]
        p += truth[i]
        miss *= 1 - decision[i] * truth[i]
    np.testing.assert_allclose(state.counts[:, :3], np.stack([t, q, p], axis=1), atol=1e-12)
    assert state.n_rows == 12


@pytest.mark.parametrize("labelled", [False, True])
def test_online_in_pieces_is_the_same(labelled):
    eta, _ = marginals(30, 6, 6)
    Y = sp.csr_array((np.random.default_rng(1).random((30, 6)) < 0.3).astype(np.uint8))
    objective = mixed(Utility.FBETA, 6, 2)
    whole, last = online_pass(eta, 2, objective, y_true=Y if labelled else None)
    state, parts = None, []
    for start, stop in ((0, 1), (1, 17), (17, 30)):
        before = None if state is None else state.counts.copy()
        earlier = state
        part, state = online_pass(
            *(eta[start:stop], 2, objective),
            y_true=Y[start:stop] if labelled else None,
            state=state,
        )
        if earlier is not None:
            np.testing.assert_array_equal(earlier.counts, before)
        parts.append(part.toarray())
    np.testing.assert_array_equal(np.vstack(parts), whole.toarray())
    np.testing.assert_array_equal(state.counts, last.counts)
    assert state.n_rows == last.n_rows == 30


def test_online_comes_close_to_block_coordinate_ascent():
    rng = np.random.default_rng(0)
    n_labels = 40
    eta = (rng.random((3000, n_labels)) ** 4 / np.arange(1, n_labels + 1) ** 0.3).astype(np.float32)
    eta = sp.csr_array(eta)
    top = affine_topk(eta, 3, np.ones(n_labels), np.zeros(n_labels))
    for utility in OF_RATES:
        objective = macro(utility, n_labels)
        _, history = block_coordinate_ascent(eta, 3, objective)
        online = objective_value((eta, online_pass(eta, 3, objective)[0]), objective)
        start = objective_value((eta, top), objective)
        # Precision jumps with the first answer of a label, of which a slope knows nothing.
        share = 0.4 if utility == Utility.PRECISION else 0.9
        assert online >= start + share * (history[-1] - start) - 1e-12


# ---------------------------------------------------------------------------- functions of the user


def python_f1(tp, fp, fn, tn):
    return 2 * tp / (2 * tp + fp + fn) if tp > 0 else 0.0


def f1_with_an_array(tp, fp, fn, tn):
    counts = np.array([2 * tp, fp, fn])
    return 2 * tp / counts.sum() if tp > 0 else 0.0


@pytest.mark.parametrize(
    "function",
    [
        user_f1,
        pytest.param(python_f1, marks=pytest.mark.slow),
        pytest.param(f1_with_an_array, marks=pytest.mark.slow),
        numba.njit(f1_with_an_array),
    ],
)
def test_a_users_utility_equals_the_built_in_one(function):
    eta, _ = marginals(40, 6, 9)
    for mine, built_in in (
        (macro(function, 6), macro(Utility.FBETA, 6)),
        (mixed(function, 6, 2), mixed(Utility.FBETA, 6, 2)),
    ):
        decision, history = block_coordinate_ascent(eta, 2, mine, init="random")
        expected, expected_history = block_coordinate_ascent(eta, 2, built_in, init="random")
        np.testing.assert_array_equal(decision.toarray(), expected.toarray())
        np.testing.assert_allclose(history, expected_history, atol=1e-12)
        online, _ = online_pass(eta, 2, mine)
        expected, _ = online_pass(eta, 2, built_in)
        np.testing.assert_array_equal(online.toarray(), expected.toarray())


def test_a_users_utility_with_undefined_values_is_refused():
    eta, _ = marginals(10, 6, 9)

    def divides(tp, fp, fn, tn):
        return tp / (tp + fp)

    def gives_nan(tp, fp, fn, tn):
        return tp / (tp + fp) if tp + fp > 0 else np.nan

    with pytest.raises(ValueError, match=r"divides.*define its 0 / 0"):
        greedy_pass(eta, 2, macro(divides, 6))
    with pytest.raises(ValueError, match="0 / 0"):
        block_coordinate_ascent(eta, 2, macro(gives_nan, 6))


@pytest.mark.slow
def test_a_compiled_utility_with_undefined_values_is_refused():
    eta, _ = marginals(10, 6, 9)

    @numba.njit
    def divides(tp, fp, fn, tn):
        return tp / (tp + fp)

    # A function that was compiled before keeps Python's rule for a division by zero.
    assert divides(0.25, 0.25, 0.25, 0.25) == 0.5
    with pytest.raises(ValueError, match=r"divides by zero.*define its 0 / 0"):
        greedy_pass(eta, 2, macro(divides, 6))

    @jit(cache=False)
    def infinite(tp, fp, fn, tn):
        return np.inf if fp > 0 else 0.0

    with pytest.raises(ValueError, match=r"infinite.*row"):
        greedy_pass(eta, 2, macro(infinite, 6))


def test_a_users_utility_that_cannot_be_compiled_is_refused():
    eta, _ = marginals(10, 6, 9)

    def two_arguments(tp, fp):
        return tp

    def text(tp, fp, fn, tn):
        return "a"

    for function in (two_arguments, text, functools.partial(user_f1, 0.5)):
        with pytest.raises(TypeError, match="that Numba can compile"):
            greedy_pass(eta, 2, macro(function, 6))


# ------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("decide", [block_coordinate_ascent, greedy_pass, online_pass])
def test_bad_marginals(decide):
    objective = macro(Utility.FBETA, 3)
    good = sp.csr_array(np.full((2, 3), 0.5))
    bad = good.copy()
    bad.data[4] = 1.5
    with pytest.raises(ValueError, match=r"row 1, column 1 holds 1\.5.*predict_proba"):
        decide(bad, 1, objective)
    bad.data[4] = -0.5
    with pytest.raises(ValueError, match=r"\[0, 1\]; row 1, column 1"):
        decide(bad, 1, objective)
    bad.data[4] = np.nan
    with pytest.raises(ValueError, match=r"NaN .row 1, column 1"):
        decide(bad, 1, objective)
    corrupt = good.copy()
    corrupt.indices[5] = 9
    with pytest.raises(ValueError, match="column index 9"):
        decide(corrupt, 1, objective)
    with pytest.raises(TypeError, match="sparse"):
        decide(good.toarray(), 1, objective)


@pytest.mark.parametrize("decide", [block_coordinate_ascent, greedy_pass, online_pass])
def test_bad_k_and_objective(decide):
    eta = sp.csr_array(np.full((2, 3), 0.5))
    for k, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="k must be"):
            decide(eta, k, macro(Utility.FBETA, 3))
    cases = [
        (Objective(()), ValueError, "1 or 2 terms"),
        (Objective((Term(Utility.TP, 1.0),) * 3), ValueError, "1 or 2 terms"),
        ("macro_f1", TypeError, "Objective"),
        (Objective((Term(99, 1.0),)), ValueError, "99 is unknown"),
        (Objective((Term("precision", 1.0),)), TypeError, "member of Utility"),
        (Objective((Term(Utility.TP, np.ones(4)),)), ValueError, r"shape \(3,\)"),
        (Objective((Term(Utility.TP, [1.0, np.nan, 1.0]),)), ValueError, "nan .label 1"),
        (Objective((Term(Utility.TP, "x"),)), TypeError, "weight of term 0"),
        (Objective((Term(Utility.FBETA, 1.0, 0.0),)), ValueError, "beta must be positive"),
        (Objective((Term(Utility.FBETA, 1.0, "1"),)), TypeError, "beta must be a number"),
    ]
    for objective, error, message in cases:
        with pytest.raises(error, match=message):
            decide(eta, 1, objective)


def test_bad_starts_and_limits():
    eta = sp.csr_array(np.array([[0.5, 0.25, 0.0], [0.5, 0.25, 0.125]]))
    objective = macro(Utility.FBETA, 3)
    with pytest.raises(ValueError, match="row 0 answers label 2, which has no stored"):
        block_coordinate_ascent(eta, 1, objective, init=np.array([[0, 0, 1], [1, 0, 0]]))
    with pytest.raises(ValueError, match="row 1 has 2 answers, but k is 1"):
        block_coordinate_ascent(eta, 1, objective, init=np.array([[1, 0, 0], [1, 1, 0]]))
    with pytest.raises(ValueError, match="init has the shape"):
        block_coordinate_ascent(eta, 1, objective, init=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="init must be"):
        block_coordinate_ascent(eta, 1, objective, init="best")
    with pytest.raises(ValueError, match="max_sweeps"):
        block_coordinate_ascent(eta, 1, objective, max_sweeps=-1)
    with pytest.raises(TypeError, match="max_sweeps"):
        block_coordinate_ascent(eta, 1, objective, max_sweeps=1.5)
    for tol, error in ((-1, ValueError), (np.nan, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="tol"):
            block_coordinate_ascent(eta, 1, objective, tol=tol)
    for order in ([0], [0, 0], [0, 2], [0.0, 1.0]):
        with pytest.raises(ValueError, match="permutation of the 2 row numbers"):
            greedy_pass(eta, 1, objective, order=order)
    with pytest.raises(ValueError, match="y_true has the shape"):
        online_pass(eta, 1, objective, y_true=np.zeros((3, 3)))
    _, state = online_pass(eta, 1, objective)
    with pytest.raises(ValueError, match="3 labels, but eta has 2"):
        online_pass(eta[:, :2], 1, macro(Utility.FBETA, 2), state=state)


def test_bad_counts():
    objective = macro(Utility.COVERAGE, 2)
    rate = np.full(2, 0.25)
    with pytest.raises(ValueError, match="not a function of expected rates"):
        objective_value(Counts(rate, rate, rate, rate), objective)
    objective = macro(Utility.TP, 2)
    with pytest.raises(ValueError, match=r"tp must hold rates.*label 1 has 3\.0"):
        objective_value((np.array([0, 3.0]), rate, rate, rate), objective)
    with pytest.raises(ValueError, match="one length"):
        objective_value((rate, rate, rate, np.ones(3)), objective)
    with pytest.raises(TypeError, match="tuple"):
        objective_value(rate, objective)
    with pytest.raises(ValueError, match="decision has the shape"):
        expected_counts(sp.csr_array((2, 3), dtype=np.float32), np.zeros((3, 2)))
    for priors in ([0.5, 1.5], [np.nan, 0.5]):
        with pytest.raises(ValueError, match="priors must lie"):
            closed_form_gains(objective, priors)
    with pytest.raises(ValueError, match="one value a label"):
        closed_form_gains(objective, 0.5)


@pytest.mark.parametrize("objective", [mixed(Utility.FBETA, 6, 2), macro(user_f1, 6)])
def test_any_storage_gives_the_same_answer(objective, tmp_path):
    eta, _ = marginals(20, 6, 13)
    expected, _ = block_coordinate_ascent(eta, 2, objective)
    for array in (eta.data, eta.indices, eta.indptr):
        array.flags.writeable = False
    backwards = np.concatenate(
        [np.arange(stop - 1, start - 1, -1) for start, stop in itertools.pairwise(eta.indptr)]
    )
    unsorted = sp.csr_array(
        (eta.data[backwards], eta.indices[backwards], eta.indptr), shape=eta.shape
    )
    assert not unsorted.has_sorted_indices
    np.save(tmp_path / "data.npy", eta.data)
    mapped = eta.copy()
    mapped.data = np.load(tmp_path / "data.npy", mmap_mode="r")
    wide = eta.copy()
    wide.indices = wide.indices.astype(np.int64)
    variants = [
        eta,
        unsorted,
        mapped,
        wide,
        sp.csr_matrix(eta),
        sp.csc_array(eta),
        sp.coo_array(sp.csr_array((eta.data, eta.indices, eta.indptr), shape=eta.shape)),
    ]
    for variant in [*variants, eta.astype(np.float64)]:
        decision, _ = block_coordinate_ascent(variant, 2, objective)
        np.testing.assert_array_equal(decision.toarray(), expected.toarray())
        assert decision.dtype == np.uint8
        assert (decision.indices.dtype, decision.indptr.dtype) == (np.int32, np.int64)
        assert canonical_csr(decision, np.float32).has_canonical_format
        assert (decision.data == 1).all()


def test_input_is_not_changed():
    eta, _ = marginals(20, 6, 13)
    before = [array.copy() for array in (eta.data, eta.indices, eta.indptr)]
    writeable = [array.flags.writeable for array in (eta.data, eta.indices, eta.indptr)]
    block_coordinate_ascent(eta, 2, macro(Utility.FBETA, 6))
    online_pass(eta, 2, macro(Utility.FBETA, 6), y_true=sp.csr_array(eta > 0.5))
    for array, old, flag in zip(
        (eta.data, eta.indices, eta.indptr), before, writeable, strict=True
    ):
        np.testing.assert_array_equal(array, old)
        assert array.flags.writeable == flag
