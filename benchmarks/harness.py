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
import shutil
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
_PACKAGES = ("skxmc", "libpecos", "numpy", "scipy", "scikit-learn", "numba")


# ------------------------------------------------------------------ command line
def parser(description, *, data=True, peers=False, rounds=3):
    """Return an argument parser with the options that the scripts have in common."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    if data:
        result.add_argument(
            "--data", required=True, type=Path, help="folder that skxmc.datasets.load_folder reads"
        )
        result.add_argument(
            "--labels", type=int, help="restrict the task to so many random labels (default: all)"
        )
    if peers:
        result.add_argument(
            "--venv-root", type=Path, help="folder with the peers' environments: pecos/"
        )
    result.add_argument("--rounds", type=int, default=rounds, help="interleaved repetitions")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--seed", type=int, default=0, help="of the random choice of labels")
    result.add_argument(
        "--params", type=json.loads, default={}, help="parameters of DismecClassifier as JSON"
    )
    result.add_argument("--output", type=Path, default=HERE / "results", help="folder of the CSV")
    return result


def run_script(main, tasks):
    """Be a worker if started as one, else run ``main``."""
    if len(sys.argv) == 4 and sys.argv[1] == "--worker":
        request = json.loads(Path(sys.argv[2]).read_text())
        result = tasks[request.pop("task")](**request)
        result["versions"] = versions()
        Path(sys.argv[3]).write_text(json.dumps(result))
    else:
        main()


# ------------------------------------------------------------------ worker side
class Meter:
    """Wall time, processor time and memory of a ``with`` block.

    Memory is the peak of the resident set inside the block minus the resident set at its start;
    NaN where the system does not say.
    """

    def __enter__(self):
        self._rss = status_mb("VmRSS")
        with contextlib.suppress(OSError):  # begin a new peak (Linux only)
            Path("/proc/self/clear_refs").write_text("5")
        self._cpu = sum(os.times()[:4])
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.wall_s = time.perf_counter() - self._start
        self.cpu_s = sum(os.times()[:4]) - self._cpu
        self.peak_mb = status_mb("VmHWM") - self._rss

    def record(self, prefix):
        """Return the three numbers by name."""
        return {
            f"{prefix}_s": self.wall_s,
            f"{prefix}_cpu_s": self.cpu_s,
            f"{prefix}_peak_mb": self.peak_mb,
        }


def status_mb(key):
    """Return an entry of /proc/self/status in MB (1e6 bytes), or NaN."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


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


def warm_up(params):
    """Load (or compile) the kernels of a fit and a prediction; return the seconds it took."""
    from skxmc import DismecClassifier
    from skxmc.datasets import make_xmc_classification

    data = make_xmc_classification(300, 200, 40, random_state=0)
    start = time.perf_counter()
    model = DismecClassifier(**params).fit(data.X, data.Y)
    model.predict_topk(data.X, k=5)
    model.predict_topk(data.X[[0]], k=5)
    return time.perf_counter() - start


def folder_mb(path):
    """Return the size of all files in a folder in MB (1e6 bytes)."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) / 1e6


# ------------------------------------------------------------------ parent side
class Session:
    """One run of a script: a scratch folder, child processes, and rows of results."""

    def __init__(self, args, script):
        self.args = args
        self.script = Path(script)
        self.scratch = Path(tempfile.mkdtemp(prefix="skxmc-bench-"))
        self.rows = []
        self._n_calls = 0
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

    def call(self, task, *, python=None, script=None, env=None, **request):
        """Run ``task`` of a script in a new process and return what it returned."""
        self._n_calls += 1
        question = self.scratch / f"{self._n_calls}.request.json"
        answer = self.scratch / f"{self._n_calls}.result.json"
        question.write_text(json.dumps({"task": task, **request}, default=str))
        command = [python or sys.executable, str(script or self.script), "--worker"]
        load = os.getloadavg()[0]
        start = time.perf_counter()
        done = subprocess.run(
            [*map(str, command), str(question), str(answer)],
            env=child_environment(self.args.threads, own=python is None, extra=env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{task} failed ({done.returncode}):\n{done.stdout[-4000:]}")
        result = json.loads(answer.read_text())
        result.update(load=round(load, 2), process_s=time.perf_counter() - start)
        return result

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

    def save(self):
        """Append the rows to ``<output>/<script>.csv``."""
        path = self.args.output / f"{self.script.stem}.csv"
        append_csv(path, self.rows)
        print(f"\n{len(self.rows)} rows appended to {path}", file=sys.stderr)


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
        writer = csv.DictWriter(stream, columns, restval="")
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
