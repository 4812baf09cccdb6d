"""Keep connections to targets, each used under the policy and the deadline of the call at hand.

urllib3 makes the pools and speaks HTTP; it passes nothing of ours to its connections, so the call
that a thread is making is found in `calls`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from relay.deadlines import Deadline
from relay.egress import Policy
from relay.heads import StrictResponse
from relay.sockets import connect
from relay.urls import Target

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection

# Servers close idle connections after 2 s (gunicorn) or more, and a request that meets such a close
# is lost: nobody can know whether to send it again.
_MAX_IDLE_S = 1.0
# Larger bodies are not copied to stand behind their head.
_SENT_AT_ONCE = 64 * 1024


class Call(NamedTuple):
    """What a connection has to know of the call it is opened or used for."""

    target: Target
    policy: Policy
    deadline: Deadline
    connect_timeout_s: float


class _Calls(threading.local):
    """The call that each thread is making."""

    current: Call


calls = _Calls()


class _GuardedConnection(HTTPConnection):
    """Open the socket to an address the policy has judged, and put it under the call's deadline."""

    _deadline: Deadline | None = None
    _idle_since = 0.0

    def _new_conn(self) -> socket.socket:
        call = calls.current
        sock = connect(call.target.origin, call.policy, call.deadline, call.connect_timeout_s)
        call.deadline.watch(sock)
        return sock

    def send_request(self, method: str, headers: Mapping[str, str], body: bytes | None) -> None:
        """Send a request; the path is the call's own, byte for byte."""
        call = calls.current
        self._deadline = call.deadline
        if self.sock is None:
            self.connect()
        else:
            call.deadline.watch(self.sock)
        assert self.sock is not None  # noqa: S101 - just connected, or pooled
        head = _head(method, call.target, headers)
        # One piece, where it is cheap to make: each call of the system lets another thread run.
        pieces = (head + body,) if body and len(body) <= _SENT_AT_ONCE else (head, body)
        # A server may answer and close before it has read everything; then its answer counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in filter(None, pieces):
                self.sock.sendall(piece)

    def read_response(self, method: str) -> StrictResponse:
        """Read the head of the answer.

        Raises:
            http.client.HTTPException, OSError: it is broken, or breaks off.
        """
        response = StrictResponse(self.sock, method=method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        if response.will_close:
            self.close()  # the answer has a hold of its own on the socket
        return response

    def rest(self) -> None:
        """Leave the deadline of the call that is over, before another call can come."""
        self._idle_since = time.monotonic()
        if self._deadline is not None:
            self._deadline.done()

    def wake(self) -> None:
        """Close what has been idle for too long; it is opened again when used."""
        if self.sock is not None and time.monotonic() - self._idle_since > _MAX_IDLE_S:
            self.close()


def _head(method: str, target: Target, headers: Mapping[str, str]) -> bytes:
    """Write the request line and the headers; the path is the target's own, byte for byte.

    Raises:
        ValueError: something that should have been refused long before would end a line.
    """
    lines = [f"{method} {target.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines) + "\r\n\r\n"
    if head.count("\n") != len(lines) + 1 or head.count("\r") != len(lines) + 1 or "\0" in head:
        raise ValueError("a header must be one line")
    return head.encode("latin-1")


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    pass


class Exchange:
    """One answer on its connection, its body not yet read; `close` gives the connection back.

    Args:
        connection: the request has been sent on it.
        response: what it was answered with.
        give_back: puts it into its pool.
    """

    def __init__(
        self,
        connection: _GuardedConnection,
        response: StrictResponse,
        give_back: Callable[[_GuardedConnection], None],
    ) -> None:
        self._connection: _GuardedConnection | None = connection
        self._response = response
        self._give_back = give_back
        self.status = response.status
        self.fields = response.fields
        if self.length == 0:
            self._let_go(connection)

    @property
    def length(self) -> int | None:
        """How many bytes of the body are left; None when only its end will tell."""
        return self._response.length

    def read1(self, size: int) -> bytes:
        """Read what has arrived of the body, exactly as it was sent; nothing at its end.

        Raises:
            http.client.HTTPException, OSError: it broke off.
        """
        if self._connection is None:
            return b""
        piece = self._response.read1(size)
        if not piece and self.length:
            raise http.client.IncompleteRead(b"", self.length)
        if not piece or self.length == 0:
            self._let_go(self._connection)
        return piece

    def close(self) -> None:
        """Close the connection, unless the body was read and it is back in its pool."""
        if self._connection is not None:
            self._connection.close()
            self._let_go(self._connection)

    def _let_go(self, connection: _GuardedConnection) -> None:
        self._connection = None
        self._response.close()
        self._give_back(connection)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection

    def urlopen(  # type: ignore[override] # the rest of the answers' kinds are never asked for
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> Exchange:
        """Send a request and read the head of its answer, once: no retry, redirect or proxy.

        Raises:
            http.client.HTTPException, OSError, urllib3.exceptions.HTTPError: as the adapter asks.
        """
        connection = self._get_conn()
        assert isinstance(connection, _GuardedConnection)  # noqa: S101 - made by ConnectionCls
        connection.wake()
        try:
            connection.send_request(method, headers or {}, body)
            return Exchange(connection, connection.read_response(method), self._put_conn)
        except BaseException as exc:
            connection.close()
            self._put_conn(connection)
            if isinstance(exc, ssl.SSLError | ssl.CertificateError):
                raise urllib3.exceptions.SSLError(exc) from exc
            raise

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        if isinstance(conn, _GuardedConnection):
            conn.rest()
        super()._put_conn(conn)


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _GuardedTLSConnection


class Adapter(HTTPAdapter):
    """Send requests over guarded connections.

    Args:
        pool_size: how many connections to one origin are kept open.
        ca_certs: PEM certificates to trust besides the usual ones.
    """

    def __init__(self, *, pool_size: int, ca_certs: str | None) -> None:
        self._ca_certs = ca_certs
        super().__init__(pool_connections=256, pool_maxsize=pool_size)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: object
    ) -> None:
        super().init_poolmanager(connections, maxsize, block)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: object, **kwargs: object
    ) -> HTTPConnectionPool:
        origin = calls.current.target.origin
        pool_settings = self.poolmanager.connection_pool_kw
        if origin.scheme == "https" and "ssl_context" not in pool_settings:
            # Made when first needed: reading the certificates is slow, and starts should be quick.
            pool_settings["ssl_context"] = _tls_context(self._ca_certs)
        # PoolManager would make the key of everything a pool can differ in; here it is the origin.
        pool: HTTPConnectionPool = self.poolmanager.connection_from_pool_key(
            origin,
            {"scheme": origin.scheme, "host": origin.host, "port": origin.port, **pool_settings},
        )
        return pool

    def build_response(  # type: ignore[override] # nobody asks for cookies, or an encoding
        self, request: requests.PreparedRequest, resp: Exchange
    ) -> Exchange:
        """Hand on what the pool has answered."""
        return resp

    def cert_verify(self, *args: object, **kwargs: object) -> None:
        """Do nothing: the TLS context verifies, and need not read the certificates each time."""

    def request_url(self, *args: object, **kwargs: object) -> str:
        return "/"


def _tls_context(ca_certs: str | None) -> ssl.SSLContext:
    """Trust what requests trusts (certifi), what the system trusts, and the operator's own."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where(), cadata=ca_certs)
    return context
