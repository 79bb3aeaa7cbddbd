"""How fast is prediction with label trees against libpecos, what does the beam lose, how small is a
model on disk?

    python benchmarks/bench_tree_predict.py --data FOLDER [FOLDER ...] --venv-root PEERS

Batch: rows a second, top 5 of all test rows, at equal beam. One row: with one thread. libpecos runs
with its own model and, where our model is one tree with all leaves at the same depth, with *our*
weights in its format, which compares the search alone. Ours also searches exactly: what that costs,
and what the beam misses. At last the models of each --prune threshold are trained and saved in each
form: their size and quality.
"""

import harness
import numpy as np
import trees

PECOS = "pecos"
FORMS = {  # of save_model
    "plain": {},
    "float16": {"weights_dtype": "float16"},
    "compressed": {"compress": True},
    "compressed float16": {"compress": True, "weights_dtype": "float16"},
}
COST = """
The fits take less than a minute on 45,000 rows with 37,000 labels, each prediction 3 to 10 seconds
with the start of its process: a data set with two of our models and five rounds takes about 8
minutes on two cores, of that 2 for exact search and 2 for the forms on disk. A quick look:
--labels 500 --rounds 1.
"""


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, peers=True, rounds=5, folders="+", params=False, epilog=COST)
    models = ["xr-linear", "default"]
    trees.add_arguments(parser, models=models, models_help="ours", latency_rows=300, timeout=600)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50], metavar="B")
    parser.add_argument(
        *("--prune",),
        type=float,
        nargs="*",
        default=[0.05, 0.1, 0.2, 0.3],
        help="thresholds of the models on disk, for the first model; none leaves that part out",
    )
    trees.measure_each(parser.parse_args(), measure)


def measure(args):
    """Measure and report one data set."""
    with harness.Session(args, __file__) as session:
        ours = trees.choose(args.models, args.venv_root, session)
        if any(model.is_peer for model in ours):
            raise SystemExit("--models takes our estimators; libpecos comes with --venv-root")
        task = harness.Task(session, args)
        saved = {}  # title -> (model, folder, size and nnz)
        for model in ours:
            folder = session.scratch / f"ours-{len(saved)}"
            fitted = fit(session, task, model, args, folder)
            if fitted is not None:
                saved[model.title] = model, folder, fitted
        if args.venv_root is not None:
            add_libpecos(session, task, args, saved)

        exact = {}  # the true answers; the first predictions also compile our kernels
        for title, (model, folder, _) in saved.items():
            if not model.is_peer:
                predict(session, task, args, model, folder, beam=args.beams[0], search="beam")
                if predict(session, task, args, model, folder, search="exact") is not None:
                    exact[title] = exact[adopted_name(title)] = answered_labels(session)
        for r in range(args.rounds):
            for beam in [*args.beams, "exact"]:
                for title, (model, folder, fitted) in saved.items():
                    if model.is_peer and beam == "exact":
                        continue
                    request = {"beam": beam}
                    if not model.is_peer:
                        search = {"search": "exact", "beam": None}
                        request = search if beam == "exact" else {**request, "search": "beam"}
                    row = predict(session, task, args, model, folder, title=title, **request)
                    if row is None:
                        continue
                    row["rows_per_s"] = task.Y_test.shape[0] / row["predict_s"]
                    if title in exact:
                        row["lost"] = lost_answers(exact[title], answered_labels(session))
                    row.update({key: fitted[key] for key in ("model_mb", "nnz") if key in fitted})
                    session.add(title, row, round=r, beam=beam, n_labels=task.n_labels)
                    session.flush()
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        measure_forms(session, task, args, ours, saved)
        session.save()
        report(session, args, saved)


def fit(session, task, model, args, folder):
    """Train and save a model; None if that failed."""
    common = {"seed": 0, "folder": folder, "timeout": args.timeout}
    return trees.fit_model(session, task, model, args.venv_root, **common)


def predict(session, task, args, model, folder, **request):
    """Answer the test rows; None if that failed."""
    common = {"folder": str(folder), "latency_rows": args.latency_rows, "timeout": args.timeout}
    return trees.predict_model(session, task, model, args.venv_root, **common, **request)


def add_libpecos(session, task, args, saved):
    """Add libpecos' own model, and ours in its format, to the saved ones."""
    for peer in trees.choose([PECOS], args.venv_root, session):
        for title, (_, folder, _) in list(saved.items()):
            name = adopted_name(title)
            exported = session.attempt(
                *(name, "export_levels"),
                script=trees.WORKER,
                folder=str(folder),
                prefix=str(folder) + ".level",
                timeout=args.timeout,
            )
            if exported is None:
                continue
            adopted = session.attempt(
                *(name, "adopt"),
                **peer.where(args.venv_root),
                levels=exported["levels"],
                post_processor=exported["post_processor"],
                folder=str(folder) + ".pecos",
                timeout=args.timeout,
            )
            if adopted is not None:
                saved[name] = peer, str(folder) + ".pecos", adopted
        folder = session.scratch / PECOS
        fitted = fit(session, task, peer, args, folder)
        if fitted is not None:
            saved[peer.title] = peer, folder, fitted


