"""What `func deploy` uploads, built as func builds it and served as it is served in a cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.calls import call
from tests.support.peers import ACCEPTED, Peer, answer_of, serving
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

NAMES = ("send", "receive")
ANSWER = answer_of(200, b'{"answer": 42}', ("Content-Type", "application/json"))

# The scaffolding that func 0.50 writes around a function (knative/func, templates/python/
# scaffolding): a package that depends on this one and on the function's own folder, with a module
# that it picks by func.yaml's `invoke`.
FUNC_PYTHON = "func-python==0.8.1"
MAIN = """\
from func_python.{module} import serve
from function import new
serve(new)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A function installed in an environment of its own, away from the repository.

    Attributes:
        vendor: where the requirements are that it brings.
    """

    folder: Path
    python: Path
    vendor: Path
    env: Mapping[str, str]


class Served(NamedTuple):
    """A function that is being served."""

    process: Process
    url: str


def run(*command: str | Path) -> None:
    env = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(("PIP_", "SSL_"))
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"


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
    (folder / "service").mkdir()
    (folder / "service" / "__init__.py").touch()
    module = {"http": "http", "cloudevent": "cloudevent"}[function["invoke"]]
    (folder / "service" / "main.py").write_text(MAIN.format(module=module), encoding="utf-8")
    python = folder / "venv/bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    # The pip of the tests: to install another takes as long as all the rest.
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    run(*pip, FUNC_PYTHON, folder / "f")
    return Installed(
        folder=folder,
        python=python,
        vendor=next((folder / "venv").glob("lib/*/site-packages/function/_vendor")),
        env={entry["name"]: entry["value"] for entry in function["run"]["envs"]},
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Installed]:
    folders = [tmp_path_factory.mktemp(name) for name in NAMES]
    with ThreadPoolExecutor() as pool:
        return dict(zip(NAMES, pool.map(install, NAMES, folders), strict=True))


@pytest.fixture(scope="module")
def urls(installed: Mapping[str, Installed]) -> Iterator[Mapping[str, str]]:
    """Serve both functions with no more settings than func.yaml's."""
    with served(installed["send"]) as send, served(installed["receive"]) as receive:
        yield {"send": send.url, "receive": receive.url}


@contextmanager
def served(function: Installed, **env: str) -> Iterator[Served]:
    """Start a function as its container does, and wait until its readiness probe succeeds."""
    port = free_port()
    with running(
        [str(function.python), "-m", "service.main"],
        env={**function.env, "PORT": str(port), **env},
        cwd=function.folder,
        ready_url=f"http://127.0.0.1:{port}/health/readiness",
    ) as process:
        yield Served(process, f"http://127.0.0.1:{port}")


def takes_requests(url: str) -> bool:
    """Tell whether a new request is answered; a stopping server's socket still connects."""
    try:
        call("GET", f"{url}/health/liveness", timeout_s=0.5)
    except OSError:
        return False
    return True


def request_event(target: Peer) -> tuple[bytes, dict[str, str]]:
    """Make what a Broker delivers to Receive for a request to the target."""
    headers = {
        "Ce-Specversion": "1.0",
        "Ce-Id": "order-1",
        "Ce-Source": "dev.knative.samples/t2",
        "Ce-Type": "dev.knative.samples.t2",
        "Content-Type": "application/json",
    }
    envelope = {"targetURL": target.url, "targetAPI": "/orders", "body": {}}
    return json.dumps(envelope).encode(), headers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("probe", ["liveness", "readiness"])
def test_probes_succeed(urls: Mapping[str, str], name: str, probe: str) -> None:
    """Both functions answer the probes that func always sets."""
    answer = call("GET", f"{urls[name]}/health/{probe}")

    assert answer.status == 200


@pytest.mark.parametrize("name", NAMES)
def test_each_brings_the_relay_of_this_source(
    installed: Mapping[str, Installed], name: str
) -> None:
    """What is served is what is tested from the source, byte for byte."""
    vendor = installed[name].vendor

    for source in (*REPOSITORY.glob("relay/*.py"), *REPOSITORY.glob("relay/schemas/*")):
        brought = vendor / source.relative_to(REPOSITORY)
        assert brought.read_bytes() == source.read_bytes(), f"{brought}: run ./dev vendor"


@pytest.mark.parametrize("name", NAMES)
def test_packages_do_not_meet(installed: Mapping[str, Installed], name: str) -> None:
    """func-python and functions-framework each have the cloudevents they need: 2 and 1."""
    function = installed[name]
    version = "from importlib.metadata import version; print(version('cloudevents'))"
    commands = {
        "func-python": version,
        "functions-framework": f"import sys; sys.path[:0] = [{str(function.vendor)!r}]; {version}",
    }

    major = {
        user: subprocess.run(
            [function.python, "-c", command], capture_output=True, check=True, text=True
        ).stdout.split(".")[0]
        for user, command in commands.items()
    }

    assert major == {"func-python": "2", "functions-framework": "1"}


