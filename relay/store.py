"""Where what is known about requests is kept: one small interface, over SQLite or Redis.

The store speaks of requests. Each has a record, which is read, changed by a step and written back
if it has not been changed meanwhile, and two things beside it that may be large:

    answer      what the target answered; the first to go when the store is full
    event       the event of a dead or failed request, whole, to be published again; that of a
                failed one goes with its answer

What else is to be known for a while are facts, each by its key.

Requests are listed by their state and, within it, their target: open ones by the time when they
count as unknown, the others by the time of their end.

A step is a function without side effects: it may run more than once.
"""

from __future__ import annotations

import abc
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Final, NamedTuple, TypeVar

from relay.operations import STORE, Operation
from relay.problems import StateUnavailable
from relay.waiters import Waiters

log = logging.getLogger(__name__)

PUBLISHING: Final = "publishing"
OPEN: Final = "open"
CANCELLED: Final = "cancelled"

# More than could ever change one request at the same time.
TRIES: Final = 200

T = TypeVar("T")


class Record(NamedTuple):
    """What the store keeps of one request; times are milliseconds since 1970.

    Args:
        id: of the request, and of its event.
        state: `publishing`, `open`, `completed`, `failed`, `dead` or `cancelled`.
        expires_ms: when it may be forgotten.
        unknown_ms: when it is unknown whether it is still on its way, if it is open until then
            and nothing else is heard of it.
        fingerprint: of the envelope; None when it has not been seen here.
        target: its authority, `host:port`.
        accepted_ms: when Send first had it; None when it came past Send.
        finished_ms: when its outcome came.
        publisher: who is publishing it, or was.
        publishing_until_ms: when that must be over.
        before: its status before somebody began to publish it; None when it was not known.
        round: how often it was begun: 1, and one more for each retry after it was dead or failed.
        attempts: how often its target was called.
        earlier_attempts: of these, the ones before this round.
        caller: who is calling the target.
        calling_until_ms: when that claim ends.
        error: why the last attempt failed.
        next_attempt_ms: about when it is tried again.
        answer_status: the status of the target's answer.
        reason: why it is dead, as JSON.
    """

    id: str
    state: str
    expires_ms: int
    unknown_ms: int = 0
    fingerprint: str | None = None
    target: str | None = None
    accepted_ms: int | None = None
    finished_ms: int | None = None
    publisher: str | None = None
    publishing_until_ms: int = 0
    before: str | None = None
    round: int = 1
    attempts: int = 0
    earlier_attempts: int = 0
    caller: str | None = None
    calling_until_ms: int = 0
    error: str | None = None
    next_attempt_ms: int | None = None
    answer_status: int | None = None
    reason: str | None = None

    def to_json(self) -> str:
        """Write what differs from the defaults."""
        fields = zip(self._fields, self, _DEFAULTS, strict=True)
        return _write_json({name: value for name, value, default in fields if value != default})

    @property
    def listed(self) -> str:
        """Return under which state it is listed."""
        return OPEN if self.state == PUBLISHING else self.state

    @property
    def listed_ms(self) -> int:
        """Return the time by which it is listed."""
        return self.unknown_ms if self.listed == OPEN else self.finished_ms or 0

    @classmethod
    def from_json(cls, raw: bytes | str) -> Record:
        """Read a record, also one of another version, which may know other fields."""
        known = json.loads(raw)
        return cls(**{name: known[name] for name in known if name in _NAMES})


_write_json = json.JSONEncoder(separators=(",", ":")).encode
_NAMES: Final = frozenset(Record._fields)
_DEFAULTS: Final = [Record._field_defaults.get(name) for name in Record._fields]

Step = Callable[[Record | None], tuple[Record | None, T]]
# The version and the record that there probably are, None and None for nothing.
Guess = tuple[str | None, Record | None]


class Whole(NamedTuple):
    """A record with what a caller is told besides.

    Args:
        answer: None when there is none, or no longer.
        callbacks: what is known by the key that `callbacks_of` makes.
    """

    record: Record
    answer: bytes | None
    callbacks: bytes | None


def callbacks_of(request_id: str) -> str:
    return f"callbacks:{request_id}"


