"""Tell when a request has arrived, and bound what it may cost until then.

llhttp only finds where it ends. gunicorn then reads the same bytes, and alone says what they mean.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import httptools

# All of a head; a single header has a limit of its own (MAX_HEADER_BYTES).
MAX_HEAD_BYTES: Final = 64 * 1024
# The size of a chunk with its extensions, and the trailers after the last chunk.
_MAX_CHUNK_LINE_BYTES: Final = 1024
_MAX_TRAILERS_BYTES: Final = 4096
# Limits are checked after each step, so a request may exceed one by less than this.
_STEP_BYTES: Final = 512
# Many clients read the answer only once they have sent all of the body, so a body that is too large
# is still taken and dropped, up to this many times the limit.
_DROPPED: Final = 8


class Arrival:
    """A request of which bytes arrive; llhttp calls what begins with `on_`.

    In `raw` is what has come; `is_cut` says that some of it was dropped, because the body is too
    large. `refused_as` is the status of a request that goes no further, and `reason` says why.

    Args:
        max_body_bytes: the largest body that is kept.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.raw = bytearray()
        self.size_bytes = 0
        self.is_complete = self.is_cut = self.is_probe = False
        self.wants_go_ahead = False  # `Expect: 100-continue`
        self.refused_as: HTTPStatus | None = None
        self.reason = ""
        self._max_body_bytes = max_body_bytes
        self._framing: list[tuple[bytes, bytes]] = []  # the headers that decide how it arrives
        self._left = MAX_HEAD_BYTES  # what may still come without any of the body
        self._length = self._body_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        # They may precede an extension (RFC 9112 section 7.1.1).
        self._llhttp.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)

    def close(self) -> None:
        """Break the cycle with llhttp, so that memory is given back at once."""
        self.__dict__.pop("_llhttp", None)

    def feed(self, data: bytes) -> None:
        """Take what has come, until the request is complete or refused."""
        self.size_bytes += len(data)
        if self.is_cut:
            self.is_complete = self.size_bytes > _DROPPED * self._max_body_bytes
        else:
            self.raw += data
        rest = memoryview(data)
        while rest and not self.is_complete and self.refused_as is None:
            step = max(_STEP_BYTES, self._length - self._body_bytes)
            self._left -= len(rest[:step])
            self._parse(rest[:step])
            rest = rest[step:]

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # gunicorn ignores Upgrade and CONNECT, and reads a body. llhttp does not, so it gets
            # the same framing in a head that asks for neither.
            self._begin()
            head = b"".join(b"%b:%b\r\n" % field for field in self._framing)
            self._parse(b"POST / HTTP/1.1\r\n%b\r\n%b" % (head, bytes(data[exc.args[0] :])))
        except httptools.HttpParserError as exc:
            if not self.is_complete:  # else it is about what comes behind the request
                self.refused_as = HTTPStatus.BAD_REQUEST
                self.reason = f"the request is malformed: {exc}"  # in no words of the peer's
        if self._left <= 0 and not self.is_complete:
            has_line = b"\r\n" in self.raw[:MAX_HEAD_BYTES].lstrip(b"\r\n")
            self.refused_as = HTTPStatus(431 if has_line else 414)
            self.reason = f"a head may have {MAX_HEAD_BYTES} bytes, trailers {_MAX_TRAILERS_BYTES}"

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError  # it is the next request, which is not read

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding", b"expect"):
            self._framing.append((name, value.strip(b" \t").lower()))

    def on_headers_complete(self) -> None:
        framing = dict(self._framing)
        self._left = _MAX_CHUNK_LINE_BYTES
        self._length = int(framing.get(b"content-length", 0))
        self.is_probe = self.raw.startswith(b"GET /health/")
        self.wants_go_ahead = framing.get(b"expect") == b"100-continue"
        self.is_cut = self._length > self._max_body_bytes
        # A client that asks first is answered before it sends the body.
        self.is_complete = self.is_cut and self.wants_go_ahead

    def on_chunk_header(self) -> None:
        self._left = _MAX_TRAILERS_BYTES  # it may be the last chunk

    def on_body(self, piece: bytes) -> None:
        self._left = _MAX_CHUNK_LINE_BYTES
        self._body_bytes += len(piece)
        self.is_cut |= self._body_bytes > self._max_body_bytes

    def on_message_complete(self) -> None:
        self.is_complete |= not self._llhttp.should_upgrade()
