"""The training loop of the neural estimators.

A `Trainer` runs epochs and steps; what a step does is the business of its `Learner`. All randomness
comes from the seed and the number of the step, so that a training continued from its `state` is the
same, bit for bit, as one that was never interrupted.
"""

import abc
import contextlib
import signal
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from skxmc._progress import progress
from skxmc.neural._schedule import learning_rate_factor

# Number of the random stream of the order of the rows.
_STREAM_ORDER = 101

# A checkpoint within an epoch, where the last one is so old.
_CHECKPOINT_SECONDS = 300.0

# What a process wants after a step, the stronger wish the larger.
_WRITE, _STOP = 1, 2


class Plan(NamedTuple):
    """Settings of a training loop.

    Attributes
    ----------
    epochs, batch_size : int
    warmup : int
        Steps of rising learning rates.
    schedule : {"cosine", "constant"}
    seed : int
        Of the order of the rows.
    patience : int
        Epochs without a better precision after which the training ends.
    n_steps : int or None
        Steps of the whole training, after which the schedule is over. None: as many as batches of
        ``batch_size`` rows make; a learner with batches of its own may say otherwise.
    """

    epochs: int
    batch_size: int
    warmup: int = 0
    schedule: str = "cosine"
    seed: int = 0
    patience: int = 5
    n_steps: int | None = None


class Learner(abc.ABC):
    """What is trained: the parameters, and how a batch of rows changes them.

    The base of all learners, with what most of them need not do. A learner computes everything from
    its seed, the number of the step or epoch, and its parameters, so that a training that was
    interrupted goes on, from its `state`, bit for bit.

    Attributes
    ----------
    device : str, torch.device or None
        Where it computes, for the memory that the progress bar shows; None is the CPU.
    is_silent : bool
        Whether another process of the same training shows the progress.
    """

    device = None
    is_silent = False

    def begin_epoch(self, epoch):  # noqa: B027 - most have nothing to do
        """Refresh negatives, clusters, ...; called at the start of epochs 0, 1, ...

        A training that goes on within an epoch does not call it again for this epoch: what it
        computes from parameters, which have changed since, belongs into `state`.
        """

    def batches(self, epoch, rng):
        """Rows of the steps of an epoch.

        Parameters
        ----------
        epoch : int
        rng : numpy.random.Generator
            Of this epoch.

        Returns
        -------
        list of int64 arrays, or None
            None: a random permutation of the rows, cut into batches of rising row numbers.

        Notes
        -----
        Called again where a training goes on within the epoch: it may depend on the arguments and
        on what `begin_epoch` left only.
        """
        return None

    @abc.abstractmethod
    def train_step(self, rows, *, step, n_steps, factor):
        """Forward, backward and update by a batch.

        Parameters
        ----------
        rows : int64 array
            Numbers of the rows.
        step : int
            Steps done before.
        n_steps : int
            Those of the whole training.
        factor : float
            What all learning rates are multiplied by.

        Returns
        -------
        float
            Sum of the loss over the rows. Where it is not finite the training ends.
        """

    def evaluate(self):
        """Measures on the validation set, such as ``{"P@1": 0.5, "P@3": 0.4}``; {} without one.

        The first one decides which epoch is the best: larger is better.
        """
        return {}

    def glance(self):
        """Measures on a few training rows, for the progress bar where `evaluate` has none."""
        return {}

    @abc.abstractmethod
    def parameters(self):
        """Copies of what a model is: a dictionary of NumPy arrays."""

    @abc.abstractmethod
    def load_parameters(self, arrays):
        """Go back to what `parameters` returned."""

    @abc.abstractmethod
    def state(self):
        """All that the rest of the training depends on.

        Returns
        -------
        arrays : dict of str to ndarray
            Not copied.
        meta : JSON value
        """

    @abc.abstractmethod
    def load_state(self, arrays, meta):
        """Go on from what `state` returned."""


