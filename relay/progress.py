"""How far a request has come, as the events that follow from its own say.

    `<EVENT_TYPE>.retryN`   it waits in a tier, and is tried again
    `<EVENT_TYPE>.dead`     it is given up

Both have the data of the request event, unchanged, and its extensions; the subject is its id.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from relay.events import DEAD, RESULTS, RETRY, Event
from relay.logs import rfc3339
from relay.problems import InvalidRequest

ATTEMPTS: Final = "relayattempts"
_NOT_BEFORE: Final = "relaynotbefore"
_SINCE: Final = "relaysince"
_REASON: Final = "relayreason"
_STATUS: Final = "relaystatus"
_PROGRESS: Final = frozenset({ATTEMPTS, _NOT_BEFORE, _SINCE, _REASON, _STATUS})
# What each event has of its own, however it follows from another.
_OWN: Final = frozenset({"id", "source", "specversion", "subject", "time", "type"})
_MAX_REASON: Final = 256
_TIERS: Final = {f"{RETRY}{tier}": tier for tier in range(1, 10)}
_ENDINGS: Final = frozenset({*_TIERS, *RESULTS, DEAD})


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a request has come, as its event tells; times are seconds since 1970.

    Args:
        tier: the number of the tier that it comes from; 0 for the request event itself.
        attempts: how often the target was called.
        since_s: when it was first delivered.
        not_before_s: when it is due.
    """

    request_id: str
    tier: int
    attempts: int
    since_s: float
    not_before_s: float

    @classmethod
    def of(cls, event: Event, event_type: str, now_s: float) -> Progress:
        """Read it; an extension that cannot be read counts as absent.

        Args:
            event_type: of request events.

        Raises:
            InvalidRequest: the event of a tier does not name its request.
        """
        attributes, ending = event.attributes, _ending_of(event, event_type)
        request_id = event.id if ending is None else attributes.get("subject")
        if not request_id:
            raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
        return cls(
            request_id=request_id,
            tier=_TIERS.get(ending or "", 0),
            attempts=attempts_of(event),
            since_s=min(_timestamp(attributes.get(_SINCE)) or now_s, now_s),
            not_before_s=_timestamp(attributes.get(_NOT_BEFORE)) or 0.0,
        )


@dataclass(frozen=True, slots=True)
class Why:
    """Why a request was not done.

    Args:
        reason: in one line, with nothing secret in it.
        status: what the target answered; None when it did not.
    """

    reason: str
    status: int | None = None

    @classmethod
    def of(cls, event: Event) -> Why:
        """Read it from the event of a tier, or of a dead request."""
        return cls(reason=event.attributes.get(_REASON, ""), status=_number(event, _STATUS) or None)

    @classmethod
    def from_reason(cls, reason: Mapping[str, object]) -> Why:
        """Read it from what a caller is told of a dead request."""
        status = reason.get("code")
        detail = reason.get("detail") or "the Broker could not deliver it"
        return cls(str(detail), status if isinstance(status, int) else None)

    def attributes(self) -> dict[str, str]:
        reason = {_REASON: self.reason[:_MAX_REASON]} if self.reason else {}
        return reason if self.status is None else {**reason, _STATUS: str(self.status)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """Make this relay's events: for a request, what follows from it, and the request from that.

    What follows has the request's data unchanged, and an id of its own for each request: copies
    can be told.

    Args:
        event_type, source: of request events.
    """

    event_type: str
    source: str

    def event(
        self, id_: str, more: Mapping[str, str], ending: str = "", data: bytes = b""
    ) -> Event:
        """Make an event with more attributes than its id, source and type."""
        type_ = f"{self.event_type}.{ending}" if ending else self.event_type
        own = {"id": id_, "source": self.source, "type": type_}
        return Event(attributes={**own, **more}, data=data)

    def waiting(
        self, event: Event, progress: Progress, why: Why, *, tier: int, not_before_s: float
    ) -> Event:
        """Make the event of a tier."""
        times = {_SINCE: rfc3339(progress.since_s), _NOT_BEFORE: rfc3339(not_before_s)}
        return self._following(event, f"{RETRY}{tier}", progress, why, times)

    def dead(self, event: Event, progress: Progress, why: Why) -> Event:
        """Make the event of a request that is given up."""
        return self._following(event, DEAD, progress, why, {})

    def request(self, event: Event) -> Event:
        """Return the request event that one of a tier, or of a dead request, has come from.

        Args:
            event: one of these, whose subject is the request's id, or a request event itself.
        """
        subject = event.attributes.get("subject")
        # Without a subject it cannot be told what the event follows from.
        if not subject or _ending_of(event, self.event_type) not in (*_TIERS, DEAD):
            return Event(attributes=_carried(event), data=event.data)
        return self.event(subject, _carried(event, _OWN), data=event.data)

    def _following(
        self, event: Event, ending: str, progress: Progress, why: Why, more: dict[str, str]
    ) -> Event:
        told = {"subject": progress.request_id, ATTEMPTS: str(progress.attempts)}
        more = {**_carried(event, _OWN), **told, **why.attributes(), **more}
        return self.event(f"{progress.request_id}.{ending}", more, ending, event.data)


def attempts_of(event: Event) -> int:
    """Return how often the target was called; 0 when the event does not say."""
    return _number(event, ATTEMPTS)


def _number(event: Event, name: str) -> int:
    text = event.attributes.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0


def _carried(event: Event, own: Container[str] = ()) -> dict[str, str]:
    """Leave out what a Broker has added, how far the request has come, and the event's own."""
    return {
        name: value
        for name, value in event.attributes.items()
        if name not in _PROGRESS and name not in own and not name.startswith("knative")
    }


def _ending_of(event: Event, event_type: str) -> str | None:
    """Return what the type of an event has after that of a request; None for a request's own."""
    start, _, ending = event.type.rpartition(".")
    return ending if start == event_type and ending in _ENDINGS else None


def _timestamp(text: str | None) -> float | None:
    """Read a time as `rfc3339` writes it."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()
