"""`relay.headers`: what crosses the relay is legal on the wire, and only what may cross does."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.headers import (
    Preferences,
    end_to_end,
    find,
    is_json,
    parse_headers,
    retry_after_s,
    wire_value,
)
from relay.jsons import json_type
from relay.problems import InvalidRequest


def test_headers_are_kept_as_written() -> None:
    """Names keep their case, values lose the blanks around them."""
    headers = parse_headers(
        {"X-A": " b\t", "x_b": "", "Content-type": "é", "N": "1.10"},
        field="headers",
    )

    assert headers == (
        ("X-A", "b"),
        ("x_b", ""),
        ("Content-type", "é"),
        ("N", "1.10"),
    )


NOT_YOURS = "is not for the caller to set; leave it out"
VISIBLE = "must hold only visible Latin-1 characters, spaces and tabs"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("headers", "headers must be an object, not a string", id="string"),
        pytest.param(None, "headers must be an object, not null", id="null"),
        pytest.param([], "headers must be an object, not an array", id="array"),
        pytest.param({"": "1"}, "headers has a name that is not an HTTP token: ''", id="no name"),
        pytest.param(
            {"X A": "1"}, "headers has a name that is not an HTTP token: 'X '", id="space"
        ),
        pytest.param(
            {"Authorization: Bearer secret": ""},
            "headers has a name that is not an HTTP token: 'Authorization:'",
            id="the value with it",
        ),
        pytest.param({"X:": "1"}, "headers has a name that is not an HTTP token: 'X:'", id="colon"),
        pytest.param(
            {"X\r\nY: 1": "1"},
            "headers has a name that is not an HTTP token: 'X\\r'",
            id="newline in a name",
        ),
        pytest.param(
            {"Ünï": "1"}, "headers has a name that is not an HTTP token: '\\xdc'", id="not ASCII"
        ),
        pytest.param({"X-A": True}, "headers.X-A must be a string or a number", id="boolean"),
        pytest.param({"X-A": None}, "headers.X-A must be a string or a number", id="null value"),
        pytest.param({"X-A": ["1"]}, "headers.X-A must be a string or a number", id="array value"),
        pytest.param({"X-A": {"a": 1}}, "headers.X-A must be a string or a number", id="object"),
        pytest.param({"X-A": "1\nY: 1"}, f"headers.X-A {VISIBLE}", id="LF"),
        pytest.param({"X-A": "1\r"}, f"headers.X-A {VISIBLE}", id="CR"),
        pytest.param({"X-A": "a\0b"}, f"headers.X-A {VISIBLE}", id="NUL"),
        pytest.param({"X-A": "\x7f"}, f"headers.X-A {VISIBLE}", id="DEL"),
        pytest.param({"X-A": "\x85"}, f"headers.X-A {VISIBLE}", id="NEL"),
        pytest.param({"X-A": "€"}, f"headers.X-A {VISIBLE}", id="not Latin-1"),
        pytest.param({"X-A": "\ud800"}, f"headers.X-A {VISIBLE}", id="lone surrogate"),
        pytest.param(
            {"X-A": "1", "x-a": "2"},
            "headers.x-a is given twice, in upper and lower case",
            id="twice by case",
        ),
        pytest.param(
            {f"X-{n}": "1" for n in range(65)},
            "headers has 65 headers; at most 64 are sent",
            id="too many",
        ),
        pytest.param(
            {"X-A": "a" * 16384}, "headers must be at most 16384 bytes together", id="too large"
        ),
        *(
            pytest.param({name: "x"}, f"headers.{name} {NOT_YOURS}", id=name)
            for name in (
                "Connection",
                "Keep-Alive",
                "Proxy-Authenticate",
                "Proxy-Authorization",
                "Proxy-Connection",
                "TE",
                "Trailer",
                "Transfer-Encoding",
                "transfer-ENCODING",
                "Transfer_Encoding",
                "Upgrade",
                "Content-Length",
                "Content_Length",
                "Accept-Encoding",
                "Expect",
                "Relay-Hops",
                "ce-id",
                "CE-Type",
                "ce_source",
            )
        ),
    ],
)
def test_headers_that_may_not_be_sent_are_refused(value: object, message: str) -> None:
    """A header is refused by its path, never repaired or dropped."""
    with pytest.raises(InvalidRequest) as caught:
        parse_headers(value, field="headers")

    assert caught.value.detail == message


def test_a_long_name_does_not_make_a_long_error() -> None:
    """An error shows at most the beginning of a name."""
    with pytest.raises(InvalidRequest) as caught:
        parse_headers({"X" * 100_000: None}, field="headers")

    assert caught.value.detail == f"headers.{'X' * 64} must be a string or a number"


def test_find_ignores_case() -> None:
    """A header is found whatever the case of its name."""
    assert find((("X-A", "1"), ("x-a", "2")), "x-A") == "1"
    assert find((), "X-A") is None


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("application/problem+json", True),
        ("text/json", False),
        ("application/jsonl", False),
        ("", False),
    ],
)
def test_json_is_known_by_its_media_type(content_type: str, expected: bool) -> None:
    """JSON is `application/json` and every `+json` type."""
    assert is_json(content_type) is expected


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_types_have_names(value: object, name: str) -> None:
    """Errors call a JSON value's type by JSON's own word."""
    assert json_type(value) == name


def test_answers_lose_hop_by_hop_headers() -> None:
    """What is for this connection only, or would break the answer's framing, stays behind."""
    headers = [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Connection", "close, X-Private"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("X-Private", "1"),
        ("Date", "now"),
        ("Server", "x"),
        ("Content-Length", "3"),
        ("Content-Encoding", "gzip"),
        ("X Bad", "1"),
        ("X-Bad", "a\x00b"),
        ("Location", "/y%0d%0aX-Evil:1"),
    ]

    assert list(end_to_end(headers)) == [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Length", "3"),
        ("Content-Encoding", "gzip"),
        ("Location", "/y%0d%0aX-Evil:1"),
    ]


