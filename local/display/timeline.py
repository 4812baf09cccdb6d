"""The timeline of a request: the Broker's facts in words."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from urllib.parse import unquote

import msgspec

from local.broker.activity import DELIVERED, DROPPED, RETRY, Accepted, Attempted
from local.display.direct import Call
from local.display.masking import members_of, shortened
from relay.events import Event

GOOD = "good"
BAD = "bad"
WAITING = "waiting"
PLAIN = "plain"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One step.

    Attributes:
        at: Unix time; 0 when unknown.
        details: A few words each.
        tone: GOOD, BAD, WAITING or PLAIN.
        due_at: Unix time of the next attempt, if there will be one.
        content: The number of what was sent or answered, among the request's contents.
        other: Number and id of another request that this step is about.
    """

    at: float
    title: str
    details: tuple[str, ...] = ()
    tone: str = PLAIN
    due_at: float | None = None
    content: int | None = None
    other: tuple[int, str] | None = None


def published(fact: Accepted, content: int, *, is_again: bool) -> list[Entry]:
    """Describe how the event of a request came to the Broker."""
    attributes = fact.event.attributes
    at = fact.at
    if fact.reply_to is not None:
        title = "Published as a reply"
    elif is_again:
        title = "Published again"
    else:
        at = _unix_time(attributes.get("time"))
        # Send counts the hops of every request that it publishes.
        is_sends = "relayhops" in attributes
        title = (
            "Accepted by Send" if is_sends else f"Published by {shortened(attributes['source'])}"
        )
    wanted = (_wanted_by(fact),)
    return [
        Entry(at=at, title=title),
        Entry(at=fact.at, title="Stored by the Broker", details=wanted, content=content),
    ]


def direct(call: Call, sent: int, answered: int) -> list[Entry]:
    """Describe a call that Send has answered itself."""
    what = "Answered by the target" if call.by_target else "Answered by Send"
    detail = "" if call.by_target else reason_of(call.answer.body)
    return [
        Entry(at=call.at, title=f"{call.method} {call.path}", content=sent),
        Entry(
            at=call.at + call.duration_ms / 1000,
            title=f"{what}: {call.status}",
            details=(*([detail] if detail else []), f"{call.duration_ms:.0f} ms"),
            tone=GOOD if call.status < 400 else BAD,
            content=answered,
        ),
    ]


def follow_up(
    fact: Accepted,
    content: int,
    title: str = "",
    tone: str = PLAIN,
    details: Iterable[str] = (),
    due_at: float | None = None,
) -> Entry:
    """Describe another event about the request; without a title, by its type."""
    kind = fact.event.attributes["type"]
    if not title:
        is_callback = kind.endswith(".callback")
        title = "The target called back" if is_callback else f"Event {shortened(kind)}"
    return Entry(
        at=fact.at,
        title=title,
        details=(*details, _wanted_by(fact)),
        tone=tone,
        due_at=due_at,
        content=content,
    )


def is_tier(event_type: str, request_type: str) -> bool:
    """Tell whether events of a type wait to be tried again, as requests of another type."""
    return re.fullmatch(rf"{re.escape(request_type)}\.retry[1-9]", event_type) is not None


def due_at(fact: Accepted) -> float:
    """Read when the event of a tier is due."""
    return _unix_time(fact.event.attributes.get("relaynotbefore"))


def reason_told(fact: Accepted) -> str:
    """Read why Receive did not get an outcome."""
    return shortened(unquote(fact.event.attributes.get("relayreason", "")))


def why(fact: Accepted) -> list[str]:
    """Say what Receive tells of an attempt without an outcome."""
    reason = reason_told(fact)
    attempts = shortened(fact.event.attributes.get("relayattempts", "0"))
    return [*([reason] if reason else []), f"attempt {attempts}"]


def attempted(fact: Attempted, *, about: str) -> Entry:
    """Describe a delivery.

    Args:
        about: Names its event, as in "the result"; "" for the request's own.
    """
    what = f" of {about}" if about else ""
    trigger = shortened(fact.trigger.partition("/")[2])
    sink = "the dead letter sink of " if fact.to_dead_letter_sink else ""
    title = f"Delivery{what} by {sink}Trigger {trigger}"
    counted, took = f"attempt {fact.attempt}", f"{fact.duration_ms:.0f} ms"
    reason = detail_of(fact)
    details = [fact.result, *([reason] if reason else []), counted, took]
    due_at = None
    if fact.next_step == DELIVERED:
        # The reply to it, which follows, says how it has ended.
        tone = PLAIN if fact.result.endswith("with a reply") else GOOD
        tone = BAD if fact.to_dead_letter_sink else tone
        if fact.to_dead_letter_sink:
            title = f"Dead letter{what} of Trigger {trigger} delivered"
    elif fact.next_step == RETRY:
        title, tone, due_at = f"{title} failed", WAITING, fact.at + fact.wait_s
    else:
        title, tone = f"{title} failed for good", BAD
        is_dropped = fact.next_step == DROPPED
        details.append("the event is dropped" if is_dropped else "goes to the dead letter sink")
    return Entry(at=fact.at, title=title, details=tuple(details), tone=tone, due_at=due_at)


def _wanted_by(fact: Accepted) -> str:
    names = [shortened(name.partition("/")[2]) for name in fact.triggers]
    if not names:
        return "no Trigger wants it"
    return f"for Trigger{'s' if len(names) > 1 else ''} {', '.join(names)}"


def reason_of(body: bytes) -> str:
    """Read the detail of a problem document; "" for anything else, which is not shown."""
    detail = members_of(body).get("detail")
    return shortened(detail) if isinstance(detail, str) else ""


def detail_of(fact: Attempted) -> str:
    """Read what a subscriber says of a delivery that failed."""
    try:
        data = base64.b64decode(fact.extensions.get("knativeerrordata", ""), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return reason_of(data)


def _unix_time(text: str | None) -> float:
    """Read an event's time; 0 when it is missing or unreadable."""
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def label(event: Event) -> str:
    """Name the role of an event in a request."""
    endings = {
        "callback": "the callback",
        "completed": "the result",
        "failed": "the result",
        "dead": "the dead request",
        **{f"retry{tier}": f"retry {tier}" for tier in range(1, 10)},
    }
    return endings.get(event.attributes["type"].rpartition(".")[2], "an event")
