"""How good are sparse output layers, against a dense one, DismecClassifier and ParabelTree?

    python benchmarks/bench_dst_accuracy.py --data FOLDER [FOLDER ...] --embeddings EMB
    python benchmarks/bench_dst_accuracy.py --data FOLDER --embeddings EMB --curves

Features are tf-idf (X of the data folder) and, where ``EMB/<name of the data folder>`` has what
``embed.py`` wrote, frozen sentence embeddings; ``--features text`` trains the encoder ``--encoder``
end to end. In each round all models train one after the other, each in a process of its own, with
the random state of the round. Pairs of ``filter_test`` are left out of all answers.

``--shrink`` is by how much sparse layers have fewer weights than the dense layer over the same
inputs: it sets ``fan_in``. ``--models`` takes names and expressions like
'SparseDSTClassifier(layout="group", fan_in=32)'; ``--params`` are for all SparseDSTClassifiers.

``--curves`` draws figure 5.4 of Schultheis' thesis: P@1 of static sparsity, SET and RigL, each with
and without the auxiliary loss, over the share of weights that are left out.
"""

import argparse
import json
import sys
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp
import trees

#: Models by name. ``fan_in`` of those with a sparse layer comes from ``--shrink``.
MODELS = {
    "dense": 'SparseDSTClassifier(layout="dense")',
    "fixed": 'SparseDSTClassifier(layout="fixed")',
    "group": 'SparseDSTClassifier(layout="group")',
    "group-bfloat16": 'SparseDSTClassifier(layout="group", precision="bfloat16")',
    "group-float8": 'SparseDSTClassifier(layout="group", precision="float8")',
    "dismec": "DismecClassifier()",
    "parabel": "ParabelTree()",
}
DYNAMICS = ("static", "set", "rigl")
METRICS = trees.METRICS


def main():
    """Parse the command line, measure, report."""
    names = "\n".join(f"  {name:15s} {expression}" for name, expression in MODELS.items())
    parser = harness.parser(
        __doc__, folders="+", params=False, epilog=f"models by name:\n{names}\n"
    )
    parser.add_argument("--embeddings", type=Path, help="folder of the folders of embed.py")
    parser.add_argument(
        *("--features",),
        nargs="+",
        default=["embeddings", "tfidf"],
        choices=("embeddings", "tfidf", "text"),
    )
    parser.add_argument("--encoder", type=Path, help="folder of a text encoder, for text")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), metavar="MODEL", help="names or expressions"
    )
    parser.add_argument(
        "--params", type=json.loads, default={}, help="of all SparseDSTClassifiers, as JSON"
    )
    parser.add_argument("--shrink", type=float, default=8, help="dense weights per sparse one")
    parser.add_argument(
        "--hidden", type=int, default=512, help="width of the hidden layer over tf-idf"
    )
    parser.add_argument(
        "--hidden-embeddings", type=int, default=0, help="the same over embeddings, 0: none"
    )
    parser.add_argument("--curves", action="store_true", help="figure 5.4 instead of the table")
    parser.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.66, 0.83, 0.92, 0.96, 0.98]
    )
    parser.add_argument("--dynamics", nargs="+", default=DYNAMICS, choices=DYNAMICS)
    parser.add_argument("--auxiliary", type=float, default=0.4, help="weight of the auxiliary loss")
    parser.add_argument("--layout", default="fixed", choices=("fixed", "group"), help="of curves")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a process may take")
    args = parser.parse_args()
    for folder in args.data:
        for features in args.features:
            one = argparse.Namespace(**{**vars(args), "data": folder})
            measure(one, features)


def measure(args, features):
    """Measure and report one data set with one kind of features."""
    with harness.Session(args, __file__) as session:
        task = Task(session, args, features)
        if task.X_train is None:
            print(f"{args.data.name}: no {features}, left out", file=sys.stderr)
            return
        models = curve_models(args, task) if args.curves else table_models(args, task)
        for r in range(args.rounds):
            for title, model in models.items():
                answers = session.scratch / "answers.npz"
                result = session.attempt(
                    *(title, "fit"),
                    estimator=model["estimator"],
                    params=model["params"],
                    seed=r,
                    X_train=task.X_train,
                    Y=task.Y,
                    X_test=task.X_test,
                    exclude=task.exclude,
                    answers=str(answers),
                    threads=args.threads,
                    timeout=args.timeout,
                )
                if result is None:
                    continue
                result.update(task.evaluate(answers, task.subset(None)))
                about = {key: value for key, value in model.items() if key != "params"}
                about["params"] = json.dumps(model["params"], sort_keys=True)
                session.add(title, result, round=r, features=features, **about)
                session.flush()
        if not session.rows:
            raise SystemExit("No model was trained:\n" + "\n".join(session.failures.values()))
        session.save()
        if args.curves:
            report_curves(session, args, features)
        else:
            report(session, features)


