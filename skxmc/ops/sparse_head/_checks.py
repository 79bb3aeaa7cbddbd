"""What the compiled kernels, which check nothing, need to be true of their arguments."""

import numpy as np
import scipy.sparse as sp

from skxmc.ops.csr import canonical_pattern
from skxmc.ops.sparse_head._types import LOSSES, PRECISIONS
from skxmc.ops.sparse_head.low_precision import COMPENSATION, STORAGE


def check_features(features):
    """The features as a C-contiguous float32 matrix; TypeError or ValueError for what is none."""
    if sp.issparse(features):
        raise TypeError("features is a sparse matrix; the layer needs a dense array.")
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind not in "biuf":
        raise ValueError(
            "features must be numbers in two dimensions (n_rows, n_inputs); got the shape "
            f"{features.shape} of dtype {features.dtype}."
        )
    return np.ascontiguousarray(features, dtype=np.float32)


def check_dmargins(dmargins, n_rows, n_labels):
    """The gradient of the margins as a C-contiguous float32 matrix."""
    dmargins = np.asarray(dmargins)
    if dmargins.shape != (n_rows, n_labels) or dmargins.dtype.kind not in "biuf":
        raise ValueError(
            f"dmargins must be numbers of the shape (n_rows, n_labels) = ({n_rows}, {n_labels}); "
            f"got the shape {dmargins.shape} of dtype {dmargins.dtype}."
        )
    return np.ascontiguousarray(dmargins, dtype=np.float32)


def check_parts(parts, n_inputs):
    """Refuse parts whose arrays do not fit together. Indices are checked when they are used."""
    if len(parts) == 0:
        raise ValueError("A layer needs at least one part.")
    for number, part in enumerate(parts):
        check_part(part, n_inputs, f"Part {number}")


def check_part(part, n_inputs, name="The part"):
    """Refuse a part whose arrays do not fit together."""
    weights, indices, bias, group_size, precision = part
    if precision not in PRECISIONS:
        raise ValueError(
            f"{name}: precision must be one of {', '.join(PRECISIONS)}; got {precision!r}."
        )
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(
            f"{name}: weights must have the shape (n_labels, fan_in), both at least 1; got "
            f"{weights.shape}."
        )
    n_labels, fan_in = weights.shape
    _check_array(weights, weights.shape, STORAGE[precision], f"{name}: weights of {precision}")
    _check_array(bias, (n_labels,), np.float32, f"{name}: bias")
    if indices is None:
        if fan_in != n_inputs:
            raise ValueError(
                f"{name}: a dense part has one weight for each of the {n_inputs} inputs; got the "
                f"weights' shape {weights.shape}."
            )
        return
    if group_size != int(group_size) or group_size < 1:
        raise ValueError(f"{name}: group_size must be an integer of at least 1; got {group_size}.")
    dtype = np.int32 if indices.dtype == np.int32 else np.uint16
    _check_array(indices, (-(-n_labels // group_size), fan_in), dtype, f"{name}: indices")


def check_state(part, state, optimizer, name):
    """Refuse a state that lacks what the optimiser needs, or does not fit the part."""
    n_moments = {"sgd": int(optimizer.momentum != 0), "adam": 2}.get(optimizer.name)
    if n_moments is None:
        raise ValueError(f"The optimizer must be 'sgd' or 'adam'; got {optimizer.name!r}.")
    moments = [("momentum", part.weights.shape), ("second", part.weights.shape)][:n_moments]
    if optimizer.train_bias:
        moments += [("bias_" + field, (part.n_labels,)) for field, _ in moments]
    for field, shape in moments:
        if getattr(state, field) is None:
            raise ValueError(
                f"{name}: the optimizer {optimizer.name!r} needs the state {field!r}; make the "
                "state with `new_state`."
            )
        _check_array(getattr(state, field), shape, np.float32, f"{name}: {field}", written=True)
    if state.compensation is not None:
        if part.precision not in COMPENSATION:
            raise ValueError(f"{name}: weights of {part.precision} have no compensation.")
        dtype = STORAGE[COMPENSATION[part.precision]]
        shape = (len(state.compensation), part.fan_in)
        _check_array(state.compensation, shape, dtype, f"{name}: compensation", written=True)
        if shape[0] > part.n_labels:
            raise ValueError(
                f"{name}: {shape[0]} labels are compensated, but there are {part.n_labels}."
            )
    _check_array(part.weights, part.weights.shape, part.weights.dtype, f"{name}: weights", True)
    _check_array(part.bias, part.bias.shape, np.float32, f"{name}: bias", True)


def check_loss(loss, n_labels):
    """Refuse an unknown loss; returns the weights of positives as float32, empty for None."""
    if loss.name not in LOSSES:
        raise ValueError(f"The loss must be one of {', '.join(LOSSES)}; got {loss.name!r}.")
    if loss.positive_weight is None:
        return np.empty(0, dtype=np.float32)
    weight = np.ascontiguousarray(loss.positive_weight, dtype=np.float32)
    if weight.shape != (n_labels,):
        raise ValueError(
            f"positive_weight must have one value for each of the {n_labels} labels; got the "
            f"shape {weight.shape}."
        )
    return weight


def check_targets(targets, n_rows, n_labels, name="targets"):
    """Labels, ascending, and rows of the stored pairs, both int32."""
    targets = canonical_pattern(targets, (n_rows, n_labels), name=name)
    rows = np.repeat(np.arange(n_rows, dtype=np.int32), np.diff(targets.indptr))
    order = np.argsort(targets.indices, kind="stable")
    return targets.indices[order], rows[order]


def check_ids(labels, n_labels):
    """Original ids of the labels of the layer as int32; they must be a permutation."""
    ids = np.asarray(labels)
    if ids.shape != (n_labels,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"labels must hold the original id of each of the {n_labels} labels of the layer; got "
            f"the shape {ids.shape} of dtype {ids.dtype}."
        )
    if ids.min() < 0 or ids.max() >= n_labels or np.bincount(ids).max() > 1:
        raise ValueError(f"labels must be a permutation of 0 to {n_labels - 1}.")
    return np.ascontiguousarray(ids, dtype=np.int32)


def candidate_pairs(candidates, places, n_rows):
    """Labels of the layer, ascending, and rows of the pairs; ``places``: layer label of each id."""
    candidates = canonical_pattern(candidates, (n_rows, len(places)), name="candidates")
    labels = places[candidates.indices]
    rows = np.repeat(np.arange(n_rows, dtype=np.int32), np.diff(candidates.indptr))
    order = np.argsort(labels, kind="stable")
    return labels[order], rows[order]


def _check_array(array, shape, dtype, name, written=False):
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must be a NumPy array of {np.dtype(dtype)} of the shape {shape}; got "
            f"{getattr(array, 'dtype', type(array).__name__)} of the shape "
            f"{getattr(array, 'shape', None)}."
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous.")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} is read-only, but training changes it in place.")
