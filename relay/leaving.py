"""Callers who leave: work that is for one caller alone ends when that caller leaves.

A queue before this server gives a caller's place to the next one as soon as the caller leaves. If
the call went on, more and more threads would work for callers who have gone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from relay.problems import CallerLeft

_INTERVAL_S = 0.25


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
    """A caller that waits for an answer.

    Args:
        connection: on which it waits; None when that is not known, and it counts as there.
    """

    def __init__(self, connection: socket.socket | None = None) -> None:
        self.connection = connection
        self.cut = Cut()
        self.is_gone = False
        # Nothing is done for it but to wait.
        self.waits = False

    def check(self) -> None:
        """Begin nothing for a caller who has left.

        Raises:
            CallerLeft: it has.
        """
        self.is_gone = self.is_gone or self.has_left()
        if self.is_gone:
            raise CallerLeft

    def has_left(self) -> bool:
        """Tell whether the other side has closed its connection and sends nothing more on it."""
        if self.connection is None:
            return False
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Call off what is done while the block runs, should the caller leave.

        Raises:
            CallerLeft: in the place of any other error, once it has.
        """
        if self.connection is None:
            yield
            return
        self.check()
        watch.add(self)
        try:
            yield
        except Exception as exc:
            if self.is_gone:
                raise CallerLeft from exc
            raise
        finally:
            watch.remove(self)

    def wait(self, seconds: float, ended: threading.Event | None = None) -> bool:
        """Wait, unless the caller leaves or this process is to end.

        Args:
            ended: what it waits for, if that is more than the time.

        Returns:
            whether all of the time went by.
        """
        ended = ended or threading.Event()
        self.cut.ends_by(ended.set)
        self.waits = True
        try:
            with self.watched():
                return not ended.wait(seconds)
        except CallerLeft:
            return False

    def call_off(self) -> None:
        self.is_gone = True
        self.cut.cut()


class Watch:
    """Look at the connections of callers, in one thread for all that starts with the first.

    gunicorn forks its workers after the function is loaded; a thread started at import would be
    missing in them.
    """

    def __init__(self) -> None:
        self.is_ending: Callable[[], bool] = bool
        self._changed = threading.Condition()
        self._callers: dict[int, Caller] = {}
        self._thread: threading.Thread | None = None

    def add(self, caller: Caller) -> None:
        with self._changed:
            self._callers[id(caller)] = caller
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="callers", daemon=True)
                self._thread.start()
            elif len(self._callers) == 1:
                self._changed.notify()

    def remove(self, caller: Caller) -> None:
        with self._changed:
            del self._callers[id(caller)]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._callers)
            time.sleep(_INTERVAL_S)
            is_ending = self.is_ending()
            # Held while they are looked at: what is removed may be closed.
            with self._changed:
                for caller in self._callers.values():
                    if (is_ending and caller.waits) or caller.has_left():
                        caller.call_off()


watch = Watch()
