"""How long a model file of a given size takes to open, and what a first row reads of it.

``python benchmarks/bench_model_files.py [--gigabytes 1]`` makes a one-vs-all model
and a label tree of that size from random weights, saves them, and times, in a warm process and with
the files in the page cache: opening mapped, the first row, the following rows, opening with all
data verified; and the bytes of the files that are resident after the first row.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skxmc import DismecClassifier, ParabelTree, load_model, save_model


def resident(folder):
    """Bytes of the files of a folder that are mapped and in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def random_rows(n_rows, n_features, n_entries, rng):
    """Rows of as many features each, drawn evenly: CSR float32."""
    indices = rng.integers(0, n_features, (n_rows, n_entries), dtype=np.int32)
    indices.sort(axis=1)
    indptr = np.arange(n_rows + 1, dtype=np.int64) * n_entries
    data = rng.random(n_rows * n_entries, dtype=np.float32) + np.float32(0.1)
    return sp.csr_array((data, indices.ravel(), indptr), shape=(n_rows, n_features))


def dismec(n_bytes, n_labels, n_features, rng):
    """A one-vs-all model with random weights."""
    X = random_rows(20, n_features, 50, rng)
    model = DismecClassifier().fit(X, sp.csr_array(np.eye(20, 4, dtype=np.uint8)))
    coef = random_rows(n_labels, n_features, int(n_bytes // 8 // n_labels), rng)
    coef.sum_duplicates()
    model.coef_, model.intercept_ = coef, -rng.random(n_labels, dtype=np.float32)
    model.n_labels_, model.classes_ = n_labels, np.arange(n_labels, dtype=np.int32)
    model._scorer = None
    return model


def parabel(n_bytes, n_labels, n_features, rng):
    """A tree of one level of clusters of 100 labels, with random weights."""
    from skxmc.label_space import LabelTree
    from skxmc.ops.tree_search import TreeWeights

    X = random_rows(20, n_features, 50, rng)
    model = ParabelTree(n_trees=1, random_state=0).fit(X, sp.csr_array(np.eye(20, 4, dtype="u1")))
    n_clusters = n_labels // 100
    n_labels = n_clusters * 100
    parent = np.concatenate(
        [[-1], np.zeros(n_clusters, int), np.repeat(np.arange(n_clusters), 100) + 1]
    )
    tree = LabelTree.from_parents(
        parent, np.concatenate([np.full(n_clusters + 1, -1), np.arange(n_labels)])
    )
    n_rows = int(n_bytes // 40 // (n_clusters + 1))  # of a chunk; about 40 bytes with two entries
    per_chunk = np.sort(
        rng.integers(0, n_features, (n_clusters + 1, n_rows), dtype=np.int32), axis=1
    )
    features = [np.unique(row) for row in per_chunk]
    lengths = np.zeros(tree.n_nodes, np.int64)
    lengths[: n_clusters + 1] = [len(row) for row in features]
    row_feature = np.concatenate(features)
    first = rng.integers(0, 50, len(row_feature), dtype=np.uint16)
    weights = TreeWeights(
        np.concatenate([[0], np.cumsum(lengths)]),
        row_feature,
        np.arange(len(row_feature) + 1, dtype=np.int64) * 2,
        np.stack([first, first + np.uint16(50)], axis=1).ravel(),
        rng.normal(size=2 * len(row_feature)).astype(np.float32),
        np.full(tree.n_nodes, -0.1, dtype=np.float32),
    )
    model.trees_, model.weights_, model._search = [tree], [weights], {}
    model.n_labels_, model.classes_ = n_labels, np.arange(n_labels, dtype=np.int32)
    return model


def main():
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--labels", type=int, default=500_000)
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    n_bytes = arguments.gigabytes * 1e9
    print("model | files MB | open ms (of CPU) | first row ms | next row ms | read MB | verify s")
    for name, make in (("one-vs-all", dismec), ("tree", parabel)):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / "model"
            save_model(make(n_bytes, arguments.labels, arguments.features, rng), path)
            X = random_rows(50, arguments.features, 50, rng)
            load_model(path).predict_topk(X, k=5)  # what is compiled, is compiled
            times = []
            for _ in range(5):
                started, of_cpu = time.perf_counter(), time.process_time()
                model = load_model(path)
                times.append((time.perf_counter() - started, time.process_time() - of_cpu))
            started = time.perf_counter()
            model.predict_topk(X[:1], k=5)
            first = time.perf_counter() - started
            read = resident(path)
            started = time.perf_counter()
            for i in range(1, 50):
                model.predict_topk(X[[i]], k=5)
            following = (time.perf_counter() - started) / 49
            del model
            started = time.perf_counter()
            load_model(path, verify=True)
            verified = time.perf_counter() - started
            size = sum(file.stat().st_size for file in path.iterdir())
            print(
                f"{name} | {size / 1e6:.0f} | {1e3 * min(times)[0]:.1f} "
                f"({1e3 * min(times)[1]:.1f}) | {1e3 * first:.1f} | "
                f"{1e3 * following:.2f} | {read / 1e6:.0f} | {verified:.2f}"
            )


if __name__ == "__main__":
    main()
