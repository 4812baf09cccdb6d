"""What the Broker does, fact by fact: a ring of the newest, from which any number of readers read.

A fact is noted as it is, and written as JSON only when it is read, so that it costs next to nothing
while nobody watches. Nothing is kept, or waited for, on a reader's behalf: whoever is too slow for
the ring is cut off.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from local.broker.delivery import Delivered, Failed
from local.broker.event import readable
from local.broker.routing import Route
from local.broker.store import Delivery
from relay.events import Event

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """An event is in the Broker.

    Attributes:
        triggers: the names of those that want it.
        reply_to: source and id of the event that it is the reply to; None when it was published.
        at: Unix time.
    """

    event: Event
    triggers: Sequence[str]
    reply_to: tuple[str, str] | None = None
    at: float = field(default_factory=time.time)

    @property
    def data_bytes(self) -> int:
        return len(self.event.data)

    @classmethod
    def from_json(cls, text: str) -> Accepted:
        """Read what `to_json` wrote."""
        document = _read(text)
        reply_to = document["reply_to"]
        return cls(
            event=Event(
                attributes=document["attributes"], data=base64.b64decode(document["data_base64"])
            ),
            triggers=document["triggers"],
            reply_to=(reply_to[0], reply_to[1]) if reply_to else None,
            at=document["at"],
        )

    def to_json(self) -> str:
        """Write the fact on one line."""
        document = {
            "attributes": dict(self.event.attributes),
            "data_base64": base64.b64encode(self.event.data).decode(),
            "triggers": self.triggers,
            "reply_to": self.reply_to,
            "at": self.at,
        }
        return json.dumps(document)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempted:
    """A delivery was tried.

    Attributes:
        source, id, type: of the event.
        to_dead_letter_sink: whether that was called, and not the Trigger's subscriber.
        attempt: counted from 1, anew for the dead letter sink.
        result: the answer's status, or what kept it from coming.
        extensions: what a failure tells the dead letter sink.
        next_step: DELIVERED, RETRY, TO_DEAD_LETTER_SINK or DROPPED.
        wait_s: until the next attempt.
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
        delivery: Delivery,
        outcome: Delivered | Failed,
        *,
        duration_ms: float,
        next_step: str,
        wait_s: float,
    ) -> Attempted:
        """Note what is to be told of an attempt, and hold on to nothing else of it."""
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

    @classmethod
    def from_json(cls, text: str) -> Attempted:
        """Read what `to_json` wrote."""
        return cls(**_read(text))

    def to_json(self) -> str:
        """Write the fact on one line."""
        return json.dumps(asdict(self))


Fact = Accepted | Attempted


def _read(text: str) -> dict[str, Any]:
    """Read a fact, in which a byte of an attribute that is not UTF-8 is taken for Latin-1."""
    fact: dict[str, Any] = json.loads(
        text,
        object_hook=lambda members: {
            name: readable(value) if isinstance(value, str) else value
            for name, value in members.items()
        },
    )
    if fact.get("reply_to"):
        fact["reply_to"] = list(map(readable, fact["reply_to"]))
    return fact


class Activity:
    """The newest facts, bounded in number and in bytes of data.

    Attributes:
        run: names this run of the Broker; facts are numbered from 1 in each.
    """

    def __init__(self) -> None:
        """Start with none."""
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
        """Yield what follows a fact, and what comes, in batches; an empty one from time to time.

        Ends when the reader has fallen behind the ring, or at `close`.

        Args:
            after: the number of the last fact that the reader has; what the ring no longer has is
                left out.
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
        """Send all readers home."""
        self._is_closed = True
        for reader in self._readers:
            reader.set()

    def _after(self, position: int) -> list[tuple[int, Fact]]:
        new = list(islice(reversed(self._facts), self._last - position))
        return list(enumerate(reversed(new), start=position + 1))[:_MAX_BATCH]
