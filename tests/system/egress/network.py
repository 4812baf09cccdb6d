"""A small Internet for the tests: names that resolve as told, and addresses that all lead here.

Only what is not the relay's own is replaced: the resolver, and the step from an address to the
machine that has it. Every connection that the relay tries is noted, and then goes to a real server
on loopback, which notes the bytes it receives.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

DNS = Mapping[str, Sequence[Sequence[str]] | Sequence[str]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Server:
    """Accept connections on loopback, IPv4 and IPv6, and answer every request with the same bytes.

    Args:
        answer: sent for each request; what is received is in `requests`, byte for byte.
    """

    def __init__(self) -> None:
        self.answer = OK
        self.requests: list[bytes] = []
        self._listeners = {socket.AF_INET: self._listen(socket.AF_INET, "127.0.0.1")}
        with contextlib.suppress(OSError):  # a machine without IPv6
            self._listeners[socket.AF_INET6] = self._listen(socket.AF_INET6, "::1")

    def address(self, family: int) -> tuple[str, int]:
        """Name the address and port for a socket of this family.

        Raises:
            OSError: this machine does not have the family.
        """
        listener = self._listeners.get(socket.AddressFamily(family))
        if listener is None:
            raise OSError("no such family here")
        host, port, *_ = listener.getsockname()
        return host, port

    def close(self) -> None:
        for listener in self._listeners.values():
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self, family: socket.AddressFamily, host: str) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((host, 0))
        listener.listen(32)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := _read_request(connection):
                self.requests.append(request)
                connection.sendall(self.answer)
                if b"Connection: close" in self.answer:
                    return


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head + b"\r\n")
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0 and (piece := connection.recv(65536)):
        received += piece
        missing -= len(piece)
    return received


class Network:
    """Where names and addresses lead, and what the relay has done there.

    Args:
        server: what all addresses lead to.
        dns: for each name its addresses, or a list of such answers, one for each look-up; the last
            one stays.
        reachable: whether the addresses lead to the server, or nowhere.

    In `lookups` are the names that were looked up, in `connections` the address and port of each
    connection that was tried, in order.
    """

    def __init__(self, server: Server, dns: DNS, *, reachable: bool = True) -> None:
        self.lookups: list[str] = []
        self.connections: list[tuple[str, int]] = []
        self._server = server
        self._reachable = reachable
        self._answers = {
            name: [list(answer) for answer in found]
            if found and not isinstance(found[0], str)
            else [list(map(str, found))]
            for name, found in {"localhost": ["127.0.0.1"], **dns}.items()
        }

    def look_up(self, host: str, port: int) -> list[tuple[object, ...]]:
        """Answer as `socket.getaddrinfo` does."""
        self.lookups.append(host)
        queue = self._answers.get(host)
        if not queue:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = queue.pop(0) if len(queue) > 1 else queue[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    def lead(self, address: tuple[str, int], family: int) -> tuple[str, int]:
        """Say where the machine with this address is.

        Raises:
            OSError: nowhere.
        """
        # Versions of Python write ::ffff:10.0.0.1 in different ways.
        self.connections.append((str(ipaddress.ip_address(address[0])), address[1]))
        if not self._reachable:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return self._server.address(family)


@contextlib.contextmanager
def network(server: Server, dns: DNS, *, reachable: bool = True) -> Iterator[Network]:
    """Put what runs in this process on a network; the arguments are those of `Network`."""
    outside = Network(server, dns, reachable=reachable)
    with pytest.MonkeyPatch.context() as patch:
        join(outside.look_up, outside.lead, patch)
        yield outside


def join(
    look_up: Callable[[str, int], list[tuple[object, ...]]],
    lead: Callable[[tuple[str, int], int], tuple[str, int]],
    patch: pytest.MonkeyPatch,
) -> None:
    """Have this process ask for names and addresses as `Network` answers."""
    connect = socket.socket.connect

    def connect_as_led(sock: socket.socket, address: tuple[str, int]) -> None:
        on_this_machine = sock.family == socket.AF_UNIX
        connect(sock, address if on_this_machine else lead(address, sock.family))

    patch.setattr(socket, "getaddrinfo", lambda host, port, **_: look_up(host, port))
    patch.setattr(socket.socket, "connect", connect_as_led)
