"""Arrays of an output layer from NumPy to a device and back, and what is checked on the way."""

import numpy as np
import torch

from skxmc.ops.sparse_head._types import State
from skxmc.ops.sparse_head.torch_rounding import COMPENSATION, WEIGHTS


def to_device(part, state, device):
    """Copy a part and its state from NumPy to a device.

    Parameters
    ----------
    part : Part of ndarrays
        Read-only ones too.
    state : State of ndarrays, or None
    device : torch.device or str

    Returns
    -------
    part : Part of tensors
    state : State of tensors, or None

    Examples
    --------
    >>> from skxmc.ops.sparse_head.initial import initialise
    >>> from skxmc.ops.sparse_head.torch_ import to_device
    >>> part = initialise(4, n_inputs=10, fan_in=2, precision="float8")
    >>> to_device(part, None, "cpu")[0].weights.dtype
    torch.float8_e4m3fn
    """
    moved = part._replace(
        weights=to_tensor(part.weights, device).view(WEIGHTS[part.precision]),
        indices=to_tensor(part.indices, device),
        bias=to_tensor(part.bias, device),
    )
    if state is None:
        return moved, None
    state = State(*(to_tensor(array, device) for array in state))
    if state.compensation is not None:
        state = state._replace(compensation=state.compensation.view(COMPENSATION))
    return moved, state


def to_numpy(part, state=None):
    """Copy a part and its state from their device to NumPy: the inverse of `to_device`.

    Parameters
    ----------
    part : Part of tensors
    state : State of tensors, default=None

    Returns
    -------
    part : Part of ndarrays
    state : State of ndarrays, or None
    """
    copied = part._replace(
        weights=_to_array(part.weights),
        indices=_to_array(part.indices),
        bias=_to_array(part.bias),
    )
    return copied, None if state is None else State(*(_to_array(tensor) for tensor in state))


def to_tensor(array, device):
    """Copy of an array on a device, None for None; bits of low precision stay integers."""
    if array is None:
        return None
    # torch warns of read-only memory and refuses some strides, so the copy is made here
    return torch.from_numpy(np.array(array, order="C")).to(device)


def check_features(features, parts):
    """The features as a float32 tensor on the device of the parts.

    Raises ValueError if they are not a matrix, or do not have the inputs of the dense parts.
    """
    if not parts:
        raise ValueError("A layer needs at least one part.")
    features = _float_matrix(features, "features", "(n_rows, n_inputs)", parts[0])
    for number, part in enumerate(parts):
        if part.indices is None and part.fan_in != features.shape[1]:
            raise ValueError(
                f"Part {number} is dense and has weights for {part.fan_in} inputs, but features "
                f"has {features.shape[1]} columns."
            )
    return features


def check_dmargins(dmargins, part, n_rows=None):
    """The gradient of the margins of a part as a float32 tensor on its device."""
    dmargins = _float_matrix(dmargins, "dmargins", "(n_rows, n_labels)", part)
    want = (dmargins.shape[0] if n_rows is None else n_rows, part.n_labels)
    if dmargins.shape != want:
        raise ValueError(
            f"dmargins must have the shape (n_rows, n_labels) = {want}; got "
            f"{tuple(dmargins.shape)}."
        )
    return dmargins


def check_state(state, optimizer, number):
    """Refuse a state that lacks what the optimiser needs."""
    n_moments = {"adam": 2, "sgd": int(optimizer.momentum != 0)}.get(optimizer.name, 0)
    moments = ["momentum", "second"][:n_moments]
    if optimizer.train_bias:
        moments = moments + ["bias_" + name for name in moments]
    for name in moments:
        if getattr(state, name) is None:
            raise ValueError(
                f"Part {number}: the optimizer {optimizer.name!r} needs the state {name!r}; make "
                "the state with `new_state`."
            )


def _float_matrix(values, name, shape, part):
    if isinstance(values, torch.Tensor):
        values = values.detach().to(part.weights.device, torch.float32)
    else:
        values = to_tensor(np.asarray(values, dtype=np.float32), part.weights.device)
    if values.ndim != 2:
        raise ValueError(f"{name} must have the shape {shape}; got {tuple(values.shape)}.")
    return values


def _to_array(tensor):
    if tensor is None:
        return None
    if tensor.is_floating_point() and tensor.itemsize < 4:
        bits = tensor.view({1: torch.uint8, 2: torch.int16}[tensor.itemsize])
        return bits.cpu().numpy().view(f"u{tensor.itemsize}").copy()
    return tensor.cpu().numpy().copy()
