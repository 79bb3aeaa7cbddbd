"""Texts as input of a neural model: checks, token ids of many texts, batches of similar length."""

import numbers
from collections.abc import Mapping, Set

import numpy as np

#: Texts are cut after this many characters per token of ``max_length`` before they are tokenised,
#: so that one enormous document costs neither minutes nor gigabytes.
CHARACTERS_PER_TOKEN = 1000


def check_texts(X, name="X", *, min_rows=0):
    """Return texts as a list of `str`, or say which row is none.

    Parameters
    ----------
    X : sequence of str of length n
        A list or tuple, a one-dimensional NumPy array of strings or objects, a pandas Series of any
        string dtype. Empty strings are texts.
    name : str, default="X"
        What messages call it.
    min_rows : int, default=0
        How many texts there have to be.

    Returns
    -------
    list of str of length n

    Raises
    ------
    TypeError
        If `X` is a single text or no sequence, or an entry is not a `str` (None, NaN, bytes, ...).
    ValueError
        If `X` has more than one dimension, too few rows, or a text is not valid Unicode (it has
        half of a surrogate pair, as from a file read with ``errors="surrogateescape"``).

    Notes
    -----
    Cost: one pass over the texts.

    Examples
    --------
    >>> from skxmc.neural._text import check_texts
    >>> check_texts(("a text", ""))
    ['a text', '']
    >>> check_texts(["a text", None])
    Traceback (most recent call last):
    ...
    TypeError: Row 1 of X is a missing value (None); every row has to be a str. ...
    """
    if isinstance(X, (str, bytes)):
        raise TypeError(
            f"{name} is a single {type(X).__name__}; pass a list of str, [text] for one row."
        )
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; texts are a sequence with one str a row. Of a "
            "table, pass the column that holds the texts."
        )
    if isinstance(X, (Mapping, Set)) or not hasattr(X, "__len__") or not hasattr(X, "__iter__"):
        raise TypeError(
            f"{name} has to be a sequence of str, got {type(X).__name__}; for an iterator pass "
            f"list({name})."
        )
    texts = X.tolist() if hasattr(X, "tolist") else list(X)
    if len(texts) < min_rows:
        raise ValueError(f"{name} has {len(texts)} rows; at least {min_rows} are needed.")
    for row, text in enumerate(texts):
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError(_not_a_text(text, row, name))
            texts[row] = str(text)
    _check_unicode(texts, name)
    return texts


def object_array(texts):
    """Texts as the array of objects that the checks of scikit-learn's kind pass on.

    Examples
    --------
    >>> from skxmc.neural._text import object_array
    >>> object_array(["a", "text"]).shape
    (2,)
    """
    rows = np.empty(len(texts), dtype=object)
    rows[:] = texts
    return rows


def _not_a_text(text, row, name):
    start = f"Row {row} of {name} is "
    if isinstance(text, bytes):
        return start + 'bytes; decode it first, e.g. text.decode("utf-8").'
    missing = text is None or type(text).__name__ in ("NAType", "NaTType")
    if missing or (isinstance(text, numbers.Real) and text != text):
        return start + (
            f"a missing value ({text!r}); every row has to be a str. Remove the row, or make it an "
            "empty string."
        )
    return start + f"of type {type(text).__name__}; every row has to be a str."


def _check_unicode(texts, name):
    for row, text in enumerate(texts):
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Row {row} of {name} is not valid Unicode: character {error.start} is the "
                "surrogate "
                f"{text[error.start]!a} alone. Read the text with its right encoding, or replace it"
                ' by text.encode(errors="replace").decode().'
            ) from None


