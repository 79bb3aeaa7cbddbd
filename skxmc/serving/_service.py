"""Make and run the service; what is optional is imported here, inside functions."""

import gc
import ipaddress
import numbers
import socket
from typing import NamedTuple

from skxmc.serving._answers import feature_count, label_count

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Limits(NamedTuple):
    """What a client may ask for, and how requests are put together: see `create_app`."""

    max_k: int
    max_rows: int
    max_body_bytes: int
    max_batch_rows: int
    max_wait_ms: float
    max_queue_rows: int
    timeout_s: float


def create_app(
    model,
    label_names=None,
    *,
    max_k=100,
    max_rows=1000,
    max_body_bytes=8 << 20,
    max_batch_rows=256,
    max_wait_ms=0.0,
    max_queue_rows=4096,
    timeout_s=30.0,
):
    """Make an ASGI application that answers requests with the best labels.

    Requests that arrive while others are computed are put together and computed at once: a batch
    costs little more than a row. An idle service answers at once, unless ``max_wait_ms`` makes it
    wait for company.

    Parameters
    ----------
    model : fitted estimator
        What `skxmc.load_model` returned, or any classifier with ``predict_topk``, in a pipeline or
        not. If its tags say that it takes texts, requests hold texts, else sparse rows.
    label_names : sequence of str of length n_labels or None, default=None
        What answers are called; None: the number of the label.
    max_k : int, default=100
        Most answers for a row.
    max_rows : int, default=1000
        Most rows in a request.
    max_body_bytes : int, default=8 MiB
        Largest body of a request; larger ones get the status 413 and are not read.
    max_batch_rows : int, default=256
        Rows computed together, unless one request has more.
    max_wait_ms : float, default=0.0
        Milliseconds that a request may wait for others while nothing is computed.
    max_queue_rows : int, default=4096
        Rows that may wait at a time; requests beyond get the status 503 at once.
    timeout_s : float, default=30.0
        Seconds for reading a request (408) and for waiting and computing (504).

    Returns
    -------
    fastapi.FastAPI
        With ``POST /predict``, ``GET /health``, ``GET /metrics`` (text format of Prometheus) and
        ``GET /openapi.json``.

    Raises
    ------
    ImportError
        If fastapi is not installed.
    ValueError
        If a limit is out of range, or the number of names is not that of the labels.

    See Also
    --------
    run_app : Serve it on an address.

    Notes
    -----
    Answers do not depend on what else is in a batch: rows that ask for different k are computed
    apart. A service has no authentication and no encryption; put it behind a proxy that has.

    Memory: that of the model, plus the bodies of the requests under way, each up to
    ``max_body_bytes`` and several times that when parsed.

    Examples
    --------
    >>> from skxmc import DismecClassifier
    >>> from skxmc.serving import create_app
    >>> model = DismecClassifier().fit([[0.0, 1.0], [1.0, 0.0]], [[1, 0], [0, 1]])
    >>> app = create_app(model, ["second", "first"])
    >>> sorted(app.openapi()["paths"])
    ['/health', '/metrics', '/predict']
    """
    limits = Limits(
        max_k, max_rows, max_body_bytes, max_batch_rows, max_wait_ms, max_queue_rows, timeout_s
    )
    _check_limits(limits)
    n_labels = label_count(model)
    if label_names is not None:
        label_names = [str(name) for name in label_names]
        if len(label_names) != n_labels:
            raise ValueError(
                f"label_names must have one name for each of the {n_labels} labels; got "
                f"{len(label_names)}."
            )
    try:
        from skxmc.serving.fastapi_app import make_app
    except ImportError as error:
        raise ImportError("The service needs fastapi: pip install 'skxmc[serve]'.") from error
    return make_app(model, label_names, n_labels, feature_count(model), limits)


def run_app(app, host="127.0.0.1", port=8000, *, announce=print):
    """Serve an application until it is interrupted.

    Parameters
    ----------
    app : ASGI application
        What `create_app` returned.
    host : str, default="127.0.0.1"
        Address to listen on. The default is reached from this machine only.
    port : int, default=8000
        0 takes any that is free.
    announce : callable, default=print
        Told the address, as ``http://host:port``, and a warning if others can reach it.

    Raises
    ------
    ImportError
        If uvicorn is not installed.
    OSError
        If the address cannot be had.

    Examples
    --------
    >>> from skxmc.serving import create_app, run_app
    >>> run_app(create_app(model))  # doctest: +SKIP
    http://127.0.0.1:8000
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("The service needs uvicorn: pip install 'skxmc[serve]'.") from error
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    # Named TCP, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        actual = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{actual}")
        if not _is_loopback(host):
            announce("Others can reach this address: there is no authentication.")
        config = uvicorn.Config(
            *(app,),
            http=_patient_protocol(app.state.limits.timeout_s),
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        # What is loaded stays: collections that look through it stop all requests for 0.1 s.
        gc.collect()
        gc.freeze()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            gc.unfreeze()


def _patient_protocol(timeout_s):
    """The HTTP protocol of uvicorn, with an end to its patience for the header of a request.

    By itself it waits for ever, so that connections on which nothing comes would pile up.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class PatientProtocol(AutoHTTPProtocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._look_later(self.cycle)

        def connection_lost(self, exc):
            self._timer.cancel()
            super().connection_lost(exc)

        def _look_later(self, request):
            self._timer = self.loop.call_later(timeout_s, self._look, request)

        def _look(self, request):
            under_way = self.cycle is not None and not self.cycle.response_complete
            between_requests = self.timeout_keep_alive_task is not None
            if under_way or between_requests or self.cycle is not request:
                self._look_later(self.cycle)
            else:
                self.transport.write(_TOO_SLOW)
                self.transport.close()

    return PatientProtocol


def _check_limits(limits):
    for name, value in limits._asdict().items():
        real = name in ("max_wait_ms", "timeout_s")
        kind = numbers.Real if real else numbers.Integral
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(
                f"{name} must be {'a number' if real else 'an integer'}; got {value!r}."
            )
        least = 0 if name == "max_wait_ms" else 1e-3 if real else 1
        if not least <= value < 2**62:
            raise ValueError(f"{name} must be at least {least:g}; got {value!r}.")
    if limits.max_queue_rows < limits.max_rows:
        raise ValueError(
            f"max_queue_rows={limits.max_queue_rows} is less than max_rows={limits.max_rows}: the "
            "largest request would never be taken."
        )


def _is_loopback(host):
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
