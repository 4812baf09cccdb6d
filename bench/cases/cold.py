"""From the start of a process to its first answer, and what it takes while it is idle."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from bench import load, servers
from bench.accounting import cpu_s, memory_bytes
from bench.cases import costs
from bench.cases.plan import Plan, ratios
from bench.processes import BenchError, Lab, Server
from bench.report import Figure, Limit, Measured

CASE = "cold"
_NAMES = ("hello", "bare", "naive", "send", "receive")


def run(plan: Plan) -> Iterator[Measured]:
    """Start each in turn, again and again."""
    started_s: dict[str, list[float]] = defaultdict(list)
    called_s: dict[str, list[float]] = defaultdict(list)
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    memory_mb: dict[str, float] = {}
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        for number in range(plan.starts + 1):
            for name in _NAMES:
                plan.show(f"{CASE}: start {number}, {name}")
                server = (
                    servers.function(lab, name, called=target)
                    if name in ("send", "receive")
                    else servers.rival(lab, name)
                )
                used_s = cpu_s(server.pid)
                path, request = _call(name, target)
                status, took_s = asyncio.run(load.call(server.port, path, request, timeout_s=10))
                if status != 200:
                    raise BenchError(f"{name} answered its first call with {status}")
                if number:  # the first one reads files that are then in memory
                    started_s[name].append(server.started_s)
                    called_s[name].append(server.started_s + took_s)
                    cpu_ms[name].append(1000 * used_s)
                if number == plan.starts:  # once: the next one differs by 0.1 MB
                    memory_mb[name] = _idle_mb(plan, server, path, request)
                lab.stop(server)
    for name in ("send", "receive"):
        yield Figure(
            case=CASE,
            name=f"start to first 200, {name.capitalize()} to hello",
            unit="x",
            values=ratios(started_s[name], started_s["hello"]),
            limit=Limit(at_most=1.25),
        )
        yield Figure(
            case=CASE,
            name=f"start to first call answered, {name.capitalize()} to naive",
            unit="x",
            values=ratios(called_s[name], called_s["naive"]),
        )
    for name, of_servers in (
        ("start to first 200", started_s),
        ("start to first call answered", called_s),
    ):
        in_ms = {server: [1000 * each for each in of_servers[server]] for server in _NAMES}
        yield from costs.each(CASE, name, "ms", in_ms)
    yield from costs.each(CASE, "CPU until the first 200", "ms", cpu_ms)
    for name in _NAMES:
        yield Figure(
            case=CASE,
            name=f"memory, idle: {name}",
            unit="MB",
            values=(memory_mb[name],),
            limit=Limit(at_most=60.0) if name in ("send", "receive") else None,
        )


def _call(name: str, target: Server) -> tuple[str, load.Request]:
    """Return the path and the request of the first call; an event has an id of its own."""
    request = servers.envelope(target.port)
    if name == "receive":
        event = servers.event(request)
        return "/", replace(event, headers={**event.headers, "ce-id": str(uuid.uuid4())})
    return "/sync" if name == "send" else "/", request


def _idle_mb(plan: Plan, server: Server, path: str, request: load.Request) -> float:
    """Return the memory of a server that had something to do, was scraped, and is idle."""
    load.run(plan.cores, server.url + path, request, connections=2, seconds=1)
    if server.name in ("send", "receive"):
        scrape = load.Request(method="GET", headers={}, body=b"")
        asyncio.run(load.call(server.port, "/metrics", scrape, timeout_s=10))
    return memory_bytes(server.pid) / 1e6
