"""Starts every part of the stack, and stops all of them when one ends or the user says so."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.console import Console, readable
from local.process import Process, answers

# More than the servers take for their own graceful end, so that only a stuck one is killed.
_GRACE_S = 8.0
_READY_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 1.0
_POLL_S = 0.05


class _Stopped(Exception):
    """The stack is to stop; the message says which part has failed, and is empty on a signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What to run.

    Attributes:
        name: The prefix of its lines.
        env: The whole environment.
        ready_url: Answers with a status under 500 once the part is ready.
    """

    name: str
    command: list[str]
    cwd: Path
    env: Mapping[str, str]
    ready_url: str


class Stack:
    """The parts, in stages: a stage starts once the one before it is ready."""

    def __init__(self, stages: Sequence[Sequence[Part]], console: Console) -> None:
        self._stages = stages
        self._console = console
        self._processes: list[Process] = []
        self._signals = 0
        names = [part.name for stage in stages for part in stage]
        for name in names:
            console.add(name, max(map(len, names)))

    def run(self, welcome: str) -> int:
        """Run everything, and show the welcome when all parts are ready.

        Returns:
            The exit code: 0 after a signal, 1 when a part ended or did not become ready.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note_signal)
        failure = ""
        try:
            for stage in self._stages:
                self._start(stage)
            self._console.write(welcome)
            while True:
                self._pause()
        except _Stopped as exc:
            failure = str(exc)
        finally:
            self._stop()
        self._console.write(failure or "Stopped.\n")
        return 1 if failure else 0

    def _start(self, stage: Sequence[Part]) -> None:
        for part in stage:
            process = Process(
                part.name,
                part.command,
                env=part.env,
                cwd=part.cwd,
                show=lambda lines, name=part.name: self._console.write_lines(name, lines),  # type: ignore[misc]
            )
            self._processes.append(process)
        deadline = time.monotonic() + _READY_TIMEOUT_S
        waiting = list(stage)
        while waiting:
            self._pause()
            waiting = [part for part in waiting if not answers(part.ready_url, _PROBE_TIMEOUT_S)]
            if waiting and time.monotonic() > deadline:
                raise _Stopped(f"{waiting[0].name} does not answer {waiting[0].ready_url}\n")

    def _pause(self) -> None:
        time.sleep(_POLL_S)
        if self._signals:
            raise _Stopped
        for process in self._processes:
            if process.exit_code is not None:
                process.kill()
                shown = (readable(line, is_colored=False) for line in process.last_lines)
                raise _Stopped(
                    f"{process.name} ended ({process.ending}); its last lines:\n"
                    + "".join(f"    {text}\n" for texts in shown for text in texts)
                )

    def _note_signal(self, *_: object) -> None:
        self._signals += 1

    def _stop(self) -> None:
        """Stop in the order of the calls, so that no part calls one that is gone already."""
        if self._signals:
            self._console.write("\nStopping; Ctrl-C again to hurry.\n")
        for process in reversed(self._processes):
            if process.exit_code is None:
                process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            while process.exit_code is None and time.monotonic() < deadline and self._signals < 2:
                time.sleep(_POLL_S)
            process.kill()
