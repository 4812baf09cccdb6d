"""Parse requests as they arrive, and bound what they may cost until they are whole.

llhttp parses: what it says ends a request and what it says that the request means cannot differ.
What it leaves open, and what WSGI cannot tell apart, is decided here.
"""

from __future__ import annotations

import functools
import io
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

import httptools

# All of a head; a single header has a limit of its own (MAX_HEADER_BYTES).
MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_HEADERS: Final = 100
# The size of a chunk with its extensions, and the trailers after the last chunk.
_MAX_CHUNK_LINE_BYTES: Final = 1024
_MAX_TRAILERS_BYTES: Final = 4096
# What comes in chunks is checked after each step, so it may exceed a limit by less than this.
_STEP_BYTES: Final = 512
# Many clients read the answer only once they have sent all of the body, so a body that is too large
# is still taken and dropped, up to this many times the limit.
_DROPPED: Final = 8
# They have one value (RFC 9110 section 5.3), and cannot come late (section 6.5.1).
_SINGLE: Final = frozenset({"HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"})
_NO_TRAILERS: Final = _SINGLE | {
    f"HTTP_{name}" for name in ("AUTHORIZATION", "TE", "TRAILER", "TRANSFER_ENCODING")
}
_FRAMING: Final = {
    "CONTENT_LENGTH": "Content-Length",
    "HTTP_TRANSFER_ENCODING": "Transfer-Encoding",
}


