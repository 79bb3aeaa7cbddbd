"""Checks and conversions of sparse matrices, done once so that kernels can trust their input.

Kernels do not check bounds, and Numba compiles one version per combination of dtypes. Whatever
reaches a kernel has therefore passed through this module: index arrays inside the shape, columns
sorted and unique in each row, ``indptr`` int64, ``indices`` int32 (int64 only if there are more
than 2**31 columns).

SciPy keeps such a matrix as it is, but what SciPy *computes* from it (a slice, a product, a copy)
has index arrays of one common dtype again: use `take_rows`, or call `canonical_csr` on the result.

No function here changes its input. Results share the input's memory where nothing had to be
converted, so they are to be read, not written.
"""

import functools

import numpy as np
import scipy.sparse as sp

__all__ = [
    "canonical_csr",
    "canonical_indicator",
    "canonical_pattern",
    "canonical_targets",
    "check_finite",
    "check_sparse_structure",
    "subtract_pattern",
    "take_rows",
    "to_dense",
]

_INT32_MAX = np.iinfo(np.int32).max


def check_sparse_structure(A, name="X"):
    """Refuse a sparse matrix whose index arrays do not fit its shape.

    SciPy checks this only partly, and only when a matrix is made; arrays that were changed
    afterwards or read from a damaged file would make compiled code read outside its memory.

    Parameters
    ----------
    A : sparse array or matrix of shape (n_rows, n_columns)
        CSR, CSC, BSR and COO are checked; the other formats keep no index arrays that could be
        wrong.
    name : str, default="X"
        How the messages call the matrix.

    Raises
    ------
    TypeError
        If ``A`` is not sparse.
    ValueError
        If ``A`` is not two-dimensional, ``indptr`` has a wrong length or decreases, or an index
        lies outside the shape; the message names the row (for CSC: the column).

    Notes
    -----
    O(stored entries) time, O(n_rows) memory.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import check_sparse_structure
    >>> A = sp.csr_array([[0, 1], [1, 0]])
    >>> A.indices[1] = 7
    >>> check_sparse_structure(A)
    Traceback (most recent call last):
    ...
    ValueError: X is corrupt: row 1 has the column index 7, but there are 2 columns.
    """
    if not sp.issparse(A):
        raise TypeError(f"{name} must be a scipy sparse array or matrix; got {type(A).__name__}.")
    if A.ndim != 2:
        raise ValueError(
            f"{name} must be two-dimensional; got a sparse array of {A.ndim} dimension(s)."
        )
    if A.format == "csr":
        _check_compressed(A.indptr, A.indices, A.data, *A.shape, ("row", "column"), name)
    elif A.format == "csc":
        _check_compressed(A.indptr, A.indices, A.data, *A.shape[::-1], ("column", "row"), name)
    elif A.format == "bsr":
        height, width = A.blocksize
        n_rows, n_columns = A.shape[0] // height, A.shape[1] // width
        words = ("block row", "block column")
        _check_compressed(A.indptr, A.indices, A.data, n_rows, n_columns, words, name)
    elif A.format == "coo":
        for axis, (word, index) in enumerate(zip(("row", "column"), (A.row, A.col), strict=True)):
            bad = _first_outside(index, A.shape[axis])
            if bad is not None:
                raise ValueError(
                    f"{name} is corrupt: entry {bad} has the {word} index {index[bad]}, "
                    f"but there are {A.shape[axis]} {word}s."
                )
        if not len(A.row) == len(A.col) == len(A.data):
            raise ValueError(
                f"{name} is corrupt: its row, column and data arrays differ in length."
            )


def _first_outside(index, size):
    """Position of the first index outside ``range(size)``, or None."""
    if index.size == 0:
        return None
    if index.dtype.kind == "i" and 0 < size <= np.iinfo(index.dtype).max:
        # unsigned: negative ones are too large as well
        if index.view(f"u{index.itemsize}").max() < size:
            return None
    elif index.min() >= 0 and index.max() < size:
        return None
    return int(np.flatnonzero((index < 0) | (index >= size))[0])


