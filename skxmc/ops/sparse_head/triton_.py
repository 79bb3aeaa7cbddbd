"""The sparse output layer on a GPU, by Triton kernels.

``triton_fixed`` and ``triton_grouped`` hold the kernels of the two layouts, ``triton_loss`` those
of the loss, ``triton_update`` the optimiser step, ``triton_bits`` the low-precision numbers. This
module has the functions that every backend has, on torch tensors.

On the device, features are feature-major, (n_inputs, columns), and margins label-major,
(labels, columns); a column is a row of the batch, their number is rounded up to a multiple of 16.
Labels are worked on in slices of a fixed size, in order, so that neither all margins nor a gradient
of the weights ever exist, and sums have a fixed order. Two runs give the same bits.

Without a GPU everything runs in Triton's interpreter, for tests: set ``TRITON_INTERPRET=1`` before
Triton is imported. docs/kernels.md says on which GPU they ran, and how fast.
"""

import math

import numpy as np
import torch
import triton
from torch.utils.weak import WeakTensorKeyDictionary

from skxmc.ops.sparse_head._random import step_key
from skxmc.ops.sparse_head._types import StepResult
from skxmc.ops.sparse_head.torch_topk import Pairs, StreamingTopK
from skxmc.ops.sparse_head.triton_launch import KERNELS, launch
from skxmc.ops.topk import TopK
from skxmc.ops.topk._types import check_k

__all__ = [
    "grad_features",
    "grad_weights",
    "input_gradients",
    "scores",
    "topk",
    "train_step",
]

#: Labels and groups of a slice. They fix the order of the sums: not to be changed by the caller.
SLICE_LABELS = 65_536
SLICE_GROUPS = 4_096

#: Labels whose contributions to the gradient of the features are summed first, in a dense part.
DENSE_SHARE = 4_096

_ROWS = 1_024  # rows at a time, where all labels of a row are looked at
_DENSE_GROUP = 64  # a dense part is computed in tiles of so many labels
_DOTS = ("auto", "ieee", "tf32", "bf16")


def scores(features, parts, *, n_jobs=None, dot="auto"):
    """Margins of all labels.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    parts : tuple of Part
        Of tensors on one CUDA device (`skxmc.ops.sparse_head.torch_.to_device`); weights of low
        precision in the types of torch, or as their bits in uint16 and uint8.
    n_jobs : None
        Accepted because all backends have it.
    dot : {"auto", "ieee", "tf32", "bf16"}, default="auto"
        How tiles of group-shared and dense parts are multiplied, always with float32 sums:
        ``"ieee"`` in float32, ``"tf32"`` and ``"bf16"`` on tensor cores, with factors rounded to
        11 and 8 bits. ``"auto"`` is ``"ieee"`` for float32 weights and ``"bf16"`` for those of
        lower precision, which lose nothing by it: the features do. Fixed fan-in has no products of
        tiles and is always computed in float32.

    Returns
    -------
    float32 tensor of shape (n_rows, n_labels)
        In the order of the parts.

    Raises
    ------
    ValueError
        If an array is not on a CUDA device (and Triton does not interpret), or an index of a part
        is no input.

    Notes
    -----
    O(n_rows n_labels fan_in) operations; beside the result and the features' transpose, memory for
    the margins of one slice of 65,536 labels.
    """
    features = _on_device(features, parts)
    layers = _layers(parts, features.shape[1], dot)
    n_labels = sum(part.n_labels for part in parts)
    out = torch.empty((features.shape[0], n_labels), device=features.device)
    for rows in _row_blocks(features):
        inputs = _Inputs(features[rows])
        for _, first, layer, begin, end in _slices(layers):
            margins = layer.margins(inputs, begin, end)
            out[rows, first + begin : first + end] = margins[:, : inputs.n_rows].T
    return out


