"""A bi-encoder learns from the answers of a teacher: triplets with hard negatives."""

from typing import NamedTuple

import numpy as np

from skxmc.neural._output_layer import stream_seed
from skxmc.neural._training import Learner
from skxmc.ops.csr import take_rows

# Numbers of the random streams.
_STREAM_POSITIVE, _STREAM_DROPOUT = 231, 232


class TripletSettings(NamedTuple):
    """Settings of the loss and of the step.

    Attributes
    ----------
    margin : float
        By how much the cosine of a relevant label has to be larger than another one's.
    n_negatives : int
        Hardest negatives of a document that count.
    temperature : float
        Of the softmax that weighs them by their cosines.
    learning_rate : float
    seed : int
    """

    margin: float = 0.3
    n_negatives: int = 10
    temperature: float = 0.1
    learning_rate: float = 1e-3
    seed: int = 0


class TripletLearner(Learner):
    """A bi-encoder, trained by triplets.

    A step takes a batch of documents that the teacher found a label for. Of each, one relevant
    label is drawn. Its negatives are all labels that the teacher was asked about for any document
    of the batch and that are not relevant to this one: those it refused for this one, which the
    encoder itself had thought near, are the hard ones among them.

    Parameters
    ----------
    model : BiEncoder
        With the rows that the answers are about.
    settings : TripletSettings

    Attributes
    ----------
    documents : int64 array
        Numbers of the documents that are trained on, to be set by `take_answers`.
    """

    def __init__(self, model, settings):
        self.model, self.settings = model, settings
        self.device = getattr(model.front, "device", None)

    def take_answers(self, yes, no):
        """Train on these answers from now on.

        Parameters
        ----------
        yes, no : canonical CSR patterns of shape (n_documents, n_labels)
        """
        self.yes, self.no = yes, no
        self.documents = np.flatnonzero(np.diff(yes.indptr))

    def train_step(self, rows, *, step, n_steps, factor):
        settings, seed = self.settings, self.settings.seed
        documents = self.documents[rows]
        yes, no = take_rows(self.yes, documents), take_rows(self.no, documents)
        labels = np.unique(np.concatenate([yes.indices, no.indices]))
        rng = np.random.default_rng(stream_seed(seed, _STREAM_POSITIVE, step))
        lengths = np.diff(yes.indptr)
        drawn = yes.indices[yes.indptr[:-1] + rng.integers(lengths)]
        positive = np.searchsorted(labels, drawn)
        relevant = np.zeros((len(rows), len(labels)), dtype=bool)
        relevant[np.repeat(np.arange(len(rows)), lengths), np.searchsorted(labels, yes.indices)] = 1
        ours, theirs = self.model.forward(
            documents, labels, seed=stream_seed(seed, _STREAM_DROPOUT, step)
        )
        loss, gradient = triplet_loss(
            ours @ theirs.T,
            positive,
            relevant,
            margin=settings.margin,
            n_negatives=settings.n_negatives,
            temperature=settings.temperature,
        )
        gradient /= np.float32(len(rows))
        self.model.backward(gradient @ theirs, gradient.T @ ours)
        self.model.step(settings.learning_rate * factor)
        return loss

    def parameters(self):
        return {name: np.array(array) for name, array in self.model.state().items()}

    def load_parameters(self, arrays):
        self.model.load_state(arrays)

    def state(self):
        return self.model.state(), {}

    def load_state(self, arrays, meta):
        self.model.load_state(arrays)


def triplet_loss(cosines, positive, relevant, *, margin, n_negatives, temperature):
    r"""Loss of triplets with weighted hard negatives, and its gradient.

    For document i with the relevant label p, the n hardest labels j that are not relevant and that
    violate the margin, :math:`m - s_{ip} + s_{ij} > 0`, have the loss

    .. math::

        \sum_j w_j (m - s_{ip} + s_{ij}), \qquad w_j \propto e^{s_{ij} / \tau}

    with weights of the sum 1 that are taken as constants.

    Parameters
    ----------
    cosines : float32 array of shape (n_documents, n_labels)
    positive : int array of shape (n_documents,)
        Column of the relevant label of each document.
    relevant : bool array of shape (n_documents, n_labels)
        Labels that are no negatives.
    margin : float
    n_negatives : int
    temperature : float

    Returns
    -------
    loss : float
        Sum over the documents.
    gradient : float32 array of shape (n_documents, n_labels)
        Of the loss with respect to the cosines.

    References
    ----------
    LMTX: "Zero-shot extreme multi-label classification with a language model as teacher" and its
    public implementation: margin 0.3, 10 negatives, temperature 0.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._triplet_learner import triplet_loss
    >>> loss, gradient = triplet_loss(
    ...     np.float32([[0.5, 0.4, -0.9]]),
    ...     np.array([0]),
    ...     np.array([[True, False, False]]),
    ...     margin=0.3,
    ...     n_negatives=10,
    ...     temperature=0.1,
    ... )
    >>> round(loss, 6), gradient
    (0.2, array([[-1.,  1.,  0.]], dtype=float32))
    """
    rows = np.arange(len(cosines))
    violation = margin - cosines[rows, positive][:, None] + cosines
    violation[relevant] = -np.inf
    n_kept = min(n_negatives, cosines.shape[1])
    # the hardest, of equal ones the first; a stable order costs little here
    hardest = np.argsort(-violation, axis=1, kind="stable")[:, :n_kept]
    violation = np.take_along_axis(violation, hardest, axis=1)
    near = np.take_along_axis(cosines, hardest, axis=1)
    active = violation > 0
    top = np.where(active, near, -np.inf).max(axis=1, initial=-1.0, keepdims=True)
    weights = np.where(active, np.exp((near - top) / np.float32(temperature)), np.float32(0))
    total = weights.sum(axis=1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    loss = float((weights * np.where(active, violation, 0)).sum(dtype=np.float64))
    gradient = np.zeros(cosines.shape, dtype=np.float32)
    np.put_along_axis(gradient, hardest, weights, axis=1)
    gradient[rows, positive] -= weights.sum(axis=1)
    return loss, gradient
