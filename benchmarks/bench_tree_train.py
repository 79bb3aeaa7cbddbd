"""How long does a label tree take to train, how good and how large is it, against the peers' trees?

    python benchmarks/bench_tree_train.py --data FOLDER [FOLDER ...] --venv-root PEERS

In each round all models train one after the other, each in a process of its own, and answer the
test rows in another one with what was saved (beam 10; napkinXC: exact). ``--models`` takes names
and expressions like 'ParabelTree(preset="bonsai", n_trees=1)' or 'pecos(Cp=2.0)'. Round r has the
random state r in ours; omikuji and napkinXC draw their own. A model that fails or takes longer than
--timeout is reported and left out from then on. Each measurement is written to the CSV at once.
"""

import harness
import trees

DEFAULT = ["default", "xr-linear", *trees.PEERS]
COST = """
models by name:
{names}

A round of all peers takes on two cores about 6 minutes of training and prediction on 45,000 rows
with 37,000 labels (libpecos tfn+man and omikuji Bonsai 100 s each, omikuji's prediction a row at a
time 25 s), 2 minutes on 33,000 rows with 2,000 labels, 1 minute on 24,000 rows with 570 labels.
Three rounds of all of it: half an hour. A quick look: --labels 500 --rounds 1.
"""


def main():
    """Parse the command line, measure, report."""
    names = "\n".join(f"  {n:15s} {e}" for n, e in {**trees.OURS, **trees.PEERS}.items())
    parser = harness.parser(
        __doc__, peers=True, folders="+", params=False, epilog=COST.format(names=names)
    )
    trees.add_arguments(parser, models=DEFAULT, latency_rows=200, timeout=900)
    parser.add_argument("--beam", type=int, default=10, help="width of the search")
    trees.measure_each(parser.parse_args(), measure)


def measure(args):
    """Measure and report one data set."""
    with harness.Session(args, __file__) as session:
        models = trees.choose(args.models, args.venv_root, session)
        task = harness.Task(session, args)
        folder = session.scratch / "model"
        common = {"timeout": args.timeout}
        for model in models:  # compiles our kernels, warms the file cache
            if not model.is_peer:
                trees.fit_model(
                    session, task, model, args.venv_root, seed=0, folder=folder, **common
                )
        for r in range(args.rounds):
            for model in models:
                here = session.scratch / f"model-{r}-{models.index(model)}"
                fitted = trees.fit_model(
                    session, task, model, args.venv_root, seed=r, folder=here, **common
                )
                if fitted is None:
                    continue
                predicted = trees.predict_model(
                    *(session, task, model, args.venv_root),
                    folder=str(here),
                    beam=args.beam,
                    latency_rows=args.latency_rows,
                    **common,
                )
                harness.remove(here)
                row = {**(predicted or {}), **fitted}
                row["fit_total_mb"] = row["fit_before_mb"] + row["fit_peak_mb"]
                session.add(model.title, row, round=r, n_labels=task.n_labels, beam=args.beam)
                session.flush()
        if not session.rows:
            raise SystemExit("No model was trained:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, models)


def report(session, models):
    """Print a line a model, then ratios and differences between ours and the peers'."""
    measured = [model for model in models if session.of(model.title)]
    keys = ("fit_s", "fit_cpu_s", "cluster_s", "fit_peak_mb", "fit_total_mb", "model_mb", "nnz")
    keys += ("predict_s", "row_ms", *trees.METRICS)
    lines = []
    for model in measured:
        rows = session.of(model.title)
        line = {"model": model.title, **{key: harness.median_of(rows, key) for key in keys}}
        line["ratio"] = harness.median_ratio(rows, session.of(measured[0].title), "fit_s")
        precision = [row["P@1"] for row in rows if "P@1" in row]
        if precision:
            line["range"] = f"{min(precision):.2f} to {max(precision):.2f}"
        lines.append(line)
    columns = {
        "model": "model",
        "fit s": ("fit_s", ".2f"),
        "CPU s": ("fit_cpu_s", ".1f"),
        "time / first": ("ratio", ".2f"),
        "clustering s": ("cluster_s", ".2f"),
        "peak MB": ("fit_peak_mb", ".0f"),
        "whole process MB": ("fit_total_mb", ".0f"),
        "model MB": ("model_mb", ".1f"),
        "weights": ("nnz", ".0f"),
        **{name: (name, ".2f") for name in trees.METRICS},
        "P@1 of the rounds": "range",
        "test set s": ("predict_s", ".2f"),
        "one row ms": ("row_ms", ".3f"),
    }
    tables = [harness.markdown(lines, columns)]
    peers = [model for model in measured if model.is_peer]
    if peers and any(not model.is_peer for model in measured):
        tables.append(compare(session, measured, peers))
    harness.print_report(session, f"Training trees, {session.rows[0]['data']}", *tables)


def compare(session, measured, peers):
    """Return a table of each of our models against each peer, round by round."""
    lines = []
    for ours in measured:
        for peer in peers:
            if ours.is_peer:
                continue
            mine, theirs = session.of(ours.title), session.of(peer.title)
            line = {"ours": ours.title, "peer": peer.title}
            for key in ("fit_s", "fit_cpu_s", "fit_peak_mb", "fit_total_mb", "model_mb"):
                line[key] = harness.median_ratio(theirs, mine, key)
            for key in trees.METRICS:
                line[key] = difference(mine, theirs, key)
            gaps = [line[key] for key in trees.METRICS if line[key] is not None]
            line["worst"] = min(gaps, default=None)
            lines.append(line)
    return harness.markdown(
        lines,
        {
            "ours": "ours",
            "peer": "peer",
            "its time / ours": ("fit_s", ".2f"),
            "its CPU / ours": ("fit_cpu_s", ".2f"),
            "its peak / ours": ("fit_peak_mb", ".2f"),
            "its process / ours": ("fit_total_mb", ".2f"),
            "its model / ours": ("model_mb", ".2f"),
            **{f"{key}, ours - its": (key, "+.2f") for key in trees.METRICS},
            "worst": ("worst", "+.2f"),
        },
    )


def difference(mine, theirs, key):
    """Return the difference of the medians over the rounds, or None."""
    values = harness.median_of(mine, key), harness.median_of(theirs, key)
    return None if None in values else values[0] - values[1]


if __name__ == "__main__":
    harness.run_script(main, {})
