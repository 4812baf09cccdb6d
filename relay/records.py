"""What became of each request: written fact by fact as events come in, read as one document.

The facts of a request, each under its own key and in any order of arrival:

    accepted   when, and the callback it asked for
    result     when, completed or failed, and the target's answer
    dead       when, why, and the event itself, to be published again
    retried    when it was published again
    attempts   how often Receive has called the target
    callback   one key for each callback that the target sent

A result outweighs a dead letter: whatever a second delivery of the same event ran into, the target
has answered.
"""

from __future__ import annotations

import base64
import datetime
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from relay.events import JSON, RESULTS, Event
from relay.results import readable
from relay.state import State

ACCEPTED: Final = "accepted"
DEAD: Final = "dead"

MAX_CALLBACKS: Final = 20
DEAD_LISTED: Final = 100

# How often a waiting caller looks when another process may have got the result.
_POLL_S: Final = 0.25

Fact = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known about one request.

    Args:
        id: its event's id.
        status: `accepted`, `completed`, `failed` or `dead`.
        attempts: how often the target was called; 0 when nobody counted.
        accepted, result, dead: the facts of these names, None where there is none.
        callbacks: what the target called back with, in the order it came.
    """

    id: str
    status: str
    attempts: int
    accepted: Fact | None
    result: Fact | None
    dead: Fact | None
    callbacks: tuple[Fact, ...]

    @classmethod
    def accepted_now(cls, request_id: str) -> Record:
        """Return what is known of a request that has just been accepted."""
        return cls(
            id=request_id,
            status=ACCEPTED,
            attempts=0,
            accepted=None,
            result=None,
            dead=None,
            callbacks=(),
        )

    def answer(self) -> Fact | None:
        """Return the data of the result event; None while there is none."""
        return None if self.result is None else cast("Fact", self.result["answer"])

    def document(self) -> dict[str, object]:
        """Return what a caller is told; nothing of the request itself, which holds secrets."""
        document: dict[str, object] = {"id": self.id, "status": self.status}
        if self.accepted is not None:
            document["acceptedAt"] = self.accepted["at"]
        if self.attempts:
            document["attempts"] = self.attempts
        if self.status in RESULTS and self.result is not None:
            document["finishedAt"] = self.result["at"]
            document["answer"] = self.result["answer"]
        if self.status == DEAD and self.dead is not None:
            document["finishedAt"] = self.dead["at"]
            document["reason"] = self.dead["reason"]
        if self.callbacks:
            document["callbacks"] = [
                {name: value for name, value in fact.items() if name != "eventId"}
                for fact in self.callbacks
            ]
        return document


class Records:
    """Write and read what became of requests.

    Args:
        state: where the facts are kept.

    Every method raises `StateUnavailable` when the state cannot be reached.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._changed = threading.Condition()
        self._changes = 0

    def accept(self, request_id: str, *, callback: Mapping[str, object] | None) -> None:
        """Note a request before it is published, so that no result can come before it."""
        self._state.set(f"{request_id}:accepted", {"at": now(), "callback": callback})

    def forget(self, request_id: str) -> None:
        """Take back `accept`: the request was not published."""
        self._state.delete(f"{request_id}:accepted")

    def note_attempt(self, request_id: str, number: int) -> None:
        """Note how many calls to the target have begun."""
        self._state.set(f"{request_id}:attempts", number)

    def finish(self, request_id: str, status: str, answer: object, attempts: int) -> None:
        """Note a result event.

        Args:
            status: `completed` or `failed`.
            answer: the event's data.
            attempts: how many calls it took.
        """
        fact = {"at": now(), "status": status, "answer": answer, "attempts": attempts}
        self._state.set(f"{request_id}:result", fact)
        self._tell_waiting()

    def bury(self, event: Event, reason: Mapping[str, object]) -> None:
        """Note a dead letter, and keep its event to be published again."""
        kept = {
            "attributes": {
                name: value
                for name, value in event.attributes.items()
                if not name.startswith("knative")
            },
            "data": base64.b64encode(event.data or b"").decode("ascii"),
        }
        fact = {"at": now(), "reason": dict(reason), "event": kept}
        self._state.set(f"{event.id}:dead", fact)
        self._state.delete(f"{event.id}:retried")  # a request may die again
        place = self._state.count("dead:count") % DEAD_LISTED
        self._state.set(f"dead:{place}", event.id)
        self._tell_waiting()

    def exhume(self, record: Record) -> Event | None:
        """Take the event of a dead request, once; None for whoever comes second."""
        if record.dead is None or not self._state.add(f"{record.id}:retried", {"at": now()}):
            return None
        kept = cast("Fact", record.dead["event"])
        data = base64.b64decode(cast("str", kept["data"]))
        return Event(attributes=cast("dict[str, str]", kept["attributes"]), data=data)

    def rebury(self, request_id: str) -> None:
        """Take back `exhume`: the event was not published."""
        self._state.delete(f"{request_id}:retried")

    def add_callback(self, request_id: str, event: Event) -> None:
        """Note what a target called back with; the same event delivered twice is noted once."""
        fact: Fact = {"receivedAt": now(), "eventId": event.id, **_data_of(event)}
        for place in range(MAX_CALLBACKS):
            key = f"{request_id}:callback:{place}"
            if self._state.add(key, fact):
                return
            noted = self._state.get(key)
            if isinstance(noted, dict) and noted.get("eventId") == event.id:
                return

    def read(self, request_id: str) -> Record | None:
        """Put together what is known; None when the id is unknown, or its time is over."""
        accepted = self._fact(f"{request_id}:accepted")
        result = self._fact(f"{request_id}:result")
        dead = self._fact(f"{request_id}:dead")
        if accepted is None and result is None and dead is None:
            return None
        status = ACCEPTED
        attempts: object = None
        if result is not None:
            status, attempts = str(result["status"]), result["attempts"]
        elif dead is not None and self._state.get(f"{request_id}:retried") is None:
            status, attempts = DEAD, cast("Fact", dead["reason"]).get("attempts")
        attempts = attempts or self._state.get(f"{request_id}:attempts")
        return Record(
            id=request_id,
            status=status,
            attempts=attempts if isinstance(attempts, int) else 0,
            accepted=accepted,
            result=result,
            dead=dead,
            callbacks=tuple(self._callbacks(request_id)),
        )

    def wait(self, request_id: str, timeout_s: float) -> Record | None:
        """Wait until a request is no longer open, or the time is over; then read it."""
        until = time.monotonic() + timeout_s
        while True:
            with self._changed:
                seen = self._changes
            record = self.read(request_id)
            left_s = until - time.monotonic()
            if record is None or record.status != ACCEPTED or left_s <= 0:
                return record
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(min(left_s, _POLL_S))

    def newest_dead(self) -> list[Record]:
        """Read the requests that are dead now, the newest first, `DEAD_LISTED` at most."""
        count = self._state.get("dead:count")
        newest = count if isinstance(count, int) else 0
        places = range(newest, max(newest - DEAD_LISTED, 0), -1)
        ids = [self._state.get(f"dead:{place % DEAD_LISTED}") for place in places]
        # dict: a request that died twice is listed once.
        records = [self.read(item) for item in dict.fromkeys(ids) if isinstance(item, str)]
        return [record for record in records if record is not None and record.status == DEAD]

    def _tell_waiting(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _fact(self, key: str) -> Fact | None:
        value = self._state.get(key)
        return value if isinstance(value, dict) else None

    def _callbacks(self, request_id: str) -> Iterator[Fact]:
        for place in range(MAX_CALLBACKS):
            fact = self._fact(f"{request_id}:callback:{place}")
            if fact is None:
                return
            yield fact


def _data_of(event: Event) -> Fact:
    return readable(event.data or b"", event.attributes.get("datacontenttype", JSON))


def now() -> str:
    """Return the time in UTC as RFC 3339 writes it, to the millisecond."""
    time_now = datetime.datetime.now(datetime.timezone.utc)
    return time_now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
