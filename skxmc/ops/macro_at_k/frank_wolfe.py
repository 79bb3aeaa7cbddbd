"""Decision rules learned on a tuning set (population utility, PU): Frank-Wolfe."""

import numpy as np

from skxmc.ops.macro_at_k._inputs import (
    check_labels,
    check_marginals,
    csr_views,
    hits_of,
    longest_row,
    new_state,
    raise_not_finite,
    readonly,
    set_positives,
    user_errors,
)
from skxmc.ops.macro_at_k._kernels import (
    N_COLUMNS,
    WEIGHT,
    P,
    Q,
    T,
    choose_affine,
    count_answers,
)
from skxmc.ops.macro_at_k._kernels import kernels as compile_kernels
from skxmc.ops.macro_at_k._types import has_coverage, prepare_objective
from skxmc.ops.macro_at_k.numba_ import check_limits
from skxmc.ops.topk._types import check_k

# Where the line search looks first: many small steps, because the value may jump just above 0 (the
# precision of a label that has not been answered before).
_STEPS = np.unique(np.concatenate([np.geomspace(1e-6, 1.0, 25), np.linspace(0.05, 1.0, 20)]))
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_N_REFINEMENTS = 30

# How far the slopes of labels at the border are taken inside the feasible set, and how often that
# is made 10 times less where no step is found.
_INSIDE = 1e-3
_SMALLEST_INSIDE = 1e-9
_AS_GOOD_AS_0 = 1e-12


def frank_wolfe(eta, k, objective, *, y_true=None, init="top", max_iter=100, tol=1e-6, seed=0):
    """Learn a randomised rule of exactly k labels a row with a large utility on a population.

    The rule is a mixture of top-k rules of affine functions a_j eta_j + b_j. It decides each row on
    its own, so it can be applied to new rows: `mixture_inclusion` and `madow_sample`.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of a tuning set, from models that were not fitted on it.
    k : int
        Answers a row, at least 1.
    objective : Objective
        What to maximise; coverage is refused.
    y_true : sparse array or matrix, or ndarray, of shape (n_rows, n_labels), or None, default=None
        The true labels of the tuning set: the confusion matrices are then those of real labels.
        None takes the marginals as the truth.
    init : {"top", "prior", "random"}, default="top"
        The first rule: the largest marginals, the largest marginals relative to the label's
        mean, or a random order of the labels.
    max_iter : int, default=100
        At most so many further rules.
    tol : float, default=1e-6
        Stop where a step raises the value by less.
    seed : int, numpy.random.Generator or None, default=0
        For ``init="random"``.

    Returns
    -------
    a, b : ndarray of shape (n_rules, n_labels), float32
        The coefficients of the rules, in the order in which they were found.
    weight : ndarray of shape (n_rules,), float64
        Probability of each rule, above 0; they sum to 1.
    history : ndarray of shape (n_steps + 1,), float64
        Value of the mixture on the tuning set, at first and after each step. It never falls.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described; for coverage, which is not a function of rates; if a
        user's utility is not finite.

    Notes
    -----
    Section 4.4 of [1]_: at the confusion tensor C of the mixture, the linear problem with the gains
    G = grad Psi(C) (equation 4.23) is solved by the top k of a_j eta_j + b_j (equations 4.21 and
    4.22). C of a mixture is linear in the step, so the line search on [0, 1] needs no pass over
    the rows: a grid refined by golden sections, which does not rely on Psi being concave. With a
    concave Psi (G-mean, H-mean, or linear ones) the values converge to the optimum like 1 / step,
    up to labels without a finite gradient; with others (precision, F-beta, Jaccard) to a stationary
    point.

    Values are exact, without smoothing. Slopes of a label that the mixture never answers, or whose
    rate is 0 where psi may not be differentiable, are taken a little inside the feasible
    set: 1 - 1e-3 parts of C and 1e-3 parts of the uniform random choice of k candidates. Where
    that leads to no step, the part is made smaller, down to 1e-9. Macro precision has
    no maximum but a supremum, at rules of vanishing weight.

    O(stored entries) time a step, and some 80 evaluations of the value of O(labels). Memory
    8 (n_rules + 16) bytes a label besides the input.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, frank_wolfe
    >>> eta = sp.csr_array([[0.75, 0.25], [0.75, 0.5]])
    >>> macro_recall = Objective((Term(Utility.RECALL, 1 / 2),))
    >>> a, b, weight, history = frank_wolfe(eta, 1, macro_recall)
    >>> weight, history.round(4)
    (array([1.]), array([0.5   , 0.5833]))
    """
    eta = check_marginals(eta)
    n_labels = eta.shape[1]
    k = min(check_k(k), max(longest_row(eta), 1))
    prepared = prepare_objective(objective, n_labels)
    if has_coverage(prepared):
        raise ValueError(
            "Coverage is not a smooth function of the rates of a population, so Frank-Wolfe "
            "cannot maximise it: use block_coordinate_ascent, greedy_pass or online_pass."
        )
    max_iter, tol = check_limits(max_iter, tol, "max_iter")
    search = _Search(eta, k, prepared, y_true)

    rule = _first_rule(init, eta, search, seed)
    rules, weight = [rule], [1.0]
    state = search.rates(rule)
    history = [search.value(state, state, 0.0)]
    inside = _INSIDE
    for _ in range(max_iter):
        rule, is_smoothed = search.best_rule(state, inside)
        target = search.rates(rule)
        step, value = search.line(state, target, history[-1])
        if value - history[-1] < max(tol, 0.0) or step == 0.0:
            if not is_smoothed or inside <= _SMALLEST_INSIDE:
                # The newest rule keeps its share where it brings anything at all.
                if step > 0.0:
                    _mix_in(rules, weight, rule, step)
                    history.append(value)
                break
            inside *= 0.1
            continue
        _mix_in(rules, weight, rule, step)
        state[:, :P] += step * (target[:, :P] - state[:, :P])
        history.append(value)
    weight = np.array(weight)
    a, b = (np.stack([rule[i] for rule in rules]) for i in range(2))
    return a, b, weight / weight.sum(), np.array(history)


