"""The state: one set of promises, kept by memory, files and Redis alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay import state as state_module
from relay.problems import StateUnavailable
from relay.state import State
from tests.support.processes import free_port, wait_until
from tests.support.redis import redis_server


@pytest.fixture(params=["memory", "file", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://"
    elif request.param == "file":
        yield f"file://{tmp_path}/state"
    else:
        with redis_server(tmp_path) as redis_url:
            yield redis_url


def test_a_fact_is_kept(url: str) -> None:
    """What was set is read again, as JSON has it."""
    state = State(url, 60)

    state.set("a:result", {"status": 200, "headers": {"X": ["ü"]}, "body": None})

    assert state.get("a:result") == {"status": 200, "headers": {"X": ["ü"]}, "body": None}
    assert state.get("b:result") is None


def test_a_fact_is_added_once(url: str) -> None:
    """Of two that add the same fact, one is told that it did."""
    state = State(url, 60)

    assert state.add("a", {"n": 1})
    assert not state.add("a", {"n": 2})
    assert state.get("a") == {"n": 1}


def test_a_deleted_fact_can_be_added_again(url: str) -> None:
    """Deleting is forgetting, whether there was something or not."""
    state = State(url, 60)
    state.add("a", 1)

    state.delete("a")
    state.delete("a")

    assert state.add("a", 2)


def test_counts_from_many_threads_are_all_counted(url: str) -> None:
    """A counter misses none, and each is told another number."""
    state = State(url, 60)
    numbers: list[int] = []

    def count() -> None:
        numbers.extend(state.count("a:attempts") for _ in range(25))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(1, 101))
    assert state.get("a:attempts") == 100


def test_a_fact_is_forgotten_after_its_time(url: str) -> None:
    """After the TTL there is nothing, and another may be added."""
    state = State(url, 1)
    state.set("a", 1)

    wait_until(lambda: state.get("a") is None, 5, "the end of the fact's time")

    assert state.add("a", 2)


def test_two_processes_share_files(tmp_path: Path) -> None:
    """What one State over a folder writes, another over the same folder reads."""
    one, other = (State(f"file://{tmp_path}/state", 60) for _ in range(2))

    one.set("a", 1)

    assert other.get("a") == 1
    assert not other.add("a", 2)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all facts together grow too large, the oldest go; a fact written again is new."""
    monkeypatch.setattr(state_module, "_MEMORY_BYTES", 1000)
    state = State("memory://", 60)
    state.set("first", "x" * 300)
    state.set("second", "x" * 300)
    state.set("first", "y" * 300)

    state.set("third", "x" * 300)
    state.set("fourth", "x" * 300)

    assert state.get("second") is None
    assert state.get("first") == "y" * 300
    assert state.get("fourth") == "x" * 300


def test_a_cache_that_is_not_there_is_an_error() -> None:
    """An unreachable Redis is never taken for an empty one."""
    state = State(f"redis://127.0.0.1:{free_port()}", 60)

    operations: tuple[Callable[[], object], ...] = (
        lambda: state.get("a"),
        lambda: state.set("a", 1),
        lambda: state.add("a", 1),
        lambda: state.count("a"),
        lambda: state.delete("a"),
    )
    for operation in operations:
        with pytest.raises(StateUnavailable) as raised:
            operation()
        assert raised.value.detail == "the state cannot be reached (STATE_URL)"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A write that failed is never taken for one that was done."""
    state = State(f"file://{tmp_path}/state", 60)
    folder = tmp_path / "state"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    with pytest.raises(StateUnavailable):
        state.set("a", 1)