class Task(harness.Task):
    """The data with one kind of features; what is not there is None."""

    def __init__(self, session, args, features):
        super().__init__(session, args)
        self.features = features
        folder = args.data.resolve()
        if features == "tfidf":
            self.n_features = sp.load_npz(self.X_train).shape[1]
        elif features == "embeddings":
            here = None if args.embeddings is None else args.embeddings / folder.name
            files = [None if here is None else here / f"X_{part}.npy" for part in ("train", "test")]
            found = here is not None and all(file.exists() for file in files)
            self.X_train, self.X_test = map(str, files) if found else (None, None)
            if found:
                self.n_features = np.load(self.X_train, mmap_mode="r").shape[1]
                self._check_rows(files)
        else:
            files = [folder / f"{part}_texts.txt.gz" for part in ("train", "test")]
            found = args.encoder is not None and all(file.exists() for file in files)
            self.X_train, self.X_test = map(str, files) if found else (None, None)
            self.n_features = encoder_width(args.encoder) if found else 0
        self.Y = self.labels_file(self.subset(None))
        self.exclude = self._excluded(folder, args)

    def _check_rows(self, files):
        for file, Y in zip(files, (self.Y_train, self.Y_test)):
            n_rows = np.load(file, mmap_mode="r").shape[0]
            if n_rows != Y.shape[0]:
                raise SystemExit(f"{file} has {n_rows} rows, not {Y.shape[0]}: embed all texts")

    def _excluded(self, folder, args):
        """Return the file of the pairs that are no answers, with the columns of the task."""
        if not (folder / "filter_test.npz").exists():
            return None
        from skxmc.datasets import load_folder

        pairs = sp.csr_matrix(load_folder(folder).filter_test)
        if pairs.shape[1] != self.n_labels:  # the labels that harness.Task has chosen
            order = np.random.default_rng(args.seed).permutation(pairs.shape[1])
            pairs = pairs[:, np.sort(order[: self.n_labels])]
        return self._write("filter_test", pairs)


def encoder_width(folder):
    """Return the number of outputs of an encoder in the format of transformers."""
    return json.loads((Path(folder) / "config.json").read_text())["hidden_size"]


def table_models(args, task):
    """Return estimator, parameters and layout by title, for the table."""
    return {name: model_of(name, args, task) for name in args.models}


def model_of(name, args, task, **more):
    """Return what a worker must know of a model, by its name or expression."""
    estimator, own = trees.parse(MODELS.get(name, name))
    if estimator != "SparseDSTClassifier":
        if task.features == "text":
            raise SystemExit(f"{estimator} takes no text: leave it out of --models")
        return {"estimator": estimator, "params": own}
    given = {**args.params, **own, **more}
    params = {"hidden": hidden_width(args, task.features), **given}
    if task.features == "text":
        params = {"encoder": str(args.encoder), **params, "hidden": None}
    width = params["hidden"] or task.n_features
    if params.get("layout") != "dense" and "fan_in" not in params:
        params["fan_in"] = max(1, round(width / args.shrink))
    return {"estimator": estimator, "params": params}


def hidden_width(args, features):
    """Return the width of the hidden layer over these features, or None."""
    return {"tfidf": args.hidden, "embeddings": args.hidden_embeddings}.get(features) or None


def curve_models(args, task):
    """Return the models of the curves by title: dense, and all others for each sparsity.

    The auxiliary loss teaches what lies below the output layer: over features that are not trained
    it would change nothing, and is left out.
    """
    models = {"dense": {**model_of("dense", args, task), "sparsity": 0.0}}
    for sparsity in args.sparsities:
        for dynamics in args.dynamics:
            model = model_of("fixed", args, task, layout=args.layout, dynamics=dynamics)
            trained = model["params"]["hidden"] or task.features == "text"
            width = model["params"]["hidden"] or task.n_features
            model["params"]["fan_in"] = max(1, round((1 - sparsity) * width))
            for auxiliary in (0.0, args.auxiliary) if trained else (0.0,):
                models[f"{curve_title(dynamics, auxiliary)}, {sparsity:.0%}"] = {
                    **model,
                    "params": {**model["params"], "auxiliary": auxiliary},
                    "sparsity": sparsity,
                    "dynamics": dynamics,
                    "auxiliary": auxiliary,
                }
    return models


def curve_title(dynamics, auxiliary):
    """Return the name of a curve."""
    return dynamics + (" + auxiliary" if auxiliary else "")


