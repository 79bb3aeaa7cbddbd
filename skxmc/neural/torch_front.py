"""The fronts of `skxmc.neural._front` on torch tensors, for the torch and triton backends.

A sparse batch is cut to the features that occur in it: their rows of the weights are gathered,
multiplied as a dense matrix, and put back after the update. No addition is atomic, so two runs give
the same bits on a GPU too.
"""

import numpy as np
import scipy.sparse as sp
import torch

from skxmc.neural import _front

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_MOMENTS = ("first", "second", "n_updates", "bias_first", "bias_second", "bias_updates")


class IdentityFront:
    """See `skxmc.neural._front.IdentityFront`."""

    def __init__(self, n_outputs, *, scale=1.0, dropout=0.0, device="cpu"):
        self._on_cpu = _front.IdentityFront(n_outputs, scale=scale, dropout=dropout)
        self.n_outputs = n_outputs
        self.device = torch.device(device)

    def forward(self, batch, *, training=False, seed=None):
        """Features of a batch, a float32 tensor of shape (n_rows, n_outputs)."""
        features = self._on_cpu.forward(batch, training=training, seed=seed)
        return torch.from_numpy(features).to(self.device)

    def transform(self, X):
        """Features of rows for prediction."""
        return torch.from_numpy(self._on_cpu.transform(X)).to(self.device)

    def backward(self, gradient):
        """Nothing to do."""

    def step(self, learning_rate):
        """Nothing to do."""

    def model(self):
        """What prediction needs, as NumPy arrays."""
        return self._on_cpu.model()

    def state(self):
        """No parameters."""
        return {}

    def load_state(self, state):
        """No parameters."""


class HiddenLayerFront:
    """See `skxmc.neural._front.HiddenLayerFront`."""

    def __init__(self, weights, bias, *, dropout=0.0, max_grad_norm=None, device="cpu"):
        self.device = torch.device(device)
        self.weights, self.bias = self._tensor(weights), self._tensor(bias)
        self.n_outputs = weights.shape[1]
        self.dropout, self.max_grad_norm = dropout, max_grad_norm
        self._moments = None
        self._pairs = []  # batches since the last step, with the gradients of their sums

    def forward(self, batch, *, training=False, seed=None):
        """Features of a batch, a float32 tensor of shape (n_rows, n_outputs)."""
        used, dense = self._compact(batch)
        weights = self.weights if used is None else self.weights[used]
        features = torch.addmm(self.bias, dense, weights).clamp_(min=0)
        if training:
            slope = features > 0
            if self.dropout:
                mask = _front.dropout_mask(tuple(features.shape), self.dropout, seed)
                mask = torch.from_numpy(mask).to(self.device)
                features *= mask
                slope = slope * mask
            self._batch, self._compacted, self._slope = batch, (used, dense), slope
        return features

    def transform(self, X):
        """Features of rows for prediction."""
        return self.forward(X)

    def _compact(self, batch):
        """The features that occur in a batch, and the batch as a dense tensor over them."""
        if not sp.issparse(batch):
            return None, self._tensor(np.asarray(batch, dtype=np.float32))
        used, columns = np.unique(batch.indices, return_inverse=True)
        dense = np.zeros((batch.shape[0], len(used)), dtype=np.float32)
        rows = np.repeat(np.arange(batch.shape[0]), np.diff(batch.indptr))
        dense[rows, columns] = batch.data
        return torch.from_numpy(used.astype(np.int64)).to(self.device), self._tensor(dense)

    def backward(self, gradient):
        """Gradient of the loss with respect to the last features."""
        self._pairs.append((self._batch, gradient * self._slope))

    def step(self, learning_rate):
        """Adam; for sparse rows on the weights of the features in the batch only."""
        if not self._pairs:
            return
        if self._moments is None:
            self._moments = self._new_moments()
        moments = self._moments
        (used, dense), by_sum = self._joined()
        gradient, by_bias = dense.T @ by_sum, by_sum.sum(dim=0)
        if self.max_grad_norm is not None:
            norm = float(torch.sqrt((gradient.double() ** 2).sum() + (by_bias.double() ** 2).sum()))
            if norm > self.max_grad_norm:
                gradient = gradient * (self.max_grad_norm / norm)
                by_bias = by_bias * (self.max_grad_norm / norm)
        used = slice(None) if used is None else used
        moments["n_updates"][used] += 1
        first, second = moments["first"][used], moments["second"][used]
        count = moments["n_updates"][used].double()[:, None]
        update = _adam(gradient, first, second, learning_rate, count)
        moments["first"][used], moments["second"][used] = first, second
        self.weights[used] -= update
        moments["bias_updates"] += 1
        self.bias -= _adam(
            by_bias,
            moments["bias_first"],
            moments["bias_second"],
            learning_rate,
            moments["bias_updates"].double(),
        )

    def _joined(self):
        """All batches since the last step, compact, with the gradient of their sums."""
        pairs, self._pairs = self._pairs, []
        if len(pairs) == 1:
            return self._compacted, pairs[0][1]
        batches, gradients = zip(*pairs, strict=True)
        return self._compact(_front.stacked(batches)), torch.cat(gradients)

    def _new_moments(self):
        return {
            "first": torch.zeros_like(self.weights),
            "second": torch.zeros_like(self.weights),
            "n_updates": torch.zeros(len(self.weights), dtype=torch.int32, device=self.device),
            "bias_first": torch.zeros_like(self.bias),
            "bias_second": torch.zeros_like(self.bias),
            "bias_updates": torch.zeros(1, dtype=torch.int32, device=self.device),
        }

    def model(self):
        """What prediction needs, as NumPy arrays."""
        return {"weights": _array(self.weights), "bias": _array(self.bias)}

    def state(self):
        """Parameters and optimiser as NumPy arrays."""
        if self._moments is None:
            self._moments = self._new_moments()
        return self.model() | {name: _array(self._moments[name]) for name in _MOMENTS}

    def load_state(self, state):
        """Go on from what `state` returned."""
        self.weights, self.bias = self._tensor(state["weights"]), self._tensor(state["bias"])
        self._moments = {name: self._tensor(state[name]) for name in _MOMENTS}

    def _tensor(self, array):
        return torch.tensor(np.asarray(array), device=self.device)


def _adam(gradient, first, second, learning_rate, count):
    """What Adam takes off; the moments are changed in place."""
    first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
    second.mul_(_BETA2).add_(gradient * gradient, alpha=1 - _BETA2)
    rate = (learning_rate / (1 - _BETA1**count)).float()
    correction = (1 / (1 - _BETA2**count)).float()
    return rate * first / (torch.sqrt(second * correction) + _EPSILON)


def _array(tensor):
    return np.array(tensor.detach().cpu().numpy())
