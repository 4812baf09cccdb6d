"""The model of the page: what the Broker tells becomes the state and the timeline of a request."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from local.broker.activity import DROPPED, RETRY, TO_DEAD_LETTER_SINK, Accepted, Attempted
from local.display.direct import Call, Message
from local.display.requests import MAX_REQUESTS, Requests
from local.display.tracked import TrackedRequest
from tests.local.display.facts import TYPE, accepted, attempted, dies, follows, result

DISPLAY = "default/event-display"


def told(*facts: Accepted | Attempted) -> Requests:
    """Make the model of these facts."""
    requests = Requests()
    for fact in facts:
        if isinstance(fact, Accepted):
            requests.accept(fact)
        else:
            requests.attempt(fact)
    return requests


def only(requests: Requests) -> TrackedRequest:
    """Return the one request that there is."""
    (request,) = requests.changed_since(0, 10)
    return request


def titles(request: TrackedRequest) -> list[str]:
    return [entry.title for entry in request.entries]


@pytest.mark.parametrize(
    ("facts", "state", "attempts", "status"),
    [
        ([accepted()], "accepted", 0, ""),
        ([accepted(), attempted("202", trigger=DISPLAY)], "accepted", 1, ""),
        ([accepted(), attempted("503", RETRY)], "retrying", 1, "503"),
        (
            [accepted(), attempted("no answer in time", RETRY), attempted("502", RETRY)],
            "retrying",
            2,
            "502",
        ),
        ([accepted(), attempted("no answer in time", RETRY)], "retrying", 1, "no answer"),
        ([accepted(), attempted("403", TO_DEAD_LETTER_SINK)], "retrying", 1, "403"),
        (dies(), "dead", 2, "503"),
        ([accepted(), attempted("500", DROPPED)], "dead", 1, "500"),
        (
            [accepted(), attempted("200 with a reply"), result("completed", 201)],
            "completed",
            1,
            "201",
        ),
        ([accepted(), attempted("200 with a reply"), result("failed", 404)], "failed", 1, "404"),
        ([*dies(), result("completed", 200)], "completed", 2, "200"),
        (
            [accepted(), attempted("200 with a reply"), follows("retry1", 1)],
            "retrying",
            1,
            "503",
        ),
        (
            [accepted(), follows("retry1", 1), follows("retry2", 2, to="retry1")],
            "retrying",
            2,
            "503",
        ),
        ([accepted(), follows("retry5", 5), follows("dead", 6, to="retry5")], "dead", 6, "503"),
        (
            [accepted(), follows("retry1", 1), follows("dead", 2, to="retry1"), accepted()],
            "accepted",
            2,
            "503",
        ),
        ([accepted(triggers=[DISPLAY]), attempted("202", trigger=DISPLAY)], "delivered", 1, "202"),
        ([accepted(triggers=[])], "accepted", 0, ""),
    ],
    ids=[
        "stored",
        "displayed",
        "retried",
        "retried again",
        "no answer",
        "on the way to the dead letter sink",
        "dead",
        "dropped",
        "completed",
        "failed",
        "a result outweighs a dead letter",
        "waits in a tier",
        "waits in the next",
        "given up by Receive",
        "given up and published again",
        "an event that asks for no call",
        "an event that nobody wants",
    ],
)
def test_state(facts: list[Accepted | Attempted], state: str, attempts: int, status: str) -> None:
    """State, attempts and last status follow from what the Broker has told."""
    request = only(told(*facts))

    assert (request.state, request.attempts, request.status) == (state, attempts, status)


def test_a_retry_begins_anew() -> None:
    """Published again, a dead request is open again and its attempts are counted on."""
    request = only(told(*dies(), accepted(), attempted("503", RETRY)))

    assert (request.state, request.attempts) == ("retrying", 3)
    assert "Published again" in titles(request)


def test_the_timeline_tells_it_all() -> None:
    """From Send to the result, with what each attempt met and when the next one is due."""
    problem = base64.b64encode(b'{"detail": "the target answered 503", "secret": "s"}').decode()
    sent = accepted(relayhops="0", time="1970-01-01T00:16:39.5Z")
    request = only(
        told(
            sent,
            attempted("503", RETRY, extensions={"knativeerrordata": problem}),
            attempted("200 with a reply", attempt=2, at=1003.0),
            result("completed", 200),
            attempted("202", event_id="order-7.completed", trigger="default/results"),
        )
    )

    assert titles(request) == [
        "Accepted by Send",
        "Stored by the Broker",
        "Delivery by Trigger receive failed",
        "Delivery by Trigger receive",
        "Result: completed",
        "Delivery of the result by Trigger results",
    ]
    by_send, stored, failed, delivered, completed, _ = request.entries
    assert by_send.at == 999.5
    assert stored.details == ("for Triggers receive, event-display",)
    assert failed.details == ("503", "the target answered 503", "attempt 1", "12 ms")
    assert failed.due_at == 1002.5
    assert delivered.details == ("200 with a reply", "attempt 2", "12 ms")
    assert completed.details == ("the target answered 200", "for Trigger results")
    assert completed.content is not None


def test_the_timeline_tells_of_tiers() -> None:
    """Each wait with its reason and its end, and the deliveries of the events that wait."""
    request = only(
        told(
            accepted(),
            attempted("200 with a reply"),
            follows("retry1", 1),
            attempted("200 with a reply", event_id="order-7.retry1", trigger="default/receive-r1"),
            follows("dead", 2, to="retry1"),
            attempted("202", event_id="order-7.dead", trigger="default/results"),
        )
    )

    assert titles(request)[3:] == [
        "To be tried again",
        "Delivery of retry 1 by Trigger receive-r1",
        "Dead",
        "Delivery of the dead request by Trigger results",
    ]
    waiting, _, dead, _ = request.entries[3:]
    assert waiting.details == ("the target answered 503", "attempt 1", "for Trigger receive-retry1")
    assert waiting.due_at == 1002.5
    assert dead.details == ("the target answered 503", "attempt 2", "for Trigger results")


def test_each_attempt_has_its_time() -> None:
    """The Broker's own attempts: from the start to the answer, and until the next one."""
    problem = base64.b64encode(b'{"detail": "the target answered 503"}').decode()
    unreachable = base64.b64encode(b'{"detail": "target:1 cannot be reached: refused"}').decode()
    tries = only(
        told(
            accepted(),
            attempted("503", RETRY, extensions={"knativeerrordata": problem}),
            attempted("502", RETRY, extensions={"knativeerrordata": unreachable}, at=1003.0),
            attempted("no answer in time", RETRY, at=1006.0),
            attempted("200 with a reply", at=1009.0),
            result("failed", 404),
        )
    ).tries.made

    assert [each.outcome for each in tries] == ["503", "not reached", "not reached", "404"]
    assert [each.due_at for each in tries] == [1002.5, 1005.0, 1008.0, None]
    assert [each.tone for each in tries] == ["waiting"] * 3 + ["bad"]
    assert tries[1].reason == "target:1 cannot be reached: refused"
    assert tries[0].started_at == pytest.approx(1000.4877)
    assert tries[0].ended_at == 1000.5


