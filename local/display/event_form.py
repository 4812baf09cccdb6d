"""An event as Knative's event_display prints it.

The form is that of `Event.String()` in github.com/cloudevents/sdk-go, but for these:

- `Validation: valid` is printed, which sdk-go has dropped in 2.0 and the documents of its users
  still show; an event that is not valid is printed with what is wrong, not refused without a word.
- What could control the terminal is escaped, and each line of the data is indented, so that none
  can pass for another event.
- Data that is not UTF-8 is printed in base64, and called binary for that reason alone; sdk-go
  calls so what came in base64, and prints its bytes.
"""

from __future__ import annotations

import base64
import json
import re
from typing import NoReturn

from local.broker.attributes import validate
from local.broker.event import readable
from local.terminal import printable
from relay.events import Event
from relay.problems import InvalidRequest

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

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+')


def render(event: Event) -> str:
    """Render an event, valid or not, as event_display prints it."""
    try:
        validate(event)
        lines = [HEADING, "Validation: valid"]
    except InvalidRequest as exc:
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


def render_unreadable(error: InvalidRequest) -> str:
    """Render the error of a message that is not a readable event."""
    return "\n".join([HEADING, *_invalid(error)]) + "\n"


def _invalid(error: InvalidRequest) -> list[str]:
    return ["Validation: invalid", "Validation Error: ", printable(str(error))]


def _attribute(event: Event, name: str) -> str:
    return f"  {name}: {printable(readable(event.attributes.get(name, '')))}"


def _data(event: Event) -> list[str]:
    try:
        text = event.data.decode()
    except UnicodeDecodeError:
        return ["Data (binary),", f"  {base64.b64encode(event.data).decode()}"]
    media_type = event.attributes.get("datacontenttype", "").partition(";")[0].strip()
    if media_type == "application/json":
        text = _indented(text)
    return ["Data,", *(f"  {printable(line)}" for line in text.split("\n"))]


def _indented(text: str) -> str:
    """Indent JSON without changing a number or an escape, as Go's json.Indent does."""
    try:
        _checker.decode(text)
    except (ValueError, RecursionError):
        return text
    written: list[str] = []
    depth = 0
    before = ""
    for part in _TOKEN.findall(text):
        is_end = part in ("]", "}")
        depth -= is_end
        # An object or array without members stays on its line.
        if before == "," or (before in ("[", "{")) != is_end:
            written.append("\n" + depth * "  ")
        written.append(": " if part == ":" else part)
        depth += part in ("[", "{")
        before = part
    return "".join(written)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# It need not read numbers, of which very long ones are slow.
_checker = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
