"""Callers who leave, and a Broker that does: nothing goes on for nobody, and nothing is begun."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest

from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until

TYPE = "dev.knative.samples.t2"
SETTINGS = {"ALLOWED_TARGETS": "127.0.0.1", "BREAKER_FAILURES": "1"}


@pytest.fixture
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


class Hanging:
    """An answer that never comes; it notes when nobody waits for it any more."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.left = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self.first)
        peers.until_gone(connection)
        self.left.set()


def send_request(port: int, path: str, body: str, headers: str = "") -> socket.socket:
    """Send a request and leave its answer to come."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["head", "body"]
)
def test_a_call_ends_with_its_caller(target: Peer, first: bytes) -> None:
    """The target sees it within a moment, and the thread serves others; nobody is to blame."""
    hanging = Hanging(first)
    target.on("/hang", hanging)
    body = json.dumps({"targetURL": target.url, "targetAPI": "/hang"})
    with serving("send", {**SETTINGS, "THREADS": "1"}) as send:
        with send_request(send.port, "/sync", body):
            wait_until(lambda: target.received("/hang"), 10, "the call")

        assert hanging.left.wait(10)
        answer = call("POST", f"{send.url}/sync", json.dumps({"targetURL": target.url}))
        wait_until(lambda: send.process.output.count("\n") >= 2, 10, "two lines of log")

    assert answer.status == 200
    line = json.loads(send.process.output.splitlines()[0])
    assert line["severity"] == "INFO"
    assert "the caller left before" in line["message"]


def test_a_call_whose_caller_has_gone_is_not_made(target: Peer) -> None:
    """What waited for a thread is dropped once it has one, if nobody waits for it any more."""
    end = threading.Event()

    def hold(connection: socket.socket) -> None:
        assert end.wait(20)
        connection.sendall(answer_of(200, b"", ("Connection", "close")))

    target.on("/hold", hold)
    with serving("send", {**SETTINGS, "THREADS": "1"}) as send, ThreadPoolExecutor(1) as pool:
        held = json.dumps({"targetURL": target.url, "targetAPI": "/hold"})
        first = pool.submit(call, "POST", f"{send.url}/sync", held)
        wait_until(lambda: target.received("/hold"), 10, "the first call")
        gone = json.dumps({"targetURL": target.url, "targetAPI": "/gone"})
        for _ in range(5):
            send_request(send.port, "/sync", gone).close()
        end.set()

        last = call("POST", f"{send.url}/sync", json.dumps({"targetURL": target.url}))

    assert (first.result().status, last.status) == (200, 200)
    assert not target.received("/gone")


def test_a_caller_who_sends_more_is_there(target: Peer) -> None:
    """A second request on the connection, before the first is answered, is no farewell."""

    def slow(connection: socket.socket) -> None:
        time.sleep(0.8)
        connection.sendall(answer_of(200))

    target.on("/slow", slow)
    body = json.dumps({"targetURL": target.url, "targetAPI": "/slow"})
    with serving("send", SETTINGS) as send, send_request(send.port, "/sync", body) as connection:
        connection.sendall(b"GET /health/liveness HTTP/1.1\r\nHost: a\r\n\r\n")

        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def early(wait_s: float) -> dict[str, str]:
    """Write the headers of an event of a tier that is due so many seconds from now."""
    due = datetime.fromtimestamp(time.time() + wait_s, timezone.utc)
    return {
        "Ce-Specversion": "1.0",
        "Ce-Source": "test",
        "Ce-Id": "r.retry5",
        "Ce-Type": f"{TYPE}.retry5",
        "Ce-Subject": "r",
        "Ce-Relaynotbefore": due.isoformat(),
        "Content-Type": "application/json",
    }


def deliver(receive: Function, target: Peer, wait_s: float, path: str = "/") -> Answer:
    body = json.dumps({"targetURL": target.url, "targetAPI": path})
    return call("POST", f"{receive.url}/", body, early(wait_s))


def test_a_request_that_waits_is_dropped_with_its_broker(target: Peer) -> None:
    """A dispatcher that ends delivers again: a call made for it would be made twice."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in early(1.5).items())
    body = json.dumps({"targetURL": target.url, "targetAPI": "/twice"})
    with serving("receive", SETTINGS) as receive:
        send_request(receive.port, "/", body, headers).close()

        assert deliver(receive, target, 2.0).status == 200

    assert not target.received("/twice")
    assert len(target.requests) == 1


def test_a_process_that_ends_waits_no_longer(target: Peer) -> None:
    """What waits is given back at once, to be delivered to another."""
    env = {**SETTINGS, "WAITING_PLACES": "2"}

    def wait() -> Answer:
        while "no place" in str((answer := deliver(receive, target, 15.0, "/waits")).body):
            pass
        return answer

    with serving("receive", env) as receive, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait) for _ in range(2)]
        wait_until(lambda: deliver(receive, target, 0.2).status == 503, 10, "both to wait")
        started_s = time.monotonic()
        receive.process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in waiting]
        took_s = time.monotonic() - started_s

    assert [answer.status for answer in answers] == [503, 503]
    assert took_s < 10
    assert "this process is ending" in str(answers[0].json()["detail"])
    assert not target.received("/waits")