class Trainer:
    """The loop: batches, schedule, early stopping, checkpoints, interrupts and progress.

    Parameters
    ----------
    learner : Learner
    plan : Plan

    Attributes
    ----------
    history : list of dict
        ``"loss"``: mean over the rows of the epoch; what the learner measured after it, such as
        ``"P@1"``.
    n_steps, n_epochs : int
        Done so far.
    best_epoch : int or None
        Counted from 1: the epoch whose model `fit` ends with, where the learner evaluates.
    """

    def __init__(self, learner, plan):
        self.learner, self.plan = learner, plan
        self.history = []
        self.n_steps = self.n_epochs = 0
        self.best_epoch = None
        self._best = None
        # in the present epoch: batches done, and the sum of their losses
        self._position, self._loss = 0, 0.0

    def fit(self, n_rows, *, checkpoint=None, verbose=0):
        """Train until the planned epochs are done or the precision stops to rise.

        Parameters
        ----------
        n_rows : int
            Training rows of the learner.
        checkpoint : Checkpoint or None
            Written after each epoch, every five minutes, and at an interrupt.
        verbose : int

        Notes
        -----
        A KeyboardInterrupt is raised after the step in which it came, and after a checkpoint of
        it.
        """
        plan = self.plan
        with (
            progress(
                self._planned_steps(n_rows), "steps", verbose and not self.learner.is_silent
            ) as bar,
            _delayed_interrupt(checkpoint is not None) as interrupted,
        ):
            bar.update(self.n_steps)
            while self.n_epochs < plan.epochs and not self._is_over():
                self._epoch(n_rows, bar, checkpoint, interrupted)
                shown = self._evaluate()
                if verbose:
                    shown = shown or self.learner.glance()
                    loss = self.history[-1]["loss"]
                    bar.set_postfix_str(_status(loss, shown, self.learner.device))
                if checkpoint is not None:
                    checkpoint.write(self)
        if self._best is not None:
            self.learner.load_parameters(self._best)

    def run_epoch(self, n_rows):
        """One epoch."""
        self._epoch(n_rows, None, None, lambda: False)

    # ------------------------------------------------------------------ an epoch

    def _epoch(self, n_rows, bar, checkpoint, interrupted):
        if self._position == 0:
            self.learner.begin_epoch(self.n_epochs)
        batches = self._batches(n_rows)
        n_all = self._planned_steps(n_rows)
        written = time.monotonic()
        while self._position < len(batches):
            self._step(batches[self._position], n_all)
            self._position += 1
            if bar is not None:
                bar.update()
            if checkpoint is not None:
                is_due = time.monotonic() - written > _CHECKPOINT_SECONDS
                wish = checkpoint.agree(_STOP if interrupted() else _WRITE if is_due else 0)
                if wish:
                    checkpoint.write(self)
                    written = time.monotonic()
                if wish == _STOP:
                    raise KeyboardInterrupt
        self.history.append({"loss": self._loss / max(1, sum(map(len, batches)))})
        self._position, self._loss = 0, 0.0
        self.n_epochs += 1

    def _planned_steps(self, n_rows):
        if self.plan.n_steps is not None:
            return self.plan.n_steps
        return self.plan.epochs * -(-n_rows // self.plan.batch_size)

    def _batches(self, n_rows):
        """Rows of the steps of the present epoch."""
        seed = [self.plan.seed, _STREAM_ORDER, self.n_epochs]
        own = self.learner.batches(self.n_epochs, np.random.default_rng(seed))
        if own is not None:
            return own
        order, size = np.random.default_rng(seed).permutation(n_rows), self.plan.batch_size
        # in rising order: the rows lie near each other, and a sum has one order of its terms
        return [np.sort(order[first : first + size]) for first in range(0, n_rows, size)]

    def _step(self, rows, n_all):
        plan, step = self.plan, self.n_steps
        factor = learning_rate_factor(step, n_all, plan.warmup, plan.schedule)
        loss = self.learner.train_step(rows, step=step, n_steps=n_all, factor=factor)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in step {step + 1}: the training diverged. Lower the "
                "learning rates, such as learning_rate or front_learning_rate."
            )
        self.n_steps += 1
        self._loss += loss

    # ------------------------------------------------------------------ validation

    def _evaluate(self):
        """What the learner measures; remember its model if it is the best."""
        found = self.learner.evaluate()
        if not found:
            return {}
        self.history[-1].update(found)
        criterion = next(iter(found))
        if (
            self.best_epoch is None
            or found[criterion] > self.history[self.best_epoch - 1][criterion]
        ):
            self.best_epoch = self.n_epochs
            self._best = self.learner.parameters()
        return found

    def _is_over(self):
        return self._best is not None and self.n_epochs - self.best_epoch >= self.plan.patience

    # ------------------------------------------------------------------ state

    def state(self):
        """All that the rest of the training depends on.

        Returns
        -------
        arrays : dict of str to ndarray
        meta : JSON value
        """
        own, learner_meta = self.learner.state()
        arrays = {f"learner/{name}": array for name, array in own.items()}
        if self._best is not None:
            arrays |= {f"best/{name}": array for name, array in self._best.items()}
        meta = {
            "n_steps": self.n_steps,
            "n_epochs": self.n_epochs,
            "position": self._position,
            "loss": self._loss,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "learner": learner_meta,
        }
        return arrays, meta

    def load_state(self, arrays, meta):
        """Go on from what `state` returned, with the same plan and a learner of the same kind."""
        groups = {"learner": {}, "best": {}}
        for name, array in arrays.items():
            group, name = name.split("/", 1)
            groups[group][name] = array
        self.learner.load_state(groups["learner"], meta["learner"])
        self.n_steps, self.n_epochs = meta["n_steps"], meta["n_epochs"]
        self._position, self._loss = meta["position"], meta["loss"]
        self.history = [dict(epoch) for epoch in meta["history"]]
        self.best_epoch = meta["best_epoch"]
        self._best = None if self.best_epoch is None else groups["best"]


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


def _status(loss, precision, device):
    shown = [f"loss {loss:.4g}", *(f"{name} {value:.3f}" for name, value in precision.items())]
    peak = peak_memory()
    if peak is not None:
        shown.append(f"peak {peak / 2**20:,.0f} MiB")
    if device is not None and "cuda" in str(device):
        import torch

        shown.append(f"GPU {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB")
    return ", ".join(shown)


def peak_memory():
    """The most resident memory of this process so far, in bytes; None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
