"""The store in Redis, or Valkey: for all processes of a cluster.

The keys, each with an expiry:

    relay:request:ID      hash: version, record (JSON), answer, event; spare, the event of a failed
                          request, which goes with its answer
    relay:fact:KEY        what else is known
    relay:listed:STATE    sorted set: the ids of requests, by the time by which they are listed
    relay:listed:STATE:TARGET    likewise, of the calls to one target
    relay:open            sorted set: the ids of open requests, by the time when each was accepted
    relay:answers         sorted set: SIZE:ID of each answer, by the time it came
    relay:answers:bytes   the sum of these sizes

What ends is published by its id on the channel relay:ended.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from relay.events import DEAD
from relay.store import OPEN, Census, Listing, Place, Record, Store, Use, Whole, Write, callbacks_of

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 2.0
_OPEN: Final = "relay:open"
_ANSWERS: Final = "relay:answers"
_ANSWERS_BYTES: Final = "relay:answers:bytes"
_ENDED: Final = "relay:ended"
# How often it is seen that nobody waits any more.
_LISTEN_S: Final = 1.0
# How many answers one call may drop: a script holds up everybody.
_BATCH: Final = 50
# How much is freed at least when Redis itself has no memory left.
_ROOM_BYTES: Final = 1024 * 1024

# When memory is short, Redis refuses a script's first write if that may need more of it, and none
# after it. So this deletes before it counts, and the other begins with what needs the memory.

# Drops the oldest answers until their sum is small enough and none is older than a record can be.
_DROP: Final = """
local function drop(answers, sum_key, most, oldest_ms, batch)
    local dropped, freed = 0, 0
    local sum = tonumber(redis.call('GET', sum_key) or '0')
    while dropped < tonumber(batch) do
        local oldest = redis.call('ZRANGE', answers, 0, 0, 'WITHSCORES')
        if not oldest[1] then break end
        local small = sum - freed <= tonumber(most)
        if small and tonumber(oldest[2]) > tonumber(oldest_ms) then break end
        local size, id = string.match(oldest[1], '^(%d+):(.*)$')
        redis.call('HDEL', 'relay:request:' .. id, 'answer', 'spare')
        redis.call('ZREM', answers, oldest[1])
        dropped, freed = dropped + 1, freed + tonumber(size)
    end
    if freed > 0 then redis.call('DECRBY', sum_key, freed) end
    return dropped
end
"""

# KEYS answers, sum; ARGV most, oldest_ms, batch.
_MAKE_ROOM: Final = f"{_DROP}return drop(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])"

# KEYS request, answers, sum, open. ARGV, each '' where there is none:
#    1 id              2 old version       3 new version, none to delete    4 '1' for anew
#    5 record          6 its expiry, ms    7 the longest expiry, ms         8 now, ms
#    9 the time by which it is listed      10, 11 the lists that it was in
#   12, 13 those that it is to be in       14 when it was accepted, while it is open
#   15 answer         16 event             17 how much the answers may be together
#   18 how many of them to drop at once
_WRITE: Final = f"""{_DROP}
local function unlist(id, list, of_target)
    if list ~= '' then redis.call('ZREM', list, id) end
    if of_target ~= '' then redis.call('ZREM', of_target, id) end
end
local function list(id, at_ms, name, oldest_ms, longest_ms)
    if name == '' then return end
    redis.call('ZREMRANGEBYSCORE', name, '-inf', oldest_ms)
    redis.call('ZADD', name, at_ms, id)
    redis.call('PEXPIRE', name, longest_ms)
end
local version = redis.call('HGET', KEYS[1], 'version') or ''
if version == ARGV[3] and version ~= '' then return 1 end
if version ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
    redis.call('DEL', KEYS[1])
    unlist(ARGV[1], ARGV[10], ARGV[11])
    redis.call('ZREM', KEYS[4], ARGV[1])
    return 1
end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'record', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if ARGV[4] == '1' then redis.call('HDEL', KEYS[1], 'answer', 'spare', 'event') end
local oldest_ms = tonumber(ARGV[8]) - tonumber(ARGV[7])
if ARGV[10] ~= ARGV[12] or ARGV[11] ~= ARGV[13] then unlist(ARGV[1], ARGV[10], ARGV[11]) end
list(ARGV[1], ARGV[9], ARGV[12], oldest_ms, ARGV[7])
list(ARGV[1], ARGV[9], ARGV[13], oldest_ms, ARGV[7])
if ARGV[14] ~= '' then
    list(ARGV[1], ARGV[14], KEYS[4], oldest_ms, ARGV[7])
