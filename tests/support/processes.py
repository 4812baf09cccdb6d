"""Real processes for the tests: start one, wait for what it does, stop it and all it started."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]

# What a program needs of the developer's environment: proxies, THREADS or K_SINK set there would
# change what a test sees.
INHERITED = ("COVERAGE_PROCESS_CONFIG", "HOME", "LANG", "PATH", "TMPDIR")

_POLL_INTERVAL_S = 0.02
_STOP_TIMEOUT_S = 15.0

_named: set[int] = set()

T = TypeVar("T")


def free_port() -> int:
    """Name a port of 127.0.0.1 on which nothing listens at the moment, each time another one.

    It is outside the range from which systems take the ports of outgoing connections: one of those
    could otherwise have it by the time that the server under test starts.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        if port not in _named and not _is_taken(port):
            _named.add(port)
            return port


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


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


class Process:
    """A running command, alone in its process group, its stdout and stderr kept together."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Start the command; `running` is the usual way, since it also stops it."""
        self.command = list(command)
        self._lines: list[str] = []
        self._popen = subprocess.Popen(
            self.command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.append(line)

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "".join(self._lines)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the command runs."""
        return self._popen.poll()

    def wait_for_output(self, text: str, timeout_s: float = 15.0) -> None:
        """Wait until the text has been printed.

        Raises:
            AssertionError: It was not printed in time, or the command ended without it.
        """

        def printed() -> bool:
            ended = self.exit_code is not None
            if ended:
                self._reader.join(_STOP_TIMEOUT_S)
            if text in self.output:
                return True
            assert not ended, self._describe(f"ended without printing {text!r}")
            return False

        try:
            wait_until(printed, timeout_s, repr(text))
        except AssertionError as exc:
            raise AssertionError(self._describe(str(exc))) from None

    def wait_for_url(self, url: str, timeout_s: float = 15.0) -> None:
        """Wait until a GET of the URL is answered with a status under 500.

        Raises:
            AssertionError: It was not answered in time, or the command ended first.
        """

        def answered() -> bool:
            assert self.exit_code is None, self._describe(f"ended before {url} answered")
            return _status_of(url) < 500

        try:
            wait_until(answered, timeout_s, url)
        except AssertionError as exc:
            raise AssertionError(self._describe(str(exc))) from None

    def wait(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """Wait until the command has ended, and return its exit code."""
        wait_until(lambda: self.exit_code is not None, timeout_s, f"the end of {self.command}")
        self._reader.join(timeout_s)
        return self._popen.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the command alone, not to its group."""
        self._popen.send_signal(number)

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """End the command by SIGTERM, wait for it and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill_group(self) -> None:
        """Kill the command and whatever it started in its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(_STOP_TIMEOUT_S)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _describe(self, problem: str) -> str:
        return f"{' '.join(self.command)}: {problem}; it printed:\n{self.output}"


def _status_of(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5.0) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 599


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
        env: Variables added to the few that are inherited (`INHERITED`).
        cwd: The working directory, the repository by default.
        ready_url: The block starts once a GET of this URL is answered.
        ready_output: The block starts once this text has been printed.
        timeout_s: Seconds until it must be ready.
    """
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = Process(command, {**base, "PYTHONUNBUFFERED": "1", **(env or {})}, cwd)
    try:
        if ready_output is not None:
            process.wait_for_output(ready_output, timeout_s)
        if ready_url is not None:
            process.wait_for_url(ready_url, timeout_s)
        yield process
        if process.exit_code is None:
            process.stop()
    finally:
        process.kill_group()


def python(*arguments: str) -> list[str]:
    """Make the command that runs the interpreter of the tests with these arguments."""
    return [sys.executable, *arguments]
