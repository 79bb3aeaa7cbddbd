"""The training loop of the neural estimators.

A `Trainer` owns a front (what turns rows into features), an output layer and, for the first epochs,
an auxiliary head over meta-labels on the same features; it knows nothing of estimators. All its
randomness comes from the seed and the number of the step, so that a training continued from its
`state` is the same, bit for bit, as one that was never interrupted.
"""

import contextlib
import signal
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from skxmc._progress import progress
from skxmc.neural._front import rows_of
from skxmc.neural._output_layer import Rewiring, stream_seed
from skxmc.neural._schedule import cosine_to_zero, learning_rate_factor

# Numbers of the random streams.
_STREAM_ORDER, _STREAM_DROPOUT = 101, 102

# A checkpoint within an epoch, where the last one is so old.
_CHECKPOINT_SECONDS = 300.0

# Rows whose precision the progress bar shows where there is no validation set.
_SHOWN_ROWS = 512


class Plan(NamedTuple):
    """Settings of a training.

    Attributes
    ----------
    epochs, batch_size : int
    front_learning_rate : float
        That of the output layer is its own.
    warmup : int
        Steps of rising learning rates.
    schedule : {"cosine", "constant"}
    seed : int
    rewiring : Rewiring or None
    auxiliary_weight : float
        Share s of the auxiliary loss in the gradient that the front gets,
        (1 - s) main + s auxiliary, at the first step.
    auxiliary_epochs : int
        Epochs in which it falls to 0 like half a cosine.
    patience : int
        Epochs without a better precision after which the training ends.
    """

    epochs: int
    batch_size: int
    front_learning_rate: float
    warmup: int = 0
    schedule: str = "cosine"
    seed: int = 0
    rewiring: Rewiring | None = None
    auxiliary_weight: float = 0.0
    auxiliary_epochs: int = 0
    patience: int = 5


