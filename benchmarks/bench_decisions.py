"""How good and how fast are decisions for a macro metric, against xCOLUMNs, on the same marginals?

    python benchmarks/bench_decisions.py --data FOLDER [FOLDER ...] --venv-root PEERS

For each data set a label tree is trained and its best --top-k probabilities of the test rows are
saved once. Both libraries then choose k labels for each of these rows by block coordinate ascent,
from the same start (the k most probable labels), with the same tolerance and the same largest
number of sweeps, in one thread. The value reached is computed here, by one definition for both
decisions: the expected utility, which both maximise, and the same metric on the true labels.

--sweep measures one sweep over a synthetic matrix of 100,000 rows, 100,000 labels and 100
candidates a row instead; it needs no data.
"""

import argparse
import time

import harness
import numpy as np
import scipy.sparse as sp
import trees

OURS, PEER = "skxmc", "xCOLUMNs"
METRICS = ("macro_f1", "macro_precision", "macro_recall", "macro_balanced_accuracy", "coverage")
MIXED = ("macro_f1:0.9", "macro_precision:0.9", "macro_recall:0.9")
COST = """
Training takes half a minute on 45,000 rows with 37,000 labels; a process of ours or of the peer 5
to 15 seconds, most of it its start: 3 rounds of 8 metrics on one data set take about 8 minutes.
"""


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, peers=True, folders="+", params=False, epilog=COST)
    for action in parser._actions:
        if action.dest == "data":
            action.required = False
    parser.add_argument("--model", default="default", help="what gives the probabilities")
    parser.add_argument("--top-k", type=int, default=100, help="candidates a row")
    parser.add_argument("--k", type=int, default=5, help="labels to choose in each row")
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--max-sweeps", type=int, default=100)
    parser.add_argument(
        *("--metrics",),
        nargs="+",
        default=[*METRICS, *MIXED],
        metavar="METRIC[:ALPHA]",
        help="with alpha: alpha of the metric and 1 - alpha of precision@k",
    )
    parser.add_argument("--sweep", action="store_true", help="time of one sweep on synthetic data")
    parser.add_argument("--sweep-rows", type=int, default=100_000)
    parser.add_argument("--sweep-labels", type=int, default=100_000)
    parser.add_argument("--timeout", type=float, default=900, help="seconds a process may take")
    args = parser.parse_args()
    if not args.sweep and not args.data:
        parser.error("pass --data, or --sweep")
    if args.sweep:
        measure_sweep(argparse.Namespace(**{**vars(args), "data": None}))
    for folder in args.data or ():
        measure(argparse.Namespace(**{**vars(args), "data": folder}))


# ------------------------------------------------------------------ real marginals
def measure(args):
    """Measure and report one data set."""
    with harness.Session(args, __file__) as session:
        task = harness.Task(session, args)
        model = trees.Model(args.model)
        folder = str(session.scratch / "model")
        if trees.fit_model(session, task, model, None, seed=0, folder=folder) is None:
            raise SystemExit("\n".join(session.failures.values()))
        marginals = str(session.scratch / "marginals.npz")
        request = {"folder": folder, "X": task.X_test, "top_k": args.top_k, "marginals": marginals}
        session.call("predict_marginals", **request)
        Y_test = str(session.scratch / "Y_test.npz")
        sp.save_npz(Y_test, sp.csr_matrix(task.Y_test), compressed=False)

        # An unnoted first round: kernels are compiled or loaded, libraries paged in.
        for r in range(-1, args.rounds):
            for metric in args.metrics if r >= 0 else args.metrics[:1]:
                for library in (OURS, PEER):
                    row = decide(session, args, library, metric, marginals, Y_test)
                    if row is not None and r >= 0:
                        title = f"{metric}, {library}"
                        session.add(title, row, round=r, metric=metric, library=library, k=args.k)
                session.flush()
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, args, model)


def decide(session, args, library, metric, marginals, Y_test):
    """Let a library decide in a process of its own; time, and the values reached. None: failed."""
    where = {}
    if library == PEER:
        try:
            where["python"] = harness.peer_python(args.venv_root, "xcolumns")
        except SystemExit as error:
            session.failures[PEER] = str(error)
            return None
    name, _, alpha = metric.partition(":")
    common = {"metric": name, "alpha": float(alpha or 1), "k": args.k}
    decision = str(session.scratch / "decision.npz")
    result = session.attempt(
        *(f"{metric}, {library}", "decide_ours" if library == OURS else "decide_peer"),
        **where,
        **common,
        marginals=marginals,
        decision=decision,
        tol=args.tol,
        max_sweeps=args.max_sweeps,
        timeout=args.timeout,
    )
    if result is None:
        return None
    return {**result, **evaluate(marginals, decision, Y_test, **common)}


