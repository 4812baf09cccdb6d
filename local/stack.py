"""The supervisor: starts every part of the stack, and stops all of them when one or the user ends.

A second Ctrl-C kills what has not stopped yet. Should the supervisor itself be killed, the watchdog
ends the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from local.process import Child, Console, Part, StartError

# More than the servers take for their own graceful end, so that only a stuck one is killed.
_GRACE_S = 8.0


class Stack:
    """The parts, in stages: those of one stage start together, when those before are ready."""

    def __init__(self, stages: Sequence[Sequence[Part]], console: Console) -> None:
        """Set what to run."""
        self._stages = stages
        self._console = console
        self._children: list[Child] = []
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ended_by: Child | None = None
        names = [part.name for stage in stages for part in stage]
        for name in names:
            console.add(name, max(map(len, names)))

    async def run(self, welcome: str) -> int:
        """Run everything until a signal, or until a part ends.

        Args:
            welcome: Shown when all parts are ready.

        Returns:
            The exit code: 0 after a signal, 1 when a part ended or did not become ready.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)
        watchdog = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.watchdog"),
            cwd=Path(__file__).parent.parent,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        failure = ""
        try:
            for stage in self._stages:
                await self._start(stage, watchdog)
            if not self._ending.is_set():
                self._console.write(welcome)
            await self._ending.wait()
        except StartError as exc:
            failure = f"{exc}\n"
        finally:
            await self._stop()
            watchdog.kill()
            await watchdog.wait()
        if self._ended_by is not None:
            failure = self._ended_by.describe_exit()
        self._console.write(failure or "Stopped.\n")
        return 1 if failure else 0

    async def _start(self, stage: Sequence[Part], watchdog: asyncio.subprocess.Process) -> None:
        started = []
        for part in stage:
            if self._ending.is_set():
                return
            child = await Child.start(part, self._console)
            child.exited.add_done_callback(partial(self._note_exit, child))
            cast(asyncio.StreamWriter, watchdog.stdin).write(f"{child.group}\n".encode())
            self._children.append(child)
            started.append(child)
        await self._unless_ending(asyncio.gather(*(child.wait_until_ready() for child in started)))

    async def _unless_ending(self, waiting: Awaitable[object]) -> None:
        task = asyncio.ensure_future(waiting)
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _end(self) -> None:
        if self._ending.is_set():
            self._hurry.set()
        else:
            self._console.write("\nStopping; Ctrl-C again to hurry.\n")
            self._ending.set()

    def _note_exit(self, child: Child, _: asyncio.Task[int]) -> None:
        if not self._ending.is_set():
            self._ended_by = child
            self._ending.set()

    async def _stop(self) -> None:
        """Stop in the order of the calls, so that no part calls one that is gone already."""
        self._ending.set()
        for child in reversed(self._children):
            await child.stop(_GRACE_S, self._hurry)
