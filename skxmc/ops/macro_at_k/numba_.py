"""Decisions for a given test set (expected test utility, ETU) and decisions on the go."""

import numbers
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops.macro_at_k._inputs import (
    check_labels,
    check_marginals,
    chosen_to_csr,
    column_sums,
    csr_to_chosen,
    csr_views,
    hits_of,
    locate,
    longest_row,
    new_state,
    raise_not_finite,
    readonly,
    row_lengths,
    set_positives,
    user_errors,
)
from skxmc.ops.macro_at_k._kernels import (
    LOG_MISS,
    SURE,
    WEIGHT,
    P,
    Q,
    T,
    choose_affine,
    count_answers,
    sweep_quotients,
)
from skxmc.ops.macro_at_k._kernels import kernels as compile_kernels
from skxmc.ops.macro_at_k._types import (
    LINEAR,
    Counts,
    has_coverage,
    is_linear,
    prepare_objective,
    quotient_forms,
)
from skxmc.ops.topk._types import check_k


def expected_counts(eta, decision):
    """Expected confusion matrix of each label, as fractions of the rows.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1]; absent is 0. With a 0/1 label matrix in their place the
        result is the confusion matrix itself.
    decision : sparse array or matrix, or ndarray, of shape (n_rows, n_labels)
        0/1. Answers without a stored marginal are wrong with certainty.

    Returns
    -------
    Counts
        tp, fp, fn and tn of each label, float64 of shape (n_labels,); they sum to 1 (to 0 where
        there are no rows).

    Raises
    ------
    ValueError
        If a marginal is outside [0, 1] or the shapes differ.

    Notes
    -----
    The mean over the rows of yhat eta, yhat (1 - eta), (1 - yhat) eta and (1 - yhat) (1 - eta):
    equation 4.15 of [1]_. O(stored entries) time and memory.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import expected_counts
    >>> eta = sp.csr_array([[0.75, 0.25], [0.5, 0.0]])
    >>> expected_counts(eta, sp.csr_array([[1, 0], [1, 0]])).tp
    array([0.625, 0.   ])
    """
    eta = check_marginals(eta)
    decision = check_labels(decision, eta.shape, "decision")
    n_rows, n_labels = eta.shape
    if n_rows == 0:
        return Counts(*(np.zeros(n_labels) for _ in Counts._fields))
    entries = locate(eta, decision)
    answered = entries[entries >= 0]
    t = np.bincount(eta.indices[answered], weights=eta.data[answered], minlength=n_labels)
    q = np.bincount(decision.indices, minlength=n_labels)
    p = column_sums(eta)
    tp, fp, fn = (np.maximum(count, 0.0) / n_rows for count in (t, q - t, p - t))
    return Counts(tp, fp, fn, np.maximum(1.0 - tp - fp - fn, 0.0))


def objective_value(counts, objective):
    """Value of an objective.

    Parameters
    ----------
    counts : Counts, or tuple (eta, decision)
        Rates of each label, or the marginals and the decision (see `expected_counts`) to take them
        from. With a 0/1 label matrix as ``eta`` it is the value that was reached.
    objective : Objective
        What to evaluate.

    Returns
    -------
    float
        Sum over terms and labels of weight_j psi(tp_j, fp_j, fn_j, tn_j). For coverage it is the
        expectation itself, 1 - prod_i (1 - yhat_ij eta_ij); for the others psi at the expected
        rates, the semi-empirical value of equation 4.16 of [1]_.

    Raises
    ------
    ValueError
        If coverage is asked for from rates, of which it is no function; if a user's utility is not
        finite.

    Notes
    -----
    O(stored entries + labels) time and memory. There is no smoothing: 0 / 0 is 0.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, objective_value
    >>> eta = sp.csr_array([[0.75, 0.25], [0.5, 0.0]])
    >>> macro_precision = Objective((Term(Utility.PRECISION, 1 / 2),))
    >>> objective_value((eta, sp.csr_array([[1, 0], [1, 0]])), macro_precision)
    0.3125
    """
    if not isinstance(counts, tuple) or len(counts) not in (2, 4):
        raise TypeError(
            "counts must be the tuple (tp, fp, fn, tn) of rates or the tuple (eta, decision), got "
            f"{type(counts).__name__}."
        )
    if len(counts) == 2:
        eta, decision = counts
        eta = check_marginals(eta)
        decision = check_labels(decision, eta.shape, "decision")
        prepared = prepare_objective(objective, eta.shape[1])
        rates = expected_counts(eta, decision)
        state = _state_of(rates, prepared)
        if has_coverage(prepared):
            entries = locate(eta, decision)
            answered = entries[entries >= 0]
            labels, mass = eta.indices[answered], eta.data[answered].astype(np.float64)
            sure = mass == 1.0
            state[:, SURE] = np.bincount(labels[sure], minlength=eta.shape[1])
            log_miss = np.log1p(-mass[~sure])
            state[:, LOG_MISS] = np.bincount(labels[~sure], log_miss, minlength=eta.shape[1])
    else:
        rates = _check_rates(counts)
        prepared = prepare_objective(objective, len(rates.tp))
        if has_coverage(prepared):
            raise ValueError(
                "Coverage is not a function of expected rates; pass the tuple (eta, decision)."
            )
        state = _state_of(rates, prepared)
    return _value(state, prepared, 1.0)


