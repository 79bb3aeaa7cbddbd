"""How long a model file of a given size takes to open, and what a prediction reads and copies.

``python benchmarks/bench_model_files.py [--gigabytes 1]`` makes a model of about that size of each
kind from random weights, saves it, and measures in a process of its own, with the files in the
page cache, imports done and kernels compiled: opening mapped, the first row, the following rows,
opening with all data verified; the bytes of the files that are mapped in after the first row, and
the memory that the process then has for itself alone: what a second process would take once more.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp

from skxmc import (
    DismecClassifier,
    LMTXClassifier,
    ParabelTree,
    SparseDSTClassifier,
    UniDECClassifier,
    XRTransformerClassifier,
    load_model,
    save_model,
)

# Words of the texts of models that take texts.
_VOCABULARY = 200_000


def random_rows(n_rows, n_features, n_entries, rng):
    """Rows of as many features each, drawn evenly: CSR float32."""
    indices = rng.integers(0, n_features, (n_rows, n_entries), dtype=np.int32)
    indices.sort(axis=1)
    indptr = np.arange(n_rows + 1, dtype=np.int64) * n_entries
    data = rng.random(n_rows * n_entries, dtype=np.float32) + np.float32(0.1)
    return sp.csr_array((data, indices.ravel(), indptr), shape=(n_rows, n_features))


def random_texts(n_texts, n_words, rng):
    """Texts of as many words each, out of a large vocabulary."""
    words = rng.integers(0, _VOCABULARY, (n_texts, n_words))
    return [" ".join(f"word{number}" for number in row) for row in words]


def few_labels():
    """Labels of the 20 rows of a first fit, whose weights are then replaced."""
    return sp.csr_array(np.eye(20, 4, dtype=np.uint8))


def set_labels(model, n_labels):
    """Give a fitted model so many labels."""
    model.n_labels_, model.classes_ = n_labels, np.arange(n_labels, dtype=np.int32)
    return model


def dismec(n_bytes, n_labels, n_features, rng):
    """A one-vs-all model with random weights."""
    model = DismecClassifier().fit(random_rows(20, n_features, 50, rng), few_labels())
    coef = random_rows(n_labels, n_features, int(n_bytes // 8 // n_labels), rng)
    coef.sum_duplicates()
    model.coef_, model.intercept_ = coef, -rng.random(n_labels, dtype=np.float32)
    model._scorer = None
    return set_labels(model, n_labels)


def parabel(n_bytes, n_labels, n_features, rng):
    """A tree of one level of clusters of 100 labels, with random weights."""
    X = random_rows(20, n_features, 50, rng)
    model = ParabelTree(n_trees=1, random_state=0).fit(X, few_labels())
    return grow(model, n_bytes, n_labels, n_features, rng)


def grow(model, n_bytes, n_labels, n_features, rng):
    """Give a fitted ParabelTree a large tree."""
    from skxmc.label_space import LabelTree
    from skxmc.ops.tree_search import TreeWeights

    n_clusters = n_labels // 100
    n_labels = n_clusters * 100
    parent = np.concatenate(
        [[-1], np.zeros(n_clusters, int), np.repeat(np.arange(n_clusters), 100) + 1]
    )
    tree = LabelTree.from_parents(
        parent, np.concatenate([np.full(n_clusters + 1, -1), np.arange(n_labels)])
    )
    n_rows = int(n_bytes // 31 // (n_clusters + 1))  # of a chunk; about 31 bytes with two entries
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
    return set_labels(model, n_labels)


def sparse_layer(n_bytes, n_labels, n_features, rng):
    """Labels with 64 weights each: for 1 GB about 2.6 million of them, whatever is asked for."""
    fan_in, n_features = 64, min(n_features, 1 << 16)
    n_labels = int(n_bytes // (6 * fan_in + 12))
    X = random_rows(20, n_features, 50, rng)
    model = SparseDSTClassifier(fan_in=fan_in, epochs=1, random_state=0).fit(X, few_labels())
    first = rng.integers(0, n_features, n_labels)[:, None]
    (part,) = model._parts
    part["indices"] = np.empty((n_labels, fan_in), np.uint16)
    part["indices"][:] = (first + np.arange(fan_in) * 977) % n_features
    part["weights"] = rng.standard_normal((n_labels, fan_in), np.float32)
    part["bias"] = np.full(n_labels, -1, np.float32)
    model._layer_labels = rng.permutation(n_labels).astype(np.int32)
    return set_labels(model, n_labels)


def unit_vectors(n_rows, width, rng):
    """Random vectors of length about 1."""
    vectors = rng.standard_normal((n_rows, width), np.float32)
    vectors /= np.float32(np.sqrt(width))
    return vectors


def unidec(n_bytes, n_labels, n_features, rng):
    """A dual encoder of word vectors and a classifier, 256 numbers of each for a label."""
    texts, width = random_texts(20, 2000, rng), 256
    n_labels = int(n_bytes // (8 * width))
    model = UniDECClassifier(dimension=width, epochs=1, random_state=0)
    model.fit(texts, few_labels(), label_text=["a", "b", "c", "d"])
    vectors = unit_vectors(n_labels, 2 * width, rng)
    model._label_halves = {"encoder": vectors[:, :width], "classifier": vectors[:, width:]}
    model._indexes = {}
    return set_labels(model, n_labels)


def lmtx(n_bytes, n_labels, n_features, rng):
    """A bi-encoder of word vectors, 256 numbers a label."""
    texts, width = random_texts(20, 2000, rng), 256
    n_labels = int(n_bytes // (4 * width))

    def teach(texts, labels):
        return [label in text for text, label in zip(texts, labels, strict=True)]

    model = LMTXClassifier(teach, dimension=width, n_rounds=1, random_state=0)
    model.fit(texts, label_text=[text.split()[0] for text in texts[:4]])
    model._label_vectors = unit_vectors(n_labels, width, rng)
    model._answerable, model._index = np.ones(n_labels, bool), None
    return set_labels(model, n_labels)


def xr_transformer(n_bytes, n_labels, n_features, rng):
    """A tree on tf-idf of 200,000 words beside a static embedding."""
    texts = random_texts(20, 30_000, rng)
    model = XRTransformerClassifier(n_steps=1, dimension=256, arity=2, random_state=0)
    model.fit(texts, few_labels())
    (ranker,) = model.rankers_
    grow(ranker, n_bytes, n_labels, ranker.n_features_in_, rng)
    return set_labels(model, ranker.n_labels_)


MODELS = {
    "DismecClassifier": dismec,
    "ParabelTree": parabel,
    "SparseDSTClassifier": sparse_layer,
    "UniDECClassifier": unidec,
    "LMTXClassifier": lmtx,
    "XRTransformerClassifier": xr_transformer,
}


# ---------------------------------------------------------------------------- measured


def mapped(folder):
    """Bytes of the files of a folder that are mapped and in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def private():
    """Bytes that this process has written to, and has alone."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"Private_Dirty: +(\d+)", rollup).group(1))


def measure(path, X, pipe):
    """Send the figures of a saved model, in a process that has seen nothing else."""
    warnings.simplefilter("ignore")

    def row(i):
        return X[i : i + 1]

    load_model(path).predict_topk(row(0), k=5)  # what is imported and compiled, is
    times = []
    for _ in range(7):
        started, of_cpu = time.perf_counter(), time.process_time()
        model = load_model(path)
        times.append((time.perf_counter() - started, time.process_time() - of_cpu))
        del model
    before = private()
    model = load_model(path)
    opened = private() - before
    started = time.perf_counter()
    model.predict_topk(row(0), k=5)
    first = time.perf_counter() - started
    read, own = mapped(path), private() - before
    following = []
    for i in range(1, 50):
        started = time.perf_counter()
        model.predict_topk(row(i), k=5)
        following.append(time.perf_counter() - started)
        if sum(following) > 10:
            break
    after_all = private() - before
    del model
    started = time.perf_counter()
    load_model(path, verify=True)
    size = sum(file.stat().st_size for file in Path(path).iterdir())
    pipe.send(
        {
            "files_mb": size / 1e6,
            "open_ms": 1e3 * min(wall for wall, _ in times),
            "open_cpu_ms": 1e3 * min(cpu for _, cpu in times),
            "first_row_ms": 1e3 * first,
            "next_row_ms": 1e3 * float(np.median(following)),
            "mapped_mb": read / 1e6,
            "private_opened_mb": opened / 1e6,
            "private_first_row_mb": own / 1e6,
            "private_all_rows_mb": after_all / 1e6,
            "verify_s": time.perf_counter() - started,
        }
    )


def in_own_process(path, X):
    """What `measure` sends."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=measure, args=(str(path), X, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        raise SystemExit(f"The process that measures {path} has ended.") from None
    finally:
        process.join()


