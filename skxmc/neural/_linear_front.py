"""A front without a nonlinearity: rows times a matrix. Where rows are bags, an embedding bag."""

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import effective_n_jobs, map_chunks
from skxmc.neural import _hidden_kernels, _row_adam
from skxmc.neural._front import dropout_mask
from skxmc.ops.csr import canonical_csr, check_finite


class LinearFront:
    """Features ``X @ weights``, trained by Adam.

    For sparse rows an update touches only the weights of the features in the batch, each with its
    own count of updates in Adam's bias correction: the cost of a step does not depend on the
    number of features.

    Parameters
    ----------
    weights : float32 array of shape (n_inputs, n_outputs)
        Copied before the first step.
    dropout : float, default=0.0
        Share of the features set to 0 in training; the others are divided by one less this.
    trainable : bool, default=True
        False: `backward` and `step` leave the weights alone.
    n_jobs : int or None, default=None
        Threads; the result does not depend on it.

    Attributes
    ----------
    n_inputs, n_outputs : int

    Notes
    -----
    Cost of a step: O(stored entries x n_outputs) for a sparse batch. Memory: the weights, and twice
    as much for the moments of Adam from the first step on.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._linear_front import LinearFront
    >>> front = LinearFront(np.eye(2, dtype=np.float32))
    >>> features = front.forward(np.float32([[1, 2]]), training=True)
    >>> front.backward(features)  # the gradient of half the squared length
    array([[1., 2.]], dtype=float32)
    >>> front.step(0.5)
    >>> front.transform(np.float32([[1, 2]])).round(2)
    array([[-0.5,  0.5]], dtype=float32)
    """

    takes_texts = False

    def __init__(self, weights, *, dropout=0.0, trainable=True, n_jobs=None):
        self.weights = weights
        self.dropout = dropout
        self.trainable = trainable
        self.n_jobs = n_jobs
        self._moments = None
        self._forget()

    @property
    def n_inputs(self):
        """Width of a row."""
        return self.weights.shape[0]

    @property
    def n_outputs(self):
        """Width of the features."""
        return self.weights.shape[1]

    def prepare(self, X):
        """Return rows as `forward` takes them: canonical CSR or dense, float32, finite.

        Raises
        ------
        ValueError
            If they are not finite or have another number of columns.
        """
        if sp.issparse(X):
            X = canonical_csr(X, np.float32)
        else:
            X = np.ascontiguousarray(X, dtype=np.float32)
            if X.ndim != 2:
                raise ValueError(f"X must be two-dimensional, got an array of shape {X.shape}.")
            check_finite(X)
        if X.shape[1] != self.n_inputs:
            raise ValueError(f"X has {X.shape[1]} columns, the encoder takes {self.n_inputs}.")
        return X

    def forward(self, batch, *, training=False, seed=None):
        """Features of a batch.

        Parameters
        ----------
        batch : csr_array or ndarray of shape (n_rows, n_inputs)
            As `prepare` returns it.
        training : bool
            Drop features, and remember what `backward` needs.
        seed : int or sequence of int
            Of the features to drop.

        Returns
        -------
        float32 ndarray of shape (n_rows, n_outputs)
        """
        features = self.transform(batch) if sp.issparse(batch) else batch @ self.weights
        if training:
            self._mask = None
            if self.dropout:
                self._mask = dropout_mask(features.shape, self.dropout, seed)
                features *= self._mask
            self._batch = batch
        return features

    def backward(self, gradient):
        """Add the gradient of the weights to what they have.

        Parameters
        ----------
        gradient : float32 ndarray of shape (n_rows, n_outputs)
            Of the loss with respect to what the last ``forward(training=True)`` returned. Several
            pairs of `forward` and `backward` before one `step` add up.

        Returns
        -------
        float32 ndarray of shape (n_rows, n_inputs), or None for a sparse batch
            Gradient with respect to the batch.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            raise RuntimeError("backward comes after forward(training=True), once for each.")
        shape = (batch.shape[0], self.n_outputs)
        if gradient.shape != shape:
            raise ValueError(f"gradient has shape {gradient.shape}, the features have {shape}.")
        if self._mask is not None:
            gradient = gradient * self._mask
        if self.trainable:
            self._pending.append((batch, np.ascontiguousarray(gradient, dtype=np.float32)))
        return None if sp.issparse(batch) else gradient @ self.weights.T

    def step(self, learning_rate):
        """Update the weights and clear the gradient."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        moments = self._adam_moments()
        n_jobs = effective_n_jobs(self.n_jobs)
        batches, gradients = zip(*pending, strict=True)
        if sp.issparse(batches[0]):
            batch = batches[0] if len(batches) == 1 else sp.vstack(batches, format="csr")
            gradient = gradients[0] if len(batches) == 1 else np.concatenate(gradients)
            _row_adam.adam_touched_rows(
                self.weights, moments, batch, gradient, learning_rate, n_jobs
            )
            return
        gradient = sum(batch.T @ gradient for batch, gradient in pending)
        moments["n_updates"] += 1
        _row_adam.adam_all_rows(
            self.weights,
            gradient,
            moments["first"],
            moments["second"],
            learning_rate,
            int(moments["n_updates"][0]),
            n_jobs,
        )

    def transform(self, X, *, n_jobs=None):
        """Features of rows for prediction: a row has the same bits alone and among others."""
        if X.shape[1] != self.n_inputs:  # the kernel does not look
            raise ValueError(f"X has {X.shape[1]} columns, the encoder takes {self.n_inputs}.")
        out = np.empty((X.shape[0], self.n_outputs), dtype=np.float32)
        bias = np.zeros(self.n_outputs, dtype=np.float32)
        if sp.issparse(X):
            kernel, arrays = _hidden_kernels.sparse_rows, (X.indptr, X.indices, X.data)
        else:
            kernel, arrays = _hidden_kernels.dense_rows, (X,)

        def compute(rows):
            kernel(*arrays, self.weights, bias, rows.start, rows.stop, out)

        n_jobs = effective_n_jobs(self.n_jobs if n_jobs is None else n_jobs)
        for _ in map_chunks(compute, _row_adam.chunks(*out.shape), n_jobs):
            pass
        return out

    def model(self):
        """What prediction needs: a dictionary of NumPy arrays."""
        return {"weights": self.weights}

    def state(self):
        """Parameters and optimiser: a dictionary of arrays, not copied."""
        return {"weights": self.weights, **self._adam_moments()}

    def load_state(self, state):
        """Go on from such a dictionary, of which the arrays are copied."""
        state = {name: np.array(array) for name, array in state.items()}
        weights = state.pop("weights")
        if weights.shape != self.weights.shape:
            raise ValueError(
                f"The state has weights of shape {weights.shape}, the encoder {self.weights.shape}."
            )
        self.weights, self._moments = weights, state
        self._forget()

    def _adam_moments(self):
        if self._moments is None:
            self.weights = np.array(self.weights)  # those given may be read-only, or another's
            self._moments = _row_adam.new_moments(self.weights)
        return self._moments

    def _forget(self):
        self._batch, self._mask, self._pending = None, None, []

    def __getstate__(self):
        return {**self.__dict__, "_batch": None, "_mask": None, "_pending": []}
