"""A function runs in the environment that its func.yaml and the manifests give its pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import manifests
from local.functions import Function, FunctionError, function_environment
from tests.support.processes import REPOSITORY

FUNC_YAML = """
name: send-serving
invoke: http
run:
  envs:
    - name: FUNCTION_TARGET
      value: send
    - name: THREADS
      value: "32"
"""

MANIFESTS = """
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default}
---
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata: {name: send}
spec:
  subject: {apiVersion: serving.knative.dev/v1, kind: Service, name: send-serving}
  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default}}
"""

OVERRIDES = "  ceOverrides: {extensions: {tenant: blue}}\n"


def load(folder: Path, func_yaml: str = FUNC_YAML) -> Function:
    """Write a func.yaml and load it."""
    (folder / "func.yaml").write_text(func_yaml, encoding="utf-8")
    return Function(folder)


def environment(folder: Path, env: dict[str, str], manifest: str = MANIFESTS) -> dict[str, str]:
    """Put together the environment of Send; the variables for any Python program left out."""
    function = load(folder)
    (folder / "100-broker.yaml").write_text(manifest, encoding="utf-8")
    (folder / "func.yaml").unlink()
    result = function_environment(
        function,
        env,
        manifests.load(folder),
        broker_url="http://127.0.0.1:8081",
        sample_api="localhost:30000",
        state_url="sqlite:///data/state.sqlite3",
    )
    assert result.pop("PYTHONUNBUFFERED") == result.pop("PYTHONUTF8") == "1"
    assert result.pop("PYTHONPATH") == str(REPOSITORY)
    return result


def test_comes_from_func_yaml_and_the_manifests(tmp_path: Path) -> None:
    """Without any setting of the user the environment is that of the pod."""
    assert environment(tmp_path, {}) == {
        "FUNCTION_TARGET": "send",
        "THREADS": "32",
        "K_SINK": "http://127.0.0.1:8081/default/default",
        "K_CE_OVERRIDES": "",
        "ALLOWED_TARGETS": "localhost:30000",
        "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1],send-serving.default.example.com",
        "STATE_URL": "sqlite:///data/state.sqlite3",
    }


def test_injects_the_overrides_of_the_sink_binding(tmp_path: Path) -> None:
    """K_CE_OVERRIDES is what Knative makes of `ceOverrides`."""
    env = environment(tmp_path, {}, MANIFESTS + OVERRIDES)

    assert env["K_CE_OVERRIDES"] == '{"extensions": {"tenant": "blue"}}'


def test_passes_on_what_the_user_sets_for_the_relay(tmp_path: Path) -> None:
    """The relay's settings win; what belongs to the user's shell stays there."""
    env = environment(
        tmp_path,
        {
            "PATH": "/bin",
            "TARGET_TIMEOUT_S": "5",
            "THREADS": "4",
            "HTTP_PROXY": "http://proxy",
            "PYTHONPATH": "/elsewhere",
            "K_SINK": "http://elsewhere",
            "PORT": "1",
        },
    )

    assert env == {
        "PATH": "/bin",
        "FUNCTION_TARGET": "send",
        "THREADS": "4",
        "TARGET_TIMEOUT_S": "5",
        "K_SINK": "http://127.0.0.1:8081/default/default",
        "K_CE_OVERRIDES": "",
        "ALLOWED_TARGETS": "localhost:30000",
        "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1],send-serving.default.example.com",
        "STATE_URL": "sqlite:///data/state.sqlite3",
    }


def test_allows_the_sample_api_besides_what_the_user_allows(tmp_path: Path) -> None:
    """The calls that the banner shows work whatever else is allowed."""
    env = environment(tmp_path, {"ALLOWED_TARGETS": "10.0.0.0/8"})

    assert env["ALLOWED_TARGETS"] == "localhost:30000,10.0.0.0/8"


@pytest.mark.parametrize(
    ("func_yaml", "error"),
    [
        ("invoke: http", "Object missing required field `name`"),
        (FUNC_YAML.replace('"32"', "32"), "Expected `str`, got `int` - at `$.run.envs[1].value`"),
    ],
    ids=["no name", "number"],
)
def test_names_what_is_wrong_with_func_yaml(tmp_path: Path, func_yaml: str, error: str) -> None:
    """A func.yaml that cannot be used is named with the reason."""
    with pytest.raises(FunctionError) as raised:
        load(tmp_path, func_yaml)

    assert str(raised.value) == f"{tmp_path / 'func.yaml'}: {error}"
