"""HTTP/1.1 on the event loop: events go out on kept connections, and answers come in whole.

llhttp parses, by way of the relay's own parser, which bounds what an answer may cost. A client that
does more, as aiohttp, costs three times as much for each event.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from yarl import URL

from relay.responses import BrokenAnswer, ResponseParser

MAX_ANSWER_BYTES = 2 * 1024 * 1024
_MAX_REQUESTS = 10  # of which all but the first are redirects
_REDIRECTS = (301, 302, 303, 307, 308)
# Shorter than the 2 s after which gunicorn closes an idle connection, maybe under our request.
_MAX_IDLE_S = 1.0
_HEADERS = {"accept-encoding": "gzip", "user-agent": "local-broker"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        headers: The first of each by its lower-case name; a character is a byte.
        body: Broken off somewhere beyond `MAX_ANSWER_BYTES`.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """A client that, as Knative's, keeps no cookies and asks no proxy or netrc."""

    def __init__(self) -> None:
        self._idle: defaultdict[URL, list[_Connection]] = defaultdict(list)

    async def post(
        self, url: str, headers: Mapping[str, str], data: bytes, *, timeout_s: float
    ) -> Answer:
        """Send an event and read the answer, after redirects as Go follows them.

        Raises:
            asyncio.TimeoutError: All of this takes longer than the timeout.
            Exception: There is no answer, or one that is not HTTP. A redirect to nonsense raises
                other errors than the connection's own.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        target, method = URL(url, encoded=True), "POST"
        for _ in range(_MAX_REQUESTS):
            answer = await self._exchange(method, target, headers, data, deadline)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            target = target.join(URL(location.encode("latin-1").decode()))
            if answer.status < 307:
                method, data = "GET", b""
        raise BrokenAnswer(f"redirected {_MAX_REQUESTS} times")

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes, deadline: float
    ) -> Answer:
        origin, start = _start(method, url)
        lines = [start, *(f"{name}: {value}" for name, value in headers.items())]
        if method == "POST":
            lines.append(f"content-length: {len(data)}")
        # An attribute is the bytes that it was read from, maybe Latin-1. Nothing here has a line
        # feed in it: the values come from headers, or have been checked by `validate`.
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        connection = self._take(origin) or await _connect(origin, deadline)
        try:
            answer = await connection.exchange(method, head + data, deadline)
        except BaseException:
            connection.close()
            raise
        if connection.is_open:
            self._idle[origin].append(connection)
        return answer

    def _take(self, origin: URL) -> _Connection | None:
        """Return the connection that was used last; the longest idle ones are closed."""
        idle = self._idle[origin]
        oldest = asyncio.get_running_loop().time() - _MAX_IDLE_S
        while idle and idle[0].used_at < oldest:
            idle.pop(0).close()
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    def close(self) -> None:
        """Close all connections; no delivery may be in flight."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()


class _Connection(asyncio.Protocol):
    """Carries one exchange after the other; `is_open` tells whether it can carry another."""

    _transport: asyncio.Transport
    _parser: ResponseParser

    def __init__(self) -> None:
        self.used_at = 0.0
        self._body = bytearray()
        self._answered: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.abort()

    async def exchange(self, method: str, message: bytes, deadline: float) -> Answer:
        """Send a request and read its answer."""
        if not self.is_open:  # it may have been closed as soon as it was made
            raise BrokenAnswer("closed the connection")
        loop = asyncio.get_running_loop()
        self._parser = parser = ResponseParser(method)
        self._body.clear()
        self._answered = loop.create_future()
        timer = loop.call_at(deadline, self._end, asyncio.TimeoutError())
        try:
            self._transport.write(message)
            await self._answered
        finally:
            timer.cancel()
            parser.close()
            self._answered = None
            self.used_at = loop.time()
        body = bytes(self._body)
        if parser.is_last or not parser.is_complete or self._transport.get_write_buffer_size():
            self.close()
        headers = {name.lower(): value for name, value in reversed(list(parser.fields))}
        if headers.get("content-encoding", "").lower() == "gzip" and body:
            body = _unzip(body)
        return Answer(parser.status, headers, body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's only acts as one

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            self.close()  # it is no answer to anything
            return
        try:
            self._body += self._parser.feed(data)
        except BrokenAnswer as exc:
            self._end(exc)
        else:
            if self._parser.is_complete or len(self._body) > MAX_ANSWER_BYTES:
                self._end()

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or BrokenAnswer("closed the connection"))

    def _end(self, error: Exception | None = None) -> None:
        if self._answered is None or self._answered.done():
            return
        if error is None:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(error)


@functools.lru_cache(maxsize=256)
def _start(method: str, url: URL) -> tuple[URL, str]:
    """Return the origin of a URL, and how each request to it begins."""
    fields = {"host": url.host_port_subcomponent, **_HEADERS}
    if url.user or url.password:
        login = f"{url.user or ''}:{url.password or ''}".encode()
        fields["authorization"] = f"Basic {base64.b64encode(login).decode()}"
    lines = (f"{name}: {value}" for name, value in fields.items())
    return url.origin(), "\r\n".join((f"{method} {url.raw_path_qs} HTTP/1.1", *lines))


async def _connect(origin: URL, deadline: float) -> _Connection:
    if origin.scheme not in ("http", "https"):
        raise ValueError(f"{origin.scheme} is not HTTP")
    loop = asyncio.get_running_loop()
    _, connection = await asyncio.wait_for(
        loop.create_connection(
            _Connection, origin.raw_host or "", origin.port or 0, ssl=origin.scheme == "https"
        ),
        deadline - loop.time(),
    )
    return connection


def _unzip(body: bytes) -> bytes:
    if len(body) > MAX_ANSWER_BYTES:
        return body
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as unzipped:
        return unzipped.read(MAX_ANSWER_BYTES + 1)
