"""The memory that request bodies take, bounded over all requests of a process."""

from __future__ import annotations

import threading

from relay.http import Readable
from relay.problems import TooBusy


class Bodies:
    """The bodies that are held.

    Args:
        most_bytes: of all together.
        largest_bytes: of one; what is read beyond is not held.
    """

    def __init__(self, most_bytes: int, largest_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._largest_bytes = largest_bytes
        self.held_bytes = 0
        self._lock = threading.Lock()

    def hold(self, stream: Readable, content_length: int | None) -> HeldBody:
        """Count what is read of a body until it is let go."""
        return HeldBody(self, stream, content_length, self._largest_bytes)

    def take(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            TooBusy: there are not so many.
        """
        with self._lock:
            if self.held_bytes + count > self._most_bytes:
                raise TooBusy(
                    f"all requests together hold {self._most_bytes} bytes already"
                    " (MAX_BODIES_BYTES); try again in a moment",
                    headers=(("Retry-After", "1"),),
                )
            self.held_bytes += count

    def give_back(self, count: int) -> None:
        with self._lock:
            self.held_bytes -= count


class HeldBody:
    """A body whose bytes are taken before they are read: all at once if it says how many."""

    def __init__(
        self, bodies: Bodies, stream: Readable, content_length: int | None, largest_bytes: int
    ) -> None:
        self._bodies = bodies
        self._stream = stream
        self._largest_bytes = largest_bytes
        self._declared_bytes = content_length
        self._taken_bytes = 0
        self._read_bytes = 0

    def read(self, size: int, /) -> bytes:
        """Read as the stream does.

        Raises:
            TooBusy: see `Bodies.take`; nothing more is read.
        """
        if self._declared_bytes is None:
            self._take(self._read_bytes + size)
        elif self._declared_bytes <= self._largest_bytes:
            self._take(self._declared_bytes)
        # else it is too large, and dropped as it comes
        piece = self._stream.read(size)
        self._read_bytes += len(piece)
        return piece

    def _take(self, up_to: int) -> None:
        wanted = min(up_to, self._largest_bytes) - self._taken_bytes
        if wanted > 0:
            self._bodies.take(wanted)
            self._taken_bytes += wanted

    def let_go(self) -> None:
        """Say that nothing of it is held any more."""
        self._bodies.give_back(self._taken_bytes)
        self._taken_bytes = 0
