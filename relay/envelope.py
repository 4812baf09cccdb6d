"""The envelope: how a caller says which call the relay is to make."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.bodies import charset_of, check_not_encoded, codec_of, content_of
from relay.headers import (
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    Headers,
    find,
    is_json,
    parse_headers,
    wire_value,
)
from relay.jsons import JSONError, Number, Object, canonical, decode_base64, json_type
from relay.problems import InvalidRequest
from relay.urls import Target, parse_target

# Fit for an event's id, a header and a path segment alike; with or without the quotes of
# draft-ietf-httpapi-idempotency-key-header.
_ID = re.compile(r'("?)([A-Za-z0-9._~:+=@-]{1,128})\1', re.ASCII)

# The ids of the events that follow from a request, and of the requests that bring callbacks.
_OWN_ENDING = re.compile(r"\.(?:completed|failed|dead|retry[0-9]+)(?:\.[0-9]+)?(?:\.callback)?$")

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
# RFC 9110 section 9.2.2: twice has the effect of once.
IDEMPOTENT: Final = frozenset(METHODS) - {"POST", "PATCH"}

# A callback is called by an envelope of its own, to which Standard Webhooks adds an id, a time and
# one signature for each key.
_SIGNATURE_HEADERS: Final = 3
_SIGNATURE_BYTES: Final = 1024

_FIELDS: Final = frozenset(
    {"targetURL", "targetAPI", "headers", "body", "bodyBase64", "method", "timeout", "callback"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """Where the outcome of a call is delivered, and what is sent along."""

    target: Target
    headers: Headers = ()

    def envelope(self) -> dict[str, object]:
        """Return the envelope of the call that delivers, all but its body."""
        origin = self.target.origin
        return {
            "targetURL": f"{origin.scheme}://{origin.authority}",
            "targetAPI": self.target.path,
            "headers": dict(self.headers),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """One call to a target.

    Args:
        target: where it goes.
        headers: what the caller wants sent, names as written.
        content: the body as it is sent; None for no body.
        content_type: goes with the content unless `headers` has one.
        method: one of `METHODS`; None when the envelope names none.
        timeout_s: for the whole call; None when the envelope names none.
        callback: None when the caller wants none.
    """

    target: Target
    headers: Headers = ()
    content: bytes | None = None
    content_type: str = "application/json"
    method: str | None = None
    timeout_s: float | None = None
    callback: Callback | None = None

    @classmethod
    def from_json(cls, raw: bytes) -> Envelope:
        return read_envelope(raw)[0]

    @classmethod
    def from_object(cls, document: Object) -> Envelope:
        """Read an envelope that is JSON already; see `read_envelope`."""
        members = document.members
        for name in members:
            if name not in _FIELDS:
                known = ", ".join(sorted(_FIELDS))
                raise InvalidRequest(_shown(name), f"is no field of the envelope; it has {known}")
        if "targetURL" not in members:
            raise InvalidRequest("targetURL", "is missing; it says where the call goes")
        target = parse_target(
            _string(members["targetURL"], "targetURL"),
            _string(members.get("targetAPI", ""), "targetAPI"),
            url_field="targetURL",
            api_field="targetAPI",
        )
        headers = parse_headers(members.get("headers", {}), field="headers")
        content, content_type = _content(document, headers)
        return cls(
            target=target,
            headers=headers,
            content=content,
            content_type=content_type,
            method=_method(members),
            timeout_s=_timeout_s(members),
            callback=parse_callback(members["callback"]) if "callback" in members else None,
        )

    def sent_headers(self, relays_own: Headers) -> Headers:
        """Put together what goes to the target.

        Args:
            relays_own: what the relay adds; the caller's own header of the same name wins.
        """
        headers = self.headers
        if self.content is not None and find(headers, "Content-Type") is None:
            headers += (("Content-Type", self.content_type),)
        asked_for = {name.lower() for name, _ in headers}
        return headers + tuple(
            (name, wire_value(value)) for name, value in relays_own if name.lower() not in asked_for
        )


def read_envelope(raw: bytes) -> tuple[Envelope, Object]:
    """Read an envelope, and what else a JSON object has, for its fingerprint and callback.

    The object may take many times the room of its text: it must not be kept while others wait.

    Args:
        raw: a JSON object in UTF-8, with the fields of `schemas/envelope.schema.json`.

    Raises:
        InvalidRequest: it is not one; the error names the field and what would be right.
    """
    if not raw.strip():
        raise InvalidRequest(
            "envelope", 'is empty; send {"targetURL", "targetAPI", "headers", "body"} as JSON'
        )
    document = Object.from_json(raw, "envelope")
    return Envelope.from_object(document), document


def _content(document: Object, headers: Headers) -> tuple[bytes | None, str]:
    members = document.members
    if "bodyBase64" in members:
        if "body" in members:
            raise InvalidRequest("bodyBase64", "must not stand beside body; send one of them")
        text = _string(members["bodyBase64"], "bodyBase64")
        try:
            return decode_base64(text), "application/octet-stream"
        except JSONError as exc:
            raise InvalidRequest("bodyBase64", str(exc)) from exc
    check_not_encoded(headers, field="headers", but="send bodyBase64")
    if "body" not in members:
        return None, "application/json"
    text = document.texts["body"].strip()
    return content_of(members["body"], text, headers), "application/json"


def _method(members: Mapping[str, object]) -> str | None:
    if "method" not in members:
        return None
    method = members["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise InvalidRequest("method", f"must be one of {', '.join(METHODS)}")
    return method


def _timeout_s(members: Mapping[str, object]) -> float | None:
    if "timeout" not in members:
        return None
    timeout = members["timeout"]
    timeout_s = float(timeout.text) if isinstance(timeout, Number) else 0.0
    if timeout_s <= 0:
        raise InvalidRequest("timeout", "must be a number of seconds above 0")
    return timeout_s if timeout_s < 1e9 else math.inf


def parse_callback(callback: object) -> Callback:
    """Read the field `callback`.

    Raises:
        InvalidRequest: it is not a valid callback.
    """
    if not isinstance(callback, dict):
        raise InvalidRequest("callback", f"must be an object, not {json_type(callback)}")
    for name in callback:
        if name not in ("url", "headers"):
            raise InvalidRequest(f"callback.{_shown(name)}", "is no field; it has url and headers")
    if "url" not in callback:
        raise InvalidRequest("callback.url", "is missing; it says where the outcome goes")
    at = "callback.url"
    url, question_mark, query = _string(callback["url"], at).partition("?")
    target = parse_target(url, question_mark + query, url_field=at, api_field=at)
    headers = parse_headers(
        callback.get("headers", {}),
        field="callback.headers",
        at_most=MAX_HEADERS - _SIGNATURE_HEADERS,
        together=MAX_HEADERS_BYTES - _SIGNATURE_BYTES,
    )
    check_not_encoded(headers, field="callback.headers", but="leave it out")
    content_type = find(headers, "Content-Type") or "application/json"
    if not is_json(content_type) or codec_of(charset_of(content_type)) != "utf_8":
        what = "must be JSON in UTF-8, which is sent"
        raise InvalidRequest("callback.headers.Content-Type", what)
    return Callback(target=target, headers=headers)


def _string(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be a string, not {json_type(value)}")
    return value


def _shown(name: str) -> str:
    """Make a name that the caller made up safe and short enough for an error."""
    return ascii(name[:64])[1:-1] or '""'


def fingerprint(document: Object) -> str:
    """Tell one request from another by its envelope, however that is laid out.

    Returns:
        the same for the same fields with the same values; numbers count as they are written.
    """
    if not document.members:  # no envelope, but a dead letter may hold it
        return hashlib.sha256(document.raw).hexdigest()
    return hashlib.sha256(canonical({"method": "POST", **document.members})).hexdigest()


def parse_id(text: str, *, field: str) -> str:
    """Check an id that a caller chose.

    Args:
        text: the id, maybe in double quotes.
        field: what it is called where the caller wrote it, for errors.

    Raises:
        InvalidRequest: it has other characters, or too many.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise InvalidRequest(field, "must be 1 to 128 letters, digits or . _ ~ : + = @ -")
    return match[2]


def parse_key(text: str) -> str:
    """Check the Idempotency-Key of a new request, which is a part of a path, and of other ids.

    Raises:
        InvalidRequest: as for `parse_id`, or it could be taken for another thing.
    """
    key = parse_id(text, field="Idempotency-Key")
    if key in (".", "..", "retry"):
        raise InvalidRequest("Idempotency-Key", f"must not be {key}, which no path can name")
    if _OWN_ENDING.search(key):
        raise InvalidRequest("Idempotency-Key", "must not end as the relay's own ids do")
    return key


def new_id() -> str:
    """Make an id for a request whose caller chose none."""
    return str(uuid.uuid4())
