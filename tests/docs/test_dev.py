"""`./dev` says in one line what is wrong and what to do, and starts nothing then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, free_port


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with `dev` alone, in which nothing has been installed."""
    shutil.copy(REPOSITORY / "dev", tmp_path)
    return tmp_path


def dev(clone: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["./dev", *arguments],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "HOME": str(clone), "PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
    )


def failed(clone: Path, *arguments: str, **env: str) -> str:
    """Run `./dev`, which fails, and return what it says."""
    ran = dev(clone, *arguments, **env)
    assert ran.returncode == 1
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("command", ["up", "test"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_starts_nothing(clone: Path, command: str, option: str) -> None:
    """`./dev up --help` tells what can be set."""
    ran = dev(clone, command, option)

    assert ran.returncode == 0
    assert ran.stdout.startswith("./dev up")
    assert ("GATEWAY_PORT=9080 ./dev up" in ran.stdout) == (command == "up")
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start"], "there is no ./dev start; ./dev lists the commands\n"),
        (
            ["up", "--port=1"],
            "./dev up takes no arguments, not --port=1; ./dev up --help has its settings\n",
        ),
        (
            ["test", "urls"],
            "./dev test does not take urls; what comes after -- goes on: ./dev test -- urls\n",
        ),
    ],
)
def test_what_is_not_known_is_one_line(clone: Path, arguments: list[str], said: str) -> None:
    """The line names what would be right."""
    assert failed(clone, *arguments) == said
    assert not (clone / ".venv").exists()


def test_a_wrong_python_is_named(clone: Path) -> None:
    """`PYTHON` counts, and nothing else is taken for it."""
    said = failed(clone, "up", PYTHON="/nowhere/python")

    assert said == (
        "./dev needs Python 3.10 or later, and /nowhere/python is not: set PYTHON to the path of"
        " one\n"
    )


def test_another_python_is_honoured(clone: Path) -> None:
    """An environment of another Python than `PYTHON` does not count as made."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in ("nox", "python"):
        (clone / ".venv" / "bin" / name).write_text("#!/bin/sh\necho another\n")
        (clone / ".venv" / "bin" / name).chmod(0o755)

    failed(
        clone, "lint", PYTHON=sys.executable, PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0"
    )

    assert (clone / ".venv" / "pyvenv.cfg").exists()


def test_a_python_without_venv_is_named(clone: Path) -> None:
    """Debian's has none unless it is asked for."""
    python = clone / "python"
    python.write_text('#!/bin/sh\n[ "$1" != -m ] || { echo; echo no ensurepip; exit 1; }\n')
    python.chmod(0o755)

    said = failed(clone, "up", PYTHON=str(python))

    assert said == (
        f"./dev needs Python's venv module, which {python} lacks; Debian and Ubuntu:"
        " apt-get install python3-venv\n"
    )


def test_no_network_is_one_line(clone: Path) -> None:
    """What pip says is kept for those who want to know."""
    nowhere = f"http://127.0.0.1:{free_port()}/simple"

    said = failed(clone, "up", PIP_INDEX_URL=nowhere, PIP_RETRIES="0", PIP_CONFIG_FILE="/dev/null")

    assert said == (
        "./dev cannot install nox: it needs the network, or a package index that pip knows;"
        " pip's words are in .venv/log\n"
    )
    assert "nox" in (clone / ".venv" / "log").read_text()
