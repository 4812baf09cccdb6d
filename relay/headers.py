"""Which header fields cross the relay, and in what form (RFC 9110)."""

from __future__ import annotations

import email.utils
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from relay.jsons import Number, json_type
from relay.problems import InvalidRequest

log = logging.getLogger(__name__)

# In an answer each byte of a value is one character (Latin-1), whatever it means.
Headers = tuple[tuple[str, str], ...]

MAX_HEADERS = 64
MAX_HEADERS_BYTES = 16 * 1024

# No caller should hold a connection open for longer; that is what /async is for.
MAX_WAIT_S = 120

# Counts how often a call has passed a relay. Only the relay sets it.
HOPS = "relay-hops"
USER_AGENT = "knative-relay"

# RFC 9110 section 7.6.1, with the older ones that are still seen.
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
# The relay frames the message itself, and hands the body on as it came: which encodings may be
# used is between the caller's own client and the target.
_NOT_FOR_CALLERS = HOP_BY_HOP | {"accept-encoding", "content-length", "expect", HOPS}

# gunicorn writes these two into every answer; a second one would make the message malformed,
# since they are not lists (RFC 9110 section 5.3).
_SERVERS_OWN = frozenset({"date", "server"})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# Visible characters, space and tab (RFC 9110 section 5.5); the upper half of Latin-1 is obsolete
# but legal, its control characters (U+0080 to U+009F) are not worth the doubt.
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# In an answer they may be bytes of UTF-8. Other control characters no server writes.
_ANSWERED_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Longer than any of the three forms of a date (RFC 9110 section 5.6.7).
_LONGEST_DATE = 64

_NOT_IN_VALUE = re.compile(r"[^\t\x20-\x7e]")


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
        InvalidRequest: it is not such an object, a name or value is not legal on the wire, a header
            is the relay's own to set, or there are too many.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(field, f"must be an object, not {json_type(value)}")
    if len(value) > at_most:
        raise InvalidRequest(field, f"has {len(value)} headers; at most {at_most} are sent")
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, item in value.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(
                field, f"has a name that is not an HTTP token: {_up_to_fault(name)!a}"
            )
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


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON, or a type written in it (RFC 6839 section 3.1)."""
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def is_token(text: str) -> bool:
    """Tell whether a text can be the name of a header (RFC 9110 section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def _up_to_fault(name: str) -> str:
    """Leave out what follows: of `Authorization: Bearer …` that is a secret."""
    token = _TOKEN.match(name)
    return name[: (token.end() if token else 0) + 1][:64]


def _text(value: object, path: str) -> str:
    if isinstance(value, Number):
        return value.text
    if not isinstance(value, str):
        raise InvalidRequest(path, "must be a string or a number")
    text = value.strip(" \t")
    if not _VALUE.fullmatch(text):
        raise InvalidRequest(path, "must hold only visible Latin-1 characters, spaces and tabs")
    return text


def wire_value(text: str) -> str:
    """Percent-encode what a header value cannot hold, as a CloudEvent's id may well have."""
    return _NOT_IN_VALUE.sub(lambda match: quote(match[0]), text.strip(" \t"))


def find(headers: Headers, name: str) -> str | None:
    """Return the first value of a header, whatever the case of its name."""
    lower = name.lower()
    for key, value in headers:
        if key.lower() == lower:
            return value
    return None


def complete(headers: Headers, host: str, method: str, content: bytes | None) -> dict[str, str]:
    """Add what every request needs and this one lacks."""
    added = {"Host": host, "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    # Where a body is usual, its absence is declared as well (RFC 9110 section 8.6).
    if content is not None or method in ("POST", "PUT", "PATCH"):
        added["Content-Length"] = str(len(content or b""))
    given = {name.lower() for name, _ in headers}
    return {name: value for name, value in added.items() if name.lower() not in given} | dict(
        headers
    )


def message_head(start_line: str, headers: Mapping[str, str]) -> bytes:
    """Write the head of a request as it is sent, each character a byte.

    Raises:
        ValueError: something that should have been refused long before would end a line.
    """
    lines = [start_line, *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines) + "\r\n\r\n"
    if head.count("\n") != len(lines) + 1 or head.count("\r") != len(lines) + 1 or "\0" in head:
        raise ValueError("a header must be one line")
    return head.encode("latin-1")


def end_to_end(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Drop the headers of a target's answer that are not for the caller or would break its framing.

    Repeated headers (`Set-Cookie`) stay repeated, and values the bytes they are.
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
        if name.lower() in dropped:
            continue
        if _TOKEN.fullmatch(name) and _ANSWERED_VALUE.fullmatch(value):
            yield name, value
        else:
            log.warning("a header of the answer cannot be passed on: %s", ascii(name[:64]))


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, a number of seconds or a date (RFC 9110 section 10.2.3).

    Returns:
        seconds from now, not below 0; None when there is no valid one.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return float(value)
    if len(value) > _LONGEST_DATE:
        return None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):  # not a date, or one that Python cannot hold
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """What a caller would like.

    Args:
        wait_s: answer within this time if there is an answer (section 4.3); None for no wish.
        respond_async: answer 202 rather than wait for the answer (section 4.1).
    """

    wait_s: int | None = None
    respond_async: bool = False

    @classmethod
    def from_header(cls, value: str | None) -> Preferences:
        """Read the header. Unknown preferences are ignored; of two alike the first counts."""
        if value is None:
            return cls()
        preferences: dict[str, str] = {}
        for part in value.split(","):
            name, _, given = part.partition(";")[0].partition("=")
            given = given.strip(" \t").removeprefix('"').removesuffix('"')
            preferences.setdefault(name.strip(" \t").lower(), given)
        wait = preferences.get("wait", "")
        return cls(
            wait_s=min(int(wait), MAX_WAIT_S) if re.fullmatch(r"[0-9]{1,6}", wait) else None,
            respond_async="respond-async" in preferences,
        )
