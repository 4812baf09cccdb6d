"""`relay.jsons`: one text, one value, whoever reads it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.jsons import (
    MAX_DEPTH,
    JSONError,
    Number,
    Object,
    Raw,
    canonical,
    decode_base64,
    dumps,
    loads,
)
from relay.problems import InvalidRequest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_value_is_read_back(value: object) -> None:
    """Whatever a JSON writer writes is read as the value it was."""
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"", "is not JSON: Expecting value at line 1 column 1", id="empty"),
        pytest.param(b"{} {}", "is not JSON: Extra data at line 1 column 4", id="two values"),
        pytest.param(b"\xff", "is not UTF-8 (byte 0)", id="no UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), "is not UTF-8 (byte 0)", id="UTF-16"),
        pytest.param(
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
            "is not JSON: Expecting value at line 1 column 1",
            id="two BOMs",
        ),
        pytest.param(b'{"a":1,"a":2}', "has a name twice in one object", id="name twice"),
        pytest.param(
            rb'{"a":1,"\u0061":2}', "has a name twice in one object", id="name twice, escaped"
        ),
        pytest.param(b"NaN", "is not JSON: NaN is not a JSON number", id="NaN"),
        pytest.param(b"-Infinity", "is not JSON: -Infinity is not a JSON number", id="-Infinity"),
        pytest.param(b"1e400", "holds a number that is out of range", id="float too large"),
        pytest.param(b"1" * 400, "holds a number that is out of range", id="integer too large"),
        pytest.param(b"9" * 5000, "holds a number that is out of range", id="integer too long"),
        pytest.param(
            b'"\x01"', "is not JSON: Invalid control character at at line 1 column 2", id="control"
        ),
    ],
)
def test_what_readers_disagree_about_is_refused(raw: bytes, message: str) -> None:
    """A text that some reader refuses, or reads differently, is refused."""
    with pytest.raises(JSONError) as caught:
        loads(raw)

    assert str(caught.value) == message


def test_the_largest_double_is_read() -> None:
    """The range is that of a double, for integers too."""
    assert loads(b"[1.7976931348623157e308, " + b"1" * 309 + b"]") == [
        1.7976931348623157e308,
        int("1" * 309),
    ]


@pytest.mark.parametrize("opening", ["[", '{"a":'], ids=["arrays", "objects"])
def test_depth_is_limited(opening: str) -> None:
    """Nesting is read to the limit, the same on every Python, and refused beyond it."""
    closing = {"[": "]", '{"a":': "}"}[opening]

    def nested(depth: int) -> bytes:
        return (opening * depth + "1" + closing * depth).encode()

    loads(nested(MAX_DEPTH))
    with pytest.raises(JSONError) as caught:
        loads(nested(MAX_DEPTH + 1))

    assert str(caught.value) == "is nested deeper than 100 levels"


def test_brackets_beside_and_in_strings_are_not_depth() -> None:
    """Only nesting counts, however many brackets a text has."""
    value = [["["] * 200, '\\"[' * 200, [[]] * 200]

    assert loads(json.dumps(value).encode()) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """No bytes at all bring about another error than `JSONError`."""
    with contextlib.suppress(JSONError):
        loads(raw)


@given(st.binary())
def test_base64_is_read_back(raw: bytes) -> None:
    """What base64 writes is read as it was."""
    assert decode_base64(base64.b64encode(raw).decode()) == raw


@pytest.mark.parametrize(
    "text",
    ["YQ=", "YQ", "YQ==\n", " YQ==", "YQ==YQ==", "=", "YWJj=", "Y-_=", "YQ\u0661=", None, 1000],
)
def test_no_other_base64_is_read(text: object) -> None:
    """What some versions of Python take for base64 and others do not is refused by all."""
    with pytest.raises(JSONError) as caught:
        decode_base64(text)

    assert str(caught.value) == "must be base64 (RFC 4648 section 4)"


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    """UTF-8 stays UTF-8, nothing stands between the tokens, and any text can be written."""
    written = dumps(value)

    assert loads(written) == value
    assert dumps({"a": [Raw(written)], "b": Raw(b" 1.10 ")}) == b'{"a":[%b],"b": 1.10 }' % written


def test_only_what_must_be_is_escaped() -> None:
    """Quotes, backslashes and control characters; and half of a surrogate pair."""
    assert dumps('é€😀/\x7f"\\\n\x01\ud800') == '"é€😀/\x7f\\"\\\\\\n\\u0001\\ud800"'.encode()


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text(" \t\r\n", max_size=2))
def test_members_are_cut_out_with_their_blanks(value: dict[str, object], blanks: str) -> None:
    """The text of a member is what stands between its colon and the next comma or brace."""
    texts = {name: f"{blanks}{json.dumps(item)}{blanks}" for name, item in value.items()}
    fields = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items())

    assert Object.from_json(f"{{{fields}}}".encode(), "it").texts == texts


def test_long_texts_are_cut_out() -> None:
    """A hundred thousand values of any kind are one member's text."""
    for piece in (b"[]", b"1e15", b'{"a":1}', b'"\\\\"'):
        raw = b'{"body":[' + b",".join([piece] * 100_000) + b"]}"

        assert loads(raw) is not None
        assert Object.from_json(raw, "it").texts["body"].encode() == raw[8:-1]


