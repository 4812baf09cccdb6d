"""How a function is run on this machine: from source, in the environment of its pod.

The environment is put together from, each winning over those before it:

1. the few variables that any program needs (`INHERITED`), and where the source of `relay` is;
2. `run.envs` of the function's func.yaml;
3. what a SinkBinding in knative/ injects;
4. `ALLOWED_TARGETS`, so that the sample API can be called, and `STATE_URL`, one file for both;
5. the relay's own settings where the user gives them, as in `TARGET_TIMEOUT_S=5 ./dev up`.

Nothing else of the user's environment is passed on: a proxy or a PYTHONPATH set there for another
purpose would make the function behave as it never does in a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from local.manifests import Manifests
from relay.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")
RELAY_SETTINGS = frozenset(field.name.upper() for field in fields(Settings)) - {
    "K_SINK",
    "K_CE_OVERRIDES",
    "K_CA_CERTS",
}


class FunctionError(ValueError):
    """A func.yaml that cannot be used; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """What func.yaml says about a function.

    Attributes:
        folder: The folder of func.yaml.
        name: The name of its Knative Service.
        invoke: `http` or `cloudevent`.
        envs: `run.envs`.
    """

    folder: Path
    name: str
    invoke: str
    envs: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path) -> Function:
        """Read the func.yaml of a folder.

        Raises:
            FunctionError: A field that is needed is not there, or not a string.
        """
        path = folder / "func.yaml"
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            function = cls(
                folder=folder,
                name=document["name"],
                invoke=document["invoke"],
                envs={each["name"]: each["value"] for each in document["run"]["envs"]},
            )
        except yaml.YAMLError as exc:
            raise FunctionError(f"{path}: must be YAML: {exc}") from exc
        except (KeyError, TypeError) as exc:
            raise FunctionError(
                f"{path}: name, invoke and run.envs must be given: {exc!r}"
            ) from exc
        for text in (function.name, function.invoke, *function.envs.values()):
            if not isinstance(text, str):
                raise FunctionError(f"{path}: {text!r} must be a string: put it in quotes")
        return function

    @property
    def source_folder(self) -> Path:
        """The folder of main.py."""
        return self.folder / "function"

    def command(self, python: str, host: str, port: int) -> list[str]:
        """Make the command that serves the function; it is to be run in `source_folder`."""
        return [
            *(python, "-m", "functions_framework", "--source", "main.py"),
            *("--signature-type", self.invoke, "--host", host, "--port", str(port)),
        ]


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Leave of an environment what any program needs."""
    inherited = {name: env[name] for name in INHERITED if name in env}
    return {**inherited, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def function_environment(
    function: Function,
    env: Mapping[str, str],
    manifests: Manifests,
    *,
    broker_url: str,
    sample_api: str,
    state_url: str,
) -> dict[str, str]:
    """Put together the environment of a function, as the module's docstring says.

    Args:
        function: The function.
        env: The user's environment.
        manifests: The manifests of knative/.
        broker_url: Where the Brokers' ingress is, without a path.
        sample_api: `host:port` of the sample API.
        state_url: Where both functions keep what becomes of requests.
    """
    injected: dict[str, str] = {}
    for binding in manifests.sink_bindings:
        if binding.subject_name == function.name:
            extensions = dict(binding.ce_overrides)
            overrides = json.dumps({"extensions": extensions}) if extensions else ""
            injected = {
                "K_SINK": binding.sink.resolve({}, broker_url),
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
        "STATE_URL": state_url,
        **given,
    }