def _state_of(rates, prepared):
    state = new_state(len(rates.tp), prepared.weight)
    state[:, T], state[:, Q], state[:, P] = rates.tp, rates.tp + rates.fp, rates.tp + rates.fn
    return state


def _check_rates(counts):
    rates = [np.asarray(rate, dtype=np.float64) for rate in counts]
    if any(rate.ndim != 1 or rate.shape != rates[0].shape for rate in rates):
        raise ValueError(
            "tp, fp, fn and tn must be arrays of one length, one value a label; got the shapes "
            f"{[rate.shape for rate in rates]}."
        )
    for name, rate in zip(Counts._fields, rates, strict=True):
        wrong = ~((rate >= 0) & (rate <= 1 + 1e-9))
        if wrong.any():
            label = int(np.argmax(wrong))
            raise ValueError(
                f"{name} must hold rates in [0, 1], fractions of the rows; label {label} has "
                f"{rate[label]}."
            )
    return Counts(*rates)


def _value(state, prepared, scale):
    worth = np.empty(len(state))
    with user_errors(prepared.functions):
        total = compile_kernels(prepared.functions).value(
            state, prepared.codes, prepared.betas, scale, worth
        )
    if not np.isfinite(total):
        label = int(np.argmin(np.isfinite(worth)))
        raise ValueError(
            f"The objective is {total}: the utility of label {label} must be finite for all rates "
            "from 0 to 1. Define its 0 / 0, for example as 0."
        )
    return total


def _scale(n_rows):
    return 1.0 / max(n_rows, 1)


def _order(seed):
    """A generator from an int, a `numpy.random.Generator` or None."""
    return np.random.default_rng(seed)


def initial_choice(eta, k, init, rng):
    """Positions (n_rows, k) to start from: "top", "random", "greedy" (none) or a decision."""
    chosen = np.full((eta.shape[0], k), -1, dtype=np.int32)
    if isinstance(init, str):
        if init == "greedy":
            return chosen
        if init in ("top", "random"):
            data, indices, indptr = csr_views(eta)
            if init == "random":
                (data,) = readonly(rng.random(len(data), dtype=np.float32))
            ones, zeros = readonly(np.ones(eta.shape[1]), np.zeros(eta.shape[1]))
            choose_affine(data, indices, indptr, ones, zeros, k, chosen)
            return chosen
    elif sp.issparse(init) or isinstance(init, np.ndarray):
        return csr_to_chosen(check_labels(init, eta.shape, "init"), eta, k)
    raise ValueError(
        f"init must be 'top', 'greedy', 'random' or a decision of the shape of eta, got {init!r}."
    )


def _sweep(eta, order, prepared, state, gains, chosen):
    (order,) = readonly(np.ascontiguousarray(order, dtype=np.int64))
    scale = _scale(eta.shape[0])
    forms, coverage = quotient_forms(prepared, scale)
    if forms is not None:
        sweep, terms = sweep_quotients, (forms, coverage)
    else:
        sweep = compile_kernels(prepared.functions).sweep
        terms = (prepared.codes, prepared.betas, scale)
    with user_errors(prepared.functions):
        failed = sweep(*csr_views(eta), order, terms, state, gains, chosen)
    if failed >= 0:
        raise_not_finite(failed, prepared.functions)


def _setup(eta, k, objective):
    eta = check_marginals(eta)
    k = min(check_k(k), max(longest_row(eta), 1))
    prepared = prepare_objective(objective, eta.shape[1])
    state = new_state(eta.shape[1], prepared.weight)
    return eta, k, prepared, state, np.empty(longest_row(eta))


