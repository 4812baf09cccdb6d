"""The event display: prints each event that it is given as Knative's event_display does.

The form is that of `Event.String()` in github.com/cloudevents/sdk-go, with one difference: what
could control the terminal, or pass for another event, is escaped or indented.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from http import HTTPStatus
from typing import NoReturn

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.broker.event import Event, EventError, InvalidEvent
from local.serving import serve
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
    """Render what came instead of an event."""
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


async def _receive(request: Request) -> Response:
    try:
        event = Event.from_http(request.headers.raw, await request.body())
    except EventError as exc:
        _print(render_unreadable(exc))
        return Response(status_code=HTTPStatus.BAD_REQUEST)
    _print(render(event))
    # With any body a Broker takes this answer for a failure, and sends the event again.
    return Response(status_code=HTTPStatus.ACCEPTED)


async def _health(_: Request) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


app = Starlette(
    routes=[
        Route("/", _receive, methods=["POST"]),
        Route("/healthz", _health, methods=["GET"]),
    ]
)


def main() -> int:
    """Show events until SIGTERM or Ctrl-C, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.display", description=__doc__)
    parser.add_argument("--port", type=int, default=8084)
    options = parser.parse_args()
    return serve(app, options.port, "event display")


if __name__ == "__main__":
    sys.exit(main())