def _check_compressed(indptr, indices, data, n_major, n_minor, words, name):
    major, minor = words
    if len(indptr) != n_major + 1:
        raise ValueError(
            f"{name} is corrupt: indptr has {len(indptr)} elements, but {n_major} {major}s need "
            f"{n_major + 1}."
        )
    if indptr[0] != 0:
        raise ValueError(f"{name} is corrupt: indptr starts at {indptr[0]} instead of 0.")
    n_stored = int(indptr[-1])
    if n_major > 1 or n_stored < 0:
        decreasing = indptr[1:] < indptr[:-1]
        if decreasing.any():
            raise ValueError(
                f"{name} is corrupt: indptr decreases at {major} {int(np.argmax(decreasing))}."
            )
    if len(indices) < n_stored or len(data) < n_stored:
        row = int(np.searchsorted(indptr, min(len(indices), len(data)), side="right")) - 1
        raise ValueError(
            f"{name} is corrupt: indptr counts {n_stored} entries, but there are {len(indices)} "
            "indices and "
            f"{len(data)} values; they end in {major} {row}."
        )
    bad = _first_outside(indices[:n_stored], n_minor)
    if bad is not None:
        raise ValueError(
            f"{name} is corrupt: {major} {_row_of(indptr, bad)} has the {minor} index "
            f"{indices[bad]}, "
            f"but there are {n_minor} {minor}s."
        )


def _row_of(indptr, position):
    """The row to which the stored entry at ``position`` belongs."""
    return int(np.searchsorted(indptr, position, side="right")) - 1


def _not_increasing(indptr, indices):
    """Mask of the stored entries not right of the one before in the same row; None if none."""
    if indices.size < 2:
        return None
    if len(indptr) == 2 and not np.count_nonzero(indices[1:] <= indices[:-1]):
        return None  # the usual case of a one-row prediction
    mask = np.empty(indices.size, dtype=bool)
    mask[0] = False
    np.less_equal(indices[1:], indices[:-1], out=mask[1:])
    # the first entry of a row has no predecessor
    starts = indptr[1:-1]
    mask[starts[starts < indices.size]] = False
    return mask if mask.any() else None


def _index_dtype(n_columns):
    return np.int32 if n_columns - 1 <= _INT32_MAX else np.int64


def _make_csr(data, indices, indptr, shape):
    """A `csr_array` on exactly these arrays.

    The constructor would bring both index arrays to one dtype, by a copy. And it takes longer than
    all checks of a single row, for which an empty one is copied instead.
    """
    if shape[0] == 1:
        empty = _empty_row(shape[1])
        out = type(empty).__new__(type(empty))
        out.__dict__.update(empty.__dict__)
    else:
        out = sp.csr_array(shape, dtype=data.dtype)
    out.data, out.indices, out.indptr = data, indices, indptr
    out.has_canonical_format = True
    return out


def _make_pattern(indices, indptr, shape):
    """A canonical pattern with these sorted and unique indices."""
    indices = np.ascontiguousarray(indices, dtype=_index_dtype(shape[1]))
    indptr = np.ascontiguousarray(indptr, dtype=np.int64)
    return _make_csr(np.ones(len(indices), dtype=np.uint8), indices, indptr, shape)


@functools.lru_cache(maxsize=16)
def _empty_row(n_columns):
    return sp.csr_array((1, n_columns), dtype=np.float32)


def _csr_arrays(A):
    """``(data, indices, indptr)`` of a checked CSR, without unused space at the end."""
    n_stored = int(A.indptr[-1])
    if len(A.data) == len(A.indices) == n_stored:
        return A.data, A.indices, A.indptr
    return A.data[:n_stored], A.indices[:n_stored], A.indptr


def _require_real(A, name):
    if A.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has the dtype {A.dtype}.")
    if A.dtype.kind not in "biuf":
        raise ValueError(f"{name} must have a numeric or boolean dtype; got {A.dtype}.")