def block_coordinate_ascent(
    eta, k, objective, *, init="top", max_sweeps=100, tol=1e-6, shuffle=True, seed=0
):
    """Choose k labels a row so that the expected utility of these rows becomes large.

    One row after the other is given the k labels that are best while all other rows stay as they
    are, until a sweep over all rows brings nothing more. The value never falls. The result is a
    local optimum: no change of a single row improves it.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of the candidates; only stored entries (explicit zeros
        too) can be answered.
    k : int
        Answers a row, at least 1. A row with fewer candidates gets all of them; otherwise there
        are exactly k, also where an answer costs more than it brings.
    objective : Objective
        What to maximise.
    init : {"top", "greedy", "random"} or decision, default="top"
        Where to start: the k largest marginals; no answers, so that the first sweep is
        `greedy_pass`; k random candidates; or a 0/1 matrix (n_rows, n_labels) with at most k
        stored candidates a row.
    max_sweeps : int, default=100
        At most so many passes over the rows.
    tol : float, default=1e-6
        Stop after a sweep that raises the value by less, in the unit of the objective.
    shuffle : bool, default=True
        Visit the rows in a new random order in each sweep, instead of in their order.
    seed : int, numpy.random.Generator or None, default=0
        Of the random orders and of the random start.

    Returns
    -------
    decision : csr_array of shape (n_rows, n_labels), uint8
        Canonical, min(k, stored entries) ones a row.
    history : ndarray of shape (n_sweeps + 1,), float64
        The value at the start and after each sweep. It never falls, except in the first sweep
        from a start with fewer than k answers in a row.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described, or a user's utility is not finite.

    Notes
    -----
    The value is `objective_value`: psi at expected rates, and exact for coverage. With the row's
    own answers removed from the counts, the gain of an answer is psi with it minus psi without it
    (exact, no derivative), and the best answers are the k largest gains, ties by the smaller
    label: section 4.3 of [1]_. Gains and counts are in float64; the counts are taken anew before
    each sweep. O(stored entries) time a sweep; memory 8 k bytes a row and 128 bytes a label besides
    the input. Objectives that are linear in the decisions (equation 4.17) are solved in one sweep.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    Two rows that both know label 0 best; macro recall gains more from the rare label 1:

    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, block_coordinate_ascent
    >>> eta = sp.csr_array([[0.75, 0.25], [0.75, 0.0]])
    >>> macro_recall = Objective((Term(Utility.RECALL, 1 / 2),))
    >>> decision, history = block_coordinate_ascent(eta, 1, macro_recall)
    >>> decision.toarray()
    array([[0, 1],
           [1, 0]], dtype=uint8)
    >>> history
    array([0.5 , 0.75])
    """
    eta, k, prepared, state, gains = _setup(eta, k, objective)
    max_sweeps, tol = check_limits(max_sweeps, tol, "max_sweeps")
    rng = _order(seed)
    n_rows = eta.shape[0]
    chosen = initial_choice(eta, k, init, rng)
    data, indices, indptr = csr_views(eta)
    set_positives(state, eta)
    count_answers(data, indices, indptr, chosen, state)
    history = [_value(state, prepared, _scale(n_rows))]
    if max_sweeps > 0 and is_linear(prepared):
        # No row depends on another: the gains of the first sweep are those of all.
        gains = _linear_gains(state[:, P] * _scale(n_rows), prepared)
        choose_affine(data, indices, indptr, *readonly(*gains), k, chosen)
        count_answers(data, indices, indptr, chosen, state)
        history.append(_value(state, prepared, _scale(n_rows)))
        return chosen_to_csr(chosen, eta), np.array(history)
    n_answers = np.minimum(row_lengths(eta), k).sum()
    is_complete = np.count_nonzero(chosen >= 0) == n_answers
    for _ in range(max_sweeps):
        order = rng.permutation(n_rows) if shuffle else np.arange(n_rows)
        _sweep(eta, order, prepared, state, gains, chosen)
        count_answers(data, indices, indptr, chosen, state)
        history.append(_value(state, prepared, _scale(n_rows)))
        if is_complete and history[-1] - history[-2] < tol:
            break
        is_complete = True
    return chosen_to_csr(chosen, eta), np.array(history)


