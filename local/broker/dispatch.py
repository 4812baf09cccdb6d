"""The deliveries of each Trigger: started when due, bounded in number.

Every Trigger has its own queue in the store and its own places, so that a slow subscriber holds up
nobody else. Only what is being delivered is in memory, however long a queue grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from local.broker.activity import Activity
from local.broker.attempts import Attempts
from local.broker.kafka import KafkaLedger, KafkaQueue
from local.broker.routing import Like, Routing
from local.broker.store import EventStore, PendingDelivery

_MAX_IN_FLIGHT_PER_TRIGGER = 32
_PAUSE_S = 1.0
_log = logging.getLogger("local.broker")


class Dispatcher:
    """Deliver what the store holds, until stopped."""

    def __init__(
        self, routing: Routing, store: EventStore, activity: Activity, like: Like = "in-memory"
    ) -> None:
        """Make a queue for each Trigger; `start` begins to deliver."""
        self._queues: dict[str, _TriggerQueue | KafkaQueue] = {}
        for route in routing.all_routes():
            if like == "kafka":
                ledger = KafkaLedger(store)
                attempts = Attempts(route, routing, ledger, activity, self.wake)
                self._queues[route.name] = KafkaQueue(route.name, store, ledger, attempts)
            else:
                attempts = Attempts(route, routing, store, activity, self.wake)
                self._queues[route.name] = _TriggerQueue(route.name, store, attempts)
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with what earlier runs have left."""
        self._running = [asyncio.create_task(queue.run()) for queue in self._queues.values()]

    def wake(self, triggers: Iterable[str]) -> None:
        """Say that the store has something new for these Triggers."""
        for trigger in triggers:
            self._queues[trigger].wake()

    async def stop(self, grace_s: float) -> None:
        """Start nothing more, and give deliveries in flight some seconds to end.

        What does not end in time stays in the store for the next start.
        """
        for task in self._running:
            task.cancel()
        in_flight = [task for queue in self._queues.values() for task in queue.in_flight.values()]
        if in_flight:
            _, late = await asyncio.wait(in_flight, timeout=grace_s)
            for task in late:
                task.cancel()
            self._running.extend(late)
        await asyncio.gather(*self._running, return_exceptions=True)
        for queue in self._queues.values():
            if isinstance(queue, KafkaQueue):
                await queue.commit()
            queue.attempts.close()


class _TriggerQueue:
    """The pending deliveries of one Trigger."""

    def __init__(self, trigger: str, store: EventStore, attempts: Attempts) -> None:
        self.in_flight: dict[int, asyncio.Task[None]] = {}
        self.attempts = attempts
        self._trigger = trigger
        self._store = store
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            try:
                wait_s = self._start_due()
            # Whatever cannot be read now: a queue that ends would hold its events up for ever.
            except Exception:
                _log.exception("trigger=%s the store cannot be read", self._trigger)
                wait_s = _PAUSE_S
            timer = None if wait_s is None else loop.call_later(wait_s, self.wake)
            await self._woken.wait()
            if timer is not None:
                timer.cancel()

    def _start_due(self) -> float | None:
        """Start what is due as far as there are places.

        Returns:
            Seconds until the next delivery is due; None when a wake-up will tell.
        """
        now = time.time()
        free = _MAX_IN_FLIGHT_PER_TRIGGER - len(self.in_flight)
        if free == 0:
            return None
        # What is in flight is still in the store, so it comes along and is left out here.
        for event_id, due_at in self._store.next_due(self._trigger, _MAX_IN_FLIGHT_PER_TRIGGER + 1):
            if event_id in self.in_flight:
                continue
            if due_at > now:
                return due_at - now
            if free == 0:
                break
            free -= 1
            delivery = self._store.load(event_id, self._trigger)
            self.in_flight[event_id] = asyncio.create_task(self._deliver(delivery))
        return None

    async def _deliver(self, delivery: PendingDelivery) -> None:
        try:
            await self.attempts.make(delivery)
        except Exception:
            # Without the pause a defect here would be a loop at full speed.
            _log.exception(
                "trigger=%s id=%r attempt broke", self._trigger, delivery.event.attributes["id"]
            )
            await asyncio.sleep(_PAUSE_S)
        finally:
            del self.in_flight[delivery.event_id]
            self.wake()