def test_attempts_of_tiers_join_their_request() -> None:
    """A delivery waits inside Receive until it is due: the call begins then, not before."""
    tries = only(
        told(
            accepted(),
            attempted("200 with a reply"),
            follows("retry1", 1),
            attempted("200 with a reply", event_id="order-7.retry1", duration_ms=2000, at=1003.0),
            follows("retry2", 2, to="retry1"),
            attempted("200 with a reply", event_id="order-7.retry2", at=1004.0),
            follows("dead", 3, to="retry2"),
        )
    ).tries.made

    assert [each.outcome for each in tries] == ["503"] * 3
    assert [each.tone for each in tries] == ["waiting", "waiting", "bad"]
    assert (tries[0].due_at, tries[1].started_at, tries[1].ended_at) == (1002.5, 1002.5, 1003.0)
    assert tries[2].due_at is None


def test_a_wait_that_goes_on_is_no_attempt() -> None:
    """The same tier again, with the same number of calls: it was not due yet."""
    again = follows("retry1", 1, to="retry1", at=1003.0, not_before="1970-01-01T00:17:00Z")
    tries = only(told(accepted(), follows("retry1", 1), again)).tries.made

    assert [each.due_at for each in tries] == [1020.0]


def direct(status: int, *, by_target: bool, body: bytes = b"", **members: object) -> Call:
    envelope = json.dumps({"targetURL": "http://target:1", "targetAPI": "/x?y=1"}).encode()
    headers = (("content-type", "application/json"),)
    call: dict[str, object] = {
        "method": "POST",
        "path": "/sync",
        "status": status,
        "at": 1000.0,
        "duration_ms": 250.0,
        "by_target": by_target,
        "request": Message(start_line="POST /sync", headers=headers, body=envelope, is_cut=False),
        "answer": Message(start_line=str(status), headers=(), body=body, is_cut=False),
        **members,
    }
    return msgspec.convert(call, Call)


@pytest.mark.parametrize(
    ("call", "state", "outcome"),
    [
        (direct(200, by_target=True), "completed", ["200"]),
        (direct(304, by_target=True), "completed", ["304"]),
        (direct(403, by_target=True), "failed", ["403"]),
        (direct(403, by_target=False), "refused", []),
        (
            direct(502, by_target=False, body=b'{"detail": "target:1 cannot be reached: no"}'),
            "failed",
            ["not reached"],
        ),
        (direct(504, by_target=False), "failed", ["no answer"]),
        (direct(503, by_target=False, path="/async"), "failed", []),
    ],
    ids=["answered", "redirected", "failed", "refused", "not reached", "no answer", "no Broker"],
)
def test_what_send_answers_itself(call: Call, state: str, outcome: list[str]) -> None:
    """Each such call is a request with a row of its own."""
    requests = Requests()
    requests.direct(call)

    request = only(requests)
    assert (request.state, request.status) == (state, str(call.status))
    assert (request.method, request.target, request.path) == ("POST", "target:1", "/x?…")
    assert [each.outcome for each in request.tries.made] == outcome
    assert request.duration_ms == 250


