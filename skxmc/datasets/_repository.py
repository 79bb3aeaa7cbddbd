"""The text format of the extreme classification repository."""

import numpy as np

from skxmc.datasets._sparse_text import (
    MAX_INDEX,
    check_pair,
    open_blocks,
    open_for_writing,
    parse_rows,
    to_csr,
    write_rows,
)


def load_xmc_repository(
    path, *, one_based=False, header="auto", n_features=None, n_labels=None, dtype=np.float32
):
    r"""Read a data set in the text format of the extreme classification repository.

    The file has one line per row, ``label,label feature:value feature:value ...``, under an
    optional header ``n_rows n_features n_labels``. A row without labels starts with a space (or
    directly with a feature). Plain and gzip files are told apart by their first bytes.

    Parameters
    ----------
    path : str, path-like or file open in binary mode
        The file.
    one_based : bool or "auto", default=False
        Whether both labels and features count from 1. ``"auto"`` decides ``True`` only where the
        file proves it: no index is 0, and a label equals `n_labels` or a feature equals
        `n_features` (from the header or the parameter). Every ambiguous file is taken as
        zero-based, as the repository's own files are.
    header : bool or "auto", default="auto"
        Whether the first line is a header. ``"auto"``: it is one when it consists of three
        integers (no row can look like that).
    n_features, n_labels : int or None, default=None
        Width of X and Y for a file without a header; default: the largest index of the file + 1.
        Where the file has a header they must agree with it.
    dtype : {np.float32, np.float64}, default=np.float32
        Dtype of X. Each value is the one that Python's ``float`` gives, cast to `dtype`.

    Returns
    -------
    X : csr_array of shape (n_rows, n_features)
        Features, sorted within rows. Zeros written in the file stay stored.
    Y : csr_array of shape (n_rows, n_labels), dtype uint8
        Labels, 1 where present, sorted within rows.

    Raises
    ------
    ValueError
        With the number of the line, counted from 1, where the file is malformed: an index or
        value that is not a number, NaN, infinite or too large for `dtype`; a negative index or
        one out of range; a missing colon; a feature that occurs twice in a row; more or
        fewer rows than the header says; truncated or corrupt gzip data.
    TypeError
        If `path` is neither a path nor a binary file.

    See Also
    --------
    dump_xmc_repository : Write this format.
    load_svmlight_multilabel : The same with comments and without a header.

    Notes
    -----
    Features and labels of a row may come in any order. A label repeated within a row counts once;
    a repeated feature is an error, because its value would be ambiguous.

    An empty line inside the file is a row without labels and features. Empty lines at the end are
    ignored, unless the header asks for more rows. A line with a space in it is always a row.

    The file is read in blocks of 16 MiB, on one core. Time is linear in its size: about
    80 MB/s, 45 MB/s through gzip, 11 MB/s for float64 written with 17 digits. Peak memory is
    about 1.5 times that of the result, plus 150 MB.

    Examples
    --------
    >>> import io
    >>> from skxmc.datasets import load_xmc_repository
    >>> X, Y = load_xmc_repository(io.BytesIO(b"2 3 4\n0,3 0:0.5 2:1\n 1:2.5\n"))
    >>> X.toarray()
    array([[0.5, 0. , 1. ],
           [0. , 2.5, 0. ]], dtype=float32)
    >>> Y.toarray()
    array([[1, 0, 0, 1],
           [0, 0, 0, 0]], dtype=uint8)
    """
    if not isinstance(one_based, (bool, np.bool_)) and one_based != "auto":
        raise ValueError(f"one_based must be True, False or 'auto', got {one_based!r}")
    if not isinstance(header, (bool, np.bool_)) and header != "auto":
        raise ValueError(f"header must be True, False or 'auto', got {header!r}")
    dtype = check_dtype(dtype)
    n_features = check_width(n_features, "n_features")
    n_labels = check_width(n_labels, "n_labels")

    with open_blocks(path) as (name, blocks):
        first = next(blocks, b"")
        if not first and header is not False:
            raise ValueError(f"{name}: the file is empty")
        line, _, rest = first.partition(b"\n")
        sizes = None if header is False else _parse_header(line)
        if header is True and sizes is None:
            raise ValueError(
                f"{name}, line 1: expected a header 'n_rows n_features n_labels', got"
                f" {line[:40].decode('utf-8', 'replace')!r}"
            )
        if sizes is not None:
            first = rest
            for which, value in zip(("n_features", "n_labels"), sizes[1:], strict=True):
                given = n_features if which == "n_features" else n_labels
                if value > MAX_INDEX + 1:
                    raise ValueError(f"{name}, line 1: {which} {value} is too large")
                if given is not None and given != value:
                    raise ValueError(
                        f"{name}, line 1: the header says {which}={value}, the parameter {given}"
                    )
            n_features, n_labels = sizes[1:]
        rows = parse_rows(
            _chain(first, blocks),
            name,
            comments=False,
            dtype=dtype,
            first_line=1 if sizes is None else 2,
        )

    rows = _drop_trailing(rows, None if sizes is None else sizes[0])
    if one_based == "auto":
        one_based = _proves_one_based(rows, n_features, n_labels)
    source = "the header" if sizes is not None else "n_features or n_labels"
    why = f"{source} sets the limit (file read as {'one' if one_based else 'zero'}-based"
    why += ")" if one_based else "; if it counts from 1, pass one_based=True)"
    return to_csr(
        rows,
        feature_base=int(one_based),
        label_base=int(one_based),
        n_features=n_features,
        n_labels=n_labels,
        why=why,
    )


