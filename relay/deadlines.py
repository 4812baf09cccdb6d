"""Deadlines that hold whatever the peer does.

A socket's timeout is per read, so a server that sends a byte a second holds a call for ever. One
thread waits for the earliest deadline and shuts the socket of a call down when its time is up,
which ends any read or write on it at once.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import socket
import threading
import time

from relay.problems import DeadlineExceeded

_TIDY_AT = 1024


class Deadline:
    """The end of the time one call may take.

    Args:
        seconds: from now.
        peer: who has to answer by then, as errors call it.

    Call `watch` for each socket the call uses and `done` when the call is over.
    """

    __slots__ = ("_cut", "_handle", "_lock", "_watched", "at", "peer", "seconds")

    def __init__(self, seconds: float, peer: str) -> None:
        self.seconds = seconds
        self.peer = peer
        self.at = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._watched = False
        self._cut = False

    @property
    def remaining_s(self) -> float:
        """How much time is left; 0 when it is up."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.remaining_s == 0.0

    @property
    def over(self) -> bool:
        """Whether there is nothing left to shut down."""
        return self._watched and self._handle is None

    def error(self) -> DeadlineExceeded:
        """Make the error that says the time ran out."""
        seconds = round(self.seconds, 3)
        return DeadlineExceeded(f"{self.peer} did not answer in full within {seconds:g} s")

    def check(self) -> None:
        """Raise when the call was cut off.

        That can look like the end of a complete answer, so this is to be asked after a success too.

        Raises:
            DeadlineExceeded: the socket was shut down.
        """
        if self._cut:
            raise self.error()

    def watch(self, sock: socket.socket) -> None:
        """Shut this socket down when the time is up; it takes the place of an earlier one.

        Others may close the socket or hand it on (TLS does, and http.client once it knows that an
        answer is the last), so the deadline holds on to a second handle of it.
        """
        handle = os.dup(sock.fileno())
        with self._lock:
            self._let_go()
            self._handle = handle
            first = not self._watched
            self._watched = True
        if first:
            _watchdog.add(self)
        elif self.expired:  # between two sockets, when there was none to shut down
            self.expire()

    def done(self) -> None:
        """Let go of the socket: it goes back to its pool and may serve another call."""
        with self._lock:
            self._let_go()

    def expire(self) -> None:
        """Shut down the socket of a call that is not done."""
        with self._lock:
            if self._handle is not None:
                self._cut = True
                with socket.socket(fileno=self._handle) as sock:
                    self._handle = None
                    with contextlib.suppress(OSError):  # the peer was quicker
                        sock.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class _Watchdog:
    """Expire deadlines in a thread that starts with the first one.

    gunicorn forks its workers after the function is loaded; a thread started at import would be
    missing in them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Deadline]] = []
        self._count = itertools.count()
        self._tidy_at = _TIDY_AT
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        with self._changed:
            if len(self._queue) >= self._tidy_at:
                # Calls end long before their time is up: they would pile up.
                self._queue = [entry for entry in self._queue if not entry[2].over]
                heapq.heapify(self._queue)
                self._tidy_at = max(_TIDY_AT, 2 * len(self._queue))
            heapq.heappush(self._queue, (deadline.at, next(self._count), deadline))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif self._queue[0][2] is deadline:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue or self._queue[0][0] > time.monotonic():
                    wait_s = self._queue[0][0] - time.monotonic() if self._queue else None
                    self._changed.wait(wait_s)
                _, _, deadline = heapq.heappop(self._queue)
            deadline.expire()


_watchdog = _Watchdog()
