"""Data files of the command line, read whole or in chunks.

===========  =============================================================================
format       what it is
===========  =============================================================================
repository   ``label,label feature:value ...`` under an optional header of three integers
svmlight     the same with comments and without a header
folder       a folder of `skxmc.datasets.load_folder`
tsv          ``text<TAB>label,label``, one document a line
jsonl        one JSON object a line: ``{"text": ..., "labels": [...], "id": ...}``
text         one document a line; labels, if any, in a file of as many lines
===========  =============================================================================

Files may be compressed with gzip; ``-`` is standard input.
"""

import contextlib
import gzip
import io
import json
import os
import re
import sys
import zlib
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc._cli._errors import data_error, usage_error
from skxmc.datasets import load_folder, load_svmlight_multilabel, load_xmc_repository
from skxmc.datasets._repository import _drop_trailing
from skxmc.datasets._sparse_text import MAX_INDEX, parse_rows, to_csr
from skxmc.ops.csr import take_rows

FORMATS = ("repository", "svmlight", "folder", "tsv", "jsonl", "text")
TEXT_FORMATS = ("tsv", "jsonl", "text")

_SUFFIXES = {
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".svm": "svmlight",
    ".svmlight": "svmlight",
    ".libsvm": "svmlight",
    ".xmc": "repository",
}
_HEADER = re.compile(rb"\s*\d{1,18}\s+\d{1,18}\s+\d{1,18}\s*")
_SPARSE_LINE = re.compile(rb"(\d+(,\d+)*)?([ \t]+\d+:[-+.\deE]+)+\s*")
_MAX_LINE = 1 << 26
_PEEK = 1 << 16
CHUNK_BYTES = 1 << 24


class Chunk(NamedTuple):
    """Some rows of a data file.

    Attributes
    ----------
    X : list of str, or csr_array of shape (n_rows, n_features)
    labels : list of list of str (texts), csr_array of shape (n_rows, any) (numbers), or None
    ids : list of str, or None
    n_bytes : int
        Of the file that they took, for the progress bar.
    """

    X: object
    labels: object
    ids: list | None
    n_bytes: int

    @property
    def n_rows(self):
        return len(self.X) if isinstance(self.X, list) else self.X.shape[0]


