"""What comes back about requests, as the Broker delivers it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from relay.events import Event
from relay.outcomes import reason_of
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer
from tests.support.peers import serving as peer

TYPE = "dev.knative.samples.t2"
RESULT = {"status": 200, "headers": {}, "body": "done"}
STATUS = "status must be a number from 200 to 599"
HEADERS = "headers must be an object of lists of strings"
BASE64 = "bodyBase64 must be base64 (RFC 4648 section 4)"


@pytest.fixture(scope="module")
def broker() -> Iterator[Peer]:
    with peer() as broker:
        yield broker


@pytest.fixture(scope="module")
def send(broker: Peer) -> Iterator[Function]:
    env = {"K_SINK": f"{broker.url}/default/default", "ALLOWED_TARGETS": "127.0.0.1"}
    with serving("send", env) as function:
        yield function


def deliver(send: Function, path: str, event_type: str, data: object, **attributes: str) -> Answer:
    """Deliver an event as the Broker does."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "r1.completed",
        "ce-source": "s",
        "ce-type": event_type,
        "Content-Type": "application/json",
        **{f"ce-{name}": value for name, value in attributes.items()},
    }
    return call("POST", f"{send.url}{path}", json.dumps(data), headers)


def event(**attributes: str) -> Event:
    return Event(attributes={"id": "r1", "source": "s", "type": "t", **attributes})


@pytest.mark.parametrize("path", ["/event/callback", "/event/dead-letter"])
def test_a_result_is_noted_wherever_it_comes_in(send: Function, path: str) -> None:
    """A result that no delivery brought becomes a dead letter; it is a result all the same."""
    request_id = "from" + path.replace("/", "-")

    answer = deliver(send, path, f"{TYPE}.completed", RESULT, subject=request_id, relayattempts="3")

    assert (answer.status, answer.body) == (202, b"")
    known = call("GET", f"{send.url}/async/{request_id}").json()
    assert (known["status"], known["attempts"], known["answer"]) == ("completed", 3, RESULT)


@pytest.mark.parametrize(
    ("data", "attributes", "detail"),
    [
        pytest.param(
            RESULT, {}, "ce-subject is missing; it is the id of the request", id="no-subject"
        ),
        pytest.param([], {"subject": "r"}, "data must be an object, not an array", id="array"),
        *(
            pytest.param(data, {"subject": "r"}, f"data.{detail}", id=json.dumps(data))
            for data, detail in (
                ({}, STATUS),
                ({"status": "200"}, STATUS),
                ({"status": 199}, STATUS),
                ({"status": 600}, STATUS),
                ({"status": True}, STATUS),
                ({"status": 200}, HEADERS),
                ({"status": 200, "headers": []}, HEADERS),
                ({"status": 200, "headers": {"A": "b"}}, HEADERS),
                ({"status": 200, "headers": {"A": [1]}}, HEADERS),
                (RESULT | {"bodyBase64": "!"}, BASE64),
                (RESULT | {"bodyBase64": None}, BASE64),
            )
        ),
    ],
)
def test_what_is_no_result_is_refused(
    send: Function, data: object, attributes: dict[str, str], detail: str
) -> None:
    """The Broker hears 400, and nothing is noted."""
    answer = deliver(send, "/event/callback", f"{TYPE}.failed", data, **attributes)

    assert answer.status == 400
    assert answer.json()["detail"] == detail
    assert call("GET", f"{send.url}/async/r").status == 404


def test_an_event_cannot_hide_behind_the_type_of_a_result(send: Function) -> None:
    """In structured mode the type is that in the body, whatever the header says."""
    hidden = {
        "specversion": "1.0",
        "id": "r2",
        "source": "s",
        "type": f"{TYPE}.else",
        "subject": "r2",
        "data": RESULT,
    }
    headers = {"ce-type": f"{TYPE}.completed", "Content-Type": "application/cloudevents+json"}

    answer = call("POST", f"{send.url}/event/callback", json.dumps(hidden), headers)

    assert (answer.status, answer.json()["detail"]) == (400, "ce-type must be that of the event")
    assert call("GET", f"{send.url}/async/r2").status == 404


def test_a_made_up_result_cannot_break_the_answer_to_who_waits(send: Function) -> None:
    """What cannot stand in a header, or is the server's own to set, is left out."""
    made_up = RESULT | {
        "headers": {
            "X-A": ["1\r\nX-Evil: 1", "2"],
            "X B": ["1"],
            "Transfer-Encoding": ["chunked"],
            "Content-Length": ["99"],
        },
        "body": "done\ud800",  # half of a character
    }
    body = json.dumps({"targetURL": "http://127.0.0.1:1"})
    headers = {"Idempotency-Key": "r3", "Prefer": "wait=20"}

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, "POST", f"{send.url}/async", body, headers)
        while not waiting.done():
            came = deliver(send, "/event/callback", f"{TYPE}.completed", made_up, subject="r3")
            assert came.status == 202
        answer = waiting.result()

    assert (answer.status, answer.body) == (200, b"done?")
    assert answer.all("X-A") == ["2"]
    assert answer.all("X-Evil") == answer.all("X B") == answer.all("Transfer-Encoding") == []
    assert answer.all("Content-Length") == ["5"]


