"""What a cluster costs and gains: the same fit by threads, by loky and by dask, on this machine.

    python benchmarks/bench_cluster.py --data DATA/stackexchange
    python benchmarks/bench_cluster.py --rows 5000 --labels 2000       # synthetic

Two workers of one thread each against two threads and one. Each line tells the seconds of the fit
with the workers started, the bytes that dask scattered to each worker, the bytes of the model, and
whether the model is that of one thread, bit for bit; the CSV has them too. Needs
``pip install distributed``.
"""

import argparse
import contextlib
import os
import pickle
import sys
import time
from pathlib import Path

import harness
import joblib
from sklearn.base import clone

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from skxmc import DismecClassifier, ParabelTree
from skxmc.datasets import load_folder, make_xmc_classification

ESTIMATORS = {
    "DismecClassifier": DismecClassifier(),
    "ParabelTree": ParabelTree("parabel", random_state=0),
}


@contextlib.contextmanager
def dask_workers(sent):
    """A cluster of two processes; notes the bytes of each object that is scattered."""
    from distributed import Client, LocalCluster

    class Noting(Client):
        def scatter(self, parts, **options):
            sent.extend(len(pickle.dumps(part, protocol=5)) for part in parts)
            return super().scatter(parts, **options)

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Noting(cluster), joblib.parallel_config("dask"):
        yield


def places(sent):
    """Name of a place, and the context of a fit there."""
    yield "1 thread", joblib.parallel_config("threading", n_jobs=1)
    yield "2 threads", joblib.parallel_config("threading", n_jobs=2)
    yield "loky, 2 processes", joblib.parallel_config("loky", n_jobs=2)
    yield "dask, 2 processes", dask_workers(sent)


def main(arguments):
    """Print a table, and append its rows to the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder as of skxmc.datasets.dump_folder")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(arguments)
    if args.data:
        data = load_folder(args.data)
        X, Y = data.X_train, data.Y_train
    else:
        data = make_xmc_classification(args.rows, 4 * args.rows, args.labels, random_state=0)
        X, Y = data.X, data.Y
    small = make_xmc_classification(200, 100, 40, random_state=0)
    print(f"{X.shape[0]:,} rows, {X.nnz:,} entries, {Y.shape[1]:,} labels")
    print(f"{'':18}{'where':20}{'fit s':>8}{'sent MB':>9}{'model MB':>10}  same")
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "git": harness.git_state(),
        "cpu": harness.cpu_name(),
        "cores": os.cpu_count(),
        "data": Path(args.data).resolve().name if args.data else "synthetic",
        "rows": X.shape[0],
        "entries": X.nnz,
        "labels": Y.shape[1],
        "versions": harness.versions(),
    }
    rows = []
    for name, estimator in ESTIMATORS.items():
        expected = None
        sent = []
        for place, context in places(sent):
            with context:
                clone(estimator).fit(small.X, small.Y)  # starts workers and loads kernels
                sent.clear()
                start = time.perf_counter()
                model = clone(estimator).fit(X, Y)
                seconds = time.perf_counter() - start
            state = pickle.dumps(model)
            expected = state if expected is None else expected
            megabytes = sum(sent) / 1e6 if sent else None
            row = {
                **facts,
                "method": name,
                "where": place,
                "fit_s": seconds,
                "sent_mb": megabytes,
                "model_mb": len(state) / 1e6,
                "same": state == expected,
                "load": round(os.getloadavg()[0], 2),
            }
            rows.append(row)
            shown = "" if megabytes is None else f"{megabytes:.1f}"
            same = "yes" if row["same"] else "NO"
            print(f"{name:18}{place:20}{seconds:8.2f}{shown:>9}{row['model_mb']:10.1f}  {same}")
    harness.append_csv(args.output / "bench_cluster.csv", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
