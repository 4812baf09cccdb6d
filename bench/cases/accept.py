"""`/async`: how fast Send accepts, beside a bare function before the same Broker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench import load, servers
from bench.accounting import cpu_s
from bench.cases.plan import Plan, ratios
from bench.processes import Lab
from bench.report import Figure, Limit, Measured
from local.ports import free_port

CASE = "async"
_CONNECTIONS = 16
_PATHS = {"send": "/async", "publish": "/"}


def run(plan: Plan) -> Iterator[Measured]:
    """Measure what is accepted, by a Broker whose subscriber takes its time.

    So nothing of what is measured delivers in the meantime: what it costs to accept is compared.
    """
    rate: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    with Lab(plan.cores) as lab:
        target = servers.target(lab)
        hanging = dict.fromkeys(("send", "receive"), f"{target.url}/hang")
        broker = servers.broker(lab, hanging, port=free_port(), cores=plan.cores.others)
        measured = [
            servers.function(lab, "send", called=target, broker_port=broker.port),
            servers.rival(lab, "publish", broker_port=broker.port),
        ]
        request = servers.envelope(target.port)
        for number in range(plan.rounds + 1):
            for server in measured:
                plan.show(f"{CASE}: round {number}, {server.name}")
                before_s = cpu_s(server.pid)
                done = load.run(
                    plan.cores,
                    server.url + _PATHS[server.name],
                    request,
                    connections=_CONNECTIONS,
                    seconds=plan.seconds if number else 1,
                )
                if number:  # the first one warms up
                    rate[server.name].append(done.rate)
                    cpu[server.name].append(1000 * (cpu_s(server.pid) - before_s) / done.requests)
    yield Figure(
        case=CASE,
        name="accepted a second, Send to a bare function",
        unit="x",
        values=ratios(rate["send"], rate["publish"]),
        limit=Limit(at_least=0.9),
    )
    for name in _PATHS:
        yield Figure(
            case=CASE, name=f"accepted a second: {name}", unit="/s", values=tuple(rate[name])
        )
    for name in _PATHS:
        yield Figure(case=CASE, name=f"CPU per request: {name}", unit="ms", values=tuple(cpu[name]))
