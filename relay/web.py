"""Serve a function over WSGI (PEP 3333), in the app that functions-framework has made for it."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flask
from werkzeug.wsgi import get_input_stream

from relay import logs, metrics, operations, server
from relay.auth import check_token
from relay.callers import Connection
from relay.http import DEFECT, Request, Response, phrase, problem, problem_of
from relay.leaving import Caller
from relay.operations import OWN
from relay.problems import CallerLeft, MethodNotAllowed, RelayError
from relay.settings import Settings
from relay.sites import Sites
from relay.store import Census

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LIVENESS = "/health/liveness"
READINESS = "/health/readiness"
METRICS = "/metrics"
_KNATIVE_TIMEOUT_S = 300

Handler = Callable[[Request], Response]

log = logging.getLogger(__name__)


def serve(
    app: flask.Flask,
    settings: Settings,
    handle: Handler,
    census: Callable[[], Census] | None = None,
) -> App:
    """Have an app answer by a handler, with the relay's own server, probes, metrics and log.

    Flask and functions-framework's invocation are passed by: they take as long as all of the
    relay's rules, would invoke an HTTP function for a probe, read each event once more, and answer
    what they refuse in HTML, once with all of the request's headers.

    Args:
        settings: `log_level`, `api_token` and those of bodies and of what is watched count.
        census: counts the requests that the store has; None where the other function does.
    """
    server.configure(settings)
    logging.basicConfig(handlers=[logs.JSONHandler()], force=True)
    logging.getLogger("relay").setLevel(settings.log_level)
    counted = metrics.Metrics(settings, census)
    operations.watch(counted)
    if settings.otel_exporter_otlp_endpoint is not None:
        from relay import traces  # its libraries take long to import

        operations.watch(traces.Traces(settings.k_service or app.name))
    app.wsgi_app = served = App(settings, handle, counted)  # type: ignore[method-assign]
    if settings.target_timeout_s > _KNATIVE_TIMEOUT_S:
        log.warning(
            "TARGET_TIMEOUT_S is %g: Knative ends each request after the service's timeoutSeconds,"
            " %d unless it is set",
            *(settings.target_timeout_s, _KNATIVE_TIMEOUT_S),
        )
    # The worker is forked from this process, and shares its memory until one of them writes to it,
    # as a garbage collection does to each object it looks at.
    gc.freeze()
    return served


class App:
    """The WSGI application, which answers by `handle`."""

    def __init__(self, settings: Settings, handle: Handler, counted: metrics.Metrics) -> None:
        self.handle = handle
        self._sites = Sites(settings)
        self._api_token = settings.api_token
        self._counted = counted
        # For kubelet and Prometheus, who know a pod's address, not its name.
        self._own = {LIVENESS: _alive, READINESS: _ready, METRICS: self._tell}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> _Sent:
        request = _request(environ)
        own = self._own.get(request.path)
        if own is None:
            logs.begin(request.method)
        else:
            logs.begin(request.method, level=logging.DEBUG, kind=OWN)
            logs.note(route=request.path)
        try:
            response = self._answer(request, own)
        except RelayError as exc:
            logs.refused(exc)
            response = problem_of(exc)
        except Exception as exc:
            logs.explain("the relay failed", logging.ERROR, error=exc)
            response = problem(*DEFECT)
        allowance = () if own else self._sites.allowance(request.headers.get)
        # A target's own would speak for other pages.
        replaced = {name.lower() for name, _ in allowance} - {"vary"}
        headers = [each for each in response.headers if each[0].lower() not in replaced]
        start_response(f"{response.status} {phrase(response.status)}", [*headers, *allowance])
        return _Sent(request, response, environ.get("gunicorn.socket"))

    def _answer(self, request: Request, own: Handler | None) -> Response:
        if own is not None:
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(request.method, request.path, ("GET", "HEAD"))
            return own(request)
        self._sites.check(request.method, request.path, request.headers.get)
        preflight = self._sites.preflight(request.method, request.headers.get)
        return preflight or self.handle(request)

    def _tell(self, request: Request) -> Response:
        check_token(request.headers, self._api_token)
        body, content_type = self._counted.exposition(request.headers.get("accept", ""))
        return Response.whole(200, body, content_type=content_type)


def _request(environ: WSGIEnvironment) -> Request:
    """Return the relay's view of a request; its body is not read yet."""
    length: str = environ.get("CONTENT_LENGTH", "")
    headers = {name: value for key, value in environ.items() if (name := _header(key))}
    if not headers.get("content-type", "*"):
        del headers["content-type"]
    return Request(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        query=environ["QUERY_STRING"],
        headers=headers,
        stream=get_input_stream(environ),  # another server's would not end with the body
        content_length=int(length) if length.isdecimal() else None,
        caller=environ.get("relay.caller") or Caller(),
    )


@functools.lru_cache(1024)
def _header(key: str) -> str:
    """Return the name of a header in lower case; "" for another part of a WSGI environment."""
    is_header = key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    return key.removeprefix("HTTP_").replace("_", "-").lower() if is_header else ""


class _Sent:
    """The body of an answer that is being sent, which is closed after the last byte."""

    def __init__(self, request: Request, response: Response, caller: Connection | None) -> None:
        self._response = response
        self._pieces = iter(()) if request.method == "HEAD" else _pieces(response, caller)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        body: Any
        for body in (self._pieces, self._response.body):
            if hasattr(body, "close"):
                body.close()
        logs.finish(self._response.status)


def _pieces(response: Response, caller: Connection | None) -> Iterator[bytes]:
    try:
        for piece in response.body:
            if caller is not None:
                caller.until = response.until
            yield piece
    except GeneratorExit:
        logs.note(cut_off=True)
        logs.explain("the caller left before the end of the answer", logging.INFO)
        raise
    except Exception as exc:
        logs.note(cut_off=True)
        if isinstance(exc, CallerLeft):
            logs.explain("the caller left before the end of the answer", logging.INFO)
        elif isinstance(exc, RelayError):
            logs.explain(f"the answer was cut off: {exc.detail}", logging.WARNING)
        else:
            logs.explain("the answer was cut off: the relay failed", logging.ERROR, error=exc)
        # The server ends the connection for any error, but for this one without lines of its own,
        # which hold the query.
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from exc


def _alive(request: Request) -> Response:
    return Response.whole(200, b"ok\n", content_type="text/plain")


def _ready(request: Request) -> Response:
    # gunicorn's worker handles the signal, and is alive until it has come.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    is_alive = getattr(worker, "alive", True)
    return _alive(request) if is_alive else problem(503, "this process is ending")
