"""A cluster
=========

Fit on the workers of a dask cluster, and get the model that one process gives.

Inside ``with joblib.parallel_config("dask")`` the label shards of `DismecClassifier` and the trees
of `ParabelTree` go to the workers of the cluster. The rows are sent to each worker once. Here the
cluster is two processes of this machine; with the address of a scheduler it is many machines.

::

    python examples/cluster.py

Needs ``pip install distributed``; without it, two processes of joblib stand in.
"""

import contextlib
import logging
import time

import joblib

from skxmc import DismecClassifier, ParabelTree
from skxmc.datasets import load_debtags
from skxmc.metrics import precision_at_k

ESTIMATORS = {
    "DismecClassifier": DismecClassifier(),
    "ParabelTree": ParabelTree("parabel", random_state=0),
}


# %%
@contextlib.contextmanager
def cluster():
    """Two workers; yields what they are."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        with joblib.parallel_config("loky", n_jobs=2):
            yield "joblib's loky"
        return
    workers = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
    )
    # elsewhere: Client("tcp://scheduler:8786")
    with workers, Client(workers), joblib.parallel_config("dask"):
        yield "dask"


# %%
def main(every=30):
    """Fit both estimators on each ``every``-th document, here and on the cluster."""
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[::every], data.Y_train[::every]
    here, there = {}, {}
    for name, estimator in ESTIMATORS.items():
        start = time.perf_counter()
        here[name] = estimator.fit(X, Y).predict_topk(data.X_test, k=5), time.perf_counter() - start
    with cluster() as kind:
        for name, estimator in ESTIMATORS.items():
            start = time.perf_counter()
            model = estimator.fit(X, Y)
            there[name] = model.predict_topk(data.X_test, k=5), time.perf_counter() - start
    print(f"{X.shape[0]} documents, {Y.shape[1]} labels; {kind}, two workers\n")
    print(f"{'':18}{'P@1':>7}{'one process':>14}{'cluster':>11}{'same answers':>15}")
    for name, (answers, seconds) in here.items():
        others, elsewhere = there[name]
        same = (answers.labels == others.labels).all() and (answers.scores == others.scores).all()
        precision = precision_at_k(data.Y_test, answers, k=1)
        print(f"{name:18}{precision:7.3f}{seconds:12.1f} s{elsewhere:9.1f} s{same!s:>15}")
    print("\nFits of seconds gain nothing: starting workers and sending rows take longer.")


if __name__ == "__main__":
    main()
