"""Word and token vectors from files: what a static encoder may start from."""

import gzip
import json
import os
from pathlib import Path

import numpy as np

# The token embeddings of the usual architectures, as their weights are called.
_EMBEDDING_NAMES = (
    "word_embeddings.weight",
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "shared.weight",
    "wte.weight",
    "embedding.weight",
    "embeddings.weight",
    "embeddings",
)

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def load_vectors(vectors, wanted, n_first):
    """Return a table of vectors, and what its rows are.

    Parameters
    ----------
    vectors : path, or (words, array)
        A folder with safetensors and a ``tokenizer.json``, as of a model of transformers, whose
        token embeddings are taken; one such file; or a text file of word2vec or GloVe, perhaps
        with the suffix ``.gz``.
    wanted : set of str
        Of a text file, words that are read wherever they stand.
    n_first : int
        Of a text file, how many words are read in any case: they are the most frequent ones.

    Returns
    -------
    table : float32 ndarray of shape (n, width)
    words : list of str, or None
        None where a tokenizer numbers the rows.
    folder : Path or None
        Where that tokenizer is looked for.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
    """
    if isinstance(vectors, (tuple, list)) and len(vectors) == 2:
        return *_check_pair(*vectors), None
    if not isinstance(vectors, (str, os.PathLike)):
        raise TypeError(
            f"vectors must be None, a path or a pair (words, array); got {type(vectors).__name__}."
        )
    path = Path(vectors)
    if not path.exists():
        raise FileNotFoundError(f"There are no vectors at {path}. Nothing is downloaded.")
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ValueError(f"The folder {path} has no file *.safetensors.")
        return _token_embeddings(files), None, path
    if path.suffix == ".safetensors":
        return _token_embeddings([path]), None, path.parent
    words, table = _read_text(path, wanted, n_first)
    return table, words, None


def _check_pair(words, array):
    words = list(words)
    table = np.array(array, dtype=np.float32, order="C")
    if table.ndim != 2 or len(table) != len(words) or table.size == 0:
        raise ValueError(
            f"vectors has {len(words)} words and an array of shape {table.shape}; one row a word "
            "is needed."
        )
    _check_rows(words, table, "vectors")
    return table, words


def _check_rows(words, table, where):
    seen = set()
    for row, word in enumerate(words):
        if not isinstance(word, str):
            raise TypeError(f"Word {row} of {where} is of type {type(word).__name__}, not str.")
        if word in seen:
            raise ValueError(f"{where} has the word {word!r} twice.")
        seen.add(word)
    _check_finite(table, where)


def _check_finite(table, where):
    wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(wrong):
        raise ValueError(f"Row {wrong[0]} of {where} is not finite.")


def _read_text(path, wanted, n_first):
    """Words and vectors of a text file: those wanted, and the first ones."""
    words, rows, seen = [], [], set()
    opener = gzip.open if path.suffix == ".gz" else open
    width = None
    with opener(path, "rt", encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                continue  # the header of word2vec: how many and how wide
            if width is None:
                width = len(fields) - 1
            if len(fields) < 2 or len(fields) - 1 < width:
                raise ValueError(
                    f"Line {number} of {path} has {len(fields) - 1} numbers, the first has {width}."
                )
            word = " ".join(fields[:-width])
            if word in seen or not (len(words) < n_first or word in wanted):
                continue
            try:
                row = np.array(fields[-width:], dtype=np.float32)
            except ValueError as error:
                raise ValueError(f"Line {number} of {path} is no word vector: {error}") from error
            seen.add(word)
            words.append(word)
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no word vectors.")
    table = np.array(rows)
    _check_finite(table, str(path))
    return words, table


def _token_embeddings(files):
    """The token embeddings in safetensors: by their name, or the only matrix."""
    matrices = []
    for file in files:
        for name, entry, start in _entries(file):
            if len(entry["shape"]) == 2 and entry["dtype"] in _DTYPES:
                matrices.append((name, entry, start, file))
    for ending in _EMBEDDING_NAMES:
        found = [m for m in matrices if f".{m[0]}".endswith(f".{ending}")]
        if found:
            return _read_matrix(*found[0])
    if len(matrices) == 1:
        return _read_matrix(*matrices[0])
    raise ValueError(
        f"{files[0].parent} has no matrix with a name of token embeddings (such as "
        f"{_EMBEDDING_NAMES[0]}); it has {[m[0] for m in matrices[:5]]}. Pass (words, array)."
    )


def _entries(file):
    """Name, entry and start of the data of each array of a safetensors file."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return [(name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from error


def _read_matrix(name, entry, start, file):
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if last - first != dtype.itemsize * shape[0] * shape[1] or last + start > file.stat().st_size:
        raise ValueError(f"{file} is damaged: {name} does not have the size of its shape.")
    values = np.memmap(file, dtype=dtype, mode="r", offset=start + first, shape=shape)
    if entry["dtype"] == "BF16":  # the upper half of a float32
        table = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    else:
        table = np.array(values, dtype=np.float32)
    _check_finite(table, name)
    return table
