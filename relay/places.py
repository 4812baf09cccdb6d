"""Share out places that many want at once.

A place is a thread of the server, or one of the records that a Broker has in hand.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

# While a holder's work takes no longer than this, its next one may wait for a place: a burst that
# is quickly over is no reason to refuse a call.
PATIENCE_S = 0.5

Rule = Callable[[int, int], bool]


def at_most(most: int) -> Rule:
    """Let each holder have so many."""
    return lambda mine, others: mine < most


def fair(total: int) -> Rule:
    """Let a holder take another place while it holds fewer than are free.

    So the first may have half of them, the second half of what is left, and room remains.
    """
    return lambda mine, others: mine < total - mine - others


@dataclass(slots=True)
class Places:
    """Places under one rule.

    Args:
        rule: may a holder take another, with so many of its own and so many held by others?
        patience_s: see `PATIENCE_S`.
    """

    rule: Rule
    patience_s: float = PATIENCE_S
    _since: dict[Hashable, deque[float]] = field(default_factory=dict)
    _held: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def take(self, holder: Hashable) -> Iterator[bool]:
        """Hold a place while the block runs, if there is one.

        Yields:
            whether there is.
        """
        taken = self.acquire(holder)
        try:
            yield taken is not None
        finally:
            if taken is not None:
                self.release(holder, taken)

    def acquire(self, holder: Hashable) -> float | None:
        """Take a place; wait for it while the holder's oldest one was taken a moment ago.

        Returns:
            what `release` wants; None when there is no place.
        """
        with self._changed:
            came_s = time.monotonic()
            while True:
                mine = self._since.get(holder, ())
                now_s = time.monotonic()
                if self.rule(len(mine), self._held - len(mine)):
                    self._since.setdefault(holder, deque()).append(now_s)
                    self._held += 1
                    return now_s
                left_s = (mine[0] if mine else came_s) + self.patience_s - now_s
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)

    def release(self, holder: Hashable, taken: float) -> None:
        with self._changed:
            mine = self._since[holder]
            mine.remove(taken)
            if not mine:
                del self._since[holder]
            self._held -= 1
            self._changed.notify_all()