class TokenRows:
    """Token ids of many texts: rows of different lengths in one array.

    Parameters
    ----------
    ids : int32 array of shape (n_tokens,)
        Row after row.
    indptr : int64 array of shape (n_rows + 1,)
        Row i is ``ids[indptr[i]:indptr[i + 1]]``.

    Examples
    --------
    >>> from skxmc.neural._text import TokenRows
    >>> rows = TokenRows.from_lists([[5, 7], [], [9]])
    >>> len(rows), rows.lengths.tolist(), rows[[2, 0]].ids.tolist()
    (3, [2, 0, 1], [9, 5, 7])
    """

    def __init__(self, ids, indptr):
        self.ids = ids
        self.indptr = indptr

    @classmethod
    def from_lists(cls, lists):
        """Return the rows of a sequence of sequences of int."""
        indptr = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in lists], out=indptr[1:])
        ids = np.empty(indptr[-1], dtype=np.int32)
        for row, start, stop in zip(lists, indptr[:-1], indptr[1:], strict=True):
            ids[start:stop] = row
        return cls(ids, indptr)

    def __len__(self):
        return len(self.indptr) - 1

    @property
    def shape(self):
        """Number of rows, as a tuple: what scikit-learn asks of rows."""
        return (len(self),)

    @property
    def lengths(self):
        """Number of tokens of each row, int64 array of shape (n_rows,)."""
        return np.diff(self.indptr)

    def __getitem__(self, rows):
        """Return the rows of an index array, a boolean mask or a slice."""
        rows = np.arange(len(self))[rows]
        if rows.ndim != 1:
            raise TypeError("Index TokenRows by a slice or a one-dimensional array.")
        return TokenRows.from_lists([self.row(i) for i in rows])

    def row(self, i):
        """Return the token ids of one row (a view)."""
        return self.ids[self.indptr[i] : self.indptr[i + 1]]

    def padded(self, rows, pad_id):
        """Return rows as a rectangle.

        Parameters
        ----------
        rows : int array of shape (n,)
        pad_id : int
            Stands after the end of the shorter rows.

        Returns
        -------
        ids : int64 array of shape (n, length of the longest)
        mask : int64 array of the same shape
            1 for tokens, 0 for padding.
        """
        lengths = self.lengths[rows]
        width = int(lengths.max(initial=0))
        mask = np.arange(width) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = self[rows].ids
        return ids, mask.astype(np.int64)


class WindowRows:
    """Token ids of many texts, each cut into windows.

    Parameters
    ----------
    windows : TokenRows
        Those of the first text, of the second, ...
    indptr : int64 array of shape (n_texts + 1,)
        Text i has the windows ``indptr[i]`` to ``indptr[i + 1] - 1``, at least one.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._text import TokenRows, WindowRows
    >>> windows = TokenRows.from_lists([[5, 7], [7, 2], [9]])
    >>> rows = WindowRows(windows, np.array([0, 2, 3]))
    >>> len(rows), rows.lengths.tolist(), rows[[1]].windows.ids.tolist()
    (2, [4, 1], [9])
    """

    def __init__(self, windows, indptr):
        self.windows = windows
        self.indptr = indptr

    def __len__(self):
        return len(self.indptr) - 1

    @property
    def shape(self):
        """Number of texts, as a tuple."""
        return (len(self),)

    @property
    def lengths(self):
        """Number of tokens in the windows of each text, int64 array of shape (n_texts,)."""
        return (
            np.add.reduceat(self.windows.lengths, self.indptr[:-1])
            if len(self)
            else (np.zeros(0, dtype=np.int64))
        )

    def __getitem__(self, rows):
        """Return the texts of an index array, a boolean mask or a slice."""
        rows = np.arange(len(self))[rows]
        if rows.ndim != 1:
            raise TypeError("Index WindowRows by a slice or a one-dimensional array.")
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate(([0], np.cumsum(counts)))
        chosen = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return WindowRows(self.windows[chosen], indptr)


def length_buckets(lengths, *, max_tokens=None, waste=0.2, min_rows=8):
    """Cut rows into batches of similar length, so that little padding is computed.

    Parameters
    ----------
    lengths : int array of shape (n,)
        Tokens of each row. Rows of length 0 are in no bucket.
    max_tokens : int, default=None
        Most cells of a bucket, padding included; a longer row stands alone. None: no limit.
    waste : float, default=0.2
        Share of padding above which a bucket is closed if it has `min_rows`.
    min_rows : int, default=8

    Returns
    -------
    list of int64 arrays
        Indices of rows. Every row with tokens is in exactly one, in order of length, ties by
        index: the same buckets for the same lengths.

    Examples
    --------
    >>> from skxmc.neural._text import length_buckets
    >>> [bucket.tolist() for bucket in length_buckets([9, 2, 0, 2, 8], min_rows=2)]
    [[1, 3], [4, 0]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    buckets, start, real = [], 0, 0
    for stop, row in enumerate(order):
        cells = (stop - start + 1) * lengths[row]
        n_rows = stop - start
        wasteful = n_rows >= min_rows and cells - real - lengths[row] > waste * cells
        if n_rows and (wasteful or (max_tokens is not None and cells > max_tokens)):
            buckets.append(order[start:stop])
            start, real = stop, 0
        real += lengths[row]
    if start < len(order):
        buckets.append(order[start:])
    return buckets


def is_front(candidate):
    """Return whether an object follows the protocol of what turns rows into features.

    Examples
    --------
    >>> from skxmc.neural._text import is_front
    >>> is_front("a/folder")
    False
    """
    methods = ("forward", "backward", "step", "state", "load_state", "transform")
    return hasattr(candidate, "n_outputs") and all(
        callable(getattr(candidate, method, None)) for method in methods
    )
