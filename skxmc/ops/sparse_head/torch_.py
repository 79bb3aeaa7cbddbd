"""The sparse output layer on torch tensors: any device, tested on the CPU.

The arrays of `Part` and `State` are tensors of one device here (`to_device`, `to_numpy`). Weights
have torch's own types: float32, bfloat16, float8_e4m3fn; the Kahan compensation bfloat16;
indices keep their 2 bytes as uint16.

A training step goes through the labels in chunks (ELMO, ICML 2025): margins of the chunk, the
gradient of the loss written over them, its part of the gradient of the features, then gradient and
update of the chunk's weights. Neither the (n_rows, n_labels) margins nor the (n_labels, fan_in)
gradient exist. The chunks depend on the shapes and on the kind of device only, so results depend
neither on ``n_jobs`` nor on ``chunk_bytes``, which the functions take for the sake of the common
signature: torch has its own threads (`torch.set_num_threads`). Two runs give the same bits, on CUDA
too, without `torch.use_deterministic_algorithms`: see `skxmc.ops.sparse_head.torch_layouts`.

Weights of low precision are widened to float32 chunk by chunk and multiplied with the float32
features, summed in float32. The tensor cores' bfloat16 products, which ELMO uses on CUDA, would
round the features to bfloat16 too; they are not used. `torch.set_float32_matmul_precision("high")`
lets CUDA use TF32 for dense and group-shared parts: weights of low precision are exact in it, the
features and the gradient of the margins are rounded to 11 bits.

The tests run on the CPU only. That CUDA gives the same bits in each run follows from the operations
used (stable sorts, bags summed in order, matrix products, indexed writes without duplicates).
"""

import numpy as np
import torch

from skxmc.ops.csr import canonical_pattern
from skxmc.ops.sparse_head._checks import check_ids
from skxmc.ops.sparse_head._random import step_key
from skxmc.ops.sparse_head._types import StepResult
from skxmc.ops.sparse_head.torch_arrays import (
    check_dmargins,
    check_features,
    check_state,
    to_device,
    to_numpy,
)
from skxmc.ops.sparse_head.torch_autograd import SparseLinear
from skxmc.ops.sparse_head.torch_layouts import layout_of
from skxmc.ops.sparse_head.torch_topk import Pairs, StreamingTopK
from skxmc.ops.sparse_head.torch_update import (
    is_lazy,
    loss_and_gradient_,
    update_bias,
    update_weights,
)
from skxmc.ops.topk._types import TopK, check_k

__all__ = [
    "SparseLinear",
    "grad_features",
    "grad_weights",
    "input_gradients",
    "scores",
    "to_device",
    "to_numpy",
    "topk",
    "train_step",
]

# float32 numbers that the temporary arrays of a chunk may take: on the CPU about the last cache, on
# a GPU enough to keep it busy.
_CHUNK_CPU, _CHUNK_GPU = 1 << 22, 1 << 25
_ROWS = 1024  # rows at a time, where all labels of a row are looked at


def scores(features, parts, *, n_jobs=None):
    """Margins of all labels.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    parts : sequence of Part of tensors
    n_jobs : None
        Not used: torch has its own threads.

    Returns
    -------
    float32 tensor of shape (n_rows, n_labels)
        On the device of the parts, labels in the order of the parts.

    Notes
    -----
    O(n_rows * n_labels * fan_in) time; the answer plus a chunk.
    """
    features = check_features(features, parts)
    out = features.new_empty(features.shape[0], sum(part.n_labels for part in parts))
    for rows in _row_blocks(features):
        for first, margins in _all_margins(features[rows], parts):
            out[rows, first : first + len(margins)] = margins.T
    return out


