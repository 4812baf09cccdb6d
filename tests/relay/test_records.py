"""What is known of requests, noted and read on every kind of store."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relay.backends import open_store
from relay.events import Event
from relay.jsons import dumps
from relay.leaving import Caller
from relay.lifecycle import Attempt
from relay.problems import BrokerUnavailable, Conflict, StateUnavailable, TooLarge
from relay.records import MAX_CALLBACKS, STATUSES, Known, Records, asked_by
from relay.settings import Settings
from relay.status import describe
from relay.store import Listing, Record
from tests.support.processes import free_port
from tests.support.stores import KINDS, Clock, opened, store_url

ANSWER = b'{"status":200,"headers":{},"body":"done"}'
REASON: dict[str, object] = {"code": 503, "detail": "the target answered 503", "attempts": 6}
REQUEST = Event(
    attributes={
        "id": "r1",
        "source": "s",
        "type": "t",
        "specversion": "1.0",
        "knativeerrorcode": "503",
        "knativebrokerttl": "255",
    },
    data=b'{"targetURL":"http://x.test"}\n\x00',
)
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with store_url(request.param, tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(url: str, clock: Clock) -> Iterator[Records]:
    with opened(url, clock=clock) as store:
        for state in ("open", *STATUSES):
            for known in store.page(Listing(state=state), limit=1000)[0]:
                store.change(known.id, lambda record: (None, None))
        yield Records(store, Settings(state_ttl_s=3600))


NUMBERS = itertools.count()


@pytest.fixture
def request_id() -> str:
    return f"r{next(NUMBERS)}"


def accept(records: Records, request_id: str, *, publish: bool = True) -> Known:
    known, is_mine = records.accept(
        request_id, fingerprint="f", target="x.test:80", may_repeat=True
    )
    if publish:
        assert is_mine
        with records.publishing(known.record):
            pass
    return known


def event_of(request_id: str) -> Event:
    return replace(REQUEST, attributes={**REQUEST.attributes, "id": request_id})


def die(records: Records, request_id: str) -> bool:
    return die_of(records, event_of(request_id), "x.test:80")


def die_of(records: Records, event: Event, target: str | None) -> bool:
    return records.die(asked_by(event, event.id, "f", target), event, REASON)


def asked(request_id: str, round: int = 1) -> Record:
    """Say what an event that has an answer tells of its request."""
    return Record(request_id, "open", 0, round=round)


def claim(records: Records, request_id: str) -> Attempt:
    attempt = claim_unless_done(records, request_id)
    assert isinstance(attempt, Attempt)
    return attempt


def callback(event_id: str) -> Event:
    attributes = {"id": event_id, "source": "s", "type": "t.callback", "specversion": "1.0"}
    attributes["datacontenttype"] = "application/json"
    return Event(attributes=attributes, data=b'{"n":1}')


def document(records: Records, request_id: str) -> dict[str, object]:
    known = records.read(request_id)
    assert known is not None
    value: dict[str, object] = json.loads(dumps(describe(known, "")))
    return value


def test_a_callback_alone_makes_no_request(records: Records, request_id: str) -> None:
    """Anybody may call back about anything."""
    records.add_callback(request_id, callback("c1"))

    assert records.read(request_id) is None


def test_an_open_request_tells_how_far_it_is(
    records: Records, request_id: str, clock: Clock
) -> None:
    """Attempts, the last error, and when it is tried next."""
    accept(records, request_id)
    attempt = claim(records, request_id)
    assert attempt.caller is not None
    records.attempt_failed(request_id, attempt, error="refused", next_in_s=2)

    known = document(records, request_id)

    assert all(TIME.fullmatch(str(known[name])) for name in ("acceptedAt", "expiresAt"))
    assert {name: known[name] for name in known if not name.endswith("At")} == {
        "id": request_id,
        "status": "accepted",
        "target": "x.test:80",
        "attempts": 1,
        "lastError": "refused",
        "statusURL": f"/async/{request_id}",
    }
    assert known["nextAttemptAt"] == "2027-01-15T08:00:02.000Z"
    assert known["expiresAt"] == "2027-01-15T09:00:00.000Z"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
def test_no_order_of_arrival_loses_a_fact(
    records: Records, request_id: str, order: tuple[int, ...]
) -> None:
    """Whichever way round facts come in, the request is completed."""
    facts: list[Callable[[], object]] = [
        lambda: claim_unless_done(records, request_id),
        lambda: records.finish(asked(request_id), "completed", 200, ANSWER, 2),
        lambda: records.add_callback(request_id, callback("c1")),
        lambda: die(records, request_id),
    ]
    for place in order:
        facts[place]()

    known = document(records, request_id)

    assert (known["status"], known["answer"]) == ("completed", json.loads(ANSWER))
    assert [entry["body"] for entry in known["callbacks"]] == [{"n": 1}]  # type: ignore[attr-defined]
    assert "reason" not in known


def claim_unless_done(records: Records, request_id: str) -> object:
    return records.claim(asked_by(event_of(request_id), request_id, "f", "x.test:80"), 1)


def test_callbacks_are_noted_once_and_bounded(records: Records, request_id: str) -> None:
    """The Broker delivers at least once, and a target that calls back for ever fills nothing."""
    accept(records, request_id)
    for number in range(MAX_CALLBACKS + 5):
        records.add_callback(request_id, callback(f"c{number // 2}"))
        records.add_callback(request_id, callback(f"c{number}"))

    known = document(records, request_id)
    assert len(known["callbacks"]) == MAX_CALLBACKS  # type: ignore[arg-type]
    assert known["callbacksLeftOut"] >= 5  # type: ignore[operator]


def test_large_callbacks_are_bounded_together(records: Records, request_id: str) -> None:
    """A reader gets no more than MAX_RESULT_BYTES of them, and how many more there were."""
    accept(records, request_id)
    big = json.dumps("x" * 150_000).encode()
    for event_id, data in (("c1", big), ("c2", big), ("c3", b"1"), ("c1", big), ("c4", big)):
        records.add_callback(request_id, replace(callback(event_id), data=data))

    known = document(records, request_id)

    assert [len(str(each["body"])) for each in known["callbacks"]] == [150_000, 1]  # type: ignore[attr-defined]
    assert known["callbacksLeftOut"] == 2


@pytest.mark.parametrize(
    ("content_type", "data", "shown"),
    [
        pytest.param("text/plain; charset=utf-16", "Mü".encode("utf-16"), "Mü", id="UTF-16"),
        pytest.param("text/plain;charset=ISO-8859-1", b"M\xfc", "Mü", id="Latin-1"),
        pytest.param(
            'application/json; charset="iso-8859-1"', b'{"a":"\xfc"}', {"a": "ü"}, id="JSON"
        ),
        pytest.param("multipart/form-data; boundary=xyz", b"--xyz--", "--xyz--", id="multipart"),
    ],
)
def test_a_callback_is_shown_by_its_charset(
    records: Records, request_id: str, content_type: str, data: bytes, shown: object
) -> None:
    """It has its Content-Type beside it, with the boundary of a multipart one."""
    accept(records, request_id)
    event = callback("c1")
    attributes = {**event.attributes, "datacontenttype": content_type}
    records.add_callback(request_id, replace(event, attributes=attributes, data=data))

    known = document(records, request_id)

    assert [(each["contentType"], each["body"]) for each in known["callbacks"]] == [  # type: ignore[attr-defined]
        (content_type, shown)
    ]


def test_a_dead_request_says_why_but_not_what(records: Records, request_id: str) -> None:
    """The reason is for the caller; the request itself may hold secrets."""
    assert die(records, request_id)

    known = document(records, request_id)

    assert {name: known[name] for name in known if not name.endswith("At")} == {
        "id": request_id,
        "status": "dead",
        "target": "x.test:80",
        "attempts": 6,
        "reason": REASON,
        "statusURL": f"/async/{request_id}",
    }
    assert {"finishedAt", "expiresAt"} < set(known)


def test_a_dead_request_is_taken_once(records: Records, request_id: str) -> None:
    """Its event comes back as it was published, without what the Broker added; then it is open."""
    die(records, request_id)

    retried = records.retry(request_id)

    assert retried is not None
    known, event = retried
    plain = {"id": request_id, "source": "s", "type": "t", "specversion": "1.0"}
    assert event == replace(REQUEST, attributes={**plain, "relayround": "2"})
    with pytest.raises(Conflict) as raised:
        records.retry(request_id)
    assert raised.value.detail == (
        f"{request_id} is accepted; only a dead or failed request can be sent again"
    )
    with records.publishing(known.record):
        pass
    assert document(records, request_id)["status"] == "accepted"
    assert records.retry("never-heard-of") is None


@pytest.mark.parametrize(
    ("error", "new", "dead"),
    [
        (BrokerUnavailable("no", published="no"), None, "dead"),
        (BrokerUnavailable("hm", published="unknown"), "unknown", "unknown"),
        (TooLarge("no"), None, "dead"),
    ],
    ids=["no", "maybe", "too-large"],
)
def test_what_was_not_published_is_as_before(
    records: Records, request_id: str, error: Exception, new: str | None, dead: str
) -> None:
    """Unless nobody knows; either way somebody may try again at once."""
    known = accept(records, request_id, publish=False)
    with contextlib.suppress(type(error)), records.publishing(known.record):
        raise error
    read = records.read(request_id)
    assert (read.status if read else None) == new
    die(records, request_id)
    retried = records.retry(request_id)
    assert retried is not None

    with contextlib.suppress(type(error)), records.publishing(retried[0].record):
        raise error

    assert document(records, request_id)["status"] == dead
    assert records.retry(request_id) is not None


def test_a_request_may_die_again(records: Records, request_id: str) -> None:
    """After a retry that ended as before it is dead, and can be tried once more."""
    die(records, request_id)
    retried = records.retry(request_id)
    assert retried is not None
    second = retried[1]

    die_of(records, second, None)

    assert document(records, request_id)["status"] == "dead"
    again = records.retry(request_id)
    assert again is not None
    assert again[1].attributes["relayround"] == "3"


def test_each_request_is_in_the_list_of_its_status(records: Records, clock: Clock) -> None:
    """Time alone takes an open one from the accepted to the unknown ones."""
    silent_s = 600 + 6 * 30

    def listed(**only: object) -> dict[str, list[str]]:
        found = {}
        for status in STATUSES:
            listing = records.listing(status, **only)  # type: ignore[arg-type]
            page, _ = records.page(listing, limit=10, after=None)
            assert records.count(listing) == len(page)
            assert {known.status for known in page} <= {status}
            if page:
                found[status] = [known.record.id for known in page]
        return found

    accept(records, "list-silent")
    clock.now_s += silent_s - 10
    since_ms = int(clock.now_s * 1000)
    accept(records, "list-open")
    accept(records, "list-cancelled")
    records.cancel("list-cancelled")
    die(records, "list-dead")
    accept(records, "list-done")
    records.finish(asked("list-done"), "completed", 200, ANSWER, 1)
    records.finish(asked("list-no"), "failed", 404, ANSWER, 1)
    over = {
        "completed": ["list-done"],
        "failed": ["list-no"],
        "dead": ["list-dead"],
        "cancelled": ["list-cancelled"],
    }

    assert listed() == {"accepted": ["list-open", "list-silent"], **over}
    assert listed(since_ms=since_ms) == {"accepted": ["list-open"], **over}
    clock.now_s += 10
    assert listed() == {"accepted": ["list-open"], "unknown": ["list-silent"], **over}
    assert listed(since_ms=since_ms + 1) == {"unknown": ["list-silent"]}
    assert listed(target="x.test:80")["completed"] == ["list-done"]
    assert listed(target="y.test:80") == {}


def test_a_failed_request_is_sent_again_as_long_as_its_answer_is_kept(
    records: Records, request_id: str
) -> None:
    """Its event is that of the request; the old answer is not that of the new round."""
    request = replace(REQUEST, attributes={**REQUEST.attributes, "id": request_id})
    records.finish(asked(request_id), "failed", 404, ANSWER, 1, request=request)
    assert document(records, request_id)["answer"]

    retried = records.retry(request_id)

    assert retried is not None
    known, event = retried
    assert (event.data, event.attributes["relayround"]) == (REQUEST.data, "2")
    assert "knativeerrorcode" not in event.attributes
    with records.publishing(known.record):
        pass
    opened_again = document(records, request_id)
    assert (opened_again["status"], "answer" in opened_again) == ("accepted", False)
    records.finish(asked(request_id), "failed", 404, ANSWER, 1)  # the first round's, once more
    assert document(records, request_id)["status"] == "accepted"
    records.finish(asked(request_id, 2), "completed", 200, ANSWER, 2)
    assert document(records, request_id)["status"] == "completed"


def test_a_failed_request_whose_event_is_gone_stays(records: Records, request_id: str) -> None:
    """Its caller is told how to go on."""
    records.finish(asked(request_id), "failed", 404, ANSWER, 1)

    with pytest.raises(Conflict) as caught:
        records.retry(request_id)

    assert caught.value.detail == (
        f"the event of {request_id} is no longer kept; send its envelope again, with another"
        " Idempotency-Key"
    )


def test_a_cancelled_request_is_not_called(records: Records, request_id: str) -> None:
    """Receive sees it when it looks before it calls."""
    accept(records, request_id)

    cancelled = records.cancel(request_id)

    assert cancelled is not None
    assert cancelled.status == "cancelled"
    claimed = claim_unless_done(records, request_id)
    assert isinstance(claimed, Known)
    assert claimed.status == "cancelled"
    assert records.cancel("never-heard-of") is None


def test_an_answer_that_is_dropped_is_told(url: str, clock: Clock) -> None:
    """The request is done all the same."""
    with opened(url, max_bytes=300_000, clock=clock) as store:
        records = Records(store, Settings(state_ttl_s=3600))
        for number in range(20):
            clock.now_s += 1
            big = ANSWER.replace(b"done", b"x" * 100_000)
            records.finish(asked(f"big{number}"), "completed", 200, big, 1)

        known = document(records, "big0")

        assert (known["status"], known["answerDropped"]) == ("completed", True)
        assert "answer" not in known


def test_unknown_comes_with_advice(records: Records, request_id: str, clock: Clock) -> None:
    """Nobody is told `accepted` for ever."""
    accept(records, request_id)
    clock.now_s += 1000

    known = document(records, request_id)

    assert known["status"] == "unknown"
    assert "same Idempotency-Key" in str(known["advice"])


def test_a_request_is_kept_from_its_end(records: Records, request_id: str, clock: Clock) -> None:
    """However long it was on its way."""
    accept(records, request_id)
    clock.now_s += 3000
    claim(records, request_id)
    clock.now_s += 3000
    records.finish(asked(request_id), "completed", 200, ANSWER, 1)
    clock.now_s += 3599

    assert document(records, request_id)["status"] == "completed"
    clock.now_s += 1
    assert records.read(request_id) is None


def test_waiting_ends_with_the_result(records: Records, request_id: str) -> None:
    """Who waits is told at once, not at the end of the time."""
    accept(records, request_id)
    timer = threading.Timer(0.1, records.finish, (asked(request_id), "failed", 200, ANSWER, 1))
    timer.start()

    known = records.wait(request_id, 30, Caller())

    timer.join()
    assert known is not None
    assert (known.status, known.answer) == ("failed", ANSWER)


def test_waiting_ends_with_the_time(records: Records, request_id: str) -> None:
    """Without a result the request is still open when the time is over."""
    accept(records, request_id)

    known = records.wait(request_id, 0.05, Caller())

    assert known is not None
    assert (known.status, known.answer) == ("accepted", None)


def test_a_publication_is_over_though_the_store_went_away(tmp_path: Path) -> None:
    """The Broker has the request; that is what its caller asked for."""
    store = open_store(f"redis://127.0.0.1:{free_port()}", ttl_s=60, max_bytes=1000)
    records = Records(store, Settings())
    with opened("memory://") as other:
        known, _ = Records(other, Settings()).accept(
            "r", fingerprint="f", target="x", may_repeat=True
        )

    with records.publishing(known.record):
        pass

    with pytest.raises(StateUnavailable):
        records.read("r")