def canonical_csr(A, dtype=np.float32, *, name="X"):
    """The same matrix as a canonical CSR array of finite values, copied only where needed.

    Canonical: column indices sorted and unique in each row, ``indptr`` int64, ``indices`` int32
    (int64 if there are more than 2**31 columns). Entries that are stored several times are added,
    as ``A.toarray()`` does. Explicit zeros are kept.

    Parameters
    ----------
    A : sparse array or matrix of shape (n_rows, n_columns), any format, numeric or boolean
        The input; it is not changed, and may be read-only or memory-mapped.
    dtype : numpy floating dtype, default=numpy.float32
        Of the values of the result.
    name : str, default="X"
        How the messages call the matrix.

    Returns
    -------
    csr_array of shape (n_rows, n_columns)
        ``A`` itself if it is canonical already. It may share memory with ``A``: do not write to it.

    Raises
    ------
    TypeError
        If ``A`` is not sparse.
    ValueError
        If the structure is corrupt (see `check_sparse_structure`), the dtype is complex or not a
        number, or a value is NaN, infinite, or too large for ``dtype``; the message names row and
        column.

    Notes
    -----
    O(stored entries) time, and O(entries log(entries of a row)) if the columns are not sorted.
    Memory: one byte an entry for the check, and a new array for each of the three that has to be
    converted.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import canonical_csr
    >>> A = sp.csr_array(
    ...     (np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    ... )
    >>> B = canonical_csr(A)
    >>> B.indices, B.data, B.indptr.dtype
    (array([0, 2], dtype=int32), array([2., 4.], dtype=float32), dtype('int64'))
    """
    check_sparse_structure(A, name)
    _require_real(A, name)
    source = A
    if A.format != "csr":
        A = A.tocsr()
    data, indices, indptr = _csr_arrays(A)
    if _not_increasing(indptr, indices) is not None:
        merged = sp.csr_array((data, indices, indptr), shape=A.shape, copy=True)
        merged.sum_duplicates()
        data, indices, indptr = _csr_arrays(merged)
    unconverted = data
    if data.dtype != dtype:
        with np.errstate(over="ignore"):
            data = data.astype(dtype)
    data = np.ascontiguousarray(data)
    indices = np.ascontiguousarray(indices, dtype=_index_dtype(A.shape[1]))
    indptr = np.ascontiguousarray(indptr, dtype=np.int64)
    if not _all_finite(data):
        _raise_not_finite(unconverted, data, indices, indptr, name)
    if isinstance(source, sp.csr_array) and (
        data is source.data and indices is source.indices and indptr is source.indptr
    ):
        return source
    return _make_csr(data, indices, indptr, A.shape)


def _all_finite(values):
    if values.size < 256:  # less than what it costs to silence a warning
        return np.count_nonzero(np.isfinite(values)) == values.size
    # A sum is finite only if all terms are: one fast pass without a temporary. It may overflow:
    # then look closer.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _describe(value):
    return "NaN" if np.isnan(value) else "infinity" if value > 0 else "-infinity"


def _raise_not_finite(unconverted, converted, indices, indptr, name):
    position = int(np.argmin(np.isfinite(converted)))
    place = f"(row {_row_of(indptr, position)}, column {indices[position]})"
    if np.isfinite(unconverted[position]):
        raise ValueError(
            f"Input {name} contains {unconverted[position]!s} {place}, a value too large for "
            f"{converted.dtype}. "
            "Scale the features."
        )
    raise ValueError(
        f"Input {name} contains {_describe(converted[position])} {place}. Remove or impute it "
        "before this step."
    )


def check_finite(values, *, name="X"):
    """Refuse NaN and infinity in a dense matrix, naming the first one's row and column.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns), floating
        It is not changed.
    name : str, default="X"
        How the messages call the matrix.

    Raises
    ------
    ValueError
        If a value is NaN or infinite.

    Notes
    -----
    One pass without a temporary if all is well; otherwise one byte a value.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.csr import check_finite
    >>> check_finite(np.array([[1.0, 2.0], [3.0, np.nan]]))
    Traceback (most recent call last):
    ...
    ValueError: Input X contains NaN (row 1, column 1). Remove or impute it before this step.
    """
    if _all_finite(values):
        return
    row, column = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
    raise ValueError(
        f"Input {name} contains {_describe(values[row, column])} (row {row}, column {column}). "
        "Remove or impute it before this step."
    )


