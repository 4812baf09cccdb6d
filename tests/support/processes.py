"""Real processes for the tests: start one, wait for what it does, stop it and all it started."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from local import process
from local.ports import free_port as free_port  # for the tests, beside what they need with it
from local.process import REPOSITORY as REPOSITORY
from local.process import clean_environment

INHERITED = ("COVERAGE_PROCESS_CONFIG", *process.INHERITED)

_POLL_INTERVAL_S = 0.02
# The stack may wait for two of its parts that are busy, 8 s each.
_STOP_TIMEOUT_S = 30.0

T = TypeVar("T")


def is_listening(port: int) -> bool:
    """Tell whether a connection to the port of 127.0.0.1 is accepted."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Poll until the condition is truthy.

    Args:
        condition: Called again and again; what it returns is handed back once it is truthy.
        timeout_s: Seconds until the wait is given up.
        what: What is waited for, for the error's text.

    Raises:
        AssertionError: The condition stayed falsy.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}, in vain")
        time.sleep(_POLL_INTERVAL_S)


class Process(process.Process):
    """A running command that keeps all of its output."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Start the command; `running` is the usual way, since it also stops it."""
        super().__init__(" ".join(command), command, env=env, cwd=cwd, kept_lines=None)

    def wait_for_output(self, text: str, timeout_s: float = 15.0) -> None:
        """Wait until the text has been printed.

        Raises:
            ProcessError: It was not printed in time, or the command ended without it.
        """
        self.wait_for(lambda: text in self.output, timeout_s, f"the output {text!r}")


@contextmanager
def running(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    ready_url: str | None = None,
    ready_output: str | None = None,
    timeout_s: float = 15.0,
) -> Iterator[Process]:
    """Run a command while the block runs, then end it by SIGTERM and its group by SIGKILL.

    Args:
        command: The program and its arguments.
        env: Variables added to those of `clean_environment`.
        cwd: The working directory, the repository by default.
        ready_url: The block starts once a GET of this URL is answered.
        ready_output: The block starts once this text has been printed.
        timeout_s: Seconds until it must be ready.
    """
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = Process(command, {**clean_environment(os.environ), **base, **(env or {})}, cwd)
    try:
        if ready_output is not None:
            process.wait_for_output(ready_output, timeout_s)
        if ready_url is not None:
            process.wait_until_ready(ready_url, timeout_s)
        yield process
        if process.exit_code is None:
            process.stop(_STOP_TIMEOUT_S)
    finally:
        process.kill()


def python(*arguments: str) -> list[str]:
    """Make the command that runs the interpreter of the tests with these arguments."""
    return [sys.executable, *arguments]
