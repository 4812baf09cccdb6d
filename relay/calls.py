"""Turn an envelope into a call under the egress policy: the one path that both functions take."""

from __future__ import annotations

from relay import logs
from relay.client import Answer, Client
from relay.egress import Policy
from relay.envelope import Envelope
from relay.headers import HOPS, Headers, find
from relay.settings import Settings


class Caller:
    """Make the calls that envelopes ask for.

    Args:
        settings: the allowed targets, the target timeouts and `threads` count.
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
            pool_size=settings.threads,
        )

    def check(self, envelope: Envelope) -> None:
        """Refuse what a call made now would be refused for; make no call.

        Raises:
            InvalidRequest: the envelope asks for a Host header that it may not set.
            TargetNotAllowed: see `Client.check`; the target of the callback counts as well.
        """
        logs.note(target=envelope.target.origin.authority)
        self._check_host(envelope.headers, "headers")
        self._client.check(envelope.target)
        if envelope.callback is not None:
            self._check_host(envelope.callback.headers, "callback.headers")
            self._client.check(envelope.callback.target)

    def call(self, envelope: Envelope, *, method: str, hops: int, headers: Headers) -> Answer:
        """Make the call.

        Args:
            method: the envelope's own is not looked at.
            hops: what `next_hop` counted.
            headers: what the relay adds; the envelope's own headers win.

        Raises:
            InvalidRequest: the envelope asks for a Host header that it may not set.
            TargetNotAllowed, TargetFailed, DeadlineExceeded: see `Client.call`.
        """
        logs.note(target=envelope.target.origin.authority)
        self._check_host(envelope.headers, "headers")
        answer = self._client.call(
            envelope.target,
            method=method,
            headers=envelope.sent_headers(((HOPS, str(hops)), *headers)),
            content=envelope.content,
            timeout_s=min(envelope.timeout_s or self._timeout_s, self._timeout_s),
        )
        logs.note(target_status=answer.status)
        return answer

    def _check_host(self, headers: Headers, field: str) -> None:
        host = find(headers, "Host")
        if host is not None:
            self._policy.check_host_header(host, field=f"{field}.Host")
