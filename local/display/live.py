"""`GET /live`: all rows of the list as server-sent events, then each change.

Nothing is queued for a browser: it gets what has changed since its last event, so a slow one gets
fewer and newer states.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from local.display.requests import MAX_REQUESTS, Requests, TrackedRequest

_POLL_S = 0.1
_KEEP_ALIVE_POLLS = 150
_MAX_ROWS_AT_ONCE = 1000
_COLUMNS = ("number", "at", "id", "type", "target", "state", "attempts", "status")


class Live:
    """The streams of all open pages."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._is_closed = False

    def close(self) -> None:
        """End every stream."""
        self._is_closed = True

    async def stream(self) -> AsyncIterator[str]:
        """Yield server-sent events: `reset`, on which a page forgets its rows, then `rows`."""
        yield f"retry: 1000\nevent: reset\ndata: {MAX_REQUESTS}\n\n"
        revision = 0
        told: object = None
        idle_polls = 0
        while not self._is_closed:
            changed = self._requests.changed_since(revision, _MAX_ROWS_AT_ONCE)
            link = (self._requests.is_connected, self._requests.missed)
            if changed or link != told:
                revision = changed[-1].changed if changed else revision
                told = link
                idle_polls = 0
                document = {
                    "connected": link[0],
                    "missed": link[1],
                    "rows": [row(request) for request in changed],
                }
                yield f"event: rows\ndata: {json.dumps(document)}\n\n"
            if len(changed) < _MAX_ROWS_AT_ONCE:
                idle_polls += 1
                if idle_polls % _KEEP_ALIVE_POLLS == 0:
                    yield ":\n\n"
                await asyncio.sleep(_POLL_S)


def row(request: TrackedRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in _COLUMNS}
