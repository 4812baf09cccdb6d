"""The head of an answer: what is read from it, and what is no HTTP."""

from __future__ import annotations

import pytest

from relay.client import Answer, Client
from relay.egress import AllowedTarget, Policy
from relay.problems import TargetFailed
from relay.urls import parse_target
from tests.support import peers

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def call(raw: bytes) -> tuple[Answer, bytes]:
    """Call a server that answers with these bytes."""
    client = Client(
        Policy(allowed=(AllowedTarget.from_text("127.0.0.1"),)), connect_timeout_s=5, pool_size=1
    )
    with peers.serving(lambda connection: connection.sendall(raw)) as peer:
        target = parse_target(peer.url, url_field="targetURL")
        answer = client.call(target, method="GET", timeout_s=5)
        return answer, b"".join(answer)


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        (b"X-A: 1\r\nX-A: 2\r\n", [("X-A", "1"), ("X-A", "2")]),
        (b"X-A:\t b c \t\r\n", [("X-A", "b c")]),
        (b"X-A:\r\n", [("X-A", "")]),
        (b"X-A: caf\xe9\r\n", [("X-A", "caf\xe9")]),
        (b"X-A : 1\r\n", [("X-A", "1")]),
        (b"X-A: 1\r\n  2\r\n\t3\r\nX-B: 4\r\n", [("X-A", "1 2 3"), ("X-B", "4")]),
        (b"X-A: 1\n", [("X-A", "1")]),
        (b": 1\r\n", []),
        (b"X A: 1\r\n", []),
    ],
    ids=[
        *("twice", "white space", "empty", "Latin-1", "a space before the colon", "folded"),
        *("LF alone", "no name", "no token"),
    ],
)
def test_headers_are_read(head: bytes, headers: list[tuple[str, str]]) -> None:
    """In their order, repeated ones repeated; what could not be sent on is left out."""
    answer, body = call(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nbody")

    assert (answer.status, list(answer.headers), body) == (200, headers, b"body")


@pytest.mark.parametrize("line", [b"HTTP/1.1 299", b"HTTP/1.0 299 X", b"HTTP/1.1 299 \xff\t "])
def test_a_status_line_is_read(line: bytes) -> None:
    """The reason is optional, and nothing is made of it."""
    answer, _ = call(line + b"\r\n\r\n")

    assert answer.status == 299


@pytest.mark.parametrize("status", [100, 102, 103])
def test_interim_answers_are_passed_over(status: int) -> None:
    """The final answer follows them, and their headers are not its own."""
    interim = b"HTTP/1.1 %d X\r\nX-A: 1\r\n\r\n" % status

    answer, body = call(interim * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    assert (answer.status, answer.headers, body) == (200, (("Content-Length", "2"),), b"ok")


@pytest.mark.parametrize(
    ("framing", "sent", "body"),
    [
        (b"Content-Length: 2\r\n", b"okmore", b"ok"),
        (b"Content-Length : 2\r\n", b"okmore", b"ok"),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"okmore", b"ok"),
        (CHUNKED, b"2\r\nok\r\n0\r\n\r\nmore", b"ok"),
        (b"transfer-encoding: CHUNKED\r\n", b"2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"Content-Length: 9\r\n" + CHUNKED, b"2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"", b"to the end", b"to the end"),
    ],
    ids=["length", "length, a space", "length twice", "chunks", "CHUNKS", "both", "neither"],
)
def test_a_body_ends_where_its_head_says(framing: bytes, sent: bytes, body: bytes) -> None:
    """Chunks go before a length (RFC 9112 section 6.3)."""
    assert call(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + sent)[1] == body


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 65536 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2_0\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED * 2 + b"\r\n0\r\n\r\n",
    ],
    ids=[
        *("version", "short status", "long status", "signed status", "space", "no colon"),
        *("folded first", "101 headers", "long header", "two lengths", "signed length"),
        *("length with _", "negative length", "empty length", "coding", "identity"),
        "chunked twice",
    ],
)
def test_what_is_no_head_is_a_broken_answer(raw: bytes) -> None:
    """A head that could be read in two ways is not read at all."""
    with pytest.raises(TargetFailed, match="broke off its answer, or it is not HTTP"):
        call(raw)
