"""The attributes of events as Knative's Broker takes them, which are the rules of sdk-go.

Texts hold what header bytes do: U+DC80 to U+DCFF stand for bytes that are not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from datetime import datetime, timedelta

from local.broker.uri import parse_uri
from relay.events import REQUIRED, SPEC_VERSIONS, Event
from relay.problems import InvalidRequest

_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)T(\d\d?:\d\d:\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_TCHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\\r\n]|\\.)*"'
# What mime.ParseMediaType of Go takes.
_PARAMETER = re.compile(rf"\s*;\s*({_TCHARS})\s*=\s*({_TCHARS}|{_QUOTED})")
_CONTENT_TYPE = re.compile(rf"{_TCHARS}(?:/{_TCHARS})?((?:{_PARAMETER.pattern})*)(?:\s*;)?")
# A header may hold any other.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:")
# What Go trims, without the control characters, which make a value that cannot be written.
SPACES = "".join(filter(str.isspace, map(chr, (9, 0x20, *range(0x80, 0x3001)))))


class Unwritable(InvalidRequest):
    """A header cannot hold the attribute: the Broker takes the event in and fails to send it on."""


def validate(event: Event) -> None:
    """Check what a publisher owes, beyond what can be read.

    Raises:
        Unwritable: see there.
        InvalidRequest: naming the attribute.
    """
    for name in REQUIRED:
        if not event.attributes.get(name):
            raise InvalidRequest(f"ce-{name}", "must be there and not empty")
    content_type = event.attributes.get("datacontenttype")
    if content_type is not None and not _is_content_type(content_type):
        raise InvalidRequest("Content-Type", "must be a media type such as application/json")
    schema = event.attributes.get("dataschema", "a:")
    if event.attributes["specversion"] == "1.0" and not _ABSOLUTE.match(schema):
        raise InvalidRequest("ce-dataschema", "must be an absolute URI")
    for name, value in event.attributes.items():
        if _CONTROL.search(value):
            raise Unwritable(f"ce-{name}", "must not have a control character")


def _is_content_type(text: str) -> bool:
    match = _CONTENT_TYPE.fullmatch(text)
    if match is None:
        return False
    parameters = {(name.lower(), value) for name, value in _PARAMETER.findall(match[1])}
    return len(parameters) == len(dict(parameters))  # no name has two values


def check(attributes: dict[str, str]) -> dict[str, str]:
    """Take what was read as each of Knative's parts reads it from the one before."""
    if attributes.get("specversion") not in SPEC_VERSIONS:
        raise unknown_version()
    readers = READERS[attributes["specversion"]]
    checked = {}
    for name, value in attributes.items():
        lower = lower_name(name, readers)
        read = readers.get(name)
        text = read(value) if read else value.strip(" \t")
        if text or read is None:
            checked[lower] = text
    return checked


def unknown_version() -> InvalidRequest:
    return InvalidRequest("ce-specversion", f"must be one of {', '.join(SPEC_VERSIONS)}")


def lower_name(name: str, standard: Container[str]) -> str:
    """Return the name of an attribute in lower case, in which a standard one has to be."""
    lower = name.lower()
    if not _NAME.fullmatch(lower) or (lower != name and lower in standard):
        raise InvalidRequest("event", "has an attribute name that is not of letters and digits")
    return lower


def _trimmed(value: str) -> str:
    return value.strip(SPACES)


def _uri(field: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        try:
            if field == "ce-source":
                return parse_uri(value)
            return parse_uri(_trimmed(value)) or value  # what is left of "#" is not absolute
        except ValueError as exc:
            raise InvalidRequest(field, f"must be a URI reference: {exc}") from exc

    return read


def _bad_time() -> InvalidRequest:
    return InvalidRequest("ce-time", "must be a time such as 2026-01-31T12:00:00Z")


def _time(value: str) -> str:
    """Read a time as Go does and write it in UTC, with no zero at the end of its fraction."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise _bad_time()
    date, time, fraction, sign, hours, minutes = match.groups("0")
    if int(hours) > 24 or int(minutes) > 60:
        raise _bad_time()
    try:
        moment = datetime.fromisoformat(f"{date}T{time:0>8}")
        if sign != "0":
            ahead = timedelta(hours=int(hours), minutes=int(minutes))
            moment -= -ahead if sign == "-" else ahead
    except (ValueError, OverflowError) as exc:
        raise _bad_time() from exc
    if moment == datetime.min and fraction == "0":
        return ""  # Go's zero time, which is no time
    fraction = fraction[:9].rstrip("0")
    return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}Z"


_COMMON: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(("specversion", "id", "type", "subject", "datacontenttype"), _trimmed),
    "source": _uri("ce-source"),
    "time": _time,
}
READERS = {
    "1.0": {**_COMMON, "dataschema": _uri("ce-dataschema")},
    "0.3": {**_COMMON, "schemaurl": _uri("ce-schemaurl")},
}
