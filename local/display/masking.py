"""What is secret in a request or an answer, as far as its name tells.

The page shows the rest of them once it is opened, and this after another click. Its list and its
timelines have nothing of bodies, headers and queries at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import msgspec

from local.display.direct import Message
from relay.envelope import METHODS
from relay.events import Event

HIDDEN: Final = "(hidden)"

_NAMES = (
    r"auth(?!ors?$|ority)|cookie|token|secret|passw|pwd|credential|signature|session"
    r"|api[-_]?key|^key$|(?<!idempotency)[-_]key$|mac$|errordata$"
)
_IS_SECRET = re.compile(_NAMES, re.IGNORECASE)
# What may stand before a secret inside of a text: a parameter's name, or the beginning of a URL.
_PARAMETER = re.compile(r"(?<=[?&])([^=&?#\s\"]+)=[^&#\s\"]+")
_USER = re.compile(r"(?<=://)[^/?#@\s\"]+@")
_MAX_CHARACTERS: Final = 300


def masked(content: Event | Message) -> Event | Message:
    """Return a content without its secrets; the same object when it has none."""
    if isinstance(content, Event):
        attributes = {name: str(_value(name, value)) for name, value in content.attributes.items()}
        data = _body(content.data)
        if (attributes, data) == (content.attributes, content.data):
            return content
        return replace(content, attributes=attributes, data=data)
    headers = tuple((name, str(_value(name, value))) for name, value in content.headers)
    body = _body(content.body)
    if (headers, body) == (content.headers, content.body):
        return content
    return msgspec.structs.replace(content, headers=headers, body=body)


def call_in(data: bytes) -> tuple[str, str, str]:
    """Return the method, `host[:port]` and path that an envelope calls, "" for what it lacks.

    The path has neither queries nor their names; "?…" stands for them.
    """
    members = members_of(data)
    try:
        url = urlsplit(str(members["targetURL"]))
    except (KeyError, ValueError):
        return "", "", ""
    path, mark, _ = f"{url.path.rstrip('/')}{members.get('targetAPI', '')}".partition("?")
    path = (path.partition("#")[0] or "/") + ("?…" if mark or url.query else "")
    method = str(members.get("method", "POST"))
    return (
        method if method in METHODS else "",
        shortened(url.netloc.rpartition("@")[2]),
        shortened(path),
    )


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


def _body(data: bytes) -> bytes:
    """Mask JSON by the names of its members, and parameters in any other text."""
    try:
        value = json.loads(data)
        clean = _value("", value)
        return data if clean == value else json.dumps(clean, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        pass
    try:
        return _PARAMETER.sub(_parameter, f"?{data.decode()}")[1:].encode()
    except UnicodeDecodeError:
        return data


def _value(name: str, value: object) -> object:
    if _IS_SECRET.search(name) and value not in (None, "", [], {}):
        return HIDDEN
    if isinstance(value, dict):
        return {each: _value(each, item) for each, item in value.items()}
    if isinstance(value, list):
        return [_value("", item) for item in value]
    if isinstance(value, str):
        return _USER.sub(f"{HIDDEN}@", _PARAMETER.sub(_parameter, value))
    return value


def _parameter(match: re.Match[str]) -> str:
    return f"{match[1]}={HIDDEN}" if _IS_SECRET.search(match[1]) else match[0]