def topk(features, parts, labels, k, *, exclude=None, candidates=None, n_jobs=None, dot="auto"):
    """The k labels of each row with the largest margins.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    parts : tuple of Part
    labels : int ndarray of shape (n_labels,)
        Original label of each label of the layer.
    k : int
    exclude, candidates : csr_array of shape (n_rows, n_labels), default=None
        Canonical patterns over original labels: answers that are not wanted, and the only ones
        that are.
    n_jobs : None
    dot : see `scores`

    Returns
    -------
    TopK of ndarrays
        Original labels, equal margins by the smaller one; -1 and -inf where there is no answer.

    Raises
    ------
    ValueError
        As `scores`, or if a margin is NaN.

    Notes
    -----
    Time of `scores` and of a selection by torch; margins of a slice and the answers in memory.
    """
    k, labels = check_k(k), np.asarray(labels)
    features = _on_device(features, parts)
    layers = _layers(parts, features.shape[1], dot)
    ids = torch.from_numpy(labels.astype(np.int64)).to(features.device)
    place = np.empty(len(labels), dtype=np.int64)
    place[labels] = np.arange(len(labels))
    found = []
    for rows in _row_blocks(features):
        inputs = _Inputs(features[rows])
        excluded, wanted = (
            None if pattern is None else Pairs(pattern[rows], features.device, place)
            for pattern in (exclude, candidates)
        )
        best = StreamingTopK(rows, min(k, len(labels)), features.device)
        for _, first, layer, begin, end in _slices(layers):
            chosen = slice(first + begin, first + end)
            margins = layer.margins(inputs, begin, end)[:, : inputs.n_rows]
            if wanted is not None:
                pairs = wanted.of_labels(chosen.start, chosen.stop)
                kept = margins[pairs]
                margins.fill_(-torch.inf)
                margins[pairs] = kept
            if excluded is not None:
                margins[excluded.of_labels(chosen.start, chosen.stop)] = -torch.inf
            best.add(margins, ids[chosen])
        found.append(best.result(k))
    return TopK(*(np.concatenate(arrays) for arrays in zip(*found)))


def train_step(
    features,
    targets,
    parts,
    states,
    loss,
    optimizer,
    seed,
    step,
    *,
    n_jobs=None,
    chunk_bytes=None,
    dot="auto",
    deterministic=True,
):
    """One step of training on a batch; changes the tensors of ``parts`` and ``states`` in place.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    targets : csr_array of shape (n_rows, n_labels)
        Canonical; every stored entry is a positive.
    parts, states : tuple of Part, tuple of State
    loss : Loss
    optimizer : Optimizer
    seed, step : int
        The random bits of part p are those of ``step_key(seed, step, p)``.
    n_jobs, chunk_bytes : None
        Not used: the slices are fixed, because they decide the order of the sums.
    dot : see `scores`
    deterministic : bool, default=True
        False adds up the gradient of the features of fixed fan-in parts with atomic additions,
        whose order, and with it the rounding, changes from run to run. It saves the index of the
        slots by input, 4 bytes a slot, which is otherwise kept until the indices change.

    Returns
    -------
    StepResult
        ``grad_features`` as a tensor.

    Raises
    ------
    ValueError
        As `scores`, or if the shape of ``targets`` is not (n_rows, n_labels).

    Notes
    -----
    For each slice of labels: margins, loss and its gradient over the margins, gradient of the
    features by the weights before the update, then gradient of a tile of weights and its update in
    one kernel. Memory beside parts and states: margins of a slice; group-shared parts also
    4 n_rows fan_in bytes for each of the slice's 4,096 groups.
    """
    features = _on_device(features, parts)
    n_labels = sum(part.n_labels for part in parts)
    if targets.shape != (features.shape[0], n_labels):
        raise ValueError(
            f"targets must have shape {(features.shape[0], n_labels)}, a row for each of the "
            f"features and a column for each label of the parts; got {targets.shape}."
        )
    inputs = _Inputs(features)
    layers = _layers(parts, inputs.n_inputs, dot)
    positives = Pairs(targets, features.device, weight=loss.positive_weight)
    settings = _Settings(loss, optimizer)
    keys = [step_key(seed, step, number) for number in range(len(parts))]
    gradient = features.new_zeros((inputs.n_inputs, inputs.n_columns))
    losses = []
    for number, first, layer, begin, end in _slices(layers):
        state = states[number]
        margins = layer.margins(inputs, begin, end)
        labels = first + begin, first + end
        pairs = (*positives.of_labels(*labels), positives.weights_of_labels(*labels))
        value, active = _loss_gradient(margins, inputs.n_rows, pairs, loss.name)
        losses.append(value)
        skip = loss.name == "squared_hinge"
        layer.add_grad_features(margins, active, begin, end, gradient, skip, deterministic)
        layer.update(inputs, margins, active, begin, end, state, settings, keys[number])
        if optimizer.train_bias:
            _update_bias(margins, layer.part, state, begin, end, settings)
    return StepResult(
        math.fsum(torch.stack(losses).tolist()) if losses else 0.0,
        gradient[:, : inputs.n_rows].T.contiguous(),
    )


