"""Threads over chunks: the only level of parallelism in skxmc.

The kernels release the GIL, so threads suffice: nothing is copied or pickled.
"""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor


def effective_n_jobs(n_jobs=None):
    """Return the number of threads that ``n_jobs`` stands for.

    Parameters
    ----------
    n_jobs : int or None, default=None
        As in joblib: None is 1 unless a ``joblib.parallel_config`` says otherwise, -1 is all
        processors, -2 all but one.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If ``n_jobs`` is 0 or not an integer.

    Examples
    --------
    >>> from skxmc._parallel import effective_n_jobs
    >>> effective_n_jobs(None), effective_n_jobs(3)
    (1, 3)
    """
    if n_jobs is not None and (isinstance(n_jobs, bool) or int(n_jobs) != n_jobs or n_jobs == 0):
        raise ValueError(f"n_jobs must be None or an integer other than 0, got {n_jobs!r}.")
    if n_jobs is not None and n_jobs > 0:
        return int(n_jobs)
    import joblib

    if n_jobs is not None:
        return max(1, joblib.cpu_count() + 1 + int(n_jobs))
    _, n_jobs = joblib.parallel.get_active_backend()
    return effective_n_jobs(n_jobs) if n_jobs is not None else 1


def map_chunks(function, chunks, n_jobs=None):
    """Apply ``function`` to each chunk in threads and yield the results in the order of the chunks.

    At most ``2 * n_jobs`` chunks are taken in advance, so an endless or lazily made sequence of
    chunks takes bounded memory. The first exception ends the iteration: chunks not yet begun are
    dropped, and it is raised as soon as the calls under way have returned. The same holds for a
    KeyboardInterrupt and for a caller who stops iterating.

    Parameters
    ----------
    function : callable of one argument
        Worth it where it releases the GIL for most of its time.
    chunks : iterable
        The arguments; consumed in the calling thread.
    n_jobs : int or None, default=None
        Number of threads, see :func:`effective_n_jobs`. With 1 no thread is started.

    Yields
    ------
    object
        ``function(chunk)`` for each chunk.

    Examples
    --------
    >>> from skxmc._parallel import map_chunks
    >>> list(map_chunks(lambda chunk: chunk.stop, [slice(0, 2), slice(2, 3)], n_jobs=2))
    [2, 3]
    """
    n_jobs = effective_n_jobs(n_jobs)
    chunks = iter(chunks)
    ahead = list(itertools.islice(chunks, 2))
    if n_jobs == 1 or len(ahead) < 2:  # one chunk is not worth the start of a thread
        yield from map(function, itertools.chain(ahead, chunks))
        return
    chunks = itertools.chain(ahead, chunks)
    executor = ThreadPoolExecutor(n_jobs, thread_name_prefix="skxmc")
    try:
        pending = deque(executor.submit(function, c) for c in itertools.islice(chunks, 2 * n_jobs))
        while pending:
            # result() before the next submit: a failure must not start further work.
            result = pending.popleft().result()
            pending.extend(executor.submit(function, c) for c in itertools.islice(chunks, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
