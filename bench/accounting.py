"""What a server has used, from the kernel's accounts of all its processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat (proc(5)), counted from the one after the name.
_SESSION, _UTIME, _STIME = 3, 11, 12
_SAMPLE_INTERVAL_S = 0.2


def cpu_s(session: int) -> float:
    """Return the CPU time, user and system, that the processes of a session have used.

    From /proc/PID/stat, which is exact to a clock tick (mostly 10 ms) and keeps what threads have
    used that are gone; /proc/PID/task/*/schedstat is finer, and forgets them.
    """
    ticks = sum(int(stat[_UTIME]) + int(stat[_STIME]) for _, stat in _processes(session))
    return ticks / _TICKS_PER_S


def memory_bytes(session: int) -> int:
    """Return the memory of the processes of a session, each page once.

    What each process has for itself, and the largest part that is shared: what a worker shares
    with the master that it was forked from is in memory once, and a pod is charged for it once.
    Pages shared with programs outside, such as the C library's, count in full.
    """
    private_bytes, shared_bytes = 0, [0]
    for pid, _ in _processes(session):
        kilobytes: dict[str, int] = {}
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, value = line.split(":")
                kilobytes[name] = int(value.split()[0])
            private_bytes += 1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"])
            shared_bytes.append(1024 * (kilobytes["Shared_Clean"] + kilobytes["Shared_Dirty"]))
    return private_bytes + max(shared_bytes)


def _processes(session: int) -> Iterator[tuple[int, list[str]]]:
    """Name each process of a session, with the fields of its stat after the name."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name, in parentheses, may hold spaces and parentheses itself.
            stat = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if int(stat[_SESSION]) == session:
                yield int(entry.name), stat


class PeakMemory:
    """The most memory that the processes of a session have while the `with` block runs.

    Attributes:
        before_bytes: What they had at its start.
        peak_bytes: The most, looked at a few times a second: each look holds them up a little.
    """

    def __init__(self, session: int) -> None:
        """Look once."""
        self._session = session
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self.before_bytes = self.peak_bytes = memory_bytes(session)

    def __enter__(self) -> PeakMemory:
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()
        self._look()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, memory_bytes(self._session))
