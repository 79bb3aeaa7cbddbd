"""The memory of a training, from its sizes alone."""

from typing import NamedTuple

from skxmc.ops.sparse_head import initial


class MemoryFootprint(NamedTuple):
    """Predicted bytes of a training.

    Attributes
    ----------
    weights, indices : int
        Of the output layer; biases count as weights.
    optimizer : int
        Moments and compensation of the output layer.
    front : int
        What turns rows into features: weights and their optimiser.
    auxiliary : int
        The head over meta-labels, with its optimiser.
    activations : int
        What a training step, or the choice of the first inputs before it, takes beside all this:
        the larger.
    """

    weights: int
    indices: int
    optimizer: int
    front: int
    auxiliary: int
    activations: int

    @property
    def total(self):
        """Sum of all, in bytes."""
        return sum(self)

    def __str__(self):
        rows = [*self._asdict().items(), ("total", self.total)]
        return "\n".join(f"{name:<12}{value / 2**20:>14,.1f} MiB" for name, value in rows)


def layer_bytes(plan, n_inputs, precision, optimizer, compensated):
    """Weights, indices and optimiser of parts (n_labels, fan_in, group_size), in bytes."""
    weights = indices = state = 0
    for (size, fan_in, group_size), count in zip(plan, compensated, strict=True):
        found = initial.footprint(size, n_inputs, fan_in, group_size, precision, optimizer, count)
        weights += found.weights + found.bias
        indices += found.indices
        state += found.state
    return weights, indices, state


def hidden_layer_bytes(n_features, width):
    """Weights and biases with both moments of Adam, and a count of updates for each feature."""
    return 12 * (n_features + 1) * width + 4 * n_features


def step_bytes(batch_size, n_inputs, n_jobs):
    """What a training step of the CPU backend takes for a moment.

    The features, their slope and the gradient in the front; in the output layer a feature-major
    copy, the sum of the gradient, and for each thread a gradient, tiles and scratch space.
    """
    features = 4 * batch_size * n_inputs
    return (6 + 2 * n_jobs) * features + n_jobs * (1 << 20)
