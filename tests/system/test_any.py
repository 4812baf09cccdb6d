"""What holds for any answer and any JSON, with the real functions over sockets.

Some hundred examples of each; in the long form (CONTRIBUTING.md), twenty thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.relay.test_bodies import CONTENT_TYPES
from tests.support.calls import Answer, call
from tests.support.peers import answer_of
from tests.support.relayed import MAX_EVENT_BYTES, TYPE, Relayed, relayed

MAX_RESULT_BYTES = 262_144
DESCRIBING = ("ETag", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5")

on_the_wire = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)
STRINGS = st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)) | st.text(
    st.characters(), max_size=8
).map(json.dumps)
BLANKS = st.text(" \t\r\n", max_size=2)


def _array(items: list[tuple[str, str]]) -> str:
    return "[" + ",".join(blank + item + blank for blank, item in items) + "]"


def _object(items: dict[str, tuple[str, str]]) -> str:
    fields = (f"{blank}{json.dumps(name)}{blank}:{item}" for name, (blank, item) in items.items())
    return "{" + ",".join(fields) + "}"


# JSON as people write it: numbers in all their forms, escapes, blanks.
TEXTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "false", "null", "[ ]", "{\n}", '"\\ud800\\/"']),
    lambda inner: (
        st.lists(st.tuples(BLANKS, inner), max_size=4).map(_array)
        | st.dictionaries(st.text(max_size=4), st.tuples(BLANKS, inner), max_size=4).map(_object)
    ),
    max_leaves=12,
).filter(lambda text: "\ud800" not in text)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


NAMES = st.sampled_from(["X-A", "x-a", "Set-Cookie", "Location", "Content-Type", *DESCRIBING])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"))
HEADERS = st.lists(
    st.tuples(st.just("Content-Type"), CONTENT_TYPES)
    | st.tuples(NAMES, VALUES)
    | st.tuples(NAMES, VALUES, st.sampled_from([1, 1, 300])).map(
        lambda field: (field[0], field[1][:200] * field[2])
    ),
    max_size=8,
).filter(lambda headers: sum(len(value) for _, value in headers) < 60_000)
# Long ones repeat what they are made of.
BODIES = st.tuples(
    st.binary(max_size=40) | TEXTS.map(str.encode) | st.integers(1, 120).map(nested),
    st.sampled_from([1, 1, 1, 1, 1, 50, 5_000, 30_000]),
).map(lambda parts: parts[0] * parts[1])
STATUSES = st.integers(200, 499).filter(lambda status: status not in (408, 425, 429))


@pytest.fixture(scope="module")
def relay() -> Iterator[Relayed]:
    with relayed() as relay:
        yield relay


@on_the_wire
@given(STATUSES, HEADERS, BODIES)
@example(200, [], b"\0" * MAX_RESULT_BYTES)
@example(200, [("Content-Type", "application/json")], b'"' + b"\x7f" * 262_142 + b'"')
@example(404, [(f"X-{n}", "é" * 600) for n in range(90)], b"x")
@example(200, [("ETag", "1")], b"x" * (MAX_RESULT_BYTES + 1))
def test_any_answer_ends_its_request(
    relay: Relayed, status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    """It is completed or failed, its callback is delivered, and no event is too large.

    Who waits gets it byte for byte, or without what would describe another body; or the 202, when
    something of it is missing.
    """
    relay.target.requests.clear()
    relay.events.clear()
    has_body = status not in (204, 304)
    sent = body if has_body else b""
    raw = answer_of(status, sent, *headers)
    relay.target.on("/any", raw if has_body else raw.replace(b"Content-Length: 0\r\n", b""))
    callback = {"url": f"{relay.target.url}/told"}

    answer = relay.run(relay.envelope("/any", callback=callback), Prefer="wait=20")

    request = next(event for event in relay.events if event.type == TYPE)
    known = relay.status(request.id)
    assert known["status"] == ("completed" if status < 300 else "failed")
    assert len(relay.target.received("/any")) == 1
    (told,) = relay.target.received("/told")
    outcome = json.loads(told.body)
    assert {name: known[name] for name in ("id", "status", "answer")} == outcome
    assert max(event.size_bytes() for event in relay.events) <= MAX_EVENT_BYTES
    if outcome["answer"].get("truncated"):
        assert answer.status == 202
        assert len(sent) > MAX_RESULT_BYTES
    else:
        assert (answer.status, answer.body) == (status, sent)
        assert _passed(answer) == sorted(
            (name.lower(), value.strip(" \t")) for name, value in headers
        )


def _passed(answer: Answer) -> list[tuple[str, str]]:
    own = ("server", "date", "connection", "preference-applied", "content-length")
    named = [(name.lower(), value) for name, value in answer.headers]
    return sorted(field for field in named if field[0] not in own)


@on_the_wire
@given(TEXTS, st.sampled_from(["/sync", "/async"]), NUMBERS)
@example("[" * 97 + "]" * 97, "/async", "1.10")
def test_any_json_reaches_the_target_as_it_was_written(
    relay: Relayed, text: str, path: str, number: str
) -> None:
    """No digit, escape or blank within a body changes on either way, nor a number in a header."""
    relay.target.requests.clear()
    envelope = '{"headers": {"X-N": %s}, "body" :\n%s ,"targetURL": "%s", "targetAPI": "/json"}'

    answer = call("POST", f"{relay.send.url}{path}", envelope % (number, text, relay.target.url))

    assert answer.status in (200, 202), answer.body
    for event in relay.published():
        relay.deliver(event)
    (received,) = relay.target.received("/json")
    assert received.body == text.encode()
    assert received.header("X-N") == number
