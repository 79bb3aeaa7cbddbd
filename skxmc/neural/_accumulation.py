"""Large batches in parts: the memory of a small batch, the gradient of the large one."""

import itertools

import numpy as np

from skxmc.neural._front import rows_of


class FrontWrapper:
    """A front that computes by another one, ``front``: all that it does not define is of that."""

    def __init__(self, front):
        self.front, self.n_outputs = front, front.n_outputs

    def step(self, learning_rate):
        """Update the parameters."""
        self.front.step(learning_rate)

    def __getattr__(self, name):
        if name.startswith("__") or name == "front":
            raise AttributeError(name)
        return getattr(self.front, name)


def innermost(front):
    """The front in its wrappers."""
    while isinstance(front, FrontWrapper):
        front = front.front
    return front


class AccumulatingFront(FrontWrapper):
    r"""A front whose batches are computed in parts, one after the other.

    `forward` computes the features of all parts and keeps what `backward` needs for the last part
    only. `backward` computes the others again, with the same dropout, and adds up their gradients
    (L. Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021:
    gradient cache). So the loss sees the features of the whole batch: the result is that of one
    large batch, but for rounding and the units that dropout hits, also where the loss compares the
    rows of a batch with each other.

    Parameters
    ----------
    front : Front
        See `skxmc.neural._front`.
    n_parts : int
        Parts of a batch, at most; 1 or more.

    Notes
    -----
    The front's activations are those of a part; features and their gradient are kept for the whole
    batch, 8 bytes a row and feature. `n_parts` - 1 parts are computed twice: a step takes up to 4/3
    of the time.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._accumulation import AccumulatingFront
    >>> from skxmc.neural._front import HiddenLayerFront
    >>> def trained(front, batch=np.eye(4, 3, dtype=np.float32)):
    ...     front.backward(front.forward(batch, training=True, seed=0))
    ...     front.step(0.1)
    ...     return front.model()["weights"].ravel().round(3).tolist()
    >>> layers = [HiddenLayerFront(np.ones((3, 1), "f4"), np.zeros(1, "f4")) for _ in range(2)]
    >>> trained(layers[0]) == trained(AccumulatingFront(layers[1], 2))
    True
    """

    def __init__(self, front, n_parts):
        if n_parts < 1:
            raise ValueError(f"n_parts must be at least 1; got {n_parts}.")
        super().__init__(front)
        self.n_parts = n_parts
        self._parts = []

    def forward(self, batch, *, training=False, seed=None):
        """Features of a batch."""
        if not training:
            return self.front.forward(batch, training=False, seed=seed)
        n_rows = batch.shape[0] if hasattr(batch, "shape") else len(batch)
        bounds = np.linspace(0, n_rows, min(self.n_parts, max(n_rows, 1)) + 1).astype(int)
        self._parts, features = [], []
        for number, (first, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            rows = slice(first, stop)
            part = (rows_of(batch, rows), _part_seed(seed, number))
            features.append(self.front.forward(part[0], training=True, seed=part[1]))
            self._parts.append((rows, *part))
        return _concatenated(features)

    def backward(self, gradient):
        """Add the gradient of the parameters, given that of the last features."""
        parts, self._parts = self._parts, []
        if not parts:
            raise RuntimeError("backward comes after forward(training=True), once for each.")
        # the last part first: the front still knows it
        for number, (rows, batch, seed) in enumerate(reversed(parts)):
            if number > 0:
                self.front.forward(batch, training=True, seed=seed)
            self.front.backward(gradient[rows])


def _part_seed(seed, number):
    """The first part has the seed of the batch: one part is the front itself."""
    if seed is None or number == 0:
        return seed
    return int(
        np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def _concatenated(parts):
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
