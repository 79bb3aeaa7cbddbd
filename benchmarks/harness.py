"""What all benchmarks share: child processes, interleaved rounds, tables, and the CSV of results.

A script is its own worker. The parent process never times anything: it starts
``python script.py --worker request.json result.json`` for each measurement, so that a measurement
has a process, a peak memory and a thread pool of its own, and each library its own environment.
Only the standard library, NumPy and SciPy are imported here, because peers' environments have
nothing else in common with ours.
"""

import argparse
import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KS = (1, 3, 5)
sys.path.insert(0, str(ROOT))  # the checkout, installed or not

#: They force kernels of another processor onto OpenBLAS and would falsify every comparison.
_REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")
_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
)
_PACKAGES = (
    *("skxmc", "libpecos", "omikuji", "napkinxc", "xcolumns", "torch"),
    *("numpy", "scipy", "scikit-learn", "numba"),
)


class WorkerFailed(SystemExit):
    """A measurement whose process failed or ran out of time; ends a script that does not care."""


# ------------------------------------------------------------------ command line
class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults are shown; the text above and below the options is left as it is."""


def parser(
    description, *, data=True, peers=False, rounds=3, folders=None, epilog=None, params=True
):
    """Return an argument parser with the options that the scripts have in common.

    ``folders="+"`` lets ``--data`` name several folders, ``epilog`` stands below the options,
    ``params=False`` leaves out ``--params``.
    """
    result = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=_HelpFormatter
    )
    if data:
        result.add_argument(
            *("--data",),
            required=True,
            type=Path,
            nargs=folders,
            help="folder that skxmc.datasets.load_folder reads" + (", or several" * bool(folders)),
        )
        result.add_argument(
            "--labels", type=int, help="restrict the task to so many random labels (default: all)"
        )
    if peers:
        result.add_argument(
            "--venv-root", type=Path, help="folder with the peers' environments: pecos/, ..."
        )
    result.add_argument("--rounds", type=int, default=rounds, help="interleaved repetitions")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--seed", type=int, default=0, help="of the random choice of labels")
    if params:
        result.add_argument(
            "--params", type=json.loads, default={}, help="parameters of DismecClassifier as JSON"
        )
    result.add_argument("--output", type=Path, default=HERE / "results", help="folder of the CSV")
    return result


def run_script(main, tasks):
    """Be a worker if started as one, else run ``main``."""
    if len(sys.argv) == 4 and sys.argv[1] == "--worker":
        request = json.loads(Path(sys.argv[2]).read_text())
        limit_memory(request.pop("limit_gib", None))
        result = tasks[request.pop("task")](**request)
        result["versions"] = versions()
        Path(sys.argv[3]).write_text(json.dumps(result))
    else:
        main()


# ------------------------------------------------------------------ worker side
def limit_memory(gib):
    """Let allocations beyond so many GiB fail in this process, where the system can do that."""
    if gib is not None:
        with contextlib.suppress(ImportError, AttributeError):
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), hard))


class Meter:
    """Wall time, processor time and memory of a ``with`` block.

    Memory is the peak of the resident set inside the block minus the resident set at its start,
    which is kept too; NaN where the system does not say.
    """

    def __enter__(self):
        self.before_mb = status_mb("VmRSS")
        with contextlib.suppress(OSError):  # begin a new peak (Linux only)
            Path("/proc/self/clear_refs").write_text("5")
        self._cpu = sum(os.times()[:4])
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.wall_s = time.perf_counter() - self._start
        self.cpu_s = sum(os.times()[:4]) - self._cpu
        self.peak_mb = status_mb("VmHWM") - self.before_mb

    def record(self, prefix):
        """Return the four numbers by name."""
        return {
            f"{prefix}_s": self.wall_s,
            f"{prefix}_cpu_s": self.cpu_s,
            f"{prefix}_peak_mb": self.peak_mb,
            f"{prefix}_before_mb": self.before_mb,
        }


def status_mb(key):
    """Return an entry of /proc/self/status in MB (1e6 bytes), or NaN."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def batch(predict, least_s=1.0, most=7):
    """Call ``predict()`` and, if it is short, again; return its answer and what it cost.

    Time is the median of as many calls as begin within ``least_s`` seconds, at most ``most``;
    memory is that of the first.
    """
    meters, begin = [], time.perf_counter()
    while not meters or (len(meters) < most and time.perf_counter() - begin < least_s):
        with Meter() as meter:
            answer = predict()
        meters.append(meter)
    result = meters[0].record("predict")
    result["predict_s"] = statistics.median(meter.wall_s for meter in meters)
    result["predict_cpu_s"] = statistics.mean(meter.cpu_s for meter in meters)
    return answer, result


