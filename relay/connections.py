"""Connections to the very addresses that were judged, and the time that calls may take on them."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from functools import partial

import requests

from relay.leaving import Cut
from relay.reasons import reason_of
from relay.urls import IPAddress, Origin

# Servers close idle connections after 2 s (gunicorn) or more, and a POST that meets such a close is
# lost: the caller cannot know whether to send it again.
_MAX_IDLE_S = 1.0


class Deadline:
    """The end of a time from now on; a cut ends before it what waits."""

    def __init__(self, seconds: float, cut: Cut | None = None) -> None:
        self.cut = cut or Cut()
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """What is left, for the next step; requests.ReadTimeout if that is nothing."""
        if (left_s := self._at - time.monotonic()) > 0:
            return left_s
        raise self.error()

    def error(self) -> requests.ReadTimeout:
        return requests.ReadTimeout(f"did not answer in full within {round(self._seconds, 3):g} s")


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
            if time.monotonic() - since < _MAX_IDLE_S and not _has_input(sock):
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


def _has_input(sock: socket.socket) -> bool:
    """Tell whether there is something to read, in TLS's buffer too, or the connection has ended."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool((isinstance(sock, ssl.SSLSocket) and sock.pending()) or poll.poll(0))


def connect(addresses: list[IPAddress], port: int, until: float, cut: Cut) -> socket.socket:
    """Open a socket to the first address that answers, each within its share of the time."""
    reason = ""
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        if cut.is_cut:
            break
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        try:
            sock.settimeout(max(until - time.monotonic(), 0.001) / left)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cut.ends_by(partial(shut_down, sock))
            sock.connect((str(address), port))
        except OSError as exc:
            sock.close()
            reason = reason_of(exc)
        else:
            return sock
    raise requests.ConnectionError(reason)


def start_tls(
    sock: socket.socket, host: str, context: ssl.SSLContext, deadline: Deadline
) -> socket.socket:
    try:
        sock.settimeout(deadline.left_s)
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        deadline.cut.ends_by(partial(shut_down, sock))
        sock.do_handshake()
    except OSError as exc:
        sock.close()
        if isinstance(exc, TimeoutError | requests.Timeout):
            raise deadline.error() from exc
        raise requests.exceptions.SSLError(reason_of(exc)) from exc
    return sock


def shut_down(sock: socket.socket) -> None:
    """End all waits on a socket, of whatever thread."""
    # Not TLS's own method, which must not be called while another thread reads.
    socket.socket.shutdown(sock, socket.SHUT_RDWR)
