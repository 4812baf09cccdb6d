"""The whole way of an event by its parts: `/async`, Broker, Receive and target, results to Send."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing

from bench import load, servers
from bench.accounting import cpu_s
from bench.cases.costs import CONNECTIONS, each
from bench.cases.plan import Plan
from bench.chain import Chain
from bench.processes import BenchError, Lab
from bench.report import Figure, Limit, Measured
from local.ports import HOST

CASE = "deliver"
_PACE_PER_S = 50


def run(plan: Plan) -> Iterator[Measured]:
    """Measure what an event costs, and how long one takes that nothing else is in the way of."""
    for like in ("in-memory", "kafka"):
        with Lab(plan.cores) as lab:
            chain = Chain(lab, like=like)
            envelope = servers.envelope(chain.target.port)
            flood = _Flood(plan, chain, envelope)
            p50_ms = []
            for number in range(plan.rounds + 1):
                plan.show(f"{CASE}: {like}, round {number}, as fast as it goes")
                flood.measure(keep=number > 0)  # the first one warms up
                if like == "in-memory" and number:
                    plan.show(f"{CASE}: round {number}, {_PACE_PER_S} a second")
                    p50_ms.append(_paced(plan, chain, envelope))
        yield from _figures(flood, "" if like == "in-memory" else ", Kafka's dispatcher")
        if p50_ms:
            yield Figure(
                case=CASE,
                name=f"p50 from 202 to the target, {_PACE_PER_S} a second",
                unit="ms",
                values=tuple(p50_ms),
                limit=Limit(at_most=15.0),
            )


class _Flood:
    """How fast many events are delivered, and what each costs each server on its way.

    Attributes:
        rate: Delivered a second, one value for each round.
        accept_ms, deliver_ms: CPU an event: until it has its 202; from there until Send has its
            result. By server.
    """

    def __init__(self, plan: Plan, chain: Chain, request: load.Request) -> None:
        self._plan = plan
        self._chain = chain
        self._request = request
        self.rate: list[float] = []
        self.accept_ms: dict[str, list[float]] = defaultdict(list)
        self.deliver_ms: dict[str, list[float]] = defaultdict(list)

    def measure(self, *, keep: bool) -> None:
        """Have events accepted while nothing is delivered; then have them delivered."""
        chain = self._chain
        on_way = (chain.send, chain.broker, chain.receive)
        seconds = max(2, self._plan.seconds)
        cpu = [[cpu_s(each.pid) for each in on_way]]
        with chain.nothing_delivered():
            done = load.run(
                self._plan.cores,
                f"{chain.send.url}/async",
                self._request,
                connections=CONNECTIONS,
                seconds=seconds,
            )
            cpu.append([cpu_s(each.pid) for each in on_way])
            begun_s = time.monotonic()
        chain.wait_until_delivered()
        cpu.append([cpu_s(each.pid) for each in on_way])
        reached = [times[-1] for times in chain.take_receipts().values()]
        # wrk leaves without the answers to its last requests.
        if not done.requests <= len(reached) <= done.requests + CONNECTIONS:
            raise BenchError(f"of {done.requests} events {len(reached)} reached the target")
        if keep:
            self.rate.append(len(reached) / (max(reached) - begun_s))
            for server, before_s, between_s, after_s in zip(on_way, *cpu, strict=True):
                per_event = 1000 / len(reached)
                self.accept_ms[server.name].append(per_event * (between_s - before_s))
                self.deliver_ms[server.name].append(per_event * (after_s - between_s))


def _figures(flood: _Flood, note: str) -> Iterator[Figure]:
    is_local = not note
    yield Figure(
        case=CASE,
        name=f"delivered a second through Receive, results to Send{note}",
        unit="/s",
        values=tuple(flood.rate),
        limit=Limit(at_least=1000.0) if is_local else None,
    )
    del flood.accept_ms["receive"]  # it is held still
    delivery = tuple(map(sum, zip(*flood.deliver_ms.values(), strict=True)))
    whole = tuple(map(sum, zip(*flood.accept_ms.values(), delivery, strict=True)))
    for name, values in (
        ("from /async to its result at Send", whole),
        ("the same without /async", delivery),
    ):
        yield Figure(
            case=CASE,
            name=f"CPU of an event, {name}{note}",
            unit="ms",
            values=values,
            limit=Limit(at_most=2.0) if is_local else None,
        )
    yield from each(CASE, f"CPU of an event, accepted by /async{note}", "ms", flood.accept_ms)
    yield from each(
        CASE, f"CPU of an event, delivered, its result back{note}", "ms", flood.deliver_ms
    )


def _paced(plan: Plan, chain: Chain, request: load.Request) -> float:
    """Publish one event after the other; return the median time from its 202 to the target."""
    accepted_at: dict[str, float] = {}
    with closing(http.client.HTTPConnection(HOST, chain.send.port, timeout=10)) as connection:
        begin = time.monotonic()
        for number in range(_PACE_PER_S * plan.seconds):
            time.sleep(max(0.0, begin + number / _PACE_PER_S - time.monotonic()))
            connection.request("POST", "/async", request.body, dict(request.headers))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 202:
                raise BenchError(f"/async was answered with {answer.status} {body!r}")
            accepted_at[json.loads(body)["id"]] = time.monotonic()
    chain.wait_until_delivered()
    received_at = chain.take_receipts()
    return 1000 * statistics.median(
        received_at[each][-1] - accepted for each, accepted in accepted_at.items()
    )
