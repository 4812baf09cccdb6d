"""The threads that serve callers, of which few may wait for callers who read nothing."""

from __future__ import annotations

import errno
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from relay.arrivals import Arrival

# How long a caller may stand still while others wait for the thread that waits for it.
_PATIENCE_S: Final = 0.05
# Close at once, and drop what was not sent.
_RESET: Final = struct.pack("ii", 1, 0)

Job = TypeVar("Job")


class Threads(Generic[Job]):
    """Threads that each start when all others are at work.

    An executor hands a result over for each job, which nobody wants here, and costs ten times this.

    Args:
        most: how many there may be.
        work: does a job; it must not raise.
    """

    def __init__(self, most: int, work: Callable[[Job], None]) -> None:
        self._most = most
        self._work = work
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._open = self._standing = 0

    def submit(self, job: Job) -> None:
        with self._lock:
            self._open += 1
            is_new = self._threads < min(self._open, self._most)
            self._threads += is_new
        self._jobs.put(job)
        if is_new:
            threading.Thread(target=self._run, name="requests", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work(self._jobs.get())
            with self._lock:
                self._open -= 1

    def shutdown(self, wait: bool = True) -> None:
        """Do nothing: a thread that still serves at the end of the process ends with it."""

    @contextmanager
    def stands_still(self) -> Iterator[None]:
        """Say that this thread waits for its caller while the block runs."""
        with self._lock:
            self._standing += 1
        try:
            yield
        finally:
            with self._lock:
                self._standing -= 1

    @property
    def are_missing(self) -> bool:
        """Whether jobs wait, while more than half of the threads wait for their callers."""
        return not self._jobs.empty() and self._standing > max(1, self._most // 2)


class Connection(socket.socket):
    """A connection to a caller, which never blocks but in `sendall`.

    `until` is when a caller who reads nothing is waited for no longer, and `is_given_up` says that
    this has happened. The rest is the server's: `environ` is what WSGI knows of the connection,
    `arrival` the request that comes or is answered now, `rest` what is behind it; `is_watched` says
    that the main thread is told of bytes, `deadline` until when it waits for them.

    Args:
        threads: those that serve callers.
        timeout_s: for sending, where `until` is None.
    """

    def __init__(self, sock: socket.socket, threads: Threads[Any], timeout_s: float) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)
        self.until: float | None = None
        self.is_given_up = self.is_watched = False
        self.environ: dict[str, Any] = {}
        self.arrival: Arrival | None = None
        self.rest = b""
        self.deadline = 0.0
        self.discarded_bytes = 0
        self._threads = threads
        self._timeout_s = timeout_s

    def take(self, most_bytes: int, flags: int = 0) -> bytes | None:
        """Return what has come: b"" when the caller has left, None when it is nothing yet."""
        try:
            return self.recv(most_bytes, flags)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all, or end the connection.

        Raises:
            ConnectionResetError: the caller has read too little for too long, or is gone.
        """
        rest = memoryview(data)
        until = self.until
        while True:
            try:
                rest = rest[self.send(rest, flags) :]
            except BlockingIOError:
                if until is None:
                    until = time.monotonic() + self._timeout_s
                self._stand_still(until)
            if not rest:
                return

    def _stand_still(self, until: float) -> None:
        """Wait until the caller has read something."""
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        since = time.monotonic()
        with self._threads.stands_still():
            while not poll.poll(1000 * _PATIENCE_S):
                now = time.monotonic()
                is_missed = self._threads.are_missing and now - since >= _PATIENCE_S
                if now >= until or is_missed:
                    self.is_given_up = True
                    self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
