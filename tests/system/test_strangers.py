"""What a stranger can do on a connection: send too little, read nothing, or say who he is."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until

SETTINGS = {
    "ALLOWED_TARGETS": "127.0.0.1",
    "THREADS": "4",
    "REQUEST_TIMEOUT_S": "3",
    "TARGET_TIMEOUT_S": "4",
    # One target stands for all of them here, the slow ones too.
    "BREAKER_FAILURES": "0",
    "ORIGIN_SHARE": "1",
}
CROWD = 60
HOST = b"Host: localhost\r\n"
HALVES = {
    "nothing": b"",
    "line": b"POST /sync HTTP/1.1\r",
    "head": b"POST /sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n",
    "body": b"POST /sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
    "go-ahead": b"POST / HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    "chunk": b"POST /sync HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
    "chunk-size": b"POST /sync HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n9",
    "trailers": b"POST /sync HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n",
}


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving(answer_of(200, b"whole")) as peer:
        yield peer


@pytest.fixture(scope="module", params=["send", "receive"])
def function(request: pytest.FixtureRequest) -> Iterator[Function]:
    with serving(request.param, SETTINGS) as function:
        yield function


@pytest.fixture(scope="module")
def send() -> Iterator[Function]:
    with serving("send", SETTINGS) as function:
        yield function


@contextlib.contextmanager
def connections(function: Function, *firsts: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that send this and nothing more, and do not read."""
    with contextlib.ExitStack() as stack:
        opened = []
        for first in firsts:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", function.port))
            sock.sendall(first)
            opened.append(sock)
        yield opened


def are_gone(sockets: list[socket.socket]) -> int:
    """Count the connections that the other side has ended."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, select.POLLRDHUP)
    return len(poll.poll(0))


def said(function: Function, raw: bytes) -> bytes:
    """Send bytes, and return all that comes until the connection ends."""
    with socket.create_connection(("127.0.0.1", function.port), timeout=peers.TIMEOUT_S) as sock:
        sock.sendall(raw)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def serves(function: Function, target: Peer) -> bool:
    """Make the calls of others, some at once."""
    body = json.dumps({"targetURL": target.url})

    def calls(_: int) -> bool:
        probe = call("GET", f"{function.url}/health/readiness").status
        return probe == 200 and call("POST", f"{function.url}/sync", body).body == b"whole"

    with ThreadPoolExecutor(4) as pool:
        return all(pool.map(calls, range(20)))


@pytest.mark.parametrize("half", HALVES)
def test_who_sends_half_a_request_holds_nobody_up(send: Function, target: Peer, half: str) -> None:
    """Many more than there are threads: others are served, and all of them are ended in time."""
    with connections(send, *[HALVES[half]] * CROWD) as sockets:
        began = time.monotonic()
        assert serves(send, target)
        # Who is not served before these are gone has waited for them.
        assert are_gone(sockets) == 0 or time.monotonic() - began >= 3

        wait_until(lambda: are_gone(sockets) == CROWD, 10, "the end of what is half sent")
        told = sockets[0].recv(1000)

    assert told.startswith(b"HTTP/1.1 408 ") if half not in ("nothing", "go-ahead") else True
    assert serves(send, target)


@pytest.mark.parametrize("half", [half for half in HALVES if HALVES[half]])
def test_who_breaks_off_is_told(send: Function, half: str) -> None:
    """It may still read, whatever is missing."""
    with connections(send, HALVES[half]) as (sock,):
        sock.shutdown(socket.SHUT_WR)
        told = b"".join(iter(lambda: sock.recv(65536), b""))

    assert told.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_who_does_not_read_holds_nobody_up(send: Function, target: Peer) -> None:
    """An answer without end, and callers who read nothing of it: they have the call's deadline."""

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(65536))

    target.on("/endless", endless)
    body = json.dumps({"targetURL": target.url, "targetAPI": "/endless"}).encode()
    head = b"POST /sync HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (HOST, len(body))
    with connections(send, *[head + body] * CROWD) as sockets:
        wait_until(lambda: len(target.received("/endless")) >= 4, 10, "all threads to be taken")

        assert serves(send, target)

        wait_until(lambda: are_gone(sockets) == CROWD, 20, "the end of who does not read")
    assert serves(send, target)


