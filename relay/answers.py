"""Write answers to callers: those of the application, and those to what never gets to it."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

from gunicorn.util import hop_headers

from relay import logs
from relay.callers import Connection
from relay.http import phrase, problem

# RFC 9112 sections 4 and 5.
_STATUS: Final = re.compile(r"[0-9]{3}(?: [\t -~\x80-\xff]*)?")
_FIELD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*")
_DEFECT: Final = (HTTPStatus.INTERNAL_SERVER_ERROR, "the relay failed; its log says why")
_ExcInfo = tuple[type[BaseException], BaseException, "TracebackType | None"]

log = logging.getLogger(__name__)


class Answer:
    """The answer of a WSGI application (PEP 3333), as RFC 9112 frames it.

    Args:
        environ: of the request.
        closes: whether the connection ends with it. It may have to in any case.
    """

    def __init__(self, sock: Connection, environ: dict[str, Any], *, closes: bool) -> None:
        self.closes = closes
        self.is_begun = False
        self._sock = sock
        self._version: str = environ["SERVER_PROTOCOL"]
        self._is_head = environ["REQUEST_METHOD"] == "HEAD"
        self._unsent = b""  # the head, until there is something to send with it
        self._left: int | None = None
        self._is_chunked = self._is_empty = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take the head: WSGI's `start_response`.

        Raises:
            ValueError: no message can have it.
        """
        if exc_info is not None and self.is_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        code = int(status[:3])
        has_length = code >= 200 and code != HTTPStatus.NO_CONTENT
        self._is_empty = self._is_head or not has_length or code == HTTPStatus.NOT_MODIFIED
        self._left = None
        lines = []
        for name, value in headers:
            lower = name.lower()
            if lower in hop_headers or (lower == "content-length" and not has_length):
                continue
            if lower == "content-length":
                self._left = int(value)
            text = value.strip(" \t")
            lines.append(f"{name}: {text}")
        if not _STATUS.fullmatch(status) or not all(map(_FIELD.fullmatch, lines)):
            raise ValueError("an answer with a head that cannot be sent")
        if self._left is None and not self._is_empty:
            self._is_chunked = self._version == "HTTP/1.1"
            self.closes |= not self._is_chunked
        if self._is_chunked:
            lines.append("Transfer-Encoding: chunked")
        own = (
            f"{self._version} {status}",
            "Server: gunicorn",
            f"Date: {_date(int(time.time()))}",
            f"Connection: {'close' if self.closes else 'keep-alive'}",
        )
        self._unsent = "\r\n".join((*own, *lines, "\r\n")).encode("latin-1")
        return self.write

    def write(self, piece: bytes) -> None:
        """Send a piece of the body, and the head before the first."""
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        if not piece or self._is_empty:
            return
        if self._is_chunked:
            piece = b"%X\r\n%b\r\n" % (len(piece), piece)
        self._send(piece)

    def end(self) -> None:
        """Send what is left: a caller to whom bytes are missing sees the connection end."""
        self.closes |= bool(self._left) and not self._is_empty
        self._send(b"0\r\n\r\n" if self._is_chunked else b"")

    def _send(self, piece: bytes) -> None:
        raw, self._unsent, self.is_begun = self._unsent + piece, b"", True
        if raw:
            self._sock.sendall(raw)


def answer(app: Callable[..., Iterable[bytes]], conn: Connection, *, closes: bool = False) -> bool:
    """Have an application answer the request of a connection; return whether the latter stays."""
    arrival, conn.arrival, conn.until = conn.arrival, None, None
    assert arrival is not None  # noqa: S101
    environ = arrival.environ
    environ["wsgi.input"].seek(0)
    writer = Answer(conn, environ, closes=closes or arrival.is_cut or not arrival.keeps_alive)
    try:
        pieces = app(environ, writer.start)
        try:
            for piece in pieces:
                writer.write(piece)
            writer.end()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
    except OSError:
        return False
    except Exception as exc:
        if writer.is_begun:
            log.exception("the answer was cut off: the relay failed")
        else:
            refuse(conn, environ["REQUEST_METHOD"], *_DEFECT, error=exc)
        return False
    return not writer.closes


@functools.lru_cache(1)
def _date(time_s: int) -> str:
    return formatdate(time_s, usegmt=True)


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
