"""`relay.envelope`: how a caller says which call is to be made, as the schema has it."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from relay.envelope import Envelope
from relay.events import STRUCTURED, Event
from relay.problems import InvalidRequest

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((REPOSITORY / "schemas/envelope.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

URL = "http://a.test"
KNOWN = ", ".join(sorted(SCHEMA["properties"]))


def read(**fields: object) -> Envelope:
    return Envelope.from_json(json.dumps({"targetURL": URL, **fields}).encode())


def refusal_of(raw: bytes) -> InvalidRequest | None:
    try:
        Envelope.from_json(raw)
    except InvalidRequest as exc:
        return exc
    return None


def test_only_the_url_is_required() -> None:
    """All but `targetURL` has a default."""
    envelope = read()

    assert envelope.target.url == "http://a.test/"
    assert envelope.headers == ()
    assert envelope.content is None
    assert envelope.method is None
    assert envelope.timeout_s is None


def test_every_field_is_read() -> None:
    """Each field has its place."""
    envelope = read(
        targetAPI="/x?y=1", headers={"X-A": 1}, body={"a": [1]}, method="PATCH", timeout=2.5
    )

    assert envelope.target.url == "http://a.test/x?y=1"
    assert envelope.headers == (("X-A", "1"),)
    assert envelope.content == b'{"a": [1]}'
    assert envelope.content_type == "application/json"
    assert envelope.method == "PATCH"
    assert envelope.timeout_s == 2.5


@pytest.mark.parametrize(
    ("fields", "content", "content_type"),
    [
        pytest.param({"body": None}, b"null", "application/json", id="null"),
        pytest.param({"body": ""}, b'""', "application/json", id="empty string"),
        pytest.param({"body": "ü"}, b'"\\u00fc"', "application/json", id="string"),
        pytest.param(
            {"body": "\ud800"}, b'"\\ud800"', "application/json", id="lone surrogate as JSON"
        ),
        pytest.param(
            {"body": "a", "headers": {"content-TYPE": "application/x+json"}},
            b'"a"',
            "application/json",
            id="string as JSON of another type",
        ),
        pytest.param(
            {"body": "ü,b", "headers": {"Content-Type": "text/csv"}},
            "ü,b".encode(),
            "application/json",
            id="string as text",
        ),
        pytest.param({"bodyBase64": "AP8="}, b"\x00\xff", "application/octet-stream", id="binary"),
        pytest.param({"bodyBase64": ""}, b"", "application/octet-stream", id="empty binary"),
    ],
)
def test_body_is_sent_by_its_kind(
    fields: dict[str, object], content: bytes, content_type: str
) -> None:
    """A body is JSON, unless its Content-Type makes a string text or it comes as base64."""
    envelope = read(**fields)

    assert (envelope.content, envelope.content_type) == (content, content_type)


def test_callers_headers_win_over_the_relays_own() -> None:
    """The relay adds what the caller has not set, and makes it legal on the wire."""
    envelope = read(headers={"user-agent": "mine"}, body=1)

    sent = envelope.sent_headers((("User-Agent", "relay"), ("Idempotency-Key", "é\r\n")))

    assert sent == (
        ("user-agent", "mine"),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "%C3%A9%0D%0A"),
    )


def test_callback_is_read() -> None:
    """A callback has a url, which may have a query, and headers."""
    callback = read(callback={"url": "http://b.test/x?id=1", "headers": {"X-A": 1}}).callback

    assert callback is not None
    assert callback.target.url == "http://b.test/x?id=1"
    assert callback.headers == (("X-A", "1"),)


def test_a_declared_content_type_stays() -> None:
    """A caller's Content-Type is the only one, and no body needs none."""
    assert read(headers={"content-type": "a/b"}, body="1").sent_headers(()) == (
        ("content-type", "a/b"),
    )
    assert read().sent_headers(()) == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(
            b" \n",
            'envelope is empty; send {"targetURL", "targetAPI", "headers", "body"} as JSON',
            id="empty",
        ),
        pytest.param(
            b"{",
            "envelope is not JSON: Expecting property name enclosed in double quotes at"
            " line 1 column 2",
            id="not JSON",
        ),
        pytest.param(b"null", "envelope must be an object, not null", id="null"),
        pytest.param(b"[]", "envelope must be an object, not an array", id="array"),
        pytest.param(b'"x"', "envelope must be an object, not a string", id="string"),
        pytest.param(b"{}", "targetURL is missing; it says where the call goes", id="no URL"),
        pytest.param(
            b'{"targetURL":"http://a.test","targetURL":"http://b.test"}',
            "envelope has a name twice in one object",
            id="two URLs",
        ),
    ],
)
def test_what_is_no_envelope_is_refused(raw: bytes, message: str) -> None:
    """Text that is no JSON object with a URL is refused as a whole."""
    with pytest.raises(InvalidRequest) as caught:
        Envelope.from_json(raw)

    assert caught.value.detail == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"targeturl": "x"}, f"targeturl is no field of the envelope; it has {KNOWN}", id="case"
        ),
        pytest.param({"": 1}, f'"" is no field of the envelope; it has {KNOWN}', id="empty name"),
        pytest.param(
            {"é" * 99: 1},
            r"\xe9" * 64 + f" is no field of the envelope; it has {KNOWN}",
            id="long name",
        ),
        pytest.param({"targetURL": 1}, "targetURL must be a string, not a number", id="URL"),
        pytest.param({"targetURL": None}, "targetURL must be a string, not null", id="null URL"),
        pytest.param({"targetAPI": 1}, "targetAPI must be a string, not a number", id="API"),
        pytest.param(
            {"headers": "headers", "body": "body"},
            "headers must be an object, not a string",
            id="old caller",
        ),
        pytest.param(
            {"body": 1, "bodyBase64": ""},
            "bodyBase64 must not stand beside body; send one of them",
            id="two bodies",
        ),
        pytest.param(
            {"bodyBase64": 1}, "bodyBase64 must be a string, not a number", id="binary number"
        ),
        pytest.param(
            {"bodyBase64": "@"}, "bodyBase64 must be base64 (RFC 4648 section 4)", id="no base64"
        ),
        pytest.param(
            {"body": "\ud800", "headers": {"Content-Type": "text/plain"}},
            "body has a character that is not in the charset utf-8",
            id="lone surrogate as text",
        ),
        pytest.param(
            {"method": "post"},
            "method must be one of GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
            id="method",
        ),
        pytest.param(
            {"method": ["GET"]},
            "method must be one of GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
            id="methods",
        ),
        pytest.param(
            {"callback": "http://b.test"}, "callback must be an object, not a string", id="callback"
        ),
        pytest.param(
            {"callback": {}},
            "callback.url is missing; it says where the outcome goes",
            id="callback without url",
        ),
        pytest.param(
            {"callback": {"url": 1}}, "callback.url must be a string, not a number", id="url"
        ),
        pytest.param(
            {"callback": {"url": "http://b.test/?a#b"}},
            "callback.url must not have a fragment (#)",
            id="fragment of a callback",
        ),
        pytest.param(
            {"callback": {"url": URL, "uri": 1}},
            "callback.uri is no field; it has url and headers",
            id="unknown field of a callback",
        ),
        pytest.param(
            {"callback": {"url": URL, "headers": {"TE": "1"}}},
            "callback.headers.TE is not for the caller to set; leave it out",
            id="header of a callback",
        ),
        pytest.param(
            {"callback": {"url": URL, "headers": {f"X-{n}": "1" for n in range(62)}}},
            "callback.headers has 62 headers; at most 61 are sent",
            id="too many headers of a callback",
        ),
        pytest.param(
            {"callback": {"url": URL, "headers": {"X-A": "a" * 15360}}},
            "callback.headers must be at most 15360 bytes together",
            id="too large headers of a callback",
        ),
        pytest.param({"timeout": 0}, "timeout must be a number of seconds above 0", id="zero"),
        pytest.param({"timeout": -1}, "timeout must be a number of seconds above 0", id="minus"),
        pytest.param({"timeout": True}, "timeout must be a number of seconds above 0", id="true"),
        pytest.param({"timeout": "1"}, "timeout must be a number of seconds above 0", id="text"),
        pytest.param({"timeout": None}, "timeout must be a number of seconds above 0", id="null"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], message: str) -> None:
    """An error begins with the field and says what would be right."""
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)

    assert caught.value.detail == message


