"""The part of CBOR (RFC 8949) that omikuji's tree files use.

Integers, floats, text, arrays, maps and null, all with definite lengths. Arrays of numbers become
one NumPy array each: a model has millions of them, and a Python object for each would take a
hundred times their room.
"""

import struct

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.ops._jit import jit

_MAX_DEPTH = 240  # of arrays and maps in each other; a tree takes 3 for each of its levels
_FLOATS = {25: ("<f2", 2), 26: ("<f4", 4), 27: ("<f8", 8)}


def decode(content):
    """Return the one item that ``content`` holds.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    None, int, float, str, list, dict or ndarray
        An array that begins with a number as a float64 ndarray, which is exact up to 2**53.

    Raises
    ------
    ModelFormatError
        If it is cut off, has something after its end, or is something else than what omikuji
        writes. Nothing is allocated that is more than 8 times as large as ``content``.
    """
    reader = _Reader(content)
    item = reader.item(0)
    if reader.position != len(content):
        raise ModelFormatError(f"there are bytes after the end, from {reader.position} on.")
    return item


class _Reader:
    def __init__(self, content):
        self.content = content
        self.bytes = np.frombuffer(content, np.uint8)
        self.position = 0

    def item(self, depth):
        if depth > _MAX_DEPTH:
            raise ModelFormatError(f"it is nested deeper than {_MAX_DEPTH}.")
        start = self.position
        major, low = divmod(self._take(1)[0], 32)
        if major == 7:
            return self._simple(low, start)
        size = self._argument(low, start)
        if major == 0:
            return size
        if major == 1:
            return -1 - size
        if major == 3:
            try:
                return self._take(size).decode("utf-8")
            except UnicodeDecodeError as error:
                raise ModelFormatError(f"the text at byte {start} is no UTF-8.") from error
        if major == 4:
            return self._array(size, depth, start)
        if major == 5:
            self._check_count(size, start)
            items = {}
            for _ in range(size):
                key = self.item(depth + 1)
                if not isinstance(key, str) or key in items:
                    raise ModelFormatError(f"the map at byte {start} has the wrong keys.")
                items[key] = self.item(depth + 1)
            return items
        raise ModelFormatError(f"there is an item of the unexpected type {major} at byte {start}.")

    def _array(self, size, depth, start):
        self._check_count(size, start)
        if size == 0 or not _is_number(self.bytes[self.position : self.position + 1]):
            return [self.item(depth + 1) for _ in range(size)]
        values = np.empty(size, np.float64)
        end = _read_numbers(self.bytes, self.position, values)
        if end < 0:
            raise ModelFormatError(f"the array of numbers at byte {start} is damaged.")
        self.position = int(end)
        return values

    def _simple(self, low, start):
        if low in _FLOATS:
            dtype, size = _FLOATS[low]
            return float(np.frombuffer(self._take(size)[::-1], dtype)[0])
        if low == 22:
            return None
        raise ModelFormatError(f"there is an unexpected value at byte {start}.")

    def _argument(self, low, start):
        if low < 24:
            return low
        if low > 27:
            raise ModelFormatError(f"the length at byte {start} is not one that omikuji writes.")
        return int.from_bytes(self._take(1 << (low - 24)), "big")

    def _check_count(self, count, start):
        if count > len(self.content) - self.position:
            raise ModelFormatError(f"there are not {count} items from byte {start} on.")

    def _take(self, size):
        end = self.position + size
        if end > len(self.content):
            raise ModelFormatError(f"it ends at byte {len(self.content)}, within an item.")
        taken = self.content[self.position : end]
        self.position = end
        return taken


def _is_number(first):
    return len(first) == 1 and (first[0] < 0x40 or 0xF9 <= first[0] <= 0xFB)


@jit
def _read_numbers(content, position, values):
    """Read ``len(values)`` numbers from ``position`` on; return where they end, or -1."""
    for i in range(len(values)):
        if position >= len(content):
            return -1
        head = np.int64(content[position])
        position += 1
        major, low = head >> 5, head & 31
        if major > 1 and head < 0xF9:
            return -1
        if low > 27:
            return -1
        size = np.int64(0) if low < 24 else np.int64(1) << (low - 24)
        if position + size > len(content):
            return -1
        bits = np.uint64(0)
        for _ in range(size):
            bits = (bits << np.uint64(8)) | np.uint64(content[position])
            position += 1
        if major == 0:
            values[i] = np.float64(low) if size == 0 else np.float64(bits)
        elif major == 1:
            values[i] = -1.0 - (np.float64(low) if size == 0 else np.float64(bits))
        else:
            values[i] = _float(np.int64(bits), size)
    return position


@jit
def _float(bits, size):
    """The number that the bits of a float of 2, 4 or 8 bytes stand for (IEEE 754)."""
    if size == 2:
        n_exponent, n_fraction = 5, 10
    elif size == 4:
        n_exponent, n_fraction = 8, 23
    else:
        n_exponent, n_fraction = 11, 52
    largest = (np.int64(1) << n_exponent) - 1
    fraction = np.float64(bits & ((np.int64(1) << n_fraction) - 1)) / 2.0**n_fraction
    exponent = (bits >> n_fraction) & largest
    negative = (bits >> (n_exponent + n_fraction)) & 1
    if exponent == largest:
        value = np.inf if fraction == 0.0 else np.nan
    elif exponent == 0:
        value = fraction * 2.0 ** np.float64(2 - (np.int64(1) << (n_exponent - 1)))
    else:
        value = (1.0 + fraction) * 2.0 ** np.float64(
            exponent + 1 - (np.int64(1) << (n_exponent - 1))
        )
    return -value if negative else value


def encode(item):
    """Return ``item`` as CBOR: the inverse of `decode`, arrays of float32 and of integers too.

    Parameters
    ----------
    item : None, int, str, list, dict or ndarray
        An ndarray of float32 or of integers from 0 to 2**32 - 1.

    Returns
    -------
    bytes
    """
    parts = []
    _encode(item, parts)
    return b"".join(parts)


def _encode(item, parts):
    if item is None:
        parts.append(b"\xf6")
    elif isinstance(item, (int, np.integer)):
        parts.append(_head(0, int(item)))
    elif isinstance(item, str):
        text = item.encode()
        parts.extend((_head(3, len(text)), text))
    elif isinstance(item, np.ndarray):
        is_float = item.dtype.kind == "f"
        numbers = np.empty(len(item), [("head", "u1"), ("value", ">f4" if is_float else ">u4")])
        numbers["head"] = 0xFA if is_float else 0x1A
        numbers["value"] = item
        parts.extend((_head(4, len(item)), numbers.tobytes()))
    elif isinstance(item, list):
        parts.append(_head(4, len(item)))
        for value in item:
            _encode(value, parts)
    else:
        parts.append(_head(5, len(item)))
        for key, value in item.items():
            _encode(key, parts)
            _encode(value, parts)


def _head(major, size):
    if size < 24:
        return bytes([major << 5 | size])
    for low, code in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if size < 1 << (8 << (low - 24)):
            return bytes([major << 5 | low]) + struct.pack(code, size)
    raise ValueError(f"{size} is too large for CBOR.")