else
    redis.call('ZREM', KEYS[4], ARGV[1])
    -- Whoever may not publish does without it.
    redis.pcall('PUBLISH', 'relay:ended', ARGV[1])
end
if ARGV[15] ~= '' then
    local before = redis.call('HSTRLEN', KEYS[1], 'answer')
    before = before + redis.call('HSTRLEN', KEYS[1], 'spare')
    if before > 0 and redis.call('ZREM', KEYS[2], before .. ':' .. ARGV[1]) == 1 then
        redis.call('DECRBY', KEYS[3], before)
    end
    local size = #ARGV[15] + #ARGV[16]
    redis.call('HSET', KEYS[1], 'answer', ARGV[15], 'spare', ARGV[16])
    redis.call('HDEL', KEYS[1], 'event')
    redis.call('ZADD', KEYS[2], ARGV[8], size .. ':' .. ARGV[1])
    redis.call('INCRBY', KEYS[3], size)
    redis.call('PEXPIRE', KEYS[2], ARGV[7])
    redis.call('PEXPIRE', KEYS[3], ARGV[7])
    drop(KEYS[2], KEYS[3], ARGV[17], oldest_ms, ARGV[18])
elseif ARGV[16] ~= '' then
    redis.call('HSET', KEYS[1], 'event', ARGV[16])