def median_latency_ms(predict, X, n_rows, warm_up=20):
    """Return median and 95th percentile of ``predict(row)`` over ``n_rows`` rows of X, in ms."""
    picked = np.linspace(0, X.shape[0] - 1, min(n_rows, X.shape[0])).astype(int)
    rows = [X[[i]] for i in picked]
    for row in rows[:warm_up]:
        predict(row)
    times = []
    for row in rows:
        start = time.perf_counter()
        predict(row)
        times.append(1e3 * (time.perf_counter() - start))
    return {"row_ms": float(np.median(times)), "row_p95_ms": float(np.percentile(times, 95))}


def versions():
    """Return the versions of Python and of the packages in this environment as a text."""
    found = [f"python {platform.python_version()}"]
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if not any(entry.startswith("skxmc ") for entry in found) and "skxmc" in sys.modules:
        found.append(f"skxmc {sys.modules['skxmc'].__version__}")
    return "; ".join(found)


def warm_up(params, estimator="DismecClassifier", n_labels=40):
    """Load (or compile) the kernels of a fit and a prediction; return the seconds it took."""
    import skxmc
    from skxmc.datasets import make_xmc_classification

    data = make_xmc_classification(300, 200, n_labels, random_state=0)
    start = time.perf_counter()
    model = getattr(skxmc, estimator)(**params).fit(data.X, data.Y)
    model.predict_topk(data.X, k=5)
    model.predict_topk(data.X[[0]], k=5)
    return time.perf_counter() - start


def folder_mb(path):
    """Return the size of all files in a folder in MB (1e6 bytes)."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) / 1e6


def remove(path):
    """Delete a folder of the scratch space, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------ parent side
