"""The HTTP service: right answers, batches, limits, and no crash on whatever is sent."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skxmc import DismecClassifier, IsotonicXMCCalibrator, MacroAtKPredictor, save_model
from skxmc.datasets import load_debtags, make_xmc_classification
from skxmc.serving import create_app, run_app
from skxmc.serving._answers import answer, set_threads
from skxmc.serving._batcher import Batcher, QueueFullError
from skxmc.serving._metrics import Histogram, Metrics

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(260, 60, 15, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    return DismecClassifier().fit(data.X[:200], data.Y[:200])


@pytest.fixture(scope="module")
def text_model():
    data = load_debtags()
    model = make_pipeline(TfidfVectorizer(dtype=np.float32), DismecClassifier())
    return model.fit(data.train_texts[:200], data.Y_train[:200])


@pytest.fixture
def client(model):
    with TestClient(create_app(model, max_rows=20, max_k=10, max_body_bytes=20_000)) as client:
        yield client


def rows_of(X):
    return [
        {
            "indices": X.indices[a:b].tolist(),
            "values": X.data[a:b].astype(float).tolist(),
        }
        for a, b in zip(X.indptr[:-1], X.indptr[1:], strict=True)
    ]


# ------------------------------------------------------------------ answers


def test_features_get_the_answers_of_the_model(client, model, data):
    X = data.X[200:210]
    response = client.post("/predict", json={"rows": rows_of(X), "k": 3})
    assert response.status_code == 200
    found = response.json()["predictions"]
    expected = model.predict_topk(X, k=3)
    proba = model.predict_proba(X).toarray()
    assert [row["ids"] for row in found] == expected.labels.tolist()
    assert [row["labels"] for row in found] == [[str(j) for j in row] for row in expected.labels]
    wanted = np.take_along_axis(proba, expected.labels.astype(np.int64), axis=1)
    np.testing.assert_allclose([row["scores"] for row in found], wanted, rtol=1e-6)


def test_texts_get_named_answers(text_model):
    names = [str(name) for name in load_debtags().label_names]
    texts = ["a game of chess", "", "\x00\u2028 web server 🎲"]
    with TestClient(create_app(text_model, names)) as client:
        found = client.post("/predict", json={"texts": texts}).json()["predictions"]
    X = text_model[:-1].transform(texts)
    expected = text_model[-1].predict_topk(X, k=5).labels
    assert [row["labels"] for row in found] == [[names[j] for j in row] for row in expected]


def test_more_answers_than_labels(client, data):
    body = {"rows": rows_of(data.X[:1]), "k": 10}
    assert len(client.post("/predict", json=body).json()["predictions"][0]["labels"]) == 10
    few = DismecClassifier().fit(data.X, data.Y[:, :3])
    with TestClient(create_app(few)) as client:
        row = client.post("/predict", json=body).json()["predictions"][0]
    assert sorted(row["ids"]) == [0, 1, 2]


def test_probabilities_of_wrapped_models(model, data):
    X, Y = data.X[200:], data.Y[200:]
    calibrator = IsotonicXMCCalibrator(DismecClassifier(), cv=2, random_state=0).fit(X, Y)
    decider = MacroAtKPredictor(calibrator, k=3).fit(X, Y)
    for wrapped in (model, calibrator, decider):
        answers = answer(wrapped, X, 3)
        proba = (calibrator if wrapped is decider else wrapped).predict_proba(X).toarray()
        if wrapped is decider:
            proba = decider.estimator_.predict_proba(X).toarray()
        wanted = np.take_along_axis(proba, answers.labels.astype(np.int64), axis=1)
        np.testing.assert_allclose(answers.scores, wanted, rtol=2e-6)


def test_threads_of_all_that_is_in_a_model(data):
    X, Y = data.X[200:], data.Y[200:]
    pipeline = make_pipeline(Normalizer(), DismecClassifier(n_jobs=2))
    model = IsotonicXMCCalibrator(pipeline, cv=2, random_state=0, n_jobs=2).fit(X, Y)
    expected = answer(model, X, 3)
    set_threads(model, 1)
    assert model.n_jobs == 1
    assert model.estimator_[-1].n_jobs == 1
    found = answer(model, X, 3)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_health_and_metrics(client, data):
    assert client.get("/health").json() == {
        "status": "ok",
        "model": "DismecClassifier",
        "input": "features",
        "n_labels": 15,
        "n_features": 60,
        "version": __import__("skxmc").__version__,
    }
    client.post("/predict", json={"rows": rows_of(data.X[:4])})
    client.get("/somewhere")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    page = response.text
    assert 'skxmc_requests_total{path="/predict",status="200"} 1' in page
    assert 'skxmc_requests_total{path="other",status="404"} 1' in page
    assert "skxmc_rows_total 4" in page
    assert 'skxmc_batch_rows_bucket{le="2"} 0' in page
    assert 'skxmc_batch_rows_bucket{le="4"} 1' in page
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [-+.\de]+')
    assert all(sample.fullmatch(line) for line in page.splitlines() if not line.startswith("#"))


def test_names_in_metrics_are_escaped():
    page = Metrics(["/a"], {"model": 'a"b\\c\nd'}).text(0)
    assert 'skxmc_model_info{model="a\\"b\\\\c\\nd"} 1' in page


def test_histogram_counts_up_to_each_bound():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 7):
        histogram.add(value)
    assert list(histogram.lines("h")) == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 10",
        "h_count 4",
    ]


# ------------------------------------------------------------------ refusals

ROW = {"indices": [0], "values": [1.0]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": [ROW] * 21}, "at most 20"),
        ({"rows": [ROW], "k": 0}, "greater than or equal to 1"),
        ({"rows": [ROW], "k": 11}, "less than or equal to 10"),
        ({"rows": [ROW], "k": "3"}, "k"),
        ({"rows": [ROW], "k": True}, "k"),
        ({"rows": [ROW], "unknown": 1}, "unknown"),
        ({"rows": [{"indices": [60], "values": [1.0]}]}, "less than or equal to 59"),
        ({"rows": [{"indices": [-1], "values": [1.0]}]}, "greater than or equal to 0"),
        ({"rows": [{"indices": [2**70], "values": [1.0]}]}, "less than or equal to 59"),
        ({"rows": [{"indices": [0, 1], "values": [1.0]}]}, "2 indices, but 1 values"),
        ({"rows": [{"indices": [1, 1], "values": [1.0, 1.0]}]}, "an index occurs twice"),
        ({"rows": [{"indices": [0], "values": [1e39]}]}, "less than or equal to 3402823466385288"),
        ({"rows": [{"indices": [0], "values": ["1"]}]}, "values"),
        ({"texts": ["a"]}, "texts"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(client, body, said):
    response = client.post("/predict", json=body)
    assert response.status_code == 422
    assert said in json.dumps(response.json()["detail"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'{"rows": [{"indices": [0], "values": [NaN]}]}',
        b'{"rows": [{"indices": [0], "values": [-Infinity]}]}',
        b'{"rows": [{"indices": [0], "values": [1e999]}]}',
        b'{"k": 1' + b"0" * 5000 + b"}",
        b"[" * 19_000,
        b'{"rows":' * 2_000,
        b"\xff\xfe",
        b'{"\\ud800": "\\udfff"}',
        b'{"rows": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
def test_bodies_that_are_no_requests(client, body, kind):
    response = client.post("/predict", content=body, headers={"content-type": kind})
    assert response.status_code in (400, 415, 422)
    assert "detail" in response.json()
    assert client.get("/health").status_code == 200


def test_lone_surrogates_in_texts_do_no_harm():
    hashing = HashingVectorizer(n_features=64, norm=None)
    data = load_debtags()
    model = make_pipeline(hashing, DismecClassifier())
    model.fit(data.train_texts[:50], data.Y_train[:50])
    with TestClient(create_app(model)) as client:
        response = client.post(
            "/predict",
            content=b'{"texts": ["word\\ud800"]}',
            headers={"content-type": "application/json"},
        )
    assert response.status_code == 200


def test_whole_numbers_may_be_written_as_floats(client):
    floats = {"rows": [{"indices": [3.0], "values": [1]}], "k": 2.0}
    whole = {"rows": [{"indices": [3], "values": [1.0]}], "k": 2}
    answers = [client.post("/predict", json=body).json() for body in (floats, whole)]
    assert answers[0] == answers[1]
    assert len(answers[0]["predictions"][0]["ids"]) == 2


def test_large_bodies_are_refused_with_and_without_their_length(client):
    body = json.dumps({"rows": [ROW], "pad": "x" * 30_000}).encode()
    assert client.post("/predict", content=body).status_code == 413
    parts = (body[i : i + 1000] for i in range(0, len(body), 1000))
    assert client.post("/predict", content=parts).status_code == 413


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_k", 0),
        ("max_rows", 2.5),
        ("max_body_bytes", -1),
        ("max_batch_rows", True),
        ("max_wait_ms", -1.0),
        ("timeout_s", 0),
        ("timeout_s", float("nan")),
        ("max_queue_rows", 10),
    ],
)
def test_limits_are_checked(model, name, value):
    with pytest.raises(ValueError, match=name):
        create_app(model, **{name: value})


def test_names_must_be_as_many_as_labels(model):
    with pytest.raises(ValueError, match="one name for each of the 15 labels; got 2"):
        create_app(model, ["a", "b"])


class Stub:
    """A model that waits, fails, or remembers what it was asked."""

    def __init__(self, model):
        self.model = model
        self.n_labels_, self.n_features_in_ = model.n_labels_, model.n_features_in_
        self.classes_ = model.classes_
        self.gate = threading.Event()
        self.gate.set()
        self.calls = []
        self.bad_value = None

    def __sklearn_tags__(self):
        return self.model.__sklearn_tags__()

    def predict_topk(self, X, k=5, **limits):
        assert self.gate.wait(timeout=60)
        self.calls.append((X.shape[0], k))
        if self.bad_value is not None and self.bad_value in X.data:
            raise RuntimeError("odd")
        return self.model.predict_topk(X, k=k, **limits)


def test_a_failing_model_is_told_and_the_next_request_is_answered(model, data):
    stub = Stub(model)
    stub.bad_value = 666.0
    with TestClient(create_app(stub)) as client:
        bad = {"rows": [{"indices": [0], "values": [666.0]}]}
        response = client.post("/predict", json=bad)
        assert (response.status_code, response.json()["detail"]) == (
            500,
            "The model failed on this request.",
        )
        assert client.post("/predict", json={"rows": [ROW]}).status_code == 200


def test_slow_answers_time_out(model):
    stub = Stub(model)
    with TestClient(create_app(stub, timeout_s=0.05)) as client:
        stub.gate.clear()
        assert client.post("/predict", json={"rows": [ROW]}).status_code == 504
        stub.gate.set()


def test_a_full_queue_is_refused_at_once(model):
    stub = Stub(model)
    app = create_app(stub, max_rows=2, max_queue_rows=2, timeout_s=60)
    with TestClient(app) as client:
        stub.gate.clear()
        codes = []

        def ask():
            codes.append(client.post("/predict", json={"rows": [ROW, ROW]}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for n, thread in enumerate(threads):  # one is computed, one waits
            thread.start()
            deadline = time.monotonic() + 30
            while app.state.batcher.n_waiting < 2 * n or not app.state.batcher._task:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.1)
        response = client.post("/predict", json={"rows": [ROW]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        stub.gate.set()
        for thread in threads:
            thread.join()
        assert codes == [200, 200]


# ------------------------------------------------------------------ batches


def test_requests_that_wait_are_computed_together_and_get_their_own_answers(model, data):
    stub = Stub(model)
    app = create_app(stub, timeout_s=600)
    expected = model.predict_topk(data.X[200:240], k=3)
    with TestClient(app) as client:
        stub.gate.clear()
        stub.calls.clear()
        found = {}

        def ask(i):
            X, k = data.X[[200 + i]], 3 if i % 4 else 2
            body = {"rows": rows_of(X), "k": k}
            found[i] = client.post("/predict", json=body).json()["predictions"][0]["ids"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while app.state.batcher.n_waiting < 39 and time.monotonic() < deadline:
            time.sleep(0.01)
        stub.gate.set()
        for thread in threads:
            thread.join()
    assert found == {i: row[: 3 if i % 4 else 2].tolist() for i, row in enumerate(expected.labels)}
    assert sum(n for n, _ in stub.calls) == 40
    assert len(stub.calls) <= 4  # the first one alone, then one batch of each k
    assert {k for _, k in stub.calls} == {2, 3}


def with_batcher(scenario, compute, **options):
    async def run():
        batcher = Batcher(
            compute, **{"max_rows": 4, "max_wait_s": 0.0, "max_queue_rows": 100, **options}
        )
        try:
            return await asyncio.wait_for(scenario(batcher), 60)
        finally:
            await batcher.stop()

    return asyncio.run(run())


def test_batches_are_not_larger_than_allowed():
    sizes = []

    def compute(rows, k):
        time.sleep(0.01)
        sizes.append(len(rows))
        return [(row, k) for row in rows]

    async def scenario(batcher):
        jobs = [batcher.submit([i, -i], 1) for i in range(10)] + [batcher.submit(range(9), 1)]
        return await asyncio.gather(*jobs)

    results = with_batcher(scenario, compute)
    assert results[:10] == [[(i, 1), (-i, 1)] for i in range(10)]
    assert results[10] == [(i, 1) for i in range(9)]
    assert sorted(sizes)[-1] == 9  # one job alone may be larger
    assert sorted(sizes)[-2] <= 4
    assert len(sizes) < 10


def test_it_waits_for_company_only_if_told_to():
    sizes = []

    def compute(rows, k):
        sizes.append(len(rows))
        return rows

    async def scenario(batcher):
        first = asyncio.ensure_future(batcher.submit([1], 1))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, batcher.submit([2], 1))

    with_batcher(scenario, compute, max_wait_s=0.0)
    assert sizes == [1, 1]
    sizes.clear()
    with_batcher(scenario, compute, max_wait_s=20.0, max_rows=2)
    assert sizes == [2]


def test_the_one_at_fault_fails_alone():
    def compute(rows, k):
        if "bad" in rows:
            raise ValueError("bad row")
        return rows

    async def scenario(batcher):
        jobs = [batcher.submit([row], 1) for row in ("a", "bad", "b")]
        return await asyncio.gather(*jobs, return_exceptions=True)

    first, error, last = with_batcher(scenario, compute)
    assert (first, last) == (["a"], ["b"])
    assert isinstance(error, ValueError)


def test_who_gave_up_is_not_computed_and_frees_the_queue():
    seen, gate = [], threading.Event()

    def compute(rows, k):
        gate.wait(timeout=60)
        seen.extend(rows)
        return rows

    async def scenario(batcher):
        first = asyncio.ensure_future(batcher.submit(["a"], 1))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(batcher.submit(["b"], 1))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError):
            await batcher.submit(["c"], 1)
        second.cancel()
        gate.set()
        await first
        await batcher.submit(["d"], 1)

    with_batcher(scenario, compute, max_queue_rows=1)
    assert seen == ["a", "d"]


# ------------------------------------------------------------------ its own description


@pytest.mark.parametrize("kind", ["features", "text"])
def test_any_request_keeps_to_the_openapi_document(kind, model, text_model):
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    app = create_app(model if kind == "features" else text_model, max_rows=5, max_k=9)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    accepts = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
    tried = []
    for result in schema.get_all_operations():
        operation = result.ok()
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        for mode in modes if operation.method == "post" else modes[:1]:

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=40 if operation.method == "post" else 3,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def check(case):
                response = case.call()
                # The document cannot say that there are as many indices as values.
                case.validate_response(
                    response, excluded_checks=accepts if kind == "features" else []
                )
                tried.append((case.path, response.status_code))

            check()
    assert {path for path, _ in tried} == {"/predict", "/health", "/metrics"}
    assert ("/predict", 200) in tried
    assert ("/predict", 422) in tried
    assert all(status < 500 for _, status in tried)


# ------------------------------------------------------------------ as a process


def test_serve_answers_on_loopback_and_stops(tmp_path, model, data):
    pytest.importorskip("uvicorn")
    pytest.importorskip("typer")
    save_model(model, tmp_path / "model")
    command = [sys.executable, "-m", "skxmc", "serve", str(tmp_path / "model"), "--port", "0"]
    # Where the tests run in the background of a shell, SIGINT is ignored by all that they start.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as server:
        try:
            address = server.stderr.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            body = json.dumps({"rows": rows_of(data.X[200:202])}).encode()
            request = urllib.request.Request(
                f"{address}/predict", body, {"Content-Type": "application/json"}
            )
            deadline = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=60) as response:
                        found = json.load(response)["predictions"]
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            expected = model.predict_topk(data.X[200:202]).labels.tolist()
            assert [row["ids"] for row in found] == expected
            send_garbage(address)
            with urllib.request.urlopen(f"{address}/health", timeout=60) as response:
                assert json.load(response)["status"] == "ok"
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 130
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()


def send_garbage(address):
    """Things that are not HTTP, and connections that are cut."""
    host, port = address.removeprefix("http://").split(":")
    for junk in (
        b"\x00\xff" * 100,
        b"GET " + b"/" * 100_000,
        b"POST /predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 10) as peer:
            peer.sendall(junk)
            peer.settimeout(0.2)
            peer.recv(1000)


def test_an_address_in_use_is_an_error(model):
    pytest.importorskip("uvicorn")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="use"):
            run_app(create_app(model), port=other.getsockname()[1], announce=lambda text: None)
