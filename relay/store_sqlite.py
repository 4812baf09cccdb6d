"""The store in SQLite: in a file that the processes of one machine share, or in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from relay.events import DEAD, RESULTS
from relay.operations import STORE, Operation
from relay.problems import StateUnavailable
from relay.store import OPEN, Census, Listing, Place, Record, Store, Whole, Write

log = logging.getLogger(__name__)

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
_CACHE_KIB: Final = 16_384
# What is swept aside when the store is this full, so that writers need not do it.
_HIGH_WATER: Final = 0.95

# A record is kept as JSON; beside it stands what is searched for. Answers are numbered, so that the
# oldest, which go first, lie together; no number is given twice, since a record keeps that of an
# answer that is gone.
_SCHEMA: Final = f"""
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
CREATE INDEX IF NOT EXISTS requests_listed ON requests (listed, listed_ms, id);
CREATE INDEX IF NOT EXISTS requests_listed_by_target ON requests (target, listed, listed_ms, id);
CREATE INDEX IF NOT EXISTS open_requests ON requests (accepted_ms) WHERE listed = '{OPEN}';
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, answer BLOB NOT NULL, event BLOB
);
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS callbacks (
    request TEXT NOT NULL,
    event TEXT NOT NULL,
    number INTEGER NOT NULL,
    fact BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (request, event)
);
CREATE INDEX IF NOT EXISTS callbacks_expiry ON callbacks (expires_ms);
CREATE TABLE IF NOT EXISTS used (
    key TEXT PRIMARY KEY, user TEXT NOT NULL, expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_expiry ON used (expires_ms);
"""

# The event of a row whose number counts the callbacks that are not kept.
_LEFT_OUT: Final = ""

_PUT: Final = """
INSERT OR REPLACE INTO requests
    (id, version, listed, listed_ms, target, accepted_ms, expires_ms, answer, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


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
                "SELECT coalesce(events.event, answers.event) FROM requests"
                " LEFT JOIN events ON events.id = requests.id"
                " LEFT JOIN answers ON answers.number = requests.answer WHERE requests.id = ?",
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

    def add_callback(
        self,
        request_id: str,
        event_id: str,
        fact: bytes,
        *,
        limit: int,
        limit_bytes: int,
        ttl_s: int,
    ) -> None:
        now_ms = self.now_ms()
        expires_ms = now_ms + ttl_s * 1000
        with self._writing() as db:
            count, size_bytes, is_known = db.execute(
                "SELECT count(*), total(length(fact)), total(event = ?) FROM callbacks"
                " WHERE request = ? AND event != ? AND expires_ms > ?",
                (event_id, request_id, _LEFT_OUT, now_ms),
            ).fetchone()
            if is_known:
                return
            if count < limit and size_bytes + len(fact) <= limit_bytes:
                db.execute(
                    "INSERT OR REPLACE INTO callbacks VALUES (?, ?, ?, ?, ?)",
                    (request_id, event_id, count, fact, expires_ms),
                )
                self._make_room(db)
            else:
                db.execute(
                    "INSERT INTO callbacks VALUES (?, ?, 1, ?, ?)"
                    " ON CONFLICT DO UPDATE SET number = number + 1",
                    (request_id, _LEFT_OUT, b"", expires_ms),
                )

    def use_once(self, key: str, user: str, ttl_s: int) -> bool:
        now_ms = self.now_ms()
        with self._writing() as db:
            db.execute("DELETE FROM used WHERE key = ? AND expires_ms <= ?", (key, now_ms))
            db.execute(
                "INSERT OR IGNORE INTO used VALUES (?, ?, ?)", (key, user, now_ms + ttl_s * 1000)
            )
            (first,) = db.execute("SELECT user FROM used WHERE key = ?", (key,)).fetchone()
        return bool(first == user)

    def unuse(self, key: str, user: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM used WHERE key = ? AND user = ?", (key, user))

    def close(self) -> None:
        self._closed.set()
        with self._write_lock, self._read_lock:
            for connection in self._connected or ():
                connection.close()
            self._connected = None

    def sweep(self) -> int:
        """Forget one batch of what is expired; return how much that was."""
        now_ms = self.now_ms()
        with self._writing() as db:
            expired = db.execute(
                "SELECT id, answer FROM requests WHERE expires_ms <= ? LIMIT ?", (now_ms, _BATCH)
            ).fetchall()
            for request_id, answer in expired:
                _forget(db, request_id, answer)
            gone = len(expired)
            for table, key in (("callbacks", "rowid"), ("used", "key")):
                gone += db.execute(
                    f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608 - names of our own
                    f" (SELECT {key} FROM {table} WHERE expires_ms <= ? LIMIT ?)",
                    (now_ms, _BATCH),
                ).rowcount
            used = _used_bytes(db)
            if used > self._max_bytes * _HIGH_WATER:
                gone += _drop_answers(db)
        return gone

    def _read(self, request_id: str) -> tuple[str | None, Record | None]:
        with self._reading() as db:
            row = db.execute(
                "SELECT version, record FROM requests WHERE id = ?", (request_id,)
            ).fetchone()
        return (None, None) if row is None else (row[0], Record.from_json(row[1]))

    def _read_whole(self, request_id: str) -> Whole | None:
        with self._reading() as db:
            row = db.execute(
                "SELECT record, answers.answer FROM requests"
                " LEFT JOIN answers ON answers.number = requests.answer WHERE id = ?",
                (request_id,),
            ).fetchone()
            callbacks = db.execute(
                "SELECT event, number, fact FROM callbacks WHERE request = ? ORDER BY number",
                (request_id,),
            ).fetchall()
        if row is None:
            return None
        return Whole(
            record=Record.from_json(row[0]),
            answer=row[1],
            callbacks=[fact for event, _, fact in callbacks if event != _LEFT_OUT],
            callbacks_left_out=sum(number for event, number, _ in callbacks if event == _LEFT_OUT),
        )

    def _write(self, write: Write) -> bool:
        record = write.record
        with self._writing(durable=write.durable) as db:
            row = db.execute(
                "SELECT version, answer FROM requests WHERE id = ?", (write.id,)
            ).fetchone()
            version, answer = row or (None, None)
            if version != write.old_version:
                return False
            if version is not None and (record is None or write.anew):
                _forget(db, write.id, answer)
                answer = None
            if record is None:
                return True
            if write.answer is not None:
                db.execute("DELETE FROM answers WHERE number = ?", (answer,))
                answer = db.execute(
                    "INSERT INTO answers (answer, event) VALUES (?, ?)", (write.answer, write.event)
                ).lastrowid
            if record.state in RESULTS:
                db.execute("DELETE FROM events WHERE id = ?", (write.id,))
            elif write.event is not None:
                db.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (write.id, write.event))
            db.execute(
                _PUT,
                (
                    *(write.id, write.new_version, record.listed, record.listed_ms),
                    *(record.target, record.accepted_ms, record.expires_ms, answer),
                    record.to_json().decode("ascii"),
                ),
            )
            self._make_room(db)
        return True

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Keep the whole below its bound, at the cost of answers."""
        while _used_bytes(db) > self._max_bytes:
            if not _drop_answers(db):
                raise StateUnavailable("the state is full (STATE_MAX_BYTES)")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _told(), self._read_lock:
            yield self._connections()[1]

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with _told(), self._write_lock:
            db = self._connections()[0]
            if durable:
                db.execute("PRAGMA synchronous = FULL")
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                try:
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            finally:
                if durable:
                    db.execute("PRAGMA synchronous = NORMAL")

    def _connections(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Connect on first use: a connection must not be carried over a fork."""
        with self._opening:
            if self._closed.is_set():  # the sweep of another thread must not open it again
                raise StateUnavailable("the state is closed")
            if self._connected is None:
                writer = _connect(self._path)
                writer.executescript(_SCHEMA)
                reader = writer if self._path is None else _connect(self._path)
                self._connected = (writer, reader)
                threading.Thread(target=self._keep_house, daemon=True).start()
            return self._connected

    def _keep_house(self) -> None:
        """Sweep, and write the log back, apart from all requests."""
        while not self._closed.wait(_SWEEP_INTERVAL_S):
            try:
                while self.sweep() and not self._closed.wait(_PAUSE_S):
                    pass
                self._checkpoint()
            except (StateUnavailable, sqlite3.Error, OSError) as exc:
                if not self._closed.is_set():
                    log.warning("what is expired stays for now: %s", exc)

    def _checkpoint(self) -> None:
        if self._path is None:
            return
        with contextlib.closing(_connect(self._path)) as db:
            _, pages, written = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # Writers wait for this one; but never long, since next to nothing is left to write.
            if pages > _LONG_LOG_PAGES and pages - written < _LEFT_PAGES:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _connect(path: str | None) -> sqlite3.Connection:
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
def _told() -> Iterator[None]:
    """Turn what SQLite and the system say into the relay's own error."""
    with Operation(STORE):
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            log.debug("the state: %s", exc)
            if "full" in str(exc):
                raise StateUnavailable("the state is full (STATE_URL)") from exc
            raise StateUnavailable("the state cannot be reached (STATE_URL)") from exc


def _within(listing: Listing) -> tuple[str, tuple[str | int, ...]]:
    """Say in SQL which requests are listed; without a target, that column must not be looked at."""
    where = "listed = ? AND listed_ms BETWEEN ? AND ?"
    values = (listing.state, listing.from_ms, listing.to_ms)
    if listing.target is None:
        return where, values
    return f"target = ? AND {where}", (listing.target, *values)


def _forget(db: sqlite3.Connection, request_id: str, answer: int | None) -> None:
    db.execute("DELETE FROM requests WHERE id = ?", (request_id,))
    db.execute("DELETE FROM events WHERE id = ?", (request_id,))
    if answer is not None:
        db.execute("DELETE FROM answers WHERE number = ?", (answer,))


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
