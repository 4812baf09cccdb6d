"""The store: one set of promises, kept in memory, in a file and in Redis alike."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from relay.backends import open_store
from relay.events import COMPLETED, DEAD, FAILED
from relay.problems import StateUnavailable
from relay.store import (
    OPEN,
    PUBLISHING,
    Census,
    Listing,
    Place,
    Record,
    Store,
)
from relay.store_sqlite import SQLiteStore
from tests.support.processes import free_port, wait_until
from tests.support.redis import redis_server
from tests.support.stores import KINDS, SHARED_KINDS, Clock, opened, store_url

HOUR_MS = 3_600_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with store_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    with opened(url, clock=clock) as store:
        yield store


def put(
    store: Store,
    request_id: str,
    *,
    state: str = OPEN,
    answer: bytes | None = None,
    event: bytes | None = None,
    durable: bool = False,
    **changes: object,
) -> None:
    """Write a record over whatever there is."""
    now_ms = store.now_ms()

    def step(record: Record | None) -> tuple[Record, None]:
        base = record or Record(id=request_id, state=state, expires_ms=0, unknown_ms=now_ms)
        finished_ms = None if state == OPEN else now_ms
        new = base._replace(state=state, expires_ms=now_ms + HOUR_MS, finished_ms=finished_ms)
        return new._replace(**changes), None  # type: ignore[arg-type]

    store.change(request_id, step, answer=answer, event=event, durable=durable)


def newest_dead(store: Store, limit: int) -> list[Record]:
    return store.page(Listing(state=DEAD), limit=limit)[0]


def inspector(url: str) -> Any:
    """Connect past the store; redis-py's types leave open whether an answer is to be awaited."""
    return redis.Redis.from_url(url)


def delete(store: Store, request_id: str) -> None:
    store.change(request_id, lambda record: (None, None))


def fill(store: Store, event_bytes: int) -> None:
    for number in range(100):
        put(store, f"d{number}", state=DEAD, event=b"e" * event_bytes, durable=True)


def test_a_record_is_kept(store: Store) -> None:
    """What was written is read again, whatever its fields hold."""
    put(store, "a", fingerprint="f", target="x.test:80", attempts=3, error="ü\n", round=2)

    whole = store.read("a")

    assert whole is not None
    assert whole.record == Record(
        id="a",
        state=OPEN,
        expires_ms=store.now_ms() + HOUR_MS,
        unknown_ms=store.now_ms(),
        fingerprint="f",
        target="x.test:80",
        attempts=3,
        error="ü\n",
        round=2,
    )
    assert (whole.answer, whole.callbacks) == (None, None)
    assert store.read("b") is None


def test_an_answer_and_an_event_stay_beside_their_record(store: Store) -> None:
    """They are kept as they are, until the request is done or forgotten."""
    event = bytes(range(256)) * 100
    put(store, "a", state=DEAD, event=event)
    put(store, "a", state=OPEN)

    assert store.event("a") == event
    put(store, "a", state=COMPLETED, answer=b"\x00answer")

    whole = store.read("a")
    assert whole is not None
    assert whole.answer == b"\x00answer"
    assert store.event("a") is None
    delete(store, "a")
    assert store.read("a") is None


def test_a_step_that_changes_nothing_writes_nothing(store: Store) -> None:
    """Its result comes back, and what was to be kept beside the record is not."""
    put(store, "a")

    result = store.change("a", lambda record: (record, "seen"), answer=b"no")

    whole = store.read("a")
    assert result == "seen"
    assert whole is not None
    assert whole.answer is None
    assert store.change("b", lambda record: (record, record), event=b"no") is None
    assert store.event("b") is None


def test_changes_from_many_threads_all_count(store: Store) -> None:
    """A step sees what every earlier one wrote."""

    def count(record: Record | None) -> tuple[Record, int]:
        record = record or Record(id="a", state=OPEN, expires_ms=store.now_ms() + HOUR_MS)
        return record._replace(attempts=record.attempts + 1), record.attempts

    seen: list[int] = []

    def work() -> None:
        seen.extend(store.change("a", count) for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(seen) == list(range(200))


def test_a_wrong_guess_costs_a_look_and_nothing_else(store: Store) -> None:
    """Whoever guesses what is there is told by the store when it is not so."""
    store.change("a", lambda record: (made(store), None), guess=(None, None), version="v1")
    seen: list[int | None] = []

    def count(record: Record | None) -> tuple[Record, None]:
        seen.append(record.attempts if record else None)
        record = record or made(store)
        return record._replace(attempts=record.attempts + 1), None

    store.change("a", count, guess=("v1", made(store)), version="v2")
    store.change("a", count, guess=("v1", made(store)))
    store.change("a", count, guess=(None, None))

    whole = store.read("a")
    assert seen == [0, 0, 1, None, 2]
    assert whole is not None
    assert whole.record.attempts == 3


def made(store: Store) -> Record:
    return Record(id="a", state=OPEN, expires_ms=store.now_ms() + HOUR_MS)


def test_a_record_is_forgotten_after_its_time(store: Store, clock: Clock) -> None:
    """Nothing of it is left to the next request of its id."""
    put(store, "a", state=DEAD, event=b"secret")
    put(store, "b", state=COMPLETED, answer=b"answer")
    clock.now_s += 3600

    assert store.read("a") is None
    assert newest_dead(store, 10) == []
    put(store, "a")
    put(store, "b")

    whole = store.read("b")
    assert whole is not None
    assert whole.answer is None
    assert store.event("a") is None


def test_the_newest_dead_are_listed(store: Store, clock: Clock) -> None:
    """Newest first, and only what is dead now."""
    for number in range(12):
        put(store, f"r{number}", state=DEAD, event=b"event")
        clock.now_s += 1
    put(store, "r9", state=OPEN)
    delete(store, "r8")

    assert [record.id for record in newest_dead(store, 3)] == ["r11", "r10", "r7"]
    assert len(newest_dead(store, 100)) == 10


def pages(store: Store, listing: Listing, limit: int) -> list[list[str]]:
    """Read a list to its end, page by page."""
    found: list[list[str]] = []
    after: Place | None = None
    while True:
        page, after = store.page(listing, limit=limit, after=after)
        found.append([record.id for record in page])
        if after is None:
            return found


def test_a_list_has_pages(store: Store, clock: Clock) -> None:
    """Each request is on one of them, in the same order in every store, whatever its id."""
    for number in range(4):
        for name in ("a:", "~", "a/ü"):
            put(store, f"{name}{number}", state=DEAD, target="x.test:80")
        clock.now_s += 1

    whole = pages(store, Listing(state=DEAD), 100)[0]

    by_bytes = sorted(whole[:3], key=str.encode, reverse=True)
    assert whole == [f"{name[:-1]}{number}" for number in (3, 2, 1, 0) for name in by_bytes]
    for limit in (1, 2, 5, 11, 12):
        read = pages(store, Listing(state=DEAD), limit)
        assert [request_id for page in read for request_id in page] == whole
        assert all(len(page) == limit for page in read[:-1])


def test_a_list_is_narrowed(store: Store, clock: Clock) -> None:
    """By state, target and time; what moves on leaves it."""
    started_ms = store.now_ms()
    for number in range(6):
        put(store, f"r{number}", state=DEAD, target=f"t{number % 2}.test")
        clock.now_s += 1
    put(store, "r0", state=COMPLETED, answer=b"a")
    put(store, "r2", state=DEAD, target="t1.test")
    delete(store, "r4")

    def listed(listing: Listing) -> list[str]:
        (page,) = pages(store, listing, 100)
        assert store.count(listing) == len(page)
        return page

    assert listed(Listing(state=DEAD)) == ["r2", "r5", "r3", "r1"]
    assert listed(Listing(state=DEAD, target="t1.test")) == ["r2", "r5", "r3", "r1"]
    assert listed(Listing(state=DEAD, target="t0.test")) == []
    assert listed(Listing(state=COMPLETED, target="t0.test")) == ["r0"]
    in_between = Listing(state=DEAD, from_ms=started_ms + 1000, to_ms=started_ms + 3000)
    assert listed(in_between) == ["r3", "r1"]
    assert listed(replace(in_between, from_ms=started_ms + 1001)) == ["r3"]
    clock.now_s += 3600
    assert pages(store, Listing(state=DEAD), 100)[0] == []


def test_the_event_of_a_failed_request_goes_with_its_answer(url: str, clock: Clock) -> None:
    """Nothing that can be had again takes the room of what cannot."""
    with opened(url, max_bytes=300_000, clock=clock) as store:
        put(store, "dead", state=DEAD, event=b"precious")
        for number in range(20):
            clock.now_s += 1
            put(store, f"f{number}", state=FAILED, answer=b"no", event=b"e" * 100_000)

        assert store.event("f19") == b"e" * 100_000
        assert store.event("f0") is None
        assert store.read("f0") is not None
        assert store.event("dead") == b"precious"
        put(store, "f19", state=COMPLETED, answer=b"yes")
        assert store.event("f19") is None


def test_a_fact_is_replaced_by_whoever_knows_it(store: Store, clock: Clock) -> None:
    """Nobody undoes what others have written meanwhile."""
    assert store.fact("k") is None
    assert not store.replace_fact("k", b"0", b"1", 60)
    assert store.replace_fact("k", None, b"1", 60)
    assert not store.replace_fact("k", None, b"2", 60)
    assert not store.replace_fact("k", b"2", None)
    assert store.replace_fact("k", b"1", b"\x00\n", 60)

    assert store.fact("k") == b"\x00\n"
    assert store.fact("other") is None
    assert store.replace_fact("k", b"\x00\n", None)
    assert store.fact("k") is None


def test_a_key_is_used_once(store: Store, clock: Clock) -> None:
    """Another user is told so, until it is given back or its time is over."""
    assert store.use_once("k", "me", 60)
    assert store.use_once("k", "me", 60)
    assert not store.use_once("k", "you", 60)

    store.unuse("k", "you")
    assert not store.use_once("k", "you", 60)
    store.unuse("k", "me")
    assert store.use_once("k", "you", 60)


def test_a_used_key_is_forgotten_after_its_time(url: str, clock: Clock) -> None:
    """Then anybody may use it."""
    with opened(url, clock=clock) as store:
        assert store.use_once("k", "me", 1)

        def over() -> bool:
            clock.now_s += 0.1
            return store.use_once("k", "you", 1)

        wait_until(over, 5, "the end of the key's time")


def test_answers_go_first(url: str, clock: Clock) -> None:
    """When all is too large, the oldest answers are dropped, and no record or dead request is."""
    with opened(url, max_bytes=1_000_000, clock=clock) as store:
        put(store, "dead", state=DEAD, event=b"e" * 50_000)
        put(store, "open")
        for number in range(60):
            clock.now_s += 1
            put(store, f"r{number}", state=COMPLETED, answer=b"a" * 50_000)

        kept = [store.read(f"r{number}") for number in range(60)]

        answered = [number for number, each in enumerate(kept) if each and each.answer is not None]
        assert all(kept)
        assert 5 <= len(answered) <= 20
        assert answered == list(range(60 - len(answered), 60))
        assert store.event("dead") == b"e" * 50_000
        assert store.read("open") is not None


def test_no_request_is_given_the_answer_of_another(url: str, clock: Clock) -> None:
    """Not even where the answers of both have been dropped, or one of them."""
    with opened(url, max_bytes=300_000, clock=clock) as store:
        for number in range(30):
            clock.now_s += 1
            put(store, f"r{number}", state=COMPLETED, answer=b"%02d" % number * 40_000)

        for number in range(30):
            whole = store.read(f"r{number}")
            assert whole is not None
            assert whole.answer in (None, b"%02d" % number * 40_000)


def test_a_later_version_reads_an_earlier_ones_records() -> None:
    """A field that it does not know is ignored, and one that is not there has its default."""
    raw = json.loads(Record(id="a", state=OPEN, expires_ms=1, unknown_ms=2).to_json())

    assert Record.from_json(json.dumps({**raw, "new": 1})).attempts == 0


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_two_processes_share_a_store(kind: str, tmp_path: Path, clock: Clock) -> None:
    """What one writes, another reads; of two that begin at once neither fails."""
    with store_url(kind, tmp_path) as url, ExitStack() as stack:
        stores = [stack.enter_context(opened(url, clock=clock)) for _ in range(4)]
        threads = [
            threading.Thread(target=put, args=(store, f"r{number}"))
            for number, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert all(store.read(f"r{number}") for store in stores for number in range(4))


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_a_store_that_is_away_is_an_error(kind: str, tmp_path: Path) -> None:
    """It is never taken for an empty one, and a write that failed never for one that was done."""
    (tmp_path / "file").write_text("no folder")
    url = (
        f"redis://127.0.0.1:{free_port()}"
        if kind == "redis"
        else f"sqlite://{tmp_path}/file/state.sqlite3"
    )
    with opened(url) as store:
        operations: tuple[Callable[[], object], ...] = (
            lambda: store.read("a"),
            lambda: store.event("a"),
            lambda: newest_dead(store, 1),
            lambda: store.count(Listing(state=DEAD)),
            lambda: put(store, "a"),
            lambda: delete(store, "a"),
            lambda: store.fact("a"),
            lambda: store.replace_fact("a", b"1", b"2", 1),
            lambda: store.use_once("a", "me", 1),
            lambda: store.unuse("a", "me"),
        )
        for operation in operations:
            with pytest.raises(StateUnavailable) as raised:
                operation()
            assert raised.value.detail == "the state cannot be reached (STATE_URL)"


def test_a_locked_file_is_an_error_until_it_is_free(tmp_path: Path) -> None:
    """Another process may hold the database for long; nothing is lost by that."""
    path = tmp_path / "state.sqlite3"
    with opened(f"sqlite://{path}") as store:
        put(store, "a")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            assert store.read("a") is not None
            with pytest.raises(StateUnavailable):
                put(store, "b")

        put(store, "b")
        assert store.read("b") is not None


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    """Dead requests carry credentials."""
    with opened(f"sqlite://{tmp_path}/new/state.sqlite3") as store:
        put(store, "a")
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()]

    assert modes == [0o600, 0o600, 0o600]
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_full_store_says_so(kind: str, tmp_path: Path, clock: Clock) -> None:
    """When no answers are left to drop, nothing precious goes: what is new is refused."""
    with store_url(kind, tmp_path) as url, opened(url, max_bytes=500_000, clock=clock) as store:
        put(store, "done", state=COMPLETED, answer=b"a" * 50_000)
        with pytest.raises(StateUnavailable) as raised:
            fill(store, 50_000)

        assert raised.value.detail == "the state is full (STATE_MAX_BYTES)"
        dead = newest_dead(store, 100)
        assert len(dead) >= 5
        assert all(store.event(record.id) for record in dead)
        clock.now_s += 3600
        wait_until(lambda: _sweep(store) == 0, 5, "room")
        put(store, "new", state=DEAD, event=b"e" * 50_000)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_result_is_noted_though_its_answer_has_no_room(
    kind: str, tmp_path: Path, clock: Clock
) -> None:
    """The answer is the first that goes, and takes nothing precious with it."""
    with store_url(kind, tmp_path) as url, opened(url, max_bytes=500_000, clock=clock) as store:
        put(store, "r")
        with pytest.raises(StateUnavailable):
            fill(store, 50_000)
        dead = newest_dead(store, 100)

        put(store, "r", state=FAILED, answer=b"a" * 100_000, event=b"e" * 1_000)

        whole = store.read("r")
        assert whole is not None
        assert (whole.record.state, whole.answer) == (FAILED, None)
        assert store.event("r") is None
        assert newest_dead(store, 100) == dead


def _sweep(store: Store) -> int:
    assert isinstance(store, SQLiteStore)
    return store.sweep()


def test_requests_are_counted_as_they_are_now(store: Store, clock: Clock) -> None:
    """Open ones, the oldest of them, and dead ones; a change of state moves a request."""
    assert store.census() == Census(open=0, dead=0, oldest_open_ms=None)
    for number, state in enumerate([OPEN, PUBLISHING, OPEN, DEAD, COMPLETED]):
        put(store, f"a{number}", state=state, accepted_ms=store.now_ms() + number)

    counted = store.census()
    put(store, "a0", state=COMPLETED)
    put(store, "a1", state=DEAD)
    delete(store, "a3")

    assert counted == Census(open=3, dead=1, oldest_open_ms=store.now_ms())
    assert store.census() == Census(open=1, dead=1, oldest_open_ms=store.now_ms() + 2)


def test_counting_looks_at_no_request(tmp_path: Path, clock: Clock) -> None:
    """An index has the numbers, however many requests there are."""
    with store_url("sqlite", tmp_path) as url, opened(url, clock=clock) as store:
        assert isinstance(store, SQLiteStore)
        put(store, "a", accepted_ms=1)
        statements: list[str] = []
        with store._reading() as db:
            db.set_trace_callback(statements.append)
        store.census()

        with store._reading() as db:
            (statement,) = statements
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]

        steps = [step for step in plan if "requests" in step]
        assert len(steps) == 3
        assert all("INDEX" in step for step in steps)


