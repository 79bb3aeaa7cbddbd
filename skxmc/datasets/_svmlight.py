"""Multilabel svmlight / libsvm files."""

import numpy as np

from skxmc.datasets._repository import check_dtype, check_width
from skxmc.datasets._sparse_text import (
    check_pair,
    open_blocks,
    open_for_writing,
    parse_rows,
    to_csr,
    write_rows,
)


def load_svmlight_multilabel(
    path, *, zero_based="auto", n_features=None, n_labels=None, dtype=np.float32
):
    r"""Read a multilabel svmlight (libsvm) file.

    Lines are ``label,label feature:value feature:value ... # comment``. What
    :func:`sklearn.datasets.load_svmlight_file` returns as a list of tuples of labels comes back as
    an indicator matrix, and the file is parsed at the speed of :func:`load_xmc_repository`.

    Parameters
    ----------
    path : str, path-like or file open in binary mode
        The file, plain or gzip.
    zero_based : bool or "auto", default="auto"
        Whether features count from 0. ``"auto"`` follows scikit-learn: they count from 1 when no
        feature 0 occurs. Labels are never shifted: label 3 is column 3 of Y.
    n_features, n_labels : int or None, default=None
        Width of X and Y; default: the largest index of the file + 1.
    dtype : {np.float32, np.float64}, default=np.float32
        Dtype of X.

    Returns
    -------
    X : csr_array of shape (n_rows, n_features)
        Features, sorted within rows.
    Y : csr_array of shape (n_rows, n_labels), dtype uint8
        Labels, 1 where present.

    Raises
    ------
    ValueError
        With the number of the line, as in :func:`load_xmc_repository`. ``qid`` is not supported,
        nor are labels that are not non-negative integers.

    See Also
    --------
    dump_svmlight_multilabel : Write this format.

    Notes
    -----
    Lines without any character and lines with a comment only are skipped. A line that holds
    a space only is a row without labels and features: scikit-learn's writer makes such lines for
    empty rows (and its reader skips them, which loses the row).

    Cost in time and memory as for :func:`load_xmc_repository`.

    Examples
    --------
    >>> import io
    >>> from skxmc.datasets import load_svmlight_multilabel
    >>> X, Y = load_svmlight_multilabel(io.BytesIO(b"0,2 1:0.5 3:1  # first\n1 2:4\n"))
    >>> X.toarray()
    array([[0.5, 0. , 1. ],
           [0. , 4. , 0. ]], dtype=float32)
    >>> Y.toarray()
    array([[1, 0, 1],
           [0, 1, 0]], dtype=uint8)
    """
    if not isinstance(zero_based, (bool, np.bool_)) and zero_based != "auto":
        raise ValueError(f"zero_based must be True, False or 'auto', got {zero_based!r}")
    dtype = check_dtype(dtype)
    n_features = check_width(n_features, "n_features")
    n_labels = check_width(n_labels, "n_labels")
    with open_blocks(path) as (name, blocks):
        rows = parse_rows(blocks, name, comments=True, dtype=dtype)
    if zero_based == "auto":
        zero_based = rows.indices.size == 0 or rows.indices.min() == 0
    return to_csr(
        rows,
        feature_base=0 if zero_based else 1,
        label_base=0,
        n_features=n_features,
        n_labels=n_labels,
        why="n_features or n_labels sets the limit",
    )


def dump_svmlight_multilabel(X, Y, path, *, zero_based=True, precision=None):
    r"""Write a multilabel svmlight (libsvm) file.

    Parameters
    ----------
    X : array-like or sparse of shape (n_rows, n_features)
        Features, finite numbers.
    Y : array-like or sparse of shape (n_rows, n_labels)
        Labels, values 0 and 1 only; column j is written as label j.
    path : str, path-like or file open in binary mode
        Where to write. A path that ends with ``.gz`` is compressed.
    zero_based : bool, default=True
        Whether features count from 0. Labels always do.
    precision : int or None, default=None
        Significant digits of a value, 1 to 17. ``None``: the fewest that read back as the same
        number, in the dtype of X.

    Raises
    ------
    ValueError
        If X holds NaN or infinity, Y other values than 0 and 1, or their rows differ.

    See Also
    --------
    load_svmlight_multilabel : Read this format.

    Notes
    -----
    Time is linear in the stored entries (about 6 MB/s on one core). Beyond X and Y, the memory is
    that of 4,096 rows as text.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from skxmc.datasets import dump_svmlight_multilabel
    >>> file = io.BytesIO()
    >>> dump_svmlight_multilabel(np.array([[0.5, 0.0]]), np.array([[0, 1, 1]]), file)
    >>> file.getvalue()
    b'1,2 0:0.5\n'
    """
    X, Y = check_pair(X, Y)
    with open_for_writing(path) as stream:
        write_rows(
            stream, X, Y, feature_base=0 if zero_based else 1, label_base=0, precision=precision
        )