class Trainer:
    """A model in training.

    Parameters
    ----------
    front : Front
        See `skxmc.neural._front`.
    output : OutputLayer
    plan : Plan
    auxiliary : OutputLayer or None
        The head over meta-labels, removed when its time is over.

    Attributes
    ----------
    history : list of dict
        ``"loss"``: mean over the rows of the epoch; ``"P@1"``, ``"P@3"`` on the validation set.
    n_steps, n_epochs : int
        Done so far.
    best_epoch : int or None
        Counted from 1: the epoch whose model `fit` ends with, where there is a validation set.
    """

    def __init__(self, front, output, plan, *, auxiliary=None):
        self.front, self.output, self.auxiliary = front, output, auxiliary
        self.plan = plan
        self.history = []
        self.n_steps = self.n_epochs = 0
        self.best_epoch = None
        self._best = None
        self._position, self._loss = 0, 0.0

    def fit(self, X, Y, *, meta=None, validation=None, checkpoint=None, verbose=0):
        """Train until the planned epochs are done or the validation precision stops to rise.

        Parameters
        ----------
        X : csr_array, ndarray or sequence of length n
            Rows as the front takes them.
        Y : canonical csr_array of shape (n, n_labels)
            Indicator, labels in the order of the output layer.
        meta : canonical csr_array of shape (n, n_clusters), optional
            Targets of the auxiliary head.
        validation : (X, Y) or None
        checkpoint : object with ``write(trainer)``, or None
            Called after each epoch, every five minutes, and at an interrupt.
        verbose : int

        Notes
        -----
        A KeyboardInterrupt is raised after the step in which it came, and after a checkpoint of
        it.
        """
        plan = self.plan
        n_batches = -(-Y.shape[0] // plan.batch_size)
        with (
            progress(plan.epochs * n_batches, "steps", verbose) as bar,
            _delayed_interrupt(checkpoint is not None) as interrupted,
        ):
            bar.update(self.n_steps)
            while self.n_epochs < plan.epochs and not self._is_over():
                self._epoch(X, Y, meta, bar, checkpoint, interrupted)
                shown = self._evaluate(validation)
                if not shown and verbose:
                    rows = np.arange(min(_SHOWN_ROWS, Y.shape[0]))
                    shown = self._precision(rows_of(X, rows), rows_of(Y, rows))
                if verbose:
                    bar.set_postfix_str(_status(self.history[-1]["loss"], shown, self.output))
                if checkpoint is not None:
                    checkpoint.write(self)
        if self._best is not None:
            self.front.load_state(self._best["front"])
            self.output.load_parameters(self._best["output"])

    def run_epoch(self, X, Y, *, meta=None):
        """One epoch over these rows."""
        self._epoch(X, Y, meta, None, None, lambda: False)

    # ------------------------------------------------------------------ an epoch

    def _epoch(self, X, Y, meta, bar, checkpoint, interrupted):
        n_rows, size = Y.shape[0], self.plan.batch_size
        rng = np.random.default_rng([self.plan.seed, _STREAM_ORDER, self.n_epochs])
        order = rng.permutation(n_rows)
        n_batches = -(-n_rows // size)
        n_all = self.plan.epochs * n_batches
        if self.auxiliary is not None and self.n_epochs >= self.plan.auxiliary_epochs:
            self.auxiliary = None
        written = time.monotonic()
        while self._position < n_rows:
            # in rising order: the rows lie near each other, and a sum has one order of its terms
            rows = np.sort(order[self._position : self._position + size])
            self._step(
                rows_of(X, rows),
                rows_of(Y, rows),
                None if self.auxiliary is None else rows_of(meta, rows),
                n_all,
                n_batches,
            )
            self._position += size
            if bar is not None:
                bar.update()
            if interrupted():
                checkpoint.write(self)
                raise KeyboardInterrupt
            if checkpoint is not None and time.monotonic() - written > _CHECKPOINT_SECONDS:
                checkpoint.write(self)
                written = time.monotonic()
        self.history.append({"loss": self._loss / n_rows})
        self._position, self._loss = 0, 0.0
        self.n_epochs += 1

    def _step(self, batch, targets, meta_targets, n_all, n_batches):
        plan, step = self.plan, self.n_steps
        factor = learning_rate_factor(step, n_all, plan.warmup, plan.schedule)
        features = self.front.forward(
            batch, training=True, seed=stream_seed(plan.seed, _STREAM_DROPOUT, step)
        )
        result = self.output.train_step(features, targets, factor, step)
        if not np.isfinite(result.loss):
            raise FloatingPointError(
                f"The loss became {result.loss} in step {step + 1}: the training diverged. Lower "
                "learning_rate or front_learning_rate."
            )
        gradient = result.grad_features
        if self.auxiliary is not None:
            share = cosine_to_zero(plan.auxiliary_weight, step, plan.auxiliary_epochs * n_batches)
            other = self.auxiliary.train_step(features, meta_targets, factor, step)
            gradient = (1 - share) * gradient + share * other.grad_features
        self.front.backward(gradient)
        self.front.step(plan.front_learning_rate * factor)
        self.n_steps += 1
        self._loss += result.loss
        if plan.rewiring is not None and plan.rewiring.is_due(self.n_steps):
            self.output.rewire(plan.rewiring, self.n_steps, features, targets)

    # ------------------------------------------------------------------ validation

    def _evaluate(self, validation):
        """Precision on the validation set; remember the model if it is the best."""
        if validation is None:
            return {}
        found = self._precision(*validation)
        self.history[-1].update(found)
        if self.best_epoch is None or found["P@1"] > self.history[self.best_epoch - 1]["P@1"]:
            self.best_epoch = self.n_epochs
            self._best = {
                "front": {name: np.array(a) for name, a in self.front.state().items()},
                "output": self.output.parameters(),
            }
        return found

    def _is_over(self):
        return self._best is not None and self.n_epochs - self.best_epoch >= self.plan.patience

    def _precision(self, X, Y):
        """P@1 and, with as many labels, P@3."""
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

    def state(self):
        """All that the rest of the training depends on.

        Returns
        -------
        arrays : dict of str to ndarray
        meta : JSON value
        """
        groups = {"front": self.front.state(), "output": self.output.state()}
        if self.auxiliary is not None:
            groups["auxiliary"] = self.auxiliary.state()
        if self._best is not None:
            groups["best_front"] = self._best["front"]
            groups["best_output"] = self._best["output"]
        arrays = {
            f"{group}/{name}": array
            for group, named in groups.items()
            for name, array in named.items()
        }
        meta = {
            "n_steps": self.n_steps,
            "n_epochs": self.n_epochs,
            "position": self._position,
            "loss": self._loss,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        return arrays, meta

    def load_state(self, arrays, meta):
        """Go on from what `state` returned, with the same plan and layers."""
        groups = {}
        for name, array in arrays.items():
            group, name = name.split("/", 1)
            groups.setdefault(group, {})[name] = array
        self.front.load_state(groups.get("front", {}))
        self.output.load_state(groups["output"])
        if "auxiliary" not in groups:
            self.auxiliary = None
        elif self.auxiliary is not None:
            self.auxiliary.load_state(groups["auxiliary"])
        self.n_steps, self.n_epochs = meta["n_steps"], meta["n_epochs"]
        self._position, self._loss = meta["position"], meta["loss"]
        self.history = [dict(epoch) for epoch in meta["history"]]
        self.best_epoch = meta["best_epoch"]
        self._best = None
        if self.best_epoch is not None:
            self._best = {
                "front": groups.get("best_front", {}),
                "output": groups["best_output"],
            }


@contextlib.contextmanager
def _delayed_interrupt(wanted):
    """Yield a function that says whether the user pressed Ctrl-C since; a second time raises."""
    came = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)

    def remember(number, frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt  # after the last step: the training is complete in the checkpoint


def _status(loss, precision, output):
    shown = [f"loss {loss:.4g}", *(f"{name} {value:.3f}" for name, value in precision.items())]
    peak = peak_memory()
    if peak is not None:
        shown.append(f"peak {peak / 2**20:,.0f} MiB")
    if output.device is not None and "cuda" in str(output.device):
        import torch

        shown.append(f"GPU {torch.cuda.max_memory_allocated(output.device) / 2**20:,.0f} MiB")
    return ", ".join(shown)


def peak_memory():
    """The most resident memory of this process so far, in bytes; None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
