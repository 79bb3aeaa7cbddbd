"""Parse and write lines of ``label,label feature:value feature:value``.

The extreme classification repository's format and multilabel svmlight share this grammar; the two
modules built on this one add what differs (header, base, comments).

One line is one row::

    line    = [labels] { blank feature } [blank]
    labels  = index { "," index }            at the first character of the line
    feature = index ":" number
    index   = digits                         at most 2**31 - 2
    number  = ["+" | "-"] digits ["." digits] [("e" | "E") ["+" | "-"] digits]

A line that starts with a blank, or whose first token is a feature, has no labels. Blanks are spaces
and tabs; lines end with LF or CRLF.
"""

import contextlib
import gzip
import io
import os
import zlib
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

from skxmc.ops._jit import jit

MAX_INDEX = 2**31 - 2  # the number of columns must fit into int32
BLOCK_BYTES = 1 << 24

_POWERS_OF_TEN = 10.0 ** np.arange(23)  # all exact in float64
_EXACT_INTEGER = 2**53
_MORE_DIGITS = 10**17  # one more digit still fits into int64


@jit
def _parse_number(buf, pos, end, single):
    """Parse one number that starts at ``pos``: ``(value, next position, status)``.

    Status 0: exact; 1: valid, but to be converted by Python's ``float``; 2: not a number.

    A mantissa up to 2**53 and a power of ten up to 10**22 are exact in float64, so one rounded
    operation gives the correctly rounded double (Clinger 1990). Longer mantissas are off by a few
    1e-16; where only float32 is wanted (``single``) that is enough unless the value is so close to
    the middle between two float32 numbers that the error could decide the rounding.
    """
    negative = False
    if pos < end and (buf[pos] == 43 or buf[pos] == 45):  # + -
        negative = buf[pos] == 45
        pos += 1
    mantissa = 0
    exponent = 0
    n_digits = 0
    dropped = False
    fraction = False
    while pos < end:
        digit = np.int64(buf[pos]) - 48
        if 0 <= digit <= 9:
            n_digits += 1
            if mantissa < _MORE_DIGITS:
                mantissa = mantissa * 10 + digit
                if fraction:
                    exponent -= 1
            else:
                dropped = dropped or digit != 0
                if not fraction:
                    exponent += 1
        elif digit == -2 and not fraction:  # the decimal point
            fraction = True
        else:
            break
        pos += 1
    if n_digits == 0:
        return 0.0, pos, 2
    if pos < end and (buf[pos] == 101 or buf[pos] == 69):  # e E
        pos += 1
        shrink = False
        if pos < end and (buf[pos] == 43 or buf[pos] == 45):
            shrink = buf[pos] == 45
            pos += 1
        n_digits = 0
        power = 0
        while pos < end and 48 <= buf[pos] <= 57:
            power = min(power * 10 + np.int64(buf[pos]) - 48, 1_000_000)
            n_digits += 1
            pos += 1
        if n_digits == 0:
            return 0.0, pos, 2
        exponent += -power if shrink else power
    if pos < end and buf[pos] != 32 and buf[pos] != 9:
        return 0.0, pos, 2

    status = 0
    value = np.float64(mantissa)
    if mantissa != 0:
        if exponent > 22 or exponent < -22:
            status = 1
        else:
            if exponent < 0:
                value /= _POWERS_OF_TEN[-exponent]
            else:
                value *= _POWERS_OF_TEN[exponent]
            if dropped or mantissa > _EXACT_INTEGER:
                low = np.float32(value * (1.0 - 1e-15))
                high = np.float32(value * (1.0 + 1e-15))
                if not single or low != high:
                    status = 1
    return -value if negative else value, pos, status


