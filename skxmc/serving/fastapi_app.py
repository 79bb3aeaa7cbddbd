"""The HTTP side of the service. Imported by `skxmc.serving.create_app` only."""

import asyncio
import contextlib
import logging
import time
from typing import Annotated

import numpy as np
import scipy.sparse as sp
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

import skxmc
from skxmc.serving._answers import answer, final_estimator, takes_text
from skxmc.serving._batcher import Batcher, QueueFullError
from skxmc.serving._metrics import CONTENT_TYPE, Metrics

_LOG = logging.getLogger("skxmc.serving")
_PATHS = ("/predict", "/health", "/metrics", "/openapi.json")
_CLIENT_LEFT = 499  # as nginx counts it
_MAX_INT32 = 2**31 - 1
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


class Prediction(BaseModel):
    """The answers for one row, best first."""

    labels: list[str]
    ids: list[int]
    scores: list[float]


class Predictions(BaseModel):
    """The answers for all rows of a request, in its order."""

    predictions: list[Prediction]


class Health(BaseModel):
    """What is served."""

    status: str
    model: str
    input: str
    n_labels: int
    n_features: int | None
    version: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def _responses(**texts):
    return {int(code[1:]): {"model": Problem, "description": text} for code, text in texts.items()}


def make_app(model, names, n_labels, n_features, limits):
    """Make the application; the parameters are those of `create_app`, checked."""
    reads_text = takes_text(model)
    request_model = _request_model(reads_text, n_features, limits)
    exact_model = _request_model(reads_text, n_features, limits, exact=True)
    name = type(final_estimator(model)).__name__
    metrics = Metrics(_PATHS, {"model": name, "labels": n_labels, "version": skxmc.__version__})

    def compute(rows, k):
        X = rows if reads_text else _sparse_rows(rows, n_features)
        ranked = answer(model, X, k)
        return list(zip(ranked.labels.tolist(), ranked.scores.tolist(), strict=True))

    batcher = Batcher(
        compute,
        max_rows=limits.max_batch_rows,
        max_wait_s=limits.max_wait_ms / 1000,
        max_queue_rows=limits.max_queue_rows,
        on_batch=metrics.batch,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app):
        # Load kernels and weights before the first request waits for them.
        await batcher.run(lambda: compute([""] if reads_text else [((), ())], 1))
        yield
        await batcher.stop()

    app = FastAPI(
        title="skxmc",
        summary="The best labels of texts or feature vectors.",
        version=skxmc.__version__,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.batcher, app.state.metrics, app.state.limits = batcher, metrics, limits

    @app.post(
        "/predict",
        response_model=Predictions,
        responses=_responses(
            _400="The body is not JSON that can be read.",
            _408="The body did not arrive in time.",
            _413="The body is too large.",
            _500="The model failed.",
            _503="Too many rows wait; try again.",
            _504="The answer took too long.",
        ),
    )
    async def predict(request: request_model):
        """Return the k best labels of each row with their probabilities."""
        return await respond(request)

    async def respond(request):
        rows = (
            _texts(request.texts) if reads_text else [(r.indices, r.values) for r in request.rows]
        )
        try:
            async with asyncio.timeout(limits.timeout_s):
                found = await batcher.submit(rows, request.k)
        except QueueFullError:
            raise HTTPException(503, "Too many rows wait.", {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"No answer within {limits.timeout_s:g} s.") from None
        except Exception:
            _LOG.exception("The model failed")
            raise HTTPException(500, "The model failed on this request.") from None
        return JSONResponse({"predictions": [_prediction(*row, names) for row in found]})

    async def respond_at_once(body):
        try:
            request = exact_model.model_validate_json(body)
        except ValidationError:
            return None
        try:
            return await respond(request)
        except HTTPException as error:
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.get("/health", response_model=Health)
    async def health():
        """Say that the service is there, and what it serves."""
        return {
            "status": "ok",
            "model": name,
            "input": "text" if reads_text else "features",
            "n_labels": n_labels,
            "n_features": None if reads_text else n_features,
            "version": skxmc.__version__,
        }

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics_page():
        """Return counters in the text format of Prometheus."""
        return PlainTextResponse(metrics.text(batcher.n_waiting), media_type=CONTENT_TYPE)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        # Without the input, which may hold what JSON does not (NaN), and may be large.
        problems = [
            {
                "loc": [part if isinstance(part, int) else str(part)[:100] for part in item["loc"]],
                "msg": item["msg"][:300],
                "type": item["type"],
            }
            for item in error.errors()[:20]
        ]
        return JSONResponse({"detail": problems}, status_code=422)

    app.add_middleware(_Gate, metrics=metrics, limits=limits, predict=respond_at_once)
    return app


def _request_model(reads_text, n_features, limits, *, exact=False):
    """The pydantic model of a request: what it says is what the OpenAPI document says.

    An ``exact`` one takes no 3.0 for 3, which costs less to check.
    """
    whole, whole_all = (() if exact else (BeforeValidator(f),) for f in (_whole, _whole_all))
    k_field = Field(ge=1, le=limits.max_k, description="Answers for each row.")
    k = (Annotated[int, k_field, *whole], 5)
    config = ConfigDict(extra="forbid", strict=True)
    size = {"min_length": 1, "max_length": limits.max_rows}
    if reads_text:
        texts = (Annotated[list[str], Field(description="A text for each row.", **size)], ...)
        return create_model("Request", __config__=config, texts=texts, k=k)

    highest = _MAX_INT32 - 1 if n_features is None else n_features - 1
    longest = {} if n_features is None else {"max_length": n_features}
    each_once = {"json_schema_extra": {"uniqueItems": True}}
    index = Annotated[int, Field(ge=0, le=highest)]
    value = Annotated[float, Field(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32, allow_inf_nan=False)]

    class Row(BaseModel):
        """A sparse row: numbers of features from 0, each at most once, and their values."""

        model_config = config
        indices: Annotated[list[index], Field(**longest, **each_once), *whole_all]
        values: Annotated[list[value], Field(**longest)]

        @model_validator(mode="after")
        def _check(self):
            if len(self.indices) != len(self.values):
                raise ValueError(f"{len(self.indices)} indices, but {len(self.values)} values")
            if len(set(self.indices)) != len(self.indices):
                raise ValueError("an index occurs twice")
            return self

    rows = (Annotated[list[Row], Field(description="The rows.", **size)], ...)
    return create_model("Request", __config__=config, rows=rows, k=k)


def _whole(value):
    """3.0 as 3: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_all(values):
    return [_whole(value) for value in values] if isinstance(values, list) else values


def _texts(texts):
    """Texts without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def _sparse_rows(rows, n_features):
    """A CSR matrix of pairs of indices and values."""
    indptr = np.cumsum([0, *(len(indices) for indices, _ in rows)])
    n = int(indptr[-1])
    indices = np.fromiter((j for row, _ in rows for j in row), dtype=np.int32, count=n)
    values = np.fromiter((v for _, row in rows for v in row), dtype=np.float32, count=n)
    if n_features is None:
        n_features = int(indices.max(initial=0)) + 1
    return sp.csr_array((values, indices, indptr), shape=(len(rows), n_features))


def _prediction(labels, scores, names):
    ids = [label for label in labels if label >= 0]
    return {
        "labels": [str(label) if names is None else names[label] for label in ids],
        "ids": ids,
        "scores": scores[: len(ids)],
    }


class _Gate:
    """Reads bodies up to a size and within a time, counts requests, and drops lost ones.

    A body is complete before the application sees it, so a slow client holds no more than memory.
    When a client goes away, what waits for its request is cancelled.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    limits : Limits
    predict : coroutine function
        ``predict(body)`` returns the response to a request that is right in every letter, or None.
        The way through the application takes twice as long; there the others are told what is
        wrong with them.
    """

    def __init__(self, app, metrics, limits, predict):
        self.app, self.metrics, self.limits, self.predict = app, metrics, limits, predict

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = None

        async def counted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, counted)
        except _ClientLeftError:
            status = status or _CLIENT_LEFT
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            if status is not None:
                raise
            asyncio.current_task().uncancel()
            await self._refuse(scope, receive, counted, 503, "The service stops.")
        finally:
            self.metrics.request(scope["path"], status or 500, time.perf_counter() - start)

    async def _pass(self, scope, receive, send):
        limit = self.limits.max_body_bytes
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await self._refuse(scope, receive, send, 413, f"The body is over {limit} bytes.")
            return
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                body = await _read_body(receive, limit)
        except TimeoutError:
            await self._refuse(scope, receive, send, 408, "The body did not arrive in time.")
            return
        if body is None:
            await self._refuse(scope, receive, send, 413, f"The body is over {limit} bytes.")
            return
        async with _while_connected(receive) as receive_more:
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if (scope["method"], scope["path"], kind) == ("POST", "/predict", b"application/json"):
                response = await self.predict(body)
                if response is not None:
                    await response(scope, receive_more, send)
                    return
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay():
                return messages.pop() if messages else await receive_more()

            await self.app(scope, replay, send)

    async def _refuse(self, scope, receive, send, status, text):
        response = JSONResponse({"detail": text}, status, {"Connection": "close"})
        await response(scope, receive, send)


class _ClientLeftError(Exception):
    """The client closed the connection."""


@contextlib.asynccontextmanager
async def _while_connected(receive):
    """Cancel the block and raise `_ClientLeftError` when the client leaves.

    Yields ``receive`` for the block.
    """
    task, left = asyncio.current_task(), False

    def leave(watch):
        nonlocal left
        if not watch.cancelled() and watch.exception() is None:
            left = True
            task.cancel()

    watch = asyncio.get_running_loop().create_task(receive())
    watch.add_done_callback(leave)
    try:
        yield lambda: asyncio.shield(watch)
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise _ClientLeftError from None
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


async def _read_body(receive, limit):
    """The body; None if it is over the limit."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)
