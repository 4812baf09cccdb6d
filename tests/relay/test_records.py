"""What became of requests: facts in, one document out."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from relay.events import Event
from relay.records import DEAD_LISTED, MAX_CALLBACKS, Records
from relay.state import State

ANSWER = {"status": 200, "headers": {}, "body": "done"}
REASON = {"code": 503, "detail": "the target answered 503", "attempts": 6}
REQUEST = Event(
    attributes={
        "id": "r1",
        "source": "s",
        "type": "t",
        "specversion": "1.0",
        "knativeerrorcode": "503",
        "knativebrokerttl": "255",
    },
    data=b'{"targetURL":"http://x.test"}',
)
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@pytest.fixture
def records() -> Records:
    return Records(State("memory://", 60))


def callback(event_id: str) -> Event:
    attributes = {"id": event_id, "source": "s", "type": "t.callback", "specversion": "1.0"}
    attributes["datacontenttype"] = "application/json"
    return Event(attributes=attributes, data=b'{"n":1}')


def document(records: Records, request_id: str = "r1") -> dict[str, object]:
    record = records.read(request_id)
    assert record is not None
    return record.document()


def test_an_unknown_request_is_none(records: Records) -> None:
    """Neither attempts nor a callback alone make a request."""
    records.note_attempt("r1", 1)
    records.add_callback("r1", callback("c1"))

    assert records.read("r1") is None


def test_an_accepted_request_is_open(records: Records) -> None:
    """Until something is known of it, a request is accepted."""
    records.accept("r1", callback=None)
    records.note_attempt("r1", 1)

    known = document(records)

    assert TIME.fullmatch(str(known.pop("acceptedAt")))
    assert known == {"id": "r1", "status": "accepted", "attempts": 1}


def test_a_forgotten_request_is_unknown(records: Records) -> None:
    """What was not published after all was never accepted."""
    records.accept("r1", callback=None)

    records.forget("r1")

    assert records.read("r1") is None


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_no_order_of_arrival_loses_a_fact(records: Records, order: tuple[int, ...]) -> None:
    """Whichever way round facts come in, the document is the same."""
    facts: list[Callable[[], object]] = [
        lambda: records.accept("r1", callback=None),
        lambda: records.finish("r1", "completed", ANSWER, 2),
        lambda: records.add_callback("r1", callback("c1")),
        lambda: records.bury(REQUEST, REASON),
    ]
    for place in order:
        facts[place]()

    known = document(records)

    assert known["status"] == "completed"
    assert known["answer"] == ANSWER
    assert known["attempts"] == 2
    assert [entry["body"] for entry in known["callbacks"]] == [{"n": 1}]  # type: ignore[attr-defined]
    assert {"acceptedAt", "finishedAt"} < set(known)
    assert "reason" not in known


def test_a_callback_delivered_twice_is_noted_once(records: Records) -> None:
    """The Broker delivers at least once; callers count callbacks."""
    records.accept("r1", callback=None)
    for event_id in ("c1", "c2", "c1", "c2"):
        records.add_callback("r1", callback(event_id))

    known = document(records)

    assert len(known["callbacks"]) == 2  # type: ignore[arg-type]


def test_callbacks_are_bounded(records: Records) -> None:
    """A target that calls back for ever fills nothing."""
    records.accept("r1", callback=None)
    for number in range(MAX_CALLBACKS + 5):
        records.add_callback("r1", callback(f"c{number}"))

    assert len(document(records)["callbacks"]) == MAX_CALLBACKS  # type: ignore[arg-type]


def test_a_dead_request_says_why_but_not_what(records: Records) -> None:
    """The reason is for the caller; the request itself may hold secrets."""
    records.bury(REQUEST, REASON)

    known = document(records)

    assert TIME.fullmatch(str(known.pop("finishedAt")))
    assert known == {"id": "r1", "status": "dead", "attempts": 6, "reason": REASON}


def test_a_dead_request_is_taken_once(records: Records) -> None:
    """Its event comes back as it was published, without what the Broker added; then it is open."""
    records.bury(REQUEST, REASON)
    dead = records.read("r1")
    assert dead is not None

    first, second = records.exhume(dead), records.exhume(dead)

    plain = {"id": "r1", "source": "s", "type": "t", "specversion": "1.0"}
    assert first == replace(REQUEST, attributes=plain)
    assert second is None
    assert document(records)["status"] == "accepted"


def test_a_dead_request_that_was_not_published_stays_dead(records: Records) -> None:
    """Taking it back lets somebody try again."""
    records.bury(REQUEST, REASON)
    dead = records.read("r1")
    assert dead is not None
    records.exhume(dead)

    records.rebury("r1")

    assert document(records)["status"] == "dead"
    assert records.exhume(dead) is not None


def test_a_request_may_die_again(records: Records) -> None:
    """After a retry that ended as before it is dead, and can be tried once more."""
    records.bury(REQUEST, REASON)
    dead = records.read("r1")
    assert dead is not None
    records.exhume(dead)

    records.bury(REQUEST, REASON)

    assert document(records)["status"] == "dead"
    assert records.exhume(dead) is not None


def test_the_newest_dead_are_listed(records: Records) -> None:
    """Newest first, each once, no more than a hundred, and only what is dead now."""
    for number in range(DEAD_LISTED + 20):
        attributes = {**REQUEST.attributes, "id": f"r{number}"}
        records.bury(replace(REQUEST, attributes=attributes), REASON)
    records.finish("r118", "completed", ANSWER, 1)

    listed = [record.id for record in records.newest_dead()]

    expected = [f"r{number}" for number in range(DEAD_LISTED + 19, 19, -1) if number != 118]
    assert listed == expected


def test_waiting_ends_with_the_result(records: Records) -> None:
    """Who waits is told at once, not at the end of the time."""
    records.accept("r1", callback=None)
    timer = threading.Timer(0.1, records.finish, ("r1", "failed", ANSWER, 1))
    timer.start()

    record = records.wait("r1", 30)

    timer.join()
    assert record is not None
    assert record.status == "failed"
    assert record.answer() == ANSWER


def test_waiting_ends_with_the_time(records: Records) -> None:
    """Without a result the request is still open when the time is over."""
    records.accept("r1", callback=None)

    record = records.wait("r1", 0.05)

    assert record is not None
    assert record.status == "accepted"
    assert record.answer() is None
