"""Encoders: what turns texts or rows of numbers into vectors, assembled on demand.

All follow the protocol of a front (`skxmc.neural._front`): ``prepare(X)`` once, then
``forward(batch, training=True, seed=...)``, ``backward(gradient)``, ``step(learning_rate)``, and
``transform(X)`` for prediction, with features and gradients as float32 NumPy arrays.
"""

import copy
import os

import numpy as np
import scipy.sparse as sp

from skxmc.neural import _front
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._static import DIMENSION, StaticEncoder
from skxmc.neural._text import check_texts, is_front
from skxmc.ops.csr import canonical_csr, check_finite

#: The names that ``encoder=`` takes; any other string is a path.
ENCODER_NAMES = ("static", "precomputed")

# Fronts on rows of numbers.
_ON_ROWS = (LinearFront, _front.IdentityFront, _front.HiddenLayerFront)

# What a stored encoder may be.
_KINDS = ("static", "text", "linear", "identity", "projected")


class ProjectedFront:
    """An encoder and a trainable matrix after it.

    Parameters
    ----------
    encoder : front
        Its features are the rows of the projection.
    projection : LinearFront
    relative_rate : float, default=0.02
        Learning rate of the encoder over that of the projection, which has to be larger.

    Attributes
    ----------
    n_outputs : int

    Notes
    -----
    Where the encoder is frozen, `prepare` computes its features once: an epoch is then a matrix
    product.
    """

    def __init__(self, encoder, projection, *, relative_rate=0.02):
        self.encoder, self.projection = encoder, projection
        self.relative_rate = relative_rate
        self.takes_texts = takes_texts(encoder)
        self.frozen = not getattr(encoder, "trainable", True)

    @property
    def n_outputs(self):
        """Width of the features."""
        return self.projection.n_outputs

    @property
    def trainable(self):
        """Whether anything is trained."""
        return self.projection.trainable or not self.frozen

    def prepare(self, X):
        """Rows as `forward` takes them; with a frozen encoder, its features."""
        if self._is_prepared(X):
            return X
        rows = self.encoder.prepare(X)
        return self.encoder.transform(rows) if self.frozen and self.takes_texts else rows

    def forward(self, batch, *, training=False, seed=0):
        """Features of a batch; see `skxmc.neural._front`."""
        if not self._is_prepared(batch):
            batch = self.encoder.forward(batch, training=training and not self.frozen, seed=seed)
        return self.projection.forward(batch, training=training, seed=seed)

    def backward(self, gradient):
        """Add the gradients of the projection and of the encoder to what they have."""
        gradient = self.projection.backward(gradient)
        if not self.frozen:
            self.encoder.backward(gradient)

    def step(self, learning_rate):
        """Update both."""
        self.projection.step(learning_rate)
        if not self.frozen:
            self.encoder.step(self.relative_rate * learning_rate)

    def transform(self, X):
        """Features for prediction."""
        if not self._is_prepared(X):
            X = self.encoder.transform(X)
        return self.projection.transform(X)

    def state(self):
        """Parameters and optimisers."""
        return _joined(self.encoder.state(), self.projection.state())

    def load_state(self, state):
        """Go on from what `state` returned."""
        encoder, projection = _parted(state)
        self.encoder.load_state(encoder)
        self.projection.load_state(projection)

    def model(self):
        """What prediction needs, as NumPy arrays; see `encoder_from_model`."""
        return _joined(encoder_model(self.encoder), self.projection.model())

    def _is_prepared(self, X):
        """Whether these are features: texts, tokenised or not, are no matrix of numbers."""
        return self.frozen and self.takes_texts and isinstance(X, np.ndarray) and X.ndim == 2


class StoredEncoder:
    """The parameter ``encoder`` of a loaded model that was fitted with an object no file can hold.

    The weights of the fitted encoder are in the file, so that the model predicts; to fit it again
    it needs the object.

    Parameters
    ----------
    kind : str
        What it was.
    takes_texts : bool
        Whether its rows are texts.
    """

    def __init__(self, kind, takes_texts):
        self.kind, self.takes_texts = kind, takes_texts

    def __repr__(self):
        return f"StoredEncoder({self.kind!r})"

    def __sklearn_clone__(self):
        return self

    def forward(self, *args, **kwargs):
        """Refuse to be trained."""
        raise ValueError(
            f"This model was loaded from a file, which does not hold its parameter encoder, a "
            f"{self.kind}. It predicts; to fit it again: set_params(encoder=...)."
        )

    backward = step = forward


def takes_texts(encoder):
    """Return whether the rows of an ``encoder=`` parameter are texts, or else numbers."""
    if isinstance(encoder, str):
        return encoder != "precomputed"
    return getattr(encoder, "takes_texts", not isinstance(encoder, _ON_ROWS))


