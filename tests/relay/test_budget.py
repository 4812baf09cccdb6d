"""How much of all requests is held at once."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from relay.budget import Bodies
from relay.problems import TooBusy
from tests.support import peers
from tests.support.calls import call
from tests.support.functions import serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until


def test_what_is_declared_is_taken_before_it_is_read() -> None:
    """So that what is begun can be finished."""
    bodies = Bodies(most_bytes=10, largest_bytes=10)
    first = bodies.hold(io.BytesIO(b"x" * 6), 6)

    assert first.read(1) == b"x"

    with pytest.raises(TooBusy, match="hold 10 bytes already"):
        bodies.hold(io.BytesIO(b"x" * 5), 5).read(1)
    assert bodies.hold(io.BytesIO(b"x" * 4), 4).read(9) == b"xxxx"


def test_what_is_not_declared_is_taken_as_it_comes() -> None:
    """A chunked body holds what was read of it."""
    bodies = Bodies(most_bytes=10, largest_bytes=10)
    chunked = bodies.hold(io.BytesIO(b"x" * 50), None)
    other = bodies.hold(io.BytesIO(b"x" * 8), 8)
    assert chunked.read(4) == b"xxxx"

    with pytest.raises(TooBusy):
        other.read(1)

    chunked.let_go()
    assert other.read(8) == b"x" * 8


def test_what_is_too_large_is_not_held() -> None:
    """It is dropped as it comes, so that its client reads the answer."""
    bodies = Bodies(most_bytes=10, largest_bytes=5)
    large = bodies.hold(io.BytesIO(b"x" * 99), 99)
    endless = bodies.hold(io.BytesIO(b"x" * 99), None)

    assert len(large.read(99)) == 99
    assert len(endless.read(99)) == 99
    assert bodies.hold(io.BytesIO(b"x" * 5), 5).read(5) == b"x" * 5


@pytest.fixture
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.mark.parametrize("name", ["send", "receive"])
def test_what_is_too_much_comes_again(name: str, target: Peer) -> None:
    """While one body is held another is 503 with Retry-After, and not when it is let go."""
    end = threading.Event()

    def hold(connection: socket.socket) -> None:
        assert end.wait(20)
        connection.sendall(answer_of(200, b"", ("Connection", "close")))

    target.on("/hold", hold)
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
        held = json.dumps({**large, "targetAPI": "/hold"})
        first = pool.submit(call, "POST", url, held, headers)
        wait_until(lambda: target.received("/hold"), 10, "the first call")

        refused = call("POST", url, json.dumps(large), headers)

        small = call("POST", url, json.dumps({"targetURL": target.url}), headers)
        end.set()
        assert first.result().status == small.status == 200
        for _ in range(3):  # let go after the last byte of the answer, which its caller has then
            again = json.dumps(large)
            wait_until(lambda: call("POST", url, again, headers).status == 200, 10, "room")  # noqa: B023

    assert (refused.status, refused.all("Retry-After")) == (503, ["1"])
    assert "(MAX_BODIES_BYTES)" in str(refused.json()["detail"])