def _first_rule(init, eta, search, seed):
    n_labels = eta.shape[1]
    zeros = np.zeros(n_labels, dtype=np.float32)
    if isinstance(init, str) and init == "top":
        return np.ones(n_labels, dtype=np.float32), zeros
    if isinstance(init, str) and init == "prior":
        p = search.uniform[:, P]
        return np.divide(1.0, p, out=np.zeros(n_labels), where=p > 0).astype(np.float32), zeros
    if isinstance(init, str) and init == "random":
        return zeros, np.random.default_rng(seed).random(n_labels, dtype=np.float32)
    raise ValueError(f"init must be 'top', 'prior' or 'random', got {init!r}.")


def _mix_in(rules, weight, rule, step):
    """Give the newest rule the share ``step``; rules with no share left are dropped."""
    shares = [share * (1.0 - step) for share in weight]
    for i, (a, b) in enumerate(rules):
        if np.array_equal(a, rule[0]) and np.array_equal(b, rule[1]):
            shares[i] += step
            break
    else:
        rules.append(rule)
        shares.append(step)
    kept = [i for i, share in enumerate(shares) if share > 0.0]
    rules[:] = [rules[i] for i in kept]
    weight[:] = [shares[i] for i in kept]


class _Search:
    """The tuning set, and what the steps of the algorithm ask of it. Rates, not counts."""

    def __init__(self, eta, k, prepared, y_true):
        self.k, self.prepared = k, prepared
        self.n_rows, n_labels = eta.shape
        self.data, self.indices, self.indptr = csr_views(eta)
        self.mass, truth = self.data, eta
        if y_true is not None:
            truth = check_labels(y_true, eta.shape, "y_true")
            (self.mass,) = readonly(hits_of(eta, truth))
        self.kernels = compile_kernels(prepared.functions)
        self.chosen = np.full((self.n_rows, k), -1, dtype=np.int32)
        # Rates of the uniform random choice of k candidates: inside of the feasible set.
        self.uniform = new_state(n_labels, prepared.weight)
        set_positives(self.uniform, truth)
        lengths = np.diff(self.indptr)
        share = np.repeat(np.minimum(k / np.maximum(lengths, 1), 1.0), lengths)
        for column, values in ((T, share * self.mass), (Q, share)):
            self.uniform[:, column] = np.bincount(self.indices, values, minlength=n_labels)
        self.uniform[:, : P + 1] /= max(self.n_rows, 1)

    def rates(self, rule):
        """The rates of a rule, as a state."""
        a, b = readonly(*(values.astype(np.float64) for values in rule))
        failed = choose_affine(self.data, self.indices, self.indptr, a, b, self.k, self.chosen)
        if failed >= 0:
            raise_not_finite(failed, self.prepared.functions)
        state = np.zeros((len(self.uniform), N_COLUMNS))
        count_answers(self.mass, self.indices, self.indptr, self.chosen, state)
        state[:, :P] /= max(self.n_rows, 1)
        state[:, P] = self.uniform[:, P]
        state[:, WEIGHT : WEIGHT + 2] = self.uniform[:, WEIGHT : WEIGHT + 2]
        return state

    def best_rule(self, state, inside):
        """The rule that is best for the gradient at ``state``, and whether that was smoothed."""
        t, q, p = state[:, T], state[:, Q], state[:, P]
        # tp, tn or q is 0, or as good as that after many steps away from a rule: some utilities are
        # not differentiable there, or too steep for a step to be found
        smallest = np.minimum(np.minimum(t, q), 1.0 - p - q + t)
        border = (smallest <= _AS_GOOD_AS_0) & (self.uniform[:, Q] > 0.0)
        point = state.copy()
        point[border, :P] += inside * (self.uniform[border, :P] - state[border, :P])
        a, b = np.empty(len(state)), np.empty(len(state))
        with user_errors(self.prepared.functions):
            self.kernels.slopes(point, self.prepared.codes, self.prepared.betas, a, b)
        with np.errstate(over="ignore"):
            rule = a.astype(np.float32), b.astype(np.float32)
        wrong = ~(np.isfinite(rule[0]) & np.isfinite(rule[1]))
        if wrong.any():
            label = int(np.argmax(wrong))
            raise ValueError(
                f"The slopes of the objective at label {label} are {a[label]} and {b[label]}: "
                "its utility must be finite for all rates from 0 to 1. Define its 0 / 0, for "
                "example as 0."
            )
        return rule, bool(border.any())

    def value(self, state, target, step):
        with user_errors(self.prepared.functions):
            value = self.kernels.path_value(
                state, target, float(step), self.prepared.codes, self.prepared.betas
            )
        if not np.isfinite(value):
            raise ValueError(
                f"The objective is {value}: its utilities must be finite for all rates from 0 to "
                "1. Define their 0 / 0, for example as 0."
            )
        return value

    def line(self, state, target, value_at_0):
        """The step in [0, 1] of the largest value, and that value."""
        moved = (state[:, T] != target[:, T]) | (state[:, Q] != target[:, Q])
        state, target = state[moved], target[moved]
        at_0 = self.value(state, target, 0.0)
        values = [self.value(state, target, step) for step in _STEPS]
        best = int(np.argmax(values))
        step, value = _STEPS[best], values[best]
        low = _STEPS[best - 1] if best else 0.0
        high = _STEPS[min(best + 1, len(_STEPS) - 1)]
        for _ in range(_N_REFINEMENTS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            at_left, at_right = (self.value(state, target, s) for s in (left, right))
            for s, v in ((left, at_left), (right, at_right)):
                if v > value:
                    step, value = s, v
            low, high = (left, high) if at_left < at_right else (low, right)
        if value <= at_0:
            return 0.0, value_at_0
        return float(step), value_at_0 + (value - at_0)
