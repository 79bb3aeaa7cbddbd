"""The sparse output layer in Numba: SIMD along the batch, threads over slices of labels.

The features are turned into feature-major form, so that the values of one input for many rows lie
side by side. A label then needs one contiguous row of features for each of its inputs, and labels
of a group use the same rows, from the first cache. `train_step` treats a group from its margins to
its new weights while all that it needs is in cache: neither margins nor gradients are stored.

A batch of more than 128 rows is cut into tiles, and the labels into chunks whose gradients wait
until all tiles have been seen. Tiles so small that the features and their gradient stay in a core's
second cache were slower for wide features (16,384 inputs): a longer row is fetched faster.

The gradient with respect to the features is summed over a number of slices of labels that depends
on the sizes alone, one after the other, so that results do not depend on the number of threads.
"""

import itertools
from typing import NamedTuple

import numpy as np

from skxmc._parallel import effective_n_jobs, map_chunks, reduce_chunks
from skxmc.ops._memory import new_zeros
from skxmc.ops.csr import canonical_pattern
from skxmc.ops.sparse_head import _checks, _kernels
from skxmc.ops.sparse_head._random import step_key
from skxmc.ops.sparse_head._simd import LANES
from skxmc.ops.sparse_head._types import PRECISIONS, StepResult
from skxmc.ops.topk._types import TopK, check_k

#: Rows of a tile, at most: 64 gathered rows of features stay in a first cache of 48 KiB.
_LARGEST_TILE = 128
#: Labels of a dense part that share the features while these are in the first cache.
_DENSE_GROUP = 32
#: Labels whose margins are turned from label-major to row-major at a time, and the other way.
_BLOCK, _GRADIENT_BLOCK = 64, 512
#: Bytes of margins from which they are written past the caches.
_PAST_CACHES = 1 << 25
#: Slices of labels with a gradient of the features of their own, at most (also the most threads of
#: a backward pass), and the weights for each value of that gradient that make one worth its while.
_MOST_SLICES, _WEIGHTS_A_VALUE = 16, 32
#: Gradients of the features that are allocated together, at most, and the bytes that they may take.
_ARRAYS_AT_ONCE, _HUGE_PAGE = 4, 1 << 21
#: Bytes of gradients of weights that may wait where the batch is cut into tiles.
_CHUNK_BYTES = 1 << 20

_NO_FLOATS = np.empty(0, dtype=np.float32)


# ---------------------------------------------------------------------------- layout


