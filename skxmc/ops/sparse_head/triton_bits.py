"""Device functions of the Triton kernels: random bits, low-precision numbers, products of tiles.

All is done on the bits, with integer operations that every CUDA architecture and Triton's
interpreter have: no conversion instruction of a newer architecture is needed, and the results are
those of ``reference.py`` bit for bit.
"""

import triton
import triton.language as tl


@triton.jit
def mix32(x):
    """Scramble uint32 (the "lowbias32" finaliser)."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def random_bits(key, offset):
    """Return 32 random bits for each weight, a pure function of the key and the offset."""
    low = offset.to(tl.uint32)
    high = (offset >> 32).to(tl.uint32)
    return mix32(mix32(low ^ key) + high * 0x9E3779B9 + key)


@triton.jit
def decode(stored, PRECISION: tl.constexpr):
    """Turn stored weights into float32."""
    if PRECISION == "float32":
        return stored
    elif PRECISION == "bfloat16":
        return (stored.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return decode_e4m3(stored)


@triton.jit
def decode_e4m3(stored):
    bits = stored.to(tl.uint32)
    magnitude = bits & 0x7F
    normal = ((magnitude << 20) + 0x3C000000).to(tl.float32, bitcast=True)
    small = magnitude.to(tl.int32).to(tl.float32) * 0.001953125  # subnormals: multiples of 2^-9
    value = tl.where(magnitude < 8, small, normal)
    value = tl.where(magnitude == 0x7F, float("nan"), value)
    return _with_sign(value, bits)


@triton.jit
def _with_sign(value, bits):
    # Triton's minus is a subtraction from zero, which loses the sign of zero.
    magnitude = value.to(tl.uint32, bitcast=True)
    return (magnitude | ((bits & 0x80) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def encode_stochastic(x, random, PRECISION: tl.constexpr):
    """Round float32 to the format of the weights, up or down by chance, unbiased."""
    if PRECISION == "float32":
        return x
    elif PRECISION == "bfloat16":
        return _encode_bfloat16(x, random & 0xFFFF)
    else:
        return _encode_e4m3(x, random)


@triton.jit
def nearest_bfloat16(x):
    """Return the bits of the nearest bfloat16, ties to even."""
    return _encode_bfloat16(x, 0x7FFF + ((x.to(tl.uint32, bitcast=True) >> 16) & 1))


@triton.jit
def _encode_bfloat16(x, added):
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    code = tl.minimum((magnitude + added) >> 16, 0x7F7F)  # finite stays finite
    code = tl.where(magnitude == 0x7F800000, 0x7F80, code)
    code = tl.where(magnitude > 0x7F800000, 0x7FC0, code)
    return (code | ((bits >> 16) & 0x8000)).to(tl.uint16)


@triton.jit
def _encode_e4m3(x, random):
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Beyond 448 the random bits must not count.
    bounded = tl.minimum(magnitude, 0x43E00000)
    normal = ((bounded + (random & 0xFFFFF)) >> 20) - 960  # exponent bias 127 -> 7
    # floor(y + u) without rounding error: the fraction of y against 1 - u, both exact.
    scaled = tl.minimum(tl.abs(x), 0.015625) * 512.0
    whole = scaled.to(tl.int32)
    threshold = 16777216.0 - (random >> 8).to(tl.int32).to(tl.float32)
    up = (scaled - whole.to(tl.float32) >= threshold * 5.9604644775390625e-8).to(tl.int32)
    small = (whole + up).to(tl.uint32)
    code = tl.where(magnitude < 0x3C800000, small, normal)
    code = tl.where(magnitude > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def as_operand(x, DOT: tl.constexpr):
    """Turn a float32 tile into an operand of `product`."""
    if DOT == "bf16":
        return x.to(tl.bfloat16)
    elif DOT == "bf16_emulated":
        # Triton's interpreter multiplies the bit patterns of bfloat16 tiles as integers.
        return decode(nearest_bfloat16(x), "bfloat16")
    else:
        return x


@triton.jit
def product(a, b, total, DOT: tl.constexpr):
    """Return ``total + a @ b`` in float32: on tensor cores with "bf16" and "tf32"."""
    if DOT == "tf32":
        return tl.dot(a, b, total, input_precision="tf32")
    else:
        return tl.dot(a, b, total, input_precision="ieee")