@jit
def _parse_block(
    buf, comments, single, labels, label_ends, indices, data, row_ends, row_lines, slow
):
    """Parse a block of whole lines into the arrays given, which must be large enough.

    Returns ``(error position or -1, in the labels?, lines, rows, labels, features, slow numbers,
    rows strictly sorted?, empty lines at the end)``; after an error, ``lines`` is the faulty line.
    """
    n_lines = n_rows = n_labels = n_features = n_slow = n_trailing = 0
    is_sorted = True
    start = 0
    while start < buf.size:
        end = start
        while buf[end] != 10:
            end += 1
        next_start = end + 1
        n_lines += 1
        if end > start and buf[end - 1] == 13:
            end -= 1
        commented = False
        if comments:
            for i in range(start, end):
                if buf[i] == 35:
                    end = i
                    commented = True
                    break
        pos = start
        while pos < end and (buf[pos] == 32 or buf[pos] == 9):
            pos += 1
        empty = start == end
        if comments and (empty or (commented and pos == end)):
            start = next_start
            continue
        n_trailing = n_trailing + 1 if empty else 0

        if pos == start and pos < end:
            last = -1
            while True:
                token = pos
                index = 0
                while pos < end and 48 <= buf[pos] <= 57 and index <= MAX_INDEX:
                    index = index * 10 + np.int64(buf[pos]) - 48
                    pos += 1
                if last == -1 and pos > token and pos < end and buf[pos] == 58:
                    pos = start  # the first token is a feature: no labels
                    break
                at_end = pos == end or buf[pos] == 32 or buf[pos] == 9
                if pos == token or index > MAX_INDEX or not (at_end or buf[pos] == 44):
                    return token, True, n_lines, n_rows, n_labels, n_features, n_slow, False, 0
                is_sorted = is_sorted and index > last
                last = index
                labels[n_labels] = index
                n_labels += 1
                if at_end:
                    break
                pos += 1

        last = -1
        while True:
            while pos < end and (buf[pos] == 32 or buf[pos] == 9):
                pos += 1
            if pos == end:
                break
            token = pos
            index = 0
            while pos < end and 48 <= buf[pos] <= 57 and index <= MAX_INDEX:
                index = index * 10 + np.int64(buf[pos]) - 48
                pos += 1
            if pos in (token, end) or index > MAX_INDEX or buf[pos] != 58:
                return token, False, n_lines, n_rows, n_labels, n_features, n_slow, False, 0
            number = pos + 1
            value, pos, status = _parse_number(buf, number, end, single)
            if status == 2:
                return token, False, n_lines, n_rows, n_labels, n_features, n_slow, False, 0
            if status == 1:
                slow[n_slow, 0] = n_features
                slow[n_slow, 1] = number
                slow[n_slow, 2] = pos
                n_slow += 1
            is_sorted = is_sorted and index > last
            last = index
            indices[n_features] = index
            data[n_features] = value
            n_features += 1

        label_ends[n_rows] = n_labels
        row_ends[n_rows] = n_features
        row_lines[n_rows] = n_lines
        n_rows += 1
        start = next_start
    return -1, False, n_lines, n_rows, n_labels, n_features, n_slow, is_sorted, n_trailing


class Rows(NamedTuple):
    """What a file holds, indices as they stand in it."""

    name: str
    label_indptr: np.ndarray
    label_indices: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    lines: np.ndarray  # line number of each row, counted from 1
    is_sorted: bool  # labels and features strictly increase within every row
    n_trailing: int  # how many of the last rows are lines without any character


