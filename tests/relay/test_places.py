"""Who may take a place, and who has to wait for one or go."""

from __future__ import annotations

import threading

import pytest

from relay.places import Places, at_most, fair
from tests.support.processes import wait_until


def take(places: Places, holder: str, count: int) -> int:
    """Take places until there is none, and return how many there were."""
    return sum(places.acquire(holder) is not None for _ in range(count))


def test_each_holder_has_its_own_part() -> None:
    """What one holds takes nothing from the others."""
    places = Places(at_most(3), patience_s=0)

    assert [take(places, holder, 10) for holder in "ab"] == [3, 3]


@pytest.mark.parametrize(
    ("total", "taken"), [(50, [25, 13, 6, 3, 2, 1, 0]), (1, [1, 0]), (2, [1, 1, 0])]
)
def test_the_fair_part_leaves_room(total: int, taken: list[int]) -> None:
    """The first may have half of the places, each next one half of what is left."""
    places = Places(fair(total), patience_s=0)

    assert [take(places, str(number), total) for number in range(len(taken))] == taken


def test_a_place_comes_back() -> None:
    """After the block the place is free, however it ends."""
    places = Places(at_most(1), patience_s=0)

    def fail() -> None:
        with places.take("a") as is_taken:
            assert is_taken
            with places.take("a") as is_taken_twice:
                assert not is_taken_twice
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()


def test_a_burst_waits_for_its_turn() -> None:
    """While the oldest place was taken a moment ago, the next one is waited for."""
    places = Places(at_most(1), patience_s=30)
    taken = places.acquire("a")
    assert taken is not None
    came: list[float | None] = []
    second = threading.Thread(target=lambda: came.append(places.acquire("a")))
    second.start()

    places.release("a", taken)
    second.join(10)

    assert len(came) == 1
    assert came[0] is not None


def test_behind_what_hangs_nobody_waits() -> None:
    """Once the oldest place has been held for long, the next one goes at once, and so do all."""
    places = Places(at_most(1), patience_s=0.2)
    places.acquire("a")
    came: list[float | None] = []
    others = [threading.Thread(target=lambda: came.append(places.acquire("a"))) for _ in range(5)]
    for each in others:
        each.start()

    wait_until(lambda: len(came) == 5, 10, "all five to go")

    assert came == [None] * 5
