"""The losses in NumPy: exponentials of blocks, everything else on the few positive pairs."""

import numpy as np
from scipy.special import expit

from skxmc.ops.contrastive._types import Pairs, Result, check_pairs, split_loss

# Logits whose exponentials exist at a time: they stay in the cache.
_BLOCK = 1 << 18


def contrastive_loss(logits, positives, *, loss="decoupled", row_share=0.5, ignored=None):
    r"""Loss of a batch, and its gradient with respect to the logits.

    See `skxmc.ops.contrastive.reference` for the formulas.

    Parameters
    ----------
    logits : float32 or float64 array of shape (n_rows, n_labels)
        Similarities of the rows and the labels of the pool, divided by the temperature. Finite.
    positives : Pairs
        Weights of it are soft targets in (0, 1].
    loss : {"decoupled", "supcon", "bce", "decoupled+bce", "supcon+bce"}, default="decoupled"
    row_share : float, default=0.5
        Weight lambda of the direction from rows to labels; labels to rows have the rest. 1 is the
        asymmetric loss.
    ignored : Pairs or None, default=None
        Pairs that are no negatives. A pair that is in `positives` too is a positive.

    Returns
    -------
    Result
        ``loss``, a float, and ``gradient``, of the shape and dtype of `logits`.

    Raises
    ------
    ValueError, TypeError
        If the name of the loss is none, or pairs lie outside of the logits, are not sorted, or
        occur twice.

    Notes
    -----
    Time O(n_rows n_labels), two exponentials a pair. Memory: the gradient, beside the logits.
    Stable for logits of any size. Without negatives, SupCon and the decoupled softmax still differ:
    the first spreads a row's probability over its positives, the second has no loss left.

    References
    ----------
    S. Kharbanda. Compute efficient extreme multi-label classification. Thesis, UCLA, 2024: sections
    2.3.1, 2.3.2 and 2.4.2.

    P. Khosla et al. Supervised contrastive learning. NeurIPS 2020 (SupCon).

    N. Gupta et al. Dual-encoders for extreme multi-label classification. ICLR 2024 (decoupled
    softmax).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.contrastive import Pairs, contrastive_loss
    >>> logits = np.zeros((1, 4))
    >>> result = contrastive_loss(logits, Pairs([0], [2]), loss="supcon", row_share=1)
    >>> round(result.loss, 3), result.gradient
    (1.386, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    multiclass, binary = split_loss(loss)
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.dtype not in (np.float32, np.float64):
        raise ValueError(
            "logits must be a matrix of float32 or float64; got "
            f"{logits.dtype} of shape {logits.shape}."
        )
    check_pairs(positives, logits.shape, "positives")
    rows, labels, weights = _arrays(positives)
    hidden = rows[:0], labels[:0]
    if ignored is not None:
        check_pairs(ignored, logits.shape, "ignored")
        hidden = _without(ignored, rows, labels, logits.shape[1])
    total, gradient = 0.0, np.zeros_like(logits)
    if multiclass is not None and len(rows):
        if row_share > 0:
            total += _one_direction(
                logits, gradient, (rows, labels, weights), hidden, multiclass, row_share
            )
        if row_share < 1:
            by_label, hidden_by_label = np.lexsort((rows, labels)), np.lexsort(hidden)
            total += _one_direction(
                logits.T,
                gradient.T,
                (labels[by_label], rows[by_label], weights[by_label]),
                (hidden[1][hidden_by_label], hidden[0][hidden_by_label]),
                multiclass,
                1 - row_share,
            )
    if binary and logits.size:
        total += _binary(logits, gradient, (rows, labels, weights), hidden)
    return Result(float(total), gradient)


def _arrays(pairs):
    rows, labels = (np.asarray(a, dtype=np.int64) for a in (pairs.rows, pairs.labels))
    if pairs.weights is None:
        return rows, labels, np.ones(len(rows))
    return rows, labels, np.asarray(pairs.weights, dtype=np.float64)


def _without(ignored, rows, labels, n_labels):
    """The ignored pairs that are not among the others."""
    own = Pairs(*(np.asarray(a, dtype=np.int64) for a in ignored[:2]))
    kept = ~np.isin(own.rows * n_labels + own.labels, rows * n_labels + labels)
    return own.rows[kept], own.labels[kept]


def _one_direction(logits, gradient, positives, hidden, multiclass, share):
    """Add the gradient of one direction; return its loss. Pairs are sorted by row."""
    rows, labels, weights = positives
    n_rows = logits.shape[0]
    row_weight = np.bincount(rows, weights, minlength=n_rows)
    active = np.flatnonzero(row_weight)
    weights = weights / row_weight[rows] * (share / len(active))
    total = 0.0
    height = max(1, _BLOCK // max(1, logits.shape[1]))
    for first in range(0, n_rows, height):
        block = slice(first, min(first + height, n_rows))
        inside = slice(*np.searchsorted(rows, [block.start, block.stop]))
        if inside.start == inside.stop:
            continue
        pairs = rows[inside] - first, labels[inside], weights[inside]
        within = slice(*np.searchsorted(hidden[0], [block.start, block.stop]))
        # of the transposed logits a block is copied: its rows lie far apart
        values = np.array(logits[block], order="C")
        loss, values = _block(
            values, pairs, (hidden[0][within] - first, hidden[1][within]), multiclass
        )
        total += loss
        gradient[block] += values
    return total


def _block(values, pairs, hidden, multiclass):
    """Loss and gradient of some rows; `values`, their logits, become the gradient."""
    rows, labels, weights = pairs
    n_rows, dtype = values.shape[0], values.dtype
    own = values[rows, labels].astype(np.float64)
    values[hidden] = -np.inf
    if multiclass == "decoupled":
        values[rows, labels] = -np.inf  # what is left are the negatives
    top = values.max(axis=1, initial=-np.inf)
    top[top == -np.inf] = 0  # nothing is left: all exponentials are 0
    values -= top[:, None]
    np.exp(values, out=values)
    total = values.sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_total = np.log(total) + top
    if multiclass == "decoupled":
        # of the probability of each positive against the negatives, what is missing to 1
        missing = expit(log_total[rows] - own)
        loss = weights @ np.logaddexp(0, log_total[rows] - own)
        scale = np.bincount(rows, weights * missing, minlength=n_rows)
        at_positives = -weights * missing
    else:
        loss = weights @ (log_total[rows] - own)
        scale = np.bincount(rows, weights, minlength=n_rows)
        probability = np.exp(own - log_total[rows])
        at_positives = scale[rows] * probability - weights
    values *= (scale / np.where(total > 0, total, 1)).astype(dtype)[:, None]
    values[rows, labels] = at_positives
    return loss, values


def _binary(logits, gradient, positives, hidden):
    """Add the gradient of the binary cross-entropy of all pairs; return its loss."""
    n_rows = logits.shape[0]
    probability = expit(logits)
    # log(1 + e^s) = max(s, 0) - log(max(p, 1 - p)) without a large exponential
    cost = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    cost[hidden] = 0
    probability[hidden] = 0
    rows, labels, weights = positives
    total = cost.sum(dtype=np.float64) - weights @ logits[rows, labels].astype(np.float64)
    probability[rows, labels] -= weights.astype(logits.dtype)
    probability /= n_rows
    gradient += probability
    return total / n_rows
