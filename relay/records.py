"""What is known of each request: each step of its life is noted in the store, and read back."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from relay import lifecycle
from relay.bodies import readable
from relay.events import CALLBACK, COMPLETED, DEAD, FAILED, JSON, RESULTS, Event
from relay.jsons import dumps
from relay.leaving import Caller
from relay.lifecycle import ACCEPTED, UNKNOWN, Attempt, Busy, Made, Times
from relay.logs import rfc3339
from relay.problems import CallerLeft, Conflict, RelayError, StateUnavailable
from relay.settings import Settings
from relay.store import (
    CANCELLED,
    OPEN,
    PUBLISHING,
    TRIES,
    Guess,
    Listing,
    Place,
    Record,
    Store,
    T,
    Whole,
    callbacks_of,
    unlike_any,
)

STATUSES: Final = (ACCEPTED, COMPLETED, FAILED, DEAD, CANCELLED, UNKNOWN)
MAX_CALLBACKS: Final = 20
# Which attempt to complete a request an event belongs to; the first does not say so.
ROUND: Final = "relayround"

# What may pass between a record and the publication that it is for, and after.
_PUBLISHING_SLACK_S: Final = 2.0
# Without a word for so long, and the time of its calls, a request is not on its way any more: each
# time that it waits is noted, and how long.
_QUIET_S: Final = 600.0
_CALLS: Final = 6
# A waiting caller is woken by the end of its request; it looks so often in case that was lost.
_LOOK_S: Final = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of a request at a moment.

    Args:
        record: as the store has it.
        status: one of `STATUSES`.
        answer: the target's, as JSON, once it has answered for good; None when it is not kept, or
            was not read.
        callbacks: what the target called back with, as JSON, in the order it came.
        callbacks_left_out: how many more came than are kept.
    """

    record: Record
    status: str
    answer: bytes | None = None
    callbacks: tuple[bytes, ...] = ()
    callbacks_left_out: int = 0


