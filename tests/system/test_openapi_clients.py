"""Clients that are generated from `schemas/openapi.yaml` call the running stack."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.processes import REPOSITORY
from tests.support.stack import Relay, started

DOCUMENT = REPOSITORY / "schemas" / "openapi.yaml"
TYPESCRIPT = REPOSITORY / "tests" / "system" / "typescript"

PYTHON = """
import json, sys, time
from send_client import Client
from send_client.api.calls import accept, sync_post
from send_client.api.status import read
from send_client.models import Callback, Envelope, EnvelopeHeaders, Method, SyncPostEnvelope

relay, target = sys.argv[1:]
call = {
    "target_url": target,
    "headers": EnvelopeHeaders.from_dict({"X-Number": 7}),
    "body": {"type": "10"},
}
with Client(base_url=relay, timeout=30) as client:
    sync = sync_post.sync_detailed(
        client=client,
        body=SyncPostEnvelope(**call, target_api="/sync_tasks/7", method=Method.GET),
    )
    accepted = accept.sync_detailed(
        client=client, body=Envelope(**call, target_api="/tasks"), idempotency_key="python-1"
    )
    waited = accept.sync_detailed(
        client=client,
        body=Envelope(**call, target_api="/tasks", callback=Callback(url=f"{target}/done")),
        prefer="wait=20",
    )
    status = read.sync(accepted.parsed.id, client=client)
    while status.status == "accepted":
        time.sleep(0.1)
        status = read.sync(accepted.parsed.id, client=client)
    refused = read.sync("never-seen", client=client)
    print(json.dumps({
        "sync": sync.content.decode(),
        "accepted": accepted.status_code,
        "waited": [waited.status_code, waited.content.decode()],
        "status": status.status,
        "answer": status.answer.status,
        "refused": refused.detail,
    }))
"""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with started(tmp_path_factory.mktemp("broker")) as relay:
        yield relay


def test_has_no_fault_that_redocly_knows(node_modules: Path) -> None:
    """Most tools that read OpenAPI stumble over what it calls an error."""
    linted = run(str(node_modules / ".bin" / "redocly"), "lint", str(DOCUMENT), cwd=TYPESCRIPT)

    assert "Your API description is valid" in linted


@pytest.mark.skipif(
    importlib.util.find_spec("openapi_python_client") is None, reason="needs Python 3.11 or later"
)
def test_a_client_in_python(relay: Relay, tmp_path: Path) -> None:
    """It calls, hands over, waits, and reads what became of a request."""
    generate = ("-m", "openapi_python_client", "generate", "--path", str(DOCUMENT))
    run(sys.executable, *generate, "--output-path", str(tmp_path / "client"), "--meta", "setup")

    printed = run(sys.executable, "-c", PYTHON, *urls(relay), cwd=tmp_path / "client")

    assert_called(json.loads(printed))


def test_a_client_in_typescript(relay: Relay, node_modules: Path) -> None:
    """The same in TypeScript, which is checked against the types before it runs."""
    binaries = node_modules / ".bin"
    generated = str(TYPESCRIPT / "api.d.ts")
    run(str(binaries / "openapi-typescript"), str(DOCUMENT), "-o", generated)
    run(str(binaries / "tsc"), "--project", str(TYPESCRIPT))

    printed = run("node", "calls.js", *urls(relay), cwd=TYPESCRIPT)

    assert_called(json.loads(printed))


def urls(relay: Relay) -> tuple[str, str]:
    ports = relay.ports
    return f"http://localhost:{ports['GATEWAY']}", f"http://localhost:{ports['SAMPLE_API']}"


def run(*command: str, cwd: Path = REPOSITORY) -> str:
    """Run a command, which must succeed, and return what it prints."""
    env = {"PATH": os.environ["PATH"], "REDOCLY_TELEMETRY": "off"}
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def assert_called(told: dict[str, object]) -> None:
    sync = json.loads(cast("str", told["sync"]))
    status, body = cast("list[object]", told["waited"])
    waited = json.loads(cast("str", body))
    assert (sync["method"], sync["path"], sync["body"]) == ("GET", "/sync_tasks/7", '{"type":"10"}')
    assert sync["headers"]["X-Number"] == "7"
    assert (status, waited["method"], waited["body"]) == (200, "POST", '{"type":"10"}')
    assert told | {"sync": 0, "waited": 0} == {
        "sync": 0,
        "accepted": 202,
        "waited": 0,
        "status": "completed",
        "answer": 200,
        "refused": "there is no request with this id, or it was too long ago",
    }


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """Install what package-lock.json pins, once."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    installed = TYPESCRIPT / "node_modules"
    if not (installed / ".package-lock.json").exists():
        run("npm", "ci", "--no-audit", "--no-fund", cwd=TYPESCRIPT)
    return installed
