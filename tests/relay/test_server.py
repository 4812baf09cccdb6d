"""What becomes of a connection between its requests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until

PROBE = b"GET /health/liveness HTTP/1.1\r\nHost: localhost\r\n\r\n"
NOTHING = PROBE.replace(b"/health/liveness", b"/nothing")


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.5)
        connection.sendall(answer_of(200, b"slow"))

    with peers.serving(answer_of(200, b"whole")) as peer:
        peer.on("/slow", slow)
        yield peer


@pytest.fixture(scope="module")
def send(target: Peer) -> Iterator[Function]:
    settings = {"ALLOWED_TARGETS": "127.0.0.1", "THREADS": "4", "REQUEST_TIMEOUT_S": "3"}
    with serving("send", settings) as function:
        yield function


@pytest.fixture
def caller(send: Function) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", send.port), timeout=10) as sock:
        yield sock


def sync(target: Peer, path: str) -> bytes:
    body = json.dumps({"targetURL": target.url, "targetAPI": path}).encode()
    return (
        b"POST /sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


def read(caller: socket.socket, *bodies: bytes) -> bytes:
    """Read until these have come, in this order."""
    got = b""
    for body in bodies:
        while body not in got:
            piece = caller.recv(65536)
            assert piece, got
            got += piece
        got = got.partition(body)[2]
    return got


def test_a_connection_serves_many_requests(caller: socket.socket, target: Peer) -> None:
    """Each as soon as it comes, and answered by whichever thread."""
    for _ in range(50):
        caller.sendall(sync(target, "/"))
        assert read(caller, b"whole") == b""


def test_what_comes_early_has_its_turn(caller: socket.socket, target: Peer) -> None:
    """A request that is sent while another is answered, in pieces too, is answered next."""
    caller.sendall(sync(target, "/slow") + NOTHING[:9])
    wait_until(lambda: target.received("/slow"), 10, "the call")
    caller.sendall(NOTHING[9:] + PROBE[:9])
    time.sleep(0.1)
    caller.sendall(PROBE[9:])

    assert read(caller, b"slow", b"404", b"ok\n") == b""
    caller.sendall(PROBE)
    assert read(caller, b"ok\n") == b""


def test_behind_chunks_the_connection_ends(caller: socket.socket) -> None:
    """Where they end is not told, so what else is in their last bytes is not guessed at."""
    chunked = PROBE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    caller.sendall(chunked)
    assert b"keep-alive" in caller.recv(65536)

    caller.sendall(chunked + NOTHING)

    answers = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answers


def test_who_sends_no_more_may_read(caller: socket.socket, target: Peer) -> None:
    """A probe is answered even to a caller who has closed its own side."""
    caller.sendall(PROBE)
    caller.shutdown(socket.SHUT_WR)

    assert read(caller, b"ok\n") == b""
    assert caller.recv(1) == b""


def test_an_idle_connection_is_closed(caller: socket.socket) -> None:
    """After two seconds, or one more."""
    caller.sendall(PROBE)
    read(caller, b"ok\n")

    assert caller.recv(1) == b""


@pytest.mark.parametrize("name", ["send", "receive"])
def test_bodies_that_are_too_much_come_again(name: str, target: Peer) -> None:
    """While one body is held another is 503 with Retry-After, and not when it is let go."""
    end = threading.Event()

    def hold(connection: socket.socket) -> None:
        assert end.wait(20)
        connection.sendall(answer_of(200, b"", ("Connection", "close")))

    target.on(f"/hold/{name}", hold)
    settings = {"ALLOWED_TARGETS": "127.0.0.1", "MAX_BODIES_BYTES": "100000"}
    event = {
        "Ce-Specversion": "1.0",
        "Ce-Source": "test",
        "Ce-Id": "r",
        "Ce-Type": "dev.knative.samples.t2",
        "Content-Type": "application/json",
    }
    headers = event if name == "receive" else {}
    path = "/" if name == "receive" else "/sync"
    large = {"targetURL": target.url, "body": "x" * 60_000}
    with serving(name, settings) as function, ThreadPoolExecutor(1) as pool:
        url = f"{function.url}{path}"
        held = json.dumps({**large, "targetAPI": f"/hold/{name}"})
        first = pool.submit(call, "POST", url, held, headers)
        wait_until(lambda: target.received(f"/hold/{name}"), 10, "the first call")

        refused = call("POST", url, json.dumps(large), headers)

        small = call("POST", url, json.dumps({"targetURL": target.url}), headers)
        end.set()
        assert first.result().status == small.status == 200
        for _ in range(3):  # let go after the last byte of the answer, which its caller has then
            again = json.dumps(large)
            wait_until(lambda: call("POST", url, again, headers).status == 200, 10, "room")  # noqa: B023

    assert (refused.status, refused.all("Retry-After")) == (503, ["1"])
    assert "(MAX_BODIES_BYTES)" in str(refused.json()["detail"])
