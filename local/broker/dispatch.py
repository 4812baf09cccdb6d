"""The queues of all Triggers, which run and stop together."""

from __future__ import annotations

import asyncio

from local.broker.activity import Activity
from local.broker.attempts import Attempts
from local.broker.kafka import KafkaLedger, KafkaQueue
from local.broker.queue import Queue, TriggerQueue
from local.broker.routing import Like, Routing
from local.broker.store import EventStore, Publication


class Dispatcher:
    """Deliver what the store holds, until stopped."""

    def __init__(
        self, routing: Routing, store: EventStore, activity: Activity, like: Like = "in-memory"
    ) -> None:
        """Make a queue for each Trigger; `start` begins to deliver."""
        self._queues: dict[str, Queue] = {}
        for route in routing.all_routes():
            if like == "kafka":
                ledger = KafkaLedger(store)
                attempts = Attempts(route, routing, ledger, activity, self.offer)
                self._queues[route.name] = KafkaQueue(route.name, store, ledger, attempts)
            else:
                attempts = Attempts(route, routing, store, activity, self.offer)
                self._queues[route.name] = TriggerQueue(route.name, store, attempts)

    def start(self) -> None:
        """Begin with what earlier runs have left."""
        for queue in self._queues.values():
            queue.wake()

    def offer(self, event_id: int, publication: Publication) -> None:
        """Say that an event is new in the store."""
        for trigger in publication.triggers:
            self._queues[trigger].offer(event_id, publication)

    async def stop(self, grace_s: float) -> None:
        """Start nothing more, and give deliveries in flight some seconds to end.

        What does not end in time stays in the store for the next start.
        """
        for queue in self._queues.values():
            queue.stop()
        in_flight = [task for queue in self._queues.values() for task in queue.in_flight]
        if in_flight:
            _, late = await asyncio.wait(in_flight, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for queue in self._queues.values():
            await queue.close()
