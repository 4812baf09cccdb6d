"""Open the store that `STATE_URL` names."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable

from relay.store import Store


def open_store(
    url: str, *, ttl_s: int, max_bytes: int, clock: Callable[[], float] = time.time
) -> Store:
    """Open the store that a URL names; it is connected when it is first used.

    Args:
        url: `memory://`, `sqlite:///PATH` or `redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE]`.
        ttl_s: the longest that a record is kept after it was last written.
        max_bytes: of the whole store in SQLite, of the answers in Redis.

    Raises:
        ValueError: the URL has another form.
    """
    parts = urllib.parse.urlsplit(url)
    # Each is imported only where it is used: that takes long, and cold starts should not.
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        from relay.store_redis import RedisStore

        return RedisStore(url, ttl_s=ttl_s, max_answer_bytes=max_bytes, clock=clock)
    if url == "memory://" or (parts.scheme == "sqlite" and parts.path and not parts.netloc):
        from relay.store_sqlite import SQLiteStore

        path = urllib.parse.unquote(parts.path) if parts.path else None
        return SQLiteStore(path, max_bytes=max_bytes, clock=clock)
    raise ValueError(
        "must be memory://, sqlite:///PATH or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE]"
    )
