"""The attempts of a request: when each began and ended, and what it has come to.

Where Receive tries again itself, its replies tell of the attempts: `<type>.retryN` and
`<type>.dead` carry their number and the reason. Where the Broker does, its failed deliveries do.
"""

from __future__ import annotations

import re

from msgspec import Struct, structs

from local.broker.activity import RETRY, Accepted, Attempted
from local.display import timeline
from local.display.direct import Call
from local.display.timeline import BAD, GOOD, WAITING

_MAX_KEPT = 200
# In the relay's words for a call that was not made: which rule has stopped it is in the rest.
_NOT_CALLED = re.compile(r"cannot be reached|left alone|as many calls open|ALLOWED_TARGETS|loop")


class Attempt(Struct, frozen=True, kw_only=True):
    """One call to the target, or one that was not made.

    Attributes:
        started_at, ended_at: Unix times.
        due_at: Of the next attempt; None when there is none.
        outcome: The target's status, `no answer` or `not reached`.
        reason: In a few words; "" when the status says it all.
        tone: As a timeline entry's.
    """

    started_at: float
    ended_at: float
    outcome: str
    reason: str = ""
    tone: str = GOOD
    due_at: float | None = None


class Tries:
    """The attempts of one request.

    Attributes:
        calls: How often the target was called, as Receive has said.
    """

    def __init__(self) -> None:
        self.made: list[Attempt] = []
        self.calls = 0
        self._earlier_calls = 0

    def begin_anew(self) -> None:
        """Count on from here: the request was published again."""
        self._earlier_calls = self.calls

    def answered(self, call: Call) -> None:
        """Note the one attempt of a call that Send has made itself."""
        reason = "" if call.by_target else timeline.reason_of(call.answer.body)
        self.calls = 1
        self._add(
            Attempt(
                started_at=call.at,
                ended_at=call.at + call.duration_ms / 1000,
                outcome=str(call.status) if call.by_target else _outcome(reason),
                reason=reason,
                tone=GOOD if call.status < 400 else BAD,
            )
        )

    def failed(self, fact: Attempted) -> None:
        """Note a delivery that failed, at Receive or on the way there."""
        reason = timeline.detail_of(fact)
        is_last = fact.next_step != RETRY
        self._add(
            Attempt(
                started_at=self._called_at(fact),
                ended_at=fact.at,
                outcome=_outcome(reason) if reason else "not reached",
                reason=reason or fact.result,
                tone=BAD if is_last else WAITING,
                due_at=None if is_last else fact.at + fact.wait_s,
            )
        )

    def replied(
        self, fact: Accepted, delivery: Attempted | None, tone: str, status: str = ""
    ) -> None:
        """Note the attempt of which Receive tells by its reply to a delivery, if it was one.

        Args:
            delivery: None when it is not known.
            status: The target's, when the reply is a result.
        """
        attributes = fact.event.attributes
        told = attributes.get("relayattempts", "")
        calls = self.calls
        if re.fullmatch("[0-9]{1,6}", told, re.ASCII):
            calls = self._earlier_calls + int(told)
        reason = timeline.reason_told(fact)
        due_at = timeline.due_at(fact) or None
        last = self.made[-1] if self.made else None
        if not status and last and (calls, reason) == (self.calls, last.reason):
            # Nothing was called: it was not due yet, and waits once more.
            self.made[-1] = structs.replace(last, due_at=due_at)
            return
        self.calls = calls
        self._add(
            Attempt(
                started_at=fact.at if delivery is None else self._called_at(delivery),
                ended_at=fact.at if delivery is None else delivery.at,
                outcome=status or attributes.get("relaystatus") or _outcome(reason),
                reason="" if status else reason,
                tone=tone,
                due_at=due_at,
            )
        )

    def _add(self, attempt: Attempt) -> None:
        self.made.append(attempt)
        del self.made[:-_MAX_KEPT]

    def _called_at(self, fact: Attempted) -> float:
        """Tell when a delivery called the target: Receive may have waited until it was due."""
        started_at = fact.at - fact.duration_ms / 1000
        due_at = self.made[-1].due_at if self.made else None
        return due_at if due_at is not None and started_at < due_at < fact.at else started_at


def _outcome(reason: str) -> str:
    answered = re.match(r"the target answered ([0-9]{3})", reason)
    if answered:
        return answered[1]
    return "not reached" if _NOT_CALLED.search(reason) else "no answer"
