"""Arrays on disk: written atomically, read back checked.

Two forms: one ``.npz`` file with several arrays (model archives, the shards of a checkpoint), where
each array carries the CRC-32 of the zip format, and single ``.npy`` files, which can be
memory-mapped.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import uuid
import zlib
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import ModelFormatError

# What says nothing about the content of a file. All else that reading raises means that it is
# damaged: the parsers of NumPy, zipfile and json raise nearly anything on random bytes,
# tokenize.TokenError among it.
NOT_DAMAGE = (PermissionError, MemoryError)
_META = "__meta__"
_CHECK_BLOCK = 1 << 22  # entries looked at together when a sparse array is checked


def write_arrays_atomic(path, arrays, *, meta=None, compress=False):
    """Write named arrays to one ``.npz`` file that is complete or not there.

    Parameters
    ----------
    path : str or path-like
        The file, by convention with the suffix ``.npz``; an existing one is replaced.
    arrays : dict of str to ndarray
        Any dtype but object.
    meta : JSON value, default=None
        Kept beside the arrays.
    compress : bool, default=False
        Deflate the arrays: smaller, and about 20 times slower to write.

    Notes
    -----
    The file is written under another name, flushed to the disk and renamed, so a process killed at
    any point leaves the old file or the new one. Cost: one pass over the arrays, no copy of them.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from skxmc.io._arrays import read_arrays, write_arrays_atomic
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "shard.npz")
    ...     write_arrays_atomic(path, {"a": np.arange(3)}, meta={"first": 0})
    ...     read_arrays(path)
    ({'a': array([0, 1, 2])}, {'first': 0})
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if name == _META:
            raise ValueError(f"The array name {_META!r} is reserved.")
        if array.dtype.hasobject:
            raise TypeError(f"The array {name!r} has dtype {array.dtype}; objects are not stored.")
    path = Path(path)
    meta_bytes = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    save = np.savez_compressed if compress else np.savez
    with _atomic_file(path) as file:
        save(file, **{_META: meta_bytes}, **arrays)


def read_arrays(path):
    """Read what :func:`write_arrays_atomic` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
    meta : JSON value

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFormatError
        If the file is damaged: not an archive, cut off, or with a wrong CRC-32.
    """
    path = Path(path)
    try:
        # Opened here, since np.load leaves the file of a damaged archive open.
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as archive:
            for member in archive.zip.infolist():
                with archive.zip.open(member) as file:
                    _check_npy_header(file, member.file_size)
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except (FileNotFoundError, *NOT_DAMAGE):
        raise
    except Exception as error:
        raise ModelFormatError(f"The file {path} is damaged or no archive: {error}") from error
    return arrays, meta


def write_npy(path, array):
    """Write one array to a ``.npy`` file and flush it to the disk."""
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        _sync(file)


def read_npy(path, dtype, shape, mmap=False):
    """Read or map a ``.npy`` file that must hold an array of this dtype and shape.

    Parameters
    ----------
    path : path-like
        The file.
    dtype : str
        As ``array.dtype.str``.
    shape : sequence of int
    mmap : bool, default=False
        True maps the file read-only, False reads it into memory.

    Returns
    -------
    ndarray of shape ``shape``
        A plain ndarray also where it is mapped: Numba and SciPy take a shorter way with it than
        with a subclass.

    Raises
    ------
    ModelFormatError
        If the file is missing, damaged or holds another array.
    """
    try:
        with open(path, "rb") as file:
            *found, in_columns = _check_npy_header(file, os.fstat(file.fileno()).st_size)
            if found != [dtype, tuple(shape)]:
                raise ValueError(f"it holds an array {found}, expected {[dtype, tuple(shape)]}")
            order = "F" if in_columns else "C"
            if mmap and 0 not in shape:  # an array without data cannot be mapped
                array = np.memmap(file, dtype, "r", file.tell(), tuple(shape), order)
            else:
                array = np.fromfile(file, dtype).reshape(shape, order=order)
    except NOT_DAMAGE:
        raise
    except Exception as error:
        raise ModelFormatError(f"The file {path} is damaged or no array: {error}") from error
    return array.view(np.ndarray)


