"""How fast is a sparse output layer against torch's dense one, and against the machine's peak?

    python benchmarks/bench_sparse_head.py

With ``--device cuda`` on a GPU: all methods there, "triton fixed" and so on too, with a wait for
the device at the end of each call; what the processor does between two kernels counts, so a busy
machine shows in the times of small kernels. The rows go to ``bench_sparse_head_gpu.csv``, with the
name of the GPU.

Every round measures all methods one after the other, each in a process of its own: the margins of a
batch (forward), the gradients of weights and inputs by a full gradient of the margins (backward)
and by one in which a hundredth is not zero, and whole training steps (SGD without momentum) with
cross-entropy, whose gradient is full, and with squared hinge, whose gradient is zero for easy
negatives. A method is a backend ("numba", "torch") and a layout ("fixed", "group", "dense"),
perhaps a precision ("bfloat16", "float8"): "numba group bfloat16". The baselines are
"torch.nn.Linear", as a model has it (autograd, gradients set to None before each backward pass),
and "torch.mm": the three matrix products alone, into arrays that are kept.

The peak is a large float32 matrix product (of torch where it is there), in the same round. GFLOP/s
counts a multiplication and an addition for each weight that the layout has and each row.
"""

import contextlib
import statistics
import time

import harness
import numpy as np
import scipy.sparse as sp

BASELINE = "torch.nn.Linear"
METHODS = (
    *(BASELINE, "torch.mm", "numba fixed", "numba group", "torch fixed", "torch group"),
    *("numba group bfloat16", "numba group float8"),
)
GPU_METHODS = (
    *(BASELINE, "torch.mm", "torch fixed", "torch group", "triton fixed", "triton group"),
    *("triton fixed bfloat16", "triton group bfloat16", "triton group float8"),
)
LAYOUTS = ("fixed", "group", "dense")
BACKENDS = ("numba", "torch", "triton", "reference")
PRECISIONS = ("float32", "bfloat16", "float8")
#: What is timed, and its multiplications and additions per weight and row.
PHASES = {"forward": 2, "backward": 4, "backward_sparse": 4, "step_bce": 6, "step_hinge": 6}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, data=False, params=False, rounds=5)
    parser.add_argument("--methods", nargs="+", default=None, metavar="METHOD")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument("--n-labels", type=int, default=131_072)
    parser.add_argument("--n-inputs", type=int, default=768)
    parser.add_argument("--fan-in", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128, help="rows")
    parser.add_argument("--least-s", type=float, default=2.0, help="seconds a phase is repeated")
    parser.add_argument(
        "--most", type=int, help="repetitions of a phase at most; default: 15, on a GPU 300"
    )
    parser.add_argument("--peak-size", type=int, default=4096, help="of the square matrices")
    args = parser.parse_args()
    names = args.methods or (METHODS if args.device == "cpu" else GPU_METHODS)
    methods = {name: {**parse(name), "device": args.device} for name in names}
    shape = {
        name: getattr(args, name)
        for name in ("n_labels", "n_inputs", "fan_in", "group_size", "batch")
    }
    # Kernels of a millisecond have to keep a GPU busy until its clock is that of its work.
    most = args.most or (15 if args.device == "cpu" else 300)
    repeat = {"least_s": args.least_s, "most": most}
    with Session(args, __file__) as session:
        for name, method in methods.items():  # compiles our kernels
            if method["backend"] == "numba":
                quick = {"least_s": 0, "most": 1, "threads": args.threads}
                session.attempt(*(name, "measure"), **method, **shape, **quick)
        for r in range(args.rounds):
            peak = session.call(
                "peak", size=args.peak_size, threads=args.threads, device=args.device
            )
            session.add("peak", peak, round=r)
            for name, method in methods.items():
                result = session.attempt(
                    *(name, "measure"), **method, **shape, **repeat, threads=args.threads
                )
                if result is not None:
                    work = weights_of(method, shape) * args.batch
                    for phase, flops in PHASES.items():
                        if f"{phase}_s" in result:
                            gflops = flops * work / result[f"{phase}_s"] / 1e9
                            result[f"{phase}_gflops"] = gflops
                            result[f"{phase}_share"] = gflops / peak["peak_gflops"]
                    session.add(name, result, round=r, **shape)
                session.flush()
        if len(session.failures) == len(methods):
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, methods)


