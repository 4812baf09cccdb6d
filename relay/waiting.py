"""Let callers wait for results, but not so many that nobody else is served."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Waiting:
    """The places of those who wait.

    Args:
        threads: how many requests are served at once. A caller who waits holds one of these, so
            only a quarter of them may.
    """

    def __init__(self, threads: int) -> None:
        self.places = max(1, threads // 4)
        self._free = threading.BoundedSemaphore(self.places)

    @contextlib.contextmanager
    def place(self) -> Iterator[bool]:
        """Hold a place while the block runs; tell whether there was one."""
        has_place = self._free.acquire(blocking=False)
        try:
            yield has_place
        finally:
            if has_place:
                self._free.release()

    def told(self) -> dict[str, str]:
        """Return what a caller is told for whom there was no place."""
        return {
            "notWaited": f"{self.places} others are waiting, and no more may (a quarter of THREADS)"
        }
