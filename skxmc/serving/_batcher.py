"""Put requests that wait at the same time together, and compute them at once."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor


class QueueFullError(Exception):
    """More rows are waiting than allowed."""


class _Job:
    __slots__ = ("future", "k", "rows")

    def __init__(self, rows, k, future):
        self.rows, self.k, self.future = rows, k, future


class Batcher:
    """A queue of jobs in front of one thread that computes.

    Parameters
    ----------
    compute : callable
        ``compute(rows, k)``: a list with one result for each of a list of rows. It runs in a
        thread of its own, one call at a time.
    max_rows : int
        Rows of a batch, unless a single job has more.
    max_wait_s : float
        Seconds to wait for a full batch when the thread is idle.
    max_queue_rows : int
        Rows that may wait.
    on_batch : callable or None, default=None
        Told ``(n_rows, seconds)`` after each call of ``compute``.

    Notes
    -----
    While a batch is computed the next one gathers: under load batches grow by themselves, and an
    idle service answers at once.
    """

    def __init__(self, compute, *, max_rows, max_wait_s, max_queue_rows, on_batch=None):
        self._compute = compute
        self._max_rows = max_rows
        self._max_wait_s = max_wait_s
        self._max_queue_rows = max_queue_rows
        self._on_batch = on_batch
        self._jobs = deque()
        self._task = self._loop = self._changed = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="skxmc-serve")
        self.n_waiting = 0

    async def submit(self, rows, k):
        """Wait for the results of some rows.

        Raises
        ------
        QueueFullError
            At once, if too many rows wait.
        """
        if self.n_waiting + len(rows) > self._max_queue_rows:
            raise QueueFullError
        self._start()
        job = _Job(rows, k, self._loop.create_future())
        self._jobs.append(job)
        self.n_waiting += len(rows)
        self._changed.set()
        return await job.future

    def _start(self):
        """Begin on the running event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop, self._changed = loop, asyncio.Event()
            self._jobs.clear()
            self.n_waiting = 0
            self._task = loop.create_task(self._run())

    async def stop(self):
        """End the task and the thread; jobs that wait are cancelled."""
        if self._task is not None and self._loop is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            for job in self._jobs:
                job.future.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _run(self):
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            groups = {}
            for job in batch:  # of one k each: the answers must not depend on the company
                groups.setdefault(job.k, []).append(job)
            for k, jobs in groups.items():
                await self._compute_jobs(jobs, k)

    async def _gather(self):
        while not self._jobs:
            self._changed.clear()
            await self._changed.wait()
        end = self._loop.time() + self._max_wait_s
        while self._max_wait_s and self.n_waiting < self._max_rows:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), end - self._loop.time())
            except TimeoutError:
                return

    def _take(self):
        batch, n_rows = [], 0
        while self._jobs and (not batch or n_rows + len(self._jobs[0].rows) <= self._max_rows):
            job = self._jobs.popleft()
            self.n_waiting -= len(job.rows)
            if not job.future.done():  # the client may have given up
                batch.append(job)
                n_rows += len(job.rows)
        return batch

    async def _compute_jobs(self, jobs, k):
        rows = [row for job in jobs for row in job.rows]
        try:
            results = await self._call(rows, k)
        except Exception as error:
            if len(jobs) > 1:  # which of them is at fault, the others shall not suffer for
                for job in jobs:
                    await self._compute_jobs([job], k)
            elif not jobs[0].future.done():
                jobs[0].future.set_exception(error)
            return
        start = 0
        for job in jobs:
            if not job.future.done():
                job.future.set_result(results[start : start + len(job.rows)])
            start += len(job.rows)

    async def _call(self, rows, k):
        start = time.perf_counter()
        results = await self._loop.run_in_executor(self._executor, self._compute, rows, k)
        if self._on_batch is not None:
            self._on_batch(len(rows), time.perf_counter() - start)
        return results

    async def run(self, function):
        """Call a function in the thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
