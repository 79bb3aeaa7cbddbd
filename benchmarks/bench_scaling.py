"""Do time and memory grow linearly in labels and rows, and is the peak what was predicted?

    python benchmarks/bench_scaling.py

Synthetic data (power-law labels, five a row). One series changes the labels at ``--rows[0]`` rows,
the other the rows at ``--label-counts[0]`` labels. Each point is a process of its own that only
loads the data, fits and predicts.
"""

import math

import harness
import scipy.sparse as sp


def make(n_rows, n_labels, n_features, train, test):
    """Write a synthetic problem; test rows are of the same model."""
    from skxmc.datasets import make_xmc_classification

    n_test = max(100, n_rows // 10)
    data = make_xmc_classification(
        *(n_rows + n_test, n_features, n_labels),
        avg_labels_per_sample=5.0,
        avg_features_per_sample=50.0,
        random_state=0,
    )
    X, Y = sp.csr_matrix(data.X), sp.csr_matrix(data.Y)
    for name, matrix in (("X", X[:n_rows]), ("Y", Y[:n_rows])):
        sp.save_npz(f"{train}.{name}.npz", matrix, compressed=False)
    sp.save_npz(f"{test}.npz", X[n_rows:], compressed=False)
    return {
        "nnz_x": int(X[:n_rows].nnz),
        "nnz_y": int(Y[:n_rows].nnz),
        "with_positives": int((Y[:n_rows].getnnz(axis=0) > 0).sum()),
    }


def fit(train, test, params):
    """Fit and predict one problem, with the peak memory and what the estimator says it will be."""
    from skxmc import DismecClassifier

    files = (f"{train}.X.npz", f"{train}.Y.npz", f"{test}.npz")
    X, Y, X_test = (sp.csr_array(sp.load_npz(file)) for file in files)
    harness.warm_up(params)
    model = DismecClassifier(**params)
    estimate = getattr(model, "estimate_memory", None)
    predicted = estimate(X, Y) if estimate is not None else None
    with harness.Meter() as fitting:
        model.fit(X, Y)
    k = min(5, Y.shape[1])
    model.predict_topk(X_test[:20], k=k)
    with harness.Meter() as predicting:
        model.predict_topk(X_test, k=k)
    return {
        **fitting.record("fit"),
        **predicting.record("predict"),
        "test_rows": X_test.shape[0],
        "predicted_mb": None if predicted is None else predicted / 1e6,
        "model_mb": (model.coef_.data.nbytes + model.coef_.indices.nbytes) / 1e6,
    }


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], data=False, rounds=3)
    parser.add_argument(
        "--label-counts", type=int, nargs="+", default=[4_000, 37_000, 150_000], metavar="L"
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 20_000, 40_000], metavar="N"
    )
    parser.add_argument("--features", type=int, default=20_000)
    args = parser.parse_args()
    params = {"n_jobs": args.threads, **args.params}
    points = [(args.rows[0], n_labels) for n_labels in args.label_counts]
    points += [(n_rows, args.label_counts[0]) for n_rows in args.rows[1:]]

    with harness.Session(args, __file__) as session:
        made = {}
        for n_rows, n_labels in points:
            name = session.scratch / f"{n_rows}-{n_labels}"
            files = {"train": f"{name}-train", "test": f"{name}-test"}
            made[n_rows, n_labels] = (
                files,
                session.call(
                    *("make",), n_rows=n_rows, n_labels=n_labels, n_features=args.features, **files
                ),
            )
        for r in range(args.rounds):
            for (n_rows, n_labels), (files, shape) in made.items():
                result = session.call("fit", params=params, **files)
                row = session.add(
                    f"{n_rows} x {n_labels}",
                    result,
                    round=r,
                    n_rows=n_rows,
                    n_labels=n_labels,
                    n_features=args.features,
                    **{key: shape[key] for key in ("nnz_x", "nnz_y", "with_positives")},
                )
                row["us_per_label"] = 1e6 * row["fit_s"] / max(row["with_positives"], 1)
                row["us_per_row"] = 1e6 * row["predict_s"] / row["test_rows"]
        session.save()
        report(session, made)


def report(session, made):
    """Print a line per point, with the growth from the first point of its series."""
    keys = ("n_rows", "n_labels", "with_positives", "nnz_x", "fit_s", "us_per_label")
    keys += ("fit_peak_mb", "predicted_mb", "predict_s", "us_per_row", "model_mb")
    lines = []
    for n_rows, n_labels in made:
        rows = session.of(f"{n_rows} x {n_labels}")
        line = {key: harness.median_of(rows, key) for key in keys}
        if line["predicted_mb"]:
            line["memory"] = line["fit_peak_mb"] / line["predicted_mb"]
        first = lines[0] if lines else line
        # by which power of labels (or rows) the time grew
        for size in ("n_labels", "n_rows"):
            actual = "with_positives" if size == "n_labels" else "n_rows"
            growth = line[actual] / first[actual]
            others_equal = line[size] != first[size]
            if others_equal and growth > 1:
                line["exponent"] = math.log(line["fit_s"] / first["fit_s"]) / math.log(growth)
        lines.append(line)
    columns = {
        "rows": ("n_rows", ".0f"),
        "labels": ("n_labels", ".0f"),
        "with positives": ("with_positives", ".0f"),
        "fit s": ("fit_s", ".2f"),
        "grows as size^": ("exponent", ".2f"),
        "µs a label": ("us_per_label", ".0f"),
        "peak MB": ("fit_peak_mb", ".0f"),
        "predicted MB": ("predicted_mb", ".0f"),
        "peak / predicted": ("memory", ".2f"),
        "weights MB": ("model_mb", ".0f"),
        "top-5 s": ("predict_s", ".3f"),
        "µs a row": ("us_per_row", ".0f"),
    }
    harness.print_report(session, "Scaling in labels and rows", harness.markdown(lines, columns))


if __name__ == "__main__":
    harness.run_script(main, {"make": make, "fit": fit})
