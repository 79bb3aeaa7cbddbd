"""How many requests a second does the service answer, and how long does one wait?

Trains a tree on the training rows of a data folder (or takes a saved model), starts ``skxmc serve``
on 127.0.0.1 and lets 1, 8 and 32 clients ask for one row at a time, each as soon as it has its last
answer, over connections that stay open. Server and clients are processes of their own and share the
machine.

    python benchmarks/bench_serve.py --data FOLDER --seconds 5
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
import numpy as np

CLIENTS = (1, 8, 32)


def main(arguments=None):
    """Measure, print a table, and append the rows to the CSV."""
    args = parse(arguments)
    scratch = args.output / ".serve-model"
    try:
        model, bodies, facts = prepare(args, scratch)
        rows = []
        for wait in args.max_wait:
            with Server(model, wait, args.jobs) as server:
                asyncio.run(load(server.port, bodies, 4, 1.0))  # warm
                for n_clients in args.clients:
                    before = batches(server.port)
                    times, wall = asyncio.run(load(server.port, bodies, n_clients, args.seconds))
                    after = batches(server.port)
                    rows.append(
                        {
                            **facts,
                            "method": "skxmc serve",
                            "max_wait_ms": wait,
                            "jobs": args.jobs,
                            "clients": n_clients,
                            "requests": len(times),
                            "requests_per_s": len(times) / wall,
                            "p50_ms": 1e3 * statistics.median(times),
                            "p99_ms": 1e3 * float(np.percentile(times, 99)),
                            "rows_per_batch": (after[0] - before[0]) / max(1, after[1] - before[1]),
                            "load": round(os.getloadavg()[0], 2),
                        }
                    )
                    print(f"{n_clients} clients done", file=sys.stderr, flush=True)
    finally:
        harness.remove(scratch)
    harness.append_csv(args.output / "bench_serve.csv", rows)
    columns = {
        "labels": ("labels", ",d"),
        "max wait ms": ("max_wait_ms", "g"),
        "clients": "clients",
        "requests/s": ("requests_per_s", ".0f"),
        "p50 ms": ("p50_ms", ".2f"),
        "p99 ms": ("p99_ms", ".2f"),
        "rows a batch": ("rows_per_batch", ".1f"),
    }
    print(f"{facts['data']}, {facts['cpu']}, {facts['cores']} cores, load {rows[0]['load']}\n")
    print(harness.markdown(rows, columns))
    return rows


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of load_folder")
    parser.add_argument("--model", type=Path, help="a saved model, instead of training one")
    parser.add_argument("--text", action="store_true", help="serve texts, through tf-idf")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--max-wait", type=float, nargs="+", default=[0.0], help="milliseconds")
    parser.add_argument("--threads", type=int, default=2, help="of the training")
    parser.add_argument("--jobs", type=int, default=1, help="threads of the service for a batch")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


def prepare(args, scratch):
    """Train and save a model; return it with the bodies of requests and the circumstances."""
    from skxmc import ParabelTree, save_model
    from skxmc.datasets import load_folder

    data = load_folder(args.data)
    if args.text:
        requests = [{"texts": [text]} for text in data.test_texts[:2000]]
    else:
        requests = [{"rows": [row]} for row in sparse_rows(data.X_test[:2000])]
    path = args.model
    if path is None:
        path = scratch
        model = ParabelTree("xr-linear", random_state=0, n_jobs=args.threads)
        start = time.perf_counter()
        if args.text:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.pipeline import make_pipeline

            vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
            model = make_pipeline(vectorizer, model).fit(data.train_texts, data.Y_train)
        else:
            model.fit(data.X_train, data.Y_train)
        print(f"trained in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        args.output.mkdir(parents=True, exist_ok=True)
        save_model(model, path, overwrite=True)
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "git": harness.git_state(),
        "cpu": harness.cpu_name(),
        "cores": os.cpu_count(),
        "data": args.data.resolve().name,
        "input": "text" if args.text else "features",
        "labels": data.Y_train.shape[1],
        "versions": harness.versions(),
    }
    return path, [json.dumps(request).encode() for request in requests], facts


def sparse_rows(X):
    """Yield each row as a request holds it."""
    for a, b in zip(X.indptr[:-1], X.indptr[1:]):
        values = [float(f"{value:.6g}") for value in X.data[a:b]]
        yield {"indices": X.indices[a:b].tolist(), "values": values}


class Server:
    """A server process."""

    def __init__(self, model, max_wait_ms, jobs):
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        options = ("--port", "0", "--max-wait", str(max_wait_ms), "--jobs", str(jobs))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skxmc", "serve", str(model), *options],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self):
        line = self.process.stderr.readline()
        match = re.search(r":(\d+)\s*$", line)
        if not match:
            self.process.kill()
            raise SystemExit(f"The server did not start: {line}{self.process.stderr.read()}")
        self.port = int(match.group(1))
        for _ in range(600):
            try:
                asyncio.run(get(self.port, "/health"))
                return self
            except OSError:
                time.sleep(0.1)
        self.process.kill()
        raise SystemExit("The server does not answer.")

    def __exit__(self, *error):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        self.process.stderr.close()


async def load(port, bodies, n_clients, seconds):
    """Seconds of each request of some clients, and of all."""
    times = []
    start = time.perf_counter()

    async def client(first):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        i = first
        while time.perf_counter() - start < seconds:
            body = bodies[i % len(bodies)]
            i += n_clients
            begin = time.perf_counter()
            status, _ = await ask(reader, writer, "POST", "/predict", body)
            times.append(time.perf_counter() - begin)
            if status != 200:
                raise SystemExit(f"The server answered {status}.")
        writer.close()

    await asyncio.gather(*(client(i) for i in range(n_clients)))
    return times, time.perf_counter() - start


async def ask(reader, writer, method, path, body=b""):
    """Send a request over an open connection; return status and body of the answer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    header = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", header).group(1))
    return int(header.split(b" ", 2)[1]), await reader.readexactly(length)


async def get(port, path):
    """Return the body of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, body = await ask(reader, writer, "GET", path)
    writer.close()
    return body.decode()


def batches(port):
    """Return how many rows and batches the server has computed."""
    page = asyncio.run(get(port, "/metrics"))
    names = ("skxmc_rows_total", "skxmc_batch_rows_count")
    return [int(re.search(rf"^{name} (\d+)", page, re.M).group(1)) for name in names]


if __name__ == "__main__":
    main()