class Session(harness.Session):
    """A run of this benchmark; what was measured on a GPU is kept in a file of its own."""

    @property
    def csv(self):
        """The file that rows are appended to."""
        usual = super().csv
        return usual if self.args.device == "cpu" else usual.with_stem(f"{usual.stem}_gpu")


def parse(name):
    """Return what a worker must know of a method."""
    if name in (BASELINE, "torch.mm"):
        return {"backend": name, "layout": "dense", "precision": "float32"}
    words = [*name.split(), "float32"][:3] if len(name.split()) == 2 else name.split()
    if len(words) == 3 and words[0] in BACKENDS and words[1] in LAYOUTS and words[2] in PRECISIONS:
        return dict(zip(("backend", "layout", "precision"), words))
    raise SystemExit(
        f"{name!r} is not a method: pass {BASELINE}, torch.mm, or a backend "
        f"({', '.join(BACKENDS)}), a layout ({', '.join(LAYOUTS)}) and perhaps a precision "
        f"({', '.join(PRECISIONS)})"
    )


def weights_of(method, shape):
    """Return the number of weights of a layer."""
    return shape["n_labels"] * shape["n_inputs" if method["layout"] == "dense" else "fan_in"]


def report(session, methods):
    """Print times, ratios to the baseline, and the share of the peak."""
    measured = [name for name in methods if session.of(name)]
    baseline = session.of(BASELINE)
    fixed = {backend: session.of(f"{backend} fixed") for backend in BACKENDS}
    times, shares = [], []
    for name in measured:
        rows = [with_sums(row) for row in session.of(name)]
        line, share = {"method": name}, {"method": name}
        for phase in PHASES:
            seconds = harness.median_of(rows, f"{phase}_s")
            line[phase] = None if seconds is None else 1e3 * seconds
            share[phase] = harness.median_of(rows, f"{phase}_gflops")
            share[f"{phase}_share"] = harness.median_of(rows, f"{phase}_share")
        line["both"] = ratio([with_sums(row) for row in baseline], rows, "both_s")
        line["bce_ratio"] = ratio(baseline, rows, "step_bce_s")
        line["hinge_ratio"] = ratio(baseline, rows, "step_hinge_s")
        same = fixed.get(methods[name]["backend"], [])
        if methods[name]["layout"] == "group":
            line["group_forward"] = ratio(same, rows, "forward_s")
            line["group_backward"] = ratio(same, rows, "backward_s")
        line["active"] = harness.median_of(rows, "active_percent")
        line["mb"] = harness.median_of(rows, "layer_mb")
        times.append(line)
        shares.append(share)
    digits = ".1f" if session.args.device == "cpu" else ".2f"
    time_columns = {
        "method": "method",
        "forward ms": ("forward", digits),
        "backward ms": ("backward", digits),
        "backward, 1 % ms": ("backward_sparse", digits),
        "step, cross-entropy ms": ("step_bce", digits),
        "step, squared hinge ms": ("step_hinge", digits),
        "gradients not zero %": ("active", ".1f"),
        f"{BASELINE} / this, forward + backward": ("both", ".2f"),
        "step, cross-entropy": ("bce_ratio", ".2f"),
        "step, squared hinge": ("hinge_ratio", ".2f"),
        "fixed / group, forward": ("group_forward", ".2f"),
        "fixed / group, backward": ("group_backward", ".2f"),
        "layer MB": ("mb", ".0f"),
    }
    share_columns = {"method": "method"}
    for phase in PHASES:
        title = phase.replace("_", ", ")
        share_columns[f"{title} GFLOP/s"] = (phase, ".1f")
        share_columns[f"{title} share"] = (f"{phase}_share", ".1%")
    first = next(row for row in session.rows if row["method"] != "peak")
    device = f" on {first['device']}" if "device" in first else ""
    peak = harness.median_of(session.of("peak"), "peak_gflops")
    harness.print_report(
        session,
        "Output layer: {n_labels:,} labels, {n_inputs} inputs, fan-in {fan_in}, groups of "
        "{group_size}, {batch} rows".format(**first)
        + device,
        harness.markdown(times, time_columns),
        f"Peak of the machine: {peak:.0f} GFLOP/s (float32 matrix product, median).",
        harness.markdown(shares, share_columns),
    )


def with_sums(row):
    """Return a row with the time of forward and backward pass together."""
    if "forward_s" in row and "backward_s" in row:
        row = {**row, "both_s": row["forward_s"] + row["backward_s"]}
    return row


