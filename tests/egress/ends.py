"""Both ends where the policy holds: Send, with a request, and Receive, with an event."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

from relay.messages import Request, Response
from relay.problems import RelayError
from relay.receive import Receive, refusal
from relay.send import Send
from relay.settings import Settings
from tests.support.processes import REPOSITORY


def sync(settings: Settings, envelope: object) -> Response:
    """Post the envelope to `/sync`."""
    return _send(settings, "/sync", envelope)


def asynchronous(settings: Settings, envelope: object) -> Response:
    """Post the envelope to `/async`."""
    return _send(settings, "/async", envelope)


def receive(settings: Settings, envelope: object) -> Response:
    """Deliver the envelope in an event."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/tests",
        "ce-type": settings.event_type,
        "content-type": "application/json",
    }
    function = Receive(settings)
    try:
        delivery = function.read(headers, json.dumps(envelope).encode())
    except RelayError as exc:
        return refusal(exc)
    return function.handle(delivery)


def _send(settings: Settings, path: str, envelope: object) -> Response:
    body = json.dumps(envelope).encode()
    request = Request(
        method="POST",
        path=path,
        query="",
        headers={"content-type": "application/json"},
        stream=io.BytesIO(body),
        content_length=len(body),
    )
    return Send(settings, schemas=REPOSITORY / "schemas").handle(request)


End = Callable[[Settings, object], Response]

ENDS: tuple[End, ...] = (sync, asynchronous, receive)
CALLING_ENDS: tuple[End, ...] = (sync, receive)
