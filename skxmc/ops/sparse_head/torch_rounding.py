"""Random bits and stochastic rounding on torch tensors, bit for bit those of the NumPy version.

`skxmc.ops.sparse_head._random` and `skxmc.ops.sparse_head.low_precision` define the results.
torch has little arithmetic on unsigned integers, so 32 bits are kept in int32: its products and
sums wrap around like those of uint32, and a mask turns its arithmetic shift into a logical one.
"""

import torch

from skxmc.ops.sparse_head._random import GOLDEN, MULTIPLIERS

#: How weights of each precision are stored.
WEIGHTS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
}

#: How the Kahan compensation is stored.
COMPENSATION = torch.bfloat16

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000


def random_bits(key, labels, fan_in, n_labels):
    """32 random bits for each weight of some labels, as int32.

    Parameters
    ----------
    key : int
        From `skxmc.ops.sparse_head._random.step_key`.
    labels : int64 tensor of shape (n,)
        Labels counted within the part.
    fan_in : int
    n_labels : int
        Labels of the part: they bound the offsets, which spares half of the work below 2^32.

    Returns
    -------
    int32 tensor of shape (n, fan_in)
    """
    offsets = labels[:, None] * fan_in + torch.arange(fan_in, device=labels.device)
    bits = offsets.to(torch.int32)  # keeps the low 32 bits
    _mix32_(bits.bitwise_xor_(_signed(key)))
    if n_labels * fan_in > 1 << 32:
        bits.add_((offsets >> 32).to(torch.int32).mul_(_signed(GOLDEN)))
    return _mix32_(bits.add_(_signed(key)))


def round_stochastic(values, precision, bits):
    """Round float32 numbers to the format of the weights.

    Parameters
    ----------
    values : float32 tensor
    precision : {"bfloat16", "float8"}
    bits : int32 tensor of the shape of ``values``
        From `random_bits`.

    Returns
    -------
    bfloat16 or float8_e4m3fn tensor
        One of the two neighbours, with the probabilities that make the expected value the number.
        A finite number stays finite, NaN stays NaN.
    """
    if precision == "bfloat16":
        return _round_bfloat16(values, bits)
    return _round_float8(values, bits)


def round_nearest(values):
    """Round float32 numbers to the format of the Kahan compensation, ties to even; saturates.

    Parameters
    ----------
    values : float32 tensor

    Returns
    -------
    bfloat16 tensor
    """
    largest = torch.finfo(COMPENSATION).max
    bounded = values.clamp(-largest, largest)  # torch itself would round to infinity
    return torch.where(values.isinf(), values, bounded).to(COMPENSATION)


def _mix32_(x):
    """`skxmc.ops.sparse_head._random.mix32` in place."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_signed(MULTIPLIERS[0]))
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(MULTIPLIERS[1]))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _signed(bits):
    """The int32 with the bits of a uint32."""
    return bits - (1 << 32) if bits >= 1 << 31 else bits


def _round_bfloat16(values, bits):
    magnitude = values.view(torch.int32) & _MAGNITUDE
    finite = magnitude < _INFINITY
    code = magnitude.clamp_max_(_INFINITY).add_(bits & 0xFFFF) >> 16
    code = torch.where(finite, code.clamp_max(0x7F7F), 0x7F80)
    code.masked_fill_(values.isnan(), 0x7FC0)
    code.bitwise_or_(torch.signbit(values).to(torch.int32).mul_(0x8000))
    return code.to(torch.int16).view(torch.bfloat16)


def _round_float8(values, bits):
    magnitude = values.view(torch.int32) & _MAGNITUDE
    smallest, largest = 121 << 23, 0x43E00000  # 2^-6 and 448

    # Normal numbers: random low bits, then cut; the difference of the exponents' biases is 120.
    added = magnitude.clamp(smallest, largest).add_(bits & 0xFFFFF)
    normal = (added >> 20).sub_(120 << 3).clamp_max_(0x7E)

    # Below, multiples of 2^-9: floor(y + u) as floor(y) + [y - floor(y) >= 1 - u], which is exact.
    scaled = magnitude.clamp_max(smallest).view(torch.float32) * 512.0
    whole = scaled.floor()
    threshold = (1 << 24) - ((bits >> 8) & 0xFFFFFF)
    up = scaled.sub_(whole) >= threshold.to(torch.float32) * 2.0**-24
    subnormal = whole.to(torch.int32) + up

    code = torch.where(magnitude < smallest, subnormal, normal)
    code = torch.where(values.isnan(), 0x7F, code)
    code.bitwise_or_(torch.signbit(values).to(torch.int32).mul_(0x80))
    return code.to(torch.uint8).view(torch.float8_e4m3fn)