def check_limits(max_steps, tol, name):
    if isinstance(max_steps, bool) or not isinstance(max_steps, numbers.Integral):
        raise TypeError(f"{name} must be an integer of at least 0, got {max_steps!r}.")
    if max_steps < 0:
        raise ValueError(f"{name} must be at least 0, got {max_steps}.")
    if isinstance(tol, bool) or not isinstance(tol, numbers.Real):
        raise TypeError(f"tol must be a number, got {tol!r}.")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}.")
    return int(max_steps), float(tol)


def greedy_pass(eta, k, objective, *, order=None, seed=0):
    """Choose k labels a row in one pass: each row is decided given the rows before it.

    The first sweep of `block_coordinate_ascent` from an empty decision.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of the candidates.
    k : int
        Answers a row, at least 1.
    objective : Objective
        What to maximise.
    order : array-like of int, shape (n_rows,), or None, default=None
        The order in which the rows are decided, a permutation; None draws one.
    seed : int, numpy.random.Generator or None, default=0
        For ``order=None``.

    Returns
    -------
    decision : csr_array of shape (n_rows, n_labels), uint8
        Canonical, min(k, stored entries) ones a row.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described, or a user's utility is not finite.

    Notes
    -----
    The expected positives of a label are those of all rows from the start, because the marginals
    are known; only the answers are added row by row. O(stored entries) time.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, greedy_pass
    >>> eta = sp.csr_array([[0.75, 0.5], [0.75, 0.5]])
    >>> greedy_pass(eta, 1, Objective((Term(Utility.COVERAGE, 1 / 2),)), order=[0, 1]).toarray()
    array([[1, 0],
           [0, 1]], dtype=uint8)
    """
    eta, k, prepared, state, gains = _setup(eta, k, objective)
    n_rows = eta.shape[0]
    if order is None:
        order = _order(seed).permutation(n_rows)
    else:
        order = np.asarray(order)
        if order.shape != (n_rows,) or (n_rows and order.dtype.kind not in "iu"):
            raise ValueError(f"order must be a permutation of the {n_rows} row numbers.")
        order = order.astype(np.int64)
        if not np.array_equal(np.sort(order), np.arange(n_rows)):
            raise ValueError(f"order must be a permutation of the {n_rows} row numbers.")
    chosen = initial_choice(eta, k, "greedy", None)
    set_positives(state, eta)
    _sweep(eta, order, prepared, state, gains, chosen)
    return chosen_to_csr(chosen, eta)


class OnlineState(NamedTuple):
    """What `online_pass` has seen so far.

    Attributes
    ----------
    n_rows : int
        Number of rows.
    counts : ndarray of shape (n_labels, 5), float64
        Of each label the true positives, predicted and positives as sums over the rows (expected
        ones where no labels were given), and for coverage the log of the probability that no
        uncertain answer was right and the number of answers that were right for certain.
    """

    n_rows: int
    counts: np.ndarray


# Imaginary true positives, false positives, false negatives and true negatives.
_PRIOR = np.array([1e-3, 1.0, 1e-2, 1.0])


