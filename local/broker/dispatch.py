"""The queues of all Triggers, which run and stop together."""

from __future__ import annotations

import asyncio
from functools import partial

from local.broker.activity import Activity
from local.broker.attempts import Attempts
from local.broker.kafka import KafkaQueue
from local.broker.queue import Queue, TriggerQueue
from local.broker.routing import Like, Routing
from local.broker.store import EventStore, Publication


class Dispatcher:
    """Deliver what the store holds, until stopped."""

    def __init__(
        self, routing: Routing, store: EventStore, activity: Activity, like: Like = "in-memory"
    ) -> None:
        """Make a queue for each Trigger; `start` begins to deliver."""
        queue_class = KafkaQueue if like == "kafka" else TriggerQueue
        self._queues: dict[str, Queue] = {
            route.name: queue_class(
                route.name, store, partial(Attempts, route, routing, activity, self.offer)
            )
            for route in routing.all_routes()
        }

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
