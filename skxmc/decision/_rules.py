"""How the k labels of each row are chosen from the marginal probabilities, method by method."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.ops.macro_at_k import (
    affine_topk,
    block_coordinate_ascent,
    closed_form_gains,
    frank_wolfe,
    greedy_pass,
    madow_sample,
    mixture_inclusion,
    objective_value,
    online_pass,
)

#: Methods that decide about all given rows together: expected test utility.
JOINT_METHODS = ("bca", "greedy", "online")
#: Methods that learn a rule in `fit`, which then looks at one row at a time: population utility.
ROW_METHODS = ("frank-wolfe", "closed-form")


class Rule(NamedTuple):
    """A randomised classifier: the k largest of ``a * eta + b``, for one of several a and b.

    Attributes
    ----------
    a, b : ndarray of shape (n_classifiers, n_labels), float64
        Slopes and offsets of the gains (thesis equation 4.21).
    weight : ndarray of shape (n_classifiers,), float64
        Probability of each classifier; sums to 1.
    """

    a: np.ndarray
    b: np.ndarray
    weight: np.ndarray


def decide_together(eta, k, objective, method, *, init="top", max_sweeps=100, tol=1e-6, seed=0):
    """Choose k labels in each row, with regard to the other rows; returns a CSR 0/1 matrix.

    O(stored entries) time a sweep and memory: labels that are no row's candidate cost nothing.
    """
    if eta.nnz == 0:
        return sp.csr_array(eta.shape, dtype=np.uint8)
    if eta.nnz < eta.shape[1]:
        labels, eta_seen, objective = _without_unused_labels(eta, objective)
        options = {"init": init, "max_sweeps": max_sweeps, "tol": tol, "seed": seed}
        decision = decide_together(eta_seen, k, objective, method, **options)
        return sp.csr_array(
            (decision.data, labels[decision.indices], decision.indptr), shape=eta.shape
        )
    if method == "bca":
        decision, _ = block_coordinate_ascent(
            eta, k, objective, init=init, max_sweeps=max_sweeps, tol=tol, seed=seed
        )
    elif method == "greedy":
        decision = greedy_pass(eta, k, objective, seed=seed)
    else:
        decision, _ = online_pass(eta, k, objective)
    return decision


def _without_unused_labels(eta, objective):
    """The labels that are somewhere stored, and marginals and objective of these alone.

    Whatever is decided, the others contribute the same to the objective.
    """
    labels, columns = np.unique(eta.indices, return_inverse=True)
    smaller = sp.csr_array(
        (eta.data, columns.astype(np.int32), eta.indptr), shape=(eta.shape[0], len(labels))
    )
    terms = tuple(
        term._replace(weight=term.weight[labels]) if np.ndim(term.weight) else term
        for term in objective.terms
    )
    return labels, smaller, objective._replace(terms=terms)


def learn_rule(eta, Y, k, objective, method, *, max_iter=100, tol=1e-6, seed=0):
    """Learn a `Rule` from out-of-fold marginals and true labels; also the history of the utility.

    The closed form looks at the frequency of the labels only, and has no history.

    Frank-Wolfe can take the labels or the marginals for the truth. Labels are right where the
    probabilities are not, marginals are smooth where a label has few positives; which of them leads
    to the better rule differs from metric to metric. Both are learned, and the rule whose sampled
    decision is worth more on the labels is kept.
    """
    if method == "closed-form":
        a, b = closed_form_gains(objective, label_frequencies(Y))
        return Rule(np.atleast_2d(a), np.atleast_2d(b), np.ones(1)), None
    learned = []
    for truth, init in ((None, "top"), (Y, "prior")):
        a, b, weight, history = frank_wolfe(
            eta, k, objective, y_true=truth, init=init, max_iter=max_iter, tol=tol
        )
        rule = Rule(a, b, weight)
        worth = objective_value((Y, apply_rule(rule, eta, k, seed)), objective)
        learned.append((worth, rule, history))
    _, rule, history = max(learned, key=lambda entry: entry[0])
    return rule, history


def apply_rule(rule, eta, k, seed):
    """Choose k labels in each row by a rule; the answer of a row does not depend on the others."""
    if len(rule.weight) == 1:
        return affine_topk(eta, k, rule.a[0], rule.b[0])
    inclusion = mixture_inclusion(eta, k, rule.a, rule.b, rule.weight)
    return madow_sample(inclusion, seed, key=eta)  # rows of different marginals draw apart


def label_frequencies(Y):
    """Share of the rows that have each label, float64."""
    counts = np.bincount(Y.indices, minlength=Y.shape[1])
    return counts / Y.shape[0]
