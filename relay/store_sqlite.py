"""The store in SQLite: in a file that the processes of one machine share, or in memory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from relay.events import DEAD
from relay.problems import StateUnavailable
from relay.store import (
    OPEN,
    Census,
    Listing,
    Place,
    Record,
    Store,
    T,
    Use,
    Whole,
    Write,
    callbacks_of,
)

log = logging.getLogger(__name__)

# How often it is looked for what other processes have written, while somebody waits for that, and
# how much of a processor that may take.
_LISTEN_INTERVAL_S: Final = 0.002
_LISTEN_SHARE: Final = 0.05
# How long a write waits for those of other processes.
_BUSY_TIMEOUT_S: Final = 2.0
# Expired records are dropped in batches, each a few milliseconds of writing, so that others can
# write in between.
_BATCH: Final = 50
_ANSWERS_BATCH: Final = 10
_PAUSE_S: Final = 0.01
_SWEEP_INTERVAL_S: Final = 1.0
# The housekeeper writes the log back into the database; the first is for when it does not get to
# it. A log that is longer than the second is begun anew when no more than the third is left of it.
_AUTOCHECKPOINT_PAGES: Final = 16_000
_LONG_LOG_PAGES: Final = 8_000
_LEFT_PAGES: Final = 500
_CACHE_KIB: Final = 2_048
# What is swept aside when the store is this full, so that writers need not do it.
_HIGH_WATER: Final = 0.95

# A record is kept as JSON; beside it stands what is searched for. Each index that a write touches
# makes it dearer by a fifth. So expiry is rounded up, and seldom moves.
#
# Answers are numbered, so that the oldest, which go first, lie together. A record keeps the number
# of an answer that is gone. Should another be given it, that one names its own request.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    listed TEXT NOT NULL,
    listed_ms INTEGER NOT NULL,
    target TEXT,
    accepted_ms INTEGER,
    expires_ms INTEGER NOT NULL,
    answer INTEGER,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_expiry ON requests (expires_ms);
CREATE INDEX IF NOT EXISTS requests_listed
    ON requests (listed, listed_ms, id, accepted_ms);
CREATE INDEX IF NOT EXISTS requests_listed_by_target ON requests (target, listed, listed_ms, id);
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, request TEXT NOT NULL, answer BLOB NOT NULL, event BLOB
);
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, event BLOB NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS answered AFTER UPDATE OF answer ON requests BEGIN
    DELETE FROM answers WHERE number = old.answer AND request = old.id;
    DELETE FROM events WHERE id = old.id;
END;
CREATE TRIGGER IF NOT EXISTS forgotten AFTER DELETE ON requests BEGIN
    DELETE FROM answers WHERE number = old.answer AND request = old.id;
    DELETE FROM events WHERE id = old.id;
END;
CREATE TABLE IF NOT EXISTS facts (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, expires_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS facts_expiry ON facts (expires_ms);
"""
_JOINED: Final = (
    "requests LEFT JOIN answers"
    " ON answers.number = requests.answer AND answers.request = requests.id"
)
_REMEMBER: Final = (
    "INSERT INTO facts VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
    " SET value = excluded.value, expires_ms = excluded.expires_ms WHERE expires_ms <= ?"
)
_REPLACE: Final = "UPDATE facts SET value = ?, expires_ms = ? WHERE key = ? AND value = ?"
_LISTED: Final = "SELECT id, listed FROM requests WHERE id IN (SELECT value FROM json_each(?))"
_EXPIRY_MS: Final = 60_000  # it is rounded up to this


class _Use(Use):
    __slots__ = ()
    errors = (sqlite3.Error, OSError)

    @staticmethod
    def is_full(error: Exception) -> bool:
        return "full" in str(error)


class _Full(StateUnavailable):
    """There is no room, and no answer that could go."""


