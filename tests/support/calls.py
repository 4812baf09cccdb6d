"""HTTP calls as a test makes them: nothing added, nothing decoded, every header kept."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back, as it came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """List the values of a header, in order."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def json(self) -> dict[str, object]:
        """Read the body as a JSON object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def call(
    method: str,
    url: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Make one call on a connection of its own.

    Args:
        method: The method.
        url: An http URL; what follows its authority is sent as it is.
        body: The body, with a Content-Length.
        headers: All headers but Host, which the URL gives unless it is here, and Content-Length.
        timeout_s: For the connection and for each read.
    """
    authority = urlsplit(url).netloc
    target = url.split(authority, 1)[1] or "/"
    connection = http.client.HTTPConnection(authority, timeout=timeout_s)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": authority, **(headers or {})}
        payload = body.encode() if isinstance(body, str) else body
        if payload is not None:
            sent["Content-Length"] = str(len(payload))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(payload)
        response = connection.getresponse()
        return Answer(
            status=response.status, headers=tuple(response.getheaders()), body=response.read()
        )
    finally:
        connection.close()