def test_any_number_is_a_timeout() -> None:
    """A timeout beyond reason is one that never comes first; who calls limits it."""
    assert read(timeout=10**300).timeout_s == math.inf


HOSTS = st.sampled_from(
    ["a.test", "a.test:80", "[::1]", "10.0.0.1", "", "a b", "127.1", "[x]", "u@a.test", "ü"]
)
STRINGS = st.text(max_size=8)
URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "", "http:"]),
    HOSTS,
    st.sampled_from(["", "/", "/b", "/..", "?q", "#f"]) | STRINGS,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    st.sampled_from(["X-A", "x-a", "Content-Type", "Content_Length", "TE", "ce-id", "Host", "a b"])
    | STRINGS
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "targetURL": st.just(URL) | URLS | VALUES,
        "targetAPI": st.just("/x") | st.sampled_from(["?q=1", "/..", "/#f", "x:y"]) | VALUES,
        "headers": st.dictionaries(NAMES, STRINGS | st.integers() | VALUES, max_size=3) | VALUES,
        "body": VALUES,
        "bodyBase64": st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode())
        | VALUES,
        "method": st.sampled_from(["GET", "POST", "TRACE", "get"]) | VALUES,
        "timeout": st.integers() | st.floats() | VALUES,
        "callback": st.fixed_dictionaries(
            {},
            optional={
                "url": st.just(URL) | URLS | VALUES,
                "headers": st.dictionaries(NAMES, STRINGS, max_size=3) | VALUES,
                "more": VALUES,
            },
        )
        | VALUES,
        "more": VALUES,
    },
)

