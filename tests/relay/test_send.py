"""Send, served by functions-framework: its routes, and what it says to bad input."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.envelope import METHODS
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import REPOSITORY

TYPE = "dev.knative.samples.t2"
SOURCE = "dev.knative.samples/t2"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MAX_BODY_BYTES = 1_048_576
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture(scope="module")
def broker_peer() -> Iterator[Peer]:
    with peers.serving(peers.ACCEPTED) as peer:
        yield peer


@pytest.fixture
def broker(broker_peer: Peer) -> Peer:
    broker_peer.requests.clear()
    return broker_peer


@pytest.fixture(scope="module")
def send(target: Peer, broker_peer: Peer) -> Iterator[Function]:
    env = {
        "ALLOWED_TARGETS": "127.0.0.1,localhost",
        "K_SINK": f"{broker_peer.url}/default/default",
        "TARGET_TIMEOUT_S": "5",
    }
    with serving("send", env) as function:
        yield function


def envelope(target: Peer, path: str, **fields: object) -> str:
    return json.dumps({"targetURL": target.url, "targetAPI": path, **fields})


def problem_of(answer: Answer) -> dict[str, object]:
    assert answer.all("Content-Type") == ["application/problem+json"]
    return answer.json()


class TestSync:
    @pytest.mark.parametrize("method", METHODS)
    def test_calls_with_the_callers_method(self, send: Function, target: Peer, method: str) -> None:
        """The target sees the caller's method, the envelope's headers and body, a GET's too."""
        path = f"/methods/{method}"
        body = envelope(target, f"{path}?a=[b]", headers={"X-A": "a"}, body={"b": 1})

        answer = call(method, f"{send.url}/sync", body, JSON)

        assert answer.status == 200
        [received] = target.received(f"{path}?a=[b]")
        assert received.method == method
        assert received.body == b'{"b": 1}'
        assert received.header("Content-Type") == "application/json"
        assert received.header("X-A") == "a"
        assert received.header("Host") == f"127.0.0.1:{target.port}"
        assert received.header("User-Agent") == "knative-relay"
        assert received.header("Transfer-Encoding") is None

    @pytest.mark.parametrize("method", METHODS)
    def test_a_post_calls_with_the_envelopes_method(
        self, send: Function, target: Peer, method: str
    ) -> None:
        """A browser's fetch sends no GET with a body, so the envelope may say it."""
        path = f"/envelope/{method}"
        target.on(path, answer_of(200, b"" if method == "HEAD" else b"ok"))

        answer = call("POST", f"{send.url}/sync", envelope(target, path, method=method), JSON)

        assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"ok")
        assert [each.method for each in target.received(path)] == [method]

    def test_a_head_has_the_length_of_a_body(self, send: Function, target: Peer) -> None:
        """It is the length of what a GET would bring; a POST that asked for it gets no body."""
        target.on("/head", b"HTTP/1.1 200 X\r\nContent-Length: 7\r\n\r\n")

        head = call("HEAD", f"{send.url}/sync", envelope(target, "/head"), JSON)
        post = call("POST", f"{send.url}/sync", envelope(target, "/head", method="HEAD"), JSON)

        assert (head.status, head.body, head.all("Content-Length")) == (200, b"", ["7"])
        assert (post.status, post.body) == (200, b"")

    def test_an_envelope_without_headers_and_body(self, send: Function, target: Peer) -> None:
        """No body is sent when the envelope has none."""
        call("GET", f"{send.url}/sync", envelope(target, "/bare"))

        [received] = target.received("/bare")
        assert received.body == b""
        assert received.header("Content-Length") is None
        assert received.header("Content-Type") is None

    def test_all_headers_but_hop_by_hop_ones_come_back(self, send: Function, target: Peer) -> None:
        """Repeated headers stay repeated; what is for one hop, or the server's own, is not sent."""
        headers = [
            ("Set-Cookie", "a=1; Path=/"),
            ("X-Both", "one"),
            ("set-cookie", "b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT"),
            ("X-Both", "two"),
            ("Connection", "keep-alive, X-Hop"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("X-Hop", "no"),
            ("Date", "Mon, 01 Jan 2001 00:00:00 GMT"),
            ("Server", "theirs"),
            ("X-Latin", "caf\xe9"),
        ]
        target.on("/headers", answer_of(200, b"x", *headers))

        answer = call("GET", f"{send.url}/sync", envelope(target, "/headers"))

        assert answer.all("Set-Cookie") == [
            "a=1; Path=/",
            "b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
        ]
        assert answer.all("X-Both") == ["one", "two"]
        assert answer.all("X-Latin") == ["caf\xe9"]
        assert answer.all("Content-Length") == ["1"]
        assert answer.all("Server") == ["gunicorn"]
        assert len(answer.all("Date")) == 1
        assert "2001" not in answer.all("Date")[0]
        names = {name.lower() for name, _ in answer.headers}
        assert names.isdisjoint({"keep-alive", "proxy-authenticate", "upgrade", "x-hop"})
        assert "content-type" not in names  # the target gave none, and none is made up

    @pytest.mark.parametrize("status", [200, 201, 299, 301, 307, 400, 404, 418, 500, 503, 999])
    def test_the_targets_status_is_the_answers(
        self, send: Function, target: Peer, status: int
    ) -> None:
        """Errors of the target are its own, and redirects are the caller's to follow."""
        location = ("Location", f"{target.url}/elsewhere")
        target.on(f"/status/{status}", answer_of(status, b"theirs", location))

        answer = call("POST", f"{send.url}/sync", envelope(target, f"/status/{status}"))

        assert answer.status == status
        assert answer.body == b"theirs"
        assert answer.all("Location") == [f"{target.url}/elsewhere"]
        assert not target.received("/elsewhere")

    @pytest.mark.parametrize("status", [204, 304])
    def test_answers_that_have_no_body(self, send: Function, target: Peer, status: int) -> None:
        """204 and 304 come back with their headers, and the connection stays good."""
        headers = b"ETag: W/1\r\nLast-Modified: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
        target.on(f"/none/{status}", b"HTTP/1.1 %d X\r\n%s\r\n" % (status, headers))
        body = envelope(target, f"/none/{status}")
        connection = http.client.HTTPConnection("127.0.0.1", send.port, timeout=10)

        with contextlib.closing(connection):
            for _ in range(2):
                connection.request("GET", "/sync", body)
                response = connection.getresponse()

                assert (response.status, response.read()) == (status, b"")
                assert response.headers["ETag"] == "W/1"
                assert response.headers["Last-Modified"] == "Mon, 01 Jan 2001 00:00:00 GMT"
                assert response.headers["Content-Length"] is None

    def test_a_compressed_body_stays_as_it_came(self, send: Function, target: Peer) -> None:
        """The caller's Accept-Encoding is the target's to see, and nothing is decoded."""
        packed = gzip.compress(b"x" * 1000)
        target.on("/gzip", answer_of(200, packed, ("Content-Encoding", "gzip")))
        headers = {"Accept-Encoding": "gzip;q=0.5, br"}

        answer = call("GET", f"{send.url}/sync", envelope(target, "/gzip"), headers)

        assert answer.body == packed
        assert answer.all("Content-Encoding") == ["gzip"]
        assert target.received("/gzip")[0].header("Accept-Encoding") == "gzip;q=0.5, br"

    def test_a_caller_that_accepts_no_encoding(self, send: Function, target: Peer) -> None:
        """A caller without Accept-Encoding gets a body that needs no decoding."""
        call("GET", f"{send.url}/sync", envelope(target, "/plain"))

        assert target.received("/plain")[0].header("Accept-Encoding") == "identity"

    @pytest.mark.parametrize("framing", ["length", "chunked", "end of connection"])
    def test_a_large_body_is_the_same_bytes(
        self, send: Function, target: Peer, framing: str
    ) -> None:
        """Ten megabytes arrive unchanged, however the target frames them."""
        data = bytes(range(256)) * 40_000
        if framing == "length":
            raw = answer_of(200, data)
        elif framing == "chunked":
            chunk = b"%x\r\n%s\r\n" % (len(data), data)
            raw = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        else:
            raw = b"HTTP/1.1 200 X\r\n\r\n" + data
        target.on("/large", lambda connection: connection.sendall(raw))

        answer = call("GET", f"{send.url}/sync", envelope(target, "/large"))

        assert answer.body == data

    def test_two_framings_at_once_are_made_one(self, send: Function, target: Peer) -> None:
        """A Content-Length beside chunks is no length (RFC 9112 section 6.3)."""
        framing = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"
        target.on("/both", b"HTTP/1.1 200 X\r\n" + framing + b"\r\n5\r\nhello\r\n0\r\n\r\n")

        answer = call("GET", f"{send.url}/sync", envelope(target, "/both"))

        assert answer.body == b"hello"
        assert answer.all("Content-Length") == []

    def test_the_same_length_twice_is_one_length(self, send: Function, target: Peer) -> None:
        """Repeated equal lengths are one (RFC 9110 section 8.6)."""
        target.on("/twice", b"HTTP/1.1 200 X\r\nContent-Length: 2, 2\r\n\r\nok")

        answer = call("GET", f"{send.url}/sync", envelope(target, "/twice"))

        assert answer.body == b"ok"
        assert answer.all("Content-Length") == ["2"]

    def test_a_body_is_streamed(self, send: Function, target: Peer) -> None:
        """The caller has the first bytes before the target has sent the last."""

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nfirst")
            assert received.recv(1) == b"."  # the test has read the first piece
            connection.sendall(b" last")

        received, seen = socket.socketpair()
        target.on("/stream", talk)
        connection = http.client.HTTPConnection("127.0.0.1", send.port, timeout=10)

        with contextlib.closing(connection), received, seen:
            connection.request("GET", "/sync", envelope(target, "/stream"))
            response = connection.getresponse()

            assert response.read1(100) == b"first"
            seen.sendall(b".")
            assert response.read() == b" last"

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ],
        ids=["length", "chunked"],
    )
    def test_a_target_that_breaks_off(self, send: Function, target: Peer, raw: bytes) -> None:
        """The caller's connection is cut too, so that half an answer never looks whole."""
        target.on("/half", lambda connection: connection.sendall(raw))

        with pytest.raises(http.client.IncompleteRead) as caught:
            call("GET", f"{send.url}/sync", envelope(target, "/half"))

        assert caught.value.partial == b"half"
        send.process.wait_for_output(
            '"GET /sync 200: the answer was cut off:'
            f' the target 127.0.0.1:{target.port} broke off its answer"'
        )
        assert "Traceback" not in send.process.output

    def test_a_deadline_within_the_body(self, send: Function, target: Peer) -> None:
        """A target that never finishes its answer has the caller's connection cut in time."""

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\n\r\nfirst")  # only the connection's end ends it
            peers.until_gone(connection)

        target.on("/endless", talk)

        with pytest.raises(http.client.IncompleteRead):
            call("GET", f"{send.url}/sync", envelope(target, "/endless", timeout=0.5))

    @pytest.mark.parametrize(
        ("raw", "status", "reason"),
        [
            (b"", 502, "closed the connection unanswered"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", 502, "sent what is not HTTP/1.1"),
            (b"HTTP/1.1 101 X\r\n\r\n", 502, "switched to a protocol that was not asked for"),
            (b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n", 502, "broke off its answer"),
            (None, 504, "did not answer in full within 0.5 s"),
        ],
        ids=["nothing", "not HTTP", "no final answer", "no body", "silence"],
    )
    def test_a_target_that_fails_before_its_body(
        self, send: Function, target: Peer, raw: bytes | None, status: int, reason: str
    ) -> None:
        """Until the first byte of the body a failure is told by a status."""
        target.on("/broken", peers.until_gone if raw is None else lambda each: each.sendall(raw))

        answer = call("GET", f"{send.url}/sync", envelope(target, "/broken", timeout=0.5))

        assert answer.status == status
        detail = problem_of(answer)["detail"]
        assert str(detail).startswith(f"the target 127.0.0.1:{target.port} {reason}")

    def test_a_target_that_is_not_there(self, send: Function) -> None:
        """A target that cannot be reached is a 502 that says so."""
        body = json.dumps({"targetURL": "http://127.0.0.1:1"})

        answer = call("GET", f"{send.url}/sync", body)

        assert answer.status == 502
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Bad Gateway",
            "status": 502,
            "detail": "the target 127.0.0.1:1 cannot be reached: the connection was refused",
        }

    def test_a_target_that_is_not_allowed(self, send: Function) -> None:
        """The refusal names the entry that would allow the target."""
        body = json.dumps({"targetURL": "http://10.1.2.3:8080"})

        answer = call("POST", f"{send.url}/sync", body)

        assert answer.status == 403
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": "the target 10.1.2.3:8080 is not allowed; the entry 10.1.2.3:8080 in"
            " ALLOWED_TARGETS would allow it",
            "entry": "10.1.2.3:8080",
        }

    def test_the_trace_goes_on(self, send: Function, target: Peer) -> None:
        """The target sees the caller's trace context."""
        headers = {"traceparent": PARENT, "tracestate": "a=1"}

        call("GET", f"{send.url}/sync", envelope(target, "/trace"), headers)

        [received] = target.received("/trace")
        assert received.header("traceparent") == PARENT
        assert received.header("tracestate") == "a=1"

    def test_a_loop_ends(self, send: Function, target: Peer) -> None:
        """What has passed the relay three times is not sent again."""
        passed = call("GET", f"{send.url}/sync", envelope(target, "/hop"), {"Relay-Hops": "2"})
        looped = call("GET", f"{send.url}/sync", envelope(target, "/hop"), {"Relay-Hops": "3"})

        assert passed.status == 200
        assert [each.header("relay-hops") for each in target.received("/hop")] == ["3"]
        assert looped.status == 508
        assert problem_of(looped)["detail"] == (
            "the call has passed a relay 3 times; the relay calls itself"
        )

    def test_the_log_keeps_secrets(self, send: Function, target: Peer) -> None:
        """A log line has the target's host, not its path, query, headers or bodies."""
        target.on("/s3cret/path", lambda connection: connection.sendall(b"s3cret-answer\r\n"))
        fields = {"headers": {"Authorization": "s3cret"}, "body": "s3cret"}

        call("POST", f"{send.url}/sync?s3cret", envelope(target, "/s3cret/path?s3cret", **fields))
        call("GET", f"{send.url}/no%0Asuch")

        send.process.wait_for_output(f"POST /sync 502: the target 127.0.0.1:{target.port}")
        send.process.wait_for_output("GET 404: ")
        assert "s3cret" not in send.process.output
        assert "no\nsuch" not in send.process.output


