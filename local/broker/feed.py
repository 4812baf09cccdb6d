"""`GET /activity?after=RUN-NUMBER`: the facts after one, for the event display.

Facts hold whole events, credentials too, so they are for programs of this machine, not for web
pages.
"""

from __future__ import annotations

import re

from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from local.broker.activity import Activity
from local.browsers import foreign_host, foreign_origin


class Feed:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    async def answer(self, request: Request) -> Response:
        """Answer with a `Batch` in JSON."""
        refused = foreign_host(request) or foreign_origin(request)
        if refused:
            return PlainTextResponse(f"{refused}\n", 403)
        seen = re.fullmatch(r"(\w+)-([0-9]{1,18})", request.query_params.get("after", ""))
        batch = self._activity.read(seen[1], int(seen[2])) if seen else self._activity.read("", 0)
        return Response(encode(batch), media_type="application/json")
