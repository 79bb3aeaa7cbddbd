"""What most trainings train: a front, an output layer on its features, and an auxiliary head."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.neural._front import rows_of
from skxmc.neural._output_layer import OutputLayer, Rewiring, stream_seed
from skxmc.neural._schedule import cosine_to_zero
from skxmc.neural._training import Learner

# Number of the random stream of dropout.
_STREAM_DROPOUT = 102

# Rows whose precision the progress bar shows where there is no validation set.
_SHOWN_ROWS = 512


class AuxiliaryHead(NamedTuple):
    """A head over meta-labels on the same features, removed when its time is over.

    Attributes
    ----------
    output : OutputLayer
    targets : canonical csr_array of shape (n_rows, n_clusters)
        Indicator of the meta-labels of all rows.
    weight : float
        Share s of its loss in the gradient that the front gets, (1 - s) main + s auxiliary, at the
        first step.
    n_steps : int
        Steps in which the share falls to 0 like half a cosine.
    n_epochs : int
        Epochs after which the head is removed.
    """

    output: OutputLayer
    targets: sp.csr_array
    weight: float
    n_steps: int
    n_epochs: int


class HeadLearner(Learner):
    """A front and an output layer, by the gradient of the loss of each batch.

    Parameters
    ----------
    front : Front
        See `skxmc.neural._front`.
    output : OutputLayer
    X : csr_array, ndarray or sequence of length n
        Rows as the front takes them.
    Y : canonical csr_array of shape (n, n_labels)
        Indicator, labels in the order of the output layer.
    front_learning_rate : float
        That of the output layer is its own.
    seed : int
    rewiring : Rewiring or None
    auxiliary : AuxiliaryHead or None
    validation : (X, Y) or None
    """

    def __init__(
        self,
        front,
        output,
        X,
        Y,
        *,
        front_learning_rate,
        seed,
        rewiring: Rewiring | None = None,
        auxiliary: AuxiliaryHead | None = None,
        validation=None,
    ):
        self.front, self.output, self.auxiliary = front, output, auxiliary
        self.device, self.is_silent = output.device, output.is_silent
        self._X, self._Y, self._validation = X, Y, validation
        self._rate, self._seed, self._rewiring = front_learning_rate, seed, rewiring

    def begin_epoch(self, epoch):
        """Remove the auxiliary head when its time is over."""
        if self.auxiliary is not None and epoch >= self.auxiliary.n_epochs:
            self.auxiliary = None

    def train_step(self, rows, *, step, n_steps, factor):
        """Update the front and the heads; the loss of the main head."""
        targets = rows_of(self._Y, rows)
        features = self.front.forward(
            rows_of(self._X, rows),
            training=True,
            seed=stream_seed(self._seed, _STREAM_DROPOUT, step),
        )
        result = self.output.train_step(features, targets, factor, step)
        if not np.isfinite(result.loss):
            return result.loss  # the training ends, with the front as it was
        gradient = result.grad_features
        if self.auxiliary is not None:
            head = self.auxiliary
            share = cosine_to_zero(head.weight, step, head.n_steps)
            other = head.output.train_step(features, rows_of(head.targets, rows), factor, step)
            gradient = (1 - share) * gradient + share * other.grad_features
        self.front.backward(gradient)
        self.front.step(self._rate * factor)
        if self._rewiring is not None and self._rewiring.is_due(step + 1):
            self.output.rewire(self._rewiring, step + 1, features, targets)
        return result.loss

    def evaluate(self):
        """P@1 and, with as many labels, P@3 on the validation set."""
        return {} if self._validation is None else self.precision(*self._validation)

    def glance(self):
        """The same on some of the training rows."""
        rows = np.arange(min(_SHOWN_ROWS, self._Y.shape[0]))
        return self.precision(rows_of(self._X, rows), rows_of(self._Y, rows))

    def precision(self, X, Y):
        """P@1 and, with as many labels, P@3 on these rows."""
        ks = [k for k in (1, 3) if k <= self.output.n_labels]
        hits = np.zeros(max(ks))
        n_rows = Y.shape[0]
        block = max(1, (1 << 24) // self.output.n_inputs)
        for first in range(0, n_rows, block):
            rows = np.arange(first, min(first + block, n_rows))
            answers = self.output.topk(self.front.transform(rows_of(X, rows)), max(ks))
            truth = rows_of(Y, rows)
            for row in range(len(rows)):
                own = truth.indices[truth.indptr[row] : truth.indptr[row + 1]]
                hits += np.isin(answers.labels[row], own)
        return {f"P@{k}": float(hits[:k].sum() / (k * n_rows)) for k in ks}

    # ------------------------------------------------------------------ state

    def parameters(self):
        """Copies of what prediction needs, and of the front's optimiser."""
        front = {f"front/{name}": np.array(a) for name, a in self.front.state().items()}
        output = {f"output/{name}": a for name, a in self.output.parameters().items()}
        return front | output

    def load_parameters(self, arrays):
        """Go back to what `parameters` returned."""
        self.front.load_state(_group(arrays, "front"))
        self.output.load_parameters(_group(arrays, "output"))

    def state(self):
        """All arrays of the front and the heads."""
        groups = {"front": self.front, "output": self.output}
        if self.auxiliary is not None:
            groups["auxiliary"] = self.auxiliary.output
        arrays = {
            f"{group}/{name}": array
            for group, part in groups.items()
            for name, array in part.state().items()
        }
        return arrays, {}

    def load_state(self, arrays, meta):
        """Go on from what `state` returned."""
        self.front.load_state(_group(arrays, "front"))
        self.output.load_state(_group(arrays, "output"))
        auxiliary = _group(arrays, "auxiliary")
        if not auxiliary:
            self.auxiliary = None
        elif self.auxiliary is not None:
            self.auxiliary.output.load_state(auxiliary)


def _group(arrays, group):
    """The arrays whose names begin with a group, by the rest of their names."""
    start = f"{group}/"
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }
