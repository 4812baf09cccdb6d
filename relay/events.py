"""CloudEvents as the relay makes and reads them, over HTTP.

The `cloudevents` package does the formats; what it leaves to its callers is done here: it checks no
attribute, escapes no header value, and takes a batch or bad base64 for something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import cloudevents.exceptions
from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent, from_http

from relay import jsons
from relay.headers import wire_value
from relay.http import Response
from relay.problems import InvalidRequest

SPEC_VERSIONS: Final = ("1.0", "0.3")
STRUCTURED: Final = "application/cloudevents+json"
JSON: Final = "application/json"

# What comes after the type of a request in the types of the events that follow from it.
COMPLETED: Final = "completed"
FAILED: Final = "failed"
DEAD: Final = "dead"
CALLBACK: Final = "callback"
# The number of a tier follows.
RETRY: Final = "retry"
RESULTS: Final = (COMPLETED, FAILED)

_REQUIRED: Final = ("id", "source", "type")
# CloudEvents 1.0, sections 3.1.1 and 3.1.2; an extension may be a number or a boolean.
_STRINGS: Final = frozenset(
    {*_REQUIRED, "specversion", "datacontenttype", "dataschema", "subject", "time"}
)
# The package keeps its own things under these names.
_RESERVED: Final = frozenset({"ce-data", "ce-extensions"})
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
# What no attribute may hold (CloudEvents 1.0, section 3.1 "String").
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# CloudEvents HTTP binding 1.0, section 3.1.3.2: these stay, all else is percent-encoded.
_TO_ESCAPE = re.compile(r"[^\x21\x23\x24\x26-\x7e]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One CloudEvent.

    Args:
        attributes: all context attributes, extensions among them, by their lower-case names.
        data: as it stands in the message; None when there is none.
    """

    attributes: Mapping[str, str]
    data: bytes | None = None

    @property
    def id(self) -> str:
        return self.attributes["id"]

    @property
    def type(self) -> str:
        return self.attributes["type"]

    def to_http(self) -> tuple[tuple[tuple[str, str], ...], bytes]:
        """Write the event in binary mode.

        Returns:
            the headers, and the body.
        """
        escaped = {name: _escaped(name, value) for name, value in self.attributes.items()}
        headers, body = to_binary(CloudEvent(escaped, self.data), data_marshaller=_unchanged)
        return tuple(headers.items()), body or b""

    def to_response(self) -> Response:
        """Write the event as the answer to a Broker, which publishes it: a reply."""
        headers, body = self.to_http()
        length = ("Content-Length", str(len(body)))
        return Response(status=200, headers=(*headers, length), body=(body,))

    @classmethod
    def from_http(cls, headers: Mapping[str, str], body: bytes) -> Event:
        """Read an event in binary or structured mode.

        Args:
            headers: by lower-case name.
            body: the whole body.

        Raises:
            InvalidRequest: it is no single CloudEvent of version 1.0 or 0.3.
        """
        content_type = headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == STRUCTURED:
            _check_structured(body)
            fields = {"content-type": content_type}  # else the package prefers binary mode
        elif media_type.startswith("application/cloudevents"):
            raise InvalidRequest("Content-Type", f"must be {STRUCTURED} for a structured event")
        elif "ce-specversion" in headers:
            for name in _REQUIRED:  # else the package would look for them in the body
                if f"ce-{name}" not in headers:
                    raise InvalidRequest(f"ce-{name}", "is missing or empty")
            fields = {
                name: unquote(value) if name.startswith("ce-") else value
                for name, value in headers.items()
            }
        else:
            raise InvalidRequest("ce-specversion", "is missing; send a CloudEvent")
        if not _RESERVED.isdisjoint(fields):
            raise InvalidRequest("event", "has an attribute called data or extensions")
        try:
            event = from_http(fields, body, data_unmarshaller=_unchanged)
        except (cloudevents.exceptions.GenericException, ValueError) as exc:
            raise InvalidRequest("event", "is not a CloudEvent of version 1.0 or 0.3") from exc
        attributes = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in event.get_attributes().items()
            if value is not None
        }
        _check_attributes(attributes)
        data = event.data
        if isinstance(data, str):  # of a structured event; the package has written it in ASCII
            data = data.encode("ascii")
        return cls(attributes=attributes, data=data or None)


def _unchanged(data: bytes | None) -> bytes | None:
    return data


def _escaped(name: str, value: str) -> str:
    if name == "datacontenttype":  # goes into Content-Type, which has an encoding of its own
        return wire_value(value)
    return _TO_ESCAPE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8")), value
    )


def _check_structured(body: bytes) -> None:
    try:
        value = jsons.loads(body)
    except jsons.JSONError as exc:
        raise InvalidRequest("event", str(exc)) from exc
    if not isinstance(value, dict):
        raise InvalidRequest("event", "must be one JSON object")
    if "data_base64" in value:
        if "data" in value:
            raise InvalidRequest("data_base64", "must not stand beside data")
        try:
            jsons.decode_base64(value["data_base64"])
        except jsons.JSONError as exc:
            raise InvalidRequest("data_base64", str(exc)) from exc
    for name, item in value.items():
        if name in ("data", "data_base64"):
            continue
        # Here, since the package turns upper case into lower: ID would take the place of id.
        _check_name(name)
        if isinstance(item, dict | list):
            raise InvalidRequest("event", "has an attribute that is no string, number or boolean")
        if name in _STRINGS and not isinstance(item, str | None):
            raise InvalidRequest(f"ce-{name}", "must be a string")
    if "extensions" in value:
        raise InvalidRequest("event", "has an attribute called data or extensions")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest("event", "has an attribute name that is not lower-case ASCII")


def _check_attributes(attributes: Mapping[str, str]) -> None:
    """Check what CloudEvents 1.0, sections 3.1 and 3.2, ask of every event."""
    for name in _REQUIRED:
        if not attributes.get(name):
            raise InvalidRequest(f"ce-{name}", "is missing or empty")
    if attributes.get("specversion") not in SPEC_VERSIONS:
        raise InvalidRequest("ce-specversion", f"must be one of {', '.join(SPEC_VERSIONS)}")
    for name, value in attributes.items():
        _check_name(name)
        if _NOT_TEXT.search(value):
            raise InvalidRequest(
                f"ce-{name}", "must not have a control character or a lone surrogate"
            )
    if attributes.get("datacontenttype", "").lower().lstrip().startswith("application/cloudevents"):
        # Published in binary mode, the data would take the place of the event.
        raise InvalidRequest("ce-datacontenttype", "must not be that of an event")
