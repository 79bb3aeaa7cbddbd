"""A dense layer after an encoder, with an optional tanh, dropout, and rows of unit length."""

import numpy as np

from skxmc._parallel import effective_n_jobs, map_chunks
from skxmc.neural import _hidden_kernels, _row_adam
from skxmc.neural._encoders import initial_projection
from skxmc.neural._front import dropout_mask


class Projection:
    r"""A head of a dual encoder, :math:`g(h) = dropout(\phi(W^T h + b))`.

    In UniDEC (thesis, sec. 2.4) the head of the dual encoder has :math:`\phi = \tanh`, that of the
    classifier none; both have a dropout of 0.1.

    Parameters
    ----------
    weights : float32 array of shape (n_inputs, n_outputs)
    bias : float32 array of shape (n_outputs,)
    tanh : bool, default=False
    dropout : float, default=0.1
        Share of the outputs set to 0 in training; the others are divided by one less this.
    n_jobs : int or None, default=None
        Threads of `transform` and `step`; the result does not depend on it.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._projection import Projection
    >>> head = Projection.new(2, 2, tanh=True, seed=0)
    >>> head.transform(np.float32([[0, 0]]))
    array([[0., 0.]], dtype=float32)
    """

    def __init__(self, weights, bias, *, tanh=False, dropout=0.1, n_jobs=None):
        self.weights, self.bias = weights, bias
        self.tanh, self.dropout, self.n_jobs = tanh, dropout, n_jobs
        self._moments = None
        self._inputs = self._outputs = self._mask = self._gradient = None

    @classmethod
    def new(cls, n_inputs, n_outputs, *, seed, **options):
        """Return a head that begins with the geometry of the encoder.

        Its weights are those of `skxmc.neural._encoders.initial_projection`: the identity where
        nothing is lost, else random orthonormal columns.
        """
        weights = initial_projection(n_inputs, n_outputs, seed)
        return cls(weights, np.zeros(n_outputs, dtype=np.float32), **options)

    @property
    def n_outputs(self):
        """Width of what comes out."""
        return self.weights.shape[1]

    def forward(self, features, seed):
        """Outputs of a batch in training; remembers what `backward` needs."""
        outputs = features @ self.weights
        outputs += self.bias
        if self.tanh:
            np.tanh(outputs, out=outputs)
        self._inputs, self._outputs, self._mask = features, outputs, None
        if self.dropout:
            self._mask = dropout_mask(outputs.shape, self.dropout, seed)
            outputs = outputs * self._mask
        return outputs

    def backward(self, gradient):
        """Gradient with respect to the features of the last `forward`."""
        if self._mask is not None:
            gradient = gradient * self._mask
        if self.tanh:
            gradient = gradient * (1 - self._outputs * self._outputs)
        self._gradient = self._inputs.T @ gradient, gradient.sum(axis=0)
        self._inputs = self._outputs = self._mask = None
        return gradient @ self.weights.T

    def step(self, learning_rate):
        """Update by Adam."""
        moments, n_jobs = self._adam_moments(), effective_n_jobs(self.n_jobs)
        moments["n_updates"] += 1
        t = int(moments["n_updates"][0])
        pairs = zip((self.weights, self.bias[None]), ("weights", "bias"), strict=True)
        for (parameter, name), gradient in zip(pairs, self._gradient, strict=True):
            _row_adam.adam_all_rows(
                parameter,
                np.ascontiguousarray(gradient.reshape(parameter.shape)),
                moments[f"{name}_first"],
                moments[f"{name}_second"],
                learning_rate,
                t,
                n_jobs,
            )
        self._gradient = None

    def transform(self, features):
        """Outputs for prediction: a row has the same bits alone and among others."""
        features = np.ascontiguousarray(features, dtype=np.float32)
        out = np.empty((len(features), self.n_outputs), dtype=np.float32)

        def compute(rows):
            _hidden_kernels.dense_rows(
                features, self.weights, self.bias, rows.start, rows.stop, out
            )

        chunks = _row_adam.chunks(*out.shape)
        for _ in map_chunks(compute, chunks, effective_n_jobs(self.n_jobs)):
            pass
        return np.tanh(out, out=out) if self.tanh else out

    def model(self):
        """What prediction needs: a dictionary of NumPy arrays, not copied."""
        return {"weights": self.weights, "bias": self.bias}

    def state(self):
        """Parameters and optimiser: a dictionary of arrays, not copied."""
        return {**self.model(), **{f"adam_{k}": v for k, v in self._adam_moments().items()}}

    def load_state(self, state):
        """Go on from such a dictionary, of which the arrays are copied."""
        state = {name: np.array(array) for name, array in state.items()}
        self.weights, self.bias = state.pop("weights"), state.pop("bias")
        self._moments = {name.removeprefix("adam_"): array for name, array in state.items()}

    def _adam_moments(self):
        if self._moments is None:
            self._moments = {"n_updates": np.zeros(1, dtype=np.int32)}
            for name, array in (("weights", self.weights), ("bias", self.bias[None])):
                self._moments[f"{name}_first"] = np.zeros_like(array)
                self._moments[f"{name}_second"] = np.zeros_like(array)
        return self._moments


def unit_rows(rows):
    """Rows divided by their lengths, and the lengths; a row of zeros stays one.

    Returns
    -------
    unit : float32 ndarray of the shape of `rows`
    lengths : float32 ndarray of shape (n_rows, 1)
        1 for rows of zeros.
    """
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    return rows / lengths, lengths


def unit_rows_backward(unit, lengths, gradient):
    """Gradient with respect to the rows, given that with respect to ``unit_rows(rows)``."""
    along = (unit * gradient).sum(axis=1, keepdims=True)
    return (gradient - unit * along) / lengths
