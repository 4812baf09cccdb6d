"""HTTP messages as the relay sees them, whatever framework brought them in.

`relay.web` turns the framework's request into a `Request` and a `Response` into the framework's;
nothing else knows which framework that is. Request bodies are read here, bounded and whole or not
at all, and errors become problem documents.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

from relay.leaving import Caller
from relay.problems import (
    InvalidRequest,
    RelayError,
    TooLarge,
    UnsupportedMediaType,
)

PROBLEM_JSON: Final = "application/problem+json"
# Those that an RFC has; a target may answer any.
STATUSES: Final = frozenset(map(int, HTTPStatus))
# What a caller is told of an error that nobody has foreseen.
DEFECT: Final = (HTTPStatus.INTERNAL_SERVER_ERROR, "the relay failed; its log says why")

# Before 3.13 Python has the phrases of the RFC that 9110 replaced.
_RENAMED: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Content",
    499: "Client Closed Request",
}

# The codings that are decoded, and zlib's names for them. An x-gzip is a gzip (RFC 9110 section
# 8.4.1.3).
_CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE: Final = -15
_CODED_BYTES = 4096

# A longer error body crashes Knative's in-memory dispatcher; a dead letter keeps up to 1,024.
_ERROR_BYTES: Final = 768
_MEMBER_BYTES: Final = 160


class Readable(Protocol):
    """The part of a binary stream that reading a request body needs."""

    def read(self, size: int, /) -> bytes: ...


class Body(Protocol):
    """The body of an answer that is closed when the answer is done with."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request.

    Args:
        method: as sent, in upper case.
        path: percent-decoded, beginning with a slash.
        query: the query string as sent, without the question mark.
        headers: by lower-case name.
        stream: the body, which has arrived; of one that is too large perhaps a part.
        content_length: in bytes; None when the request did not say.
        caller: the one that waits for the answer.
        trace: headers of the trace that the request is part of, which go along with what it causes.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    stream: Readable
    content_length: int | None
    caller: Caller = field(default_factory=Caller)
    trace: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One HTTP answer; a body that has a `close` method is closed when the answer is done with.

    Args:
        status: the HTTP status.
        headers: with the framing, where the length is known.
        body: in pieces.
        until: when all of it must have been sent, by the monotonic clock; None for the server's
            own limit.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Iterable[bytes] = ()
    until: float | None = None

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


def read_body(request: Request, limit_bytes: int, *, setting: str = "MAX_BODY_BYTES") -> bytes:
    """Read a whole body, and decode it.

    Args:
        limit_bytes: the largest body that is taken, encoded or decoded.
        setting: what the limit comes from, for the error.

    Raises:
        TooLarge: the body is larger.
        UnsupportedMediaType: it is in another coding than gzip or deflate.
        InvalidRequest: it is not in the coding that it says, or is not whole. The server hands on
            whole ones, but other frameworks what had come when a client died.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *_CODINGS):
        raise UnsupportedMediaType(
            "the body's Content-Encoding must be gzip or deflate, once, or none",
            codings=("gzip", "deflate"),
        )
    too_large = f"the body is larger than {limit_bytes} bytes ({setting})"
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise TooLarge(too_large)
    body = request.stream.read(limit_bytes + 1)
    if len(body) > limit_bytes:
        raise TooLarge(too_large)
    if length is not None and len(body) < length:
        raise InvalidRequest("body", f"has {len(body)} bytes; Content-Length says {length}")
    if coding not in _CODINGS or not body:
        return body
    decoded = _decoded(body, coding, limit_bytes)
    if len(decoded) > limit_bytes:
        raise TooLarge(too_large)
    return decoded


def _decoded(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """Decode a body; of one that is too large return only so much that this can be seen."""
    window = _CODINGS[coding]
    if coding == "deflate" and (body[0] & 15 != 8 or int.from_bytes(body[:2], "big") % 31):
        window = _RAW_DEFLATE  # without the zlib format around it, as some send it
    decoded = bytearray()
    decoder = zlib.decompressobj(window)
    # In small pieces, since the bytes behind the end of a member are copied.
    for start in range(0, len(body), _CODED_BYTES):
        piece = body[start : start + _CODED_BYTES]
        while piece:
            if decoder.eof:  # a gzip file may have several members
                decoder = zlib.decompressobj(window)
            try:
                decoded += decoder.decompress(piece, limit_bytes + 1 - len(decoded))
            except zlib.error as exc:
                raise InvalidRequest("body", f"is not {coding}, as Content-Encoding says") from exc
            if len(decoded) > limit_bytes:
                return bytes(decoded)
            piece = decoder.unused_data
    if not decoder.eof:
        raise InvalidRequest("body", f"ends before its {coding} does")
    return bytes(decoded)


def phrase(status: int) -> str:
    """Return the reason phrase of RFC 9110; "" for a status that no RFC has."""
    return _RENAMED.get(status) or (HTTPStatus(status).phrase if status in STATUSES else "")


def problem(
    status: int,
    detail: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    members: dict[str, str | int | float] | None = None,
) -> Response:
    """Render a problem document (RFC 9457 section 3.1; its type is `about:blank`).

    Args:
        status: the HTTP status, whose phrase in RFC 9110 becomes the title.
        detail: what is wrong with this one request.
        headers: extra headers of the answer.
        members: extension members.
    """
    document = {
        "type": "about:blank",
        "title": phrase(status),
        "status": int(status),
        "detail": detail,
        **(members or {}),
    }
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response.whole(status, body, content_type=PROBLEM_JSON, headers=headers)


def problem_of(error: RelayError) -> Response:
    """Render the answer that belongs to an error."""
    return problem(error.status, error.detail, headers=error.headers, members=error.members)


def brokers_problem(
    status: int,
    detail: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    members: dict[str, str | int | float] | None = None,
) -> Response:
    """Render a problem document that is short enough for any Broker; a dead letter keeps it."""
    short = {
        name: value
        for name, value in (members or {}).items()
        if len(str(value).encode("utf-8", "replace")) <= _MEMBER_BYTES
    }
    response = problem(status, detail, headers=headers, members=short)
    while sum(map(len, response.body)) > _ERROR_BYTES:
        detail = detail[: len(detail) * 3 // 4]
        response = problem(status, detail + "…", headers=headers, members=short)
    return response
