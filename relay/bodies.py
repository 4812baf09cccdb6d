"""Read request bodies: bounded, and whole or not at all."""

from __future__ import annotations

from relay.messages import Readable
from relay.problems import InvalidRequest, TooLarge

_PIECE_BYTES = 64 * 1024
# Many clients look for the answer only once they have sent all of the body, so what is too large is
# still read and dropped, up to this many times the limit.
_DROPPED = 8


def read_body(stream: Readable, content_length: int | None, limit_bytes: int) -> bytes:
    """Read a whole body.

    Args:
        stream: the body; it ends where the body ends.
        content_length: what the request declared; None for a chunked body or none.
        limit_bytes: the largest body that is taken.

    Raises:
        TooLarge: the body is larger.
        InvalidRequest: the client died before the body was complete. Frameworks hand on what had
            come until then as if it were all.
    """
    if content_length is not None and content_length > limit_bytes:
        raise _too_large(stream, limit_bytes)
    body = bytearray()
    while piece := _next_piece(stream, min(_PIECE_BYTES, limit_bytes + 1 - len(body))):
        body += piece
        if len(body) > limit_bytes:
            raise _too_large(stream, limit_bytes)
    if content_length is not None and len(body) < content_length:
        raise InvalidRequest("body", f"has {len(body)} bytes; Content-Length says {content_length}")
    return bytes(body)


def _next_piece(stream: Readable, size_bytes: int) -> bytes:
    try:
        return stream.read(size_bytes)
    except Exception as exc:  # each server has its own errors for a broken chunk or a dead client
        raise InvalidRequest("body", "broke off before its end") from exc


def _too_large(stream: Readable, limit_bytes: int) -> TooLarge:
    left_bytes = _DROPPED * limit_bytes
    while left_bytes > 0 and (piece := _next_piece(stream, min(_PIECE_BYTES, left_bytes))):
        left_bytes -= len(piece)
    return TooLarge(f"the body is larger than {limit_bytes} bytes (MAX_BODY_BYTES)")
