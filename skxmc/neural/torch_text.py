"""A text encoder as the front of a neural model: texts in, features out, trained end to end."""

import copy
import json
import math
import numbers

import numpy as np
import torch

from skxmc.neural._text import TokenRows, WindowRows, check_texts, is_front, length_buckets
from skxmc.neural.torch_text_encoder import (
    checkpoint_layers,
    checkpointed,
    from_files,
    hidden_states,
    load_encoder,
    mean_of_windows,
    pool,
    to_files,
    tokenise,
)
from skxmc.neural.torch_text_memory import footprint, products_in
from skxmc.neural.torch_text_optimizer import make_optimizer

#: Precisions and the type of the parameters.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.float32}

_STATE_ARRAYS = ("step", "exp_avg", "exp_avg_sq", "compensation")


def text_front(encoder, *, device=None, as_numpy=True, **options):
    """Return what turns texts into features, from any form of ``encoder=``.

    Parameters
    ----------
    encoder : path, (tokenizer, torch.nn.Module), `TextFront`, or another front
        See `TextFront`. A `TextFront`, or another object with ``n_outputs``, ``forward``,
        ``backward``, ``step``, ``state``, ``load_state`` and ``transform``, is copied: training
        leaves the given one as it is.
    device, as_numpy
        As in `TextFront`. A copied `TextFront` gets them too; any other front keeps its own.
    **options
        Further parameters of `TextFront`, for a path or a pair. A front has its own.

    Returns
    -------
    front
    """
    if not is_front(encoder):
        return TextFront(encoder, device=device, as_numpy=as_numpy, **options)
    front = copy.deepcopy(encoder)
    if isinstance(front, TextFront):
        front.as_numpy = as_numpy
        front.to(device)
    return front


