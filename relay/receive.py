"""Receive: take request events from the Broker and make the calls they ask for.

The answer steers the Broker, so it is chosen by what the Broker does with it:

    the target answered 2xx                          200 and a `.completed` event: delivered
    3xx, or 4xx but 408, 425, 429                    200 and a `.failed` event: it is an answer
    408, 425, 429, 5xx, or no answer in time         503: the Broker retries, then dead-letters
    the event is malformed                           400: dead-lettered at once
    the target is not allowed, or a loop             403: dead-lettered at once
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from relay import logs
from relay.auth import MAC
from relay.client import IDEMPOTENT, TargetClient
from relay.envelope import Envelope
from relay.events import COMPLETED, FAILED, JSON, Event
from relay.headers import Headers, find
from relay.http import Response, problem
from relay.jsons import is_json
from relay.problems import (
    DeadlineExceeded,
    InvalidRequest,
    LoopDetected,
    RelayError,
    StateUnavailable,
    TargetFailed,
    TargetNotAllowed,
)
from relay.records import Records
from relay.results import result_of
from relay.settings import Settings
from relay.state import State
from relay.tracing import next_hop, trace_context, trace_id

log = logging.getLogger(__name__)

# A longer error body crashes the in-memory dispatcher (more than 768 bytes), and a dead letter
# keeps no more than 1,024.
_ERROR_BYTES = 768

_RETRIED = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event that a Broker delivers, and the call that it asks for."""

    event: Event
    envelope: Envelope


class Receive:
    """The CloudEvent function.

    Args:
        settings: those of the target, of events and of the state, and `max_result_bytes`, count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        self._records = Records(State(settings.state_url, settings.state_ttl_s))

    def read(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Read the event that a Broker delivers.

        The trace context of an event that carries none is the delivery's own.

        Raises:
            InvalidRequest: see `Event.from_http` and `Envelope.from_json`.
        """
        event = Event.from_http(headers, body)
        logs.note(id=event.id, type=event.type)
        trace = trace_context(headers.get("traceparent"), headers.get("tracestate"))
        event = replace(event, attributes={**dict(trace), **event.attributes})
        logs.note(trace=trace_id(event.attributes.get("traceparent")))
        return Delivery(event=event, envelope=_envelope(event))

    def handle(self, delivery: Delivery) -> Response:
        """Make the call that an event asks for and answer the Broker; nothing is raised."""
        event = delivery.event
        attempts = self._count_attempt(event.id)
        logs.note(attempt=attempts or None)
        try:
            return self._call(event, delivery.envelope, attempts)
        except RelayError as exc:
            return refusal(exc, attempts)

    def _call(self, event: Event, envelope: Envelope, attempts: int) -> Response:
        trace = trace_context(
            event.attributes.get("traceparent"), event.attributes.get("tracestate")
        )
        method = envelope.method or "POST"
        answer = self._targets.call(
            envelope,
            method=method,
            hops=next_hop(event.attributes.get("relayhops")),
            headers=(("Accept-Encoding", "identity"), ("Idempotency-Key", event.id), *trace),
        )
        if answer.status in _RETRIED or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            answer.close()
            retry_after = find(answer.headers, "Retry-After")
            headers = (("Retry-After", retry_after),) if retry_after else ()
            reason = f"the target answered {answer.status}"
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, attempts, headers)
        # What is done may not be done again because its answer broke off, unless that is harmless.
        limit_bytes = self._settings.max_result_bytes
        result = result_of(answer, limit_bytes, or_less=method not in IDEMPOTENT)
        ending = COMPLETED if 200 <= answer.status < 300 else FAILED
        attributes = {
            # The same for every delivery of the same event, so that whoever counts results can tell
            # a repeated one.
            "id": f"{event.id}.{ending}",
            "source": self._settings.event_source,
            "type": f"{self._settings.event_type}.{ending}",
            "subject": event.id,
            "datacontenttype": JSON,
            **dict(trace),
        }
        if MAC in event.attributes:
            attributes[MAC] = event.attributes[MAC]
        if attempts:
            attributes["relayattempts"] = str(attempts)
        return Event(attributes=attributes, data=json.dumps(result).encode()).to_response()

    def _count_attempt(self, event_id: str) -> int:
        """Count; 0 when the state is away, which is no reason to let a call wait."""
        try:
            return self._records.count_attempt(event_id)
        except StateUnavailable as exc:
            log.warning("the attempt is not counted: %s", exc.detail)
            return 0


def refusal(error: RelayError, attempts: int = 0) -> Response:
    """Answer the Broker for a call that could not be made or had no answer."""
    if isinstance(error, TargetFailed | DeadlineExceeded):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, TargetNotAllowed | LoopDetected):
        status = HTTPStatus.FORBIDDEN
    else:
        status = HTTPStatus.BAD_REQUEST
    return _problem(status, error.detail, attempts)


def _problem(status: HTTPStatus, detail: str, attempts: int, headers: Headers = ()) -> Response:
    """Answer with a problem short enough for any Broker; a dead letter keeps it."""
    logs.explain(detail, logging.WARNING)
    members: dict[str, str | int | float] = {"attempts": attempts} if attempts else {}
    response = problem(status, detail, headers=headers, members=members)
    while sum(map(len, response.body)) > _ERROR_BYTES:
        detail = detail[: len(detail) * 3 // 4]
        response = problem(status, detail + "…", headers=headers, members=members)
    return response


def _envelope(event: Event) -> Envelope:
    if not is_json(event.attributes.get("datacontenttype", JSON)):
        raise InvalidRequest("Content-Type", "must be application/json: the data is an envelope")
    return Envelope.from_json(event.data or b"")
