"""A data set as a folder of SciPy and text files."""

import gzip
import json
import os
import zipfile
import zlib

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz
from sklearn.utils import Bunch

# Which number of rows and columns (or entries of a list) each file must agree on.
_MATRICES = {
    "X_train": ("train", "features"),
    "Y_train": ("train", "labels"),
    "X_test": ("test", "features"),
    "Y_test": ("test", "labels"),
    "filter_train": ("train", "labels"),
    "filter_test": ("test", "labels"),
}
_LISTS = {  # attribute: (file, size)
    "labels": ("labels.txt.gz", "labels"),
    "label_texts": ("label_texts.txt.gz", "labels"),
    "feature_names": ("features.txt.gz", "features"),
    "train_texts": ("train_texts.txt.gz", "train"),
    "test_texts": ("test_texts.txt.gz", "test"),
    "train_ids": ("train_ids.txt.gz", "train"),
    "test_ids": ("test_ids.txt.gz", "test"),
}
_STATS = "stats.json"
_UNITS = {
    "train": "training rows",
    "test": "test rows",
    "features": "features",
    "labels": "labels",
}


def load_folder(path):
    """Load a data set from a folder with one file per part.

    Parameters
    ----------
    path : str or path-like
        The folder. ``{X,Y,filter}_{train,test}.npz`` are sparse matrices as
        :func:`scipy.sparse.save_npz` writes them; ``labels``, ``label_texts``, ``features``,
        ``{train,test}_texts`` and ``{train,test}_ids`` end with ``.txt.gz`` and hold one UTF-8
        entry a line; ``stats.json`` is free. Any of them may be missing.

    Returns
    -------
    data : Bunch
        ``X_train``, ``X_test`` : csr_array float32 of shape (n, d);
        ``Y_train``, ``Y_test`` : csr_array uint8 of shape (n, L), values 1, no stored zeros;
        ``filter_train``, ``filter_test`` : csr_array uint8 of shape (n, L), the pairs that must not
        be answered (pass them to ``predict_topk(exclude=...)``);
        ``labels``, ``label_texts``, ``feature_names``, ``train_texts``, ``test_texts``,
        ``train_ids``, ``test_ids`` : lists of str; ``stats`` : dict.
        All matrices are canonical. What the folder lacks is None.

    Raises
    ------
    ValueError
        Naming the file that cannot be read, holds values that are not allowed (NaN or infinity in
        X, other values than 0 and 1 in Y), or disagrees with another one in its size.
    FileNotFoundError
        If the folder does not exist or holds none of the files.

    See Also
    --------
    dump_folder : Write such a folder.

    Notes
    -----
    Time and memory are linear in the size of the files.

    Examples
    --------
    >>> import tempfile
    >>> from scipy.sparse import csr_array
    >>> from skxmc.datasets import dump_folder, load_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dump_folder({"Y_train": csr_array([[0, 1]]), "labels": ["cat", "dog"]}, folder)
    ...     data = load_folder(folder)
    >>> data.labels, data.Y_train.toarray(), data.X_train
    (['cat', 'dog'], array([[0, 1]], dtype=uint8), None)
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such folder")
    data = Bunch()
    for name in _MATRICES:
        file = os.path.join(path, f"{name}.npz")
        data[name] = _read_matrix(file, name) if os.path.exists(file) else None
    for name, (base, _) in _LISTS.items():
        file = os.path.join(path, base)
        data[name] = _read_lines(file) if os.path.exists(file) else None
    file = os.path.join(path, _STATS)
    data.stats = _read_json(file) if os.path.exists(file) else None
    if all(part is None for part in data.values()):
        files = ", ".join(_file_names())
        raise FileNotFoundError(f"{path}: none of the files of a data set found ({files})")
    _check_sizes(data, path)
    return data


def dump_folder(bunch, path):
    """Write a data set as a folder that :func:`load_folder` reads.

    Parameters
    ----------
    bunch : Bunch or dict
        Parts by the names that :func:`load_folder` uses; missing ones and None are left out.
    path : str or path-like
        The folder, made where needed. It must not hold a data set yet.

    Raises
    ------
    ValueError
        If the parts disagree in size, a matrix holds values that are not allowed, a name is unknown
        or a text contains a newline.
    FileExistsError
        If the folder already holds files of a data set, which would otherwise be mixed.

    See Also
    --------
    load_folder : Read such a folder.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> from skxmc.datasets import dump_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dump_folder({"labels": ["cat", "dog"], "stats": {"L": 2}}, folder)
    ...     sorted(os.listdir(folder))
    ['labels.txt.gz', 'stats.json']
    """
    path = os.fspath(path)
    parts = {name: part for name, part in bunch.items() if part is not None}
    unknown = sorted(set(parts) - set(_MATRICES) - set(_LISTS) - {"stats"})
    if unknown:
        raise ValueError(
            f"unknown parts {', '.join(unknown)}; known: {', '.join([*_MATRICES, *_LISTS])}, stats"
        )
    for name in _MATRICES.keys() & parts.keys():
        parts[name] = _check_matrix(csr_array(parts[name]), name, name)
    for name in _LISTS.keys() & parts.keys():
        parts[name] = list(parts[name])
        for i, text in enumerate(parts[name]):
            if not isinstance(text, str) or "\n" in text:
                raise ValueError(f"{name}[{i}] must be a str without newline, got {text[:40]!r}")
    _check_sizes(parts, path)

    os.makedirs(path, exist_ok=True)
    present = sorted(set(os.listdir(path)) & set(_file_names()))
    if present:
        raise FileExistsError(f"{path} already holds {', '.join(present)}; choose an empty folder")
    for name, part in parts.items():
        if name in _MATRICES:
            save_npz(os.path.join(path, f"{name}.npz"), part)
        elif name in _LISTS:
            text = "".join(f"{line}\n" for line in part)
            with open(os.path.join(path, _LISTS[name][0]), "wb") as stream:
                stream.write(gzip.compress(text.encode("utf-8"), mtime=0))
        else:
            with open(os.path.join(path, _STATS), "w", encoding="utf-8") as stream:
                json.dump(part, stream, indent=1)


def _file_names():
    return [*(f"{name}.npz" for name in _MATRICES), *(file for file, _ in _LISTS.values()), _STATS]


def _read_matrix(file, name):
    try:
        matrix = load_npz(file)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: not a readable sparse matrix ({error})") from None
    return _check_matrix(csr_array(matrix), name, file)


def _check_matrix(matrix, name, where):
    """Return a canonical float32 (X) or 0/1 uint8 (Y, filter) matrix."""
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"{where}: corrupt sparse matrix ({error})") from None
    if matrix.data.dtype.kind not in "biuf":
        raise ValueError(f"{where}: numbers expected, found dtype {matrix.dtype}")
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if name.startswith("X"):
        bad = ~np.isfinite(matrix.data)
        allowed = "finite numbers"
    else:
        bad = (matrix.data != 0) & (matrix.data != 1)
        allowed = "0 and 1"
    if bad.any():
        entry = int(np.argmax(bad))
        row = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
        raise ValueError(
            f"{where}: {matrix.data[entry]} in row {row}, column {matrix.indices[entry]};"
            f" only {allowed} are allowed"
        )
    if name.startswith("X"):
        return matrix.astype(np.float32, copy=False)
    matrix = matrix.astype(np.uint8, copy=not matrix.data.all())
    matrix.eliminate_zeros()
    return matrix


def _read_lines(file):
    try:
        with gzip.open(file, "rb") as stream:
            text = stream.read().decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not readable as gzip-compressed UTF-8 ({error})") from None
    # Split at \n only: a text may hold the other characters at which splitlines() cuts.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def _read_json(file):
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except ValueError as error:  # JSON and UTF-8 errors
        raise ValueError(f"{file}: not readable as JSON ({error})") from None


def _check_sizes(data, path):
    """Check that all parts agree on the numbers of rows, features and labels."""
    seen = {}  # unit: (size, file)
    for name, units in _MATRICES.items():
        if data.get(name) is not None:
            for unit, size in zip(units, data[name].shape, strict=True):
                _agree(seen, unit, size, f"{name}.npz", path)
    for name, (file, unit) in _LISTS.items():
        if data.get(name) is not None:
            _agree(seen, unit, len(data[name]), file, path)


def _agree(seen, unit, size, file, path):
    first_size, first_file = seen.setdefault(unit, (size, file))
    if size != first_size:
        raise ValueError(
            f"{os.path.join(path, file)}: {size} {_UNITS[unit]}, but {first_file} has {first_size}"
        )