class TextFront:
    """Tokenizer, encoder and pooling, with the optimiser of the encoder.

    A training step is `forward`, which remembers what its gradient needs; the output layer then
    computes the gradient of the loss with respect to the features without autograd (ELMO, step 4);
    `backward` takes it through the encoder; `step` updates the encoder.

    Parameters
    ----------
    encoder : path, or (tokenizer, torch.nn.Module)
        The folder of a Hugging Face or sentence-transformers model (read locally, nothing is
        downloaded and no code of the folder is run), or a pair. The tokenizer of a pair is one of
        transformers, a ``tokenizers.Tokenizer``, or a callable from a list of str to one sequence
        of token ids (int) a text, special tokens included. Its module is called as
        ``module(ids, mask)``, both int64 of shape (n_rows, n_tokens), and returns the hidden states
        of shape (n_rows, n_tokens, width); it is copied, so that the given one stays as it is.
    pooling : {"auto", "mean", "cls", "max", "none"}, default="auto"
        Mean or maximum over the tokens, the first token, or "none" for a module that returns
        (n_rows, width). "auto": as a sentence-transformers folder says, else "mean".
    normalize : bool, default=False
        Whether features have unit Euclidean length.
    dropout : float, default=0.0
        Share of the features that is set to zero in training, the others scaled by
        1 / (1 - dropout). Dropout inside the encoder is as its configuration says.
    max_length : int, default=None
        Tokens of a text, special ones included; the rest is cut off. None: 128, or what the model
        allows if that is less.
    long_texts : {"truncate", "windows"}, default="truncate"
        What becomes of longer texts: they are cut off, or the features are the mean over windows of
        ``max_length`` tokens that overlap by a quarter.
    precision : {"float32", "bfloat16", "mixed"}, default="float32"
        Of parameters, gradients and activations. With "bfloat16" the optimiser compensates for the
        rounding (`KahanAdamW`). "mixed": parameters, gradients and optimiser in float32, the matrix
        products of the encoder and most activations in bfloat16 (`torch.autocast`), in training and
        in `transform`. Pooling and features are float32 in any case.
    weight_decay : float, default=0.01
        Of AdamW, for matrices only.
    betas : (float, float), default=None
        Of AdamW. None: (0.9, 0.999); with "bfloat16" (0.9, 0.99).
    epsilon : float, default=1e-8
    max_grad_norm : float or None, default=1.0
        Longer gradients (over all parameters) are scaled to this length.
    gradient_checkpointing : bool, default=False
        Whether to compute activations again in `backward` instead of keeping them: layer by layer
        in a model of transformers, else of the whole module at once.
    trainable : bool, default=True
        False: the encoder stays as it is, and `backward` and `step` do nothing.
    batch_tokens : int, default=8192
        Tokens with padding that are encoded together in `transform`.
    device : str or torch.device, default=None
        None: the CPU.
    as_numpy : bool, default=True
        Whether `forward` returns NumPy arrays; False: tensors on `device`.

    Attributes
    ----------
    n_outputs : int
        Width of the features.
    module : torch.nn.Module
    max_length : int

    Notes
    -----
    Rows are sorted by length and computed in batches of similar length; results are in the order
    given. A row of no tokens at all, as an empty text gives with a tokenizer without special
    tokens, has the features 0. The features of a row do not depend on the other rows but for the
    rounding of float32.

    For a seed all is deterministic: bit for bit on one machine's CPU with one number of threads. On
    a GPU the gradient of the token embeddings is summed in any order unless
    ``torch.use_deterministic_algorithms(True)`` is set.

    Memory and time: `footprint`; about 6 times the number of parameters in flops a token and
    training step, a third of it in `transform`.

    Examples
    --------
    >>> import torch
    >>> from skxmc.neural.torch_text import TextFront
    >>> class Bag(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding = torch.nn.Embedding(128, 4)
    ...
    ...     def forward(self, ids, mask):
    ...         return self.embedding(ids)
    >>> front = TextFront((lambda texts: [[ord(c) for c in text] for text in texts], Bag()))
    >>> features = front.forward(["one", "three", ""], training=True, seed=0)
    >>> features.shape, features[2].tolist()
    ((3, 4), [0.0, 0.0, 0.0, 0.0])
    >>> front.backward(features)  # the gradient of half the squared length
    >>> front.step(0.01)
    >>> after = front.transform(["one", "three", ""])
    >>> bool((after**2).sum() < (features**2).sum())
    True
    """

    def __init__(
        self,
        encoder,
        *,
        pooling="auto",
        normalize=False,
        dropout=0.0,
        max_length=None,
        long_texts="truncate",
        precision="float32",
        weight_decay=0.01,
        betas=None,
        epsilon=1e-8,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        trainable=True,
        batch_tokens=8192,
        device=None,
        as_numpy=True,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}.")
        _check_number("dropout", dropout, low=0, below=1)
        _check_number("weight_decay", weight_decay, low=0)
        _check_number("epsilon", epsilon, above=0)
        _check_number("batch_tokens", batch_tokens, low=1)
        if max_grad_norm is not None:
            _check_number("max_grad_norm", max_grad_norm, above=0)
        if betas is not None:
            for beta in betas:
                _check_number("each of betas", beta, low=0, below=1)
        self._options = {  # those that are not attributes
            "weight_decay": weight_decay,
            "betas": None if betas is None else tuple(betas),
            "epsilon": epsilon,
        }
        self.normalize = normalize
        self.dropout = dropout
        self.precision = precision
        self.max_grad_norm = max_grad_norm
        self.gradient_checkpointing = gradient_checkpointing
        self.trainable = trainable
        self.batch_tokens = batch_tokens
        self.as_numpy = as_numpy
        self.device = _check_device(device)
        self._encoder = load_encoder(
            encoder, pooling=pooling, max_length=max_length, long_texts=long_texts
        )
        self.module = self._encoder.module.to(self.device, PRECISIONS[precision])
        if not trainable:
            self.module.requires_grad_(False)
        self._layerwise = gradient_checkpointing and checkpoint_layers(self.module)
        self._optimizer = make_optimizer(self.module, precision=precision, **self._options)
        self._output = None  # features with their graph, between forward and backward
        self.n_outputs = self._probe_width()

    @property
    def max_length(self):
        """Tokens of a text, special ones included."""
        return self._encoder.max_length

    @property
    def options(self):
        """Parameters of the constructor but for the encoder, device and as_numpy."""
        return {
            **self._options,
            "pooling": self._encoder.pooling,
            "max_length": self.max_length,
            "long_texts": "windows" if self._encoder.windows else "truncate",
            "normalize": self.normalize,
            "dropout": self.dropout,
            "precision": self.precision,
            "max_grad_norm": self.max_grad_norm,
            "gradient_checkpointing": self.gradient_checkpointing,
            "trainable": self.trainable,
            "batch_tokens": self.batch_tokens,
        }

    def to(self, device):
        """Move the encoder and its optimiser to a device (None: the CPU)."""
        self.device = _check_device(device)
        self.module.to(self.device)  # in place: the optimiser knows the same parameters
        for arrays in self._optimizer.state.values():
            for key in arrays.keys() - {"step"}:
                arrays[key] = arrays[key].to(self.device)
        self._output = None

    def prepare(self, X):
        """Tokenise texts once for many epochs.

        Parameters
        ----------
        X : sequence of str of length n, or what this method returned

        Returns
        -------
        TokenRows, or WindowRows with ``long_texts="windows"``
            Accepted by `forward` and `transform` in place of texts; ``rows[indices]`` are rows of
            it. 4 bytes a token.

        Raises
        ------
        TypeError, ValueError
            If a row is no text; see `skxmc.neural._text.check_texts`.
        """
        if isinstance(X, (TokenRows, WindowRows)):
            return X
        return tokenise(self._encoder, check_texts(X))

    def forward(self, batch, *, training, seed=0):
        """Return the features of a batch.

        Parameters
        ----------
        batch : sequence of str of length n, or TokenRows
        training : bool
            Whether to apply dropout and to remember what `backward` needs. This replaces what an
            earlier call remembered.
        seed : int, default=0
            Of dropout; the state of torch's global generators is left alone.

        Returns
        -------
        float32 array of shape (n, n_outputs)
            A tensor if ``as_numpy=False``. It shares no memory with the encoder.
        """
        rows = self.prepare(batch)
        self._output = None
        if training and self.trainable:
            with torch.random.fork_rng(devices=_cuda_devices(self.device)):
                torch.manual_seed(seed)
                self.module.train()
                features = self._features(rows)
        else:
            features = self._inference(rows)
        if training and self.dropout > 0:
            features = features * self._dropout_mask(features.shape, seed)
        if training and self.trainable:
            self._output = features
        features = features.detach().clone()
        return features.cpu().numpy() if self.as_numpy else features

    def backward(self, gradient):
        """Add the gradient of the encoder's parameters to what they have.

        Parameters
        ----------
        gradient : float32 array or tensor of shape (n, n_outputs)
            Of the loss with respect to what the last ``forward(training=True)`` returned. Several
            pairs of `forward` and `backward` before one `step` add up.

        Raises
        ------
        RuntimeError
            Without a `forward` in training.
        ValueError
            If it has another shape.
        """
        if not self.trainable:
            return
        output, self._output = self._output, None
        if output is None:
            raise RuntimeError("backward comes after forward(training=True), once for each.")
        gradient = torch.as_tensor(gradient, dtype=torch.float32, device=self.device)
        if gradient.shape != output.shape:
            raise ValueError(
                f"gradient has shape {tuple(gradient.shape)}, the features have "
                f"{tuple(output.shape)}."
            )
        if output.requires_grad:  # not if no row has a token
            output.backward(gradient)

    def step(self, learning_rate):
        """Update the encoder and clear its gradient.

        Parameters
        ----------
        learning_rate : float
            Of this step.

        Raises
        ------
        FloatingPointError
            If the gradient is not finite: the parameters are left as they are.
        """
        _check_number("learning_rate", learning_rate, low=0)
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        if not parameters:
            return
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if not torch.isfinite(norm):
            self._optimizer.zero_grad()
            raise FloatingPointError(
                "The gradient of the text encoder is not finite; use a smaller learning rate, or "
                'precision="float32".'
            )
        for group in self._optimizer.param_groups:
            group["lr"] = float(learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def transform(self, X):
        """Return features for prediction.

        Parameters
        ----------
        X : sequence of str of length n, or TokenRows

        Returns
        -------
        float32 ndarray of shape (n, n_outputs)
        """
        return self._inference(self.prepare(X)).cpu().numpy()

    def model(self):
        """Return what prediction needs as arrays, to be stored; see `from_model`.

        Returns
        -------
        dict of str to ndarray
            Parameters, and the files of the tokenizer and of the configuration as bytes.

        Raises
        ------
        TypeError
            If tokenizer and module are not both of transformers: nothing but pickle stores others.
        """
        files = {f"file.{name}": content for name, content in to_files(self._encoder).items()}
        options = np.frombuffer(json.dumps(self.options).encode(), dtype=np.uint8)
        modules = {k: v for k, v in self.state().items() if k.startswith("module.")}
        return {"options": options, **files, **modules}

    @classmethod
    def from_model(cls, arrays, *, device=None, as_numpy=True):
        """Return a front of what `model` returned. No code of the arrays is run.

        Parameters
        ----------
        arrays : dict of str to ndarray
        device, as_numpy
            As in the constructor.

        Returns
        -------
        TextFront
            Its features are bit for bit those of the first; its optimiser begins anew.
        """
        options = json.loads(np.asarray(arrays["options"]).tobytes())
        files = {k[5:]: v for k, v in arrays.items() if k.startswith("file.")}
        front = cls(from_files(files), device=device, as_numpy=as_numpy, **options)
        front.load_state({k: v for k, v in arrays.items() if k.startswith("module.")})
        return front

    def state(self):
        """Return parameters and optimiser as arrays.

        Returns
        -------
        dict of str to ndarray
            Copies. ``module.<name>`` and ``optimizer.<array>.<name>``; bfloat16 as its bits
            (uint16).
        """
        arrays = {f"module.{name}": _to_array(v) for name, v in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                arrays[f"optimizer.{key}.{name}"] = _to_array(value)
        return arrays

    def load_state(self, state):
        """Set parameters and optimiser to what `state` returned: training goes on bit for bit.

        Parameters
        ----------
        state : dict of str to ndarray

        Raises
        ------
        ValueError
            If arrays are missing, unknown, or of another shape or dtype. Nothing is changed then.
        """
        parameters = dict(self.module.named_parameters())
        expected = {f"module.{name}": v for name, v in self.module.state_dict().items()}
        optional = {}
        for name, parameter in parameters.items():
            for key in _STATE_ARRAYS:
                if key != "compensation" or self.precision == "bfloat16":
                    like = torch.tensor(0.0) if key == "step" else parameter
                    optional[f"optimizer.{key}.{name}"] = like
        _check_state(state, expected, optional)
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(_to_tensor(state[name], tensor))
        self._optimizer.state.clear()
        for name, parameter in parameters.items():
            keys = [key for key in _STATE_ARRAYS if f"optimizer.{key}.{name}" in state]
            for key in keys:
                full = f"optimizer.{key}.{name}"
                # A new tensor of the parameter's layout, where torch keeps it itself.
                tensor = torch.empty_like(optional[full].detach())
                tensor.copy_(_to_tensor(state[full], tensor))
                self._optimizer.state[parameter][key] = tensor
        self._optimizer.zero_grad()
        self._output = None

    def footprint(self, n_rows, n_tokens=None):
        """Predict the memory of a training step.

        Parameters
        ----------
        n_rows : int
            Rows of a batch.
        n_tokens : int, default=None
            Tokens of each row; None: `max_length`, the worst case.

        Returns
        -------
        dict of str to int
            Bytes of ``parameters`` (with buffers), ``gradients``, ``optimizer``, ``activations``
            (what autograd keeps for `backward`, an estimate) and their ``total``. Not in it: the
            tokenizer, torch itself, and the largest intermediate result of one layer.

        Notes
        -----
        The activations of rows of 16 and of 64 tokens are measured, in a few milliseconds, and
        extended: a linear and a quadratic term (attention).
        """
        return footprint(
            self._encoder,
            n_rows,
            n_tokens,
            trainable=self.trainable,
            checkpointing=self.gradient_checkpointing,
            precision=self.precision,
        )

    def __getstate__(self):
        return {**self.__dict__, "_output": None}

    def _features(self, rows, max_tokens=None):
        """Return pooled features of all rows, float32 on the device."""
        if isinstance(rows, WindowRows):
            features = mean_of_windows(self._pooled(rows.windows, max_tokens), rows.indptr)
        else:
            features = self._pooled(rows, max_tokens)
        return torch.nn.functional.normalize(features, dim=1) if self.normalize else features

    def _pooled(self, rows, max_tokens):
        buckets = length_buckets(rows.lengths, max_tokens=max_tokens)
        with products_in(self.precision, self.device):
            parts = [self._embed(*rows.padded(bucket, self._encoder.pad_id)) for bucket in buckets]
        if not parts:
            # the width is not known before the first probe, which always has a token
            return torch.zeros(len(rows), self.n_outputs, device=self.device)
        parts = torch.cat(parts)
        order = torch.from_numpy(np.concatenate(buckets)).to(self.device)
        features = torch.zeros(len(rows), parts.shape[1], device=self.device)
        return features.index_copy(0, order, parts)

    def _inference(self, rows):
        self.module.eval()
        with torch.no_grad():
            return self._features(rows, self.batch_tokens)

    def _embed(self, ids, mask):
        ids = torch.from_numpy(ids).to(self.device)
        mask = torch.from_numpy(mask).to(self.device)
        if self.gradient_checkpointing and not self._layerwise and torch.is_grad_enabled():
            hidden = checkpointed(self.module, ids, mask)
        else:
            hidden = hidden_states(self.module, ids, mask)
        return pool(hidden, mask, self._encoder.pooling)

    def _probe_width(self):
        rows = self.prepare(["a"])
        rows = rows.windows if isinstance(rows, WindowRows) else rows
        if not rows.lengths[0]:
            rows = TokenRows.from_lists([[0]])
        self.module.eval()
        with torch.no_grad():
            return self._embed(*rows.padded(np.array([0]), 0)).shape[1]

    def _dropout_mask(self, shape, seed):
        # Drawn on the CPU, so that it is the same for every device.
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(shape, generator=generator) >= self.dropout
        return (kept / (1 - self.dropout)).to(self.device)


def text_width(encoder):
    """Return the number of features that an encoder gives, before its weights are loaded.

    Parameters
    ----------
    encoder : path, (tokenizer, torch.nn.Module), or object that is a front
        Of a folder only the configuration is read.

    Returns
    -------
    int
    """
    if is_front(encoder):
        return encoder.n_outputs
    if isinstance(encoder, (tuple, list)):
        return TextFront(encoder, trainable=False).n_outputs
    return load_encoder(encoder, weights=False).module.config.hidden_size


def text_footprint(
    encoder,
    n_rows,
    n_tokens=None,
    *,
    precision="float32",
    trainable=True,
    gradient_checkpointing=False,
    max_length=None,
):
    """Predict the memory of training an encoder before its weights are loaded.

    Parameters
    ----------
    encoder : path, or (tokenizer, torch.nn.Module)
        Of a folder only the configuration is read.
    n_rows, n_tokens
        As in `TextFront.footprint`.
    precision, trainable, gradient_checkpointing, max_length
        As in `TextFront`.

    Returns
    -------
    dict of str to int
        Bytes, as `TextFront.footprint` returns them. The activations are an upper bound where the
        fused attention of the device keeps less, and for a folder with ``precision="mixed"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}.")
    loaded = load_encoder(encoder, max_length=max_length, weights=False)
    loaded.module.to(PRECISIONS[precision])
    if gradient_checkpointing:
        checkpoint_layers(loaded.module)
    return footprint(
        loaded,
        n_rows,
        n_tokens,
        trainable=trainable,
        checkpointing=gradient_checkpointing,
        precision=precision,
    )


def _check_number(name, value, *, low=None, above=None, below=None):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    bounds = []
    if low is not None:
        bounds.append((value >= low, f"at least {low}"))
    if above is not None:
        bounds.append((value > above, f"greater than {above}"))
    if below is not None:
        bounds.append((value < below, f"less than {below}"))
    if not (math.isfinite(value) and all(good for good, _ in bounds)):
        words = " and ".join(text for _, text in bounds)
        raise ValueError(f"{name} must be finite, {words}; got {value!r}.")


def _check_device(device):
    device = "cpu" if device is None else device
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch cannot use device={device!r}: {error}") from error


def _cuda_devices(device):
    return [device] if device.type == "cuda" else []


def _to_array(tensor):
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        return tensor.view(torch.int16).numpy().view(np.uint16).copy()
    return tensor.numpy().copy()


def _to_tensor(array, like):
    if like.dtype == torch.bfloat16:
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _check_state(state, expected, optional):
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys() - optional.keys())
    if missing or unknown:
        raise ValueError(
            f"The state is of another encoder: {len(missing)} arrays are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}."
        )
    for name, array in state.items():
        like = _to_array(expected[name] if name in expected else optional[name])
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(
                f"{name} of the state has shape {array.shape} and dtype {array.dtype}, the encoder "
                f"has {like.shape} and {like.dtype}."
            )
