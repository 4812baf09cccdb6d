"""Answers as they are written: framed so that their end cannot be missed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName

from relay.answers import Answer
from relay.arrivals import Arrival
from relay.callers import Connection, Threads

CONFIG = Config()
OWN = rb"HTTP/1\.1 (.*)\r\nServer: gunicorn\r\nDate: [^\r]* GMT\r\nConnection: ([a-z-]*)\r\n"


class Caller:
    """A caller who reads all that it is sent."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        threads: Threads[None] = Threads(1, lambda _: None)
        self.sock = Connection(ours, threads, 1.0)

    def answer(self, method: str = "GET", version: str = "1.1") -> Answer:
        request = Arrival(0, 8190, {})
        request.feed(f"{method} / HTTP/{version}\r\n\r\n".encode())
        return Answer(request, self.sock, CONFIG)

    def got(self) -> bytes:
        self.sock.close()
        with self._theirs:
            return b"".join(iter(lambda: self._theirs.recv(65536), b""))


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.got() if caller.sock.fileno() >= 0 else None


def told(caller: Caller) -> tuple[bytes, bytes, bytes]:
    """Split an answer into its status, what it says of the connection, and the rest."""
    raw = caller.got()
    match = re.match(OWN, raw)
    assert match is not None, raw
    return match[1], match[2], raw[match.end() :]


def test_a_length_frames_the_body(caller: Caller) -> None:
    """The head goes with the first piece; what an application says of a connection does not."""
    answer = caller.answer()
    headers = [("Content-Length", "4"), ("X-A", " \xe9\xa0\t"), ("Connection", "x"), ("Date", "y")]
    write = answer.start_response("200 OK", headers)
    assert not answer.is_begun
    write(b"ab")
    write(b"cdef")
    answer.close()

    assert not answer.should_close()
    rest = b"Content-Length: 4\r\nX-A: \xe9\xa0\r\n\r\nabcd"
    assert told(caller) == (b"200 OK", b"keep-alive", rest)


def test_chunks_frame_a_body_without_length(caller: Caller) -> None:
    """An empty piece is no chunk: it would be the last."""
    answer = caller.answer()
    write = answer.start_response("200 OK", [])
    for piece in (b"", b"a" * 17, b"", b"b"):
        write(piece)
    answer.close()

    chunks = b"11\r\n" + b"a" * 17 + b"\r\n1\r\nb\r\n0\r\n\r\n"
    assert told(caller)[1:] == (b"keep-alive", b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


def test_the_end_frames_a_body_for_http_1_0(caller: Caller) -> None:
    """It knows no chunks."""
    answer = caller.answer(version="1.0")
    answer.start_response("200 OK", [])(b"a")
    answer.close()

    assert answer.should_close()
    assert caller.got().endswith(b"\r\nConnection: close\r\n\r\na")


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        ("HEAD", "200 OK", b"Content-Length: 1\r\n"),
        ("GET", "304 Not Modified", b"Content-Length: 1\r\n"),
        ("GET", "204 No Content", b""),
    ],
)
def test_some_answers_have_no_body(caller: Caller, method: str, status: str, kept: bytes) -> None:
    """Whatever the application gives; RFC 9112 section 6.3."""
    answer = caller.answer(method)
    answer.start_response(status, [("Content-Length", "1")])(b"a")
    answer.close()

    assert not answer.should_close()
    assert told(caller)[1:] == (b"keep-alive", kept + b"\r\n")


def test_a_body_that_is_too_short_ends_the_connection(caller: Caller) -> None:
    """Else the caller would take the next answer for its end."""
    answer = caller.answer()
    answer.start_response("200 OK", [("Content-Length", "2")])(b"a")
    answer.close()

    assert answer.should_close()


@pytest.mark.parametrize(
    ("status", "header"),
    [
        ("200 OK\r\nX: 1", ("A", "b")),
        ("2000", ("A", "b")),
        ("200 OK", ("A", "b\r\nX: 1")),
        ("200 OK", ("A", "b\0")),
        ("200 OK", ("A b", "c")),
        ("200 OK", ("A:", "b")),
        ("200 OK", ("", "b")),
    ],
)
def test_a_head_that_cannot_be_sent_is_not(
    caller: Caller, status: str, header: tuple[str, str]
) -> None:
    """No application's text ends a line, whatever let it through."""
    answer = caller.answer()

    with pytest.raises((ValueError, InvalidResponseHeader, InvalidResponseHeaderName)):
        answer.start_response(status, [header])
    assert not answer.is_begun
    assert caller.got() == b""


def test_a_head_may_change_until_it_is_sent(caller: Caller) -> None:
    """PEP 3333: an error raises itself when it comes too late for an answer of its own."""
    answer = caller.answer()
    error = ValueError("late")
    answer.start_response("200 OK", [("Content-Length", "5")])
    answer.start_response("500 Oh", [("Content-Length", "1")], (ValueError, error, None))(b"a")

    with pytest.raises(ValueError, match="late"):
        answer.start_response("500 Oh", [], (ValueError, error, None))
    assert told(caller)[0] == b"500 Oh"
