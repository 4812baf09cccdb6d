"""Keep what is known about each request for as long as somebody may ask: in memory, files or Redis.

Each fact stands under a key of its own and is written once, so that no order of arrival and no
second writer can lose one. The caches are cachelib's; a value is JSON, never a pickle, since
whoever can write to a shared cache must not be able to run code here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol, TypeVar

from cachelib.file import FileSystemCache
from cachelib.simple import SimpleCache

from relay.problems import StateUnavailable

T = TypeVar("T")

_MEMORY_BYTES: Final = 64 * 1024 * 1024
_MAX_FILES: Final = 100_000
_REDIS_TIMEOUT_S: Final = 2.0
_PREFIX: Final = "relay:"


class _Cache(Protocol):
    def get(self, key: str) -> object: ...
    def set(self, key: str, value: object) -> bool | None: ...
    def add(self, key: str, value: object) -> bool: ...
    def inc(self, key: str) -> int | None: ...
    def delete(self, key: str) -> bool: ...


class State:
    """The facts about requests.

    Args:
        url: `memory://`, `file://DIR` or `redis[s]://[:PASSWORD@]HOST[:PORT][/DB]`.
        ttl_s: how long a fact is kept after it was written.

    Raises:
        ValueError: the url is none of these.

    Every method raises `StateUnavailable` when the cache cannot be reached.
    """

    def __init__(self, url: str, ttl_s: int) -> None:
        self._cache = _cache(url, ttl_s)

    def get(self, key: str) -> object:
        """Return a fact; None when there is none, or no longer."""
        return self._do(lambda: self._cache.get(key))

    def set(self, key: str, fact: object) -> None:
        """Keep a fact, in place of an earlier one."""
        if not self._do(lambda: self._cache.set(key, fact)):
            raise StateUnavailable("the state cannot be written (STATE_URL)")

    def add(self, key: str, fact: object) -> bool:
        """Keep a fact unless there is one; tell whether it was kept."""
        return self._do(lambda: self._cache.add(key, fact))

    def count(self, key: str) -> int:
        """Raise a counter by one and return it."""
        return self._do(lambda: self._cache.inc(key)) or 1

    def delete(self, key: str) -> None:
        """Forget a fact."""
        self._do(lambda: self._cache.delete(key))

    def _do(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        # Each cache has its own errors, and Redis's are known only where it is installed.
        except Exception as exc:
            raise StateUnavailable("the state cannot be reached (STATE_URL)") from exc


def _cache(url: str, ttl_s: int) -> _Cache:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "memory" and url == "memory://":
        return _MemoryCache(ttl_s)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return _FileCache(parts.path, ttl_s)
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return _redis_cache(url, ttl_s)
    raise ValueError(
        "must be memory://, file:///DIRECTORY or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE]"
    )


def _redis_cache(url: str, ttl_s: int) -> _Cache:
    # Imported only where it is used: it takes long, and cold starts should not.
    import redis
    from cachelib.redis import RedisCache

    client = redis.Redis.from_url(
        url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
    )
    cache = RedisCache(client, default_timeout=ttl_s, key_prefix=_PREFIX)
    cache.serializer = _JSON()  # type: ignore[assignment]
    return cache


class _JSON:
    """What cachelib calls a serializer; its own are pickles."""

    def dumps(self, value: object) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode("ascii")

    def loads(self, text: bytes | None) -> object:
        value: object = None if text is None else json.loads(text)
        return value

    def dump(self, value: object, stream: BinaryIO) -> None:
        stream.write(self.dumps(value))

    def load(self, stream: BinaryIO) -> object:
        return self.loads(stream.read())


class _MemoryCache(SimpleCache):
    """Drop the oldest facts when all together grow too large, and let one thread in at a time.

    cachelib bounds only how many there are, and locks nothing.
    """

    serializer = _JSON()  # type: ignore[assignment]

    def __init__(self, ttl_s: int) -> None:
        super().__init__(threshold=2**31, default_timeout=ttl_s)
        self._lock = threading.RLock()
        self._bytes = 0

    def get(self, key: str) -> object:
        with self._lock:
            value: object = super().get(key)
            return value

    def set(self, key: str, value: object, timeout: int | None = None) -> bool | None:
        with self._lock:
            self.delete(key)  # a dict keeps the place of a key, and the newest belong at its end
            done = super().set(key, value, timeout)
            self._bytes += self._size(key)
            while self._bytes > _MEMORY_BYTES:
                self.delete(next(iter(self._cache)))
            return done

    def add(self, key: str, value: object, timeout: int | None = None) -> bool:
        with self._lock:
            return not self.has(key) and bool(self.set(key, value, timeout))

    def inc(self, key: str, delta: int = 1) -> int | None:
        with self._lock:
            return super().inc(key, delta)

    def delete(self, key: str) -> bool:
        with self._lock:
            self._bytes -= self._size(key)
            return super().delete(key)

    def _size(self, key: str) -> int:
        _, value = self._cache.get(key, (0, b""))
        return len(key) + len(value) if value else 0


class _FileCache(FileSystemCache):
    """Let one process in at a time: several workers share the files, and a count is two steps."""

    serializer = _JSON()  # type: ignore[assignment]

    def __init__(self, folder: str, ttl_s: int) -> None:
        self._lock_path = folder.rstrip("/") + ".lock"  # cachelib owns what is in the folder
        super().__init__(folder, threshold=_MAX_FILES, default_timeout=ttl_s)

    def add(self, key: str, value: object, timeout: int | None = None) -> bool:
        with self._alone():
            return not self.has(key) and self.set(key, value, timeout)

    def inc(self, key: str, delta: int = 1) -> int | None:
        with self._alone():
            return super().inc(key, delta)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self._lock_path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
