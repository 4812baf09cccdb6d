"""A circuit breaker for each origin: what was out of reach just now is left alone for a while.

Only what is costly counts, calls that did not reach their target or ran out of time; whatever the
target answers is quick, and may be meant for this one call.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

# More than any relay calls; the origin that has failed the longest ago is forgotten.
_MAX_ORIGINS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Circuit:
    """What is known of one origin that has failed.

    Args:
        failures: in a row.
        closed_at_s: when a call is let through again; 0 while all are.
    """

    failures: int = 0
    closed_at_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """The rules, as steps from one circuit to the next.

    Args:
        failures: in a row open a circuit; 0 is off.
        pause_s: how long it stays open.
    """

    failures: int
    pause_s: float

    def admit(self, circuit: Circuit, now_s: float) -> tuple[Circuit, float]:
        """Let a call through, or not.

        Returns:
            the circuit, and how long to stay away; 0 for a call that may be made. When a pause is
            over one call is let through, and the others stay away for another.
        """
        if not circuit.closed_at_s:
            return circuit, 0.0
        if now_s < circuit.closed_at_s:
            return circuit, circuit.closed_at_s - now_s
        return replace(circuit, closed_at_s=now_s + self.pause_s), 0.0

    def failed(self, circuit: Circuit, now_s: float) -> Circuit:
        """Count a failure."""
        failures = circuit.failures + 1
        is_open = 0 < self.failures <= failures
        return Circuit(failures=failures, closed_at_s=now_s + self.pause_s if is_open else 0.0)


class Breakers:
    """The circuits of all origins, in this process.

    Args:
        breaker: the rules.
        clock: seconds that never go back.
    """

    def __init__(self, breaker: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._breaker = breaker
        self._clock = clock
        self._circuits: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._lock = threading.Lock()

    def stay_away_s(self, origin: Hashable) -> float:
        """Say how long a call must not be made; 0 when it may be made now."""
        with self._lock:
            circuit = self._circuits.get(origin)
            if circuit is None:
                return 0.0
            self._circuits[origin], wait_s = self._breaker.admit(circuit, self._clock())
            return wait_s

    def count_open(self) -> int:
        """Count the origins that are left alone now."""
        with self._lock:
            now_s = self._clock()
            return sum(each.closed_at_s > now_s for each in self._circuits.values())

    def succeeded(self, origin: Hashable) -> None:
        """Note that an origin has answered, whatever it was."""
        with self._lock:
            self._circuits.pop(origin, None)

    def failed(self, origin: Hashable) -> None:
        """Note that an origin could not be reached, or did not answer in time."""
        with self._lock:
            circuit = self._circuits.get(origin, Circuit())
            self._circuits[origin] = self._breaker.failed(circuit, self._clock())
            self._circuits.move_to_end(origin)
            if len(self._circuits) > _MAX_ORIGINS:
                self._circuits.popitem(last=False)
