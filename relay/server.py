"""Set gunicorn up: it trusts no header of a caller's, and a slow caller holds no thread.

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
import selectors
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from importlib import import_module
from itertools import takewhile
from threading import Timer
from typing import Any, ClassVar

import gunicorn.config
from gunicorn.workers.gthread import ThreadWorker

from relay.arrivals import Arrival
from relay.callers import CallerSocket, Crowd
from relay.inbox import Connection
from relay.refusals import is_defect, refusal_of, refuse
from relay.settings import Settings

_READ_BYTES = 64 * 1024
# What arriving requests hold together. Beyond it, the one that holds most is refused.
_HELD_BYTES = 64 * 1024 * 1024
_TOO_MUCH = (
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too much is arriving at once; send the request again",
)
_LEAVING_S = 2.0
# A first probe is answered by then, and the first call has hardly come.
_WARM_UP_S = 0.1
_LEAVING_BYTES = 16 * 1024 * 1024


def configure(settings: Settings) -> None:
    """Set what functions-framework leaves at gunicorn's defaults; it reads them later."""
    Worker.settings = settings
    config = gunicorn.config
    config.WorkerClass.default = Worker
    # Knative's queue-proxy calls from the same address as the strangers whose headers it passes on.
    config.ForwardedAllowIPS.default = ""
    config.LimitRequestFieldSize.default = settings.max_header_bytes
    # Half of them may be on their way in or out while all threads are busy.
    config.WorkerConnections.default = max(config.WorkerConnections.default, 2 * settings.threads)
    config.ControlSocketDisable.default = True  # nothing uses it


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, which get requests once they have arrived."""

    settings: ClassVar[Settings] = Settings()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = Crowd(max(1, self.cfg.threads // 2), self.settings.request_timeout_s)
        # A probe waits for no call.
        self._probes = ThreadPoolExecutor(max_workers=1)
        # Each in the order of its deadlines.
        self._arriving: dict[Connection, None] = {}
        self._leaving: dict[Connection, None] = {}
        self._held_bytes = 0

    def run(self) -> None:
        warm_up = Timer(_WARM_UP_S, import_module, ("relay.client",))
        warm_up.daemon = True
        warm_up.start()
        super().run()

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
        self._await(Connection(self.cfg, caller, address, listener.getsockname()))
        if self.nr_conns >= self.worker_connections and self._arriving:
            self._refuse(next(iter(self._arriving)), *_TOO_MUCH)

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._await(conn)

    def _await(self, conn: Connection, already: bytes = b"") -> None:
        """Gather the next request of a connection."""
        settings = self.settings
        largest = max(settings.max_body_bytes, settings.max_delivery_bytes)  # the function refuses
        conn.inbox.arrival = Arrival(largest)
        conn.timeout = time.monotonic() + self.settings.request_timeout_s
        conn.sock.setblocking(False)
        self._arriving[conn] = None
        if already:
            self._take(conn, already)
        if conn in self._arriving:
            self._on_bytes(conn, conn.sock)
        if conn in self._arriving:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_bytes, conn))

    def _on_bytes(self, conn: Connection, sock: socket.socket) -> None:
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

    def _take(self, conn: Connection, data: bytes) -> None:
        arrival = conn.inbox.arrival
        held_bytes, asked = len(arrival.raw), arrival.wants_go_ahead
        arrival.feed(data)
        self._held_bytes += len(arrival.raw) - held_bytes
        if arrival.refused_as is not None:
            self._refuse(conn, arrival.refused_as, arrival.reason)
        elif arrival.is_complete:
            self._forget(conn)
            self.enqueue_req(conn)
        elif arrival.wants_go_ahead and not asked:
            with contextlib.suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._held_bytes > _HELD_BYTES:
            largest = max(self._arriving, key=lambda each: len(each.inbox.arrival.raw))
            self._refuse(largest, *_TOO_MUCH)

    def _forget(self, conn: Connection) -> None:
        del self._arriving[conn]
        self._held_bytes -= len(conn.inbox.arrival.raw)
        conn.inbox.arrival.close()
        with contextlib.suppress(KeyError):  # all may have come before it was registered
            self.poller.unregister(conn.sock)

    def _refuse(self, conn: Connection, status: HTTPStatus, reason: str) -> None:
        self._forget(conn)
        if conn.inbox.arrival.size_bytes:
            refuse(conn.sock, "-", status, reason)
        if status is HTTPStatus.SERVICE_UNAVAILABLE:  # its place is needed now
            self._close(conn)
        else:
            self._leave(conn)

    # Answered

    def enqueue_req(self, conn: Connection) -> None:
        pool = self._probes if conn.inbox.arrival.is_probe else self.tpool
        self._crowd.waits_for_a_thread()
        future = pool.submit(self.handle, conn)
        future.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def handle(self, conn: Connection) -> Any:
        self._crowd.has_a_thread()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        req._expected_100_continue = False  # `_take` has sent it
        if conn.inbox.arrival.is_cut:
            req.force_close()
        # `GET http://host HTTP/1.1` (RFC 9112 section 3.2.2); Flask would redirect it, in HTML.
        req.path = req.path or "/"
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: CallerSocket, addr: Any, exc: Exception) -> None:
        """Answer a request that gunicorn cannot read, or at which the relay fails."""
        method = getattr(req, "method", None) or "-"
        refuse(client, method, *refusal_of(exc), error=exc if is_defect(exc) else None)

    # Leaving

    def finish_request(self, conn: Connection, future: Future[Any]) -> None:
        stays = not future.cancelled() and future.exception() is None and future.result()
        rest = conn.inbox.left_over()
        if stays and rest:
            self._await(conn, rest)
        elif stays:
            super().finish_request(conn, future)
        else:
            self._leave(conn)

    def _leave(self, conn: Connection) -> None:
        """Close once the caller has: sooner, and the end of the answer could be lost to it."""
        conn.inbox.arrival.raw.clear()
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

    def _discard(self, conn: Connection, sock: socket.socket) -> None:
        try:
            count = len(sock.recv(_READ_BYTES))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        conn.discarded_bytes += count
        if count == 0 or conn.discarded_bytes > _LEAVING_BYTES:
            self._left(conn)

    def _left(self, conn: Connection) -> None:
        del self._leaving[conn]
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    # The main loop calls these each second, and at the end.

    def murder_pending(self) -> None:
        now = time.monotonic()
        for conn in _due(self._leaving, now):
            self._left(conn)
        limit_s = self.settings.request_timeout_s
        reason = f"the request did not arrive within {limit_s:g} s (REQUEST_TIMEOUT_S)"
        for conn in _due(self._arriving, now):
            if conn.inbox.arrival.is_cut:  # a 413, and it is known already
                self._forget(conn)
                self.enqueue_req(conn)
            else:
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, reason)

    def _cap_keepalive(self, deadline: float) -> None:
        """At the end of the process, wait no longer for connections that have sent nothing."""
        super()._cap_keepalive(deadline)
        silent = [conn for conn in self._arriving if not conn.inbox.arrival.size_bytes]
        for conn in silent:
            conn.timeout = min(conn.timeout, deadline)
        self._arriving = {**dict.fromkeys(silent), **self._arriving}


def _due(connections: dict[Connection, None], now: float) -> list[Connection]:
    return list(takewhile(lambda conn: conn.timeout <= now, connections))