def _check_npy_header(file, n_bytes):
    """Return dtype, shape and whether the order is Fortran's; the file is read up to its data.

    Raises ValueError unless ``n_bytes`` fits them. To be called before anything is allocated or
    mapped on the word of a damaged header.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, in_columns, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise ValueError(f"the dtype {dtype} has objects, which are not read")
    expected = file.tell() + dtype.itemsize * math.prod(shape)
    if n_bytes != expected:
        raise ValueError(f"an array {(dtype.str, shape)} takes {expected} bytes, not {n_bytes}")
    return dtype.str, shape, in_columns


def crc32(array):
    """Return the CRC-32 of the bytes of an array."""
    array = np.ascontiguousarray(array)
    return zlib.crc32(array.reshape(-1).view(np.uint8).data) if array.size else 0


def check_compressed(data, indices, indptr, shape, *, increasing, where):
    """Raise ModelFormatError unless the arrays form a sound CSR array of this shape.

    Parameters
    ----------
    data, indices : ndarray of shape (nnz,)
    indptr : ndarray of shape (n_rows + 1,)
    shape : (n_rows, n_columns)
        Of a CSC array: (n_columns, n_rows).
    increasing : bool
        Whether the indices of a row must increase strictly.
    where : str
        Name of the array, for the message.

    Notes
    -----
    Kernels do not check bounds, so nothing reaches them unchecked. Cost: one pass over ``indices``,
    in blocks.
    """
    n_rows, n_columns = shape
    if not all(a.ndim == 1 and a.dtype.kind == "i" for a in (indices, indptr)) or data.ndim != 1:
        raise ModelFormatError(f"{where}: data, indices and indptr must be vectors of numbers.")
    if len(indptr) != n_rows + 1:
        raise ModelFormatError(f"{where}: {len(indptr)} row pointers for {n_rows} rows.")
    if indptr[0] != 0 or indptr[-1] != len(indices) or len(data) != len(indices):
        raise ModelFormatError(
            f"{where}: row pointers from {indptr[0]} to {indptr[-1]}, but {len(indices)} indices "
            f"and {len(data)} values."
        )
    if np.any(indptr[1:] < indptr[:-1]):
        row = int(np.argmax(indptr[1:] < indptr[:-1]))
        raise ModelFormatError(f"{where}: the row pointers decrease at row {row}.")
    for begin in range(0, len(indices), _CHECK_BLOCK):
        end = min(begin + _CHECK_BLOCK, len(indices))
        block = indices[begin:end]
        if block.min() < 0 or block.max() >= n_columns:
            position = begin + int(np.argmax((block < 0) | (block >= n_columns)))
            row = int(np.searchsorted(indptr, position, side="right")) - 1
            raise ModelFormatError(
                f"{where}: index {indices[position]} in row {row} is outside of 0 to "
                f"{n_columns - 1}."
            )
        if increasing:
            steps = np.diff(indices[begin : end + 1]) <= 0  # steps[i]: from begin + i to the next
            first, last = np.searchsorted(indptr, [begin + 1, begin + len(steps) + 1])
            steps[indptr[first:last] - begin - 1] = False  # from one row to the next
            if steps.any():
                position = begin + int(np.argmax(steps))
                row = int(np.searchsorted(indptr, position, side="right")) - 1
                raise ModelFormatError(f"{where}: the indices of row {row} do not increase.")


def compact_indices(indices, indptr):
    """Return ``indices`` as steps and ``indptr`` as row lengths, in the smallest unsigned dtypes.

    Parameters
    ----------
    indices : ndarray of shape (nnz,)
        Increasing in each row.
    indptr : ndarray of shape (n_rows + 1,)

    Returns
    -------
    steps : ndarray of shape (nnz,)
        The first index of each row, then the differences; they deflate far better than the indices.
    lengths : ndarray of shape (n_rows,)
    """
    steps = np.diff(indices, prepend=0)
    lengths = np.diff(indptr)
    first = indptr[:-1][lengths > 0]
    steps[first] = indices[first]
    return _smallest(steps), _smallest(lengths)


def expand_indices(steps, lengths, indices_dtype, indptr_dtype):
    """Undo :func:`compact_indices`; whether the result is sound is for :func:`check_compressed`."""
    if steps.dtype.kind != "u" or lengths.dtype.kind != "u" or steps.ndim != 1 or lengths.ndim != 1:
        raise ModelFormatError("Index steps and row lengths must be vectors of unsigned integers.")
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if indptr[-1] != len(steps):
        raise ModelFormatError(f"The row lengths add up to {indptr[-1]}, not to {len(steps)}.")
    sums = np.concatenate([[0], np.cumsum(steps, dtype=np.int64)])
    indices = sums[1:] - np.repeat(sums[indptr[:-1]], lengths)
    for name, values, dtype in (
        ("index", indices, indices_dtype),
        ("length", indptr, indptr_dtype),
    ):
        if len(values) and values.max() > np.iinfo(dtype).max:
            raise ModelFormatError(f"The {name} {values.max()} does not fit into {dtype}.")
    return indices.astype(indices_dtype), indptr.astype(indptr_dtype)


def make_compressed(data, indices, indptr, shape, *, format="csr", matrix=False):
    """Make a SciPy CSR or CSC array of these arrays, without a copy or a change of dtype."""
    cls = getattr(sp, f"{format}_{'matrix' if matrix else 'array'}")
    result = cls(shape, dtype=data.dtype)
    result.data, result.indices, result.indptr = data, indices, indptr
    return result


@contextlib.contextmanager
def _atomic_file(path):
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    try:
        with open(temporary, "xb") as file:
            yield file
            _sync(file)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(file):
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path):
    """Flush the entries of a directory to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move_into_place(temporary, path):
    """Rename a complete directory to ``path``, in place of the one that may be there.

    On Linux the two change places in one step: whenever the process is killed, one of them is at
    ``path``. Elsewhere the old one is renamed first, and put back if that fails.

    Parameters
    ----------
    temporary, path : Path
        In the same directory.
    """
    if not path.exists():
        os.rename(temporary, path)
    elif _exchange(temporary, path):
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.old")
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync_directory(path.parent)


def _exchange(first, second):
    """Let two directories change places, and return whether the system could do it."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:  # an old or another C library
        return False
    here, exchange = -100, ctypes.c_uint(2)  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _smallest(values):
    largest = int(values.max()) if len(values) else 0
    return values.astype(np.min_scalar_type(largest))
