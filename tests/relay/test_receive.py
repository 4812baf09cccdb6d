"""Receive, served by functions-framework: what it answers the Broker, whatever comes."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http import HTTPStatus
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.problems import InvalidRequest
from relay.receive import Receive, refusal
from relay.settings import Settings
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until

TYPE = "dev.knative.samples.t2"
SOURCE = "dev.knative.samples/t2"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_PARENT = "00-11111111111111111111111111111111-2222222222222222-01"
MAX_RESULT_BYTES = 1000
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
NUMBERS = itertools.count(100)
EVENT = {
    "Ce-Specversion": "1.0",
    "Ce-Id": "order-17",
    "Ce-Source": "test",
    "Ce-Type": TYPE,
    "Content-Type": "application/json",
}


@pytest.fixture(scope="module")
def target_peer() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture
def target(target_peer: Peer) -> Peer:
    target_peer.requests.clear()
    return target_peer


@pytest.fixture(scope="module")
def receive(target_peer: Peer) -> Iterator[Function]:
    env = {
        "ALLOWED_TARGETS": "127.0.0.1",
        "TARGET_TIMEOUT_S": "10",
        "MAX_RESULT_BYTES": str(MAX_RESULT_BYTES),
    }
    with serving("receive", env) as function:
        yield function


def envelope(target: Peer, path: str, **fields: object) -> str:
    return json.dumps({"targetURL": target.url, "targetAPI": path, **fields})


def deliver(receive: Function, body: bytes | str, **headers: str) -> Answer:
    """Deliver an event as the Broker does, each time another; `ce_id=…` is its header `ce-id`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    event = EVENT | {"Ce-Id": f"order-{next(NUMBERS)}"} | named
    return call("POST", f"{receive.url}/", body, event)


def problem_of(answer: Answer) -> dict[str, object]:
    """Read an error that is fit for a Broker: never a CloudEvent, never over 768 bytes."""
    assert answer.all("Content-Type") == ["application/problem+json"]
    assert not any(name.lower().startswith("ce-") for name, _ in answer.headers)
    assert len(answer.body) <= 768
    problem = answer.json()
    problem.pop("attempts", None)  # counted per event id, over all tests
    return problem


def event_of(answer: Answer) -> dict[str, str]:
    """Read the attributes of a reply, but for those that any event has."""
    assert answer.status == 200
    attributes = {
        name[3:].lower(): unquote(value)
        for name, value in answer.headers
        if name.lower().startswith("ce-")
    }
    assert attributes.pop("time")
    assert answer.all("Content-Type") == ["application/json"]
    return attributes


def waiting(tier: int, due_s: str) -> dict[str, str]:
    """Write the headers of an event of a tier, each time another's, due so long from now."""
    request_id = f"order-{next(NUMBERS)}"
    return {
        "ce_id": f"{request_id}.retry{tier}",
        "ce_type": f"{TYPE}.retry{tier}",
        "ce_subject": request_id,
        "ce_relayattempts": str(tier),
        "ce_relayreason": "before",
        "ce_relaynotbefore": rfc3339(time.time() + float(due_s)),
    }


