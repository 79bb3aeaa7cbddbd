"""Where does the time of training go, label by label?

    python benchmarks/bench_solver.py --data FOLDER --labels 1000

Calls the solver below `DismecClassifier` on one thread, for each start and tolerance: what it
counts per label, seconds, and the metrics on the labels that were solved. A second table compares
its pass over X (the scores of 16 labels at all rows) with what the processor can do.
"""

import time

import harness
import numpy as np
import scipy.sparse as sp

COUNTERS = ("hessian", "newton", "passes", "gathered", "rounds", "rows", "features")
_MS = 1e3


def _load(X, Y):
    """Return X as the solver reads it, and each label's positive rows, frequent labels first."""
    from skxmc.ops.linear_solver import prepare

    X, Y = sp.load_npz(X), sp.load_npz(Y).tocsc()
    Y.sort_indices()
    counts = np.diff(Y.indptr)
    labels = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    Y = Y[:, labels]
    start = time.perf_counter()
    rows = prepare(X.indptr.astype(np.int64), X.indices, X.data, X.shape[1])
    prepare_s = time.perf_counter() - start
    return rows, Y.indptr.astype(np.int64), Y.indices.astype(np.int32), labels, prepare_s


def solve(X, Y, X_test, answers, start, tol, threshold):
    """Solve all labels of a file; answer the test rows."""
    from skxmc.ops import linear_scores, linear_solver

    n_labels = sp.load_npz(Y).shape[1]
    rows, pos_indptr, pos_rows, labels, prepare_s = _load(X, Y)
    options = {"start": start, "tol": tol, "threshold": threshold}
    few = min(2, len(labels))
    linear_solver.solve(rows, pos_indptr[: few + 1], pos_rows[: pos_indptr[few]], **options)
    with harness.Meter() as meter:
        solution = linear_solver.solve(rows, pos_indptr, pos_rows, **options)
    X_test = sp.csr_array(sp.load_npz(X_test))
    order = np.argsort(labels)
    weights = sp.csr_array(
        (solution.data, solution.indices, solution.indptr), (len(labels), X_test.shape[1])
    )[order]
    # labels without positives are never answered
    lengths = np.zeros(n_labels, np.int64)
    lengths[labels[order]] = np.diff(weights.indptr)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    coef = sp.csr_array((weights.data, weights.indices, indptr), (n_labels, X_test.shape[1]))
    intercept = np.full(n_labels, -np.inf, np.float32)
    intercept[labels] = solution.bias * rows.bias_value
    topk = linear_scores.topk(
        linear_scores.prepare_scorer(coef, intercept), X_test, min(5, n_labels)
    )
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    counts = solution.counters[: len(COUNTERS)].tolist()
    return {
        **meter.record("solve"),
        "prepare_s": prepare_s,
        "solved": len(labels),
        "ms_per_label": _MS * meter.wall_s / len(labels),
        "nnz": len(solution.data),
        "not_converged": int(np.count_nonzero(~solution.converged)),
        **{name: count / len(labels) for name, count in zip(COUNTERS, counts, strict=True)},
    }


def machine(X, Y, repeats=5):
    """Time one pass over X for a block of labels, a large copy, and a large matrix product."""
    from skxmc.ops import _lanes
    from skxmc.ops.linear_solver import numba_

    rows = _load(X, Y)[0]
    n, d, nnz = len(rows.indptr) - 1, len(rows.feature_of), len(rows.data)
    lanes = _lanes.LANES
    W = _lanes.aligned_zeros((d, lanes))
    W[:] = np.random.default_rng(0).standard_normal(W.shape, dtype=np.float32)
    scores, zeros = np.zeros((lanes, n), np.float32), np.zeros(lanes, np.float32)
    numba_._scores_of_block(rows, W, zeros, zeros, scores)
    pass_s = _best(lambda: numba_._scores_of_block(rows, W, zeros, zeros, scores), repeats)
    source = np.ones(1 << 26, np.float32)  # 268 MB, more than any cache
    target = np.zeros_like(source)
    copy_s = _best(lambda: np.copyto(target, source), repeats)
    A = np.random.default_rng(0).standard_normal((1500, 1500), dtype=np.float32)
    product_s = _best(lambda: A @ A, repeats)
    return {
        "pass_s": pass_s,
        "pass_ms": _MS * pass_s,
        "lanes": lanes,
        "nnz_x": nnz,
        "pass_gflops": 2e-9 * nnz * lanes / pass_s,
        "machine_gflops": 2e-9 * len(A) ** 3 / product_s,
        # X comes from memory once a pass; each entry takes a line of `lanes` weights from a cache
        "pass_gb_s": 1e-9 * 8 * nnz / pass_s,
        "pass_line_gb_s": 4e-9 * lanes * nnz / pass_s,
        "machine_gb_s": 2e-9 * source.nbytes / copy_s,
        "block_mb": W.nbytes / 1e6,
    }


