"""func.yaml of both functions, field by field, against what func and Knative accept."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import REPOSITORY

FUNCTIONS = {"send": "send-serving", "receive": "receive-cloudevent-service"}
INVOKE = {"send": "http", "receive": "cloudevent"}
QUANTITY = re.compile(r"[0-9]+(m|Mi)?")


def folder_of(name: str) -> Path:
    return REPOSITORY / "functions" / name


@pytest.fixture(params=FUNCTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def function(name: str) -> dict[str, Any]:
    document = yaml.safe_load((folder_of(name) / "func.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.fixture
def env(function: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in function["run"]["envs"]}


def test_only_fields_that_func_knows(function: dict[str, Any]) -> None:
    """Unknown fields are refused; image and registry are the operator's to choose."""
    fields = {"specVersion", "name", "runtime", "created", "invoke", "build", "run", "deploy"}

    assert set(function) == fields
    assert set(function["build"]) == {"builder"}
    assert set(function["run"]) == {"envs"}
    assert set(function["deploy"]) - {"labels"} == {
        "healthEndpoints",
        "options",
        "serviceAccountName",
    }
    assert set(function["deploy"]["options"]) == {"scale", "resources"}


def test_name_is_the_ksvc(name: str, function: dict[str, Any]) -> None:
    """The name becomes the ksvc, which callers and manifests know."""
    assert function["name"] == FUNCTIONS[name]


def test_created_is_a_time(function: dict[str, Any]) -> None:
    """Without a time of creation func takes the folder for one without a function."""
    assert isinstance(function["created"], datetime.datetime)


def test_func_builds_it(name: str, function: dict[str, Any]) -> None:
    """The fields that choose func's scaffolding and builder."""
    assert function["specVersion"] == "0.36.0"
    assert function["runtime"] == "python"
    assert function["invoke"] == INVOKE[name]
    assert function["build"]["builder"] == "pack"


def test_environment_is_accepted(env: dict[str, str]) -> None:
    """Values are strings, and none is a name that Knative keeps for itself."""
    reserved = {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "K_SINK"}

    assert all(isinstance(value, str) for value in env.values())
    assert not reserved & set(env)


def test_target_is_in_main(name: str, env: dict[str, str]) -> None:
    """FUNCTION_TARGET names a function of main.py."""
    source = (folder_of(name) / "function" / "main.py").read_text(encoding="utf-8")

    assert re.search(rf"^def {env['FUNCTION_TARGET']}\(", source, re.MULTILINE)


def test_concurrency_leaves_threads_for_probes(
    function: dict[str, Any], env: dict[str, str]
) -> None:
    """Two probes find a thread when every request that Knative lets in is being served."""
    concurrency = function["deploy"]["options"]["resources"]["limits"]["concurrency"]

    assert 1 <= concurrency <= int(env["THREADS"]) - 2


def test_scale_and_resources(function: dict[str, Any]) -> None:
    """Scale is bounded, and no limit is under its request."""
    scale = function["deploy"]["options"]["scale"]
    resources = function["deploy"]["options"]["resources"]

    assert set(scale) == {"min", "max"}
    assert 0 <= scale["min"] <= scale["max"]
    assert scale["max"] > 1  # the state is shared
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"cpu", "memory", "concurrency"}
    for bound in (resources["requests"], resources["limits"]):
        assert QUANTITY.fullmatch(bound["cpu"])
        assert QUANTITY.fullmatch(bound["memory"])


def test_probes(function: dict[str, Any]) -> None:
    """The paths that the functions answer themselves, without running the function."""
    assert function["deploy"]["healthEndpoints"] == {
        "liveness": "/health/liveness",
        "readiness": "/health/readiness",
    }


def test_no_file_that_breaks_the_build(name: str) -> None:
    """A Procfile is refused, and a requirements.txt at the top wins over pyproject.toml."""
    assert not (folder_of(name) / "Procfile").exists()
    assert not (folder_of(name) / "requirements.txt").exists()