def canonical_indicator(Y, *, name="Y"):
    """A label matrix as a canonical 0/1 CSR array.

    Parameters
    ----------
    Y : sparse array or matrix of any format, or ndarray, of shape (n_rows, n_labels)
        Boolean, integer or floating, with no other values than 0 and 1. Explicit zeros are dropped.
        It is not changed.
    name : str, default="Y"
        How the messages call the matrix.

    Returns
    -------
    csr_array of shape (n_rows, n_labels), uint8
        All stored values are 1; columns sorted and unique in each row; ``indptr`` int64,
        ``indices`` int32.

    Raises
    ------
    ValueError
        If a value is neither 0 nor 1 (NaN included), with row, column and value; if a pair is
        stored more than once in a matrix that is not boolean, because SciPy adds such entries, so
        that the value is 2 (boolean ones stay ``True``, and are merged); if the structure is
        corrupt or the dtype is not numeric or boolean.

    Notes
    -----
    O(stored entries) time and memory for a sparse ``Y``, whatever its number of columns. A dense
    ``Y`` costs O(n_rows * n_labels) time and at most three bytes of temporary memory an element.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.csr import canonical_indicator
    >>> Y = canonical_indicator(np.array([[0.0, 1.0], [1.0, 1.0]]))
    >>> Y.indices, Y.dtype
    (array([1, 0, 1], dtype=int32), dtype('uint8'))
    >>> canonical_indicator(np.array([[0, 1], [2, 0]]))
    Traceback (most recent call last):
    ...
    ValueError: Y must contain only 0 and 1; row 1, column 0 holds 2.
    """
    if sp.issparse(Y):
        return _canonical_sparse_indicator(Y, name)
    Y = np.asarray(Y)
    if Y.ndim != 2:
        raise ValueError(f"{name} must be two-dimensional; got an array of shape {Y.shape}.")
    if Y.dtype.kind == "O":
        try:
            Y = Y.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must contain only 0 and 1; it has the dtype object and its values are "
                f"not numbers ({error})."
            ) from error
    _require_indicator_dtype(Y, name)
    if Y.dtype.kind != "b":
        wrong = (Y != 0) & (Y != 1)
        if wrong.any():
            row, column = np.unravel_index(int(np.argmax(wrong)), Y.shape)
            _raise_not_indicator(row, column, Y[row, column], name)
    rows, columns = np.nonzero(Y)
    indptr = np.zeros(Y.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=Y.shape[0]), out=indptr[1:])
    indices = columns.astype(_index_dtype(Y.shape[1]))
    return _make_pattern(indices, indptr, Y.shape)


def canonical_targets(Y, *, name="Y"):
    """A label matrix that may hold soft targets, as a canonical CSR array.

    Parameters
    ----------
    Y : sparse array or matrix of any format, or ndarray, of shape (n_rows, n_labels)
        0/1 as for `canonical_indicator`, or floating with values in [0, 1]: the probability that
        the label is relevant. Explicit zeros are dropped. It is not changed.
    name : str, default="Y"
        How the messages call the matrix.

    Returns
    -------
    csr_array of shape (n_rows, n_labels)
        uint8 and all 1 if there are no other values than 0 and 1, else float32 in (0, 1]. Columns
        sorted and unique in each row; ``indptr`` int64, ``indices`` int32.

    Raises
    ------
    ValueError
        As `canonical_indicator`, and for a value outside [0, 1], with row, column and value.

    Notes
    -----
    As for `canonical_indicator`. Floating entries that a sparse matrix stores several times are
    added up, as SciPy reads them.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.csr import canonical_targets
    >>> canonical_targets(np.array([[0.0, 0.25], [1.0, 0.0]])).data
    array([0.25, 1.  ], dtype=float32)
    >>> canonical_targets(np.array([[0.0, 1.0]])).dtype
    dtype('uint8')
    """
    values = Y.data if sp.issparse(Y) and Y.format in ("csr", "csc", "coo", "bsr") else Y
    if getattr(values, "dtype", np.dtype(object)).kind not in "fO":
        return canonical_indicator(Y, name=name)
    if not sp.issparse(Y):
        values = np.asarray(Y)
        if values.dtype.kind == "O":
            try:
                values = values.astype(np.float64)
            except (TypeError, ValueError):
                return canonical_indicator(Y, name=name)
    elif values is Y:
        values = Y.tocoo().data
    if values.ndim > 2 or ((values == 0) | (values == 1)).all():
        return canonical_indicator(Y, name=name)
    if sp.issparse(Y):
        check_sparse_structure(Y, name)
        A = sp.csr_array(Y, dtype=np.float64, copy=True)  # what scipy sums or sorts is a copy
        A.sum_duplicates()
    else:
        A = sp.csr_array(values)
    wrong = ~((A.data >= 0) & (A.data <= 1))
    if wrong.any():
        position = int(np.argmax(wrong))
        row, column, value = _row_of(A.indptr, position), A.indices[position], A.data[position]
        raise ValueError(
            f"{name} must contain only 0 and 1, or soft targets between them; row {row}, column "
            f"{column} holds {value:g}."
        )
    A = canonical_csr(A, np.float32, name=name)
    if A.data.all():
        return A
    indices, indptr = _drop_zeros(A.data, A.indices, A.indptr)
    return _make_csr(A.data[A.data != 0], indices, indptr, A.shape)


def _require_indicator_dtype(Y, name):
    if Y.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must contain only 0 and 1, as booleans or numbers; got the dtype {Y.dtype}. "
            "sklearn.preprocessing.MultiLabelBinarizer(sparse_output=True) makes such a matrix of "
            "lists of labels."
        )