def grad_weights(features, dmargins, part, *, dot="auto"):
    """Gradient of the weights of a part, (n_labels, fan_in) float32.

    ``dmargins`` (n_rows, n_labels) is the gradient of the loss with respect to the margins.
    Training never calls this: `train_step` updates without storing the gradient.
    """
    features = _on_device(features, (part,))
    inputs = _Inputs(features)
    layer = _Layer(part, inputs.n_inputs, dot)
    gradient = features.new_empty((part.n_labels, part.fan_in))
    for begin, end in layer.slices():
        layer.store_grad_weights(
            inputs, _label_major(dmargins, begin, end), begin, end, gradient[begin:end]
        )
    return gradient


def grad_features(dmargins, part, n_inputs, *, dot="auto", deterministic=True):
    """Gradient of the features by one part, (n_rows, n_inputs) float32; see `train_step`."""
    _check_device(dmargins)
    layer = _Layer(part, n_inputs, dot)
    n_rows = dmargins.shape[0]
    gradient = dmargins.new_zeros((n_inputs, _round_up(n_rows)))
    for begin, end in layer.slices():
        margins = _label_major(dmargins, begin, end)
        layer.add_grad_features(margins, None, begin, end, gradient, False, deterministic)
    return gradient[:, :n_rows].T.contiguous()


def input_gradients(features, dmargins, part, first, stop):
    """Gradient of the weights that labels ``first`` to ``stop`` had if they had all inputs.

    A dense product, left to torch: float32 of shape (stop - first, n_inputs).
    """
    return dmargins[:, first:stop].T @ _on_device(features, (part,))


def _layers(parts, n_inputs, dot):
    return [_Layer(part, n_inputs, dot) for part in parts]


def _slices(layers):
    """Yield number and first label of each part, the part, and the labels of a slice of it."""
    first = 0
    for number, layer in enumerate(layers):
        for begin, end in layer.slices():
            yield number, first, layer, begin, end
        first += layer.part.n_labels


def _on_device(features, parts):
    """The features as a tensor on the device of the parts."""
    features = torch.as_tensor(features)
    return features.to(parts[0].weights.device) if parts else features


def _row_blocks(features):
    for first in range(0, features.shape[0], _ROWS):
        yield slice(first, min(first + _ROWS, features.shape[0]))


class _Inputs:
    """Features of a batch, feature-major."""

    def __init__(self, features):
        _check_device(features)
        if features.ndim != 2 or features.dtype != torch.float32:
            raise ValueError(
                "features must be a float32 tensor with two dimensions; got "
                f"{features.ndim} dimensions of {features.dtype}."
            )
        self.n_rows, self.n_inputs = features.shape
        self.n_columns = _round_up(self.n_rows)
        self._float32 = _filled(features.T)
        self._bfloat16 = None

    def operand(self, dot):
        """In the type that the products want."""
        if dot in ("bf16", "bf16_emulated"):
            if self._bfloat16 is None:
                self._bfloat16 = self._float32.to(torch.bfloat16)
                if dot == "bf16_emulated":
                    self._bfloat16 = self._bfloat16.to(torch.float32)
            return self._bfloat16
        return self._float32


class _Settings:
    """Optimiser settings as the kernels take them; factors in float64, as in the reference."""

    def __init__(self, loss, optimizer):
        o = optimizer
        if loss.name not in ("squared_hinge", "bce"):
            raise ValueError(f"The loss must be 'squared_hinge' or 'bce'; got {loss.name!r}.")
        self.decay = float(o.learning_rate * o.weight_decay)
        self.kind = "momentum" if o.momentum else "sgd"
        if o.name == "sgd":
            factors = (o.learning_rate, o.momentum, 1.0, 0.0, 0.0, 0.0, 0.0)
        elif o.name == "adam":
            t = o.n_updates + 1
            self.kind = "adam"
            factors = (
                o.learning_rate / (1 - o.beta1**t),
                *(o.beta1, 1 - o.beta1, o.beta2, 1 - o.beta2),
                *(1 / math.sqrt(1 - o.beta2**t), o.epsilon),
            )
        else:
            raise ValueError(f"The optimizer must be 'sgd' or 'adam'; got {o.name!r}.")
        # An int would be another type of argument, and compile the kernel anew.
        self.factors = tuple(float(factor) for factor in factors)
        # A label without gradient then stays as it is.
        self.skip_idle = loss.name == "squared_hinge" and self.kind == "sgd" and o.weight_decay == 0