def adopted_name(title):
    """Return the name of libpecos with the weights of one of our models."""
    return f"libpecos, weights of {title}"


def answered_labels(session):
    """Return the labels of the last prediction."""
    with np.load(session.scratch / "answers.npz") as answers:
        return answers["labels"]


def lost_answers(true, found):
    """Return the percentage of the true top answers, padding not counted, that were not found."""
    there = (true[:, :, None] == found[:, None, :]).any(axis=2)
    counted = true >= 0
    return 100 * float((counted & ~there).sum() / max(counted.sum(), 1))


def measure_forms(session, task, args, ours, saved):
    """Train our first model at each threshold and save it in each form; beside it libpecos'."""
    if not args.prune or not ours:
        return
    base = ours[0]
    for threshold in args.prune:
        model = trees.Model(base.name)
        model.params = {**model.params, "prune_threshold": threshold}
        model.title = f"{base.title} with prune_threshold={threshold:g}"
        folder = session.scratch / "pruned"
        fitted = fit(session, task, model, args, folder)
        if fitted is None:
            continue
        for form, options in FORMS.items():
            resaved = session.attempt(
                *(f"{base.title} saved {form}", "resave"),
                script=trees.WORKER,
                folder=str(folder),
                variant=str(folder) + ".form",
                options=options,
                timeout=args.timeout,
            )
            if resaved is not None:
                add_form(session, task, args, model, str(folder) + ".form", form, fitted, resaved)
    for _, (model, folder, fitted) in saved.items():
        if model.is_peer and model.name == PECOS and "cluster_s" in fitted:
            add_form(session, task, args, model, folder, "its own", fitted, {})


def add_form(session, task, args, model, folder, form, fitted, resaved):
    """Add the size and the quality of a model on disk as a row."""
    search = {} if model.is_peer else {"search": "beam"}
    row = predict(session, task, args, model, folder, beam=args.beams[0], **search)
    if row is not None:
        sizes = {key: fitted[key] for key in ("model_mb", "nnz") if key in fitted}
        sizes |= {key: resaved[key] for key in ("model_mb",) if key in resaved}
        method = f"saved: {model.title}"
        session.add(method, {**row, **sizes}, form=form, beam=args.beams[0])
        session.flush()


def report(session, args, saved):
    """Print a line a model and beam, what the beam costs and loses, and the forms on disk."""
    keys = ("rows_per_s", "predict_s", "predict_cpu_s", "predict_peak_mb", "row_ms", "row_p95_ms")
    keys += ("load_s", "model_mb", "nnz", "lost", *trees.METRICS)
    reference = next(iter(saved))
    lines = []
    for beam in [*args.beams, "exact"]:
        first = at_beam(session, reference, beam)
        for title in saved:
            rows = at_beam(session, title, beam)
            if not rows:
                continue
            line = {"model": title, "beam": beam}
            line |= {key: harness.median_of(rows, key) for key in keys}
            line["speed"] = harness.median_ratio(first, rows, "predict_s")
            line["row ratio"] = harness.median_ratio(rows, first, "row_ms")
            line["exact cost"] = harness.median_ratio(
                rows, at_beam(session, title, args.beams[0]), "predict_s"
            )
            lines.append(line)
    columns = {
        "model": "model",
        "beam": "beam",
        "rows/s": ("rows_per_s", ".0f"),
        "rows/s / first": ("speed", ".2f"),
        "CPU s": ("predict_cpu_s", ".2f"),
        f"time / beam {args.beams[0]}": ("exact cost", ".2f"),
        "one row ms": ("row_ms", ".3f"),
        "95 % ms": ("row_p95_ms", ".3f"),
        "one row / first": ("row ratio", ".2f"),
        "peak MB": ("predict_peak_mb", ".0f"),
        "load s": ("load_s", ".3f"),
        "model MB": ("model_mb", ".1f"),
        "weights": ("nnz", ".0f"),
        "true top 5 lost %": ("lost", ".3f"),
        **{name: (name, ".2f") for name in trees.METRICS},
    }
    tables = [harness.markdown(lines, columns)]
    forms = [row for row in session.rows if row["method"].startswith("saved: ")]
    if forms:
        shown = {
            "model": "method",
            "form": "form",
            "MB": ("model_mb", ".2f"),
            "weights": ("nnz", ".0f"),
            "load s": ("load_s", ".3f"),
            **{name: (name, ".2f") for name in trees.METRICS},
        }
        tables.append(harness.markdown(forms, shown))
    harness.print_report(session, f"Prediction with trees, {session.rows[0]['data']}", *tables)


def at_beam(session, title, beam):
    """Return the rows of a model at a width of the search."""
    return [row for row in session.of(title) if row["beam"] == beam]


if __name__ == "__main__":
    harness.run_script(main, {})