def parse_rows(blocks, name, *, comments, dtype, first_line=1):
    """Parse blocks of whole lines (see `open_blocks`) into `Rows`."""
    single = dtype == np.float32
    lists = labels, label_counts, indices, data, counts, lines = [], [], [], [], [], []
    line = first_line
    is_sorted = True
    trailing = 0
    for block in blocks:
        block_lines = block.count(b"\n")
        n_colons = block.count(b":")
        label_buf = np.empty(block.count(b",") + block_lines, dtype=np.int32)
        index_buf = np.empty(n_colons, dtype=np.int32)
        data_buf = np.empty(n_colons, dtype=np.float64)
        label_ends, row_ends, row_lines = np.empty((3, block_lines), dtype=np.int64)
        slow = np.empty((n_colons, 3), dtype=np.int64)
        error, in_labels, n_lines, n_rows, n_labels, n_features, n_slow, block_sorted, n_empty = (
            _parse_block(
                np.frombuffer(block, dtype=np.uint8),
                comments,
                single,
                label_buf,
                label_ends,
                index_buf,
                data_buf,
                row_ends,
                row_lines,
                slow,
            )
        )
        if error >= 0:
            raise ValueError(
                f"{name}, line {line + n_lines - 1}: {_explain(block, error, in_labels)}"
            )
        for k, start, stop in slow[:n_slow].tolist():
            data_buf[k] = float(block[start:stop])
        row_lines += line - 1
        with np.errstate(over="ignore"):
            values = data_buf[:n_features].astype(dtype)
        finite = np.isfinite(values)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            row = int(np.searchsorted(row_ends[:n_rows], bad, side="right"))
            raise ValueError(
                f"{name}, line {row_lines[row]}: the value of feature {index_buf[bad]} is too large"
                f" for {np.dtype(dtype).name}"
            )
        labels.append(label_buf[:n_labels].copy())
        label_counts.append(np.diff(label_ends[:n_rows], prepend=0))
        indices.append(index_buf[:n_features].copy())
        data.append(values)
        counts.append(np.diff(row_ends[:n_rows], prepend=0))
        lines.append(row_lines[:n_rows].copy())
        is_sorted = is_sorted and block_sorted
        trailing = trailing + n_empty if n_empty == n_rows else n_empty
        line += n_lines

    # One list after the other, so that at most one array is held twice.
    dtypes = np.int32, np.int64, np.int32, dtype, np.int64, np.int64
    joined = []
    for parts, part_dtype in zip(lists, dtypes, strict=True):
        joined.append(np.concatenate(parts) if parts else np.empty(0, dtype=part_dtype))
        parts.clear()
    labels, label_counts, indices, data, counts, lines = joined
    return Rows(
        name,
        _indptr(label_counts),
        labels,
        _indptr(counts),
        indices,
        data,
        lines,
        is_sorted,
        trailing,
    )


def _indptr(counts):
    indptr = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    # SciPy gives indices and indptr one dtype, so a wide indptr would widen the indices too.
    return indptr.astype(np.int32) if indptr[-1] < 2**31 else indptr


def _explain(block, start, in_labels):
    """Say what is wrong with the token that starts at ``start``."""
    line_end = block.index(b"\n", start)
    fields = block[start:line_end].split(None, 1)
    raw = fields[0] if fields and not block[start : start + 1].isspace() else b""
    token = raw[:40].decode("utf-8", "replace")
    if in_labels:
        label = raw.split(b",", 1)[0]
        token = label[:40].decode("utf-8", "replace")
        if not label:
            return "empty label (a comma without a label beside it)"
        if label.isdigit():
            return f"label {token} is larger than {MAX_INDEX}, the largest index supported"
        if label.startswith(b"-") and label[1:].isdigit():
            return f"negative label {token}"
        return f"label {token!r} is not a non-negative integer"
    index, colon, value = raw.partition(b":")
    if not colon:
        return f"missing colon in {token!r}; a feature is written index:value"
    if index.isdigit() and (len(index.lstrip(b"0")) > 10 or int(index) > MAX_INDEX):
        return f"feature index in {token!r} is larger than {MAX_INDEX}, the largest supported"
    if index.startswith(b"-") and index[1:].isdigit():
        return f"negative feature index in {token!r}"
    if not index.isdigit():
        return f"feature index in {token!r} is not a non-negative integer"
    if not value:
        return f"missing value after the colon in {token!r}"
    if value.lower().lstrip(b"+-") in (b"nan", b"inf", b"infinity"):
        return f"NaN or infinite value in {token!r}"
    return f"value in {token!r} is not a number"


