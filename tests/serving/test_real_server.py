"""The service as a process: slow, large, lost and concurrent requests over real connections."""

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from skxmc import DismecClassifier, save_model
from skxmc.datasets import make_xmc_classification
from skxmc.serving import create_app

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("typer")

MAX_BODY = 20_000
PATIENCE = 1.0


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(400, 60, 15, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    return DismecClassifier().fit(data.X[:200], data.Y[:200])


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model"
    save_model(model, path)
    return path


@contextlib.contextmanager
def served(path, *options):
    """Run ``skxmc serve``; yields the process and its port."""
    command = [sys.executable, "-m", "skxmc", "serve", str(path), "--port", "0", *options]
    # Where the tests run in the background of a shell, SIGINT is ignored by all that they start.
    hear = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **hear) as process:
        try:
            line = process.stderr.readline()
            port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", line).group(1))
            wait_for(lambda: get(port, "/health")[0] == 200)
            yield process, port
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port(saved):
    """A service that nobody is too slow for."""
    options = ("--timeout", "600", "--max-body", str(MAX_BODY), "--max-queue", "100000")
    with served(saved, *options) as (process, port):
        yield port
        # Whatever the tests did, it ends as it should, and has said nothing.
        assert get(port, "/health")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        assert process.stderr.read() == "skxmc: interrupted\n"


@pytest.fixture(scope="module")
def hasty(saved):
    """A service that waits for a second."""
    with served(saved, "--timeout", str(PATIENCE)) as (_, port):
        yield port


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def counted(port, name):
    match = re.search(rf"^{re.escape(name)} (\d+)$", get(port, "/metrics")[1], re.MULTILINE)
    return int(match.group(1)) if match else 0


def connected(port):
    peer = socket.create_connection(("127.0.0.1", port), 60)
    return contextlib.closing(peer)