def online_pass(eta, k, objective, *, y_true=None, state=None):
    """Decide rows one after the other, each from the confusion matrices of the rows before it.

    The online measure optimisation algorithm (OMMA): one pass, no access to later rows, and where
    the true labels become known after each decision they correct the counts.

    Parameters
    ----------
    eta : sparse array or matrix of shape (n_rows, n_labels)
        Marginal probabilities in [0, 1] of the candidates, in the order of arrival.
    k : int
        Answers a row, at least 1.
    objective : Objective
        What to maximise.
    y_true : sparse array or matrix, or ndarray, of shape (n_rows, n_labels), or None, default=None
        The true labels, revealed after the decision for their row. None counts with ``eta``.
    state : OnlineState or None, default=None
        Of an earlier pass, to go on from; it is not changed.

    Returns
    -------
    decision : csr_array of shape (n_rows, n_labels), uint8
        Canonical, min(k, stored entries) ones a row.
    state : OnlineState
        To be passed on. Cutting the rows into several passes does not change the decisions.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described, or a user's utility is not finite.

    Notes
    -----
    The answers are the top k of a_j eta_j + b_j (equations 4.21 and 4.22 of [1]_), with the slopes
    of the objective at the running rates; the method is that of [2]_. So that slopes exist from
    the first row on, each label starts with an imaginary 1 false positive, 1 true negative, 1/100
    false negative and 1/1000 true positive, which matter less and less. Coverage has the gain
    weight_j eta_j times the probability that label j has not been hit yet. The slopes of a user's
    utility are difference quotients. O(stored entries) time; memory 64 bytes a label.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.
    .. [2] W. Kotlowski, M. Wydmuch, E. Schultheis, R. Babbar and K. Dembczynski, "A general online
       algorithm for optimizing complex performance metrics", ICML 2024.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, online_pass
    >>> eta = sp.csr_array([[0.75, 0.5], [0.75, 0.5]])
    >>> decision, state = online_pass(eta, 1, Objective((Term(Utility.COVERAGE, 1 / 2),)))
    >>> decision.toarray()
    array([[1, 0],
           [0, 1]], dtype=uint8)
    >>> state.n_rows
    2
    """
    eta, k, prepared, counts, gains = _setup(eta, k, objective)
    n_seen = 0
    if state is not None:
        n_seen = state.n_rows
        if np.shape(state.counts) != (eta.shape[1], WEIGHT):
            raise ValueError(
                f"state is of {len(state.counts)} labels, but eta has {eta.shape[1]} columns."
            )
        counts[:, :WEIGHT] = state.counts
    data, indices, indptr = csr_views(eta)
    hits, y_indices, y_indptr = data, indices, indptr
    if y_true is not None:
        y_true = check_labels(y_true, eta.shape, "y_true")
        _, y_indices, y_indptr = csr_views(y_true)
        (hits,) = readonly(hits_of(eta, y_true))
    chosen = np.full((eta.shape[0], k), -1, dtype=np.int32)
    with user_errors(prepared.functions):
        failed = compile_kernels(prepared.functions).online(
            *(data, hits, y_true is not None, indices, indptr, _PRIOR, float(n_seen)),
            *(prepared.codes, prepared.betas, counts, y_indices, y_indptr, gains, chosen),
        )
    if failed >= 0:
        raise_not_finite(failed, prepared.functions)
    state = OnlineState(n_seen + eta.shape[0], counts[:, :WEIGHT].copy())
    return chosen_to_csr(chosen, eta), state


def closed_form_gains(objective, priors):
    """The coefficients of the optimal rule top-k of a_j eta_j + b_j for a linear objective.

    Parameters
    ----------
    objective : Objective
        Of the utilities TP, RECALL and BALANCED_ACCURACY, which are linear in the decisions.
    priors : array-like of shape (n_labels,)
        Fraction of positives of each label, in [0, 1].

    Returns
    -------
    a, b : ndarray of shape (n_labels,), float64
        For `affine_topk`.

    Raises
    ------
    ValueError
        If a utility is not linear, or a prior outside [0, 1].

    Notes
    -----
    Equations 4.17 and 4.18 of [1]_: recall has a = 1 / prior, balanced accuracy
    a = (1 / prior + 1 / (1 - prior)) / 2 and b = -1 / (2 (1 - prior)), each times the weight; a
    quotient by 0 is 0. For the rows that the priors are the mean marginals of, no decision has a
    larger `objective_value`.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.

    Examples
    --------
    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility, closed_form_gains
    >>> closed_form_gains(Objective((Term(Utility.RECALL, 1 / 2),)), [0.5, 0.125])
    (array([1., 4.]), array([0., 0.]))
    """
    priors = np.asarray(priors, dtype=np.float64)
    if priors.ndim != 1:
        raise ValueError(f"priors must be one value a label, got the shape {priors.shape}.")
    wrong = ~((priors >= 0) & (priors <= 1))
    if wrong.any():
        label = int(np.argmax(wrong))
        raise ValueError(f"priors must lie in [0, 1]; label {label} has {priors[label]}.")
    prepared = prepare_objective(objective, len(priors))
    for term in objective.terms:
        if callable(term.utility) or term.utility not in LINEAR:
            name = getattr(term.utility, "name", None) or getattr(term.utility, "__name__", "")
            raise ValueError(
                f"The utility {name or term.utility} is not linear in the decisions, so there is "
                "no closed form: use block_coordinate_ascent or frank_wolfe."
            )
    return _linear_gains(priors, prepared)


def _linear_gains(priors, prepared):
    state = new_state(len(priors), prepared.weight)
    state[:, P] = priors
    a, b = np.empty(len(priors)), np.empty(len(priors))
    compile_kernels(()).slopes(state, prepared.codes, prepared.betas, a, b)
    return a, b
