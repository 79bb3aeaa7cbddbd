"""How fast is prediction, and how large is the model, against libpecos one-vs-all?

    python benchmarks/bench_predict.py --data FOLDER --venv-root PEERS
    python benchmarks/bench_predict.py --data FOLDER --venv-root PEERS --peer-labels 0

Both predict the top 5 of all test rows, then of single rows with one thread. libpecos runs twice:
with the model that it trains itself, on ``--peer-labels`` random labels (default: all; 0: not at
all, because that training takes long), and with *our* weights in its format, which needs no
training and separates the speed of prediction from the size of the model.
"""

import time
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp

PEERS = harness.HERE / "peers.py"
OURS, ADOPTED, PECOS = "skxmc", "libpecos, our weights", "libpecos, its weights"
FORMATS = {  # of save_model
    "plain": {},
    "compressed": {"compress": True},
    "compressed float16": {"compress": True, "weights_dtype": "float16"},
}


def fit(X, Y, params, folder):
    """Train on all labels; save the model in each format and its bare weights for libpecos."""
    from skxmc import DismecClassifier, save_model

    model = DismecClassifier(**params).fit(sp.load_npz(X), sp.load_npz(Y))
    folder = Path(folder)
    result = {"nnz": int(model.coef_.nnz)}
    for name, options in FORMATS.items():
        save_model(model, folder / name, **options)
        result[f"{name} MB"] = harness.folder_mb(folder / name)
    sp.save_npz(folder / "coef.npz", sp.csr_matrix(model.coef_), compressed=False)
    np.save(folder / "intercept.npy", model.intercept_)
    return result


def predict(model, X, latency_rows, answers, n_jobs):
    """Load a saved model, predict all rows, then one row at a time with one thread."""
    from skxmc import DismecClassifier, load_model  # loading is timed, importing is not

    del DismecClassifier
    X = sp.load_npz(X)
    with harness.Meter() as loading:
        loaded = load_model(model)
    loaded.set_params(n_jobs=n_jobs)
    k = min(5, loaded.n_labels_)
    start = time.perf_counter()
    loaded.predict_topk(X[[0]], k=k)
    first = time.perf_counter() - start
    loaded.predict_topk(X[:50], k=k)
    with harness.Meter() as meter:
        topk = loaded.predict_topk(X, k=k)
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    loaded.set_params(n_jobs=1)
    return {
        **loading.record("load"),
        **meter.record("predict"),
        "first_row_ms": 1e3 * first,
        **harness.median_latency_ms(lambda row: loaded.predict_topk(row, k=k), X, latency_rows),
        "model_mb": harness.folder_mb(model),
    }


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], peers=True, rounds=5)
    parser.add_argument("--peer-labels", type=int, help="train libpecos on so many labels; 0: not")
    parser.add_argument("--latency-rows", type=int, default=300, help="rows predicted one by one")
    parser.add_argument("--pecos-matrix", default="BINARY_SEARCH_CHUNKED", help="libpecos' layout")
    args = parser.parse_args()
    pecos = harness.peer_python(args.venv_root, "pecos") if args.venv_root else None
    params = {"n_jobs": args.threads, **args.params}

    with harness.Session(args, __file__) as session:
        task = harness.Task(session, args)
        everything, peer_labels = task.subset(None), task.subset(args.peer_labels)
        folder = session.scratch / "ours"
        folder.mkdir()
        Y = task.labels_file(everything)
        fitted = session.call("fit", X=task.X_train, Y=Y, params=params, folder=folder)
        nnz = {OURS: fitted["nnz"]}

        models = {}
        if pecos:
            peer = {"script": PEERS, "python": pecos}
            models[ADOPTED] = session.scratch / "adopted", everything
            nnz[ADOPTED] = session.call(
                *("pecos_adopt",),
                **peer,
                coef=folder / "coef.npz",
                intercept=folder / "intercept.npy",
                save=models[ADOPTED][0],
            )["nnz"]
            if args.peer_labels != 0:
                models[PECOS] = session.scratch / "libpecos", peer_labels
                nnz[PECOS] = session.call(
                    *("pecos_fit",),
                    **peer,
                    X=task.X_train,
                    Y=task.labels_file(peer_labels),
                    threads=args.threads,
                    save=models[PECOS][0],
                )["nnz"]

        answers = session.scratch / "answers.npz"
        request = {"X": task.X_test, "latency_rows": args.latency_rows, "answers": answers}
        session.call("predict", model=folder / "plain", n_jobs=args.threads, **request)  # compiles
        for r in range(args.rounds):
            result = session.call("predict", model=folder / "plain", n_jobs=args.threads, **request)
            result.update(task.evaluate(answers, everything), nnz=nnz[OURS])
            session.add(OURS, result, round=r, n_labels=len(everything))
            for method, (path, labels) in models.items():
                result = session.call(
                    *("pecos_predict",),
                    **peer,
                    model=path,
                    threads=args.threads,
                    matrix_type=args.pecos_matrix,
                    **request,
                )
                result.update(task.evaluate(answers, labels), nnz=nnz[method])
                session.add(method, result, round=r, n_labels=len(labels))
        for name in FORMATS:
            session.add(f"saved {name}", {**fitted, "model_mb": fitted[f"{name} MB"]})
        session.save()
        report(session)


def report(session):
    """Print a line per method, and the sizes of the saved model."""
    lines = []
    for method in (OURS, ADOPTED, PECOS):
        rows = session.of(method)
        if not rows:
            continue
        keys = ("n_labels", "predict_s", "predict_cpu_s", "predict_peak_mb", "row_ms", "row_p95_ms")
        keys += ("load_s", "first_row_ms", "model_mb", "nnz", "P@1", "P@5", "PSP@5")
        line = {"method": method, **{key: harness.median_of(rows, key) for key in keys}}
        line["load_ms"] = 1e3 * line["load_s"]
        for key in ("predict_s", "row_ms"):
            line[f"{key} ratio"] = harness.median_ratio(rows, session.of(OURS), key)
        lines.append(line)
    columns = {
        "method": "method",
        "labels": ("n_labels", ".0f"),
        "test set s": ("predict_s", ".3f"),
        "time / ours": ("predict_s ratio", ".2f"),
        "CPU s": ("predict_cpu_s", ".2f"),
        "one row ms": ("row_ms", ".3f"),
        "95 % ms": ("row_p95_ms", ".3f"),
        "row / ours": ("row_ms ratio", ".2f"),
        "load ms": ("load_ms", ".1f"),
        "first row ms": ("first_row_ms", ".1f"),
        "peak MB": ("predict_peak_mb", ".0f"),
        "model MB": ("model_mb", ".2f"),
        "weights": ("nnz", ".0f"),
        **{name: (name, ".2f") for name in ("P@1", "P@5", "PSP@5")},
    }
    sizes = [
        {"format": name, "model_mb": session.of(f"saved {name}")[0]["model_mb"]} for name in FORMATS
    ]
    harness.print_report(
        session,
        f"Prediction, {session.rows[0]['data']}",
        harness.markdown(lines, columns),
        harness.markdown(sizes, {"save_model": "format", "MB": ("model_mb", ".2f")}),
    )


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit, "predict": predict})
