"""What `func deploy` uploads, built as func builds it and served as it is served in a cluster."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.support.processes import (
    INHERITED,
    REPOSITORY,
    Process,
    free_port,
    running,
    wait_until,
)

# The first test waits for two installations, which without pip's cache take their time.
pytestmark = pytest.mark.timeout(300)

# The scaffolding that func 0.50 writes around a function (knative/func, templates/python/
# scaffolding), whose dependencies are func-python and the function's own folder.
SCAFFOLDING = """\
[project]
name = "service"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["func-python==0.8.1", "function @ {root:uri}/f"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.metadata]
allow-direct-references = true
"""
# func picks the module by func.yaml's `invoke`.
MAIN = """\
from func_python.{module} import serve
from function import new
serve(new)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A function installed in an environment of its own, away from the repository."""

    folder: Path
    python: Path
    env: Mapping[str, str]


@dataclass(kw_only=True, slots=True)
class Peer:
    """A server that answers any request, keeping it: a target, or a Broker's ingress.

    Attributes:
        port: of 127.0.0.1.
        status: of every answer.
        released: answers wait until this is set.
        requests: path, headers and body of each request, in order.
    """

    port: int
    status: int
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a function answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def peer(status: int) -> Iterator[Peer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.requests.append((self.path, dict(self.headers), body))
            state.released.wait(30)
            answer = b'{"answer": 42}' if state.status == 200 else b""
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = Peer(port=server.server_port, status=status)
        state.released.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def install(name: str, folder: Path) -> Installed:
    """Copy a function's folder alone, put func's scaffolding around it and install that."""
    source = REPOSITORY / "functions" / name
    # What func uploads: leftovers of running and building stay at home.
    ignored = [
        line
        for line in (source / ".funcignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    shutil.copytree(source, folder / "f", ignore=shutil.ignore_patterns(*ignored))
    function = yaml.safe_load((folder / "f" / "func.yaml").read_text(encoding="utf-8"))
    (folder / "pyproject.toml").write_text(SCAFFOLDING, encoding="utf-8")
    (folder / "service").mkdir()
    (folder / "service" / "__init__.py").touch()
    module = {"http": "http", "cloudevent": "cloudevent"}[function["invoke"]]
    (folder / "service" / "main.py").write_text(MAIN.format(module=module), encoding="utf-8")
    python = folder / "venv" / "bin" / "python"
    pip_env = {
        variable: value
        for variable, value in os.environ.items()
        if variable in INHERITED or variable.startswith(("PIP_", "SSL_"))
    }
    for command in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", str(folder)],
    ):
        done = subprocess.run(command, env=pip_env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
    return Installed(
        folder=folder,
        python=python,
        env={entry["name"]: entry["value"] for entry in function["run"]["envs"]},
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Installed]:
    names = ("send", "receive")
    with ThreadPoolExecutor() as pool:
        return dict(
            zip(
                names,
                pool.map(install, names, [tmp_path_factory.mktemp(name) for name in names]),
                strict=True,
            )
        )


@contextmanager
def served(function: Installed, **env: str) -> Iterator[tuple[Process, int]]:
    """Start a function as its container does, and wait until its readiness probe succeeds."""
    port = free_port()
    with running(
        [str(function.python), "-m", "service.main"],
        env={**function.env, "PORT": str(port), **env},
        cwd=function.folder,
        ready_url=f"http://127.0.0.1:{port}/health/readiness",
    ) as process:
        yield process, port


def call(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    timeout_s: float = 30.0,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )
    finally:
        connection.close()


def takes_requests(port: int) -> bool:
    """Tell whether a new request is answered; a stopping server's socket still connects."""
    try:
        call(port, "GET", "/health/liveness", {}, timeout_s=0.5)
    except OSError:
        return False
    return True


def request_event(target: Peer) -> tuple[dict[str, str], bytes]:
    """Make what a Broker delivers to Receive for a request to the target."""
    headers = {
        "Ce-Specversion": "1.0",
        "Ce-Id": "order-1",
        "Ce-Source": "dev.knative.samples/t2",
        "Ce-Type": "dev.knative.samples.t2",
        "Content-Type": "application/json",
    }
    envelope = {"targetURL": f"http://127.0.0.1:{target.port}", "targetAPI": "/orders", "body": {}}
    return headers, json.dumps(envelope).encode()


# What `func invoke` posts to / unless told otherwise (knative/func, pkg/functions/invoke.go).
INVOKE_DATA = b'{"message":"Hello World"}'
INVOKE_HTTP = {"Content-Type": "application/json"}
INVOKE_CLOUDEVENT = {
    "Ce-Specversion": "1.0",
    "Ce-Id": "9f4f0a0e-54f7-4d4e-9d0a-6f8a4c1b2e77",
    "Ce-Source": "/boson/fn",
    "Ce-Type": "boson.fn",
    "Ce-Time": "2025-01-15T09:00:00.123456789Z",
    "Content-Type": "application/json",
}


@pytest.mark.parametrize("name", ["send", "receive"])
@pytest.mark.parametrize("probe", ["liveness", "readiness"])
def test_probes_succeed(installed: Mapping[str, Installed], name: str, probe: str) -> None:
    """Both functions answer the probes that func always sets."""
    with served(installed[name]) as (_, port):
        answer = call(port, "GET", f"/health/{probe}", {})

    assert answer.status == 200