def predict_marginals(folder, X, top_k, marginals):
    """Save the probabilities of the ``top_k`` most probable labels of each row."""
    from skxmc import load_model

    model = load_model(folder).set_params(top_k=top_k)
    sp.save_npz(marginals, sp.csr_matrix(model.predict_proba(sp.load_npz(X))), compressed=False)
    return {}


def decide_ours(marginals, decision, metric, alpha, k, tol, max_sweeps):
    """Block coordinate ascent of skxmc; the sweep that finds no more is counted."""
    from skxmc.decision._utilities import make_objective
    from skxmc.ops.macro_at_k import block_coordinate_ascent

    eta = sp.csr_array(sp.load_npz(marginals))
    objective = make_objective(metric, k=k, alpha=alpha, n_labels=eta.shape[1])
    block_coordinate_ascent(eta[:50], k, objective, max_sweeps=2)  # loads the kernels
    with harness.Meter() as meter:
        chosen, history = block_coordinate_ascent(
            eta, k, objective, init="top", max_sweeps=max_sweeps, tol=tol, seed=0
        )
    sp.save_npz(decision, sp.csr_matrix(chosen), compressed=False)
    return {**meter.record("decide"), "sweeps": len(history) - 1}


def decide_peer(marginals, decision, metric, alpha, k, tol, max_sweeps):
    """Block coordinate ascent of xCOLUMNs, as its documentation says."""
    from xcolumns import block_coordinate as bc
    from xcolumns import metrics

    eta = sp.load_npz(marginals)
    common = {"k": k, "tolerance": tol, "init_y_pred": "top", "max_iter": max_sweeps}
    common |= {"return_meta": True}
    if metric == "coverage":
        call, common["alpha"] = bc.predict_optimizing_coverage_using_bc, alpha
        common["seed"] = 0
    elif alpha < 1:
        name = {"macro_f1": "macro_fmeasure"}.get(metric, metric)
        if name == "macro_fmeasure":  # its wrapper passes k twice; this is what it means to call
            m = eta.shape[1]

            def mixed(tp, fp, fn, tn):
                instance = metrics.binary_precision_at_k_on_conf_matrix(tp, fp, fn, tn, k)
                return (1 - alpha) * instance + (
                    alpha * metrics.binary_f1_score_on_conf_matrix(tp, fp, fn, tn) / m
                )

            def call(eta, **options):
                return bc.predict_using_bc_with_0approx(
                    eta, mixed, metric_aggregation="sum", skip_tn=True, **options
                )

            common["seed"] = 0
        else:
            call = getattr(bc, f"predict_optimizing_mixed_instance_precision_and_{name}_using_bc")
            common["alpha"] = alpha
    elif metric == "macro_balanced_accuracy":  # there is no wrapper that works

        def call(eta, **options):
            return bc.predict_using_bc_with_0approx(
                eta, metrics.binary_balanced_accuracy_on_conf_matrix, **options
            )

        common["seed"] = 0
    else:
        name = {"macro_f1": "macro_f1_score"}.get(metric, metric)
        call = getattr(bc, f"predict_optimizing_{name}_using_bc")
        common["seed"] = 0
    call(eta[:50], **{**common, "max_iter": 2})  # compiles its kernels
    with harness.Meter() as meter:
        chosen, meta = call(eta, **common)
    chosen = sp.csr_matrix(chosen)
    chosen.data[:] = 1
    sp.save_npz(decision, chosen, compressed=False)
    return {**meter.record("decide"), "sweeps": int(meta["iters"])}


def evaluate(marginals, decision, Y, metric, alpha, k):
    """Return what a decision is worth: expected, on the true labels, and its precision@k."""
    from skxmc.decision._utilities import make_objective
    from skxmc.ops.macro_at_k import objective_value

    eta, chosen = sp.csr_array(sp.load_npz(marginals)), sp.csr_array(sp.load_npz(decision))
    Y = sp.csr_array(sp.load_npz(Y)).astype(np.float32)
    chosen.sum_duplicates()
    chosen.data[:] = 1
    objective = make_objective(metric, k=k, alpha=alpha, n_labels=eta.shape[1])
    most = int(np.diff(chosen.indptr).max())
    if most > k:
        raise SystemExit(f"A row has {most} labels, more than k={k}")
    hits = (chosen * (Y > 0)).sum()
    return {
        "expected": float(objective_value((eta, chosen), objective)),
        "true": float(objective_value((Y, chosen), objective)),
        "P@k": float(hits) / (k * Y.shape[0]),
    }


