"""What a request costs a server, measured in turn with what it is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench import load
from bench.accounting import cpu_s
from bench.cases.plan import Plan
from bench.processes import Server
from bench.report import Figure

CONNECTIONS = 16
_WARM_UP_S = 1


@dataclass(frozen=True, slots=True)
class Way:
    """Requests of one kind to one server."""

    server: Server
    path: str
    request: load.Request


@dataclass(frozen=True, slots=True)
class Costs:
    """One value for each round, by the name of the way; `cpu_ms` is that of a request."""

    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    p50_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    p99_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def compare(
    plan: Plan,
    case: str,
    ways: Mapping[str, Way],
    *,
    connections: int = CONNECTIONS,
    seconds: int | None = None,
    rounds: int | None = None,
) -> Costs:
    """Put load on one after the other, in rounds, after one that warms up."""
    costs = Costs()
    for number in range((rounds or plan.rounds) + 1):
        for name, way in ways.items():
            plan.show(f"{case}: round {number}, {name}, {connections} connections")
            before_s = cpu_s(way.server.pid)
            done = load.run(
                plan.cores,
                way.server.url + way.path,
                way.request,
                connections=connections,
                seconds=(seconds or plan.seconds) if number else _WARM_UP_S,
            )
            if number:
                cpu_ms = 1000 * (cpu_s(way.server.pid) - before_s) / done.requests
                costs.cpu_ms[name].append(cpu_ms)
                costs.rate[name].append(done.rate)
                costs.p50_ms[name].append(done.p50_ms)
                costs.p99_ms[name].append(done.p99_ms)
    return costs


def each(
    case: str, name: str, unit: str, values: Mapping[str, Sequence[float]]
) -> Iterator[Figure]:
    """Show what each server had, for comparison."""
    for server, of_rounds in values.items():
        yield Figure(case=case, name=f"{name}: {server}", unit=unit, values=tuple(of_rounds))


def p99(values: Iterable[float]) -> float:
    """Return what all but one in a hundred are below."""
    ordered = sorted(values)
    return ordered[max(0, len(ordered) * 99 // 100 - 1)]
