"""gunicorn as the relay wants it: nobody's word is taken, and nobody who is slow holds a thread.

functions-framework starts gunicorn with settings of its own and knows no others, so `configure`
changes their defaults, before it does. Only the worker of gunicorn's threads is replaced: there, a
connection has a thread from its first byte on.

    arriving    the main thread gathers requests, each until REQUEST_TIMEOUT_S; a thread gets what
                has come as a whole, so it never waits for a caller's bytes
    answered    a caller who does not read holds one of few places (`callers`)
    leaving     the main thread waits until the caller has closed as well (RFC 9112 section 9.6)
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from itertools import takewhile
from typing import Any, ClassVar

import gunicorn.config
from gunicorn.http import errors
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from relay import logs
from relay.arrivals import MAX_HEAD_BYTES, Arrival
from relay.callers import CallerSocket, Crowd
from relay.http import phrase, problem
from relay.settings import Settings

_READ_BYTES = 64 * 1024
# What arriving requests hold together. Beyond it, the one that holds most is refused.
_HELD_BYTES = 64 * 1024 * 1024
_LEAVING_S = 2.0
_LEAVING_BYTES = 16 * 1024 * 1024

_REFUSED: dict[type[Exception], tuple[HTTPStatus, str]] = {
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


def configure(settings: Settings) -> None:
    """Set what functions-framework leaves at gunicorn's defaults; it reads them later."""
    Worker.settings = settings
    config = gunicorn.config
    config.WorkerClass.default = Worker
    # Knative's queue-proxy calls from the same address as the strangers whose headers it passes on.
    config.ForwardedAllowIPS.default = ""
    config.LimitRequestFieldSize.default = settings.max_header_bytes
    config.ControlSocketDisable.default = True  # nobody is there to use it


