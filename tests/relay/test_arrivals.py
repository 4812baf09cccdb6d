"""Requests as they arrive, held against gunicorn's own parser, which is the oracle."""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import (
    InvalidChunkExtension,
    InvalidChunkSize,
)
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.arrivals import MAX_HEAD_BYTES, Arrival

CONFIG = Config()
CONFIG.set("limit_request_line", 0)
CONFIG.set("forwarded_allow_ips", "")
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
    *(BARE.replace(b"/", target, 1) for target in (b"//x/%2f;a?b=%20#c", b"http://a:1/b%20c?d")),
    BARE.replace(b"GET /", b"OPTIONS *"),
    BARE.replace(b"GET /", b"OPTIONS http://a"),
    BARE.replace(b"1.1", b"1.0\r\nConnection: keep-alive"),
    LENGTH.replace(b"Ho", b"X-A: 1\r\nX_A: 2\r\nx-a:\xff \r\nContent-Type: a\r\nA:\r\nHo"),
    LENGTH.replace(b"\r\nC", b"\r\nExpect: 100-Continue\r\nConnection: close\r\nC"),
]
# What the framing of a message is made of.
WORDS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b"0", b"5", b"f", b"\xb2"),
    *(b"Content-Length: 5\r\n", b"content-length:3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"chunked", b"HTTP/1.0"),
    *(b"Connection: Upgrade\r\nUpgrade: a\r\n", b"Connection: close\r\n", b"CONNECT", b"FOO"),
    *(b"HTTP/0.9", b"HTTP/2.0", b"RTSP/1.0", b"DESCRIBE", b"PRI", b"*", b"//", b"://", b"%", b"#"),
    *(b"_", b"\0", b"\x7f", b"\xff", b"Host: b\r\n", b"Content-Type: b\r\n", b"Expect: \r\n"),
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
    return arrive(raw, sizes, max_body_bytes)[0]


def arrive(raw: bytes, sizes: list[int], max_body_bytes: int = 100) -> tuple[Arrival, bytes]:
    """Return also what is behind the request."""
    arrival = Arrival(max_body_bytes, 8190, {})
    behind = b""
    position = turn = 0
    while position < len(raw) and not arrival.is_complete and arrival.refusal is None:
        size = sizes[turn % len(sizes)]
        behind = arrival.feed(raw[position : position + size])
        position += size
        turn += 1
    return arrival, behind + raw[position:]


def meaning(environ: dict[str, Any]) -> dict[str, str]:
    """Return the part of a WSGI environment that the request says, and not the connection."""
    others = ("SERVER_NAME", "SERVER_PORT", "SERVER_SOFTWARE", "SCRIPT_NAME")
    said = {key: value for key, value in environ.items() if key[0].isupper()}
    said["PATH_INFO"] = said["PATH_INFO"] or "/"  # so that nothing redirects there
    return {k: v for k, v in said.items() if k not in others and not k.startswith("REMOTE_")}


def body_of(arrival: Arrival) -> bytes:
    stream = arrival.environ["wsgi.input"]
    stream.seek(0)
    body: bytes = stream.read()
    return body


class Waited(Exception):
    """gunicorn would have waited for the caller."""


class Deaf:
    """A socket to which gunicorn can say `100 Continue`."""

    def send(self, _: bytes) -> None: ...


def read(raw: bytes) -> tuple[dict[str, str], bytes, bytes, bool]:
    """Read a request as gunicorn does.

    Returns:
        what it says, its body, what is behind it, and whether the connection stays.

    Raises:
        Waited: it is not enough.
        ParseException: it is malformed.
    """

    def arriving() -> object:
        yield raw
        raise Waited

    address = ("127.0.0.1", 1)
    parser = RequestParser(CONFIG, arriving(), address)
    request = next(parser)
    _, environ = create(request, Deaf(), address, address, CONFIG)
    body = request.body.read()
    return meaning(environ), body, parser.unreader.take_buffered(), not request.should_close()


@settings(max_examples=3000, deadline=None)
@given(requests(), st.lists(st.integers(1, 40), min_size=1, max_size=4))
@example(b"\n", [1])
@example(POST.replace(b"\r", b"") + b"\n", [1])
@example(b"\r\n" * 2 + BARE, [1])
@example(BARE.replace(b"HTTP", b"RTSP"), [1])
@example(BARE.replace(b"HTTP/1.1", b""), [100])
@example(BARE.replace(b" /", b"  /"), [100])
@example(LENGTH.replace(b"5", b"9" * 400), [100])
@example(CHUNKED.replace(b"3\r\n", b"9" * 400 + b"\r\n"), [100])
def test_nothing_is_taken_in_another_sense_than_gunicorns(raw: bytes, sizes: list[int]) -> None:
    """What it refuses is refused, but for chunks that llhttp takes with bad extensions."""
    arrival, behind = arrive(raw, sizes)
    if arrival.refusal is not None or not arrival.is_complete:
        return
    try:
        said, body, rest, stays = read(raw)
    except (InvalidChunkExtension, InvalidChunkSize):
        assert b";" in raw or b" \r\n" in raw or b"\t\r\n" in raw
        return

    assert meaning(arrival.environ) == said
    assert body_of(arrival) == body
    assert stays or not arrival.keeps_alive
    if "HTTP_TRANSFER_ENCODING" not in said:
        assert behind == rest
    elif arrival.keeps_alive:
        assert behind.lstrip(b"\r\n") == rest.lstrip(b"\r\n")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("raw", VALID)
def test_what_is_whole_is_complete(raw: bytes, size: int) -> None:
    """A request is handed on with its last byte, however it is cut."""
    arrival, behind = arrive(raw, [size])

    assert arrival.is_complete
    assert behind == b""
    assert (meaning(arrival.environ), body_of(arrival)) == read(raw)[:2]
    assert not feed(raw[:-1], [size]).is_complete


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
    """What llhttp does not take goes no further, however it is cut."""
    arrival = feed(raw, [size])

    assert arrival.refusal is not None
    status, reason = arrival.refusal
    assert (status, arrival.is_complete) == (HTTPStatus.BAD_REQUEST, False)
    assert reason.startswith("the request is malformed: ")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (BARE.replace(b"1.1", b"1.1\r\nExpect: 100-continue, more"), 417),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), 501),
        (CHUNKED.replace(b"chunked", b"identity, chunked"), 501),
        (CHUNKED.replace(b"1.1", b"1.0"), 400),
        (LENGTH.replace(b"Host: a", b"Host: a\r\nhost: a"), 400),
        (LENGTH.replace(b"Host", b"Content-Type: a\r\nContent-Type: a\r\nHost"), 400),
        (BARE.replace(b"/ ", b"* "), 400),
        (BARE.replace(b"GET / ", b"CONNECT * "), 400),
        (BARE.replace(b"/ ", b"http://[a/ "), 400),
        (BARE.replace(b"HTTP/1.1", b"HTTP/2.0"), 400),
        (BARE.replace(b"HTTP/1.1", b"RTSP/1.0"), 400),
        (BARE.replace(b" HTTP/1.1", b""), 400),
        (b"\r\n\r\n" + BARE, 400),
        (TRAILERS.replace(b"X-B", b"Host"), 400),
        (TRAILERS.replace(b"X-B", b"Content-Length"), 400),
        (BARE[:-2] + b"A: 1\r\n" * 101 + b"\r\n", 431),
        (BARE[:-2] + b"A: " + b"a" * 8186 + b"\r\n\r\n", 431),
    ],
)
def test_what_llhttp_takes_and_the_relay_does_not(raw: bytes, status: int, size: int) -> None:
    """Each has a status of its own, and gunicorn's where it refuses it as well."""
    arrival = feed(raw, [size])

    assert arrival.refusal is not None
    assert arrival.refusal[0] == status
    assert not arrival.is_complete