def topk(features, parts, labels, k, *, exclude=None, candidates=None, n_jobs=None):
    """The k labels of each row with the largest margins.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    parts : sequence of Part of tensors
    labels : int ndarray of shape (n_labels,)
        Original label of each label of the layer.
    k : int
    exclude, candidates : csr_array of shape (n_rows, n_labels), default=None
        Canonical patterns over original labels: answers that are not wanted, and the only ones
        that are.
    n_jobs : None
        Not used: torch has its own threads.

    Returns
    -------
    TopK of ndarrays
        Original labels, equal margins by the smaller one; -1 and -inf where there is no answer.

    Raises
    ------
    ValueError
        If a margin is NaN, the shapes do not fit or ``labels`` is not a permutation.

    Notes
    -----
    Time of `scores`, also with ``candidates`` (chunks without any are left out); a chunk and the
    answers in memory.
    """
    k, features = check_k(k), check_features(features, parts)
    labels = check_ids(labels, sum(part.n_labels for part in parts))
    shape = features.shape[0], len(labels)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
    ids = torch.from_numpy(labels.astype(np.int64)).to(features.device)
    layer = np.empty(len(labels), dtype=np.int64)
    layer[labels] = np.arange(len(labels))
    found = []
    for rows in _row_blocks(features):
        excluded, wanted = (
            None if pattern is None else Pairs(pattern[rows], features.device, layer)
            for pattern in (exclude, candidates)
        )
        best = StreamingTopK(rows, min(k, len(labels)), features.device)
        for first, margins in _all_margins(features[rows], parts, wanted):
            stop = first + len(margins)
            if wanted is not None:
                chosen = wanted.of_labels(first, stop)
                kept = margins[chosen]
                margins.fill_(-torch.inf)
                margins[chosen] = kept
            if excluded is not None:
                margins[excluded.of_labels(first, stop)] = -torch.inf
            best.add(margins, ids[first:stop])
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
):
    """One step of training on a batch; changes the tensors of ``parts`` and ``states`` in place.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    targets : csr_array of shape (n_rows, n_labels)
        Canonical indicator of the positives; labels in the order of the parts.
    parts : sequence of Part of tensors
    states : sequence of State of tensors
    loss : Loss
        The weights of positives as an ndarray or a tensor.
    optimizer : Optimizer
    seed, step : int
        The random bits of part p are those of ``step_key(seed, step, p)``.
    n_jobs, chunk_bytes : None
        Not used: torch has its own threads, and the chunks follow from the shapes.

    Returns
    -------
    StepResult
        ``grad_features`` on the device of the parts.

    Raises
    ------
    ValueError
        If the shapes do not fit, a state lacks what the optimiser needs, or the loss or the
        optimiser is unknown. Nothing is changed then.

    Notes
    -----
    Memory beyond parts and states: the features twice, their gradient, and a chunk (about 16 MiB on
    the CPU, 128 MiB on a GPU, at least one group of labels). With squared hinge, labels without
    gradient in the whole batch take part in the margins only (CUDA: one synchronisation a chunk);
    their update is left out where the optimiser would not change them.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.sparse_head._types import Loss, Optimizer, State
    >>> from skxmc.ops.sparse_head.initial import initialise
    >>> from skxmc.ops.sparse_head.torch_ import to_device, train_step
    >>> part, state = to_device(initialise(3, n_inputs=8, fan_in=4), State(), "cpu")
    >>> features, targets = np.ones((2, 8), dtype=np.float32), sp.csr_array(np.eye(2, 3))
    >>> losses = [
    ...     train_step(
    ...         *(features, targets, [part], [state]),
    ...         *(Loss("squared_hinge"), Optimizer("sgd", 0.01), 0, step),
    ...     ).loss
    ...     for step in range(100)
    ... ]
    >>> losses[-1] < losses[0]
    True
    """
    features = check_features(features, parts)
    inputs = features.T.contiguous()
    for number, state in enumerate(states):
        check_state(state, optimizer, number)
    shape = features.shape[0], sum(part.n_labels for part in parts)
    targets = canonical_pattern(targets, shape, name="targets")
    positives = Pairs(targets, features.device, weight=loss.positive_weight)
    grad_inputs = torch.zeros_like(inputs)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    offset = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        key = step_key(seed, step, number)
        for labels in _chunks(part, features):
            first, stop = offset + labels.start, offset + labels.stop
            layout, weights = _layout(part, labels), _decoded(part, labels)
            margins = layout.margins(inputs, weights).add_(part.bias[labels, None])
            total += loss_and_gradient_(
                loss.name,
                margins,
                positives.of_labels(first, stop),
                positives.weights_of_labels(first, stop),
            )
            if optimizer.train_bias:
                update_bias(part, state, labels, margins.sum(dim=1), optimizer)
            if loss.name == "squared_hinge":
                active = layout.select((margins.amax(dim=1) != 0) | (margins.amin(dim=1) != 0))
            else:
                active = slice(None), layout
            gradient = _weight_gradient(weights, margins, active, inputs, grad_inputs)
            _update_chunk(part, state, labels, active[0], gradient, optimizer, key)
        offset += part.n_labels
    return StepResult(float(total), grad_inputs.T.contiguous())


def grad_weights(features, dmargins, part):
    """Gradient of the weights of a part.

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    dmargins : float32 tensor or ndarray of shape (n_rows, n_labels)
        Gradient of the loss by the margins of the part.
    part : Part of tensors

    Returns
    -------
    float32 tensor of shape (n_labels, fan_in)
    """
    features = check_features(features, [part])
    dmargins = check_dmargins(dmargins, part, len(features))
    inputs = features.T.contiguous()
    out = features.new_empty(part.weights.shape)
    for labels in _chunks(part, features):
        gradient = dmargins[:, labels].T.contiguous()
        out[labels] = _layout(part, labels).weight_gradient(inputs, gradient)
    return out


