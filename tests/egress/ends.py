"""Both ends where the policy holds: Send, with a request, and Receive, with an event."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

from relay.events import Event
from relay.messages import Request, Response
from relay.receive import Receive
from relay.send import Send
from relay.settings import Settings


def sync(settings: Settings, envelope: object) -> Response:
    """Post the envelope to `/sync`."""
    return _send(settings, "/sync", envelope)


def asynchronous(settings: Settings, envelope: object) -> Response:
    """Post the envelope to `/async`."""
    return _send(settings, "/async", envelope)


def receive(settings: Settings, envelope: object) -> Response:
    """Deliver the envelope in an event."""
    attributes = {
        "specversion": "1.0",
        "id": "1",
        "source": "/tests",
        "type": settings.event_type,
        "datacontenttype": "application/json",
    }
    event = Event(attributes=attributes, data=json.dumps(envelope).encode())
    return Receive(settings).handle(event)


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
    return Send(settings).handle(request)


ENDS: tuple[Callable[[Settings, object], Response], ...] = (sync, asynchronous, receive)
CALLING_ENDS: tuple[Callable[[Settings, object], Response], ...] = (sync, receive)
