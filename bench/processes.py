"""The processes of a case: each on its core, watched until it answers, ended whatever happens."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.ports import HOST
from local.process import REPOSITORY, Process, ProcessError, clean_environment

_READY_TIMEOUT_S = 30.0
_POLL_S = 0.001


class BenchError(Exception):
    """What keeps the benchmark from measuring; the message is for whoever runs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """Where processes run, so that the load never takes time from what is measured.

    Attributes:
        server: of what is measured.
        others: of the load, the target and whatever else takes part.
    """

    server: frozenset[int]
    others: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """For what is measured as a whole, many servers at once."""
        return self.server | self.others

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Give the server a core of its own; a machine of one core shares it.

        Raises:
            BenchError: The system cannot tell, or bind a process to a core.
        """
        if not hasattr(os, "sched_getaffinity") or not Path("/proc/self/smaps_rollup").exists():
            raise BenchError("the benchmark needs Linux: cores and costs are read from its /proc")
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(server=frozenset([first]), others=frozenset(rest or [first]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A process that answers HTTP, and all that it has started.

    Attributes:
        pid: Also the session of all its processes.
        started_s: Seconds from its start to its first answer.
    """

    name: str
    port: int
    pid: int
    started_s: float

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{HOST}:{self.port}"


class Lab:
    """What one case starts, in a folder of its own, until the `with` block ends."""

    def __init__(self, cores: Cores) -> None:
        """Start nothing yet."""
        self.cores = cores
        self._processes: dict[int, Process] = {}

    def __enter__(self) -> Lab:
        # On the disk of the working copy: what is durable there is durable, unlike in a /tmp that
        # is memory.
        (REPOSITORY / ".local").mkdir(exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-", dir=REPOSITORY / ".local")
        self.folder = Path(self._temporary.name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        self._temporary.cleanup()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        cwd: Path = REPOSITORY,
        env: Mapping[str, str] | None = None,
        cores: frozenset[int] | None = None,
        ready_path: str = "/",
    ) -> Server:
        """Start a server and wait until it answers.

        Args:
            name: What it is called in errors.
            env: Its whole environment; what any program needs when not given.
            cores: The server's core when not given.
            ready_path: Answered with a status under 500 once it is ready.

        Raises:
            BenchError: It ends, or does not answer in time; with what it printed last.
        """
        started = time.monotonic()
        with _bound_to(cores or self.cores.server):
            process = Process(
                name,
                command,
                cwd=cwd,
                env=env or clean_environment(os.environ),
                log=self.folder / f"{name}-{port}.log",
            )
        self._processes[process.pid] = process
        url = f"http://{HOST}:{port}{ready_path}"
        try:
            process.wait_until_ready(url, _READY_TIMEOUT_S, poll_s=_POLL_S)
        except ProcessError as exc:
            raise BenchError(str(exc)) from exc
        return Server(name=name, port=port, pid=process.pid, started_s=time.monotonic() - started)

    def stop(self, server: Server) -> None:
        """End a server before the others."""
        # Not asked first: nothing of what it would tidy up is kept.
        self._processes.pop(server.pid).kill()


@contextmanager
def _bound_to(cores: frozenset[int]) -> Iterator[None]:
    """Let what the block starts run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_bound(
    command: Sequence[str], cores: frozenset[int], env: Mapping[str, str], timeout_s: float
) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        BenchError: It failed.
    """
    with _bound_to(cores):
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise BenchError(f"{' '.join(command)} failed: {output}")
    return output
