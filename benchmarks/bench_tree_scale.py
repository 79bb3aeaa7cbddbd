"""Does a label tree with a million labels train on this machine, and how do time and memory grow?

    python benchmarks/bench_tree_scale.py

A synthetic catalogue (``catalogue.py``: topics within topics, power-law labels, five a row, about
40 features a row). One series changes the labels at ``--rows`` rows, the other labels and rows
together; each size is made, trained and predicted in processes of its own. Memory is that of the
whole fitting process, data included. The cheap sizes come first: a model that wants more than
--limit-gib or takes longer than --timeout is left out at those that follow. Each measurement is
written to the CSV at once.
"""

import math
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp
import trees

COST = """
All default sizes with one of our models take roughly a quarter of an hour on two cores (estimated
from 20,000 rows and labels), the largest half of it; libpecos several times as long. Scratch space
(TMPDIR): 4 GB.
A quick look:
--label-counts 3000 10000 --rows 10000 --together 3000
"""


class Catalogue:
    """The files of one size; has what ``trees.fit_model`` and ``predict_model`` ask of a task."""

    def __init__(self, session, args, n_rows, n_labels):
        self.n_rows, self.n_labels = n_rows, n_labels
        self._folder = session.scratch / f"{n_rows}-{n_labels}"
        self._folder.mkdir(exist_ok=True)
        self.shape = session.attempt(
            *(f"data {n_rows} x {n_labels}", "make"),
            n_rows=n_rows,
            n_labels=n_labels,
            n_features=args.features,
            folder=str(self._folder),
            limit_gib=args.limit_gib,
            timeout=args.timeout,
        )
        self.X_train, self.X_test = (str(self._folder / f"X_{p}.npz") for p in ("train", "test"))

    def labels_file(self, labels=None):
        return str(self._folder / "Y_train.npz")

    def subset(self, n_labels=None):
        return None

    def evaluate(self, answer_file, labels=None):
        """Return P@k in percent."""
        from skxmc.metrics import evaluate_topk
        from skxmc.ops.topk import TopK

        with np.load(answer_file) as answer:
            topk = TopK(answer["labels"].astype(np.int32), answer["scores"].astype(np.float32))
        figures = evaluate_topk(sp.load_npz(self._folder / "Y_test.npz"), topk, harness.KS)
        return {f"P@{k}": 100 * float(figures[f"P@{k}"]) for k in harness.KS}

    def remove(self):
        harness.remove(self._folder)