def _raise_not_indicator(row, column, value, name):
    raise ValueError(f"{name} must contain only 0 and 1; row {row}, column {column} holds {value}.")


def _canonical_sparse_indicator(Y, name):
    check_sparse_structure(Y, name)
    _require_indicator_dtype(Y, name)
    # COO adds what it stores twice when it is converted: keep it from wrapping around in a small
    # dtype.
    if Y.format == "coo" and Y.dtype.kind in "iu" and Y.dtype.itemsize < 8:
        Y = Y.astype(np.int64)
    Y = Y.tocsr()
    data, indices, indptr = _csr_arrays(Y)
    boolean = Y.dtype.kind == "b"
    if not boolean:
        wrong = (data != 0) & (data != 1)
        if wrong.any():
            position = int(np.argmax(wrong))
            _raise_not_indicator(_row_of(indptr, position), indices[position], data[position], name)
    indices, indptr = _drop_zeros(data, indices, indptr)
    suspect = _not_increasing(indptr, indices)
    if suspect is not None:
        indices, indptr, merged = _sorted_unique(indices, indptr, Y.shape)
        if merged is not None and not boolean:
            row, column = merged
            raise ValueError(
                f"{name} stores the pair of row {row} and column {column} more than once, which "
                "scipy reads as the sum "
                f"of the values, not as 1. Remove the repetitions, or make {name} boolean to have "
                "them merged."
            )
    return _make_pattern(indices, indptr, Y.shape)


def _drop_zeros(data, indices, indptr):
    """Index arrays of the entries whose value is not zero."""
    if data.all():
        return indices, indptr
    kept = data != 0
    counts = np.concatenate(([0], np.cumsum(kept)))
    return indices[kept], counts[indptr]


def _sorted_unique(indices, indptr, shape):
    """Index arrays with sorted, unique columns, and the first repeated pair or None."""
    pattern = sp.csr_array(
        (np.ones(len(indices), dtype=bool), indices, indptr), shape=shape, copy=True
    )
    pattern.sort_indices()
    _, indices, indptr = _csr_arrays(pattern)
    repeated = _not_increasing(indptr, indices)
    if repeated is None:
        return indices, indptr, None
    position = int(np.argmax(repeated))
    pair = _row_of(indptr, position), int(indices[position])
    return *_drop_zeros(~repeated, indices, indptr), pair


def canonical_pattern(P, shape, *, name="candidates"):
    """A set of (row, label) pairs as a canonical CSR array.

    A pair belongs to the set if a value other than zero is stored for it; the value itself (NaN and
    negative ones included) means nothing, and neither does storing it several times.

    Parameters
    ----------
    P : sparse array or matrix of any format
        The pairs. It is not changed.
    shape : (int, int)
        The shape that ``P`` must have: (n_rows, n_labels).
    name : str, default="candidates"
        How the messages call the matrix.

    Returns
    -------
    csr_array of shape (n_rows, n_labels), uint8
        All stored values are 1; columns sorted and unique in each row; ``indptr`` int64,
        ``indices`` int32.

    Raises
    ------
    TypeError
        If ``P`` is not sparse.
    ValueError
        If the shape differs or the structure is corrupt.

    Notes
    -----
    O(stored entries) time and memory.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import canonical_pattern
    >>> canonical_pattern(sp.coo_array(([5.0, -1.0], ([0, 0], [2, 1]))), (1, 3)).indices
    array([1, 2], dtype=int32)
    """
    check_sparse_structure(P, name)
    if P.shape != tuple(shape):
        raise ValueError(
            f"{name} must have the shape (n_rows, n_labels) = {tuple(int(s) for s in shape)}; got "
            f"{P.shape}."
        )
    if P.format != "csr":
        P = P.astype(bool).tocsr()
    data, indices, indptr = _csr_arrays(P)
    indices, indptr = _drop_zeros(data, indices, indptr)
    if _not_increasing(indptr, indices) is not None:
        indices, indptr, _ = _sorted_unique(indices, indptr, P.shape)
    return _make_pattern(indices, indptr, P.shape)


