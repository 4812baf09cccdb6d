"""The deliveries of one Trigger as the dispatcher of Knative's Kafka Broker makes them.

What differs from the in-memory Broker, and what a system must stand:

- at most 50 records of a Trigger are in hand (`max.poll.records`), and one that waits for its retry
  is among them;
- a reply is published before its record counts as done;
- every 5 s a commit lets go of what is done, up to the oldest record that is not: a restart repeats
  all that comes after it, and begins its attempts anew.

Its other rules are in the routes: see `Routing.from_manifests`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from local.broker.attempts import Attempts, Ledger
from local.broker.database import StoreError
from local.broker.queue import PAUSE_S, Queue
from local.broker.store import EventStore, PendingDelivery, Publication

MAX_POLL_RECORDS = 50
_COMMIT_INTERVAL_S = 5.0
_log = logging.getLogger("local.broker")


class KafkaQueue(Queue):
    """The records of one Trigger, from the last commit on, and what became of the last attempts.

    That is in memory alone, until a commit.
    """

    def __init__(
        self, trigger: str, store: EventStore, attempts: Callable[[Ledger], Attempts]
    ) -> None:
        super().__init__(trigger, store, attempts(self))
        self._postponed: dict[int, tuple[float, PendingDelivery]] = {}
        self._waiting: set[int] = set()
        self._position = 0
        self._committing: asyncio.Task[None] | None = None

    async def finish(
        self, delivery: PendingDelivery, reply: Publication | None = None
    ) -> int | None:
        """Publish the reply; the delivery itself waits for the next commit."""
        return None if reply is None else await self._store.add(reply)

    async def postpone(self, delivery: PendingDelivery, due_at: float) -> None:
        self._postponed[delivery.event_id] = (due_at, delivery)

    @property
    def in_flight(self) -> list[asyncio.Task[None]]:
        in_hand = self.in_hand.items()
        return [task for event_id, task in in_hand if event_id not in self._waiting]

    def offer(self, event_id: int, publication: Publication) -> None:
        """Read it from the store when it is its turn."""
        self.wake()

    def _start(self) -> None:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_regularly())
        free = MAX_POLL_RECORDS - len(self.in_hand)
        if free == 0:
            return
        for event_id in self._store.ids_after(self._trigger, self._position, free):
            self._position = event_id
            self.in_hand[event_id] = asyncio.create_task(self._deliver(event_id))

    async def _deliver(self, event_id: int) -> None:
        """Make the attempts of one record until it has ended."""
        delivery = self._store.load(event_id, self._trigger)
        while True:
            try:
                await self._attempts.settle(await self._attempts.make(delivery))
            except Exception:
                _log.exception(
                    "trigger=%s id=%r attempt broke", self._trigger, delivery.event.attributes["id"]
                )
                await asyncio.sleep(PAUSE_S)
                continue
            if event_id not in self._postponed:
                break
            due_at, delivery = self._postponed.pop(event_id)
            self._waiting.add(event_id)
            await asyncio.sleep(due_at - time.time())
            self._waiting.remove(event_id)
        # Not where a stop has cancelled this: the record would count as done.
        del self.in_hand[event_id]
        self.wake()

    async def close(self) -> None:
        if self._committing is not None:
            self._committing.cancel()
        await self._commit()
        await super().close()

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        """Let go of what is done, up to the oldest record that is not."""
        try:
            await self._store.forget(
                self._trigger, before=min(self.in_hand, default=self._position + 1)
            )
        except StoreError as exc:
            _log.error("trigger=%s not committed: %s", self._trigger, exc)