def test_the_method_of_sync_is_its_own() -> None:
    """GET /sync calls with GET."""
    requests = Requests()
    requests.direct(direct(200, by_target=True, method="GET"))

    assert only(requests).method == "GET"


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("1970-01-01T00:16:39Z", 999.0),
        ("1970-01-01t00:16:39.25z", 999.25),
        ("1970-01-01T00:16:39.123456789Z", 999.123457),
        ("1970-01-01T02:16:39.500+02:00", 999.5),
        ("1970-01-01T00:16:60Z", 0.0),
    ],
)
def test_times_as_rfc_3339_allows_them(time: str, at: float) -> None:
    """Functions of Knative write nanoseconds; a leap second is one that Python cannot tell."""
    entry = only(told(accepted(relayhops="0", time=time))).entries[0]

    assert (entry.title, entry.at) == ("Accepted by Send", at)


def test_the_timeline_tells_of_the_dead_letter() -> None:
    """The last attempt, and who took the dead letter."""
    assert titles(only(told(*dies())))[-2:] == [
        "Delivery by Trigger receive failed for good",
        "Dead letter of Trigger receive delivered",
    ]


def test_a_targets_callback_joins_its_request() -> None:
    """By its subject; without one, or for an unknown request, it stands for itself."""
    kind = f"{TYPE}.callback"
    joined = told(accepted(), accepted("c1", type=kind, subject="order-7"))
    alone = told(accepted(), accepted("c1", type=kind), accepted("c2", type=kind, subject="?"))

    assert titles(only(joined))[-1] == "The target called back"
    assert len(alone.changed_since(0, 10)) == 3


def test_a_result_that_is_no_reply_decides_nothing() -> None:
    """Anybody can publish an event that says it is a result; only the reply is one."""
    forged = accepted("f", {"status": 200}, type=f"{TYPE}.completed", subject="order-7")

    requests = told(accepted(), forged)

    assert [request.state for request in requests.changed_since(0, 10)] == ["accepted"] * 2


def test_the_callers_callback_is_a_request_of_its_own() -> None:
    """Each of the two leads to the other."""
    callback = accepted("order-7.completed.callback", reply_to="order-7.completed")
    first, second = told(accepted(), result("completed", 200), callback).changed_since(0, 10)

    assert (first.entries[-1].title, first.entries[-1].other) == (
        "The caller is told by",
        (2, "order-7.completed.callback"),
    )
    assert (second.entries[-1].title, second.entries[-1].other) == (
        "Tells the caller of",
        (1, "order-7"),
    )


def test_a_delivery_of_an_earlier_run_is_shown() -> None:
    """What the Broker still owed when it was started has a row, though not a target."""
    request = only(told(attempted("503", RETRY)))

    assert (request.id, request.state, request.target) == ("order-7", "retrying", "")


def test_keeps_the_newest() -> None:
    """The oldest request is forgotten with all that belonged to it."""
    requests = told(accepted("first"), result("completed", 200, "first"))
    for number in range(MAX_REQUESTS):
        requests.accept(accepted(str(number)))

    rows = requests.changed_since(0, 2 * MAX_REQUESTS)
    assert len(rows) == MAX_REQUESTS
    assert rows[0].id == "0"
    assert requests.get(1) is None
    requests.attempt(attempted("202", event_id="first"))
    assert requests.changed_since(0, 2 * MAX_REQUESTS)[-1].number == MAX_REQUESTS + 2


def test_one_request_cannot_fill_the_memory() -> None:
    """A flood of callbacks for one id keeps the beginning and the newest of its timeline."""
    requests = told(accepted(relayhops="0"))
    for number in range(1000):
        requests.accept(accepted(f"c{number}", type=f"{TYPE}.callback", subject="order-7"))

    request = only(requests)
    assert titles(request)[:3] == [
        "Accepted by Send",
        "Stored by the Broker",
        "The target called back",
    ]
    assert len(request.entries) == 200
    assert len(request.events) == 200
    kept = [requests.contents.get(number, 1) for number in range(1, 1002)]
    assert sum(each is not None for each in kept) == 199  # all but the first entry have one


def test_tells_what_has_changed() -> None:
    """The longest unchanged first, so that whoever stops in the middle can go on."""
    requests = told(accepted("a"), accepted("b"), accepted("c"))
    seen = requests.revision
    requests.attempt(attempted("503", RETRY, "b"))
    requests.attempt(attempted("503", RETRY, "a"))

    assert [request.id for request in requests.changed_since(seen, 10)] == ["b", "a"]
    assert [request.id for request in requests.changed_since(0, 2)] == ["c", "b"]
