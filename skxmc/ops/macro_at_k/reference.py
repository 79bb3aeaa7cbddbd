"""Decisions of k labels a row in plain NumPy: the definition. Dense, one row after the other.

``eta`` is dense here; ``candidates`` says which labels may be answered (the stored entries).
"""

import math

import numpy as np

from skxmc.ops.macro_at_k._types import Utility


def ratio(numerator, denominator):
    """A quotient where 0 / 0 is 0."""
    zero = np.zeros(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)))
    return np.divide(numerator, denominator, out=zero, where=np.asarray(denominator) > 0)


def utility_value(utility, beta, tp, fp, fn, tn):
    """psi(tp, fp, fn, tn) of each label, from arrays of rates; not for coverage."""
    if callable(utility):
        return np.vectorize(utility, otypes=[float])(tp, fp, fn, tn)
    precision, tpr, tnr = ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(tn, tn + fp)
    values = {
        Utility.TP: tp,
        Utility.PRECISION: precision,
        Utility.RECALL: tpr,
        Utility.FBETA: ratio((1 + beta**2) * tp, beta**2 * (tp + fn) + tp + fp),
        Utility.JACCARD: ratio(tp, tp + fp + fn),
        Utility.BALANCED_ACCURACY: (tpr + tnr) / 2,
        Utility.GMEAN: np.sqrt(tpr * tnr),
        Utility.HMEAN: ratio(2 * tpr * tnr, tpr + tnr),
        Utility.FOWLKES_MALLOWS: np.sqrt(precision * tpr),
    }
    return values[utility]


def rates(eta, decision):
    """Expected tp, fp, fn and tn of each label as fractions of the rows."""
    terms = (decision * eta, decision * (1 - eta), (1 - decision) * eta, (1 - decision) * (1 - eta))
    return [term.sum(axis=0) / max(len(eta), 1) for term in terms]


def label_values(eta, decision, objective):
    """What each label adds to the value of an objective."""
    total = np.zeros(eta.shape[1])
    for term in objective.terms:
        if term.utility == Utility.COVERAGE:
            psi = 1 - np.prod(1 - decision * eta, axis=0)
        else:
            psi = utility_value(term.utility, term.beta, *rates(eta, decision))
        total += term.weight * psi
    return total


def objective_value(eta, decision, objective):
    """Value of an objective."""
    return float(label_values(eta, decision, objective).sum())


def top_labels(gains, candidates, k):
    """The k candidates of a row with the largest gains, ties by the smaller label."""
    labels = np.flatnonzero(candidates)
    return labels[np.lexsort((labels, -gains[labels]))[:k]]


def affine_topk(eta, candidates, k, a, b):
    """The decision of the rule top-k of a eta + b (equation 4.21)."""
    decision = np.zeros(eta.shape)
    for i in range(len(eta)):
        decision[i, top_labels(a * eta[i] + b, candidates[i], k)] = 1
    return decision


def decide_row(eta, candidates, k, objective, decision, i):
    """Give row i its best answers while all others stay; ``decision`` is changed."""
    decision[i] = 0
    without = label_values(eta, decision, objective)
    decision[i] = 1
    gains = label_values(eta, decision, objective) - without
    decision[i] = 0
    decision[i, top_labels(gains, candidates[i], k)] = 1


def block_coordinate_sweep(eta, candidates, k, objective, decision, order):
    """One sweep; returns the new decision and the value after each row."""
    decision = decision.astype(np.float64)
    values = []
    for i in order:
        decide_row(eta, candidates, k, objective, decision, i)
        values.append(objective_value(eta, decision, objective))
    return decision, values


def slopes(objective, tp, fp, fn, tn, step=1e-6):
    """The coefficients a and b of equation 4.22, by central differences."""
    a, b = np.zeros(len(tp)), np.zeros(len(tp))
    for term in objective.terms:

        def psi(*arguments, term=term):
            return term.weight * utility_value(term.utility, term.beta, *arguments)

        h = step * np.minimum(np.minimum(tp, fp), np.minimum(fn, tn))
        up, down = psi(tp + h, fp - h, fn - h, tn + h), psi(tp - h, fp + h, fn + h, tn - h)
        a += (up - down) / (2 * h)
        b += (psi(tp, fp + h, fn, tn - h) - psi(tp, fp - h, fn, tn + h)) / (2 * h)
    return a, b


def madow_row(inclusion, u):
    """Positions taken by systematic sampling with the random number u in [0, 1)."""
    cumulated = np.concatenate([[0.0], np.cumsum(inclusion)])
    k = round(cumulated[-1])
    return [
        j
        for j in range(len(inclusion))
        for point in range(k)
        if cumulated[j] <= u + point < cumulated[j + 1]
    ]


def row_uniform(columns, values, seed):
    """The random number in [0, 1) of a row, for `madow_row`: SplitMix64 over its entries."""
    mask = (1 << 64) - 1

    def mix(state, value):
        z = ((state ^ value) + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    bits = (np.asarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    for column, bit in zip(columns, bits, strict=True):
        state = mix(mix(state, int(column)), int(bit))
    return math.ldexp(mix(state, 0x9E3779B97F4A7C15) >> 11, -53)