def test_who_does_not_close_holds_nobody_up(send: Function, target: Peer) -> None:
    """A connection that is over is waited for, in case the last of it is still under way."""
    with connections(send, *[b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"] * CROWD) as sockets:
        wait_until(lambda: are_gone(sockets) == CROWD, 10, "the answers")

        assert serves(send, target)


def test_a_header_that_took_minutes(send: Function) -> None:
    """It held the interpreter for 92 s, and the probes with it."""
    prefer = f'a={" " * 1600}""x'
    body = json.dumps({"targetURL": "http://127.0.0.1:1"})

    answer = call("POST", f"{send.url}/sync", body, {"Prefer": prefer})

    assert answer.status == 502


FORWARDED = {
    "another-path": (b"GET /public/event/callback HTTP/1.1\r\nSCRIPT_NAME: /public\r\n", 404),
    "no-path": (b"GET /public HTTP/1.1\r\nSCRIPT_NAME: /public\r\n", 404),
    "a-strange-path": (b"GET /other HTTP/1.1\r\nSCRIPT_NAME: /public\r\n", 404),
    "path-info": (b"GET /other HTTP/1.1\r\nPATH_INFO: /health/liveness\r\n", 404),
    "schemes": (
        b"GET /health/liveness HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on\r\n",
        200,
    ),
    "slashes": (b"GET //event/callback HTTP/1.1\r\n", 404),
}


@pytest.mark.parametrize(("head", "status"), FORWARDED.values(), ids=FORWARDED)
def test_nobody_is_believed_to_be_a_proxy(function: Function, head: bytes, status: int) -> None:
    """queue-proxy calls from the address that strangers' headers come from as well."""
    answer = said(function, head + HOST + b"Connection: close\r\n\r\n")

    refusal = 404 if function.name == "send" else 405
    assert answer.startswith(b"HTTP/1.1 %d " % (refusal if status == 404 else status))
    assert b"html" not in answer.lower()


MALFORMED = {
    "rubbish": (b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n", 400),
    "method": (b"ge\x7ft / HTTP/1.1\r\n\r\n", 400),
    "unknown-method": (b"FOO / HTTP/1.1\r\n\r\n", 400),
    "version": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "line-breaks": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "no-colon": (b"GET / HTTP/1.1\r\nAuthorization s3cret-value\r\n\r\n", 400),
    "name": (b"GET / HTTP/1.1\r\nA B: s3cret-value\r\n\r\n", 400),
    "value": (b"GET / HTTP/1.1\r\nA: s3cret-value\x00\r\n\r\n", 400),
    "folded": (b"GET / HTTP/1.1\r\nA: 1\r\n s3cret-value\r\n\r\n", 400),
    "two-lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "both": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n", 501),
    "expectation": (b"GET / HTTP/1.1\r\nExpect: more\r\n\r\n", 417),
    "long-line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    "long-header": (b"GET / HTTP/1.1\r\nA: " + b"a" * 9_000 + b"\r\n\r\n", 431),
    "long-head": (b"GET / HTTP/1.1\r\n" + b"A: 1\r\n" * 20_000, 431),
    "many-headers": (b"GET / HTTP/1.1\r\n" + b"A: 1\r\n" * 101 + b"\r\n", 431),
}


@pytest.mark.parametrize(("raw", "status"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_http_is_answered_by_a_problem(
    function: Function, raw: bytes, status: int
) -> None:
    """It says what is wrong, and repeats nothing; nor does the log."""
    head, _, body = said(function, raw).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["status"] == status
    assert b"s3cret" not in body
    assert "s3cret" not in function.process.output


@pytest.mark.parametrize("request_target", [b"*", b"http://localhost", b"http://localhost/nothing"])
def test_other_forms_of_a_target_are_no_redirect(send: Function, request_target: bytes) -> None:
    """RFC 9112 section 3.2: what has no path is the root, or nothing that is here."""
    answer = said(
        send, b"OPTIONS " + request_target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    )

    assert answer.split(b" ")[1] in (b"404", b"405")
    assert b"html" not in answer.lower()


def test_requests_may_come_together(send: Function) -> None:
    """Each gets its answer, in order, wherever the bytes were cut."""
    first = b"POST /sync HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    second = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
    third = b"GET /health/liveness HTTP/1.1\r\nConnection: close\r\n\r\n"

    answers = said(send, first + second + third)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"400", b"404", b"200"]


def test_headers_may_be_longer_if_the_operator_says_so() -> None:
    """MAX_HEADER_BYTES is how long one may be."""
    long = {"Cookie": "a" * 9_000}
    with serving("send", {"MAX_HEADER_BYTES": "10000"}) as send:
        assert call("GET", f"{send.url}/", None, long).status == 200
        answer = call("GET", f"{send.url}/", None, {"Cookie": "a" * 10_001})

    assert answer.status == 431
    assert "MAX_HEADER_BYTES" in str(answer.json()["detail"])


def test_the_start(tmp_path: Path) -> None:
    """No socket to control the server is opened, and a timeout that Knative cuts short is told."""
    env = {"TARGET_TIMEOUT_S": "301", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with serving("send", env) as send:
        assert call("GET", send.url).status == 200

    assert list(tmp_path.iterdir()) == []
    (line,) = send.process.output.splitlines()[:1]
    assert json.loads(line)["severity"] == "WARNING"
    assert json.loads(line)["message"].startswith("TARGET_TIMEOUT_S is 301")
