"""One key is one request, whatever its callers, the Broker and the store do meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import free_port
from tests.support.stores import KINDS, SHARED_KINDS, store_url

TYPE = "dev.knative.samples.t2"
CALLBACK = {"url": "http://127.0.0.1:9/told", "headers": {"X-A": "1"}}


@pytest.fixture(scope="module", params=KINDS)
def send(
    broker_peer: Peer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("state")
    with store_url(request.param, folder) as url, served(broker_peer, url) as function:
        yield function


@contextlib.contextmanager
def served(broker: Peer, state_url: str, **settings: str) -> Iterator[Function]:
    env = {"K_SINK": broker.url, "ALLOWED_TARGETS": "127.0.0.1", "STATE_URL": state_url}
    with serving("send", env | settings) as function:
        yield function


def post(send: Function, key: str, *, prefer: str = "", path: str = "", **fields: object) -> Answer:
    """Hand a request over; `path` and further fields are the envelope's."""
    body = json.dumps({"targetURL": "http://127.0.0.1:9", "targetAPI": path, **fields})
    headers = {"Idempotency-Key": key} | ({"Prefer": prefer} if prefer else {})
    return call("POST", f"{send.url}/async", body, headers)


def deliver(
    send: Function, path: str, event_type: str, data: object, event_id: str, **attributes: str
) -> Answer:
    """Deliver an event as the Broker does."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": "s",
        "ce-type": event_type,
        "Content-Type": "application/json",
        **{f"ce-{name}": value for name, value in attributes.items()},
    }
    return call("POST", f"{send.url}{path}", json.dumps(data), headers)


def finish(send: Function, key: str, ending: str = "completed", **data: object) -> Answer:
    """Deliver the result of a request, as Receive makes it."""
    result = {"status": 200, "headers": {}, "body": f"answer of {key}"} | data
    event_type, event_id = f"{TYPE}.{ending}", f"{key}.{ending}"
    return deliver(send, "/event/callback", event_type, result, event_id, subject=key)


def kill(send: Function, key: str, *, path: str = "", **attributes: str) -> Answer:
    """Deliver the dead letter of a request."""
    data = {"targetURL": "http://127.0.0.1:9", "targetAPI": path}
    return deliver(send, "/event/dead-letter", TYPE, data, key, **attributes)


def status_of(send: Function, key: str) -> dict[str, object]:
    answer = call("GET", f"{send.url}/async/{key}")
    return answer.json() if answer.status == 200 else {"status": answer.status}


def test_a_repeat_is_answered_as_the_first(send: Function, broker: Peer) -> None:
    """202 with the same Location, whatever has become of it; one event is published."""
    first = post(send, "repeat", path="/a")
    again = post(send, "repeat", path="/a")
    finish(send, "repeat")
    done = post(send, '"repeat"', path="/a")

    assert [each.status for each in (first, again, done)] == [202] * 3
    assert [each.all("Location") for each in (first, again, done)] == [["/async/repeat"]] * 3
    assert [each.json()["status"] for each in (first, again, done)] == [
        *("accepted", "accepted", "completed")
    ]
    assert len(broker.requests) == 1


def test_white_space_and_order_make_no_other_request(send: Function, broker: Peer) -> None:
    """An envelope is what it says; its numbers count as they are written."""
    texts = [
        '{"targetURL": "http://127.0.0.1:9", "body": {"a": 1.0, "b": [1]}}',
        '{"body":{"b":[1],"a":1.0},"targetURL":"http://127.0.0.1:9","method":"POST"}',
        '{"targetURL": "http://127.0.0.1:9", "body": {"a": 1, "b": [1]}}',
        '{"targetURL": "http://127.0.0.1:9", "body": {"a": 1.0000000000000000001, "b": [1]}}',
    ]
    headers = {"Idempotency-Key": "spaced"}

    statuses = [call("POST", f"{send.url}/async", text, headers).status for text in texts]

    assert statuses == [202, 202, 422, 422]
    assert len(broker.requests) == 1


@pytest.mark.parametrize("outcome", ["open", "completed", "failed", "dead"])
def test_another_request_under_a_used_key_is_refused(
    send: Function, broker: Peer, outcome: str
) -> None:
    """It is never given the first one's answer, nor takes its place; and it says so."""
    key = f"used-{outcome}"
    post(send, key, path="/a", callback=CALLBACK)
    if outcome in ("completed", "failed"):
        finish(send, key, outcome, callback=CALLBACK)
    elif outcome == "dead":
        kill(send, key, path="/a")
    before = status_of(send, key)

    others = [
        post(send, key, path="/b", callback=CALLBACK),
        post(send, key, path="/a", prefer="wait=5"),  # without the callback
        post(send, key, path="/a", callback=CALLBACK, method="PUT"),
    ]

    assert [each.status for each in others] == [422] * 3
    assert others[0].json() == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": f"Idempotency-Key {key} is that of a request with another envelope or method;"
        " a new request needs a new key",
    }
    assert status_of(send, key) == before
    assert len(broker.requests) == 1


