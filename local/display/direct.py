"""Calls that Send answers itself, past the Broker: all of /sync, and what it refuses of the others.

On the local stack Send is served by `send.py` beside this file, which is the deployed function with
an `Observer` around it. The display is told of a call when its answer is over; a call never waits
for the display, and of long bodies only the beginning is told.
"""

from __future__ import annotations

import http.client
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

import msgspec

from relay.headers import Headers, find
from relay.http import Readable, Request, Response

# The page gives its own calls a name, by which it finds them in the list.
PAGE_CALL: Final = "page-call"

_MAX_BODY_BYTES = 256 * 1024
_MAX_WAITING = 1000
_MAX_AT_ONCE = 50
_TIMEOUT_S = 5.0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request or an answer as it was on the wire; `is_cut` when there was more of the body."""

    start_line: str
    headers: Headers
    body: bytes
    is_cut: bool


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request that Send has answered.

    Attributes:
        at: Unix time of its beginning.
        by_target: Whether the answer is the target's, not the relay's own.
    """

    method: str
    path: str
    status: int
    at: float
    duration_ms: float
    by_target: bool
    request: Message
    answer: Message


class Observer:
    """Tell the display of calls, in a thread of its own.

    Args:
        url: `http://HOST:PORT` of the display.
    """

    def __init__(self, url: str) -> None:
        self._authority = url.removeprefix("http://")
        self._calls: queue.Queue[Call] = queue.Queue(_MAX_WAITING)
        self._started = threading.Lock()

    def watch(self, request: Request, handle: Callable[[Request], Response]) -> Response:
        """Handle a request, and tell of it if it does not become an event."""
        is_sync = request.path == "/sync"
        if not is_sync and (request.method != "POST" or request.path not in ("/async", "/event")):
            return handle(request)
        at, started_s = time.time(), time.perf_counter()
        sent, answered = _Copy(), _Copy()
        response = handle(replace(request, stream=_Read(request.stream, sent)))
        # Only what has become an event can be waited for, or be answered later.
        is_event = find(response.headers, "preference-applied") is not None
        if is_event or (not is_sync and response.status < 400):
            return response

        def tell() -> None:
            call = Call(
                method=request.method,
                path=request.path,
                status=response.status,
                at=at,
                duration_ms=(time.perf_counter() - started_s) * 1000,
                # The relay's own answers are whole from the beginning.
                by_target=not isinstance(response.body, tuple),
                request=sent.message(
                    f"{request.method} {request.path}", tuple(request.headers.items())
                ),
                answer=answered.message(str(int(response.status)), response.headers),
            )
            with suppress(queue.Full):
                self._calls.put_nowait(call)
            # Here, not before: servers fork, and threads stay behind.
            if self._started.acquire(blocking=False):
                threading.Thread(target=self._tell, daemon=True).start()

        return replace(response, body=_Passed(response.body, answered, tell))

    def _tell(self) -> None:
        while True:
            calls = [self._calls.get()]
            with suppress(queue.Empty):
                while len(calls) < _MAX_AT_ONCE:
                    calls.append(self._calls.get_nowait())
            connection = http.client.HTTPConnection(self._authority, timeout=_TIMEOUT_S)
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/calls", msgspec.json.encode(calls))
                connection.getresponse()
            connection.close()


class _Copy:
    def __init__(self) -> None:
        self._body = bytearray()
        self._is_cut = False

    def take(self, piece: bytes) -> None:
        room = _MAX_BODY_BYTES - len(self._body)
        self._body += piece[:room]
        self._is_cut = self._is_cut or len(piece) > room

    def message(self, start_line: str, headers: Headers) -> Message:
        body = bytes(self._body)
        return Message(start_line=start_line, headers=headers, body=body, is_cut=self._is_cut)


class _Read:
    """A request's body, of which what is read is copied."""

    def __init__(self, stream: Readable, copy: _Copy) -> None:
        self._stream = stream
        self._copy = copy

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self._copy.take(piece)
        return piece


class _Passed:
    """An answer's body, of which what is passed on is copied; `closed` is called at its end."""

    def __init__(self, body: Iterable[bytes], copy: _Copy, closed: Callable[[], None]) -> None:
        self._body = body
        self._copy = copy
        self._closed = closed

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._copy.take(piece)
            yield piece

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
        self._closed()
