"""The three products of an output layer on torch tensors, for each layout of the weights.

Everything is feature-major: inputs are (n_inputs, B), so that the gather of an input is one
contiguous row (as in Schultheis and Babbar, "Towards memory-efficient training for extremely large
output spaces", ECML 2023), and margins and their gradient are label-major, (n, B).

=============  =====================================  ==================================
layout         margins, gradient of the weights       gradient of the inputs
=============  =====================================  ==================================
dense          matrix products                        matrix product
fixed fan-in   ``embedding_bag``: each label is a     ``embedding_bag``: each input is a
               bag of weighted inputs                 bag of the labels that use it
group-shared   batched matrix products of gathered    the same, then ``embedding_bag``:
               inputs (one gather for a group)        each input is a bag of slots
=============  =====================================  ==================================

No product uses atomic additions: where several labels share an input, the slots are sorted by input
first (a stable sort, so the order of the sum is that of the labels). The results are therefore the
same from run to run on CUDA too, without `torch.use_deterministic_algorithms`. The sort is what
this costs: 20 to 30 % of a step on a CPU.
"""

import numpy as np
import torch
from torch.nn.functional import embedding_bag


def layout_of(indices, group_size):
    """The products of labels with these indices.

    Parameters
    ----------
    indices : int32 or int64 tensor of shape (ceil(n / group_size), fan_in), or None
        None is the dense layout.
    group_size : int
        The last group may be smaller.

    Returns
    -------
    Dense, FixedFanIn or GroupShared
    """
    if indices is None:
        return Dense()
    return FixedFanIn(indices) if group_size == 1 else GroupShared(indices, group_size)


class Dense:
    """Each label has a weight for each input."""

    def margins(self, inputs, weights):
        """``weights @ inputs``: (n, B)."""
        return weights @ inputs

    def weight_gradient(self, inputs, gradient):
        """Gradient of the weights by that of the margins: (n, n_inputs)."""
        return gradient @ inputs.T

    def input_gradient(self, weights, gradient, n_inputs):
        """Gradient of the inputs by that of the margins: (n_inputs, B)."""
        return weights.T @ gradient

    def select(self, active):
        """The labels to work on and their layout, given which have a gradient."""
        return active.nonzero()[:, 0], self


class FixedFanIn:
    """Each label has its own inputs."""

    def __init__(self, indices):
        self._indices = indices

    def margins(self, inputs, weights):
        """See `Dense.margins`."""
        return embedding_bag(self._indices, inputs, per_sample_weights=weights, mode="sum")

    def weight_gradient(self, inputs, gradient):
        """See `Dense.weight_gradient`; (n, fan_in)."""
        # What autograd of embedding_bag computes for its weights needs no (n, fan_in, B) array. It
        # depends on their shape only, and the forward pass is a small part of it.
        with torch.enable_grad():
            weights = inputs.new_zeros(self._indices.shape).requires_grad_()
            margins = self.margins(inputs, weights)
        return torch.autograd.grad(margins, weights, gradient)[0]

    def input_gradient(self, weights, gradient, n_inputs):
        """See `Dense.input_gradient`."""
        order, offsets = _by_input(self._indices, n_inputs)
        labels = order // self._indices.shape[1]
        return embedding_bag(
            labels,
            gradient,
            offsets=offsets,
            per_sample_weights=weights.reshape(-1).index_select(0, order),
            mode="sum",
        )

    def select(self, active):
        """See `Dense.select`."""
        labels = active.nonzero()[:, 0]
        return labels, FixedFanIn(self._indices[labels])


class GroupShared:
    """The labels of a group have the same inputs, each its own weights for them."""

    def __init__(self, indices, group_size):
        self._indices = indices
        self._group_size = group_size
        self._gathered = None

    def margins(self, inputs, weights):
        """See `Dense.margins`."""
        gathered = self._gather(inputs)
        return _joined(
            torch.bmm(weights[labels].unflatten(0, (-1, size)), gathered[groups]).flatten(0, 1)
            for labels, groups, size in self._blocks(len(weights))
        )

    def weight_gradient(self, inputs, gradient):
        """See `Dense.weight_gradient`; (n, fan_in)."""
        gathered = self._gather(inputs).transpose(1, 2)
        return _joined(
            torch.bmm(gradient[labels].unflatten(0, (-1, size)), gathered[groups]).flatten(0, 1)
            for labels, groups, size in self._blocks(len(gradient))
        )

    def input_gradient(self, weights, gradient, n_inputs):
        """See `Dense.input_gradient`."""
        slots = _joined(
            torch.bmm(
                weights[labels].unflatten(0, (-1, size)).transpose(1, 2),
                gradient[labels].unflatten(0, (-1, size)),
            ).flatten(0, 1)
            for labels, groups, size in self._blocks(len(gradient))
        )
        order, offsets = _by_input(self._indices, n_inputs)
        return embedding_bag(order, slots, offsets=offsets, mode="sum")

    def select(self, active):
        """See `Dense.select`; a group with one active label is worked on as a whole."""
        size, n = self._group_size, len(active)
        padded = torch.zeros(len(self._indices) * size, dtype=torch.bool, device=active.device)
        padded[:n] = active
        groups = padded.view(-1, size).any(dim=1).nonzero()[:, 0]
        labels = groups[:, None] * size + torch.arange(size, device=active.device)
        labels = labels.view(-1)
        return labels[labels < n], GroupShared(self._indices[groups], size)

    def _gather(self, inputs):
        """(n_groups, fan_in, B), made once for the margins and the gradient of the weights."""
        if self._gathered is None:
            gathered = inputs.index_select(0, self._indices.view(-1))
            self._gathered = gathered.view(*self._indices.shape, inputs.shape[1])
        return self._gathered

    def _blocks(self, n):
        """Labels and groups of one size: the full groups, and the smaller last one."""
        size = self._group_size
        full, rest = divmod(n, size)
        if full:
            yield slice(0, full * size), slice(0, full), size
        if rest:
            yield slice(full * size, n), slice(full, full + 1), rest


def _joined(blocks):
    blocks = list(blocks)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _by_input(indices, n_inputs):
    """Slots in the order of their inputs, and where the slots of each input begin in it; int32."""
    indices = indices.reshape(-1)
    if indices.device.type == "cpu" and n_inputs <= 1 << 16:
        # NumPy sorts 16 bits by radix, several times faster than torch sorts 32
        keys = indices.numpy().astype(np.uint16)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        ends = np.bincount(keys, minlength=n_inputs).cumsum()
        offsets = torch.from_numpy(np.concatenate([[0], ends[:-1]]))
    else:
        ordered, order = torch.sort(indices, stable=True)
        inputs = torch.arange(n_inputs, dtype=ordered.dtype, device=ordered.device)
        offsets = torch.searchsorted(ordered, inputs)
    return order.to(torch.int32), offsets.to(torch.int32)
