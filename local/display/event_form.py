"""An event as Knative's event_display prints it.

The form is that of `Event.String()` in github.com/cloudevents/sdk-go, with one difference: what
could control the terminal, or pass for another event, is escaped or indented.
"""

from __future__ import annotations

import base64
import json
from typing import NoReturn

from local.broker.event import Event, EventError, InvalidEvent
from local.terminal import printable

HEADING = "☁️  cloudevents.Event"

# The order of event_display; the names with an old and a new spelling are those of 0.3 and 1.0.
_ATTRIBUTES = (
    "specversion",
    "type",
    "source",
    "subject",
    "id",
    "time",
    "schemaurl",
    "dataschema",
    "datacontenttype",
    "datacontentencoding",
)

_REQUIRED = ("type", "source", "id")


def render(event: Event) -> str:
    """Render an event, valid or not, as event_display prints it."""
    try:
        event.validate()
        lines = [HEADING, "Validation: valid"]
    except InvalidEvent as exc:
        lines = [HEADING, *_invalid(exc)]
    lines.append("Context Attributes,")
    shown = (name for name in _ATTRIBUTES if name in event.attributes or name in _REQUIRED)
    lines += [_attribute(event, name) for name in shown]
    extensions = sorted(event.attributes.keys() - set(_ATTRIBUTES))
    if extensions:
        lines.append("Extensions,")
        lines += [_attribute(event, name) for name in extensions]
    if event.data:
        lines += _data(event)
    return "\n".join(lines) + "\n"


def render_unreadable(error: EventError) -> str:
    """Render the error of a message that is not a readable event."""
    return "\n".join([HEADING, *_invalid(error)]) + "\n"


def _invalid(error: EventError) -> list[str]:
    return ["Validation: invalid", "Validation Error: ", printable(str(error))]


def _attribute(event: Event, name: str) -> str:
    return f"  {name}: {printable(event.attributes.get(name, ''))}"


def _data(event: Event) -> list[str]:
    try:
        text = event.data.decode()
    except UnicodeDecodeError:
        return ["Data (binary),", f"  {base64.b64encode(event.data).decode()}"]
    media_type = event.attributes.get("datacontenttype", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        text = _indented(text)
    return ["Data,", *(f"  {printable(line)}" for line in text.split("\n"))]


def _indented(text: str) -> str:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
