"""An answer of 100 MB through `/sync`, beside nginx."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from bench import load, servers
from bench.accounting import PeakMemory
from bench.cases.plan import Plan, ratios
from bench.processes import Lab
from bench.report import Figure, Limit, Measured

CASE = "large"
_PATHS = {"send": "/sync", "nginx": "/large"}


def run(plan: Plan) -> Iterator[Measured]:
    """Measure how fast it comes, and what memory it takes to pass it on."""
    if not servers.has_nginx():
        plan.show(f"{CASE}: left out, there is no nginx to compare with")
        return
    rate: dict[str, list[float]] = defaultdict(list)
    grown_mb: list[float] = []
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        request = replace(servers.envelope(target.port, path="/large"), method="GET")
        measured = [
            servers.function(lab, "send", called=target),
            servers.proxy(lab, target),
        ]
        for number in range(plan.few_rounds + 1):
            for server in measured:
                plan.show(f"{CASE}: round {number}, {server.name}")
                with PeakMemory(server.pid) as memory:
                    done = load.run(
                        plan.cores,
                        server.url + _PATHS[server.name],
                        request,
                        connections=1,
                        seconds=2,
                    )
                if number:  # the first one warms up
                    rate[server.name].append(done.received_bytes / done.duration_s / 1e6)
                    if server.name == "send":
                        grown_mb.append((memory.peak_bytes - memory.before_bytes) / 1e6)
    yield Figure(
        case=CASE,
        name="answers of 100 MB, Send to nginx",
        unit="x",
        values=ratios(rate["send"], rate["nginx"]),
        limit=Limit(at_least=0.5),
    )
    yield Figure(
        case=CASE,
        name="memory that they add to Send's",
        unit="MB",
        values=tuple(grown_mb),
        limit=Limit(at_most=5.0),
    )
    for name in _PATHS:
        yield Figure(
            case=CASE, name=f"answers of 100 MB: {name}", unit="MB/s", values=tuple(rate[name])
        )