def test_a_header_may_have_the_largest_size() -> None:
    """With its name and its end."""
    assert feed(BARE[:-2] + b"A: " + b"a" * 8185 + b"\r\n\r\n", [1000]).is_complete


@pytest.mark.parametrize(
    "behind", [POST + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n", b"\0", b"x" * 9000]
)
@pytest.mark.parametrize("raw", VALID)
def test_what_comes_behind_is_left_alone(raw: bytes, behind: bytes) -> None:
    """It is kept for the next request; behind chunks, where they end is not told, none comes."""
    arrival, rest = arrive(raw + behind, [100_000])

    assert (arrival.is_complete, arrival.is_cut, arrival.refusal) == (True, False, None)
    assert body_of(arrival) in (b"", b"abcde")
    if "HTTP_TRANSFER_ENCODING" in arrival.environ:
        assert not arrival.keeps_alive
    else:
        assert rest == behind


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
    for arrival in (feed(raw, [100]), feed(raw + b"\r\n\r\n", [100_000])):
        assert arrival.refusal is not None
        assert arrival.refusal[0] == status


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1388\r\n"],
    ids=["length", "chunked"],
)
def test_a_body_that_is_too_large_is_dropped(head: bytes) -> None:
    """It is taken, since many clients read only when they have written, and not kept."""
    arrival = Arrival(100, 8190, {})
    arrival.feed(POST + head)
    kept = []
    for _ in range(5000):
        arrival.feed(b"x")
        kept.append(arrival.held_bytes)
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
    assert sys.getsizeof(arrival.environ["wsgi.input"]) < 1.2 * arrival.held_bytes


def test_who_breaks_off_is_told_what_is_missing() -> None:
    """Bytes of the body, where the request says how many there are."""
    assert feed(LENGTH[:-2], [100]).broken_off() == (
        HTTPStatus.BAD_REQUEST,
        "body has 3 bytes; Content-Length says 5",
    )
    assert feed(CHUNKED[:-2], [100]).broken_off()[1] == "the request broke off before its end"
