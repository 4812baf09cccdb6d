"""From the start of a process to its first answer, and what it takes while it is idle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench import load, servers
from bench.accounting import cpu_s, memory_bytes
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, Server
from bench.report import Figure, Limit, Measured

CASE = "cold"
_NAMES = ("hello", "bare", "naive", "send", "receive")


def run(plan: Plan) -> Iterator[Measured]:
    """Start each in turn, again and again."""
    started_s: dict[str, list[float]] = defaultdict(list)
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    memory_mb: dict[str, float] = {}
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        for number in range(plan.starts + 1):
            for name in _NAMES:
                plan.show(f"{CASE}: start {number}, {name}")
                server = _start(lab, name, target)
                if number:  # the first one reads files that are then in memory
                    started_s[name].append(server.started_s)
                    cpu_ms[name].append(1000 * cpu_s(server.pid))
                if number == plan.starts:  # once: the next one differs by 0.1 MB
                    memory_mb[name] = _idle_mb(plan, server, target)
                lab.stop(server)
    for name in ("send", "receive"):
        yield Figure(
            case=CASE,
            name=f"start to first 200, {name.capitalize()} to hello",
            unit="x",
            values=ratios(started_s[name], started_s["hello"]),
            limit=Limit(at_most=1.25),
        )
    for name in _NAMES:
        yield Figure(
            case=CASE,
            name=f"start to first 200: {name}",
            unit="ms",
            values=tuple(1000 * each for each in started_s[name]),
        )
    for name in _NAMES:
        yield Figure(
            case=CASE, name=f"CPU until then: {name}", unit="ms", values=tuple(cpu_ms[name])
        )
    for name in _NAMES:
        yield Figure(
            case=CASE,
            name=f"memory, idle: {name}",
            unit="MB",
            values=(memory_mb[name],),
            limit=Limit(at_most=60.0) if name in ("send", "receive") else None,
        )


def _start(lab: Lab, name: str, target: Server) -> Server:
    if name in ("send", "receive"):
        return servers.function(lab, name, called=target)
    return servers.rival(lab, name)


def _idle_mb(plan: Plan, server: Server, target: Server) -> float:
    """Return the memory of a server that has had something to do, and has nothing any more."""
    request = servers.envelope(target.port)
    path = "/"
    if server.name == "send":
        path = "/sync"
    elif server.name == "receive":
        request = servers.event(request)
    load.run(plan.cores, server.url + path, request, connections=2, seconds=1)
    return memory_bytes(server.pid) / 1e6