def to_csr(rows, *, feature_base, label_base, n_features, n_labels, why):
    """Turn `Rows` into ``(X, Y)``: checks ranges and duplicates, sorts, subtracts the bases.

    ``why`` follows an out-of-range message and says where the limit comes from.
    """
    parts = (
        ("feature index", rows.indices, rows.indptr, feature_base, n_features),
        ("label", rows.label_indices, rows.label_indptr, label_base, n_labels),
    )
    widths = []
    for kind, indices, indptr, base, width in parts:
        if base and indices.size and indices.min() == 0:
            entry = int(np.argmin(indices))
            raise ValueError(
                f"{rows.name}, line {_line_of(rows, indptr, entry)}: {kind} 0 in a file read as"
                " one-based"
            )
        largest = int(indices.max()) - base if indices.size else -1
        if width is not None and largest >= width:
            entry = int(np.flatnonzero(indices >= width + base)[0])
            raise ValueError(
                f"{rows.name}, line {_line_of(rows, indptr, entry)}: {kind} {indices[entry]} is out"
                f" of range, {base} to {width - 1 + base} allowed; {why}"
            )
        widths.append(largest + 1 if width is None else width)

    n_rows = rows.indptr.size - 1
    if feature_base:
        np.subtract(rows.indices, 1, out=rows.indices)
    if label_base:
        np.subtract(rows.label_indices, 1, out=rows.label_indices)
    X = csr_array((rows.data, rows.indices, rows.indptr), shape=(n_rows, widths[0]))
    ones = np.ones(rows.label_indices.size, dtype=np.uint8)
    Y = csr_array((ones, rows.label_indices, rows.label_indptr), shape=(n_rows, widths[1]))
    if not rows.is_sorted:
        X.sort_indices()
        repeated = X.indices[1:] == X.indices[:-1]
        row_starts = X.indptr[1:-1]
        row_starts = row_starts[(row_starts > 0) & (row_starts < X.indices.size)]
        repeated[row_starts - 1] = False
        if repeated.any():
            entry = int(np.flatnonzero(repeated)[0])
            raise ValueError(
                f"{rows.name}, line {_line_of(rows, X.indptr, entry)}: feature"
                f" {X.indices[entry] + feature_base} occurs twice"
            )
        Y.sum_duplicates()
        Y.data.fill(1)
    X.has_canonical_format = True
    Y.has_canonical_format = True
    return X, Y


def _line_of(rows, indptr, entry):
    return rows.lines[np.searchsorted(indptr, entry, side="right") - 1]


