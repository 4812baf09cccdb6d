"""CloudEvents: reading, validating and writing them."""

from __future__ import annotations

import base64
import json
from datetime import timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.broker.event import Event, InvalidEvent, MalformedEvent, NotAnEvent

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).map(
    str.strip
)
unreserved = st.from_regex(r"[a-z0-9/._~-]+", fullmatch=True)
RESERVED = {"data", "datacontenttype", "datacontentencoding", "dataschema", "schemaurl"}
CORE = {"id", "source", "type", "specversion", "subject", "time"}
extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda n: n not in RESERVED | CORE),
    printable,
    max_size=5,
)


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
        attributes["time"] = time.isoformat()
    if draw(st.booleans()):
        attributes["datacontenttype"] = draw(
            st.sampled_from(["application/json", "text/plain; charset=utf-8", "image/png"])
        )
    return Event(attributes=attributes, data=draw(st.binary()))


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as they come from the wire."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def structured(members: object) -> Event:
    """Read an event in structured mode."""
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    return Event.from_http(raw(headers), json.dumps(members).encode())


MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@given(events())
def test_what_is_written_is_read_again(event: Event) -> None:
    """Writing an event in binary mode and reading it is identity."""
    event.validate()

    assert Event.from_http(raw(event.to_headers()), event.data) == event


@given(events())
def test_structured_and_binary_mode_say_the_same(event: Event) -> None:
    """An event read from its structured form has the attributes and data of the binary one."""
    if event.attributes["specversion"] == "0.3":
        data = {"data": base64.b64encode(event.data).decode(), "datacontentencoding": "base64"}
    else:
        data = {"data_base64": base64.b64encode(event.data).decode()}

    assert structured({**event.attributes, **data}) == event


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_breaks_out_of_its_header(value: str) -> None:
    """Whatever a structured event carries fits into one header of printable ASCII."""
    headers = structured({**MINIMAL, "ext": value}).to_headers()

    assert headers["ce-ext"].isascii()
    assert headers["ce-ext"].isprintable()


@pytest.mark.parametrize(
    ("members", "data"),
    [
        pytest.param({}, b"", id="no data"),
        pytest.param({"data": {"a": "ü"}}, '{"a":"ü"}'.encode(), id="JSON"),
        pytest.param({"data": "text"}, b'"text"', id="JSON string"),
        pytest.param({"data": "text", "datacontenttype": "text/plain"}, b"text", id="text"),
        pytest.param({"data_base64": "AAE="}, b"\x00\x01", id="base64"),
    ],
)
def test_structured_data_becomes_bytes(members: dict[str, object], data: bytes) -> None:
    """JSON data as JSON, a string of another type as it is, base64 decoded."""
    assert structured({**MINIMAL, **members}).data == data


def test_other_types_of_attributes_become_their_canonical_strings() -> None:
    """Integers and booleans are written as CloudEvents says; null is absent."""
    event = structured({**MINIMAL, "a": 1, "b": True, "c": None})

    assert {"a": "1", "b": "true"}.items() <= event.attributes.items()
    assert "c" not in event.attributes


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([], id="not an object"),
        pytest.param({**MINIMAL, "specversion": "2.0"}, id="unknown specversion"),
        pytest.param({**MINIMAL, "a": 1.5}, id="float attribute"),
        pytest.param({**MINIMAL, "a": {}}, id="object attribute"),
        pytest.param({**MINIMAL, "a_b": "1"}, id="bad name"),
        pytest.param({**MINIMAL, "a": "\ud800"}, id="lone surrogate"),
        pytest.param({**MINIMAL, "data": "\ud800"}, id="lone surrogate in data"),
        pytest.param({**MINIMAL, "data": 1, "data_base64": ""}, id="data twice"),
        pytest.param({**MINIMAL, "data_base64": "*"}, id="bad base64"),
        pytest.param({**MINIMAL, "data_base64": 1}, id="base64 that is no string"),
        pytest.param({**MINIMAL, "data": float("nan")}, id="NaN"),
        pytest.param({**MINIMAL, "time": "2026-02-30T00:00:00Z"}, id="no such day"),
        pytest.param({**MINIMAL, "source": "1a:b"}, id="source with a bad scheme"),
        pytest.param({**MINIMAL, "source": "http://[::1"}, id="source with a bad host"),
    ],
)
def test_what_cannot_be_read_is_malformed(members: object) -> None:
    """A structured event with a defect is malformed, never another error."""
    with pytest.raises(MalformedEvent):
        structured(members)


def test_an_ordinary_request_is_no_event() -> None:
    """Without ce-specversion and CloudEvents' media type it is not an event at all."""
    with pytest.raises(NotAnEvent, match=r"^ce-specversion must be 1\.0 or 0\.3$"):
        Event.from_http(raw({"content-type": "application/json"}), b"{}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "id must be there and not empty"),
        ({"source": ""}, "source must be there and not empty"),
        ({"type": ""}, "type must be there and not empty"),
        ({"subject": ""}, "subject must not be empty when it is there"),
        (
            {"datacontenttype": "a/"},
            "datacontenttype must be a media type such as application/json",
        ),
    ],
    ids=["id", "source", "type", "subject", "datacontenttype"],
)
def test_what_a_publisher_owes_is_named(changes: dict[str, str], message: str) -> None:
    """An event that can be read but not published names the attribute."""
    event = structured({**MINIMAL, **changes})

    with pytest.raises(InvalidEvent) as caught:
        event.validate()

    assert str(caught.value) == message


def test_times_are_those_of_rfc_3339() -> None:
    """Offsets, fractions and lower-case letters are valid."""
    for time in ("2026-01-31T12:00:00.123456789z", "2026-01-31t12:00:00+05:30"):
        assert structured({**MINIMAL, "time": time}).attributes["time"] == time