def subtract_pattern(A, B):
    """The pairs of ``A`` that are not in ``B``.

    Parameters
    ----------
    A, B : csr_array of shape (n_rows, n_labels)
        Canonical patterns, as `canonical_pattern` makes them.

    Returns
    -------
    csr_array of shape (n_rows, n_labels), uint8
        A canonical pattern.

    Notes
    -----
    O(a log b) time and O(a + b) memory for a and b entries.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import canonical_pattern, subtract_pattern
    >>> A = canonical_pattern(sp.csr_array([[1, 1, 0]]), (1, 3))
    >>> B = canonical_pattern(sp.csr_array([[0, 1, 1]]), (1, 3))
    >>> subtract_pattern(A, B).indices
    array([0], dtype=int32)
    """
    if A.nnz == 0 or B.nnz == 0:
        return A
    keys, removed = _pair_keys(A), _pair_keys(B)
    position = np.minimum(np.searchsorted(removed, keys), len(removed) - 1)
    indices, indptr = _drop_zeros(removed[position] != keys, A.indices, A.indptr)
    return _make_pattern(indices, indptr, A.shape)


def _pair_keys(A):
    """One increasing number for each stored pair of a canonical CSR."""
    rows = np.repeat(np.arange(A.shape[0], dtype=np.int64), np.diff(A.indptr))
    return rows * A.shape[1] + A.indices


def take_rows(X, rows):
    """Some rows of a matrix; a canonical CSR array stays one.

    Parameters
    ----------
    X : canonical csr_array or ndarray of shape (n_rows, n_columns)
        The matrix.
    rows : ndarray of int, shape (n_taken,), or slice
        Row numbers, in the wanted order.

    Returns
    -------
    csr_array or ndarray of shape (n_taken, n_columns)
        A view of ``X`` where a slice of step 1 was given, otherwise a copy.

    Notes
    -----
    O(n_taken + entries taken) time and memory.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import canonical_csr, take_rows
    >>> X = canonical_csr(sp.csr_array(np.eye(3)))
    >>> take_rows(X, np.array([2, 0])).toarray()
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    if not sp.issparse(X):
        return np.ascontiguousarray(X[rows])
    if isinstance(rows, slice):
        start, stop, step = rows.indices(X.shape[0])
        if step == 1:
            stop = max(start, stop)
            indptr = X.indptr[start : stop + 1]
            entries = slice(int(indptr[0]), int(indptr[-1]))
            shape = (stop - start, X.shape[1])
            return _make_csr(X.data[entries], X.indices[entries], indptr - indptr[0], shape)
        rows = np.arange(start, stop, step)
    counts = X.indptr[rows + 1] - X.indptr[rows]
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    entries = np.repeat(X.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
    return _make_csr(X.data[entries], X.indices[entries], indptr, (len(rows), X.shape[1]))


def to_dense(scores, fill=-np.inf, dtype=None):
    """Sparse scores as a dense array, where an absent entry is ``fill`` instead of 0.

    In a sparse matrix of margins an absent entry means "not a candidate". ``scores.toarray()``
    would make it 0 and so rank it above every negative margin.

    Parameters
    ----------
    scores : sparse array or matrix of shape (n_rows, n_labels)
        Margins (``fill=-inf``) or probabilities (``fill=0``). Explicit zeros are scores like any
        other.
    fill : float, default=-inf
        Value of the absent entries.
    dtype : numpy dtype or None, default=None
        Of the result; None keeps the dtype of ``scores``, which must then be able to hold ``fill``.

    Returns
    -------
    ndarray of shape (n_rows, n_labels)
        A new array.

    Raises
    ------
    TypeError
        If ``scores`` is not sparse.
    ValueError
        If the structure is corrupt or ``fill`` does not fit the dtype.

    Notes
    -----
    O(n_rows * n_labels) time and memory: for small data, plots and scikit-learn metrics that need a
    dense array.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.csr import to_dense
    >>> to_dense(sp.csr_array([[0.0, -1.5], [2.0, 0.0]]))
    array([[-inf, -1.5],
           [ 2. , -inf]])
    """
    check_sparse_structure(scores, "scores")
    scores = scores.tocsr()
    if not scores.has_canonical_format:
        scores = scores.copy()
        scores.sum_duplicates()
    dtype = np.dtype(scores.dtype if dtype is None else dtype)
    if dtype.kind != "f" and not (np.isfinite(fill) and np.array(fill).astype(dtype) == fill):
        raise ValueError(f"The dtype {dtype} cannot hold fill={fill}; pass a floating dtype.")
    out = np.full(scores.shape, fill, dtype=dtype)
    data, indices, indptr = _csr_arrays(scores)
    out[np.repeat(np.arange(scores.shape[0]), np.diff(indptr)), indices] = data
    return out
