"""Weights of 16 and 8 bits: from float32 to the stored bits and back, in NumPy.

Two formats, stored as their bits:

=============  =====  ========  ========  ====================  ===================  =============
name           dtype  exponent  mantissa  largest               smallest normal      infinity
=============  =====  ========  ========  ====================  ===================  =============
bfloat16       u2     8 bits    7 bits    about 3.39e38         2^-126               0x7F80
float8 (e4m3)  u1     4 bits    3 bits    448                   2^-6                 none
=============  =====  ========  ========  ====================  ===================  =============

float8 is ``torch.float8_e4m3fn``: no infinity, NaN is 0x7F and 0xFF.

All encodings keep the sign, also that of zero and NaN, and saturate: a finite number never becomes
infinite or NaN. An infinity stays one where the format has it, else becomes the largest number. NaN
becomes 0x7FC0 and 0x7F.

Stochastic rounding (Zamirai et al., "Revisiting BFloat16 Training", 2020; ELMO, ICML 2025) takes
the neighbour above or below with probabilities that make the expected value the number itself. It
adds random low bits to the bit pattern and cuts. That is right for normal numbers only; below the
smallest normal number of float8 the spacing no longer halves with the exponent, so there the
number is scaled to multiples of the spacing and rounded as floor(x + u), u = (bits >> 8) 2^-24,
evaluated without rounding error. A number that the format has is never changed.

The kernels have their own vector code for the same functions, which is tested against this one.
"""

import numpy as np

# float8 e4m3 in terms of its magnitude bits.
_MANTISSA_BITS, _BIAS, _LARGEST, _NAN = 3, 7, 0x7E, 0x7F

#: What the weights of each precision are stored as.
STORAGE = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float8": np.dtype(np.uint8),
}

#: Format of the Kahan compensation of weights of each precision; float32 has none. ELMO takes
#: float8 e5m2 for float8 weights, whose three significant bits lose steady updates below 1/16 of
#: the spacing of the weights; bfloat16 loses them below 1/512.
COMPENSATION = {"bfloat16": "bfloat16", "float8": "bfloat16"}

_SIGN, _MAGNITUDE, _INFINITY = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)


def encode(values, precision, bits=None):
    """Round numbers and return what is stored.

    Parameters
    ----------
    values : array-like of float32
        Any shape.
    precision : {"float32", "bfloat16", "float8"}
        Format of the result; ``"float32"`` returns the values.
    bits : ndarray of uint32, same shape, default=None
        Random bits of `random_bits` for stochastic rounding. ``None`` rounds to the nearest, ties
        to even.

    Returns
    -------
    ndarray of float32, uint16 or uint8, same shape

    Raises
    ------
    ValueError
        If the format is unknown or the shapes differ.

    Notes
    -----
    O(values) time, about 20 bytes a value.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.sparse_head.low_precision import decode, encode
    >>> decode(encode([0.1, 1000.0], "float8"), "float8")
    array([1.015625e-01, 4.480000e+02], dtype=float32)
    """
    _check_precision(precision)
    values = np.asarray(values, dtype=np.float32)
    if bits is not None:
        bits = np.asarray(bits, dtype=np.uint32)
        if bits.shape != values.shape:
            raise ValueError(
                f"bits must have the shape of values, {values.shape}; got {bits.shape}."
            )
    if precision == "float32":
        return values
    if precision == "bfloat16":
        return _encode_bfloat16(values, bits)
    return _encode_float8(values, bits)


def decode(codes, precision):
    """The float32 numbers that are stored; exact.

    Parameters
    ----------
    codes : ndarray of float32, uint16 or uint8
        As `encode` returns them.
    precision : {"float32", "bfloat16", "float8"}

    Returns
    -------
    ndarray of float32, same shape
        ``codes`` itself where ``precision`` is ``"float32"``.

    Raises
    ------
    ValueError
        If the format is unknown.
    TypeError
        If the dtype of the codes is not that of the format.
    """
    _check_precision(precision)
    codes = np.asarray(codes)
    if codes.dtype != STORAGE[precision]:
        raise TypeError(
            f"{precision} numbers are stored as {STORAGE[precision].name}; got {codes.dtype.name}."
        )
    if precision == "float32":
        return codes
    if precision == "bfloat16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _FLOAT8[codes]


