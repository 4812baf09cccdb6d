"""The end of a process: SIGTERM lets what has begun finish, and takes nothing new."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import is_listening, wait_until

CLIENTS = 8


@pytest.fixture
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture
def broker() -> Iterator[Peer]:
    with peers.serving(peers.ACCEPTED) as peer:
        yield peer


@pytest.fixture
def send(broker: Peer) -> Iterator[Function]:
    env = {
        "ALLOWED_TARGETS": "127.0.0.1",
        "K_SINK": f"{broker.url}/default/default",
        "THREADS": "16",
    }
    with serving("send", env) as function:
        yield function


def test_a_request_in_flight_is_finished(send: Function, target: Peer) -> None:
    """Readiness turns 503 at once, what was begun is finished, and the exit code is 0."""
    released = threading.Event()

    def talk(connection: socket.socket) -> None:
        assert released.wait(peers.TIMEOUT_S)
        connection.sendall(answer_of(200, b"whole"))

    target.on("/slow", talk)
    body = json.dumps({"targetURL": target.url, "targetAPI": "/slow"})
    probe = http.client.HTTPConnection("127.0.0.1", send.port, timeout=10)
    with ThreadPoolExecutor() as pool, contextlib.closing(probe):
        in_flight = pool.submit(call, "GET", f"{send.url}/sync", body)
        wait_until(lambda: target.received("/slow"), 10, "the call")
        assert readiness(probe) == 200  # and the connection stays open

        send.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(probe) == 503, 10, "readiness to end")
        assert not in_flight.done()
        released.set()

        assert in_flight.result(20).body == b"whole"
    assert send.process.wait() == 0
    assert not is_listening(send.port)


def test_connections_that_are_silent_delay_nothing(send: Function) -> None:
    """What was opened ahead of need is closed at the end of the process, not after a timeout."""
    with socket.create_connection(("127.0.0.1", send.port), timeout=10) as sock:
        assert call("GET", send.url).status == 200  # it has been accepted before

        send.process.send_signal(signal.SIGTERM)

        assert sock.recv(1) == b""
    assert send.process.wait() == 0


def readiness(connection: http.client.HTTPConnection) -> int:
    """Probe on a connection that is open: there are no new ones any more."""
    connection.request("GET", "/health/readiness")
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_nothing_is_lost_under_load(send: Function, target: Peer, broker: Peer, path: str) -> None:
    """Whoever gets an answer gets all of it; whoever gets none was not heard, so can try again."""
    answered: set[str] = set()

    def client(number: int) -> None:
        for count in range(100_000):
            key = f"/{number}-{count}"
            body = json.dumps({"targetURL": target.url, "targetAPI": key})
            try:
                answer = call("POST", f"{send.url}{path}", body, {"Idempotency-Key": key[1:]})
            except (OSError, http.client.HTTPException):
                return
            assert answer.status == (200 if path == "/sync" else 202)
            answered.add(key)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        wait_until(lambda: len(answered) > 50, 20, "some load")
        send.process.send_signal(signal.SIGTERM)
        assert send.process.wait() == 0
        for each in clients:
            each.result(20)

    heard = {each.target for each in target.requests}
    heard |= {f"/{each.header('ce-id')}" for each in broker.requests}
    assert heard == answered
