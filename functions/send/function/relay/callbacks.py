"""Read what targets call back with, whatever form they choose, into events."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from relay import strict_json
from relay.events import JSON, Event
from relay.headers import is_json
from relay.ids import new_id, parse_id
from relay.messages import Request
from relay.problems import InvalidRequest

FORM: Final = "application/x-www-form-urlencoded"


def callback_event(request: Request, body: bytes, *, event_type: str, source: str) -> Event:
    """Make the event of a target's callback.

    Args:
        request: its query may name a request (`id`), which becomes the event's subject.
        body: JSON, a form, a CloudEvent, anything else or nothing. A callback without a body, by
            GET say, has its data in the query.
        event_type: of the event.
        source: of the event.

    Raises:
        InvalidRequest: the id is none, or the body is not what its Content-Type says.
    """
    attributes = {"id": new_id(), "type": event_type, "source": source}
    query = parse_qsl(request.query, keep_blank_values=True)
    for request_id in (value for name, value in query if name == "id"):
        attributes["subject"] = parse_id(request_id, field="id")
    parameters = [(name, value) for name, value in query if name != "id"]
    if body:
        attributes["datacontenttype"], body = _data(request, body)
    elif parameters:
        attributes["datacontenttype"], body = FORM, urlencode(parameters).encode("ascii")
    return Event(attributes=attributes, data=body or None)


def _data(request: Request, body: bytes) -> tuple[str, bytes]:
    content_type = request.headers.get("content-type", "application/octet-stream")
    if content_type.lower().startswith("application/cloudevents"):
        # In binary mode this Content-Type would turn the data into the event itself.
        event = Event.from_http(request.headers, body)
        return event.attributes.get("datacontenttype", JSON), event.data or b"null"
    if is_json(content_type):
        try:
            strict_json.loads(body)
        except strict_json.JSONError as exc:
            raise InvalidRequest("body", str(exc)) from exc
    return content_type, body
