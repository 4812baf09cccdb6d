"""How a function runs on this machine: from source, in the environment of its pod.

The environment is made of these, a later one winning over those before it:

1. the few variables that any program needs, and where the source of `relay` is;
2. `run.envs` of the function's func.yaml;
3. what a SinkBinding in knative/ injects;
4. `ALLOWED_TARGETS`, so that the sample API can be called, `ALLOWED_HOSTS`, so that no web page can
   call the function by a name of its own that leads here, and `STATE_URL`, one file for both;
5. the relay's own settings from the user's environment, as in `TARGET_TIMEOUT_S=5 ./dev up`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

import msgspec

from local.manifests import Manifests
from local.process import REPOSITORY, clean_environment
from relay.settings import Settings

RELAY_SETTINGS = frozenset(field.name.upper() for field in fields(Settings)) - {
    "K_SINK",
    "K_CE_OVERRIDES",
    "K_CA_CERTS",
}


# Of the names that a cluster gives to services, as knative/README.md sets it up.
_DOMAIN = "default.example.com"


class FunctionError(ValueError):
    """A func.yaml that cannot be used; the message names the field."""


class _Env(msgspec.Struct):
    name: str
    value: str


class _Run(msgspec.Struct):
    envs: list[_Env]


class _FuncYAML(msgspec.Struct):
    name: str
    invoke: Literal["http", "cloudevent"]
    run: _Run


class Function:
    """What the func.yaml of a folder says; `name` is that of its Knative Service."""

    def __init__(self, folder: Path) -> None:
        """Read func.yaml.

        Raises:
            FunctionError: It is not YAML, or a field is missing or of another type.
        """
        path = folder / "func.yaml"
        try:
            document = msgspec.yaml.decode(path.read_bytes(), type=_FuncYAML)
        except msgspec.DecodeError as exc:
            raise FunctionError(f"{path}: {exc}") from exc
        self.folder = folder
        self.name = document.name
        self.invoke = document.invoke
        self.envs = {env.name: env.value for env in document.run.envs}

    @property
    def source_folder(self) -> Path:
        """The folder of main.py."""
        return self.folder / "function"

    def command(self, python: str, host: str, port: int, source: str = "main.py") -> list[str]:
        """Return the command that serves the function, to be run in `source_folder`."""
        return [
            *(python, "-m", "functions_framework", "--source", source),
            *("--signature-type", self.invoke, "--host", host, "--port", str(port)),
        ]


def function_environment(
    function: Function,
    env: Mapping[str, str],
    manifests: Manifests,
    *,
    broker_url: str,
    sample_api: str,
    state_url: str,
) -> dict[str, str]:
    """Return the environment of a function, as the module's docstring says.

    Args:
        env: The user's environment.
        broker_url: Where the Brokers' ingress is, without a path.
        sample_api: `host:port` of the sample API.
        state_url: Where both functions keep what becomes of requests.
    """
    injected: dict[str, str] = {}
    for binding in manifests.sink_bindings:
        if binding.spec.subject.name == function.name:
            extensions = binding.spec.ce_overrides.get("extensions")
            overrides = json.dumps({"extensions": extensions}) if extensions else ""
            namespace = binding.metadata.namespace
            injected = {
                "K_SINK": binding.spec.sink.resolve({}, broker_url, namespace=namespace),
                "K_CE_OVERRIDES": overrides,
            }
    given = {name: value for name, value in env.items() if name in RELAY_SETTINGS}
    allowed = ",".join(filter(None, [sample_api, given.pop("ALLOWED_TARGETS", "")]))
    return {
        **clean_environment(env),
        "PYTHONPATH": str(REPOSITORY),
        **function.envs,
        **injected,
        "ALLOWED_TARGETS": allowed,
        "ALLOWED_HOSTS": f"localhost,127.0.0.1,[::1],{function.name}.{_DOMAIN}",
        "STATE_URL": state_url,
        **given,
    }
