"""The functions' log: one line of JSON for each request or delivery, without secrets."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import REPOSITORY, Process, free_port, python, running, wait_until

Line = dict[str, object]

TYPE = "dev.knative.samples.t2"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
ORDER = {"Idempotency-Key": "order-1"}
SECRET = "s3cret"
EVENT = {
    "Ce-Specversion": "1.0",
    "Ce-Id": "order-1",
    "Ce-Source": "test",
    "Ce-Type": TYPE,
    "Content-Type": "application/json",
}
RESULT = {**EVENT, "Ce-Id": "order-1.completed", "Ce-Type": f"{TYPE}.completed"}
DEAD = {**EVENT, "Ce-Knativeerrorcode": "503"}

# A function with defects.
BROKEN = """
import flask, functions_framework
from relay import web
from relay.http import Response
from relay.settings import Settings

def handle(request):
    if request.path == "/body":
        return Response(status=200, body=body())
    if request.path == "/robots.txt":
        return Response.empty(404)
    raise TypeError("no such thing")

def body():
    yield b"half"
    raise KeyError("no such thing")

web.serve(flask.current_app, Settings(), handle)

@functions_framework.http
def broken(request):
    raise AssertionError
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture(scope="module")
def send(target: Peer) -> Iterator[Function]:
    with peers.serving(peers.ACCEPTED) as broker:
        env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": broker.url, "TARGET_TIMEOUT_S": "10"}
        with serving("send", env) as function:
            with logged(function):
                call("POST", f"{function.url}/async", '{"targetURL": "http://127.0.0.1:9"}', ORDER)
            yield function


@pytest.fixture(scope="module")
def receive(target: Peer) -> Iterator[Function]:
    with serving("receive", {"ALLOWED_TARGETS": "127.0.0.1"}) as function:
        yield function


def envelope(target: Peer, path: str = "/", **fields: object) -> str:
    return json.dumps({"targetURL": target.url, "targetAPI": path, **fields})


def log_of(process: Process) -> list[Line]:
    """Read what a function has logged; it prints nothing else."""
    return [json.loads(line) for line in process.output.splitlines()]


@contextlib.contextmanager
def logged(function: Function, count: int = 1) -> Iterator[list[Line]]:
    """Collect the lines that are logged while the block runs, and for a request that follows.

    Args:
        function: which logs.
        count: how many lines there must be for the block.
    """
    lines: list[Line] = []
    before = len(log_of(function.process))
    yield lines
    wait_until(lambda: len(log_of(function.process)) >= before + count, 10, f"{count} lines")
    call("PUT", f"{function.url}/robots.txt")
    wait_until(lambda: len(log_of(function.process)) > before + count, 10, "one more line")
    *new, last = log_of(function.process)[before:]
    assert str(last["message"]).startswith("PUT 40"), [*new, last]
    lines += new