def check_rows(encoder, X, *, name="X", min_rows=0, n_columns=None):
    """Return the rows of an encoder, checked: texts as a list of str, numbers as float32.

    Parameters
    ----------
    encoder : as for `resolve_encoder`
    X : sequence of str, or array or sparse array of shape (n, n_columns)
    name : str, default="X"
        What messages call it.
    min_rows : int, default=0
    n_columns : int, default=None
        Columns that numbers have to have; None: any.

    Returns
    -------
    list of str, canonical csr_array, or C-contiguous ndarray of shape (n, n_columns)

    Raises
    ------
    TypeError, ValueError
        If they are texts where numbers are needed or the other way round, not finite, or too few.
    """
    if takes_texts(encoder):
        return check_texts(X, name, min_rows=min_rows)
    if sp.issparse(X):
        X = canonical_csr(X, np.float32, name=name)
    else:
        if getattr(X, "dtype", None) is None and len(X) and isinstance(X[0], str):
            raise TypeError(f'{name} has texts; encoder="precomputed" takes rows of numbers.')
        try:
            X = np.ascontiguousarray(X, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise TypeError(
                f"{name} has to be an array of numbers for this encoder: {error}"
            ) from error
        if X.ndim != 2:
            raise ValueError(f"{name} must be two-dimensional, got shape {X.shape}.")
        check_finite(X, name=name)
    if X.shape[0] < min_rows:
        raise ValueError(f"{name} has {X.shape[0]} rows; at least {min_rows} are needed.")
    if n_columns is not None and X.shape[1] != n_columns:
        raise ValueError(f"{name} has {X.shape[1]} columns, but {n_columns} are expected.")
    return X


def stack_rows(*parts):
    """Return rows of one kind after each other: lists of texts, dense or sparse arrays.

    Examples
    --------
    >>> from skxmc.neural._encoders import stack_rows
    >>> stack_rows(["a"], ["b", "c"])
    ['a', 'b', 'c']
    """
    if isinstance(parts[0], list):
        return [text for part in parts for text in part]
    if sp.issparse(parts[0]):
        return canonical_csr(sp.vstack(parts, format="csr"), np.float32)
    return np.concatenate(parts)


def resolve_encoder(
    encoder,
    X,
    label_text=None,
    *,
    dimension=None,
    pooling="auto",
    trainable=True,
    max_length=None,
    long_texts="truncate",
    dropout=0.0,
    seed=0,
    device=None,
    n_jobs=None,
    **options,
):
    """Return a new encoder, ready to be trained, from any form of ``encoder=``.

    Parameters
    ----------
    encoder : {"static", "precomputed"}, path, (tokenizer, torch.nn.Module), or front
        - "static": a `StaticEncoder` of random vectors, built on the texts.
        - a `StaticEncoder`: copied, and built on the texts unless it is already.
        - "precomputed": rows and label texts are arrays of numbers, dense or sparse, of the same
          columns. Dense ones stay as they are unless ``dimension`` is given; sparse ones get a
          trainable matrix.
        - path or pair: see `skxmc.neural.torch_text.TextFront`.
        - another front is copied; it gets a projection where ``dimension`` is another.
    X : list of str, or array
        Rows of the training.
    label_text : list of str, or array, default=None
        Rows of the labels.
    dimension : int, default=None
        Width of the features. None: 256 for a table of random vectors, else as the encoder gives.
        On a transformer, a trainable projection to this width; see `initial_projection`.
    pooling, max_length, long_texts
        Of a path or pair: see `skxmc.neural.torch_text.TextFront`; ``max_length`` of "static" too.
    trainable : bool, default=True
        False: the encoder stays as it is; a projection is trained in any case.
    dropout : float, default=0.0
        Of the features.
    seed : int, default=0
        Of random weights.
    device : str, default=None
        Of torch.
    n_jobs : int or None, default=None
    **options
        Further parameters of `TextFront`, for a path or a pair.

    Returns
    -------
    front

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    TypeError, ValueError
        If it is no encoder or an option does not apply.
    """
    if isinstance(encoder, StoredEncoder):
        encoder.forward()
    if isinstance(encoder, str) and encoder == "static":
        encoder = StaticEncoder(
            dimension,
            max_length=max_length,
            dropout=dropout,
            trainable=trainable,
            seed=seed,
            n_jobs=n_jobs,
        )
    if isinstance(encoder, str) and encoder == "precomputed":
        return _on_numbers(X, dimension, trainable, dropout, seed, n_jobs)
    if isinstance(encoder, StaticEncoder):
        encoder = copy.deepcopy(encoder)
        if not encoder.is_built:
            if encoder.seed is None:
                encoder.seed = seed
            if encoder.n_jobs is None:
                encoder.n_jobs = n_jobs
            encoder.build([*X, *(() if label_text is None else label_text)])
        return encoder
    if isinstance(encoder, (str, os.PathLike, tuple, list)):
        from skxmc.neural.torch_text import TextFront

        encoder = TextFront(
            encoder,
            pooling=pooling,
            trainable=trainable,
            max_length=max_length,
            long_texts=long_texts,
            dropout=dropout if dimension is None else 0.0,
            device=device,
            **options,
        )
        if dimension is None:
            return encoder
        return with_projection(encoder, dimension, dropout=dropout, seed=seed, n_jobs=n_jobs)
    if is_front(encoder):
        encoder = copy.deepcopy(encoder)
        if dimension is None or encoder.n_outputs == dimension:
            return encoder
        return with_projection(encoder, dimension, dropout=dropout, seed=seed, n_jobs=n_jobs)
    raise TypeError(
        f"encoder must be one of {ENCODER_NAMES}, a StaticEncoder, the path of a model folder, a "
        "pair (tokenizer, torch.nn.Module), or an object with n_outputs, forward, backward, step, "
        f"state, load_state and transform; got {type(encoder).__name__}."
    )


def with_projection(encoder, dimension, *, dropout=0.0, seed=0, n_jobs=None):
    """Return a front with a trainable projection after it; see `initial_projection`."""
    weights = initial_projection(encoder.n_outputs, dimension, seed)
    return ProjectedFront(encoder, LinearFront(weights, dropout=dropout, n_jobs=n_jobs))


def _on_numbers(X, dimension, trainable, dropout, seed, n_jobs):
    n_inputs = X.shape[1]
    if sp.issparse(X):
        width = DIMENSION if dimension is None else dimension
        weights = np.random.default_rng(seed).standard_normal((n_inputs, width), np.float32)
        weights /= np.float32(np.sqrt(width))
    elif dimension is None:
        return _front.IdentityFront(n_inputs, dropout=dropout)
    else:
        weights = initial_projection(n_inputs, dimension, seed)
    return LinearFront(weights, dropout=dropout, trainable=trainable, n_jobs=n_jobs)


def initial_projection(n_inputs, n_outputs, seed):
    """Return a first projection that disturbs cosines as little as possible.

    The identity where nothing is lost, with columns of zeros where the output is wider; else
    random orthonormal columns, which keep inner products on average.

    Returns
    -------
    float32 ndarray of shape (n_inputs, n_outputs)

    Examples
    --------
    >>> from skxmc.neural._encoders import initial_projection
    >>> W = initial_projection(5, 2, seed=0)
    >>> bool(abs(W.T @ W - [[1, 0], [0, 1]]).max() < 1e-6)
    True
    """
    if n_outputs >= n_inputs:
        return np.eye(n_inputs, n_outputs, dtype=np.float32)
    normal = np.random.default_rng(seed).standard_normal((n_inputs, n_outputs))
    return np.ascontiguousarray(np.linalg.qr(normal)[0], dtype=np.float32)


def encoder_model(encoder):
    """Return what prediction needs of an encoder, and its kind, as NumPy arrays.

    Raises
    ------
    TypeError
        If it is of a kind that nothing but pickle stores.
    """
    for kind, cls in zip(_KINDS, _classes(encoder), strict=True):
        if cls is not None and type(encoder) is cls:
            return {"kind": np.frombuffer(kind.encode(), dtype=np.uint8), **encoder.model()}
    raise TypeError(f"An encoder of type {type(encoder).__name__} is stored by pickle only.")


def encoder_from_model(arrays, *, n_jobs=None):
    """Return the encoder of what `encoder_model` returned. No code of the arrays is run."""
    arrays = dict(arrays)
    kind = np.asarray(arrays.pop("kind"), dtype=np.uint8).tobytes().decode()
    if kind == "static":
        return StaticEncoder.from_model(arrays)
    if kind == "text":
        from skxmc.neural.torch_text import TextFront

        return TextFront.from_model(arrays)
    if kind == "linear":
        return LinearFront(np.asarray(arrays["weights"]), n_jobs=n_jobs)
    if kind == "identity":
        scale = np.asarray(arrays["scale"])
        return _front.IdentityFront(int(arrays["n_outputs"][0]), scale=scale[0])
    if kind == "projected":
        encoder, projection = _parted(arrays)
        projection = LinearFront(np.asarray(projection["weights"]), n_jobs=n_jobs)
        encoder = encoder_from_model(encoder, n_jobs=n_jobs)
        check_projection(encoder, projection)
        return ProjectedFront(encoder, projection)
    raise ValueError(f"{kind!r} is no kind of encoder.")


def check_projection(encoder, projection):
    """Raise ValueError unless a matrix takes the features of an encoder; no kernel would look."""
    if projection.weights.ndim != 2 or projection.n_inputs != encoder.n_outputs:
        raise ValueError(
            f"The projection has the shape {projection.weights.shape}, the encoder "
            f"{encoder.n_outputs} features."
        )


def _classes(encoder):
    text = None
    if type(encoder).__name__ == "TextFront":  # torch is imported then
        from skxmc.neural.torch_text import TextFront as text
    return StaticEncoder, text, LinearFront, _front.IdentityFront, ProjectedFront


def _joined(encoder, projection):
    return {
        **{f"encoder.{name}": array for name, array in encoder.items()},
        **{f"projection.{name}": array for name, array in projection.items()},
    }


def _parted(arrays):
    return [
        {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        for prefix in ("encoder.", "projection.")
    ]