class _Inbox(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What has arrived on a connection: gunicorn's parser reads this and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.arrival = Arrival(0)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece, b"" at the end; the parser copies what it does not need yet."""
        pieces = self.arrival.pieces
        piece = pieces.popleft() if pieces else bytearray()
        wanted = max(size_hint or 0, 8192)
        if len(piece) > wanted:
            pieces.appendleft(piece[wanted:])
        return bytes(piece[:wanted])

    def left_over(self) -> bytes:
        """Take what came behind the request: the next one, if its sender does not wait."""
        held: bytes = self.take_buffered()
        rest = b"".join((held, *self.arrival.pieces))
        self.arrival.pieces.clear()
        return rest


class _Connection(TConn):  # type: ignore[misc]
    """A connection whose requests come out of an inbox."""

    def __init__(self, cfg: Any, sock: CallerSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.inbox = _Inbox()
        self.parser = RequestParser(cfg, (), client)
        self.parser.unreader = self.inbox
        self.initialized = True
        self.discarded_bytes = 0


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, which get requests once they have arrived."""

    settings: ClassVar[Settings] = Settings()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = Crowd(max(1, self.cfg.threads // 2), self.settings.request_timeout_s)
        # A probe waits for no call.
        self._probes = ThreadPoolExecutor(max_workers=1)
        # Each in the order of its deadlines.
        self._arriving: dict[_Connection, None] = {}
        self._leaving: dict[_Connection, None] = {}
        self._held_bytes = 0

    # Arriving

    def accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                return
            raise
        self.nr_conns += 1
        caller = CallerSocket(sock, self._crowd)
        self._await(_Connection(self.cfg, caller, address, listener.getsockname()))
        if self.nr_conns >= self.worker_connections and self._arriving:
            self._refuse(next(iter(self._arriving)), HTTPStatus.SERVICE_UNAVAILABLE)

    def on_client_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._await(conn)

    def _await(self, conn: _Connection, already: bytes = b"") -> None:
        """Gather the next request of a connection."""
        conn.inbox.arrival = Arrival(self.settings.max_body_bytes)
        conn.timeout = time.monotonic() + self.settings.request_timeout_s
        conn.sock.setblocking(False)
        self._arriving[conn] = None
        if already:
            self._take(conn, already)
        if conn in self._arriving:
            self._on_bytes(conn, conn.sock)
        if conn in self._arriving:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_bytes, conn))

    def _on_bytes(self, conn: _Connection, sock: socket.socket) -> None:
        try:
            data = sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(conn, data)
        else:
            self._forget(conn)
            if conn.inbox.arrival.size_bytes:  # who will send no more may still read
                conn.inbox.arrival.is_cut = True
                self.enqueue_req(conn)
            else:
                self._close(conn)

    def _take(self, conn: _Connection, data: bytes) -> None:
        arrival = conn.inbox.arrival
        held_bytes, asked = arrival.held_bytes, arrival.wants_go_ahead
        arrival.feed(data)
        self._held_bytes += arrival.held_bytes - held_bytes
        if arrival.refused_as is not None:
            self._refuse(conn, arrival.refused_as)
        elif arrival.is_complete:
            self._forget(conn)
            self.enqueue_req(conn)
        elif arrival.wants_go_ahead and not asked:
            with contextlib.suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._held_bytes > _HELD_BYTES:
            largest = max(self._arriving, key=lambda each: each.inbox.arrival.held_bytes)
            self._refuse(largest, HTTPStatus.SERVICE_UNAVAILABLE)

    def _forget(self, conn: _Connection) -> None:
        del self._arriving[conn]
        self._held_bytes -= conn.inbox.arrival.held_bytes
        with contextlib.suppress(KeyError):  # all may have come before it was registered
            self.poller.unregister(conn.sock)

    def _refuse(self, conn: _Connection, status: HTTPStatus) -> None:
        self._forget(conn)
        if conn.inbox.arrival.size_bytes:
            self._answer(conn.sock, "-", status, self._reason(status))
        if status is HTTPStatus.SERVICE_UNAVAILABLE:  # its place is needed now
            self._close(conn)
        else:
            self._leave(conn)

    def _reason(self, status: HTTPStatus) -> str:
        if status is HTTPStatus.REQUEST_TIMEOUT:
            limit_s = self.settings.request_timeout_s
            return f"the request did not arrive within {limit_s:g} s (REQUEST_TIMEOUT_S)"
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            return "too much is arriving at once; send the request again"
        what = "request line" if status is HTTPStatus.REQUEST_URI_TOO_LONG else "head"
        return f"the {what} is too long; a head has at most {MAX_HEAD_BYTES} bytes"

    # Answered

    def enqueue_req(self, conn: _Connection) -> None:
        pool = self._probes if conn.inbox.arrival.is_probe else self.tpool
        self._crowd.waits_for_a_thread()
        future = pool.submit(self.handle, conn)
        future.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def handle(self, conn: _Connection) -> Any:
        self._crowd.has_a_thread()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: _Connection) -> Any:
        req._expected_100_continue = False  # `_take` has sent it
        if conn.inbox.arrival.is_cut:
            req.force_close()
        # `GET http://host HTTP/1.1` (RFC 9112 section 3.2.2); Flask would redirect it, in HTML.
        req.path = req.path or "/"
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: CallerSocket, addr: Any, exc: Exception) -> None:
        """Answer what gunicorn cannot read, or the relay fails at."""
        method = getattr(req, "method", None) or "-"
        if isinstance(exc, errors.ParseException):
            self._answer(client, method, *_REFUSED.get(type(exc), _MALFORMED))
        else:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self._answer(client, method, status, "the relay failed; its log says why", exc)

    def _answer(
        self,
        sock: CallerSocket,
        method: str,
        status: HTTPStatus,
        detail: str,
        error: Exception | None = None,
    ) -> None:
        """Write the answer to what has not become a request; as much of it as goes at once."""
        logs.begin(method)
        logs.explain(detail, logging.INFO if error is None else logging.ERROR, error=error)
        answer = problem(status, detail, headers=(("Connection", "close"),))
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        raw = f"HTTP/1.1 {status.value} {phrase(status)}\r\n{head}\r\n".encode("latin-1")
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(raw + b"".join(answer.body))
        logs.finish(status)

    # Leaving

    def finish_request(self, conn: _Connection, future: Future[Any]) -> None:
        stays = not future.cancelled() and future.exception() is None and future.result()
        rest = conn.inbox.left_over()
        if stays and rest:
            self._await(conn, rest)
        elif stays:
            super().finish_request(conn, future)
        else:
            self._leave(conn)

    def _leave(self, conn: _Connection) -> None:
        """Close once the caller has: sooner, and the end of the answer could be lost to it."""
        if conn.sock.is_given_up:
            self._close(conn)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))
        except OSError:
            self._close(conn)
        else:
            conn.timeout = time.monotonic() + _LEAVING_S
            self._leaving[conn] = None

    def _discard(self, conn: _Connection, sock: socket.socket) -> None:
        try:
            count = len(sock.recv(_READ_BYTES))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        conn.discarded_bytes += count
        if count == 0 or conn.discarded_bytes > _LEAVING_BYTES:
            self._left(conn)

    def _left(self, conn: _Connection) -> None:
        del self._leaving[conn]
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: _Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    # The main loop calls these each second, and at the end.

    def murder_pending(self) -> None:
        now = time.monotonic()
        for conn in _due(self._leaving, now):
            self._left(conn)
        for conn in _due(self._arriving, now):
            if conn.inbox.arrival.is_cut:  # a 413, and it is known already
                self._forget(conn)
                self.enqueue_req(conn)
            else:
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT)

    def _cap_keepalive(self, deadline: float) -> None:
        """At the end of the process, wait no longer for who has sent nothing yet."""
        super()._cap_keepalive(deadline)
        silent = [conn for conn in self._arriving if not conn.inbox.arrival.size_bytes]
        for conn in silent:
            conn.timeout = min(conn.timeout, deadline)
        self._arriving = {**dict.fromkeys(silent), **self._arriving}


def _due(connections: dict[_Connection, None], now: float) -> list[_Connection]:
    return list(takewhile(lambda conn: conn.timeout <= now, connections))