def steady(line: Line) -> Line:
    """Check what is different each time, and leave it out."""
    time, duration_ms = line["time"], line["duration_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(time))
    assert isinstance(duration_ms, float)
    assert 0 <= duration_ms < 10_000
    return {name: line[name] for name in line if name not in ("time", "duration_ms")}


class TestSend:
    def test_a_call(self, send: Function, target: Peer) -> None:
        """The line of /sync has the target's host and port and what it answered."""
        target.on("/teapot", answer_of(418))

        with logged(send) as lines:
            call("GET", f"{send.url}/sync?q=1", envelope(target, "/teapot?a=b"), TRACED)

        [line] = lines
        assert steady(line) == {
            "severity": "INFO",
            "message": "GET /sync 418",
            "method": "GET",
            "trace": TRACE,
            "route": "/sync",
            "target": f"127.0.0.1:{target.port}",
            "target_status": 418,
            "status": 418,
        }

    @pytest.mark.parametrize(
        ("method", "path", "headers", "body", "expected"),
        [
            (
                *("POST", "/async", {**ORDER, **TRACED}, '{"targetURL": "http://127.0.0.1:9"}'),
                {
                    "message": "POST /async 202",
                    "trace": TRACE,
                    "route": "/async",
                    "id": "order-1",
                    "target": "127.0.0.1:9",
                    "status": 202,
                },
            ),
            (
                *("GET", "/async/order-1", {}, None),
                {
                    "message": "GET /async/{id} 200",
                    "route": "/async/{id}",
                    "id": "order-1",
                    "status": 200,
                },
            ),
            (
                *("POST", "/async/order-1/retry", {}, None),
                {
                    "message": "POST /async/{id}/retry 409: order-1 is accepted;"
                    " only a dead or failed request can be sent again",
                    "route": "/async/{id}/retry",
                    "id": "order-1",
                    "status": 409,
                },
            ),
            (
                *("GET", "/async?status=dead", {}, None),
                {"message": "GET /async 200", "route": "/async", "status": 200},
            ),
            (
                *("POST", "/event/callback?id=order-1", {"Content-Type": "text/plain"}, "done"),
                {
                    "message": "POST /event/callback 202",
                    "route": "/event/callback",
                    "id": "order-1",
                    "status": 202,
                },
            ),
            (
                *("POST", "/event/callback", {**RESULT, "Ce-Subject": "order-1"}),
                '{"status": 200, "headers": {}}',
                {
                    "message": "POST /event/callback 202",
                    "route": "/event/callback",
                    "id": "order-1",
                    "outcome": "completed",
                    "status": 202,
                },
            ),
            (
                *("POST", "/event/dead-letter", {**DEAD, **TRACED, "Ce-Id": "order-2"}),
                '{"targetURL": "http://orders.example:8443"}',
                {
                    "severity": "ERROR",
                    "message": "POST /event/dead-letter 202:"
                    " the request is dead: its subscriber answered 503",
                    "trace": TRACE,
                    "route": "/event/dead-letter",
                    "id": "order-2",
                    "target": "orders.example:8443",
                    "outcome": "dead",
                    "status": 202,
                },
            ),
            ("GET", "/", {}, None, {"message": "GET / 200", "route": "/", "status": 200}),
            (
                *("GET", "/elsewhere", {}, None),
                {
                    "message": "GET 404: there is no '/elsewhere'; GET / lists what there is",
                    "status": 404,
                },
            ),
            (
                *("DELETE", "/event", {}, None),
                {
                    "message": "DELETE /event 405: /event does not answer DELETE; it answers POST",
                    "route": "/event",
                    "status": 405,
                },
            ),
            (
                *("POST", "/sync", {}, '{"targetURL": 1}'),
                {
                    "message": "POST /sync 400: targetURL must be a string, not a number",
                    "route": "/sync",
                    "status": 400,
                },
            ),
            (
                *("POST", "/sync", {}, '{"targetURL": "http://10.1.2.3/a"}'),
                {
                    "message": "POST /sync 403: the target 10.1.2.3 is not allowed; the entry"
                    " 10.1.2.3:80 in ALLOWED_TARGETS would allow it",
                    "route": "/sync",
                    "target": "10.1.2.3",
                    "status": 403,
                },
            ),
            (
                *("POST", "/sync", {}, '{"targetURL": "http://127.0.0.1:1/a"}'),
                {
                    "severity": "WARNING",
                    "message": "POST /sync 502: the target 127.0.0.1:1 cannot be reached:"
                    " the connection was refused",
                    "route": "/sync",
                    "target": "127.0.0.1:1",
                    "status": 502,
                },
            ),
            (
                *("GET", "/favicon.ico", {}, None),
                {
                    "message": "GET 404: there is no '/favicon.ico'; GET / lists what there is",
                    "status": 404,
                },
            ),
        ],
        ids=[
            "async",
            "status",
            "retry",
            "list",
            "callback",
            "result",
            "dead-letter",
            "index",
            "unknown",
            "method",
            "envelope",
            "not-allowed",
            "unreachable",
            "framework",
        ],
    )
    def test_each_route(
        self,
        send: Function,
        method: str,
        path: str,
        headers: dict[str, str],
        body: str | None,
        expected: Line,
    ) -> None:
        """One line each, refusals with their reason: the route's template, never the query."""
        with logged(send) as lines:
            call(method, f"{send.url}{path}", body, headers)

        [line] = lines
        assert steady(line) == {"severity": "INFO", "method": method, **expected}

    def test_a_streamed_answer(self, send: Function, target: Peer) -> None:
        """The line comes when the last byte has gone."""
        go_on = threading.Event()

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            assert go_on.wait(10)
            connection.sendall(b"half")

        target.on("/slow", talk)
        before = len(log_of(send.process))

        with logged(send) as lines, streaming(send, envelope(target, "/slow")) as stream:
            assert stream.read(4) == b"half"
            logged_early = len(log_of(send.process)) - before
            go_on.set()
            assert stream.read() == b"half"

        assert logged_early == 0
        assert [line["message"] for line in lines] == ["GET /sync 200"]

    def test_an_answer_that_the_target_cuts_off(self, send: Function, target: Peer) -> None:
        """The status has gone out already; the line says what came of it."""
        target.on("/half", lambda connection: connection.sendall(answer_of(200, b"half")[:-1]))

        with logged(send) as lines, streaming(send, envelope(target, "/half")) as stream:
            assert stream.read() == b"hal"

        [line] = lines
        assert line["severity"] == "WARNING"
        assert line["cut_off"] is True
        assert line["message"] == (
            f"GET /sync 200: the answer was cut off: the target 127.0.0.1:{target.port} broke off"
            " its answer"
        )

    def test_a_caller_who_leaves(self, send: Function, target: Peer) -> None:
        """Nothing of the relay's is wrong, so that is no warning."""

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):  # until the relay has let go
                while True:
                    connection.sendall(b"x" * 65536)

        target.on("/endless", talk)

        with logged(send) as lines, streaming(send, envelope(target, "/endless")) as stream:
            stream.read(1)

        [line] = lines
        assert line["severity"] == "INFO"
        assert line["cut_off"] is True
        assert line["message"] == "GET /sync 200: the caller left before the end of the answer"

    def test_secrets(self, send: Function, target: Peer) -> None:
        """No header, no body, no query and no target's path is logged, nor what it answers."""
        target.on(f"/{SECRET}", answer_of(200, SECRET.encode(), ("X-A", SECRET)))
        target.on("/broken", f"HTTP/1.1 200 {SECRET}\r\n{SECRET}\r\n\r\n".encode())
        headers = {"Authorization": f"Bearer {SECRET}", "X-A": SECRET, "Cookie": SECRET}
        fields = {"headers": {**headers, "X-B": SECRET}, "body": {SECRET: SECRET}}
        secret = envelope(target, f"/{SECRET}?a={SECRET}", **fields)
        callback = {"url": f"http://127.0.0.1:9/{SECRET}", "headers": headers}
        bad = envelope(target).replace("://", f"://{SECRET}:{SECRET}@")
        slip = envelope(target, headers={f"Authorization: Bearer {SECRET}": ""})

        with logged(send, 7) as lines:
            call("POST", f"{send.url}/sync?a={SECRET}", secret, headers)
            call("POST", f"{send.url}/async", envelope(target, body=SECRET, callback=callback))
            call("POST", f"{send.url}/event/callback?a={SECRET}", SECRET, headers)
            call("POST", f"{send.url}/sync", bad, headers)
            call("POST", f"{send.url}/sync", f'{{"body": "{SECRET}"', headers)
            call("POST", f"{send.url}/sync", slip, headers)
            call("POST", f"{send.url}/sync", envelope(target, f"/broken?{SECRET}"), headers)

        # A line is written once its answer is over: the next call may be ahead of it.
        statuses = sorted(line["status"] for line in lines)  # type: ignore[type-var]
        assert statuses == [200, 202, 202, 400, 400, 400, 502]
        assert SECRET not in send.process.output

    def test_hostile_ids_and_paths(self, send: Function) -> None:
        """What comes from outside can neither begin a line of its own nor control a terminal."""
        forged = '%0A{"severity":"ERROR","message":"forged"}%1B[2J%7F%C2%9B31m%E2%80%AE'

        with logged(send, 3):
            call("GET", f"{send.url}/async/x{forged}")
            call("GET", f"{send.url}/x{forged}")
            call("GET", f"{send.url}/async/x%1B[2J%7F%C2%9B31m%E2%80%AE")

        assert not re.search(r"[^\x20-\x7e\n]", send.process.output)
        assert all(line["message"] != "forged" for line in log_of(send.process))

    def test_long_ids(self, send: Function) -> None:
        """A line stays short, so that whoever collects it does not cut it in two."""
        with logged(send) as lines:
            call("GET", f"{send.url}/async/{'x' * 5000}")

        [line] = lines
        assert line["id"] == "x" * 256


