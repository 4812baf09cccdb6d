"""`relay.events`: CloudEvents as they are written and read over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

import pytest
from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent, from_http
from hypothesis import given
from hypothesis import strategies as st

from local.broker.attributes import validate
from local.broker.event import KNATIVE
from relay.events import STRICT, Event, Rules
from relay.headers import wire_value
from relay.problems import InvalidRequest
from tests.support.steps import MAX_GROWTH, growth

Message = Callable[[int], tuple[dict[str, str], bytes]]

ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
BINARY = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
STRUCTURED = {"content-type": "application/cloudevents+json"}
JSON_TYPE = {"content-type": "application/json"}


def structured(**more: object) -> bytes:
    return json.dumps({**ATTRIBUTES, **more}).encode()


def test_binary_event_is_read() -> None:
    """In binary mode attributes are headers and the body is the data, byte for byte."""
    event = Event.from_http({**BINARY, **JSON_TYPE, "ce-subject": "x", "host": "a"}, b' {"a": 1}')

    assert (event.id, event.type) == ("1", "t")
    assert event.attributes["subject"] == "x"
    assert event.attributes["datacontenttype"] == "application/json"
    assert "host" not in event.attributes
    assert event.data == b' {"a": 1}'


def test_attributes_are_percent_decoded() -> None:
    """What the binding has senders encode is decoded; a Content-Type is not encoded at all."""
    event = Event.from_http({**BINARY, "ce-subject": "%C3%A9%20%25", "content-type": "a/b%20"}, b"")

    assert event.attributes["subject"] == "é %"
    assert event.attributes["datacontenttype"] == "a/b%20"
    assert event.data == b""


@pytest.mark.parametrize(
    ("more", "data"),
    [
        pytest.param({"data": {"a": 1}}, b'{"a": 1}', id="JSON"),
        pytest.param({"data": "ü"}, b'"\\u00fc"', id="string"),
        pytest.param({"data": "ü", "datacontenttype": "text/plain"}, "ü".encode(), id="text"),
        pytest.param({"data": None}, b"null", id="null"),
        pytest.param({"data_base64": "AP8="}, b"\x00\xff", id="binary"),
        pytest.param(
            {"specversion": "0.3", "datacontentencoding": "base64", "data": "AP8="},
            b"\x00\xff",
            id="binary of 0.3",
        ),
        pytest.param({}, b"", id="none"),
    ],
)
def test_structured_event_is_read(more: dict[str, object], data: bytes) -> None:
    """In structured mode the body is the event; headers of the other mode count for nothing."""
    headers = {**STRUCTURED, **BINARY, "ce-id": "2"}

    event = Event.from_http(headers, structured(count=1, flag=True, none=None, **more))

    assert event.id == "1"
    assert event.attributes["count"] == "1"
    assert event.attributes["flag"] == "true"
    assert "none" not in event.attributes
    assert event.data == data


def test_what_knative_writes_is_read() -> None:
    """Knative writes UTF-8 into headers, and passes on what others have sent as Latin-1."""
    raw = {"ce-subject": "한글", "ce-korean": "%ED%95%9C"}
    headers = {name: value.encode().decode("latin-1") for name, value in raw.items()}

    event = Event.from_http({**BINARY, **headers, "ce-french": "caf\xe9"}, b"")

    assert event.attributes["subject"] == "한글"
    assert event.attributes["korean"] == "한"
    assert event.attributes["french"] == "café"


def test_structured_data_stays_as_it_stands() -> None:
    """No number, escape or blank of the data is written anew."""
    data = b'{ "a":1.50, "b":[1e3,12345678901234567890123], "\\u003c":"\xed\x95\x9c\\ud800" }'
    body = structured()[:-1] + b', "n": 1.10, "data": ' + data + b"}"

    event = Event.from_http(STRUCTURED, body)

    assert event.data == data
    assert event.attributes["n"] == "1.10"


def test_version_03_is_read() -> None:
    """Version 0.3 is still around."""
    assert Event.from_http({**BINARY, "ce-specversion": "0.3"}, b"").id == "1"


LOWER = "event has an attribute name that is not lower-case ASCII"
CONTROL = "must not have a control character or a lone surrogate"
NO_DATA = "event has an attribute called data or extensions"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        pytest.param({}, "ce-specversion is missing; send a CloudEvent", id="no event"),
        pytest.param(
            {**BINARY, "ce-specversion": "2.0"},
            "ce-specversion must be one of 1.0, 0.3",
            id="version",
        ),
        pytest.param(
            {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t"},
            "ce-source is missing or empty",
            id="no source",
        ),
        pytest.param({**BINARY, "ce-id": ""}, "ce-id is missing or empty", id="empty id"),
        pytest.param({**BINARY, "ce-type": ""}, "ce-type is missing or empty", id="empty type"),
        pytest.param({**BINARY, "ce-a_b": "1"}, LOWER, id="name with _"),
        pytest.param({**BINARY, "ce-a-b": "1"}, LOWER, id="name with -"),
        pytest.param({**BINARY, "ce-": "1"}, LOWER, id="no name"),
        pytest.param({**BINARY, "ce-data": "1"}, NO_DATA, id="data"),
        pytest.param({**BINARY, "ce-extensions": "1"}, NO_DATA, id="extensions"),
        pytest.param({**BINARY, "ce-a": "%0D%0AX: 1"}, f"ce-a {CONTROL}", id="newline"),
        pytest.param({**BINARY, "ce-id": "%00"}, f"ce-id {CONTROL}", id="NUL"),
        pytest.param({**BINARY, "ce-id": "%C2%85"}, f"ce-id {CONTROL}", id="NEL"),
        pytest.param(
            {**BINARY, "ce-datacontenttype": "application/json"},
            "ce-datacontenttype must be sent as Content-Type",
            id="datacontenttype",
        ),
        pytest.param(
            {**BINARY, "content-type": "application/cloudevents-batch+json"},
            "Content-Type must be application/cloudevents+json for a structured event",
            id="batch",
        ),
        pytest.param(
            {"content-type": "application/cloudevents+avro"},
            "Content-Type must be application/cloudevents+json for a structured event",
            id="Avro",
        ),
        pytest.param(
            {**BINARY, "content-type": "Application/CloudEvents+avro"},
            "ce-datacontenttype must not be that of an event",
            id="event as the data of an event",
        ),
        pytest.param(
            {**BINARY, **{f"ce-e{number}": "" for number in range(61)}},
            "event has 65 attributes; at most 64 are read",
            id="too many attributes",
        ),
    ],
)
def test_what_is_no_binary_event_is_refused(headers: dict[str, str], message: str) -> None:
    """An event that breaks the specification is refused, and says by what."""
    with pytest.raises(InvalidRequest) as caught:
        Event.from_http(headers, b"")

    assert caught.value.detail == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "event is not JSON: Expecting value at line 1 column 1", id="empty"),
        pytest.param(b"[]", "event must be an object, not an array", id="array"),
        pytest.param(b"{}", "ce-specversion must be one of 1.0, 0.3", id="no attributes"),
        pytest.param(
            structured(**{f"e{number}": 1 for number in range(80_000)}),
            "event has 80004 attributes; at most 64 are read",
            id="too many attributes",
        ),
        pytest.param(
            structured(data="\ud800", datacontenttype="text/plain"),
            "data must not have a lone surrogate",
            id="lone surrogate in text",
        ),
        pytest.param(structured(id=""), "ce-id is missing or empty", id="empty id"),
        pytest.param(structured(id=None), "ce-id is missing or empty", id="null id"),
        pytest.param(structured(ID="2"), LOWER, id="id in upper case"),
        pytest.param(structured(a_b="2"), LOWER, id="name with _"),
        pytest.param(structured(extensions="a"), NO_DATA, id="extensions"),
        pytest.param(
            structured(a={"b": 1}),
            "event has an attribute that is not a string, a number or a boolean",
            id="object as attribute",
        ),
        pytest.param(structured(a="\ud800"), f"ce-a {CONTROL}", id="lone surrogate"),
        pytest.param(
            structured(data_base64="%"),
            "data_base64 must be base64 (RFC 4648 section 4)",
            id="no base64",
        ),
        pytest.param(
            structured(data_base64=None),
            "data_base64 must be base64 (RFC 4648 section 4)",
            id="null base64",
        ),
        pytest.param(
            structured(type=7),
            "ce-type must be a string",
            id="type that is a number",
        ),
        pytest.param(
            structured(subject=True),
            "ce-subject must be a string",
            id="subject that is a boolean",
        ),
        pytest.param(
            structured(data=1, data_base64="YQ=="),
            "data_base64 must not stand beside data",
            id="data twice",
        ),
        pytest.param(
            structured(datacontenttype="application/cloudevents+json", data={"id": "2"}),
            "ce-datacontenttype must not be that of an event",
            id="event as the data of an event",
        ),
        pytest.param(
            b"[" * 200,
            "event is nested deeper than 100 levels",
            id="deep",
        ),
    ],
)
def test_what_is_no_structured_event_is_refused(body: bytes, message: str) -> None:
    """An event that breaks the specification is refused, and says by what."""
    with pytest.raises(InvalidRequest) as caught:
        Event.from_http(STRUCTURED, body)

    assert caught.value.detail == message


def test_event_is_written() -> None:
    """Attributes are percent-encoded as the binding asks; a Content-Type stays as it is."""
    event = Event(
        attributes={
            **ATTRIBUTES,
            "time": "2026-01-01T00:00:00Z",
            "subject": 'é "%\n',
            "datacontenttype": "text/plain; charset=utf-8",
        },
        data=b"\x00",
    )

    headers, body = event.to_http()

    assert dict(headers) == {
        **BINARY,
        "ce-time": "2026-01-01T00:00:00Z",
        "ce-subject": "%C3%A9%20%22%25%0A",
        "content-type": "text/plain; charset=utf-8",
    }
    assert body == b"\x00"


def test_event_answers_a_broker() -> None:
    """As a reply, an event is a whole answer, which the Broker publishes."""
    response = Event(attributes=ATTRIBUTES, data=b"{}").to_response()

    assert response.status == 200
    assert dict(response.headers)["Content-Length"] == "2"
    assert dict(response.headers)["ce-id"] == "1"
    assert b"".join(response.body) == b"{}"


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: name not in ("data", "extensions", "specversion", "datacontenttype")
)


@given(TEXT, TEXT, TEXT, st.dictionaries(NAMES, TEXT, max_size=3), st.binary(min_size=1))
def test_what_is_written_is_read_back(
    id_: str, source: str, type_: str, more: dict[str, str], data: bytes
) -> None:
    """Any event comes out as it went in, and its headers are visible ASCII."""
    attributes = {**more, "specversion": "1.0", "id": id_, "source": source, "type": type_}
    headers, body = Event(attributes=attributes, data=data).to_http()

    event = Event.from_http(dict(headers), body)
    by_package = from_http(dict(headers), body, bytes)

    assert all(value.isascii() and value.isprintable() for _, value in headers)
    assert {name: event.attributes[name] for name in attributes} == attributes
    assert event.attributes.keys() == {*attributes, "time"}
    assert event.data == data
    # The package does not decode, and knows a missing content type.
    known = {name: value for name, value in by_package.get_attributes().items() if value}
    assert {name: unquote(value) for name, value in known.items()} == event.attributes
    assert by_package.get_data() == data


@given(TEXT, st.dictionaries(NAMES, TEXT, max_size=3), st.none() | st.text("a/;= é", max_size=5))
def test_an_event_is_written_as_the_package_does(
    type_: str, more: dict[str, str], content_type: str | None
) -> None:
    """Header for header, once its attributes are percent-encoded, which the package leaves out."""
    attributes = {"id": "1", "source": "/s", "type": type_, **more}
    if content_type is not None:
        attributes["datacontenttype"] = content_type

    headers, body = Event(attributes=attributes, data=b"\x00").to_http()

    written = dict(headers)
    encoded = {
        name: wire_value(value) if name == "datacontenttype" else written[f"ce-{name}"]
        for name, value in attributes.items()
    }
    by_package, same = to_binary(CloudEvent({**encoded, "time": written["ce-time"]}, body), bytes)
    assert (written, body) == (by_package, same)


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
KEYS = st.sampled_from([*ATTRIBUTES, "data", "data_base64", "ID", "time", "subject"]) | st.text()


@given(
    st.dictionaries(
        st.sampled_from([*BINARY, "ce-data", "ce-time", "ce-datacontenttype", "content-type"])
        | st.text().map("ce-{}".format),
        st.sampled_from(["1.0", "0.3", "%", "%ff", "application/cloudevents+json"])
        | st.text(st.characters(max_codepoint=0xFF)),
    ),
    st.binary()
    | st.dictionaries(KEYS, VALUES).map(lambda value: json.dumps(value).encode())
    | st.dictionaries(KEYS, VALUES).map(lambda value: structured(**value)),
)
def test_any_message_is_an_event_or_a_named_error(headers: dict[str, str], body: bytes) -> None:
    """No message at all brings about another error than `InvalidRequest`; an event can be sent."""
    for fields in (headers, {**BINARY, **headers}, STRUCTURED):
        try:
            event = Event.from_http(fields, body)
        except InvalidRequest:
            continue
        assert from_http(fields, body)  # functions-framework reads it after the relay
        for _, value in event.to_http()[0]:
            assert value.isascii()
            assert value.isprintable()


def test_base64_of_a_structured_event_is_data() -> None:
    """The bytes that the base64 stands for are the data."""
    body = structured(data_base64=base64.b64encode(b"{}").decode())

    assert Event.from_http(STRUCTURED, body).data == b"{}"


def in_structured_mode(more: Callable[[int], str]) -> Message:
    def message(size_bytes: int) -> tuple[dict[str, str], bytes]:
        return STRUCTURED, structured()[:-1] + b"," + more(size_bytes).encode() + b"}"

    return message


def in_header(name: str, value: Callable[[int], str]) -> Message:
    return lambda size_bytes: ({**BINARY, name: value(size_bytes)}, b"")


GROWING = [
    pytest.param(
        in_structured_mode(lambda size: ",".join(f'"e{n:06}":1' for n in range(size // 12))),
        id="attributes",
    ),
    pytest.param(in_structured_mode(lambda size: '"e":1' + ',"e":1' * (size // 6)), id="one name"),
    pytest.param(in_structured_mode(lambda size: f'"e":"{"x" * size}"'), id="text"),
    pytest.param(
        in_structured_mode(lambda size: f'"e":"{chr(92)}u0041"' + " " * size), id="blanks"
    ),
    pytest.param(
        in_structured_mode(lambda size: '"e":"' + "\\\\" * (size // 2) + '"'), id="escapes"
    ),
    pytest.param(in_structured_mode(lambda size: '"data":' + "[" * size), id="depth"),
    pytest.param(
        in_structured_mode(lambda size: '"data":[' + "[]," * (size // 3) + "0]"), id="arrays"
    ),
    pytest.param(in_structured_mode(lambda size: '"data":' + "1" * size), id="number"),
    pytest.param(in_structured_mode(lambda size: f'"data_base64":"{"A" * size}"'), id="base64"),
    pytest.param(in_header("ce-subject", lambda size: "%41" * (size // 3)), id="percent signs"),
    pytest.param(in_header("ce-subject", lambda size: "\xe9" * size), id="Latin-1"),
    pytest.param(in_header("ce-source", lambda size: "a b" * (size // 3)), id="source"),
    pytest.param(in_header("ce-source", lambda size: "//[" + ":" * size + "]"), id="IP literal"),
    pytest.param(
        in_header("ce-time", lambda size: f"2026-01-01T00:00:00.{'1' * size}Z"), id="time"
    ),
    pytest.param(in_header("content-type", lambda size: "a/b" + "; c=d" * (size // 5)), id="type"),
    pytest.param(
        in_header("content-type", lambda size: "a/b" + " " * size + "x"), id="type, blanks"
    ),
]


@pytest.mark.parametrize("rules", [STRICT, KNATIVE], ids=["relay", "Broker"])
@pytest.mark.parametrize("message", GROWING)
def test_reading_is_linear(message: Message, rules: Rules) -> None:
    """A thousand times the bytes cost a thousand times the steps, whatever they are."""

    def read(size_bytes: int) -> None:
        headers, body = message(size_bytes)
        with suppress(InvalidRequest):
            validate(Event.from_http(headers, body, rules))

    assert growth(read) <= MAX_GROWTH
