"""A request as the page shows it, put together from what is known so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from local.display.timeline import Entry
from local.display.tries import Tries

ACCEPTED = "accepted"
RETRYING = "retrying"
DELIVERED_STATE = "delivered"
DEAD = "dead"
REFUSED = "refused"
RESULTS = ("completed", "failed")

Key = tuple[str, str]


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far one Trigger has come with the event of a request."""

    state: str = ACCEPTED
    attempts: int = 0


@dataclass(kw_only=True, slots=True)
class TrackedRequest:
    """What is known of a request.

    Attributes:
        number: Counts the requests; a newer one has a higher number.
        method, target, path: Of the call that an envelope asks for, the target as `host[:port]`;
            each is "" when there is no envelope. The path is without queries.
        route: Of Send, for what it has answered itself; `/async` for any event.
        status: The target's answer, or else the last delivery's; "" before the first.
        result: `completed` or `failed`, or `refused` by Send; None before the result.
        fate: `retrying` or `dead`, as Receive has said last; None before it has said so.
        duration_ms: Until it first came to an end; None before that.
        content: The number of what was sent, among `Requests.contents`.
        progress: By the name of the Trigger.
        events: The keys of all events that belong to it, and what each is called.
        changed: The revision of the last change.
    """

    number: int
    at: float
    source: str
    id: str
    type: str
    route: str = "/async"
    method: str = ""
    target: str = ""
    path: str = ""
    status: str = ""
    result: str | None = None
    fate: str | None = None
    duration_ms: float | None = None
    content: int | None = None
    progress: dict[str, Progress] = field(default_factory=dict)
    events: dict[Key, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    tries: Tries = field(default_factory=Tries)
    changed: int = 0

    @property
    def state(self) -> str:
        """A result outweighs a dead letter, as for `GET /async/{id}`."""
        if self.result is not None:
            return self.result
        if self.fate is not None:
            return self.fate
        states = {each.state for each in self.progress.values()}
        for state in (DEAD, RETRYING, ACCEPTED):
            if state in states:
                return state
        return DELIVERED_STATE if states else ACCEPTED

    @property
    def attempts(self) -> int:
        """Calls to the target, or else the most deliveries that any Trigger has made."""
        deliveries = max((each.attempts for each in self.progress.values()), default=0)
        return max(self.tries.calls, deliveries)
