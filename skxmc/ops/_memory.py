"""Large work arrays that go back to the system when they are deleted.

The C library keeps most of what is freed for its own later use, more so when threads allocate, and
arrays of tens of megabytes leave holes that the next ones do not fit into. A fit that clusters,
trains and assembles then stands at the sum of what its phases need instead of at the largest.
"""

import math
import mmap

import numpy as np

# Smaller arrays are left to NumPy: below, a page fault for every 4 KiB costs more than it saves.
_OWN_PAGES = 1 << 20
_HUGE_PAGE = 1 << 21


def new_zeros(shape, dtype, *, huge_pages=False):
    """A writable array of zeros whose memory is given back when it is deleted.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : numpy dtype
    huge_pages : bool, default=False
        Begin on a huge page and ask the system for such, where it has them: for arrays that are
        read at random places, which else wait for the page table as long as for the data.

    Returns
    -------
    ndarray
        Contiguous, on a 64-byte boundary.

    Examples
    --------
    >>> from skxmc.ops._memory import new_zeros
    >>> new_zeros((3, 1 << 20), "f4").shape
    (3, 1048576)
    """
    dtype = np.dtype(dtype)
    n_items = math.prod(map(int, shape)) if np.iterable(shape) else int(shape)
    n_bytes = n_items * dtype.itemsize
    if n_bytes < (_OWN_PAGES // 4 if huge_pages else _OWN_PAGES):
        buffer = np.zeros(n_bytes + 64, dtype=np.uint8)
        boundary = 64
    else:
        boundary = _HUGE_PAGE if huge_pages else 64
        pages = _own_pages(n_bytes + boundary)
        if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        buffer = np.frombuffer(pages, dtype=np.uint8)
    start = -buffer.ctypes.data % boundary
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)


def _own_pages(n_bytes):
    private = getattr(mmap, "MAP_PRIVATE", None)
    if private is None:  # Windows
        return mmap.mmap(-1, n_bytes)
    return mmap.mmap(-1, n_bytes, flags=private | mmap.MAP_ANONYMOUS)
