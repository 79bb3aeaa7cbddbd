"""Threads over chunks and the progress bar."""

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest

from skxmc._parallel import effective_n_jobs, map_chunks, reduce_chunks
from skxmc._progress import progress

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("n_jobs", [None, 1, 2, 5, -1, -2, np.int64(3)])
def test_effective_n_jobs_is_that_of_joblib(n_jobs):
    assert effective_n_jobs(n_jobs) == joblib.effective_n_jobs(n_jobs)


def test_effective_n_jobs_obeys_the_context():
    with joblib.parallel_config(n_jobs=3):
        assert effective_n_jobs(None) == 3
        assert effective_n_jobs(2) == 2
    assert effective_n_jobs(None) == 1


@pytest.mark.parametrize("n_jobs", [0, 1.5, True, "2"])
def test_wrong_n_jobs(n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be"):
        effective_n_jobs(n_jobs)


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("n_chunks", [0, 1, 3, 50])
def test_results_are_in_order(n_jobs, n_chunks):
    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert list(map_chunks(work, range(n_chunks), n_jobs)) == [i * i for i in range(n_chunks)]


def test_chunks_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)
    list(map_chunks(lambda _: barrier.wait(), range(3), n_jobs=3))


def test_chunks_are_taken_as_needed():
    taken = itertools.count()
    results = map_chunks(lambda i: i, (next(taken) for _ in itertools.count()), n_jobs=2)
    for _ in range(10):
        next(results)
    results.close()
    assert next(taken) <= 10 + 4  # endless input, at most 2 * n_jobs in advance


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_exception_comes_through_and_drops_the_rest(n_jobs):
    begun = []

    def work(i):
        begun.append(i)
        if i == 3:
            raise ZeroDivisionError("chunk 3")
        time.sleep(0.01)
        return i

    results = map_chunks(work, range(1000), n_jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="chunk 3"):
        next(results)
    assert len(begun) <= 3 + 2 * n_jobs + 1
    assert not [t for t in threading.enumerate() if t.name.startswith("skxmc")]


def test_an_exception_of_the_chunks_comes_through():
    def chunks():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(map_chunks(lambda i: i, chunks(), n_jobs=2))
    assert not [t for t in threading.enumerate() if t.name.startswith("skxmc")]


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("n_chunks", [0, 1, 3, 50])
def test_results_are_taken_in_order(n_jobs, n_chunks):
    threads, results = set(), []

    def make_function():
        threads.add(threading.get_ident())

        def work(i):
            time.sleep(0.002 * (i % 3))
            return i * i

        return work

    reduce_chunks(make_function, range(n_chunks), results.append, n_jobs)
    assert results == [i * i for i in range(n_chunks)]
    assert len(threads) <= min(n_jobs, n_chunks)
    assert not [t for t in threading.enumerate() if t.name.startswith("skxmc")]


def test_reduced_chunks_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)
    reduce_chunks(lambda: lambda _: barrier.wait(), range(3), lambda _: None, n_jobs=3)


def test_few_results_wait_for_a_slow_first_one():
    release, begun, results = threading.Event(), [], []

    def work(i):
        begun.append(i)
        if i == 0:
            release.wait(30)
        elif i == 3:  # the last one that may begin before the first is taken
            time.sleep(0.1)
            assert len(begun) <= 4
            release.set()
        return i

    reduce_chunks(lambda: work, range(20), results.append, n_jobs=2)
    assert results == list(range(20))


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("place", ["make_function", "function", "take"])
def test_an_exception_ends_a_reduction(n_jobs, place):
    begun = []

    def fail(where, i):
        if where == place and i == 3:
            raise ZeroDivisionError(f"in {where}")

    def make_function():
        fail("make_function", 3)

        def work(i):
            begun.append(i)
            fail("function", i)
            time.sleep(0.01)
            return i

        return work

    with pytest.raises(ZeroDivisionError, match=place):
        reduce_chunks(make_function, range(1000), lambda i: fail("take", i), n_jobs)
    assert len(begun) <= 3 + 2 * n_jobs + 1
    assert not [t for t in threading.enumerate() if t.name.startswith("skxmc")]


@pytest.mark.parametrize(
    "call",
    [
        "list(map_chunks(work, range(100_000), 2))",
        "reduce_chunks(lambda: work, range(100_000), id, 2)",
    ],
)
def test_keyboard_interrupt_ends_the_work(call):
    code = """
import os, signal, threading, time
from skxmc._parallel import map_chunks, reduce_chunks
# a process that was started in the background inherits that SIGINT is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
begun = []
def work(i):
    begun.append(i)
    if i == 2:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
try:
    CALL
except KeyboardInterrupt:
    print("interrupted", len(begun) < 50, threading.active_count())
""".replace("CALL", call)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert result.stdout == "interrupted True 1\n", result.stderr


def test_progress_bar(capsys):
    with progress(total=2, description="labels", verbose=1) as bar:
        bar.update()
        bar.set_postfix_str("P@1 0.5")
        bar.update(1)
    assert "labels: 100%" in capsys.readouterr().err


def test_progress_is_silent_and_lazy():
    code = """
import sys
from skxmc._progress import progress
with progress(total=None, description="labels", verbose=0) as bar:
    bar.update()
    bar.set_postfix_str("x")
print("tqdm" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_progress_bar_is_closed_by_an_exception(capsys):
    with (
        pytest.raises(ZeroDivisionError),
        progress(total=2, description="labels", verbose=True) as bar,
    ):
        raise ZeroDivisionError
    assert bar.disable  # tqdm's mark of a closed bar
