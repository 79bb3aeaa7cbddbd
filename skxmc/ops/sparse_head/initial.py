"""New output layers, their optimiser state, and the bytes that both take."""

import math
from typing import NamedTuple

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.sparse_head._random import step_key
from skxmc.ops.sparse_head._scalars import random_bits
from skxmc.ops.sparse_head._types import PRECISIONS, Part, State
from skxmc.ops.sparse_head.low_precision import COMPENSATION, STORAGE, encode

_CHUNK = 1 << 16  # weights drawn at a time: what a cache holds
_STREAM = 0xFFFFFFFF  # number of the random stream of the inputs, apart from those of parts


class Footprint(NamedTuple):
    """Bytes of an output layer.

    Attributes
    ----------
    weights, indices, bias : int
    state : int
        Moments and compensation of the optimiser.
    """

    weights: int
    indices: int
    bias: int
    state: int

    @property
    def total(self):
        """Sum of all, in bytes."""
        return sum(self)


def index_dtype(n_inputs):
    """The type of the indices: uint16 for up to 65,536 inputs, else int32."""
    return np.dtype(np.uint16) if n_inputs <= 1 << 16 else np.dtype(np.int32)


def initialise(
    n_labels, n_inputs, fan_in, group_size=1, precision="float32", seed=0, *, bias=0.0, scale=1.0
):
    """Make a part with random inputs and random weights.

    Parameters
    ----------
    n_labels, n_inputs : int
    fan_in : int or None
        Inputs of each label, at most ``n_inputs``. ``None`` makes a dense part.
    group_size : int, default=1
        Labels that share their inputs.
    precision : {"float32", "bfloat16", "float8"}, default="float32"
    seed : int, default=0
        Its low 64 bits count. Equal seeds give equal parts.
    bias : float or array-like of shape (n_labels,), default=0.0
    scale : float, default=1.0
        Weights are drawn from a normal distribution of mean 0 and standard deviation
        ``scale / sqrt(fan_in)``, so that features of size 1 give margins of size ``scale``.

    Returns
    -------
    Part
        The inputs of a group are drawn uniformly without replacement and stored in rising order.

    Raises
    ------
    ValueError
        If a size is not positive, ``fan_in`` exceeds ``n_inputs`` or the precision is unknown.

    Notes
    -----
    O(n_labels * fan_in) time (with fan_in > n_inputs / 2: O(n_labels * n_inputs)); the part itself
    plus less than 3 MiB and 4 ``n_inputs`` bytes. Weights of low precision are rounded to the
    nearest.

    Examples
    --------
    >>> from skxmc.ops.sparse_head.initial import initialise
    >>> part = initialise(5, n_inputs=100, fan_in=4, group_size=2, precision="bfloat16")
    >>> part.weights.shape, part.weights.dtype, part.indices.shape, part.indices.dtype
    ((5, 4), dtype('uint16'), (3, 4), dtype('uint16'))
    """
    _check_sizes(n_labels, n_inputs, fan_in, group_size, precision)
    indices = None
    if fan_in is None:
        fan_in = n_inputs
    else:
        n_groups = -(-n_labels // group_size)
        indices = draw_inputs(n_groups, n_inputs, fan_in, step_key(seed, 0, _STREAM))
    weights = np.empty((n_labels, fan_in), dtype=STORAGE[precision])
    std = np.float32(scale / math.sqrt(fan_in))
    flat = weights.reshape(-1)
    for number, first in enumerate(range(0, flat.size, _CHUNK)):
        stop = min(first + _CHUNK, flat.size)
        # One generator for each chunk: the seed and the chunk are all that counts.
        rng = np.random.default_rng([int(seed) & 0xFFFFFFFFFFFFFFFF, number])
        values = rng.standard_normal(stop - first, dtype=np.float32) * std
        flat[first:stop] = encode(values, precision)
    biases = np.empty(n_labels, dtype=np.float32)
    biases[:] = bias
    return Part(weights, indices, biases, group_size, precision)


def new_state(part, optimizer, n_compensated=0):
    """The optimiser's state of a part at the start: zeros.

    Parameters
    ----------
    part : Part
    optimizer : Optimizer
    n_compensated : int, default=0
        How many of the first labels get Kahan compensation, at most all. Weights in float32 need
        and have none.

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If ``n_compensated`` is not between 0 and the number of labels.
    """
    _check_compensated(n_compensated, part.n_labels)
    moments, compensated = _state_shape(part.precision, optimizer, n_compensated)
    bias_moments = moments if optimizer.train_bias else 0
    shape = part.weights.shape
    return State(
        momentum=np.zeros(shape, dtype=np.float32) if moments >= 1 else None,
        second=np.zeros(shape, dtype=np.float32) if moments >= 2 else None,
        compensation=(
            np.zeros((compensated, shape[1]), dtype=STORAGE[COMPENSATION[part.precision]])
            if compensated
            else None
        ),
        bias_momentum=np.zeros(shape[0], dtype=np.float32) if bias_moments >= 1 else None,
        bias_second=np.zeros(shape[0], dtype=np.float32) if bias_moments >= 2 else None,
    )


def footprint(
    n_labels, n_inputs, fan_in, group_size=1, precision="float32", optimizer=None, n_compensated=0
):
    """The bytes of the arrays of `initialise` and `new_state`, without making them.

    Parameters
    ----------
    n_labels, n_inputs, fan_in, group_size, precision
        As for `initialise`.
    optimizer : Optimizer, default=None
        ``None`` is a layer that is not trained.
    n_compensated : int, default=0
        As for `new_state`.

    Returns
    -------
    Footprint
        Exact.

    Raises
    ------
    ValueError
        As `initialise` and `new_state`.

    Examples
    --------
    >>> from skxmc.ops.sparse_head._types import Optimizer
    >>> from skxmc.ops.sparse_head.initial import footprint
    >>> sgd = Optimizer("sgd", learning_rate=0.1, momentum=0.9)
    >>> footprint(670_091, 16_384, 64, optimizer=sgd).total / 2**20
    414.1...
    """
    _check_sizes(n_labels, n_inputs, fan_in, group_size, precision)
    _check_compensated(n_compensated, n_labels)
    indices = 0
    if fan_in is None:
        fan_in = n_inputs
    else:
        indices = -(-n_labels // group_size) * fan_in * index_dtype(n_inputs).itemsize
    state = 0
    if optimizer is not None:
        moments, compensated = _state_shape(precision, optimizer, n_compensated)
        state = 4 * moments * n_labels * (fan_in + (1 if optimizer.train_bias else 0))
        if compensated:
            state += compensated * fan_in * STORAGE[COMPENSATION[precision]].itemsize
    return Footprint(n_labels * fan_in * STORAGE[precision].itemsize, indices, 4 * n_labels, state)


def draw_inputs(n_groups, n_inputs, fan_in, key):
    """Draw ``fan_in`` different inputs for each group; sorted; (n_groups, fan_in) of `index_dtype`.

    Every set is equally likely. O(n_groups * fan_in) time where fan_in is at most half of
    ``n_inputs``, else O(n_groups * n_inputs).
    """
    indices = np.empty((n_groups, fan_in), dtype=index_dtype(n_inputs))
    _draw_inputs(indices, n_inputs, np.uint32(key), np.zeros(n_inputs, dtype=np.int32))
    indices.sort(axis=1)
    return indices


@jit
def _draw_inputs(indices, n_inputs, key, drawn):
    # drawn[i] == group + 1 marks the input i as drawn for the group.
    n_groups, fan_in = indices.shape
    counter = np.int64(0)
    for group in range(n_groups):
        # The smaller of the two sets is drawn: the inputs, or those left out.
        n_drawn = min(fan_in, n_inputs - fan_in)
        count = 0
        while count < n_drawn:
            candidate = uniform_below(key, counter, n_inputs)
            counter += 1
            if drawn[candidate] != group + 1:
                drawn[candidate] = group + 1
                if n_drawn == fan_in:
                    indices[group, count] = candidate
                count += 1
        if n_drawn < fan_in:
            position = 0
            for candidate in range(n_inputs):
                if drawn[candidate] != group + 1:
                    indices[group, position] = candidate
                    position += 1


@jit
def uniform_below(key, counter, size):
    """An integer from 0 to ``size - 1``, of 64 random bits: the bias is at most size / 2^64."""
    high = np.uint64(random_bits(key, 2 * counter))
    low = np.uint64(random_bits(key, 2 * counter + 1))
    return np.int64(((high << np.uint64(32)) | low) % np.uint64(size))


def _state_shape(precision, optimizer, n_compensated):
    """How many moments of each weight are kept, and for how many labels a compensation."""
    if optimizer.name == "adam":
        moments = 2
    else:
        moments = 1 if optimizer.momentum else 0
    return moments, n_compensated if precision in COMPENSATION else 0


def _check_sizes(n_labels, n_inputs, fan_in, group_size, precision):
    sizes = {"n_labels": n_labels, "n_inputs": n_inputs, "group_size": group_size}
    if fan_in is not None:
        sizes["fan_in"] = fan_in
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}.")
    if n_inputs > np.iinfo(np.int32).max:
        raise ValueError(f"At most {np.iinfo(np.int32).max} inputs are supported; got {n_inputs}.")
    if fan_in is not None and fan_in > n_inputs:
        raise ValueError(
            f"fan_in must be at most the number of inputs, {n_inputs}; got {fan_in}. Lower it, or "
            "widen the layer below."
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}.")


def _check_compensated(n_compensated, n_labels):
    if not 0 <= n_compensated <= n_labels:
        raise ValueError(
            f"n_compensated must be from 0 to the number of labels, {n_labels}; got "
            f"{n_compensated}."
        )
