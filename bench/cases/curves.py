"""How what a request costs grows with connections and with its size."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping

from bench import load, servers
from bench.cases.plan import Plan
from bench.cases.sync import cpu_ms
from bench.processes import Lab, Server
from bench.report import Curve, Measured

CASE = "curves"
_CONNECTIONS = (1, 4, 16, 64)
_USUAL_CONNECTIONS = 16
_BODY_BYTES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}
_MAX_ROUNDS = 3
_SECONDS = 2


def run(plan: Plan) -> Iterator[Measured]:
    """Measure Send and the bare function at each point."""
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        measured = [
            servers.function(lab, "send", called=target),
            servers.rival(lab, "bare"),
            servers.rival(lab, "naive"),
        ]
        usual = servers.envelope(target.port)
        connections = {str(count): (usual, count) for count in _CONNECTIONS}
        yield from _curves(
            plan, measured, "CPU per request by connections", "connections", connections
        )
        sizes = {
            name: (servers.envelope(target.port, body="." * size), _USUAL_CONNECTIONS)
            for name, size in _BODY_BYTES.items()
        }
        yield from _curves(plan, measured, "CPU per request by body size", "body", sizes)


def _curves(
    plan: Plan,
    measured: list[Server],
    title: str,
    varied: str,
    points: Mapping[str, tuple[load.Request, int]],
) -> Iterator[Curve]:
    """Measure all servers at one point after the other, in rounds."""
    cost_ms: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(1, min(plan.rounds, _MAX_ROUNDS) + 1):
        for point, (request, connections) in points.items():
            for server in measured:
                plan.show(f"{CASE}: round {number}, {server.name}, {varied} {point}")
                cost, _ = cpu_ms(
                    plan.cores, server, request, connections=connections, seconds=_SECONDS
                )
                cost_ms[server.name, point].append(cost)
    for server in measured:
        yield Curve(
            case=CASE,
            title=title,
            name=server.name,
            varied=varied,
            unit="ms",
            points={point: statistics.median(cost_ms[server.name, point]) for point in points},
        )
