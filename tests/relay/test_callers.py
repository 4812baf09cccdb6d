"""The threads that serve callers."""

from __future__ import annotations

import queue
import threading

from relay.callers import Threads
from tests.support.processes import wait_until


class Work:
    """Jobs that end when they are told to."""

    def __init__(self, most: int) -> None:
        self.begun: queue.Queue[str] = queue.Queue()
        self.end = threading.Semaphore(0)
        self.threads: Threads[int] = Threads(most, self._do)

    def _do(self, job: int) -> None:
        self.begun.put(str(job))
        assert self.end.acquire(timeout=10)


def test_a_thread_starts_when_all_others_are_at_work() -> None:
    """No more than may be, and the same ones serve what comes later."""
    work = Work(2)
    for job in range(5):
        work.threads.submit(job)
    first = {work.begun.get(timeout=10) for _ in range(2)}
    assert first == {"0", "1"}
    assert work.begun.empty()
    work.end.release(5)
    rest = [work.begun.get(timeout=10) for _ in range(3)]

    assert sorted(rest) == ["2", "3", "4"]


def test_threads_are_missing_when_callers_hold_them_and_others_wait() -> None:
    """Half of them may stand still for callers; more may, while nothing waits."""
    work = Work(2)
    for job in range(2):
        work.threads.submit(job)
        work.begun.get(timeout=10)
    with work.threads.stands_still(), work.threads.stands_still():
        assert not work.threads.are_missing

        work.threads.submit(2)
        assert work.threads.are_missing
    assert not work.threads.are_missing
    work.end.release(3)
    wait_until(lambda: not work.begun.empty(), 10, "the last")
