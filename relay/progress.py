"""How far a request has come, as the events that follow from its own say.

    `<EVENT_TYPE>.retryN`   it waits in a tier, and is tried again
    `<EVENT_TYPE>.dead`     it is given up

Both have the data of the request event, unchanged, and its extensions; the subject is its id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
        return cls(
            request_id=request_id_of(event, event_type),
            tier=_tier_of(event, event_type),
            attempts=attempts_of(event),
            since_s=min(_timestamp(event.attributes.get(_SINCE)) or now_s, now_s),
            not_before_s=_timestamp(event.attributes.get(_NOT_BEFORE)) or 0.0,
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
class Followers:
    """Make the events that follow from a request event, and the request event from one of them.

    Each has the request's data unchanged, and its own id for each request: copies can be told.

    Args:
        event_type, source: of request events, as this relay makes them.
    """

    event_type: str
    source: str

    def waiting(
        self, event: Event, progress: Progress, why: Why, *, tier: int, not_before_s: float
    ) -> Event:
        """Make the event of a tier."""
        times = {
            _SINCE: rfc3339(progress.since_s),
            _NOT_BEFORE: rfc3339(not_before_s),
        }
        return self._following(event, f"{RETRY}{tier}", progress, why, times)

    def dead(self, event: Event, progress: Progress, why: Why) -> Event:
        """Make the event of a request that is given up."""
        return self._following(event, DEAD, progress, why, {})

    def request(self, event: Event) -> Event:
        """Return the request event that one of a tier, or of a dead request, has come from.

        Args:
            event: one of these, whose subject is the request's id, or a request event itself.
        """
        attributes = _carried(event)
        follows = _tier_of(event, self.event_type) or event.type == f"{self.event_type}.{DEAD}"
        # Without a subject it cannot be told what the event follows from.
        if follows and (subject := event.attributes.get("subject")):
            attributes = {name: value for name, value in attributes.items() if name not in _OWN}
            attributes["id"] = subject
            attributes |= {"type": self.event_type, "source": self.source}
        return replace(event, attributes=attributes)

    def _following(
        self, event: Event, ending: str, progress: Progress, why: Why, more: dict[str, str]
    ) -> Event:
        carried = {name: value for name, value in _carried(event).items() if name not in _OWN}
        attributes = {
            **carried,
            "id": f"{progress.request_id}.{ending}",
            "source": self.source,
            "type": f"{self.event_type}.{ending}",
            "subject": progress.request_id,
            ATTEMPTS: str(progress.attempts),
            **why.attributes(),
            **more,
        }
        return Event(attributes=attributes, data=event.data)


def request_id_of(event: Event, event_type: str) -> str:
    """Return the id of the request that an event is of: its own, or its subject.

    Raises:
        InvalidRequest: it follows from a request event and does not name it.
    """
    outcomes = [f"{event_type}.{ending}" for ending in (*RESULTS, DEAD)]
    if event.type not in outcomes and not _tier_of(event, event_type):
        return event.id
    if not event.attributes.get("subject"):
        raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
    return event.attributes["subject"]


def attempts_of(event: Event) -> int:
    """Return how often the target was called; 0 when the event does not say."""
    return _number(event, ATTEMPTS)


def _number(event: Event, name: str) -> int:
    text = event.attributes.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0


def _carried(event: Event) -> dict[str, str]:
    """Leave out what a Broker has added, and how far the request has come."""
    return {
        name: value
        for name, value in event.attributes.items()
        if name not in _PROGRESS and not name.startswith("knative")
    }


def _tier_of(event: Event, event_type: str) -> int:
    match = re.fullmatch(rf"{re.escape(event_type)}\.{RETRY}([1-9])", event.type, re.ASCII)
    return 0 if match is None else int(match[1])


def _timestamp(text: str | None) -> float | None:
    """Read a time as `rfc3339` writes it."""
    try:
        moment = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()
