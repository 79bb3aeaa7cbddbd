"""Random bits for compiled kernels, one number at a time.

`skxmc.ops.sparse_head._random` says what they compute; the results are the same bit for bit.
"""

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.sparse_head._random import GOLDEN, MULTIPLIERS

_M1, _M2 = np.uint32(MULTIPLIERS[0]), np.uint32(MULTIPLIERS[1])
_GOLDEN = np.uint32(GOLDEN)


@jit
def mix32(x):
    """Mix 32 bits (uint32 to uint32)."""
    # Numba computes with 64 bits; the casts let LLVM narrow each line to 32 again.
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * _M1)
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * _M2)
    return np.uint32(x ^ (x >> np.uint32(16)))


@jit
def random_bits(key, offset):
    """32 random bits for the position ``offset`` (int64) of the part with the key (uint32)."""
    high = np.uint32(np.uint64(offset) >> np.uint64(32))
    return random_bits_of_low(
        key, np.uint32(np.uint32(high * _GOLDEN) + key), np.uint32(offset & 0xFFFFFFFF)
    )


@jit
def random_bits_of_low(key, high_term, low):
    """`random_bits` by the low 32 bits, ``high_term = high * GOLDEN + key`` (all uint32).

    For loops over positions that do not cross a multiple of 2**32.
    """
    inner = mix32(np.uint32(low ^ key))
    return mix32(np.uint32(inner + high_term))
