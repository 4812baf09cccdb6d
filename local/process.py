"""A part of the stack as a process: started, watched, its output shown, stopped for good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

import httpx

from local.lines import readable

LAST_LINES = 20

_READ_BYTES = 64 * 1024
_READY_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.05
_LAST_OUTPUT_TIMEOUT_S = 2.0
_COLORS = (36, 33, 32, 35, 34, 31)


class StartError(Exception):
    """A part that does not become ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What to run, and how to tell that it is ready.

    Attributes:
        name: The prefix of its lines.
        command: The program and its arguments.
        cwd: The working directory.
        env: The whole environment.
        ready_url: Answered with a status under 400 once it is ready.
        ready_headers: Sent with that request.
    """

    name: str
    command: list[str]
    cwd: Path
    env: Mapping[str, str]
    ready_url: str
    ready_headers: Mapping[str, str] = field(default_factory=dict)


class Console:
    """The terminal that all parts share: each line with the name of its part, coloured on a TTY."""

    def __init__(self, stream: TextIO, *, is_colored: bool) -> None:
        """Write to the stream."""
        self._stream = stream
        self._is_colored = is_colored
        self._prefixes: dict[str, str] = {}

    @classmethod
    def on(cls, stream: TextIO, env: Mapping[str, str]) -> Console:
        """Write to a stream, coloured where that is a terminal and NO_COLOR is not set."""
        return cls(stream, is_colored=stream.isatty() and not env.get("NO_COLOR"))

    def add(self, name: str, width: int) -> None:
        """Choose how the lines of a part begin."""
        prefix = f"{name:<{width}} |"
        if self._is_colored:
            color = _COLORS[len(self._prefixes) % len(_COLORS)]
            prefix = f"\x1b[{color}m{prefix}\x1b[0m"
        self._prefixes[name] = prefix

    def write_lines(self, name: str, lines: list[str]) -> None:
        """Write what a part has printed, together; its log lines as people like to read them."""
        prefix = self._prefixes[name]
        shown = (text for line in lines for text in readable(line, is_colored=self._is_colored))
        self.write("".join(f"{prefix} {text}\n" for text in shown))

    def write(self, text: str) -> None:
        """Write text of the supervisor itself."""
        # Whoever reads the output may be gone, at a closed terminal or the end of a pipe; the
        # parts must be stopped all the same.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class Child:
    """A running part, the leader of its own process group: Ctrl-C does not reach it by itself."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process, console: Console) -> None:
        """Watch a process; `start` is the usual way."""
        self.part = part
        self.group = process.pid
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.exited = asyncio.create_task(process.wait())
        self._console = console
        self._process = process
        self._copying = asyncio.create_task(self._copy_output())

    @classmethod
    async def start(cls, part: Part, console: Console) -> Child:
        """Start a part."""
        process = await asyncio.create_subprocess_exec(
            *part.command,
            cwd=part.cwd,
            env=part.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(part, process, console)

    async def _copy_output(self) -> None:
        """Show the output line by line; what was written at once stays together."""
        output = cast(asyncio.StreamReader, self._process.stdout)
        rest = b""
        while piece := await output.read(_READ_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _READ_BYTES:
                lines, rest = [*lines, rest], b""
            self._show(lines)
        self._show([rest] if rest else [])

    def _show(self, lines: list[bytes]) -> None:
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        self.last_lines.extend(texts)
        self._console.write_lines(self.part.name, texts)

    async def wait_until_ready(self) -> None:
        """Wait until the part answers.

        Raises:
            StartError: It does not in a minute.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    headers = dict(self.part.ready_headers)
                    answer = await client.get(self.part.ready_url, headers=headers)
                    if answer.status_code < 400:
                        return
                await asyncio.sleep(_POLL_INTERVAL_S)
        raise StartError(f"{self.part.name} does not answer {self.part.ready_url}")

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """End the process and everything in its group.

        Args:
            grace_s: Seconds that it has after SIGTERM.
            hurry: Ends the grace early.
        """
        if not self.exited.done():
            self._process.terminate()
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait(
                {self.exited, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
            )
            hurried.cancel()
        # Also after a clean end: what it started may have survived it. macOS denies the signal to
        # a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)
        await self.exited
        # Not for ever: what left the group could hold the other end of the pipe.
        await asyncio.wait({self._copying}, timeout=_LAST_OUTPUT_TIMEOUT_S)

    def describe_exit(self) -> str:
        """Say how it ended, with its last lines."""
        status = self.exited.result()
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        texts = (text for line in self.last_lines for text in readable(line, is_colored=False))
        lines = "".join(f"    {text}\n" for text in texts)
        return f"{self.part.name} ended ({how}); its last lines:\n{lines}"
