"""How fast the local Broker takes events, with none waiting and with a great many."""

from __future__ import annotations

from collections.abc import Iterator

from bench import load, servers
from bench.accounting import cpu_s, memory_bytes
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, Server
from bench.report import Curve, Figure, Limit, Measured
from local.ports import free_port

CASE = "backlog"
_CONNECTIONS = 32
_MARKS = (1_000, 10_000, 100_000)


def run(plan: Plan) -> Iterator[Measured]:
    """Fill one Broker; then measure it and a fresh one in turn."""
    with Lab(plan.cores) as lab:
        target = servers.target(lab)
        request = servers.event(servers.envelope(target.port))
        full = _start(lab, target)
        empty_mb = memory_bytes(full.pid) / 1e6
        waiting = 0
        marks = [mark for mark in _MARKS if mark <= plan.backlog]
        rate_by_count: dict[str, float] = {}
        memory_by_count: dict[str, float] = {}
        while waiting < plan.backlog:
            plan.show(f"{CASE}: {waiting} events wait")
            done = _publish(plan, full, request, seconds=1)
            waiting += done.requests
            while marks and waiting >= marks[0]:
                count = f"{marks.pop(0):,}"
                rate_by_count[count] = done.rate
                memory_by_count[count] = memory_bytes(full.pid) / 1e6
        grown_mb = memory_bytes(full.pid) / 1e6 - empty_mb

        fresh_rate, full_rate, cpu_ms = [], [], []
        for number in range(1, plan.rounds + 1):
            plan.show(f"{CASE}: round {number}")
            fresh = _start(lab, target)
            _publish(plan, fresh, request, seconds=1)
            before_s = cpu_s(fresh.pid)
            done = _publish(plan, fresh, request, seconds=plan.seconds)
            cpu_ms.append(1000 * (cpu_s(fresh.pid) - before_s) / done.requests)
            lab.stop(fresh)
            fresh_rate.append(done.rate)
            full_rate.append(_publish(plan, full, request, seconds=plan.seconds).rate)
    yield Figure(
        case=CASE,
        name="the local Broker, events accepted a second",
        unit="/s",
        values=tuple(fresh_rate),
        limit=Limit(at_least=1000.0),
    )
    yield Figure(
        case=CASE,
        name=f"the same with {plan.backlog:,} events waiting",
        unit="x",
        values=ratios(full_rate, fresh_rate),
        limit=Limit(at_least=0.8),
    )
    yield Figure(
        case=CASE,
        name=f"memory that {plan.backlog:,} waiting events add",
        unit="MB",
        values=(grown_mb,),
        limit=Limit(at_most=150.0),
    )
    yield Figure(case=CASE, name="CPU per event accepted: broker", unit="ms", values=tuple(cpu_ms))
    for name, unit, points in (
        ("accepted a second", "/s", rate_by_count),
        ("memory", "MB", memory_by_count),
    ):
        yield Curve(
            case=CASE,
            title="The local Broker by events waiting",
            name=name,
            varied="events waiting",
            unit=unit,
            points=points,
        )


def _start(lab: Lab, target: Server) -> Server:
    """Start a Broker whose subscriber never answers, so that all events wait."""
    hanging = dict.fromkeys(("send", "receive"), f"{target.url}/hang")
    return servers.broker(lab, hanging, port=free_port())


def _publish(plan: Plan, broker: Server, request: load.Request, *, seconds: int) -> load.Load:
    url = f"{broker.url}/default/default"
    return load.run(plan.cores, url, request, connections=_CONNECTIONS, seconds=seconds)