@pytest.mark.parametrize("name", ["send", "receive"])
def test_packages_do_not_meet(installed: Mapping[str, Installed], name: str) -> None:
    """func-python and functions-framework each have the cloudevents they need: 2 and 1."""
    function = installed[name]
    version = "from importlib.metadata import version; print(version('cloudevents'))"
    commands = {
        "func-python": [str(function.python), "-c", version],
        "functions-framework": [
            str(function.python),
            "-c",
            f"import function, sys; sys.path[:0] = [function.__path__[0] + '/_vendor']; {version}",
        ],
    }

    major = {
        user: subprocess.run(
            command, cwd=function.folder, capture_output=True, text=True, check=True
        ).stdout.split(".")[0]
        for user, command in commands.items()
    }

    assert major == {"func-python": "2", "functions-framework": "1"}


def test_send_publishes_to_the_sink(installed: Mapping[str, Installed]) -> None:
    """Send answers 202 once the Broker, whose address the SinkBinding injects, took the event."""
    with (
        peer(202) as broker,
        served(
            installed["send"],
            K_SINK=f"http://127.0.0.1:{broker.port}/default/default",
            # What a SinkBinding without overrides injects.
            K_CE_OVERRIDES="",
            ALLOWED_TARGETS="127.0.0.1",
        ) as (_, port),
    ):
        answer = call(
            port,
            "POST",
            "/async",
            {"Content-Type": "application/json"},
            b'{"targetURL": "http://127.0.0.1:1"}',
        )

    assert answer.status == 202, answer.body
    ((path, headers, body),) = broker.requests
    assert path == "/default/default"
    assert {name.lower(): value for name, value in headers.items()}["ce-type"] == (
        "dev.knative.samples.t2"
    )
    assert json.loads(body) == {"targetURL": "http://127.0.0.1:1"}


@pytest.mark.parametrize("name", ["openapi.yaml", "envelope.schema.json"])
def test_send_brings_its_description(installed: Mapping[str, Installed], name: str) -> None:
    """What Send serves of `schemas/` is in its folder, and in the package that is made of it."""
    with served(installed["send"]) as (_, port):
        answer = call(port, "GET", f"/{name}", {})

    assert answer.status == 200
    assert answer.body == (REPOSITORY / "schemas" / name).read_bytes()


def test_receive_calls_the_target_and_replies(installed: Mapping[str, Installed]) -> None:
    """Receive makes the call and answers with the result as an event, which a Broker accepts."""
    with (
        peer(200) as target,
        served(installed["receive"], ALLOWED_TARGETS=f"127.0.0.1:{target.port}") as (_, port),
    ):
        answer = call(port, "POST", "/", *request_event(target))

    assert answer.status == 200
    assert answer.headers["ce-type"] == "dev.knative.samples.t2.completed"
    assert answer.headers["ce-subject"] == "order-1"
    assert [path for path, _, _ in target.requests] == ["/orders"]


def test_sigterm_lets_a_request_finish(installed: Mapping[str, Installed]) -> None:
    """A pod that is told to stop takes no new request, finishes its own and exits with 0."""
    with (
        peer(200) as target,
        served(installed["receive"], ALLOWED_TARGETS=f"127.0.0.1:{target.port}") as (
            process,
            port,
        ),
        ThreadPoolExecutor() as pool,
    ):
        target.released.clear()
        in_flight = pool.submit(call, port, "POST", "/", *request_event(target))
        wait_until(lambda: target.requests, 15, "the call to the target")

        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not takes_requests(port), 15, "the end of taking requests")
        target.released.set()

        assert in_flight.result().headers["ce-type"] == "dev.knative.samples.t2.completed"
        assert process.wait() == 0


@pytest.mark.parametrize(
    "headers",
    [pytest.param(INVOKE_HTTP, id="http"), pytest.param(INVOKE_CLOUDEVENT, id="cloudevent")],
)
def test_func_invoke_of_send_explains_the_envelope(
    installed: Mapping[str, Installed], headers: Mapping[str, str]
) -> None:
    """`func invoke` of Send, in either format, gets a 400 that says what an envelope is."""
    with served(installed["send"]) as (_, port):
        answer = call(port, "POST", "/", headers, INVOKE_DATA)

    assert answer.status == 400, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert "targetURL" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize(
    "headers",
    [pytest.param(INVOKE_HTTP, id="http"), pytest.param(INVOKE_CLOUDEVENT, id="cloudevent")],
)
def test_func_invoke_of_receive_is_refused(
    installed: Mapping[str, Installed], headers: Mapping[str, str]
) -> None:
    """`func invoke` of Receive, in either format, gets the 400 that dead-letters an event."""
    with served(installed["receive"]) as (_, port):
        answer = call(port, "POST", "/", headers, INVOKE_DATA)

    assert answer.status == 400, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.body) <= 768


def test_func_run_chooses_the_address(installed: Mapping[str, Installed]) -> None:
    """Without PORT, which Knative sets, a function listens where `func run` says."""
    port = free_port()
    function = installed["send"]

    with running(
        [str(function.python), "-m", "service.main"],
        env={**function.env, "LISTEN_ADDRESS": f"127.0.0.1:{port}"},
        cwd=function.folder,
        ready_url=f"http://127.0.0.1:{port}/health/readiness",
    ):
        answer = call(port, "GET", "/", {})

    assert answer.status == 200