def report(session, args, model):
    """Print a line a metric and library."""
    lines = []
    for metric in args.metrics:
        ours = session.of(f"{metric}, {OURS}")
        for library in (OURS, PEER):
            rows = session.of(f"{metric}, {library}")
            if not rows:
                continue
            keys = ("decide_s", "decide_peak_mb", "sweeps", "expected", "true", "P@k")
            line = {"metric": metric, "library": library}
            line |= {key: harness.median_of(rows, key) for key in keys}
            line["per sweep"] = line["decide_s"] / max(line["sweeps"], 1)
            line["ratio"] = harness.median_ratio(rows, ours, "decide_s")
            line["cpu ratio"] = harness.median_ratio(rows, ours, "decide_cpu_s")
            lines.append(line)
    columns = {
        "metric": "metric",
        "library": "library",
        "expected utility": ("expected", ".5f"),
        "on true labels": ("true", ".5f"),
        f"P@{args.k}": ("P@k", ".4f"),
        "sweeps": ("sweeps", ".0f"),
        "s": ("decide_s", ".3f"),
        "s a sweep": ("per sweep", ".4f"),
        "time / ours": ("ratio", ".1f"),
        "CPU time / ours": ("cpu ratio", ".1f"),
        "peak MB": ("decide_peak_mb", ".0f"),
    }
    title = f"Decisions at {args.k}, {session.rows[0]['data']}, top {args.top_k} of {model.title}"
    harness.print_report(session, title, harness.markdown(lines, columns))


# ------------------------------------------------------------------ one sweep
def measure_sweep(args):
    """Measure and report the time of one sweep on synthetic marginals."""
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for metric in args.metrics:
                name, _, alpha = metric.partition(":")
                row = session.attempt(
                    *(metric, "sweep"),
                    metric=name,
                    alpha=float(alpha or 1),
                    k=args.k,
                    n_rows=args.sweep_rows,
                    n_labels=args.sweep_labels,
                    n_candidates=args.top_k,
                    timeout=args.timeout,
                )
                if row is not None:
                    session.add(f"{metric}, {OURS}", row, round=r, metric=metric, k=args.k)
                    session.flush()
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        lines = []
        for metric in args.metrics:
            rows = session.of(f"{metric}, {OURS}")
            keys = ("sweep_s", "start_s", "decide_peak_mb", "marginals_mb")
            lines.append({"metric": metric, **{key: harness.median_of(rows, key) for key in keys}})
        columns = {
            "metric": "metric",
            "s a sweep": ("sweep_s", ".3f"),
            "s before the first": ("start_s", ".3f"),
            "peak MB": ("decide_peak_mb", ".0f"),
            "marginals MB": ("marginals_mb", ".0f"),
        }
        title = f"One sweep: {args.sweep_rows:,} rows, {args.top_k} candidates each, "
        title += f"{args.sweep_labels:,} labels"
        harness.print_report(session, title, harness.markdown(lines, columns))


def sweep(metric, alpha, k, n_rows, n_labels, n_candidates):
    """Time of a sweep: the difference between ascents of 3 sweeps and of 1."""
    from skxmc.decision._utilities import make_objective
    from skxmc.ops.macro_at_k import block_coordinate_ascent

    eta = synthetic_marginals(n_rows, n_labels, n_candidates)
    objective = make_objective(metric, k=k, alpha=alpha, n_labels=n_labels)
    block_coordinate_ascent(eta[:50], k, objective, max_sweeps=1)
    seconds = []
    for n_sweeps in (1, 3):
        with harness.Meter() as meter:
            start = time.perf_counter()
            # tol=0: no ascent ends before its number of sweeps
            block_coordinate_ascent(eta, k, objective, max_sweeps=n_sweeps, tol=0.0)
            seconds.append(time.perf_counter() - start)
    per_sweep = (seconds[1] - seconds[0]) / 2
    return {
        **meter.record("decide"),
        "sweep_s": per_sweep,
        "start_s": seconds[0] - per_sweep,
        "marginals_mb": (eta.data.nbytes + eta.indices.nbytes + eta.indptr.nbytes) / 1e6,
    }


def synthetic_marginals(n_rows, n_labels, n_candidates, seed=0):
    """Distinct power-law candidates in each row, with probabilities that fall like 1 / rank."""
    rng = np.random.default_rng(seed)
    n_candidates = min(n_candidates, n_labels)
    draws = rng.random((n_rows, n_candidates), dtype=np.float32) ** 2 * (n_labels - n_candidates)
    indices = np.sort(draws.astype(np.int32), axis=1) + np.arange(n_candidates, dtype=np.int32)
    rank = rng.permuted(np.tile(np.arange(1, n_candidates + 1), (n_rows, 1)), axis=1)
    data = np.clip(rng.random(rank.shape) / rank, 1e-4, 1).astype(np.float32)
    indptr = np.arange(n_rows + 1, dtype=np.int64) * n_candidates
    return sp.csr_array((data.ravel(), indices.ravel(), indptr), shape=(n_rows, n_labels))


if __name__ == "__main__":
    harness.run_script(
        main,
        {
            "predict_marginals": predict_marginals,
            "decide_ours": decide_ours,
            "decide_peer": decide_peer,
            "sweep": sweep,
        },
    )
