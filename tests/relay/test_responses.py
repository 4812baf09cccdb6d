"""An answer as it is parsed: what is read from it, however its bytes arrive."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.responses import MAX_HEAD_BYTES, BrokenAnswer, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def parse(*pieces: bytes, method: str = "GET", end: bool = True) -> tuple[ResponseParser, bytes]:
    """Feed pieces to a parser, and the end of the connection if it still waits for something."""
    parser = ResponseParser(method)
    body = b"".join([parser.feed(piece) for piece in pieces if not parser.is_complete])
    if end and not parser.is_complete:
        parser.feed(b"")
    return parser, body


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        (b"X-A: 1\r\nX-A: 2\r\n", [("X-A", "1"), ("X-A", "2")]),
        (b"X-A:\t b c \t\r\n", [("X-A", "b c")]),
        (b"X-A:\r\n", [("X-A", "")]),
        (b"X-A: a:b\r\n", [("X-A", "a:b")]),
        (b"X-A: 1\n", [("X-A", "1")]),
        (b"X-A: \x80\x85\xa0\xff\r\n", [("X-A", "\x80\x85\xa0\xff")]),
        (b"X-A: \xe6\x8a\xa5\r\n", [("X-A", "\xe6\x8a\xa5")]),
    ],
    ids=["twice", "white space", "empty", "colon", "LF alone", "Latin-1", "UTF-8"],
)
def test_headers_are_read(head: bytes, headers: list[tuple[str, str]]) -> None:
    """In their order, repeated ones repeated, each byte a character."""
    parser, body = parse(OK + head + b"\r\nbody")

    assert (parser.status, list(parser.fields), body) == (200, headers, b"body")


@pytest.mark.parametrize("line", [b"HTTP/1.1 299", b"HTTP/1.0 299 X", b"HTTP/1.1 299 \xff\t "])
def test_a_status_line_is_read(line: bytes) -> None:
    """The reason is optional, and nothing is made of it."""
    assert parse(line + b"\r\n\r\n")[0].status == 299


@pytest.mark.parametrize("status", [100, 102, 103, 104, 199])
def test_interim_answers_are_passed_over(status: int) -> None:
    """The final answer follows them, and their headers are not its own."""
    interim = b"HTTP/1.1 %d X\r\nX-A: 1\r\nContent-Length: 9\r\n\r\n" % status

    parser, body = parse(interim * 2 + OK + b"Content-Length: 2\r\n\r\nok")

    assert (parser.status, list(parser.fields), body) == (200, [("Content-Length", "2")], b"ok")


@pytest.mark.parametrize(
    ("framing", "sent", "body", "is_last"),
    [
        (b"Content-Length: 2\r\n", b"ok", b"ok", False),
        (b"Content-Length: 2\r\n", b"okmore", b"ok", True),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"ok", b"ok", False),
        (CHUNKED, b"2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (b"Content-Length: 9\r\n" + CHUNKED, b"2\r\nok\r\n0\r\n\r\n", b"ok", True),
        (CHUNKED + b"Content-Length: 9\r\n", b"2\r\nok\r\n0\r\n\r\n", b"ok", True),
        (CHUNKED, b"2\r\nok\r\n0\r\n\r\nmore", b"ok", True),
        (CHUNKED * 2, b"2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (b"transfer-encoding: CHUNKED\r\n", b"2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (CHUNKED, b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n", b"ok", False),
        (b"", b"to the end", b"to the end", True),
    ],
    ids=[
        *("length", "length and more", "length twice", "chunks"),
        *("length and chunks", "chunks and length", "chunks and more"),
        *("chunked twice", "CHUNKED", "trailer", "neither"),
    ],
)
def test_a_body_ends_where_its_head_says(
    framing: bytes, sent: bytes, body: bytes, is_last: bool
) -> None:
    """What follows it costs the connection and nothing else (RFC 9112 section 6.3)."""
    parser, read = parse(OK + framing + b"\r\n" + sent)

    assert (read, parser.is_complete, parser.is_last) == (body, True, is_last)


@pytest.mark.parametrize("end", [b"", b"\r\nX-T: evil\r\nX-T: evil\r\n"], ids=["none", "two"])
def test_trailers_are_dropped(end: bytes) -> None:
    """They are no headers of the answer."""
    parser, _ = parse(OK + CHUNKED + b"\r\n0" + (end or b"\r\n") + b"\r\n")

    assert list(parser.fields) == [("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize("spare", [0, 1])
def test_interim_heads_count(spare: int) -> None:
    """All heads of one answer share a limit."""
    interim = b"HTTP/1.1 103 X\r\n\r\n"
    final = OK + b"X-A: %b\r\n\r\n"
    filler = b"a" * (MAX_HEAD_BYTES - len(interim) - len(final % b"") + spare)

    if spare:
        with pytest.raises(BrokenAnswer, match="sent a head of more than 65536 bytes"):
            parse(interim + final % filler)
    else:
        assert parse(interim + final % filler)[0].status == 200


WHOLE = (
    b"HTTP/1.1 103 X\r\nX-I: 1\r\n\r\n"
    + OK
    + CHUNKED
    + b"X-A: 1\r\n\r\n2;x\r\nok\r\n1\r\n!\r\n0\r\n"
)


@given(st.lists(st.integers(0, len(WHOLE) + 12)))
@example(list(range(len(WHOLE) + 12)))
def test_how_the_bytes_arrive_does_not_matter(cuts: list[int]) -> None:
    """The same bytes are the same answer, wherever the network has cut them."""
    raw = WHOLE + b"X-T: y\r\n\r\n"
    marks = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:end] for start, end in itertools.pairwise(marks)]

    parser, body = parse(*pieces)

    assert (parser.status, body, parser.is_last) == (200, b"ok!", False)
    assert list(parser.fields) == [("Transfer-Encoding", "chunked"), ("X-A", "1")]


@given(st.binary(max_size=200), st.sampled_from([b"", OK, OK + b"Content-Length: ", OK + CHUNKED]))
def test_noise_is_an_answer_or_broken(noise: bytes, start: bytes) -> None:
    """No bytes make another kind of error."""
    parser = ResponseParser("GET")

    with contextlib.suppress(BrokenAnswer):
        for piece in (start + noise, b""):
            if not parser.is_complete:
                parser.feed(piece)
        assert parser.is_complete
