"""How much memory does the training of a sparse output layer take?

    python benchmarks/bench_dst_memory.py
    python benchmarks/bench_dst_memory.py --n-labels 3000000

Each line is a process of its own. The layer: the bytes of weights, indices, biases and the state of
the optimiser, by arithmetic and as the arrays that are there; and by how much the resident memory
rises while it is made and trained on a few batches. The whole training: SparseDSTClassifier with a
hidden layer as wide as the output layer's input, on a few batches of dense rows; its peak is that
of the whole process. Beside it, on paper, a dense layer of the same width. All in MiB (2^20 bytes).
"""

import time

import harness
import numpy as np
import scipy.sparse as sp

#: Parameters of SparseDSTClassifier by the name of a line.
SETTINGS = {
    "float32, momentum": {"layout": "fixed", "precision": "float32", "momentum": 0.9},
    "bfloat16": {"layout": "fixed", "precision": "bfloat16", "momentum": 0.0, "kahan": 0.0},
    "float8": {"layout": "fixed", "precision": "float8", "momentum": 0.0, "kahan": 0.0},
    "float8, Kahan for a fifth": {
        "layout": "fixed", "precision": "float8", "momentum": 0.0, "kahan": 0.2,
    },
    "groups, float32, momentum": {"layout": "group", "precision": "float32", "momentum": 0.9},
    "groups, bfloat16": {"layout": "group", "precision": "bfloat16", "momentum": 0.0, "kahan": 0.0},
    "groups, float8": {"layout": "group", "precision": "float8", "momentum": 0.0, "kahan": 0.0},
}  # fmt: skip
GROUP_SIZE = 16
MIB = 2**20 / 1e6  # of a MB


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, data=False, params=False, rounds=1)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--n-labels", type=int, default=670_091)
    parser.add_argument("--hidden", type=int, default=16_384, help="inputs of the output layer")
    parser.add_argument("--n-features", type=int, default=768, help="of a row")
    parser.add_argument("--fan-in", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=6, help="how many are trained on")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a process may take")
    args = parser.parse_args()
    unknown = set(args.settings) - set(SETTINGS)
    if unknown:
        parser.error(f"--settings {sorted(unknown)}: choose from {list(SETTINGS)}")
    shape = {key: getattr(args, key) for key in ("n_labels", "hidden", "fan_in", "batch")}
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for name in args.settings:
                common = {
                    **shape,
                    "settings": SETTINGS[name],
                    "batches": args.batches,
                    "threads": args.threads,
                    "backend": args.backend,
                    "timeout": args.timeout,
                }
                layer = session.attempt(f"{name}: layer", "layer", **common)
                whole = session.attempt(
                    f"{name}: training", "training", **common, n_features=args.n_features
                )
                if layer or whole:
                    row = {**(layer or {}), **(whole or {})}
                    session.add(name, row, round=r, **shape, n_features=args.n_features)
                    session.flush()
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, args)


def report(session, args):
    """Print a line a setting, and the dense layer on paper."""
    keys = (
        *("weights_mib", "indices_mib", "state_mib", "arithmetic_mib", "arrays_mib"),
        *("layer_peak_mib", "predicted_mib", "fit_peak_mib", "fit_total_mib", "step_ms"),
    )
    lines = [
        {"setting": name, **{key: harness.median_of(session.of(name), key) for key in keys}}
        for name in args.settings
        if session.of(name)
    ]
    for name, precision_bytes, state_bytes in (
        ("dense, float32, momentum (on paper)", 4, 4),
        ("dense, bfloat16 (on paper)", 2, 0),
    ):
        lines.append(dense_on_paper(name, args.n_labels, args.hidden, precision_bytes, state_bytes))
    columns = {
        "layer": "setting",
        "weights": ("weights_mib", ",.1f"),
        "indices": ("indices_mib", ",.1f"),
        "optimiser": ("state_mib", ",.1f"),
        "layer by arithmetic": ("arithmetic_mib", ",.1f"),
        "arrays": ("arrays_mib", ",.1f"),
        "rise while trained": ("layer_peak_mib", ",.0f"),
        "training, predicted": ("predicted_mib", ",.0f"),
        "training, rise": ("fit_peak_mib", ",.0f"),
        "whole process": ("fit_total_mib", ",.0f"),
        "a step of the layer, ms": ("step_ms", ",.0f"),
    }
    harness.print_report(
        session,
        f"Memory in MiB: {args.n_labels:,} labels, {args.hidden:,} inputs, fan-in {args.fan_in}, "
        f"{args.batch} rows of {args.n_features} features",
        harness.markdown(lines, columns),
    )


