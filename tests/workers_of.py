"""Worker processes of joblib's backends for tests, and their sudden death."""

import contextlib
import os
import signal

import joblib
import pytest

BACKENDS = ["loky", "dask"]


@contextlib.contextmanager
def two_workers(backend):
    """Two worker processes; yields a function that lists their process numbers."""
    if backend == "loky":
        from joblib.externals.loky import reusable_executor

        with joblib.parallel_config("loky", n_jobs=2):
            yield lambda: set(reusable_executor._executor._processes)
        return
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client, joblib.parallel_config("dask"):
        yield lambda: set(client.run(os.getpid).values())


def kill_after_first(monkeypatch, pids):
    """Have one worker killed as soon as the first result of a map is there; returns the killed."""
    from skxmc._parallel import Workers

    killed = []
    original = Workers.map

    def killing(self, *args, **kwargs):
        for result in original(self, *args, **kwargs):
            if self.remote and not killed:
                killed.append(min(pids()))
                os.kill(killed[0], signal.SIGKILL)
            yield result

    monkeypatch.setattr(Workers, "map", killing)
    return killed
