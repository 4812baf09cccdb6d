"""A sample target: echoes what it receives, calls back when asked to, and misbehaves on request.

Standard library only, so that this one file runs anywhere: `python sample_api.py --port 30000`.

What a task API offers:

    GET POST /sync_tasks/{name}   echoes the call
    POST     /tasks               echoes the call
    POST     /callback_tasks      takes {"callback_uri", "host"}: 202 now, then a POST to that URI
                                  with `Host: host` (`host` may be left out)
    any      /test                echoes the call

An echo is JSON: `time`, `method`, `path` (with the query), `headers`, and `body`, each exactly as
received; a body that is not UTF-8 is `bodyBase64` instead.

What a test looks at:

    GET      /calls               the last calls, newest last, of one ?path= or one ?key= (its
                                  Idempotency-Key) if asked so
    DELETE   /calls               forgets the calls, and the counts of /misbehave/fail-times
    GET      /                    the routes; not kept among the calls

Ways to misbehave, with any method; each is chosen by URL alone, so that an envelope can ask for it:

    /misbehave/status/{status}[?retry-after=S]      that status
    /misbehave/fail-times/{n}/{name}                n failures under that name, then 200; takes
                                                    ?status=503 and ?retry-after=S
    /misbehave/slow/{seconds}                       answers late
    /misbehave/drip?bytes=20&interval=0.2           a body, one byte at a time
    /misbehave/drip-headers?bytes=20&interval=0.2   a header's value, one byte at a time
    /misbehave/reset                                TCP reset instead of an answer
    /misbehave/close                                end of connection instead of an answer
    /misbehave/truncate[?chunked=1]                 half a body, then end of connection
    /misbehave/garbage                              an answer that is not HTTP
    /misbehave/redirect?to=URL[&status=302]         a redirect
    /misbehave/cookies                              three Set-Cookie headers
    /misbehave/hop-by-hop                           headers that no proxy may pass on
    /misbehave/headers/{n}[?bytes=10]               n headers with values of so many bytes
    /misbehave/bytes/{n}[?chunked=1]                n bytes, the values 0 to 255 over and over
    /misbehave/gzip[?bytes=N]                       the echo, or N zero bytes, gzipped unasked
"""

from __future__ import annotations

import argparse
import base64
import gzip
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_CALLS = 1000
MAX_CALLS_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024 * 1024
PIECE_BYTES = 64 * 1024

CALLBACK_ATTEMPTS = 5
CALLBACK_TIMEOUT_S = 10.0

