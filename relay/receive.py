"""Receive: take request events from the Broker and make the calls they ask for.

A delivery makes at most one call. The answer steers the Broker, so it is chosen by what the Broker
does with it:

    the target answered 2xx                          200 and a `.completed` event
    3xx, or 4xx but 408, 425, 429                    200 and a `.failed` event: it is an answer
    408, 425, 429, 5xx, or no answer in time         200 and the event of the next tier, `.retryN`
    it is left alone, or has its share of calls      200 and the same, with no attempt counted
    out of tiers, or too old                         200 and a `.dead` event: the request, and why
    not due yet, and a place is free                 waits here until it is, or for its tier's delay
    still not due                                    200 and the event of the same tier
    not due yet, and no place is free, or it ends    503 with Retry-After: the Broker waits
    too many bodies are held                         503 with Retry-After
    the event is malformed                           400: dead-lettered at once
    the target is not allowed, or a loop             403: dead-lettered at once

`relay.retries` decides what is tried again, and when.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from relay import logs
from relay.auth import MAC
from relay.callers import Caller
from relay.client import IDEMPOTENT, TargetClient
from relay.connections import Answer
from relay.envelope import Envelope
from relay.events import JSON, Event
from relay.gate import Gate
from relay.headers import Headers, find, retry_after_s
from relay.http import Response, problem
from relay.jsons import is_json
from relay.places import Places, fair
from relay.problems import (
    DeadlineExceeded,
    InvalidRequest,
    LoopDetected,
    RelayError,
    StateUnavailable,
    TargetAvoided,
    TargetFailed,
    TargetNotAllowed,
    TooBusy,
)
from relay.progress import ATTEMPTS, Followers, Progress, Why
from relay.records import Records
from relay.results import result_of
from relay.retries import Again, Dead, Done, Retries
from relay.settings import Settings
from relay.state import State
from relay.tracing import next_hop, trace_context, trace_id

log = logging.getLogger(__name__)

# A longer error body crashes the in-memory dispatcher (more than 768 bytes), and a dead letter
# keeps no more than 1,024.
_ERROR_BYTES = 768

# A delivery that waits for its target's share holds up what comes by the same Trigger.
_PATIENCE_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event that a Broker delivers, the call that it asks for, and how far that has come."""

    event: Event
    envelope: Envelope
    progress: Progress
    caller: Caller

    @property
    def method(self) -> str:
        return self.envelope.method or "POST"