def ratio(rows, others, key):
    """Return the median over the rounds of ``rows[r][key] / others[r][key]``, where both exist."""
    rows = [row for row in rows if row.get(key)]
    others = [row for row in others if row.get(key)]
    return harness.median_ratio(rows, others, key)


# ------------------------------------------------------------------ workers
def peak(size, threads, device):
    """Return the GFLOP/s of a square float32 matrix product: the best of some."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    product = np.matmul
    with contextlib.suppress(ImportError):  # NumPy's BLAS uses less of some processors
        import torch

        torch.set_num_threads(threads)
        a, b = torch.from_numpy(a).to(device), torch.from_numpy(b).to(device)
        product = torch.mm
    out = product(a, b)
    wait = waiter(device)
    wait()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(a, b, out=out)
        wait()
        seconds.append(time.perf_counter() - start)
    return {"peak_gflops": 2 * size**3 / min(seconds) / 1e9, **name_of(device)}


def measure(backend, layout, precision, device, threads, least_s, most, **shape):
    """Return the median seconds of each phase of one method."""
    batch = make_batch(shape["batch"], shape["n_inputs"], shape["n_labels"])
    if backend == BASELINE:
        phases = linear_module(batch, threads, device)
    elif backend == "torch.mm":
        phases = matrix_products(batch, threads, device)
    else:
        fan_in = None if layout == "dense" else shape["fan_in"]
        group_size = shape["group_size"] if layout == "group" else 1
        phases = sparse_layer(backend, batch, fan_in, group_size, precision, threads, device)
    result = {}
    for name, entry in phases.items():
        if callable(entry):
            result[f"{name}_s"] = timed(entry, least_s, most, waiter(device))
        else:
            result[name] = entry
    return {**result, **name_of(device)}


def name_of(device):
    """Return the name of a GPU as a column of the results, nothing for the processor."""
    if device == "cpu":
        return {}
    import torch

    return {"device": torch.cuda.get_device_name(device)}


def waiter(device):
    """Return a function that waits until the device has done what it was given."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def timed(call, least_s, most, wait=lambda: None):
    """Return the median seconds of ``call()`` after a first one; calls may return their own."""
    call()
    wait()
    seconds, begin = [], time.perf_counter()
    while not seconds or (len(seconds) < most and time.perf_counter() - begin < least_s):
        start = time.perf_counter()
        own = call()
        wait()
        seconds.append(own if isinstance(own, float) else time.perf_counter() - start)
    return statistics.median(seconds)