def head(length):
    return (
        "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def everything(peer):
    """What the server sends until it closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65536):
            parts.append(part)
    return b"".join(parts)


def request_of(X, k=5):
    ends = zip(X.indptr[:-1], X.indptr[1:], strict=True)
    rows = [
        {"indices": X.indices[a:b].tolist(), "values": X.data[a:b].astype(float).tolist()}
        for a, b in ends
    ]
    return json.dumps({"rows": rows, "k": k}).encode()


BODY = b'{"rows": [{"indices": [0], "values": [1.0]}]}'


# ------------------------------------------------------------------ slow clients


def test_a_body_that_does_not_come_is_refused(hasty):
    start = time.monotonic()
    with connected(hasty) as peer:
        peer.sendall(head(100) + b'{"rows": ')
        answer = everything(peer)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert answer.endswith(b'{"detail":"The body did not arrive in time."}')
    assert time.monotonic() - start > 0.9 * PATIENCE


def test_a_body_that_drips_is_refused(hasty):
    """The limit is that of the whole body, not of each of its bytes."""
    before = counted(hasty, 'skxmc_requests_total{path="/predict",status="408"}')
    with connected(hasty) as peer:
        peer.sendall(head(10_000))
        peer.settimeout(0.1)
        answer = b""
        deadline = time.monotonic() + 60
        while not answer and time.monotonic() < deadline:
            peer.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = peer.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert counted(hasty, 'skxmc_requests_total{path="/predict",status="408"}') == before + 1


@pytest.mark.parametrize("begun", [b"", b"P", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-"])
@pytest.mark.parametrize("after_a_request", [False, True])
def test_a_header_that_does_not_come_is_refused(hasty, begun, after_a_request):
    with connected(hasty) as peer:
        if after_a_request:
            peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
        peer.sendall(begun)
        answer = everything(peer)  # it ends
    if begun:
        assert answer.endswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
                               b"Content-Length: 0\r\n\r\n")  # fmt: skip
    assert get(hasty, "/health")[0] == 200


def test_who_is_quick_is_not_cut_off(hasty):
    """One connection for longer than the patience with a single request."""
    connection = http.client.HTTPConnection("127.0.0.1", hasty, timeout=60)
    with contextlib.closing(connection):
        connection.connect()
        peer = connection.sock
        for _ in range(15):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            assert connection.sock is peer  # http.client would open another
            time.sleep(PATIENCE / 5)


# ------------------------------------------------------------------ large bodies


def test_the_limit_of_the_body_is_exact(port):
    fitting = BODY[:-1] + b" " * (MAX_BODY - len(BODY)) + b"}"
    assert len(fitting) == MAX_BODY
    for body, status in ((fitting, b"200"), (fitting + b" ", b"413")):
        with connected(port) as peer:
            peer.sendall(head(len(body)) + body)
            assert peer.recv(65536).split(b" ", 2)[1] == status


@pytest.mark.parametrize("length", [MAX_BODY + 1, 10**15])
def test_a_large_body_is_refused_before_it_comes(port, length):
    with connected(port) as peer:
        peer.sendall(head(length))
        answer = everything(peer)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"The body is over 20000 bytes." in answer


def test_a_body_without_end_is_cut_off(port):
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    sent = 0
    with connected(port) as peer:
        peer.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            while sent < 10**9:
                peer.sendall(chunk)
                sent += 1000
        with contextlib.suppress(OSError):
            assert everything(peer)[:13] in (b"HTTP/1.1 413 ", b"")
    assert MAX_BODY <= sent < 10**8  # more than the limit lies in the buffers of the system
    assert counted(port, 'skxmc_requests_total{path="/predict",status="413"}') > 0


# ------------------------------------------------------------------ lost clients


@pytest.mark.parametrize("reset", [False, True])
def test_who_leaves_in_the_middle_of_a_request_does_no_harm(port, reset):
    gone = 'skxmc_requests_total{path="/predict",status="499"}'
    before, rows = counted(port, gone), counted(port, "skxmc_rows_total")
    with connected(port) as peer:
        peer.sendall(head(len(BODY) + 1) + BODY)  # all but the last byte
        time.sleep(0.1)
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: counted(port, gone) == before + 1)
    assert counted(port, "skxmc_rows_total") == rows  # half a request is not computed


def test_who_leaves_before_the_answer_does_no_harm(port):
    for _ in range(20):
        with connected(port) as peer:
            peer.sendall(head(len(BODY)) + BODY)
    assert get(port, "/health")[0] == 200


def test_rows_of_who_has_left_are_not_computed(model):
    """Two requests wait behind a third; the client of one of them leaves."""
    gate, under_way, asked = threading.Event(), threading.Event(), []

    class Slow:
        n_labels_, n_features_in_, classes_ = 15, 60, model.classes_

        def __sklearn_tags__(self):
            return model.__sklearn_tags__()

        def predict_topk(self, X, k=5, **limits):
            under_way.set()
            assert gate.wait(timeout=60)
            asked.extend(X.data.tolist())
            return model.predict_topk(X, k=k, **limits)

    app = create_app(Slow(), timeout_s=600)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def ask(value, left):
        body = json.dumps({"rows": [{"indices": [0], "values": [value]}]}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        statuses = []

        async def receive():
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app(dict(scope), receive, send)
        return statuses

    async def scenario():
        stays, leaves = asyncio.Event(), asyncio.Event()
        jobs = [asyncio.create_task(ask(1.0, stays))]
        assert await asyncio.to_thread(under_way.wait, 60)
        jobs += [asyncio.create_task(ask(2.0, stays)), asyncio.create_task(ask(3.0, leaves))]
        async with asyncio.timeout(60):
            while app.state.batcher.n_waiting < 2:
                await asyncio.sleep(0.01)
        leaves.set()
        assert await asyncio.wait_for(jobs[2], 60) == []
        gate.set()
        assert await asyncio.wait_for(asyncio.gather(*jobs[:2]), 60) == [[200], [200]]
        await app.state.batcher.stop()

    asyncio.run(scenario())
    assert asked == [1.0, 2.0]
    assert app.state.metrics.requests == {("/predict", 200): 2, ("/predict", 499): 1}


def test_it_stops_with_a_request_half_read(saved):
    with served(saved, "--timeout", "600") as (process, port), connected(port) as peer:
        peer.sendall(head(1000) + b"{")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        answer = everything(peer)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b'{"detail":"The service stops."}')
        assert process.wait(timeout=120) == 130
        assert "Traceback" not in process.stderr.read()


# ------------------------------------------------------------------ many clients


def test_eight_clients_get_the_answers_of_the_model(port, model, data):
    n_clients, per_client = 8, 25
    X = data.X[200:]
    proba = model.predict_proba(X).toarray()
    local = {k: model.predict_topk(X, k=k).labels for k in (1, 3, 5)}
    found, failed = {}, []

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        try:
            with contextlib.closing(connection):
                for turn in range(per_client):
                    i = number * per_client + turn
                    first, last = i % 190, i % 190 + 1 + i % 7
                    k = (1, 3, 5)[i % 3]
                    connection.request(
                        "POST",
                        "/predict",
                        request_of(X[first:last], k),
                        {"Content-Type": "application/json"},
                    )
                    response = connection.getresponse()
                    found[number, turn] = first, last, k, response.status, response.read()
        except Exception as error:  # of a thread it would be lost
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == n_clients * per_client
    for first, last, k, status, body in found.values():
        assert status == 200
        answers = json.loads(body)["predictions"]
        ids = np.array([row["ids"] for row in answers])
        np.testing.assert_array_equal(ids, local[k][first:last])
        wanted = np.take_along_axis(proba[first:last], ids, axis=1)
        np.testing.assert_allclose([row["scores"] for row in answers], wanted, rtol=1e-6)
