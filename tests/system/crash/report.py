"""What a run is judged by: the counts, the bounds, the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Without a state that outlives the processes, and with one. How many calls are in flight at the
# moment of a kill is chance, so that single runs differ; together they must keep to the last.
MAX_DUPLICATES = 0.01
MAX_DUPLICATES_KILLED = 0.05
MAX_DUPLICATES_SHARED = 0.0
MAX_DUPLICATES_SHARED_KILLED = 0.01
MAX_DUPLICATES_SHARED_TOGETHER = 0.003


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The counts of one run; events are counted unless it says otherwise.

    Attributes:
        state: where what becomes of requests was kept.
        kills: processes that were killed.
        published: what the run set out to publish.
        accepted: answered with 202.
        delivered: the target gave a final answer (2xx or 404), and its result event arrived.
        dead_lettered: a dead letter arrived, or the event of a dead request.
        lost: accepted, and neither delivered nor dead-lettered.
        unseen: accepted, and the target was never called for them; poison apart.
        wrongly_dead: dead-lettered although an attempt that the relay makes would have been
            answered finally, or for another reason than the one planned.
        duplicates: final answers after the first one for an event; answers are counted.
        untold: callers who asked for a callback, whose request ended, and who were not called.
        wrong_keys: calls whose Idempotency-Key was not the event's id.
        poison_retried: poison events that Receive refused more often than they were published.
        calls: of the target.
        failed_calls: of these, the ones that failed, as planned.
        duration_s: from the first event until the Broker had nothing left to deliver.
    """

    seed: int
    state: str
    kills: int
    published: int
    accepted: int
    delivered: int
    dead_lettered: int
    lost: int
    unseen: int
    wrongly_dead: int
    duplicates: int
    untold: int
    wrong_keys: int
    poison_retried: int
    calls: int
    failed_calls: int
    duration_s: float

    def broken_bounds(self) -> list[str]:
        """Say which promises the run broke; empty when it kept them all."""
        bounds = {
            "not accepted": (self.published - self.accepted, 0),
            "lost": (self.lost, 0),
            "acknowledged but unseen": (self.unseen, 0),
            "wrongly dead-lettered": (self.wrongly_dead, 0),
            "with another Idempotency-Key": (self.wrong_keys, 0),
            "poison retried": (self.poison_retried, 0),
            "callbacks not delivered": (self.untold, 0),
            "duplicates": (self.duplicates, int(self.accepted * self._max_duplicates())),
        }
        return [
            f"seed {self.seed}, {self.state}, {self.kills} kills:"
            f" {count} {name}, at most {most} allowed"
            for name, (count, most) in bounds.items()
            if count > most
        ]

    def _max_duplicates(self) -> float:
        if self.state == "memory":
            return MAX_DUPLICATES_KILLED if self.kills else MAX_DUPLICATES
        return MAX_DUPLICATES_SHARED_KILLED if self.kills else MAX_DUPLICATES_SHARED


def broken_together(reports: Iterable[Report]) -> list[str]:
    """Say whether the runs with kills and a shared state had too many duplicates together."""
    runs = [each for each in reports if each.kills and each.state != "memory"]
    duplicates = sum(each.duplicates for each in runs)
    most = int(sum(each.accepted for each in runs) * MAX_DUPLICATES_SHARED_TOGETHER)
    if duplicates <= most:
        return []
    return [f"all runs with kills: {duplicates} duplicates, at most {most} allowed"]


_HEADINGS = (
    "seed",
    "state",
    "kills",
    "accepted",
    "delivered",
    "dead-lettered",
    "lost",
    "unseen",
    "wrongly dead-lettered",
    "duplicates",
    "callbacks not delivered",
    "other key",
    "poison retried",
    "calls",
    "failed calls",
    "seconds",
)


def table(reports: Iterable[Report]) -> str:
    """Write the counts as a Markdown table, one run a row."""
    rows = [
        _HEADINGS,
        ("---:",) * len(_HEADINGS),
        *(
            (
                str(each.seed),
                each.state,
                str(each.kills),
                str(each.accepted),
                str(each.delivered),
                str(each.dead_lettered),
                str(each.lost),
                str(each.unseen),
                str(each.wrongly_dead),
                f"{each.duplicates} ({each.duplicates / max(each.accepted, 1):.2%})",
                str(each.untold),
                str(each.wrong_keys),
                str(each.poison_retried),
                str(each.calls),
                f"{each.failed_calls} ({each.failed_calls / max(each.calls, 1):.1%})",
                f"{each.duration_s:.0f}",
            )
            for each in reports
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
