"""An output layer in training: parts, their optimiser state, and the backend that computes them."""

import importlib
from typing import NamedTuple

import numpy as np

from skxmc.neural._schedule import cosine_to_zero
from skxmc.ops.sparse_head import initial
from skxmc.ops.sparse_head._types import Optimizer, Part, State

_PART_ARRAYS = ("weights", "indices", "bias")

# Number of the random stream of the initial parts.
_STREAM_INIT = 1


class Rewiring(NamedTuple):
    """When and how inputs of labels are exchanged: prune, then regrow.

    Attributes
    ----------
    prune : {"global", "row", "threshold"}
    grow : {"random", "gradient"}
        SET or RigL.
    fraction : float
        Share of the slots, at the first round; it falls to 0 at ``end`` for the schedule
        ``"cosine"``. For ``prune="threshold"``: the threshold, which falls to 1e-4.
    interval : int
        Steps from one round to the next.
    end : int or None
        The first step without a round; None for no end.
    schedule : {"cosine", "constant"}
    """

    prune: str
    grow: str
    fraction: float
    interval: int
    end: int | None
    schedule: str = "cosine"

    def is_due(self, n_steps):
        """Whether there is a round after so many steps."""
        return n_steps % self.interval == 0 and (self.end is None or n_steps < self.end)

    def amount(self, n_steps):
        """Fraction or threshold of the round."""
        if self.schedule == "constant" or self.end is None:
            return self.fraction
        floor = 1e-4 if self.prune == "threshold" else 0.0
        return floor + cosine_to_zero(max(self.fraction - floor, 0.0), n_steps, self.end)


def load_backend(name):
    """The module of `skxmc.ops.sparse_head` that computes: reference, numba, torch or triton."""
    module = name if name == "reference" else f"{name}_"
    return importlib.import_module(f"skxmc.ops.sparse_head.{module}")


def initial_parts(plan, n_inputs, precision, seed, *, bias=0.0, scale=0.0):
    """New parts.

    Parameters
    ----------
    plan : list of (n_labels, fan_in, group_size)
        ``fan_in`` None is a dense part.
    n_inputs : int
    precision : str
    seed : int
    bias : float or array of shape (n_labels of all parts,)
    scale : float
        Standard deviation of a margin over features of size 1; 0 starts from zero weights.
    """
    n_labels = sum(size for size, _, _ in plan)
    bias = np.broadcast_to(np.asarray(bias, dtype=np.float32), (n_labels,))
    parts, first = [], 0
    for number, (size, fan_in, group_size) in enumerate(plan):
        part = initial.initialise(
            size,
            n_inputs,
            fan_in,
            group_size,
            precision,
            stream_seed(seed, _STREAM_INIT, number),
            bias=bias[first : first + size],
            scale=scale,
        )
        parts.append(part)
        first += size
    return tuple(parts)


