"""What one end takes the other can read, to the last digit: the real functions, over sockets."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from typing import cast

import pytest

from local.process import ProcessError
from tests.support.calls import call
from tests.support.peers import answer_of
from tests.support.relayed import MAX_EVENT_BYTES, TYPE, Relayed, relayed

BOM = b"\xef\xbb\xbf"
NUMBERS = b'{"a": 1234567890.12345678901234, "b": [10.00, 1e2, 1e-400], "c": "\\u00fc\\ud800\\/" }'
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def relay() -> Iterator[Relayed]:
    with relayed() as relay:
        yield relay


@pytest.fixture(autouse=True)
def fresh(relay: Relayed) -> None:
    relay.target.requests.clear()
    relay.broker.requests.clear()
    relay.events.clear()


def tar_of_small_files() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(200):
            tar.addfile(tarfile.TarInfo(f"file-{number}"))
    return packed.getvalue().ljust(215_040, b"\0")


ANSWERS = [
    pytest.param(b"\0" * 200_000, "text/plain", [], id="200 KB of NULs"),
    pytest.param(tar_of_small_files(), "application/x-tar", [], id="a tar of small files"),
    pytest.param(b"\x01" * 180_000, "text/plain", [], id="180,000 control characters"),
    pytest.param(
        (b"[" + b"1e15," * 52_428)[:-1] + b"]", "application/json", [], id="1e15 again and again"
    ),
    pytest.param(b"{}", "text/plain", [(f"X-{n}", "a" * 12_000) for n in range(90)], id="headers"),
    pytest.param(b"[" * 100 + b"]" * 100, "application/json", [], id="nested 100 deep"),
    pytest.param("ж".encode() * 131_072, "text/plain", [], id="256 KiB of Cyrillic"),
    pytest.param(b"\xff" * 262_144, "image/png", [], id="256 KiB of bytes"),
]


@pytest.mark.parametrize(("body", "content_type", "headers"), ANSWERS)
def test_an_answer_of_any_form_ends_its_request(
    relay: Relayed, body: bytes, content_type: str, headers: list[tuple[str, str]]
) -> None:
    """The target is called once, its answer is noted, and the callback is delivered."""
    relay.target.on("/form", answer_of(200, body, ("Content-Type", content_type), *headers))
    callback = {"url": f"{relay.target.url}/told", "headers": {"X-Big": "x" * 15_000}}

    accepted = relay.run(relay.envelope("/form", callback=callback))

    request_id = str(accepted.json()["id"])
    assert relay.status(request_id)["status"] == "completed"
    assert len(relay.target.received("/form")) == 1
    (told,) = relay.target.received("/told")
    assert json.loads(told.body)["id"] == request_id
    assert max(event.size_bytes() for event in relay.events) <= MAX_EVENT_BYTES
    assert len(relay.events) == 4


def test_a_setting_that_contradicts_the_limit_stops_the_start() -> None:
    """A result that no event can hold is refused before it is made."""
    told = pytest.raises(ProcessError, match="MAX_RESULT_BYTES must be at most")
    with told, relayed(MAX_RESULT_BYTES="900000"):
        pass


class TestRequests:
    def test_respond_async_with_much_text(self, relay: Relayed) -> None:
        """UTF-8 stays UTF-8: 700 KB are 700 KB in the event too."""
        text = "ж" * 350_000
        body = json.dumps(
            {"targetURL": relay.target.url, "targetAPI": "/sync", "body": text}, ensure_ascii=False
        )

        answer = call("PUT", f"{relay.send.url}/sync", body, {"Prefer": "respond-async"})

        assert answer.status == 202, answer.body
        (event,) = relay.published()
        relay.deliver(event)
        (received,) = relay.target.received("/sync")
        assert received.method == "PUT"
        assert received.body == f'"{text}"'.encode()

    @pytest.mark.parametrize("size", [1_000_000, 1_048_000, 1_048_576])
    @pytest.mark.parametrize("route", ["/async", "/event", "/sync"])
    def test_a_request_that_no_event_can_hold(self, relay: Relayed, size: int, route: str) -> None:
        """413 says how large it would be and what may be; nothing is published or noted."""
        body = relay.envelope("/x").ljust(size)
        headers = {"Prefer": "respond-async", "Idempotency-Key": "large"}

        answer = call("POST", f"{relay.send.url}{route}", body, headers)

        assert answer.status == 413
        problem = answer.json()
        assert problem["limit"] == MAX_EVENT_BYTES
        assert size < cast("int", problem["size"]) < size + 5_000
        assert str(problem["size"]) in str(problem["detail"])
        assert "safe" not in str(problem["detail"])
        assert relay.published() == []
        assert call("GET", f"{relay.send.url}/async/large").status == 404

    def test_the_largest_event_that_is_written_is_read(self, relay: Relayed) -> None:
        """To the byte, with room for what a failure adds; and as a dead letter of the Broker's."""
        probe = relay.run(relay.envelope("/full", body=""))
        assert probe.status == 202
        room = MAX_EVENT_BYTES - 4_096 - relay.events[0].size_bytes()
        request_id = str(probe.json()["id"])

        answer = relay.run(relay.envelope("/full", body="x" * room))
        over = relay.run(relay.envelope("/full", body="x" * (room + 1)))

        assert (answer.status, over.status) == (202, 413)
        assert len(request_id) == len(str(answer.json()["id"]))
        event = next(each for each in relay.events if each.id == answer.json()["id"])
        assert event.size_bytes() == MAX_EVENT_BYTES - 4_096
        added = {"ce-id": "dead-1", "ce-knativeerrordata": "eA==" * 341, "ce-x": "y" * 4_000}
        url = f"{relay.send.url}/event/dead-letter"
        assert call("POST", url, event.data, {**event.headers, **added}).status == 202
        assert relay.status("dead-1")["status"] == "dead"

    @pytest.mark.parametrize("path", ["/sync", "/async"])
    @pytest.mark.parametrize(
        ("coding", "encode"),
        [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", BOM.__add__)],
        ids=["gzip", "deflate", "BOM"],
    )
    def test_a_coded_envelope(self, relay: Relayed, path: str, coding: str, encode: object) -> None:
        """It is decoded, and a byte order mark is passed over."""
        raw = relay.envelope("/coded", body=1).encode()
        coded = cast("type[bytes]", encode)(raw)

        answer = call("POST", f"{relay.send.url}{path}", coded, {"Content-Encoding": coding})

        assert answer.status in (200, 202), answer.body
        for event in relay.published():
            assert event.data == raw
            relay.deliver(event)
        assert [each.body for each in relay.target.received("/coded")] == [b"1"]

    @pytest.mark.parametrize("path", ["/sync", "/async", "/event/callback"])
    def test_a_coding_that_nobody_here_decodes(self, relay: Relayed, path: str) -> None:
        """415 names those that are decoded."""
        answer = call("POST", f"{relay.send.url}{path}", b"x", {"Content-Encoding": "br"})

        assert answer.status == 415
        assert answer.all("Accept-Encoding") == ["gzip, deflate"]

    @pytest.mark.parametrize("path", ["/sync", "/async", "/event/callback"])
    def test_a_bomb(self, relay: Relayed, path: str) -> None:
        """A small body that becomes a large one is as much too large."""
        bomb = gzip.compress(b" " * 50_000_000)

        answer = call("POST", f"{relay.send.url}{path}", bomb, {"Content-Encoding": "gzip"})

        assert answer.status == 413

    @pytest.mark.parametrize("path", ["/sync", "/async"])
    @pytest.mark.parametrize(
        ("headers", "body", "field"),
        [
            ({"Content-Type": "text/plain; charset=ISO-8859-1"}, "Ж", "body"),
            ({"Content-Type": "text/plain; charset=nope"}, "a", "headers.Content-Type"),
            ({"Content-Type": "application/xml"}, {"a": 1}, "body"),
            ({"Content-Type": "multipart/form-data; boundary=a"}, {"a": 1}, "body"),
            ({"Content-Encoding": "gzip"}, "a", "headers.Content-Encoding"),
        ],
    )
    def test_a_body_that_is_not_what_its_headers_say(
        self, relay: Relayed, path: str, headers: dict[str, str], body: object, field: str
    ) -> None:
        """It is refused on both ways, and nothing is sent."""
        envelope = relay.envelope("/lie", headers=headers, body=body)

        answer = call("POST", f"{relay.send.url}{path}", envelope)

        assert (answer.status, answer.json()["field"]) == (400, field)
        assert relay.target.requests == relay.broker.requests == []

    @pytest.mark.parametrize("path", ["/sync", "/async"])
    def test_numbers_and_charsets_reach_the_target(self, relay: Relayed, path: str) -> None:
        """JSON byte for byte, headers digit for digit, text in its charset, an object as a form."""
        url = relay.target.url.encode()
        number = b'{"targetURL": "%b", "targetAPI": "/a", "headers": {"X-N": 1.10}, "body": %b}'
        latin1 = {"Content-Type": "text/plain; charset=ISO-8859-1"}
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for envelope in (
            number % (url, NUMBERS),
            relay.envelope("/b", headers=latin1, body="Müller"),
            relay.envelope("/c", headers=form, body={"a": "ü", "n": 1.5}),
        ):
            assert call("POST", f"{relay.send.url}{path}", envelope).status in (200, 202)
            for event in relay.published():
                relay.deliver(event)

        (first,) = relay.target.received("/a")
        assert (first.body, first.header("X-N")) == (NUMBERS, "1.10")
        assert relay.target.received("/b")[0].body == b"M\xfcller"
        assert relay.target.received("/c")[0].body == b"a=%C3%BC&n=1.5"


class TestAnswers:
    @pytest.mark.parametrize("ending", [b"", b"\r\n"], ids=["bare", "with a line end"])
    def test_who_waits_gets_the_targets_own_bytes(self, relay: Relayed, ending: bytes) -> None:
        """JSON is not written anew, so what describes it is still true."""
        describing = [("ETag", '"7"'), ("Content-Digest", "sha-256=:x:"), ("Content-MD5", "x")]
        body = NUMBERS + ending
        relay.target.on(
            "/wait", answer_of(200, body, ("Content-Type", "application/json"), *describing)
        )

        answer = relay.run(relay.envelope("/wait"), Prefer="wait=20")

        assert answer.body == body
        for name, value in describing:
            assert answer.all(name) == [value]
        assert answer.all("Content-Length") == [str(len(body))]

    def test_the_status_has_the_targets_own_text(self, relay: Relayed) -> None:
        """So do the delivered callback and its signature's content."""
        relay.target.on("/text", answer_of(200, NUMBERS, ("Content-Type", "application/json")))

        accepted = relay.run(relay.envelope("/text", callback={"url": f"{relay.target.url}/told"}))

        status = call("GET", f"{relay.send.url}/async/{accepted.json()['id']}")
        assert b'"body":' + NUMBERS in status.body
        assert b'"body":' + NUMBERS in relay.target.received("/told")[0].body

    @pytest.mark.parametrize("value", ["/caf\xc3\xa9", "/caf\xe9", "/\x80\x9f", "/\xc3\xa9\xe9"])
    def test_header_bytes_pass(self, relay: Relayed, value: str) -> None:
        """A Location with any byte from 0x80 to 0xFF is the same on both ways, and readable."""
        relay.target.on("/302", answer_of(302, b"", ("Location", value)))

        streamed = call("POST", f"{relay.send.url}/sync", relay.envelope("/302"))
        waited = relay.run(relay.envelope("/302"), Prefer="wait=20")

        assert (streamed.status, streamed.all("Location")) == (302, [value])
        assert (waited.status, waited.all("Location")) == (302, [value])
        (result,) = [event for event in relay.events if event.type == f"{TYPE}.failed"]
        data = json.loads(result.data)
        raw = value.encode("latin-1")
        charset = "latin-1" if data.get("latin1Headers") == ["Location"] else "utf-8"
        assert data["headers"]["Location"] == [raw.decode(charset)]


class TestCallbacks:
    def call_back(self, relay: Relayed, body: bytes, content_type: str) -> dict[str, object]:
        """Call back as a target does; return what is shown of it."""
        request_id = str(relay.run(relay.envelope("/x")).json()["id"])
        url = f"{relay.send.url}/event/callback?id={request_id}"
        answer = call("POST", url, body, {"Content-Type": content_type})
        assert answer.status == 202, answer.body
        (event,) = relay.published()
        relay.deliver(event)
        (shown,) = cast("list[dict[str, object]]", relay.status(request_id)["callbacks"])
        return shown

    def test_a_structured_one_with_much_text(self, relay: Relayed) -> None:
        """600 KB of Cyrillic are as large in the event, and its numbers stay."""
        data = '{"text": "%s", "n": 1.50}' % ("ж" * 300_000)
        event = '{"specversion":"1.0","id":"1","source":"s","type":"t","data": %s }' % data  # noqa: UP031

        request_id = str(relay.run(relay.envelope("/x")).json()["id"])
        answer = call(
            "POST",
            f"{relay.send.url}/event/callback?id={request_id}",
            event,
            {"Content-Type": "application/cloudevents+json"},
        )

        assert answer.status == 202
        (published,) = relay.published()
        assert published.data == data.encode()

    def test_one_that_no_event_can_hold(self, relay: Relayed) -> None:
        """The target is told, with the size and the limit."""
        body = b"x" * MAX_EVENT_BYTES

        answer = call("POST", f"{relay.send.url}/event/callback?id=a", body)

        assert answer.status == 413
        assert answer.json()["limit"] == MAX_EVENT_BYTES
        assert relay.published() == []

    @pytest.mark.parametrize(
        ("content_type", "raw", "body"),
        [
            ("text/plain; charset=utf-16", "Mü".encode("utf-16"), "Mü"),
            ("text/plain; charset=ISO-8859-1", b"M\xfc", "Mü"),
            ("application/json", BOM + b'{"a": "\xc3\xbc"}', {"a": "ü"}),
            ("multipart/form-data; boundary=b", b"--b--", "--b--"),
        ],
        ids=["UTF-16", "Latin-1", "BOM", "multipart"],
    )
    def test_it_is_shown_by_its_charset(
        self, relay: Relayed, content_type: str, raw: bytes, body: object
    ) -> None:
        """And its Content-Type stands beside it."""
        shown = self.call_back(relay, raw, content_type)

        assert (shown["contentType"], shown["body"]) == (content_type, body)

    def test_its_json_is_the_targets_own(self, relay: Relayed) -> None:
        """In the event, and in the status."""
        self.call_back(relay, NUMBERS, "application/json")

        (event,) = [each for each in relay.events if each.type == f"{TYPE}.callback"]
        assert event.data == NUMBERS
        request_id = event.headers["ce-subject"]
        assert NUMBERS in call("GET", f"{relay.send.url}/async/{request_id}").body

    def test_many_large_ones_do_not_fill_a_status(self, relay: Relayed) -> None:
        """What is kept is bounded, the rest is counted, and the answer to a reader stays small."""
        request_id = str(relay.run(relay.envelope("/x")).json()["id"])
        for _ in range(22):
            url = f"{relay.send.url}/event/callback?id={request_id}"
            assert call("POST", url, b"\xff" * 300_000).status == 202
        for data in (b"\xff" * 1_000, b"\xff" * 2_000):
            assert call("POST", url, data).status == 202
        for event in relay.published():
            relay.deliver(event)

        answer = call("GET", f"{relay.send.url}/async/{request_id}")

        assert len(answer.body) < 400_000
        status = answer.json()
        assert len(cast("list[object]", status["callbacks"])) == 2
        assert status["callbacksLeftOut"] == 22


class TestTheBrokersSide:
    def test_an_error_is_short_enough_for_any_broker(self, relay: Relayed) -> None:
        """No more than 768 bytes, whatever it quotes, and still a problem document."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-source": "s",
            "ce-type": f"{TYPE}.failed",
            f"ce-{'x' * 4_000}": "%01",
        }

        answer = call("POST", f"{relay.send.url}/event/callback", b"{}", headers)

        assert answer.status == 400
        assert len(answer.body) <= 768
        assert answer.json()["status"] == 400

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({"ce-specversion": "9", "ce-source": "s", "ce-type": TYPE}, b"\xff\0"),
            ({"ce-specversion": "1.0", "ce-type": TYPE}, b"{}"),
            (
                {
                    "ce-specversion": "1.0",
                    "ce-source": "s",
                    "ce-type": f"{TYPE}.completed",
                    "ce-subject": "gone",
                },
                b"no result",
            ),
        ],
        ids=["version", "no source", "no result"],
    )
    def test_a_dead_letter_that_cannot_be_read_is_kept(
        self, relay: Relayed, headers: dict[str, str], body: bytes
    ) -> None:
        """Under its id, as the bytes that came, and the log says so."""
        letter_id = f"unread-{abs(hash((tuple(headers), body)))}"
        url = f"{relay.send.url}/event/dead-letter"

        answer = call("POST", url, body, {**headers, "ce-id": letter_id})

        assert (answer.status, answer.body) == (202, b"")
        status = relay.status(letter_id)
        assert status["status"] == "dead"
        reason = cast("dict[str, object]", status["reason"])
        assert str(reason["detail"]).startswith("the dead letter cannot be read: ")
        relay.send.process.wait_for_output(letter_id)
        line = next(each for each in relay.send.process.output.splitlines() if letter_id in each)
        assert json.loads(line)["severity"] == "WARNING"
        assert call("POST", f"{relay.send.url}/async/{letter_id}/retry").status == 202
        (event,) = relay.published()
        assert (event.id, event.data) == (letter_id, body)

    def test_a_structured_one_is_kept_too(self, relay: Relayed) -> None:
        """Its id stands in the body."""
        body = b'{"id":"unread-structured","specversion":"1.0","a":{},"data":1.0}'
        headers = {"Content-Type": "application/cloudevents+json"}

        answer = call("POST", f"{relay.send.url}/event/dead-letter", body, headers)

        assert answer.status == 202
        assert relay.status("unread-structured")["status"] == "dead"

    @pytest.mark.parametrize("content_type", ["application/json; odata=verbose; IEEE754", "a b"])
    def test_a_callback_that_the_broker_refuses(self, relay: Relayed, content_type: str) -> None:
        """The target is told that it is at fault, not that sending it again is safe."""
        relay.broker.default = answer_of(400)
        try:
            headers = {"Content-Type": content_type}
            answer = call("POST", f"{relay.send.url}/event/callback?id=a", b"{}", headers)
        finally:
            relay.broker.default = answer_of(202)
            relay.published()

        assert (answer.status, answer.json()["brokerStatus"]) == (400, 400)
        assert "safe" not in str(answer.json()["detail"])