class Records:
    """Note and read what becomes of requests.

    Args:
        store: where it is kept.
        settings: `max_result_bytes`, `state_ttl_s`, `publish_timeout_s` and `target_timeout_s`
            count.

    Every method raises `StateUnavailable` when the store cannot be reached or is full.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._ttl_s = settings.state_ttl_s
        self._callbacks_bytes = settings.max_result_bytes
        self._publishing_ms = int(1000 * (settings.publish_timeout_s + _PUBLISHING_SLACK_S))
        self._quiet_ms = int(1000 * (_QUIET_S + _CALLS * settings.target_timeout_s))

    def accept(
        self, request_id: str, *, fingerprint: str, target: str, may_repeat: bool
    ) -> tuple[Known, bool]:
        """Note a request before it is published, so that its outcome cannot come first.

        See `lifecycle.accept`.

        Returns:
            what is known of it, and whether it is to be published, in `publishing`.
        """
        publisher = unlike_any()
        record = self._change(
            request_id,
            lifecycle.accept,
            guess=(None, None),
            version=publisher,
            request_id=request_id,
            fingerprint=fingerprint,
            target=target,
            publisher=publisher,
            may_repeat=may_repeat,
        )
        return self._known(record), record.publisher == publisher

    def retry(self, request_id: str) -> tuple[Known, Event] | None:
        """Take the event of a request that is over, to be published in `publishing`.

        Returns:
            None when there is no such request.

        Raises:
            Conflict: it is neither dead nor failed, or its event is not kept.
        """
        times, publisher = self._times(), unlike_any()
        kept = self._store.event(request_id)

        def step(record: Record | None) -> tuple[Record | None, Record | None]:
            if record is None or record.publisher == publisher:
                return record, record
            status = lifecycle.status_of(record, times)
            if status not in (DEAD, FAILED) and (status != UNKNOWN or kept is None):
                raise Conflict(
                    f"{request_id} is {status}; only a dead or failed request can be sent again"
                )
            if kept is None:
                raise Conflict(
                    f"the event of {request_id} is no longer kept; send its envelope again, with"
                    " another Idempotency-Key"
                )
            record = lifecycle.publish_again(record, times, publisher=publisher)
            return record, record

        record = self._store.change(request_id, step, version=publisher)
        if record is None or kept is None:
            return None
        return self._known(record), _event_from(kept, record.round)

    def cancel(self, request_id: str) -> Known | None:
        """Cancel a request, see `lifecycle.cancel`; None if there is no such request."""
        record = self._change(request_id, lifecycle.cancel)
        return None if record is None else self._known(record)

    @contextlib.contextmanager
    def publishing(self, record: Record) -> Iterator[None]:
        """Publish a request in the block; how that ends is noted as far as the store can be had."""
        try:
            yield
        except RelayError as exc:
            self._published(record, str(exc.members.get("published", "no")))
            raise
        if record.state == PUBLISHING:
            self._published(record, "yes")

    def _published(self, record: Record, is_known: str) -> None:
        try:
            self._change(
                record.id,
                lifecycle.published,
                guess=(record.publisher, record),
                publisher=record.publisher,
                is_known=is_known,
            )
        except StateUnavailable as exc:
            log.warning("how the publication ended is not noted: %s", exc.detail)

    def claim(self, asked: Record, attempt: int) -> Attempt | Busy | Made | Known:
        """Claim a call for a request; see `lifecycle.claim`.

        Returns:
            the attempt that may be made; that somebody else is making it, or has; or what is known,
            when the request is over.
        """
        caller = unlike_any()
        answer: Attempt | Busy | Made | None = self._change(
            asked.id,
            lifecycle.claim,
            version=caller,
            asked=asked,
            caller=caller,
            attempt=attempt,
        )
        return answer or self.read(asked.id) or Attempt()  # expired at this very moment

    def renew(self, request_id: str, caller: str) -> None:
        """Keep a claim for longer."""
        self._change(request_id, lifecycle.renew, caller=caller)

    def attempt_failed(
        self,
        request_id: str,
        attempt: Attempt,
        *,
        error: str,
        next_in_s: float | None,
        made: bool = True,
    ) -> None:
        """Note that a claimed call failed, and in how many seconds about there is another.

        Args:
            made: else it was not made after all, and does not count.
        """
        next_ms = None if next_in_s is None else self._store.now_ms() + int(next_in_s * 1000)
        self._change(
            request_id,
            lifecycle.attempt_failed,
            guess=_as_claimed(attempt),
            caller=attempt.caller,
            error=error,
            next_attempt_ms=next_ms,
            made=made,
        )

    def finish(
        self,
        asked: Record,
        ending: str,
        status: int,
        answer: bytes,
        attempts: int,
        *,
        request: Event | None = None,
        attempt: Attempt | None = None,
    ) -> str:
        """Note the target's answer, see `lifecycle.finish`; return the ending that counts.

        Args:
            answer: the data of its result event.
            request: the request's own event, to be kept with an answer that says no, so that it
                can be sent again.
            attempt: that brought it, if it is known.
        """
        return self._change(
            asked.id,
            lifecycle.finish,
            answer=answer,
            event=None if request is None else _event_to_bytes(request),
            guess=None if attempt is None else _as_claimed(attempt),
            asked=asked,
            ending=ending,
            answer_status=status,
            attempts=attempts,
        )

    def die(self, asked: Record, event: Event, reason: Mapping[str, object]) -> bool:
        """Note a dead letter, durably, and keep its event to be published again.

        Returns:
            whether its request is dead now: it may have been answered all the same.
        """
        attempts = reason.get("attempts")
        return self._change(
            asked.id,
            lifecycle.die,
            event=_event_to_bytes(event),
            durable=True,
            asked=asked,
            reason=_json(reason).decode("ascii"),
            attempts=attempts if isinstance(attempts, int) else 0,
        )

    def add_callback(self, request_id: str, event: Event) -> None:
        """Note what a target called back with; the same event delivered twice is noted once."""
        content_type = event.attributes.get("datacontenttype", JSON)
        fact: dict[str, object] = {"receivedAt": rfc3339(self._store.now_ms() / 1000)}
        if event.data:
            fact |= {"contentType": content_type, **readable(event.data, content_type)}
        key, told = callbacks_of(request_id), dumps(fact)
        for _ in range(TRIES):
            old = self._store.fact(key)
            known, left_out = _callbacks_from(old)
            if event.id in known:
                return
            size_bytes = len(told) + sum(map(len, known.values()))
            if len(known) < MAX_CALLBACKS and size_bytes <= self._callbacks_bytes:
                known[event.id] = told
            else:
                left_out += 1
            if self._store.replace_fact(key, old, _callbacks_to(known, left_out), self._ttl_s):
                return
        raise StateUnavailable("too many call back about the same request at once; try again")

    def read(self, request_id: str) -> Known | None:
        """Return what is known; None when the id is unknown, or its time is over."""
        whole = self._store.read(request_id)
        return None if whole is None else self._known(whole.record, whole)

    def wait(self, request_id: str, timeout_s: float, caller: Caller) -> Known | None:
        """Wait until a request is no longer open, or the time is over; then read it.

        It is over at once when this process is to end.

        Raises:
            CallerLeft: it waits no longer.
        """
        until_s = time.monotonic() + timeout_s
        with self._store.waiters.waiting(request_id) as woken:
            while True:
                woken.clear()
                known = self.read(request_id)
                left_s = until_s - time.monotonic()
                if known is None or known.status != ACCEPTED or left_s <= 0:
                    return known
                caller.wait(min(left_s, _LOOK_S), woken)
                if caller.is_gone:
                    if caller.has_left:
                        raise CallerLeft
                    return known

    def listing(
        self, status: str, *, target: str | None = None, since_ms: int | None = None
    ) -> Listing:
        """Say which requests are meant.

        Args:
            status: one of `STATUSES`.
            target: only calls to this authority.
            since_ms: only those that ended, or became unknown, at this time or later; of accepted
                ones, those of which something was heard then.
        """
        now_ms = self._store.now_ms()
        if status == ACCEPTED:
            since_ms = 0 if since_ms is None else since_ms + self._quiet_ms
            return Listing(state=OPEN, target=target, from_ms=max(since_ms, now_ms + 1))
        if status == UNKNOWN:
            return Listing(state=OPEN, target=target, from_ms=since_ms or 0, to_ms=now_ms)
        return Listing(state=status, target=target, from_ms=since_ms or 0)

    def page(
        self, listing: Listing, *, limit: int, after: Place | None
    ) -> tuple[list[Known], Place | None]:
        """List requests without their answers; see `Store.page`."""
        records, next_page = self._store.page(listing, limit=limit, after=after)
        return [self._known(record) for record in records], next_page

    def count(self, listing: Listing) -> int:
        return self._store.count(listing)

    def _known(self, record: Record, whole: Whole | None = None) -> Known:
        status = lifecycle.status_of(record, self._times())
        if whole is None:
            return Known(record=record, status=status)
        callbacks, left_out = _callbacks_from(whole.callbacks)
        return Known(
            record=record,
            status=status,
            answer=whole.answer if status in RESULTS else None,  # not that of an earlier round
            callbacks=tuple(callbacks.values()),
            callbacks_left_out=left_out,
        )

    def _change(
        self,
        request_id: str,
        step: Callable[..., tuple[Record | None, T]],
        /,
        *,
        answer: bytes | None = None,
        event: bytes | None = None,
        durable: bool = False,
        guess: Guess | None = None,
        version: str | None = None,
        **told: object,
    ) -> T:
        """Take a step of `lifecycle`, which is told the rest; see `Store.change`."""
        times = self._times()
        return self._store.change(
            request_id,
            lambda record: step(record, times, **told),
            answer=answer,
            event=event,
            durable=durable,
            guess=guess,
            version=version,
        )

    def _times(self) -> Times:
        return Times(
            now_ms=self._store.now_ms(),
            ttl_ms=self._ttl_s * 1000,
            publishing_ms=self._publishing_ms,
            quiet_ms=self._quiet_ms,
        )


def _as_claimed(attempt: Attempt) -> Guess | None:
    """Guess that a record is as the claim on a call has left it: most calls are not renewed."""
    return None if attempt.record is None else (attempt.caller, attempt.record)


def asked_by(
    event: Event, request_id: str, fingerprint: str | None = None, target: str | None = None
) -> Record:
    """Begin a record with what an event says of its request, which may have come past Send.

    Args:
        fingerprint: of the envelope; None where only its answer is at hand.
        target: its authority, if it is known.
    """
    round = round_of(event)
    return Record(request_id, OPEN, 0, round=round, fingerprint=fingerprint, target=target)


def round_of(event: Event) -> int:
    """Read to which round of its request an event belongs."""
    value = event.attributes.get(ROUND, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 1


def with_round(event: Event, round: int) -> Event:
    """Say to which round an event belongs; without a word it is the first."""
    if round == 1:
        return event
    return replace(event, attributes={**event.attributes, ROUND: str(round)})


def result_id(request_id: str, ending: str, round: int) -> str:
    """Return the id of the event that tells how a round of a request ended."""
    return f"{request_id}.{ending}" + (f".{round}" if round > 1 else "")


def callback_id(request_id: str, ending: str, round: int) -> str:
    """Return the id of the request that brings an outcome to the caller who asked for that.

    It depends on nothing else: however often an outcome is delivered, it is one request.
    """
    return f"{result_id(request_id, ending, round)}.{CALLBACK}"


def _callbacks_to(known: Mapping[str, bytes], left_out: int) -> bytes:
    """Write callbacks: a line with the ids of their events, and how long each is; then these."""
    sizes = {event_id: len(told) for event_id, told in known.items()}
    return _json({"leftOut": left_out, "sizes": sizes}) + b"\n" + b"".join(known.values())


def _callbacks_from(raw: bytes | None) -> tuple[dict[str, bytes], int]:
    """Read the callbacks by the ids of their events, and how many are not kept."""
    head, _, rest = (raw or b'{"leftOut":0,"sizes":{}}').partition(b"\n")
    told, known = json.loads(head), {}
    for event_id, size in told["sizes"].items():
        known[event_id], rest = rest[:size], rest[size:]
    return known, told["leftOut"]


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _event_to_bytes(event: Event) -> bytes:
    """Write an event as it was published, without what the Broker has added."""
    attributes = {
        name: value for name, value in event.attributes.items() if not name.startswith("knative")
    }
    return _json(attributes) + b"\n" + (event.data or b"")


def _event_from(raw: bytes, round: int) -> Event:
    attributes, _, data = raw.partition(b"\n")
    return with_round(Event(attributes=json.loads(attributes), data=data), round)
