"""The deliveries of one Trigger: started when due, bounded in number.

Every Trigger has its own queue in the store and its own places, so that a slow subscriber holds up
nobody else. Only what is about to be delivered is in memory, however long a queue grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from local.broker.attempts import Attempts, Ledger
from local.broker.store import EventStore, PendingDelivery, Publication

PAUSE_S = 1.0
_MAX_CALLS = 32
# With what has been answered and waits for the disk.
_MAX_IN_HAND = 128
_MAX_READY = 32
_log = logging.getLogger("local.broker")


class Queue(ABC):
    """What `wake` starts, until stopped.

    Attributes:
        in_hand: What is being delivered, by the id of the event.
    """

    def __init__(self, trigger: str, store: EventStore, attempts: Attempts) -> None:
        self.in_hand: dict[int, asyncio.Task[None]] = {}
        self._trigger = trigger
        self._store = store
        self._attempts = attempts
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    @property
    def in_flight(self) -> list[asyncio.Task[None]]:
        """What a stop waits for."""
        return list(self.in_hand.values())

    @abstractmethod
    def offer(self, event_id: int, publication: Publication) -> None:
        """Take a delivery that is new in the store."""

    @abstractmethod
    def _start(self) -> None:
        """Start deliveries as far as there are places."""

    def wake(self) -> None:
        """Go on where there may be something to start."""
        if self._is_stopped:
            return
        try:
            self._start()
        # Whatever cannot be read now: a queue that ends would hold its events up for ever.
        except Exception:
            _log.exception("trigger=%s the store cannot be read", self._trigger)
            self._look_in(PAUSE_S)

    def look(self) -> None:
        """Go on where the store may have something that was not offered."""
        self.wake()

    def _look_in(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.look)

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """Close the connections; nothing is in flight any more."""
        self._attempts.close()


class TriggerQueue(Queue):
    """The pending deliveries of one Trigger, the earliest due first."""

    def __init__(
        self, trigger: str, store: EventStore, attempts: Callable[[Ledger], Attempts]
    ) -> None:
        super().__init__(trigger, store, attempts(store))
        self._calls = 0
        self._ready: deque[PendingDelivery] = deque()
        # Whether the store may have something due that is not in memory.
        self._is_behind = True

    def offer(self, event_id: int, publication: Publication) -> None:
        """Take a new delivery from memory, unless older ones wait in the store."""
        # The store may have been read since the event was committed.
        if self._is_behind or len(self._ready) == _MAX_READY or event_id in self.in_hand:
            self._is_behind = True
        else:
            self._ready.append(publication.delivery(event_id, self._trigger))
        self.wake()

    def look(self) -> None:
        self._is_behind = True
        self.wake()

    def _start(self) -> None:
        while self._calls < _MAX_CALLS and len(self.in_hand) < _MAX_IN_HAND:
            if not self._ready and self._is_behind:
                self._read()
            if not self._ready:
                return
            delivery = self._ready.popleft()
            self._calls += 1
            self.in_hand[delivery.event_id] = asyncio.create_task(self._deliver(delivery))

    def _read(self) -> None:
        """Fetch what is due next, or find out when that will be."""
        now = time.time()
        # What is in hand is still in the store, so it comes along and is left out here.
        for event_id, due_at in self._store.next_due(self._trigger, len(self.in_hand) + _MAX_READY):
            if event_id in self.in_hand:
                continue
            if due_at > now:
                self._look_in(due_at - now)
                break
            self._ready.append(self._store.load(event_id, self._trigger))
        self._is_behind = bool(self._ready)

    async def _deliver(self, delivery: PendingDelivery) -> None:
        is_pending = True
        try:
            try:
                attempt = await self._attempts.make(delivery)
            finally:
                self._calls -= 1
                self.wake()
            is_pending = await self._attempts.settle(attempt)
        except Exception:
            # Without the pause a defect here would be a loop at full speed.
            _log.exception(
                "trigger=%s id=%r attempt broke", self._trigger, delivery.event.attributes["id"]
            )
            await asyncio.sleep(PAUSE_S)
        finally:
            del self.in_hand[delivery.event_id]
            self._is_behind |= is_pending
            self.wake()
