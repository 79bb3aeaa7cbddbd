"""Tasks in threads and on the workers of joblib's backends: order, errors, lost workers."""

import os
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from worker_tasks import die_with, fail, inside, nap, place, process, total
from workers_of import BACKENDS, kill_after_first, two_workers

from skxmc import _parallel
from skxmc._parallel import Workers


@pytest.fixture(scope="module", params=BACKENDS)
def pids(request):
    with two_workers(request.param) as pids:
        yield pids


def test_threads_unless_other_processes_are_configured():
    assert not Workers().remote
    assert Workers(3).n_at_once == 3
    with joblib.parallel_config(n_jobs=2):
        assert not Workers().remote
        assert Workers().n_at_once == 2
    with joblib.parallel_config("threading", n_jobs=2):
        assert not Workers(prefer="processes").remote
    with joblib.parallel_config("loky", n_jobs=2):
        assert Workers().remote
        assert not Workers(local=True).remote
        assert not Workers(1).remote  # one process is this one
    assert Workers(2, prefer="processes").remote
    assert not Workers(prefer="processes").remote
    with pytest.raises(ValueError, match="n_jobs must be"):
        Workers(0)
    results = Workers(2).map(place, range(5), 10)
    assert [(value, pid) for value, pid, _ in results] == [(n, os.getpid()) for n in range(10, 15)]


def test_threads_finish_out_of_order():
    finished = []
    naps = list(Workers(2).map(nap, [0, 1], 0.01, finish=lambda *pair: finished.append(pair)))
    assert naps == [0, 1]
    assert sorted(finished) == [(0, 0), (1, 1)]


def test_results_are_in_order_and_of_other_processes(pids):
    workers = Workers()
    assert workers.remote
    assert workers.n_at_once == 2
    finished = []
    results = list(workers.map(place, range(20), 7, finish=lambda task, _: finished.append(task)))
    assert [value for value, _, _ in results] == list(range(7, 27))
    assert {pid for _, pid, _ in results} <= pids()
    assert finished == list(range(20))
    assert list(workers.map(place, [], 7)) == []


def test_both_workers_take_part(pids):
    assert len(set(Workers().map(process, range(6)))) == 2


def test_shared_arrays(pids):
    array = np.ones(300_000)  # of more than 1 MB, which loky maps into memory
    workers = Workers()
    for _ in range(2):
        assert [value for value, _ in workers.map(total, [1, 2], array)] == [3e5, 6e5]
    workers.release(array)
    assert [value for value, _ in workers.map(total, [1], array)] == [3e5]


def test_exceptions_of_tasks_come_as_they_are(pids):
    results = Workers().map(fail, range(30), 3)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="task 3") as caught:
        next(results)
    assert "in fail" in caught.value.__notes__[0]  # the traceback of the worker
    assert list(Workers().map(fail, range(4), 7)) == [0, 1, 2, 3]  # the workers go on


def test_tasks_do_not_spread_further_and_have_the_configuration(pids):
    with sklearn.config_context(working_memory=77):
        (answer,) = Workers().map(inside, [0])
    assert answer == (False, 1, [1, 4, 9], 77)


def test_a_killed_worker_is_made_up_for(pids, monkeypatch):
    killed = kill_after_first(monkeypatch, pids)
    before = pids() if "dask" in str(joblib.parallel.get_active_backend()[0]).lower() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert list(Workers().map(nap, range(8), 0.2)) == list(range(8))
    assert killed
    if before is not None:
        assert killed[0] in before
    for _ in range(100):  # until its parent has noticed
        if not Path(f"/proc/{killed[0]}").exists():
            break
        time.sleep(0.05)
    assert killed[0] not in pids()


def test_lost_loky_workers_are_told_and_a_deadly_task_is_given_up(monkeypatch):
    monkeypatch.setattr(_parallel, "_MAX_LOSSES", 2)
    with two_workers("loky"):
        results = Workers().map(die_with, range(6), 4)
        with (
            pytest.warns(RuntimeWarning, match="of 6 tasks are run again"),
            pytest.raises(Exception, match="terminated"),
        ):
            list(results)
        assert list(Workers().map(die_with, range(6), -1)) == list(range(6))


@pytest.mark.slow
def test_a_deadly_task_is_given_up_by_dask():
    distributed = pytest.importorskip("distributed")
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), two_workers("dask"):
        with pytest.raises(distributed.KilledWorker):
            list(Workers().map(die_with, range(6), 4))
        assert list(Workers().map(die_with, range(6), -1)) == list(range(6))


@pytest.mark.slow
def test_data_that_is_lost_with_all_workers_is_sent_again():
    distributed = pytest.importorskip("distributed")
    with two_workers("dask"):
        workers = Workers()
        array = np.arange(1000.0)
        expected = [(n * 499500.0) for n in range(4)]
        assert [value for value, _ in workers.map(total, range(4), array)] == expected
        distributed.get_client().restart()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            results = [value for value, _ in workers.map(total, range(4), array)]
        assert results == expected