class Source:
    """A data file whose format is known.

    Parameters
    ----------
    path : str
        A file, a folder, or "-".
    format : str or None
        One of FORMATS; None finds out.
    labels : str or None
        A file with the labels of the rows of a "text".
    separator : str, default=","
        Between the labels of "tsv" and "text".
    split : {"train", "test"}
        Of a folder.
    prefer_text : bool or None
        Whether the rows of a folder are its texts; None: if it has no features.
    """

    def __init__(
        self, path, format=None, *, labels=None, separator=",", split="test", prefer_text=None
    ):
        self.path = os.fspath(path)
        self.labels_path = labels
        self.separator = separator
        self.split = split
        self.prefer_text = prefer_text
        if format is not None and format not in FORMATS:
            raise usage_error(f"--format is one of {', '.join(FORMATS)}; got {format!r}.")
        if separator == "" or "\t" in separator or "\n" in separator:
            raise usage_error("--separator must be a character other than a tab or a new line.")
        if self.path != "-" and not os.path.exists(self.path):
            raise data_error(f"{self.path}: no such file or folder.")
        self.format = self._find_format() if format is None else format
        if labels is not None and self.format != "text":
            raise usage_error(f"--labels belongs to --format text, not to {self.format}.")
        if self.path == "-" and self.format == "folder":
            raise usage_error("A folder cannot be read from standard input.")

    @property
    def is_text(self):
        """Whether the rows are texts."""
        if self.format == "folder":
            return self._folder_part("X") is None or bool(
                self.prefer_text and self._folder_part("texts") is not None
            )
        return self.format in TEXT_FORMATS

    @property
    def label_names(self):
        """Names of all labels of a folder; None where it has none, or is a file."""
        names = self._folder().labels if self.format == "folder" else None
        if names is None:
            return None
        if len(set(names)) < len(names):
            raise data_error(f"{self.path}: two labels have the same name.")
        return list(names)

    @property
    def label_texts(self):
        """What the labels mean, by their names, where a folder tells it."""
        texts = self._folder().label_texts if self.format == "folder" else None
        if texts is None:
            return {}
        return dict(zip(self.label_names or map(str, range(len(texts))), texts))

    @property
    def n_bytes(self):
        """Size of the input, where it is known."""
        if self.path == "-" or os.path.isdir(self.path):
            return None
        return os.path.getsize(self.path)

    # ------------------------------------------------------------------ formats

    def _find_format(self):
        if self.path == "-":
            raise usage_error("--format is needed for standard input.")
        if os.path.isdir(self.path):
            return "folder"
        if self.labels_path is not None:
            return "text"
        base = self.path[:-3] if self.path.endswith(".gz") else self.path
        suffix = os.path.splitext(base)[1].lower()
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
        with _open(self.path) as stream:
            first = _guard(self.path, lambda: stream.readline(_PEEK), 1)
        if _HEADER.fullmatch(first) or _SPARSE_LINE.fullmatch(first):
            return "repository"
        return "text"

    # ------------------------------------------------------------------ folders

    def _folder(self):
        if not hasattr(self, "_data"):
            self._data = load_folder(self.path)
        return self._data

    def _folder_part(self, what):
        name = f"{self.split}_{what}" if what in ("texts", "ids") else f"{what}_{self.split}"
        return self._folder()[name]

    def _folder_chunks(self, chunk_bytes):
        X = self._folder_part("texts") if self.is_text else self._folder_part("X")
        Y, ids = self._folder_part("Y"), self._folder_part("ids")
        if X is None:
            raise data_error(f"{self.path}: the folder has no {self.split} rows.")
        names = self._folder().labels
        n_rows = len(X) if isinstance(X, list) else X.shape[0]
        size = sum(map(len, X)) if isinstance(X, list) else 8 * X.nnz
        step = max(1, int(n_rows * min(1.0, chunk_bytes / max(1, size))))
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            y = None if Y is None else take_rows(Y, rows)
            if y is not None and self.is_text:
                y = [
                    [names[j] if names else str(j) for j in y.indices[a:b]]
                    for a, b in zip(y.indptr[:-1], y.indptr[1:])
                ]
            part = X[rows] if isinstance(X, list) else take_rows(X, rows)
            yield Chunk(part, y, None if ids is None else ids[rows], 0)

    # ------------------------------------------------------------------ reading

    def chunks(self, *, n_features=None, chunk_bytes=CHUNK_BYTES):
        """Yield the rows in pieces of about ``chunk_bytes`` of the file.

        Parameters
        ----------
        n_features : int or None
            Width of X, which a file without a header does not tell.
        chunk_bytes : int
            At least one line is read.

        Raises
        ------
        ValueError
            With the number of the line that is wrong.
        """
        if self.format == "folder":
            yield from self._folder_chunks(chunk_bytes)
        elif self.format in ("repository", "svmlight"):
            yield from self._sparse_chunks(n_features, chunk_bytes)
        else:
            yield from self._text_chunks(chunk_bytes)

    def _sparse_chunks(self, n_features, chunk_bytes):
        is_repository = self.format == "repository"
        line, limit, n_labels, expected, n_rows = 1, n_features, None, None, 0
        n_empty = 0  # lines at the end of the last block: rows only if others follow
        with _open(self.path) as stream:
            for block in _blocks(stream, self.path, chunk_bytes):
                n_bytes = len(block)
                if line == 1 and is_repository:
                    first, _, rest = block.partition(b"\n")
                    if _HEADER.fullmatch(first):
                        expected, width, n_labels = map(int, first.split())
                        if n_features is not None and width != n_features:
                            raise ValueError(
                                f"{self.path}, line 1: the header says {width} features, the model "
                                f"has {n_features}"
                            )
                        limit, block, line = min(width, MAX_INDEX + 1), rest, 2
                rows = parse_rows(
                    [b"\n" * n_empty + block] if block else [],
                    self.path,
                    comments=not is_repository,
                    dtype=np.float32,
                    first_line=line - n_empty,
                )
                line += block.count(b"\n")
                n_empty = 0
                if expected is None:
                    n_empty, rows = rows.n_trailing, _drop_trailing(rows, None)
                X, Y = to_csr(
                    rows,
                    feature_base=0,
                    label_base=0,
                    n_features=limit,
                    n_labels=n_labels,
                    why="so many has the model or the header",
                )
                n_rows += X.shape[0]
                if expected is not None and n_rows > expected:
                    extra = n_rows - expected
                    if X[-extra:].nnz or Y[-extra:].nnz:
                        raise ValueError(
                            f"{self.path}: more rows than the {expected} that the header says"
                        )
                    X, Y, n_rows = X[:-extra], Y[:-extra], expected
                if X.shape[0]:
                    yield Chunk(X, Y, None, n_bytes)
        if expected is not None and n_rows < expected:
            raise ValueError(f"{self.path}: the header says {expected} rows, the file has {n_rows}")

    def _text_chunks(self, chunk_bytes):
        parse = {"tsv": self._tsv, "jsonl": self._jsonl, "text": self._line}[self.format]
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(_open(self.path))
            marks = None
            if self.labels_path is not None:
                marks = _lines(stack.enter_context(_open(self.labels_path)), self.labels_path)
            line = 0
            for block in _blocks(stream, self.path, chunk_bytes):
                texts, labels, ids = [], [], []
                for raw in block[:-1].split(b"\n"):
                    line += 1
                    text, names, identifier = parse(_decode(raw, self.path, line), line)
                    if marks is not None:
                        names = self._names(next(marks, None), line)
                    texts.append(text)
                    labels.append(names)
                    ids.append(identifier)
                known = [names is not None for names in labels]
                if any(known) and not all(known):
                    at = line - len(known) + known.index(False) + 1
                    raise ValueError(f"{self.path}, line {at}: no labels, where other lines have")
                yield Chunk(
                    texts,
                    labels if any(known) else None,
                    ids if any(i is not None for i in ids) else None,
                    len(block),
                )
            if marks is not None and next(marks, None) is not None:
                raise ValueError(
                    f"{self.labels_path} has more lines than the {line} documents of {self.path}"
                )

    def _names(self, text, line):
        if text is None:
            raise ValueError(
                f"{self.labels_path} ends before line {line}: a line of labels for each document"
            )
        return self._split(text)

    def _split(self, text):
        return [name.strip() for name in text.split(self.separator) if name.strip()]

    def _tsv(self, text, line):
        fields = text.split("\t")
        if len(fields) > 2:
            raise ValueError(
                f"{self.path}, line {line}: {len(fields)} columns; expected text<TAB>labels"
            )
        return fields[0], self._split(fields[1]) if len(fields) == 2 else None, None

    def _line(self, text, line):
        return text, None, None

    def _jsonl(self, text, line):
        where = f"{self.path}, line {line}"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error})") from None
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise ValueError(f'{where}: expected an object with a string "text"')
        labels = value.get("labels")
        if labels is not None:
            if not isinstance(labels, list) or not all(isinstance(v, (str, int)) for v in labels):
                raise ValueError(f'{where}: "labels" must be a list of names or numbers')
            labels = [str(name) for name in labels]
        identifier = value.get("id")
        return value["text"], labels, None if identifier is None else str(identifier)


