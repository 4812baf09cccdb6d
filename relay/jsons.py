"""Read JSON as RFC 8259 has it and nothing more, so that every reader sees the same value.

Python's own reader also takes `NaN`, repeated names, UTF-16 and numbers beyond a double's range.
What is passed on is not written anew: `members` cuts a value's own text out, `Raw` writes it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

BOM = b"\xef\xbb\xbf"

# Far deeper than any real body; the same on every Python, whose own limits differ by version and
# by how deep the call stack already is: what Send accepts, Receive must be able to read.
MAX_DEPTH = 100

# RFC 4648 section 4. Python's own reader takes less or more of it from version to version.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)


class JSONError(ValueError):
    """Say why a text is not JSON; the message carries none of the text."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A value that is its own text."""

    json: bytes


def loads(raw: bytes, *, max_depth: int = MAX_DEPTH) -> object:
    """Read one JSON value.

    Args:
        raw: UTF-8; a byte order mark is passed over (RFC 8259 section 8.1).

    Raises:
        JSONError: the bytes are not one JSON value, a name stands twice in an object, a number is
            out of range, or the value is nested deeper than `max_depth`.
    """
    try:
        text = raw.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise JSONError(f"is not UTF-8 (byte {exc.start})") from exc
    _check_depth(text, max_depth)
    try:
        value: object = _decoder.decode(text)
    except json.JSONDecodeError as exc:
        raise JSONError(f"is not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}") from exc
    return value


def members(raw: bytes) -> dict[str, str]:
    """Cut out the text of each member of an object that `loads` has read, with its blanks."""
    return dict(each_member(raw.removeprefix(BOM).decode("utf-8"), blanks_after=True))


def numbers_as_text(text: str) -> object:
    """Read a value that `loads` has read, its numbers as the text that they are."""
    value: object = _text_decoder.decode(text.strip())
    return value


def dumps(value: object) -> bytes:
    """Write a value in UTF-8, with nothing escaped that need not be; `Raw` stays as it is."""
    if isinstance(value, Raw):
        return value.json
    try:
        # A lone surrogate, which UTF-8 cannot hold, becomes the escape that JSON has for it.
        return _encoder.encode(value).encode("utf-8", "backslashreplace")
    except TypeError:  # there is a Raw in it
        if isinstance(value, dict):
            items = (b"%b:%b" % (dumps(name), dumps(item)) for name, item in value.items())
            return b"{%b}" % b",".join(items)
        if isinstance(value, list):
            return b"[%b]" % b",".join(map(dumps, value))
        raise


def decode_base64(text: object) -> bytes:
    """Read the bytes that a JSON string holds.

    Raises:
        JSONError: the value is not a string, or not base64.
    """
    if not isinstance(text, str) or not _BASE64.fullmatch(text):
        raise JSONError("must be base64 (RFC 4648 section 4)")
    return base64.b64decode(text)


def _check_depth(text: str, max_depth: int) -> None:
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > max_depth:
                raise JSONError(f"is nested deeper than {max_depth} levels")
        elif character in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise JSONError("has a name twice in one object")
    return value


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JSONError("holds a number that is out of range")
    return value


def _int(text: str) -> int:
    _float(text)  # the same range for both; and reading very long integers is slow
    return int(text)


def _constant(name: str) -> float:
    raise JSONError(f"is not JSON: {name} is not a JSON number")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)


_text_decoder = json.JSONDecoder(parse_int=str, parse_float=str)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON, or a type written in it (RFC 6839 section 3.1)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def json_type(value: object) -> str:
    """Name a JSON value's type with its article, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


_SPACE = re.compile(r"[ \t\n\r]*")
# Numbers are passed over, not read: reading a very long integer is slow.
_skipper = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_constant)


def each_member(text: str, *, blanks_after: bool = False) -> Iterator[tuple[str, str]]:
    """Cut an object into its members, in linear time and without reading their values.

    Args:
        blanks_after: the white space after a value is part of its text too.

    Yields:
        name, and the text of the value with the white space before it; a name as often as it comes.

    Raises:
        JSONError: the text is not one JSON object. What is before the fault has been yielded.
    """
    try:
        at = _past(text, 0, "{")
        if text[_past_space(text, at)] == "}":
            at = _past(text, at, "}")
        else:
            comma = ","
            while comma == ",":
                at = _past(text, at, '"') - 1
                name, at = _skipper.raw_decode(text, at)
                start = _past(text, at, ":")
                _, at = _skipper.raw_decode(text, _past_space(text, start))
                end = _past_space(text, at) if blanks_after else at
                yield name, text[start:end]
                at = _past(text, at, ",}")
                comma = text[at - 1]
        if _past_space(text, at) != len(text):
            raise JSONError("is not JSON: it goes on after its end")
    except (json.JSONDecodeError, IndexError) as exc:
        raise JSONError("must be one JSON object") from exc
    except RecursionError as exc:
        raise JSONError("is nested too deeply") from exc


def _past_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # noqa: S101 - it matches the empty string
    return match.end()


def _past(text: str, at: int, characters: str) -> int:
    at = _past_space(text, at)
    if text[at] not in characters:
        raise json.JSONDecodeError("Expecting one of " + characters, text, at)
    return at + 1
