"""Keep out other sites' pages: browsers let any page send requests; by DNS rebinding it reads too.

Browsers say where a request comes from, in `Origin` and `Sec-Fetch-Site`, which no page can change;
programs send neither. Pages of `CORS_ORIGINS` are let in (Fetch standard, section 3.2,
"CORS protocol").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.headers import Headers, is_token
from relay.http import Response
from relay.problems import Forbidden
from relay.settings import Settings

# Returns the value of a header, whatever the case of its name.
Get = Callable[[str], "str | None"]

# These only describe the relay, and may be linked to from anywhere.
_DESCRIPTIONS: Final = frozenset({"/", "/openapi.yaml", "/envelope.schema.json"})
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
_MAX_AGE_S: Final = "600"


class Sites:
    """Judge where requests come from.

    Args:
        settings: `allowed_hosts` and `cors_origins` count.
    """

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.allowed_hosts
        self._origins = settings.cors_origins

    def check(self, method: str, path: str, get: Get) -> None:
        """Refuse requests of other sites' pages.

        Raises:
            Forbidden: it is such a request, or its Host is not one that this server has.
        """
        host = (get("host") or "").lower()
        if self._hosts and _without_port(host) not in self._hosts:
            raise Forbidden(f"Host must be one of ALLOWED_HOSTS, not {host[:200]!a}")
        origin = get("origin")
        if origin in self._origins or (method == "GET" and path in _DESCRIPTIONS):
            return
        if get("sec-fetch-site") not in (None, "same-origin", "none"):
            raise Forbidden("Sec-Fetch-Site must be same-origin, or Origin one of CORS_ORIGINS")
        if origin is not None and origin.partition("://")[2].lower() != host:
            raise Forbidden("Origin must be this server's own, or one of CORS_ORIGINS")

    def preflight(self, method: str, get: Get) -> Response | None:
        """Answer a browser that asks what a page may send; None for any other request."""
        is_asked = method == "OPTIONS" and get("access-control-request-method") is not None
        if not is_asked or get("origin") not in self._origins:
            return None
        names = (get("access-control-request-headers") or "").split(",")
        allowed = ", ".join(name for name in map(str.strip, names) if is_token(name))
        return Response.empty(
            204,
            (
                ("Access-Control-Allow-Methods", _METHODS),
                ("Access-Control-Allow-Headers", allowed),
                ("Access-Control-Max-Age", _MAX_AGE_S),
            ),
        )

    def allowance(self, get: Get) -> Headers:
        """Return the headers that let a page read an answer; none for a page that may not."""
        if not self._origins:
            return ()
        vary = ("Vary", "Origin")  # a cache must not give one page's answer to another
        origin = get("origin")
        if origin is None or origin not in self._origins:
            return (vary,)
        exposed = ("Access-Control-Expose-Headers", "*")
        return (vary, ("Access-Control-Allow-Origin", origin), exposed)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and "]" not in port else host
