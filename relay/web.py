"""Adapt Flask, which functions-framework serves with, to the relay's own requests and answers."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from relay import logs, metrics, operations, server
from relay.auth import check_token
from relay.callers import Connection
from relay.http import Request, Response, problem, problem_of
from relay.leaving import Caller
from relay.operations import OWN
from relay.problems import CallerLeft, MethodNotAllowed, RelayError
from relay.settings import Settings
from relay.sites import Sites
from relay.store import Census

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers

LIVENESS = "/health/liveness"
READINESS = "/health/readiness"
METRICS = "/metrics"
# Paths that kubelet and Prometheus ask for; they know a pod's address, not its name.
_OWN = (LIVENESS, READINESS, METRICS)
_HEADERS = "relay.headers"  # of the WSGI environment, where a hook leaves them
_KNATIVE_TIMEOUT_S = 300

log = logging.getLogger(__name__)


def prepare(
    app: flask.Flask, settings: Settings, census: Callable[[], Census] | None = None
) -> None:
    """Give a function's app its server, probes, metrics, log, and answers that are problems.

    functions-framework would invoke an HTTP function for a probe and refuse one to a CloudEvent
    function; its own error pages are HTML, and one of them repeats every request header.

    Args:
        settings: `log_level`, `api_token` and those of bodies and of what is watched count.
        census: counts the requests that the store has; None where the other function does.
    """
    server.configure(settings)
    app.get(LIVENESS)(_alive)
    app.get(READINESS)(_ready)
    app.register_error_handler(RelayError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    _surround(app, Sites(settings))
    logging.basicConfig(handlers=[logs.JSONHandler()], force=True)
    logging.getLogger("relay").setLevel(settings.log_level)
    _measure(app, settings, census)
    if settings.target_timeout_s > _KNATIVE_TIMEOUT_S:
        log.warning(
            "TARGET_TIMEOUT_S is %g: Knative ends each request after the service's timeoutSeconds,"
            " %d unless it is set",
            *(settings.target_timeout_s, _KNATIVE_TIMEOUT_S),
        )
    # The worker is forked from this process, and shares its memory until one of them writes to it,
    # as a garbage collection does to each object it looks at.
    gc.freeze()


def _measure(app: flask.Flask, settings: Settings, census: Callable[[], Census] | None) -> None:
    counted = metrics.Metrics(settings, census)
    operations.watch(counted)
    if settings.otel_exporter_otlp_endpoint is not None:
        from relay import traces  # its libraries take long to import

        operations.watch(traces.Traces(settings.k_service or app.name))

    @app.get(METRICS)
    def tell() -> flask.Response:
        headers = _headers(_request().environ)
        check_token(headers, settings.api_token)
        body, content_type = counted.exposition(headers.get("accept", ""))
        return to_flask(Response.whole(200, body, content_type=content_type))


def _surround(app: flask.Flask, sites: Sites) -> None:
    """Do what is to be done before and after each request.

    Flask's proxies and hooks each cost as much as what is done here, so each is used once.
    """

    @app.before_request
    def begin() -> flask.Response | None:
        """Begin the line of log, and refuse what is not for the function to see."""
        environ = _request().environ
        method, path = environ["REQUEST_METHOD"], "/" + environ["PATH_INFO"].lstrip("/")
        if path in _OWN:
            logs.begin(method, level=logging.DEBUG, kind=OWN)
            logs.note(route=path)
            if method not in ("GET", "HEAD"):  # functions-framework would invoke the function
                raise MethodNotAllowed(method, path, ("GET", "HEAD"))
            return None
        logs.begin(method)
        headers = environ[_HEADERS] = _headers(environ)
        sites.check(method, path, headers.get)
        preflight = sites.preflight(method, headers.get)
        return None if preflight is None else to_flask(preflight)

    @app.after_request
    def end(answer: flask.Response) -> flask.Response:
        headers = _request().environ.get(_HEADERS)
        if headers is not None:
            allowance = sites.allowance(headers.get)
            for name in {name for name, _ in allowance} - {"Vary"}:
                del answer.headers[name]  # a target's own, which speaks for other pages
            answer.headers.extend(allowance)
        # After the last byte, or when there will be no more.
        answer.call_on_close(lambda: logs.finish(answer.status_code))
        return answer


def _request() -> flask.Request:
    request: flask.Request = flask.request._get_current_object()  # type: ignore[attr-defined]
    return request


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    headers = {name: value for key, value in environ.items() if (name := _header(key))}
    if not headers.get("content-type", "*"):
        del headers["content-type"]
    return headers


@functools.lru_cache(1024)
def _header(key: str) -> str:
    """Return the name of a header in lower case; "" for another part of a WSGI environment."""
    is_header = key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    return key.removeprefix("HTTP_").replace("_", "-").lower() if is_header else ""


def from_flask(request: flask.Request) -> Request:
    """Return the relay's view of a request."""
    environ = request.environ
    length: str = environ.get("CONTENT_LENGTH", "")
    path: str = environ["PATH_INFO"]  # as an ingress has seen it: Flask takes //sync for /sync
    return Request(
        method=environ["REQUEST_METHOD"],
        path=path if path.startswith("//") else request.path,
        query=environ["QUERY_STRING"],
        headers=environ[_HEADERS],
        stream=environ["wsgi.input"],
        content_length=int(length) if length.isdecimal() else None,
        caller=environ.get("relay.caller") or Caller(),
    )


class _Exact(flask.Response):
    """An answer with the headers it was given: Flask would add a type and drop some of a 304's."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers


def to_flask(response: Response) -> flask.Response:
    """Return Flask's form of an answer."""
    # A body that is an iterator counts as streamed, and only then does functions-framework not read
    # what the client still sends, however much that is.
    caller: Connection | None = _request().environ.get("gunicorn.socket")
    answer = _Exact(_pieces(response, caller), status=response.status, headers=response.headers)
    close = getattr(response.body, "close", None)
    if close is not None:
        answer.call_on_close(close)
    return answer


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


def _alive() -> flask.Response:
    return to_flask(Response.whole(200, b"ok\n", content_type="text/plain"))


def _ready() -> flask.Response:
    # gunicorn's worker handles the signal, and is alive until it has come.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    is_alive = getattr(worker, "alive", True)
    return _alive() if is_alive else to_flask(problem(503, "this process is ending"))


def _refused(error: RelayError) -> flask.Response:
    logs.refused(error)
    return to_flask(problem_of(error))


def _http_error(error: HTTPException) -> flask.Response:
    request = flask.request
    if isinstance(error, WrongMethod):
        allowed = tuple(sorted(error.valid_methods or ()))
        return _refused(MethodNotAllowed(request.method, request.path[:200], allowed))
    detail = f"{request.method} {request.path[:200]!a}: {error.name}"
    logs.explain(detail, logging.INFO)
    return to_flask(problem(error.code or 500, detail))


def _unexpected(error: Exception) -> flask.Response:
    logs.explain("the relay failed", logging.ERROR, error=error)
    return to_flask(problem(500, "the relay failed; its log says why"))
