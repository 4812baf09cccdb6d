"""The one HTTP client of the relay: every call passes the egress policy and keeps one deadline.

It is an adapter of `requests`, without a session: no redirect is followed, no cookie, proxy or
netrc from the environment is used, and nothing is decoded.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from collections.abc import Generator
from contextlib import suppress

import requests
from requests.adapters import BaseAdapter

from relay.connections import Deadline, Pool, connect, shut_down, start_tls
from relay.egress import Policy
from relay.envelope import IDEMPOTENT
from relay.headers import Headers, complete, end_to_end, message_head
from relay.leaving import Cut
from relay.lookups import Lookups
from relay.problems import DeadlineExceeded, RelayError, TargetFailed, TargetUnreachable
from relay.reasons import reason_of
from relay.responses import BrokenAnswer, ResponseParser
from relay.tls import client_context
from relay.urls import IPAddress, Origin, Target

_READ_BYTES = 32 * 1024
# Larger bodies are not copied to stand behind their head.
_SENT_AT_ONCE = 64 * 1024
# A refusal before the call may be that much behind the name servers.
_CHECKED_S = 1.0


class Request(requests.PreparedRequest):
    """A prepared request that has its URL in parts, as they are judged."""

    def __init__(
        self, target: Target, method: str, headers: Headers, content: bytes | None, peer: str
    ) -> None:
        super().__init__()
        authority = target.origin.authority
        self.target, self.method, self.url = target, method, target.url
        # A plain dict will do: names are unique by here, and only `message` reads them.
        self.headers = complete(headers, authority, method, content)  # type: ignore[assignment]
        self.body: bytes = content or b""
        self.peer = f"the {peer} {authority}"  # as errors call it

    def message(self) -> tuple[bytes, ...]:
        """Write it; the path is the target's own, byte for byte."""
        head = message_head(f"{self.method} {self.target.path} HTTP/1.1", self.headers)
        return (head + self.body,) if len(self.body) <= _SENT_AT_ONCE else (head, self.body)


class Answer(ResponseParser):
    """The answer to one call, its body not yet read: the `raw` of a response of `requests`.

    Reading raises TargetFailed where the answer is broken, DeadlineExceeded when it takes too long.

    Args:
        sock: goes into the pool when it can be used again.
    """

    # Nothing came yet, and the request can be sent again.
    may_repeat = True

    def __init__(
        self, request: Request, deadline: Deadline, sock: socket.socket, pool: Pool
    ) -> None:
        super().__init__(request.method or "")
        self._request = request
        self._deadline = deadline
        self._sock = sock
        self._pool = pool
        self._is_over = False
        self._piece = b""
        self._failure: requests.RequestException | None = None

    @property
    def headers(self) -> Headers:
        """The headers that came, but for the hop-by-hop ones; repeated ones repeated."""
        return tuple(end_to_end(self.fields))

    def start(self, message: tuple[bytes, ...]) -> None:
        """Send the request and read the head of its answer.

        Raises:
            BrokenAnswer, requests.ReadTimeout: no final status came; what fails after it is for
                reading to raise.
        """
        self._deadline.cut.ends_by(functools.partial(shut_down, self._sock))
        try:
            for data in message:
                self._send(data)
            while not self.has_head:
                self._receive()
        except OSError as exc:
            failure = self._failed(exc)
            if not self.status:
                raise failure from exc
            self._failure = failure

    def begin(self) -> None:
        """Wait for a piece of the body: until the first, a failure can be told by a status."""
        try:
            if self._failure is not None:
                raise self._failure
            while not self._piece and not self._is_over:
                self._receive()
        except OSError as exc:
            raise error_of(self._failed(exc), self._request.peer) from exc

    def __iter__(self) -> Generator[bytes, None, None]:
        """Read the body in pieces as they arrive, exactly as it was sent."""
        try:
            while piece := self._take():
                yield piece
        finally:
            self.close()

    def read(self, limit_bytes: int, *, or_less: bool = False) -> tuple[bytes, str | None]:
        """Read the body up to a limit, or to where it breaks off if that is good enough.

        Returns:
            the bytes, and why there are no more of them; None if these are all.
        """
        body, reason = bytearray(), None
        try:
            while reason is None and (piece := self._take()):
                body += piece
                if len(body) > limit_bytes:
                    reason = f"the body is longer than {limit_bytes} bytes"
        except (TargetFailed, DeadlineExceeded) as exc:
            if not or_less:
                raise
            reason = exc.detail
        self.close()
        return bytes(body[:limit_bytes]), reason

    def close(self) -> None:
        """Close the connection, unless it has been given back."""
        super().close()
        if not self._is_over:
            self._sock.close()
        self._is_over = True

    def _take(self) -> bytes:
        self.begin()
        piece, self._piece = self._piece, b""
        return piece

    def _send(self, data: bytes) -> None:
        sent = 0
        try:
            while sent < len(data):
                self._sock.settimeout(self._deadline.left_s)
                sent += self._sock.send(memoryview(data)[sent:])
                self.may_repeat = self._request.method in IDEMPOTENT
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # the peer has read enough, and may have answered

    def _receive(self) -> None:
        self._sock.settimeout(self._deadline.left_s)
        data = self._sock.recv(_READ_BYTES)
        if not data and self._deadline.cut.is_cut:  # the end is not the peer's
            raise ConnectionAbortedError
        self.may_repeat &= not data
        self._piece = self.feed(data)
        if self.is_complete:
            if not self.is_last:
                self._deadline.cut.is_over()
                self._pool.put(self._request.target.origin, self._sock)
                self._is_over = True
            self.close()

    def _failed(self, exc: OSError) -> requests.RequestException:
        """Give up; say why without the traceback, whose frames would keep all of this alive."""
        self.close()
        if isinstance(exc, requests.RequestException):
            return type(exc)(str(exc))
        if isinstance(exc, TimeoutError):
            return self._deadline.error()
        return BrokenAnswer(f"gave no whole answer: {reason_of(exc)}")


