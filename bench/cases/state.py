"""The state: what noting a request costs, with few of them in it and with a million."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from bench import servers
from bench.cases.costs import p99
from bench.cases.plan import Plan, ratios
from bench.report import Figure, Limit, Measured
from relay.backends import open_store
from relay.records import Records
from relay.settings import Settings
from relay.store import Record, Store

CASE = "state"
_FEW = 1_000
_SETTINGS = Settings()
_MAX_BYTES = 16 * 1024**3
_SAMPLES = 2_000
_FILLERS = 4


class _Clock:
    """A clock that can be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def run(plan: Plan) -> Iterator[Measured]:
    """Accept requests in a small and in a large store by turns; then let all of it expire."""
    for kind in ("SQLite", "Redis"):
        if kind == "Redis" and not servers.has_redis():
            plan.show(f"{CASE}: left out without redis-server")
            continue
        clock = _Clock()
        with _urls(kind) as urls, contextlib.ExitStack() as opened:
            stores = []
            for url, size in zip(urls, (_FEW, plan.requests), strict=True):
                ttl_s = _SETTINGS.state_ttl_s
                store = open_store(url, ttl_s=ttl_s, max_bytes=_MAX_BYTES, clock=clock)
                opened.callback(store.close)
                stores.append(store)
                plan.show(f"{CASE}: {size:,} requests in {kind}")
                _fill(store, size)
                if kind == "Redis":
                    # As knative/ has it; not before, since so many fsyncs take long.
                    redis.Redis.from_url(url).config_set("appendfsync", "always")
            yield from _compare(plan, kind, stores)
            if kind == "SQLite":
                yield _expire(plan, stores[1], urls[1], clock)


@contextlib.contextmanager
def _urls(kind: str) -> Iterator[list[str]]:
    """Give the URLs of two empty stores."""
    with contextlib.ExitStack() as stack:
        folders = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            for _ in range(2)
        ]
        if kind == "Redis":
            yield [
                stack.enter_context(servers.redis_server(folder, is_durable=False))
                for folder in folders
            ]
        else:
            yield [f"sqlite://{folder}/state.sqlite3" for folder in folders]


def _fill(store: Store, size: int) -> None:
    """Put in requests that are done, as they are most of the day."""

    def put(_: int) -> None:
        now_ms = store.now_ms()
        record = Record(
            id=str(uuid.uuid4()),
            state="completed",
            expires_ms=now_ms + _SETTINGS.state_ttl_s * 1000,
            unknown_ms=now_ms,
            fingerprint="f" * 64,
            target="target.example:80",
            accepted_ms=now_ms,
            finished_ms=now_ms,
            attempts=1,
            answer_status=200,
        )
        store.change(record.id, lambda old: (old or record, None), guess=(None, None))

    with ThreadPoolExecutor(_FILLERS) as pool:
        for _ in pool.map(put, range(size), chunksize=1000):
            pass


def _compare(plan: Plan, kind: str, stores: list[Store]) -> Iterator[Measured]:
    all_records = [Records(store, _SETTINGS) for store in stores]
    p99_ms: list[list[float]] = [[], []]
    for number in range(plan.few_rounds + 1):
        plan.show(f"{CASE}: {kind}, round {number}")
        taken_ms: list[list[float]] = [[], []]
        for _ in range(_SAMPLES if number else _SAMPLES // 10):
            for records, samples in zip(all_records, taken_ms, strict=True):
                samples.append(_accept_ms(records))
        if number:  # the first one warms up
            for kept, samples in zip(p99_ms, taken_ms, strict=True):
                kept.append(p99(samples))
    yield Figure(
        case=CASE,
        name=f"p99 of accepting, {plan.requests:,} requests in {kind} to {_FEW:,}",
        unit="x",
        values=ratios(p99_ms[1], p99_ms[0]),
        limit=Limit(at_most=1.2),
    )
    yield Figure(
        case=CASE,
        name=f"p99 of accepting, {plan.requests:,} requests in {kind}",
        unit="ms",
        values=tuple(p99_ms[1]),
    )


def _accept_ms(records: Records) -> float:
    begun_s = time.perf_counter()
    known, _ = records.accept(
        str(uuid.uuid4()), fingerprint="f" * 64, target="target.example:80", may_repeat=True
    )
    with records.publishing(known.record):
        pass
    return (time.perf_counter() - begun_s) * 1000


def _expire(plan: Plan, store: Store, url: str, clock: _Clock) -> Figure:
    """Accept requests while all that was there expires, and nothing else goes on."""
    plan.show(f"{CASE}: {plan.requests:,} requests expire in SQLite")
    records = Records(store, _SETTINGS)
    clock.ahead_s = 2 * _SETTINGS.state_ttl_s
    taken_ms = []
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite://"))) as db:
        query = "SELECT 1 FROM requests WHERE expires_ms <= ? LIMIT 1"
        while db.execute(query, (store.now_ms(),)).fetchone():
            taken_ms.append(_accept_ms(records))
    return Figure(
        case=CASE,
        name=f"the longest that accepting takes while {plan.requests:,} requests expire in SQLite",
        unit="ms",
        values=(max(taken_ms),),
        limit=Limit(at_most=50),
    )
