"""Threads over chunks, and the same tasks on other processes and machines.

Within a process there is one level of parallelism, threads over chunks: the kernels release the
GIL, so nothing is copied or pickled. `Workers` hands the independent parts of a fit to the backend
that joblib is configured with, such as a dask cluster.
"""

import itertools
import sys
import threading
import traceback
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed

# Times that the same task may be lost with its worker before the loss is raised.
_MAX_LOSSES = 3
# Tasks a worker between two looks at the results, where a backend returns them only together.
_A_ROUND = 4


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
    if _in_dask_worker():
        return 1  # where as many tasks run already as the worker has threads
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


def reduce_chunks(make_function, chunks, take, n_jobs=None):
    """Apply a function to chunks in threads and hand the results on, one by one and in order.

    For many short chunks whose results are added up: a thread stays, with what its function keeps
    between the calls, and nothing passes through the calling thread, both of which `map_chunks`
    pays for with each chunk. The order of the results, and so their sum, does not depend on the
    number of threads.

    Parameters
    ----------
    make_function : callable without arguments
        Called once by each thread; returns what is then called with each chunk.
    chunks : sequence
    take : callable of one argument
        Called with each result, in the order of the chunks, in one thread at a time.
    n_jobs : int or None, default=None
        Number of threads, see :func:`effective_n_jobs`. With 1 no thread is started.

    Notes
    -----
    At most ``2 * n_jobs`` results are held. After an exception no further chunk is begun; it is
    raised as soon as the calls under way have returned.

    Examples
    --------
    >>> from skxmc._parallel import reduce_chunks
    >>> texts = []
    >>> reduce_chunks(lambda: str.upper, ["a", "b", "c"], texts.append, n_jobs=2)
    >>> texts
    ['A', 'B', 'C']
    """
    n_jobs = min(effective_n_jobs(n_jobs), len(chunks))
    if n_jobs <= 1:
        function = make_function() if chunks else None
        for chunk in chunks:
            take(function(chunk))
        return
    tasks, results, changed = enumerate(chunks), {}, threading.Condition()
    n_taken, is_over = 0, False

    def work():
        nonlocal n_taken
        function = make_function()
        while True:
            with changed:
                number, chunk = next(tasks, (None, None))
                if number is None:
                    return
                while number - n_taken >= 2 * n_jobs and not is_over:
                    changed.wait()
                if is_over:
                    return
            result = function(chunk)
            with changed:
                results[number] = result
                while n_taken in results and not is_over:
                    take(results.pop(n_taken))
                    n_taken += 1
                changed.notify_all()

    executor = ThreadPoolExecutor(n_jobs, thread_name_prefix="skxmc")
    try:
        for future in as_completed([executor.submit(work) for _ in range(n_jobs)]):
            future.result()
    finally:
        with changed:
            is_over = True
            changed.notify_all()
        executor.shutdown(wait=True)