# What a refusal says when the schema lets the envelope pass: grammars and limits that a schema
# cannot hold, and nothing else.
BEYOND_SCHEMA = (
    "targetURL must have",
    "targetURL must not have",
    "targetURL must write an IPv4 address",
    "targetURL has brackets without",
    "targetURL is too long",
    "targetAPI must be a path and query, not a URL",
    "targetAPI must have",
    "targetAPI must not have",
    "headers.",
    "headers must be at most",
    "callback.url must have",
    "callback.url must not have",
    "callback.url must write an IPv4 address",
    "callback.url has brackets without",
    "callback.url is too long",
    "callback.headers.",
    "callback.headers must be at most",
    "body has a character that is not in",
    "body must be a string, not",
    "body must not hold",
    "callback.headers.Content-Type must be JSON",
    # `$` in a pattern is the end of the text, but in Python also before a newline at the end.
    "headers has a name that is not an HTTP token",
    "callback.headers has a name that is not an HTTP token",
    "bodyBase64 must be base64",
    "envelope holds a number that is out of range",
    "envelope is not JSON",
)


@given(ENVELOPES | VALUES)
@example({"targetURL": URL, "headers": {"X-A": 10**400}})
@example({"targetURL": URL, "bodyBase64": "YQ=="})
@example({"targetURL": URL, "headers": {"X-A\n": "1"}})
@example({"targetURL": URL + "\n"})
@example({"targetURL": URL, "bodyBase64": "YQ==\n"})
@example({"targetURL": URL, "headers": {f"X-{n}": "1" for n in range(64)}})
@example({"targetURL": URL, "headers": {f"X-{n}": "1" for n in range(65)}})
@example({"targetURL": URL, "callback": {"url": URL, "headers": {f"X-{n}": 1 for n in range(61)}}})
@example({"targetURL": URL, "callback": {"url": URL, "headers": {f"X-{n}": 1 for n in range(62)}}})
def test_parser_and_schema_agree(value: object) -> None:
    """What the parser takes the schema takes; what the schema refuses the parser refuses."""
    refusal = refusal_of(json.dumps(value).encode())

    if VALIDATOR.is_valid(value):
        assert refusal is None or refusal.detail.startswith(BEYOND_SCHEMA)
    else:
        assert refusal is not None


def test_schema_is_a_schema_whose_examples_are_envelopes() -> None:
    """The schema is valid, and its examples, and those of every field, are taken by the parser."""
    Draft202012Validator.check_schema(SCHEMA)
    for example_ in SCHEMA["examples"]:
        Envelope.from_json(json.dumps(example_).encode())
    for name, field in SCHEMA["properties"].items():
        for value in field.get("examples", ()):
            assert VALIDATOR.is_valid({"targetURL": URL, name: value})
            Envelope.from_json(json.dumps({"targetURL": URL, name: value}).encode())


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "examples").glob("*.json")), ids=lambda path: path.name
)
def test_examples_are_envelopes(path: Path) -> None:
    """What the README sends is taken by the parser and by the schema."""
    Envelope.from_json(path.read_bytes())

    assert VALIDATOR.is_valid(json.loads(path.read_text()))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_an_envelope_or_a_named_error(raw: bytes) -> None:
    """No bytes at all bring about another error than `InvalidRequest`."""
    refusal = refusal_of(raw)

    assert refusal is None or refusal.detail.startswith(refusal.field)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**1000), 2**1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(JSON_VALUES, st.booleans(), st.booleans())
def test_an_envelope_goes_through_an_event_unchanged(
    body: object, ascii_only: bool, is_structured: bool
) -> None:
    """Envelope, event, envelope: whatever the JSON, Receive has what Send was given."""
    given_value = {"targetURL": URL, "targetAPI": "/é?x=1", "headers": {"X-A": "1"}, "body": body}
    raw = json.dumps(given_value, ensure_ascii=ascii_only).encode()
    attributes = {"id": "1", "source": "s", "type": "t", "specversion": "1.0"}
    if is_structured:
        event = Event.from_http(
            {"content-type": STRUCTURED},
            json.dumps({**attributes, "data": given_value}, ensure_ascii=ascii_only).encode(),
        )
    else:
        headers, data = Event(attributes=attributes, data=raw).to_http()
        event = Event.from_http(dict(headers), data)
        assert event.data == raw

    received = Envelope.from_json(event.data or b"")

    assert received == Envelope.from_json(raw)
    assert json.loads(received.content or b"") == body
