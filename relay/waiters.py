"""Wake those who wait for a request to end, by whichever process that is noted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

# How long it is listened for others when nobody waits any more: somebody may again.
_LINGER_S: Final = 5.0
# How soon it is listened again after that has failed.
_AGAIN_S: Final = 0.25


class Waiters:
    """Those who wait in this process.

    Args:
        listen: wakes them by what other processes note, for as long as `are_there`. It runs in a
            thread that starts when somebody waits, not before a fork, which would leave it behind.
    """

    def __init__(self, listen: Callable[[], None]) -> None:
        self._listen = listen
        self._lock = threading.Lock()
        self._waiting: dict[str, list[threading.Event]] = {}
        self._listen_until_s = 0.0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @contextlib.contextmanager
    def waiting(self, request_id: str) -> Iterator[threading.Event]:
        """Give what is set when it is worth looking whether a request has ended."""
        woken = threading.Event()
        with self._lock:
            self._waiting.setdefault(request_id, []).append(woken)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waiters", daemon=True)
                self._thread.start()
        try:
            yield woken
        finally:
            with self._lock:
                self._waiting[request_id].remove(woken)
                if not self._waiting[request_id]:
                    del self._waiting[request_id]
                self._listen_until_s = time.monotonic() + _LINGER_S

    def wake(self, request_id: str | None) -> None:
        """Let those look who wait for this request; None for all, when something was missed."""
        with self._lock:
            ids = list(self._waiting) if request_id is None else [request_id]
            for woken in (each for waited in ids for each in self._waiting.get(waited, ())):
                woken.set()

    def ids(self) -> list[str]:
        """Return which requests are waited for."""
        with self._lock:
            return list(self._waiting)

    def are_there(self) -> bool:
        """Tell whether anybody waits, or did a moment ago."""
        with self._lock:
            if self._is_closed:
                return False
            return bool(self._waiting) or time.monotonic() < self._listen_until_s

    def close(self) -> None:
        """Listen no longer."""
        with self._lock:
            self._is_closed = True

    def _run(self) -> None:
        while True:
            self._listen()
            with self._lock:
                if self._is_closed or not self._waiting:
                    self._thread = None
                    return
            time.sleep(_AGAIN_S)
