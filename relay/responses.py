"""Read an answer as its bytes arrive: llhttp parses it, this module bounds what it may cost."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httptools
import requests

# All heads of one answer together, and what may pass without bringing any of its body.
MAX_HEAD_BYTES = 64 * 1024

_END_OF_FIELDS = re.compile(rb"(?:\A|\n)\r?\n")
_LENGTHS = re.compile(
    rb"^content-length:[ \t]*([0-9]+)((?:[ \t]*,[ \t]*\1)*)[ \t]*\r\n", re.IGNORECASE | re.MULTILINE
)
_HTTP = b"HTTP/1."
_NOT_HTTP = "sent what is not HTTP/1.1"
_LONE_LF = re.compile(rb"(?<!\r)\n")


class BrokenAnswer(requests.RequestException):
    """Say what is wrong with an answer, without repeating the peer's words."""


class ResponseParser:
    """The answer to one request; llhttp calls what begins with `on_`.

    `status` is the final status once its line has been read, 0 before. Unless `is_last`, the
    connection can serve another request.
    """

    def __init__(self, method: str) -> None:
        self.status = 0
        self.has_head = self.is_complete = self.is_last = False
        self._method = method
        self._llhttp = self._next_llhttp()
        self._in_fields = self._in_last_chunk = self._ends_at_close = False
        # In short headers, 64 KiB of names and values are several MB of tuples.
        self._fields = bytearray()
        self._body: list[bytes] = []
        self._unread = b""
        self._bytes_left = MAX_HEAD_BYTES

    def _next_llhttp(self) -> httptools.HttpResponseParser:
        llhttp = httptools.HttpResponseParser(self)
        llhttp.set_dangerous_leniencies(lenient_chunked_length=True)  # see _frame
        return llhttp

    def on_message_begin(self) -> None:
        if self.has_head:
            raise BrokenAnswer  # it is another answer, which is not read

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer, which is dropped
            self._fields += b"%b:%b\n" % (name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self.is_last = not self._llhttp.should_keep_alive()

    def on_chunk_header(self) -> None:
        self._in_last_chunk = True  # until it has data

    def on_body(self, piece: bytes) -> None:
        self._in_last_chunk = False
        self._body.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True

    @property
    def fields(self) -> Iterator[tuple[str, str]]:
        """The headers as they came, each byte a character."""
        for line in self._fields.decode("latin-1").split("\n")[:-1]:
            name, _, value = line.partition(":")
            yield name, value

    def close(self) -> None:
        """Break the cycle with llhttp, so that memory is given back at once."""
        self.__dict__.pop("_llhttp", None)

    def feed(self, data: bytes) -> bytes:
        """Take what has arrived, nothing for the end; return what of it is body.

        Raises:
            BrokenAnswer: it is not HTTP/1.1, is too large or ends too early.
        """
        if not data:
            self._end()
        elif not self.has_head:
            data = self._feed_head(self._unread + data)
        if self.is_complete:
            self.is_last |= bool(data)
            return b""
        return self._feed_body(data) if data else b""

    def _end(self) -> None:
        if not self._ends_at_close:
            if not self.status and not self._unread:
                raise BrokenAnswer("closed the connection unanswered")
            is_http = self._in_fields or self.has_head or _HTTP.startswith(self._unread[:7])
            raise BrokenAnswer("broke off its answer" if is_http else _NOT_HTTP)
        self.is_complete = True

    def _feed_head(self, data: bytes) -> bytes:
        """Parse a status line once it is there, since it decides, and then all fields at once."""
        while data and not self.has_head:
            found = _END_OF_FIELDS.search(data) if self._in_fields else None
            end = found.end() if found else 0 if self._in_fields else data.find(b"\n") + 1
            if (end or len(data)) > self._bytes_left:
                raise BrokenAnswer(f"sent a head of more than {MAX_HEAD_BYTES} bytes")
            if not end:
                break
            self._bytes_left -= end
            # A lone LF ends a line as well (RFC 9112 section 2.2).
            self._read_lines(_LONE_LF.sub(b"\r\n", data[:end]))
            data = data[end:]
        self._unread = b"" if self.has_head else data
        return data if self.has_head else b""

    def _read_lines(self, lines: bytes) -> None:
        if self._in_fields:
            lengths = _LENGTHS.findall(lines)
            if len(lengths) > 1 or any(repeated for _, repeated in lengths):
                # RFC 9110 section 8.6 forgives a length that is repeated; llhttp does not.
                given = b"".join(b"Content-Length: %b\r\n" % each for each in dict(lengths))
                lines = given + _LENGTHS.sub(b"", lines)
            self._parse(lines)
            self._in_fields = False
            if self.status:
                self._frame()
            else:  # an interim answer
                self._llhttp = self._next_llhttp()  # the old one may wait for a body
                self._fields.clear()
                self.is_complete = False
        elif lines != b"\r\n":  # an empty line may stand in front (RFC 9112 section 2.2)
            if not lines.startswith(_HTTP):  # llhttp takes RTSP as well
                raise BrokenAnswer(_NOT_HTTP)
            self._parse(lines)
            status = self._llhttp.get_status_code()
            if status < 100:
                raise BrokenAnswer(f"{_NOT_HTTP}: Invalid status code")
            if status == 101:
                raise BrokenAnswer("switched to a protocol that was not asked for")
            self.status = status if status >= 200 else 0
            self._in_fields = True

    def _frame(self) -> None:
        """Find where the body ends (RFC 9112 section 6.3)."""
        named = [(name.lower(), value) for name, value in self.fields]
        codings = ",".join(value.lower() for name, value in named if name == "transfer-encoding")
        if set(re.split(r"[ \t,]+", codings)) - {"", "chunked"}:
            raise BrokenAnswer("sent a transfer coding other than chunked")
        has_length = "content-length" in dict(named)
        if codings and (has_length or self._llhttp.get_http_version() == "1.0"):
            # The chunks count, but others may see another end (section 6.1).
            self._fields = bytearray(re.sub(rb"(?im)^content-length:.*\n", b"", self._fields))
            self.is_last = True
        self.has_head = True
        self.is_complete |= self._method == "HEAD"
        self._ends_at_close = not (self.is_complete or codings or has_length)

    def _feed_body(self, data: bytes) -> bytes:
        self._body.clear()
        try:
            self._parse(data)
        except BrokenAnswer:
            # Broken trailers, or more than the answer, cost the connection and nothing else.
            if not (self.is_complete or self._in_last_chunk):
                raise
            self.is_complete = self.is_last = True
        self._bytes_left = MAX_HEAD_BYTES if self._body else self._bytes_left - len(data)
        if self._bytes_left < 0:
            raise BrokenAnswer(f"sent more than {MAX_HEAD_BYTES} bytes of trailers or extensions")
        return b"".join(self._body)

    def _parse(self, data: bytes) -> None:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserError as exc:  # its words, not the peer's
            raise BrokenAnswer(f"{_NOT_HTTP}: {exc}") from exc
