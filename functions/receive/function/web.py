"""Adapt Flask, which functions-framework serves with, to the relay's own requests and answers."""

from __future__ import annotations

import logging

import flask
from werkzeug.exceptions import HTTPException

from relay.messages import Request, Response
from relay.problems import RelayError, problem, problem_of

HEALTH = ("/health/liveness", "/health/readiness")

log = logging.getLogger("relay")


def prepare(app: flask.Flask, log_level: str) -> None:
    """Give a function's app its probes, its log, and answers that are problem documents.

    functions-framework would invoke an HTTP function for a probe and refuse one to a CloudEvent
    function; its own error pages are HTML, and one of them repeats every request header.
    """
    for path in HEALTH:
        app.get(path, endpoint=path)(_healthy)
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


def to_flask(response: Response) -> flask.Response:
    """Return Flask's form of an answer, with these headers and no other."""
    answer = flask.Response(
        # An iterator counts as streamed, and only then does functions-framework not read what the
        # client still sends, however much that is.
        iter(response.body),
        status=response.status,
        headers=list(response.headers),
        direct_passthrough=True,
    )
    if not any(name.lower() == "content-type" for name, _ in response.headers):
        del answer.headers["Content-Type"]
    close = getattr(response.body, "close", None)
    if close is not None:
        answer.call_on_close(close)
    return answer


def _healthy() -> flask.Response:
    return to_flask(Response.whole(200, b"ok\n", content_type="text/plain"))


def _http_error(error: HTTPException) -> flask.Response:
    status = error.code or 500
    allow = tuple(item for item in error.get_headers() if item[0] == "Allow")
    return to_flask(problem(status, f"{flask.request.method} {flask.request.path}", headers=allow))


def _unexpected(error: Exception) -> flask.Response:
    log.exception("%s %s failed", flask.request.method, flask.request.path)
    return to_flask(problem(500, "the relay failed; its log says why"))
