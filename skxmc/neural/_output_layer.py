"""An output layer in training: parts, their optimiser state, and the backend that computes them."""

import importlib
from typing import NamedTuple

import numpy as np

from skxmc.neural._schedule import cosine_to_zero
from skxmc.ops.sparse_head import initial
from skxmc.ops.sparse_head._types import Loss, Optimizer, State

#: Names of the arrays of a part.
PART_ARRAYS = ("weights", "indices", "bias")

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
    compensated : float or list of int, default=0.0
        Labels with Kahan compensation: the share of all, the first ones, or how many of each part.
    backend : {"numba", "torch", "triton", "reference"}
    device : str or None
        Of torch.
    seed : int
    n_jobs : int or None
    """

    #: Whether another process of the same training shows the progress.
    is_silent = False

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
        counts = compensated
        if not isinstance(compensated, list):
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
        parts, states = self._numpy()
        gradients = None
        if rewiring.grow == "gradient":
            gradients = self._gradients(features, targets)
        n_rewired = rewire_parts(
            parts, states, self.n_inputs, rewiring, n_steps, gradients, self.seed
        )
        if not self._on_cpu:
            self._set(parts, states)
        return n_rewired

    def _gradients(self, features, targets):
        """For each part, what gives the gradient of a range of its labels by all inputs."""
        kind = DenseGradient if self._on_cpu else DeviceGradient
        return dense_gradients(kind, self._ops, self.parts, features, targets, self.loss)

    def set_indices(self, indices):
        """Give slots other inputs: with weight 0, and nothing that the optimiser keeps.

        Parameters
        ----------
        indices : sequence of ndarray or None
            Of each part; slots that have the same input as before stay as they are.
        """
        parts, states = self._numpy()
        for part, state, found in zip(parts, states, indices, strict=True):
            if found is None:
                continue
            changed = np.repeat(part.indices != found, part.group_size, axis=0)[: part.n_labels]
            part.indices[:] = found
            for array in (part.weights, state.momentum, state.second, state.compensation):
                if array is not None:  # the compensation ends before the last label
                    array[changed[: len(array)]] = 0
        if not self._on_cpu:
            self._set(parts, states)

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
            for name in PART_ARRAYS
            if getattr(part, name) is not None
        }

    def load_parameters(self, arrays):
        """Set the weights to such copies; the optimiser's state stays."""
        parts, states = self._numpy()
        parts = [
            part._replace(
                **{
                    name: np.array(arrays[f"{number}.{name}"])
                    for name in PART_ARRAYS
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
            for records, names in ((parts, PART_ARRAYS), (states, State._fields))
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
            for records, names in ((parts, PART_ARRAYS), (states, State._fields))
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


def rewire_parts(parts, states, n_inputs, rewiring, n_steps, gradients, seed):
    """One round of pruning and growing in place; the number of slots exchanged.

    Parameters
    ----------
    parts, states : sequences of Part and State
        On NumPy arrays.
    n_inputs : int
    rewiring : Rewiring
    n_steps : int
    gradients : list of callable, or None
        For each part what ``gradient`` is of `skxmc.ops.sparse_head.rewire.rewire`.
    seed : int
    """
    from skxmc.ops.sparse_head import rewire as ops

    amount = rewiring.amount(n_steps)
    n_rewired = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        if part.indices is not None and part.fan_in < n_inputs:
            result = ops.rewire(
                part,
                state,
                n_inputs,
                prune=rewiring.prune,
                grow=rewiring.grow,
                gradient=None if gradients is None else gradients[number],
                seed=seed,
                step=n_steps,
                part_number=number,
                **{"threshold" if rewiring.prune == "threshold" else "fraction": amount},
            )
            n_rewired += result.n_rewired
    return n_rewired


def dense_gradients(kind, ops, parts, features, targets, loss):
    """For each part a callable (first, stop) that gives the gradient of labels by all inputs."""
    gradients, first = [], 0
    for part in parts:
        labels = slice(first, first + part.n_labels)
        weight = None if loss.positive_weight is None else loss.positive_weight[labels]
        gradients.append(kind(ops, part, features, targets[:, labels], Loss(loss.name, weight)))
        first = labels.stop
    return gradients


def _block(part, first, stop):
    """The labels ``first`` to ``stop``, whole groups, of a part."""
    groups = slice(first // part.group_size, -(-stop // part.group_size))
    return part._replace(
        weights=part.weights[first:stop],
        indices=part.indices[groups],
        bias=part.bias[first:stop],
    )


class DenseGradient:
    """Gradient of the loss of a batch by all inputs, for some whole groups of labels of a part."""

    def __init__(self, ops, part, features, targets, loss):
        self._ops, self._part, self._features = ops, part, features
        self._targets, self._loss = targets.tocsc(), loss

    def __call__(self, first, stop):
        margins = self._ops.scores(self._features, (_block(self._part, first, stop),))
        positive = self._targets[:, first:stop].toarray() != 0
        weight = self._loss.positive_weight
        if weight is not None:
            weight = weight[first:stop]
        gradient = margin_gradient(self._loss.name, margins, positive, weight)
        return gradient.T @ self._features


class DeviceGradient:
    """The same on tensors, where they are; the answer is a NumPy array."""

    def __init__(self, ops, part, features, targets, loss):
        from skxmc.ops.sparse_head.torch_arrays import check_features
        from skxmc.ops.sparse_head.torch_topk import Pairs

        self._part, self._name = part, loss.name
        self._features = check_features(features, [part])
        self._positives = Pairs(targets, self._features.device, weight=loss.positive_weight)

    def __call__(self, first, stop):
        from skxmc.ops.sparse_head.torch_ import scores
        from skxmc.ops.sparse_head.torch_update import loss_and_gradient_

        margins = scores(self._features, (_block(self._part, first, stop),)).T.contiguous()
        loss_and_gradient_(
            self._name,
            margins,
            self._positives.of_labels(first, stop),
            self._positives.weights_of_labels(first, stop),
        )
        gradient = margins @ self._features
        if not gradient.is_cuda:
            return gradient.numpy()
        # pinned memory: the copy is most of the time
        host = gradient.new_empty(gradient.shape, device="cpu", pin_memory=True)
        return host.copy_(gradient).numpy()


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
