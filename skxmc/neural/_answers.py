"""The answers of a teacher: asked once, counted, and kept on disk."""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import CheckpointError

_FILE = "answers.sqlite"

# Questions looked up in the file at a time (SQLite has a limit of parameters).
_LOOK_UP = 500


class AnswerStore:
    """Answers on disk, one file in a folder, safe against a kill and shared by processes.

    Parameters
    ----------
    folder : path
        Made if it does not exist.

    Raises
    ------
    CheckpointError
        If the file is damaged.

    Notes
    -----
    A row is a key of 16 bytes and a number: about 40 bytes an answer on disk.
    """

    def __init__(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / _FILE
        self._run(
            lambda connection: connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, relevance REAL NOT NULL)"
                " WITHOUT ROWID"
            )
        )

    def look_up(self, keys):
        """Return the known ones of these keys as a dictionary."""

        def read(connection):
            found = {}
            for start in range(0, len(keys), _LOOK_UP):
                part = keys[start : start + _LOOK_UP]
                marks = ",".join("?" * len(part))
                found.update(
                    connection.execute(
                        f"SELECT key, relevance FROM answers WHERE key IN ({marks})", part
                    )
                )
            return found

        return self._run(read)

    def add(self, answers):
        """Write a dictionary of answers: all of them or, at a kill, none."""
        self._run(
            lambda connection: connection.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", list(answers.items())
            )
        )

    def _run(self, function):
        # A connection for each use: nothing to close at the end of a fit or in a pickle.
        connection = sqlite3.connect(self.path, timeout=60)
        try:
            with connection:
                return function(connection)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, disk full, not writable
                raise
            raise CheckpointError(
                f"The answers in {self.path} cannot be read ({error}): delete the file to have the "
                "teacher asked again."
            ) from error
        finally:
            connection.close()


class Answers:
    """What a teacher said about pairs of document and label.

    Parameters
    ----------
    teacher : callable
        See `skxmc.neural._teachers`.
    documents, labels : list of str, or array
        Rows that the numbers of questions refer to.
    limit : int or None
        Questions at most; equal pairs of text count once.
    batch_size : int
        Questions for a call of the teacher.
    folder : path or None
        Where answers are kept from fit to fit.

    Attributes
    ----------
    n_questions : int
        Different pairs looked at: those that count for the limit, whether the answer came from the
        teacher or from the folder.
    n_calls : int
        Pairs that the teacher was asked about.
    n_unanswered : int
        Pairs among them without an answer (NaN); they are asked again in the next fit.
    """

    def __init__(self, teacher, documents, labels, *, limit=None, batch_size=256, folder=None):
        self.teacher = teacher
        self.documents, self.labels = documents, labels
        self.limit = limit
        self.batch_size = batch_size
        self.n_questions = self.n_calls = self.n_unanswered = 0
        self._store = None if folder is None else AnswerStore(folder)
        self._known = {}
        key = str(getattr(teacher, "cache_key", "")).encode()
        self._document_keys = [hashlib.sha256(key + d).digest() for d in _contents(documents)]
        self._label_keys = [hashlib.sha256(label).digest() for label in _contents(labels)]

    @property
    def n_left(self):
        """Questions left of the limit; None without one."""
        return None if self.limit is None else self.limit - self.n_questions

    def ask(self, rows, columns, *, progress=None):
        """Return what the teacher says about pairs, in this order of preference.

        Parameters
        ----------
        rows, columns : int arrays of shape (n,)
            Numbers of documents and labels.
        progress : object with ``update(n)``, default=None

        Returns
        -------
        float64 ndarray of shape (n,)
            Relevance in [0, 1]; NaN where the teacher gave no answer, or the limit was reached.
        """
        keys = [
            hashlib.sha256(self._document_keys[i] + self._label_keys[j]).digest()[:16]
            for i, j in zip(rows, columns, strict=True)
        ]
        new = {}  # key -> the first pair with it
        for key, pair in zip(keys, zip(rows, columns, strict=True), strict=True):
            if key not in self._known and key not in new:
                if self.n_left is not None and len(new) >= self.n_left:
                    continue
                new[key] = pair
        if self._store is not None and new:
            self._known.update(self._store.look_up(list(new)))
        self.n_questions += len(new)
        new = [(key, pair) for key, pair in new.items() if key not in self._known]
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            self._ask_teacher([key for key, _ in batch], np.array([pair for _, pair in batch]))
            if progress is not None:
                progress.update(len(batch))
        return np.array([self._known.get(key, np.nan) for key in keys], dtype=np.float64)

    def _ask_teacher(self, keys, pairs):
        given = _rows(self.documents, pairs[:, 0]), _rows(self.labels, pairs[:, 1])
        try:
            answers = self.teacher(*given)
        except Exception as error:
            error.add_note(
                f"The teacher raised this after {self.n_calls} answers in this fit"
                + (
                    "."
                    if self._store is None
                    else f", which are kept in {self._store.path}: fit again to go on from there."
                )
            )
            raise
        relevance = check_answers(answers, len(keys), given)
        self.n_calls += len(keys)
        self.n_unanswered += int(np.isnan(relevance).sum())
        found = dict(zip(keys, relevance.tolist(), strict=True))
        self._known.update(found)
        if self._store is not None:
            self._store.add({key: value for key, value in found.items() if value == value})


def check_answers(answers, n, given=None):
    """Return the answers of a teacher as float64, or say what is wrong with them.

    Parameters
    ----------
    answers : array-like of shape (n,)
        Booleans, or numbers in [0, 1]; NaN and None are no answer.
    n : int
        How many there have to be.
    given : (texts, label texts), default=None
        What was asked, for messages.

    Raises
    ------
    ValueError
        If it is another number of answers, or one is no number in [0, 1].

    Examples
    --------
    >>> from skxmc.neural._answers import check_answers
    >>> check_answers([True, 0.25, None], 3)
    array([1.  , 0.25,  nan])
    """
    try:
        relevance = np.asarray(answers)
        if relevance.dtype.kind not in "bifuO" or relevance.ndim == 0:
            raise TypeError(f"values of type {relevance.dtype}")
        relevance = relevance.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The teacher has to return numbers in [0, 1], one a pair; got {type(answers).__name__}"
            f" ({error})."
        ) from error
    if relevance.shape != (n,):
        raise ValueError(
            f"The teacher returned an array of shape {relevance.shape} for {n} pairs; one number a "
            "pair is needed."
        )
    wrong = np.flatnonzero((relevance < 0) | (relevance > 1))
    if len(wrong):
        i = wrong[0]
        asked = ""
        if given is not None and isinstance(given[0], list):
            asked = f" for the text {given[0][i][:50]!r} and the label {given[1][i][:50]!r}"
        raise ValueError(f"The teacher returned {relevance[i]}{asked}; it has to be in [0, 1].")
    return relevance


def _contents(rows):
    """The bytes of each row."""
    if isinstance(rows, list):
        return (text.encode() for text in rows)
    if sp.issparse(rows):
        bounds = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
        return (rows.indices[a:b].tobytes() + rows.data[a:b].tobytes() for a, b in bounds)
    return (row.tobytes() for row in rows)


def _rows(rows, numbers):
    return [rows[i] for i in numbers] if isinstance(rows, list) else rows[numbers]
