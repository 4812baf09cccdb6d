"""HTTP messages as the relay sees them, whatever framework brought them in.

`main.py` turns the framework's request into a `Request` and a `Response` into the framework's, so
nothing else has to know which framework that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Readable(Protocol):
    """The part of a binary stream that reading a request body needs."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request.

    Args:
        method: as sent, in upper case.
        path: percent-decoded, beginning with a slash.
        query: the query string as sent, without the question mark.
        headers: by lower-case name.
        stream: the body, not yet read.
        content_length: in bytes; None when the request did not say.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    stream: Readable
    content_length: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One HTTP answer; a body that has a `close` method is closed when the answer is done with."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Iterable[bytes] = ()

    @classmethod
    def whole(
        cls,
        status: int,
        body: bytes,
        *,
        content_type: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Response:
        """Make an answer whose body is known; it gets a `Content-Length`."""
        framing = (("Content-Type", content_type), ("Content-Length", str(len(body))))
        return cls(status=status, headers=framing + headers, body=(body,))

    @classmethod
    def empty(cls, status: int, headers: tuple[tuple[str, str], ...] = ()) -> Response:
        """Make an answer without a body, which to a Broker is a success; most bodies are not."""
        return cls(status=status, headers=(("Content-Length", "0"), *headers))
