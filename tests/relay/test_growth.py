"""What strangers send is read in time that grows with its length and no faster.

Three things together show it. The lines of Python that a reader runs are counted, at 1 KB and at
1 MB. What C runs for it is not seen that way, so every regular expression is taken apart: none may
have two ways to share a text out. And what is left in C (`find`, `split`, `join`, JSON, base64)
passes over its text once, so that only its calls need counting, which the lines do.
"""

from __future__ import annotations

import ast
import base64
import gzip
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest

from local.broker.event import KNATIVE, to_headers
from relay import jsons
from relay.arrivals import Arrival
from relay.auth import check_token
from relay.envelope import Envelope, parse_id
from relay.events import STRUCTURED, Event
from relay.headers import Preferences, end_to_end, parse_headers, retry_after_s, wire_value
from relay.http import Request, read_body
from relay.outcomes import reason_of, target_callback_event
from relay.problems import RelayError
from relay.progress import Events
from relay.results import Result
from relay.tracing import hops_of, trace_context
from relay.urls import parse_target
from tests.support.processes import REPOSITORY

sre_compile, sre_constants, sre_parse = (
    importlib.import_module(new if sys.version_info >= (3, 11) else old)
    for new, old in (
        ("re._compiler", "sre_compile"),
        ("re._constants", "sre_constants"),
        ("re._parser", "sre_parse"),
    )
)

KILOBYTE, MEGABYTE = 1024, 1024 * 1024
MOST = 1100  # times as much for 1,024 times the text

# In each, the text that is repeated until it is long enough.
TEXTS = ["a", " ", "%41", "a,", '"', "\\", "a=1;", "[", '{"a":', "/..", "é", "0"]


def callback(content_type: str, query: str, body: str) -> Event:
    request = Request(
        method="POST",
        path="/event/callback",
        query=query,
        headers={"content-type": content_type},
        stream=None,  # type: ignore[arg-type]  # it has been read
        content_length=None,
    )
    return target_callback_event(request, body.encode(), Events(event_type="t", source="s"))


def binary(value: str) -> dict[str, str]:
    """Make the headers of an event, the value in several of them; a character is a byte there."""
    value = value.encode().decode("latin-1")
    return {
        "content-type": "application/json",
        **{f"ce-{name}": "1.0" for name in ("specversion", "id", "source", "type")},
        **{f"ce-{name}": value for name in ("subject", "time", "relayhops", "datacontenttype")},
    }


EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def structured(member: str, value: object) -> bytes:
    return json.dumps({**EVENT, member: value}).encode()


def arrive(raw: bytes, size: int) -> Arrival:
    arrival = Arrival(2 * MEGABYTE, 8190, {})
    for start in range(0, len(raw), size):
        arrival.feed(raw[start : start + size])
        if arrival.is_complete or arrival.refusal is not None:
            break
    return arrival


def envelope(fields: dict[str, object]) -> Envelope:
    return Envelope.from_json(json.dumps({"targetURL": "http://a.test", **fields}).encode())


def body(raw: bytes, **headers: str) -> bytes:
    request = Request(
        method="POST",
        path="/",
        query="",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        stream=Slowly(raw),
        content_length=None,
    )
    return read_body(request, MEGABYTE * 8)


POST = b"POST / HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

