"""A connection whose requests are gathered before gunicorn reads them."""

from __future__ import annotations

from typing import Any

from gunicorn.http.errors import InvalidHeader, NoMoreData
from gunicorn.http.message import Request
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
        raw = self.arrival.raw
        piece = bytes(raw[: max(size_hint or 0, 8192)])
        del raw[: len(piece)]
        return piece

    def left_over(self) -> bytes:
        """Take what came behind the request: the next one, if its sender does not wait."""
        held: bytes = self.take_buffered()
        return held + self.arrival.raw


class Parser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser, which would close the connection unanswered when a head breaks off."""

    def __next__(self) -> Request:
        try:
            return super().__next__()
        except NoMoreData as exc:
            raise InvalidHeader("broken off") from exc


class Connection(TConn):  # type: ignore[misc]
    """A connection whose requests come out of an inbox."""

    def __init__(self, cfg: Any, sock: CallerSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.inbox = Inbox()
        self.parser = Parser(cfg, (), client)
        self.parser.unreader = self.inbox
        self.initialized = True
        self.discarded_bytes = 0
