"""A connection whose requests are gathered before gunicorn reads them."""

from __future__ import annotations

from typing import Any

from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn

from relay.arrivals import Arrival
from relay.callers import CallerSocket


class Inbox(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What has arrived on a connection: gunicorn's parser reads this and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.arrival = Arrival(0)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece, b"" at the end; the parser copies what it does not need yet."""
        pieces = self.arrival.pieces
        piece = pieces.popleft() if pieces else bytearray()
        wanted = max(size_hint or 0, 8192)
        if len(piece) > wanted:
            pieces.appendleft(piece[wanted:])
        return bytes(piece[:wanted])

    def left_over(self) -> bytes:
        """Take what came behind the request: the next one, if its sender does not wait."""
        held: bytes = self.take_buffered()
        rest = b"".join((held, *self.arrival.pieces))
        self.arrival.pieces.clear()
        return rest


class Connection(TConn):  # type: ignore[misc]
    """A connection whose requests come out of an inbox."""

    def __init__(self, cfg: Any, sock: CallerSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.inbox = Inbox()
        self.parser = RequestParser(cfg, (), client)
        self.parser.unreader = self.inbox
        self.initialized = True
        self.discarded_bytes = 0