class Workers:
    """Where the independent tasks of a fit run: threads here, or other processes through joblib.

    Threads of this process are the default. Within ``with joblib.parallel_config("dask")`` (or
    "loky", or any other registered backend of processes) the tasks go to the workers of that
    backend. A task on a worker runs in one thread; a dask worker runs as many at a time as it has
    threads. The results do not depend on where a task runs, as far as the processors are alike.

    What all tasks share goes to each worker once: dask scatters it to all workers, for as long as
    this object lives; loky maps it into the memory of its processes, once for each call of `map`.

    Parameters
    ----------
    n_jobs : int or None, default=None
        Threads, or processes of a backend that lets it be chosen; see :func:`effective_n_jobs`.
    prefer : {"threads", "processes"}, default="threads"
        What runs the tasks where no backend is configured. "processes" is joblib's own default,
        loky; for work that holds the GIL.
    local : bool, default=False
        Threads of this process whatever is configured.
    verbose : int, default=0
        Verbosity of joblib, for backends other than dask.

    Attributes
    ----------
    remote : bool
        Whether the tasks leave this process.
    n_at_once : int
        Tasks that run at the same time.

    Notes
    -----
    Lost workers: dask runs their tasks elsewhere. Other backends raise an error; then what has not
    come back is computed once more, on new workers, with a RuntimeWarning. A task that is lost
    three times raises the backend's error. Exceptions of the tasks themselves are raised as they
    are, with the traceback of the worker as a note.

    Inside a task on a dask worker, tasks are not spread any further.

    Examples
    --------
    >>> from skxmc._parallel import Workers
    >>> list(Workers(n_jobs=2).map(pow, [2, 3, 4], 2))
    [4, 9, 16]
    """

    def __init__(self, n_jobs=None, *, prefer="threads", local=False, verbose=0):
        self.n_jobs = n_jobs
        self.verbose = verbose
        self._backend = None if local else _process_backend(n_jobs, prefer)
        self._scattered = {}
        self.remote = self._backend is not None
        self.n_at_once = (
            self._backend.effective_n_jobs(_configured(n_jobs))
            if self.remote
            else effective_n_jobs(n_jobs)
        )

    def map(self, function, tasks, *shared, finish=None):
        """Yield ``function(task, *shared)`` for each task, in the order of the tasks.

        Parameters
        ----------
        function : callable
            For other processes: of a module, so that it can be pickled (dask and loky take any).
        tasks : sequence
            Small: where tasks leave this process, each is pickled.
        *shared : objects
            Arguments that are the same for all tasks. Not to be changed.
        finish : callable(task, result), optional
            Called in this process as soon as a result is there: in the thread that made it, or in
            the order of the tasks if it comes from another process.

        Yields
        ------
        object
        """
        if not self.remote:

            def run(task):
                result = function(task, *shared)
                if finish is not None:
                    finish(task, result)
                return result

            yield from map_chunks(run, tasks, self.n_jobs)
            return
        tasks = list(tasks)
        for task, result in zip(tasks, self._map_remote(function, tasks, shared), strict=True):
            if finish is not None:
                finish(task, result)
            yield result

    def release(self, *shared):
        """Let the workers of dask forget what will not be shared again."""
        for part in shared:
            self._scattered.pop(id(part), None)

    def _map_remote(self, function, tasks, shared):
        run = self._run_dask if hasattr(self._backend, "client") else self._run_joblib
        done = losses = 0
        while done < len(tasks):
            outcomes = run(function, tasks[done:], shared)
            try:
                for succeeded, result in outcomes:
                    if not succeeded:
                        break
                    done, losses = done + 1, 0
                    yield result
            except Exception as error:  # the backend's: those of tasks are outcomes
                losses += 1
                # dask has tried a killed task several times itself
                if losses == _MAX_LOSSES or type(error).__name__ == "KilledWorker":
                    raise
                warnings.warn(
                    f"Workers were lost ({type(error).__name__}): {len(tasks) - done} of "
                    f"{len(tasks)} tasks are run again.",
                    RuntimeWarning,
                    stacklevel=4,
                )
                self._scattered.clear()
                continue
            finally:
                outcomes.close()
            if not succeeded:
                raise result

    def _run_joblib(self, function, tasks, shared):
        # scikit-learn's, which hands its configuration on
        from sklearn.utils.parallel import Parallel, delayed

        options = {"n_jobs": self.n_jobs, "verbose": self.verbose}
        calls = (delayed(_attempt)(function, task, *shared) for task in tasks)
        if self._backend.supports_return_generator:
            yield from Parallel(return_as="generator", **options)(calls)
            return
        # ray and multiprocessing: some at a time, so that results are not lost with later ones
        with Parallel(**options) as parallel:
            while some := list(itertools.islice(calls, _A_ROUND * self.n_at_once)):
                yield from parallel(some)

    def _run_dask(self, function, tasks, shared):
        # joblib's own adapter waits for ever for a task that dask has given up, and scatters to one
        # worker, with which the data would be lost.
        from sklearn import get_config

        client = self._backend.client
        shared = [self._share(client, part) for part in shared]
        config = get_config()
        n_ahead = 2 * max(1, sum(client.ncores().values()))
        tasks = iter(tasks)

        def submit(n):
            return [
                client.submit(_attempt_configured, config, function, task, *shared, pure=False)
                for task in itertools.islice(tasks, n)
            ]

        pending = deque(submit(n_ahead))
        try:
            while pending:
                outcome = pending.popleft().result()
                pending.extend(submit(1))
                yield outcome
        finally:
            client.cancel(list(pending))

    def _share(self, client, part):
        """The part's future on all workers; small and simple ones go with each task."""
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        if id(part) not in self._scattered:
            (future,) = client.scatter([part], broadcast=True, hash=False)
            self._scattered[id(part)] = part, future  # the part too: an id is free after it
        return self._scattered[id(part)][1]


def _process_backend(n_jobs, prefer):
    """The backend of other processes that joblib is configured with, or None."""
    if _in_dask_worker():
        return None
    import joblib

    backend, _ = joblib.parallel.get_active_backend(prefer=prefer)
    if getattr(backend, "supports_sharedmem", False):
        return None
    one_process = not hasattr(backend, "client") and (
        backend.effective_n_jobs(_configured(n_jobs)) == 1
    )
    return None if one_process else backend


def _configured(n_jobs):
    if n_jobs is not None:
        effective_n_jobs(n_jobs)  # refuses what is no number of jobs
        return int(n_jobs)
    import joblib

    _, n_jobs = joblib.parallel.get_active_backend()
    return 1 if n_jobs is None else n_jobs


def _in_dask_worker():
    """Whether this thread runs a task of a dask worker."""
    worker = sys.modules.get("distributed.worker")
    return worker is not None and hasattr(worker.thread_state, "execution_state")


def _attempt(function, task, *shared):
    """(True, result) or (False, exception): so that other errors are those of the backend."""
    try:
        return True, function(task, *shared)
    except Exception as error:
        error.add_note(f"On a worker:\n{traceback.format_exc()}")
        return False, error


def _attempt_configured(config, function, task, *shared):
    from sklearn import config_context

    with config_context(**config):
        return _attempt(function, task, *shared)