class _Layer:
    """A part as the kernels see it: contiguous arrays, low precision as bits."""

    def __init__(self, part, n_inputs, dot):
        self.part = part
        self.weights = _bits(part.weights)
        self.indices = None if part.indices is None else _bits(part.indices)
        self.n_inputs = n_inputs
        self.fan_in = part.fan_in
        self.fixed = part.indices is not None and part.group_size == 1
        self.group_size = _DENSE_GROUP if part.indices is None else part.group_size
        self.dot = _choose_dot(dot, part.precision)
        for name in ("weights", "indices", "bias"):
            array = getattr(part, name)
            if array is not None:
                _check_device(array)
                if not array.is_contiguous():
                    raise ValueError(f"The {name} of a part must be contiguous (C order).")
        if part.indices is None:
            if self.fan_in != n_inputs:
                raise ValueError(
                    f"A dense part with {self.fan_in} inputs got features with {n_inputs}."
                )
        else:
            _by_input.check(part.indices, n_inputs)

    def slices(self):
        """Ranges of labels that are worked on together; whole groups."""
        size = min(SLICE_LABELS, (2**31 - 1) // max(self.fan_in, 1))
        groups = max(1, size // self.group_size)
        if not self.fixed and self.indices is not None:
            groups = min(groups, SLICE_GROUPS)
        size = groups * self.group_size
        for begin in range(0, self.part.n_labels, size):
            yield begin, min(begin + size, self.part.n_labels)

    def margins(self, inputs, begin, end):
        """Margins of a slice, (labels, columns)."""
        n, columns = end - begin, inputs.n_columns
        margins = torch.empty((n, columns), device=self.weights.device)
        arrays = (
            self.weights[begin:end],
            self._indices(begin, end),
            self.part.bias[begin:end],
            margins,
            n,
        )
        if self.fixed:
            how = launch("fixed_scores", columns)
            grid = (how.tiles("L", n), how.tiles("B", columns))
            self._run("fixed_scores", how, grid, inputs.operand("ieee"), *arrays, columns=columns)
        else:
            how = self._launch("grouped_scores", columns)
            grid = (
                self._n_groups(n),
                how.tiles("B", columns),
                how.tiles("G", self.group_size),
            )
            features = inputs.operand(self.dot)
            self._run("grouped_scores", how, grid, features, *arrays, columns=columns)
        return margins

    def store_grad_weights(self, inputs, margins, begin, end, gradient):
        """Write the gradient of the weights of a slice."""
        n, columns = margins.shape
        indices = self._indices(begin, end)
        if self.fixed:
            how = self._launch("fixed_grad_weights", columns)
            arrays = (inputs.operand("ieee"), margins, indices, gradient)
            grid = (n, how.tiles("F", self.fan_in))
            self._run("fixed_grad_weights", how, grid, *arrays, columns=columns)
        else:
            how = self._launch("grouped_grad_weights", columns)
            arrays = (inputs.operand(self.dot), margins, indices, gradient, n)
            self._run(
                "grouped_grad_weights", how, self._grid_of_weights(how, n), *arrays, columns=columns
            )

    def update(self, inputs, margins, active, begin, end, state, settings, key):
        """Update the weights of a slice; their gradient is in registers only."""
        n, columns = margins.shape
        compensation, n_compensated = None, 0
        if state.compensation is not None and begin < len(state.compensation):
            compensation = _bits(state.compensation)[begin:end]
            n_compensated = len(compensation)
        arrays = (
            margins,
            active,
            self._indices(begin, end),
            self.weights[begin:end],
            None if settings.kind == "sgd" else state.momentum[begin:end],
            None if settings.kind != "adam" else state.second[begin:end],
            compensation,
            n_compensated,
        )
        # The kernels take 32 bits with a sign.
        signed_key = key - (1 << 32) if key >= 1 << 31 else key
        rate, *factors = settings.factors
        numbers = (begin * self.fan_in, signed_key, rate, settings.decay, *factors)
        flags = {
            "OPTIMIZER": settings.kind,
            "KAHAN": compensation is not None,
            "SKIP_IDLE": settings.skip_idle,
        }
        if self.fixed:
            how = self._launch("fixed_update", columns)
            grid = (n, how.tiles("F", self.fan_in))
            arrays = (inputs.operand("ieee"), *arrays)
            self._run("fixed_update", how, grid, *arrays, columns=columns, numbers=numbers, **flags)
        else:
            how = self._launch("grouped_update", columns)
            grid = self._grid_of_weights(how, n)
            arrays = (inputs.operand(self.dot), *arrays, n)
            self._run(
                "grouped_update", how, grid, *arrays, columns=columns, numbers=numbers, **flags
            )

    def add_grad_features(self, margins, active, begin, end, gradient, skip, deterministic):
        """Add what a slice brings to the gradient of the features, (inputs, columns).

        With ``skip`` labels that are not ``active`` are left out.
        """
        n, columns = margins.shape
        weights = self.weights[begin:end]
        if self.fixed and not deterministic:
            how = self._launch("fixed_scatter", columns)
            arrays = (margins, active, weights, self._indices(begin, end), gradient)
            grid = (n, how.tiles("F", self.fan_in))
            self._run("fixed_scatter", how, grid, *arrays, columns=columns, SKIP_IDLE=skip)
            return
        if self.fixed:
            self._sum_by_input(margins, active, weights, begin, end, gradient, skip)
            return
        # A dense part has no groups: shares of the labels are summed, then the shares.
        size = DENSE_SHARE if self.indices is None else self.group_size
        n_groups = -(-n // size)
        partial = margins.new_empty((n_groups * self.fan_in, columns))
        how = launch("grouped_partial", columns, self.fan_in, size, self.dot)
        grid = (n_groups, how.tiles("F", self.fan_in), how.tiles("B", columns))
        arrays = (margins, active, weights, partial, n)
        self._run("grouped_partial", how, grid, *arrays, columns=columns, size=size, SKIP_IDLE=skip)
        if self.indices is None:
            for share in partial.view(n_groups, self.fan_in, columns):
                gradient += share
        else:
            self._sum_by_input(partial, None, None, begin, end, gradient, False)

    def _sum_by_input(self, rows, active, weights, begin, end, gradient, skip):
        columns = rows.shape[1]
        slots, starts = _by_input.slots(
            self.part.indices, self._indices(begin, end), begin, self.n_inputs
        )
        how = launch("sum_by_input", columns)
        grid = (self.n_inputs, how.tiles("B", columns))
        flags = {"WEIGHTED": weights is not None, "SKIP_IDLE": skip}
        arrays = (rows, active, weights, slots, starts, gradient)
        self._run("sum_by_input", how, grid, *arrays, columns=columns, **flags)

    def _indices(self, begin, end):
        if self.indices is None:
            return None
        size = self.group_size
        return self.indices[begin // size : -(-end // size)]

    def _n_groups(self, n):
        return -(-n // self.group_size)

    def _grid_of_weights(self, how, n):
        tiles = how.tiles("F", self.fan_in), how.tiles("G", self.group_size)
        return (self._n_groups(n), *tiles)

    def _launch(self, name, columns):
        return launch(name, columns, self.fan_in, self.group_size, self.dot)

    def _run(self, name, how, grid, *arrays, columns, size=None, numbers=(), **flags):
        """Run a kernel of the part: arrays, sizes, numbers, and what it is compiled for."""
        names = KERNELS[name].arg_names
        sizes = (self.fan_in, columns)
        if "group_size" in names:
            sizes = (size or self.group_size, *sizes)
        known = {
            "PRECISION": self.part.precision,
            "DOT": self.dot,
            "GATHERED": self.indices is not None,
            **flags,
        }
        constants = {key: known[key] for key in known if key in names}
        _start(name, how, grid, *arrays, *sizes, *numbers, **constants)


class _ByInput:
    """Slots sorted by their input, kept for each tensor of indices until it changes.

    4 bytes a slot: as much as float32 weights for fixed fan-in, a group's share of it for groups.
    """

    def __init__(self):
        self._kept = WeakTensorKeyDictionary()

    def check(self, indices, n_inputs):
        """ValueError unless all indices are inputs; looked at once for each change."""
        kept = self._of(indices)
        if "largest" not in kept:
            blocks = _bits(indices).view(-1).split(1 << 24)  # torch has no maximum of uint16
            kept["largest"] = max(
                (int(block.to(torch.int32).max()) for block in blocks if len(block)), default=-1
            )
        if kept["largest"] >= n_inputs:
            raise ValueError(
                f"A part has an index {kept['largest']}; the features have {n_inputs} inputs."
            )

    def slots(self, indices, rows, begin, n_inputs):
        """Slots of the slice ``rows`` of ``indices`` by input, and where each input begins."""
        kept = self._of(indices)
        if (begin, n_inputs) not in kept:
            inputs, order = torch.sort(rows.reshape(-1).to(torch.int32), stable=True)
            bounds = torch.arange(n_inputs + 1, dtype=torch.int32, device=inputs.device)
            starts = torch.searchsorted(inputs, bounds)
            kept[begin, n_inputs] = order.to(torch.int32), starts.to(torch.int32)
        return kept[begin, n_inputs]

    def _of(self, indices):
        # The version counts changes in place by torch.
        kept = self._kept.get(indices)
        if kept is None or kept["version"] != indices._version:
            kept = {"version": indices._version}
            self._kept[indices] = kept
        return kept


_by_input = _ByInput()


def _loss_gradient(margins, n_rows, positives, loss):
    """Write the gradient of the loss over the margins of a slice.

    ``positives``: labels in the slice, rows, and weights (or None) of the positive pairs. Returns
    the sum of the losses (a float64 scalar on the device), and for each label whether it has a
    gradient.
    """
    labels, rows, weight = positives
    n, columns = margins.shape
    n_pairs = len(labels)
    gradient, loss_of_pairs = margins.new_empty((2, n_pairs))
    loss_of_labels = margins.new_empty(n)
    active = torch.empty(n, dtype=torch.int8, device=margins.device)
    take, put, rest = (
        launch(name, columns) for name in ("take_positives", "put_positives", "negatives")
    )
    pairs_grid = (take.tiles("", n_pairs),)
    arrays = (margins, labels, rows, weight, gradient, loss_of_pairs, n_pairs, columns)
    _start("take_positives", take, pairs_grid, *arrays, LOSS=loss)
    arrays = (margins, loss_of_labels, active, n, n_rows, columns)
    _start("negatives", rest, (rest.tiles("L", n),), *arrays, LOSS=loss)
    arrays = (margins, labels, rows, gradient, active, n_pairs, columns)
    _start("put_positives", put, pairs_grid, *arrays)
    value = loss_of_labels.sum(dtype=torch.float64) + loss_of_pairs.sum(dtype=torch.float64)
    return value, active


def _update_bias(margins, part, state, begin, end, settings):
    n, columns = margins.shape
    how = launch("update_bias", columns)
    _start(
        "update_bias",
        how,
        (how.tiles("L", n),),
        margins,
        part.bias[begin:end],
        None if settings.kind == "sgd" else state.bias_momentum[begin:end],
        None if settings.kind != "adam" else state.bias_second[begin:end],
        n,
        columns,
        *settings.factors,
        OPTIMIZER=settings.kind,
    )


def _start(name, how, grid, array, *arguments, **constants):
    """Start a kernel on the device of its first array."""
    if 0 in grid:
        return
    with torch.cuda.device_of(array):  # Triton takes the current one
        KERNELS[name][grid](array, *arguments, **constants, **how.blocks, **how.options)


def _label_major(dmargins, begin, end):
    """The gradients of a slice of labels as the kernels want them."""
    return _filled(dmargins[:, begin:end].T)


def _filled(rows):
    """A contiguous copy with as many columns as the kernels want, filled up with zeros."""
    n, columns = rows.shape
    filled = rows.new_empty((n, _round_up(columns)))
    filled[:, :columns] = rows
    filled[:, columns:] = 0
    return filled


def _bits(array):
    """The same memory as float32, int32, or the bits of a smaller type."""
    kinds = {1: torch.uint8, 2: torch.uint16}
    size = array.element_size()
    return array.view(kinds[size]) if size in kinds else array


def _round_up(n_rows):
    return max(16, -(-n_rows // 16) * 16)


def _choose_dot(dot, precision):
    if dot not in _DOTS:
        raise ValueError(f"dot must be one of {', '.join(_DOTS)}; got {dot!r}.")
    if dot == "auto":
        dot = "ieee" if precision == "float32" else "bf16"
    # The interpreter multiplies the bits of bfloat16 tiles as integers.
    return "bf16_emulated" if dot == "bf16" and triton.knobs.runtime.interpret else dot


def _check_device(array):
    if array.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"Triton kernels need arrays on a CUDA device; got one on {array.device}. Move them "
            "there, or use another backend; TRITON_INTERPRET=1 in the environment runs the kernels "
            "slowly on the CPU."
        )
