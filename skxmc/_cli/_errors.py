"""Exit codes of the command line, and which error has which."""

import contextlib
import sys

from skxmc.exceptions import CheckpointError, MemoryLimitError, ModelFormatError

OK = 0
INTERNAL = 1  # a defect of skxmc
USAGE = 2  # an option or a parameter
DATA = 3  # a data file
MODEL = 4  # a model folder
MEMORY = 5  # a memory limit
INTERRUPTED = 130  # Ctrl-C, as shells have it
BROKEN_PIPE = 141  # nobody reads the output any more


class CommandError(Exception):
    """An error to be told in one line, with its exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def usage_error(message):
    """Return the error for an option that is wrong."""
    return CommandError(message, USAGE)


def data_error(message):
    """Return the error for a data file that is wrong."""
    return CommandError(message, DATA)


@contextlib.contextmanager
def stage(code, what=None):
    """Give the errors of a block that a user can cause the exit code of that block.

    Parameters
    ----------
    code : int
        For `ValueError`, `TypeError`, `OSError` and `LookupError`.
    what : str or None
        Put before the message.
    """
    try:
        yield
    except (MemoryError, BrokenPipeError, ModelFormatError, CheckpointError):
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        from sklearn.utils._param_validation import InvalidParameterError

        if isinstance(error, (InvalidParameterError, ImportError)):
            code = USAGE
        text = f"{type(error).__name__}: {error}" if not str(error) else str(error)
        raise CommandError(f"{what}: {text}" if what else text, code) from error


def report(error, debug):
    """Tell an error on standard error and return its exit code."""
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    code = _code(error)
    if code == INTERRUPTED:
        text = "interrupted"
    elif code == INTERNAL:
        text = (
            f"{type(error).__name__}: {error}\n"
            "This is a defect of skxmc, not of your input. --debug shows where it happened."
        )
    else:
        text = str(error) or type(error).__name__
    if code != BROKEN_PIPE:
        print(f"skxmc: {text}", file=sys.stderr)
    return code


def _code(error):
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, (KeyboardInterrupt, EOFError)) or type(error).__name__ == "Abort":
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, MemoryLimitError | MemoryError):
        return MEMORY
    if isinstance(error, ModelFormatError):
        return MODEL
    if isinstance(error, CheckpointError):
        return DATA
    return INTERNAL
