"""Receive: take request events from the Broker and make the calls they ask for.

The answer steers the Broker, so it is chosen by what the Broker does with it:

    the target answered 2xx                          200 and a `.completed` event: delivered
    3xx, or 4xx but 408, 425, 429                    200 and a `.failed` event: it is an answer
    408, 425, 429, 5xx, or no answer in time         503: the Broker retries, then dead-letters
    the event is malformed                           400: dead-lettered at once
    the target is not allowed, or a loop             403: dead-lettered at once

Brokers deliver at least once, and so without a call:

    the request is done                              200 and its event, as at the first time
    another delivery of it is calling the target     503: the Broker comes again
    the request is dead                              410: dead-lettered at once
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from relay import logs
from relay.auth import MAC
from relay.claims import Claims
from relay.client import IDEMPOTENT, TargetClient
from relay.connections import Answer
from relay.envelope import Envelope, callback_in, fingerprint
from relay.events import COMPLETED, FAILED, JSON, RESULTS, Event
from relay.headers import Headers, find, retry_after_s
from relay.http import Response, brokers_problem
from relay.jsons import is_json
from relay.lifecycle import Attempt, Busy
from relay.problems import (
    DeadlineExceeded,
    InvalidRequest,
    LoopDetected,
    RelayError,
    StateUnavailable,
    TargetFailed,
    TargetNotAllowed,
)
from relay.records import ROUND, Known, Records
from relay.results import Result
from relay.settings import Settings
from relay.store import open_store
from relay.tracing import as_attributes, context_in, context_of, next_hop, trace_id

log = logging.getLogger(__name__)

# When the Broker is to try again: as in knative/300-receive-trigger.yaml, to tell a caller of.
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0)
RETRY_AFTER_MAX_S = 60.0

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
        settings: those of the target, of events and of the state, `max_event_bytes` and
            `max_result_bytes` count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        store = open_store(
            settings.state_url, ttl_s=settings.state_ttl_s, max_bytes=settings.state_max_bytes
        )
        self._records = Records(store, settings)
        self._claims = Claims(self._records)

    def read(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Read the event that a Broker delivers.

        The trace context of an event that carries none is the delivery's own.

        Raises:
            InvalidRequest: see `Event.from_http` and `Envelope.from_json`.
        """
        event = Event.from_http(headers, body)
        logs.note(id=event.id, type=event.type)
        came = as_attributes(context_of(headers))
        if "traceparent" in event.attributes:  # its trace is the one; what else came may be kept
            came.pop("tracestate", None)
        context = logs.join(context_in({**came, **event.attributes}))
        event = replace(event, attributes={**event.attributes, **as_attributes(context)})
        logs.note(trace=trace_id(event.attributes.get("traceparent")))
        return Delivery(event=event, envelope=_envelope(event))

    def handle(self, delivery: Delivery) -> Response:
        """Make the call that an event asks for and answer the Broker; nothing is raised."""
        event = delivery.event
        claim = self._claim(delivery)
        if isinstance(claim, Known):
            return self._as_before(event, claim)
        if isinstance(claim, Busy):
            reason = "another delivery of this event is calling the target"
            headers = (("Retry-After", str(claim.retry_after_s)),)
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers=headers)
        logs.note(attempt=claim.number or None)
        if claim.caller is None:
            return self._attempt(event, delivery.envelope, claim)
        with self._claims.held(event.id, claim.caller):
            return self._attempt(event, delivery.envelope, claim)

    def _claim(self, delivery: Delivery) -> Attempt | Busy | Known:
        """Claim the call; without the state it is made all the same, and nobody counts."""
        event, envelope = delivery.event, delivery.envelope
        try:
            return self._records.claim(
                event,
                fingerprint=fingerprint(event.data or b""),
                target=envelope.target.origin.authority,
            )
        except StateUnavailable as exc:
            log.warning("the call is made without a claim on it: %s", exc.detail)
            return Attempt()

    def _as_before(self, event: Event, known: Known) -> Response:
        """Answer a delivery of a request that is done, or dead."""
        record = known.record
        logs.note(attempt=record.attempts or None)
        if known.status not in RESULTS:
            reason = "the request is dead; only a retry of it is another attempt"
            return _problem(HTTPStatus.GONE, reason, record.attempts)
        if known.answer is None:
            status = record.answer_status or HTTPStatus.OK
            result = Result(status=status, headers=(), reason="the answer is no longer kept")
        else:
            result = Result.from_json(known.answer)
        return self._result(event, known.status, result, record.attempts).to_response()

    def _attempt(self, event: Event, envelope: Envelope, attempt: Attempt) -> Response:
        retry_after = None
        try:
            answer = self._call(event, envelope)
            if answer.status not in _RETRIED and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return self._answered(event, envelope, answer, attempt)
            answer.close()
            retry_after = find(answer.headers, "Retry-After")
            error: RelayError = TargetFailed(f"the target answered {answer.status}")
        except RelayError as exc:
            error = exc
        self._failed(event, attempt, error, retry_after)
        return refusal(error, attempt.number, retry_after)

    def _call(self, event: Event, envelope: Envelope) -> Answer:
        return self._targets.call(
            envelope,
            method=_method(envelope),
            hops=next_hop(event.attributes.get("relayhops")),
            headers=(
                ("Accept-Encoding", "identity"),
                ("Idempotency-Key", event.id),
                *_trace(event),
            ),
        )

    def _answered(
        self, event: Event, envelope: Envelope, answer: Answer, attempt: Attempt
    ) -> Response:
        # What is done may not be done again because its answer broke off, unless that is harmless.
        harmless = _method(envelope) in IDEMPOTENT
        result = Result.of(answer, self._settings.max_result_bytes, or_less=not harmless)
        ending = COMPLETED if 200 <= answer.status < 300 else FAILED
        if not attempt.is_strange:
            # Before the Broker hears of it: should its delivery come again, nothing is done twice.
            try:
                self._records.finish(
                    event.id,
                    ending,
                    result.status,
                    result.to_json(self._settings.max_event_bytes),
                    attempt.number,
                    attempt=attempt,
                    fingerprint=fingerprint(event.data or b""),
                )
            except StateUnavailable as exc:
                log.warning("the outcome is not noted: %s", exc.detail)
        return self._result(event, ending, result, attempt.number).to_response()

    def _failed(
        self, event: Event, attempt: Attempt, error: RelayError, retry_after: str | None
    ) -> None:
        if attempt.caller is None:
            return
        next_in_s = None
        if _status_of(error) == HTTPStatus.SERVICE_UNAVAILABLE and attempt.of_round <= len(
            BACKOFF_S
        ):
            asked_s = retry_after_s(retry_after) or 0.0
            next_in_s = max(BACKOFF_S[attempt.of_round - 1], min(asked_s, RETRY_AFTER_MAX_S))
        try:
            self._records.attempt_failed(event.id, attempt, error=error.detail, next_in_s=next_in_s)
        except StateUnavailable as exc:
            log.warning("the failed attempt is not noted: %s", exc.detail)

    def _result(self, event: Event, ending: str, result: Result, attempts: int) -> Event:
        """Make the event that tells of an answer, with the callback that its request asks for."""
        attributes = {
            # The same for every delivery of the same event, so that whoever counts results can tell
            # a repeated one.
            "id": f"{event.id}.{ending}",
            "source": self._settings.event_source,
            "type": f"{self._settings.event_type}.{ending}",
            "subject": event.id,
            "datacontenttype": JSON,
            **as_attributes(_trace(event)),
        }
        for name in (MAC, ROUND):
            if name in event.attributes:
                attributes[name] = event.attributes[name]
        if attempts:
            attributes["relayattempts"] = str(attempts)
        callback = callback_in(event.data)
        beside = {} if callback is None else {"callback": callback}
        told = Event(attributes=attributes)
        room = self._settings.max_event_bytes - told.size_bytes()
        return replace(told, data=result.to_json(room, **beside))


def refusal(error: RelayError, attempts: int = 0, retry_after: str | None = None) -> Response:
    """Answer the Broker for a call that could not be made or had no answer."""
    headers = (("Retry-After", retry_after),) if retry_after else ()
    return _problem(_status_of(error), error.detail, attempts, headers)


def _status_of(error: RelayError) -> HTTPStatus:
    if isinstance(error, TargetFailed | DeadlineExceeded):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, TargetNotAllowed | LoopDetected):
        return HTTPStatus.FORBIDDEN
    return HTTPStatus.BAD_REQUEST


def _problem(status: HTTPStatus, detail: str, attempts: int = 0, headers: Headers = ()) -> Response:
    logs.explain(detail, logging.WARNING)
    members: dict[str, str | int | float] = {"attempts": attempts} if attempts else {}
    return brokers_problem(status, detail, headers=headers, members=members)


def _envelope(event: Event) -> Envelope:
    if not is_json(event.attributes.get("datacontenttype", JSON)):
        raise InvalidRequest("Content-Type", "must be application/json: the data is an envelope")
    return Envelope.from_json(event.data or b"")


def _method(envelope: Envelope) -> str:
    return envelope.method or "POST"


def _trace(event: Event) -> Headers:
    return context_in(event.attributes)