class Receive:
    """The CloudEvent function.

    Args:
        settings: those of the target, of events and of the state, and `max_result_bytes`, count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        self._records = Records(State(settings.state_url, settings.state_ttl_s))
        self._retries = Retries(delays_s=settings.retry_delays_s, max_age_s=settings.max_age_s)
        self._followers = Followers(event_type=settings.event_type, source=settings.event_source)
        self._gate = Gate(settings)
        # What comes from one tier is brought by one Trigger; no event can name a tenth tier.
        rule = fair(settings.trigger_places)
        self._calls = [Places(rule, patience_s=_PATIENCE_S) for _ in range(10)]
        # A request that waits holds a thread; a quarter of them stays for calls and probes.
        places = min(settings.waiting_places, max(1, settings.threads * 3 // 4))
        self._places = threading.BoundedSemaphore(places)

    def read(
        self, headers: Mapping[str, str], body: bytes, caller: Caller | None = None
    ) -> Delivery:
        """Read the event that a Broker delivers.

        The trace context of an event that carries none is the delivery's own.

        Raises:
            InvalidRequest: see `Event.from_http`, `Progress.of` and `Envelope.from_json`.
        """
        event = Event.from_http(headers, body)
        logs.note(id=event.id, type=event.type)
        trace = trace_context(headers.get("traceparent"), headers.get("tracestate"))
        event = replace(event, attributes={**dict(trace), **event.attributes})
        logs.note(trace=trace_id(event.attributes.get("traceparent")))
        progress = Progress.of(event, self._settings.event_type, time.time())
        logs.note(id=progress.request_id)
        return Delivery(
            event=event, envelope=_envelope(event), progress=progress, caller=caller or Caller()
        )

    def handle(self, delivery: Delivery) -> Response:
        """Make the call that an event asks for and answer the Broker; nothing is raised."""
        pause_s, due = self._retries.pause(delivery.progress, time.time())
        if pause_s and (reason := self._wait(delivery.caller, pause_s)):
            after = (("Retry-After", str(math.ceil(pause_s))),)
            reason = f"the request is not due yet, and {reason}"
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers=after)
        # A Broker that has left delivers again: a call that is made now would be made twice.
        if delivery.caller.has_left():
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "the Broker has left")
        if not due:
            decision = self._retries.early(delivery.progress, time.time())
            return self._postpone(delivery, decision, Why.of(delivery.event))
        progress = replace(delivery.progress, attempts=delivery.progress.attempts + 1)
        attempt = replace(delivery, progress=progress)
        try:
            with self._gate.passing(delivery.envelope.target.origin, self._calls[progress.tier]):
                return self._call(attempt)
        except TargetAvoided as exc:
            decision = self._retries.without_call(delivery.progress, time.time())
            return self._postpone(delivery, decision, Why(reason=exc.detail))
        except (TargetFailed, DeadlineExceeded) as exc:
            return self._conclude(attempt, None, Why(reason=exc.detail))
        except RelayError as exc:
            return refusal(exc, progress.attempts)

    def _wait(self, broker: Caller, pause_s: float) -> str:
        """Wait, if there is a place; return why it was not to the end."""
        if not self._places.acquire(blocking=False):
            return "no place to wait is free (WAITING_PLACES)"
        try:
            waited = broker.wait(pause_s)
        finally:
            self._places.release()
        return "" if waited else "this process is ending, or the Broker has left"

    def _call(self, delivery: Delivery) -> Response:
        self._note_attempt(delivery.progress)
        answer = self._targets.call(
            delivery.envelope,
            method=delivery.method,
            hops=next_hop(delivery.event.attributes.get("relayhops")),
            headers=(
                ("Accept-Encoding", "identity"),
                ("Idempotency-Key", delivery.progress.request_id),
                *_trace(delivery.event),
            ),
        )
        why = Why(reason=f"the target answered {answer.status}", status=answer.status)
        return self._conclude(delivery, answer, why)

    def _conclude(self, delivery: Delivery, answer: Answer | None, why: Why) -> Response:
        """Answer the Broker after a call.

        Args:
            answer: of the target; None when there is none.
            why: what is wrong with it, if something is.
        """
        after = None if answer is None else find(answer.headers, "Retry-After")
        decision = self._retries.after_call(
            delivery.progress,
            status=why.status,
            retry_after_s=retry_after_s(after),
            now_s=time.time(),
        )
        if isinstance(decision, Done):
            assert answer is not None  # noqa: S101 - it has decided
            # What is done is not done again because its answer broke off, unless that is harmless.
            may_break_off = delivery.method not in IDEMPOTENT
            result = result_of(answer, self._settings.max_result_bytes, or_less=may_break_off)
            return self._result_event(delivery, decision, result).to_response()
        if answer is not None:
            answer.close()
        return self._postpone(delivery, decision, why)

    def _result_event(self, delivery: Delivery, done: Done, result: dict[str, object]) -> Event:
        progress = delivery.progress
        attributes = {
            # The same for every delivery of the same event, so that whoever counts results can tell
            # a repeated one.
            "id": f"{progress.request_id}.{done.ending}",
            "source": self._settings.event_source,
            "type": f"{self._settings.event_type}.{done.ending}",
            "subject": progress.request_id,
            "datacontenttype": JSON,
            **dict(_trace(delivery.event)),
            ATTEMPTS: str(progress.attempts),
        }
        if MAC in delivery.event.attributes:
            attributes[MAC] = delivery.event.attributes[MAC]
        return Event(attributes=attributes, data=json.dumps(result).encode())

    def _postpone(self, delivery: Delivery, decision: Again | Dead, why: Why) -> Response:
        """Answer with the event of a tier, or with that of a dead request."""
        event, progress = delivery.event, delivery.progress
        if isinstance(decision, Again):
            wait_s = max(0.0, decision.not_before_s - time.time())
            logs.explain(f"{why.reason}; again in {wait_s:.3g} s", logging.WARNING)
            waiting = self._followers.waiting(
                event, progress, why, tier=decision.tier, not_before_s=decision.not_before_s
            )
            return waiting.to_response()
        if decision.too_old:
            age = f"; it is older than {self._settings.max_age_s:g} s (MAX_AGE_S)"
            why = replace(why, reason=why.reason + age)
        logs.explain(f"{why.reason}; the request is dead", logging.WARNING)
        return self._followers.dead(event, progress, why).to_response()

    def _note_attempt(self, progress: Progress) -> None:
        """Tell the state; that it is away is no reason to let a call wait."""
        logs.note(attempt=progress.attempts)
        try:
            self._records.note_attempt(progress.request_id, progress.attempts)
        except StateUnavailable as exc:
            log.warning("the attempt is not noted: %s", exc.detail)


def refusal(error: RelayError, attempts: int = 0) -> Response:
    """Answer the Broker for an event that asks for nothing that can be done, or not now."""
    if isinstance(error, TooBusy):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, TargetNotAllowed | LoopDetected):
        status = HTTPStatus.FORBIDDEN
    else:
        status = HTTPStatus.BAD_REQUEST
    return _problem(status, error.detail, attempts, error.headers)


def _problem(status: HTTPStatus, detail: str, attempts: int = 0, headers: Headers = ()) -> Response:
    """Answer with a problem short enough for any Broker; a dead letter keeps it."""
    logs.explain(detail, logging.WARNING)
    members: dict[str, str | int | float] = {"attempts": attempts} if attempts else {}
    response = problem(status, detail, headers=headers, members=members)
    while sum(map(len, response.body)) > _ERROR_BYTES:
        detail = detail[: len(detail) * 3 // 4]
        response = problem(status, detail + "…", headers=headers, members=members)
    return response


def _trace(event: Event) -> Headers:
    return trace_context(event.attributes.get("traceparent"), event.attributes.get("tracestate"))


def _envelope(event: Event) -> Envelope:
    if not is_json(event.attributes.get("datacontenttype", JSON)):
        raise InvalidRequest("Content-Type", "must be application/json: the data is an envelope")
    return Envelope.from_json(event.data or b"")
