"""How thorough a run is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.processes import Cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What every case is given.

    Attributes:
        rounds: How often each of the compared is measured, in turn.
        few_rounds: The same where a round takes long, or is for comparison alone.
        seconds: For how long each time.
        backlog: How many events wait in the Broker's largest backlog.
        starts: How often each is started cold.
        requests: How many the larger store remembers; more in a run of a few cases.
        is_quick: Leave out the rivals that no limit names.
        show: Tells the user how far the run is.
    """

    cores: Cores
    rounds: int
    few_rounds: int
    seconds: int
    backlog: int
    starts: int
    requests: int
    is_quick: bool
    show: Callable[[str], None]

    @classmethod
    def long(cls, cores: Cores, show: Callable[[str], None]) -> Plan:
        """Measure what is published."""
        return cls(
            cores=cores,
            rounds=5,
            few_rounds=3,
            seconds=2,
            backlog=100_000,
            starts=9,
            requests=50_000,
            is_quick=False,
            show=show,
        )

    @classmethod
    def quick(cls, cores: Cores, show: Callable[[str], None]) -> Plan:
        """Show in less than a minute what a change has done."""
        return cls(
            cores=cores,
            rounds=2,
            few_rounds=2,
            seconds=1,
            backlog=4_000,
            starts=2,
            requests=20_000,
            is_quick=True,
            show=show,
        )


def ratios(values: Iterable[float], others: Iterable[float]) -> tuple[float, ...]:
    """Compare what was measured in the same rounds."""
    return tuple(value / other for value, other in zip(values, others, strict=True))


def differences(values: Iterable[float], others: Iterable[float]) -> tuple[float, ...]:
    """Say how much more was measured than of others in the same rounds."""
    return tuple(value - other for value, other in zip(values, others, strict=True))
