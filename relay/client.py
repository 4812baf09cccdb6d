"""The one HTTP client of the relay: every call passes the egress policy and keeps one deadline.

It is an adapter of `requests`, without a session: no redirect is followed, no cookie, proxy or
netrc from the environment is used, and nothing is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import socket

import requests
from requests.adapters import BaseAdapter

from relay import logs
from relay.connections import Answer, Pool, error_of
from relay.egress import Policy
from relay.envelope import Envelope
from relay.headers import HOPS, Headers, complete, find, message_head
from relay.leaving import Cut
from relay.lookups import Lookups
from relay.operations import CALL, Operation
from relay.reasons import reason_of
from relay.responses import BrokenAnswer
from relay.settings import Settings
from relay.sockets import Deadline, connect, permitted, shut_down
from relay.tls import client_context
from relay.urls import Origin, Target

# RFC 9110 section 9.2.2: twice has the effect of once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# Larger bodies are not copied to stand behind their head.
_SENT_AT_ONCE = 64 * 1024
_IDLE_PER_THREAD = 16


class TargetRequest(requests.PreparedRequest):
    """A prepared request that has its URL in parts, as they are judged."""

    target: Target
    cut: Cut | None


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
        with contextlib.suppress(requests.ConnectionError):
            budget = Deadline(self._connect_timeout_s)
            permitted(target.origin, self._policy, budget, self._lookups)

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
        request = TargetRequest()
        request.target, request.method, request.url = target, method, target.url
        # A plain dict will do: names are unique by here, and only `send` reads them.
        request.headers = complete(headers, target.origin.authority, method, content)  # type: ignore[assignment]
        request.body, request.cut = content, cut
        try:
            answer: Answer = self.send(request, timeout=timeout_s).raw  # type: ignore[assignment]
        except requests.RequestException as exc:
            raise error_of(exc, self._name(target)) from exc
        return answer

    def send(  # type: ignore[override] # there is nothing else to choose
        self, request: TargetRequest, *, timeout: float
    ) -> requests.Response:
        """Send a prepared request, on a new connection if a kept one was closed meanwhile.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
            requests.ConnectionError: nothing was sent.
            BrokenAnswer, requests.ReadTimeout: no final status came, or not in time.
        """
        origin, method = request.target.origin, request.method or ""
        deadline, message = Deadline(timeout, request.cut), _message(request)

        def start(sock: socket.socket) -> Answer:
            give_back = functools.partial(self._pool.put, origin)
            return Answer(sock, give_back, method, deadline, self._name(request.target))

        kept = self._pool.take(origin)
        answer = start(kept or self._connect(origin, deadline))
        try:
            answer.start(message)
        except BrokenAnswer:
            is_safe = method in IDEMPOTENT or not answer.has_sent
            if kept is None or answer.has_received or not is_safe:
                raise
            answer = start(self._connect(origin, deadline))
            answer.start(message)
        response = requests.Response()
        response.status_code, response.raw = answer.status, answer
        response.url, response.request = request.target.url, request
        return response

    def _name(self, target: Target) -> str:
        return f"the {self._peer} {target.origin.authority}"

    def _connect(self, origin: Origin, deadline: Deadline) -> socket.socket:
        budget = Deadline(min(self._connect_timeout_s, deadline.left_s), deadline.cut)
        sock = connect(origin, self._policy, budget, self._lookups)
        if origin.scheme == "https":
            try:
                sock.settimeout(max(deadline.left_s, 0.001))
                sock = self._start_tls(sock, origin, deadline)
            except TimeoutError as exc:
                raise deadline.error() from exc
            except OSError as exc:
                raise requests.exceptions.SSLError(reason_of(exc)) from exc
        sock.setblocking(False)
        return sock

    def _start_tls(self, sock: socket.socket, origin: Origin, deadline: Deadline) -> socket.socket:
        tls = self._tls().wrap_socket(
            sock, server_hostname=origin.host, do_handshake_on_connect=False
        )
        deadline.cut.ends_by(functools.partial(shut_down, tls))
        try:
            tls.do_handshake()
        except OSError:
            tls.close()
            raise
        return tls


class TargetClient:
    """Make the calls that envelopes ask for.

    Args:
        settings: those of targets, and `threads`, count.
    """

    def __init__(self, settings: Settings) -> None:
        self._policy = Policy(
            allowed=settings.allowed_targets,
            only=settings.allowed_targets_only,
            own_service=settings.k_service,
        )
        self._timeout_s = settings.target_timeout_s
        self._client = Client(
            self._policy,
            connect_timeout_s=settings.target_connect_timeout_s,
            pool_size=_IDLE_PER_THREAD * settings.threads,
            ca_certs=settings.target_ca_certs,
            client_cert=settings.target_client_cert,
        )

    def check(self, envelope: Envelope) -> None:
        """Refuse what a call made now, or its callback, would be refused for; make no call.

        Raises:
            InvalidRequest: a Host header is not allowed.
            TargetNotAllowed: see `Client.check`.
        """
        logs.note(target=envelope.target.origin.authority)
        self._check_host(envelope.headers, "headers")
        self._client.check(envelope.target)
        if envelope.callback is not None:
            self._check_host(envelope.callback.headers, "callback.headers")
            self._client.check(envelope.callback.target)

    def call(
        self,
        envelope: Envelope,
        *,
        method: str,
        hops: int,
        headers: Headers,
        cut: Cut | None = None,
    ) -> Answer:
        """Make the call, by another method than the envelope's if need be.

        Args:
            headers: what the relay adds; the envelope's own headers win.
            cut: ends the call before its time is up.

        Raises:
            InvalidRequest: a Host header is not allowed.
            TargetNotAllowed, TargetFailed, DeadlineExceeded: see `Client.call`.
        """
        logs.note(target=envelope.target.origin.authority)
        self._check_host(envelope.headers, "headers")
        origin = envelope.target.origin
        facts = {"method": method, "scheme": origin.scheme, "host": origin.host}
        with Operation(CALL, facts | {"port": origin.port}, headers) as call:
            answer = self._client.call(
                envelope.target,
                method=method,
                headers=envelope.sent_headers(((HOPS, str(hops)), *call.trace)),
                content=envelope.content,
                timeout_s=min(envelope.timeout_s or self._timeout_s, self._timeout_s),
                cut=cut,
            )
            call.facts["status"] = answer.status
        logs.note(target_status=answer.status)
        return answer

    def _check_host(self, headers: Headers, field: str) -> None:
        host = find(headers, "Host")
        if host is not None:
            self._policy.check_host_header(host, field=f"{field}.Host")


def _message(request: TargetRequest) -> tuple[bytes, ...]:
    """Write a request; the path is the target's own, byte for byte."""
    start = f"{request.method} {request.target.path} HTTP/1.1"
    head, body = message_head(start, request.headers), request.body or b""
    assert isinstance(body, bytes)  # noqa: S101 - `call` takes no other
    return (head + body,) if len(body) <= _SENT_AT_ONCE else (head, body)
