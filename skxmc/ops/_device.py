"""Which backend computes, and on which device: what ``backend`` and ``device`` stand for.

torch is used only where it is asked for, by ``backend="torch"`` or by a CUDA device, and imported
only then.
"""

import re
from typing import NamedTuple

#: Values of the parameter ``backend`` of an estimator with a Numba and a torch implementation.
BACKENDS = ("auto", "numba", "torch")

#: Bytes that an op works on at a time. Fixed numbers, not shares of what is free: so that a result
#: depends on the device alone.
_BLOCK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


class Place(NamedTuple):
    """Where an estimator computes."""

    backend: str  # "numba" or "torch"
    device: str | None  # of torch: "cpu" or "cuda:<number>"


class DeviceError(ValueError):
    """The device that was asked for does not exist here."""


_NUMBA = Place("numba", None)


def choose_place(backend="auto", device=None):
    """The backend and the device that the parameters of an estimator stand for.

    Parameters
    ----------
    backend : {"auto", "numba", "torch"}, default="auto"
        "auto" is Numba, and torch for a CUDA device.
    device : {None, "cpu", "cuda", "cuda:<number>"}, default=None
        None is the processor; "cuda" is "cuda:0".

    Returns
    -------
    Place

    Raises
    ------
    ValueError
        If a value is not one of these, they contradict each other, or the device does not exist.
    ImportError
        If torch is asked for and not installed.

    Examples
    --------
    >>> from skxmc.ops._device import choose_place
    >>> choose_place("auto", "cpu")
    Place(backend='numba', device=None)
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    if device is None and backend != "torch":
        return _NUMBA
    number = _cuda_number(device)
    if backend != "torch" and number is None:
        return _NUMBA
    if backend == "numba":
        raise ValueError(
            f'backend="numba" runs on the processor only, got device={device!r}: use '
            'backend="torch" (or "auto"), or device=None.'
        )
    torch = import_torch()
    if number is None:
        return Place("torch", "cpu")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= n_devices:
        raise DeviceError(
            f"device={device!r} does not exist: torch {torch.__version__} finds {n_devices} CUDA "
            "devices here. Use device=None for the processor, or a torch that was built for CUDA."
        )
    return Place("torch", f"cuda:{number}")


def place_for_prediction(backend="auto", device=None):
    """As `choose_place`; where torch or the device is missing, Numba.

    So a model that was trained on a GPU predicts on a machine without one.
    """
    try:
        return choose_place(backend, device)
    except (ImportError, DeviceError):
        return _NUMBA


def import_torch():
    """The module torch, or an ImportError that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            'backend="torch" and CUDA devices need torch, which is not installed: '
            'pip install "skxmc[torch]", or use backend="numba".'
        ) from error
    return torch


def default_block_bytes(device):
    """Bytes that an op works on at a time: 256 MiB on the processor, 2 GiB on a GPU."""
    return _BLOCK_BYTES[str(device).split(":")[0]]


def _cuda_number(device):
    """Number of a CUDA device, None for the processor."""
    found = None
    if device is None or isinstance(device, str):
        found = re.fullmatch(r"cpu|cuda(?::(\d+))?", "cpu" if device is None else device)
    if not found:
        raise ValueError(f'device must be None, "cpu" or "cuda:<number>", got {device!r}.')
    return int(found[1] or 0) if found[0] != "cpu" else None
