"""What becomes of a request after a delivery, as a table."""

from __future__ import annotations

import pytest

from relay.progress import Progress
from relay.retries import (
    Again,
    Dead,
    Retries,
    ending_of,
)

TYPE = "t"
NOW = 1_000_000.0
RETRIES = Retries(delays_s=(1, 2, 4, 8, 16), max_age_s=3600)
GIVEN_UP = Dead(too_old=False)
TOO_OLD = Dead(too_old=True)


def progress(tier: int = 0, attempts: int = 0, age_s: float = 0, wait_s: float = 0) -> Progress:
    return Progress(
        request_id="r",
        tier=tier,
        attempts=attempts,
        since_s=NOW - age_s,
        not_before_s=NOW + wait_s,
    )


def again(tier: int, wait_s: float) -> Again:
    return Again(tier=tier, not_before_s=NOW + wait_s)


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        *((status, "completed") for status in (200, 204, 299)),
        *((status, "failed") for status in (300, 304, 400, 404, 409, 424, 426, 499)),
        *((status, None) for status in (408, 425, 429, 500, 503, 599)),
    ],
)
def test_an_answer(status: int, ending: str | None) -> None:
    """What asking again would not change is an outcome."""
    assert ending_of(status) == ending


@pytest.mark.parametrize(
    ("after_s", "come", "decision"),
    [
        (None, progress(0, 1), again(1, 1)),
        (None, progress(1, 2), again(2, 2)),
        (None, progress(2, 3), again(3, 4)),
        (None, progress(3, 4), again(4, 8)),
        (None, progress(4, 5), again(5, 16)),
        (None, progress(5, 6), GIVEN_UP),
        (None, progress(5, 2), again(5, 16)),
        (0, progress(0, 1), again(1, 1)),
        (3, progress(0, 1), again(3, 3)),
        (20, progress(0, 1), again(5, 20)),
        (9999, progress(0, 1), again(5, 300)),
        (20, progress(5, 6), GIVEN_UP),
        (None, progress(0, 1, age_s=3599), again(1, 1)),
        (None, progress(0, 1, age_s=3600), TOO_OLD),
    ],
)
def test_after_a_failure(after_s: float | None, come: Progress, decision: Again | Dead) -> None:
    """A request goes on to the next tier, at most six times, or to that which waits as long."""
    assert RETRIES.after_failure(come, retry_after_s=after_s, now_s=NOW) == decision


@pytest.mark.parametrize(
    ("come", "decision"),
    [
        (progress(0), again(1, 1)),
        (progress(4, 2), again(5, 16)),
        (progress(5, 2), again(5, 16)),
        (progress(5, 0, age_s=3600), TOO_OLD),
    ],
)
def test_without_a_call(come: Progress, decision: Again | Dead) -> None:
    """What is passed on without a call is bounded by its age alone."""
    assert RETRIES.without_call(come, NOW) == decision


@pytest.mark.parametrize(
    ("come", "pause"),
    [
        (progress(0), (0, True)),
        (progress(1, 1, wait_s=-5), (0, True)),
        (progress(1, 1, wait_s=0.5), (0.5, True)),
        (progress(5, 1, wait_s=16), (16, True)),
        (progress(5, 1, wait_s=200), (16, False)),
        (progress(1, 1, wait_s=200), (1, False)),
    ],
)
def test_a_pause(come: Progress, pause: tuple[float, bool]) -> None:
    """A request waits until it is due, and never longer than its tier."""
    assert RETRIES.pause(come, NOW) == pause


def test_a_pause_ends_before_its_triggers_timeout() -> None:
    """With long delays a request goes round, and waits 20 s each time."""
    retries = Retries(delays_s=(600,), max_age_s=3600)

    assert retries.pause(progress(1, 1, wait_s=600), NOW) == (20, False)
    assert retries.early(progress(1, 1, wait_s=580), NOW) == again(1, 580)


def test_rounds_end_before_the_brokers_count_of_them() -> None:
    """A Broker drops what has come round 255 times; a request is dead before that."""
    retries = Retries(delays_s=(1,), max_age_s=3600)

    assert retries.without_call(progress(1, age_s=229), NOW) == again(1, 1)
    assert retries.without_call(progress(1, age_s=230), NOW) == TOO_OLD