@pytest.mark.parametrize("target", [None, "t.test"])
@pytest.mark.parametrize("state", [OPEN, DEAD])
def test_a_list_is_read_from_an_index(
    state: str, target: str | None, tmp_path: Path, clock: Clock
) -> None:
    """In its order, and no other requests are looked at."""
    listing = Listing(state=state, target=target)
    with store_url("sqlite", tmp_path) as url, opened(url, clock=clock) as store:
        assert isinstance(store, SQLiteStore)
        put(store, "a", state=state, target="t.test")
        statements: list[str] = []
        with store._reading() as db:
            db.set_trace_callback(statements.append)
        store.page(listing, limit=1)
        store.page(listing, limit=1, after=(store.now_ms(), "b"))
        store.count(listing)

        with store._reading() as db:
            explained = [
                db.execute(f"EXPLAIN QUERY PLAN {each}").fetchall() for each in statements[:3]
            ]

    index = "requests_listed_by_target" if state == DEAD and target else "requests_listed"
    for plan in explained:
        assert [f"INDEX {index} (" in row[3] for row in plan] == [True]


def test_a_full_redis_drops_answers_then_says_so(tmp_path: Path, clock: Clock) -> None:
    """Its own limit counts like the relay's: answers go, and precious things are refused."""
    with redis_server(tmp_path) as url, opened(url, clock=clock) as store:
        server = inspector(url)
        put(store, "warm", state=DEAD, event=b"e")
        used = server.info("memory")["used_memory"]
        server.config_set("maxmemory", used + 4_000_000)
        server.config_set("maxmemory-policy", "noeviction")
        for number in range(100):
            put(store, f"a{number}", state=COMPLETED, answer=b"a" * 100_000)
        kept = [store.read(f"a{number}") for number in range(100)]
        with pytest.raises(StateUnavailable) as raised:
            fill(store, 100_000)

        assert all(kept)
        assert 10 < sum(each is not None and each.answer is not None for each in kept) < 50
        assert raised.value.detail == "the state is full (STATE_URL)"
        dead = newest_dead(store, 200)
        assert len(dead) > 20
        assert all(store.event(record.id) for record in dead)
        assert store.read("a99") is not None
        server.close()


