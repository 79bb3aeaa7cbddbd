"""Losses by name, the positives of a batch, and the checks of both."""

from typing import Any, NamedTuple

import numpy as np

#: The multi-class losses; each may be joined with the binary cross-entropy, as "supcon+bce".
MULTICLASS_LOSSES = ("supcon", "decoupled")

#: All losses by name.
LOSSES = (*MULTICLASS_LOSSES, "bce", *(f"{name}+bce" for name in MULTICLASS_LOSSES))


class Pairs(NamedTuple):
    """Pairs of a row of the batch and a label of the pool, each at most once.

    Attributes
    ----------
    rows, labels : int arrays of shape (n_pairs,)
        Sorted by row, then by label.
    weights : float array of shape (n_pairs,), or None
        Targets in (0, 1] of soft positives; None: all 1.
    """

    rows: Any
    labels: Any
    weights: Any = None


class Result(NamedTuple):
    """What a loss returns.

    Attributes
    ----------
    loss : float
    gradient : array of the shape and dtype of the logits
        With respect to the logits.
    """

    loss: float
    gradient: Any


def split_loss(loss):
    """Return the name of the multi-class part (or None) and whether there is a binary one."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}.")
    names = loss.split("+")
    return (None if names[0] == "bce" else names[0]), names[-1] == "bce"


def check_pairs(pairs, shape, name):
    """Refuse pairs outside of the logits, in another order, or twice."""
    rows, labels = np.asarray(pairs.rows), np.asarray(pairs.labels)
    if rows.ndim != 1 or rows.shape != labels.shape:
        raise ValueError(f"{name}: rows and labels must be one-dimensional and of equal length.")
    if pairs.weights is not None:
        weights = np.asarray(pairs.weights)
        if weights.shape != rows.shape:
            raise ValueError(f"{name}: there must be one weight for each pair.")
        if not ((weights > 0) & (weights <= 1)).all():
            raise ValueError(f"{name}: weights must lie in (0, 1].")
    if len(rows) == 0:
        return
    if not (np.issubdtype(rows.dtype, np.integer) and np.issubdtype(labels.dtype, np.integer)):
        raise TypeError(f"{name}: rows and labels must be integers.")
    if rows.min() < 0 or labels.min() < 0 or rows.max() >= shape[0] or labels.max() >= shape[1]:
        raise ValueError(f"{name}: a pair lies outside of the logits of shape {tuple(shape)}.")
    keys = rows.astype(np.int64) * shape[1] + labels
    if (np.diff(keys) <= 0).any():
        raise ValueError(f"{name}: pairs must be sorted by row and label, each once.")
