"""Servers for the relay to call, target or Broker: they keep what came and answer as they are told.

They speak HTTP by hand, so that they can also speak it wrongly.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

TIMEOUT_S = 20.0

Talk = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header; None when it is not there, or not there once."""
        values = [value for each, value in self.headers if each.lower() == name.lower()]
        return values[0] if len(values) == 1 else None


def answer_of(status: int, body: bytes = b"", *headers: tuple[str, str]) -> bytes:
    """Write an answer with a Content-Length."""
    fields = (*headers, ("Content-Length", str(len(body))))
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass
class Peer:
    """A server on a port of 127.0.0.1 while `serving` runs.

    Args:
        port: where it listens.
        default: the answer to any path that `on` was not called for.
        ended: how many connections were closed here.
    """

    port: int
    default: bytes | Talk = OK
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    _answers: dict[str, bytes | Talk] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, answer: bytes | Talk) -> None:
        """Say how to answer one path: with these bytes, or as a function does, which ends it."""
        self._answers[path] = answer

    def received(self, path: str) -> list[Received]:
        """List the requests for one path."""
        return [each for each in self.requests if each.target == path]

    def talk(self, connection: socket.socket) -> None:
        """Serve one connection."""
        with connection.makefile("rb") as stream:
            while (request := _read(stream.readline, stream.read)) is not None:
                self.requests.append(request)
                answer = self._answers.get(request.target.partition("?")[0], self.default)
                if not isinstance(answer, bytes):
                    answer(connection)
                    return
                connection.sendall(answer)


def _read(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Received | None:
    line = readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = []
    while name_and_value := readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = name_and_value.partition(":")
        headers.append((name, value.strip(" \t")))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Received(method=line[0], target=line[1], headers=tuple(headers), body=read(length))


@contextlib.contextmanager
def serving(
    default: bytes | Talk = OK, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[Peer]:
    """Serve while the block runs, each connection in a thread of its own."""
    with listening(port) as listener:
        peer = Peer(port=listener.getsockname()[1], default=default)
        opened: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):  # the other side may go when it likes
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                    opened.append(connection)
                peer.talk(connection)
            connection.close()
            peer.ended += 1

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was closed
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(TIMEOUT_S)
                    peer.connections += 1
                    opened.append(connection)
                    thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                    threads.append(thread)
                    thread.start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield peer
        finally:
            shut_down(listener, *opened)
            acceptor.join(TIMEOUT_S)
            for thread in threads:
                thread.join(TIMEOUT_S)
            for connection in opened:
                connection.close()


@contextlib.contextmanager
def listening(port: int = 0, *, backlog: int = 128) -> Iterator[socket.socket]:
    """Listen on a port of 127.0.0.1 without accepting anything."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(backlog)
        yield listener


def shut_down(*sockets: socket.socket) -> None:
    """End what is being waited for on these sockets."""
    for sock in sockets:
        with contextlib.suppress(OSError):  # it is at its end already
            sock.shutdown(socket.SHUT_RDWR)


def until_gone(connection: socket.socket) -> None:
    """Wait until the other side has closed the connection."""
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def reset(connection: socket.socket) -> None:
    """End a connection with a TCP reset instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def dripping(head: bytes, drop: bytes, interval_s: float = 0.05) -> Talk:
    """Make an answer that never ends, a drop at a time."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        gone = select.poll()
        gone.register(connection, select.POLLRDHUP)
        while not gone.poll(interval_s * 1000):
            connection.sendall(drop)

    return talk
