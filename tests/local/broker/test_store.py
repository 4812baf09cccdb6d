"""The store: durable in groups, bounded, and one Broker's alone."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from local.broker.database import StoreError
from local.broker.store import EventStore, Publication
from relay.events import Event

PUBLICATION = Publication(
    event=Event(attributes={"id": "1", "source": "/s", "type": "t"}, data=b"{}"),
    headers={},
    triggers=("default/all",),
)


def commits(folder: Path) -> int:
    """Count the transactions in the write-ahead log (SQLite file format, section 4)."""
    log = (folder / "broker.sqlite3-wal").read_bytes()
    (page_bytes,) = struct.unpack_from(">I", log, 8)
    frames = range(32, len(log), 24 + page_bytes)
    return sum(struct.unpack_from(">I", log, frame + 4)[0] != 0 for frame in frames)


def test_events_that_come_together_are_committed_together(tmp_path: Path) -> None:
    """A hundred events at once are durable after one commit, not after a hundred."""

    async def publish() -> tuple[int, dict[str, int]]:
        store = EventStore(tmp_path)
        before = commits(tmp_path)
        await asyncio.gather(*(store.add(PUBLICATION) for _ in range(100)))
        result = commits(tmp_path) - before, store.count_pending()
        await store.close()
        return result

    assert asyncio.run(publish()) == (1, {"default/all": 100})


def test_the_end_of_a_delivery_goes_with_a_later_write(tmp_path: Path) -> None:
    """Nobody waits for it; but when nothing comes after it, it is written all the same."""

    async def deliver() -> tuple[int, list[dict[str, int]]]:
        store = EventStore(tmp_path)
        first = PUBLICATION.delivery(await store.add(PUBLICATION), "default/all")
        before = commits(tmp_path)
        finishing = asyncio.create_task(store.finish(first))
        await asyncio.sleep(0)
        second = PUBLICATION.delivery(await store.add(PUBLICATION), "default/all")
        await finishing
        result = commits(tmp_path) - before
        pending = [store.count_pending()]
        await store.finish(second)
        pending.append(store.count_pending())
        await store.close()
        return result, pending

    assert asyncio.run(deliver()) == (1, [{"default/all": 1}, {}])


def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    """While the disk is busy, events beyond the bound are refused at once; the others are kept."""

    async def publish() -> tuple[list[str], dict[str, int]]:
        store = EventStore(tmp_path)
        with closing(sqlite3.connect(tmp_path / "broker.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            adding = [asyncio.create_task(store.add(PUBLICATION)) for _ in range(515)]
            refused, _ = await asyncio.wait(adding, return_when=asyncio.FIRST_COMPLETED)
            other.execute("ROLLBACK")
        await asyncio.gather(*(set(adding) - refused))
        result = [str(task.exception()) for task in refused], store.count_pending()
        await store.close()
        return result

    assert asyncio.run(publish()) == (
        ["too many events wait to be written"] * 3,
        {"default/all": 512},
    )


def test_a_store_has_one_broker(tmp_path: Path) -> None:
    """A second Broker on the same folder would deliver everything twice: it does not start."""

    async def open_twice() -> None:
        store = EventStore(tmp_path)
        try:
            with pytest.raises(StoreError) as caught:
                EventStore(tmp_path)
        finally:
            await store.close()

        assert str(caught.value) == f"another Broker uses the database in {tmp_path}"
        await EventStore(tmp_path).close()

    asyncio.run(open_twice())


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The error says which folder, and why."""
    taken = tmp_path / "file"
    taken.touch()

    with pytest.raises(StoreError) as caught:
        EventStore(taken)

    assert str(caught.value) == f"cannot use the folder {taken}: [Errno 17] File exists: '{taken}'"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """What lies there is left alone."""
    (tmp_path / "broker.sqlite3").write_bytes(b"no database" * 100)

    with pytest.raises(StoreError) as caught:
        EventStore(tmp_path)

    assert str(caught.value) == f"cannot open the database in {tmp_path}: file is not a database"
    assert (tmp_path / "broker.sqlite3").read_bytes() == b"no database" * 100
