"""Every reader of what strangers send, with examples of what it takes.

A reader gets bytes, and may raise what its module's tree of errors has; anything else is a fault.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser

from local.broker.connections import Answer
from local.broker.delivery import classify
from local.broker.event import KNATIVE, to_headers
from relay import jsons
from relay.arrivals import Arrival
from relay.auth import Signatures, check_token
from relay.backends import open_store
from relay.egress import AllowedTarget
from relay.envelope import Envelope, parse_id
from relay.events import STRUCTURED, Event
from relay.headers import Preferences, end_to_end, retry_after_s
from relay.http import Request
from relay.jsons import JSONError
from relay.outcomes import reason_of
from relay.problems import RelayError
from relay.receive import Receive, refusal
from relay.results import Result
from relay.send import Send
from relay.settings import InvalidSetting, Settings
from relay.sites import Sites
from relay.targets import TargetClient
from relay.tracing import hops_of, trace_context, trace_id
from relay.urls import parse_target
from tests.support import peers
from tests.support.processes import REPOSITORY

TYPE = "dev.knative.samples.t2"
SECRET = "whsec_" + base64.b64encode(b"a key that is long enough").decode()
TOKEN = "a-token-for-the-fuzzer"
# Without a secret and a token, so that no proof keeps anything from being read.
SETTINGS = Settings.from_env(
    {
        "ALLOWED_TARGETS": "127.0.0.1",
        "CORS_ORIGINS": "https://app.test",
        "ALLOWED_HOSTS": "localhost",
        "PUBLISH_TIMEOUT_S": "1",
    }
)

ENVELOPES = [file.read_bytes() for file in sorted((REPOSITORY / "examples").iterdir())]
ENVELOPES.append(
    json.dumps(
        {
            "targetURL": "http://[::1]:8080/base",
            "targetAPI": "?q=%C3%A9",
            "headers": {"Host": "a.test", "X-Number": -1.5e-3},
            "body": ["\u0000", "é", None, True],
            "method": "PUT",
            "timeout": 3,
            "callback": {"url": "https://a.test/done?job=7", "headers": {"X-A": "1"}},
        }
    ).encode()
)
RESULT = {
    "status": 200,
    "headers": {"Content-Type": ["text/plain; charset=utf-8"], "Set-Cookie": ["a=1", "b=2"]},
    "body": "a text of some length, which has room for what is put in it: caf\u00e9",
}
RESULTS = [
    json.dumps(value).encode()
    for value in (
        RESULT,
        {"status": 404, "headers": {"Content-Type": ["application/json"]}, "body": {"a": [1.5]}},
        {"status": 200, "headers": {}, "bodyBase64": "AAEC", "truncated": True},
    )
]
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "order-17",
    "source": "/orders",
    "type": f"{TYPE}.completed",
    "subject": "order-17",
    "time": "2026-11-23T22:21:46.916Z",
    "datacontenttype": "application/json",
    "relayhops": "1",
    "relayattempts": "2",
    "relaymac": "00",
    "knativeerrorcode": "503",
    "knativeerrordest": "http://a.test",
    "knativeerrordata": base64.b64encode(b'{"detail": "no", "attempts": 2}').decode(),
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}


def written(headers: dict[str, str], body: bytes) -> bytes:
    """Write a message as one text, so that all of it gets broken."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return "".join([*lines, "\r\n"]).encode("latin-1") + body


