"""Callers who leave: work that is for one caller alone ends when that caller leaves.

A queue before this server gives a caller's place to the next one as soon as the caller leaves. If
the call went on, more and more threads would work for callers who have gone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from relay.problems import CallerLeft


class Cut:
    """Ends from another thread what a call waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_cut = False
        self._end: Callable[[], object] | None = None

    def ends_by(self, end: Callable[[], object]) -> None:
        """Say what ends the wait that comes now; it takes the place of what was said before."""
        with self._lock:
            self._end = end
        if self.is_cut:
            self.cut()

    def is_over(self) -> None:
        """Say that there is nothing left to end: a socket may serve another call from here on."""
        with self._lock:
            self._end = None

    def cut(self) -> None:
        """End the wait, and each that would come."""
        with self._lock:
            self.is_cut = True
            if self._end is not None:
                with contextlib.suppress(OSError):  # it has ended by itself
                    self._end()


class Caller:
    """A caller that waits for an answer; the server says when it no longer does.

    `has_left` says that it has closed its connection, and `is_gone` that nothing more is done for
    it: because of that, or because all that is done is to wait, and this process is to end.
    """

    def __init__(self) -> None:
        self.cut = Cut()
        self.has_left = self.is_gone = False
        self._is_waiting = False

    def leaves(self) -> None:
        self.has_left = self.is_gone = True
        self.cut.cut()

    def process_ends(self) -> None:
        if self._is_waiting:
            self.is_gone = True
            self.cut.cut()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Begin nothing for a caller who has left, and call off what is done while the block runs.

        Raises:
            CallerLeft: in the place of any other error, once it has.
        """
        if self.is_gone:
            raise CallerLeft
        try:
            yield
        except Exception as exc:
            if self.is_gone:
                raise CallerLeft from exc
            raise

    def wait(self, seconds: float, ended: threading.Event | None = None) -> bool:
        """Wait, unless the caller leaves or this process is to end.

        Args:
            ended: what it waits for, if that is more than the time.

        Returns:
            whether all of the time went by.
        """
        ended = ended or threading.Event()
        self.cut.ends_by(ended.set)
        self._is_waiting = True
        try:
            return not self.is_gone and not ended.wait(seconds)
        finally:
            self._is_waiting = False
            self.cut.is_over()