@pytest.mark.parametrize("path", ["/event/callback", "/event/dead-letter"])
def test_a_dead_request_is_noted_wherever_it_comes_in(
    send: Function, broker: Peer, path: str
) -> None:
    """It says why, and is published again as the request that it was."""
    request_id = "dead-from" + path.replace("/", "-")
    attributes = {
        "id": f"{request_id}.dead",
        "subject": request_id,
        "relayattempts": "6",
        "relayreason": "the target answered 503",
        "relaystatus": "503",
        "relayhops": "1",
    }
    envelope = {"targetURL": "http://127.0.0.1:9"}

    answer = deliver(send, path, f"{TYPE}.dead", envelope, **attributes)

    assert (answer.status, answer.body) == (202, b"")
    known = call("GET", f"{send.url}/async/{request_id}").json()
    assert (known["status"], known["attempts"]) == ("dead", 6)
    assert known["reason"] == {"code": 503, "detail": "the target answered 503", "attempts": 6}
    assert call("POST", f"{send.url}/async/{request_id}/retry").status == 202
    assert_published(broker, request_id, envelope)


@pytest.mark.parametrize("tier", ["retry1", "retry5"])
def test_a_dead_letter_of_a_tier_is_its_request(send: Function, broker: Peer, tier: str) -> None:
    """Receive was away while a request waited: it is dead under the request's own id."""
    request_id = f"lost-in-{tier}"
    attributes = {
        "id": f"{request_id}.{tier}",
        "subject": request_id,
        "relayattempts": "2",
        "relaynotbefore": "2026-01-01T00:00:00Z",
        "knativeerrorcode": "500",
    }
    envelope = {"targetURL": "http://127.0.0.1:9"}

    deliver(send, "/event/dead-letter", f"{TYPE}.{tier}", envelope, **attributes)

    known = call("GET", f"{send.url}/async/{request_id}").json()
    assert (known["status"], known["attempts"]) == ("dead", 2)
    assert known["reason"] == {"code": 500, "attempts": 2}
    assert call("POST", f"{send.url}/async/{request_id}/retry").status == 202
    assert_published(broker, request_id, envelope)


def assert_published(broker: Peer, request_id: str, envelope: object) -> None:
    """Check the last event: the request's own, with nothing of how far it had come."""
    published = broker.requests[-1]
    assert (published.header("ce-id"), published.header("ce-type")) == (request_id, TYPE)
    assert json.loads(published.body) == envelope
    for name in ("subject", "relayattempts", "relayreason", "relaynotbefore", "knativeerrorcode"):
        assert published.header(f"ce-{name}") is None


def test_a_dead_letter_without_a_reason_is_dead(send: Function) -> None:
    """The Broker adds nothing when it understood nothing of the answer."""
    deliver(send, "/event/dead-letter", TYPE, {}, id="silent")

    known = call("GET", f"{send.url}/async/silent").json()

    assert (known["status"], known["reason"]) == ("dead", {})


@pytest.mark.parametrize(
    "event_type", ["other", f"{TYPE}.other", f"{TYPE}.retry", f"x{TYPE}", f"{TYPE}.retry1.other"]
)
def test_a_dead_letter_is_an_event_of_the_relays(send: Function, event_type: str) -> None:
    """Nobody else's event becomes a dead request, which a retry would publish as it is."""
    answer = deliver(send, "/event/dead-letter", event_type, {}, id="forged", source="/somebody")

    detail = "ce-type must be that of a request or a result of this relay"
    assert (answer.status, answer.json()["detail"]) == (403, detail)
    assert call("GET", f"{send.url}/async/forged").status == 404


def test_a_dead_letter_whose_id_is_no_text_is_refused(send: Function) -> None:
    """What cannot be read is kept under its id; half of a character is none."""
    unread = json.dumps({"specversion": "1.0", "id": "\ud800", "source": "s", "type": TYPE})
    headers = {"Content-Type": "application/cloudevents+json"}

    answer = call("POST", f"{send.url}/event/dead-letter", unread, headers)

    assert (answer.status, answer.json()["field"]) == (400, "ce-id")


def test_an_attempt_that_is_a_dead_letter_is_taken(send: Function) -> None:
    """What is tried again is an event of its own type."""
    assert deliver(send, "/event/dead-letter", f"{TYPE}.retry3", {}, id="later").status == 202


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(
            {"knativeerrordest": "http://r", "knativeerrorcode": "503"},
            {"destination": "http://r", "code": 503},
            id="no-data",
        ),
        pytest.param(
            {"knativeerrordata": encoded('{"detail":"why","attempts":2,"title":"t"}')},
            {
                "data": {"detail": "why", "attempts": 2, "title": "t"},
                "detail": "why",
                "attempts": 2,
            },
            id="problem",
        ),
        pytest.param({"knativeerrordata": encoded("dial tcp")}, {"data": "dial tcp"}, id="text"),
        pytest.param({"knativeerrordata": "%"}, {}, id="no-base64"),
        pytest.param({"knativeerrorcode": "many"}, {}, id="no-code"),
    ],
)
def test_the_reason(attributes: dict[str, str], reason: dict[str, object]) -> None:
    """Destination, code and decoded data, as far as the Broker gave them."""
    assert reason_of(event(**attributes)) == reason
