"""Sums of groups of sparse rows: a dense accumulator, and a bitmap for its columns in order."""

import itertools

import llvmlite.ir as ir
import numpy as np
import scipy.sparse as sp
from numba import types
from numba.extending import intrinsic

from skxmc._parallel import map_chunks
from skxmc.ops._jit import jit
from skxmc.ops._memory import new_zeros
from skxmc.ops.csr import canonical_csr

# Entries that a chunk of groups has before equal columns are added: at least so many, and as many
# chunks at most.
_CHUNK_ENTRIES = 1 << 19
_MAX_CHUNKS = 512

# Rows whose squared length is so near to 1 have the length 1: float32 values tell no more.
_UNIT_TOLERANCE = 1e-6

_1, _6, _12, _63 = (np.uint64(i) for i in (1, 6, 12, 63))


@intrinsic
def _trailing_zeros(typingctx, word):
    """Number of zero bits below the lowest set bit of a uint64 that is not 0."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


@jit(allocates=True)
def _sum_groups(
    data,
    indices,
    indptr,
    rows,
    group_indptr,
    row_weight,
    n_columns,
    first,
    last,
    values,
    columns,
    n_entries,
):
    """Write the sums of the groups `first` to `last`, columns ascending; return their number."""
    dense = np.zeros(n_columns, dtype=np.float32)
    # One bit a column, and one bit for each 64 of them that says where to look.
    words = np.zeros((n_columns >> 6) + 1, dtype=np.uint64)
    summary = np.zeros((n_columns >> 12) + 1, dtype=np.uint64)
    position = _1 - _1
    for group in range(first, last):
        start = position
        for q in range(group_indptr[group], group_indptr[group + 1]):
            row = rows[q]
            weight = row_weight[row]
            p, end = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
            while p < end:
                column = np.uint64(indices[p])
                dense[column] += weight * data[p]
                words[column >> _6] |= _1 << (column & _63)
                summary[column >> _12] |= _1 << ((column >> _6) & _63)
                p += _1
        for s in range(len(summary)):
            places = summary[s]
            summary[s] = 0
            while places != 0:
                w = (np.uint64(s) << _6) | _trailing_zeros(places)
                places &= places - _1
                bits = words[w]
                words[w] = 0
                while bits != 0:
                    column = (w << _6) | _trailing_zeros(bits)
                    bits &= bits - _1
                    columns[position] = column
                    values[position] = dense[column]
                    dense[column] = 0.0
                    position += _1
        n_entries[group] = position - start
    return position


def sum_row_groups(X, rows, group_indptr, row_weight, *, n_jobs=1):
    """Add up groups of rows of a sparse matrix, each row with a weight.

    Parameters
    ----------
    X : csr_array of shape (n_rows, n_columns), float32
        Canonical (`skxmc.ops.csr.canonical_csr`), with less than 2**31 columns.
    rows : ndarray of shape (n_members,), int32
        The row numbers of all groups, in a row.
    group_indptr : ndarray of shape (n_groups + 1,), int64
        Group g has the rows ``rows[group_indptr[g]:group_indptr[g + 1]]``.
    row_weight : ndarray of shape (n_rows,), float32
        Weight of each row of X.
    n_jobs : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    csr_array of shape (n_groups, n_columns), float32
        Canonical. Sums are taken in float32, in the order of the rows; a sum of 0 is stored.

    Notes
    -----
    O(entries of all members) time; it is the product of a sparse matrix and X, with the columns
    sorted. Memory: the result, and 4 bytes a column in each
    thread; while the parts are put together, the result once more.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import canonical_csr
    >>> from skxmc.ops.row_sums import sum_row_groups
    >>> X = canonical_csr(sp.csr_array([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]]))
    >>> rows, group_indptr = np.array([0, 1, 0], dtype=np.int32), np.array([0, 2, 2, 3])
    >>> sum_row_groups(X, rows, group_indptr, np.ones(2, dtype=np.float32)).toarray()
    array([[1., 3., 6.],
           [0., 0., 0.],
           [1., 0., 2.]], dtype=float32)
    """
    n_groups, n_columns = len(group_indptr) - 1, X.shape[1]
    rows = np.ascontiguousarray(rows, dtype=np.int32)
    group_indptr = np.ascontiguousarray(group_indptr, dtype=np.int64)
    row_weight = np.ascontiguousarray(row_weight, dtype=np.float32)
    row_entries = np.concatenate([[0], np.cumsum(np.diff(X.indptr)[rows], dtype=np.int64)])
    work = row_entries[group_indptr]  # entries before each group
    chunk_entries = max(_CHUNK_ENTRIES, 2 * n_columns, int(work[-1]) // _MAX_CHUNKS)
    targets = np.arange(0, work[-1] + chunk_entries, chunk_entries)[1:]
    cuts = np.unique(np.concatenate([[0], np.searchsorted(work, targets, "left"), [n_groups]]))
    cuts = cuts[cuts <= n_groups].tolist()
    n_entries = np.empty(n_groups, dtype=np.int64)

    def run(chunk):
        first, last = chunk
        # No group has more entries than there are columns.
        size = int(np.minimum(np.diff(work[first : last + 1]), n_columns).sum())
        values, columns = new_zeros(size, np.float32), new_zeros(size, np.int32)
        n_found = _sum_groups(
            *(X.data, X.indices, X.indptr, rows, group_indptr, row_weight, n_columns),
            *(first, last, values, columns, n_entries),
        )
        # What lies behind was never touched, so it takes no memory.
        return values[:n_found], columns[:n_found]

    parts = list(map_chunks(run, itertools.pairwise(cuts), n_jobs))
    indptr = np.zeros(n_groups + 1, dtype=np.int64)
    np.cumsum(n_entries, out=indptr[1:])
    sums = sp.csr_array((n_groups, n_columns), dtype=np.float32)
    sums.data, sums.indices = new_zeros(indptr[-1], np.float32), new_zeros(indptr[-1], np.int32)
    start = 0
    for number, (values, columns) in enumerate(parts):
        stop = start + len(values)
        sums.data[start:stop], sums.indices[start:stop] = values, columns
        parts[number], start = None, stop  # a part goes when it is copied
    sums.indptr = indptr
    sums.has_canonical_format = True
    return sums


@jit
def _scales(data, indptr, scale):
    """What each row is to be multiplied with; returns whether any row changes."""
    changes = False
    for row in range(len(indptr) - 1):
        square = 0.0
        for p in range(indptr[row], indptr[row + 1]):
            square += np.float64(data[p]) * data[p]
        scale[row] = 1.0
        if abs(square - 1.0) > _UNIT_TOLERANCE and square > 0.0:
            scale[row] = 1.0 / np.sqrt(square)
            changes = True
    return changes


@jit
def _scale_rows(data, indptr, scale, out):
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            out[p] = data[p] * scale[row]


def unit_rows(X):
    """Scale the rows of a sparse matrix to length one; rows of zeros stay.

    Parameters
    ----------
    X : sparse array or matrix of shape (n_rows, n_columns)
        Finite; it is not changed.

    Returns
    -------
    csr_array of shape (n_rows, n_columns), float32
        Canonical. The index arrays may be those of ``X``, and the values too where all rows have
        length one.

    Notes
    -----
    The lengths are taken in float64. O(stored entries) time.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.row_sums import unit_rows
    >>> unit_rows(sp.csr_array([[3.0, 4.0], [0.0, 0.0]])).toarray()
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    X = canonical_csr(X)
    out = sp.csr_array(X.shape, dtype=np.float32)
    out.data, out.indices, out.indptr = unit_data(X.data, X.indptr), X.indices, X.indptr
    out.has_canonical_format = True
    return out


def unit_data(data, indptr):
    """Return the values of the rows of `unit_rows` from those of canonical CSR rows.

    For callers to whom a new matrix costs more than the scaling, as for a single row.

    Parameters
    ----------
    data : float32 array of shape (nnz,)
        Values of the rows.
    indptr : int64 array of shape (n_rows + 1,)
        Where each row begins.

    Returns
    -------
    float32 ndarray of shape (nnz,)
        ``data`` itself if all rows have length one, else new values.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.row_sums import unit_data
    >>> unit_data(np.array([3, 4], np.float32), np.array([0, 2]))
    array([0.6, 0.8], dtype=float32)
    """
    # views that are read-only: one version of the kernel, whether an array was writable or not
    views = [array.view(np.ndarray) for array in (data, indptr)]
    for view in views:
        view.flags.writeable = False
    scale = np.empty(len(indptr) - 1)
    if not _scales(*views, scale):
        return data
    large = len(data) >= _CHUNK_ENTRIES
    out = new_zeros(len(data), np.float32) if large else np.empty(len(data), np.float32)
    _scale_rows(*views, scale, out)
    return out