def make_batch(n_rows, n_inputs, n_labels, positives=5, seed=0):
    """Return features, targets and two gradients of the margins: full, and one in a hundred."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n_rows, n_inputs), dtype=np.float32), 0)
    label = np.sort(rng.integers(0, n_labels, (n_rows, positives)), axis=1)
    targets = sp.csr_array(
        (
            np.ones(label.size, dtype=np.float32),
            label.ravel().astype(np.int32),
            np.arange(0, label.size + 1, positives),
        ),
        shape=(n_rows, n_labels),
    )
    targets.sum_duplicates()
    targets.data[:] = 1
    full = rng.standard_normal((n_rows, n_labels), dtype=np.float32)
    few = np.where(rng.random((n_rows, n_labels), dtype=np.float32) < 0.01, full, np.float32(0))
    return features, targets, full, few


def sparse_layer(backend, batch, fan_in, group_size, precision, threads, device):
    """Return the phases of a layer of ours.

    Weights and biases are such that with squared hinge most negatives are easy, as they are after
    the first steps of a training.
    """
    import importlib

    from skxmc.ops.sparse_head._types import Loss, Optimizer
    from skxmc.ops.sparse_head.initial import initialise, new_state

    suffix = backend if backend == "reference" else f"{backend}_"
    ops = importlib.import_module(f"skxmc.ops.sparse_head.{suffix}")
    features, targets, full, few = batch
    n_labels, n_inputs = targets.shape[1], features.shape[1]
    sgd = Optimizer("sgd", learning_rate=1e-6)
    part = initialise(n_labels, n_inputs, fan_in, group_size, precision, 0, bias=-2.0, scale=0.6)
    state = new_state(part, sgd)
    layer_mb = sum(array.nbytes for array in part[:3] if array is not None) / 1e6
    active = float(np.mean(reference_margins(features, part) > -1))
    if backend in ("torch", "triton"):
        import torch

        from skxmc.ops.sparse_head.torch_arrays import to_device

        torch.set_num_threads(threads)
        part, state = to_device(part, state, device)
        features, full, few = (
            torch.from_numpy(array).to(device) for array in (features, full, few)
        )
    threaded = {"n_jobs": threads} if backend == "numba" else {}

    def backward(gradient):
        if backend == "numba":  # both in one pass
            ops.gradients(features, gradient, part, **threaded)
            return
        ops.grad_weights(features, gradient, part, **threaded)
        ops.grad_features(gradient, part, n_inputs, **threaded)

    steps = iter(range(1_000_000))

    def step(loss):
        ops.train_step(
            *(features, targets, (part,), (state,), Loss(loss), sgd),
            *(0, next(steps)),
            n_jobs=threads,
        )

    return {
        "layer_mb": layer_mb,
        "active_percent": 100 * active,
        "forward": lambda: ops.scores(features, (part,), n_jobs=threads),
        "backward": lambda: backward(full),
        "backward_sparse": lambda: backward(few),
        "step_hinge": lambda: step("squared_hinge"),
        "step_bce": lambda: step("bce"),
    }


def reference_margins(features, part, n_labels=64):
    """Return the margins of the first labels, to see how many negatives are easy."""
    from skxmc.ops.sparse_head import reference

    n_groups = -(-min(n_labels, part.n_labels) // part.group_size)
    n_labels = min(n_groups * part.group_size, part.n_labels)
    few = part._replace(
        weights=part.weights[:n_labels],
        indices=None if part.indices is None else part.indices[:n_groups],
        bias=part.bias[:n_labels],
    )
    return reference.scores(features, (few,))


def linear_module(batch, threads, device):
    """Return the phases of torch.nn.Linear with autograd."""
    import torch

    torch.set_num_threads(threads)
    features, targets, full, few = batch
    wait = waiter(device)
    layer = torch.nn.Linear(features.shape[1], targets.shape[1], device=device)
    with torch.no_grad():  # as many easy negatives as our layers have
        layer.weight.normal_(0, 0.6 / features.shape[1] ** 0.5)
        layer.bias.fill_(-2)
    x = torch.from_numpy(features).to(device).requires_grad_()
    full, few = torch.from_numpy(full).to(device), torch.from_numpy(few).to(device)
    y = torch.from_numpy(targets.toarray()).to(device)
    sgd = torch.optim.SGD(layer.parameters(), lr=1e-6)

    def forget():
        layer.zero_grad(set_to_none=True)
        x.grad = None

    def backward(gradient):
        forget()
        margins = layer(x)
        wait()
        start = time.perf_counter()
        margins.backward(gradient)
        wait()
        return time.perf_counter() - start

    def step(loss):
        forget()
        margins = layer(x)
        if loss == "bce":
            value = torch.nn.functional.binary_cross_entropy_with_logits(
                margins, y, reduction="sum"
            )
        else:
            value = torch.relu(1 - (2 * y - 1) * margins).square().sum()
        value.backward()
        sgd.step()

    return {
        "layer_mb": 4 * layer.weight.numel() / 1e6,
        "forward": lambda: layer(x),
        "backward": lambda: backward(full),
        "backward_sparse": lambda: backward(few),
        "step_bce": lambda: step("bce"),
        "step_hinge": lambda: step("squared_hinge"),
    }


def matrix_products(batch, threads, device):
    """Return the phases of a dense layer as bare matrix products into arrays that are kept."""
    import torch

    torch.set_num_threads(threads)
    features, targets, full, _ = batch
    x, gradient = torch.from_numpy(features).to(device), torch.from_numpy(full).to(device)
    weights = torch.randn(targets.shape[1], features.shape[1], device=device)
    margins, d_weights = torch.empty_like(gradient), torch.empty_like(weights)
    d_features = torch.empty_like(x)

    def backward():
        torch.mm(gradient.T, x, out=d_weights)
        torch.mm(gradient, weights, out=d_features)

    return {
        "layer_mb": 4 * weights.numel() / 1e6,
        "forward": lambda: torch.mm(x, weights.T, out=margins),
        "backward": backward,
    }


if __name__ == "__main__":
    harness.run_script(main, {"peak": peak, "measure": measure})
