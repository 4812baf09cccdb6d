"""The target that misbehaves as planned, and the subscriber that sees results and dead letters.

Dead letters it hands on to Send, and answers as Send does.

It lives in the process of the run, which is never killed: what it remembers is the truth that
the run is judged by.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tests.system.crash.plan import Fate, Plan

CALLS = "/calls/"
RESULTS = "/results"
DEAD_LETTERS = "/dead-letters"
CALLBACKS = "/callbacks/"

_DRIP_BYTES = 100
_DRIP_INTERVAL_S = 0.2
_ANSWERS = {
    Fate.OK: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
    Fate.NOT_FOUND: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    Fate.ERROR: b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    Fate.TOO_MANY: (
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    ),
}
_TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_HAND_ON_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    path: str
    headers: Mapping[str, str]
    body: bytes


class Target:
    """The server, in a thread of its own while the `with` block runs.

    Attributes:
        calls: how often the target was called, by event.
        finished: how often it gave a final answer, to its last byte, by event.
        failed: how many calls ended otherwise, or with 404.
        wrong_keys: calls whose Idempotency-Key was not the event's id.
        results: how often a result event arrived, by the event it is about.
        dead_letters: every `knativeerrorcode` that dead letters came with, by event.
        callbacks: how often the caller of an event was called back.
        send: `host:port` of Send, to which dead letters go.
    """

    send: str

    def __init__(self, plan: Plan) -> None:
        """Take a free port; connections wait until the block begins."""
        self.calls: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.failed = 0
        self.wrong_keys = 0
        self.results: Counter[str] = Counter()
        self.dead_letters: dict[str, set[str]] = {}
        self.callbacks: Counter[str] = Counter()
        self._plan = plan
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._started = threading.Event()

    @property
    def authority(self) -> str:
        """The `host:port` of the server."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    @property
    def settled(self) -> int:
        """How many events have a result or a dead letter."""
        return len(self.results) + len(self.dead_letters)

    def __enter__(self) -> Target:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._listener)
        self._started.set()
        await self._stopping.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever called may have been killed: the end of a connection is a part of the test.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(await _read(reader), reader, writer):
                pass
        writer.close()

    async def _answer(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; tell whether the connection goes on."""
        if request.path.startswith(CALLS):
            return await self._call(request, reader, writer)
        answer = _TAKEN
        event_id = request.headers.get("ce-id", "")
        ending = request.headers.get("ce-type", "").rpartition(".")[2]
        if request.path == RESULTS:
            if ending == "dead":
                self.dead_letters.setdefault(request.headers["ce-subject"], set()).add(ending)
            elif ending in ("completed", "failed"):
                self.results[request.headers["ce-subject"]] += 1
        elif request.path.startswith(CALLBACKS):
            self.callbacks[request.path.removeprefix(CALLBACKS)] += 1
        else:
            # Also what follows from a request may die here: its result, or its caller's callback.
            if ending.startswith("retry"):
                event_id = request.headers["ce-subject"]
            if event_id in self.calls or "poison" in event_id:
                code = request.headers.get("ce-knativeerrorcode", "none")
                self.dead_letters.setdefault(event_id, set()).add(code)
            answer = _TAKEN if await self._hand_on(request) else _REFUSED
        writer.write(answer)
        await writer.drain()
        return True

    async def _hand_on(self, request: _Request) -> bool:
        """Bring a dead letter to Send; tell whether it has taken it."""
        host, _, port = self.send.partition(":")
        headers = {**request.headers, "host": self.send, "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"POST /event/dead-letter HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
                writer.write(request.body)
                answer = await asyncio.wait_for(reader.readline(), _HAND_ON_TIMEOUT_S)
            finally:
                writer.close()
        except (OSError, asyncio.TimeoutError):
            return False
        return answer.split()[1:2] == [b"202"]

    async def _call(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        event_id = request.path.removeprefix(CALLS)
        self.calls[event_id] += 1
        self.wrong_keys += request.headers.get("idempotency-key") != event_id
        fate = self._plan.fate(event_id, self.calls[event_id])
        self.failed += fate is not Fate.OK
        if fate in _ANSWERS:
            writer.write(_ANSWERS[fate])
            await writer.drain()
            if fate.is_final:
                self.finished[event_id] += 1
            return True
        if fate is Fate.TIMEOUT:
            await reader.read()
        elif fate is Fate.RESET:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _DRIP_BYTES)
            for _ in range(_DRIP_BYTES):
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(_DRIP_INTERVAL_S)
        return False


async def _read(reader: asyncio.StreamReader) -> _Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return _Request(path=request_line.split(" ")[1], headers=headers, body=body)
