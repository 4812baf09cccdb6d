"""`GET /activity`: what the Broker does, as server-sent events, for the event display.

Each has the id `RUN-NUMBER` and as its data one fact in JSON. A reader that comes back with
`Last-Event-ID` goes on where it was, as far as the ring reaches. The facts hold whole events,
credentials too, and so are for programs of this machine alone, no web page.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from local.broker.activity import Accepted, Activity
from local.browsers import foreign_host, foreign_origin


class Feed:
    """The route."""

    def __init__(self, activity: Activity) -> None:
        """Tell what is noted there."""
        self._activity = activity

    async def answer(self, request: Request) -> Response:
        """Answer one reader, until it leaves or is too slow."""
        refused = foreign_host(request) or foreign_origin(request)
        if refused:
            return PlainTextResponse(f"{refused}\n", 403)
        last_id = request.headers.get("last-event-id", "")
        return StreamingResponse(self._stream(last_id), media_type="text/event-stream")

    async def _stream(self, last_id: str) -> AsyncIterator[bytes]:
        seen = re.fullmatch(rf"{self._activity.run}-([0-9]{{1,18}})", last_id)
        async for batch in self._activity.read(int(seen[1]) if seen else 0):
            lines = []
            for place, fact in batch:
                kind = "accepted" if isinstance(fact, Accepted) else "attempted"
                lines.append(
                    f"id: {self._activity.run}-{place}\nevent: {kind}\ndata: {fact.to_json()}\n\n"
                )
            # The comment shows that the connection still stands.
            yield "".join(lines).encode() or b":\n\n"
