"""Receive: take request events from the Broker and make the calls they ask for.

A delivery makes at most one call. The answer steers the Broker, so it is chosen by what the Broker
does with it:

    the target answered 2xx                          200 and a `.completed` event
    3xx, or 4xx but 408, 425, 429                    200 and a `.failed` event: it is an answer
    408, 425, 429, 5xx, or no answer in time         200 and the event of the next tier, `.retryN`
    it is left alone, or has its share of calls      200 and the same, with no attempt counted
    out of tiers, or too old                         200 and a `.dead` event: the request, and why
    the event is malformed                           400: dead-lettered at once
    the target is not allowed, or a loop             403: dead-lettered at once

What comes from a tier waits here until it is due:

    a place is free                                  for its tier's delay at most; then it is due,
                                                     or 200 and the event of the same tier
    no place is free, or the process ends            503 with Retry-After: the Broker waits

Brokers deliver at least once, and so without a call:

    this attempt was made, or the request is done    200 and its event, as at the first time
    the request is cancelled                         202, and nothing else
    another delivery of it is calling the target     503: the Broker comes again

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
from relay.backends import open_store
from relay.claims import Claims
from relay.envelope import IDEMPOTENT, Envelope, fingerprint, read_envelope
from relay.events import FAILED, JSON, RESULTS, Event, reply, written_bytes
from relay.gate import Gate
from relay.headers import Headers, find, is_json, retry_after_s
from relay.http import Request, Response, brokers_problem, read_body
from relay.leaving import Caller
from relay.lifecycle import Attempt, Busy, Made
from relay.places import Places, fair
from relay.problems import (
    DeadlineExceeded,
    InvalidRequest,
    LoopDetected,
    MethodNotAllowed,
    RelayError,
    StateUnavailable,
    TargetAvoided,
    TargetFailed,
    TargetNotAllowed,
    TooBusy,
)
from relay.progress import ATTEMPTS, Events, Progress, Why
from relay.records import ROUND, Known, Records, asked_by, result_id
from relay.results import Result, with_callback
from relay.retries import Again, Dead, Retries, ending_of
from relay.settings import Settings
from relay.store import CANCELLED, Record
from relay.targets import TargetClient
from relay.tracing import PASSED_ON, as_attributes, context_in, next_hop, trace_id

log = logging.getLogger(__name__)

# A delivery that waits for its target's share holds up what comes by the same Trigger.
_PATIENCE_S = 0.25
_PLAIN = (("Accept-Encoding", "identity"),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event that a Broker delivers, the call that it asks for, and how far that has come.

    Args:
        asked: what it says of its request.
        callback: what its caller asked for, as it is written.
        trace: the headers that go along with the call.
        broker: the Broker's connection, which waits for the answer.
    """

    event: Event
    envelope: Envelope
    asked: Record
    callback: str | None
    progress: Progress
    trace: Headers
    broker: Caller

    def attempted(self) -> Delivery:
        """Return it as it is after the call."""
        progress = replace(self.progress, attempts=self.progress.attempts + 1)
        return replace(self, progress=progress)