def test_bytes_of_a_value_pass(caplog: pytest.LogCaptureFixture) -> None:
    """All that a server can write; what it cannot is left out, and logged by name alone."""
    passing = "".join(map(chr, (0x09, *range(0x20, 0x7F), *range(0x80, 0x100))))
    secret = [("X-Control", f"s3cret{control}") for control in "\x00\x01\r\n\x7f"]

    passed = list(end_to_end([("Location", passing), *secret, ("X Y", "s3cret")]))

    assert passed == [("Location", passing)]
    said = "a header of the answer cannot be passed on: "
    assert caplog.messages == [said + "'X-Control'"] * 5 + [said + "'X Y'"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("2f6c-4d", "2f6c-4d"),
        (" a b ", "a b"),
        ("é€\r\n%\x7f", "%C3%A9%E2%82%AC%0D%0A%%7F"),
    ],
)
def test_relays_own_values_are_made_legal(text: str, sent: str) -> None:
    """What a header cannot hold is percent-encoded; the rest is left alone."""
    assert wire_value(text) == sent


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        pytest.param(None, None, False, id="none"),
        pytest.param("wait=5", 5, False, id="wait"),
        pytest.param("Wait = 5", 5, False, id="case-and-space"),
        pytest.param('wait="5"', 5, False, id="quoted"),
        pytest.param("wait=0", 0, False, id="zero"),
        pytest.param("wait=5; strict, respond-async", 5, True, id="both-with-parameter"),
        pytest.param("respond-async, wait=10", 10, True, id="order"),
        pytest.param("wait=3, wait=9", 3, False, id="the-first-counts"),
        pytest.param("wait=100000", 120, False, id="bounded"),
        pytest.param("wait=soon", None, False, id="no-number"),
        pytest.param("wait=-1", None, False, id="negative"),
        pytest.param("wait=\uff11", None, False, id="full-width-digit"),
        pytest.param("wait", None, False, id="without-value"),
        pytest.param("return=minimal, handling=lenient", None, False, id="others"),
        pytest.param(",,;;=, \x00", None, False, id="rubbish"),
    ],
)
def test_preferences(header: str | None, wait_s: int | None, respond_async: bool) -> None:
    """What is understood is read; anything else is ignored, as the RFC asks."""
    preferences = Preferences.from_header(header)

    assert (preferences.wait_s, preferences.respond_async) == (wait_s, respond_async)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("120", 120.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read(value: str | None, expected: float | None) -> None:
    """Seconds are read, a date that is past is now, anything else is nothing."""
    assert retry_after_s(value) == expected


def test_retry_after_is_read_from_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date counts from now."""
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)

    assert retry_after_s("Sun, 09 Sep 2001 01:47:40 GMT") == 60.0


@given(st.text())
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    """No value of a peer's header is an error."""
    assert (retry_after_s(value) or 0.0) >= 0.0
