"""Keep other sites' web pages from using what listens on this machine.

A page may send requests to any address, and DNS rebinding can even make its own name lead here. The
Host of such requests gives them away, and so does what browsers say about their origin.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1")


def foreign_host(request: Request) -> str | None:
    """Return what is wrong with the Host; None when it names this machine."""
    host = request.headers.get("host", "")
    if host.rpartition(":")[0] in LOOPBACK_NAMES or host in LOOPBACK_NAMES:
        return None
    return f"Host must be {' or '.join(LOOPBACK_NAMES)}, not {host[:200]!r}"


def foreign_origin(request: Request) -> str | None:
    """Return what is wrong with a request of another site's page; None for any other request.

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


class ProgramsOnly:
    """Refuses what browsers send for any page but the server's own, of which there is none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            request = Request(scope)
            refused = foreign_host(request) or foreign_origin(request)
            if refused is not None:
                app = PlainTextResponse(f"{refused}\n", 403)
        await app(scope, receive, send)
