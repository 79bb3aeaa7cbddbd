"""The losses on torch tensors, differentiable."""

import torch

from skxmc.ops.contrastive._types import check_pairs, split_loss


def contrastive_loss(logits, positives, *, loss="decoupled", row_share=0.5, ignored=None):
    """Loss of a batch as a scalar tensor.

    Parameters
    ----------
    logits : tensor of shape (n_rows, n_labels)
    positives, loss, row_share, ignored
        As `skxmc.ops.contrastive.contrastive_loss`, pairs as NumPy arrays.

    Returns
    -------
    tensor
        Of the dtype and device of `logits`; `backward` gives the gradient.
    """
    multiclass, binary = split_loss(loss)
    check_pairs(positives, logits.shape, "positives")
    options = {"dtype": logits.dtype, "device": logits.device}
    target = torch.zeros(logits.shape, **options)
    weights = 1.0 if positives.weights is None else torch.as_tensor(positives.weights, **options)
    target[positives.rows, positives.labels] = weights
    hidden = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    if ignored is not None:
        check_pairs(ignored, logits.shape, "ignored")
        hidden[ignored.rows, ignored.labels] = True
    hidden &= target == 0
    total = logits.new_zeros(())
    if multiclass is not None:
        if row_share > 0:
            total = total + row_share * _one_direction(logits, target, hidden, multiclass)
        if row_share < 1:
            other = _one_direction(logits.T, target.T, hidden.T, multiclass)
            total = total + (1 - row_share) * other
    if binary:
        cost = torch.nn.functional.softplus(logits) - target * logits
        total = total + cost.masked_fill(hidden, 0).sum() / max(1, logits.shape[0])
    return total


def _one_direction(logits, target, hidden, multiclass):
    positive = target > 0
    rows, labels = positive.nonzero(as_tuple=True)
    if len(rows) == 0:
        return logits.sum() * 0
    weights = (target / target.sum(1, keepdim=True).clamp(min=1e-30))[rows, labels]
    left_out = hidden | positive if multiclass == "decoupled" else hidden
    # a finite stand-in for minus infinity: its gradient is 0, not NaN
    lowest = torch.finfo(logits.dtype).min
    log_total = logits.masked_fill(left_out, lowest).logsumexp(1)[rows]
    own = logits[rows, labels]
    cost = (
        torch.nn.functional.softplus(log_total - own)
        if multiclass == "decoupled"
        else log_total - own
    )
    return (weights * cost).sum() / positive.any(1).sum()
