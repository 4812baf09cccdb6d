"""How what a request costs grows with connections and with its size."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace

from bench import load, servers
from bench.cases.costs import CONNECTIONS, Way, compare
from bench.cases.plan import Plan
from bench.processes import Lab
from bench.report import Curve, Measured

CASE = "curves"
_CONNECTIONS = (1, 16, 64)
_BODY_BYTES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}
_SECONDS = 1


def run(plan: Plan) -> Iterator[Measured]:
    """Measure Send and the bare function at each point."""
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        usual = servers.envelope(target.port)
        ways = {"send": Way(servers.function(lab, "send", called=target), "/sync", usual)}
        ways["bare"] = Way(servers.rival(lab, "bare"), "/", usual)
        connections = {str(count): (usual, count) for count in _CONNECTIONS}
        yield from _curves(plan, ways, "connections", connections)
        sizes = {
            name: (servers.envelope(target.port, body="." * size), CONNECTIONS)
            for name, size in _BODY_BYTES.items()
        }
        yield from _curves(plan, ways, "body size", sizes)


def _curves(
    plan: Plan,
    ways: Mapping[str, Way],
    varied: str,
    points: Mapping[str, tuple[load.Request, int]],
) -> Iterator[Curve]:
    """Measure all ways at one point after the other."""
    medians_ms: dict[str, dict[str, float]] = {name: {} for name in ways}
    for point, (request, connections) in points.items():
        at_point = {name: replace(way, request=request) for name, way in ways.items()}
        case = f"{CASE}: {varied} {point}"
        costs = compare(plan, case, at_point, connections=connections, seconds=_SECONDS, rounds=2)
        for name, costs_ms in costs.cpu_ms.items():
            medians_ms[name][point] = statistics.median(costs_ms)
    for name, of_points in medians_ms.items():
        yield Curve(
            case=CASE,
            title=f"CPU per request by {varied}",
            name=name,
            varied=varied,
            unit="ms",
            points=of_points,
        )