class Session:
    """One run of a script: a scratch folder, child processes, and rows of results."""

    def __init__(self, args, script):
        self.args = args
        self.script = Path(script)
        self.scratch = Path(tempfile.mkdtemp(prefix="skxmc-bench-"))
        self.rows = []
        self.failures = {}
        self._n_calls = 0
        self._n_saved = 0
        self._common = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "git": git_state(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "data": args.data.resolve().name if getattr(args, "data", None) else "synthetic",
        }
        if getattr(args, "labels", None):
            self._common["data"] += f"[{args.labels} labels]"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        shutil.rmtree(self.scratch, ignore_errors=True)

    def call(self, task, *, python=None, script=None, env=None, timeout=None, **request):
        """Run ``task`` of a script in a new process and return what it returned.

        Raises WorkerFailed if it fails or takes longer than ``timeout`` seconds.
        """
        self._n_calls += 1
        question = self.scratch / f"{self._n_calls}.request.json"
        answer = self.scratch / f"{self._n_calls}.result.json"
        question.write_text(json.dumps({"task": task, **request}, default=str))
        command = [python or sys.executable, str(script or self.script), "--worker"]
        load = os.getloadavg()[0]
        start = time.perf_counter()
        with subprocess.Popen(
            [*map(str, command), str(question), str(answer)],
            env=child_environment(self.args.threads, own=python is None, extra=env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its own children can be ended with it
        ) as worker:
            try:
                printed, _ = worker.communicate(timeout=timeout)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise WorkerFailed(f"{task}: stopped after {timeout:g} s") from None
                raise
        if worker.returncode != 0:
            raise WorkerFailed(f"{task} failed ({worker.returncode}):\n{printed[-4000:]}")
        result = json.loads(answer.read_text())
        result.update(load=round(load, 2), process_s=time.perf_counter() - start)
        return result

    def attempt(self, method, task, **request):
        """Return what ``call`` returns, or None if a worker of this method has ever failed.

        The failure is told once and kept in ``failures``; the others go on.
        """
        if method in self.failures:
            return None
        try:
            return self.call(task, **request)
        except WorkerFailed as error:
            self.failures[method] = str(error)
            print(f"{method} is left out from here on. {error}", file=sys.stderr, flush=True)
            return None

    def add(self, method, result, **more):
        """Keep a result as a row of the CSV; a progress line goes to stderr."""
        row = {**self._common, "method": method, **more, **result}
        self.rows.append(row)
        shown = {k: v for k, v in row.items() if k.endswith(("_s", "_ms")) and v is not None}
        text = "  ".join(f"{k}={v:.3g}" for k, v in shown.items() if isinstance(v, float))
        print(f"[{row['load']:.1f}] {method}: {text}", file=sys.stderr, flush=True)
        return row

    def of(self, method):
        """Return the rows of a method, in the order in which they were measured."""
        return [row for row in self.rows if row["method"] == method]

    @property
    def csv(self):
        """The file that rows are appended to."""
        return self.args.output / f"{self.script.stem}.csv"

    def flush(self):
        """Append the rows that are not in the CSV yet, so that a long run can be cut short."""
        append_csv(self.csv, self.rows[self._n_saved :])
        self._n_saved = len(self.rows)

    def save(self):
        """Append the rows to ``<output>/<script>.csv`` and say so."""
        self.flush()
        print(f"\n{len(self.rows)} rows appended to {self.csv}", file=sys.stderr)


def child_environment(threads, own=True, extra=None):
    """Return the environment of a child; ``own``: it runs skxmc, else it is a peer."""
    env = {key: value for key, value in os.environ.items() if key not in _REMOVED}
    env.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)), PYTHONWARNINGS="ignore")
    if own:
        paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
    else:
        env.pop("PYTHONPATH", None)
    env.update(extra or {})
    return env


def peer_python(venv_root, name):
    """Return the interpreter of a peer, or end the script with what to do."""
    if venv_root is None:
        raise SystemExit(f"{name}: pass --venv-root, or leave it out (see benchmarks/README.md)")
    path = venv_root / name / "bin" / "python"
    if not path.exists():
        raise SystemExit(f"{path} does not exist; benchmarks/README.md says how to make it")
    return path


class Task:
    """The data of a benchmark, written once so that all libraries read the same arrays.

    Rows of X have length 1: our estimator scales them itself, the peers do not.
    """

    def __init__(self, session, args):
        from skxmc.datasets import load_folder

        data = load_folder(args.data)
        rng = np.random.default_rng(args.seed)
        self.Y_train, self.Y_test = data.Y_train, data.Y_test
        if args.labels and args.labels < self.Y_train.shape[1]:
            chosen = np.sort(rng.permutation(self.Y_train.shape[1])[: args.labels])
            self.Y_train, self.Y_test = self.Y_train[:, chosen], self.Y_test[:, chosen]
        self.order = rng.permutation(self.Y_train.shape[1])
        self.n_labels = self.Y_train.shape[1]
        self._session = session
        self.X_train = self._write("X_train", unit_rows(data.X_train))
        self.X_test = self._write("X_test", unit_rows(data.X_test))
        print(
            f"{args.data.resolve().name}: {self.Y_train.shape[0]} / {self.Y_test.shape[0]} rows, "
            f"{data.X_train.shape[1]} features, {self.n_labels} labels",
            file=sys.stderr,
        )

    def subset(self, n_labels):
        """Return the numbers of ``n_labels`` random labels; smaller subsets lie in larger ones."""
        return np.sort(self.order[: min(n_labels or self.n_labels, self.n_labels)])

    def labels_file(self, labels):
        """Return the path of ``Y_train`` with these labels only."""
        Y = sp.csr_matrix(self.Y_train[:, labels], dtype=np.float32)
        return self._write(f"Y_train_{len(labels)}", Y)

    def evaluate(self, answer_file, labels):
        """Return P@k and PSP@k in percent of saved answers about ``labels``."""
        from skxmc.label_space import inverse_propensity
        from skxmc.metrics import evaluate_topk
        from skxmc.ops.topk import TopK

        answer = np.load(answer_file)
        figures = evaluate_topk(
            self.Y_test[:, labels],
            TopK(answer["labels"].astype(np.int32), answer["scores"].astype(np.float32)),
            KS,
            inv_propensity=inverse_propensity(self.Y_train[:, labels]),
        )
        return {f"{m}@{k}": 100 * float(figures[f"{m}@{k}"]) for m in ("P", "PSP") for k in KS}

    def _write(self, name, matrix):
        path = self._session.scratch / f"{name}.npz"
        if not path.exists():
            matrix = sp.csr_matrix(matrix)  # libpecos refuses csr_array
            matrix.indices = matrix.indices.astype(np.int32, copy=False)
            matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
            sp.save_npz(path, matrix, compressed=False)
        return str(path)


