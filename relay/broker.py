"""Publish events to the Broker, and say honestly whether it took them."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING

from relay.egress import Policy
from relay.events import Event, written_bytes
from relay.headers import Headers, find, retry_after_s
from relay.operations import PUBLICATION, Operation
from relay.places import Places, at_most
from relay.problems import (
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    RelayError,
    TargetFailed,
    TargetUnreachable,
    TooLarge,
)
from relay.settings import Settings
from relay.tracing import as_attributes, context_in
from relay.urls import IPAddress, Origin

if TYPE_CHECKING:
    from relay.client import Client

# A Broker that restarts is back after this; a longer wait is the caller's, who may have a better
# use for it.
_PAUSES_S = (0.2, 0.4, 0.8)
_SHORTEST_ATTEMPT_S = 0.05
# A Broker that says these has not taken the event, and may take it in a moment.
_PASSING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
# A request's event becomes others, with a reason or a count in their attributes.
_ROOM_BYTES = 4096
_WITH_ROOM = f", {_ROOM_BYTES} of them for what the relay adds when it fails"
# Among 4xx, these are not about the event.
_NOT_THE_EVENTS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class _OperatorsOwn(Policy):
    """Allow any address: the operator set this URL, and a Broker lives inside the cluster."""

    def allows(self, origin: Origin, address: IPAddress) -> bool:
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why an attempt did not end in a 2xx.

    Args:
        reason: in words.
        maybe_taken: the Broker may have the event all the same.
        passing: another attempt may do better.
        pause_s: how long it asked to be left alone; None when it did not ask.
        timed_out: it did not answer in time.
        status: what it answered; None when it did not answer.
    """

    reason: str
    maybe_taken: bool
    passing: bool = False
    pause_s: float | None = None
    timed_out: bool = False
    status: int | None = None


_CROWDED = _Failure(
    reason="the Broker is slow, and as many publish to it as may at once", maybe_taken=False
)


