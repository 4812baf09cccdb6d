"""What the Broker does, fact by fact: a ring of the newest, for any number of readers.

A fact becomes JSON only when it is read, so that it costs next to nothing while nobody watches.
Nothing is kept on a reader's behalf: one that is too slow for the ring misses facts. They are no
part of a cycle, so the garbage collector is spared them (`gc=False`).
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from msgspec import Struct, field
from msgspec.structs import force_setattr

from local.broker.event import readable
from relay.events import Event

_MAX_FACTS = 10_000
_MAX_DATA_BYTES = 8 * 1024 * 1024
_MAX_BATCH = 1000

DELIVERED = "delivered"
RETRY = "retry"
TO_DEAD_LETTER_SINK = "to the dead letter sink"
DROPPED = "dropped"


class Accepted(Struct, frozen=True, kw_only=True, tag_field="fact", tag="accepted", gc=False):
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

    def __post_init__(self) -> None:
        """Make the attributes readable: as bytes of a header they may not be UTF-8."""
        attributes = self.event.attributes
        if not all(value.isascii() for value in attributes.values()):
            shown = {name: readable(value) for name, value in attributes.items()}
            force_setattr(self, "event", Event(attributes=shown, data=self.event.data))
        if self.reply_to is not None:
            source, event_id = self.reply_to
            force_setattr(self, "reply_to", (readable(source), readable(event_id)))


class Attempted(Struct, frozen=True, kw_only=True, tag_field="fact", tag="attempted", gc=False):
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


Fact = Accepted | Attempted


class Batch(Struct, frozen=True, kw_only=True):
    """Facts in a row.

    Attributes:
        run: Names a run of the Broker; facts are numbered from 1 in each.
        first: The number of the first fact, or of the next one when there is none yet.
    """

    run: str
    first: int
    facts: list[Fact]


class Activity:
    """The newest facts, bounded in number and in bytes of data."""

    def __init__(self) -> None:
        self._run = uuid.uuid4().hex[:8]
        self._facts: deque[Fact] = deque()
        self._data_bytes = 0
        self._last = 0

    def note(self, fact: Fact) -> None:
        """Add a fact, and drop the oldest beyond the bounds."""
        self._facts.append(fact)
        self._last += 1
        self._data_bytes += _data_bytes(fact)
        while len(self._facts) > _MAX_FACTS or self._data_bytes > _MAX_DATA_BYTES:
            self._data_bytes -= _data_bytes(self._facts.popleft())

    def read(self, run: str, after: int) -> Batch:
        """Return the facts after one, or the oldest that are left.

        Args:
            run, after: The run and the number of the last fact that the reader has.
        """
        oldest = self._last - len(self._facts)
        position = min(max(after if run == self._run else 0, oldest), self._last)
        new = list(islice(reversed(self._facts), self._last - position))
        return Batch(run=self._run, first=position + 1, facts=new[::-1][:_MAX_BATCH])


def _data_bytes(fact: Fact) -> int:
    return len(fact.event.data) if isinstance(fact, Accepted) else 0
