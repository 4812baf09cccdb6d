"""A sample target: echoes what it receives, calls back when asked to, and fails on request.

Standard library only, so that this one file runs anywhere: `python sample_api.py --port 30000`.

What a task API offers:

    GET POST /sync_tasks/{name}   echoes the call
    POST     /tasks               echoes the call
    POST     /callback_tasks      takes {"callback_uri", "host"}: 202 now, then a POST to that URI
                                  with `Host: host` (`host` may be left out)
    any      /test                echoes the call

An echo is JSON: `time`, `method`, `path` (with the query), `headers`, and `body`, each exactly as
received; a body that is not UTF-8 is `bodyBase64` instead.

For tests:

    GET      /calls               the last calls, newest last; ?path= or ?key= (an Idempotency-Key)
                                  selects some of them
    DELETE   /calls               forgets the calls, and the counts of /misbehave/fail-times
    GET      /                    the routes; not kept among the calls

Ways to misbehave, with any method; each is chosen by URL alone, so that an envelope can ask for it:

    /misbehave/status/{status}[?retry-after=S]      that status
    /misbehave/fail-times/{n}/{name}                n failures under that name, then 200; takes
                                                    ?status=503 and ?retry-after=S
    /misbehave/slow/{seconds}                       answers late
    /misbehave/cookies                              three Set-Cookie headers
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_CALLS = 1000
MAX_CALLS_BYTES = 16 * 1024 * 1024

CALLBACK_ATTEMPTS = 5
CALLBACK_TIMEOUT_S = 10.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# For probes and tests: neither logged nor kept.
UNRECORDED = ("/", "/calls")
ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Refused(Exception):
    """A request that this API refuses: the status, and what would be right."""

    def __init__(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = list(headers.items())


@dataclass(frozen=True, slots=True)
class ReceivedCall:
    """The echo of a call, and what it can be found and counted by."""

    echo: JsonObject
    path: str
    idempotency_key: str | None
    body_bytes: int


class CallLog:
    """The last calls received, bounded in number and in size."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[ReceivedCall] = deque()
        self._bytes = 0
        self._failures: Counter[str] = Counter()

    def append(self, call: ReceivedCall) -> None:
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

    def fails_again(self, name: str, times: float) -> bool:
        """Count one more call under the name; tell whether it is among those that fail."""
        with self._lock:
            self._failures[name] += 1
            return self._failures[name] <= times