class Broker:
    """Publish to `K_SINK`.

    Args:
        settings: `k_sink`, `k_ca_certs`, `k_ce_overrides`, `max_event_bytes`, `publish_timeout_s`,
            `target_connect_timeout_s` and `threads` count.
    """

    def __init__(self, settings: Settings) -> None:
        self._target = settings.k_sink
        self._overrides = settings.k_ce_overrides or {}
        self._timeout_s = settings.publish_timeout_s
        self._max_event_bytes = settings.max_event_bytes
        # A Broker that hangs keeps no more of the threads than these.
        self._publishing = Places(at_most(max(1, settings.threads // 8)))
        self._settings = settings

    @cached_property
    def _client(self) -> Client:
        from relay.client import Client  # `requests` takes long to import

        return Client(
            _OperatorsOwn(),
            connect_timeout_s=self._settings.target_connect_timeout_s,
            pool_size=self._settings.threads,
            peer="Broker",
            ca_certs=self._settings.k_ca_certs,
        )

    def room_left(self, event: Event, *, is_request: bool = False) -> int:
        """Return by how many bytes an event may grow; below 0, it is not published."""
        room = self._max_event_bytes - event.having(self._overrides).size_bytes()
        return room - _ROOM_BYTES if is_request else room

    def publish(
        self, event: Event, *, trace: Headers | None = None, is_request: bool = False
    ) -> None:
        """Publish one event; return only when the Broker has answered 2xx.

        A part of the threads may publish at once; who comes beside them waits for a moment.

        What surely was not taken (no connection, 429, 503) is tried again for a moment. What may
        have been taken is not: that would make duplicates, so the caller decides.

        Args:
            trace: trace context headers, which the Broker passes on; those of the event if None.
            is_request: it asks for a call, and has to leave room for what is added when that is
                tried again, or dead.

        Raises:
            TooLarge: the event is larger than `MAX_EVENT_BYTES`, or than the Broker takes.
            InvalidRequest: the Broker says that the event is wrong.
            BrokerUnavailable: the Broker did not take it, or K_SINK is not set.
            DeadlineExceeded: the Broker did not answer in time.
        """
        trace = context_in(event.attributes) if trace is None else trace
        with Operation(PUBLICATION, {"id": event.id, "type": event.type}, trace) as publication:
            if "traceparent" in event.attributes:  # for another there may be no room
                event = event.having(as_attributes(publication.trace))
            self._publish(event, publication.trace, is_request=is_request)

    def _publish(self, event: Event, trace: Headers, *, is_request: bool) -> None:
        if self._target is None:
            raise BrokerUnavailable(
                "there is no Broker to publish to: K_SINK is not set;"
                " a SinkBinding whose subject is this service sets it",
                published="no",
            )
        headers, body = event.having(self._overrides).to_http()
        size = written_bytes(headers, body) + (_ROOM_BYTES if is_request else 0)
        if size > self._max_event_bytes:
            raise TooLarge(
                f"the event would have {size} bytes{_WITH_ROOM if is_request else ''};"
                f" at most {self._max_event_bytes} are published (MAX_EVENT_BYTES)",
                size=size,
                limit=self._max_event_bytes,
                published="no",
            )
        with self._publishing.take("publisher") as is_taken:
            if not is_taken:
                raise _error(event.id, _CROWDED)
            self._send(event.id, headers + trace, body)

    def _send(self, event_id: str, headers: Headers, body: bytes) -> None:
        until = time.monotonic() + self._timeout_s
        for longest_s in (*_PAUSES_S, 0.0):
            failure = self._attempt(headers, body, until - time.monotonic())
            if failure is None:
                return
            # Jitter keeps many publishers from coming back all at once.
            pause_s = failure.pause_s or longest_s * random.uniform(0.5, 1)  # noqa: S311
            in_time = time.monotonic() + pause_s < until - _SHORTEST_ATTEMPT_S
            if not failure.passing or longest_s == 0.0 or pause_s > longest_s or not in_time:
                raise _error(event_id, failure)
            time.sleep(pause_s)

    def _attempt(self, headers: Headers, body: bytes, timeout_s: float) -> _Failure | None:
        assert self._target is not None  # noqa: S101 - publish checked it
        try:
            answer = self._client.call(
                self._target, method="POST", headers=headers, content=body, timeout_s=timeout_s
            )
            if not answer.has_head:  # half an answer promises nothing
                answer.begin()
        except TargetUnreachable as exc:
            return _Failure(reason=exc.detail, maybe_taken=False, passing=True)
        except TargetFailed as exc:
            return _Failure(reason=exc.detail, maybe_taken=True)
        except DeadlineExceeded as exc:
            return _Failure(reason=exc.detail, maybe_taken=True, timed_out=True)
        answer.close()  # the status says it all
        if 200 <= answer.status < 300:
            return None
        return _Failure(
            reason=f"the Broker answered {answer.status}",
            maybe_taken=answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            and answer.status != HTTPStatus.SERVICE_UNAVAILABLE,
            passing=answer.status in _PASSING,
            pause_s=retry_after_s(find(answer.headers, "Retry-After")),
            status=answer.status,
        )


def _error(event_id: str, failure: _Failure) -> RelayError:
    status = failure.status or 0
    if 400 <= status < 500 and status not in _NOT_THE_EVENTS:
        return _refusal(event_id, status, failure.reason)
    if failure.maybe_taken:
        advice = (
            f"it may have been published all the same; sending it again with Idempotency-Key:"
            f" {event_id} is safe, since the target sees that key each time"
        )
    else:
        advice = "nothing was published; sending it again is safe"
    error = DeadlineExceeded if failure.timed_out else BrokerUnavailable
    pause_s = 1 if failure.pause_s is None else max(1, round(failure.pause_s))
    return error(
        f"{failure.reason}; {advice}",
        headers=(("Retry-After", str(pause_s)),),
        id=event_id,
        published="unknown" if failure.maybe_taken else "no",
    )


def _refusal(event_id: str, status: int, reason: str) -> RelayError:
    """Say that the event is at fault: sent again as it is, it would be refused again."""
    detail = f"{reason}: it does not take this event, and would not if it were sent again"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        error: RelayError = TooLarge(detail)
    else:
        error = InvalidRequest("event", f"is refused: {detail}")
    error.members |= {"id": event_id, "published": "no", "brokerStatus": status}
    return error
