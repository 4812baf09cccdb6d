"""The timeline of a request: what the Broker tells, in words."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import unquote

from local.broker.activity import DELIVERED, DROPPED, RETRY, Accepted, Attempted
from local.broker.event import Event
from local.display.event_form import render
from local.display.masking import masked, members_of, shortened

GOOD = "good"
BAD = "bad"
WAITING = "waiting"
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One step.

    Attributes:
        at: Unix time; 0 when it is not known.
        title: what happened.
        details: more about it, each a few words.
        tone: GOOD, BAD, WAITING or PLAIN.
        due_at: Unix time of the next attempt; None when none is waited for.
        event: masked; None when the step has none of its own.
        other: number and id of another request that this is about; None when it is about none.
    """

    at: float
    title: str
    details: tuple[str, ...] = ()
    tone: str = PLAIN
    due_at: float | None = None
    event: Event | None = None
    other: tuple[int, str] | None = None

    def document(self) -> dict[str, object]:
        """Return what the page shows; the event in event_display's form."""
        return {
            "at": self.at,
            "title": self.title,
            "details": self.details,
            "tone": self.tone,
            "due_at": self.due_at,
            "event": "" if self.event is None else render(self.event),
            "other": self.other,
        }


def published(fact: Accepted, *, is_again: bool) -> list[Entry]:
    """Tell how the event of a request came to the Broker."""
    entries = []
    attributes = fact.event.attributes
    if fact.reply_to is not None:
        entries.append(Entry(at=fact.at, title="Published as a reply"))
    elif is_again:
        entries.append(Entry(at=fact.at, title="Published again"))
    # Send counts the hops of every request that it publishes.
    elif "relayhops" in attributes:
        entries.append(Entry(at=_unix_time(attributes.get("time")), title="Accepted by Send"))
    else:
        title = f"Published by {shortened(attributes['source'])}"
        entries.append(Entry(at=_unix_time(attributes.get("time")), title=title))
    entries.append(
        Entry(
            at=fact.at,
            title="Stored by the Broker",
            details=(_wanted_by(fact),),
            event=masked(fact.event),
        )
    )
    return entries


def result(fact: Accepted, ending: str) -> Entry:
    """Tell of a result event."""
    status = members_of(fact.event.data).get("status")
    return Entry(
        at=fact.at,
        title=f"Result: {ending}",
        details=(f"the target answered {status}", _wanted_by(fact)),
        tone=GOOD if ending == "completed" else BAD,
        event=masked(fact.event),
    )


def waiting(fact: Accepted) -> Entry:
    """Tell of the event of a tier: the target is called again when it is due."""
    return Entry(
        at=fact.at,
        title="To be tried again",
        details=(*_why(fact), _wanted_by(fact)),
        tone=WAITING,
        due_at=_unix_time(fact.event.attributes.get("relaynotbefore")),
        event=masked(fact.event),
    )


def dead(fact: Accepted) -> Entry:
    """Tell of the event of a dead request."""
    return Entry(
        at=fact.at,
        title="Dead",
        details=(*_why(fact), _wanted_by(fact)),
        tone=BAD,
        event=masked(fact.event),
    )


def _why(fact: Accepted) -> list[str]:
    attributes = fact.event.attributes
    attempts = shortened(attributes.get("relayattempts", "0"))
    reason = unquote(attributes.get("relayreason", ""))
    return [*([shortened(reason)] if reason else []), f"attempt {attempts}"]


def follow_up(fact: Accepted) -> Entry:
    """Tell of another event that is about the request."""
    kind = fact.event.attributes["type"]
    title = "The target called back" if kind.endswith(".callback") else f"Event {shortened(kind)}"
    return Entry(at=fact.at, title=title, details=(_wanted_by(fact),), event=masked(fact.event))


def attempted(fact: Attempted, *, about: str) -> Entry:
    """Tell of a delivery.

    Args:
        about: which event it was, as in "the result"; "" for the request's own.
    """
    what = f" of {about}" if about else ""
    trigger = shortened(fact.trigger.partition("/")[2])
    took = f"{fact.duration_ms:.0f} ms"
    counted = f"attempt {fact.attempt}"
    if fact.next_step == DELIVERED:
        title = f"Delivery{what} by Trigger {trigger}"
        if fact.to_dead_letter_sink:
            title = f"Dead letter{what} of Trigger {trigger} delivered"
        return Entry(
            at=fact.at,
            title=title,
            details=(fact.result, counted, took),
            tone=BAD if fact.to_dead_letter_sink else GOOD,
        )
    to = f"Trigger {trigger}"
    if fact.to_dead_letter_sink:
        to = f"the dead letter sink of Trigger {trigger}"
    details = [fact.result, *_reason(fact.extensions), counted, took]
    if fact.next_step == RETRY:
        return Entry(
            at=fact.at,
            title=f"Delivery{what} by {to} failed",
            details=tuple(details),
            tone=WAITING,
            due_at=fact.at + fact.wait_s,
        )
    end = "the event is dropped" if fact.next_step == DROPPED else "goes to the dead letter sink"
    return Entry(
        at=fact.at,
        title=f"Delivery{what} by {to} failed for good",
        details=(*details, end),
        tone=BAD,
    )


def _wanted_by(fact: Accepted) -> str:
    names = [shortened(name.partition("/")[2]) for name in fact.triggers]
    if not names:
        return "no Trigger wants it"
    return f"for Trigger{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _reason(extensions: Mapping[str, str]) -> list[str]:
    """Read the problem that a subscriber answered with; nothing else of its answer is shown."""
    try:
        data = base64.b64decode(extensions.get("knativeerrordata", ""), validate=True)
    except (binascii.Error, ValueError):
        return []
    detail = members_of(data).get("detail")
    return [shortened(detail)] if isinstance(detail, str) and detail else []


def _unix_time(text: str | None) -> float:
    """Read an event's time; 0 when there is none, or none that Python can read."""
    # Python 3.10 reads microseconds and nothing finer or coarser, and no Z.
    text = re.sub(r"\.(\d+)", lambda match: f".{match[1]:0<6.6}", text or "").upper()
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def label(event: Event) -> str:
    """Say which event of a request this is."""
    endings = {
        "callback": "the callback",
        "completed": "the result",
        "failed": "the result",
        "dead": "the dead request",
        **{f"retry{tier}": f"retry {tier}" for tier in range(1, 10)},
    }
    return endings.get(event.attributes["type"].rpartition(".")[2], "an event")