def main():
    """Make or find the models, measure them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--labels", type=int, default=500_000, help="of linear models and trees")
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="keep the models here, or find them here")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--make-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    rows = []
    for name in arguments.models or MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            path = (arguments.folder or Path(temporary)) / name
            texts = name in ("UniDECClassifier", "LMTXClassifier", "XRTransformerClassifier")
            rng = np.random.default_rng(0)
            if not path.exists():
                sizes = arguments.gigabytes * 1e9, arguments.labels, arguments.features
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a fit on 20 rows
                    model = MODELS[name](*sizes, rng)
                save_model(model, path)
                del model
            if arguments.make_only:
                continue
            if texts:
                X = random_texts(50, 50, rng)
            else:
                X = random_rows(50, load_model(path).n_features_in_, 50, rng)
            row = {"method": name, **in_own_process(path, X)}
        if not rows:
            print(" | ".join(row))
        rows.append(row)
        print(" | ".join(v if isinstance(v, str) else f"{v:.1f}" for v in row.values()), flush=True)
    if rows:
        facts = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "git": harness.git_state(),
            "cpu": harness.cpu_name(),
            "cores": os.cpu_count(),
            "versions": harness.versions(),
        }
        harness.append_csv(
            arguments.output / "bench_model_files.csv", [{**facts, **row} for row in rows]
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
