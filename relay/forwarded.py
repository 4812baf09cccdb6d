"""Tell how callers have reached the relay, as the ingress before it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from relay.problems import InvalidRequest
from relay.urls import parse_authority

# One parameter of a Forwarded element (RFC 7239 section 4).
_PARAMETER: Final = re.compile(r'([A-Za-z]+)=("[^"\\]*"|[^ \t";,]*)', re.ASCII)
_LONGEST: Final = 1024


def base_url(headers: Mapping[str, str]) -> str:
    """Return the scheme and authority that callers use, or "" when no ingress has told.

    The nearest hop appends what it saw, so the last value is the ingress's own. Nothing is decided
    by it: it goes back to the caller who sent the request, and nowhere else.

    Args:
        headers: by lower-case name; Forwarded (RFC 7239) counts before X-Forwarded-Proto and
            X-Forwarded-Host.
    """
    told = _forwarded(headers.get("forwarded", ""))
    scheme = told.get("proto") or _last(headers.get("x-forwarded-proto", ""))
    host = told.get("host") or _last(headers.get("x-forwarded-host", ""))
    if not scheme and not host:
        return ""
    scheme = (scheme or "http").lower()
    host = host or headers.get("host", "")
    try:
        parse_authority(host, field="Host")
    except InvalidRequest:
        return ""
    return f"{scheme}://{host.lower()}" if scheme in ("http", "https") and host else ""


def _last(value: str) -> str:
    return value[-_LONGEST:].rpartition(",")[2].strip(" \t")


def _forwarded(value: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in _last(value).split(";"):
        match = _PARAMETER.fullmatch(part.strip(" \t"))
        if match is not None:
            parameters.setdefault(match[1].lower(), match[2].strip('"'))
    return parameters
