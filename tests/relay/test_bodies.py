"""A body is what its headers say: written so for a target, and read so for people."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import jsons
from relay.bodies import charset_of, codec_of, from_readable, readable
from relay.envelope import Envelope
from relay.problems import InvalidRequest

FORM = "application/x-www-form-urlencoded"


def sent(body: str, **headers: str) -> bytes | None:
    """Return what an envelope with this JSON text as its body sends."""
    named = json.dumps({name.replace("_", "-"): value for name, value in headers.items()})
    text = '{"targetURL": "http://a.test", "headers": %s, "body": %s }' % (named, body)  # noqa: UP031
    return Envelope.from_json(text.encode()).content


@pytest.mark.parametrize(
    "text",
    [
        "1234567890.12345678901234",
        "10.00",
        "1e2",
        "1e-400",
        "-0.0",
        "123456789012345678901234567890",
        '{ "a" :\t[1.10,\n"\\u00fc\\/ü"] }',
        '"\\ud800"',
        "null",
    ],
)
def test_json_goes_out_as_it_came(text: str) -> None:
    """No digit, blank or escape of a body is changed."""
    assert sent(text) == text.encode()
    assert sent(text, Content_Type="application/vnd.api+json") == text.encode()


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        pytest.param("text/plain; charset=ISO-8859-1", '"Müller"', b"M\xfcller", id="Latin-1"),
        pytest.param('text/plain;charset="utf-16le"', '"M"', b"M\0", id="quoted"),
        pytest.param("text/plain", '"M\\u00fcller"', "Müller".encode(), id="UTF-8 by default"),
        pytest.param("text/csv; charset=windows-1251", '"Я"', b"\xdf", id="windows-1251"),
        pytest.param("application/json; charset=latin1", '{"a": "ü"}', b'{"a": "\xfc"}', id="JSON"),
        pytest.param(FORM, '"a=1&b=%20"', b"a=1&b=%20", id="a form as text"),
        pytest.param("multipart/form-data; boundary=x", '"--x--"', b"--x--", id="multipart"),
    ],
)
def test_text_is_sent_in_its_charset(content_type: str, body: str, expected: bytes) -> None:
    """The bytes are what the Content-Type says of them."""
    assert sent(body, Content_Type=content_type) == expected


@pytest.mark.parametrize(
    ("content_type", "body", "detail"),
    [
        pytest.param(
            "text/plain; charset=us-ascii",
            '"ü"',
            "body has a character that is not in the charset us-ascii",
            id="character",
        ),
        pytest.param(
            "application/json; charset=ISO-8859-1",
            '"€"',
            "body has a character that is not in the charset ISO-8859-1",
            id="character of JSON",
        ),
        pytest.param(
            FORM + "; charset=us-ascii",
            '{"a": "ü"}',
            "body has a character that is not in the charset us-ascii",
            id="character of a form",
        ),
        *(
            pytest.param(
                f"text/plain; charset={charset}",
                '"a"',
                f"headers.Content-Type has the unknown charset {charset}; send bodyBase64",
                id=charset,
            )
            for charset in ("x-none", "base64", "rot13", "unicode_escape", "idna", "..")
        ),
        *(
            pytest.param(
                content_type,
                body,
                f"body must be a string, not {kind}, since headers.Content-Type is not JSON",
                id=f"{kind} as {content_type}",
            )
            for content_type, body, kind in (
                ("application/xml", "{}", "an object"),
                ("multipart/form-data; boundary=a", "{}", "an object"),
                ("text/plain", "1.0", "a number"),
                (FORM, "[]", "an array"),
            )
        ),
        pytest.param(
            FORM,
            '{"a": {"b": 1}}',
            "body must not hold an object in a field: it is sent as a form",
            id="an object in a form",
        ),
        pytest.param(
            FORM,
            '{"a": [[1]]}',
            "body must not hold an array in a field: it is sent as a form",
            id="an array in a list of a form",
        ),
    ],
)
def test_what_cannot_be_what_its_headers_say(content_type: str, body: str, detail: str) -> None:
    """It is refused rather than sent as something else."""
    with pytest.raises(InvalidRequest) as caught:
        sent(body, Content_Type=content_type)

    assert caught.value.detail == detail


def test_an_object_becomes_a_form() -> None:
    """Each member is a field, a list a repeated one; numbers keep their text."""
    body = '{"a b": "ü&=", "n": 1.10, "t": true, "f": false, "none": null, "l": ["x", 1e2]}'

    form = sent(body, Content_Type=FORM)

    assert form is not None
    assert parse_qsl(form.decode("ascii"), keep_blank_values=True) == [
        ("a b", "ü&="),
        ("n", "1.10"),
        ("t", "true"),
        ("f", "false"),
        ("none", ""),
        ("l", "x"),
        ("l", "1e2"),
    ]


@pytest.mark.parametrize("body", ['"a"', "{}"])
def test_a_content_encoding_needs_the_encoded_bytes(body: str) -> None:
    """A body that is not encoded cannot go out as one that is."""
    with pytest.raises(InvalidRequest) as caught:
        sent(body, Content_Encoding="gzip")

    assert caught.value.detail == (
        "headers.Content-Encoding must not be set: the body is not encoded; send bodyBase64"
    )
    raw = b'{"targetURL":"http://a.test","headers":{"Content-Encoding":"gzip"},"bodyBase64":"H4s="}'
    assert Envelope.from_json(raw).content == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("Content-Type", "text/plain", "must be JSON in UTF-8, which is sent"),
        ("Content-Type", "application/json;charset=utf-16", "must be JSON in UTF-8, which is sent"),
        (
            "content-encoding",
            "gzip",
            "must not be set: the body is not encoded; leave it out",
        ),
    ],
)
def test_a_callback_is_json(name: str, value: str, detail: str) -> None:
    """What would make a wrong call of the delivered outcome is refused when it is asked for."""
    callback = {"url": "http://a.test", "headers": {name: value}}
    raw = json.dumps({"targetURL": "http://a.test", "callback": callback})

    with pytest.raises(InvalidRequest) as caught:
        Envelope.from_json(raw.encode())

    assert caught.value.detail.lower() == f"callback.headers.{name} {detail}".lower()


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("", "utf-8"),
        ("text/plain", "utf-8"),
        ("text/plain;Charset=A", "A"),
        ('text/plain; charset="a b"', "a b"),
        ('text/plain; title="; charset=no"; charset=yes', "yes"),
        ("text/plain; charset=", ""),
    ],
)
def test_the_charset(content_type: str, charset: str) -> None:
    """It is the parameter of that name, in quotes or not."""
    assert charset_of(content_type) == charset


@given(st.text(max_size=40))
def test_any_charset_is_known_or_not(charset: str) -> None:
    """A charset that is known can write and read; no name at all makes trouble."""
    codec = codec_of(charset)

    assert codec is None or "a".encode(codec).decode(codec) == "a"


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        pytest.param(b"", "application/json", {}, id="nothing"),
        pytest.param(b' {"a":[1.10]} ', "application/json", b' {"a":[1.10]} ', id="json"),
        pytest.param(b"null", "application/problem+json", b"null", id="json-suffix"),
        pytest.param("grün".encode(), "text/plain", {"body": "grün"}, id="text"),
        pytest.param(b"gr\xfcn", "text/plain; charset=latin1", {"body": "grün"}, id="latin-1"),
        pytest.param(b"{1", "application/json", {"bodyBase64": "ezE="}, id="json-that-is-none"),
        pytest.param(b"\xef\xbb\xbf1", "application/json", {"bodyBase64": "77u/MQ=="}, id="BOM"),
        pytest.param(b"\xff\x00", "text/plain", {"bodyBase64": "/wA="}, id="binary"),
        pytest.param(b"\0" * 6, "text/plain", {"bodyBase64": "AAAAAAAA"}, id="shorter in base64"),
    ],
)
def test_bytes_become_json(raw: bytes, content_type: str, expected: object) -> None:
    """JSON stays the text that it is, text is text, the rest is base64."""
    if isinstance(expected, bytes):
        expected = {"body": jsons.Raw(expected)}

    assert readable(raw, content_type) == expected


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        pytest.param(b'{"a": [1, 2', "application/json", {"body": '{"a": [1, 2'}, id="json"),
        pytest.param("grü".encode()[:-1], "text/plain", {"body": "gr"}, id="within a character"),
        pytest.param(b"\xff\xfe", "text/plain", {"bodyBase64": "//4="}, id="binary"),
        pytest.param(
            "grü".encode("utf-16le")[:-1],
            "text/plain; charset=utf-16le",
            {"body": "gr"},
            id="within a character of UTF-16",
        ),
    ],
)
def test_what_was_cut_is_text_or_base64(raw: bytes, content_type: str, expected: object) -> None:
    """Half a JSON text is no JSON; half a character is left out."""
    assert readable(raw, content_type, is_whole=False) == expected


CONTENT_TYPES = st.sampled_from(
    [
        *("", "text/plain", "application/json", "text/plain; charset=iso-8859-1"),
        *("application/json; charset=utf-16", "text/html; charset=shift_jis", "a/b; charset=utf-7"),
        *("text/plain; charset=utf-16", "application/problem+json; charset=x"),
    ]
)


@given(
    st.binary(max_size=60)
    | st.text(max_size=40).map(str.encode)
    | st.text(max_size=20).map(lambda text: json.dumps(text).encode()),
    CONTENT_TYPES,
)
def test_exact_bytes_come_back(raw: bytes, content_type: str) -> None:
    """Whatever a target's body is, what is kept of it makes the same bytes again."""
    written = jsons.dumps(readable(raw, content_type, is_exact=True))

    kept = jsons.loads(written)

    assert isinstance(kept, dict)
    if "bodyBase64" in kept:
        assert base64.b64decode(kept["bodyBase64"]) == raw
    elif raw:
        text = jsons.Object.from_json(written, "data").texts["body"]
        assert from_readable(kept["body"], text, content_type, is_whole=True) == raw
    assert len(written) <= 2 + len('"bodyBase64":""') + (len(raw) + 2) // 3 * 4
