"""What a Broker tells about requests, made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping

from local.broker.activity import (
    DELIVERED,
    RETRY,
    TO_DEAD_LETTER_SINK,
    Accepted,
    Attempted,
)
from relay.events import Event

TYPE = "dev.knative.samples.t2"
SOURCE = "dev.knative.samples/t2"
TRIGGERS = ["default/receive", "default/event-display"]


def accepted(
    event_id: str = "order-7",
    data: object = None,
    *,
    triggers: list[str] | None = None,
    reply_to: str | None = None,
    at: float = 1000.0,
    **attributes: str,
) -> Accepted:
    """Tell that an event was accepted; without data it is an envelope for `target:1`."""
    envelope = {"targetURL": "http://target:1"} if data is None else data
    return Accepted(
        event=Event(
            attributes={
                "specversion": "1.0",
                "id": event_id,
                "source": SOURCE,
                "type": TYPE,
                "datacontenttype": "application/json",
                **attributes,
            },
            data=json.dumps(envelope).encode(),
        ),
        triggers=TRIGGERS if triggers is None else triggers,
        reply_to=None if reply_to is None else (SOURCE, reply_to),
        at=at,
    )


def result(ending: str, status: int, request_id: str = "order-7") -> Accepted:
    """Tell that Receive replied with a result."""
    return accepted(
        f"{request_id}.{ending}",
        {"status": status},
        triggers=["default/results"],
        reply_to=request_id,
        type=f"{TYPE}.{ending}",
        subject=request_id,
    )


def follows(
    ending: str,
    attempts: int,
    request_id: str = "order-7",
    to: str = "",
    *,
    at: float = 1000.0,
    not_before: str = "1970-01-01T00:16:42.500Z",
) -> Accepted:
    """Tell that Receive replied with the event of a tier, or with that of a dead request.

    Args:
        to: the ending of the event that it replied to; "" for the request's own.
    """
    return accepted(
        f"{request_id}.{ending}",
        triggers=["default/results" if ending == "dead" else f"default/receive-{ending}"],
        reply_to=f"{request_id}.{to}" if to else request_id,
        type=f"{TYPE}.{ending}",
        subject=request_id,
        relayattempts=str(attempts),
        relayreason="the target answered 503",
        relaystatus="503",
        at=at,
        **({} if ending == "dead" else {"relaynotbefore": not_before}),
    )


def attempted(
    answer: str,
    next_step: str = DELIVERED,
    event_id: str = "order-7",
    *,
    trigger: str = "default/receive",
    attempt: int = 1,
    to_dead_letter_sink: bool = False,
    extensions: Mapping[str, str] | None = None,
    duration_ms: float = 12.3,
    at: float = 1000.5,
) -> Attempted:
    """Tell of a delivery; a retry comes two seconds later."""
    return Attempted(
        source=SOURCE,
        id=event_id,
        type=TYPE,
        trigger=trigger,
        url="http://127.0.0.1:8083",
        to_dead_letter_sink=to_dead_letter_sink,
        attempt=attempt,
        result=answer,
        extensions=extensions or {},
        duration_ms=duration_ms,
        next_step=next_step,
        wait_s=2.0 if next_step == RETRY else 0.0,
        at=at,
    )


def dies(event_id: str = "order-7") -> list[Accepted | Attempted]:
    """Tell of a request from its acceptance to its dead letter."""
    return [
        accepted(event_id),
        attempted("503", RETRY, event_id),
        attempted("503", TO_DEAD_LETTER_SINK, event_id, attempt=2),
        attempted("202", DELIVERED, event_id, to_dead_letter_sink=True),
    ]
