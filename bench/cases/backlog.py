"""How fast the local Broker takes events, with none waiting and with a great many."""

from __future__ import annotations

from collections.abc import Iterator

from bench import load, servers
from bench.accounting import memory_bytes
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, Server
from bench.report import Figure, Limit, Measured
from local.ports import free_port

CASE = "backlog"
_CONNECTIONS = 32


def run(plan: Plan) -> Iterator[Measured]:
    """Fill one Broker; then measure it and a fresh one in turn."""
    with Lab(plan.cores) as lab:
        target = servers.target(lab)
        request = servers.event(servers.envelope(target.port))
        full = _start(lab, target)
        empty_mb = memory_bytes(full.pid) / 1e6
        waiting = 0
        while waiting < plan.backlog:
            plan.show(f"{CASE}: {waiting} events wait")
            waiting += _publish(plan, full, request, seconds=1).requests
        grown_mb = memory_bytes(full.pid) / 1e6 - empty_mb

        fresh_rate, full_rate = [], []
        for number in range(1, plan.few_rounds + 1):
            plan.show(f"{CASE}: round {number}")
            fresh = _start(lab, target)
            _publish(plan, fresh, request, seconds=1)
            fresh_rate.append(_publish(plan, fresh, request, seconds=plan.seconds).rate)
            lab.stop(fresh)
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


def _start(lab: Lab, target: Server) -> Server:
    """Start a Broker whose subscriber never answers, so that all events wait."""
    hanging = dict.fromkeys(("send", "receive"), f"{target.url}/hang")
    return servers.broker(lab, hanging, port=free_port())


def _publish(plan: Plan, broker: Server, request: load.Request, *, seconds: int) -> load.Load:
    url = f"{broker.url}/default/default"
    return load.run(plan.cores, url, request, connections=_CONNECTIONS, seconds=seconds)