end
return 1
"""

# KEYS fact; ARGV old, new or '' for none, expiry in ms.
_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class _Use(Use):
    __slots__ = ()
    errors = (RedisError, OSError)

    @staticmethod
    def is_full(error: Exception) -> bool:
        # A script reports it in words of its own.
        return isinstance(error, OutOfMemoryError) or "OOM" in str(error)


class RedisStore(Store):
    """The store in Redis.

    Args:
        ttl_s: the longest that anything is kept.
        max_answer_bytes: of all answers together; what else there may be is `maxmemory` of Redis.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: int,
        max_answer_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock=clock)
        self._ttl_ms = ttl_s * 1000
        self._max_answer_bytes = max_answer_bytes
        self._url = url
        self._redis = self._connect()
        self._write_script = self._redis.register_script(_WRITE)
        self._make_room_script = self._redis.register_script(_MAKE_ROOM)
        self._replace_script = self._redis.register_script(_REPLACE)

    def event(self, request_id: str) -> bytes | None:
        with _Use():
            found = self._redis.hmget(_request(request_id), ["event", "spare"])
        event, spare = cast("list[bytes | None]", found)
        return event or spare or None

    def page(
        self, listing: Listing, *, limit: int, after: Place | None = None
    ) -> tuple[list[Record], Place | None]:
        name = _list(listing.state, listing.target)
        first_ms = self._first_ms(listing)
        last_ms = listing.to_ms if after is None else min(listing.to_ms, after[0])
        places: list[Place] = []
        start = 0
        with _Use():
            while len(places) <= limit:
                # Those of the same millisecond as the last one come again, and are passed over.
                chunk = cast(
                    "list[tuple[bytes, float]]",
                    self._redis.zrevrangebyscore(
                        name, last_ms, first_ms, start=start, num=limit + 1, withscores=True
                    ),
                )
                start += len(chunk)
                read = [(int(at_ms), request_id.decode()) for request_id, at_ms in chunk]
                places += [place for place in read if after is None or place < after]
                if len(chunk) <= limit:
                    break
            pipeline = self._redis.pipeline(transaction=False)
            for _, request_id in places[:limit]:
                pipeline.hget(_request(request_id), "record")
            found = [Record.from_json(raw) for raw in pipeline.execute() if raw is not None]
        next_page = places[limit - 1] if len(places) > limit else None
        is_listed = [each.listed == listing.state and self._unless_expired(each) for each in found]
        return list(itertools.compress(found, is_listed)), next_page

    def count(self, listing: Listing) -> int:
        name = _list(listing.state, listing.target)
        with _Use():
            return cast("int", self._redis.zcount(name, self._first_ms(listing), listing.to_ms))

    def census(self) -> Census:
        with _Use():
            pipeline = self._redis.pipeline(transaction=False)
            now_ms = self.now_ms()
            pipeline.zremrangebyscore(_OPEN, "-inf", now_ms - self._ttl_ms)
            for state in (OPEN, DEAD):
                pipeline.zcount(_list(state, None), now_ms - self._ttl_ms + 1, "+inf")
            pipeline.zrange(_OPEN, 0, 0, withscores=True)
            _, is_open, dead, oldest = pipeline.execute()
        return Census(open=is_open, dead=dead, oldest_open_ms=int(oldest[0][1]) if oldest else None)

    def close(self) -> None:
        self.waiters.close()
        self._redis.close()

    def _connect(self) -> redis.Redis:
        return redis.Redis.from_url(
            self._url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # Once, for a connection that was closed while it lay idle. Every change may be made
            # twice: its version, its user or its event tells that it was.
            retry=Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),
        )

    def _listen(self) -> None:
        try:
            with self._connect() as server, server.pubsub() as subscription:
                subscription.subscribe(_ENDED)
                while self.waiters.are_there():
                    told = subscription.get_message(timeout=_LISTEN_S)
                    if told and told["type"] == "message":
                        self.waiters.wake(told["data"].decode())
                    elif told:  # it has begun, or begun again; what came before was not heard
                        self.waiters.wake(None)
        except (RedisError, OSError) as exc:
            log.warning("callers wait longer for other processes: %s", type(exc).__name__)

    def _read(self, request_id: str) -> tuple[str | None, Record | None]:
        with _Use():
            found = self._redis.hmget(_request(request_id), ["version", "record"])
        version, record = cast("list[bytes | None]", found)
        if version is None or record is None:
            return None, None
        return version.decode(), Record.from_json(record)

    def _read_whole(self, request_id: str) -> Whole | None:
        with _Use():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hmget(_request(request_id), ["record", "answer"])
            pipeline.get(_fact(callbacks_of(request_id)))
            (record, answer), callbacks = pipeline.execute()
        return (
            None if record is None else Whole(Record.from_json(record), answer or None, callbacks)
        )

    def fact(self, key: str) -> bytes | None:
        with _Use():
            return cast("bytes | None", self._redis.get(_fact(key)))

    def replace_fact(self, key: str, old: bytes | None, new: bytes | None, ttl_s: int = 0) -> bool:
        name, ttl_ms = _fact(key), ttl_s * 1000

        def replace() -> object:
            if old is None:
                return self._redis.set(name, new or b"", nx=True, px=ttl_ms)
            return self._replace_script(keys=[name], args=[old, new or b"", ttl_ms])

        with _Use():
            return bool(self._or_make_room(len(new or b""), replace))

    def _write(self, write: Write) -> bool:
        record, now_ms = write.record, self.now_ms()
        args: Sequence[bytes | str | int] = (
            write.id,
            write.old_version or "",
            write.new_version if record is not None else "",
            int(write.anew),
            record.to_json() if record is not None else "",
            max(1, record.expires_ms - now_ms) if record is not None else 0,
            self._ttl_ms,
            now_ms,
            record.listed_ms if record is not None else 0,
            *_lists(write.old),
            *_lists(record),
            (record.accepted_ms or now_ms) if record is not None and record.listed == OPEN else "",
            write.answer or "",
            write.event or "",
            self._max_answer_bytes,
            _BATCH,
        )
        keys = [_request(write.id), _ANSWERS, _ANSWERS_BYTES, _OPEN]
        size = sum(len(each) for each in args if isinstance(each, bytes))
        with _Use():
            return bool(
                self._or_make_room(size, lambda: self._write_script(keys=keys, args=[*args]))
            )

    def _first_ms(self, listing: Listing) -> int:
        """Return from when on requests are listed: older ones have expired."""
        return max(listing.from_ms, self.now_ms() - self._ttl_ms + 1)

    def _or_make_room(self, size: int, do: Callable[[], object]) -> object:
        """Do something; when Redis has no memory left, drop answers for it and try again."""
        while True:
            try:
                return do()
            except ResponseError as exc:
                if not _Use.is_full(exc):
                    raise
                held = int(cast("bytes | None", self._redis.get(_ANSWERS_BYTES)) or 0)
                most = max(0, held - max(_ROOM_BYTES, 2 * size))
                dropped = self._make_room_script(
                    keys=[_ANSWERS, _ANSWERS_BYTES],
                    args=[most, self.now_ms() - self._ttl_ms, _BATCH],
                )
                if not dropped:
                    raise


def _request(request_id: str) -> str:
    return f"relay:request:{request_id}"


def _fact(key: str) -> str:
    return f"relay:fact:{key}"


def _list(state: str, target: str | None) -> str:
    return f"relay:listed:{state}" + (f":{target}" if target else "")


def _lists(record: Record | None) -> tuple[str, str]:
    """Name the lists that a record is in; empty where there is none."""
    if record is None:
        return "", ""
    return _list(record.listed, None), _list(record.listed, record.target) if record.target else ""
