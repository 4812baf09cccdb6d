"""A process is watched, its output is kept, and nothing that it has started survives it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.process import Process, ProcessError, clean_environment
from tests.support.processes import REPOSITORY, python, wait_until

# Starts a process of its own, and tells its pid.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def started(code: str, **options: object) -> Process:
    """Start a script."""
    env = clean_environment(os.environ)
    return Process("script", python("-c", code), env=env, **options)  # type: ignore[arg-type]


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process group that sleeps."""
    command = python("-c", "import time; time.sleep(60)")
    with subprocess.Popen(command, start_new_session=True) as process:
        yield process
        process.kill()


def test_an_early_end_is_told_with_the_last_lines() -> None:
    """The error says how the program has ended, and what it said."""
    process = started("print(*range(5), sep='\\n'); raise SystemExit(3)", kept_lines=2)
    with pytest.raises(ProcessError) as error:
        process.wait_for(lambda: False, 20, "its port")
    process.kill()

    assert str(error.value) == (
        "script ended (exit status 3) before its port; its output:\n    3\n    4"
    )


def test_what_comes_too_late_is_told() -> None:
    """The error names what was waited for."""
    process = started("print('here', flush=True); import time; time.sleep(60)")
    process.wait_for(lambda: process.output == "here\n", 20, "its output")
    with pytest.raises(ProcessError) as error:
        process.wait_for(lambda: False, 0.1, "its port")
    process.kill()

    assert str(error.value) == "script did not get to its port in 0.1 s; its output:\n    here"


def test_kills_what_it_has_started() -> None:
    """The whole group goes."""
    process = started(PARENT)
    process.wait_for(lambda: process.output.endswith("\n"), 20, "the pid of its child")
    child = Path(f"/proc/{process.output.strip()}/cmdline")

    process.kill()

    wait_until(lambda: not child.exists() or child.read_bytes() == b"", 5, "the end of the child")
    assert process.exit_code == -9


def test_a_log_takes_the_output(tmp_path: Path) -> None:
    """It is appended to, and read when asked for."""
    log = tmp_path / "log"
    for text in ("one", "two"):
        process = started(f"print('{text}')", log=log)
        assert process.wait() == 0
        process.kill()

    assert process.output == "one\ntwo\n"


@pytest.mark.parametrize(("end", "is_killed"), [("", True), ("-", False)], ids=["left", "ended"])
def test_the_watchdog_kills_what_is_left(
    sleeping: subprocess.Popen[bytes], end: str, is_killed: bool
) -> None:
    """A group that has been ended may be another's by now, and is let alone."""
    lines = f"+{sleeping.pid}\n" + (f"{end}{sleeping.pid}\n" if end else "")
    subprocess.run(python("-m", "local.watchdog"), cwd=REPOSITORY, input=lines.encode(), check=True)

    if is_killed:
        assert sleeping.wait(5) == -9
    assert (sleeping.poll() is not None) == is_killed