class TestAsync:
    @pytest.mark.parametrize("path", ["/async", "/event"])
    def test_the_envelope_becomes_an_event(self, send: Function, broker: Peer, path: str) -> None:
        """202 once the Broker has it: an event in binary mode, the envelope's bytes as its data."""
        body = ' {"targetURL" : "http://127.0.0.1:9",\n "body": 1.50}\n'
        headers = {**JSON, "traceparent": PARENT, "tracestate": "a=1"}

        answer = call("POST", f"{send.url}{path}", body, headers)

        [event] = broker.requests
        event_id = event.header("ce-id")
        assert answer.status == 202
        assert answer.json() == {
            "id": event_id,
            "status": "accepted",
            "statusURL": f"/async/{event_id}",
        }
        assert answer.all("Location") == [f"/async/{event_id}"]
        assert answer.all("Retry-After") == ["1"]
        assert (event.method, event.target) == ("POST", "/default/default")
        assert event.body == body.encode()
        assert event.header("ce-time") is not None
        assert {name: value for name, value in event.headers if name != "ce-time"} == {
            "Host": f"127.0.0.1:{broker.port}",
            "User-Agent": "knative-relay",
            "Accept-Encoding": "identity",
            "Content-Length": str(len(body)),
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-source": SOURCE,
            "ce-type": TYPE,
            "ce-relayhops": "0",
            "ce-traceparent": PARENT,
            "ce-tracestate": "a=1",
            "traceparent": PARENT,
            "tracestate": "a=1",
        }

    @pytest.mark.parametrize("key", ["order-17", '"order-18"'], ids=["bare", "quoted"])
    def test_the_idempotency_key_is_the_events_id(
        self, send: Function, broker: Peer, key: str
    ) -> None:
        """The caller's own key, with or without the quotes of the draft, is the id."""
        body = json.dumps({"targetURL": "http://127.0.0.1:9"})

        answer = call("POST", f"{send.url}/async", body, {"Idempotency-Key": key})

        assert answer.json()["id"] == key.strip('"')
        assert broker.requests[0].header("ce-id") == key.strip('"')

    @pytest.mark.parametrize("key", ["", "a b", "a/b", '"a', "x" * 129, "\xe9"])
    def test_a_bad_idempotency_key(self, send: Function, broker: Peer, key: str) -> None:
        """A key that is unfit for an id is refused, not changed."""
        body = json.dumps({"targetURL": "http://127.0.0.1:9"})

        answer = call("POST", f"{send.url}/async", body, {"Idempotency-Key": key})

        assert answer.status == 400
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "Idempotency-Key must be 1 to 128 letters, digits or . _ ~ : + = @ -",
            "field": "Idempotency-Key",
        }
        assert broker.requests == []

    def test_a_target_that_is_not_allowed(self, send: Function, broker: Peer) -> None:
        """The caller hears at once of what the policy would refuse later."""
        body = json.dumps({"targetURL": "http://10.1.2.3"})

        answer = call("POST", f"{send.url}/async", body)

        assert answer.status == 403
        assert broker.requests == []

    def test_without_a_broker(self) -> None:
        """Without K_SINK nothing is accepted, and the answer says what sets it."""
        with serving("send", {"ALLOWED_TARGETS": "127.0.0.1"}) as function:
            body = json.dumps({"targetURL": "http://127.0.0.1:9"})

            answer = call("POST", f"{function.url}/async", body)

        assert answer.status == 503
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": "there is no Broker to publish to: K_SINK is not set;"
            " a SinkBinding whose subject is this service sets it",
            "published": "no",
        }