def _best(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], rounds=3)
    parser.add_argument(
        *("--starts",), nargs="+", default=["zero", "mean-separating", "multi-positive"]
    )
    parser.add_argument("--tols", type=float, nargs="+", default=[0.5, 0.1, 0.01, 0.001])
    parser.add_argument("--threshold", type=float, default=0.1, help="smaller weights are dropped")
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    default_start = "mean-separating" if "mean-separating" in args.starts else args.starts[0]
    default_tol = 0.1 if 0.1 in args.tols else args.tols[0]
    cases = [(start, default_tol) for start in args.starts]
    cases += [(default_start, tol) for tol in args.tols if tol != default_tol]

    with harness.Session(args, __file__) as session:
        task = harness.Task(session, args)
        everything = task.subset(None)
        answers = session.scratch / "answers.npz"
        request = {"X": task.X_train, "Y": task.labels_file(everything)}
        full = {**request, "X_test": task.X_test, "answers": answers}
        for r in range(args.rounds):
            session.add("machine", session.call("machine", **request), round=r)
            for start, tol in cases:
                result = session.call(
                    *("solve",), start=start, tol=tol, threshold=args.threshold, **full
                )
                result.update(task.evaluate(answers, everything))
                session.add(f"{start}, tol {tol:g}", result, round=r, start=start, tol=tol)
        session.save()
        report(session, cases)


def report(session, cases):
    """Print what a label takes, and how a pass over X compares with the machine."""
    keys = ("ms_per_label", "solved", "nnz", "not_converged", "P@1", "P@5", "PSP@5", *COUNTERS)
    pass_ms = harness.median_of(session.of("machine"), "pass_ms")
    lines = []
    for start, tol in cases:
        rows = session.of(f"{start}, tol {tol:g}")
        line = {"start": start, "tol": tol, **{k: harness.median_of(rows, k) for k in keys}}
        line["share"] = 100 * line["passes"] * pass_ms / line["ms_per_label"]
        line["weights"] = line["nnz"] / line["solved"]
        lines.append(line)
    columns = {
        "start": "start",
        "tol": ("tol", "g"),
        "ms a label": ("ms_per_label", ".2f"),
        "in passes over X, %": ("share", ".0f"),
        "passes, 16 labels each": ("passes", ".3f"),
        "rounds": ("rounds", ".2f"),
        "Newton steps": ("newton", ".2f"),
        "Hessian products": ("hessian", ".2f"),
        "entries gathered": ("gathered", ".0f"),
        "working rows": ("rows", ".0f"),
        "working features": ("features", ".0f"),
        "weights": ("weights", ".0f"),
        "not converged": ("not_converged", ".0f"),
        **{name: (name, ".2f") for name in ("P@1", "P@5", "PSP@5")},
    }
    limits = ("pass_ms", "pass_gflops", "machine_gflops", "pass_gb_s", "pass_line_gb_s")
    limits += ("machine_gb_s", "block_mb")
    limit = {key: harness.median_of(session.of("machine"), key) for key in limits}
    harness.print_report(
        session,
        f"Where the time goes, {session.rows[0]['data']}",
        "Means per label; one thread.\n\n" + harness.markdown(lines, columns),
        harness.markdown(
            [limit],
            {
                "one pass over X, ms": ("pass_ms", ".2f"),
                "GFLOP/s in it": ("pass_gflops", ".1f"),
                "GFLOP/s of a dense product": ("machine_gflops", ".1f"),
                "GB/s of X from memory": ("pass_gb_s", ".1f"),
                "GB/s of a copy": ("machine_gb_s", ".1f"),
                "GB/s of weights from caches": ("pass_line_gb_s", ".1f"),
                "weights of a block, MB": ("block_mb", ".2f"),
            },
        ),
    )


if __name__ == "__main__":
    harness.run_script(main, {"solve": solve, "machine": machine})