def rfc3339(time_s: float) -> str:
    moment = datetime.fromtimestamp(time_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class TestResults:
    def test_a_success_is_a_completed_event(self, receive: Function, target: Peer) -> None:
        """A 2xx of the target becomes the reply that tells of it, in binary mode."""
        headers = [("Content-Type", "application/json"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b")]
        target.on("/completed", answer_of(201, b'{"n": 1.50}', *headers))

        body = envelope(target, "/completed")
        answer = deliver(receive, body, ce_id="order-17", traceparent=PARENT)

        assert answer.status == 200
        fields = {name.lower(): value for name, value in answer.headers}
        assert fields.pop("ce-time").endswith("Z")
        assert fields.pop("ce-relayattempts") == "1"
        for name in ("server", "date", "connection", "content-length"):
            fields.pop(name)
        assert fields == {
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": "order-17.completed",
            "ce-source": SOURCE,
            "ce-type": f"{TYPE}.completed",
            "ce-subject": "order-17",
            "ce-traceparent": PARENT,
        }
        assert answer.json() == {
            "status": 201,
            "headers": {
                "Content-Type": ["application/json"],
                "Set-Cookie": ["a=1", "b"],
                "Content-Length": ["11"],
            },
            "body": {"n": 1.5},
        }

    @pytest.mark.parametrize("status", [200, 202, 204, 299])
    def test_successes(self, receive: Function, target: Peer, status: int) -> None:
        """Every 2xx is a success, with or without a body."""
        target.on("/2xx", b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

        answer = deliver(receive, envelope(target, "/2xx"))

        assert answer.status == 200
        assert answer.all("ce-type") == [f"{TYPE}.completed"]
        assert answer.json()["status"] == status
        assert "body" not in answer.json()

    @pytest.mark.parametrize("status", [300, 301, 304, 307, 400, 401, 404, 409, 410, 418, 422])
    def test_refusals_are_failed_events(self, receive: Function, target: Peer, status: int) -> None:
        """What asking again would not change is an answer: no retry, and no redirect followed."""
        location = f"Location: {target.url}/elsewhere".encode()
        target.on("/no", b"HTTP/1.1 %d X\r\n%s\r\nContent-Length: 0\r\n\r\n" % (status, location))

        answer = deliver(receive, envelope(target, "/no"))

        assert answer.status == 200
        assert answer.all("ce-type") == [f"{TYPE}.failed"]
        assert answer.all("ce-id") == [f"{answer.all('ce-subject')[0]}.failed"]
        assert answer.json()["status"] == status
        assert not target.received("/elsewhere")

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
    def test_what_may_pass_is_tried_again(
        self, receive: Function, target: Peer, status: int
    ) -> None:
        """The request goes on to the first tier; nothing of the target's answer is in it."""
        target.on("/later", answer_of(status, b"s3cret" * 1000))
        body = envelope(target, "/later", headers={"X-N": 1.50})

        request_id = f"later-{status}"
        own = {"ce_id": request_id, "ce_traceparent": PARENT, "ce_relaymac": "abc"}
        answer = deliver(receive, body, **own, ce_relayhops="1")

        assert answer.status == 200
        assert answer.all("Retry-After") == []
        assert answer.body.decode() == body
        event = event_of(answer)
        due_s = time_of(event.pop("relaynotbefore")) - time_of(event.pop("relaysince"))
        assert 1 <= due_s < 5
        assert event == {
            "specversion": "1.0",
            "id": f"{request_id}.retry1",
            "source": SOURCE,
            "type": f"{TYPE}.retry1",
            "subject": request_id,
            "traceparent": PARENT,
            "relaymac": "abc",
            "relayhops": "1",
            "relayattempts": "1",
            "relayreason": f"the target answered {status}",
            "relaystatus": str(status),
        }

    def test_the_targets_retry_after_is_kept(self, receive: Function, target: Peer) -> None:
        """The request is due when the target said, in the tier that waits about as long."""
        target.on("/after", answer_of(429, b"", ("Retry-After", "7")))

        event = event_of(deliver(receive, envelope(target, "/after")))

        assert event["type"] == f"{TYPE}.retry4"
        assert 7 <= time_of(event["relaynotbefore"]) - time_of(event["relaysince"]) < 10

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"", "closed the connection unanswered"),
            (b"nonsense\r\n\r\n", "sent what is not HTTP/1.1"),
            (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhalf", "broke off its answer"),
            (None, "did not answer in full within 0.5 s"),
        ],
        ids=["nothing", "nonsense", "half", "silence"],
    )
    def test_no_answer_is_tried_again(
        self, receive: Function, target: Peer, raw: bytes | None, reason: str
    ) -> None:
        """A target that breaks off or hangs may do better the next time."""
        target.on("/broken", peers.until_gone if raw is None else lambda each: each.sendall(raw))

        body = envelope(target, "/broken", method="GET", timeout=0.5)

        event = event_of(deliver(receive, body))

        assert event["type"] == f"{TYPE}.retry1"
        assert event["relayreason"].startswith(f"the target 127.0.0.1:{target.port} {reason}")
        assert "relaystatus" not in event

    def test_a_target_that_is_not_there(self, receive: Function) -> None:
        """A target that cannot be reached may be back the next time."""
        event = event_of(deliver(receive, json.dumps({"targetURL": "http://127.0.0.1:1"})))

        assert event["type"] == f"{TYPE}.retry1"
        assert event["relayreason"] == (
            "the target 127.0.0.1:1 cannot be reached: the connection was refused"
        )

    def test_a_target_that_is_not_allowed(self, receive: Function) -> None:
        """403 puts the event aside at once, with the entry that would allow it."""
        answer = deliver(receive, json.dumps({"targetURL": "http://10.1.2.3"}))

        assert answer.status == 403
        assert problem_of(answer)["detail"] == (
            "the target 10.1.2.3 is not allowed;"
            " the entry 10.1.2.3:80 in ALLOWED_TARGETS would allow it"
        )

    def test_a_loop_is_put_aside(self, receive: Function, target: Peer) -> None:
        """What has passed the relay three times is not sent again."""
        answer = deliver(receive, envelope(target, "/loop"), ce_relayhops="3")

        assert answer.status == 403
        assert target.requests == []


class TestTiers:
    """What comes back from a tier."""

    @pytest.mark.parametrize("attempts", [1, 2, 3, 4, 5])
    def test_from_tier_to_tier(self, receive: Function, target: Peer, attempts: int) -> None:
        """Each call that fails leads one tier on, with the key of the first."""
        target.on("/again", answer_of(503))
        body = envelope(target, "/again")

        headers = waiting(attempts, "-1")
        request_id = headers["ce_subject"]
        answer = deliver(receive, body, **headers)

        event = event_of(answer)
        ending = f"retry{attempts + 1}" if attempts < 5 else "dead"
        assert (event["id"], event["type"]) == (f"{request_id}.{ending}", f"{TYPE}.{ending}")
        assert (event["subject"], event["relayattempts"]) == (request_id, str(attempts + 1))
        assert answer.body.decode() == body
        assert target.requests[0].header("Idempotency-Key") == request_id

    def test_the_last_call_fails(self, receive: Function, target: Peer) -> None:
        """A dead request is an event with the request whole, and why."""
        target.on("/dead", answer_of(500))

        headers = waiting(5, "-1")
        request_id = headers["ce_subject"]
        event = event_of(deliver(receive, envelope(target, "/dead"), **headers))

        assert event == {
            "specversion": "1.0",
            "id": f"{request_id}.dead",
            "source": SOURCE,
            "type": f"{TYPE}.dead",
            "subject": request_id,
            "relayattempts": "6",
            "relayreason": "the target answered 500",
            "relaystatus": "500",
        }

    def test_success_in_a_tier(self, receive: Function, target: Peer) -> None:
        """The result is that of the request, whatever tier it comes from."""
        headers = waiting(3, "-1")
        answer = deliver(receive, envelope(target, "/late"), **headers)

        request_id = headers["ce_subject"]
        assert answer.all("ce-id") == [f"{request_id}.completed"]
        assert answer.all("ce-subject") == [request_id]
        assert answer.all("ce-relayattempts") == ["4"]

    def test_an_early_delivery_waits(self, receive: Function, target: Peer) -> None:
        """The call is made when it is due, not before."""
        due = waiting(1, "+0.7")
        started_s = time.time()

        answer = deliver(receive, envelope(target, "/early"), **due)

        assert answer.all("ce-type") == [f"{TYPE}.completed"]
        assert time.time() - started_s >= 0.6

    def test_a_long_wait_goes_round(self, receive: Function, target: Peer) -> None:
        """What is due later than its tier waits comes again, with nothing counted."""
        answer = deliver(receive, envelope(target, "/long"), **waiting(1, "+60"))

        event = event_of(answer)
        assert (event["type"], event["relayattempts"]) == (f"{TYPE}.retry1", "1")
        assert 50 < time_of(event["relaynotbefore"]) - time.time() < 60
        assert event["relayreason"] == "before"
        assert target.requests == []

    def test_without_a_place_the_broker_waits(self, target: Peer) -> None:
        """A request that is early and finds no place to wait is 503, and says for how long."""
        settings = {"ALLOWED_TARGETS": "127.0.0.1", "WAITING_PLACES": "1"}
        with serving("receive", settings) as one, ThreadPoolExecutor(2) as pool:
            answers = [
                pool.submit(deliver, one, envelope(target, "/place"), **waiting(5, "+2"))
                for _ in range(2)
            ]
            refused, waited = sorted(
                (each.result() for each in answers), key=lambda answer: -answer.status
            )

        assert (waited.status, refused.status) == (200, 503)
        assert refused.all("Retry-After") == ["2"]
        assert problem_of(refused)["detail"] == (
            "the request is not due yet, and no place to wait is free (WAITING_PLACES)"
        )
        assert len(target.received("/place")) == 1

    def test_waiting_leaves_threads_free(self, target: Peer) -> None:
        """However many places are allowed, a quarter of the threads waits for nothing."""
        settings = {"ALLOWED_TARGETS": "127.0.0.1", "THREADS": "8", "WAITING_PLACES": "100"}
        with serving("receive", settings) as small, ThreadPoolExecutor(12) as pool:
            answers = [
                pool.submit(deliver, small, envelope(target, "/wait"), **waiting(5, "+4"))
                for _ in range(12)
            ]
            wait_until(lambda: sum(each.done() for each in answers) == 6, 10, "six refusals")
            assert call("GET", f"{small.url}/health/readiness").status == 200
            assert event_of(deliver(small, envelope(target, "/now")))["type"] == f"{TYPE}.completed"
            assert not target.received("/wait")
            statuses = sorted(each.result().status for each in answers)

        assert statuses == [200] * 6 + [503] * 6

    def test_what_is_too_old_is_not_tried_again(self, receive: Function, target: Peer) -> None:
        """Whatever its attempts, a request that failed for an hour is dead."""
        target.on("/old", answer_of(503))
        since = rfc3339(time.time() - 3601)

        answer = deliver(receive, envelope(target, "/old"), **waiting(1, "-1"), ce_relaysince=since)

        event = event_of(answer)
        assert event["type"] == f"{TYPE}.dead"
        assert event["relayreason"] == (
            "the target answered 503; it is older than 3600 s (MAX_AGE_S)"
        )

    def test_a_tier_names_its_request(self, receive: Function, target: Peer) -> None:
        """Without a subject nobody can tell what it is about: 400, and no call."""
        answer = deliver(receive, envelope(target, "/who"), ce_type=f"{TYPE}.retry1")

        assert answer.status == 400
        assert problem_of(answer)["detail"] == "ce-subject is missing; it is the id of the request"
        assert target.requests == []


class TestResultData:
    @pytest.mark.parametrize(
        ("content_type", "body", "expected"),
        [
            ("application/json", b' {"a": [1]} ', {"body": {"a": [1]}}),
            ("application/vnd.api+json; charset=utf-8", b"null", {"body": None}),
            ("application/json", b"{not JSON", {"bodyBase64": "e25vdCBKU09O"}),
            ("application/json", b'{"a":1,"a":2}', {"bodyBase64": "eyJhIjoxLCJhIjoyfQ=="}),
            ("application/json", b"\xff", {"bodyBase64": "/w=="}),
            ("application/json", b"[" * 3, {"bodyBase64": "W1tb"}),
            ("text/plain", "grüße".encode(), {"body": "grüße"}),
            ("image/png", b"\x89PNG\x00", {"bodyBase64": "iVBORwA="}),
            ("", b"text", {"body": "text"}),
        ],
        ids=["JSON", "+json", "broken", "names", "bytes", "cut short", "text", "binary", "no type"],
    )
    def test_the_body(
        self,
        receive: Function,
        target: Peer,
        content_type: str,
        body: bytes,
        expected: dict[str, object],
    ) -> None:
        """JSON is kept as JSON, text as text, anything else as base64."""
        headers = [("Content-Type", content_type)] if content_type else []
        target.on("/data", answer_of(200, body, *headers))

        data = deliver(receive, envelope(target, "/data")).json()

        assert {name: data[name] for name in data if name.startswith("body")} == expected
        assert "truncated" not in data

    @pytest.mark.parametrize(
        ("content_type", "body", "expected"),
        [
            ("text/plain", b"x" * 1001, {"body": "x" * 1000}),
            ("text/plain", b"x" * 999 + "é".encode(), {"body": "x" * 999}),
            ("application/json", b'"' + b"x" * 1000 + b'"', {"body": '"' + "x" * 999}),
            (
                "image/png",
                b"\xff" * 2000,
                {"bodyBase64": base64.b64encode(b"\xff" * 1000).decode()},
            ),
        ],
        ids=["text", "within a character", "JSON", "binary"],
    )
    def test_a_long_body_is_cut(
        self,
        receive: Function,
        target: Peer,
        content_type: str,
        body: bytes,
        expected: dict[str, object],
    ) -> None:
        """What is longer than MAX_RESULT_BYTES is cut there, and marked."""
        target.on("/long", answer_of(200, body, ("Content-Type", content_type)))

        data = deliver(receive, envelope(target, "/long")).json()

        assert {name: data[name] for name in data if name.startswith("body")} == expected
        assert data["truncated"] is True
        assert data["truncatedReason"] == "the body is longer than 1000 bytes"

    def test_a_body_of_the_largest_size(self, receive: Function, target: Peer) -> None:
        """A body of exactly MAX_RESULT_BYTES is whole."""
        target.on("/whole", answer_of(200, b"x" * MAX_RESULT_BYTES))

        data = deliver(receive, envelope(target, "/whole")).json()

        assert data["body"] == "x" * MAX_RESULT_BYTES
        assert "truncated" not in data

    def test_an_endless_body_is_cut(self, receive: Function, target: Peer) -> None:
        """Only as much is read as is kept, so an endless body is a success too."""

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)

        target.on("/endless", talk)

        data = deliver(receive, envelope(target, "/endless")).json()

        assert data["body"] == "x" * MAX_RESULT_BYTES
        assert data["truncated"] is True

    def test_a_post_that_was_answered_is_done(self, receive: Function, target: Peer) -> None:
        """What breaks off after a final status is told, and not called again."""
        raw = b"HTTP/1.1 201 X\r\nContent-Length: 9\r\nContent-Type: text/plain\r\n\r\nhalf"
        target.on("/half", lambda connection: connection.sendall(raw))

        answer = deliver(receive, envelope(target, "/half"))

        assert answer.all("ce-type") == [f"{TYPE}.completed"]
        assert answer.json() == {
            "status": 201,
            "headers": {"Content-Length": ["9"], "Content-Type": ["text/plain"]},
            "truncated": True,
            "truncatedReason": f"the target 127.0.0.1:{target.port} broke off its answer",
            "body": "half",
        }
        assert len(target.received("/half")) == 1


class TestCalls:
    def test_the_call_is_the_envelopes(self, receive: Function, target: Peer) -> None:
        """Method, path, headers and body are the envelope's; the key is the event's id."""
        body = envelope(target, "/call?a=b", method="PUT", headers={"X-A": 1}, body={"b": None})

        trace = {"ce_traceparent": PARENT, "ce_tracestate": "a=1", "traceparent": OTHER_PARENT}
        deliver(receive, body, ce_id="order-18", **trace)

        [received] = target.requests
        assert (received.method, received.target) == ("PUT", "/call?a=b")
        assert received.body == b'{"b": null}'
        assert dict(received.headers) == {
            "Host": f"127.0.0.1:{target.port}",
            "User-Agent": "knative-relay",
            "X-A": "1",
            "Content-Type": "application/json",
            "relay-hops": "1",
            "Accept-Encoding": "identity",
            "Idempotency-Key": "order-18",
            "traceparent": PARENT,
            "tracestate": "a=1",
            "Content-Length": "11",
        }

    def test_post_is_the_default(self, receive: Function, target: Peer) -> None:
        """An envelope without a method is a POST, and needs neither headers nor body."""
        deliver(receive, envelope(target, "/default"))

        assert [each.method for each in target.requests] == ["POST"]

    def test_the_trace_of_the_delivery(self, receive: Function, target: Peer) -> None:
        """An event without a trace context goes on under that of its delivery."""
        deliver(receive, envelope(target, "/trace"), traceparent=PARENT)

        assert target.requests[0].header("traceparent") == PARENT

    @pytest.mark.parametrize(
        ("event_id", "key"),
        [("a%20b", "a b"), ("caf%C3%A9", "caf%C3%A9"), ("%E2%98%81", "%E2%98%81")],
    )
    def test_any_id_is_a_key(
        self, receive: Function, target: Peer, event_id: str, key: str
    ) -> None:
        """An id may hold any character; what no header can hold is sent percent-encoded."""
        answer = deliver(receive, envelope(target, "/id"), ce_id=event_id)

        assert answer.status == 200
        assert target.requests[0].header("Idempotency-Key") == key
        assert answer.all("ce-subject") == [event_id]

    @pytest.mark.parametrize("version", ["1.0", "0.3"])
    @pytest.mark.parametrize("encoded", [False, True], ids=["data", "data_base64"])
    def test_a_structured_event(
        self, receive: Function, target: Peer, version: str, encoded: bool
    ) -> None:
        """A structured event is as good as a binary one."""
        data = envelope(target, "/structured")
        event_id = f"structured-{version}-{encoded}"
        event: dict[str, object] = {
            "specversion": version,
            "id": event_id,
            "source": "s",
            "type": TYPE,
        }
        if encoded:
            event["data_base64"] = base64.b64encode(data.encode()).decode()
        else:
            event["data"] = json.loads(data)

        answer = call("POST", receive.url, json.dumps(event), STRUCTURED)

        assert answer.status == 200
        assert answer.all("ce-id") == [f"{event_id}.completed"]
        assert len(target.requests) == 1


def structured(**attributes: object) -> bytes:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": TYPE, "data": {}, **attributes}
    return json.dumps({name: value for name, value in event.items() if value != "-"}).encode()


DEEP = b"[" * 10_000 + b"]" * 10_000


class TestPoison:
    """Events that no retry could make better: 400, which puts them aside at once."""

    @pytest.mark.parametrize(
        ("headers", "body", "detail"),
        [
            ({}, b"", "ce-specversion is missing; send a CloudEvent"),
            (
                {"Content-Type": "application/json", "Authorization": "s3cret"},
                b'{"s3cret":1}',
                "ce-specversion is missing; send a CloudEvent",
            ),
            (
                {"Content-Type": "application/cloudevents-batch+json"},
                b"[" + structured() + b"]",
                "Content-Type must be application/cloudevents+json for a structured event",
            ),
            (
                {"Content-Type": "application/cloudevents+xml"},
                b"<event/>",
                "Content-Type must be application/cloudevents+json for a structured event",
            ),
            (STRUCTURED, b"[" + structured() + b"]", "event must be an object, not an array"),
            (STRUCTURED, b"", "event is not JSON: Expecting value at line 1 column 1"),
            (STRUCTURED, DEEP, "event is nested deeper than 100 levels"),
            (STRUCTURED, structured(id="-"), "ce-id is missing or empty"),
            (
                STRUCTURED,
                structured(**{f"e{number}": 1 for number in range(65_000)}),
                "event has 65004 attributes; at most 64 are read",
            ),
            (STRUCTURED, structured(type=""), "ce-type is missing or empty"),
            (STRUCTURED, structured(specversion="2.0"), "ce-specversion must be one of 1.0, 0.3"),
            (STRUCTURED, structured(data="-", data_base64="s3cret!"), "data_base64 must be base64"),
            (STRUCTURED, structured(data="-"), "envelope is empty; send"),
            ({**EVENT, "Ce-Id": ""}, b"{}", "ce-id is missing or empty"),
            ({**EVENT, "Ce-Type": ""}, b"{}", "ce-type is missing or empty"),
            ({**EVENT, "Ce-Id": "a%0Ab"}, b"{}", "ce-id must not have a control character"),
            ({**EVENT, "Ce-Specversion": "2.0"}, b"{}", "ce-specversion must be one of 1.0, 0.3"),
            ({**EVENT, "Content-Type": "text/plain"}, b"{}", "Content-Type must be application"),
            (EVENT, b"", "envelope is empty; send"),
            (EVENT, b"{", "envelope is not JSON: Expecting property name enclosed in double"),
            (EVENT, DEEP, "envelope is nested deeper than 100 levels"),
            (EVENT, b"1" * 5000, "envelope holds a number that is out of range"),
            (EVENT, b"\xff", "envelope is not UTF-8 (byte 0)"),
            (EVENT, b"[]", "envelope must be an object, not an array"),
            (EVENT, b'{"targetURL":"http://a","headers":"s3cret"}', "headers must be an object"),
            (EVENT, b'{"message":"s3cret"}', "message is no field of the envelope; it has"),
        ],
        ids=[
            "nothing",
            "no event",
            "batch",
            "XML",
            "array",
            "empty structured",
            "deep structured",
            "no id",
            "many attributes",
            "empty type",
            "structured version",
            "base64",
            "no data",
            "empty id",
            "empty binary type",
            "control character",
            "version",
            "content type",
            "empty data",
            "broken data",
            "deep data",
            "huge number",
            "not UTF-8",
            "no envelope",
            "headers",
            "func invoke",
        ],
    )
    def test_malformed_events(
        self,
        receive: Function,
        target: Peer,
        headers: dict[str, str],
        body: bytes,
        detail: str,
    ) -> None:
        """A 400 says what is wrong and repeats nothing of the request."""
        answer = call("POST", f"{receive.url}/", body, headers)

        assert answer.status == 400
        problem = problem_of(answer)
        assert {name: problem[name] for name in ("type", "title", "status")} == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
        }
        assert str(problem["detail"]).startswith(detail)
        assert b"s3cret" not in answer.body
        assert target.requests == []

    @pytest.mark.parametrize("name", ["Ce-Id", "Ce-Source", "Ce-Type"])
    def test_missing_attributes(self, receive: Function, name: str) -> None:
        """An event without a required attribute is none."""
        headers = {key: value for key, value in EVENT.items() if key != name}

        answer = call("POST", f"{receive.url}/", b"{}", headers)

        assert answer.status == 400
        assert problem_of(answer)["detail"] == f"{name.lower()} is missing or empty"

    def test_both_modes_at_once(self, receive: Function, target: Peer) -> None:
        """A structured event is read as one, whatever headers stand beside it."""
        body = structured(data={"targetURL": target.url})

        answer = call("POST", receive.url, body, {**STRUCTURED, "Ce-Specversion": "1.0"})

        assert answer.status == 200

    def test_an_event_that_is_too_large(self, receive: Function) -> None:
        """An event that is larger than any of the relay's own is put aside too."""
        answer = deliver(receive, b" " * 2_000_001)

        assert answer.status == 400
        assert problem_of(answer)["detail"] == (
            "the body is larger than 2000000 bytes (2 * MAX_EVENT_BYTES)"
        )

    @given(st.text(max_size=2000))
    def test_an_error_is_never_too_long_for_a_broker(self, text: str) -> None:
        """No error body is over 768 bytes, whatever it quotes."""
        response = refusal(InvalidRequest("field", text))

        assert response.status == HTTPStatus.BAD_REQUEST
        body = b"".join(response.body)
        assert len(body) <= 768
        assert json.loads(body)["detail"][:4] == "fiel"


class TestServer:
    def test_a_get_is_refused(self, receive: Function) -> None:
        """An event comes by POST."""
        answer = call("GET", f"{receive.url}/")

        assert answer.status == 405
        assert answer.all("Allow") == ["POST"]
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Method Not Allowed",
            "status": 405,
            "detail": "/ does not answer GET; it answers POST",
        }


def test_a_delivery_that_waits_holds_its_text_alone() -> None:
    """What was read of it takes twenty times the room, and is let go."""
    receive = Receive(Settings.from_env({}))
    data = b'{"targetURL": "http://a.test", "body": [%b]}' % b",".join([b"[]"] * 100_000)
    headers = {name.lower(): value for name, value in EVENT.items()}
    tracemalloc.start()

    delivery = receive.read(headers, data)

    held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert delivery.envelope.content is not None
    assert len(delivery.envelope.content) < held_bytes < 2 * len(data)
    assert peak_bytes > 10 * len(data)