def _encode_bfloat16(values, bits):
    pattern = np.atleast_1d(values).view(np.uint32).reshape(values.shape)
    sign, magnitude = pattern & _SIGN, pattern & _MAGNITUDE
    if bits is None:
        added = np.uint32(0x7FFF) + ((magnitude >> np.uint32(16)) & np.uint32(1))
    else:
        added = bits & np.uint32(0xFFFF)
    code = (magnitude + added) >> np.uint32(16)
    code = np.where(magnitude < _INFINITY, np.minimum(code, np.uint32(0x7F7F)), np.uint32(0x7F80))
    code = np.where(magnitude > _INFINITY, np.uint32(0x7FC0), code)
    return (code | (sign >> np.uint32(16))).astype(np.uint16)


def _encode_float8(values, bits):
    pattern = np.atleast_1d(values).view(np.uint32).reshape(values.shape)
    sign, magnitude = pattern & _SIGN, pattern & _MAGNITUDE
    dropped = 23 - _MANTISSA_BITS

    # Normal numbers: cut the mantissa, then take off the difference of the exponents' biases.
    if bits is None:
        half = np.uint32((1 << (dropped - 1)) - 1)
        added = half + ((magnitude >> np.uint32(dropped)) & np.uint32(1))
    else:
        added = bits & np.uint32((1 << dropped) - 1)
    rebias = np.uint32((127 - _BIAS) << _MANTISSA_BITS)
    smallest_normal = np.uint32((127 - _BIAS + 1) << 23)
    finite = np.minimum(magnitude, _INFINITY)  # NaN comes later; nothing may overflow
    normal = ((np.maximum(finite, smallest_normal) + added) >> np.uint32(dropped)) - rebias

    # Below: multiples of the spacing 2^(1 - bias - mantissa_bits), whose bits count them.
    scale = np.float64(2.0 ** (_BIAS - 1 + _MANTISSA_BITS))
    small = np.minimum(finite, smallest_normal).view(np.float32).astype(np.float64) * scale
    if bits is None:
        subnormal = np.rint(small)
    else:  # exact in float64: the sum has its last bit at 2^-48 or is next to no integer
        subnormal = np.floor(small + (bits >> np.uint32(8)) * 2.0**-24)
    code = np.where(magnitude < smallest_normal, subnormal.astype(np.uint32), normal)

    code = np.minimum(code, np.uint32(_LARGEST))  # as infinity, which the format does not have
    code = np.where(magnitude > _INFINITY, np.uint32(_NAN), code)
    return (code | (sign >> np.uint32(24))).astype(np.uint8)


def _check_precision(precision):
    if precision not in STORAGE:
        raise ValueError(f"precision must be one of {', '.join(STORAGE)}; got {precision!r}.")


def _float8_numbers():
    """The numbers of the 256 codes."""
    codes = np.arange(256)
    magnitude = codes & 0x7F
    exponent = magnitude >> _MANTISSA_BITS
    mantissa = (magnitude & ((1 << _MANTISSA_BITS) - 1)) * 2.0**-_MANTISSA_BITS
    normal = (1.0 + mantissa) * 2.0 ** (exponent - _BIAS)
    values = np.where(exponent == 0, mantissa * 2.0 ** (1 - _BIAS), normal)
    values[magnitude == _NAN] = np.nan
    values = np.where(codes < 0x80, values, -values).astype(np.float32)
    values.flags.writeable = False
    return values


_FLOAT8 = _float8_numbers()
