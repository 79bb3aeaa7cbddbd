"""Models of the command line: what `save_model` writes, and the names of the labels beside it."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.io import load_model, save_model
from skxmc.io._arrays import move_into_place
from skxmc.serving._answers import feature_count, label_count, takes_text

_FILE = "labels.json"
_FORMAT = "skxmc-labels"
_MAX_BYTES = 1 << 31


class Store(NamedTuple):
    """A fitted model with what the command line must know besides.

    Attributes
    ----------
    model : fitted estimator
    names : list of str, or None
        Of the labels; None where the labels are numbers.
    counts : ndarray of shape (n_labels,), int64, or None
        Training rows of each label, for propensities and frequency bins.
    n_train : int or None
        Training rows.
    """

    model: object
    names: list | None = None
    counts: np.ndarray | None = None
    n_train: int | None = None

    @property
    def takes_text(self):
        """Whether rows are texts."""
        return takes_text(self.model)

    @property
    def n_labels(self):
        return label_count(self.model)

    @property
    def n_features(self):
        """Features of a row; None where it is a text or any number will do."""
        return None if self.takes_text else feature_count(self.model)

    def name(self, label):
        """Name of a label number."""
        return str(label) if self.names is None else self.names[label]


def save(store, path, *, overwrite=False, compress=False, weights_dtype=None):
    """Write a `Store` as one folder, which appears whole or not at all."""
    path = Path(path)
    if path.exists() and not overwrite and not _is_empty(path):
        raise FileExistsError(f"{path} exists; --overwrite replaces a model.")
    if path.exists() and overwrite and not _is_empty(path) and not (path / "model.json").is_file():
        raise FileExistsError(f"{path} exists and is not a model of skxmc; it is not replaced.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    try:
        save_model(store.model, temporary, compress=compress, weights_dtype=weights_dtype)
        header = {
            "format": _FORMAT,
            "version": 1,
            "names": store.names,
            "counts": None if store.counts is None else [int(n) for n in store.counts],
            "n_train": store.n_train,
        }
        with open(temporary / _FILE, "w", encoding="utf-8") as file:
            json.dump(header, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _is_empty(path):
    return path.is_dir() and not any(path.iterdir())


def load(path):
    """Read a `Store`; a folder of `save_model` without names will do.

    Raises
    ------
    ModelFormatError
        If there is no model, or it or the file of names is damaged.
    """
    path = Path(path)
    try:
        model = load_model(path)
    except FileNotFoundError as error:
        raise ModelFormatError(str(error) or f"There is no model at {path}.") from error
    except (NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise ModelFormatError(f"The model {path} cannot be read: {error}") from error
    file = path / _FILE
    if not file.exists():
        return Store(model)
    try:
        return Store(model, *_read_names(file, label_count(model)))
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise ModelFormatError(f"{file} is damaged: {error}") from error


def _read_names(file, n_labels):
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError("it is too large")
    header = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError("it does not hold the names of labels")
    if header.get("version") != 1:
        raise ValueError(f"its version {header.get('version')!r} is not known")
    names, counts, n_train = header.get("names"), header.get("counts"), header.get("n_train")
    if names is not None and (
        not isinstance(names, list)
        or len(names) != n_labels
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"names are not {n_labels} strings")
    if counts is not None:
        if not _is_count(n_train) or not isinstance(counts, list) or len(counts) != n_labels:
            raise ValueError(f"counts are not {n_labels} numbers beside n_train")
        if not all(_is_count(n) and n <= n_train for n in counts):
            raise ValueError("a count is not between 0 and n_train")
        counts = np.array(counts, dtype=np.int64)
    return names, counts, n_train if counts is not None else None


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
