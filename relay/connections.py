"""Exchanges with a peer: a request is sent on a connection, and its answer is read from it."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator

import requests

from relay.headers import Headers, end_to_end
from relay.problems import DeadlineExceeded, RelayError, TargetFailed, TargetUnreachable
from relay.reasons import reason_of
from relay.responses import BrokenAnswer, ResponseParser
from relay.sockets import Deadline, shut_down
from relay.urls import Origin

_READ_BYTES = 32 * 1024
# Servers close idle connections after 2 s (gunicorn) or more, and a POST that meets such a close is
# lost: the caller cannot know whether to send it again.
_MAX_IDLE_S = 1.0


class Pool:
    """Idle connections, the longest idle first.

    Args:
        size: how many are kept, to all origins together.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: deque[tuple[float, Origin, socket.socket]] = deque()
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> socket.socket | None:
        """Return a connection that looks open; the peer may be closing it all the same."""
        while True:
            with self._lock:
                found = next((each for each in reversed(self._idle) if each[1] == origin), None)
                if found is None:
                    return None
                self._idle.remove(found)
            since, _, sock = found
            if time.monotonic() - since < _MAX_IDLE_S and not _is_ready(sock, select.POLLIN):
                return sock
            sock.close()

    def put(self, origin: Origin, sock: socket.socket) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, origin, sock))
            while len(self._idle) > self._size or now - self._idle[0][0] > _MAX_IDLE_S:
                self._idle.popleft()[2].close()

    def __del__(self) -> None:
        for _, _, sock in self._idle:
            sock.close()


def _is_ready(sock: socket.socket, event: int, timeout_s: float = 0.0) -> bool:
    """Wait until a socket can be read or written, or has ended; TLS may have bytes already."""
    if isinstance(sock, ssl.SSLSocket) and event == select.POLLIN and sock.pending():
        return True
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(timeout_s * 1000))


class Answer:
    """The answer to one call, its body not yet read: the `raw` of a response of `requests`.

    In `status` is the final status, which decides what becomes of the call, 0 before it is known;
    in `headers` are those that came, without the hop-by-hop ones; repeated ones repeated. Reading
    raises TargetFailed where the answer is broken, DeadlineExceeded when it takes too long.

    Args:
        sock: a connection that does not block, which `give_back` takes when it can be used again.
        peer: what errors call the other side.
    """

    has_sent = has_received = False

    def __init__(
        self,
        sock: socket.socket,
        give_back: Callable[[socket.socket], None],
        method: str,
        deadline: Deadline,
        peer: str,
    ) -> None:
        self._sock: socket.socket | None = sock
        self._give_back = give_back
        self._deadline = deadline
        self._peer = peer
        self._parser = ResponseParser(method)
        self._piece = b""
        self._failure: requests.RequestException | None = None

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def has_head(self) -> bool:
        """Whether all headers were read."""
        return self._parser.has_head

    @property
    def headers(self) -> Headers:
        return tuple(end_to_end(self._parser.fields))

    def start(self, message: tuple[bytes, ...]) -> None:
        """Send the request and read the head of its answer.

        Raises:
            BrokenAnswer, requests.ReadTimeout: no final status came; what fails after it is for
                reading to raise.
        """
        assert self._sock is not None  # noqa: S101 - nothing has been read
        self._deadline.cut.ends_by(functools.partial(shut_down, self._sock))
        try:
            for data in message:
                self._send(self._sock, data)
            while not self._parser.has_head:
                self._receive(self._sock)
        except requests.RequestException as exc:
            self.close()
            if not self.status:
                raise
            # Without the traceback, whose frames would keep all of this alive.
            self._failure = type(exc)(str(exc))

    def begin(self) -> None:
        """Wait for a piece of the body: until the first, a failure can be told by a status."""
        try:
            if self._failure is not None:
                raise self._failure
            while not self._piece and self._sock is not None:
                self._receive(self._sock)
        except requests.RequestException as exc:
            self.close()
            raise error_of(exc, self._peer) from exc

    def __iter__(self) -> Generator[bytes, None, None]:
        """Read the body in pieces as they arrive, exactly as it was sent."""
        try:
            self.begin()
            while piece := self._piece:
                self._piece = b""
                yield piece
                self.begin()
        finally:
            self.close()

    def read(self, limit_bytes: int, *, or_less: bool = False) -> tuple[bytes, str | None]:
        """Read the body up to a limit, or to where it breaks off if that is good enough.

        Returns:
            the bytes, and why there are no more of them; None if these are all.
        """
        body = bytearray()
        with contextlib.closing(iter(self)) as pieces:
            try:
                for piece in pieces:
                    body += piece
                    if len(body) > limit_bytes:
                        return bytes(
                            body[:limit_bytes]
                        ), f"the body is longer than {limit_bytes} bytes"
            except (TargetFailed, DeadlineExceeded) as exc:
                if not or_less:
                    raise
                return bytes(body), exc.detail
        return bytes(body), None

    def close(self) -> None:
        """Close the connection, unless it has been given back."""
        self._parser.close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, sock: socket.socket, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            left_s = self._deadline.step_s()
            try:
                sent += sock.send(memoryview(data)[sent:])
                self.has_sent = True
            except (BlockingIOError, ssl.SSLWantWriteError):
                _is_ready(sock, select.POLLOUT, left_s)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                break  # the peer has read enough, and may have answered
            except OSError as exc:
                raise BrokenAnswer(f"gave no whole answer: {reason_of(exc)}") from exc

    def _receive(self, sock: socket.socket) -> None:
        if not _is_ready(sock, select.POLLIN, self._deadline.step_s()):
            raise self._deadline.error()
        try:
            data = sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return  # it was not data, or not enough of it for TLS
        except OSError as exc:
            raise BrokenAnswer(f"gave no whole answer: {reason_of(exc)}") from exc
        self.has_received |= bool(data)
        self._piece = self._parser.feed(data)
        if self._parser.is_complete:
            if not self._parser.is_last and not _is_ready(sock, select.POLLIN):
                self._deadline.cut.is_over()
                self._give_back(sock)
                self._sock = None
            self.close()


def error_of(exc: requests.RequestException, peer: str) -> RelayError:
    """Make an error of the relay; the text of the exception is the relay's already."""
    if isinstance(exc, requests.ConnectionError):
        return TargetUnreachable(f"{peer} cannot be reached: {exc}")
    kind = DeadlineExceeded if isinstance(exc, requests.ReadTimeout) else TargetFailed
    return kind(f"{peer} {exc}")