# Where a list goes on: the time and the id of the last request that was listed.
Place = tuple[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Which requests are listed.

    Args:
        state: `open`, or how they ended.
        target: only calls to this authority; None for all.
        from_ms, to_ms: the times between which they are listed, both included.
    """

    state: str
    target: str | None = None
    from_ms: int = 0
    to_ms: int = 2**53 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """How many requests there are; what has expired may still count for a moment.

    Args:
        open: that are on their way, as far as anybody knows.
        dead: dead.
        oldest_open_ms: when the oldest of the open ones was accepted, in milliseconds since 1970;
            None when there is none.
    """

    open: int
    dead: int
    oldest_open_ms: int | None


class Write(NamedTuple):
    """One change, as a backend makes it.

    Args:
        id: of the request.
        old_version: that it must have; None when there must be no record, not even an expired one.
        new_version: that it is given.
        old: what it replaces, be it expired.
        record: None to delete it.
        anew: nothing of an earlier request with this id is to be left.
        answer, event: to be kept with it; None to leave them as they are.
        durable: it must survive a loss of power.
    """

    id: str
    old_version: str | None
    new_version: str
    old: Record | None
    record: Record | None
    anew: bool
    answer: bytes | None
    event: bytes | None
    durable: bool


def unlike_any() -> str:
    """Make a version that is unlike any other."""
    return os.urandom(12).hex()


class Use(Operation):
    """One use of the store: what a backend's library raises in it becomes `StateUnavailable`."""

    __slots__ = ()
    errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self) -> None:
        super().__init__(STORE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        told = None
        if isinstance(error, self.errors):
            # Not in the library's own words: they may repeat what was sent.
            log.debug("the state: %s", type(error).__name__)
            what = "is full" if self.is_full(error) else "cannot be reached"
            told = StateUnavailable(f"the state {what} (STATE_URL)")
        super().__exit__(kind, told or error, traceback)
        if told:
            raise told from error

    @staticmethod
    def is_full(error: Exception) -> bool:
        """Tell whether there was no room."""
        raise NotImplementedError


class Store(abc.ABC):
    """The records of requests.

    Every method raises `StateUnavailable` when the store cannot be reached or is full.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.waiters = Waiters(self._listen)

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def change(
        self,
        request_id: str,
        step: Step[T],
        *,
        answer: bytes | None = None,
        event: bytes | None = None,
        durable: bool = False,
        guess: Guess | None = None,
        version: str | None = None,
    ) -> T:
        """Change one record in one piece.

        Args:
            step: is given the record, None when there is none, and returns what it shall be, None
                for nothing, and a result. When it returns what it was given, nothing is written.
            answer, event: kept beside the record if it is written.
            durable: return when the change would survive a loss of power.
            guess: spares a look before the first try.
            version: of the record if it is written, unlike any other; so that somebody can guess.

        Returns:
            the result of the step.
        """
        for _ in range(TRIES):
            old_version, kept = guess or self._read(request_id)
            guess = None
            old = self._unless_expired(kept)
            new, result = step(old)
            if new is old:
                return result
            write = Write(
                id=request_id,
                old_version=old_version,
                new_version=version or unlike_any(),
                old=kept,
                record=new,
                anew=old is None,
                answer=answer,
                event=event,
                durable=durable,
            )
            if self._write(write):
                if new is not None and new.listed != OPEN:
                    self.waiters.wake(request_id)
                return result
        raise StateUnavailable("too many change the same request at once; try again")

    def read(self, request_id: str) -> Whole | None:
        """Read all that a caller is told."""
        whole = self._read_whole(request_id)
        return None if whole is None or self._unless_expired(whole.record) is None else whole

    @abc.abstractmethod
    def event(self, request_id: str) -> bytes | None:
        """Read the event of a request that is or was dead, or has failed."""

    @abc.abstractmethod
    def page(
        self, listing: Listing, *, limit: int, after: Place | None = None
    ) -> tuple[list[Record], Place | None]:
        """List requests, the newest first.

        Args:
            limit: of the page; it may have fewer though there are more.
            after: where the page before ended.

        Returns:
            the page, and where the next begins; None after the last.
        """

    @abc.abstractmethod
    def count(self, listing: Listing) -> int:
        """Count requests; some that have just expired may be among them."""

    @abc.abstractmethod
    def census(self) -> Census:
        """Count the requests, by indexes alone."""

    @abc.abstractmethod
    def fact(self, key: str) -> bytes | None:
        """Read what else is known, by its key."""

    @abc.abstractmethod
    def replace_fact(self, key: str, old: bytes | None, new: bytes | None, ttl_s: int = 0) -> bool:
        """Keep something in place of what there was, None for nothing; tell if that was there."""

    def use_once(self, key: str, user: str, ttl_s: int) -> bool:
        """Remember a key; tell whether it was new, or remembered by the same user."""
        name, mine = f"used:{key}", user.encode()
        return self.replace_fact(name, None, mine, ttl_s) or self.fact(name) == mine

    def unuse(self, key: str, user: str) -> None:
        """Forget a key that this user had remembered."""
        self.replace_fact(f"used:{key}", user.encode(), None)

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the store holds."""

    @abc.abstractmethod
    def _listen(self) -> None:
        """Wake those who wait by what other processes note, while there are any; raise nothing."""

    @abc.abstractmethod
    def _read(self, request_id: str) -> Guess:
        """Read the version and the record of a request, maybe an expired one."""

    @abc.abstractmethod
    def _read_whole(self, request_id: str) -> Whole | None: ...

    @abc.abstractmethod
    def _write(self, write: Write) -> bool:
        """Make a change; tell whether the version was the expected one."""

    def _unless_expired(self, record: Record | None) -> Record | None:
        return None if record is None or record.expires_ms <= self.now_ms() else record
