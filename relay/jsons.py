"""Read JSON as RFC 8259 has it and nothing more, so that every reader sees the same value.

Python's own reader also takes `NaN`, repeated names, UTF-16 and numbers beyond a double's range.
A value that is passed on is not written anew: an `Object` has its text, and `Raw` writes that.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from relay.problems import InvalidRequest

BOM = b"\xef\xbb\xbf"

# Far deeper than any real body; the same on every Python, whose own limits differ by version and
# by how deep the call stack already is: what Send accepts, Receive must be able to read.
MAX_DEPTH = 100

# RFC 4648 section 4. Python's own reader takes less or more of it from version to version.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)
# What stands before the members of an object, within one and after one, with the blanks around it.
_OPENING = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:([ \t\n\r]*)")
_AFTER = re.compile(r"([ \t\n\r]*)([,}])[ \t\n\r]*")
_EMPTY = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*\}[ \t\n\r]*")


class JSONError(ValueError):
    """Say why a text is not JSON; the message carries none of the text."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A value that is its own text."""

    json: bytes


@dataclass(slots=True)
class Number:
    """A number as it is written: `1.10` is not `1.1`."""

    text: str


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object, read once.

    Args:
        raw: all of it.
        members: the values by their names, each number a `Number`.
        texts: of the values, with the blanks around them.
    """

    raw: bytes
    members: Mapping[str, object]
    texts: Mapping[str, str]

    @classmethod
    def from_json(cls, raw: bytes, field: str) -> Object:
        """Read one JSON object.

        Args:
            field: what it is called, for the error.

        Raises:
            InvalidRequest: `loads` would not read it, or it is another value.
        """
        try:
            found = list(each_member(_decoded(raw, MAX_DEPTH), _exact))
            members = _object([(name, value) for name, value, _ in found])
        except JSONError as exc:
            raise InvalidRequest(field, _fault_of(raw)) from exc
        return cls(raw, members, {name: text for name, _, text in found})

    @classmethod
    def within(cls, raw: bytes) -> Object:
        """Read one JSON object; what is none has no members."""
        try:
            return cls.from_json(raw, "data")
        except InvalidRequest:
            return cls(raw, {}, {})


def loads(raw: bytes, *, max_depth: int = MAX_DEPTH) -> object:
    """Read one JSON value.

    Args:
        raw: UTF-8; a byte order mark is passed over (RFC 8259 section 8.1).

    Raises:
        JSONError: the bytes are not one JSON value, a name stands twice in an object, a number is
            out of range, or the value is nested deeper than `max_depth`.
    """
    try:
        value: object = _plain.decode(_decoded(raw, max_depth))
    except json.JSONDecodeError as exc:
        raise JSONError(f"is not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}") from exc
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


def canonical(value: object) -> bytes:
    """Write the same for values that are the same, each number with the text that it has."""
    return _sorter.encode(value).encode("ascii")


def decode_base64(text: object) -> bytes:
    """Read the bytes that a JSON string holds.

    Raises:
        JSONError: the value is not a string, or not base64.
    """
    if not isinstance(text, str) or not _BASE64.fullmatch(text):
        raise JSONError("must be base64 (RFC 4648 section 4)")
    return base64.b64decode(text)


def _fault_of(raw: bytes) -> str:
    """Say why a text is not a JSON object, as the reader of any value knows best."""
    try:
        return f"must be an object, not {json_type(loads(raw))}"
    except JSONError as exc:
        return str(exc)


def _decoded(raw: bytes, max_depth: int) -> str:
    try:
        text = raw.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise JSONError(f"is not UTF-8 (byte {exc.start})") from exc
    if text.count("[") + text.count("{") > max_depth:
        depth = 0
        for token in _STRING_OR_BRACKET.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
            if depth > max_depth:
                raise JSONError(f"is nested deeper than {max_depth} levels")
    return text


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


def _number(text: str) -> Number:
    _float(text)
    return Number(text)


def _constant(name: str) -> float:
    raise JSONError(f"is not JSON: {name} is not a JSON number")


def _as_written(value: object) -> str:
    if isinstance(value, Number):
        return f"\0{value.text}"
    raise TypeError(f"{type(value)} is no value of JSON")


_plain = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)
_exact = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_number, parse_constant=_constant
)
# Numbers are passed over, not read: reading a very long integer is slow.
_skipper = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_constant)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_sorter = json.JSONEncoder(sort_keys=True, default=_as_written)


def each_member(
    text: str, decoder: json.JSONDecoder = _skipper
) -> Iterator[tuple[str, object, str]]:
    """Cut an object into its members, in linear time.

    Yields:
        name, value, and the text of the value with the blanks around it; a name as often as it
        comes.

    Raises:
        JSONError: the text is not one JSON object. The members before the fault have been yielded.
    """
    if _EMPTY.fullmatch(text):
        return
    mark, more = _OPENING.match(text), True
    try:
        while mark and more and text.startswith('"', mark.end()):
            name, at = decoder.raw_decode(text, mark.end())
            colon = _COLON.match(text, at)
            if colon is None:
                break
            value, at = decoder.raw_decode(text, colon.end())
            mark = _AFTER.match(text, at)
            if mark is None:
                break
            yield name, value, text[colon.start(1) : mark.end(1)]
            more = mark[2] == ","
    except json.JSONDecodeError as exc:
        raise JSONError("must be one JSON object") from exc
    except RecursionError as exc:
        raise JSONError("is nested too deeply") from exc
    if more or mark is None or mark.end() != len(text):
        raise JSONError("must be one JSON object")


def json_type(value: object) -> str:
    """Name a JSON value's type with its article, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float | Number):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"
