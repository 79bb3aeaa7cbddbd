"""The exceptions of skxmc.

Wrong input raises `ValueError` or `TypeError`, as everywhere in scikit-learn. The classes here are
for what a caller may want to catch and treat: a refusal to allocate, and files that cannot be used.
"""

__all__ = [
    "CheckpointError",
    "DenseOutputError",
    "MemoryLimitError",
    "ModelFormatError",
    "TeacherError",
]


class MemoryLimitError(MemoryError):
    """An operation was refused because its predicted memory is over a limit.

    It is raised before anything large is allocated, so that the process is intact and the call can
    be repeated with other parameters. It is a `MemoryError`, so that code that already handles
    running out of memory handles the refusal too.

    Examples
    --------
    >>> from skxmc.exceptions import MemoryLimitError
    >>> issubclass(MemoryLimitError, MemoryError)
    True
    """


class DenseOutputError(MemoryLimitError):
    """An output with a value for every pair of row and label is over ``max_dense_bytes``.

    Fitting with a sparse ``Y`` gives sparse outputs, and ``predict_topk`` has a small output in
    every mode.

    Examples
    --------
    >>> from skxmc.exceptions import DenseOutputError, MemoryLimitError
    >>> issubclass(DenseOutputError, MemoryLimitError)
    True
    """


class CheckpointError(ValueError):
    """A checkpoint folder cannot be resumed: damaged, or of a fit on other data or parameters.

    Examples
    --------
    >>> from skxmc.exceptions import CheckpointError
    >>> issubclass(CheckpointError, ValueError)
    True
    """


class ModelFormatError(ValueError):
    """A saved model cannot be read: damaged, incomplete, no model, or of an unknown version.

    Examples
    --------
    >>> from skxmc.exceptions import ModelFormatError
    >>> issubclass(ModelFormatError, ValueError)
    True
    """


class TeacherError(RuntimeError):
    """A teacher (`skxmc.neural.ChatTeacher`) cannot be asked: refused, or not reached.

    Examples
    --------
    >>> from skxmc.exceptions import TeacherError
    >>> issubclass(TeacherError, RuntimeError)
    True
    """