def read(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Read such a text, however broken, as a server hands it on."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = (line.decode("latin-1").partition(":") for line in head.split(b"\r\n"))
    return {name.strip().lower(): value.strip(" \t") for name, _, value in lines}, body


def binary(event_type: str, body: bytes) -> bytes:
    attributes = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
    return written({"content-type": "application/json", **attributes, "ce-type": event_type}, body)


def structured(event_type: str, data: object) -> bytes:
    event = json.dumps({**ATTRIBUTES, "type": event_type, "data": data}).encode()
    return written({"content-type": STRUCTURED}, event)


EVENTS = [
    *(binary(TYPE, raw) for raw in ENVELOPES),
    structured(TYPE, json.loads(ENVELOPES[-1])),
    written(
        {"content-type": STRUCTURED},
        json.dumps({**ATTRIBUTES, "data_base64": "e30="}).encode(),
    ),
]
OUTCOMES = [
    *(binary(f"{TYPE}.completed", raw) for raw in RESULTS),
    structured(f"{TYPE}.failed", RESULT),
    binary(f"{TYPE}.callback", b"{}"),
]
CALLBACKS = [
    written({"content-type": "application/json", ":query": "id=order-17&a=b%20c"}, b'{"done": 1}'),
    written({"content-type": "application/x-www-form-urlencoded", ":query": ""}, b"a=1&b=%C3%A9"),
    written({"content-type": STRUCTURED, ":query": "id=a"}, json.dumps(ATTRIBUTES).encode()),
    written({":query": "id=a&x=1&x=2"}, b""),
    written(
        {
            "webhook-id": "1",
            "webhook-timestamp": "1700000000",
            "webhook-signature": "v1,AAAA v1a,BBBB",
            ":query": "",
        },
        b"{}",
    ),
]
CALLERS = [
    written(
        {
            "authorization": f"Bearer {TOKEN}",
            "host": "localhost:8080",
            "idempotency-key": '"order-17"',
            "prefer": 'respond-async, wait="5"; a=b',
            "relay-hops": "1",
            "origin": "https://app.test",
            "sec-fetch-site": "same-origin",
            "access-control-request-method": "POST",
            "access-control-request-headers": "a, b",
            "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT",
            "traceparent": ATTRIBUTES["traceparent"],
            "tracestate": "a=1,b=2",
            "connection": "close, x-a",
            "transfer-encoding": "chunked",
        },
        raw,
    )
    for raw in ENVELOPES
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.0 404 \r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nRetry-After: 3\r\n\r\n",
]
REQUESTS = [
    b"POST /sync HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-A: 1\r\n\r\n",
    b"GET http://a/?b HTTP/1.1\r\nExpect: 100-continue\r\nSCRIPT_NAME: /a\r\n\r\n",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """One reader.

    Args:
        read: reads, and raises what it is allowed to.
        valid: what it takes.
        errors: what it may raise.
        cost: how many times as long as the others it takes.
    """

    read: Callable[[bytes], object]
    valid: list[bytes]
    errors: tuple[type[Exception], ...] = (RelayError,)
    cost: int = 1


class Fault(Exception):
    """Something else came out than what was to come."""


def readers(stack: ExitStack) -> dict[str, Reader]:
    """Make them all; what they need is up until the stack is closed."""
    answers: list[bytes] = [b""]
    target = stack.enter_context(peers.serving(lambda connection: connection.sendall(answers[0])))
    send = Send(SETTINGS)
    receive = Receive(SETTINGS)
    caller = TargetClient(SETTINGS)
    signatures = Signatures(
        Settings.from_env({"CALLBACK_SECRET": SECRET}),
        open_store("memory://", ttl_s=60, max_bytes=1_000_000),
    )
    sites = Sites(SETTINGS)
    gunicorn = Config()

    def handle(method: str, path: str) -> Callable[[bytes], object]:
        def read_request(raw: bytes) -> None:
            headers, body = read(raw)
            request = Request(
                method=method,
                path=path,
                query=headers.get(":query", ""),
                headers=headers,
                stream=_Body(body),
                content_length=len(body),
            )
            if send.handle(request).status == 500:
                raise Fault("a 500")

        return read_request

    def call(raw: bytes) -> None:
        answers[0] = raw
        envelope = Envelope.from_json(json.dumps({"targetURL": target.url, "timeout": 2}).encode())
        result = caller.call(envelope, method="GET", hops=1, headers=())
        list(result)

    def deliver(raw: bytes) -> None:
        try:
            receive.read(*read(raw))
        except RelayError as exc:
            if sum(map(len, refusal(exc).body)) > 768:
                raise Fault("more than a Broker takes") from exc

    def arrive(raw: bytes) -> None:
        """Whatever is complete means for gunicorn's parser what it means for the relay."""
        arrival = Arrival(1000, 8190, {})
        for start in range(0, len(raw), 7):
            arrival.feed(raw[start : start + 7])
            if arrival.is_complete or arrival.refusal is not None:
                break

        def pieces() -> Iterator[bytes]:
            yield raw
            raise Fault("gunicorn waits")

        if arrival.is_complete and not arrival.is_cut:
            request = next(RequestParser(gunicorn, pieces(), ("127.0.0.1", 1)))
            stream = arrival.environ["wsgi.input"]
            stream.seek(0)
            if request.uri != arrival.environ["RAW_URI"] or request.body.read() != stream.read():
                raise Fault("gunicorn reads something else")

    def fields(raw: bytes) -> None:
        headers, _ = read(raw)
        for value in headers.values():
            Preferences.from_header(value)
            if (retry_after_s(value) or 0.0) < 0.0:
                raise Fault("a wait below 0")
            trace_context(value, value)
            trace_id(value)
            hops_of(value)
        list(end_to_end(headers.items()))
        sites.preflight("OPTIONS", headers.get)
        sites.allowance(headers.get)

    def head(check: Callable[[dict[str, str]], object]) -> Callable[[bytes], object]:
        return lambda raw: check(read(raw)[0])

    def broker_event(raw: bytes) -> None:
        to_headers(Event.from_http(*read(raw), KNATIVE))

    def broker_answer(raw: bytes) -> None:
        headers, body = read(raw)
        for status in (200, 503):
            classify(Answer(status, headers, body), url="http://a.test", wants_reply=True)

    def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda raw: parse(raw.decode("utf-8", "surrogateescape"))

    return {
        "JSON": Reader(read=jsons.loads, valid=[*ENVELOPES, *RESULTS], errors=(JSONError,)),
        "base64": Reader(
            read=text(jsons.decode_base64), valid=[b"AAEC", b"AA=="], errors=(JSONError,)
        ),
        "an id": Reader(read=text(lambda each: parse_id(each, field="id")), valid=[b'"order-17"']),
        "a URL": Reader(
            read=text(lambda each: parse_target(each, each, url_field="u", api_field="a")),
            valid=[b"http://[::1]:8080/a", b"https://a.test", b"/b?c=%C3%A9"],
        ),
        "an entry of ALLOWED_TARGETS": Reader(
            read=text(AllowedTarget.from_text),
            valid=[b"*.a.test:80", b"[fd00::/8]:443", b"10.0.0.0/8", b"64:ff9b::1"],
            errors=(ValueError,),
        ),
        "settings": Reader(
            read=lambda raw: Settings.from_env(
                {name.upper().replace("-", "_"): value for name, value in read(raw)[0].items()}
            ),
            valid=[
                written(
                    {
                        "k-sink": "http://a.test/b",
                        "k-ce-overrides": '{"extensions": {"a": "b"}}',
                        "state-url": "redis://:a@b:6379/1",
                        "callback-secret": SECRET,
                        "cors-origins": "https://a.test:8443,http://b",
                        "allowed-hosts": "a.test,[::1]",
                        "threads": "8",
                    },
                    b"",
                )
            ],
            errors=(InvalidSetting,),
        ),
        "headers": Reader(read=fields, valid=CALLERS),
        "a token": Reader(read=head(lambda headers: check_token(headers, (TOKEN,))), valid=CALLERS),
        "the page of another site": Reader(
            read=head(lambda headers: sites.check("POST", "/sync", headers.get)), valid=CALLERS
        ),
        "a signature": Reader(read=lambda raw: signatures.verify(*read(raw)), valid=CALLBACKS),
        "an envelope": Reader(read=Envelope.from_json, valid=ENVELOPES),
        "an event": Reader(read=lambda raw: Event.from_http(*read(raw)), valid=EVENTS + OUTCOMES),
        "why a request is dead": Reader(
            read=lambda raw: reason_of(Event(attributes=read(raw)[0])),
            valid=[
                written(
                    {name: ATTRIBUTES[name] for name in ATTRIBUTES if name.startswith("knative")},
                    b"",
                )
            ],
        ),
        "a result, for who waits": Reader(
            read=lambda raw: list(Result.from_json(raw).to_response().body), valid=RESULTS
        ),
        "a delivery to Receive": Reader(read=deliver, valid=EVENTS),
        "a call to Send": Reader(read=handle("POST", "/async"), valid=CALLERS),
        "a callback to Send": Reader(read=handle("POST", "/event/callback"), valid=CALLBACKS),
        "an outcome to Send": Reader(read=handle("POST", "/event/callback"), valid=OUTCOMES),
        "a dead letter to Send": Reader(
            read=handle("POST", "/event/dead-letter"), valid=EVENTS + OUTCOMES
        ),
        "a request that arrives": Reader(
            read=arrive,
            valid=REQUESTS,
            errors=(ParseException, NoMoreData, StopIteration),
        ),
        "the answer of a target": Reader(read=call, valid=ANSWERS, cost=20),
        "an event at the local Broker": Reader(read=broker_event, valid=EVENTS + OUTCOMES),
        "an answer to the local Broker": Reader(read=broker_answer, valid=[*EVENTS, *CALLERS]),
    }


class _Body:
    """A body that has arrived."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        piece, self._body = self._body[:size], self._body[size:]
        return piece
