"""From the local Broker through Receive to the target, results going back to Send."""

from __future__ import annotations

import http.client
import json
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench import load, servers
from bench.accounting import cpu_s
from bench.cases.plan import Plan
from bench.processes import BenchError, Lab, Server
from bench.report import Figure, Limit, Measured
from local.ports import HOST, free_port

CASE = "deliver"
_CONNECTIONS = 16
_PACE_PER_S = 50
_POLL_INTERVAL_S = 0.05
_DRAIN_TIMEOUT_S = 300.0


class _Chain:
    """The whole way of an event, on all cores: nothing else runs while it is measured."""

    def __init__(self, lab: Lab) -> None:
        """Start it."""
        port = free_port()
        self.target = servers.target(lab)
        self.receive = servers.function(lab, "receive", called=self.target, cores=lab.cores.all)
        self.send = servers.function(
            lab, "send", called=self.target, broker_port=port, cores=lab.cores.all
        )
        urls = {"receive": self.receive.url, "send": self.send.url}
        self.broker = servers.broker(lab, urls, port=port, cores=lab.cores.all)
        self._database = servers.broker_database(lab, port)

    def wait_until_delivered(self) -> None:
        """Wait until the Broker owes nothing to anybody.

        Raises:
            BenchError: It still does after minutes.
        """
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while _pending(self._database):
            if time.monotonic() > deadline:
                raise BenchError(f"the Broker has not delivered in {_DRAIN_TIMEOUT_S:g} s")
            time.sleep(_POLL_INTERVAL_S)

    def take_receipts(self) -> dict[str, float]:
        """Return when each event reached the target, and let it forget them."""
        return _receipts(self.target)


def run(plan: Plan) -> Iterator[Measured]:
    """Measure how many are delivered while many wait, and how long one takes when none does."""
    rate, p50_ms = [], []
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    with Lab(plan.cores) as lab:
        chain = _Chain(lab)
        envelope = servers.envelope(chain.target.port)
        for number in range(plan.rounds + 1):
            plan.show(f"{CASE}: round {number}, {_PACE_PER_S} a second")
            latency_ms = _paced(plan, chain, envelope)
            plan.show(f"{CASE}: round {number}, as fast as it goes")
            flood = _flooded(plan, chain, servers.event(envelope))
            if number:  # the first one warms up
                p50_ms.append(latency_ms)
                rate.append(flood.rate)
                for name, cost_ms in flood.cpu_ms.items():
                    cpu_ms[name].append(cost_ms)
    yield Figure(
        case=CASE,
        name="delivered a second through Receive, results to Send",
        unit="/s",
        values=tuple(rate),
        limit=Limit(at_least=400.0),
    )
    yield Figure(
        case=CASE,
        name=f"p50 from 202 to the target, {_PACE_PER_S} a second",
        unit="ms",
        values=tuple(p50_ms),
        limit=Limit(at_most=15.0),
    )
    for name, costs_ms in cpu_ms.items():
        yield Figure(
            case=CASE, name=f"CPU per event delivered: {name}", unit="ms", values=tuple(costs_ms)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flood:
    """How fast many events were delivered, and what each cost each server on its way."""

    rate: float
    cpu_ms: dict[str, float]


def _flooded(plan: Plan, chain: _Chain, request: load.Request) -> _Flood:
    """Publish faster than is delivered, and measure what happens once that has ended."""
    load.run(
        plan.cores,
        f"{chain.broker.url}/default/default",
        request,
        connections=_CONNECTIONS,
        seconds=max(2, plan.seconds // 2),
    )
    published_at = time.monotonic()
    servers_on_way = (chain.broker, chain.receive, chain.send)
    before_s = {each.name: cpu_s(each.pid) for each in servers_on_way}
    chain.wait_until_delivered()
    late = [at for at in chain.take_receipts().values() if at > published_at]
    if not late:
        raise BenchError("everything was delivered while it was published: nothing to measure")
    return _Flood(
        rate=len(late) / (max(late) - published_at),
        cpu_ms={
            each.name: 1000 * (cpu_s(each.pid) - before_s[each.name]) / len(late)
            for each in servers_on_way
        },
    )


def _paced(plan: Plan, chain: _Chain, request: load.Request) -> float:
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
        received_at[each] - accepted for each, accepted in accepted_at.items()
    )


def _pending(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
        return int(db.execute("SELECT count(*) FROM deliveries").fetchone()[0])


def _receipts(target: Server) -> dict[str, float]:
    with closing(http.client.HTTPConnection(HOST, target.port, timeout=30)) as connection:
        connection.request("DELETE", "/receipts")
        receipts: dict[str, list[float]] = json.loads(connection.getresponse().read())
        return {key: times[-1] for key, times in receipts.items()}
