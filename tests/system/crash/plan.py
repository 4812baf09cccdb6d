"""What each event of a run meets at the target: the same for the same seed, on every machine."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

# Calls to the target that the relay makes for an event, at most.
ATTEMPTS = 6

_FAILING = 0.2
_EVERY = 200
_CALLBACK_EVERY = 5


class Fate(enum.Enum):
    """How the target treats one call."""

    OK = "200"
    NOT_FOUND = "404"
    ERROR = "500"
    TOO_MANY = "429"
    TIMEOUT = "timeout"
    RESET = "reset"
    DRIP = "drip"

    @property
    def is_final(self) -> bool:
        """Whether this is an answer, after which the target must not be called again."""
        return self in (Fate.OK, Fate.NOT_FOUND)


_FAILURES = tuple(fate for fate in Fate if fate is not Fate.OK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The events of one run.

    A fifth of the calls fail, whatever the event. Of each 200 events one is hopeless, because its
    target always answers 500, and one is poison, because its data is no envelope: these, and no
    others, have to end as dead letters.

    Attributes:
        seed: decides everything that is random.
        events: how many there are.
        state: where Send and Receive keep what becomes of requests: `sqlite` or `redis`, which they
            share, or `memory`, which ends with each of them.
    """

    seed: int
    events: int
    state: str = "sqlite"

    def event_ids(self) -> list[str]:
        """Return the ids of all events, in the order of their publication."""
        ids = [f"{self._kind(number)}-{self.seed}-{number}" for number in range(self.events)]
        random.Random(self.seed).shuffle(ids)
        return ids

    def fate(self, event_id: str, call: int) -> Fate:
        """Decide how a call ends.

        Args:
            call: 1 for the first call that the target gets for the event.
        """
        if is_hopeless(event_id):
            return Fate.ERROR
        draw = random.Random(f"{self.seed} {event_id} {call}")
        return draw.choice(_FAILURES) if draw.random() < _FAILING else Fate.OK

    def must_die(self, event_id: str) -> bool:
        """Tell whether every attempt that the relay makes would fail."""
        return is_poison(event_id) or not any(
            self.fate(event_id, call).is_final for call in range(1, ATTEMPTS + 1)
        )

    def asks_for_callback(self, event_id: str) -> bool:
        """Tell whether its caller is to be told of the outcome; among the hopeless all are."""
        number = int(event_id.rpartition("-")[2])
        return is_hopeless(event_id) or (not is_poison(event_id) and number % _CALLBACK_EVERY == 0)

    def _kind(self, number: int) -> str:
        return {0: "hopeless", 1: "poison"}.get(number % _EVERY, "event")


def is_hopeless(event_id: str) -> bool:
    """Tell whether the target never takes the event."""
    return event_id.startswith("hopeless-")


def is_poison(event_id: str) -> bool:
    """Tell whether the event's data is no envelope."""
    return event_id.startswith("poison-")
