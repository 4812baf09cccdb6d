"""Tell when a request has arrived, and bound what it may cost until then.

llhttp finds where it ends. What it took in is not used: gunicorn reads the same bytes, and alone
says what they mean.
"""

from __future__ import annotations

from collections import deque
from http import HTTPStatus
from typing import Final

import httptools

# All of a head; a single header has a limit of its own (MAX_HEADER_BYTES).
MAX_HEAD_BYTES: Final = 64 * 1024
# Limits are looked at after so many bytes, so that much more than a limit may pass.
_STEP_BYTES: Final = 1024
# The size of a chunk with its extensions, and the trailers after the last chunk.
_MAX_CHUNK_LINE_BYTES: Final = 1024
_MAX_TRAILERS_BYTES: Final = 3 * 1024
# Many small pieces would cost many times what is in them.
_PIECE_BYTES: Final = 8 * 1024
# Many clients look for the answer only once they have sent all of the body, so what is too large is
# still taken and dropped, up to this many times the limit.
_DROPPED: Final = 8


class Arrival:
    """A request of which bytes arrive; llhttp calls what begins with `on_`.

    In `pieces` is what has come; `is_cut` says that some of it was dropped, because the body is too
    large. `refused_as` is the status of a request that goes no further, and `reason` says why.

    Args:
        max_body_bytes: the largest body that is kept.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.pieces: deque[bytearray] = deque()
        self.size_bytes = self.held_bytes = 0
        self.is_complete = self.is_cut = self.is_probe = False
        self.wants_go_ahead = False  # `Expect: 100-continue`
        self.refused_as: HTTPStatus | None = None
        self.reason = ""
        self._max_body_bytes = max_body_bytes
        self._llhttp = self._next_llhttp()
        self._fields: list[tuple[bytes, bytes]] = []  # those that say how the body arrives
        self._has_head = False
        self._left = MAX_HEAD_BYTES  # what may still come without any of the body
        self._length = self._body_bytes = 0

    def _next_llhttp(self) -> httptools.HttpRequestParser:
        llhttp = httptools.HttpRequestParser(self)
        # RFC 9112 section 7.1.1 allows them in front of an extension, and gunicorn only there.
        llhttp.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return llhttp

    def close(self) -> None:
        """Break the cycle with llhttp, so that memory is given back at once."""
        self.__dict__.pop("_llhttp", None)

    def feed(self, data: bytes) -> None:
        """Take what has come, until the request is complete or refused."""
        self.size_bytes += len(data)
        if self.is_cut:
            self.is_complete = self.size_bytes > _DROPPED * self._max_body_bytes
        else:
            self._keep(data)
        rest = memoryview(data)
        while rest and not self.is_complete and self.refused_as is None:
            step = max(_STEP_BYTES, self._length - self._body_bytes)
            self._left -= len(rest[:step])
            self._parse(rest[:step])
            rest = rest[step:]
            if self._left <= 0 and not self.is_complete:
                self._refuse_length()

    def _keep(self, data: bytes) -> None:
        self.held_bytes += len(data)
        if self.pieces and len(self.pieces[-1]) + len(data) <= _PIECE_BYTES:
            self.pieces[-1] += data
        else:
            self.pieces.append(bytearray(data))

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # The protocol does not change here, so there may be a body, which llhttp has passed.
            self._llhttp = self._next_llhttp()
            fields = b"".join(b"%b: %b\r\n" % field for field in self._fields)
            self._parse(b"POST / HTTP/1.1\r\n%b\r\n%b" % (fields, bytes(data[exc.args[0] :])))
        except httptools.HttpParserError as exc:  # its words, not the peer's
            if not self.is_complete:  # else it is about what comes behind the request
                self.refused_as = HTTPStatus.BAD_REQUEST
                self.reason = f"the request is malformed: {exc}"

    def _refuse_length(self) -> None:
        self.refused_as = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if self._has_head:
            self.reason = "a chunk's extensions, or the trailers, are too long"
            return
        if b"\r\n" not in b"".join(self.pieces).lstrip(b"\r\n")[:MAX_HEAD_BYTES]:
            self.refused_as = HTTPStatus.REQUEST_URI_TOO_LONG
        self.reason = f"the head is too long; it has at most {MAX_HEAD_BYTES} bytes"

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError  # it is the next request, which is not read

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if not self._has_head and name in (b"content-length", b"transfer-encoding", b"expect"):
            self._fields.append((name, value.strip(b" \t").lower()))

    def on_headers_complete(self) -> None:
        fields = dict(self._fields)
        self._has_head = True
        self._left = _MAX_CHUNK_LINE_BYTES
        self._length = int(fields.get(b"content-length", 0))
        self.is_probe = self.pieces[0].startswith(b"GET /health/")
        self.wants_go_ahead = fields.get(b"expect") == b"100-continue"
        self.is_cut = self._length > self._max_body_bytes
        # Who asks first need not send what is too large.
        self.is_complete = self.is_cut and self.wants_go_ahead

    def on_chunk_header(self) -> None:
        self._left = _MAX_TRAILERS_BYTES  # it may be the last chunk

    def on_body(self, piece: bytes) -> None:
        self._left = _MAX_CHUNK_LINE_BYTES
        self._body_bytes += len(piece)
        self.is_cut = self.is_cut or self._body_bytes > self._max_body_bytes

    def on_message_complete(self) -> None:
        self.is_complete = self.is_complete or not self._llhttp.should_upgrade()
