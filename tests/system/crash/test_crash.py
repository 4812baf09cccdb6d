"""Nothing that Send accepted is lost when the relay's processes are killed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.support.processes import python, running
from tests.system.crash.plan import Fate, Plan, is_hopeless, is_poison
from tests.system.crash.report import Report, broken_together, table

KEPT = Report(
    seed=7,
    state="memory",
    kills=4,
    published=100,
    accepted=100,
    delivered=98,
    dead_lettered=2,
    lost=0,
    unseen=0,
    wrongly_dead=0,
    duplicates=4,
    untold=0,
    wrong_keys=0,
    poison_retried=0,
    calls=125,
    failed_calls=25,
    duration_s=9.7,
)


@pytest.mark.parametrize("state", ["sqlite", "redis"])
def test_the_short_form_keeps_every_bound(state: str) -> None:
    """Send, the Broker, Receive's two processes and the state are killed once; all bounds hold."""
    if state == "redis" and shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    with running(python("-m", "tests.system.crash", "--quick", "--state", state)) as process:
        exit_code = process.wait(110)

    assert exit_code == 0, process.output
    assert "Every bound was kept." in process.output


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"accepted": 99}, "1 not accepted, at most 0 allowed"),
        ({"lost": 1}, "1 lost, at most 0 allowed"),
        ({"unseen": 1}, "1 acknowledged but unseen, at most 0 allowed"),
        ({"wrongly_dead": 1}, "1 wrongly dead-lettered, at most 0 allowed"),
        ({"wrong_keys": 1}, "1 with another Idempotency-Key, at most 0 allowed"),
        ({"poison_retried": 1}, "1 poison retried, at most 0 allowed"),
        ({"untold": 1}, "1 callbacks not delivered, at most 0 allowed"),
        ({"duplicates": 6}, "6 duplicates, at most 5 allowed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_broken_bound_is_told(change: dict[str, Any], problem: str) -> None:
    """Each promise has its own line; the exit code of the run follows from these."""
    assert replace(KEPT, **change).broken_bounds() == [f"seed 7, memory, 4 kills: {problem}"]


def test_without_kills_one_event_in_a_hundred_may_be_delivered_twice() -> None:
    """A run in which nobody dies has the stricter bound for duplicates."""
    report = replace(KEPT, kills=0, duplicates=2)

    assert KEPT.broken_bounds() == []
    assert report.broken_bounds() == ["seed 7, memory, 0 kills: 2 duplicates, at most 1 allowed"]


def test_with_a_shared_state_next_to_nothing_is_done_twice() -> None:
    """Nothing without kills; with them 1 % in a run, and 0.3 % in all."""
    report = replace(KEPT, state="redis", accepted=1000, published=1000, duplicates=10)
    other = replace(report, state="sqlite", accepted=3000, duplicates=2)

    assert report.broken_bounds() == broken_together([report, other, KEPT]) == []
    assert len(replace(report, duplicates=11).broken_bounds()) == 1
    assert len(replace(report, kills=0, duplicates=1).broken_bounds()) == 1
    assert broken_together([report, replace(other, duplicates=3)]) == [
        "all runs with kills: 13 duplicates, at most 12 allowed"
    ]


def test_the_table_has_one_row_a_run() -> None:
    """Counts stand as they are, duplicates and failed calls with their share."""
    heading, rule, row = table([KEPT]).splitlines()

    assert heading.count("|") == rule.count("|") == row.count("|")
    assert row == (
        "| 7 | memory | 4 | 100 | 98 | 2 | 0 | 0 | 0 | 4 (4.00%) | 0 | 0 | 0"
        " | 125 | 25 (20.0%) | 10 |"
    )


def test_a_fifth_of_the_calls_fail_in_every_way() -> None:
    """The plan is what it says it is, and the same each time."""
    plan = Plan(seed=1, events=1000)
    calls = [(each, call) for each in plan.event_ids() for call in (1, 2)]
    fates = [plan.fate(*call) for call in calls if not is_hopeless(call[0])]

    assert set(fates) == set(Fate)
    assert 0.18 < sum(fate is not Fate.OK for fate in fates) / len(fates) < 0.22
    assert [Plan(seed=1, events=1000).fate(*call) for call in calls] == [
        plan.fate(*call) for call in calls
    ]


def test_only_what_can_never_succeed_has_to_die() -> None:
    """Hopeless and poison events exhaust all attempts, and nothing else does."""
    plan = Plan(seed=1, events=1000)
    doomed = {each for each in plan.event_ids() if plan.must_die(each)}

    assert doomed == {each for each in plan.event_ids() if is_hopeless(each) or is_poison(each)}
    assert len(doomed) == 10
