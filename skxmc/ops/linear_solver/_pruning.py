"""Pruning of solved labels by the loss that it costs."""

import math

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops._lanes import LANES, aligned_zeros
from skxmc.ops.linear_solver._newton import SQUARED_HINGE

#: Absolute slack beside the relative one (reference_facts A5).
_ABSOLUTE = 1e-5


@jit
def _block_losses(
    loss, scores, pos_rows, pos_targets, pos_indptr, first, count, C, positive_cost, losses
):
    """Sum over all rows of c_i l(y_i s_i) for the labels first..first + count of a block."""
    for b in range(count):
        label = first + b
        total = 0.0
        for i in range(scores.shape[1]):
            total += C * _loss(loss, -np.float64(scores[b, i]))
        for q in range(pos_indptr[label], pos_indptr[label + 1]):
            score = np.float64(scores[b, pos_rows[q]])
            gain = positive_cost[label] * _loss(loss, score) - _loss(loss, -score)
            total += C * pos_targets[q] * gain
        losses[b] = total


@jit
def _loss(loss, margin):
    if loss == SQUARED_HINGE:
        slack = max(0.0, 1.0 - margin)
        return slack * slack
    if margin > 0:
        return math.log1p(math.exp(-margin))
    return math.log1p(math.exp(margin)) - margin


def keep_within_loss(
    score_block,
    rows,
    loss,
    pos_indptr,
    pos_rows,
    pos_targets,
    C,
    positive_cost,
    bias,
    indptr,
    numbers,
    data,
    tolerance,
):
    """Mask of the weights to keep: per label the fewest, largest first, within the loss bound.

    Bisection for the largest number of small weights whose removal leaves
    loss <= (1 + tolerance) loss(all weights) + 1e-5, the loss being taken over all rows. Labels
    are evaluated in blocks, one pass over X a step: about log2(weights of a label) passes.
    """
    n = len(rows.indptr) - 1
    n_labels = len(indptr) - 1
    keep = np.ones(len(data), dtype=bool)
    W = aligned_zeros((len(rows.feature_of), LANES))
    scores = np.zeros((LANES, n), np.float32)
    losses = np.zeros(LANES)
    shared = np.zeros(LANES, np.float32)
    offset = np.zeros(LANES, np.float32)
    for first in range(0, n_labels, LANES):
        count = min(LANES, n_labels - first)
        offset[:count] = bias[first : first + count] * np.float32(rows.bias_value)
        # entries of each label, smallest magnitude first; equal ones by feature
        by_size = [
            indptr[label]
            + np.argsort(np.abs(data[indptr[label] : indptr[label + 1]]), kind="stable")
            for label in range(first, first + count)
        ]

        def evaluate(n_dropped, count=count, first=first, by_size=by_size):
            for b in range(count):
                entries = by_size[b][n_dropped[b] :]
                W[numbers[by_size[b]], b] = 0
                W[numbers[entries], b] = data[entries]
            score_block(rows, W, shared, offset, scores)
            _block_losses(
                *(loss, scores, pos_rows, pos_targets, pos_indptr, first, count),
                *(C, positive_cost, losses),
            )
            return losses[:count].copy()

        sizes = np.array([len(entries) for entries in by_size])
        feasible = np.zeros(count, dtype=np.int64)
        infeasible = sizes + 1
        bound = (1 + tolerance) * evaluate(feasible) + _ABSOLUTE
        while (infeasible - feasible > 1).any():
            trial = np.where(infeasible - feasible > 1, (feasible + infeasible) // 2, feasible)
            within = evaluate(trial) <= bound
            feasible = np.where(within, np.maximum(feasible, trial), feasible)
            infeasible = np.where(within, infeasible, np.minimum(infeasible, trial))
        for b in range(count):
            keep[by_size[b][: feasible[b]]] = False
            W[numbers[by_size[b]], b] = 0
    return keep
