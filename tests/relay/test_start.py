"""The environment that functions-framework is started with; test_packaging starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.start import server_env

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