def test_a_repeat_that_would_wait_gets_the_answer(send: Function, broker: Peer) -> None:
    """That of its own request, at once when it is there."""
    post(send, "patient", path="/a")
    finish(send, "patient")

    answer = post(send, "patient", path="/a", prefer="wait=20")

    assert (answer.status, answer.body) == (200, b"answer of patient")
    assert len(broker.requests) == 1


def test_after_death_the_same_envelope_is_a_retry(send: Function, broker: Peer) -> None:
    """Published again, open again, and accepted before it is finished; a copy kills it no more."""
    post(send, "phoenix", path="/a")
    kill(send, "phoenix", path="/a")
    assert status_of(send, "phoenix")["status"] == "dead"

    again = post(send, "phoenix", path="/a")

    assert (again.status, again.json()["status"]) == (202, "accepted")
    assert len(broker.requests) == 2
    assert broker.requests[1].header("ce-relayround") == "2"
    kill(send, "phoenix", path="/a")
    assert status_of(send, "phoenix")["status"] == "accepted"
    assert "finishedAt" not in status_of(send, "phoenix")
    kill(send, "phoenix", path="/a", relayround="2")
    assert status_of(send, "phoenix")["status"] == "dead"


def test_what_was_not_published_may_be_sent_again(send: Function, broker: Peer) -> None:
    """It leaves nothing behind, so that even another request may have the key."""
    broker.default = answer_of(408)
    refused = post(send, "refused", path="/a")
    broker.default = peers.ACCEPTED

    assert (refused.status, refused.json()["published"]) == (503, "no")
    assert status_of(send, "refused")["status"] == 404
    assert post(send, "refused", path="/b").status == 202


def test_what_may_have_been_published_is_published_again(send: Function, broker: Peer) -> None:
    """Until then nobody is told that it is accepted."""
    broker.default = answer_of(500)
    maybe = post(send, "maybe", path="/a")
    broker.default = peers.ACCEPTED
    known = status_of(send, "maybe")

    again = post(send, "maybe", path="/a")

    assert (maybe.status, maybe.json()["published"]) == (503, "unknown")
    assert known["status"] == "unknown"
    assert "same Idempotency-Key" in str(known["advice"])
    assert again.status == 202
    assert status_of(send, "maybe")["status"] == "accepted"
    assert [each.header("ce-id") for each in broker.requests] == ["maybe", "maybe"]


def test_a_repeat_that_is_not_published_takes_nothing_back(send: Function, broker: Peer) -> None:
    """The first one may be on its way all the same, with its callback."""
    broker.default = answer_of(500)
    post(send, "kept", path="/a", callback=CALLBACK)
    broker.default = answer_of(408)
    second = post(send, "kept", path="/a", callback=CALLBACK)

    assert (second.status, second.json()["published"]) == (503, "no")
    assert status_of(send, "kept")["status"] == "unknown"
    reply = finish(send, "kept", callback=CALLBACK)
    assert reply.all("ce-id") == ["kept.completed.callback"]


def test_a_repeat_while_the_broker_is_away_loses_no_callback(send: Function, broker: Peer) -> None:
    """As the documents advise, a caller repeats; the request is there, and its callback too."""
    post(send, "away", path="/a", callback=CALLBACK)
    broker.default = answer_of(408)

    again = post(send, "away", path="/a", callback=CALLBACK)

    assert again.status == 202
    reply = finish(send, "away", callback=CALLBACK)
    assert reply.status == 200
    assert reply.all("ce-id") == ["away.completed.callback"]
    told = json.loads(reply.body)
    assert (told["targetAPI"], told["headers"]["X-A"]) == ("/told", "1")
    assert told["body"] == {
        "id": "away",
        "status": "completed",
        "answer": {"status": 200, "headers": {}, "body": "answer of away"},
    }
    assert status_of(send, "away")["answer"] == told["body"]["answer"]


def test_every_death_is_told(send: Function, broker: Peer) -> None:
    """A copy of a dead letter tells nothing new, and a second death has a key of its own."""
    post(send, "mortal", path="/a", callback=CALLBACK)
    data = {"targetURL": "http://127.0.0.1:9", "targetAPI": "/a", "callback": CALLBACK}
    for attributes in ({}, {}, {"relayround": "2"}):
        if attributes:
            assert call("POST", f"{send.url}/async/mortal/retry").status == 202
        deliver(send, "/event/dead-letter", TYPE, data, "mortal", **attributes)

    told = [
        each.header("ce-id")
        for each in broker.requests
        if str(each.header("ce-id")).endswith(".callback")
    ]

    assert told == ["mortal.dead.callback", "mortal.dead.callback", "mortal.dead.2.callback"]


