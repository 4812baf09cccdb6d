"""Read the head of an answer: its status line and headers, and from these how its body ends.

http.client takes headers that the end of the connection has cut short for all of them, passes over
lines that are none, and has no length where it cannot read one. It also reads headers with the
parser for e-mail, which took a tenth of what a whole call costs.
"""

from __future__ import annotations

import http.client
import re
from http import HTTPStatus
from typing import Protocol

# What http.client allows.
_MAX_LINE_BYTES = 65536
_MAX_FIELDS = 100

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\n]*)?\r?\n")
# 101 is an answer too: to an upgrade, which nobody has asked for.
_PASSED_OVER = (HTTPStatus.CONTINUE, HTTPStatus.PROCESSING, HTTPStatus.EARLY_HINTS)

Fields = list[tuple[str, str]]


class _Lines(Protocol):
    def readline(self, limit: int, /) -> bytes: ...


class StrictResponse(http.client.HTTPResponse):
    """An answer whose head is what RFC 9112 calls one; `fields` has its headers as they came."""

    fields: Fields

    def begin(self) -> None:
        """Read the head of the final answer.

        Raises:
            http.client.HTTPException: it is broken, or leaves open where the body ends.
        """
        while True:
            self.version, self.status = _read_status_line(self.fp)
            self.fields = _read_fields(self.fp)
            if self.status not in _PASSED_OVER:
                break
        self._frame(self.fields)

    def _frame(self, fields: Fields) -> None:
        """Find where the body ends, and whether the connection ends with it.

        RFC 9112, sections 6.3 and 9.3.
        """
        codings = _listed(fields, "transfer-encoding")
        if codings not in ([], ["chunked"]):
            raise http.client.HTTPException("the only transfer coding there is, is chunked")
        self.chunked = bool(codings)
        self.chunk_left = None
        if self.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) or self.status < 200:
            self.length = 0
        else:
            self.length = None if self.chunked else _length(_listed(fields, "content-length"))
        options = _listed(fields, "connection")
        persistent = "close" not in options if self.version == 11 else "keep-alive" in options
        self.will_close = not persistent or (self.length is None and not self.chunked)


def _read_status_line(lines: _Lines) -> tuple[int, int]:
    line = lines.readline(_MAX_LINE_BYTES)
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise http.client.BadStatusLine("not an HTTP/1 status line" if line else "nothing")
    return (10 if found[1] == b"0" else 11), int(found[2])


def _read_fields(lines: _Lines) -> Fields:
    fields: Fields = []
    while True:
        line = lines.readline(_MAX_LINE_BYTES)
        if line in (b"\r\n", b"\n"):
            return fields
        if not line.endswith(b"\n"):
            raise http.client.HTTPException("the headers broke off, or one is too long")
        text = line.decode("latin-1").rstrip("\r\n")
        name, colon, value = text.partition(":")
        folded = text[:1] in (" ", "\t")
        if folded and fields:  # it goes on with the one before (section 5.2)
            name, value = fields.pop()
            fields.append((name, " ".join((value, text.strip(" \t")))))
        elif colon and not folded and len(fields) < _MAX_FIELDS:
            fields.append((name.rstrip(" \t"), value.strip(" \t")))
        else:
            raise http.client.HTTPException("a header is none, or there are too many")


def _listed(fields: Fields, wanted: str) -> list[str]:
    """Return the items of a header that is a list, in lower case; each line adds to them."""
    return [
        item.strip().lower()
        for name, value in fields
        if name.lower() == wanted
        for item in value.split(",")
    ]


def _length(given: list[str]) -> int | None:
    """Read a length; the same one twice is forgiven (RFC 9112 section 6.3, item 5)."""
    if not given:
        return None
    if len(set(given)) > 1 or not re.fullmatch(r"[0-9]{1,18}", given[0], re.ASCII):
        raise http.client.HTTPException("Content-Length is no number, or several")
    return int(given[0])