def grad_features(dmargins, part, n_inputs):
    """Gradient of the features by one part.

    Parameters
    ----------
    dmargins : float32 tensor or ndarray of shape (n_rows, n_labels)
        Gradient of the loss by the margins of the part.
    part : Part of tensors
    n_inputs : int

    Returns
    -------
    float32 tensor of shape (n_rows, n_inputs)
    """
    dmargins = check_dmargins(dmargins, part)
    out = dmargins.new_zeros(n_inputs, dmargins.shape[0])
    for labels in _chunks(part, dmargins):
        gradient = dmargins[:, labels].T.contiguous()
        out += _layout(part, labels).input_gradient(_decoded(part, labels), gradient, n_inputs)
    return out.T.contiguous()


def input_gradients(features, dmargins, part, first, stop):
    """Gradient of the weights that a range of labels had if they had all inputs (for RigL).

    Parameters
    ----------
    features : float32 tensor or ndarray of shape (n_rows, n_inputs)
    dmargins : float32 tensor or ndarray of shape (n_rows, n_labels)
        Gradient of the loss by the margins of the part.
    part : Part of tensors
    first, stop : int
        The labels, counted within the part.

    Returns
    -------
    float32 tensor of shape (stop - first, n_inputs)
    """
    features = check_features(features, [part])
    dmargins = check_dmargins(dmargins, part, len(features))
    return dmargins[:, first:stop].T @ features


def _weight_gradient(weights, gradient, active, inputs, grad_inputs):
    """Gradient of the active weights of a chunk, (n_active, fan_in); adds to that of the inputs.

    ``active`` holds the labels to work on, as a slice or positions, and their layout.
    """
    chosen, layout = active
    weights, gradient = weights[chosen], gradient[chosen]
    if not len(weights):
        return weights
    grad_inputs += layout.input_gradient(weights, gradient, len(inputs))
    return layout.weight_gradient(inputs, gradient)


def _update_chunk(part, state, labels, chosen, gradient, optimizer, key):
    """Update the weights of a chunk, given the gradient of some; the others have none."""
    n = labels.stop - labels.start
    n_compensated = 0 if state.compensation is None else len(state.compensation)
    if len(gradient) < n:
        if is_lazy(optimizer) and labels.start >= n_compensated:
            labels = chosen + labels.start
        else:
            gradient = gradient.new_zeros(n, part.fan_in).index_copy_(0, chosen, gradient)
    update_weights(part, state, labels, gradient, optimizer, key)


def _all_margins(features, parts, wanted=None):
    """Yield the first label and the margins (n, n_rows) of each chunk of all parts.

    Chunks without a pair of ``wanted`` are left out.
    """
    inputs = features.T.contiguous()
    offset = 0
    for part in parts:
        for labels in _chunks(part, features):
            first, stop = offset + labels.start, offset + labels.stop
            if wanted is None or wanted.any_of_labels(first, stop):
                margins = _layout(part, labels).margins(inputs, _decoded(part, labels))
                yield first, margins.add_(part.bias[labels, None])
        offset += part.n_labels


def _row_blocks(features):
    n_rows = features.shape[0]
    return [slice(first, min(first + _ROWS, n_rows)) for first in range(0, n_rows, _ROWS)]


def _chunks(part, features):
    """Ranges of labels of a part, whole groups; they depend on shapes and device kind only."""
    n_rows, fan_in, size = features.shape[0], part.fan_in, part.group_size
    # margins and the loss; weights, gradient, update, random bits, rounding, order of the slots
    floats = size * (4 * n_rows + 12 * fan_in)
    if part.indices is not None and size > 1:
        floats += 3 * fan_in * n_rows  # gathered inputs and the gradients of slots
    budget = _CHUNK_CPU if features.device.type == "cpu" else _CHUNK_GPU
    step = size * max(1, budget // floats)
    for first in range(0, part.n_labels, step):
        yield slice(first, min(first + step, part.n_labels))


def _layout(part, labels):
    if part.indices is None:
        return layout_of(None, 1)
    groups = slice(labels.start // part.group_size, -(-labels.stop // part.group_size))
    return layout_of(part.indices[groups].to(torch.int32), part.group_size)


def _decoded(part, labels):
    """Weights of a range of labels in float32; a view where they are."""
    return part.weights[labels].to(torch.float32)
