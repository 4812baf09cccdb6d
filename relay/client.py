"""The one HTTP client of the relay: every call it makes passes the egress policy and a deadline.

It is `requests`, by way of an adapter of our own. There is no session: no redirect is followed, no
cookie, proxy or netrc from the environment is used, and nothing is decoded.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from relay.deadlines import Deadline
from relay.egress import Policy
from relay.headers import Headers, end_to_end
from relay.problems import DeadlineExceeded, TargetFailed, TargetUnreachable
from relay.urls import IPAddress, Origin, Target

if TYPE_CHECKING:
    from urllib3.connection import BaseHTTPConnection
    from urllib3.response import BaseHTTPResponse

READ_BYTES = 64 * 1024
USER_AGENT = "knative-relay"
# Servers close idle connections after 2 s (gunicorn) or more, and a request that meets such a close
# is lost: nobody can know whether to send it again.
_MAX_IDLE_S = 1.0
_LENGTH = "content-length"
_NO_CONTENT = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
# Look-ups that hang keep their thread until the resolver gives up; this bounds how many.
_MAX_LOOKUPS = 64


class Answer:
    """The answer to one call, its body not yet read.

    Args:
        status: the HTTP status.
        headers: as they came, without the hop-by-hop ones; repeated ones repeated.
    """

    def __init__(self, raw: BaseHTTPResponse, deadline: Deadline) -> None:
        self.status: int = raw.status
        self.headers: Headers = (
            *(item for item in end_to_end(raw.headers.iteritems()) if item[0].lower() != _LENGTH),
            *_framing(raw),
        )
        self._raw = raw
        self._deadline = deadline
        self._first: bytes | None = None

    def begin(self) -> None:
        """Wait for the first piece of the body; until then, a failure can be told by a status.

        Raises:
            TargetFailed, DeadlineExceeded: as for the pieces that follow.
        """
        try:
            self._first = self._piece()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Generator[bytes, None, None]:
        """Read the body in pieces as they arrive, exactly as it was sent.

        Raises:
            TargetFailed: the body broke off.
            DeadlineExceeded: the deadline came first.
        """
        try:
            piece = self._piece() if self._first is None else self._first
            while piece:
                yield piece
                piece = self._piece()
        finally:
            self.close()

    def _piece(self) -> bytes:
        try:
            piece = self._raw.read1(READ_BYTES, decode_content=False)
        except urllib3.exceptions.HTTPError as exc:
            raise _failure(exc, self._deadline) from exc
        if not piece:
            self._deadline.check()
        return piece

    def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """Read the body up to a limit.

        Returns:
            the bytes, and whether there was more.
        """
        body = bytearray()
        with contextlib.closing(iter(self)) as pieces:
            for piece in pieces:
                body += piece
                if len(body) > limit_bytes:
                    return bytes(body[:limit_bytes]), True
        return bytes(body), False

    def close(self) -> None:
        """Let go of the connection: into its pool if the body was read, else closed."""
        self._deadline.done()
        self._raw.release_conn() if self._raw.closed else self._raw.close()


class Client:
    """Call targets under one egress policy.

    Args:
        policy: where calls may go.
        connect_timeout_s: for the look-up and the connection, of each call's time.
        pool_size: how many connections to one origin are kept open.
        peer: what errors call the other side.
        ca_certs: PEM certificates to trust besides the usual ones.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_timeout_s: float,
        pool_size: int,
        peer: str = "target",
        ca_certs: str | None = None,
    ) -> None:
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._peer = peer
        self._adapter = _Adapter(pool_size=pool_size, ca_certs=ca_certs)

    def check(self, target: Target) -> None:
        """Refuse a target that a call made now would be refused; make no call.

        A name that cannot be looked up passes: it may be there when the call is made.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
        """
        budget = Deadline(self._connect_timeout_s, self._peer)
        with contextlib.suppress(TargetUnreachable):
            self._policy.permitted(target.origin, _addresses(target.origin, budget))

    def call(
        self,
        target: Target,
        *,
        method: str,
        headers: Headers = (),
        content: bytes | None = None,
        timeout_s: float,
    ) -> Answer:
        """Make one call and wait for the answer's headers.

        Args:
            timeout_s: for everything, the body of the answer included.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
            TargetFailed: the target is not reachable, or what it sends is not HTTP.
            DeadlineExceeded: the time was up first.
        """
        request = requests.PreparedRequest()
        request.method = method
        request.url = target.url
        # In bytes, since urllib3 gives one text a meaning of its own (SKIP_HEADER).
        request.headers = CaseInsensitiveDict(
            {
                name: value.encode("latin-1")
                for name, value in (("User-Agent", USER_AGENT), *headers)
            }
        )
        request.body = content
        if content is not None:
            request.headers["Content-Length"] = b"%d" % len(content)
        peer = f"the {self._peer} {target.origin.authority}"
        deadline = Deadline(timeout_s, peer)
        connect_timeout_s = min(self._connect_timeout_s, timeout_s)
        _calls.current = _Call(target, self._policy, deadline, connect_timeout_s)
        try:
            response = self._adapter.send(
                request,
                stream=True,
                timeout=(connect_timeout_s, timeout_s),
            )
            deadline.check()
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            deadline.done()
            raise _failure(exc, deadline) from exc
        except BaseException:
            deadline.done()
            raise
        answer = Answer(response.raw, deadline)
        if answer.status < HTTPStatus.OK:  # http.client passes over 100 alone
            answer.close()
            raise TargetFailed(f"{peer} sent only the interim answer {answer.status}")
        return answer


