"""Counter-based random bits: the same in every backend, whatever the chunks and threads.

The bits of a weight depend on the seed, the step, the part and the position of the weight in the
part, and on nothing else, so that an update of low precision can be compared bit for bit between
backends. The mixing function is "lowbias32" (32 bits to 32 bits, invertible) of C. Wellons, "Hash
function prospector", 2018; public domain.
"""

import numpy as np

_MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio
MULTIPLIERS = 0x7FEB352D, 0x846CA68B


def mix32(x):
    """Mix 32 bits.

    Parameters
    ----------
    x : ndarray of uint32
        It is not changed.

    Returns
    -------
    ndarray of uint32, same shape

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.sparse_head._random import mix32
    >>> [hex(bits) for bits in mix32(np.array([1, 2], dtype=np.uint32))]
    ['0x688990c0', '0xd1132181']
    """
    x = np.array(x, dtype=np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(MULTIPLIERS[0])
    x ^= x >> np.uint32(15)
    x *= np.uint32(MULTIPLIERS[1])
    x ^= x >> np.uint32(16)
    return x


def step_key(seed, step, part):
    """The key of one part in one step: ``mix(mix(low(seed) ^ mix(high(seed) + part)) + step)``.

    Parameters
    ----------
    seed : int
        Its low 64 bits count.
    step, part : int
        Their low 32 bits count.

    Returns
    -------
    int in [0, 2**32)
    """
    inner = _mix_int((int(seed) >> 32) + int(part))
    return _mix_int(_mix_int(int(seed) ^ inner) + int(step))


def random_bits(key, offsets):
    """32 random bits for each position of a part: ``mix(mix(low ^ key) + high * GOLDEN + key)``.

    Parameters
    ----------
    key : int
        From `step_key`.
    offsets : ndarray of int
        ``label * fan_in + slot``, label counted within the part; low and high 32 bits are mixed.

    Returns
    -------
    ndarray of uint32, same shape

    Notes
    -----
    O(offsets) time, 16 bytes an offset.
    """
    offsets = np.asarray(offsets).astype(np.uint64)
    low = (offsets & np.uint64(_MASK)).astype(np.uint32)
    high = (offsets >> np.uint64(32)).astype(np.uint32)
    return mix32(mix32(low ^ np.uint32(key)) + high * np.uint32(GOLDEN) + np.uint32(key))


def _mix_int(x):
    return int(mix32(np.array([x & _MASK], dtype=np.uint32))[0])