def test_a_closed_database_is_not_opened_again(tmp_path: Path) -> None:
    """A sweep that comes late finds it closed, and leaves nothing open behind it."""
    store = SQLiteStore(str(tmp_path / "state.sqlite3"), max_bytes=10**6)
    put(store, "open")
    store.close()

    with pytest.raises(StateUnavailable):
        store.sweep()


def test_everything_in_redis_expires(tmp_path: Path, clock: Clock) -> None:
    """Nothing is left for ever, so that no memory fills up with what nobody will ask for."""
    with redis_server(tmp_path) as url, opened(url, clock=clock) as store:
        put(store, "open")
        put(store, "dead", state=DEAD, event=b"e")
        put(store, "done", state=COMPLETED, answer=b"a")
        store.replace_fact("open", None, b"c", 60)
        store.use_once("k", "me", 60)
        server = inspector(url)

        keys = server.keys("*")

        assert len(keys) == 11
        assert all(server.pttl(key) > 0 for key in keys)
        server.close()


def test_a_status_is_one_round_trip_on_redis(tmp_path: Path, clock: Clock) -> None:
    """All that a caller is told comes with one message each way."""
    with redis_server(tmp_path) as url, opened(url, clock=clock) as store:
        put(store, "a", state=COMPLETED, answer=b"a")
        server = inspector(url)
        before = server.info("stats")["total_reads_processed"]
        alone = server.info("stats")["total_reads_processed"] - before

        before = server.info("stats")["total_reads_processed"]
        store.read("a")
        together = server.info("stats")["total_reads_processed"] - before

        assert together - alone == 1
        server.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_is_expired_is_swept_in_batches(kind: str, tmp_path: Path, clock: Clock) -> None:
    """The space is there again, and no batch is larger than the next write can wait for."""
    with store_url(kind, tmp_path) as url, opened(url, clock=clock) as store:
        assert isinstance(store, SQLiteStore)
        for number in range(250):
            put(store, f"r{number}", state=DEAD, event=b"e" * 5_000)
            store.replace_fact(f"r{number}", None, b"c", 3600)
        clock.now_s += 3600

        swept = []
        while count := store.sweep():
            swept.append(count)

        # The housekeeper may have taken some.
        assert sum(swept) <= 500
        assert max(swept) <= 200
        assert newest_dead(store, 10) == []
        with store._reading() as db:
            for table in ("requests", "events", "facts", "answers"):
                assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize(
    "url",
    ["", "memory://x", "sqlite://", "sqlite://host/x", "file:///x", "redis://", "http://x"],
)
def test_another_url_is_refused(url: str) -> None:
    """The error says what it must be."""
    with pytest.raises(ValueError, match="must be memory://, sqlite:///PATH or redis"):
        open_store(url, ttl_s=1, max_bytes=1)
