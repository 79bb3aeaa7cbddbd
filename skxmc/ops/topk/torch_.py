"""The k best of rows of scores on a torch device, ties by the smaller number.

torch.topk leaves the order of equal values open. So a pair (score, number) is packed into a 64-bit
integer that ranks as the pair does: no two of a row are equal.
"""

import torch

_MAX_INT32 = 0x7FFFFFFF
#: Upper half of the key of a score of -inf, which is never an answer.
_ABSENT = -2139095041
#: Ranks behind all others.
NO_KEY = torch.iinfo(torch.int64).min


def pack_keys(scores, numbers):
    """Integers that are larger for a larger score, and of equal scores for a smaller number.

    ``scores`` float32 without NaN, ``numbers`` int64 of at most 31 bits that broadcasts to them.
    """
    bits = (scores + 0.0).view(torch.int32).long()  # -0 + 0 = 0
    bits = torch.where(bits < 0, bits ^ _MAX_INT32, bits)  # negative floats: falling bits
    return (bits << 32) | (_MAX_INT32 - numbers)


def unpack_keys(keys):
    """Numbers (int64) and float32 scores of keys; -1 and -inf for -inf and `NO_KEY`."""
    bits = keys >> 32
    absent = bits <= _ABSENT
    bits = torch.where(bits < 0, bits ^ _MAX_INT32, bits).to(torch.int32)
    scores = bits.view(torch.float32).masked_fill(absent, -torch.inf)
    return (_MAX_INT32 - (keys & 0xFFFFFFFF)).masked_fill(absent, -1), scores


def best_keys(keys, k):
    """The k largest keys of each row, largest first; fewer where there are fewer columns."""
    return keys.topk(min(k, keys.shape[1]), dim=1).values
