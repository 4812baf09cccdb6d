"""What the Broker does, fact by fact: a ring of the newest, from which any number of readers read.

A fact becomes JSON only when it is read, so that it costs next to nothing while nobody watches.
Nothing is kept on a reader's behalf: one that is too slow for the ring is cut off.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from msgspec import Struct, field

from local.broker.delivery import Delivered, Failed
from local.broker.event import Event
from local.broker.routing import Route
from local.broker.store import PendingDelivery

_MAX_FACTS = 10_000
_MAX_DATA_BYTES = 8 * 1024 * 1024
_MAX_BATCH = 500
# Readers find several facts at a time instead of being woken for each.
_PAUSE_S = 0.05
_KEEP_ALIVE_S = 15.0

DELIVERED = "delivered"
RETRY = "retry"
TO_DEAD_LETTER_SINK = "to the dead letter sink"
DROPPED = "dropped"


class Accepted(Struct, frozen=True, kw_only=True, tag_field="fact", tag="accepted"):
    """An event is in the Broker.

    Attributes:
        triggers: The names of those that want it.
        reply_to: Source and id of the event that it replies to; None when it was published.
        at: Unix time.
    """

    event: Event
    triggers: Sequence[str]
    reply_to: tuple[str, str] | None = None
    at: float = field(default_factory=time.time)

    @property
    def data_bytes(self) -> int:
        return len(self.event.data)


class Attempted(Struct, frozen=True, kw_only=True, tag_field="fact", tag="attempted"):
    """A delivery was tried.

    Attributes:
        source, id, type: The event's.
        to_dead_letter_sink: Whether that was called instead of the Trigger's subscriber.
        attempt: Counted from 1, anew for the dead letter sink.
        result: The answer's status, or why there was no answer.
        extensions: What a failure tells the dead letter sink.
        next_step: DELIVERED, RETRY, TO_DEAD_LETTER_SINK or DROPPED.
        wait_s: Until the next attempt.
        at: Unix time of the end of the attempt.
    """

    source: str
    id: str
    type: str
    trigger: str
    url: str
    to_dead_letter_sink: bool
    attempt: int
    result: str
    extensions: Mapping[str, str]
    duration_ms: float
    next_step: str
    wait_s: float = 0.0
    at: float = field(default_factory=time.time)

    @classmethod
    def of(
        cls,
        route: Route,
        delivery: PendingDelivery,
        outcome: Delivered | Failed,
        *,
        duration_ms: float,
        next_step: str,
        wait_s: float,
    ) -> Attempted:
        """Keep what readers are told of an attempt, and nothing else."""
        attributes = delivery.event.attributes
        is_dead_letter = delivery.dead_letter is not None
        url = route.dead_letter_url if is_dead_letter else route.subscriber_url
        extensions = outcome.extensions if isinstance(outcome, Failed) else None
        return cls(
            source=attributes["source"],
            id=attributes["id"],
            type=attributes["type"],
            trigger=route.name,
            url=url or "",
            to_dead_letter_sink=is_dead_letter,
            attempt=delivery.failures + 1,
            result=outcome.summary,
            extensions=extensions or {},
            duration_ms=duration_ms,
            next_step=next_step,
            wait_s=wait_s,
        )

    @property
    def data_bytes(self) -> int:
        return 0


Fact = Accepted | Attempted


class Activity:
    """The newest facts, bounded in number and in bytes of data.

    Attributes:
        run: Names this run of the Broker; facts are numbered from 1 in each.
    """

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex[:8]
        self._facts: deque[Fact] = deque()
        self._data_bytes = 0
        self._last = 0
        self._readers: set[asyncio.Event] = set()
        self._is_closed = False

    def note(self, fact: Fact) -> None:
        """Add a fact, and drop the oldest beyond the bounds."""
        self._facts.append(fact)
        self._last += 1
        self._data_bytes += fact.data_bytes
        while len(self._facts) > _MAX_FACTS or self._data_bytes > _MAX_DATA_BYTES:
            self._data_bytes -= self._facts.popleft().data_bytes
        for reader in self._readers:
            reader.set()

    async def read(self, after: int) -> AsyncIterator[list[tuple[int, Fact]]]:
        """Yield the facts after one, and new ones as they come, in batches; some are empty.

        Ends when the reader has fallen behind the ring, or at `close`.

        Args:
            after: The number of the last fact that the reader has. Those that the ring no longer
                has are left out.
        """
        position = min(max(after, self._last - len(self._facts)), self._last)
        woken = asyncio.Event()
        self._readers.add(woken)
        try:
            while not self._is_closed and position >= self._last - len(self._facts):
                woken.clear()
                batch = self._after(position)
                position += len(batch)
                yield batch
                if position == self._last:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(woken.wait(), _KEEP_ALIVE_S)
                await asyncio.sleep(_PAUSE_S)
        finally:
            self._readers.discard(woken)

    def close(self) -> None:
        """End every reader's stream."""
        self._is_closed = True
        for reader in self._readers:
            reader.set()

    def _after(self, position: int) -> list[tuple[int, Fact]]:
        new = list(islice(reversed(self._facts), self._last - position))
        return list(enumerate(reversed(new), start=position + 1))[:_MAX_BATCH]
