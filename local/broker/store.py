"""Accepted events and their pending deliveries, in SQLite until each delivery has ended."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.broker.database import Database, StoreError
from relay.events import Event

# AUTOINCREMENT never uses an id again: a write that is repeated after a commit of unknown outcome
# can touch its own event only.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    attributes TEXT NOT NULL,
    headers TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS deliveries (
    event_id INTEGER NOT NULL REFERENCES events,
    trigger_name TEXT NOT NULL,
    due_at REAL NOT NULL,
    failures INTEGER NOT NULL,
    dead_letter TEXT,
    PRIMARY KEY (event_id, trigger_name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_by_due ON deliveries (trigger_name, due_at, event_id);
"""
_MAX_WAITING_EVENTS = 512

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One event for one Trigger.

    Attributes:
        failures: Failed attempts so far, at the subscriber or else at the dead letter sink.
        dead_letter: None while it goes to the subscriber; then the extensions that tell the dead
            letter sink what happened.
    """

    event_id: int
    trigger: str
    event: Event
    headers: Headers
    failures: int = 0
    dead_letter: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """An event on its way into the store.

    Attributes:
        headers: Those of the request that the Broker passes on.
        triggers: The names of the Triggers that want the event.
    """

    event: Event
    headers: Headers
    triggers: Sequence[str]

    def delivery(self, event_id: int, trigger: str) -> PendingDelivery:
        """Return a delivery of the event, which has its id now."""
        return PendingDelivery(event_id, trigger, self.event, self.headers)


class EventStore:
    """The events that a Broker has yet to deliver.

    What writes raises StoreError where the write is not durable; then all is as it was.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database of a folder, or make it."""
        self._database = Database(folder, "broker", _SCHEMA)

    async def add(self, publication: Publication) -> int:
        """Keep an event with one delivery for each of its Triggers; return its id."""
        if self._database.waiting >= _MAX_WAITING_EVENTS:
            raise StoreError("too many events wait to be written")
        return await self._database.write(lambda db: _insert(db, publication))

    async def finish(
        self, delivery: PendingDelivery, reply: Publication | None = None
    ) -> int | None:
        """Forget a delivery that has ended; keep its reply at the same time, and return its id."""

        def write(db: sqlite3.Connection) -> int | None:
            db.execute(
                "DELETE FROM deliveries WHERE event_id = ? AND trigger_name = ?",
                (delivery.event_id, delivery.trigger),
            )
            db.execute(
                "DELETE FROM events WHERE id = ?1"
                " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = ?1)",
                (delivery.event_id,),
            )
            return None if reply is None else _insert(db, reply)

        return await self._database.write(write, can_wait=reply is None)

    async def postpone(self, delivery: PendingDelivery, due_at: float) -> None:
        """Keep a delivery as it is to be attempted next."""
        letter = None if delivery.dead_letter is None else json.dumps(delivery.dead_letter)
        await self._database.write(
            lambda db: db.execute(
                "UPDATE deliveries SET due_at = ?, failures = ?, dead_letter = ?"
                " WHERE event_id = ? AND trigger_name = ?",
                (due_at, delivery.failures, letter, delivery.event_id, delivery.trigger),
            )
        )

    def next_due(self, trigger: str, limit: int) -> list[tuple[int, float]]:
        """Return event id and due time of a Trigger's deliveries, the earliest first."""
        return self._database.reader.execute(
            "SELECT event_id, due_at FROM deliveries WHERE trigger_name = ?"
            " ORDER BY due_at, event_id LIMIT ?",
            (trigger, limit),
        ).fetchall()

    def ids_after(self, trigger: str, event_id: int, limit: int) -> list[int]:
        """Return the event ids of a Trigger's deliveries that come after one, in their order."""
        rows = self._database.reader.execute(
            "SELECT event_id FROM deliveries WHERE trigger_name = ? AND event_id > ?"
            " ORDER BY event_id LIMIT ?",
            (trigger, event_id, limit),
        )
        return [row[0] for row in rows]

    async def forget(self, trigger: str, *, before: int) -> None:
        """Forget a Trigger's deliveries of events with an id below one."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM deliveries WHERE trigger_name = ? AND event_id < ?", (trigger, before)
            )
            db.execute(
                "DELETE FROM events WHERE id < ?"
                " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = events.id)",
                (before,),
            )

        await self._database.write(write)

    def load(self, event_id: int, trigger: str) -> PendingDelivery:
        """Return a pending delivery with its event."""
        attributes, headers, data, failures, dead_letter = self._database.reader.execute(
            "SELECT attributes, headers, data, failures, dead_letter"
            " FROM deliveries JOIN events ON id = event_id"
            " WHERE event_id = ? AND trigger_name = ?",
            (event_id, trigger),
        ).fetchone()
        event = Event(attributes=json.loads(attributes), data=data)
        letter = None if dead_letter is None else json.loads(dead_letter)
        return PendingDelivery(event_id, trigger, event, json.loads(headers), failures, letter)

    def count_pending(self) -> dict[str, int]:
        """Return how many deliveries wait, by the name of their Trigger."""
        return dict(
            self._database.reader.execute(
                "SELECT trigger_name, count(*) FROM deliveries GROUP BY trigger_name"
            )
        )

    async def close(self) -> None:
        await self._database.close()


def _insert(db: sqlite3.Connection, publication: Publication) -> int:
    cursor = db.execute(
        "INSERT INTO events (attributes, headers, data) VALUES (?, ?, ?)",
        (
            json.dumps(publication.event.attributes),
            json.dumps(publication.headers),
            publication.event.data,
        ),
    )
    event_id = cursor.lastrowid
    assert event_id is not None  # noqa: S101 - of an INSERT
    now = time.time()
    db.executemany(
        "INSERT INTO deliveries VALUES (?, ?, ?, 0, NULL)",
        [(event_id, trigger, now) for trigger in publication.triggers],
    )
    return event_id
