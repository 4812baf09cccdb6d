"""A program in a process group of its own: started, watched and ended with all it has started.

`./dev up`, the benchmark, the crash run and the tests start their programs here. Should one of them
be killed itself, `local.watchdog` ends what it leaves behind.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parent.parent
INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")

_LAST_LINES = 20
_READ_BYTES = 64 * 1024
_POLL_S = 0.02
_STOP_TIMEOUT_S = 15.0
_LAST_OUTPUT_TIMEOUT_S = 2.0

Show = Callable[[list[str]], None]


class ProcessError(Exception):
    """A process ended early, or did not get ready or stop in time; the message has its output."""


class Process:
    """A running program, out of reach of the terminal's Ctrl-C.

    The methods that wait raise a ProcessError when the time is up.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path = REPOSITORY,
        log: Path | None = None,
        show: Show = lambda _: None,
        kept_lines: int | None = _LAST_LINES,
    ) -> None:
        """Start the program.

        Args:
            name: Names it in errors.
            env: The whole environment.
            log: Takes the output; no thread then reads it.
            show: Called with the lines of the output; those written at once come together.
            kept_lines: How many lines `output`, without a log, and errors have; None for all.
        """
        self.name = name
        self._log = log
        self._show = show
        self._lines: deque[str] = deque(maxlen=kept_lines)
        self._reader: threading.Thread | None = None
        with log.open("ab") if log else nullcontext() as file:
            self._popen = subprocess.Popen(  # noqa: S603 (the caller's own command)
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file or subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _tell_watchdog(f"+{self.pid}")
        if log is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while the program runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """What the program has printed, as far as it is kept."""
        if self._log is not None:
            return self._log.read_text(encoding="utf-8", errors="replace")
        return "".join(f"{line}\n" for line in list(self._lines))

    @property
    def last_lines(self) -> list[str]:
        return self.output.splitlines()[-(self._lines.maxlen or 0) :]

    @property
    def ending(self) -> str:
        """How the program has ended."""
        status = self._popen.wait()
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def wait_for(
        self, condition: Callable[[], bool], timeout_s: float, what: str, *, poll_s: float = _POLL_S
    ) -> None:
        """Poll until the condition holds; that the program ends first is an error too."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.exit_code is not None:
                self._join_reader()  # what was printed last may be what is waited for
                if condition():
                    return
                raise self._error(f"ended ({self.ending}) before {what}")
            if time.monotonic() > deadline:
                raise self._error(f"did not get to {what} in {timeout_s:g} s")
            time.sleep(poll_s)

    def wait_until_ready(self, url: str, timeout_s: float, *, poll_s: float = _POLL_S) -> None:
        self.wait_for(lambda: answers(url), timeout_s, f"an answer of {url}", poll_s=poll_s)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, not to its group."""
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """Wait for the end of the program and return its exit code."""
        try:
            status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._error(f"did not end in {timeout_s:g} s") from None
        self._join_reader()
        return status

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """End the program by SIGTERM and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Kill what is left of the process group, also after the program itself has ended."""
        # macOS denies the signal to a group of which only zombies are left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        _tell_watchdog(f"-{self.pid}")
        self._join_reader()
        if self._popen.stdout is not None and not (self._reader and self._reader.is_alive()):
            self._popen.stdout.close()

    def _read(self) -> None:
        output = cast("IO[bytes]", self._popen.stdout).fileno()
        rest = b""
        while piece := os.read(output, _READ_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _READ_BYTES:
                lines, rest = [*lines, rest], b""
            self._take(lines)
        self._take([rest] if rest else [])

    def _take(self, lines: list[bytes]) -> None:
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        self._lines.extend(texts)
        self._show(texts)

    def _join_reader(self) -> None:
        # Not for ever: what left the group could hold the other end of the pipe.
        if self._reader is not None:
            self._reader.join(_LAST_OUTPUT_TIMEOUT_S)

    def _error(self, problem: str) -> ProcessError:
        lines = [f"{self.name} {problem}; its output:", *self.last_lines]
        return ProcessError("\n    ".join(lines))


def answers(url: str, timeout_s: float = 5.0) -> bool:
    """Tell whether a GET of an http URL is answered with a status under 500."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        answer.read()  # closed before, the connection would be reset, and its server may say so
    except (OSError, http.client.HTTPException):
        return False
    else:
        return answer.status < 500
    finally:
        connection.close()


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Reduce an environment to what any program needs.

    A proxy, THREADS or K_SINK that the user has set for another purpose would change what runs.
    """
    inherited = {name: env[name] for name in INHERITED if name in env}
    return {**inherited, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


@functools.cache
def _watchdog() -> subprocess.Popen[bytes]:
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "local.watchdog"],
        cwd=REPOSITORY,
        bufsize=0,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    atexit.register(watchdog.communicate)
    return watchdog


def _tell_watchdog(line: str) -> None:
    with suppress(BrokenPipeError):  # it was killed: what runs goes on without it
        cast("IO[bytes]", _watchdog().stdin).write(f"{line}\n".encode())