@contextlib.contextmanager
def open_blocks(source):
    """Open a path or binary file, gzip or plain, as ``(name, blocks of whole lines)``."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            stream = stack.enter_context(open(source, "rb"))
        elif hasattr(source, "read"):
            name = str(getattr(source, "name", "<file>"))
            if isinstance(source, io.TextIOBase):
                raise TypeError(f"{name} is open in text mode; open it in binary mode ('rb')")
            seekable = getattr(source, "seekable", bool)()
            stream = source if seekable else io.BytesIO(source.read())
        else:
            raise TypeError(
                f"expected a path or a file open in binary mode, got {type(source).__name__}"
            )
        position = stream.tell()
        magic = stream.read(2)
        stream.seek(position)
        if magic == b"\x1f\x8b":
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
        yield name, _blocks(stream, name)


def _blocks(stream, name):
    """Yield blocks that end with a newline; one is added where the file lacks its last."""
    n_lines = 0
    rest = []
    while True:
        try:
            piece = stream.read(BLOCK_BYTES)
        except EOFError:
            raise ValueError(
                f"{name}: the gzip data is truncated in or after line {n_lines + 1}"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{name}: the gzip data is corrupt in or after line {n_lines + 1} ({error})"
            ) from None
        if not piece:
            break
        cut = piece.rfind(b"\n") + 1
        if cut:
            block = b"".join([*rest, piece[:cut]])
            rest = [piece[cut:]] if cut < len(piece) else []
            yield block
            n_lines += block.count(b"\n")
        else:
            rest.append(piece)
    if rest:
        yield b"".join([*rest, b"\n"])


def check_pair(X, Y):
    """Return X as float CSR and Y as 0/1 CSR, both canonical, or say why they cannot be written."""
    X, Y = _canonical(X, "X"), _canonical(Y, "Y")
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"X has {X.shape[0]} rows, Y has {Y.shape[0]}")
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(X.data))
    if bad.size:
        row = np.searchsorted(X.indptr, bad[0], side="right") - 1
        raise ValueError(f"X[{row}, {X.indices[bad[0]]}] is {X.data[bad[0]]}, not a finite number")
    bad = np.flatnonzero((Y.data != 0) & (Y.data != 1))
    if bad.size:
        row = np.searchsorted(Y.indptr, bad[0], side="right") - 1
        raise ValueError(
            f"Y[{row}, {Y.indices[bad[0]]}] is {Y.data[bad[0]]}; Y may hold 0 and 1 only"
        )
    if (Y.data == 0).any():
        Y = Y.copy()
        Y.eliminate_zeros()
    return X, Y


def _canonical(matrix, name):
    if not issparse(matrix):
        matrix = np.asarray(matrix)
        if matrix.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be numeric, got dtype {matrix.dtype}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, got {matrix.ndim}")
    canonical = csr_array(matrix)
    canonical.check_format(full_check=True)
    if not canonical.has_canonical_format:
        canonical = canonical.copy()
        canonical.sum_duplicates()
    return canonical


@contextlib.contextmanager
def open_for_writing(target):
    """Open a path (gzip where it ends with ``.gz``) or pass a binary file through."""
    if isinstance(target, (str, os.PathLike)):
        with open(target, "wb") as raw:
            if os.fspath(target).endswith(".gz"):
                # No time and no name in the header: equal data gives equal bytes.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream:
                    yield stream
            else:
                yield raw
    elif hasattr(target, "write") and not isinstance(target, io.TextIOBase):
        yield target
    else:
        raise TypeError("expected a path or a file open for writing in binary mode")


def write_rows(stream, X, Y, *, feature_base, label_base, precision):
    """Write the lines of canonical ``X`` and ``Y``; the cost is linear in the stored entries."""
    if precision is not None and not 1 <= precision <= 17:
        raise ValueError(f"precision must be None or 1 to 17 digits, got {precision}")
    for start in range(0, X.shape[0], 4096):
        stop = min(start + 4096, X.shape[0])
        x, y = slice(X.indptr[start], X.indptr[stop]), slice(Y.indptr[start], Y.indptr[stop])
        values = _format_values(X.data[x], precision)
        columns = (X.indices[x].astype(np.int64) + feature_base).tolist()
        features = [f"{column}:{value}" for column, value in zip(columns, values, strict=True)]
        labels = list(map(str, (Y.indices[y].astype(np.int64) + label_base).tolist()))
        x_ends = (X.indptr[start : stop + 1] - X.indptr[start]).tolist()
        y_ends = (Y.indptr[start : stop + 1] - Y.indptr[start]).tolist()
        # The blank after the labels is always written: an empty row stays visible as " ".
        lines = [
            f"{','.join(labels[y_ends[i] : y_ends[i + 1]])}"
            f" {' '.join(features[x_ends[i] : x_ends[i + 1]])}\n"
            for i in range(stop - start)
        ]
        stream.write("".join(lines).encode("ascii"))


def _format_values(data, precision):
    if precision is None:
        # The fewest digits that read back as the same number of this dtype.
        return data.astype("U").tolist()
    return [f"{value:.{precision}g}" for value in data.tolist()]