@contextlib.contextmanager
def streaming(function: Function, body: str) -> Iterator[socket.SocketIO]:
    """Call /sync, and read the answer's body as it comes; its framing ends with the connection."""
    with (
        socket.create_connection(("127.0.0.1", function.port), timeout=10) as connection,
        connection.makefile("rb") as stream,
    ):
        request = f"GET /sync HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        connection.sendall(request.encode())
        while stream.readline().strip():
            pass
        yield stream  # type: ignore[misc]


class TestReceive:
    def test_a_delivery(self, receive: Function, target: Peer) -> None:
        """The type and id of the event, what the target answered, and which attempt it was."""
        target.on("/busy", answer_of(503))
        headers = {**EVENT, **TRACED, "Ce-Id": "busy-1"}
        again = {
            **headers,
            "Ce-Id": "busy-1.retry1",
            "Ce-Type": f"{TYPE}.retry1",
            "Ce-Subject": "busy-1",
            "Ce-Relayattempts": "1",
        }

        with logged(receive) as first:
            call("POST", f"{receive.url}/", envelope(target, "/busy"), headers)
        target.on("/busy", answer_of(201))
        with logged(receive) as second:
            call("POST", f"{receive.url}/", envelope(target, "/busy"), again)

        delivery = {
            "method": "POST",
            "id": "busy-1",
            "type": TYPE,
            "trace": TRACE,
            "target": f"127.0.0.1:{target.port}",
        }
        assert [steady(line) for line in first + second] == [
            {
                **delivery,
                "severity": "WARNING",
                "message": f"{TYPE} 200: the target answered 503; again in 1 s",
                "attempt": 1,
                "target_status": 503,
                "status": 200,
            },
            {
                **delivery,
                "type": f"{TYPE}.retry1",
                "severity": "INFO",
                "message": f"{TYPE}.retry1 200",
                "attempt": 2,
                "target_status": 201,
                "status": 200,
            },
        ]

    @pytest.mark.parametrize(
        ("method", "headers", "body", "expected"),
        [
            (
                *("POST", EVENT, "{"),
                {
                    "severity": "WARNING",
                    "message": f"{TYPE} 400: envelope is not JSON: Expecting property name"
                    " enclosed in double quotes at line 1 column 2",
                    "id": "order-1",
                    "type": TYPE,
                    "status": 400,
                },
            ),
            (
                *("POST", {"Authorization": SECRET}, SECRET),
                {
                    "severity": "WARNING",
                    "message": "POST 400: ce-specversion is missing; send a CloudEvent",
                    "status": 400,
                },
            ),
            (
                *("DELETE", {}, None),
                {
                    "severity": "INFO",
                    "message": "DELETE 405: / does not answer DELETE; it answers POST",
                    "status": 405,
                },
            ),
        ],
        ids=["no-envelope", "no-event", "method"],
    )
    def test_what_is_no_delivery(
        self,
        receive: Function,
        method: str,
        headers: dict[str, str],
        body: str | None,
        expected: Line,
    ) -> None:
        """One line as well; an event that the Broker gives up for it is worth a warning."""
        with logged(receive) as lines:
            call(method, f"{receive.url}/", body, headers)

        [line] = lines
        assert steady(line) == {"method": method, **expected}
        assert SECRET not in receive.process.output

    def test_hostile_events(self, receive: Function) -> None:
        """An event's attributes, too, stay within their line."""
        headers = {**EVENT, "Ce-Id": "%E2%80%AE%22,", "Ce-Type": '"}{"severity":"ERROR"}'}

        with logged(receive) as lines:
            call("POST", f"{receive.url}/", "{}", headers)

        [line] = lines
        assert line["id"] == '\u202e",'
        assert line["type"] == '"}{"severity":"ERROR"}'
        assert receive.process.output.isascii()


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("DEBUG", ["GET /health/liveness 200", "GET / 200", "POST /sync 502"]),
        ("INFO", ["GET / 200", "POST /sync 502"]),
        ("WARNING", ["POST /sync 502"]),
    ],
)
def test_log_level(level: str, messages: list[str]) -> None:
    """LOG_LEVEL hides what is less severe; probes are for DEBUG alone."""
    with serving("send", {"LOG_LEVEL": level, "ALLOWED_TARGETS": "127.0.0.1"}) as send:
        call("GET", f"{send.url}/health/liveness")
        call("GET", f"{send.url}/")
        call("POST", f"{send.url}/sync", '{"targetURL": "http://127.0.0.1:1"}')
        for message in messages:  # a line is written when its answer is gone, so any may be last
            send.process.wait_for_output(message)
        shown = [str(line["message"]).partition(":")[0] for line in log_of(send.process)]

    assert sorted(each for each in shown if each != "GET /health/readiness 200") == sorted(messages)
    assert ("GET /health/readiness 200" in shown) == (level == "DEBUG")