READERS: dict[str, Callable[[str], object]] = {
    "Prefer": Preferences.from_header,
    "Prefer in quotes": lambda text: Preferences.from_header(f'a={text}""x'),
    "Retry-After": retry_after_s,
    "Retry-After, a date": lambda text: retry_after_s(f"Mon, 1 Jan {text} 00:00:00 GMT"),
    "Connection": lambda text: list(end_to_end([("Connection", text), ("A", text)])),
    "Authorization": lambda text: check_token({"authorization": text}, ("t" * 16,)),
    "traceparent": lambda text: trace_context(text, text),
    "tracestate": lambda text: trace_context(f"00-{'1' * 32}-{'1' * 16}-01", text),
    "Relay-Hops": hops_of,
    "an id": lambda text: parse_id(text, field="id"),
    "a header of the relay's": wire_value,
    "JSON": lambda text: jsons.loads(text.encode()),
    "a JSON string": lambda text: jsons.loads(json.dumps([text]).encode()),
    "JSON within strings": lambda text: jsons.loads(json.dumps(["[" * 101, text]).encode()),
    "base64": jsons.decode_base64,
    "base64 of it": lambda text: jsons.decode_base64(base64.b64encode(text.encode()).decode()),
    "targetURL": lambda text: parse_target(f"http://{text}", "", url_field="u"),
    "targetURL, a path": lambda text: parse_target(f"http://a/{text}", "", url_field="u"),
    "targetAPI": lambda text: parse_target("http://a", text, url_field="u", api_field="a"),
    "headers, a value": lambda text: parse_headers({"A": text}, field="headers"),
    "headers, a name": lambda text: parse_headers({text: "1"}, field="headers"),
    "envelope": lambda text: Envelope.from_json(text.encode()),
    "envelope, a field": lambda text: envelope({text: 1}),
    "envelope, a body": lambda text: envelope({"body": text}),
    "envelope, bodyBase64": lambda text: envelope({"bodyBase64": text}),
    "envelope, a callback": lambda text: envelope({"callback": {text: 1}}),
    "event in headers": lambda text: Event.from_http(binary(text), text.encode()),
    "event in JSON": lambda text: Event.from_http({"content-type": STRUCTURED}, text.encode()),
    "event in JSON, an attribute": lambda text: Event.from_http(
        {"content-type": STRUCTURED}, structured("subject", text)
    ),
    "event in JSON, its data": lambda text: Event.from_http(
        {"content-type": STRUCTURED}, structured("data", [text])
    ),
    "result": lambda text: Result.from_json(text.encode()),
    "dead letter": lambda text: reason_of(
        Event(attributes={"knativeerrorcode": text, "knativeerrordata": text})
    ),
    "callback, its query": lambda text: callback("text/plain", text, ""),
    "callback, JSON": lambda text: callback("application/json", "", text),
    "callback, a form": lambda text: callback("application/x-www-form-urlencoded", "", text),
    "callback, an event": lambda text: callback(STRUCTURED, "", text),
    "body": lambda text: body(text.encode()),
    "body, gzip": lambda text: body(gzip.compress(text.encode()), content_encoding="gzip"),
    "head": lambda text: arrive(POST + text.encode("latin-1", "replace"), 100),
    "body that arrives": lambda text: arrive(
        POST + b"Content-Length: %d\r\n\r\n%s" % (len(text), text.encode()), 100
    ),
    "chunk sizes": lambda text: arrive(CHUNKED + text.encode(), 100),
    "trailers": lambda text: arrive(CHUNKED + b"0\r\n" + text.encode(), 100),
    "local Broker, headers": lambda text: to_headers(Event.from_http(binary(text), b"", KNATIVE)),
    "local Broker, JSON": lambda text: to_headers(
        Event.from_http({"content-type": STRUCTURED}, text.encode("utf-8", "replace"), KNATIVE)
    ),
}


