"""A target's answer as JSON, and back."""

from __future__ import annotations

import pytest

from relay.results import as_response, readable


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        pytest.param(b"", "application/json", {}, id="nothing"),
        pytest.param(b'{"a":[1]}', "application/json", {"body": {"a": [1]}}, id="json"),
        pytest.param(b"null", "application/problem+json", {"body": None}, id="json-suffix"),
        pytest.param("grün".encode(), "text/plain", {"body": "grün"}, id="text"),
        pytest.param(b"{1", "application/json", {"bodyBase64": "ezE="}, id="json-that-is-none"),
        pytest.param(b"\xff\x00", "text/plain", {"bodyBase64": "/wA="}, id="binary"),
    ],
)
def test_bytes_become_json(raw: bytes, content_type: str, expected: object) -> None:
    """JSON stays JSON, text is text, the rest is base64."""
    assert readable(raw, content_type) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b'{"a": [1, 2', {"body": '{"a": [1, 2'}, id="json"),
        pytest.param("grü".encode()[:-1], {"body": "gr"}, id="cut-through-a-character"),
        pytest.param(b"\xff\xfe", {"bodyBase64": "//4="}, id="binary"),
    ],
)
def test_what_was_cut_is_text_or_base64(raw: bytes, expected: object) -> None:
    """Half a JSON text is no JSON; half a character is left out."""
    assert readable(raw, "application/json", truncated=True) == expected


def test_a_lone_surrogate_has_an_answer() -> None:
    """JSON can hold what UTF-8 cannot: it is replaced in a text, and an escape in JSON."""
    result = {"status": 200, "headers": {}, "body": "a\ud800"}
    json_type = {"Content-Type": ["application/json"]}

    assert b"".join(as_response(result).body) == b"a?"
    assert b"".join(as_response({**result, "headers": json_type}).body) == b'"a\\ud800"'


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        pytest.param("application/json", b'{"a":[1,"\\u00fc"]}', id="json"),
        pytest.param("application/json", b'"text"', id="json-string"),
        pytest.param("application/json", b"{1", id="json-that-is-none"),
        pytest.param("text/plain", "grün".encode(), id="text"),
        pytest.param("image/png", b"\x89PNG\xff", id="binary"),
        pytest.param("text/plain", b"", id="nothing"),
    ],
)
def test_a_result_becomes_the_answer_again(content_type: str, raw: bytes) -> None:
    """The caller gets status, headers and body, with a length that fits."""
    headers = {"Content-Type": [content_type], "Set-Cookie": ["a=1", "b=2"]}
    headers["Content-Length"] = ["999"]
    result = {"status": 418, "headers": headers, **readable(raw, content_type)}

    response = as_response(result)

    assert response.status == 418
    assert b"".join(response.body) == raw
    assert response.headers == (
        ("Content-Type", content_type),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Length", str(len(raw))),
    )
