"""The target of cases that need more than a quick answer: `python -m bench.target PORT`.

`/slow/SECONDS` answers after a while, `/hang` never, `/status/STATUS` with that status, `/once`
with 503 to the first call of an Idempotency-Key; anything else at once. `GET /receipts` tells which
keys came, and when: each with the seconds of the machine's monotonic clock, which is the same in
all its processes. `DELETE /receipts` forgets them. `GET /open` tells how many calls wait for their
answer, and how many have at most.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from local.ports import HOST

ANSWER = json.dumps({"status": "done", "task": "10", "padding": "." * 200}).encode()

_receipts: dict[str, list[float]] = {}


class _Open:
    """How many calls wait for their answer."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def count(self, more: int) -> None:
        self.now += more
        self.most = max(self.most, self.now)


_open = _Open()


class Target(asyncio.Protocol):
    """One connection; requests follow each other, as those of pooled clients do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""
        self._waiting = 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the calls that nobody waits for any more."""
        _open.count(-self._waiting)
        self._waiting = 0

    def data_received(self, data: bytes) -> None:
        """Answer once a request is complete."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines[1:])
            }
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, path, _ = lines[0].split(" ", 2)
            self._answer(method, path, headers.get("idempotency-key"))

    def _answer(self, method: str, path: str, key: str | None) -> None:
        if path == "/receipts":
            body = json.dumps(_receipts).encode()
            if method == "DELETE":
                _receipts.clear()
            self._send(body)
            return
        if path == "/open":
            self._send(json.dumps({"now": _open.now, "most": _open.most}).encode())
            return
        if key is not None:
            _receipts.setdefault(key, []).append(time.monotonic())
        _, kind, *rest = path.split("/")
        if kind in ("slow", "hang"):
            self._waiting += 1
            _open.count(1)
        if kind == "slow":
            asyncio.get_running_loop().call_later(float(rest[0]), self._send_late)
        elif kind == "status":
            self._send(ANSWER, int(rest[0]))
        elif kind == "once" and key is not None and len(_receipts[key]) == 1:
            self._send(ANSWER, 503)
        elif kind != "hang":
            self._send(ANSWER)

    def _send_late(self) -> None:
        if self._waiting:
            self._waiting -= 1
            _open.count(-1)
            self._send(ANSWER)

    def _send(self, body: bytes, status: int = 200) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def main(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
