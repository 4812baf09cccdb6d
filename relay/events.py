"""CloudEvents as the relay and the local Broker read them, and as the relay writes them, over HTTP.

This is not left to the `cloudevents` package, which writes structured data anew, checks no
attribute, takes a batch or bad base64 for something else, and needs quadratic time for many
attributes; it takes twenty times as long to write an event.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from relay.headers import Headers, is_json, media_type, wire_value
from relay.http import Response
from relay.jsons import JSONError, Object, decode_base64
from relay.logs import rfc3339
from relay.problems import InvalidRequest

SPEC_VERSIONS: Final = ("1.0", "0.3")
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
JSON: Final = "application/json"

# What comes after the type of a request in the types of the events that follow from it.
COMPLETED: Final = "completed"
FAILED: Final = "failed"
DEAD: Final = "dead"
CALLBACK: Final = "callback"
# The number of a tier follows.
RETRY: Final = "retry"
RESULTS: Final = (COMPLETED, FAILED)

# More than any event has. Readers of the event after the relay may need quadratic time.
MAX_ATTRIBUTES: Final = 64

REQUIRED: Final = ("id", "source", "type")
# CloudEvents 1.0, sections 3.1.1 and 3.1.2; an extension may be a number or a boolean.
_STRINGS: Final = frozenset(
    {*REQUIRED, "specversion", "datacontenttype", "dataschema", "subject", "time"}
)
# The members of the JSON format that are not attributes.
_DATA: Final = frozenset({"data", "data_base64"})
# Readers that use the cloudevents package would lose these: it keeps its own things there.
_RESERVED: Final = frozenset({"data", "extensions"})
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
# Characters that no attribute may hold (CloudEvents 1.0, section 3.1 "String").
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# CloudEvents HTTP binding 1.0, section 3.1.3.2: these stay, all else is percent-encoded.
_TO_ESCAPE = re.compile(r"[^\x21\x23\x24\x26-\x7e]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How readers of events differ.

    Args:
        header: reads the bytes of an attribute's header.
        structured: reads the body of an event in structured mode into attributes and data.
        check: refuses attributes, or returns them as the event shall have them.
    """

    header: Callable[[bytes], str]
    structured: Callable[[bytes], tuple[dict[str, str], bytes]]
    check: Callable[[dict[str, str]], dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One CloudEvent.

    Args:
        attributes: with extensions among them, by their lower-case names.
        data: as it stands in the message; empty when there is none.
    """

    attributes: Mapping[str, str]
    data: bytes = b""

    @property
    def id(self) -> str:
        return self.attributes["id"]

    @property
    def type(self) -> str:
        return self.attributes["type"]

    def having(self, more: Mapping[str, str]) -> Event:
        """Return the event with more attributes, or with others in the place of its own."""
        return Event(attributes={**self.attributes, **more}, data=self.data) if more else self

    def size_bytes(self) -> int:
        return written_bytes(*self.to_http())

    def to_http(self) -> tuple[Headers, bytes]:
        """Write the event in binary mode, with a version and a time if it has none."""
        headers = []
        for name, value in {"specversion": "1.0", **self.attributes}.items():
            if name != "datacontenttype":
                headers.append((f"ce-{name}", _TO_ESCAPE.sub(_percent_encoded, value)))
            elif written := wire_value(value):  # Content-Type has an encoding of its own
                headers.append(("content-type", written))
        if "time" not in self.attributes:
            headers.append(("ce-time", rfc3339(time.time())))
        return tuple(headers), self.data

    def to_response(self) -> Response:
        """Write the event as the answer to a Broker, which publishes it: a reply."""
        return reply(*self.to_http())

    @classmethod
    def from_http(
        cls, headers: Mapping[str, str], body: bytes, rules: Rules | None = None
    ) -> Event:
        """Read an event in binary or structured mode.

        Args:
            headers: by lower-case name; each character of a value stands for one byte.
            rules: None for the relay's own, which are the specification's.

        Raises:
            InvalidRequest: it is not one CloudEvent of version 1.0 or 0.3.
        """
        rules = rules or STRICT
        content_type = headers.get("content-type", "")
        kind = media_type(content_type)
        if kind == STRUCTURED:
            attributes, data = rules.structured(body)
            return cls(attributes=rules.check(attributes), data=data)
        is_event = "ce-specversion" in headers
        if kind == BATCH or (kind.startswith("application/cloudevents") and not is_event):
            raise InvalidRequest("Content-Type", f"must be {STRUCTURED} for a structured event")
        if not is_event:
            raise InvalidRequest("ce-specversion", "is missing; send a CloudEvent")
        if "ce-datacontenttype" in headers:
            raise InvalidRequest("ce-datacontenttype", "must be sent as Content-Type")
        attributes = {
            name[3:]: rules.header(value.encode("latin-1"))
            for name, value in headers.items()
            if name.startswith("ce-")
        }
        if content_type:
            attributes["datacontenttype"] = text_of(content_type.encode("latin-1"))
        return cls(attributes=rules.check(attributes), data=body)


def is_text(value: str) -> bool:
    """Tell whether an attribute may have a value (CloudEvents 1.0, section 3.1 "String")."""
    return _NOT_TEXT.search(value) is None


def text_of(raw: bytes) -> str:
    """Read the bytes of a header: Knative writes UTF-8, and others Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def reply(headers: Headers, body: bytes) -> Response:
    """Answer a Broker with an event that `to_http` has written."""
    length = ("Content-Length", str(len(body)))
    return Response(status=200, headers=(*headers, length), body=(body,))


def written_bytes(headers: Headers, body: bytes = b"") -> int:
    """Count an event that `to_http` has written: its headers, each a line, and its data."""
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers) + len(body)