class TestCallback:
    @pytest.mark.parametrize(
        ("method", "headers", "body", "content_type", "data"),
        [
            ("POST", JSON, b'{"a": 1.0}', "application/json", b'{"a": 1.0}'),
            (
                "POST",
                {"Content-Type": "application/json; charset=utf-8"},
                b"[]",
                "application/json; charset=utf-8",
                b"[]",
            ),
            (
                "POST",
                {"Content-Type": "application/x-www-form-urlencoded"},
                b"a=1&b=2",
                "application/x-www-form-urlencoded",
                b"a=1&b=2",
            ),
            ("POST", {}, b"\x00\xff", "application/octet-stream", b"\x00\xff"),
            ("POST", {}, None, None, b""),
            ("GET", {}, None, None, b""),
            (
                "POST",
                {"Content-Type": "application/cloudevents+json"},
                b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a" :1.0}}',
                "application/json",
                b'{"a" :1.0}',
            ),
            (
                "POST",
                {
                    "Content-Type": "text/plain",
                    "ce-specversion": "1.0",
                    "ce-id": "1",
                    "ce-source": "s",
                    "ce-type": "theirs",
                },
                b"text",
                "text/plain",
                b"text",
            ),
        ],
        ids=["JSON", "charset", "form", "bytes", "empty", "GET", "structured", "binary"],
    )
    def test_any_body_is_published(
        self,
        send: Function,
        broker: Peer,
        method: str,
        headers: dict[str, str],
        body: bytes | None,
        content_type: str | None,
        data: bytes,
    ) -> None:
        """Whatever a target calls back with becomes a `.callback` event of the relay's own."""
        answer = call(method, f"{send.url}/event/callback?id=order-17", body, headers)

        assert (answer.status, answer.body) == (202, b"")
        [event] = broker.requests
        assert event.header("ce-type") == f"{TYPE}.callback"
        assert event.header("ce-source") == SOURCE
        assert event.header("ce-subject") == "order-17"
        assert event.header("Content-Type") == content_type
        assert event.body == data

    def test_the_query_of_a_get_is_its_data(self, send: Function, broker: Peer) -> None:
        """What a GET has to say besides the id is in its query."""
        answer = call("GET", f"{send.url}/event/callback?id=o&state=done&n=1%202")

        assert answer.status == 202
        [event] = broker.requests
        assert event.header("Content-Type") == "application/x-www-form-urlencoded"
        assert event.body == b"state=done&n=1+2"

    def test_without_an_id(self, send: Function, broker: Peer) -> None:
        """A callback that names no request is published without a subject."""
        call("POST", f"{send.url}/event/callback", b"{}", JSON)

        assert broker.requests[0].header("ce-subject") is None

    @pytest.mark.parametrize("ending", ["completed", "failed", "callback"])
    def test_the_relays_own_events_are_not_published_again(
        self, send: Function, broker: Peer, ending: str
    ) -> None:
        """Results and callbacks come back from the Broker, and end here without a body."""
        headers = {
            **JSON,
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-source": SOURCE,
            "ce-type": f"{TYPE}.{ending}",
            "ce-subject": "order-17",
        }

        answer = call(
            "POST", f"{send.url}/event/callback", b'{"status": 200, "headers": {}}', headers
        )

        assert (answer.status, answer.body) == (202, b"")
        assert answer.all("Content-Type") == []
        assert broker.requests == []

    @pytest.mark.parametrize(
        ("query", "headers", "body", "detail"),
        [
            ("", JSON, b"{", "body is not JSON: Expecting property name enclosed in double quotes"),
            ("", JSON, b'{"a":1,"a":2}', "body has a name twice in one object"),
            ("?id=a%20b", {}, b"", "id must be 1 to 128 letters, digits or"),
            (
                "",
                {"Content-Type": "application/cloudevents-batch+json"},
                b"[]",
                "Content-Type must be application/cloudevents+json for a structured event",
            ),
            (
                "",
                {"Content-Type": "application/cloudevents+json"},
                b"{}",
                "ce-specversion must be one of 1.0, 0.3",
            ),
        ],
        ids=["JSON", "names", "id", "batch", "event"],
    )
    def test_bad_callbacks(
        self,
        send: Function,
        broker: Peer,
        query: str,
        headers: dict[str, str],
        body: bytes,
        detail: str,
    ) -> None:
        """What is not what it says it is, is refused and not published."""
        answer = call("POST", f"{send.url}/event/callback{query}", body, headers)

        assert answer.status == 400
        assert str(problem_of(answer)["detail"]).startswith(detail)
        assert broker.requests == []


