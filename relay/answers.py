"""Write answers to callers: those of the application, and those to what never gets to it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from gunicorn.http.wsgi import Response

from relay import logs
from relay.callers import Connection
from relay.http import DEFECT, phrase, problem

log = logging.getLogger(__name__)


class Answer(Response):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's writer of answers, which sends the head with the first piece of the body.

    Args:
        request: the arrival.
        sock: the connection.
        cfg: gunicorn's.
    """

    headers_sent: bool
    _unsent = b""

    @property
    def is_begun(self) -> bool:
        return self.headers_sent and not self._unsent

    def send_headers(self) -> None:
        if not self.headers_sent:
            fields = (f"{name}: {value}\r\n" for name, value in self.headers)
            self._unsent = "".join((*self.default_headers(), *fields, "\r\n")).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        piece = b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data
        raw, self._unsent = self._unsent + piece, b""
        self.sock.sendall(raw)

    def close(self) -> None:
        """Send what is left: a caller to whom bytes are missing sees the connection end."""
        self.send_headers()
        if self.sent < (self.response_length or 0) and not self._omits_body:
            self.force_close()
        raw, self._unsent = self._unsent + (b"0\r\n\r\n" if self.chunked else b""), b""
        if raw:
            self.sock.sendall(raw)


def answer(
    app: Callable[..., Iterable[bytes]], conn: Connection, cfg: Any, *, closes: bool
) -> bool:
    """Have an application answer the request of a connection; return whether the latter stays."""
    arrival, conn.arrival, conn.until = conn.arrival, None, None
    assert arrival is not None  # noqa: S101
    arrival.environ["wsgi.input"].seek(0)
    writer = Answer(arrival, conn, cfg)
    if closes:
        writer.force_close()
    try:
        pieces = app(arrival.environ, writer.start_response)
        try:
            for piece in pieces:
                writer.write(piece)
            writer.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
    except OSError:
        return False
    except Exception as exc:
        if writer.is_begun:
            log.exception("the answer was cut off: the relay failed")
        else:
            refuse(conn, arrival.method, *DEFECT, error=exc)
        return False
    return not writer.should_close()


def refuse(
    sock: socket.socket,
    method: str,
    status: HTTPStatus,
    detail: str,
    *,
    error: Exception | None = None,
) -> None:
    """Write a problem, as much of it as goes at once, and its line of log.

    Args:
        method: as far as it is known.
        error: a defect of the relay, for the log.
    """
    logs.begin(method)
    logs.explain(detail, logging.INFO if error is None else logging.ERROR, error=error)
    again = (("Retry-After", "1"),) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
    answer = problem(status, detail, headers=(("Connection", "close"), *again))
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    raw = f"HTTP/1.1 {status.value} {phrase(status)}\r\n{head}\r\n".encode("latin-1")
    with contextlib.suppress(OSError):
        sock.send(raw + b"".join(answer.body))
    logs.finish(status)