@dataclass(frozen=True, kw_only=True, slots=True)
class CallbackTask:
    """Where /callback_tasks is asked to call back."""

    uri: str
    host: str

    @classmethod
    def from_json(cls, body: bytes) -> CallbackTask:
        """Parse the body of /callback_tasks."""
        try:
            task: Json = json.loads(body)
        except (ValueError, RecursionError):
            task = None
        if not isinstance(task, dict):
            raise _bad_request("the body must be a JSON object with callback_uri and host")
        uri = task.get("callback_uri")
        try:
            url = urlsplit(uri if isinstance(uri, str) and re.fullmatch(r"[!-~]+", uri) else "")
            is_http = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_http = False
        if not is_http:
            raise _bad_request("callback_uri must be an http(s) URL")
        host = task.get("host", url.netloc.rpartition("@")[2])
        if not isinstance(host, str) or not re.fullmatch(r"[!-~]+", host):
            raise _bad_request("host must be a host name, optionally with a port")
        return cls(uri=url.geturl(), host=host)

    def post(self, payload: bytes) -> int:
        """POST the payload once and return the status; an OSError says that no answer came."""
        headers = {"Host": self.host, "Content-Type": "application/json"}
        request = urllib.request.Request(self.uri, payload, headers)  # noqa: S310 (checked above)
        try:
            with _OPENER.open(request, timeout=CALLBACK_TIMEOUT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def deliver(self, payload: bytes) -> None:
        """POST the payload until it is accepted or refused, a few times; log each attempt."""
        for attempt in range(1, CALLBACK_ATTEMPTS + 1):
            try:
                status = self.post(payload)
                outcome = f"{status}"
                final = status < HTTPStatus.INTERNAL_SERVER_ERROR and status != 429
            except (OSError, http.client.HTTPException) as exc:
                outcome, final = f"{type(exc).__name__}: {exc}", False
            log(f"callback {self.uri} (Host {self.host}), attempt {attempt}: {outcome}")
            if final:
                return
            if attempt < CALLBACK_ATTEMPTS:
                time.sleep(0.25 * 2**attempt)


def _bad_request(detail: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, detail)


def log(text: str) -> None:
    """Print one line, with control characters escaped."""
    print("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), flush=True)


class SampleAPI(BaseHTTPRequestHandler):
    """One connection to the sample API; the routes are the `ROUTES` at the end of the class."""

    protocol_version = "HTTP/1.1"
    timeout = 120
    disable_nagle_algorithm = True
    server: SampleServer

    def _handle(self) -> None:
        try:
            self._body = self._read_body()
            self._check_caller()
            self._answer_route()
        except Refused as error:
            self._send_json(error.status, {"error": str(error)}, *error.headers)
        if self._path() not in UNRECORDED:
            log(f"{self.command} {self._target()} {self._status}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle

    def _check_caller(self) -> None:
        """Refuse what browsers send for web pages; names that lead here must be this machine's."""
        host = self.headers.get("Host", "")
        is_ours = host.partition(":")[0] in ("localhost", "127.0.0.1")
        if self.server.server_address[0] == "127.0.0.1" and not is_ours:
            raise Refused(HTTPStatus.FORBIDDEN, "Host must be localhost or 127.0.0.1")
        origin = self.headers.get("Origin", f"http://{host}")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if origin != f"http://{host}" or site not in ("none", "same-origin"):
            raise Refused(HTTPStatus.FORBIDDEN, "web pages of other origins are not answered")

    def _target(self) -> str:
        """Return the request target as it was sent; `self.path` loses a doubled first slash."""
        return self.requestline.split()[1]

    def _path(self) -> str:
        return self._target().partition("?")[0]

    def _answer_route(self) -> None:
        path = self._path()
        self._query = parse_qs(self._target().partition("?")[2], keep_blank_values=True)
        if path not in UNRECORDED:
            key = self.headers.get("Idempotency-Key")
            self.server.calls.append(ReceivedCall(self._echo(), path, key, len(self._body)))
        for pattern, methods, answer in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            if self.command not in methods:
                allow = ", ".join(methods)
                status = HTTPStatus.METHOD_NOT_ALLOWED
                raise Refused(status, f"{path} takes {allow}", Allow=allow)
            answer(self, *(unquote(part) for part in match.groups()))
            return
        raise Refused(HTTPStatus.NOT_FOUND, f"no route {path}; GET / lists them")

    # -- the request ------------------------------------------------------------------------------

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        keeps_open, self.close_connection = self.close_connection, True
        if "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a body must come with its Content-Length")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise _bad_request("Content-Length must be a number of bytes")
        if int(length) > MAX_BODY_BYTES:
            detail = f"a body may have {MAX_BODY_BYTES} bytes"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise ConnectionResetError("the client left in the middle of the body")
        self.close_connection = keeps_open
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

    def _number(self, text: str, pattern: str, problem: str) -> float:
        if not re.fullmatch(pattern, text):
            raise _bad_request(problem)
        return float(text)

    def _status_code(self, text: str) -> int:
        return int(self._number(text, r"[2-5][0-9]{2}", "status must be from 200 to 599"))

    # -- the answer -------------------------------------------------------------------------------

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if has_body:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if has_body and self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, status: int, value: Json, *headers: tuple[str, str]) -> None:
        body = json.dumps(value, indent=2).encode() + b"\n"
        self._send(status, body, [("Content-Type", "application/json"), *headers])

    def _send_echo(self, status: int = 200, *headers: tuple[str, str]) -> None:
        self._send_json(status, self._echo(), *headers)

    def _send_failure(self, status: int) -> None:
        retry_after = self._option("retry-after", "")
        self._send_echo(status, *([("Retry-After", retry_after)] if retry_after.isdigit() else []))

    # -- the routes: tasks and calls --------------------------------------------------------------

    def _index(self) -> None:
        self._send(200, (__doc__ or "").encode(), [("Content-Type", "text/plain; charset=utf-8")])

    def _task(self, _name: str = "") -> None:
        self._send_echo()

    def _callback_task(self) -> None:
        callback = CallbackTask.from_json(self._body)
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
        number = self._number(times, r"[0-9]{1,6}", "n must be a whole number, at most 999999")
        if self.server.calls.fails_again(name, number):
            self._send_failure(status)
        else:
            self._send_echo()

    def _slow(self, seconds: str) -> None:
        pattern, problem = r"[0-9]{1,4}(\.[0-9]{1,6})?", "seconds must be a number, such as 2.5"
        time.sleep(self._number(seconds, pattern, problem))
        self._send_echo()

    def _cookies(self) -> None:
        cookies = ["first=1; Path=/; HttpOnly", "second=2; Max-Age=60", "third=3"]
        self._send_echo(200, *(("Set-Cookie", cookie) for cookie in cookies))

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
        (r"/misbehave/cookies", ANY_METHOD, _cookies),
    ]

    def version_string(self) -> str:
        return "sample-api"

    def log_message(self, format: str, *args: object) -> None:
        """Leave it to `_handle`, which logs each call on one line."""


class SampleServer(ThreadingHTTPServer):
    """A thread for each connection, and one log of calls."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, SampleAPI)
        self.calls = CallLog()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a lost connection on one line, and anything else with its traceback."""
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