OBJECT = json.dumps({"targetURL": "http://127.0.0.1:9"})[:-1]
KNOWN = "body, bodyBase64, callback, headers, method, targetAPI, targetURL, timeout"

BAD_ENVELOPES = [
    pytest.param(
        b"",
        "envelope",
        'envelope is empty; send {"targetURL", "targetAPI", "headers", "body"} as JSON',
        id="empty",
    ),
    pytest.param(
        b"targetURL=x",
        "envelope",
        "envelope is not JSON: Expecting value at line 1 column 1",
        id="not JSON",
    ),
    pytest.param(b"\xff", "envelope", "envelope is not UTF-8 (byte 0)", id="not UTF-8"),
    pytest.param(b"[]", "envelope", "envelope must be an object, not an array", id="array"),
    pytest.param(b"null", "envelope", "envelope must be an object, not null", id="null"),
    pytest.param(
        b"[" * 10_000 + b"]" * 10_000,
        "envelope",
        "envelope is nested deeper than 100 levels",
        id="deep",
    ),
    pytest.param(
        b"{}", "targetURL", "targetURL is missing; it says where the call goes", id="no URL"
    ),
    pytest.param(
        b'{"targetURL":1}', "targetURL", "targetURL must be a string, not a number", id="URL type"
    ),
    pytest.param(
        b'{"targetURL":"ftp://a"}',
        "targetURL",
        "targetURL must be http(s)://host[:port][/base], without user, query or fragment",
        id="URL",
    ),
    pytest.param(
        f'{OBJECT},"targetAPI":"/../a"}}'.encode(),
        "targetAPI",
        "targetAPI must not have . or .. as a part of its path",
        id="climbs",
    ),
    pytest.param(
        f'{OBJECT},"headers":"headers","body":"body"}}'.encode(),
        "headers",
        "headers must be an object, not a string",
        id="the old caller's headers",
    ),
    pytest.param(
        f'{OBJECT},"headers":{{"X-A":[]}}}}'.encode(),
        "headers.X-A",
        "headers.X-A must be a string or a number",
        id="header type",
    ),
    pytest.param(
        f'{OBJECT},"headers":{{"Host":"b.example"}}}}'.encode(),
        "headers.Host",
        "headers.Host is sent only when ALLOWED_TARGETS has an entry for it, such as b.example",
        id="Host",
    ),
    pytest.param(
        f'{OBJECT},"tagetAPI":"/a"}}'.encode(),
        "tagetAPI",
        f"tagetAPI is no field of the envelope; it has {KNOWN}",
        id="unknown field",
    ),
    pytest.param(
        f'{OBJECT},"timeout":60}}'.encode(),
        "timeout",
        "timeout must be at most 5 s (TARGET_TIMEOUT_S)",
        id="timeout",
    ),
]


