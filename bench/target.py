"""The target of cases that need more than a quick answer: `python -m bench.target PORT`.

`/slow/SECONDS` answers after a while, `/hang` never; anything else at once. `GET /receipts` tells
how many calls came with an Idempotency-Key, and when: their keys with the seconds of the machine's
monotonic clock, which is the same in all its processes. `DELETE /receipts` forgets them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from local.ports import HOST

ANSWER = json.dumps({"status": "done", "task": "10", "padding": "." * 200}).encode()

_receipts: dict[str, float] = {}


class Target(asyncio.Protocol):
    """One connection; requests follow each other, as those of pooled clients do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

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
        if key is not None:
            _receipts[key] = time.monotonic()
        if path.startswith("/slow/"):
            seconds = float(path.rpartition("/")[2])
            asyncio.get_running_loop().call_later(seconds, self._send, ANSWER)
        elif not path.startswith("/hang"):
            self._send(ANSWER)

    def _send(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)


async def main(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