class SQLiteStore(Store):
    """The store in SQLite.

    Args:
        path: of the file; None for memory.
        max_bytes: of the whole of it; the oldest answers go when there is more.
    """

    def __init__(
        self, path: str | None, *, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock=clock)
        self._path = path
        self._max_bytes = max_bytes
        self._opening = threading.Lock()
        self._connected: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._write_lock = threading.RLock()
        # In memory one connection is all there is.
        self._read_lock = self._write_lock if path is None else threading.RLock()
        self._closed = threading.Event()

    def event(self, request_id: str) -> bytes | None:
        with self._reading() as db:
            row = db.execute(
                f"SELECT coalesce(events.event, answers.event) FROM {_JOINED}"  # noqa: S608
                " LEFT JOIN events ON events.id = requests.id WHERE requests.id = ?",
                (request_id,),
            ).fetchone()
        return None if row is None else row[0]

    def page(
        self, listing: Listing, *, limit: int, after: Place | None = None
    ) -> tuple[list[Record], Place | None]:
        if after is not None:  # where the index is to be entered
            listing = replace(listing, to_ms=min(listing.to_ms, after[0]))
        where, values = _within(listing)
        if after is not None:
            where += " AND (listed_ms, id) < (?, ?)"
        with self._reading() as db:
            rows = db.execute(
                f"SELECT record FROM requests WHERE {where}"  # noqa: S608 - texts of our own
                " ORDER BY listed_ms DESC, id DESC LIMIT ?",
                (*values, *(after or ()), limit + 1),
            ).fetchall()
        found = [Record.from_json(row[0]) for row in rows[:limit]]
        next_page = (found[-1].listed_ms, found[-1].id) if len(rows) > limit else None
        return [record for record in found if self._unless_expired(record)], next_page

    def count(self, listing: Listing) -> int:
        where, values = _within(listing)
        with self._reading() as db:
            (count,) = db.execute(
                f"SELECT count(*) FROM requests WHERE {where}",  # noqa: S608 - texts of our own
                values,
            ).fetchone()
        return int(count)

    def census(self) -> Census:
        with self._reading() as db:
            row = db.execute(
                f"SELECT (SELECT count(*) FROM requests WHERE listed = '{OPEN}'),"  # noqa: S608
                f" (SELECT count(*) FROM requests WHERE listed = '{DEAD}'),"
                f" (SELECT min(accepted_ms) FROM requests WHERE listed = '{OPEN}')"
            ).fetchone()
        return Census(open=row[0], dead=row[1], oldest_open_ms=row[2])

    def close(self) -> None:
        self._closed.set()
        self.waiters.close()
        with self._write_lock, self._read_lock:
            for connection in self._connected or ():
                connection.close()
            self._connected = None

    def sweep(self) -> int:
        """Forget one batch of what is expired; return how much that was."""
        return self._change(self._sweep)

    def _sweep(self, db: sqlite3.Connection) -> int:
        now_ms, gone = self.now_ms(), 0
        for table in ("requests", "facts"):
            gone += db.execute(
                f"DELETE FROM {table} WHERE rowid IN"  # noqa: S608 - names of our own
                f" (SELECT rowid FROM {table} WHERE expires_ms <= ? LIMIT ?)",
                (now_ms, _BATCH),
            ).rowcount
        if _used_bytes(db) > self._max_bytes * _HIGH_WATER:
            gone += _drop_answers(db)
        return gone

    def _read(self, request_id: str) -> tuple[str | None, Record | None]:
        # On the connection that is to write: it has at hand then what it reads here.
        with _Use(), self._write_lock:
            row = (
                self._connections()[0]
                .execute("SELECT version, record FROM requests WHERE id = ?", (request_id,))
                .fetchone()
            )
        return (None, None) if row is None else (row[0], Record.from_json(row[1]))

    def _read_whole(self, request_id: str) -> Whole | None:
        with self._reading() as db:
            row = db.execute(
                "SELECT record, answers.answer, (SELECT value FROM facts"  # noqa: S608
                f" WHERE key = ? AND expires_ms > ?) FROM {_JOINED} WHERE id = ?",
                (callbacks_of(request_id), self.now_ms(), request_id),
            ).fetchone()
        return None if row is None else Whole(Record.from_json(row[0]), row[1] or None, row[2])

    def fact(self, key: str) -> bytes | None:
        with self._reading() as db:
            row = db.execute(
                "SELECT value FROM facts WHERE key = ? AND expires_ms > ?", (key, self.now_ms())
            ).fetchone()
        return None if row is None else row[0]

    def replace_fact(self, key: str, old: bytes | None, new: bytes | None, ttl_s: int = 0) -> bool:
        now_ms = self.now_ms()
        kept: tuple[object, ...] = (new, now_ms + ttl_s * 1000)
        if old is None:
            sql, values = _REMEMBER, (key, *kept, now_ms)
        elif new is None:
            sql, values = "DELETE FROM facts WHERE key = ? AND value = ?", (key, old)
        else:
            sql, values = _REPLACE, (*kept, key, old)
        return self._change(lambda db: db.execute(sql, values).rowcount == 1, is_one=True)

    def _write(self, write: Write) -> bool:
        is_one = write.old_version is None or not write.anew
        is_one = is_one and write.answer is None and write.event is None and not write.durable
        try:
            return self._change(lambda db: _put(db, write), durable=write.durable, is_one=is_one)
        except _Full:
            if not write.answer:
                raise
        return self._write(write._replace(answer=b"", event=None))  # it goes before all others

    def _change(
        self, do: Callable[[sqlite3.Connection], T], *, durable: bool = False, is_one: bool = False
    ) -> T:
        """Write something in one piece, in place of answers if there is no room for it.

        Args:
            is_one: it is one statement.
        """
        with _Use(), self._write_lock:
            db = self._connections()[0]
            while True:
                try:
                    if is_one:
                        return do(db)
                    with _transaction(db, durable=durable):
                        return do(db)
                except sqlite3.OperationalError as exc:
                    if not _Use.is_full(exc):
                        raise
                    if not _drop_answers(db):
                        raise _Full("the state is full (STATE_MAX_BYTES)") from exc

    def _listen(self) -> None:
        """Look whether others have written, many times a second."""
        if self._path is None:  # there are no others
            return
        seen = None
        try:
            with contextlib.closing(_connect(self._path, self._max_bytes)) as db:
                while self.waiters.are_there():
                    began_s = time.monotonic()
                    (version,) = db.execute("PRAGMA data_version").fetchone()
                    if version != seen:
                        seen = version
                        waited_for = json.dumps(self.waiters.ids())
                        for request_id, listed in db.execute(_LISTED, (waited_for,)):
                            if listed != OPEN:
                                self.waiters.wake(request_id)
                    took_s = time.monotonic() - began_s
                    time.sleep(max(_LISTEN_INTERVAL_S, took_s / _LISTEN_SHARE))
        except (sqlite3.Error, OSError) as exc:
            log.warning("callers wait longer for other processes: %s", exc)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _Use(), self._read_lock:
            yield self._connections()[1]

    def _connections(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Connect on first use: a connection must not be carried over a fork."""
        with self._opening:
            if self._closed.is_set():  # the sweep of another thread must not open it again
                raise StateUnavailable("the state is closed")
            if self._connected is None:
                writer = _connect(self._path, self._max_bytes)
                writer.executescript(_SCHEMA)
                reader = writer if self._path is None else _connect(self._path, self._max_bytes)
                self._connected = (writer, reader)
                threading.Thread(target=self._keep_house, daemon=True).start()
            return self._connected

    def _keep_house(self) -> None:
        """Sweep, and write the log back, apart from all requests."""
        is_more = False
        while not self._closed.wait(_PAUSE_S if is_more else _SWEEP_INTERVAL_S):
            try:
                until_s = time.monotonic() + _SWEEP_INTERVAL_S
                while (is_more := self.sweep() > 0) and time.monotonic() < until_s:
                    self._closed.wait(_PAUSE_S)
                # Also in between: a writer who has to do this holds all others up.
                self._checkpoint()
            except (StateUnavailable, sqlite3.Error, OSError) as exc:
                if not self._closed.is_set():
                    log.warning("what is expired stays for now: %s", exc)

    def _checkpoint(self) -> None:
        if self._path is None:
            return
        with contextlib.closing(_connect(self._path, self._max_bytes)) as db:
            _, pages, written = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # Writers wait for this one; but never long, since next to nothing is left to write.
            if pages > _LONG_LOG_PAGES and pages - written < _LEFT_PAGES:
                db.execute("PRAGMA wal_checkpoint(RESTART)")


def _connect(path: str | None, max_bytes: int) -> sqlite3.Connection:
    if path is not None:
        # Dead requests carry their callers' credentials.
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(
        path or ":memory:", timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    _use_log(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_AUTOCHECKPOINT_PAGES}")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
    return db


def _use_log(db: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite does not wait for others who do so too."""
    give_up_at_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= give_up_at_s:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
    if durable:
        db.execute("PRAGMA synchronous = FULL")
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    finally:
        if durable:
            db.execute("PRAGMA synchronous = NORMAL")


def _put(db: sqlite3.Connection, write: Write) -> bool:
    """Write a record and what is beside it; tell whether its version was the expected one."""
    record, expected = write.record, (write.id, write.old_version)
    if write.old_version is not None and (record is None or write.anew):
        gone = db.execute("DELETE FROM requests WHERE id = ? AND version = ?", expected).rowcount
        if not gone:
            return False
    if record is None:
        return True
    columns: dict[str, str | int | None] = {
        "version": write.new_version,
        "record": record.to_json(),
        "listed": record.listed,
        "listed_ms": record.listed_ms,
        "target": record.target,
        "accepted_ms": record.accepted_ms,
        "expires_ms": _swept_ms(record),
    }
    if write.answer is not None:
        (columns["answer"],) = db.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM answers"
        ).fetchone()
    if write.anew:
        names, places = ", ".join(columns), ", ?" * len(columns)
        done = db.execute(
            f"INSERT INTO requests (id, {names}) VALUES (?{places}) ON CONFLICT DO NOTHING",  # noqa: S608
            (write.id, *columns.values()),
        )
    else:
        if write.old is not None and columns["expires_ms"] == _swept_ms(write.old):
            del columns["expires_ms"]
        done = db.execute(
            f"UPDATE requests SET {' = ?, '.join(columns)} = ? WHERE id = ? AND version = ?",  # noqa: S608
            (*columns.values(), *expected),
        )
    if not done.rowcount:
        return False
    if write.answer is not None:
        values = (columns["answer"], write.id, write.answer, write.event)
        db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", values)
    elif write.event is not None:
        db.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (write.id, write.event))
    return True


def _swept_ms(record: Record) -> int:
    """Return when a record may go: not before its time is over, and seldom another time."""
    return -(-record.expires_ms // _EXPIRY_MS) * _EXPIRY_MS


def _within(listing: Listing) -> tuple[str, tuple[str | int, ...]]:
    """Say in SQL which requests are listed; without a target, that column must not be looked at."""
    where = "listed = ? AND listed_ms BETWEEN ? AND ?"
    values = (listing.state, listing.from_ms, listing.to_ms)
    if listing.target is None:
        return where, values
    return f"{where} AND target = ?", (*values, listing.target)


def _used_bytes(db: sqlite3.Connection) -> int:
    (pages, free, size) = db.execute(
        "SELECT page_count, freelist_count, page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return int((pages - free) * size)


def _drop_answers(db: sqlite3.Connection) -> int:
    """Drop a batch of the oldest answers; return how many."""
    return db.execute(
        "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)",
        (_ANSWERS_BATCH,),
    ).rowcount