# By Content-Type and body, what is said of a body that is not JSON.
NOT_JSON = [
    pytest.param(
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--\r\n",
        "it is multipart/form-data, as curl -F sends it; send JSON, as with curl -d @FILE",
        id="curl -F",
    ),
    pytest.param(
        "application/x-www-form-urlencoded",
        b"targetURL=http%3A%2F%2Flocalhost",
        "it is a form; send JSON",
        id="form",
    ),
    pytest.param(
        "application/x-www-form-urlencoded",
        b" {",
        "Expecting property name enclosed in double quotes at line 1 column 3",
        id="broken JSON by curl -d",
    ),
    pytest.param(
        "Text/XML; charset=utf-8",
        b"<a/>",
        "its Content-Type is 'text/xml'; send application/json",
        id="XML",
    ),
    pytest.param(
        "application/json",
        (OBJECT + "}").encode("utf-16"),
        "it begins with the byte order mark of UTF-16; send UTF-8",
        id="UTF-16",
    ),
]


class TestBadInput:
    @pytest.mark.parametrize(("content_type", "body", "reason"), NOT_JSON)
    def test_another_media_type(
        self, send: Function, content_type: str, body: bytes, reason: str
    ) -> None:
        """The caller is told what was sent, not only that it is not JSON."""
        answer = call("POST", f"{send.url}/sync", body, {"Content-Type": content_type})

        assert answer.status == 400
        assert problem_of(answer)["detail"] == f"envelope is not JSON: {reason}"

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
    def test_json_of_another_kind_is_judged_as_json(
        self, send: Function, content_type: str
    ) -> None:
        """The media type is blamed only for what cannot be read; curl -d says form by itself."""
        answer = call("POST", f"{send.url}/sync", b"[]", {"Content-Type": content_type})

        assert problem_of(answer)["detail"] == "envelope must be an object, not an array"

    @pytest.mark.parametrize("path", ["/sync", "/async"])
    @pytest.mark.parametrize(("body", "field", "detail"), BAD_ENVELOPES)
    def test_a_bad_envelope(
        self, send: Function, broker: Peer, path: str, body: bytes, field: str, detail: str
    ) -> None:
        """A 400 names the field and what would be right, and nothing is published."""
        answer = call("POST", f"{send.url}{path}", body, JSON)

        assert answer.status == 400
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": detail,
            "field": field,
        }
        assert broker.requests == []

    def test_a_method_is_for_a_post(self, send: Function) -> None:
        """Any other method of the caller's is relayed itself, so the envelope has no other."""
        answer = call("PUT", f"{send.url}/sync", OBJECT + ',"method":"PUT"}')

        assert answer.status == 400
        assert problem_of(answer)["detail"] == (
            "method is for POST /sync and /async; PUT /sync calls with PUT"
        )

    @pytest.mark.parametrize(
        "file", sorted((REPOSITORY / "examples").glob("*.json")), ids=lambda path: path.name
    )
    def test_the_examples_with_the_old_callers_headers(
        self, send: Function, broker: Peer, file: Path
    ) -> None:
        """An old caller sends words where objects belong, and is told which."""
        body = {**json.loads(file.read_text()), "headers": "headers", "body": "body"}

        answer = call("POST", f"{send.url}/async", json.dumps(body), JSON)

        assert answer.status == 400
        assert problem_of(answer)["detail"] == "headers must be an object, not a string"
        assert broker.requests == []

    def test_what_func_invoke_sends(self, send: Function, broker: Peer) -> None:
        """`func invoke` posts to /, and learns where and what to send."""
        headers = {
            **JSON,
            "Ce-Id": "a",
            "Ce-Source": "/boson/fn",
            "Ce-Specversion": "1.0",
            "Ce-Type": "boson.fn",
            "Ce-Time": "2026-01-01T00:00:00.123456789Z",
        }

        answer = call("POST", f"{send.url}/", '{"message":"Hello World"}', headers)

        assert answer.status == 400
        assert problem_of(answer) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "envelope must go to /sync or /async:"
            ' {"targetURL", "targetAPI", "headers", "body"} as JSON',
            "field": "envelope",
        }
        assert broker.requests == []

    @pytest.mark.parametrize(
        "path", ["/nope", "/sync/", "/SYNC", "/event/callback/x", "/robots.txt", "/%00", "/%FF"]
    )
    def test_an_unknown_route(self, send: Function, path: str) -> None:
        """An unknown path is a 404 in the form of a problem."""
        answer = call("GET", f"{send.url}{path}")

        assert answer.status == 404
        assert problem_of(answer)["title"] == "Not Found"

    @pytest.mark.parametrize(
        ("path", "meant"),
        [
            ("/sync/", "/sync"),
            ("/Sync", "/sync"),
            ("/asynch", "/async"),
            ("/events", "/event"),
            ("/event/deadletter", "/event/dead-letter"),
            ("/async/order-7/retry/", "/async/{id}/retry"),
        ],
    )
    def test_a_route_that_is_nearly_right(self, send: Function, path: str, meant: str) -> None:
        """A slip of the pen is answered with the path that was meant."""
        answer = call("POST", f"{send.url}{path}")

        assert answer.status == 404
        assert problem_of(answer)["detail"] == (
            f"there is no {path!r}; did you mean {meant}? GET / lists what there is"
        )

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("HEAD", "/async", "POST, GET"),
            ("OPTIONS", "/async", "POST, GET"),
            ("PUT", "/async", "POST, GET"),
            ("PUT", "/async/a", "GET, DELETE"),
            ("GET", "/async/retry", "POST"),
            ("GET", "/async/a/retry", "POST"),
            ("DELETE", "/event", "POST"),
            ("PUT", "/event/callback", "GET, POST"),
            ("GET", "/event/dead-letter", "POST"),
        ],
    )
    def test_a_wrong_method(self, send: Function, method: str, path: str, allow: str) -> None:
        """A wrong method is a 405 that lists the right ones."""
        answer = call(method, f"{send.url}{path}")

        assert answer.status == 405
        assert answer.all("Allow") == [allow]
        if method != "HEAD":
            assert problem_of(answer) == {
                "type": "about:blank",
                "title": "Method Not Allowed",
                "status": 405,
                "detail": f"{path} does not answer {method}; it answers {allow}",
            }

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    def test_a_body_that_is_too_large(self, send: Function, broker: Peer, chunked: bool) -> None:
        """Two megabytes are a 413 that a client gets to read, once it has sent them."""
        pieces = [b" " * 65_536] * 32
        connection = http.client.HTTPConnection("127.0.0.1", send.port, timeout=10)

        with contextlib.closing(connection):
            headers = {} if chunked else {"Content-Length": str(2 * MAX_BODY_BYTES)}
            connection.request("POST", "/async", iter(pieces), headers, encode_chunked=chunked)
            response = connection.getresponse()

            assert response.status == 413
            assert json.loads(response.read()) == {
                "type": "about:blank",
                "title": "Content Too Large",
                "status": 413,
                "detail": f"the body is larger than {MAX_BODY_BYTES} bytes (MAX_BODY_BYTES)",
            }
            connection.request("GET", "/health/liveness")
            assert connection.getresponse().status == 200
        assert broker.requests == []

    def test_a_body_of_the_largest_size(self, send: Function, target: Peer) -> None:
        """A body of exactly the limit is taken."""
        body = envelope(target, "/largest").ljust(MAX_BODY_BYTES)

        answer = call("POST", f"{send.url}/sync", body)

        assert answer.status == 200

    def test_a_body_without_end(self, send: Function) -> None:
        """Who sends for ever is answered and cut off, and not read for ever."""
        sent_bytes = 0
        with socket.create_connection(("127.0.0.1", send.port), timeout=10) as client:
            client.sendall(b"POST /sync HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
            with contextlib.suppress(OSError):
                while sent_bytes < 100 * MAX_BODY_BYTES:
                    client.sendall(piece)
                    sent_bytes += len(piece)

        assert sent_bytes < 50 * MAX_BODY_BYTES

    def test_a_body_that_is_cut_short(self, send: Function, broker: Peer) -> None:
        """A body shorter than its Content-Length is refused, even when what came is whole JSON."""
        body = OBJECT.encode() + b"}"
        head = b"POST /async HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(body) + 10)
        with socket.create_connection(("127.0.0.1", send.port), timeout=10) as client:
            client.sendall(head + body)
            client.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(client)
            response.begin()

            with response:
                assert response.status == 400
                detail = json.loads(response.read())["detail"]
        assert detail == f"body has {len(body)} bytes; Content-Length says {len(body) + 10}"
        assert broker.requests == []

    def test_a_broken_chunk(self, send: Function, broker: Peer) -> None:
        """A body whose chunks make no sense is refused."""
        with socket.create_connection(("127.0.0.1", send.port), timeout=10) as client:
            client.sendall(
                b"POST /async HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
            )
            response = http.client.HTTPResponse(client)
            response.begin()

            with response:
                assert response.status == 400
                detail = json.loads(response.read())["detail"]
        assert detail == "the request is malformed: Invalid character in chunk size"
        assert broker.requests == []

    def test_a_client_that_waits_to_be_asked(self, send: Function, target: Peer) -> None:
        """A client that sends `Expect: 100-continue` is told to go on."""
        body = envelope(target, "/expect").encode()
        head = (
            b"POST /sync HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", send.port), timeout=10) as client:
            client.sendall(head % len(body))
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            response = http.client.HTTPResponse(client)
            response.begin()

            with response:
                assert response.status == 200
        assert target.received("/expect")[0].header("Expect") is None

    def test_a_caller_of_http_1_0(self, send: Function, target: Peer) -> None:
        """A caller of HTTP/1.0 gets no chunks; the end of the connection ends its answer."""
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        target.on("/old", b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        body = envelope(target, "/old").encode()
        with socket.create_connection(("127.0.0.1", send.port), timeout=10) as client:
            client.sendall(b"POST /sync HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            with client.makefile("rb") as stream:
                head, _, answer_body = stream.read().partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.0 200 ")
        assert b"Transfer-Encoding" not in head
        assert answer_body == b"hello"


class TestServer:
    def test_it_says_what_is_here(self, send: Function) -> None:
        """GET / lists the routes."""
        answer = call("GET", f"{send.url}/")

        assert answer.status == 200
        assert answer.all("Content-Type") == ["application/json"]
        routes = answer.json()["routes"]
        assert isinstance(routes, dict)
        assert routes["/sync"] == list(METHODS)
