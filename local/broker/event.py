"""The CloudEvent: read from an HTTP message, validated, and written to one in binary mode.

    EventError
    ├── NotAnEvent       the message is no CloudEvent at all
    ├── MalformedEvent   it says that it is one, and cannot be read
    └── InvalidEvent     it can be read, and may not be published

Knative tells these apart in the answers of a subscriber, and answers 400 to each at its ingress.
Attribute values are kept as the headers carry them, as Knative's own SDK does: no percent-decoding.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from urllib.parse import quote, urlsplit

Headers = Iterable[tuple[bytes, bytes]]

_SPEC_VERSIONS = ("1.0", "0.3")
_REQUIRED = ("id", "source", "type")
_URI_ATTRIBUTES = ("source", "dataschema", "schemaurl")
_DATA_MEMBERS = ("data", "data_base64", "datacontentencoding")

_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TCHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"{_TCHARS}(/{_TCHARS})?\s*(;.*)?")
_URI_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_NOT_URI = re.compile(r"[\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})")
_NOT_HEADER = re.compile(r"[^\x20-\x7e]+")


class EventError(ValueError):
    """An HTTP message that is no acceptable CloudEvent."""


class NotAnEvent(EventError):
    """Neither `ce-specversion` nor the media type says that this is a CloudEvent."""


class MalformedEvent(EventError):
    """A CloudEvent that cannot be read."""


class InvalidEvent(EventError):
    """A CloudEvent that can be read, but may not be published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One CloudEvent: context attributes and extensions by name, and the data as bytes."""

    attributes: Mapping[str, str]
    data: bytes

    @classmethod
    def from_http(cls, headers: Headers, body: bytes) -> Event:
        """Read an event in binary or structured mode (CloudEvents HTTP binding, section 3).

        Raises:
            NotAnEvent: the message is no CloudEvent.
            MalformedEvent: it is one, and cannot be read.
        """
        attributes: dict[str, str] = {}
        content_type = ""
        for raw_name, raw_value in headers:
            name = raw_name.decode("latin-1").lower()
            if name == "content-type":
                content_type = raw_value.decode("latin-1")
            elif name.startswith("ce-"):
                attributes[name[3:]] = _decode(raw_value)
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type.startswith("application/cloudevents"):
            try:
                attributes, body = _parse_structured(media_type, body)
            # ValueError covers JSON, base64 and Unicode; deep nesting ends in a RecursionError.
            except (ValueError, RecursionError) as exc:
                raise MalformedEvent(f"the structured event cannot be read: {exc}") from exc
            _check_readable(attributes)
            return cls(attributes=attributes, data=body)
        if attributes.get("specversion") not in _SPEC_VERSIONS:
            raise NotAnEvent("ce-specversion must be 1.0 or 0.3")
        attributes.pop("datacontenttype", None)
        if content_type:
            attributes["datacontenttype"] = content_type
        _check_readable(attributes)
        return cls(attributes=attributes, data=body)

    def validate(self) -> None:
        """Check what a publisher owes (CloudEvents 1.0, section 3.1).

        Raises:
            InvalidEvent: naming the attribute.
        """
        for name in _REQUIRED:
            if not self.attributes.get(name):
                raise InvalidEvent(f"{name} must be there and not empty")
        if self.attributes.get("subject") == "":
            raise InvalidEvent("subject must not be empty when it is there")
        content_type = self.attributes.get("datacontenttype")
        if content_type is not None and not _MEDIA_TYPE.fullmatch(content_type):
            raise InvalidEvent("datacontenttype must be a media type such as application/json")

    def to_headers(self) -> dict[str, str]:
        """Return the headers of the event in binary mode; the body is `data` as it is."""
        headers = {
            f"ce-{name}": _header_value(value)
            for name, value in self.attributes.items()
            if name != "datacontenttype"
        }
        content_type = self.attributes.get("datacontenttype")
        if content_type is not None:
            headers["content-type"] = _header_value(content_type)
        return headers


def _decode(raw_value: bytes) -> str:
    try:
        return raw_value.decode()
    except UnicodeDecodeError:
        return raw_value.decode("latin-1")


def _header_value(value: str) -> str:
    """Percent-encode what a header cannot carry (CloudEvents HTTP binding, section 3.1.3.2)."""
    return _NOT_HEADER.sub(lambda match: quote(match.group(), safe=""), value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_structured(media_type: str, body: bytes) -> tuple[dict[str, str], bytes]:
    """Return attributes and data of an event in the JSON format.

    Raises:
        ValueError: what is wrong with it.
        RecursionError: it is nested too deeply.
    """
    if media_type != "application/cloudevents+json":
        raise ValueError(f"{media_type} must be application/cloudevents+json")
    members = json.loads(body, parse_constant=_refuse_constant)
    if not isinstance(members, dict):
        raise ValueError("it must be a JSON object")  # noqa: TRY004 (one kind for the caller)
    attributes = {
        name.lower(): _attribute_text(name, value)
        for name, value in members.items()
        if name not in _DATA_MEMBERS and value is not None
    }
    if attributes.get("specversion") not in _SPEC_VERSIONS:
        raise ValueError("specversion must be 1.0 or 0.3")
    return attributes, _structured_data(members, attributes)


def _attribute_text(name: str, value: object) -> str:
    """Return the canonical string of a JSON attribute (CloudEvents 1.0, section 2.2)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        value.encode()  # a lone surrogate is valid JSON and fits no header
        return value
    raise ValueError(f"{name} must be a string, an integer or a boolean")


def _structured_data(members: Mapping[str, object], attributes: dict[str, str]) -> bytes:
    """Return the data of a structured event as bytes (CloudEvents JSON format, section 3.1)."""
    if "data_base64" in members:
        if "data" in members:
            raise ValueError("data and data_base64 exclude each other")
        return _decode_base64(members["data_base64"], "data_base64")
    if "data" not in members:
        return b""
    data = members["data"]
    if members.get("datacontentencoding") == "base64":
        return _decode_base64(data, "data")
    content_type = attributes.setdefault("datacontenttype", "application/json")
    if isinstance(data, str) and not _is_json(content_type):
        return data.encode()
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _decode_base64(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a base64 string")  # noqa: TRY004
    return base64.b64decode(value, validate=True)


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _check_readable(attributes: Mapping[str, str]) -> None:
    for name in attributes:
        if not _NAME.fullmatch(name) or name == "data":
            raise MalformedEvent(f"attribute {name!r} must be named in letters and digits")
    for name in _URI_ATTRIBUTES:
        if not _is_uri_reference(attributes.get(name, "")):
            raise MalformedEvent(f"{name} must be a URI reference")
    time = attributes.get("time")
    if time is not None and not _is_timestamp(time):
        raise MalformedEvent("time must be an RFC 3339 timestamp such as 2026-01-31T12:00:00Z")


def _is_uri_reference(text: str) -> bool:
    if _NOT_URI.search(text):
        return False
    first_segment = re.split(r"[/?#]", text, maxsplit=1)[0]
    scheme, colon, _ = first_segment.partition(":")
    if colon and not _URI_SCHEME.fullmatch(scheme):
        return False
    try:
        _ = urlsplit(text).port
    except ValueError:
        return False
    return True


def _is_timestamp(text: str) -> bool:
    match = _TIME.fullmatch(text)
    if not match:
        return False
    try:
        datetime.fromisoformat(f"{match[1]}T{match[2]}")
    except ValueError:
        return False
    return True
