"""Callers who do not read what they are sent: how many are waited for, and how long."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

# How long a caller may stand still while others wait for the thread that waits for it.
_PATIENCE_S: Final = 0.05
# Close at once, and drop what was not sent.
_RESET: Final = struct.pack("ii", 1, 0)


class Crowd:
    """The waits of a process's threads, for callers and for each other.

    Args:
        places: how many threads may wait for callers who do not read while requests wait for a
            thread.
        timeout_s: for sending, to a socket that has no timeout of its own.
    """

    def __init__(self, places: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._places = places
        self._lock = threading.Lock()
        self._requests = 0
        self._standing = 0

    def waits_for_a_thread(self) -> None:
        with self._lock:
            self._requests += 1

    def has_a_thread(self) -> None:
        with self._lock:
            self._requests -= 1

    @contextmanager
    def stands_still(self) -> Iterator[None]:
        with self._lock:
            self._standing += 1
        try:
            yield
        finally:
            with self._lock:
                self._standing -= 1

    @property
    def is_too_much(self) -> bool:
        """Whether threads that wait for their callers are missing elsewhere."""
        return self._requests > 0 and self._standing > self._places


class CallerSocket(socket.socket):
    """The connection to a caller. Its timeout is for all of a `sendall`, as ever.

    `is_given_up` says that what was sent last is not waited for any more.
    """

    def __init__(self, sock: socket.socket, crowd: Crowd) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._crowd = crowd
        self.is_given_up = False

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all, or end the connection.

        Raises:
            ConnectionResetError: the caller has read too little for too long, or is gone.
        """
        timeout_s = self.gettimeout()
        until = time.monotonic() + (self._crowd.timeout_s if timeout_s is None else timeout_s)
        rest = memoryview(data).cast("B")
        self.settimeout(0)
        try:
            while rest:
                try:
                    rest = rest[self.send(rest, flags) :]
                except BlockingIOError:
                    self._stand_still(until)
        finally:
            self.settimeout(timeout_s)

    def _stand_still(self, until: float) -> None:
        """Wait until the caller has read something."""
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        since = time.monotonic()
        with self._crowd.stands_still():
            while not poll.poll(1000 * _PATIENCE_S):
                now = time.monotonic()
                is_missed = self._crowd.is_too_much and now - since >= _PATIENCE_S
                if now >= until or is_missed:
                    self.is_given_up = True
                    self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
