"""Adapt Flask, which functions-framework serves with, to the relay's own requests and answers."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from relay.messages import Request, Response
from relay.problems import MethodNotAllowed, RelayError, problem, problem_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers

LIVENESS = "/health/liveness"
READINESS = "/health/readiness"

log = logging.getLogger("relay")


def prepare(app: flask.Flask, log_level: str) -> None:
    """Give a function's app its probes, its log, and answers that are problem documents.

    functions-framework would invoke an HTTP function for a probe and refuse one to a CloudEvent
    function; its own error pages are HTML, and one of them repeats every request header.
    """
    app.get(LIVENESS)(_alive)
    app.get(READINESS)(_ready)
    app.url_map.merge_slashes = False  # else //sync is a redirect, in HTML
    app.register_error_handler(RelayError, lambda error: to_flask(problem_of(error)))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(log_level)
    log.propagate = False


def from_flask(request: flask.Request) -> Request:
    """Return the relay's view of a request; its body is not read yet."""
    return Request(
        method=request.method,
        path=request.path,
        query=request.query_string.decode("latin-1"),
        headers={name.lower(): value for name, value in request.headers.items()},
        # Not request.stream: it ends early without a word when the client dies.
        stream=request.environ["wsgi.input"],
        content_length=request.content_length,
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
    answer = _Exact(_pieces(response), status=response.status, headers=list(response.headers))
    close = getattr(response.body, "close", None)
    if close is not None:
        answer.call_on_close(close)
    return answer


def _pieces(response: Response) -> Iterator[bytes]:
    try:
        yield from response.body
    except RelayError as exc:
        log.warning("an answer was cut off: %s", exc.detail)
        # The server ends the connection for any error, but for this one without a traceback.
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from exc


def _alive() -> flask.Response:
    return to_flask(Response.whole(200, b"ok\n", content_type="text/plain"))


def _ready() -> flask.Response:
    # gunicorn's worker handles the signal, and is alive until it has come.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not getattr(worker, "alive", True):
        return to_flask(problem(503, "this process is ending"))
    return _alive()


def _http_error(error: HTTPException) -> flask.Response:
    request = flask.request
    if isinstance(error, WrongMethod):
        allowed = tuple(sorted(error.valid_methods or ()))
        return to_flask(problem_of(MethodNotAllowed(request.method, request.path[:200], allowed)))
    return to_flask(
        problem(error.code or 500, f"{request.method} {request.path[:200]!a}: {error.name}")
    )


def _unexpected(error: Exception) -> flask.Response:
    log.exception("%s %a failed", flask.request.method, flask.request.path)
    return to_flask(problem(500, "the relay failed; its log says why"))