@pytest.mark.parametrize(
    "key",
    [
        *("order.completed", "order.failed.callback", "order.completed.callback"),
        *("order.dead", "order.dead.2.callback", "order.retry1"),
    ],
)
def test_an_id_of_the_relays_own_is_no_key(send: Function, broker: Peer, key: str) -> None:
    """Else its holder would get what somebody's callback receiver answered."""
    answer = post(send, key)

    assert answer.status == 400
    assert answer.json()["detail"] == "Idempotency-Key must not end as the relay's own ids do"
    assert broker.requests == []


@pytest.mark.parametrize("key", [".", ".."])
def test_a_key_must_fit_into_a_path(send: Function, broker: Peer, key: str) -> None:
    """Every client would make another path of its status."""
    answer = post(send, key)

    assert answer.status == 400
    assert answer.json()["detail"] == f"Idempotency-Key must not be {key}, which no path can name"
    assert broker.requests == []


@dataclass
class Gate:
    """A Broker that takes an event when it is told to."""

    came: threading.Event
    go: threading.Event

    def talk(self, connection: socket.socket) -> None:
        self.came.set()
        self.go.wait(20)
        connection.sendall(peers.ACCEPTED)


def test_a_repeat_in_the_middle_of_publishing_comes_again(send: Function, broker: Peer) -> None:
    """It is told when, and nothing is published twice; another request is refused at once."""
    gate = Gate(threading.Event(), threading.Event())
    broker.default = gate.talk
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, send, "busy", path="/a")
        assert gate.came.wait(10)

        copy, other = post(send, "busy", path="/a"), post(send, "busy", path="/b")

        gate.go.set()
        assert first.result().status == 202
    assert (copy.status, copy.all("Retry-After"), other.status) == (409, ["1"], 422)
    assert copy.json()["detail"] == (
        "busy is being published at this moment; send it again to hear how that ended"
    )
    assert post(send, "busy", path="/a").status == 202
    assert len(broker.requests) == 1


def test_a_publication_that_is_never_heard_of_ends(broker: Peer, tmp_path: Path) -> None:
    """Its process was killed: when the time it may take is over, the request may come again."""
    gate = Gate(threading.Event(), threading.Event())
    url = f"sqlite://{tmp_path}/state.sqlite3"
    with served(broker, url, PUBLISH_TIMEOUT_S="1") as send:
        broker.default = gate.talk
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(call_and_lose, send)
            assert gate.came.wait(10)
            send.process.kill()
            first.result()
    gate.go.set()
    broker.default = peers.ACCEPTED
    with served(broker, url, PUBLISH_TIMEOUT_S="1") as send:
        while (answer := post(send, "lost", path="/a")).status == 409:
            assert answer.all("Retry-After") == ["1"]
        assert answer.status == 202
    assert [each.header("ce-id") for each in broker.requests] == ["lost", "lost"]


def call_and_lose(send: Function) -> None:
    with contextlib.suppress(OSError):
        post(send, "lost", path="/a")


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_one_key_from_everywhere_at_once_is_one_event(
    kind: str, broker: Peer, tmp_path: Path
) -> None:
    """64 threads, two workers: whoever is told to come again hears of the same request."""
    with (
        store_url(kind, tmp_path) as url,
        served(broker, url, WORKERS="2", THREADS="64") as send,
        ThreadPoolExecutor(64) as pool,
    ):

        def until_told(_: int) -> tuple[int, object, object]:
            while (answer := post(send, "crowd", path="/a")).status == 409:
                pass
            return answer.status, answer.json()["id"], answer.json()["statusURL"]

        told = set(pool.map(until_told, range(128)))

    assert told == {(202, "crowd", "/async/crowd")}
    assert len(broker.requests) == 1


def test_without_the_store_a_request_is_accepted_and_says_so(broker: Peer) -> None:
    """With its callback, which travels with it; a repeat may be made twice."""
    with served(broker, f"redis://127.0.0.1:{free_port()}") as send:
        first = post(send, "unnoted", path="/a", callback=CALLBACK)
        post(send, "unnoted", path="/a", callback=CALLBACK)
        asked = call("GET", f"{send.url}/async/unnoted")

    assert first.status == 202
    assert first.json() == {
        "id": "unnoted",
        "status": "accepted",
        "statusURL": "/async/unnoted",
        "recorded": False,
    }
    assert json.loads(broker.requests[0].body)["callback"] == CALLBACK
    assert len(broker.requests) == 2
    assert asked.status == 503
