"""`python -m local`, as `./dev up` runs it: what it says before it starts, and when it is ready."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.calls import call
from tests.support.processes import REPOSITORY, free_port, python, running
from tests.support.stack import PARTS, started


def free_ports() -> dict[str, str]:
    return {f"{part}_PORT": str(free_port()) for part in PARTS}


def refused(**env: str) -> str:
    """Run it with these variables, which it does not take, and return what it says."""
    with running(python("-m", "local"), env=free_ports() | env) as process:
        assert process.wait() == 1
    return process.output


def test_a_bad_setting_is_one_line(tmp_path: Path) -> None:
    """Nothing is started for it."""
    said = refused(TARGET_TIMEOUT_S="soon", BROKER_DATA_DIR=str(tmp_path))

    assert said == "TARGET_TIMEOUT_S must be a number of seconds above 0, at most 86400\n"


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """The folder is named."""
    (tmp_path / "file").touch()

    said = refused(BROKER_DATA_DIR=str(tmp_path / "file"))

    assert said == f"{tmp_path}/file: File exists\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_a_stack_with_a_token_and_ports_of_its_own(tmp_path: Path) -> None:
    """The commands that it prints work as they stand; a second one keeps out of its folder."""
    token = "a-token-of-20-letters"
    with started(tmp_path, settings={"API_TOKEN": f"{token} another-token-of-mine"}) as relay:
        said = refused(BROKER_DATA_DIR=str(tmp_path))
        commands = re.findall(r"(?m)^  (.*curl .*)$", relay.process.output)
        answers = [
            subprocess.run(
                ["sh", "-c", command],
                cwd=REPOSITORY,
                env={"PATH": "/usr/bin:/bin", "API_TOKEN": f"{token} another"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for command in commands
        ]
        relay.wait_for_event("  type: dev.knative.samples.t2.callback")
        strayed = call("POST", f"http://localhost:{relay.ports['BROKER']}/sync", "{}")
        page = re.search(r"page +(\S+)", relay.process.output)
        assert page is not None
        assert call("GET", page[1]).status == 200

    assert said == (
        f"another stack keeps its data in {tmp_path}: stop it, or set BROKER_DATA_DIR to another"
        " folder\n"
    )
    assert strayed.status == 404
    assert strayed.body == (
        b"Not Found: the Broker takes events by POST to /NAMESPACE/BROKER; calls go to Send\n"
    )
    echo, accepted = map(json.loads, answers)
    assert echo["path"] == "/sync_tasks/abcdevflake"
    assert accepted["status"] == "accepted"
