"""`GET /activity`: what the Broker does, as server-sent events, for the event display.

Each has the id `RUN-NUMBER` and one fact in JSON. A reader that returns with `Last-Event-ID`
continues where it was, as far as the ring reaches. Facts hold whole events, credentials too, so
they are for programs of this machine, not for web pages.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from local.broker.activity import Activity
from local.browsers import foreign_host, foreign_origin


class Feed:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    async def answer(self, request: Request) -> Response:
        """Stream to one reader until it leaves or falls behind."""
        refused = foreign_host(request) or foreign_origin(request)
        if refused:
            return PlainTextResponse(f"{refused}\n", 403)
        last_id = request.headers.get("last-event-id", "")
        return StreamingResponse(self._stream(last_id), media_type="text/event-stream")

    async def _stream(self, last_id: str) -> AsyncIterator[bytes]:
        seen = re.fullmatch(rf"{self._activity.run}-([0-9]{{1,18}})", last_id)
        async for batch in self._activity.read(int(seen[1]) if seen else 0):
            facts = (
                f"id: {self._activity.run}-{number}\n".encode() + b"data: %b\n\n" % encode(fact)
                for number, fact in batch
            )
            # The comment shows that the connection still stands.
            yield b"".join(facts) or b":\n\n"
