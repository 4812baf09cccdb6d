"""`GET /activity?after=RUN-NUMBER`: the facts after one, for the event display."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import Response

from local.broker.activity import Activity


def feed(activity: Activity) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler, which answers with a `Batch` in JSON."""

    async def answer(request: Request) -> Response:
        seen = re.fullmatch(r"(\w+)-([0-9]{1,18})", request.query_params.get("after", ""))
        batch = activity.read(seen[1], int(seen[2])) if seen else activity.read("", 0)
        return Response(encode(batch), media_type="application/json")

    return answer