# Asked by probes and tests, not by callers: neither logged nor kept.
UNRECORDED = ("/", "/calls")
ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestError(Exception):
    """A request that this API refuses: the status, and what would be right."""

    def __init__(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        """Keep what the answer will say."""
        super().__init__(detail)
        self.status = status
        self.headers = list(headers.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call received: its echo, and what it can be found and counted by."""

    echo: JsonObject
    path: str
    idempotency_key: str | None
    body_bytes: int


class CallLog:
    """The last calls received, bounded in number and in size."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque()
        self._bytes = 0
        self._failures: Counter[str] = Counter()

    def append(self, call: Call) -> None:
        """Keep a call, and drop the oldest ones beyond the bounds."""
        with self._lock:
            self._calls.append(call)
            self._bytes += call.body_bytes
            while len(self._calls) > MAX_CALLS or self._bytes > MAX_CALLS_BYTES:
                self._bytes -= self._calls.popleft().body_bytes

    def matching(self, path: str | None, key: str | None) -> list[JsonObject]:
        """List the calls, oldest first, of one path (query apart) or one Idempotency-Key."""
        with self._lock:
            calls = list(self._calls)
        return [
            call.echo
            for call in calls
            if path in (None, call.path) and key in (None, call.idempotency_key)
        ]

    def clear(self) -> None:
        """Forget every call and every count of failures."""
        with self._lock:
            self._calls.clear()
            self._bytes = 0
            self._failures.clear()

    def fails_again(self, name: str, times: int) -> bool:
        """Count one more call under the name; tell whether it is among those that fail."""
        with self._lock:
            self._failures[name] += 1
            return self._failures[name] <= times


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """Where /callback_tasks is asked to call back."""

    url: SplitResult
    host: str

    @classmethod
    def from_json(cls, body: bytes) -> Callback:
        """Parse the body of /callback_tasks.

        Raises:
            RequestError: 400 that names the field.
        """
        try:
            task: Json = json.loads(body)
        except (ValueError, RecursionError):
            task = None
        if not isinstance(task, dict):
            raise _bad_request("the body must be a JSON object with callback_uri and host")
        uri = task.get("callback_uri")
        if not isinstance(uri, str) or not re.fullmatch(r"[!-~]+", uri):
            raise _bad_request("callback_uri must be an http(s) URL")
        try:
            url = urlsplit(uri)
            is_http = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_http = False
        if not is_http:
            raise _bad_request("callback_uri must be an http(s) URL")
        host = task.get("host", url.netloc.rpartition("@")[2])
        if not isinstance(host, str) or not re.fullmatch(r"[!-~]+", host):
            raise _bad_request("host must be a host name, optionally with a port")
        return cls(url=url, host=host)

    def post(self, payload: bytes) -> int:
        """POST the payload once and return the status.

        Raises:
            OSError, http.client.HTTPException: There was no answer.
        """
        connection_class = (
            http.client.HTTPSConnection
            if self.url.scheme == "https"
            else http.client.HTTPConnection
        )
        host, port = self.url.hostname or "", self.url.port
        connection = connection_class(host, port, timeout=CALLBACK_TIMEOUT_S)
        path = self.url.path or "/"
        if self.url.query:
            path += "?" + self.url.query
        headers = {"Host": self.host, "Content-Type": "application/json"}
        try:
            connection.request("POST", path, body=payload, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def deliver(self, payload: bytes) -> None:
        """POST the payload until it is taken or refused, a few times at most; log each attempt."""
        for attempt in range(1, CALLBACK_ATTEMPTS + 1):
            try:
                status = self.post(payload)
                outcome = f"{status}"
                final = status < HTTPStatus.INTERNAL_SERVER_ERROR and status != 429
            except (OSError, http.client.HTTPException) as exc:
                outcome, final = f"{type(exc).__name__}: {exc}", False
            log(f"callback {self.url.geturl()} (Host {self.host}), attempt {attempt}: {outcome}")
            if final:
                return
            if attempt < CALLBACK_ATTEMPTS:
                time.sleep(0.25 * 2**attempt)


def _bad_request(detail: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, detail)


def log(text: str) -> None:
    """Print one line; control characters of a request must not reach the terminal."""
    print("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), flush=True)


class SampleAPI(BaseHTTPRequestHandler):
    """One connection to the sample API; the routes are the `ROUTES` at the end of the class."""

    protocol_version = "HTTP/1.1"
    timeout = 120
    disable_nagle_algorithm = True
    server: SampleServer

    def _handle(self) -> None:
        self._status = 0
        try:
            self._body = self._read_body()
            self._answer_route()
        except RequestError as error:
            self._send_json(error.status, {"error": str(error)}, error.headers)
        if self._path() not in UNRECORDED:
            log(f"{self.command} {self._target()} {self._status or 'no answer'}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle

    def _target(self) -> str:
        """Give the request target as it was sent; `self.path` has lost a doubled first slash."""
        return self.requestline.split()[1]

    def _path(self) -> str:
        return self._target().partition("?")[0]

    def _answer_route(self) -> None:
        path = self._path()
        self._query = parse_qs(self._target().partition("?")[2], keep_blank_values=True)
        if path not in UNRECORDED:
            key = self.headers.get("Idempotency-Key")
            self.server.calls.append(
                Call(
                    echo=self._echo(),
                    path=path,
                    idempotency_key=key,
                    body_bytes=len(self._body),
                )
            )
        for pattern, methods, answer in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            if self.command not in methods:
                allow = ", ".join(methods)
                detail = f"{path} takes {allow}"
                raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, detail, Allow=allow)
            answer(self, *(unquote(part) for part in match.groups()))
            return
        raise RequestError(HTTPStatus.NOT_FOUND, f"no route {path}; GET / lists them")

    # -- the request ------------------------------------------------------------------------------

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._read_chunks())
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            self.close_connection = True
            raise _bad_request("Content-Length must be a number of bytes")
        self._check_size(int(length))
        return self._read_exactly(int(length))

    def _read_chunks(self) -> Iterator[bytes]:
        total_bytes = 0
        while True:
            size = self.rfile.readline(1024).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size):
                self.close_connection = True
                raise _bad_request("a chunk must start with its size in hexadecimal")
            chunk_bytes = int(size, 16)
            total_bytes += chunk_bytes
            self._check_size(total_bytes)
            if chunk_bytes == 0:
                while self.rfile.readline(65537).strip():
                    pass
                return
            yield self._read_exactly(chunk_bytes)
            self.rfile.readline(1024)

    def _check_size(self, body_bytes: int) -> None:
        if body_bytes > MAX_BODY_BYTES:
            self.close_connection = True
            detail = f"a body may have {MAX_BODY_BYTES} bytes"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)

    def _read_exactly(self, count: int) -> bytes:
        data = self.rfile.read(count)
        if len(data) < count:
            raise ConnectionResetError("the client left in the middle of the body")
        return data

    def _echo(self) -> JsonObject:
        headers: JsonObject = {}
        for name, value in self.headers.items():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        call: JsonObject = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "method": self.command,
            "path": self._target(),
            "headers": headers,
        }
        try:
            call["body"] = self._body.decode()
        except UnicodeDecodeError:
            call["bodyBase64"] = base64.b64encode(self._body).decode()
        return call

    def _option(self, name: str, default: str) -> str:
        return self._query.get(name, [default])[-1]

    def _count(self, name: str, text: str, maximum: int = MAX_ANSWER_BYTES) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > maximum:
            raise _bad_request(f"{name} must be a whole number, at most {maximum}")
        return int(text)

    def _seconds(self, name: str, text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text):
            raise _bad_request(f"{name} must be a number of seconds, such as 2.5")
        return float(text)

    def _status_code(self, text: str) -> int:
        if not re.fullmatch(r"[2-5][0-9]{2}", text):
            raise _bad_request("status must be a number from 200 to 599")
        return int(text)

    # -- the answer -------------------------------------------------------------------------------

    def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        length = [("Content-Length", str(len(body)))] if has_body else []
        self._start(status, headers + length)
        if has_body and self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(
        self, status: int, value: Json, headers: list[tuple[str, str]] | None = None
    ) -> None:
        body = json.dumps(value, indent=2).encode() + b"\n"
        self._send(status, body, [("Content-Type", "application/json"), *(headers or [])])

    def _send_echo(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        self._send_json(status, self._echo(), headers)

    def _send_failure(self, status: int) -> None:
        retry_after = self._option("retry-after", "")
        self._send_echo(status, [("Retry-After", retry_after)] if retry_after.isdigit() else [])

    def _send_pieces(self, pieces: Iterator[bytes], body_bytes: int, *, chunked: bool) -> None:
        framing = (
            ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(body_bytes))
        )
        self._start(200, [("Content-Type", "application/octet-stream"), framing])
        if self.command == "HEAD":
            return
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    # -- the routes: tasks and calls --------------------------------------------------------------

    def _index(self) -> None:
        self._send(200, (__doc__ or "").encode(), [("Content-Type", "text/plain; charset=utf-8")])

    def _task(self, _name: str = "") -> None:
        self._send_echo()

    def _callback_task(self) -> None:
        callback = Callback.from_json(self._body)
        key = self.headers.get("Idempotency-Key")
        payload = json.dumps({"status": "completed", "idempotencyKey": key}).encode()
        self._send_echo(HTTPStatus.ACCEPTED)
        threading.Thread(target=callback.deliver, args=(payload,), daemon=True).start()

    def _calls(self) -> None:
        if self.command == "DELETE":
            self.server.calls.clear()
            self._send(HTTPStatus.NO_CONTENT, b"", [])
            return
        path, key = (self._query.get(name, [None])[-1] for name in ("path", "key"))
        self._send_json(200, [*self.server.calls.matching(path, key)])

    # -- the routes: ways to misbehave ------------------------------------------------------------

    def _fail(self, status: str) -> None:
        self._send_failure(self._status_code(status))

    def _fail_times(self, times: str, name: str) -> None:
        status = self._status_code(self._option("status", "503"))
        if self.server.calls.fails_again(name, self._count("n", times)):
            self._send_failure(status)
        else:
            self._send_echo()

    def _slow(self, seconds: str) -> None:
        time.sleep(self._seconds("seconds", seconds))
        self._send_echo()

    def _drip(self) -> None:
        count, pieces = self._drops()
        self._send_pieces(pieces, count, chunked=False)

    def _drip_headers(self) -> None:
        _, pieces = self._drops()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Drip: ")
        for piece in pieces:
            self.wfile.write(piece)
        self.wfile.write(b"\r\n\r\n")
        self._status = 200

    def _drops(self) -> tuple[int, Iterator[bytes]]:
        count = self._count("bytes", self._option("bytes", "20"))
        interval_s = self._seconds("interval", self._option("interval", "0.2"))

        def drops() -> Iterator[bytes]:
            for _ in range(count):
                time.sleep(interval_s)
                yield b"."

        return count, drops()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Closed here, since the server would shut it down first, which ends it properly.
        os.close(self.connection.detach())
        self.close_connection = True

    def _close(self) -> None:
        self.close_connection = True

    def _truncate(self) -> None:
        chunked = self._option("chunked", "") == "1"
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "200")
        self.close_connection = True
        self._start(200, [("Content-Type", "application/octet-stream"), framing])
        half = b"." * 100
        self.wfile.write(b"64\r\n%s\r\n" % half if chunked else half)

    def _garbage(self) -> None:
        self.close_connection = True
        self.wfile.write(b"this is not HTTP\r\n\r\n")

    def _redirect(self) -> None:
        status = self._status_code(self._option("status", "302"))
        to = self._option("to", "")
        if not re.fullmatch(r"[!-~]+", to):
            raise _bad_request("to must be the URL to redirect to")
        self._send_echo(status, [("Location", to)])

    def _cookies(self) -> None:
        cookies = [
            "first=1; Path=/; HttpOnly",
            "second=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            "third=3",
        ]
        self._send_echo(200, [("Set-Cookie", cookie) for cookie in cookies])

    def _hop_by_hop(self) -> None:
        headers = {
            "Connection": "keep-alive, X-Hop",
            "Keep-Alive": "timeout=5",
            "Proxy-Authenticate": "Basic",
            "Upgrade": "h2c",
            "X-Hop": "for the next hop alone",
            "X-End": "for the caller",
        }
        self._send_echo(200, [*headers.items()])

    def _many_headers(self, count: str) -> None:
        number = self._count("n", count, 100_000)
        value = "v" * self._count("bytes", self._option("bytes", "10"), 2**20)
        self._send_echo(200, [(f"X-Header-{i}", value) for i in range(1, number + 1)])

    def _bytes(self, count: str) -> None:
        body_bytes = self._count("n", count)
        pattern = bytes(range(256)) * (PIECE_BYTES // 256)
        starts = range(0, body_bytes, PIECE_BYTES)
        pieces = (pattern[: min(PIECE_BYTES, body_bytes - start)] for start in starts)
        self._send_pieces(pieces, body_bytes, chunked=self._option("chunked", "") == "1")

    def _gzip(self) -> None:
        zeros = self._option("bytes", "")
        plain = (
            json.dumps(self._echo()).encode() if zeros == "" else bytes(self._count("bytes", zeros))
        )
        kind = "application/json" if zeros == "" else "application/octet-stream"
        headers = [("Content-Type", kind), ("Content-Encoding", "gzip")]
        self._send(200, gzip.compress(plain), headers)

    ROUTES: ClassVar[list[tuple[str, tuple[str, ...], Callable[..., None]]]] = [
        (r"/", ("GET", "HEAD"), _index),
        (r"/sync_tasks/([^/]+)", ("GET", "POST"), _task),
        (r"/tasks", ("POST",), _task),
        (r"/callback_tasks", ("POST",), _callback_task),
        (r"/test", ANY_METHOD, _task),
        (r"/calls", ("GET", "DELETE"), _calls),
        (r"/misbehave/status/([^/]+)", ANY_METHOD, _fail),
        (r"/misbehave/fail-times/([^/]+)/([^/]+)", ANY_METHOD, _fail_times),
        (r"/misbehave/slow/([^/]+)", ANY_METHOD, _slow),
        (r"/misbehave/drip", ANY_METHOD, _drip),
        (r"/misbehave/drip-headers", ANY_METHOD, _drip_headers),
        (r"/misbehave/reset", ANY_METHOD, _reset),
        (r"/misbehave/close", ANY_METHOD, _close),
        (r"/misbehave/truncate", ANY_METHOD, _truncate),
        (r"/misbehave/garbage", ANY_METHOD, _garbage),
        (r"/misbehave/redirect", ANY_METHOD, _redirect),
        (r"/misbehave/cookies", ANY_METHOD, _cookies),
        (r"/misbehave/hop-by-hop", ANY_METHOD, _hop_by_hop),
        (r"/misbehave/headers/([^/]+)", ANY_METHOD, _many_headers),
        (r"/misbehave/bytes/([^/]+)", ANY_METHOD, _bytes),
        (r"/misbehave/gzip", ANY_METHOD, _gzip),
    ]

    def version_string(self) -> str:
        """Give the value of the Server header."""
        return "sample-api"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing of the base class: `_answer_route` logs each call on one line."""


class SampleServer(ThreadingHTTPServer):
    """The server: a thread for each connection, and one log of calls."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        """Bind the address; port 0 takes a free one."""
        super().__init__(address, SampleAPI)
        self.calls = CallLog()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a client that went away in one line, and anything else with its traceback."""
        error = sys.exc_info()[1]
        if isinstance(error, (ConnectionError, TimeoutError)):
            log(f"connection lost: {type(error).__name__}")
        else:
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="A sample target for the relay.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    with SampleServer((options.host, options.port)) as server:
        log(f"sample API on http://{options.host}:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
