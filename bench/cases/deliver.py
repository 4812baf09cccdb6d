"""The whole way of an event by its parts: `/async`, Broker, Receive and target, result to Send."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

from bench import load, servers
from bench.accounting import cpu_s
from bench.cases.costs import CONNECTIONS, each
from bench.cases.plan import Plan
from bench.chain import Chain, get
from bench.processes import BenchError, Lab
from bench.report import Figure, Limit, Measured

CASE = "deliver"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure it on the local Broker, then with the rules of Kafka's dispatcher."""
    yield from _measure(plan, "in-memory", "", plan.rounds)
    yield from _measure(plan, "kafka", ", Kafka's dispatcher", plan.few_rounds)


def _measure(plan: Plan, like: str, note: str, rounds: int) -> Iterator[Figure]:
    """Have events accepted while nothing is delivered; then have them delivered, as they wait."""
    rate: list[float] = []
    accept_ms: dict[str, list[float]] = defaultdict(list)
    deliver_ms: dict[str, list[float]] = defaultdict(list)
    with Lab(plan.cores) as lab:
        chain = Chain(lab, like=like)
        request = servers.envelope(chain.target.port)
        on_way = (chain.send, chain.broker, chain.receive)
        for number in range(rounds + 1):
            plan.show(f"{CASE}: {like}, round {number}")
            url = f"{chain.send.url}/async"
            cpu = [[cpu_s(each.pid) for each in on_way]]
            with chain.nothing_delivered():
                done = load.run(plan.cores, url, request, connections=CONNECTIONS, seconds=2)
                cpu.append([cpu_s(each.pid) for each in on_way])
                begun_s = time.monotonic()
            chain.wait_until_delivered()
            cpu.append([cpu_s(each.pid) for each in on_way])
            reached = [times[-1] for times in get(chain.target, "/receipts", "DELETE").values()]
            # wrk leaves without the answers to its last requests.
            if not done.requests <= len(reached) <= done.requests + CONNECTIONS:
                raise BenchError(f"of {done.requests} events {len(reached)} reached the target")
            if number:  # the first one warms up
                rate.append(len(reached) / (max(reached) - begun_s))
                for server, before_s, between_s, after_s in zip(on_way, *cpu, strict=True):
                    per_event = 1000 / len(reached)
                    accept_ms[server.name].append(per_event * (between_s - before_s))
                    deliver_ms[server.name].append(per_event * (after_s - between_s))
    del accept_ms["receive"]  # it is held still
    without = tuple(map(sum, zip(*deliver_ms.values(), strict=True)))
    whole = tuple(map(sum, zip(*accept_ms.values(), without, strict=True)))
    what = "CPU of an event"
    for name, unit, values, limit in (
        (f"{what}, from /async to its result at Send", "ms", whole, Limit(at_most=2.0)),
        (f"{what}, the same without /async", "ms", without, Limit(at_most=2.0)),
        ("delivered a second, results to Send", "/s", tuple(rate), Limit(at_least=1000.0)),
    ):
        limit_here = None if note else limit
        yield Figure(case=CASE, name=f"{name}{note}", unit=unit, values=values, limit=limit_here)
    yield from each(CASE, f"{what}, accepted by /async{note}", "ms", accept_ms)
    yield from each(CASE, f"{what}, delivered, its result back{note}", "ms", deliver_ms)
