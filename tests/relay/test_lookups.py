"""Look-ups: who asks the resolver, how often, and in how many threads."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from relay.leaving import Cut
from relay.lookups import Lookups
from relay.urls import Origin
from tests.support.processes import wait_until

TIMEOUT_S = 20.0


class Resolver:
    """A resolver whose answers differ each time; it answers while it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._numbers = itertools.count(1)

    def resolve(self, host: str, port: int, **kwargs: object) -> list[object]:
        self.asked.append(host)
        self.threads.add(threading.current_thread())
        assert self.may_answer.wait(TIMEOUT_S)
        if host == "missing.test":
            raise socket.gaierror(socket.EAI_NONAME, "whatever the system says")
        return [(socket.AF_INET, 1, 6, "", (f"127.0.0.{next(self._numbers)}", port))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.resolve)
    yield resolver
    resolver.may_answer.set()


def ask(lookups: Lookups, host: str = "a.test", max_age_s: float = 0.0) -> list[str]:
    origin = Origin(scheme="http", host=host, port=80)
    return [str(each) for each in lookups.addresses(origin, TIMEOUT_S, Cut(), max_age_s)]


def test_each_call_asks_anew(resolver: Resolver) -> None:
    """A socket goes to an address that was looked up for it."""
    lookups = Lookups()

    assert [ask(lookups) for _ in range(2)] == [["127.0.0.1"], ["127.0.0.2"]]


def test_an_answer_that_is_young_enough_is_taken(resolver: Resolver) -> None:
    """Who allows for an age gets the last answer, whoever asked for it, and no older one."""
    lookups = Lookups()
    ask(lookups)

    assert ask(lookups, max_age_s=60.0) == ["127.0.0.1"]
    assert ask(lookups, max_age_s=1e-9) == ["127.0.0.2"]
    assert ask(lookups, "b.test", max_age_s=60.0) == ["127.0.0.3"]


def test_a_failure_is_remembered_as_well(resolver: Resolver) -> None:
    """A name that is not there is asked for once in that time."""
    lookups = Lookups()

    for _ in range(2):
        with pytest.raises(requests.ConnectionError, match="its name was not found"):
            ask(lookups, "missing.test", max_age_s=60.0)
    assert resolver.asked == ["missing.test"]


def test_so_many_answers_are_remembered(resolver: Resolver) -> None:
    """Names that strangers make up take no more memory than the bound."""
    lookups = Lookups(most=2)

    for host in ("a.test", "b.test", "c.test", "a.test"):
        ask(lookups, host, max_age_s=60.0)

    assert resolver.asked == ["a.test", "b.test", "c.test", "a.test"]


def test_a_thread_looks_up_one_name_after_the_other(resolver: Resolver) -> None:
    """A look-up does not pay for a new thread where one is idle."""
    lookups = Lookups()

    for number in range(10):
        ask(lookups, f"{number}.test")

    assert len(resolver.threads) == 1


def test_a_name_that_hangs_holds_up_no_other(resolver: Resolver) -> None:
    """Calls for it share its thread, and an idle one is not waited for in vain."""
    lookups = Lookups()
    ask(lookups)
    resolver.may_answer.clear()
    with ThreadPoolExecutor() as callers:
        hanging = [callers.submit(ask, lookups, host) for host in ("a.test", "b.test", "b.test")]
        wait_until(lambda: len(resolver.asked) == 3, TIMEOUT_S, "two look-ups that hang")
        name = ("b.test", 80)
        wait_until(lambda: len(lookups._asked[name]) == 2, TIMEOUT_S, "both callers")
        resolver.may_answer.set()

        answers = [each.result(TIMEOUT_S) for each in hanging]

    assert len(resolver.threads) == 2
    assert answers[1] == answers[2] != answers[0]


def test_few_threads_stay(resolver: Resolver) -> None:
    """After a burst the threads end, but for a few that wait for the next name."""
    lookups = Lookups()
    resolver.may_answer.clear()
    with ThreadPoolExecutor(20) as callers:
        for number in range(20):
            callers.submit(ask, lookups, f"{number}.test")
        wait_until(lambda: len(resolver.threads) == 20, TIMEOUT_S, "a burst of look-ups")
        resolver.may_answer.set()

    def left() -> int:
        return sum(thread.is_alive() for thread in resolver.threads)

    wait_until(lambda: left() <= 4, TIMEOUT_S, "the threads to end")
    assert ask(lookups) != []
    assert left() == 4
