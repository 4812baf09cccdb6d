"""The environment that functions-framework is started with; test_packaging starts it."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from pathlib import Path

import pytest

from relay.start import server_env
from tests.support.processes import REPOSITORY, free_port, python, running, wait_until

PACKAGE = Path("/workspace/function")


def test_functions_framework_finds_the_function_and_its_requirements() -> None:
    """The source is main.py of the package, `_vendor` is on the path, the rest stays."""
    env = server_env({"FUNCTION_TARGET": "send", "PORT": "8080"}, PACKAGE)

    assert env == {
        "FUNCTION_TARGET": "send",
        "PORT": "8080",
        "FUNCTION_SOURCE": "/workspace/function/main.py",
        "PYTHONPATH": "/workspace/function/_vendor",
    }


def test_the_requirements_come_first() -> None:
    """What is on the path already, as buildpacks put it there, does not hide them."""
    env = server_env({"PYTHONPATH": "/layers/site-packages:/workspace"}, PACKAGE)

    assert env["PYTHONPATH"] == "/workspace/function/_vendor:/layers/site-packages:/workspace"


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        pytest.param({"LISTEN_ADDRESS": "127.0.0.1:8085"}, "127.0.0.1", "8085", id="func-run"),
        pytest.param({"LISTEN_ADDRESS": "[::1]:8085"}, "[::1]", "8085", id="ipv6"),
        pytest.param({"LISTEN_ADDRESS": "127.0.0.1:1,[::1]:2"}, "127.0.0.1", "1", id="two"),
        pytest.param({"LISTEN_ADDRESS": "127.0.0.1:1", "PORT": "2"}, "127.0.0.1", "2", id="port"),
        pytest.param({"PORT": "8080"}, None, "8080", id="port-alone"),
        pytest.param({"LISTEN_ADDRESS": ""}, None, None, id="empty"),
        pytest.param({}, None, None, id="none"),
    ],
)
def test_address(given: dict[str, str], host: str | None, port: str | None) -> None:
    """PORT wins; without it the function listens where `func run` says, else as by default."""
    env = server_env(given, PACKAGE)

    assert (env.get("HOST"), env.get("PORT")) == (host, port)


# Each takes long to import, and is not needed before the first call.
LATE = ("requests", "urllib3", "redis", "opentelemetry", "certifi")
CONSTRUCT = """
import sys
from relay import web
from relay.{module} import {name}
from relay.settings import Settings
{name}(Settings.from_env({{"K_SINK": "http://localhost", "STATE_URL": "memory://"}}))
print(*sys.modules)
"""
MODULES = """
import sys
import flask, functions_framework
from relay import web
from relay.http import Response
from relay.settings import Settings

def handle(request):
    return Response.whole(200, " ".join(sys.modules).encode(), content_type="text/plain")

web.serve(flask.current_app, Settings(), handle)

@functions_framework.http
def modules(request):
    raise AssertionError
"""


@pytest.mark.parametrize(("module", "name"), [("send", "Send"), ("receive", "Receive")])
def test_a_function_is_there_before_what_calls_need(module: str, name: str) -> None:
    """A pod that starts for a request answers its probe first, and imports `requests` later."""
    command = python("-c", CONSTRUCT.format(module=module, name=name))

    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert not {*printed.stdout.split()} & {*LATE}


def test_what_calls_need_is_there_before_the_first(tmp_path: Path) -> None:
    """A process that serves imports `requests` by itself, which the first call then need not."""
    source = tmp_path / "main.py"
    source.write_text(MODULES)
    url = f"http://127.0.0.1:{free_port()}"
    command = python(
        *("-m", "functions_framework", "--source", str(source), "--target", "modules"),
        *("--host", "127.0.0.1", "--port", url.rpartition(":")[2]),
    )

    def loaded() -> set[str]:
        with contextlib.closing(urllib.request.urlopen(url)) as answer:
            return {*answer.read().decode().split()}

    with running(command, env={"PYTHONPATH": str(REPOSITORY)}, ready_url=f"{url}/health/readiness"):
        wait_until(lambda: "relay.client" in loaded(), 20, "the client to be imported")

        assert "requests" in loaded()