def dense_on_paper(name, n_labels, n_inputs, weight_bytes, state_bytes):
    """Return the line of a layer that has all weights, biases in float32."""
    weights = n_labels * n_inputs * weight_bytes / 2**20
    state = n_labels * (n_inputs + 1) * state_bytes / 2**20
    total = weights + state + 4 * n_labels / 2**20
    return {
        "setting": name,
        "weights_mib": weights,
        "indices_mib": 0.0,
        "state_mib": state,
        "arithmetic_mib": total,
    }


# ------------------------------------------------------------------ workers
def layer(settings, n_labels, hidden, fan_in, batch, batches, threads, backend):
    """Make the layer and train it on random features; return bytes and the rise of memory."""
    from skxmc.neural._output_layer import OutputLayer
    from skxmc.ops.sparse_head._types import Loss, Optimizer
    from skxmc.ops.sparse_head.initial import footprint, initialise

    group_size = GROUP_SIZE if settings["layout"] == "group" else 1
    sgd = Optimizer("sgd", learning_rate=1e-6, momentum=settings["momentum"])
    loss, kahan = Loss("squared_hinge"), settings.get("kahan", 0.0)

    def train(n_labels, n_batches):
        part = initialise(
            n_labels, hidden, fan_in, group_size, settings["precision"], 0, bias=-2.0, scale=0.4
        )
        output = OutputLayer(
            *((part,), hidden, loss, sgd),
            compensated=kahan,
            backend=backend,
            n_jobs=threads,
        )
        del part
        rng, seconds = np.random.default_rng(0), []
        for step in range(n_batches):
            features = rng.random((batch, hidden), dtype=np.float32)
            targets = random_targets(batch, n_labels, rng)
            start = time.perf_counter()
            output.train_step(features, targets, 1.0, step)
            seconds.append(time.perf_counter() - start)
        return output, seconds

    train(min(n_labels, 2000), 1)  # compiles the kernels
    with harness.Meter() as meter:
        output, seconds = train(n_labels, batches)
    paper = footprint(
        *(n_labels, hidden, fan_in, group_size, settings["precision"], sgd),
        round(kahan * n_labels),
    )
    return {
        "weights_mib": paper.weights / 2**20,
        "indices_mib": paper.indices / 2**20,
        "state_mib": paper.state / 2**20,
        "arithmetic_mib": paper.total / 2**20,
        "arrays_mib": output.n_bytes / 2**20,
        "layer_peak_mib": meter.peak_mb / MIB,
        "step_ms": 1e3 * float(np.median(seconds)),
    }


def training(settings, n_labels, hidden, fan_in, batch, batches, threads, backend, n_features):
    """Train the whole model on a few batches; return the peak of memory and what was predicted."""
    from skxmc import SparseDSTClassifier

    params = {
        "fan_in": fan_in,
        "hidden": hidden,
        "batch_size": batch,
        "epochs": 1,
        "group_size": GROUP_SIZE,
        "grouping": "frequency",
        "optimizer": "sgd",
        "backend": backend,
        "n_jobs": threads,
        "random_state": 0,
        **settings,
    }
    rng = np.random.default_rng(0)
    few = min(n_labels, 500)
    quick = SparseDSTClassifier(**{**params, "hidden": 256, "fan_in": min(fan_in, 64)})
    X = rng.standard_normal((batch * batches, n_features), dtype=np.float32)
    quick.partial_fit(X[:batch], random_targets(batch, few, rng))  # compiles the kernels
    # `fit` would train the labels that have positives here, `partial_fit` trains all columns.
    Y = random_targets(len(X), n_labels, rng)
    model = SparseDSTClassifier(**params)
    predicted = predicted_bytes(model, n_labels, n_features)
    with harness.Meter() as meter:
        model.partial_fit(X, Y)
    return {
        "predicted_mib": None if predicted is None else predicted / 2**20,
        "fit_peak_mib": meter.peak_mb / MIB,
        "fit_total_mib": (meter.before_mb + meter.peak_mb) / MIB,
        "fit_s": meter.wall_s,
    }


def predicted_bytes(model, n_labels, n_features):
    """Return what the model says that its training takes, in bytes."""
    footprint = model.memory_footprint(n_labels, n_features)
    return getattr(footprint, "total", footprint)


def random_targets(n_rows, n_labels, rng, positives=5):
    """Return a matrix of 0 and 1 with a few labels in each row, the first ones more often."""
    label = (n_labels * rng.random((n_rows, positives)) ** 2).astype(np.int32)
    label.sort(axis=1)
    indptr = np.arange(0, label.size + 1, positives)
    Y = sp.csr_array((np.ones(label.size, np.float32), label.ravel(), indptr), (n_rows, n_labels))
    Y.sum_duplicates()
    Y.data[:] = 1
    return Y


if __name__ == "__main__":
    harness.run_script(main, {"layer": layer, "training": training})
