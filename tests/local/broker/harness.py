"""What the Broker's tests share: a scripted subscriber, a publisher and the Broker's process."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.processes import Process, python, running, wait_until

REQUIRED = {"ce-specversion": "1.0", "ce-source": "/tests", "ce-type": "tests"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the subscriber answers to one call; `closes` closes the connection instead."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0
    closes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What the subscriber got; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float


class Subscriber:
    """An HTTP server that answers by script and remembers its calls.

    The script of a call is found by its `ce-id` and path, else by its path. The last answer of a
    script is repeated; without a script the answer is 204.
    """

    def __init__(self, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1; `serving` is the usual way."""
        self.scripts: dict[str, Sequence[Answer]] = {}
        self._calls: list[Call] = []
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        subscriber = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                subscriber._answer(self)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                """Keep the output of the tests free of access logs."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                """Take a Broker that hangs up, or is killed, as part of the test."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def calls(self, path: str | None = None, *, event_id: str | None = None) -> list[Call]:
        """Return the calls so far, by path and by `ce-id` if given."""
        with self._lock:
            return [
                call
                for call in self._calls
                if path in (None, call.path) and event_id in (None, call.headers.get("ce-id"))
            ]

    def wait_for(
        self, count: int, path: str | None = None, *, event_id: str | None = None
    ) -> list[Call]:
        """Wait for at least so many calls."""
        wait_until(
            lambda: len(self.calls(path, event_id=event_id)) >= count,
            30.0,
            f"{count} calls of {path} for {event_id}",
        )
        return self.calls(path, event_id=event_id)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = headers.get("ce-id", "") + request.path
        with self._lock:
            script = self.scripts.get(key) or self.scripts.get(request.path) or (Answer(),)
            count = self._counts.get(key, 0)
            self._counts[key] = count + 1
            self._calls.append(
                Call(
                    method=request.command,
                    path=request.path,
                    headers=headers,
                    body=body,
                    at_s=time.monotonic(),
                )
            )
        answer = script[min(count, len(script) - 1)]
        time.sleep(answer.delay_s)
        if answer.closes:
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        if answer.status != 204:
            request.send_header("Content-Length", str(len(answer.body)))
        request.end_headers()
        request.wfile.write(answer.body)

    def __enter__(self) -> Subscriber:
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def publish(
    url: str, headers: Mapping[str, str] | None = None, body: bytes = b"{}", method: str = "POST"
) -> int:
    """Send a request to an ingress and return the status."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def publish_event(url: str, event_id: str, event_type: str = "tests") -> int:
    """Publish a small event in binary mode and return the status."""
    headers = {**REQUIRED, "ce-id": event_id, "ce-type": event_type}
    return publish(url, {**headers, "content-type": "application/json"})


def trigger(name: str, *, subscriber: str, event_type: str = "", delivery: str = "") -> str:
    """Write a Trigger of the Broker default/default.

    Args:
        subscriber: an absolute URI.
        event_type: the only type that it wants; "" wants every event.
        delivery: the delivery spec in YAML's flow style; "" leaves it out.
    """
    wanted = f"{{attributes: {{type: {event_type}}}}}" if event_type else "{}"
    return f"""\
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {{name: {name}, namespace: default}}
spec:
  broker: default
  filter: {wanted}
  subscriber: {{uri: "{subscriber}"}}
  delivery: {delivery or "null"}
"""


BROKER = """\
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default, namespace: default}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningBroker:
    """A Broker's process and the ingress of default/default."""

    process: Process
    url: str


@contextmanager
def broker(
    folder: Path, *triggers: str, port: int = 0, like: str = "in-memory"
) -> Iterator[RunningBroker]:
    """Run the Broker on the data and manifests of a folder while the block runs."""
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "broker.yaml").write_text(BROKER + "".join(triggers), encoding="utf-8")
    command = python(
        *("-m", "local.broker", "--port", str(port), "--like", like),
        *("--manifests", str(manifests), "--data", str(folder / "data")),
    )
    with running(command, ready_output="broker: ready: ") as process:
        start = process.output.index("http://")
        url = process.output[start:].partition(";")[0]
        yield RunningBroker(process=process, url=url)