class Response(requests.Response):
    """An answer as `requests` has it, without the cookie jar and the like that nobody reads."""

    raw: Answer

    def __init__(self, answer: Answer) -> None:
        self.status_code, self.raw = answer.status, answer


class Client(BaseAdapter):
    """Call targets under one egress policy.

    Args:
        policy: where calls may go.
        connect_timeout_s: for the look-up and the connection, of each call's time.
        pool_size: how many idle connections are kept.
        peer: what errors call the other side.
        ca_certs, client_cert: see `client_context`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_timeout_s: float,
        pool_size: int,
        peer: str = "target",
        ca_certs: str | None = None,
        client_cert: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._pool = Pool(pool_size)
        self._lookups = Lookups()
        self._peer = peer
        # When first needed: reading the certificates is slow, and starts should be quick.
        self._tls = functools.cache(lambda: client_context(ca_certs, client_cert))

    def check(self, target: Target) -> None:
        """Raise TargetNotAllowed if a call made now would; a name that is not found passes."""
        with suppress(requests.ConnectionError):
            self._permitted(target.origin, self._connect_timeout_s, Cut(), _CHECKED_S)

    def call(
        self,
        target: Target,
        *,
        method: str,
        headers: Headers = (),
        content: bytes | None = None,
        timeout_s: float,
        cut: Cut | None = None,
    ) -> Answer:
        """Make one call and wait for the final status, and for the headers unless they break off.

        Args:
            timeout_s: for everything, the body of the answer included.
            cut: ends it before that.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
            TargetFailed: the target is not reachable, or answers without a final status.
            DeadlineExceeded: the time was up first.
        """
        request = Request(target, method, headers, content, self._peer)
        try:
            return self.send(request, Deadline(timeout_s, cut)).raw
        except requests.RequestException as exc:
            raise error_of(exc, request.peer) from exc

    def send(self, request: Request, deadline: Deadline) -> Response:  # type: ignore[override]
        """Do what `call` says, but raise errors of `requests`."""
        origin, message = request.target.origin, request.message()
        kept = self._pool.take(origin)
        answer = Answer(request, deadline, kept or self._connect(origin, deadline), self._pool)
        try:
            answer.start(message)
        except BrokenAnswer:
            if kept is None or not answer.may_repeat:
                raise
            # The kept connection was closed as the request was sent.
            answer = Answer(request, deadline, self._connect(origin, deadline), self._pool)
            answer.start(message)
        return Response(answer)

    def _connect(self, origin: Origin, deadline: Deadline) -> socket.socket:
        timeout_s = min(self._connect_timeout_s, deadline.left_s)
        until = time.monotonic() + timeout_s
        addresses = self._permitted(origin, timeout_s, deadline.cut)
        sock = connect(addresses, origin.port, until, deadline.cut)
        if origin.scheme == "https":
            return start_tls(sock, origin.host, self._tls(), deadline)
        return sock

    def _permitted(
        self, origin: Origin, timeout_s: float, cut: Cut, max_age_s: float = 0.0
    ) -> list[IPAddress]:
        """Look the host up once and judge each address: none leaves here that was not judged."""
        if origin.address is not None:
            return self._policy.permitted(origin, [origin.address])
        found = self._lookups.addresses(origin, timeout_s, cut, max_age_s)
        return self._policy.permitted(origin, found)


def error_of(exc: requests.RequestException, peer: str) -> RelayError:
    """Make an error of the relay; the text of the exception is the relay's already."""
    if isinstance(exc, requests.ConnectionError):
        return TargetUnreachable(f"{peer} cannot be reached: {exc}")
    kind = DeadlineExceeded if isinstance(exc, requests.ReadTimeout) else TargetFailed
    return kind(f"{peer} {exc}")
