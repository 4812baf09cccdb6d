"""Tell watchers what the relay does: metrics, and traces.

The code that is measured says here what it does; it knows neither of them, nor their libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

Fact = str | int | float | bool
Carried = tuple[tuple[str, str], ...]  # headers

REQUEST: Final = "request"  # or delivery, that is answered
OWN: Final = "own"  # a probe, or a question for these very numbers: nobody watches it
CALL: Final = "call"  # of a target, until the headers of its answer
PUBLICATION: Final = "publication"
STORE: Final = "store"  # one use of it


class Operation:
    """Something that takes time, while its block runs.

    Args:
        kind: one of the above.
        facts: what is known of it; more may be added until it ends.
        trace: headers that go along with it. A tracer puts its own trace context into them.
    """

    __slots__ = ("duration_s", "error", "facts", "kind", "span", "started_s", "trace")

    def __init__(
        self, kind: str, facts: dict[str, Fact] | None = None, trace: Carried = ()
    ) -> None:
        self.kind = kind
        self.facts = {} if facts is None else facts
        self.trace = trace
        self.error: BaseException | None = None
        self.duration_s = 0.0
        self.span: object = None
        self.started_s = time.perf_counter()

    def __enter__(self) -> Operation:
        self.begin()
        self.join(self.trace)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.error = error
        self.end()

    def begin(self) -> None:
        if self.kind != OWN:
            get_ready()
            for watcher in _watchers:
                watcher.began(self)

    def join(self, trace: Carried) -> Carried:
        """Make it part of a trace; return the headers that go along from here."""
        self.trace = trace
        for watcher in _watchers:
            watcher.joined(self)
        return self.trace

    def end(self) -> None:
        self.duration_s = time.perf_counter() - self.started_s
        for watcher in _watchers:
            watcher.ended(self)


class Watcher(Protocol):
    """A watcher; it must not raise."""

    def get_ready(self) -> None:
        """Do once what takes long, before the first operation."""

    def began(self, operation: Operation) -> None: ...

    def joined(self, operation: Operation) -> None: ...

    def ended(self, operation: Operation) -> None: ...


_watchers: Final[list[Watcher]] = []
_unready: Final[list[Watcher]] = []
_lock = threading.Lock()
# Numbers of this process that go up and down: by the name of the metric, with its unit, what it
# means, in a sentence, and what reads it.
gauges: Final[dict[str, tuple[str, Callable[[], float]]]] = {}


def watch(watcher: Watcher) -> None:
    """Have all operations watched, from the first on."""
    _unready.append(watcher)


def get_ready() -> None:
    """Have the watchers ready: what they need takes long to import, and a start should not."""
    if _unready:
        with _lock:
            for watcher in _unready:
                watcher.get_ready()
            _watchers.extend(_unready)
            _unready.clear()


def gauge(name: str, meaning: str, read: Callable[[], float]) -> None:
    """Have a number watched."""
    gauges[name] = (meaning, read)
