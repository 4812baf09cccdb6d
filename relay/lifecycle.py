"""The life of a request, step by step: what each event makes of its record, without side effects.

    (none) --> publishing --> open --> completed
                  ^   |         |
                  |   +---------+--> cancelled
                  +-- dead, <---+
                      failed

A result outweighs a dead letter: whatever a second delivery of the same event ran into, the target
has answered. A request is `unknown` when it may never have been published, or nothing was heard of
it for longer than its retries can take; then, and when it is dead, it may be published again. One
that failed is published again only when somebody asks for that. What was never called can be
cancelled: Receive looks here before each call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from relay.events import COMPLETED, DEAD, FAILED
from relay.problems import Conflict, KeyReused
from relay.store import CANCELLED, OPEN, PUBLISHING, Record

ACCEPTED: Final = "accepted"
UNKNOWN: Final = "unknown"

# A caller's claim on its request ends so long after it was last renewed. Short, since the Broker's
# retries meanwhile are in vain: a process that dies in a call must not use them all up.
LEASE_MS: Final = 6_000
# How soon a caller that finds its request being published is to come again.
_PUBLISHED_SOON_S: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """How long things take, in milliseconds.

    Args:
        now_ms: since 1970.
        ttl_ms: for how long a request is remembered after it was last heard of.
        publishing_ms: the longest that publishing may take.
        quiet_ms: longer than there can be nothing to be heard of a request that is on its way.
    """

    now_ms: int
    ttl_ms: int
    publishing_ms: int
    quiet_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A call that may be made now.

    Args:
        caller: the claim's name; None when there is no claim.
        number: which call it is for the request; 0 when it is not counted.
        record: as the claim left it.
        is_strange: the record of this id is that of another event; nothing is noted.
    """

    caller: str | None = None
    number: int = 0
    record: Record | None = None
    is_strange: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Somebody else is making the call."""

    retry_after_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """The call was made, and failed.

    Args:
        error: why.
        next_in_s: when there is another, if one is waited for.
    """

    error: str
    next_in_s: float | None


def status_of(record: Record, times: Times) -> str:
    """Return what a caller is told: accepted, completed, failed, dead, cancelled or unknown."""
    if record.state not in (PUBLISHING, OPEN):
        return record.state
    return ACCEPTED if times.now_ms < record.unknown_ms else UNKNOWN


def accept(
    record: Record | None,
    times: Times,
    *,
    request_id: str,
    fingerprint: str,
    target: str,
    publisher: str,
    may_repeat: bool = True,
) -> tuple[Record, Record]:
    """Take a request that a caller hands over.

    Args:
        may_repeat: its caller chose the key. No one else knows the key before the Broker has the
            request, so that it need not be told from one that is being published.

    Returns:
        the record, twice. `publisher` is its publisher if it is to be published now; otherwise it
        is on its way already, or done.

    Raises:
        KeyReused: the key is that of another request.
        Conflict: somebody is publishing it at this moment.
    """
    # Without a fingerprint it cannot be told that it is the same request.
    if record is None or record.fingerprint is None:
        record = Record(
            id=request_id,
            state=PUBLISHING if may_repeat else OPEN,
            expires_ms=0,
            fingerprint=fingerprint,
            target=target,
            accepted_ms=times.now_ms,
            publisher=publisher,
            publishing_until_ms=times.now_ms + times.publishing_ms,
        )
        record = _heard(record, times)
        return record, record
    if record.publisher == publisher:
        return record, record
    if record.fingerprint != fingerprint:
        raise KeyReused(
            f"Idempotency-Key {request_id} is that of a request with another envelope or method;"
            " a new request needs a new key"
        )
    status = status_of(record, times)
    if status == ACCEPTED and record.state == PUBLISHING:
        raise Conflict(
            f"{request_id} is being published at this moment; send it again to hear how that ended",
            headers=(("Retry-After", str(_PUBLISHED_SOON_S)),),
        )
    if status in (DEAD, UNKNOWN):
        record = publish_again(record, times, publisher=publisher)
    return record, record


def publish_again(record: Record, times: Times, *, publisher: str) -> Record:
    """Begin to publish a request that is over, which begins a new round, or unknown."""
    is_over = record.state in (DEAD, FAILED)
    return _heard(
        record,
        times,
        state=PUBLISHING,
        accepted_ms=record.accepted_ms or times.now_ms,
        publisher=publisher,
        publishing_until_ms=times.now_ms + times.publishing_ms,
        before=record.state if is_over else UNKNOWN,
        round=record.round + is_over,
        earlier_attempts=record.attempts if is_over else record.earlier_attempts,
        error=None,
        next_attempt_ms=None,
    )


def published(
    record: Record | None, times: Times, *, publisher: str | None, is_known: str
) -> tuple[Record | None, None]:
    """Note how a publication ended, and take back what this publisher began, and nothing else.

    Args:
        is_known: whether the Broker has the request: `yes`, `no` or `unknown`; then it may be
            published again.
    """
    if record is None or record.publisher != publisher:
        return record, None
    is_called = record.attempts > record.earlier_attempts
    if is_known == "yes":
        return _heard(record, times, state=OPEN) if record.state == PUBLISHING else record, None
    if record.state not in (PUBLISHING, OPEN) or (record.state == OPEN and is_called):
        return record, None  # the event has been seen
    if is_known == "no" and record.before is None:
        return None, None
    if is_known == "no" and record.before in (DEAD, FAILED):
        before, round = record.before, record.round - 1
        return record._replace(state=before, publisher=None, round=round), None
    now_ms = times.now_ms
    unsure = record._replace(state=PUBLISHING, publishing_until_ms=now_ms, unknown_ms=now_ms)
    return unsure, None


def cancel(record: Record | None, times: Times) -> tuple[Record | None, Record | None]:
    """Cancel a request whose target was never called; return its record twice.

    Raises:
        Conflict: it is too late.
    """
    if record is None or record.state == CANCELLED:
        return record, record
    if record.state not in (PUBLISHING, OPEN):
        raise Conflict(f"{record.id} is {record.state}; only an open request can be cancelled")
    if record.attempts:
        raise Conflict(f"{record.id} cannot be cancelled any more: its target has been called")
    record = _heard(record, times, state=CANCELLED, finished_ms=times.now_ms, **_NOT_OPEN)
    return record, record


def claim(
    record: Record | None, times: Times, *, asked: Record, caller: str, attempt: int
) -> tuple[Record | None, Attempt | Busy | Made | None]:
    """Claim a call for a request.

    Args:
        asked: what its event says, which is all that is known where there is no record.
        attempt: which call of its round it is, as the event says that was delivered.

    Returns:
        the record and what may be done; None when the request is over.
    """
    record, round = record or asked, asked.round
    if record.fingerprint not in (None, asked.fingerprint):
        # Somebody else's event with the same id; it must not be taken for a copy.
        return record, Attempt(is_strange=True)
    is_over = record.state in (DEAD, FAILED) and round <= record.round
    if is_over or record.state in (COMPLETED, CANCELLED):
        return record, None
    is_mine = record.caller == caller
    if record.caller is not None and not is_mine and times.now_ms < record.calling_until_ms:
        wait_ms = record.calling_until_ms - times.now_ms
        return record, Busy(retry_after_s=math.ceil(wait_ms / 1000))
    if not is_mine:
        earlier = record.earlier_attempts if round <= record.round else record.attempts
        made = record.attempts - earlier
        # A process that died in a call has not said how it ended: the call is made again.
        is_known = attempt < made or (attempt == made and record.caller is None)
        if is_known or round < record.round:
            left_ms = (record.next_attempt_ms or 0) - times.now_ms
            next_in_s = left_ms / 1000 if left_ms > 0 else None
            return record, Made(error=record.error or "the call failed", next_in_s=next_in_s)
        record = _heard(
            record,
            times,
            state=OPEN,
            round=max(round, record.round),
            attempts=earlier + attempt,
            earlier_attempts=earlier,
            caller=caller,
            calling_until_ms=times.now_ms + LEASE_MS,
            next_attempt_ms=None,
        )
    return record, Attempt(caller=caller, number=record.attempts, record=record)


def renew(record: Record | None, times: Times, *, caller: str) -> tuple[Record | None, None]:
    """Keep a claim for longer, while the call goes on."""
    if record is None or record.caller != caller:
        return record, None
    return _heard(record, times, calling_until_ms=times.now_ms + LEASE_MS), None


def attempt_failed(
    record: Record | None,
    times: Times,
    *,
    caller: str,
    error: str,
    next_attempt_ms: int | None,
    made: bool = True,
) -> tuple[Record | None, None]:
    """Give a claim back after a call that is to be tried again, or was not made after all."""
    if record is None or record.caller != caller:
        return record, None
    record = _heard(
        record,
        times,
        caller=None,
        calling_until_ms=0,
        error=error,
        next_attempt_ms=next_attempt_ms,
        attempts=record.attempts - (not made),
    )
    return record, None


def finish(
    record: Record | None,
    times: Times,
    *,
    asked: Record,
    ending: str,
    answer_status: int,
    attempts: int,
) -> tuple[Record, str]:
    """Note the target's answer; the first one counts.

    Args:
        asked: what its event says; how an earlier round failed says nothing of this one. Of another
            request nothing is noted.
        ending: `completed` or `failed`.
        attempts: how many calls it took, as the result says.

    Returns:
        the record, and its state.
    """
    record, round = record or asked, asked.round
    is_old = ending == FAILED and round < record.round
    is_over = record.state == COMPLETED or (record.state == FAILED and round <= record.round)
    prints = {record.fingerprint, asked.fingerprint} - {None}
    if is_old or is_over or len(prints) == 2:
        return record, record.state
    record = _heard(
        record,
        times,
        state=ending,
        fingerprint=record.fingerprint or asked.fingerprint,
        finished_ms=times.now_ms,
        attempts=max(attempts, record.attempts),
        round=max(round, record.round),
        answer_status=answer_status,
        reason=None,
        **_NOT_OPEN,
    )
    return record, ending


def die(
    record: Record | None, times: Times, *, asked: Record, reason: str, attempts: int
) -> tuple[Record, bool]:
    """Note a dead letter; that of an earlier round says nothing of this one.

    Returns:
        the record, and whether the request is dead now, of that death.
    """
    record, round = record or asked, asked.round
    is_answered = record.state == FAILED and round <= record.round
    if is_answered or record.state in (COMPLETED, CANCELLED) or round < record.round:
        return record, False
    if record.state == DEAD and round == record.round:
        return record, True
    record = _heard(
        record,
        times,
        state=DEAD,
        finished_ms=times.now_ms,
        fingerprint=record.fingerprint or asked.fingerprint,
        attempts=max(attempts, record.attempts),
        round=round,
        reason=reason,
        **_NOT_OPEN,
    )
    return record, True


_NOT_OPEN: Final = {
    "publisher": None,
    "before": None,
    "caller": None,
    "calling_until_ms": 0,
    "error": None,
    "next_attempt_ms": None,
}


def _heard(record: Record, times: Times, **changes: Any) -> Record:
    """Change a record and remember it for longer."""
    record = record._replace(expires_ms=times.now_ms + times.ttl_ms, **changes)
    if record.state == PUBLISHING:
        unknown_ms = record.publishing_until_ms
    else:
        latest_ms = max(times.now_ms, record.calling_until_ms, record.next_attempt_ms or 0)
        unknown_ms = latest_ms + times.quiet_ms
    return record._replace(unknown_ms=unknown_ms)
