"""A bi-encoder: vectors of length 1 for documents and for labels, from one encoder."""

import numpy as np

from skxmc.neural._encoders import (
    ProjectedFront,
    check_projection,
    encoder_from_model,
    encoder_model,
    stack_rows,
)
from skxmc.neural._front import rows_of
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._projection import unit_rows, unit_rows_backward

# Of the arrays of the labels' own projection.
_LABELS = "labels."


class BiEncoder:
    """One encoder for documents and labels, perhaps with a matrix of its own for labels.

    Parameters
    ----------
    front : front
        Of documents. See `skxmc.neural._encoders`.
    label_projection : LinearFront or None, default=None
        Where the front is a frozen encoder with a projection, or a projection only: that of the
        labels. None: documents and labels have the same front.

    Attributes
    ----------
    n_outputs : int
    """

    def __init__(self, front, label_projection=None):
        self.front = front
        self.label_front = front
        if label_projection is not None:
            frozen = isinstance(front, ProjectedFront)
            self.label_front = (
                ProjectedFront(front.encoder, label_projection) if frozen else label_projection
            )
        self.n_outputs = front.n_outputs

    @property
    def is_shared(self):
        """Whether documents and labels have the same front."""
        return self.label_front is self.front

    @property
    def label_projection(self):
        """That of the labels, or None."""
        if self.is_shared:
            return None
        return getattr(self.label_front, "projection", self.label_front)

    def take_rows(self, documents, labels):
        """Prepare the documents and labels of a training.

        Parameters
        ----------
        documents, labels : list of str, or arrays
        """
        if self.is_shared:  # one batch of both: the encoder computes it at once
            self._rows = self.front.prepare(stack_rows(documents, labels))
        else:
            self._rows = self.front.prepare(documents)
            self._labels = self.label_front.prepare(labels)
        self._n_documents = documents.shape[0] if hasattr(documents, "shape") else len(documents)

    def vectors(self):
        """Vectors of all documents and all labels that were taken."""
        if self.is_shared:
            vectors = unit_rows(self.front.transform(self._rows))[0]
            return vectors[: self._n_documents], vectors[self._n_documents :].copy()
        return (
            unit_rows(self.front.transform(self._rows))[0],
            unit_rows(self.label_front.transform(self._labels))[0],
        )

    def encode(self, documents):
        """Vectors of documents, float32 of shape (n, n_outputs)."""
        return unit_rows(self.front.transform(self.front.prepare(documents)))[0]

    def encode_labels(self, labels):
        """Vectors of labels, float32 of shape (n, n_outputs)."""
        return unit_rows(self.label_front.transform(self.label_front.prepare(labels)))[0]

    def forward(self, documents, labels, *, seed):
        """Vectors of some of the documents and labels that were taken, to be trained.

        Parameters
        ----------
        documents, labels : int64 arrays
            Their numbers.
        seed : int
            Of dropout.

        Returns
        -------
        ours, theirs : float32 arrays of shape (n, n_outputs)
        """
        if self.is_shared:
            numbers = np.concatenate([documents, self._n_documents + labels])
            features = self.front.forward(rows_of(self._rows, numbers), training=True, seed=seed)
        else:
            ours, theirs = rows_of(self._rows, documents), rows_of(self._labels, labels)
            ours = self.front.forward(ours, training=True, seed=seed)
            theirs = self.label_front.forward(theirs, training=True, seed=seed)
            features = np.concatenate([ours, theirs])
        self._unit, self._lengths = unit_rows(features)
        self._n_ours = len(documents)
        return self._unit[: self._n_ours], self._unit[self._n_ours :]

    def backward(self, ours, theirs):
        """Take the gradient of the loss with respect to the last vectors."""
        gradient = unit_rows_backward(self._unit, self._lengths, np.concatenate([ours, theirs]))
        self._unit = self._lengths = None
        if self.is_shared:
            self.front.backward(gradient)
        else:
            self.front.backward(gradient[: self._n_ours])
            self.label_front.backward(gradient[self._n_ours :])

    def step(self, learning_rate):
        """Update all parameters."""
        self.front.step(learning_rate)
        if not self.is_shared:
            self.label_front.step(learning_rate)

    def state(self):
        """Parameters and optimisers, not copied."""
        state = dict(self.front.state())
        if not self.is_shared:
            own = self.label_projection.state()
            state |= {f"{_LABELS}{name}": array for name, array in own.items()}
        return state

    def load_state(self, state):
        """Go on from what `state` returned."""
        own = {k.removeprefix(_LABELS): v for k, v in state.items() if k.startswith(_LABELS)}
        self.front.load_state({k: v for k, v in state.items() if not k.startswith(_LABELS)})
        if own:
            self.label_projection.load_state(own)

    def model(self):
        """What prediction needs, as NumPy arrays; see `from_model`."""
        arrays = encoder_model(self.front)
        if not self.is_shared:
            arrays[f"{_LABELS}weights"] = self.label_projection.weights
        return arrays

    @classmethod
    def from_model(cls, arrays, *, n_jobs=None):
        """Return the bi-encoder of what `model` returned. No code of the arrays is run."""
        arrays = dict(arrays)
        weights = arrays.pop(f"{_LABELS}weights", None)
        projection = None
        if weights is not None:
            projection = LinearFront(np.asarray(weights), n_jobs=n_jobs)
        front = encoder_from_model(arrays, n_jobs=n_jobs)
        if isinstance(front, ProjectedFront) and projection is not None:
            check_projection(front.encoder, projection)
        return cls(front, projection)


def own_label_projection(front):
    """Return a projection of the labels that begins as that of the documents, or None.

    None where the front has no projection of a frozen encoder: what is trained end to end is the
    same for both.
    """
    if isinstance(front, ProjectedFront) and front.frozen:
        return LinearFront(front.projection.weights.copy(), n_jobs=front.projection.n_jobs)
    if isinstance(front, LinearFront):
        return LinearFront(front.weights.copy(), n_jobs=front.n_jobs)
    return None
