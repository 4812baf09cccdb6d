"""Read an answer as its bytes arrive: llhttp parses it, this module bounds what it may cost."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httptools
import requests

# All heads of one answer together, and what may pass without bringing any of its body.
MAX_HEAD_BYTES = 64 * 1024

_EMPTY_LINE = re.compile(rb"^\r?\n", re.MULTILINE)
_FRAMING = re.compile(
    rb"^(?:content-length|(transfer-encoding)):([^\r]*)", re.IGNORECASE | re.MULTILINE
)
_LENGTH = re.compile(rb"^content-length:.*\n", re.IGNORECASE | re.MULTILINE)
_HTTP = b"HTTP/1."
_NOT_HTTP = "sent what is not HTTP/1.1"


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
        self._llhttp = httptools.HttpResponseParser(self)
        self._in_fields = self._in_last_chunk = self._ends_at_close = False
        self._fields = b""
        self._body: list[bytes] = []
        self._unread = b""
        self._bytes_left = MAX_HEAD_BYTES

    def on_message_begin(self) -> None:
        if self.has_head:
            raise BrokenAnswer  # it is another answer, which is not read

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
        for line in self._fields.decode("latin-1").split("\r\n")[:-2]:
            name, _, value = line.partition(":")
            yield name, value.strip(" \t")

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
            found = _EMPTY_LINE.search(data) if self._in_fields else None
            end = found.end() if found else 0 if self._in_fields else data.find(b"\n") + 1
            if (end or len(data)) > self._bytes_left:
                raise BrokenAnswer(f"sent a head of more than {MAX_HEAD_BYTES} bytes")
            if not end:
                break
            self._bytes_left -= end
            # A lone LF ends a line as well (RFC 9112 section 2.2).
            lines = data[:end].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            if self._in_fields:
                self._read_fields(lines)
            elif lines != b"\r\n":  # an empty line may stand in front (RFC 9112 section 2.2)
                self._read_status(lines)
            data = data[end:]
        self._unread = b"" if self.has_head else data
        return data if self.has_head else b""

    def _read_status(self, line: bytes) -> None:
        if not line.startswith(_HTTP):  # llhttp takes RTSP as well
            raise BrokenAnswer(_NOT_HTTP)
        self._parse(line)
        status = self._llhttp.get_status_code()
        if status < 100:
            raise BrokenAnswer(f"{_NOT_HTTP}: Invalid status code")
        if status == 101:
            raise BrokenAnswer("switched to a protocol that was not asked for")
        self.status = status if status >= 200 else 0
        self._in_fields = True

    def _read_fields(self, lines: bytes) -> None:
        """Parse the fields, and find where the body ends (RFC 9112 section 6.3)."""
        lengths: list[bytes] = []
        codings: list[bytes] = []
        for is_coding, value in _FRAMING.findall(lines):
            items = (each.strip(b" \t").lower() for each in value.split(b","))
            (codings if is_coding else lengths).extend(items)
        if len(lengths) > 1 and len({*lengths}) == 1:
            # RFC 9110 section 8.6 forgives a length that is repeated; llhttp does not.
            lines = b"Content-Length: %b\r\n" % lengths[0] + _LENGTH.sub(b"", lines)
        if codings:  # which count, if there is a length as well
            self._llhttp.set_dangerous_leniencies(lenient_chunked_length=True)
        self._parse(lines)
        self._in_fields = False
        if not self.status:  # an interim answer
            self._llhttp = httptools.HttpResponseParser(self)  # the old one may wait for a body
            self.is_complete = False
            return
        if {*codings} - {b"", b"chunked"}:
            raise BrokenAnswer("sent a transfer coding other than chunked")
        if codings and (lengths or self._llhttp.get_http_version() == "1.0"):
            # Others may see another end (section 6.1).
            lines, self.is_last = _LENGTH.sub(b"", lines), True
        self._fields, self.has_head = lines, True
        self.is_complete |= self._method == "HEAD"
        self._ends_at_close = not (self.is_complete or codings or lengths)

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
