"""The envelope: how a caller says which call the relay is to make."""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from typing import Final

from relay import jsons
from relay.headers import MAX_HEADERS, MAX_HEADERS_BYTES, Headers, find, parse_headers, wire_value
from relay.jsons import is_json, json_type
from relay.problems import InvalidRequest
from relay.urls import Target, parse_target

# Fit for an event's id, a header and a path segment alike; with or without the quotes of
# draft-ietf-httpapi-idempotency-key-header.
_ID = re.compile(r'("?)([A-Za-z0-9._~:+=@-]{1,128})\1', re.ASCII)

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

# A callback is called by an envelope of its own, to which Standard Webhooks adds an id, a time and
# one signature for each key.
_SIGNATURE_HEADERS: Final = 3
_SIGNATURE_BYTES: Final = 1024

_FIELDS: Final = frozenset(
    {"targetURL", "targetAPI", "headers", "body", "bodyBase64", "method", "timeout", "callback"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """Where the outcome of a call is delivered.

    Args:
        target: the url.
        headers: what is sent along.
    """

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
        """Read an envelope.

        Args:
            raw: a JSON object in UTF-8, with the fields of `schemas/envelope.schema.json`.

        Raises:
            InvalidRequest: it is not one; the error names the field and what would be right.
        """
        if not raw.strip():
            raise InvalidRequest(
                "envelope", 'is empty; send {"targetURL", "targetAPI", "headers", "body"} as JSON'
            )
        try:
            return cls.from_object(jsons.loads(raw))
        except jsons.JSONError as exc:
            raise InvalidRequest("envelope", str(exc)) from exc

    @classmethod
    def from_object(cls, value: object) -> Envelope:
        """Read an envelope that is already parsed JSON; otherwise as `from_json`."""
        if not isinstance(value, dict):
            raise InvalidRequest("envelope", f"must be an object, not {json_type(value)}")
        for name in value:
            if name not in _FIELDS:
                known = ", ".join(sorted(_FIELDS))
                raise InvalidRequest(_shown(name), f"is no field of the envelope; it has {known}")
        if "targetURL" not in value:
            raise InvalidRequest("targetURL", "is missing; it says where the call goes")
        target = parse_target(
            _string(value["targetURL"], "targetURL"),
            _string(value.get("targetAPI", ""), "targetAPI"),
            url_field="targetURL",
            api_field="targetAPI",
        )
        headers = parse_headers(value.get("headers", {}), field="headers")
        content, content_type = _content(value, headers)
        return cls(
            target=target,
            headers=headers,
            content=content,
            content_type=content_type,
            method=_method(value),
            timeout_s=_timeout_s(value),
            callback=_callback(value),
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


def _content(value: dict[str, object], headers: Headers) -> tuple[bytes | None, str]:
    if "bodyBase64" in value:
        if "body" in value:
            raise InvalidRequest("bodyBase64", "must not stand beside body; send one of them")
        text = _string(value["bodyBase64"], "bodyBase64")
        try:
            return jsons.decode_base64(text), "application/octet-stream"
        except jsons.JSONError as exc:
            raise InvalidRequest("bodyBase64", str(exc)) from exc
    if "body" not in value:
        return None, "application/json"
    body = value["body"]
    declared = find(headers, "Content-Type")
    if isinstance(body, str) and declared is not None and not is_json(declared):
        try:
            return body.encode("utf-8"), declared
        except UnicodeEncodeError as exc:
            raise InvalidRequest("body", "must not have a lone surrogate in it") from exc
    return json.dumps(body, separators=(",", ":")).encode("ascii"), "application/json"


def _method(value: dict[str, object]) -> str | None:
    if "method" not in value:
        return None
    method = value["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise InvalidRequest("method", f"must be one of {', '.join(METHODS)}")
    return method


def _timeout_s(value: dict[str, object]) -> float | None:
    if "timeout" not in value:
        return None
    timeout = value["timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise InvalidRequest("timeout", "must be a number of seconds above 0")
    return float(timeout) if timeout < 1e9 else math.inf


def _callback(value: dict[str, object]) -> Callback | None:
    if "callback" not in value:
        return None
    callback = value["callback"]
    if not isinstance(callback, dict):
        raise InvalidRequest("callback", f"must be an object, not {json_type(callback)}")
    for name in callback:
        if name not in ("url", "headers"):
            raise InvalidRequest(f"callback.{_shown(name)}", "is no field; it has url and headers")
    if "url" not in callback:
        raise InvalidRequest("callback.url", "is missing; it says where the outcome goes")
    url, question_mark, query = _string(callback["url"], "callback.url").partition("?")
    return Callback(
        target=parse_target(
            url, question_mark + query, url_field="callback.url", api_field="callback.url"
        ),
        headers=parse_headers(
            callback.get("headers", {}),
            field="callback.headers",
            at_most=MAX_HEADERS - _SIGNATURE_HEADERS,
            together=MAX_HEADERS_BYTES - _SIGNATURE_BYTES,
        ),
    )


def _string(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be a string, not {json_type(value)}")
    return value


def _shown(name: str) -> str:
    """Make a name that the caller made up safe and short enough for an error."""
    return ascii(name[:64])[1:-1] or '""'


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


def new_id() -> str:
    """Make an id for a request whose caller chose none."""
    return str(uuid.uuid4())
