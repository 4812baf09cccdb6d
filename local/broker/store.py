"""Accepted events and their pending deliveries, in SQLite until each delivery has ended.

All writes go through one connection and are committed in groups: while one commit waits for the
disk, the writes of many other requests gather for the next. Reads use a second connection, which
WAL mode keeps from ever waiting for a commit.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from local.broker.event import Event

# AUTOINCREMENT: an id is never used again, so a write that is repeated after a commit whose outcome
# is unknown can only ever touch its own event.
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
_BUSY_POLL_S = 0.05
_BUSY_TIMEOUT_S = 2.0

Headers = Mapping[str, str]
_Write = Callable[[sqlite3.Connection], object]


class StoreError(Exception):
    """The write is not durable; whoever asked for it must not be told that it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """An event on its way into the store.

    Attributes:
        headers: of the request, what the Broker passes on.
        triggers: names of the Triggers that want the event.
        due_at: Unix time of the first attempt.
    """

    event: Event
    headers: Headers
    triggers: Sequence[str]
    due_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event for one Trigger.

    Attributes:
        failures: attempts that have failed so far, at the subscriber or, since the delivery
            went there, at the dead letter sink.
        dead_letter: None while it goes to the subscriber; afterwards the extensions that tell the
            dead letter sink what happened.
    """

    event_id: int
    trigger: str
    event: Event
    headers: Headers
    failures: int
    dead_letter: Mapping[str, str] | None


class Store:
    """The events that a Broker owes to somebody."""

    def __init__(self, folder: Path) -> None:
        """Open the database of a folder, or make it.

        Raises:
            StoreError: the folder or the database cannot be used.
        """
        try:
            # Events carry their publishers' credentials.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = _connect(folder / "broker.sqlite3")
            self._writer.executescript(_SCHEMA)
            self._reader = _connect(folder / "broker.sqlite3")
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(f"cannot open the database in {folder}: {exc}") from exc
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-store")
        self._waiting: list[tuple[_Write, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def add(self, publication: Publication) -> None:
        """Keep an event with one delivery for each of its Triggers.

        Raises:
            StoreError: it is not kept.
        """
        if len(self._waiting) >= _MAX_WAITING_EVENTS:
            raise StoreError("too many events wait to be written")
        await self._write(lambda db: _insert(db, publication))

    async def finish(self, delivery: Delivery, reply: Publication | None = None) -> None:
        """Forget a delivery that has ended, and keep its reply in the same transaction.

        Raises:
            StoreError: the delivery is still pending, and the reply is not kept.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM deliveries WHERE event_id = ? AND trigger_name = ?",
                (delivery.event_id, delivery.trigger),
            )
            db.execute(
                "DELETE FROM events WHERE id = ?1"
                " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = ?1)",
                (delivery.event_id,),
            )
            if reply is not None:
                _insert(db, reply)

        await self._write(write)

    async def postpone(
        self,
        delivery: Delivery,
        *,
        due_at: float,
        failures: int,
        dead_letter: Mapping[str, str] | None,
    ) -> None:
        """Keep a delivery for a later attempt.

        Raises:
            StoreError: what is kept is as it was before.
        """
        row = (
            due_at,
            failures,
            None if dead_letter is None else json.dumps(dead_letter),
            delivery.event_id,
            delivery.trigger,
        )
        await self._write(
            lambda db: db.execute(
                "UPDATE deliveries SET due_at = ?, failures = ?, dead_letter = ?"
                " WHERE event_id = ? AND trigger_name = ?",
                row,
            )
        )

    def next_due(self, trigger: str, limit: int) -> list[tuple[int, float]]:
        """Return event id and due time of a Trigger's deliveries, the earliest first."""
        return self._reader.execute(
            "SELECT event_id, due_at FROM deliveries WHERE trigger_name = ?"
            " ORDER BY due_at, event_id LIMIT ?",
            (trigger, limit),
        ).fetchall()

    def load(self, event_id: int, trigger: str) -> Delivery:
        """Return a pending delivery with its event."""
        attributes, headers, data, failures, dead_letter = self._reader.execute(
            "SELECT attributes, headers, data, failures, dead_letter"
            " FROM deliveries JOIN events ON id = event_id"
            " WHERE event_id = ? AND trigger_name = ?",
            (event_id, trigger),
        ).fetchone()
        return Delivery(
            event_id=event_id,
            trigger=trigger,
            event=Event(attributes=json.loads(attributes), data=data),
            headers=json.loads(headers),
            failures=failures,
            dead_letter=None if dead_letter is None else json.loads(dead_letter),
        )

    def count_pending(self) -> dict[str, int]:
        """Return how many deliveries wait, by the name of their Trigger."""
        return dict(
            self._reader.execute(
                "SELECT trigger_name, count(*) FROM deliveries GROUP BY trigger_name"
            )
        )

    async def close(self) -> None:
        """Commit what is waiting and close the database."""
        if self._flushing is not None:
            await self._flushing
        self._disk.shutdown()
        self._reader.close()
        self._writer.close()

    async def _write(self, write: _Write) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error: StoreError | None = None
            try:
                await self._commit([write for write, _ in group])
            # Whatever went wrong, nobody in the group may believe that it is stored.
            except Exception as exc:
                error = StoreError(f"the write failed: {exc}")
                error.__cause__ = exc
            for _, done in group:
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _commit(self, writes: Sequence[_Write]) -> None:
        """Run writes in one transaction.

        The statements run here, where they cost microseconds, and only the commit, which waits
        for the disk, in the thread: handing each statement over would cost more than running it.
        """
        try:
            await self._begin()
            for write in writes:
                write(self._writer)
            await asyncio.get_running_loop().run_in_executor(
                self._disk, self._writer.execute, "COMMIT"
            )
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    async def _begin(self) -> None:
        """Take the write lock; somebody else, such as a backup, may hold it for a moment."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _BUSY_TIMEOUT_S
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if loop.time() >= give_up_at:
                    raise
                await asyncio.sleep(_BUSY_POLL_S)
            else:
                return


def _connect(path: Path) -> sqlite3.Connection:
    # Waiting for a lock inside SQLite would stop the event loop: timeout 0, and _begin waits.
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def _insert(db: sqlite3.Connection, publication: Publication) -> None:
    event_id = db.execute(
        "INSERT INTO events (attributes, headers, data) VALUES (?, ?, ?)",
        (
            json.dumps(publication.event.attributes),
            json.dumps(publication.headers),
            publication.event.data,
        ),
    ).lastrowid
    db.executemany(
        "INSERT INTO deliveries VALUES (?, ?, ?, 0, NULL)",
        [(event_id, trigger, publication.due_at) for trigger in publication.triggers],
    )
