"""Requests as they arrive: a thread gets one once gunicorn has nothing left to wait for."""

from __future__ import annotations

import socket
import sys
from http import HTTPStatus

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.arrivals import MAX_HEAD_BYTES, Arrival
from relay.callers import CallerSocket, Crowd
from relay.inbox import Connection

CONFIG = Config()
POST = b"POST /sync HTTP/1.1\r\nHost: a\r\n"
LENGTH = POST + b"Content-Length: 5\r\n\r\nabcde"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-A: 1\r\nX-B: 2\r\n\r\n"
BARE = b"GET / HTTP/1.1\r\n\r\n"
SPACED = CHUNKED.replace(b";x", b" ;x")
UPGRADE = b"POST /sync HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c"
VALID = [
    *(BARE, b"\r\n" + BARE, LENGTH, CHUNKED, TRAILERS, SPACED, POST + b"\r\n"),
    # Java asks so for HTTP/2, which it need not get.
    *(raw.replace(b"POST /sync HTTP/1.1", UPGRADE) for raw in (LENGTH, TRAILERS)),
    LENGTH.replace(b"POST /sync HTTP/1.1", UPGRADE.replace(b": U", b": close, U")),
    TRAILERS[:-2] + b"X-C: " + b"a" * 3000 + b"\r\n\r\n",
    *(raw.replace(b"POST /sync", b"CONNECT a:80") for raw in (LENGTH, BARE)),
]
# What the framing of a message is made of.
WORDS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b"0", b"5", b"f", b"\xb2"),
    *(b"Content-Length: 5\r\n", b"content-length:3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"chunked", b"HTTP/1.0"),
    *(b"Connection: Upgrade\r\nUpgrade: a\r\n", b"Connection: close\r\n", b"CONNECT", b"FOO"),
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Make a request, often a broken one."""
    raw = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 12)))
        raw = raw[:start] + draw(st.sampled_from([b"", raw[start:end] * 2, *WORDS])) + raw[end:]
    return raw


def feed(raw: bytes, sizes: list[int], max_body_bytes: int = 100) -> Arrival:
    """Let a request arrive in pieces of these sizes, again and again."""
    arrival = Arrival(max_body_bytes)
    position = turn = 0
    while position < len(raw) and not arrival.is_complete and arrival.refused_as is None:
        size = sizes[turn % len(sizes)]
        arrival.feed(raw[position : position + size])
        position += size
        turn += 1
    return arrival


class Waited(Exception):
    """gunicorn would have waited for the caller."""


def read(raw: bytes) -> bytes | None:
    """Read a request as gunicorn does; None when it refuses it.

    Raises:
        Waited: it is not enough.
    """

    def arriving() -> object:
        yield raw
        raise Waited

    try:
        body: bytes = next(RequestParser(CONFIG, arriving(), ("127.0.0.1", 1))).body.read()
    except (ParseException, NoMoreData, StopIteration):
        return None
    return body


@settings(max_examples=3000, deadline=None)
@given(requests(), st.lists(st.integers(1, 40), min_size=1, max_size=4))
@example(b"\n", [1])
@example(POST.replace(b"\r", b"") + b"\n", [1])
@example(LENGTH.replace(b"5", b"9" * 400), [100])
@example(CHUNKED.replace(b"3\r\n", b"9" * 400 + b"\r\n"), [100])
def test_gunicorn_never_waits_for_what_is_complete(raw: bytes, sizes: list[int]) -> None:
    """Whatever arrives, and however it is cut: who sends half a request gets no thread."""
    arrival = feed(raw, sizes)

    if arrival.is_complete:
        read(bytes(arrival.raw))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("raw", VALID)
def test_what_is_whole_is_complete(raw: bytes, size: int) -> None:
    """A request is handed on with its last byte, and as it came."""
    arrival = feed(raw, [size])

    assert arrival.is_complete
    assert arrival.raw == raw
    assert not feed(raw[:-1], [size]).is_complete
    assert read(bytes(arrival.raw)) in (b"", b"abcde")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "raw",
    [
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET sync HTTP/1.1\r\n\r\n",
        BARE.replace(b"\r", b""),
        LENGTH.replace(b"5", b"5, 5"),
        LENGTH.replace(b"5", b"9" * 400),
        LENGTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
        LENGTH.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        CHUNKED.replace(b"chunked", b"chunked, gzip"),
        CHUNKED.replace(b"3\r", b"3x\r"),
        CHUNKED.replace(b"abc", b"abcd"),
    ],
)
def test_what_is_malformed_is_refused(raw: bytes, size: int) -> None:
    """What llhttp does not take goes no further, however it is cut and whatever gunicorn says."""
    arrival = feed(raw, [size])

    assert (arrival.refused_as, arrival.is_complete) == (HTTPStatus.BAD_REQUEST, False)
    assert arrival.reason.startswith("the request is malformed: ")


@pytest.mark.parametrize(
    "behind", [POST + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n", b"\0", b"x" * 9000]
)
@pytest.mark.parametrize("raw", VALID)
def test_what_comes_behind_is_left_alone(raw: bytes, behind: bytes) -> None:
    """It is kept for the next request, and says nothing about this one."""
    arrival = feed(raw + behind, [100_000])

    assert (arrival.is_complete, arrival.is_cut, arrival.refused_as) == (True, False, None)
    assert not arrival.wants_go_ahead
    assert arrival.raw == raw + behind


def test_a_head_that_gunicorn_misses_the_end_of_is_malformed() -> None:
    """It would close the connection without an answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(CONFIG, CallerSocket(ours, Crowd(1, 1)), ("127.0.0.1", 1), ())
        connection.inbox.arrival.feed(POST)

        with pytest.raises(ParseException):
            next(connection.parser)
        connection.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"a" * MAX_HEAD_BYTES, HTTPStatus.REQUEST_URI_TOO_LONG),
        (b"\r\nGET /" + b"a" * MAX_HEAD_BYTES, HTTPStatus.REQUEST_URI_TOO_LONG),
        (POST + b"X-A: " + b"a" * MAX_HEAD_BYTES, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (
            CHUNKED[:-5] + b"0;" + b"a" * 2000,
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"a" * 2000,
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (TRAILERS[:-2] + b"X-A: " + b"a" * 5000, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
    ids=["line", "empty-line", "headers", "chunk", "first-chunk", "trailers"],
)
def test_what_has_no_end_is_refused(raw: bytes, status: HTTPStatus) -> None:
    """Lines, headers, chunk extensions and trailers have limits, whether they end or not."""
    assert feed(raw, [100]).refused_as == status
    assert feed(raw + b"\r\n\r\n", [100_000]).refused_as == status


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1388\r\n"],
    ids=["length", "chunked"],
)
def test_a_body_that_is_too_large_is_dropped(head: bytes) -> None:
    """It is taken, since many clients read only when they have written, and not kept."""
    arrival = Arrival(100)
    arrival.feed(POST + head)
    kept = []
    for _ in range(5000):
        arrival.feed(b"x")
        kept.append(len(arrival.raw))
        if arrival.is_complete:
            break

    assert arrival.is_complete
    assert arrival.is_cut
    assert arrival.size_bytes <= 8 * 100 + 1
    assert max(kept) <= len(POST + head) + 101


def test_who_asks_first_need_not_send_what_is_too_large() -> None:
    """`Expect: 100-continue` gets its answer before the body."""
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"

    assert feed(head % 5000, [1000]).is_complete
    small = feed(head % 5, [1000])
    assert (small.is_complete, small.wants_go_ahead) == (False, True)


def test_small_pieces_are_kept_together() -> None:
    """A body that comes byte by byte takes no more memory than another."""
    arrival = feed(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000, [1], 100_000)

    assert arrival.is_complete
    assert sys.getsizeof(arrival.raw) < 1.2 * len(arrival.raw)
