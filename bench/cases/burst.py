"""Many calls at once to a target that takes a second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench import load, servers
from bench.accounting import PeakMemory
from bench.cases.plan import Plan
from bench.processes import Lab
from bench.report import Figure, Limit, Measured

CASE = "burst"
_CALLS = 200
_PATHS = {"send": "/sync", "bare": "/"}


def run(plan: Plan) -> Iterator[Measured]:
    """Measure when the last of them is answered, by servers that have just been started."""
    last_s: dict[str, list[float]] = defaultdict(list)
    peak_mb: dict[str, list[float]] = defaultdict(list)
    with Lab(plan.cores) as lab:
        target = servers.target(lab)
        request = servers.envelope(target.port, path="/slow/1")
        for number in range(1, plan.rounds + 1):
            for name, path in _PATHS.items():
                plan.show(f"{CASE}: round {number}, {name}")
                if name == "send":
                    server = servers.function(lab, name, called=target, threads=_CALLS)
                else:
                    server = servers.rival(lab, name, threads=_CALLS)
                with PeakMemory(server.pid) as memory:
                    last_s[name].append(load.burst(server.port, path, request, _CALLS))
                peak_mb[name].append(memory.peak_bytes / 1e6)
                lab.stop(server)
    what = f"{_CALLS} calls at once to a target that takes 1 s"
    limits = {"send": (Limit(at_most=1.6), Limit(at_most=110.0)), "bare": (None, None)}
    for name, (time_limit, memory_limit) in limits.items():
        yield Figure(
            case=CASE,
            name=f"{what}, the last answer: {name}",
            unit="s",
            values=tuple(last_s[name]),
            limit=time_limit,
        )
        yield Figure(
            case=CASE,
            name=f"{what}, most memory: {name}",
            unit="MB",
            values=tuple(peak_mb[name]),
            limit=memory_limit,
        )
