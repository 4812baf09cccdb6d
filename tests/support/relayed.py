"""A request through the real functions, with a Broker that lets every event be seen.

Send and Receive are served by functions-framework. The Broker is the test: it takes what Send
publishes, delivers it to Receive, and publishes what each of them replies, as Knative's does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, Received
from tests.support.processes import wait_until

TYPE = "dev.knative.samples.t2"
MAX_EVENT_BYTES = 1_000_000

_BROKER_PATH = "/default/default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """An event as the relay wrote it, in binary mode."""

    headers: Mapping[str, str]
    data: bytes

    @property
    def type(self) -> str:
        return self.headers["ce-type"]

    @property
    def id(self) -> str:
        return self.headers["ce-id"]

    def size_bytes(self) -> int:
        """Count the attributes as header lines, and the data."""
        lines = (len(f"{name}: {value}\r\n".encode()) for name, value in self.headers.items())
        return sum(lines) + len(self.data)


@dataclass
class Relayed:
    """The functions, their target, and the events that passed."""

    send: Function
    receive: Function
    target: Peer
    broker: Peer
    events: list[Written] = field(default_factory=list)

    def envelope(self, path: str, **fields: object) -> str:
        """Write an envelope for a path of the target."""
        return json.dumps({"targetURL": self.target.url, "targetAPI": path, **fields})

    def published(self) -> list[Written]:
        """Take what Send has published."""
        taken = [_written(each.headers, each.body) for each in _taken(self.broker.requests)]
        self.events += taken
        return taken

    def deliver(self, event: Written) -> Answer:
        """Deliver an event to its subscriber, and deliver what is replied, to the end.

        Returns:
            the subscriber's own answer.
        """
        is_request = event.type == TYPE or event.type.startswith(f"{TYPE}.retry")
        url = self.receive.url if is_request else f"{self.send.url}/event/callback"
        answer = call("POST", url, event.data, event.headers)
        assert answer.status in (200, 202), (answer.status, answer.body)
        if answer.all("ce-type"):
            reply = _written(answer.headers, answer.body)
            self.events.append(reply)
            self.deliver(reply)
        return answer

    def run(self, body: str | bytes, **headers: str) -> Answer:
        """Accept a request and bring it to its end, while its caller waits for it if it says so."""
        with ThreadPoolExecutor(1) as pool:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            asked = pool.submit(call, "POST", f"{self.send.url}/async", body, named)
            wait_until(lambda: self.broker.requests or asked.done(), 20, "the event")
            for event in self.published():
                self.deliver(event)
            return asked.result()

    def status(self, request_id: str) -> dict[str, object]:
        return call("GET", f"{self.send.url}/async/{request_id}").json()


def _taken(requests: list[Received]) -> list[Received]:
    taken = list(requests)
    del requests[: len(taken)]
    return taken


def _written(headers: tuple[tuple[str, str], ...], data: bytes) -> Written:
    return Written(
        headers={
            name.lower(): value
            for name, value in headers
            if name.lower() == "content-type" or name.lower().startswith("ce-")
        },
        data=data,
    )


@contextmanager
def relayed(**settings: str) -> Iterator[Relayed]:
    """Serve both functions while the block runs."""
    with ExitStack() as stack:
        target = stack.enter_context(peers.serving())
        broker = stack.enter_context(peers.serving(peers.ACCEPTED))
        env = {"ALLOWED_TARGETS": "127.0.0.1", "LOG_LEVEL": "WARNING", **settings}
        sink = {"K_SINK": f"{broker.url}{_BROKER_PATH}"}
        yield Relayed(
            send=stack.enter_context(serving("send", env | sink)),
            receive=stack.enter_context(serving("receive", env)),
            target=target,
            broker=broker,
        )