# ------------------------------------------------------------------ whole files


class Table(NamedTuple):
    """A whole data set.

    Attributes
    ----------
    X : rows
    Y : csr_array or None
        0/1.
    names : list of str, or None
        Of the columns of ``Y``.
    label_texts : dict
        Texts of labels by their names, as far as the data tell them.
    """

    X: object
    Y: sp.csr_array | None
    names: list | None
    label_texts: dict


def read_table(source, *, names=None, n_labels=None, n_features=None, bar=None):
    """Read all rows.

    Parameters
    ----------
    source : Source
    names : list of str or None
        Names of the labels, where a model knows them. Labels that it does not know get further
        columns. None takes those of the data, sorted.
    n_labels : int or None
        Least number of columns of ``Y``.
    n_features : int or None
        Of a model.
    bar : progress bar or None

    Returns
    -------
    Table
    """
    if source.format in ("repository", "svmlight") and n_features is None and source.path != "-":
        load = load_xmc_repository if source.format == "repository" else load_svmlight_multilabel
        X, Y = load(source.path)
        return Table(X, widen(Y, n_labels), None, {})
    chunks = []
    for chunk in source.chunks(n_features=n_features):
        chunks.append(chunk)
        if bar is not None:
            bar.update(chunk.n_bytes)
    if not chunks:
        raise data_error(f"{source.path}: the file holds no rows.")
    if names is None:
        names = source.label_names
    if source.is_text:
        X = [text for chunk in chunks for text in chunk.X]
        if any(chunk.labels is None for chunk in chunks):
            return Table(X, None, names, {})
        labels = [row for chunk in chunks for row in chunk.labels]
        names = extended(names, labels)
        return Table(X, indicator(labels, names), names, source.label_texts)
    width = max(chunk.X.shape[1] for chunk in chunks)
    X = sp.vstack([widen(chunk.X, width) for chunk in chunks], format="csr")
    if any(chunk.labels is None for chunk in chunks):
        return Table(X, None, None, {})
    width = max([n_labels or 0, *(chunk.labels.shape[1] for chunk in chunks)])
    Y = sp.vstack([widen(chunk.labels, width) for chunk in chunks], format="csr")
    return Table(X, Y, names, source.label_texts)


