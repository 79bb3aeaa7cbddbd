"""Loss gradient and optimiser step of a chunk of labels on torch tensors.

What is computed, and in which order of float32 operations, is defined by
`skxmc.ops.sparse_head.reference`: equal gradients give equal bits.
"""

import math

import torch
from torch.nn.functional import softplus

from skxmc.ops.sparse_head.torch_rounding import random_bits, round_nearest, round_stochastic


def loss_and_gradient_(name, margins, positives, weight):
    """Write the gradient of the loss over the margins; return the loss of the chunk.

    Parameters
    ----------
    name : {"squared_hinge", "bce"}
    margins : float32 tensor of shape (n, n_rows)
        Changed in place.
    positives : tuple of two int64 tensors of shape (n_positives,)
        Labels of the chunk and rows of the positives.
    weight : float32 tensor of shape (n_positives,), or None
        Weights of the positives.

    Returns
    -------
    float64 tensor without dimensions
    """
    positive = margins[positives]
    if name == "squared_hinge":
        distance = (1.0 - positive).clamp_min_(0.0)
        cost, gradient = distance.square(), -2.0 * distance
        margins.add_(1.0).clamp_min_(0.0)
        margins[positives] = 0.0
        total = _sum(margins.square())
        margins.mul_(2.0)
    elif name == "bce":
        cost, gradient = softplus(-positive), torch.sigmoid(-positive).neg_()
        margins[positives] = -math.inf
        total = _sum(softplus(margins))
        margins.sigmoid_()
    else:
        raise ValueError(f"The loss must be 'squared_hinge' or 'bce'; got {name!r}.")
    if weight is not None:
        cost, gradient = cost * weight, gradient * weight
    margins[positives] = gradient
    return total + cost.sum(dtype=torch.float64)


def _sum(cost):
    """Sum in float64 of each label's sum; float64 copies of all would take most of the time."""
    return cost.sum(dim=1).sum(dtype=torch.float64)


def update_weights(part, state, labels, gradient, optimizer, key):
    """One step of the optimiser for some labels of a part, in place.

    Parameters
    ----------
    part : Part
    state : State
    labels : slice or int64 tensor
        Labels within the part, rising.
    gradient : float32 tensor of shape (n, fan_in)
    optimizer : Optimizer
    key : int
        Of the random bits.
    """
    stored = _take(part.weights, labels)
    weights = stored.to(torch.float32)
    update = _update_of(
        weights, gradient, state.momentum, state.second, labels, optimizer, decays=True
    )
    if part.precision == "float32":
        _put(part.weights, labels, weights - update)
        return
    positions = labels
    if isinstance(labels, slice):
        positions = torch.arange(labels.start, labels.stop, device=weights.device)
    bits = random_bits(key, positions, part.fan_in, part.n_labels)
    _put(part.weights, labels, round_stochastic(weights - update, part.precision, bits))
    if state.compensation is None:
        return
    # Kahan summation (ELMO, ICML 2025): the first labels carry what rounding took from them.
    n_head = int(torch.searchsorted(positions, len(state.compensation)))
    if n_head:
        head = positions[:n_head]
        correction = _take(state.compensation, head).to(torch.float32) - update[:n_head]
        new = round_stochastic(weights[:n_head] + correction, part.precision, bits[:n_head])
        lost = (weights[:n_head] - new.to(torch.float32)) + correction
        _put(part.weights, head, new)
        _put(state.compensation, head, round_nearest(lost))


def update_bias(part, state, labels, gradient, optimizer):
    """One step of the optimiser for the biases of a range of labels, in place."""
    part.bias[labels] -= _update_of(
        part.bias[labels],
        *(gradient, state.bias_momentum, state.bias_second, labels),
        *(optimizer, False),
    )


def is_lazy(optimizer):
    """Whether a weight without gradient stays as it is."""
    return optimizer.name == "sgd" and not optimizer.momentum and not optimizer.weight_decay


def _update_of(values, gradient, momentum, second, labels, optimizer, decays):
    """What the optimiser takes off the values; changes its moments in place.

    Products and sums are separate calls: torch fuses ``add(alpha=)`` and ``addcmul``, which would
    round once less than the other backends.
    """
    rate = optimizer.learning_rate
    if optimizer.name == "sgd":
        if optimizer.momentum:
            gradient = momentum[labels].mul(optimizer.momentum).add_(gradient)
            momentum[labels] = gradient
        update = gradient * rate
    elif optimizer.name == "adam":
        beta1, beta2, t = optimizer.beta1, optimizer.beta2, optimizer.n_updates + 1
        first = momentum[labels].mul(beta1).add_(gradient * (1 - beta1))
        size = second[labels].mul(beta2).add_((gradient * (1 - beta2)).mul_(gradient))
        momentum[labels], second[labels] = first, size
        # MKL's square root of float32, which torch uses, is not always the nearest number
        root = size.to(torch.float64).sqrt_().to(torch.float32)
        size = root.mul_(1 / math.sqrt(1 - beta2**t)).add_(optimizer.epsilon)
        update = first.mul_(rate / (1 - beta1**t)).div_(size)
    else:
        raise ValueError(f"The optimizer must be 'sgd' or 'adam'; got {optimizer.name!r}.")
    if decays and optimizer.weight_decay:
        update.add_(values * (rate * optimizer.weight_decay))
    return update


def _codes(tensor):
    """The bits as integers: torch has no indexed access to numbers of 8 bits."""
    integers = {1: torch.uint8, 2: torch.int16}
    return tensor.view(integers.get(tensor.itemsize, tensor.dtype))


def _take(tensor, rows):
    return _codes(tensor)[rows].view(tensor.dtype)


def _put(tensor, rows, values):
    _codes(tensor)[rows] = _codes(values)