def report(session, features):
    """Print a line a model, with differences to the dense layer."""
    titles = list(dict.fromkeys(row["method"] for row in session.rows))
    keys = (
        "fit_s",
        "epoch_s",
        "fit_total_mb",
        "model_mb",
        "n_weights",
        "head_weights",
        "predict_s",
    )
    dense = session.of("dense")
    lines = []
    for title in titles:
        rows = session.of(title)
        line = {key: harness.median_of(rows, key) for key in (*keys, *METRICS)}
        line["model"] = title
        precisions = [row["P@1"] for row in rows]
        line["range"] = f"{min(precisions):.2f} to {max(precisions):.2f}"
        line["difference"] = difference(rows, dense, "P@1")
        line["fewer"] = harness.median_ratio(
            [row for row in dense if row.get("head_weights")],
            [row for row in rows if row.get("head_weights")],
            "head_weights",
        )
        lines.append(line)
    columns = {
        "model": "model",
        **{name: (name, ".2f") for name in METRICS},
        "P@1 - dense": ("difference", "+.2f"),
        "P@1 of the rounds": "range",
        "fit s": ("fit_s", ".1f"),
        "epoch s": ("epoch_s", ".2f"),
        "output weights": ("head_weights", ",.0f"),
        "dense / this": ("fewer", ".1f"),
        "all weights": ("n_weights", ",.0f"),
        "model MB": ("model_mb", ".1f"),
        "process MB": ("fit_total_mb", ".0f"),
        "test set s": ("predict_s", ".2f"),
    }
    harness.print_report(
        session,
        f"Output layers, {session.rows[0]['data']}, {features}",
        harness.markdown(lines, columns),
    )


def difference(rows, others, key):
    """Return the median over the rounds of ``rows[r][key] - others[r][key]``, or None."""
    pairs = {row["round"]: row[key] for row in others}
    gaps = [row[key] - pairs[row["round"]] for row in rows if row["round"] in pairs]
    return float(np.median(gaps)) if gaps else None


def report_curves(session, args, features):
    """Print P@1 by sparsity and curve."""
    dense = harness.median_of(session.of("dense"), "P@1")
    curves = [curve_title(name, a) for name in args.dynamics for a in (0.0, args.auxiliary)]
    lines = []
    for sparsity in args.sparsities:
        line = {"sparsity": f"{sparsity:.0%}", "dense": dense}
        for curve in curves:
            rows = session.of(f"{curve}, {sparsity:.0%}")
            line[curve] = harness.median_of(rows, "P@1")
            if rows:
                line["fan_in"] = json.loads(rows[0]["params"])["fan_in"]
        lines.append(line)
    columns = {"sparsity": "sparsity", "fan-in": "fan_in", "dense": ("dense", ".2f")}
    shown = [curve for curve in dict.fromkeys(curves) if any(line[curve] for line in lines)]
    columns.update({curve: (curve, ".2f") for curve in shown})
    harness.print_report(
        session,
        f"P@1 over sparsity, {session.rows[0]['data']}, {features} (thesis, figure 5.4)",
        harness.markdown(lines, columns),
    )


# ------------------------------------------------------------------ worker
def fit(estimator, params, seed, X_train, Y, X_test, exclude, answers, threads):
    """Train, answer the test rows, save; return what it cost and how large the model is."""
    import tempfile

    import skxmc

    params = {"random_state": seed, **params}
    X_train, X_test, Y = load(X_train), load(X_test), sp.load_npz(Y)
    warm_up(estimator, params, X_train, threads)
    model = trees.make(estimator, params, threads)
    with harness.Meter() as meter:
        model.fit(X_train, Y)
    excluded = {} if exclude is None else {"exclude": sp.load_npz(exclude)}
    topk, cost = harness.batch(
        lambda: model.predict_topk(X_test, k=min(5, Y.shape[1]), **excluded), most=1
    )
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        skxmc.save_model(model, saved, overwrite=True)
        model_mb = harness.folder_mb(saved)
    record = meter.record("fit")
    epochs = getattr(model, "n_iter_", None) if estimator == "SparseDSTClassifier" else None
    return {
        **record,
        **cost,
        **sizes(model),
        "fit_total_mb": record["fit_before_mb"] + record["fit_peak_mb"],
        "epoch_s": record["fit_s"] / epochs if epochs else None,
        "epochs": epochs,
        "model_mb": model_mb,
    }


def load(path):
    """Return features or texts of a file."""
    if path.endswith(".npz"):
        return sp.load_npz(path)
    if path.endswith(".npy"):
        return np.load(path)
    from embed import read_texts

    return read_texts(Path(path))


def warm_up(estimator, params, X, threads):
    """Compile the kernels by a short training on rows of the same kind."""
    rows = X[:60]
    n_rows = len(rows) if isinstance(rows, list) else rows.shape[0]
    Y = sp.csr_matrix((np.random.default_rng(0).random((n_rows, 20)) < 0.2).astype(np.float32))
    quick = {"epochs": 1} if estimator == "SparseDSTClassifier" else {}
    model = trees.make(estimator, {**params, **quick}, threads)
    model.fit(rows, Y).predict_topk(rows, k=3)


def sizes(model):
    """Return the number of weights of a model, of all of it and of the output layer."""
    if hasattr(model, "trees_") or hasattr(model, "coef_"):
        n_weights = trees.describe(model)["nnz"]
        return {"n_weights": n_weights, "head_weights": n_weights}
    head = sum(part.weights.size for part in model._fitted_parts())
    front = sum(np.asarray(array).size for array in model._front_arrays.values())
    return {"n_weights": head + front, "head_weights": head}


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