class OutputLayer:
    """Labels of one loss over the same features, trained by one backend.

    Parameters
    ----------
    parts : tuple of Part
        On NumPy arrays; changed in place by the CPU backends.
    n_inputs : int
    loss : Loss
    optimizer : Optimizer
        Its learning rate is that of a factor of 1.
    compensated : float, default=0.0
        Share of the labels, the first ones, with Kahan compensation.
    backend : {"numba", "torch", "triton", "reference"}
    device : str or None
        Of torch.
    seed : int
    n_jobs : int or None
    """

    def __init__(
        self,
        parts,
        n_inputs,
        loss,
        optimizer,
        *,
        compensated=0.0,
        backend="numba",
        device=None,
        seed=0,
        n_jobs=None,
    ):
        self.n_inputs = n_inputs
        self.n_labels = sum(part.n_labels for part in parts)
        self.loss, self.optimizer = loss, optimizer
        self.backend, self.device = backend, device
        self.seed, self.n_jobs = seed, n_jobs
        self._ops = load_backend(backend)
        counts = compensated_labels([part.n_labels for part in parts], compensated)
        states = [
            initial.new_state(part, optimizer, count)
            for part, count in zip(parts, counts, strict=True)
        ]
        self._set(parts, states)

    def train_step(self, features, targets, factor, step):
        """Update all labels by a batch; the `StepResult`.

        Parameters
        ----------
        features : float32 array of the backend, (n_rows, n_inputs)
        targets : canonical csr_array of shape (n_rows, n_labels)
        factor : float
            Of the learning rate.
        step : int
            Number of steps before this one.
        """
        optimizer = self.optimizer._replace(
            learning_rate=self.optimizer.learning_rate * factor, n_updates=step
        )
        return self._ops.train_step(
            features,
            targets,
            self.parts,
            self.states,
            self.loss,
            optimizer,
            self.seed,
            step,
            n_jobs=self.n_jobs,
        )

    def rewire(self, rewiring, n_steps, features, targets):
        """One round of pruning and growing; the number of slots exchanged.

        ``features`` and ``targets`` are those of the batch whose gradient decides, for
        ``grow="gradient"``.
        """
        from skxmc.ops.sparse_head import rewire as ops

        amount = rewiring.amount(n_steps)
        parts, states = self._numpy()
        n_rewired, first = 0, 0
        features = to_numpy(features) if rewiring.grow == "gradient" else None
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            if part.indices is not None and part.fan_in < self.n_inputs:
                gradient = None
                if features is not None:
                    columns = targets[:, first : first + part.n_labels]
                    gradient = _DenseGradient(
                        self._cpu_ops(), part, features, columns, self.loss, first
                    )
                result = ops.rewire(
                    part,
                    state,
                    self.n_inputs,
                    prune=rewiring.prune,
                    grow=rewiring.grow,
                    gradient=gradient,
                    seed=self.seed,
                    step=n_steps,
                    part_number=number,
                    **{"threshold" if rewiring.prune == "threshold" else "fraction": amount},
                )
                n_rewired += result.n_rewired
            first += part.n_labels
        if not self._on_cpu:
            self._set(parts, states)
        return n_rewired

    def topk(self, features, k):
        """`TopK` of layer labels."""
        labels = np.arange(self.n_labels, dtype=np.int32)
        answers = self._ops.topk(features, self.parts, labels, k, n_jobs=self.n_jobs)
        return type(answers)(to_numpy(answers.labels), to_numpy(answers.scores))

    def numpy_parts(self):
        """The parts as NumPy arrays, not copied where they are."""
        return self._numpy()[0]

    def parameters(self):
        """Copies of the weights, by name."""
        return {
            f"{number}.{name}": np.array(getattr(part, name))
            for number, part in enumerate(self.numpy_parts())
            for name in _PART_ARRAYS
            if getattr(part, name) is not None
        }

    def load_parameters(self, arrays):
        """Set the weights to such copies; the optimiser's state stays."""
        parts, states = self._numpy()
        parts = [
            part._replace(
                **{
                    name: np.array(arrays[f"{number}.{name}"])
                    for name in _PART_ARRAYS
                    if getattr(part, name) is not None
                }
            )
            for number, part in enumerate(parts)
        ]
        self._set(parts, states)

    def state(self):
        """Weights and the optimiser's state as NumPy arrays by name."""
        parts, states = self._numpy()
        return {
            f"{number}.{name}": getattr(record, name)
            for records, names in ((parts, _PART_ARRAYS), (states, State._fields))
            for number, record in enumerate(records)
            for name in names
            if getattr(record, name) is not None
        }

    def load_state(self, arrays):
        """Go on from what `state` returned."""
        parts, states = self._numpy()
        loaded = [
            [
                record._replace(
                    **{
                        name: np.array(arrays[f"{number}.{name}"])
                        for name in names
                        if getattr(record, name) is not None
                    }
                )
                for number, record in enumerate(records)
            ]
            for records, names in ((parts, _PART_ARRAYS), (states, State._fields))
        ]
        self._set(*loaded)

    @property
    def n_bytes(self):
        """Bytes of the weights, indices and the optimiser's state."""
        return sum(array.nbytes for array in self.state().values())

    # ------------------------------------------------------------------ arrays of the backend

    @property
    def _on_cpu(self):
        return self.backend in ("reference", "numba")

    def _cpu_ops(self):
        return self._ops if self._on_cpu else load_backend("numba")

    def _set(self, parts, states):
        if not self._on_cpu:
            from skxmc.ops.sparse_head import torch_

            moved = [
                torch_.to_device(part, state, self.device)
                for part, state in zip(parts, states, strict=True)
            ]
            parts, states = zip(*moved, strict=True)
        self.parts, self.states = tuple(parts), tuple(states)

    def _numpy(self):
        if self._on_cpu:
            return self.parts, self.states
        from skxmc.ops.sparse_head import torch_

        copied = [
            torch_.to_numpy(part, state)
            for part, state in zip(self.parts, self.states, strict=True)
        ]
        return tuple(zip(*copied, strict=True))


class _DenseGradient:
    """Gradient of the loss of a batch by all inputs, for some whole groups of labels of a part."""

    def __init__(self, ops, part, features, targets, loss, first):
        self._ops, self._part, self._features = ops, part, features
        self._targets, self._loss, self._first = targets.tocsc(), loss, first

    def __call__(self, first, stop):
        part, size = self._part, self._part.group_size
        groups = slice(first // size, -(-stop // size))
        block = Part(
            part.weights[first:stop],
            part.indices[groups],
            part.bias[first:stop],
            size,
            part.precision,
        )
        margins = self._ops.scores(self._features, (block,))
        positive = self._targets[:, first:stop].toarray() != 0
        weight = self._loss.positive_weight
        if weight is not None:
            weight = weight[self._first + first : self._first + stop]
        gradient = margin_gradient(self._loss.name, margins, positive, weight)
        return gradient.T @ self._features


def margin_gradient(name, margins, positive, positive_weight=None):
    """Gradient of the loss by the margins, float32 (`skxmc.ops.sparse_head._types.Loss`)."""
    sign = np.where(positive, np.float32(1), np.float32(-1))
    weight = np.float32(1) if positive_weight is None else np.where(positive, positive_weight, 1)
    if name == "squared_hinge":
        slope = -2 * sign * np.maximum(0, 1 - sign * margins)
    else:
        slope = -sign / (1 + np.exp(np.minimum(sign * margins, 80)))
    return (weight * slope).astype(np.float32)


def compensated_labels(sizes, share):
    """How many labels of each part have a Kahan compensation: the first ones of the layer."""
    left = round(share * sum(sizes))
    counts = []
    for size in sizes:
        counts.append(min(size, left))
        left -= counts[-1]
    return counts


def stream_seed(seed, *numbers):
    """A seed of 63 bits for one of the random streams of a training."""
    state = np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def to_numpy(array):
    """A NumPy array of an array or a tensor of any device."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


def new_optimizer(name, learning_rate, momentum, weight_decay):
    """The `Optimizer` of these settings; momentum is of SGD only."""
    return Optimizer(
        name,
        learning_rate,
        momentum=momentum if name == "sgd" else 0.0,
        weight_decay=weight_decay,
    )
