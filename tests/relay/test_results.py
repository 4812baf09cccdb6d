"""A target's answer as JSON, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.headers import Headers
from relay.jsons import Object
from relay.results import Result, parse_result, with_callback
from tests.relay.test_bodies import CONTENT_TYPES

LIMIT = 1_000_000
CUT = "the event would be larger than its limit by"


def data_of(result: Result, limit_bytes: int = LIMIT) -> dict[str, object]:
    data: dict[str, object] = json.loads(result.to_json(limit_bytes))
    return data


def result_of(body: bytes, *headers: tuple[str, str]) -> Result:
    return Result(status=200, headers=headers, body=body)


@pytest.mark.parametrize(
    "text",
    [
        b"1234567890.12345678901234",
        b'\n{"a": 10.00, "b": [1e2, 1e-400], "c": "\\u00fc\\ud800"}\r\n',
        '{"ключ": "значение"}'.encode(),
        b"[" * 92 + b"]" * 92,
    ],
)
def test_json_is_carried_as_it_is(text: bytes) -> None:
    """Not a digit, blank or escape is another when it comes back."""
    result = result_of(text, ("Content-Type", "application/json"))

    written = result.to_json(LIMIT)

    assert b'"body":' + text in written
    assert Result.from_json(written) == result


def test_a_lone_surrogate_has_an_answer() -> None:
    """JSON can hold what UTF-8 cannot: it is replaced in a text, and an escape in JSON."""
    text = b'{"status":200,"headers":{},"body":"a\\ud800"}'
    as_json = text.replace(b"{}", b'{"Content-Type":["application/json"]}')

    assert Result.from_json(text).body == b"a?"
    assert Result.from_json(as_json).body == b'"a\\ud800"'


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        pytest.param("application/json", b'{"a":[1,"\\u00fc"]}', id="json"),
        pytest.param("application/json", b'"text"', id="json-string"),
        pytest.param("application/json", b"{1", id="json-that-is-none"),
        pytest.param("application/json", b"[" * 100 + b"]" * 100, id="too-deep-for-an-event"),
        pytest.param("text/plain", "grün".encode(), id="text"),
        pytest.param("image/png", b"\x89PNG\xff", id="binary"),
        pytest.param("text/plain", b"", id="nothing"),
    ],
)
def test_a_result_becomes_the_answer_again(content_type: str, raw: bytes) -> None:
    """The caller gets status, headers and body, byte for byte, with what describes the body."""
    headers = (
        ("Content-Type", content_type),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("ETag", '"7"'),
    )
    length = ("Content-Length", str(len(raw)))
    result = Result(status=418, headers=(*headers, length), body=raw)

    response = Result.from_json(result.to_json(LIMIT)).to_response()

    assert response.status == 418
    assert b"".join(response.body) == raw
    assert response.headers == (*headers, length)


def test_a_body_that_was_written_anew_is_not_described_as_the_old_one() -> None:
    """What something on the way has changed, though it should not, loses its digests."""
    describing = ("ETag", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5")
    headers = (*((name, "x") for name in describing), ("Content-Length", "9"), ("X-A", "1"))
    result = Result(status=200, headers=headers, body=b'{"a":10}')

    response = result.to_response()

    assert response.headers == (("X-A", "1"), ("Content-Length", "8"))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        pytest.param(["caf\xc3\xa9"], {"headers": {"X-A": ["café"]}}, id="UTF-8"),
        pytest.param(
            ["caf\xe9"], {"headers": {"X-A": ["café"]}, "latin1Headers": ["X-A"]}, id="Latin-1"
        ),
        pytest.param(
            ["\xe9", "\xc3\xa9"],
            {"headers": {"X-A": ["é", "Ã©"]}, "latin1Headers": ["X-A"]},
            id="both",
        ),
        pytest.param(
            ["/\x80\x9f"], {"headers": {"X-A": ["/\x80\x9f"]}, "latin1Headers": ["X-A"]}, id="C1"
        ),
    ],
)
def test_headers_are_text_and_come_back_as_bytes(values: list[str], shown: object) -> None:
    """People read UTF-8, else Latin-1; which of them it was is kept."""
    result = result_of(b"", *(("X-A", value) for value in values))

    written = result.to_json(LIMIT)

    assert {name: value for name, value in json.loads(written).items() if name != "status"} == shown
    assert Result.from_json(written) == result


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"\0" * 200_000, "text/plain", id="NULs"),
        pytest.param(b"\x01\x02" * 90_000, "application/octet-stream", id="control characters"),
        pytest.param(b"[" + b",".join([b"1e15"] * 50_000) + b"]", "application/json", id="numbers"),
        pytest.param("ж".encode() * 131_072, "text/plain", id="Cyrillic"),
        pytest.param(b'"\\' * 131_072, "text/plain", id="quotes"),
        pytest.param(b"\xff" * 262_144, "image/png", id="binary"),
    ],
)
def test_what_is_kept_of_an_answer_fits_whole(body: bytes, content_type: str) -> None:
    """Whatever the bytes are, as many as MAX_RESULT_BYTES fit into an event."""
    written = result_of(body, ("Content-Type", content_type)).to_json(LIMIT)

    assert len(written) <= LIMIT
    assert Result.from_json(written).body == body
    assert Result.from_json(written).reason is None


def test_the_body_is_cut_first() -> None:
    """A result that does not fit says so, and how long the body was; the headers are whole."""
    headers = (("X-A", "a" * 500), ("Content-Type", "text/plain"))

    data = data_of(result_of(b"x" * 900_000, *headers), 10_000)

    assert data["headers"] == {name: [value] for name, value in headers}
    assert data["truncated"] is True
    assert str(data["truncatedReason"]).startswith(CUT)
    assert data["originalBodyBytes"] == 900_000
    assert "originalHeadersBytes" not in data
    assert set(str(data["body"])) == {"x"}
    assert 9_000 < len(str(data["body"])) < 10_000


def test_then_headers_are_left_out() -> None:
    """Ninety headers of twelve kilobytes: the short ones stay, and it is said how long all were."""
    headers = [("Location", "/x"), *((f"X-{n}", "a" * 12_000) for n in range(90))]

    data = data_of(result_of(b"body", *headers, ("Content-Type", "text/plain")))

    assert data["truncated"] is True
    assert "body" not in data
    assert data["originalBodyBytes"] == 4
    assert data["originalHeadersBytes"] == sum(
        len(f"{name}: {value}\r\n") for name, value in (*headers, ("Content-Type", "text/plain"))
    )
    kept = data["headers"]
    assert isinstance(kept, dict)
    assert {"Location", "Content-Type"} < set(kept)
    assert 80 <= len(kept) < 90


CALLBACK = '{"url": "http://a.test/' + "x" * 5_000 + '", "headers": {"X-A": 1.10} }'


def test_the_callback_beside_an_answer_is_never_cut() -> None:
    """The body makes room for it; it stays as its caller wrote it."""
    answer = result_of(b"x" * 5_000).to_json(LIMIT)

    written = with_callback(answer, CALLBACK, 8_000)

    data = json.loads(written)
    assert 7_900 < len(written) <= 8_000
    assert CALLBACK.encode() in written
    assert data["callback"] == json.loads(CALLBACK)
    assert (data["truncated"], data["originalBodyBytes"]) == (True, 5_000)


@pytest.mark.parametrize(
    "published",
    [
        pytest.param(b'{"status":200,"headers":{},"body": 1.50 }', id="as the relay writes it"),
        pytest.param(b'\xef\xbb\xbf {"status":200,"headers":{},"body": 1.50 }\r\n', id="otherwise"),
    ],
)
def test_an_answer_and_its_callback_are_parted(published: bytes) -> None:
    """What was put beside an answer is taken from it again, and nothing else changes."""
    result, answer, nothing = parse_result(Object.from_json(published, "data"))

    again, same, callback = parse_result(
        Object.from_json(with_callback(answer, CALLBACK, LIMIT), "data")
    )

    assert (again, same, nothing) == (result, answer, None)
    assert answer == b'{"status":200,"headers":{},"body": 1.50 }'
    assert callback == Object.from_json(CALLBACK.encode(), "callback").members
    assert with_callback(answer, None, LIMIT) == answer


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=30)
ANSWERS = st.builds(
    Result,
    status=st.integers(200, 599),
    headers=st.lists(
        st.tuples(st.sampled_from(["Content-Type", "X-A", "Set-Cookie", "x-a"]), VALUES)
        | st.tuples(st.just("Content-Type"), CONTENT_TYPES),
        max_size=6,
    ).map(tuple),
    body=st.binary(max_size=300)
    | st.text(max_size=100).map(str.encode)
    | st.recursive(st.floats() | st.text(max_size=5), st.lists, max_leaves=20).map(
        lambda value: json.dumps(value).encode()
    ),
)


def _in_order(headers: Headers) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for name, value in headers:
        listed.setdefault(name, []).append(value)
    return listed


@settings(deadline=None)
@given(ANSWERS)
@example(Result(status=200, headers=(("Content-Type", "application/json"),), body=b"\xef\xbb\xbf1"))
def test_any_answer_comes_back(result: Result) -> None:
    """Status, body and headers are the same bytes; only those of one name are put together."""
    back = Result.from_json(result.to_json(LIMIT))

    assert (back.status, back.body, back.reason) == (result.status, result.body, None)
    assert _in_order(back.headers) == _in_order(result.headers)


@settings(deadline=None)
@given(ANSWERS, st.integers(400, 2_000))
def test_any_answer_fits(result: Result, limit_bytes: int) -> None:
    """However small the room, what is written keeps to it and can be read, and cut once more."""
    written = result.to_json(limit_bytes)

    assert len(written) <= limit_bytes
    back = Result.from_json(written)
    assert len(back.to_json(400)) <= 400
    if back.reason is not None:
        assert json.loads(written).keys() >= {
            "truncated",
            "truncatedReason",
            "originalBodyBytes",
        }