def _percent_encoded(match: re.Match[str]) -> str:
    return quote(match[0])


def _header(raw: bytes) -> str:
    return unquote(text_of(raw))


def _structured(body: bytes) -> tuple[dict[str, str], bytes]:
    """Read the JSON format strictly (CloudEvents JSON format 1.0, section 3)."""
    event = Object.from_json(body, "event")
    _check_count(len(event.members.keys() - _DATA))
    attributes = {
        name: item if isinstance(item, str) else event.texts[name].strip()
        for name, item in event.members.items()
        if name not in _DATA and _is_set(name, item)
    }
    return attributes, _structured_data(event, attributes)


def _is_set(name: str, value: object) -> bool:
    """Check the JSON type of an attribute; null is that of one that is not there."""
    if isinstance(value, dict | list):
        detail = "has an attribute that is not a string, a number or a boolean"
        raise InvalidRequest("event", detail)
    if name in _STRINGS and not isinstance(value, str | None):
        raise InvalidRequest(f"ce-{name}", "must be a string")
    return value is not None


def _structured_data(event: Object, attributes: dict[str, str]) -> bytes:
    members = event.members
    if "data_base64" in members and "data" in members:
        raise InvalidRequest("data_base64", "must not stand beside data")
    in_base64 = "data_base64"
    if attributes.get("specversion") == "0.3" and attributes.pop("datacontentencoding", ""):
        in_base64 = "data"
    if in_base64 in members:
        try:
            return decode_base64(members[in_base64])
        except JSONError as exc:
            raise InvalidRequest(in_base64, str(exc)) from exc
    data, text = members.get("data"), event.texts.get("data", "").strip()
    if isinstance(data, str) and not is_json(attributes.get("datacontenttype", JSON)):
        text = data
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidRequest("data", "must not have a lone surrogate") from exc


def _check_count(count: int) -> None:
    if count > MAX_ATTRIBUTES:
        raise InvalidRequest("event", f"has {count} attributes; at most {MAX_ATTRIBUTES} are read")


def _check(attributes: dict[str, str]) -> dict[str, str]:
    """Check an event by CloudEvents 1.0, sections 3.1 and 3.2."""
    _check_count(len(attributes))
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest("event", "has an attribute name that is not lower-case ASCII")
        if name in _RESERVED:
            raise InvalidRequest("event", "has an attribute called data or extensions")
        if not is_text(value):
            detail = "must not have a control character or a lone surrogate"
            raise InvalidRequest(f"ce-{name[:64]}", detail)
    if attributes.get("specversion") not in SPEC_VERSIONS:
        raise InvalidRequest("ce-specversion", f"must be one of {', '.join(SPEC_VERSIONS)}")
    for name in REQUIRED:
        if not attributes.get(name):
            raise InvalidRequest(f"ce-{name}", "is missing or empty")
    if attributes.get("datacontenttype", "").lower().lstrip().startswith("application/cloudevents"):
        # Published in binary mode, the data would take the place of the event.
        raise InvalidRequest("ce-datacontenttype", "must not be that of an event")
    return attributes


STRICT: Final = Rules(header=_header, structured=_structured, check=_check)