def unit_rows(X):
    """Return X with rows of Euclidean length 1; empty rows stay empty."""
    X = sp.csr_matrix(X, dtype=np.float32)
    norms = np.sqrt(np.asarray(X.multiply(X).sum(axis=1), dtype=np.float64)).ravel()
    scale = np.divide(1.0, norms, out=np.ones_like(norms), where=norms > 0)
    X = X.copy()
    X.data *= np.repeat(scale, np.diff(X.indptr)).astype(np.float32)
    return X


def median_of(rows, key, missing=None):
    """Return the median of a column over rows that have it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else missing


def median_ratio(rows, baseline, key):
    """Return the median over the rounds of ``rows[r][key] / baseline[r][key]``.

    The two were measured one after the other in each round, so what slows the machine down for
    longer than a round hits both.
    """
    pairs = {row["round"]: row[key] for row in baseline}
    ratios = [row[key] / pairs[row["round"]] for row in rows if pairs.get(row["round"])]
    return statistics.median(ratios) if ratios else None


def markdown(rows, columns):
    """Return a Markdown table; ``columns`` maps a header to a key or a (key, format) pair."""
    header = "| " + " | ".join(columns) + " |"
    lines = [header, "|" + "---|" * len(columns)]
    for row in rows:
        cells = []
        for column in columns.values():
            key, form = column if isinstance(column, tuple) else (column, "")
            value = row.get(key)
            cells.append("" if value is None or value != value else format(value, form))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_report(session, title, *tables):
    """Print the title, the circumstances, and Markdown tables."""
    common = session._common
    loads = [row["load"] for row in session.rows if "load" in row] or [float("nan")]
    print(f"\n### {title}\n")
    print(
        f"{common['date']}, {common['git']}, {common['cpu']}, {common['cores']} cores, "
        f"{common['threads']} threads, load average before a run {min(loads)} to {max(loads)}, "
        f"{session.args.rounds} rounds (medians).\n"
    )
    for versions_text in dict.fromkeys(row["versions"] for row in session.rows):
        print(f"- {versions_text}")
    for method, reason in session.failures.items():
        lines = reason.strip().splitlines()
        told = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
        print(f"- {method} failed and is left out: {[*lines, *told][-1]}")
    for table in tables:
        print(f"\n{table}")


def append_csv(path, rows):
    """Append rows to a CSV file; a new column is added to all rows of the file."""
    path = Path(path)
    old = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as stream:
            old = list(csv.DictReader(stream))
    columns = list(dict.fromkeys(key for row in [*old, *rows] for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(old + [_rounded(row) for row in rows])
    os.replace(temporary, path)


def _rounded(row):
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def git_state():
    """Return the short commit of the checkout, with "+" where files differ from it."""

    def git(*arguments):
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    with contextlib.suppress(OSError):  # no git
        commit = git("rev-parse", "--short=10", "HEAD")
        if commit:
            return commit + ("+" if git("status", "--porcelain", "--", "skxmc") else "")
    return "no commit"


def cpu_name():
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
