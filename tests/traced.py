"""The memory that a piece of code allocates, all of it."""

import contextlib
import gc
import sys
import tracemalloc
from unittest import mock

from skxmc.ops import _memory


@contextlib.contextmanager
def traced_memory():
    """``with traced_memory() as peak: ...; peak()`` is the most bytes held since the start.

    Each call begins a new measurement. Work arrays on pages of their own, which tracemalloc does
    not see, are allocated by NumPy here.
    """

    def peak():
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return most

    gc.collect()
    with mock.patch.object(_memory, "_OWN_PAGES", sys.maxsize):
        tracemalloc.start()
        try:
            yield peak
        finally:
            tracemalloc.stop()