def make(n_rows, n_labels, n_features, folder):
    """Write a catalogue; a twentieth as many rows, at most 20,000, are for testing."""
    from catalogue import make_catalogue

    n_test = min(max(n_rows // 20, 100), 20_000)
    X, Y = make_catalogue(n_rows + n_test, n_labels, n_features)
    parts = {"train": slice(0, n_rows), "test": slice(n_rows, None)}
    for name, matrix in (("X", X), ("Y", Y)):
        for part, rows in parts.items():
            sp.save_npz(Path(folder) / f"{name}_{part}.npz", matrix[rows], compressed=False)
    Y = Y[:n_rows]
    return {
        "test_rows": n_test,
        "nnz_x": int(X[:n_rows].nnz),
        "nnz_y": int(Y.nnz),
        "with_positives": int((Y.getnnz(axis=0) > 0).sum()),
    }


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, data=False, peers=True, rounds=1, params=False, epilog=COST)
    parser.add_argument("--models", nargs="+", default=["xr-linear"], metavar="MODEL")
    parser.add_argument(
        *("--label-counts",),
        type=int,
        nargs="*",
        default=[30_000, 100_000, 300_000, 1_000_000],
        metavar="L",
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the series of labels")
    parser.add_argument(
        *("--together",),
        type=int,
        nargs="*",
        default=[100_000, 300_000, 1_000_000],
        metavar="N",
        help="as many rows as labels",
    )
    parser.add_argument("--features", type=int, default=300_000)
    parser.add_argument("--beam", type=int, default=10, help="width of the search")
    parser.add_argument("--latency-rows", type=int, default=200, help="rows predicted one by one")
    parser.add_argument("--limit-gib", type=float, default=24, help="memory of a process")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a process may take")
    args = parser.parse_args()
    sizes = [(args.rows, n_labels) for n_labels in args.label_counts]
    sizes += [(n, n) for n in args.together if (n, n) not in sizes]
    sizes.sort(key=math.prod)  # what is cheap comes first

    with harness.Session(args, __file__) as session:
        models = trees.choose(args.models, args.venv_root, session)
        for size in sizes:
            measure(session, args, models, size)
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, args, models)


def measure(session, args, models, size):
    """Make the data of one size, train and predict with each model in turn."""
    data = Catalogue(session, args, *size)
    limits = {"limit_gib": args.limit_gib, "timeout": args.timeout}
    for r in range(args.rounds if data.shape else 0):
        for model in models:
            folder = session.scratch / "model"
            fitted = trees.fit_model(
                *(session, data, model, args.venv_root), seed=r, folder=folder, **limits
            )
            if fitted is None:
                continue
            predicted = trees.predict_model(
                *(session, data, model, args.venv_root),
                folder=str(folder),
                beam=args.beam,
                latency_rows=args.latency_rows,
                **limits,
            )
            harness.remove(folder)
            row = {**(predicted or {}), **fitted, **data.shape}
            row["fit_total_mb"] = row["fit_before_mb"] + row["fit_peak_mb"]
            row["fit_gib"] = row["fit_total_mb"] * 1e6 / 2**30
            if predicted:
                row["us_per_row"] = 1e6 * row["predict_s"] / data.shape["test_rows"]
            shape = {"n_rows": size[0], "n_labels": size[1], "n_features": args.features}
            session.add(model.title, row, round=r, beam=args.beam, **shape)
            session.flush()
    data.remove()


def report(session, args, models):
    """Print a table for each series, with the growth from one size to the next."""
    columns = {
        "model": "model",
        "rows": ("n_rows", ".0f"),
        "labels": ("n_labels", ".0f"),
        "with positives": ("with_positives", ".0f"),
        "fit s": ("fit_s", ".1f"),
        "clustering s": ("cluster_s", ".1f"),
        "time grows as labels^": ("fit_s growth", ".2f"),
        "ms a label": ("ms_per_label", ".3f"),
        "whole process GiB": ("fit_gib", ".2f"),
        "memory grows as labels^": ("fit_total_mb growth", ".2f"),
        "model MB": ("model_mb", ".0f"),
        "weights": ("nnz", ".0f"),
        "µs a row": ("us_per_row", ".0f"),
        "grows as labels^": ("us_per_row growth", ".2f"),
        "one row ms": ("row_ms", ".3f"),
        **{f"P@{k}": (f"P@{k}", ".2f") for k in harness.KS},
    }
    series = {
        f"{args.rows} rows": [(args.rows, n) for n in sorted(args.label_counts)],
        "as many rows as labels": [(n, n) for n in sorted(args.together)],
    }
    tables = []
    for name, sizes in series.items():
        lines = [line for model in models for line in grow(session, model.title, sizes)]
        if lines:
            tables.append(f"{name}:\n\n{harness.markdown(lines, columns)}")
    harness.print_report(session, "Growth of label trees", *tables)


def grow(session, title, sizes):
    """Return a line a size, with the power of the number of labels by which each figure grew."""
    keys = ("fit_s", "cluster_s", "fit_gib", "fit_total_mb", "model_mb", "nnz", "with_positives")
    keys += ("us_per_row", "row_ms", *(f"P@{k}" for k in harness.KS))
    lines = []
    for n_rows, n_labels in sizes:
        rows = [
            row
            for row in session.of(title)
            if (row["n_rows"], row["n_labels"]) == (n_rows, n_labels)
        ]
        if not rows:
            continue
        line = {"model": title, "n_rows": n_rows, "n_labels": n_labels}
        line |= {key: harness.median_of(rows, key) for key in keys}
        line["ms_per_label"] = 1e3 * line["fit_s"] / n_labels
        if lines:
            before = lines[-1]
            for key in ("fit_s", "fit_total_mb", "us_per_row"):
                if line[key] and before[key]:
                    growth = math.log(line[key] / before[key])
                    line[f"{key} growth"] = growth / math.log(n_labels / before["n_labels"])
        lines.append(line)
    return lines


if __name__ == "__main__":
    harness.run_script(main, {"make": make})
