"""Hand out the files that describe the relay: its routes, and the envelope."""

from __future__ import annotations

from pathlib import Path

from relay.messages import Request, Response

# How long a client may go without asking again: the files change only with the function.
_CACHED = (("Cache-Control", "max-age=300"),)


class Schemas:
    """Read the files when they are asked for, which is seldom; nothing is kept in memory.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def openapi(self, request: Request) -> Response:
        """Answer `GET /openapi.yaml` (the media type is RFC 9512's)."""
        return self._file("openapi.yaml", "application/yaml")

    def envelope(self, request: Request) -> Response:
        """Answer `GET /envelope.schema.json`, which openapi.yaml refers to as its neighbour."""
        return self._file("envelope.schema.json", "application/schema+json")

    def _file(self, name: str, content_type: str) -> Response:
        body = (self._folder / name).read_bytes()
        return Response.whole(200, body, content_type=content_type, headers=_CACHED)
