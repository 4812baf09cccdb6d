"""Problem documents for requests that cannot be read; gunicorn's own answers are HTML."""

from __future__ import annotations

import contextlib
import logging
import socket
from http import HTTPStatus
from typing import Final

from gunicorn.http import errors

from relay import logs
from relay.http import phrase, problem

_REFUSED: Final[dict[type[Exception], tuple[HTTPStatus, str]]] = {
    errors.LimitRequestLine: (HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long"),
    errors.LimitRequestHeaders: (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "a header is longer than MAX_HEADER_BYTES, or there are too many",
    ),
    errors.UnsupportedTransferCoding: (
        HTTPStatus.NOT_IMPLEMENTED,
        "Transfer-Encoding must be chunked",
    ),
    errors.ExpectationFailed: (HTTPStatus.EXPECTATION_FAILED, "Expect must be 100-continue"),
    errors.InvalidRequestLine: (HTTPStatus.BAD_REQUEST, "the request line is malformed"),
    errors.InvalidRequestMethod: (HTTPStatus.BAD_REQUEST, "the method is malformed"),
    errors.InvalidHTTPVersion: (HTTPStatus.BAD_REQUEST, "the version must be HTTP/1.0 or 1.1"),
}
# Without gunicorn's own words, which repeat what was sent.
_MALFORMED = (HTTPStatus.BAD_REQUEST, "the headers, or the chunks of the body, are malformed")
_DEFECT = (HTTPStatus.INTERNAL_SERVER_ERROR, "the relay failed; its log says why")


def is_defect(error: Exception) -> bool:
    """Tell whether an error is the relay's own, and not the sender's."""
    is_own = isinstance(error, (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName))
    return is_own or not isinstance(error, errors.ParseException)


def refusal_of(error: Exception) -> tuple[HTTPStatus, str]:
    """Return the status and the detail for an error of gunicorn's."""
    return _DEFECT if is_defect(error) else _REFUSED.get(type(error), _MALFORMED)


def refuse(
    sock: socket.socket,
    method: str,
    status: HTTPStatus,
    detail: str,
    *,
    error: Exception | None = None,
) -> None:
    """Write an answer, as much of it as goes at once, and its line of log.

    Args:
        method: as far as it is known.
        error: a defect of the relay, for the log.
    """
    logs.begin(method)
    logs.explain(detail, logging.INFO if error is None else logging.ERROR, error=error)
    answer = problem(status, detail, headers=(("Connection", "close"),))
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    raw = f"HTTP/1.1 {status.value} {phrase(status)}\r\n{head}\r\n".encode("latin-1")
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.send(raw + b"".join(answer.body))
    logs.finish(status)