def read_label_texts(path):
    """Texts of labels by their names, of a file of ``name<TAB>text``."""
    texts = {}
    lines = (text for chunk in Source(path, "text").chunks() for text in chunk.X)
    for line, text in enumerate(lines, 1):
        name, tab, value = text.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {line}: expected name<TAB>text.")
        if name in texts:
            raise ValueError(f"{path}, line {line}: the label {name!r} has a text already.")
        texts[name] = value
    return texts


def extended(names, labels):
    """Names of all labels: the known ones, and then others in the order of their names."""
    found = {name for row in labels for name in row}
    return sorted(found) if names is None else [*names, *sorted(found.difference(names))]


def indicator(labels, names):
    """0/1 matrix of lists of names."""
    column = {name: j for j, name in enumerate(names)}
    rows = [sorted({column[name] for name in row}) for row in labels]
    indptr = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    indices = np.fromiter((j for row in rows for j in row), dtype=np.int32, count=indptr[-1])
    ones = np.ones(len(indices), dtype=np.uint8)
    return sp.csr_array((ones, indices, indptr), shape=(len(rows), len(names)))


def widen(matrix, n_columns):
    """The same CSR matrix with at least so many columns."""
    if n_columns is None or matrix.shape[1] >= n_columns:
        return matrix
    return sp.csr_array(
        (matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_columns)
    )


# ------------------------------------------------------------------ bytes


@contextlib.contextmanager
def _open(path):
    """A binary stream of a file or standard input, unpacked."""
    with contextlib.ExitStack() as stack:
        if path == "-":
            stream = sys.stdin.buffer
        else:
            stream = stack.enter_context(open(path, "rb"))
        if not hasattr(stream, "peek"):
            stream = io.BufferedReader(stream)
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
        yield stream


def _guard(path, read, line):
    try:
        return read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the gzip data is damaged in or after line {line}") from error


def _blocks(stream, path, n_bytes):
    """Yield blocks of whole lines, each with a new line at its end."""
    line, rest = 1, b""
    # Of a pipe what it has by now, so that answers need not wait for a whole block.
    read = stream.read1 if path == "-" else stream.read
    while True:
        piece = _guard(path, lambda: read(n_bytes), line)
        if not piece:
            break
        cut = piece.rfind(b"\n") + 1
        if cut:
            block = rest + piece[:cut]
            line += block.count(b"\n")
            rest = piece[cut:]
            yield block
        else:
            rest += piece
        if len(rest) > _MAX_LINE:
            raise ValueError(f"{path}, line {line}: longer than {_MAX_LINE >> 20} MiB")
    if rest:
        yield rest + b"\n"


def _lines(stream, path):
    for number, raw in enumerate(stream, 1):
        yield _decode(raw, path, number)


def _decode(raw, path, line):
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None
