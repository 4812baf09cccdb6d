"""Set gunicorn up: it trusts no header of a caller's, and a slow caller holds no thread.

functions-framework starts gunicorn with settings of its own and knows no others, so `configure`
changes their defaults, before it does. Only the worker of gunicorn's threads is replaced: there, a
connection has a thread from its first byte on, and Python reads each byte of a head.

    arriving    the main thread gathers requests, each until REQUEST_TIMEOUT_S; a thread gets what
                has come as a whole, so it never waits for a caller's bytes
    answered    a caller who does not read holds one of few places (`callers`)
    idle        the caller may send the next request
    leaving     the main thread waits until the caller has closed as well (RFC 9112 section 9.6)

A connection is watched for bytes from its first to its last moment, so that no request has to wake
the main thread or the kernel for that.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import sys
import threading
import time
from http import HTTPStatus
from importlib import import_module
from itertools import takewhile
from threading import Timer
from typing import Any, ClassVar

import gunicorn.config
from gunicorn.workers.gthread import ThreadWorker

from relay.answers import answer, refuse
from relay.arrivals import Arrival
from relay.callers import Connection, Threads
from relay.leaving import Caller
from relay.operations import gauge, get_ready
from relay.settings import Settings

_READ_BYTES = 64 * 1024
# A request that holds no more is taken in any case: it may be a probe.
_LITTLE_BYTES = 4096
_LEAVING_S = 2.0
# A first probe is answered by then, and the first call has hardly come.
_WARM_UP_S = 0.1
_LEAVING_BYTES = 16 * 1024 * 1024
# How often the main thread looks for what is over, at the end of the process.
_LAST_LOOKS_S = 0.1


def configure(settings: Settings) -> None:
    """Set what functions-framework leaves at gunicorn's defaults; it reads them later."""
    Worker.settings = settings
    config = gunicorn.config
    config.WorkerClass.default = Worker
    # Half of them may be on their way in or out while all threads are busy.
    config.WorkerConnections.default = max(config.WorkerConnections.default, 2 * settings.threads)
    config.ControlSocketDisable.default = True  # nothing uses it
    gauge("relay_bodies_held_bytes", "What request bodies take.", lambda: Worker.held_bytes)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's worker with threads, which get requests once they have arrived."""

    settings: ClassVar[Settings] = Settings()
    # What arrives, and what is being answered. There is one worker in a process.
    held_bytes: ClassVar[int] = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Each in the order of its deadlines.
        self._arriving: dict[Connection, Arrival] = {}
        self._idle: dict[Connection, None] = {}
        self._leaving: dict[Connection, None] = {}
        self._answered: dict[Connection, Caller] = {}
        self._lock = threading.Lock()  # for what a thread says at the end of a request
        self._probes = Threads(1, self._serve)  # a probe waits for no call

    def get_thread_pool(self) -> Threads[Connection]:
        return Threads(self.cfg.threads, self._serve)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve for a second; gunicorn looks after the process and the deadlines in between."""
        timeout = timeout if self.alive else _LAST_LOOKS_S
        until = time.monotonic() + timeout
        super().wait_for_and_dispatch_events(timeout)
        while self.alive and self.nr_conns < self.worker_connections:
            timeout = until - time.monotonic()
            if timeout <= 0:
                return
            super().wait_for_and_dispatch_events(timeout)

    def run(self) -> None:
        warm_up = Timer(_WARM_UP_S, _warm_up)
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
        server = listener.getsockname()
        conn = Connection(sock, self.tpool, self.settings.request_timeout_s)
        conn.environ = {
            "gunicorn.socket": conn,
            "SCRIPT_NAME": "",
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
            "REMOTE_ADDR": address[0],
            "REMOTE_PORT": str(address[1]),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": self.cfg.workers > 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        self._watch(conn)
        self._await(conn)
        if self.nr_conns >= self.worker_connections and self._arriving:
            reason = "too many connections are open; send the request again"
            self._refuse(next(iter(self._arriving)), HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def _watch(self, conn: Connection) -> None:
        if not conn.is_watched:
            self.poller.register(conn, selectors.EVENT_READ, self._on_readable)
            conn.is_watched = True

    def _unwatch(self, conn: Connection) -> None:
        if conn.is_watched:
            self.poller.unregister(conn)
            conn.is_watched = False

    def _await(self, conn: Connection) -> Arrival:
        """Gather the next request of a connection."""
        settings = self.settings
        largest = max(settings.max_body_bytes, settings.max_delivery_bytes)  # the function refuses
        conn.arrival = arrival = Arrival(largest, settings.max_header_bytes, conn.environ)
        conn.deadline = time.monotonic() + settings.request_timeout_s
        self._arriving[conn] = arrival
        return arrival

    def _on_readable(self, conn: Connection) -> None:
        if not conn.is_watched:  # it was closed since it was seen to be readable
            return
        with self._lock:
            caller = self._answered.get(conn)
            if caller is not None:
                self._unwatch(conn)
            self._idle.pop(conn, None)
        if caller is not None:  # it has left, or sends more before its answer has been sent
            if conn.take(1, socket.MSG_PEEK) == b"":
                caller.leaves()
            return
        data = conn.take(_READ_BYTES)
        if conn in self._leaving:
            self._discard(conn, data)
            return
        arrival = conn.arrival or self._await(conn)
        if data:
            self._take(conn, arrival, data)
        elif data is None:
            return
        elif not arrival.size_bytes:
            self._forget(conn)
            self._close(conn)
        elif arrival.is_cut:
            self._submit(conn)
        else:  # who will send no more may still read
            self._refuse(conn, *arrival.broken_off())

    def _take(self, conn: Connection, arrival: Arrival, data: bytes) -> None:
        held_bytes, asked = arrival.held_bytes, arrival.wants_go_ahead
        conn.rest = arrival.feed(data)
        self._hold(arrival.held_bytes - held_bytes)
        if arrival.refusal is not None:
            self._refuse(conn, *arrival.refusal)
            return
        if self.held_bytes > self.settings.max_bodies_bytes:
            self._make_room()
        if conn not in self._arriving:
            return
        if arrival.is_complete:
            self._submit(conn)
        elif arrival.wants_go_ahead and not asked:
            with contextlib.suppress(OSError):
                conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hold(self, count: int) -> None:
        with self._lock:
            Worker.held_bytes += count

    def _make_room(self) -> None:
        """Refuse the request that holds most of what is not answered yet."""
        largest = max(self._arriving, key=lambda each: self._arriving[each].held_bytes)
        if self._arriving[largest].held_bytes > _LITTLE_BYTES:
            held = f"all requests together hold {self.settings.max_bodies_bytes} bytes already"
            reason = f"{held} (MAX_BODIES_BYTES); try again in a moment"
            self._refuse(largest, HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def _forget(self, conn: Connection) -> Arrival:
        arrival = self._arriving.pop(conn)
        arrival.close()
        return arrival

    def _refuse(self, conn: Connection, status: HTTPStatus, reason: str) -> None:
        arrival = self._forget(conn)
        self._hold(-arrival.held_bytes)
        if arrival.size_bytes:
            refuse(conn, arrival.method, status, reason)
        if self.nr_conns >= self.worker_connections:  # its place is needed now
            self._close(conn)
        else:
            self._leave(conn)

    # Answered

    def _submit(self, conn: Connection) -> None:
        arrival, caller = self._forget(conn), Caller()
        arrival.environ["relay.caller"] = self._answered[conn] = caller
        (self._probes if arrival.is_probe else self.tpool).submit(conn)

    def _serve(self, conn: Connection) -> None:
        """Answer a request, in a thread, and keep its connection for the next one."""
        is_full = len(self._idle) >= self.max_keepalived
        held_bytes = 0 if conn.arrival is None else conn.arrival.held_bytes
        stays = answer(self.wsgi, conn, self.cfg, closes=is_full or not self.alive)
        with self._lock:
            Worker.held_bytes -= held_bytes
            if stays and conn.is_watched and not conn.rest:
                del self._answered[conn]
                conn.deadline = time.monotonic() + self.cfg.keepalive
                self._idle[conn] = None
                return
        self.method_queue.defer(self._go_on, conn, stays)

    def _go_on(self, conn: Connection, stays: bool) -> None:
        del self._answered[conn]
        if not stays:
            self._leave(conn)
            return
        self._watch(conn)
        arrival, rest = self._await(conn), conn.rest
        if rest:
            self._take(conn, arrival, rest)

    # Leaving

    def _leave(self, conn: Connection) -> None:
        """Close once the caller has: sooner, and the end of the answer could be lost to it."""
        conn.arrival, conn.rest = None, b""
        if conn.is_given_up:
            self._close(conn)
            return
        try:
            conn.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
        else:
            self._watch(conn)
            conn.deadline = time.monotonic() + _LEAVING_S
            self._leaving[conn] = None

    def _discard(self, conn: Connection, data: bytes | None) -> None:
        conn.discarded_bytes += len(data or b"")
        if data == b"" or conn.discarded_bytes > _LEAVING_BYTES:
            self._close(conn)

    def _close(self, conn: Connection) -> None:
        self._leaving.pop(conn, None)
        self._unwatch(conn)
        self.nr_conns -= 1
        with contextlib.suppress(OSError):
            conn.close()

    # gunicorn calls these each second, and at the end.

    def murder_keepalived(self, force: bool = False) -> None:
        now = float("inf") if force else time.monotonic()
        with self._lock:
            over = _due(self._idle, now)
            for conn in over:
                del self._idle[conn]
        for conn in over:
            self._close(conn)

    def murder_pending(self) -> None:
        now = time.monotonic()
        if not self.alive:
            with self._lock:
                for caller in self._answered.values():
                    caller.process_ends()
        for conn in _due(self._leaving, now):
            self._close(conn)
        limit_s = self.settings.request_timeout_s
        reason = f"the request did not arrive within {limit_s:g} s (REQUEST_TIMEOUT_S)"
        for conn in _due(self._arriving, now):
            if self._arriving[conn].is_cut:  # a 413, and it is known already
                self._submit(conn)
            else:
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, reason)

    def _cap_keepalive(self, deadline: float) -> None:
        """At the end of the process, wait no longer for connections that are silent."""
        silent = {conn: each for conn, each in self._arriving.items() if not each.size_bytes}
        with self._lock:
            for conn in (*silent, *self._idle):
                conn.deadline = min(conn.deadline, deadline)
        self._arriving = {**silent, **self._arriving}


def _warm_up() -> None:
    """Do what the first call would wait for."""
    get_ready()
    import_module("relay.client")


def _due(connections: dict[Connection, Any], now: float) -> list[Connection]:
    return list(takewhile(lambda conn: conn.deadline <= now, connections))
