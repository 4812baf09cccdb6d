"""The programs of docs/clients.md, run as they stand against the stack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY
from tests.support.stack import Relay, started

DOCUMENT = (REPOSITORY / "docs" / "clients.md").read_text(encoding="utf-8")
PRINTED = "/tasks\ncompleted 200\n"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with started(tmp_path_factory.mktemp("broker")) as relay:
        yield relay


@pytest.mark.parametrize(
    ("language", "file", "command"),
    [
        ("python", "call.py", [sys.executable, "call.py"]),
        ("js", "call.mjs", ["node", "call.mjs"]),
        ("go", "call.go", ["go", "run", "call.go"]),
    ],
)
def test_a_program_prints_what_is_shown(
    relay: Relay, tmp_path: Path, language: str, file: str, command: list[str]
) -> None:
    """It calls, hands over, and follows the request to its end."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    (program,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", DOCUMENT)
    (tmp_path / file).write_text(relay.here(program), encoding="utf-8")

    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(tmp_path)),
            "PYTHONPATH": str(REPOSITORY / "client"),
        },
        capture_output=True,
        text=True,
    )

    assert ran.stderr == ""
    assert ran.stdout == PRINTED
    assert "".join(f"    {line}" for line in PRINTED.splitlines(keepends=True)) in DOCUMENT