class _Batch(NamedTuple):
    """Features in tiles of rows; see `_kernels`."""

    n_rows: int
    n_inputs: int
    width: int
    tile_stride: int
    n_tiles: int
    x: np.ndarray

    def new_gradients(self):
        """Arrays of the size of ``x``, some in one huge page, which is cleared as a whole."""
        size = self.n_tiles * self.tile_stride
        count = max(1, min(_ARRAYS_AT_ONCE, _HUGE_PAGE // max(1, 4 * size)))
        return list(new_zeros((count, size), np.float32, huge_pages=True))

    def rows(self, x):
        """A tiled array as (n_rows, n_inputs)."""
        out = np.empty((self.n_rows, self.n_inputs), dtype=np.float32)
        for tile, first in enumerate(range(0, self.n_rows, self.width)):
            _kernels.transpose(
                *(_frozen(x), tile * self.tile_stride, self.width, self.n_inputs),
                *(min(self.width, self.n_rows - first), out.reshape(-1)),
                *(first * self.n_inputs, self.n_inputs, False),
            )
        return out


def _batch_shape(n_rows):
    """Rows of a tile, a multiple of ``LANES``, and number of tiles."""
    n_tiles = max(1, -(-n_rows // _LARGEST_TILE))
    width = -(-max(n_rows, 1) // (n_tiles * LANES)) * LANES
    return width, -(-n_rows // width)


def _tile(features, n_jobs):
    n_rows, n_inputs = features.shape
    width, n_tiles = _batch_shape(n_rows)
    stride = (n_inputs + 1) * width
    x = new_zeros(n_tiles * stride, np.float32, huge_pages=True)
    source = _frozen(features)

    def turn(tile):
        first = tile * width
        _kernels.transpose(
            *(source, first * n_inputs, n_inputs, min(width, n_rows - first), n_inputs),
            *(x, tile * stride, width, False),
        )

    list(map_chunks(turn, range(n_tiles), n_jobs))
    return _Batch(n_rows, n_inputs, width, stride, n_tiles, x)


def _new_result(shape):
    # A page of 4 KiB for each row at a time would be touched: huge pages save most of that.
    return new_zeros(shape, np.float32, huge_pages=True)


def _frozen(array):
    """A flat read-only view: Numba compiles one version, whether an array was writable or not."""
    view = array.view(np.ndarray).reshape(-1)
    view.flags.writeable = False
    return view


def _bytes(array):
    """A flat view as bytes, which is writable if the array is; empty for None."""
    return np.empty(0, np.uint8) if array is None else array.reshape(-1).view(np.uint8)


def _flat(array):
    return _NO_FLOATS.copy() if array is None else array.reshape(-1)


class _Layout(NamedTuple):
    """A part as the kernels take it."""

    shape: tuple
    weights: np.ndarray
    indices: np.ndarray
    bias: np.ndarray
    n_labels: int

    @property
    def group_size(self):
        return self.shape[2]

    def block(self, n_labels):
        """Labels of as many groups as have about ``n_labels``, at least one group."""
        return max(1, n_labels // self.group_size) * self.group_size

    def slices(self, n_slices):
        """Bounds of slices of whole groups."""
        n_groups = -(-self.n_labels // self.group_size)
        bounds = np.linspace(0, n_groups, min(n_slices, n_groups) + 1).astype(np.int64)
        bounds = np.minimum(bounds * self.group_size, self.n_labels)
        return list(itertools.pairwise(bounds.tolist()))

    def scratch(self, n_z_rows):
        """Offsets of slots, weights of a group, and margins with 16 rows more."""
        _, n_padded, _, n_group_rows, _, _, width, _, _ = self.shape
        return (
            np.zeros(n_padded, dtype=np.int64),
            new_zeros(n_group_rows * n_padded, np.float32),
            new_zeros((n_z_rows + n_group_rows + 16) * width, np.float32),
        )

    def gradient_scratch(self, chunk):
        """Gradients of weights, and which rows and vectors have any."""
        _, n_padded, _, n_group_rows, _, _, width, _, _ = self.shape
        rows = np.zeros(4 * max(n_group_rows + 16, width // LANES), dtype=np.int64)
        return new_zeros((chunk + n_group_rows + 1) * n_padded, np.float32), rows


def _lay_out(part, n_inputs, width):
    fan_in = part.fan_in
    if part.indices is None:
        indices, group_size, stride = np.arange(n_inputs, dtype=np.int32), _DENSE_GROUP, 0
    else:
        indices, group_size, stride = part.indices, int(part.group_size), fan_in
    n_padded = -(-fan_in // LANES) * LANES
    n_group_rows = 1 if group_size == 1 else -(-group_size // 4) * 4
    code = PRECISIONS.index(part.precision)
    return _Layout(
        (
            *(fan_in, n_padded, group_size, n_group_rows, stride, n_inputs, width, code),
            int(indices.dtype == np.int32),
        ),
        _frozen(_bytes(part.weights)),
        _frozen(_bytes(indices)),
        _frozen(part.bias),
        part.n_labels,
    )


def _check_indices(label, part, n_inputs, name):
    """Raise for a group whose indices a kernel has refused; nothing for label -1."""
    if label < 0:
        return
    group = label // part.group_size
    wrong = part.indices[group][(part.indices[group] < 0) | (part.indices[group] >= n_inputs)]
    raise ValueError(
        f"{name}: row {group} of indices holds {wrong[0]}, but the features have {n_inputs} "
        "columns. The layer does not belong to these features, or is damaged."
    )


def _n_slices(layout, n_inputs):
    n_weights = layout.n_labels * layout.shape[0]
    return max(1, min(_MOST_SLICES, n_weights // (_WEIGHTS_A_VALUE * n_inputs)))


class _Total:
    """Sum of the slices' gradients of the features, in their order; keeps arrays for reuse."""

    def __init__(self, batch):
        self._batch = batch
        self._total = None
        self._free = []

    def new(self):
        try:
            gradient = self._free.pop()
        except IndexError:
            gradient, *others = self._batch.new_gradients()
            self._free.extend(others)
        gradient.fill(0)  # by the thread that is going to use it, so that its caches hold it
        return gradient

    def add(self, gradient):
        if self._total is None:
            self._total = gradient
            return
        self._total += gradient
        self._free.append(gradient)

    def rows(self):
        return self._batch.rows(self._total if self._total is not None else self.new())


# ---------------------------------------------------------------------------- forward


def scores(features, parts, *, n_jobs=None):
    """Margins of all labels.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_inputs)
    parts : tuple of Part
        The layer.
    n_jobs : int or None, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    float32 ndarray of shape (n_rows, n_labels)
        In the order of the layer. The margins of a row do not depend on the other rows.

    Raises
    ------
    ValueError
        If shapes, dtypes or precisions do not fit, or an index is not a column of ``features``.

    Notes
    -----
    O(n_rows * n_labels * fan_in) time; the result and a feature-major copy of the features.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.sparse_head import Part, scores
    >>> part = Part(
    ...     weights=np.array([[1.0, 2.0], [0.5, 0.0]], dtype="f4"),
    ...     indices=np.array([[2, 0], [1, 0]], dtype="u2"),
    ...     bias=np.array([0.0, -1.0], dtype="f4"),
    ...     group_size=1,
    ...     precision="float32",
    ... )
    >>> scores(np.array([[1.0, 2.0, 3.0]], dtype="f4"), (part,))
    array([[5., 0.]], dtype=float32)
    """
    features = _checks.check_features(features)
    _checks.check_parts(parts, features.shape[1])
    batch = _tile(features, n_jobs)
    n_labels = sum(part.n_labels for part in parts)
    out = _new_result((batch.n_rows, n_labels))
    past_caches = out.nbytes >= _PAST_CACHES and n_labels % LANES == 0
    first = 0
    for number, part in enumerate(parts):
        layout = _lay_out(part, batch.n_inputs, batch.width)
        block = layout.block(_BLOCK)

        def run(bounds, layout=layout, block=block, first=first):
            return _kernels.scores_slice(
                *(*bounds, block, layout.shape, layout.weights, layout.indices, layout.bias),
                *(_frozen(batch.x), batch.tile_stride, batch.n_rows, *layout.scratch(block)),
                *(out.reshape(-1), first, n_labels, past_caches),
            )

        slices = layout.slices(4 * effective_n_jobs(n_jobs))
        for label in list(map_chunks(run, slices, n_jobs)):
            _check_indices(label, part, batch.n_inputs, f"Part {number}")
        first += part.n_labels
    return out


# ---------------------------------------------------------------------------- training


def train_step(
    features, targets, parts, states, loss, optimizer, seed, step, *, n_jobs=None,
    chunk_bytes=_CHUNK_BYTES,
):  # fmt: skip
    """One step of training on a batch; changes the arrays of ``parts`` and ``states`` in place.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_inputs)
    targets : csr_array of shape (n_rows, n_labels)
        The positives, labels in the order of the layer.
    parts : tuple of Part
        Writable arrays.
    states : tuple of State
        One for each part, as `new_state` makes it.
    loss : Loss
    optimizer : Optimizer
    seed, step : int
        What the random bits of rounding depend on, besides the position of the weight.
    n_jobs : int or None, default=None
        Number of threads; the result does not depend on it.
    chunk_bytes : int, default=1 MiB
        Gradients of weights that a thread may hold where the batch has to be cut; the result does
        not depend on it.

    Returns
    -------
    StepResult
        The sum of the losses, and the gradient of the features by the weights before the update.

    Raises
    ------
    ValueError
        If shapes, dtypes, names or states do not fit, an array to be changed is read-only, or an
        index is not a column of ``features``: groups before it may then have been updated.

    Notes
    -----
    O(n_rows * n_labels * fan_in) time. Memory besides the layer: two arrays of the size of the
    features and two more for each thread, ``chunk_bytes`` for each thread, and 16 bytes a positive.
    With squared hinge, rows of the batch without gradient cost no backward time (by vectors of 16
    rows), and labels without gradient are not written if there is no momentum, Adam or decay.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.sparse_head import Loss, Optimizer, Part, State, train_step
    >>> part = Part(
    ...     weights=np.array([[1.0, 2.0], [0.5, 0.0]], dtype="f4"),
    ...     indices=np.array([[2, 0], [1, 0]], dtype="u2"),
    ...     bias=np.array([0.0, -1.0], dtype="f4"),
    ...     group_size=1,
    ...     precision="float32",
    ... )
    >>> result = train_step(
    ...     np.array([[1.0, 2.0, 3.0]], dtype="f4"),
    ...     sp.csr_array([[1, 0]]),
    ...     (part,),
    ...     (State(),),
    ...     Loss("squared_hinge"),
    ...     Optimizer("sgd", learning_rate=0.25),
    ...     seed=0,
    ...     step=0,
    ... )
    >>> result.loss
    1.0
    >>> part.weights  # margins 5 and 0: only the negative is within the margin
    array([[ 1. ,  2. ],
           [-0.5, -0.5]], dtype=float32)
    """
    features = _checks.check_features(features)
    n_rows, n_inputs = features.shape
    _checks.check_parts(parts, n_inputs)
    n_labels = sum(part.n_labels for part in parts)
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        _checks.check_state(part, state, optimizer, f"Part {number}")
    positive_weight = _checks.check_loss(loss, n_labels)
    target_labels, target_rows = _checks.check_targets(targets, n_rows, n_labels)
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1; got {chunk_bytes}.")

    batch = _tile(features, n_jobs)
    total, loss_sum, first = _Total(batch), 0.0, 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        stop = first + part.n_labels
        entries = slice(*np.searchsorted(target_labels, [first, stop]))
        positives = (
            _frozen(target_labels[entries] - np.int32(first)),
            _frozen(target_rows[entries]),
        )
        weight = positive_weight[first:stop] if positive_weight.size else positive_weight
        loss_sum += _train_part(
            batch, total, number, part, state, positives, _frozen(weight), loss, optimizer,
            step_key(seed, step, number), n_jobs, chunk_bytes,
        )  # fmt: skip
        first = stop
    return StepResult(loss_sum, total.rows())


def _train_part(
    batch, total, number, part, state, positives, positive_weight, loss, optimizer, key, n_jobs,
    chunk_bytes,
):  # fmt: skip
    """Add up the gradient of the features of a part; return its loss."""
    layout = _lay_out(part, batch.n_inputs, batch.width)
    _, n_padded, chunk, _, _, n_inputs, width, _, _ = layout.shape
    if batch.n_tiles > 1:
        chunk = layout.block(chunk_bytes // (4 * n_padded))
    kind, settings = _optimizer_settings(optimizer)
    first_moments, second_moments = (
        [_flat(moment) if kind >= needed else _NO_FLOATS.copy() for moment in moments]
        for needed, moments in (
            (1, (state.momentum, state.bias_momentum)),
            (2, (state.second, state.bias_second)),
        )
    )
    n_compensated = 0 if state.compensation is None else len(state.compensation)
    decay = np.float32(optimizer.learning_rate * optimizer.weight_decay)

    x, out, compensation = _frozen(batch.x), _bytes(part.weights), _bytes(state.compensation)
    losses = []

    def make_run():
        scratch, (gw, rows) = layout.scratch(1), layout.gradient_scratch(chunk)
        gb, saved = np.zeros(chunk), np.empty(width, np.float32)

        def run(bounds):
            gradient, sums = total.new(), np.zeros(batch.n_tiles * LANES)
            label = _kernels.train_slice(
                *(*bounds, chunk, layout.shape, layout.weights, layout.indices, layout.bias),
                *((out, part.bias), first_moments[0], second_moments[0], compensation),
                *(n_compensated, first_moments[1], second_moments[1], x, gradient),
                *(batch.tile_stride, batch.n_rows, *positives, positive_weight),
                *(loss.name == "squared_hinge", (kind, *settings), decay),
                *(bool(optimizer.train_bias), np.uint32(key), *scratch, gw, gb),
                *(saved, sums, rows),
            )
            _check_indices(label, part, n_inputs, f"Part {number}")
            return float(sums.sum()), gradient

        return run

    def take(result):
        losses.append(result[0])
        total.add(result[1])

    reduce_chunks(make_run, layout.slices(_n_slices(layout, n_inputs)), take, n_jobs)
    return sum(losses)


def _optimizer_settings(optimizer):
    """Kind (SGD, with momentum, Adam) and the factors in float32, as `_kernels` takes them."""
    rate, root = optimizer.learning_rate, 0.0
    kind = 2 if optimizer.name == "adam" else int(optimizer.momentum != 0)
    if kind == 2:
        t = optimizer.n_updates + 1
        rate = rate / (1 - optimizer.beta1**t)
        root = 1 / np.sqrt(1 - optimizer.beta2**t)
    numbers = (
        *(rate, optimizer.momentum, optimizer.beta1, 1 - optimizer.beta1),
        *(optimizer.beta2, 1 - optimizer.beta2, root, optimizer.epsilon),
    )
    return kind, tuple(np.float32(number) for number in numbers)


# ---------------------------------------------------------------------------- gradients


def gradients(features, dmargins, part, *, n_jobs=None):
    """Gradients of the weights of a part and of the features, in one pass over the features.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_inputs)
    dmargins : float32 array of shape (n_rows, n_labels)
        Gradient of a loss with respect to the margins of the part.
    part : Part
    n_jobs : int or None, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    grad_weights : float32 ndarray of shape (n_labels, fan_in)
    grad_features : float32 ndarray of shape (n_rows, n_inputs)

    Raises
    ------
    ValueError
        If shapes, dtypes or precision do not fit, or an index is not a column of ``features``.

    Notes
    -----
    O(n_rows * n_labels * fan_in) time; the results, two arrays of the size of the features, and
    two more for each thread.
    """
    return _gradients(_checks.check_features(features), dmargins, part, True, n_jobs)


def _gradients(features, dmargins, part, is_wanted, n_jobs):
    """Both gradients; that of the weights only where it is wanted, else None."""
    n_rows, n_inputs = features.shape
    _checks.check_part(part, n_inputs)
    dmargins = _frozen(_checks.check_dmargins(dmargins, n_rows, part.n_labels))
    batch = _tile(features, n_jobs)
    layout = _lay_out(part, n_inputs, batch.width)
    chunk = layout.block(_GRADIENT_BLOCK)
    total, slices = _Total(batch), layout.slices(_n_slices(layout, n_inputs))
    weight_gradient, out = None, _NO_FLOATS.copy()
    if is_wanted:  # a row more for each slice, for what nobody reads
        out = _new_result((part.n_labels + len(slices), part.fan_in))
        weight_gradient = out[: part.n_labels]
    x, out = _frozen(batch.x), out.reshape(-1)

    def make_run():
        scratch = *layout.scratch(chunk + 1), *layout.gradient_scratch(chunk)

        def run(task):
            number, bounds = task
            gradient = total.new()
            label = _kernels.gradients_slice(
                *(*bounds, chunk, layout.shape, layout.weights, layout.indices, x, gradient),
                *(batch.tile_stride, n_rows, dmargins, part.n_labels, *scratch, out),
                part.n_labels + number,
            )
            _check_indices(label, part, n_inputs, "The part")
            return gradient

        return run

    reduce_chunks(make_run, list(enumerate(slices)), total.add, n_jobs)
    return weight_gradient, total.rows()


def grad_weights(features, dmargins, part, *, n_jobs=None):
    """Return the gradient of the weights of a part.

    Parameters
    ----------
    features, dmargins, part, n_jobs : as in `gradients`
        Features, gradients of the margins, the part, and threads.

    Returns
    -------
    float32 ndarray of shape (n_labels, fan_in)
        The first of the two results of `gradients`.
    """
    return gradients(features, dmargins, part, n_jobs=n_jobs)[0]


def grad_features(dmargins, part, n_inputs, *, n_jobs=None):
    """Return the gradient of the features by a part.

    Parameters
    ----------
    dmargins, part, n_jobs : as in `gradients`
        Gradients of the margins, the part, and threads.
    n_inputs : int
        Number of features.

    Returns
    -------
    float32 ndarray of shape (n_rows, n_inputs)
        The second of the two results of `gradients`.
    """
    features = np.zeros((len(dmargins), n_inputs), dtype=np.float32)
    return _gradients(features, dmargins, part, False, n_jobs)[1]


def input_gradients(features, dmargins, part, first, stop):
    """Gradient of the weights that some labels had if they had all inputs (for RigL).

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_inputs)
    dmargins : float32 array of shape (n_rows, n_labels)
    part : Part
    first, stop : int
        The labels ``first`` to ``stop - 1`` of the part.

    Returns
    -------
    float32 ndarray of shape (stop - first, n_inputs)
    """
    features = _checks.check_features(features)
    dmargins = _checks.check_dmargins(dmargins, len(features), part.n_labels)
    if not 0 <= first <= stop <= part.n_labels:
        raise ValueError(
            f"first and stop must be from 0 to the number of labels, {part.n_labels}, in rising "
            f"order; got {first} and {stop}."
        )
    return dmargins[:, first:stop].T @ features


# ---------------------------------------------------------------------------- top-k


def topk(features, parts, labels, k, *, exclude=None, candidates=None, n_jobs=None):
    """The k labels of each row with the largest margins.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_inputs)
    parts : tuple of Part
    labels : int array of shape (n_labels,)
        Original id of each label of the layer: a permutation.
    k : int
        Answers a row, at least 1.
    exclude, candidates : sparse array of shape (n_rows, n_labels) or None, default=None
        Pairs, by original id, that must not be answered, and the only ones that may be.
    n_jobs : int or None, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    TopK
        Original ids; equal margins by the smaller one. Rows with fewer labels are padded.

    Raises
    ------
    ValueError
        As `scores`; if a margin is NaN; if ``labels`` is no permutation or a pattern does not fit.

    Notes
    -----
    O(n_rows * n_labels * fan_in) time, less with ``candidates``, which skips groups without any.
    Nothing of size n_rows * n_labels is allocated.
    """
    features, k = _checks.check_features(features), check_k(k)
    n_rows, n_inputs = features.shape
    _checks.check_parts(parts, n_inputs)
    n_labels = sum(part.n_labels for part in parts)
    ids = _checks.check_ids(labels, n_labels)
    n_threads = effective_n_jobs(n_jobs)
    excluded = np.zeros(n_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    if exclude is not None:
        exclude = canonical_pattern(exclude, (n_rows, n_labels), name="exclude")
        excluded = exclude.indptr, exclude.indices
    excluded = tuple(_frozen(array) for array in excluded)
    pairs = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
    if candidates is not None:
        places = np.empty(n_labels, dtype=np.int32)
        places[ids] = np.arange(n_labels, dtype=np.int32)
        pairs = _checks.candidate_pairs(candidates, places, n_rows)
    batch = _tile(features, n_jobs)
    kept = min(k, n_labels)

    def run(task):
        number, part, layout, first, bounds = task
        entries = slice(*np.searchsorted(pairs[0], [first, first + part.n_labels]))
        best = (
            np.full(n_rows * kept, -1, dtype=np.int32),
            np.full(n_rows * kept, -np.inf, dtype=np.float32),
            np.zeros(n_rows, dtype=np.int64),
            np.full(batch.n_tiles * batch.width, -np.inf, dtype=np.float32),
        )
        best[3][n_rows:] = np.inf
        label, row = _kernels.topk_slice(
            *(*bounds, layout.shape, layout.weights, layout.indices, layout.bias),
            *(_frozen(batch.x), batch.tile_stride, n_rows),
            *(_frozen(ids[first : first + part.n_labels]), *excluded, candidates is not None),
            *(_frozen(pairs[0][entries] - np.int32(first)), _frozen(pairs[1][entries])),
            *(kept, *layout.scratch(1), *best),
        )
        if row >= 0:
            raise ValueError(
                f"The margin of row {row} and label {ids[first + label]} is NaN: the features or "
                "the weights are not finite."
            )
        _check_indices(label, part, n_inputs, f"Part {number}")
        return best[:2]

    tasks, first = [], 0
    for number, part in enumerate(parts):
        layout = _lay_out(part, n_inputs, batch.width)
        for bounds in layout.slices(2 * n_threads):
            tasks.append((number, part, layout, first, bounds))
        first += part.n_labels
    lists = list(map_chunks(run, tasks, n_threads))
    out = TopK(np.empty((n_rows, k), np.int32), np.empty((n_rows, k), np.float32))
    _kernels.merge_lists(
        *(_frozen(np.concatenate([best[q] for best in lists])) for q in range(2)),
        *(n_rows, len(lists), kept, k, out.labels.reshape(-1), out.scores.reshape(-1)),
    )
    return out
