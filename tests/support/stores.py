"""Both kinds of store, each with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.backends import open_store
from relay.store import Store
from tests.support.redis import redis_server

KINDS = ("memory", "sqlite", "redis")
SHARED_KINDS = ("sqlite", "redis")


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty store."""
    if kind == "redis":
        with redis_server(folder) as url:
            yield url
    else:
        yield "memory://" if kind == "memory" else f"sqlite://{folder}/state.sqlite3"


@contextmanager
def opened(
    url: str, *, ttl_s: int = 3600, max_bytes: int = 64 * 1024 * 1024, clock: Clock | None = None
) -> Iterator[Store]:
    store = open_store(url, ttl_s=ttl_s, max_bytes=max_bytes, clock=clock or Clock())
    try:
        yield store
    finally:
        store.close()