class _Call(NamedTuple):
    """What a connection has to know of the call it is opened or used for."""

    target: Target
    policy: Policy
    deadline: Deadline
    connect_timeout_s: float


class _Calls(threading.local):
    """The call that each thread is making; urllib3 passes nothing of ours to its connections."""

    current: _Call


_calls = _Calls()


class _GuardedConnection(HTTPConnection):
    """Open the socket to an address the policy has judged, and put it under the call's deadline."""

    _deadline: Deadline | None = None
    _idle_since = 0.0

    def _new_conn(self) -> socket.socket:
        call = _calls.current
        sock = _connect(call)
        call.deadline.watch(sock)
        return sock

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        # urllib3 would rewrite the path (the case of its escapes, a leading //), so it is given
        # none and the real one goes in here, byte for byte.
        call = _calls.current
        self._deadline = call.deadline
        if self.sock is not None:  # it was opened for an earlier call, or for TLS
            call.deadline.watch(self.sock)
        super().putrequest(method, call.target.path, skip_host, skip_accept_encoding)

    def rest(self) -> None:
        """Leave the deadline of the call that is over, before another call can come."""
        self._idle_since = time.monotonic()
        if self._deadline is not None:
            self._deadline.done()

    def wake(self) -> None:
        """Close what has been idle for too long; it is opened again when used."""
        if self.sock is not None and time.monotonic() - self._idle_since > _MAX_IDLE_S:
            self.close()


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        connection = super()._get_conn(timeout)
        assert isinstance(connection, _GuardedConnection)  # noqa: S101 - made by ConnectionCls
        connection.wake()
        return connection

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        if isinstance(conn, _GuardedConnection):
            conn.rest()
        super()._put_conn(conn)


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _GuardedTLSConnection


class _Adapter(HTTPAdapter):
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
        origin = _calls.current.target.origin
        pool_settings = self.poolmanager.connection_pool_kw
        if origin.scheme == "https" and "ssl_context" not in pool_settings:
            # Made when first needed: reading the certificates is slow, and starts should be quick.
            pool_settings["ssl_context"] = _tls_context(self._ca_certs)
        pool: HTTPConnectionPool = self.poolmanager.connection_from_host(
            origin.host, origin.port, origin.scheme
        )
        return pool

    def cert_verify(self, *args: object, **kwargs: object) -> None:
        """Do nothing: the TLS context verifies, and need not read the certificates each time."""

    def request_url(self, *args: object, **kwargs: object) -> str:
        return "/"


def _tls_context(ca_certs: str | None) -> ssl.SSLContext:
    """Trust what requests trusts (certifi), what the system trusts, and the operator's own."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where(), cadata=ca_certs)
    return context


def _connect(call: _Call) -> socket.socket:
    """Open a socket to the first permitted address that answers; one look-up in all."""
    origin = call.target.origin
    budget = Deadline(call.connect_timeout_s, call.deadline.peer)
    addresses = call.policy.permitted(origin, _addresses(origin, budget))
    reason = "no address"
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(budget.remaining_s / left, 0.001))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((str(address), origin.port))
        except OSError as exc:
            sock.close()
            reason = "timed out" if isinstance(exc, TimeoutError) else (exc.strerror or "failed")
            continue
        sock.settimeout(call.deadline.remaining_s or 0.001)
        return sock
    raise TargetUnreachable(f"{budget.peer} cannot be reached: {reason}")


_lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)


def _addresses(origin: Origin, budget: Deadline) -> list[IPAddress]:
    """Look the host up, for no longer than the budget, whatever the resolver does."""
    if origin.address is not None:
        return [origin.address]
    failed = f"{budget.peer} cannot be reached: "
    if not _lookups.acquire(timeout=budget.remaining_s):
        raise TargetUnreachable(failed + "too many look-ups hang")
    results: queue.SimpleQueue[list[IPAddress] | OSError] = queue.SimpleQueue()
    threading.Thread(
        target=_look_up, args=(origin, results.put), name="look-up", daemon=True
    ).start()
    try:
        result = results.get(timeout=budget.remaining_s)
    except queue.Empty as exc:
        raise TargetUnreachable(failed + "its name was not resolved in time") from exc
    if isinstance(result, OSError):
        raise TargetUnreachable(failed + "its name cannot be resolved") from result
    return result


def _look_up(origin: Origin, put: Callable[[list[IPAddress] | OSError], None]) -> None:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        # dict: each address once, in the resolver's order; a zone would only say which link.
        texts = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
        put([ipaddress.ip_address(text) for text in texts])
    except OSError as exc:
        put(exc)
    except UnicodeError:  # the idna codec, for a label it does not like
        put(OSError("no name"))
    finally:
        _lookups.release()


def _framing(raw: BaseHTTPResponse) -> Headers:
    """Say the length of the body as it was understood; what was sent may be ambiguous."""
    if raw.length_remaining is None or raw.status in _NO_CONTENT:
        return ()
    return (("Content-Length", str(raw.length_remaining)),)


def _failure(exc: Exception, deadline: Deadline) -> TargetFailed | DeadlineExceeded:
    """Say in one line what broke; the exception's own text may quote the peer."""
    if deadline.expired:
        return deadline.error()
    if isinstance(exc, requests.exceptions.SSLError):
        return TargetFailed(f"{deadline.peer} has no TLS, or no certificate that is trusted")
    return TargetFailed(f"{deadline.peer} broke off its answer, or it is not HTTP")
