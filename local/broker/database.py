"""One SQLite file with one writer, whose writes are committed in groups.

While one commit waits for the disk, the writes of other requests gather for the next, so that an
event does not cost an fsync of its own. Reads use a second connection, which in WAL mode never
waits for a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# A kill within this time repeats a delivery that has ended.
_PATIENCE_S = 0.02
_BUSY_POLL_S = 0.05
_BUSY_TIMEOUT_S = 2.0

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]


class StoreError(Exception):
    """The write is not durable."""


class Database:
    """A database that this process alone writes to.

    Attributes:
        reader: A connection for reading what has been committed.
    """

    def __init__(self, folder: Path, name: str, schema: str) -> None:
        """Open the database of a folder, or make it.

        Raises:
            StoreError: The folder or the database cannot be used, or another process uses it.
        """
        with contextlib.ExitStack() as opened:
            try:
                # Events carry their publishers' credentials.
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Held until the process ends, however it ends.
                lock = opened.enter_context((folder / f"{name}.lock").open("w"))
            except OSError as exc:
                raise StoreError(f"cannot use the folder {folder}: {exc}") from exc
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise StoreError(f"another Broker uses the database in {folder}") from exc
            try:
                self._writer = _connect(folder / f"{name}.sqlite3", opened)
                self._writer.executescript(schema)
                self.reader = _connect(folder / f"{name}.sqlite3", opened)
                # A wait for a lock inside SQLite would stop the event loop; _begin waits instead.
                for connection in (self._writer, self.reader):
                    connection.execute("PRAGMA busy_timeout = 0")
            except sqlite3.Error as exc:
                raise StoreError(f"cannot open the database in {folder}: {exc}") from exc
            self._opened = opened.pop_all()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-store")
        self._waiting: list[tuple[Write[Any], asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many writes gather for the next commit."""
        return len(self._waiting)

    async def write(self, write: Write[T], *, can_wait: bool = False) -> T:
        """Run a write in the next transaction; return its result once it is durable.

        Args:
            can_wait: Nobody waits for it, so that it may go with a later one for some time.

        Raises:
            StoreError: It is not durable, or may not be.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if not can_wait:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._due.set)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        return await done

    async def close(self) -> None:
        self._due.set()
        if self._flushing is not None:
            await self._flushing
        self._disk.shutdown()
        self._opened.close()

    async def _flush(self) -> None:
        while self._waiting:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            group, self._waiting = self._waiting, []
            try:
                results = await self._commit([write for write, _ in group])
            # Whatever went wrong, no caller in the group may believe that its write is stored.
            except Exception as exc:
                for _, done in group:
                    if not done.done():
                        error = StoreError(f"the write failed: {exc}")
                        error.__cause__ = exc
                        done.set_exception(error)
            else:
                for (_, done), result in zip(group, results, strict=True):
                    if not done.done():
                        done.set_result(result)

    async def _commit(self, writes: Sequence[Write[Any]]) -> list[Any]:
        """Run writes in one transaction.

        Only the commit, which waits for the disk, runs in the thread: handing over a statement
        costs more than running it.
        """
        try:
            await self._begin()
            results = [write(self._writer) for write in writes]
            await asyncio.get_running_loop().run_in_executor(
                self._disk, self._writer.execute, "COMMIT"
            )
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return results

    async def _begin(self) -> None:
        """Take the write lock, which a backup, say, may hold for a moment."""
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


def _connect(path: Path, opened: contextlib.ExitStack) -> sqlite3.Connection:
    db = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    opened.callback(db.close)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db
