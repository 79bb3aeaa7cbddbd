r"""The definition of the losses: plain loops in float64.

For the logits :math:`s_{il}` of row i and label l, the positives :math:`P_i` of a row with targets
:math:`y_{ip}` (1 where nothing else is said) and its negatives :math:`N_i`, which are all labels of
the pool but positives and ignored pairs (thesis, sec. 2.3.1 and 2.4.2):

.. math::

    L_i = - \sum_{p \in P_i} \frac{y_{ip}}{\sum_{q \in P_i} y_{iq}}
          \log \frac{e^{s_{ip}}}{Z_{ip}}, \qquad
    Z_{ip} = \begin{cases}
        \sum_{l \in P_i \cup N_i} e^{s_{il}} & \text{SupCon} \\
        e^{s_{ip}} + \sum_{l \in N_i} e^{s_{il}} & \text{decoupled softmax.}
    \end{cases}

A row without positives has no loss. Rows to labels is the mean of :math:`L_i` over the rows that
have some; labels to rows is the same with both exchanged, the mean over the labels of the pool that
have a positive row. The sum of both, weighted by lambda and 1 - lambda, is the symmetric loss. The
binary cross-entropy is that of all pairs, summed over the labels, averaged over the rows; it is
symmetric by itself.
"""

import numpy as np

from skxmc.ops.contrastive._types import Result, check_pairs, split_loss


def contrastive_loss(logits, positives, *, loss="decoupled", row_share=0.5, ignored=None):
    """As `skxmc.ops.contrastive.contrastive_loss`, slow and in float64."""
    multiclass, binary = split_loss(loss)
    logits = np.asarray(logits, dtype=np.float64)
    check_pairs(positives, logits.shape, "positives")
    target = np.zeros(logits.shape)
    target[positives.rows, positives.labels] = (
        1.0 if positives.weights is None else positives.weights
    )
    allowed = np.ones(logits.shape, dtype=bool)
    if ignored is not None:
        check_pairs(ignored, logits.shape, "ignored")
        allowed[ignored.rows, ignored.labels] = False
    allowed |= target > 0
    total, gradient = 0.0, np.zeros(logits.shape)
    if multiclass is not None:
        loss_rows, gradient_rows = _one_direction(logits, target, allowed, multiclass)
        loss_labels, gradient_labels = _one_direction(logits.T, target.T, allowed.T, multiclass)
        total += row_share * loss_rows + (1 - row_share) * loss_labels
        gradient += row_share * gradient_rows + (1 - row_share) * gradient_labels.T
    if binary:
        for i, row in enumerate(logits):
            for j, s in enumerate(row):
                if allowed[i, j]:
                    total += (np.logaddexp(0, s) - target[i, j] * s) / len(logits)
                    gradient[i, j] += (1 / (1 + np.exp(-s)) - target[i, j]) / len(logits)
    return Result(total, gradient)


def _one_direction(logits, target, allowed, multiclass):
    n_active = int((target > 0).any(axis=1).sum())
    total, gradient = 0.0, np.zeros(logits.shape)
    for i in range(len(logits)):
        positive = np.flatnonzero(target[i])
        share = target[i] / max(target[i].sum(), 1e-300) / max(n_active, 1)
        for p in positive:
            in_sum = allowed[i].copy()
            if multiclass == "decoupled":
                in_sum[positive] = False
                in_sum[p] = True
            labels = np.flatnonzero(in_sum)
            top = logits[i, labels].max()
            exponentials = np.exp(logits[i, labels] - top)
            total += share[p] * (top + np.log(exponentials.sum()) - logits[i, p])
            gradient[i, labels] += share[p] * exponentials / exponentials.sum()
            gradient[i, p] -= share[p]
    return total, gradient
