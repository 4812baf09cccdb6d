"""The event display on its own, before a Broker whose words the test chooses."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec
import pytest

from local.broker.activity import Fact
from tests.support.peers import serving, until_gone
from tests.support.processes import free_port, python, running


class Displaying(Protocol):
    """Run a display that is told these facts, and give its URL."""

    def __call__(
        self, facts: Iterable[Fact], port: int | None = None
    ) -> AbstractContextManager[str]: ...


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.fixture(scope="session")
def displaying() -> Displaying:
    return _displaying


@contextmanager
def _displaying(facts: Iterable[Fact], port: int | None = None) -> Iterator[str]:
    lines = [
        f"id: run-{number}\ndata: {msgspec.json.encode(fact).decode()}\n\n"
        for number, fact in enumerate(facts, start=1)
    ]

    def tell(connection: socket.socket) -> None:
        connection.sendall(_HEAD + "".join(lines).encode())
        until_gone(connection)

    port = port or free_port()
    with serving() as broker:
        broker.on("/activity", tell)
        command = python("-m", "local.display", "--port", str(port), "--broker", broker.url)
        # No Send is there: what the buttons ask for is answered with a problem.
        command += ["--send", f"http://127.0.0.1:{free_port()}"]
        with running(command, ready_output=f"event display on http://127.0.0.1:{port}"):
            yield f"http://127.0.0.1:{port}"