class Arrival:
    """A request of which bytes arrive; llhttp calls what begins with `on_`.

    `environ` is what WSGI knows of it (PEP 3333), from the end of the head on. `is_cut` says that
    some of the body was dropped, because it is too large. `refusal` is the status of a request that
    goes no further, and why.

    Args:
        max_body_bytes: the largest body that is kept.
        max_header_bytes: the longest header.
        base: what WSGI knows of the connection.
    """

    def __init__(self, max_body_bytes: int, max_header_bytes: int, base: dict[str, Any]) -> None:
        self.environ: dict[str, Any] = {}
        self.method, self.version = "-", (1, 1)
        self.size_bytes = self.held_bytes = 0
        self.is_complete = self.is_cut = self.is_probe = False
        self.keeps_alive = False
        self.wants_go_ahead = False  # `Expect: 100-continue`
        self.refusal: tuple[HTTPStatus, str] | None = None
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._base = base
        self._head = bytearray()
        self._target = b""
        self._headers: list[tuple[str, bytes]] = []
        self._body = io.BytesIO()
        self._count = 0
        self._left = MAX_HEAD_BYTES  # what may still come without any of the body
        self._length = self._body_bytes = 0
        self._is_resumed = False
        self._begin()

    def _begin(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        # They may precede an extension (RFC 9112 section 7.1.1).
        self._llhttp.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)

    def should_close(self) -> bool:
        return self.is_cut or not self.keeps_alive

    def close(self) -> None:
        """Break the cycle with llhttp, so that memory is given back at once."""
        self.__dict__.pop("_llhttp", None)

    def feed(self, data: bytes) -> bytes:
        """Take what has come, until the request is complete or refused; return what is behind it.

        Behind a body in chunks nothing is kept: the connection ends there.
        """
        self.size_bytes += len(data)
        rest = memoryview(data)
        while rest and not self.is_complete and self.refusal is None:
            step = self._step(rest)
            self._left -= len(step)
            self._parse(step)
            rest = rest[len(step) :]
        if self.is_cut and self.size_bytes > _DROPPED * self._max_body_bytes:
            self.is_complete = True
        return bytes(rest)

    def _step(self, rest: memoryview) -> memoryview:
        """Return what llhttp gets next: no more than the head, or than a body of known length."""
        if self.environ:
            return rest[: self._length - self._body_bytes if self._length else _STEP_BYTES]
        known_bytes = len(self._head)
        self._head += rest[: self._left]
        end = self._head.find(b"\r\n\r\n", max(0, known_bytes - 3))
        if end >= 0:
            del self._head[end + 4 :]
        step = rest[: len(self._head) - known_bytes]
        self.held_bytes += len(step)
        return step

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrade and CONNECT are ignored, but llhttp reads no body then. So it gets the same
            # framing in a head that asks for neither.
            self._is_resumed = True
            self._begin()
            framing = ((name, self.environ.get(name)) for name in _FRAMING)
            lines = "".join(f"{_FRAMING[name]}: {value}\r\n" for name, value in framing if value)
            self._parse(f"POST / HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
        except httptools.HttpParserError as exc:
            if self.is_complete:  # it is about what comes behind the request
                self.keeps_alive = False
            elif self.refusal is None:
                # In no words of the peer's.
                self.refusal = (HTTPStatus.BAD_REQUEST, f"the request is malformed: {exc}")
        if self._left <= 0 and not self.is_complete and self.refusal is None:
            has_line = b"\r\n" in self._head.lstrip(b"\r\n")
            reason = f"a head may have {MAX_HEAD_BYTES} bytes, trailers {_MAX_TRAILERS_BYTES}"
            self.refusal = (HTTPStatus(431 if has_line else 414), reason)

    def broken_off(self) -> tuple[HTTPStatus, str]:
        """Say why it is refused when no more will come."""
        if self._length:
            came = f"body has {self._body_bytes} bytes"
            return HTTPStatus.BAD_REQUEST, f"{came}; Content-Length says {self._length}"
        return HTTPStatus.BAD_REQUEST, "the request broke off before its end"

    def _refuse(self, status: int, reason: str) -> NoReturn:
        self.refusal = (HTTPStatus(status), reason)
        raise ValueError  # it ends llhttp's work

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError  # it is the next request, which is not read

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        if self._count > _MAX_HEADERS or len(name) + len(value) + 4 > self._max_header_bytes:
            self._refuse(431, "a header is longer than MAX_HEADER_BYTES, or there are too many")
        variable = _variable(name)
        if not self.environ:
            self._headers.append((variable, value))
        elif variable in _NO_TRAILERS and not self._is_resumed:
            self._refuse(400, "a header that comes behind the body must come before it")

    def on_headers_complete(self) -> None:
        if self._is_resumed:
            self._is_resumed = False
            return
        method, version = self._llhttp.get_method(), self._llhttp.get_http_version()
        self.method = method.decode()
        # llhttp also takes HTTP/0.9, 2.0 and RTSP, and more spaces and empty lines.
        line = b"%b %b HTTP/%b\r\n" % (method, self._target, version.encode())
        if version not in ("1.0", "1.1") or not self._head.removeprefix(b"\r\n").startswith(line):
            self._refuse(400, "the request line is malformed; the version is HTTP/1.0 or 1.1")
        environ = self._base.copy()
        for variable, value in self._headers:
            text = value.strip(b" \t").decode("latin-1")
            if variable in environ:
                if variable in _SINGLE:
                    self._refuse(400, "a header that has one value came twice")
                text = f"{environ[variable]},{text}"
            if variable:
                environ[variable] = text
        environ["REQUEST_METHOD"] = self.method
        environ["SERVER_PROTOCOL"] = f"HTTP/{version}"
        environ["wsgi.input"] = self._body
        self._say_target(environ)
        self._decide(environ, version)
        self.environ = environ

    def _say_target(self, environ: dict[str, Any]) -> None:
        """Split the target, of any form (RFC 9112 section 3.2)."""
        target, method = self._target.decode("ascii"), self.method
        if target.startswith("/"):
            path, _, query = target.partition("#")[0].partition("?")
        elif "://" in target or method == ("OPTIONS" if target == "*" else "CONNECT"):
            try:
                parts = urlsplit(target)
            except ValueError:
                self._refuse(400, "the target of the request is malformed")
            path, query = parts.path or "/", parts.query  # RFC 9112 section 3.2.2
        else:
            self._refuse(400, "the target of the request must begin with a slash")
        environ["RAW_URI"], environ["QUERY_STRING"] = target, query
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        self.is_probe = method == "GET" and path.startswith("/health/")

    def _decide(self, environ: dict[str, Any], version: str) -> None:
        """Decide how the body arrives, and what becomes of the connection."""
        coding = environ.get("HTTP_TRANSFER_ENCODING", "chunked")
        if coding.lower() != "chunked":
            self._refuse(501, "Transfer-Encoding must be chunked")
        is_asking = "HTTP_EXPECT" in environ
        if is_asking and environ["HTTP_EXPECT"].lower() != "100-continue":
            self._refuse(417, "Expect must be 100-continue")
        if version == "1.0" and "HTTP_TRANSFER_ENCODING" in environ:
            self._refuse(400, "HTTP/1.0 has no Transfer-Encoding")
        self.wants_go_ahead = is_asking and version == "1.1"
        self.version = (1, int(version[2:]))
        self.keeps_alive = self._llhttp.should_keep_alive() and self.method != "CONNECT"
        self._left = _MAX_CHUNK_LINE_BYTES
        self._length = int(environ.get("CONTENT_LENGTH", 0))
        self.is_cut = self._length > self._max_body_bytes
        # A client that asks first is answered before it sends the body.
        self.is_complete = self.is_cut and self.wants_go_ahead

    def on_chunk_header(self) -> None:
        self._left = _MAX_TRAILERS_BYTES  # it may be the last chunk

    def on_body(self, piece: bytes) -> None:
        self._left = _MAX_CHUNK_LINE_BYTES
        self._body_bytes += len(piece)
        if not self.is_cut:
            self._body.write(piece)
            self.held_bytes += len(piece)
        self.is_cut |= self._body_bytes > self._max_body_bytes

    def on_message_complete(self) -> None:
        self.is_complete |= not self._llhttp.should_upgrade()


@functools.lru_cache(512)
def _variable(name: bytes) -> str:
    """Return the WSGI variable of a header; "" when it has a "_", as another's variable may."""
    variable = "" if b"_" in name else name.decode("ascii").upper().replace("-", "_")
    is_plain = variable in ("", "CONTENT_TYPE", "CONTENT_LENGTH")
    return variable if is_plain else f"HTTP_{variable}"
