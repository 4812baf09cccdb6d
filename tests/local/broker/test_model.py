"""Whatever happens to the Broker, in whatever order, it never loses an event it acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from local.broker.activity import Activity
from local.broker.dispatch import Dispatcher
from local.broker.filters import AttributesFilter
from local.broker.ingress import Ingress
from local.broker.routing import Route, Routing
from local.broker.store import EventStore
from local.manifests import DeliverySpec, Destination, TriggerSpec
from tests.local.broker.harness import REQUIRED

T = TypeVar("T")

SETTLE_TIMEOUT_S = 20.0
# More than an event can fail, so that a dead letter means an answer that is not retried.
RETRY = 100
ANSWERS = {
    "taken": b"HTTP/1.1 204 No Content\r\n\r\n",
    "busy": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "refused": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "closed": b"",
}
failures = st.lists(st.sampled_from(["busy", "closed", "slow"]), max_size=3)
endings = st.sampled_from(["taken", "reply", "refused"])


class Subscriber:
    """Answers by script in the Broker's own event loop, so that it can be stopped at any step.

    Attributes:
        scripts: what each event's calls are answered with, by its id; the last is repeated.
        taken: what has been answered as the last of a script, by path and `ce-id`.
        hears: false while a Broker dies; what it still sends then never arrived.
    """

    def __init__(self) -> None:
        self.scripts: dict[str, list[str]] = {}
        self.taken: set[tuple[str, str]] = set()
        self.hears = True
        self._calls: Counter[tuple[str, str]] = Counter()
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    await writer.drain()
        finally:
            writer.close()
            self._connections.discard(connection)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (e.partition(":") for e in lines)
        }
        await reader.readexactly(int(headers.get("content-length", "0")))
        if not self.hears:
            return False
        path, event_id = request_line.split(" ")[1], headers["ce-id"]
        # The dead letter sink and the subscriber of replies are busy the first time.
        script = self.scripts[event_id] if path == "/requests" else ["busy", "taken"]
        call = self._calls[path, event_id]
        self._calls[path, event_id] += 1
        answer = script[min(call, len(script) - 1)]
        if answer == "slow":
            await asyncio.sleep(0.02)
            answer = "busy"
        if answer == "reply":
            reply = {**REQUIRED, "ce-id": event_id, "ce-type": "reply", "content-length": "0"}
            text = "".join(f"{name}: {value}\r\n" for name, value in reply.items())
            writer.write(f"HTTP/1.1 200 OK\r\n{text}\r\n".encode())
        else:
            writer.write(ANSWERS[answer])
        if call >= len(script) - 1:
            self.taken.add((path, event_id))
        return answer != "closed"


class BrokerModel(RuleBasedStateMachine):
    """The real ingress, dispatcher and store on a real file; a crash leaves the file as it is."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.life = 0
        self.count = 0
        self.acknowledged: set[str] = set()
        self.subscriber = Subscriber()
        url = self.run(self.subscriber.start())
        spec = DeliverySpec(retry=RETRY)
        routes = [
            Route(
                name=f"default/{each}",
                namespace="default",
                broker="default/default",
                spec=TriggerSpec(
                    broker="default",
                    subscriber=Destination(uri=f"{url}/{each}"),
                    filter=AttributesFilter(attributes={"type": each}),
                ),
                delivery=spec,
                subscriber_url=f"{url}/{each}",
                dead_letter_url=f"{url}/dead-letters",
            )
            for each in ("requests", "reply")
        ]
        self.routing = Routing(base_url=url, routes={"default/default": tuple(routes)})
        self.run(self.open())

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Let the Broker and its subscriber go on until the coroutine has ended."""
        return self.loop.run_until_complete(coroutine)

    async def open(self) -> None:
        """Begin a life of the Broker with the files that the last one left."""
        self.store = EventStore(self.folder / str(self.life))
        activity = Activity()
        self.dispatcher = Dispatcher(self.routing, self.store, activity)
        ingress = Ingress(self.routing, self.store, self.dispatcher, activity, max_event_bytes=1000)
        self.publisher = httpx.AsyncClient(
            transport=httpx.ASGITransport(ingress.app(None)), base_url="http://127.0.0.1"
        )
        self.dispatcher.start()

    async def end(self, grace_s: float) -> None:
        """Release what a life of the Broker holds."""
        await self.dispatcher.stop(grace_s)
        await self.store.close()
        await self.publisher.aclose()

    async def publish(self, event_id: str) -> None:
        """Publish, and note the event when it is acknowledged."""
        headers = {**REQUIRED, "ce-id": event_id, "ce-type": "requests"}
        response = await self.publisher.post("/default/default", headers=headers, content=b"{}")
        assert response.status_code == 202
        self.acknowledged.add(event_id)

    async def crash(self) -> None:
        """Go on with the files as they are at this moment, whatever was about to be written."""
        dead = self.folder / str(self.life)
        self.life += 1
        born = self.folder / str(self.life)
        born.mkdir()
        for name in ("broker.sqlite3", "broker.sqlite3-wal"):  # in this order: the log is ahead
            shutil.copy(dead / name, born / name)
        acknowledged = set(self.acknowledged)
        self.subscriber.hears = False
        await self.end(0)
        self.acknowledged = acknowledged
        self.subscriber.hears = True
        await self.open()

    @rule(target=ids, failures=failures, ending=endings)
    def publish_new(self, failures: list[str], ending: str) -> str:
        """Publish an event that fails so often before its subscriber answers for good."""
        self.count += 1
        event_id = str(self.count)
        self.subscriber.scripts[event_id] = [*failures, ending]
        self.run(self.publish(event_id))
        return event_id

    @rule(event_id=ids)
    def publish_again(self, event_id: str) -> None:
        """Publish a duplicate, as a publisher does that heard nothing."""
        self.run(self.publish(event_id))

    @rule(target=ids, ending=endings, turns=st.integers(0, 12))
    def crash_while_publishing(self, ending: str, turns: int) -> str:
        """Crash when so many steps of the event loop have gone into a publication."""

        async def interrupted() -> None:
            publishing = asyncio.ensure_future(self.publish(event_id))
            for _ in range(turns):
                await asyncio.sleep(0)
            await self.crash()
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

        self.count += 1
        event_id = str(self.count)
        self.subscriber.scripts[event_id] = [ending]
        self.run(interrupted())
        return event_id

    @rule(turns=st.integers(1, 30))
    def deliver(self, turns: int) -> None:
        """Let deliveries go on for a while, and leave them in the middle."""

        async def go_on() -> None:
            for _ in range(turns):
                await asyncio.sleep(0.001)

        self.run(go_on())

    @rule()
    def crash_now(self) -> None:
        """Crash with whatever is in flight."""
        self.run(self.crash())

    @rule()
    def restart(self) -> None:
        """Stop in order, and start on the same files."""
        self.run(self.end(1.0))
        self.run(self.open())

    def teardown(self) -> None:
        """Let everything be delivered, then ask for each event that was acknowledged."""

        async def settle() -> None:
            give_up_at = self.loop.time() + SETTLE_TIMEOUT_S
            while self.store.count_pending() and self.loop.time() < give_up_at:
                await asyncio.sleep(0.005)

        try:
            self.run(settle())
            pending = self.store.count_pending()
            expected = set()
            for event_id in self.acknowledged:
                expected.add(("/requests", event_id))
                ending = self.subscriber.scripts[event_id][-1]
                if ending != "taken":
                    path = "/reply" if ending == "reply" else "/dead-letters"
                    expected.add((path, event_id))

            assert pending == {}
            assert expected - self.subscriber.taken == set()
        finally:
            self.run(self.end(0))
            self.run(self.subscriber.stop())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            shutil.rmtree(self.folder)


TestBrokerModel = BrokerModel.TestCase
TestBrokerModel.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
