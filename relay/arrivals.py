"""Count the bytes of a request as they arrive: is all of it there, and how much of it is kept.

What is counted here is handed on, never interpreted: gunicorn reads the same bytes and alone says
what they mean. Everything that it would wait for is waited for here, and what it would refuse at
sight counts as complete (RFC 9112, sections 6 and 7).
"""

from __future__ import annotations

import re
from collections import deque
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

# All of a head; a single header has a limit of its own (MAX_HEADER_BYTES).
MAX_HEAD_BYTES: Final = 64 * 1024
# The size of a chunk with its extensions, and the trailers after the last chunk.
_MAX_CHUNK_LINE_BYTES: Final = 1024
_MAX_TRAILERS_BYTES: Final = 4096
# Many small pieces would cost many times what is in them.
_PIECE_BYTES: Final = 8 * 1024
# Many clients look for the answer only once they have sent all of the body, so what is too large is
# still taken and dropped, up to this many times the limit.
_DROPPED: Final = 8

_NAMED = re.compile(rb"\r\n(content-length|transfer-encoding|expect):([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,4300}")  # Python reads no longer number, nor does gunicorn
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?", re.DOTALL)


class _Part(Enum):
    HEAD = auto()
    BODY = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILERS = auto()


class Arrival:
    """A request of which bytes arrive.

    In `pieces` is what has come; `is_cut` says that some of it was dropped, because the body is too
    large. `refused_as` is the status of a request that is too long in another way.

    Args:
        max_body_bytes: the largest body that is kept.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.pieces: deque[bytearray] = deque()
        self.size_bytes = self.held_bytes = 0
        self.is_complete = self.is_cut = self.is_probe = False
        self.wants_go_ahead = False  # `Expect: 100-continue`
        self.refused_as: HTTPStatus | None = None
        self._max_body_bytes = max_body_bytes
        self._part = _Part.HEAD
        self._rest = bytearray()  # the head or a line, until all of it is there
        self._searched = 0
        self._left = 0  # bytes of the body, or of the chunk with the line break after it
        self._body_bytes = 0

    def feed(self, data: bytes) -> None:
        """Count what has come, until the request is complete or refused."""
        self.size_bytes += len(data)
        if self.is_cut:
            self.is_complete = self.size_bytes > _DROPPED * self._max_body_bytes
        else:
            self._keep(data)
        if self._part is _Part.HEAD:
            data = self._head(data)
        if self._part is _Part.BODY:
            self._left -= len(data)
            self.is_complete = self.is_complete or self._left <= 0
        elif self._part is not _Part.HEAD:
            self._chunks(data)

    def _keep(self, data: bytes) -> None:
        self.held_bytes += len(data)
        if self.pieces and len(self.pieces[-1]) + len(data) <= _PIECE_BYTES:
            self.pieces[-1] += data
        else:
            self.pieces.append(bytearray(data))

    def _head(self, data: bytes) -> bytes:
        """Look for the end of the head; return what follows it."""
        searched, head = self._searched, self._rest
        head += data
        end = head.find(b"\r\n\r\n", max(0, searched - 3))
        if max(end, len(head) if end < 0 else 0) > MAX_HEAD_BYTES:
            has_line = 0 <= head.find(b"\r\n", 1) < MAX_HEAD_BYTES
            self.refused_as = (
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                if has_line
                else HTTPStatus.REQUEST_URI_TOO_LONG
            )
        elif end >= 0:
            self.is_probe = head.startswith(b"GET /health/")
            self._rest = bytearray()
            self._frame(bytes(head[:end]))
            return bytes(head[end + 4 :])
        else:
            # A line that ends with LF alone is refused at sight. The LF of a CR that came before is
            # no such line.
            bare = head.count(b"\n", searched) - head.count(b"\r\n", max(0, searched - 1))
            self.is_complete = bare > 0
            self._searched = len(head)
        return b""

    def _frame(self, head: bytes) -> None:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in _NAMED.findall(head):
            fields.setdefault(name.lower(), []).append(value.strip(b" \t").lower())
        lengths = fields.get(b"content-length", [])
        codings = b",".join(fields.get(b"transfer-encoding", []))
        self.wants_go_ahead = b"100-continue" in fields.get(b"expect", [])
        if not lengths and codings.rpartition(b",")[2].strip(b" \t") == b"chunked":
            self._part = _Part.CHUNK_SIZE
        elif len(lengths) == 1 and not codings and _LENGTH.fullmatch(lengths[0]):
            self._part = _Part.BODY
            self._left = int(lengths[0])
            self.is_cut = self._left > self._max_body_bytes
            # Who asks first need not send what is too large.
            self.is_complete = self.is_cut and self.wants_go_ahead
        else:  # there is no body, or one that is refused
            self.is_complete = True

    def _chunks(self, data: bytes) -> None:
        data = bytes(self._rest) + data
        self._rest = bytearray()
        position = 0
        while position < len(data) and not self.is_complete and self.refused_as is None:
            if self._part is _Part.CHUNK:
                step = min(self._left, len(data) - position)
                after = max(0, self._left - step - 2)
                self._body_bytes += max(0, self._left - 2) - after
                self._left -= step
                position += step
                self._part = _Part.CHUNK if self._left else _Part.CHUNK_SIZE
                self.is_cut = self._body_bytes > self._max_body_bytes
            elif self._part is _Part.CHUNK_SIZE:
                position = self._chunk_size(data, position)
            else:
                position = self._trailers(data, position)

    def _chunk_size(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position, position + _MAX_CHUNK_LINE_BYTES)
        if end < 0:
            return self._incomplete(data, position, _MAX_CHUNK_LINE_BYTES)
        size = _CHUNK_SIZE.fullmatch(data, position, end)
        if size is None:
            self.is_complete = True  # it is refused
        else:
            self._left = int(size[1], 16) + 2
            self._part = _Part.CHUNK if self._left > 2 else _Part.TRAILERS
        return end + 2

    def _trailers(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n\r\n", position, position + _MAX_TRAILERS_BYTES)
        self.is_complete = end >= 0 or data.startswith(b"\r\n", position)
        if self.is_complete:
            return len(data)
        return self._incomplete(data, position, _MAX_TRAILERS_BYTES)

    def _incomplete(self, data: bytes, position: int, limit: int) -> int:
        self._rest = bytearray(data[position:])
        if len(self._rest) >= limit:
            self.refused_as = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return len(data)
