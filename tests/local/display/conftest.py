"""The event display on its own, before a Broker whose words the test chooses."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec
import pytest

from local.broker.activity import Batch, Fact
from tests.support.peers import answer_of, serving
from tests.support.processes import free_port, python, running


class Displaying(Protocol):
    """Run a display that is told these facts, and give its URL."""

    def __call__(
        self, facts: Iterable[Fact], port: int | None = None
    ) -> AbstractContextManager[str]: ...


@pytest.fixture(scope="session")
def displaying() -> Displaying:
    return _displaying


@contextmanager
def _displaying(facts: Iterable[Fact], port: int | None = None) -> Iterator[str]:
    told = list(facts)

    def tell(connection: socket.socket) -> None:
        known = len(told) if broker.requests[-1].target.endswith(f"=run-{len(told)}") else 0
        batch = Batch(run="run", first=known + 1, facts=told[known:])
        connection.sendall(answer_of(200, msgspec.json.encode(batch), ("Connection", "close")))

    port = port or free_port()
    with serving() as broker:
        broker.on("/activity", tell)
        command = python("-m", "local.display", "--port", str(port), "--broker", broker.url)
        # No Send is there: what the buttons ask for is answered with a problem.
        command += ["--send", f"http://127.0.0.1:{free_port()}"]
        with running(command, ready_output=f"event display on http://127.0.0.1:{port}"):
            yield f"http://127.0.0.1:{port}"
