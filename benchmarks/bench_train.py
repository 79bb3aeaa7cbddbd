"""How long does training take, against libpecos one-vs-all and one LinearSVC per label?

    python benchmarks/bench_train.py --data FOLDER --venv-root PEERS
    python benchmarks/bench_train.py --data FOLDER --venv-root PEERS --peer-labels 1000

Our fit is timed on all labels. libpecos is timed on ``--peer-labels`` random labels (default: all)
and scaled; if these are not all, ours is timed on the same labels too, and the metrics compare the
two models on them. LinearSVC is timed on ``--svc-labels`` random labels and scaled. In each round
all run one after the other; a ratio is the median of the rounds' ratios.
"""

import harness
import numpy as np
import scipy.sparse as sp

PEERS = harness.HERE / "peers.py"
OURS, OURS_SUBSET, PECOS, SVC = "skxmc", "skxmc, peer's labels", "libpecos", "LinearSVC"


def fit(X, Y, params, X_test, answers):
    """Train on all labels of a file and answer the test rows."""
    from skxmc import DismecClassifier

    warm_up_s = harness.warm_up(params)
    X, Y, X_test = sp.load_npz(X), sp.load_npz(Y), sp.load_npz(X_test)
    model = DismecClassifier(**params)
    with harness.Meter() as meter:
        model.fit(X, Y)
    topk = model.predict_topk(X_test, k=min(5, Y.shape[1]))
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    return {**meter.record("fit"), "nnz": int(model.coef_.nnz), "warm_up_s": warm_up_s}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], peers=True)
    parser.add_argument("--peer-labels", type=int, help="train libpecos on so many random labels")
    parser.add_argument("--svc-labels", type=int, default=500, help="LinearSVC's; 0 leaves it out")
    parser.add_argument("--svc-tol", type=float, default=0.01)
    args = parser.parse_args()
    pecos = harness.peer_python(args.venv_root, "pecos") if args.venv_root else None
    params = {"n_jobs": args.threads, **args.params}

    with harness.Session(args, __file__) as session:
        task = harness.Task(session, args)
        everything = task.subset(None)
        peer_labels, svc_labels = task.subset(args.peer_labels), task.subset(args.svc_labels)
        whole, part = task.labels_file(everything), task.labels_file(peer_labels)
        answers = session.scratch / "answers.npz"

        def measure(r, method, labels, task_name, **request):
            result = session.call(task_name, **request)
            result["scaled_s"] = result["fit_s"] * task.n_labels / len(labels)
            if "answers" in request:
                result.update(task.evaluate(answers, labels))
            session.add(method, result, round=r, n_labels=len(labels))

        ours = {"X": task.X_train, "params": params, "X_test": task.X_test, "answers": answers}
        session.call("fit", Y=whole if args.labels else task.labels_file(task.subset(20)), **ours)
        for r in range(args.rounds):
            measure(r, OURS, everything, "fit", Y=whole, **ours)
            if pecos:
                request = {"script": PEERS, "python": pecos, "threads": args.threads}
                request |= {"X": task.X_train, "X_test": task.X_test, "answers": answers}
                measure(r, PECOS, peer_labels, "pecos_fit", Y=part, **request)
                if len(peer_labels) < task.n_labels:
                    measure(r, OURS_SUBSET, peer_labels, "fit", Y=part, **ours)
            if args.svc_labels:
                request = {"script": PEERS, "threads": args.threads, "tol": args.svc_tol}
                request |= {"X": task.X_train, "Y": task.labels_file(svc_labels)}
                measure(r, SVC, svc_labels, "linear_svc_fit", **request)
        session.save()
        report(session, args)


def report(session, args):
    """Print one line per method."""
    lines = []
    for method in (OURS, PECOS, OURS_SUBSET, SVC):
        rows = session.of(method)
        if not rows:
            continue
        keys = ("n_labels", "fit_s", "fit_cpu_s", "scaled_s", "fit_peak_mb", "nnz")
        keys += tuple(f"{m}@{k}" for m in ("P", "PSP") for k in harness.KS)
        line = {"method": method, **{key: harness.median_of(rows, key) for key in keys}}
        line["ratio"] = harness.median_ratio(rows, session.of(OURS), "scaled_s")
        line["subset_ratio"] = (
            harness.median_ratio(rows, session.of(OURS_SUBSET), "fit_s")
            if method == PECOS and session.of(OURS_SUBSET)
            else None
        )
        lines.append(line)
    columns = {
        "method": "method",
        "labels": ("n_labels", ".0f"),
        "fit s": ("fit_s", ".2f"),
        "CPU s": ("fit_cpu_s", ".1f"),
        "fit s, all labels": ("scaled_s", ".2f"),
        "time / ours": ("ratio", ".2f"),
        "time / ours, same labels": ("subset_ratio", ".2f"),
        "peak MB": ("fit_peak_mb", ".0f"),
        "weights": ("nnz", ".0f"),
        **{f"{m}@{k}": (f"{m}@{k}", ".2f") for m in ("P", "PSP") for k in harness.KS},
    }
    harness.print_report(
        session, f"Training, {session.rows[0]['data']}", harness.markdown(lines, columns)
    )
    print(f"\nLinearSVC: dual=False, tol={args.svc_tol}, in {args.threads} processes.")
    first = harness.median_of(session.of(OURS), "warm_up_s")
    print(f"Loading our compiled kernels, not in the times above: {first:.2f} s a process.")


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