def test_send_publishes_to_the_sink(installed: Mapping[str, Installed]) -> None:
    """Send answers 202 once the Broker, whose address the SinkBinding injects, took the event."""
    with (
        serving(ACCEPTED) as broker,
        served(
            installed["send"],
            K_SINK=f"{broker.url}/default/default",
            # What a SinkBinding without overrides injects.
            K_CE_OVERRIDES="",
            ALLOWED_TARGETS="127.0.0.1",
        ) as (_, url),
    ):
        body = b'{"targetURL": "http://127.0.0.1:1"}'
        answer = call("POST", f"{url}/async", body, {"Content-Type": "application/json"})

    assert answer.status == 202, answer.body
    (event,) = broker.requests
    assert event.target == "/default/default"
    assert event.header("ce-type") == "dev.knative.samples.t2"
    assert json.loads(event.body) == json.loads(body)


@pytest.mark.parametrize("name", ["openapi.yaml", "envelope.schema.json"])
def test_send_brings_its_description(urls: Mapping[str, str], name: str) -> None:
    """What Send serves of `schemas/` is in the wheel, and so in the package made of its folder."""
    answer = call("GET", f"{urls['send']}/{name}")

    assert answer.status == 200
    assert answer.body == (REPOSITORY / "schemas" / name).read_bytes()


def test_receive_calls_the_target_and_replies(installed: Mapping[str, Installed]) -> None:
    """Receive makes the call and answers with the result as an event, which a Broker accepts."""
    with (
        serving(ANSWER) as target,
        served(installed["receive"], ALLOWED_TARGETS=f"127.0.0.1:{target.port}") as (_, url),
    ):
        answer = call("POST", url, *request_event(target))

    assert answer.status == 200
    assert answer.all("ce-type") == ["dev.knative.samples.t2.completed"]
    assert answer.all("ce-subject") == ["order-1"]
    assert [request.target for request in target.requests] == ["/orders"]


def test_sigterm_lets_a_request_finish(installed: Mapping[str, Installed]) -> None:
    """A pod that is told to stop takes no new request, finishes its own and exits with 0."""
    released = threading.Event()

    def answer_when_released(connection: socket.socket) -> None:
        released.wait(30)
        connection.sendall(ANSWER)

    with (
        serving(answer_when_released) as target,
        served(installed["receive"], ALLOWED_TARGETS=f"127.0.0.1:{target.port}") as (process, url),
        ThreadPoolExecutor() as pool,
    ):
        in_flight = pool.submit(call, "POST", url, *request_event(target))
        wait_until(lambda: target.requests, 15, "the call to the target")

        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not takes_requests(url), 15, "the end of taking requests")
        released.set()

        assert in_flight.result().all("ce-type") == ["dev.knative.samples.t2.completed"]
        assert process.wait() == 0


# What `func invoke` posts to / unless told otherwise (knative/func, pkg/functions/invoke.go).
INVOKE_DATA = '{"message":"Hello World"}'
INVOKE_HEADERS = [
    pytest.param({"Content-Type": "application/json"}, id="http"),
    pytest.param(
        {
            "Ce-Specversion": "1.0",
            "Ce-Id": "9f4f0a0e-54f7-4d4e-9d0a-6f8a4c1b2e77",
            "Ce-Source": "/boson/fn",
            "Ce-Type": "boson.fn",
            "Ce-Time": "2025-01-15T09:00:00.123456789Z",
            "Content-Type": "application/json",
        },
        id="cloudevent",
    ),
]


@pytest.mark.parametrize("headers", INVOKE_HEADERS)
def test_func_invoke_of_send_explains_the_envelope(
    urls: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    """`func invoke` of Send, in either format, gets a 400 that says what an envelope is."""
    answer = call("POST", urls["send"], INVOKE_DATA, headers)

    assert answer.status == 400, answer.body
    assert answer.all("content-type") == ["application/problem+json"]
    assert "targetURL" in str(answer.json()["detail"])


@pytest.mark.parametrize("headers", INVOKE_HEADERS)
def test_func_invoke_of_receive_is_refused(
    urls: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    """`func invoke` of Receive, in either format, gets the 400 that dead-letters an event."""
    answer = call("POST", urls["receive"], INVOKE_DATA, headers)

    assert answer.status == 400, answer.body
    assert answer.all("content-type") == ["application/problem+json"]
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
        answer = call("GET", f"http://127.0.0.1:{port}/")

    assert answer.status == 200
