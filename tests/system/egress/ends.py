"""Both ends where the policy holds: Send, with a request, and Receive, with an event.

Each is asked in this process, and as functions-framework serves it, in a process of its own. That
one is on the network of the tests as well: it asks here for each name and address.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Client, Listener

import pytest

from relay.http import Request, Response
from relay.problems import RelayError
from relay.receive import Receive, refusal
from relay.send import Send
from relay.settings import Settings
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.system.egress.network import DNS, Network, Server, join, network

SYNC, ASYNC, RECEIVE = "/sync", "/async", "/"
IN_PROCESS, RUNNING = "in process", "running"

EndName = tuple[str, str]
ENDS: list[EndName] = [
    (how, path) for how in (IN_PROCESS, RUNNING) for path in (SYNC, ASYNC, RECEIVE)
]
CALLING_ENDS = [(how, path) for how, path in ENDS if path != ASYNC]

_EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/tests",
    "ce-type": Settings().event_type,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an end has answered, and what it has done on the network."""

    answer: Answer
    lookups: list[str]
    connections: list[tuple[str, int]]


def name_of(end: EndName) -> str:
    how, path = end
    return f"{how} {path.removeprefix('/') or 'receive'}"


class End(ABC):
    """One end.

    Args:
        path: of the request that it is asked with; `RECEIVE` for an event.
        server: what all addresses lead to.
    """

    def __init__(self, path: str, server: Server) -> None:
        self.path = path
        self._server = server

    @abstractmethod
    def ask(self, envelope: object, *, dns: DNS, env: Mapping[str, str]) -> Outcome:
        """Hand in an envelope.

        Args:
            dns: see `Network`.
            env: the settings.
        """


class InProcess(End):
    def ask(self, envelope: object, *, dns: DNS, env: Mapping[str, str]) -> Outcome:
        body = json.dumps(envelope).encode()
        with network(self._server, dns) as outside:
            response = self._handle(Settings.from_env(env), body)
            answer = Answer(
                status=response.status, headers=response.headers, body=b"".join(response.body)
            )
        return Outcome(answer=answer, lookups=outside.lookups, connections=outside.connections)

    def _handle(self, settings: Settings, body: bytes) -> Response:
        headers = {"content-type": "application/json"}
        if self.path != RECEIVE:
            request = Request(
                method="POST",
                path=self.path,
                query="",
                headers=headers,
                stream=io.BytesIO(body),
                content_length=len(body),
            )
            return Send(settings).handle(request)
        function = Receive(settings)
        try:
            delivery = function.read(headers | _EVENT, body)
        except RelayError as exc:
            return refusal(exc)
        return function.handle(delivery)


class Running(End):
    def __init__(self, path: str, server: Server, functions: Functions) -> None:
        super().__init__(path, server)
        self._functions = functions

    def ask(self, envelope: object, *, dns: DNS, env: Mapping[str, str]) -> Outcome:
        headers = {"Content-Type": "application/json"}
        name = "receive" if self.path == RECEIVE else "send"
        if name == "receive":
            headers |= _EVENT
        function = self._functions.start(name, env)
        outside = self._functions.network = Network(self._server, dns)
        answer = call("POST", function.url + self.path, json.dumps(envelope), headers)
        return Outcome(answer=answer, lookups=outside.lookups, connections=outside.connections)


class Functions:
    """Serve one Send and one Receive, each with the settings that were asked for last."""

    def __init__(self) -> None:
        self.network: Network | None = None
        self._listener = Listener(family="AF_UNIX", backlog=16)
        self._running: dict[str, tuple[Mapping[str, str], Function]] = {}
        self._stop: dict[str, contextlib.ExitStack] = {}
        threading.Thread(target=self._answer_all, daemon=True).start()

    def start(self, name: str, env: Mapping[str, str]) -> Function:
        """Serve a function, unless it is being served with these settings."""
        if name not in self._running or self._running[name][0] != env:
            self.stop(name)
            program = ("-m", "tests.system.egress.ends", str(self._listener.address))
            stop = self._stop[name] = contextlib.ExitStack()
            self._running[name] = env, stop.enter_context(serving(name, env, program=program))
        return self._running[name][1]

    def stop(self, *names: str) -> None:
        for name in names:
            self._running.pop(name, None)
            self._stop.pop(name, contextlib.ExitStack()).close()

    def close(self) -> None:
        self.stop("send", "receive")
        self._listener.close()

    def _answer_all(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with self._listener.accept() as connection:
                    method, *arguments = connection.recv()
                    try:
                        connection.send(getattr(self.network, method)(*arguments))
                    except OSError as exc:
                        connection.send(exc)


def main(address: str, *arguments: str) -> None:
    """Run functions-framework on the network of the process that listens at this address."""
    from functions_framework._cli import _cli

    def ask(*question: object) -> object:
        with Client(address, family="AF_UNIX") as connection:
            connection.send(question)
            answer: object = connection.recv()
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.MonkeyPatch.context() as patch:
        join(
            lambda host, port: ask("look_up", host, port),  # type: ignore[arg-type,return-value]
            lambda host, family: ask("lead", host, family),  # type: ignore[arg-type,return-value]
            patch,
        )
        sys.argv = ["functions_framework", *arguments]
        _cli()


if __name__ == "__main__":
    main(*sys.argv[1:])
