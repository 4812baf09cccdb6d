"""Events as the page may show them: what may be secret is named and measured, not shown.

All bodies, all values of headers and queries and the relay's own MAC are hidden. The terminal shows
whole events, as Knative's event_display does; a page is shared more easily than a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from relay.envelope import METHODS
from relay.events import Event
from relay.jsons import json_type

HIDDEN: Final = "(hidden)"

_HOPS: Final = "knativebrokerttl"  # the Broker's own, which no subscriber sees
_HIDDEN_ATTRIBUTES: Final = ("relaymac", "relayreason", "knativeerrordata")
_MAX_MEMBERS: Final = 50
_MAX_CHARACTERS: Final = 300


def masked(event: Event) -> Event:
    """Return the event with its data described and its secret attributes hidden."""
    attributes = {
        name: HIDDEN if name in _HIDDEN_ATTRIBUTES else shortened(value)
        for name, value in event.attributes.items()
        if name != _HOPS
    }
    return Event(attributes=attributes, data=_masked_data(event.data))


def target_of(event: Event) -> str:
    """Return `host[:port]` of the target of an envelope; "" for any other data."""
    return _authority(members_of(event.data).get("targetURL"))


def members_of(data: bytes) -> Mapping[str, object]:
    """Read a JSON object; empty for any other data."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def shortened(text: str) -> str:
    """Cut a text that is too long to read."""
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"


def _masked_data(data: bytes) -> bytes:
    members = members_of(data)
    if not members:
        return f"{HIDDEN[:-1]}: {len(data)} bytes)".encode() if data else b""
    described = {
        shortened(name): _described(name, value)
        for name, value in list(members.items())[:_MAX_MEMBERS]
    }
    if len(members) > _MAX_MEMBERS:
        described["…"] = f"{len(members) - _MAX_MEMBERS} more members"
    return json.dumps(described).encode()


def _described(name: str, value: object) -> object:
    """Show a field of an envelope or a result, or the kind of its value."""
    if name == "targetURL":
        return _without_secrets(value)
    if name == "targetAPI" and isinstance(value, str):
        return _path(value)
    if name in ("status", "timeout") and isinstance(value, int | float):
        return value
    if name == "method" and value in METHODS:
        return value
    if name == "headers" and isinstance(value, dict):
        return {_header_name(header): HIDDEN for header in list(value)[:_MAX_MEMBERS]}
    if name == "callback" and isinstance(value, dict):
        return {
            shortened(field): _authority(item) if field == "url" else _described(field, item)
            for field, item in list(value.items())[:_MAX_MEMBERS]
        }
    return _kind(value)


def _kind(value: object) -> object:
    if isinstance(value, str):
        kind = f"text of {len(value)} characters"
    elif isinstance(value, list):
        kind = f"array of {len(value)}"
    elif isinstance(value, dict):
        kind = f"object of {len(value)} members"
    else:
        kind = json_type(value).rpartition(" ")[2]  # without its article
    return f"{HIDDEN[:-1]}: {kind})"


def _authority(url: object) -> str:
    """Return `host[:port]` of a URL, "" without one."""
    try:
        return shortened(urlsplit(str(url)).netloc.rpartition("@")[2]) if url else ""
    except ValueError:
        return ""


def _without_secrets(url: object) -> object:
    authority = _authority(url)
    if not authority:
        return _kind(url)
    parts = urlsplit(str(url))
    return f"{parts.scheme}://{authority}{_path(parts.path)}"


def _header_name(text: str) -> str:
    """Return a name up to its first illegal character; a secret may follow it, as in `A: …`."""
    name = re.split(r"[^!#$%&'*+.^_`|~0-9A-Za-z-]", text, maxsplit=1, flags=re.ASCII)[0]
    return shortened(name) if name == text else f"{shortened(name)} {HIDDEN}"


def _path(text: str) -> str:
    """Return the path and the names in the query; its values, or a lone word, may be tokens."""
    before, fragment, _ = text.partition("#")
    path, mark, query = before.partition("?")
    parameters = (each.partition("=") for each in query.split("&")) if query else ()
    shown = "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in parameters)
    return shortened(path + mark + shown + (fragment and fragment + HIDDEN))
