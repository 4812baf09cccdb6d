"""Make the calls that envelopes ask for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relay import logs
from relay.egress import Policy
from relay.envelope import Envelope
from relay.headers import HOPS, Headers, find
from relay.leaving import Cut
from relay.operations import CALL, Operation
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.client import Answer, Client

_IDLE_PER_THREAD = 16


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
        self._settings = settings

    @cached_property
    def _client(self) -> Client:
        from relay.client import Client  # `requests` takes long to import

        return Client(
            self._policy,
            connect_timeout_s=self._settings.target_connect_timeout_s,
            pool_size=_IDLE_PER_THREAD * self._settings.threads,
            ca_certs=self._settings.target_ca_certs,
            client_cert=self._settings.target_client_cert,
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
        longest_s = self._settings.target_timeout_s
        facts = {"method": method, "scheme": origin.scheme, "host": origin.host}
        with Operation(CALL, facts | {"port": origin.port}, headers) as call:
            answer = self._client.call(
                envelope.target,
                method=method,
                headers=envelope.sent_headers(((HOPS, str(hops)), *call.trace)),
                content=envelope.content,
                timeout_s=min(envelope.timeout_s or longest_s, longest_s),
                cut=cut,
            )
            call.facts["status"] = answer.status
        logs.note(target_status=answer.status)
        return answer

    def _check_host(self, headers: Headers, field: str) -> None:
        host = find(headers, "Host")
        if host is not None:
            self._policy.check_host_header(host, field=f"{field}.Host")