def test_what_happens_on_the_way() -> None:
    """A warning about a request carries what is known of it by then."""
    with peers.serving(peers.ACCEPTED) as broker:
        env = {
            "ALLOWED_TARGETS": "127.0.0.1",
            "K_SINK": broker.url,
            "STATE_URL": "redis://127.0.0.1:1",
        }
        with serving("send", env) as send, logged(send, 2) as lines:
            body = '{"targetURL": "http://127.0.0.1:9"}'
            call("POST", f"{send.url}/async", body, {**ORDER, **TRACED})

    warning, request = lines
    assert {name: warning[name] for name in warning if name != "time"} == {
        "severity": "WARNING",
        "message": "the request is accepted without a record:"
        " the state cannot be reached (STATE_URL)",
        "method": "POST",
        "trace": TRACE,
        "route": "/async",
        "id": "order-1",
        "target": "127.0.0.1:9",
    }
    assert request["message"] == "POST /async 202"


@contextlib.contextmanager
def serving_broken(folder: Path) -> Iterator[Function]:
    (folder / "main.py").write_text(BROKEN, encoding="utf-8")
    port = free_port()
    command = python(
        *("-m", "functions_framework", "--source", str(folder / "main.py")),
        *("--target", "broken", "--host", "127.0.0.1", "--port", str(port)),
    )
    url = f"http://127.0.0.1:{port}"
    ready = f"{url}/health/readiness"
    with running(command, env={"PYTHONPATH": str(REPOSITORY)}, ready_url=ready) as process:
        yield Function(name="broken", url=url, port=port, process=process)


def test_defects(tmp_path: Path) -> None:
    """An exception that nobody expected is one line too, with its traceback in a field."""
    secret = {"Authorization": SECRET}
    with serving_broken(tmp_path) as function:
        with logged(function) as lines:
            answer = call("POST", f"{function.url}/?{SECRET}", SECRET, secret)
        with logged(function) as late, pytest.raises(http.client.IncompleteRead):
            call("POST", f"{function.url}/body?{SECRET}", SECRET, secret)
        lines += late

    assert answer.json()["detail"] == "the relay failed; its log says why"
    traces = [str(line.pop("stack_trace")) for line in lines]
    assert all(trace.startswith("Traceback (most recent call last):\n") for trace in traces)
    assert traces[0].endswith("\nTypeError: no such thing")
    assert traces[1].endswith("\nKeyError: 'no such thing'")
    assert [steady(line) for line in lines] == [
        {
            "severity": "ERROR",
            "message": "POST 500: the relay failed",
            "method": "POST",
            "status": 500,
        },
        {
            "severity": "ERROR",
            "message": "POST 200: the answer was cut off: the relay failed",
            "method": "POST",
            "cut_off": True,
            "status": 200,
        },
    ]
    assert SECRET not in function.process.output
