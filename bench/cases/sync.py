"""`/sync` under load beside its rivals, then one call at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from bench import load, servers
from bench.accounting import cpu_s
from bench.cases.plan import Plan, ratios
from bench.processes import Cores, Lab, Server
from bench.report import Figure, Limit, Measured

CASE = "sync"
_CONNECTIONS = 16
_PATHS = {"send": "/sync"}


def cpu_ms(
    cores: Cores, server: Server, request: load.Request, *, connections: int, seconds: int
) -> tuple[float, load.Load]:
    """Put load on a server.

    Returns:
        The CPU time that a request costs it, and what became of the requests.
    """
    before_s = cpu_s(server.pid)
    done = load.run(
        cores,
        server.url + _PATHS.get(server.name, "/"),
        request,
        connections=connections,
        seconds=seconds,
    )
    return 1000 * (cpu_s(server.pid) - before_s) / done.requests, done


def run(plan: Plan) -> Iterator[Measured]:
    """Measure CPU and latency."""
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        request = servers.envelope(target.port)
        measured = [servers.rival(lab, name) for name in ("hello", "bare", "naive")]
        measured.append(servers.function(lab, "send", called=target))
        if servers.has_nginx() and not plan.is_quick:
            measured.append(servers.proxy(lab, target))
        for server in measured:
            plan.show(f"{CASE}: warming {server.name}")
            cpu_ms(plan.cores, server, request, connections=_CONNECTIONS, seconds=1)
        yield from _under_load(plan, measured, request)
        if plan.is_quick:
            measured = [each for each in measured if each.name in ("bare", "send")]
        yield from _one_by_one(plan, [target, *measured], request)


def _under_load(plan: Plan, measured: list[Server], request: load.Request) -> Iterator[Measured]:
    cpu: dict[str, list[float]] = defaultdict(list)
    p99: dict[str, list[float]] = defaultdict(list)
    rate: dict[str, list[float]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for server in measured:
            plan.show(f"{CASE}: round {number}, {server.name}, {_CONNECTIONS} connections")
            cost_ms, done = cpu_ms(
                plan.cores, server, request, connections=_CONNECTIONS, seconds=plan.seconds
            )
            cpu[server.name].append(cost_ms)
            p99[server.name].append(done.p99_ms)
            rate[server.name].append(done.rate)
    for name, limit in (
        ("naive", Limit(at_most=0.40)),
        ("bare", Limit(at_most=0.9)),
        ("hello", Limit(at_most=2.2, aimed_for=True)),
    ):
        yield Figure(
            case=CASE,
            name=f"CPU per request, Send to {name}",
            unit="x",
            values=ratios(cpu["send"], cpu[name]),
            limit=limit,
        )
    yield Figure(
        case=CASE,
        name=f"p99 at {_CONNECTIONS} connections, Send to bare",
        unit="x",
        values=ratios(p99["send"], p99["bare"]),
        limit=Limit(at_most=2.0),
    )
    yield from _each("CPU per request", "ms", cpu)
    yield from _each("requests a second", "/s", rate)
    yield from _each(f"p99 at {_CONNECTIONS} connections", "ms", p99)


def _one_by_one(plan: Plan, measured: list[Server], request: load.Request) -> Iterator[Measured]:
    p50: dict[str, list[float]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for server in measured:
            plan.show(f"{CASE}: round {number}, {server.name}, 1 connection")
            url = server.url + _PATHS.get(server.name, "/")
            seconds = max(1, plan.seconds // 2)
            done = load.run(plan.cores, url, request, connections=1, seconds=seconds)
            p50[server.name].append(done.p50_ms)
    yield Figure(
        case=CASE,
        name="p50 at 1 connection, Send over the direct call",
        unit="ms",
        values=tuple(
            send - direct for send, direct in zip(p50["send"], p50["target"], strict=True)
        ),
        limit=Limit(at_most=0.8),
    )
    yield from _each("p50 at 1 connection", "ms", p50)


def _each(name: str, unit: str, values: Mapping[str, list[float]]) -> Iterator[Figure]:
    for server, each in values.items():
        yield Figure(case=CASE, name=f"{name}: {server}", unit=unit, values=tuple(each))
