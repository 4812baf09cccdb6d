"""What the events say that follow from a request event, and how it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.events import Event
from relay.problems import InvalidRequest
from relay.progress import Events, Progress, Why, attempts_of

TYPE = "t"
NOW = 1_000_000.0

REQUEST = Event(
    attributes={
        "specversion": "1.0",
        "id": "r",
        "source": "callers",
        "type": "t",
        "time": "2026-01-01T00:00:00Z",
        "subject": "mine",
        "datacontenttype": "application/json",
        "relayhops": "1",
        "relaymac": "abc",
        "knativearrivaltime": "2026-01-01T00:00:00Z",
        "knativeerrorcode": "503",
    },
    data=b'{"n": 1.50}',
)


UNTRIED = Progress(request_id="r", tier=0, attempts=0, since_s=NOW, not_before_s=0)
RELAY = Events(event_type=TYPE, source="relay")
WHY = Why(reason="the target answered 503", status=503)


def test_the_event_of_a_tier() -> None:
    """It has the request unchanged, and reads back as how far that has come."""
    come = replace(Progress.of(REQUEST, TYPE, NOW), attempts=1)

    event = RELAY.waiting(REQUEST, come, WHY, tier=1, not_before_s=NOW + 1.5)

    assert event.data == REQUEST.data
    assert event.attributes == {
        "id": "r.retry1",
        "source": "relay",
        "type": "t.retry1",
        "subject": "r",
        "datacontenttype": "application/json",
        "relayhops": "1",
        "relaymac": "abc",
        "relayattempts": "1",
        "relayreason": "the target answered 503",
        "relaystatus": "503",
        "relaysince": "1970-01-12T13:46:40.000Z",
        "relaynotbefore": "1970-01-12T13:46:41.500Z",
    }
    assert Progress.of(event, TYPE, NOW + 9) == replace(come, tier=1, not_before_s=NOW + 1.5)
    assert Why.of(event) == WHY


def test_the_event_of_a_dead_request() -> None:
    """It has the request unchanged, and says why; of it the request can be made again."""
    come = replace(UNTRIED, attempts=6)
    waiting = RELAY.waiting(REQUEST, come, Why(reason="something else"), tier=5, not_before_s=NOW)

    dead = RELAY.dead(waiting, come, WHY)

    assert (dead.id, dead.type) == ("r.dead", "t.dead")
    assert dead.data == REQUEST.data
    assert (Why.of(dead), attempts_of(dead)) == (WHY, 6)
    request = Event(
        attributes={
            "id": "r",
            "source": "relay",
            "type": "t",
            "datacontenttype": "application/json",
            "relayhops": "1",
            "relaymac": "abc",
        },
        data=REQUEST.data,
    )
    assert RELAY.request(dead) == RELAY.request(waiting) == request


def test_a_request_event_is_its_own() -> None:
    """A dead letter that was never tried keeps all but what the Broker has added."""
    request = RELAY.request(REQUEST)

    assert request.attributes == {
        name: value for name, value in REQUEST.attributes.items() if not name.startswith("knative")
    }


@pytest.mark.parametrize(
    "attributes",
    [
        {"relayattempts": "-1", "relaynotbefore": "soon", "relaysince": "never"},
        {"relaysince": "2999-01-01T00:00:00Z"},
        {"relaynotbefore": "2026-01-01T00:00:00"},
    ],
)
def test_extensions_that_cannot_be_read(attributes: dict[str, str]) -> None:
    """Whoever publishes to the Broker may write anything there; it counts as absent."""
    event = Event(attributes={**REQUEST.attributes, **attributes})

    assert Progress.of(event, TYPE, NOW) == UNTRIED


@pytest.mark.parametrize("type_", ["t.retry1", "t.dead", "t.completed"])
def test_a_request_that_is_not_named(type_: str) -> None:
    """An event that follows from a request says from which."""
    event = Event(attributes={"id": "1", "source": "s", "type": type_})

    with pytest.raises(
        InvalidRequest, match=r"^ce-subject is missing; it is the id of the request$"
    ):
        Progress.of(event, TYPE, NOW)
