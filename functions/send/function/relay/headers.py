"""Which header fields cross the relay, and in what form (RFC 9110)."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from relay.problems import InvalidRequest

Headers = tuple[tuple[str, str], ...]

MAX_HEADERS = 64
MAX_HEADERS_BYTES = 16 * 1024

# Counts how often a call has passed a relay. Only the relay sets it.
HOPS = "relay-hops"

# RFC 9110 section 7.6.1, with the older ones that are still seen.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# The relay frames the message itself, and hands the body on as it came: which encodings may be
# used is between the caller's own client and the target.
_NOT_FOR_CALLERS = HOP_BY_HOP | {"accept-encoding", "content-length", "expect", HOPS}

# gunicorn writes these two into every answer; a second one would make the message malformed,
# since they are no lists (RFC 9110 section 5.3).
_SERVERS_OWN = frozenset({"date", "server"})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# Visible characters, space and tab (RFC 9110 section 5.5); the upper half of Latin-1 is obsolete
# but legal, its control characters (U+0080 to U+009F) are not worth the doubt.
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")

_NOT_IN_VALUE = re.compile(r"[^\t\x20-\x7e]")

# W3C Trace Context, section 3.2: neither id is all zero, version ff is none, and version 00 ends
# after 55 characters.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?:-[\x21-\x7e]*)?"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


def parse_headers(
    value: object, *, field: str, at_most: int = MAX_HEADERS, together: int = MAX_HEADERS_BYTES
) -> Headers:
    """Check the headers that an envelope asks for.

    `Host` passes here: whether it may be sent is the egress policy's to say.

    Args:
        value: an object of name to string or number.
        field: what the object is called where the caller wrote it, for errors.
        at_most: how many there may be.
        together: how many bytes they may have on the wire.

    Raises:
        InvalidRequest: it is no such object, a name or value is not legal on the wire, a header is
            the relay's own to set, or there are too many.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(field, f"must be an object, not {json_type(value)}")
    if len(value) > at_most:
        raise InvalidRequest(field, f"has {len(value)} headers; at most {at_most} are sent")
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, item in value.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(field, f"has a name that is no HTTP token: {_up_to_fault(name)!a}")
        path = f"{field}.{name[:64]}"
        lower = name.lower()
        # CGI and WSGI servers read Transfer_Encoding as Transfer-Encoding.
        hyphened = lower.replace("_", "-")
        if hyphened in _NOT_FOR_CALLERS or hyphened.startswith("ce-"):
            raise InvalidRequest(path, "is not for the caller to set; leave it out")
        if lower in seen:
            raise InvalidRequest(path, "is given twice, in upper and lower case")
        seen.add(lower)
        headers[name] = _text(item, path)
    if sum(len(name) + len(text) + 4 for name, text in headers.items()) > together:
        raise InvalidRequest(field, f"must be at most {together} bytes together")
    return tuple(headers.items())


def _up_to_fault(name: str) -> str:
    """Leave out what follows: of `Authorization: Bearer …` that is a secret."""
    token = _TOKEN.match(name)
    return name[: (token.end() if token else 0) + 1][:64]


def _text(value: object, path: str) -> str:
    if isinstance(value, str):
        text = value.strip(" \t")
        if not _VALUE.fullmatch(text):
            raise InvalidRequest(path, "must hold only visible Latin-1 characters, spaces and tabs")
        return text
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(path, "must be a string or a number")
    return str(value)


def wire_value(text: str) -> str:
    """Percent-encode what a header value cannot hold, as a CloudEvent's id may well have."""
    return _NOT_IN_VALUE.sub(lambda match: quote(match[0]), text.strip(" \t"))


def find(headers: Headers, name: str) -> str | None:
    """Return the first value of a header, whatever the case of its name."""
    lower = name.lower()
    return next((value for key, value in headers if key.lower() == lower), None)


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON, or a type written in it (RFC 6839 section 3.1)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def json_type(value: object) -> str:
    """Name a JSON value's type with its article, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def end_to_end(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Leave out of a target's answer what is not for the caller, and what would break its framing.

    Repeated headers (`Set-Cookie`) stay repeated.
    """
    fields = list(headers)
    listed = {
        option.strip().lower()
        for name, value in fields
        if name.lower() == "connection"
        for option in value.split(",")
    }
    dropped = HOP_BY_HOP | _SERVERS_OWN | listed
    for name, value in fields:
        if name.lower() not in dropped and _TOKEN.fullmatch(name) and _VALUE.fullmatch(value):
            yield name, value


def trace_context(traceparent: str | None, tracestate: str | None) -> Headers:
    """Keep a W3C trace context that is well-formed; drop any other, as that standard asks."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return ()
    if tracestate is None or not _TRACESTATE.fullmatch(tracestate):
        return (("traceparent", traceparent),)
    return (("traceparent", traceparent), ("tracestate", tracestate))


def trace_id(traceparent: str | None) -> str | None:
    """Read the id of the trace out of a well-formed traceparent; None for any other."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return traceparent.split("-")[1]


def hops_of(value: str | None) -> int:
    """Read the hop counter; one that is no number counts as none."""
    return int(value) if value and re.fullmatch(r"[0-9]{1,3}", value, re.ASCII) else 0


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, a number of seconds or a date (RFC 9110 section 10.2.3).

    Returns:
        seconds from now, not below 0; None when there is none that can be read.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, date.timestamp() - time.time())
