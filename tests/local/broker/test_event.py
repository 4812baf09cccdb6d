"""CloudEvents as Knative reads and writes them, beyond the rows of `knative_events.json`."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.broker.attributes import Unwritable, validate
from local.broker.event import KNATIVE, fields, is_event, readable, to_headers
from relay.events import Event
from relay.problems import InvalidRequest

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).map(
    str.strip
)
unreserved = st.from_regex(r"[a-z0-9/._~-]+", fullmatch=True)
RESERVED = {"data", "datacontenttype", "datacontentencoding", "dataschema", "schemaurl"}
CORE = {"id", "source", "type", "specversion", "subject", "time"}
extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda n: n not in RESERVED | CORE),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(lambda text: text.strip(" \t")),
    max_size=5,
)
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@st.composite
def events(draw: st.DrawFn) -> Event:
    attributes = {
        **draw(extensions),
        "specversion": draw(st.sampled_from(["1.0", "0.3"])),
        "id": draw(printable.filter(bool)),
        "source": draw(unreserved),
        "type": draw(printable.filter(bool)),
    }
    if draw(st.booleans()):
        time = draw(st.datetimes(timezones=st.just(timezone.utc)))
        attributes["time"] = time.isoformat().replace("+00:00", "Z").replace("000Z", "Z")
    if draw(st.booleans()):
        attributes["datacontenttype"] = draw(
            st.sampled_from(["application/json", "text/plain; charset=utf-8", "image/png"])
        )
    return Event(attributes=attributes, data=draw(st.binary()))


def structured(body: str) -> Event:
    """Read an event in structured mode."""
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    return Event.from_http(headers, body.encode(), KNATIVE)


def wire(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as they go over the wire."""
    return [
        (name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()
    ]


@given(events())
def test_what_is_written_is_read_again(event: Event) -> None:
    """Reading what the Broker has read and written changes nothing any more."""
    headers = wire(to_headers(event))

    once = Event.from_http(fields(headers), event.data, KNATIVE)
    validate(once)

    assert Event.from_http(fields(wire(to_headers(once))), once.data, KNATIVE) == once
    assert (
        once.attributes.items()
        >= {
            name: value
            for name, value in event.attributes.items()
            if name not in ("id", "type", "time")
        }.items()
    )
    assert once.data == event.data


@given(events())
def test_structured_and_binary_mode_say_the_same(event: Event) -> None:
    """An event read from its structured form has the attributes and data of the binary one."""
    # Where sdk-go expects the data of an event, its type is known.
    attributes = {"datacontenttype": "application/octet-stream", **event.attributes}
    if attributes["specversion"] == "0.3":
        data = {"datacontentencoding": "base64", "data": base64.b64encode(event.data).decode()}
    else:
        data = {"data_base64": base64.b64encode(event.data).decode()}
    binary = wire(to_headers(Event(attributes=attributes)))

    assert structured(json.dumps({**attributes, **data})) == Event.from_http(
        fields(binary), event.data, KNATIVE
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_breaks_out_of_its_header(value: str) -> None:
    """What no header can hold is not published."""
    event = structured(json.dumps({**MINIMAL, "ext": value}))

    try:
        validate(event)
    except Unwritable:
        return
    assert not set(to_headers(event)["ce-ext"]) & set("\r\n\0")


@given(st.binary(), st.binary())
def test_any_bytes_are_an_event_or_a_named_error(body: bytes, value: bytes) -> None:
    """No message brings about another error than `InvalidRequest`."""
    headers = {f"ce-{name}": text for name, text in MINIMAL.items()}
    for name in ("ce-source", "ce-time", "ce-dataschema", "content-type", "ce-knativebrokerttl"):
        with suppress(InvalidRequest):
            validate(Event.from_http({**headers, name: value.decode("latin-1")}, body, KNATIVE))
    for text in (body, b'{"specversion":"1.0","data":' + body, b'{"a":' + body + b"}"):
        with pytest.raises(InvalidRequest):
            validate(
                Event.from_http({"content-type": "application/cloudevents+json"}, text, KNATIVE)
            )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"content-type": "application/json"}, False, id="JSON"),
        pytest.param({"ce-specversion": "1.0"}, True, id="binary"),
        pytest.param({"ce-specversion": "2.0"}, False, id="unknown version"),
        pytest.param({"content-type": "Application/CloudEvents+JSON; a=b"}, True, id="structured"),
        pytest.param({"content-type": "application/cloudevents-batch+json"}, True, id="batch"),
        pytest.param({"content-type": "application/cloudevents+avro"}, False, id="Avro"),
    ],
)
def test_a_reply_says_that_it_is_an_event(headers: dict[str, str], expected: bool) -> None:
    """What does not is a body that Knative takes for a failure."""
    assert is_event(headers) is expected


def test_of_a_header_twice_the_first_counts() -> None:
    """As in Go; the blanks around a value are not part of it."""
    raw = [(b"Ce-Id", b" 1\t"), (b"ce-id", b"2")]

    assert fields(raw) == {"ce-id": "1"}


def test_bytes_are_shown_as_text() -> None:
    """For people, bytes that are not UTF-8 are Latin-1."""
    assert readable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "café"
    assert readable("한글") == "한글"