def test_numbers_are_the_text_that_they_are() -> None:
    """In an object of headers, say."""
    members = Object.from_json(b' {"a": 1.10, "b": [-1e-400], "c": "1", "d": true} ', "it").members

    assert members == {"a": Number("1.10"), "b": [Number("-1e-400")], "c": "1", "d": True}


def _plain(value: object) -> object:
    """Read the numbers, as `loads` does."""
    if isinstance(value, Number):
        return loads(value.text.encode())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


# Near JSON: most are malformed somewhere.
NEARLY = st.lists(
    st.sampled_from(
        ['{"a":', '"b"', ":", ",", "{", "}", "[", "]", "1.50", "1e400", "NaN", "null", " \n", '"']
    )
    | st.text(max_size=2),
    max_size=12,
).map("".join)


@given(VALUES.map(json.dumps) | NEARLY)
def test_an_object_is_read_as_any_value_is(text: str) -> None:
    """What one reader refuses the other does, with the same words; what they take is the same."""
    raw = text.encode("utf-8", "surrogatepass")

    value, refusal = _read(loads, raw)
    read, words = _read(lambda raw: Object.from_json(raw, "it"), raw)

    if isinstance(value, dict):
        assert isinstance(read, Object)
        assert _plain(dict(read.members)) == value
        assert Object.within(raw) == read
    else:
        assert words == refusal or (refusal is None and NOT_AN_OBJECT.fullmatch(str(words)))
        assert Object.within(raw) == Object(raw, {}, {})


NOT_AN_OBJECT = re.compile(r"must be an object, not (null|a boolean|a number|a string|an array)")


def _read(reader: Callable[[bytes], object], raw: bytes) -> tuple[object, str | None]:
    try:
        return reader(raw), None
    except (JSONError, InvalidRequest) as exc:
        return None, str(exc).removeprefix("it ")


@given(VALUES, VALUES)
def test_only_the_same_values_are_written_alike(one: object, other: object) -> None:
    """However they are laid out; a number is not its text, nor one that is written otherwise."""
    as_written = Object.from_json(json.dumps({"a": one, "b": 1}).encode(), "it").members
    spread = Object.from_json(json.dumps({"b": 1, "a": one}, indent=1).encode(), "it").members

    assert canonical(as_written) == canonical(spread)
    assert (canonical(one) == canonical(other)) is (json.dumps(one) == json.dumps(other))
    numbers: list[object] = [Number("1.10"), Number("1.1"), "1.10", []]
    assert len({canonical(number) for number in numbers}) == 4
