"""Keep web pages from elsewhere from using what listens on this machine.

A page may send requests to any address, and by DNS rebinding even have its own name lead here. What
gives such requests away is their Host, and what browsers say about where they come from.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

LOOPBACK_NAMES = ("localhost", "127.0.0.1")


def foreign_host(request: Request) -> str | None:
    """Say what is wrong with a Host that does not name this machine; None when it does."""
    host = request.headers.get("host", "")
    if host.rpartition(":")[0] in LOOPBACK_NAMES or host in LOOPBACK_NAMES:
        return None
    return f"Host must be {' or '.join(LOOPBACK_NAMES)}, not {host[:200]!r}"


def foreign_origin(request: Request) -> str | None:
    """Say what is wrong with a request that another site's page makes; None for all others.

    Programs send neither header; browsers send at least one of them with every POST (Fetch
    standard, section 3.2; Fetch Metadata, section 2.4).
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin":
        return f"Sec-Fetch-Site must be same-origin, not {site[:200]!r}"
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return f"Origin must be this page's own, not {origin[:200]!r}"
    return None