# The others, by the size of what is made.
SHAPES: dict[str, Callable[[int], object]] = {
    "JSON members": lambda size: jsons.loads(json.dumps(names(size)).encode()),
    "envelope, headers": lambda size: envelope({"headers": names(size)}),
    "result, headers": lambda size: Result.from_json(
        json.dumps({"status": 200, "headers": {"A": [*names(size)]}}).encode()
    ),
    "callback, ids": lambda size: callback("text/plain", "&".join(["id=a"] * (size // 5)), ""),
    "event in headers, attributes": lambda size: Event.from_http(
        binary("1") | {f"ce-{name}": "1" for name in names(size)}, b""
    ),
    "event in JSON, attributes": lambda size: Event.from_http(
        {"content-type": STRUCTURED}, json.dumps(EVENT | names(size)).encode()
    ),
    "local Broker, attributes": lambda size: Event.from_http(
        {"content-type": STRUCTURED}, json.dumps(EVENT | names(size)).encode(), KNATIVE
    ),
    "body, gzip members": lambda size: body(
        gzip.compress(b"") * (size // 20), content_encoding="gzip"
    ),
    "head, lines": lambda size: arrive(POST + b"X: 1\r\n" * (size // 6), 100),
    "chunks": lambda size: arrive(CHUNKED + b"1\r\nx\r\n" * (size // 6), 100),
    "answer, headers": lambda size: list(end_to_end([("Connection", "a")] * (size // 14))),
}


class Slowly:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int, /) -> bytes:
        start = self._position
        self._position += min(size, 100)
        return self._data[start : self._position]


def names(size: int) -> dict[str, str]:
    return {f"x{number:06}": "1" for number in range(size // 15)}


def steps(read: Callable[[], object]) -> int:
    """Count the lines of Python that a reader runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(RelayError, jsons.JSONError):
            read()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_steps_in_proportion(name: str) -> None:
    """A megabyte takes at most 1,100 times the lines of Python that a kilobyte does."""
    growth = {}
    for text in TEXTS:
        few, many = (
            steps(partial(READERS[name], text * (size // len(text.encode()))))
            for size in (KILOBYTE, MEGABYTE)
        )
        growth[text] = many / few

    assert max(growth.values()) <= MOST, growth


@pytest.mark.parametrize("name", SHAPES)
def test_a_reader_of_many_takes_steps_in_proportion(name: str) -> None:
    """The same where there are ever more parts, each of them short."""
    few, many = (steps(partial(SHAPES[name], size)) for size in (KILOBYTE, MEGABYTE))

    assert many / few <= MOST


PATTERNS = ("relay", "local")
# What these can share out, they do in one way, or seldom.
JUDGED = (
    # Lists: a comma, or a semicolon, begins each item.
    "local/broker/attributes.py: _CONTENT_TYPE",
    "local/broker/attributes.py: _PARAMETER",  # searches what _CONTENT_TYPE has matched
    # Where one could begin anew, the one before has ended.
    "relay/bodies.py: _PARAMETER",
    "local/display/masking.py: _PARAMETER",
    "local/display/masking.py: _USER",
    # Of an id, which has at most 128 characters.
    "relay/envelope.py: _OWN_ENDING",
    r"local/display/requests.py: (.+)\.(?:completed|failed|dead)(?:\.[0-9]+)?\.callback",
)
REPEATS = (sre_constants.MAX_REPEAT, sre_constants.MIN_REPEAT)
ONE_CHARACTER = (
    *(sre_constants.LITERAL, sre_constants.NOT_LITERAL, sre_constants.ANY, sre_constants.IN),
)
# What looks for a match at each place of a text.
SEARCHING = {"search", "sub", "subn", "split", "findall", "finditer"}


def patterns() -> Iterator[tuple[str, str | bytes, int, bool]]:
    """Find each regular expression in the code: where, its text, its flags, whether it searches."""
    for path in sorted(each for top in PATTERNS for each in (REPOSITORY / top).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "import re\n" not in source:  # and what serves a function cannot be imported alone
            continue
        tree = ast.parse(source)
        calls = [
            (node, node.func.value.id, node.func.attr)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ]
        searched = {owner for _, owner, name in calls if name in SEARCHING}
        where = str(path.relative_to(REPOSITORY))
        module = importlib.import_module(where.removesuffix(".py").replace("/", "."))
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{where}: {name}", value.pattern, value.flags, name in searched
        for node, owner, name in calls:
            if owner == "re" and name != "compile":
                text = _text(node.args[0])
                yield f"{where}: {text!s}", text, 0, name in SEARCHING


def _text(node: ast.expr) -> str | bytes:
    if isinstance(node, ast.JoinedStr):  # what is put in has no quantifier of its own
        return "".join(
            str(each.value) if isinstance(each, ast.Constant) else "0" for each in node.values
        )
    if isinstance(node, ast.Constant):
        return node.value  # type: ignore[return-value]
    return ""  # a name, whose value is among the module's


@pytest.mark.parametrize(
    ("text", "flags", "searches"),
    [pytest.param(*rest, id=where) for where, *rest in patterns() if where not in JUDGED],
)
def test_no_expression_can_share_a_text_out_in_two_ways(
    text: str | bytes, flags: int, searches: bool
) -> None:
    """Nothing that repeats without end holds another, or stands before one that takes the same."""
    assert ambiguities(text, flags, searches=searches) == []


@pytest.mark.parametrize(
    ("text", "searches"),
    [
        (r"\s*([A-Za-z-]+)\s*(?:=\s*\"?([^\";,]*)\"?\s*)?(?:;[^,]*)?", False),
        (r"(a+)+", False),
        (r"(?:a*b?)*", False),
        (r"a*b?a*", False),
        (r"\s+$", True),
        (r"[a-z]+:", True),
    ],
)
def test_a_bad_expression_is_found(text: str, searches: bool) -> None:
    """The first is one that took 92 seconds for a header of 1,600 bytes."""
    assert ambiguities(text, 0, searches=searches) != []


def ambiguities(text: str | bytes, flags: int, *, searches: bool) -> list[str]:
    """Say what in an expression makes its time grow faster than its text."""
    items = _flat(sre_parse.parse(text, flags))
    found = []
    for place, item in enumerate(items):
        if not item.is_endless:
            continue
        if item.holds_endless:
            found.append("one that repeats holds another")
        for later in range(place + 1, len(items)):
            between = items[place + 1 : later]
            is_parted = any(each.parts(item, items[later]) for each in between)
            if items[later].is_endless and item.takes & items[later].takes and not is_parted:
                found.append("two that repeat can share what they take")
        # What begins at a line's beginning alone and stays in it begins once a line.
        is_bound = items[0].is_line_start and ord("\n") not in item.takes
        if searches and place != len(items) - 1 and not is_bound:
            found.append("one that repeats may fail at its end, and begin anew at each place")
    return found


class Item:
    """One part of an expression.

    Args:
        takes: of the first 256 characters, and one that is a space to Unicode.
        optional_in: the optional groups that it is in.
    """

    def __init__(self, op: Any, value: Any, state: Any, optional_in: frozenset[int]) -> None:
        self.optional_in = optional_in
        self.is_endless = self.holds_endless = False
        self.is_line_start = (op, value) == (sre_constants.AT, sre_constants.AT_BEGINNING)
        self.takes: frozenset[int] = frozenset()
        inside: list[Item] = []
        if op in REPEATS:
            inside = _flat(value[2])
            self.is_endless = value[1] == sre_constants.MAXREPEAT
            self.holds_endless = any(each.is_endless for each in inside)
            if value[0] == 0:
                self.optional_in |= {id(value)}
        elif op is sre_constants.BRANCH:
            inside = [each for branch in value[1] for each in _flat(branch)]
            self.is_endless = any(each.is_endless for each in inside)
        elif op in ONE_CHARACTER:
            one = sre_compile.compile(sre_parse.SubPattern(state, [(op, value)]), state.flags)
            self.takes = frozenset(code for code in (*range(256), 0x2028) if one.match(chr(code)))
        self.takes = self.takes.union(*(each.takes for each in inside))

    def parts(self, one: Item, other: Item) -> bool:
        """Tell whether this must stand between two, and where the first has to end."""
        is_there = self.optional_in <= one.optional_in | other.optional_in
        return is_there and bool(self.takes) and not self.takes & one.takes


def _flat(parsed: Any, optional_in: frozenset[int] = frozenset()) -> list[Item]:
    """List the parts of an expression in order, groups opened up."""
    items: list[Item] = []
    for op, value in parsed:
        if op is sre_constants.SUBPATTERN:
            items += _flat(value[-1], optional_in)
        elif op in REPEATS and value[1] == 1:
            items += _flat(value[2], optional_in | {id(value)})
        else:
            items.append(Item(op, value, parsed.state, optional_in))
    return items