class Receive:
    """The CloudEvent function.

    Args:
        settings: all but those of Send's own routes count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        store = open_store(
            settings.state_url, ttl_s=settings.state_ttl_s, max_bytes=settings.state_max_bytes
        )
        self._records = Records(store, settings)
        self._claims = Claims(self._records)
        self._retries = Retries(delays_s=settings.retry_delays_s, max_age_s=settings.max_age_s)
        self._events = Events(event_type=settings.event_type, source=settings.event_source)
        self._gate = Gate(settings)
        # What comes from one tier is brought by one Trigger; no event can name a tenth tier.
        rule = fair(settings.trigger_places)
        self._calls = [Places(rule, patience_s=_PATIENCE_S) for _ in range(10)]
        # A request that waits holds a thread; a quarter of them stays for calls and probes.
        places = min(settings.waiting_places, max(1, settings.threads * 3 // 4))
        self._places = threading.BoundedSemaphore(places)

    def answer(self, request: Request) -> Response:
        """Answer what a Broker sends.

        Raises:
            MethodNotAllowed: it is no delivery.
        """
        if request.method != "POST":
            raise MethodNotAllowed(request.method, request.path[:200], ("POST",))
        try:
            limit_bytes = self._settings.max_delivery_bytes
            body = read_body(request, limit_bytes, setting="2 * MAX_EVENT_BYTES")
            delivery = self.read(request.headers, body, request.caller)
        except RelayError as exc:
            return refusal(exc)
        return self.handle(delivery)

    def read(
        self, headers: Mapping[str, str], body: bytes, broker: Caller | None = None
    ) -> Delivery:
        """Read the event that a Broker delivers.

        The trace context of an event that carries none is the delivery's own.

        Raises:
            InvalidRequest: see `Event.from_http`, `Progress.of` and `read_envelope`.
        """
        event = Event.from_http(headers, body)
        logs.note(id=event.id, type=event.type)
        came = {name: headers[name] for name in PASSED_ON if name in headers}
        if "traceparent" in event.attributes:  # its trace is the one; what else came may be kept
            came.pop("tracestate", None)
        carried = {**as_attributes(tuple(came.items())), **event.attributes}
        trace = logs.join(context_in(carried))
        logs.note(trace=trace_id(dict(trace).get("traceparent")))
        event = event.having(as_attributes(trace))
        progress = Progress.of(event, self._settings.event_type, time.time())
        logs.note(id=progress.request_id)
        if not is_json(event.attributes.get("datacontenttype", JSON)):
            what = "must be application/json: the data is an envelope"
            raise InvalidRequest("Content-Type", what)
        envelope, document = read_envelope(event.data)
        print_, target = fingerprint(document), envelope.target.origin.authority
        return Delivery(
            event=event,
            envelope=envelope,
            asked=asked_by(event, progress.request_id, print_, target),
            callback=document.texts.get("callback"),
            progress=progress,
            trace=trace,
            broker=broker or Caller(),
        )

    def handle(self, delivery: Delivery) -> Response:
        """Make the call that an event asks for and answer the Broker; nothing is raised."""
        pause_s, due = self._retries.pause(delivery.progress, time.time())
        if pause_s and (reason := self._wait(delivery.broker, pause_s)):
            reason = f"the request is not due yet, and {reason}"
            return _come_again(reason, math.ceil(pause_s))
        # A Broker that has left delivers again: a call that is made now would be made twice.
        if delivery.broker.has_left:
            return _come_again("the Broker has left")
        if not due:
            decision = self._retries.early(delivery.progress, time.time())
            return self._follow(delivery, decision, Why.of(delivery.event))
        claim = self._claim(delivery)
        if isinstance(claim, Busy):
            reason = "another delivery of this request is calling the target"
            return _come_again(reason, claim.retry_after_s)
        if isinstance(claim, Known | Made):
            return self._as_before(delivery, claim)
        if claim.caller is None:
            return self._attempt(delivery, claim)
        with self._claims.held(delivery.progress.request_id, claim.caller):
            return self._attempt(delivery, claim)

    def _wait(self, broker: Caller, pause_s: float) -> str:
        """Wait, if there is a place; return why it was not to the end."""
        if not self._places.acquire(blocking=False):
            return "no place to wait is free (WAITING_PLACES)"
        try:
            waited = broker.wait(pause_s)
        finally:
            self._places.release()
        return "" if waited else "this process is ending, or the Broker has left"

    def _claim(self, delivery: Delivery) -> Attempt | Busy | Made | Known:
        """Claim the call; without the state it is made all the same, uncounted."""
        try:
            return self._records.claim(delivery.asked, delivery.progress.attempts + 1)
        except StateUnavailable as exc:
            log.warning("the call is made without a claim on it: %s", exc.detail)
            return Attempt()

    def _as_before(self, delivery: Delivery, known: Known | Made) -> Response:
        """Answer a delivery whose attempt was made, or whose request is over, as it was then."""
        if isinstance(known, Made):
            return self._again(delivery.attempted(), Why(known.error), known.next_in_s)
        record = known.record
        logs.note(attempt=record.attempts or None)
        if known.status == CANCELLED:
            logs.explain("the request is cancelled", logging.INFO)
            return Response.empty(HTTPStatus.ACCEPTED)
        if known.status not in RESULTS:
            why = Why.from_reason(json.loads(record.reason or "{}"))
            return self._follow(delivery, Dead(too_old=False), why)
        answer = known.answer
        if answer is None:
            status = record.answer_status or HTTPStatus.OK
            lost = Result(status=status, headers=(), reason="the answer is no longer kept")
            answer = lost.to_json(self._settings.max_event_bytes)
        return self._result(delivery, known.status, answer, record.attempts)

    def _attempt(self, delivery: Delivery, claim: Attempt) -> Response:
        """Make the call, if it may be made now."""
        places = self._calls[delivery.progress.tier]
        try:
            with self._gate.passing(delivery.envelope.target.origin, places):
                return self._call(delivery, claim)
        except TargetAvoided as exc:
            decision = self._retries.without_call(delivery.progress, time.time())
            self._note_failed(delivery, claim, exc.detail, decision, made=False)
            return self._follow(delivery, decision, Why(exc.detail))
        except (TargetFailed, DeadlineExceeded) as exc:
            return self._again(delivery.attempted(), Why(exc.detail), claim=claim)
        except RelayError as exc:
            self._note_failed(delivery, claim, exc.detail, None)
            return refusal(exc, claim.number)

    def _call(self, delivery: Delivery, claim: Attempt) -> Response:
        request_id, method = delivery.progress.request_id, delivery.envelope.method or "POST"
        attempts = claim.number or delivery.progress.attempts + 1
        logs.note(attempt=attempts)
        answer = self._targets.call(
            delivery.envelope,
            method=method,
            hops=next_hop(delivery.event.attributes.get("relayhops")),
            headers=(*_PLAIN, ("Idempotency-Key", request_id), *delivery.trace),
        )
        ending = ending_of(answer.status)
        if ending is None:
            answer.close()
            why = Why(f"the target answered {answer.status}", status=answer.status)
            next_in_s = retry_after_s(find(answer.headers, "Retry-After"))
            return self._again(delivery.attempted(), why, next_in_s, claim=claim)
        # What is done may not be done again because its answer broke off, unless that is harmless.
        harmless = method in IDEMPOTENT
        body, lack = answer.read(self._settings.max_result_bytes, or_less=not harmless)
        result = Result(status=answer.status, headers=answer.headers, body=body, reason=lack)
        written = result.to_json(self._settings.max_event_bytes)
        if not claim.is_strange:
            # Before the Broker hears of it: should its delivery come again, nothing is done twice.
            request = self._events.request(delivery.event) if ending == FAILED else None
            try:
                self._records.finish(
                    *(delivery.asked, ending, result.status, written, attempts),
                    request=request,
                    attempt=claim,
                )
            except StateUnavailable as exc:
                log.warning("the outcome is not noted: %s", exc.detail)
        return self._result(delivery, ending, written, attempts)

    def _again(
        self,
        delivery: Delivery,
        why: Why,
        next_in_s: float | None = None,
        *,
        claim: Attempt | None = None,
    ) -> Response:
        """Answer after a call without an outcome.

        Args:
            next_in_s: when the target wants to be called again.
            claim: on the call, unless it was made before.
        """
        progress, now_s = delivery.progress, time.time()
        decision = self._retries.after_failure(progress, retry_after_s=next_in_s, now_s=now_s)
        if claim is not None:
            self._note_failed(delivery, claim, why.reason, decision)
        return self._follow(delivery, decision, why)

    def _note_failed(
        self,
        delivery: Delivery,
        claim: Attempt,
        error: str,
        decision: Again | Dead | None,
        *,
        made: bool = True,
    ) -> None:
        if claim.caller is None:
            return
        next_in_s = decision.not_before_s - time.time() if isinstance(decision, Again) else None
        try:
            self._records.attempt_failed(
                delivery.progress.request_id, claim, error=error, next_in_s=next_in_s, made=made
            )
        except StateUnavailable as exc:
            log.warning("the failed attempt is not noted: %s", exc.detail)

    def _follow(self, delivery: Delivery, decision: Again | Dead, why: Why) -> Response:
        """Answer with the event of a tier, or with that of a dead request."""
        event, progress = delivery.event, delivery.progress
        if isinstance(decision, Again):
            wait_s = max(0.0, decision.not_before_s - time.time())
            logs.explain(f"{why.reason}; again in {wait_s:.3g} s", logging.WARNING)
            waiting = self._events.waiting(
                event, progress, why, tier=decision.tier, not_before_s=decision.not_before_s
            )
            return waiting.to_response()
        if decision.too_old:
            age = f"; it is older than {self._retries.longest_s:g} s (MAX_AGE_S)"
            why = replace(why, reason=why.reason + age)
        logs.explain(f"{why.reason}; the request is dead", logging.WARNING)
        return self._events.dead(event, progress, why).to_response()

    def _result(self, delivery: Delivery, ending: str, answer: bytes, attempts: int) -> Response:
        """Answer with the event that tells of an answer, and the callback that was asked for."""
        event, request_id = delivery.event, delivery.progress.request_id
        more = {name: event.attributes[name] for name in (MAC, ROUND) if name in event.attributes}
        if attempts:
            more[ATTEMPTS] = str(attempts)
        # The id is the same for every delivery of the same event: so a repeated result can be told
        # from that of a retry.
        own_id = result_id(request_id, ending, delivery.asked.round)
        more |= {"subject": request_id, "datacontenttype": JSON, **as_attributes(delivery.trace)}
        told, _ = self._events.event(own_id, more, ending).to_http()
        room = self._settings.max_event_bytes - written_bytes(told)
        return reply(told, with_callback(answer, delivery.callback, room))


def refusal(error: RelayError, attempts: int = 0) -> Response:
    """Answer the Broker for an event that asks for nothing that can be done, or not now."""
    if isinstance(error, TooBusy):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, TargetNotAllowed | LoopDetected):
        status = HTTPStatus.FORBIDDEN
    else:
        status = HTTPStatus.BAD_REQUEST
    logs.explain(error.detail, logging.WARNING)
    members: dict[str, str | int | float] = {"attempts": attempts} if attempts else {}
    return brokers_problem(status, error.detail, headers=error.headers, members=members)


def _come_again(reason: str, after_s: int = 1) -> Response:
    return refusal(TooBusy(reason, headers=(("Retry-After", str(after_s)),)))