def dump_xmc_repository(X, Y, path, *, one_based=False, header=True, precision=None):
    r"""Write a data set in the text format of the extreme classification repository.

    Parameters
    ----------
    X : array-like or sparse of shape (n_rows, n_features)
        Features, finite numbers. Stored zeros are written.
    Y : array-like or sparse of shape (n_rows, n_labels)
        Labels, values 0 and 1 only.
    path : str, path-like or file open in binary mode
        Where to write. A path that ends with ``.gz`` is compressed.
    one_based : bool, default=False
        Whether labels and features count from 1.
    header : bool, default=True
        Whether to write the line ``n_rows n_features n_labels``. Without it the reader cannot know
        of empty columns at the right end of X and Y.
    precision : int or None, default=None
        Significant digits of a value, 1 to 17. ``None``: the fewest that read back as the same
        number, in the dtype of X.

    Raises
    ------
    ValueError
        If X holds NaN or infinity, Y other values than 0 and 1, or their rows differ.

    See Also
    --------
    load_xmc_repository : Read this format.

    Notes
    -----
    Time is linear in the stored entries (about 6 MB/s on one core). Beyond X and Y, the memory is
    that of 4,096 rows as text.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from skxmc.datasets import dump_xmc_repository
    >>> file = io.BytesIO()
    >>> dump_xmc_repository(np.array([[0.5, 0.0]]), np.array([[0, 1, 1]]), file)
    >>> file.getvalue()
    b'1 2 3\n1,2 0:0.5\n'
    """
    X, Y = check_pair(X, Y)
    with open_for_writing(path) as stream:
        if header:
            stream.write(b"%d %d %d\n" % (X.shape[0], X.shape[1], Y.shape[1]))
        base = int(bool(one_based))
        write_rows(stream, X, Y, feature_base=base, label_base=base, precision=precision)


def check_dtype(dtype):
    """Return float32 or float64 as a dtype."""
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def check_width(width, name):
    """Return a number of columns, or None."""
    if width is None:
        return None
    if isinstance(width, (bool, np.bool_)) or not isinstance(width, (int, np.integer)):
        raise TypeError(f"{name} must be an int or None, got {width!r}")
    if not 0 <= width <= MAX_INDEX + 1:
        raise ValueError(f"{name} must be between 0 and {MAX_INDEX + 1}, got {width}")
    return int(width)


def _parse_header(line):
    """Return the three integers of a header line, or None."""
    fields = line.split()
    if len(fields) != 3 or not all(field.isdigit() and len(field) < 19 for field in fields):
        return None
    return tuple(map(int, fields))


def _chain(first, blocks):
    if first:
        yield first
    yield from blocks


def _drop_trailing(rows, n_rows):
    """Drop empty lines at the end; check the number of rows against the header."""
    found = rows.lines.size
    if n_rows is None:
        keep = found - rows.n_trailing
    else:
        if found < n_rows:
            raise ValueError(
                f"{rows.name}: the header says {n_rows} rows, the file has"
                f" {found - rows.n_trailing}"
            )
        beyond = (np.diff(rows.indptr)[n_rows:] > 0) | (np.diff(rows.label_indptr)[n_rows:] > 0)
        if beyond.any():
            line = rows.lines[n_rows + int(np.argmax(beyond))]
            raise ValueError(
                f"{rows.name}, line {line}: more rows than the {n_rows} that the header says"
            )
        keep = n_rows
    return rows._replace(
        label_indptr=rows.label_indptr[: keep + 1],
        indptr=rows.indptr[: keep + 1],
        lines=rows.lines[:keep],
    )


def _proves_one_based(rows, n_features, n_labels):
    proved = False
    for indices, width in ((rows.indices, n_features), (rows.label_indices, n_labels)):
        if indices.size:
            if indices.min() == 0:
                return False
            proved = proved or (width is not None and indices.max() == width)
    return bool(proved)
