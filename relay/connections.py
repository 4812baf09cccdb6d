"""Exchanges with a peer: a request is sent on a connection, and its answer is read from it."""

from __future__ import annotations

import contextlib
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
from relay.sockets import Deadline
from relay.urls import Origin

_READ_BYTES = 32 * 1024
# Servers close idle connections after 2 s (gunicorn) or more, and a POST that meets such a close is
# lost: nobody can know whether to send it again.
_MAX_IDLE_S = 1.0


class Pool:
    """Idle connections, the one that has been idle longest first.

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
            if time.monotonic() - since < _MAX_IDLE_S and _is_quiet(sock):
                return sock
            sock.close()

    def put(self, origin: Origin, sock: socket.socket) -> None:
        """Keep a connection, if nothing is left on it."""
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, origin, sock))
            while len(self._idle) > self._size or now - self._idle[0][0] > _MAX_IDLE_S:
                self._idle.popleft()[2].close()

    def __del__(self) -> None:
        for _, _, sock in self._idle:
            sock.close()


def _is_quiet(sock: socket.socket) -> bool:
    """Tell whether there is nothing to read: neither the end nor bytes, decrypted or not."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


class Answer:
    """The answer to one call, its body not yet read: the `raw` of a response of `requests`.

    In `status` is the final status, which decides what becomes of the call, 0 before it is known;
    in `headers` are those that came, without the hop-by-hop ones; repeated ones repeated. Reading
    raises TargetFailed where the answer is broken, DeadlineExceeded when it takes too long.

    Args:
        sock: a connection, which `give_back` takes when it can be used again.
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
        try:
            for data in message:
                self._send(self._sock, data)
            while not self._parser.has_head:
                self._receive(self._sock)
        except requests.RequestException as exc:
            self.close()
            self._failure = exc
            if not self.status:
                raise

    def begin(self) -> None:
        """Wait for the first piece of the body; until then, a failure can be told by a status."""
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
            self._deadline.limit(sock)
            try:
                sent += sock.send(memoryview(data)[sent:])
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                break  # the peer has read enough, and may have answered
            except OSError as exc:
                raise _failure(exc, self._deadline) from exc
            self.has_sent = True

    def _receive(self, sock: socket.socket) -> None:
        self._deadline.limit(sock)
        try:
            data = sock.recv(_READ_BYTES)
        except OSError as exc:
            raise _failure(exc, self._deadline) from exc
        self.has_received |= bool(data)
        self._piece = self._parser.feed(data)
        if self._parser.is_complete:
            if not self._parser.is_last and _is_quiet(sock):
                self._give_back(sock)
                self._sock = None
            self.close()


def _failure(exc: OSError, deadline: Deadline) -> requests.RequestException:
    if isinstance(exc, TimeoutError) and exc.errno is None:  # else it is the system's own
        return deadline.error()
    return BrokenAnswer(f"gave no whole answer: {reason_of(exc)}")


def error_of(exc: requests.RequestException, peer: str) -> RelayError:
    """Make an error of the relay; the text of the exception is the relay's already."""
    if isinstance(exc, requests.ConnectionError):
        return TargetUnreachable(f"{peer} cannot be reached: {exc}")
    kind = DeadlineExceeded if isinstance(exc, requests.ReadTimeout) else TargetFailed
    return kind(f"{peer} {exc}")
