"""What callers of Send have to suffer from a Broker, a target or other callers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

from bench import load, servers
from bench.accounting import PeakMemory
from bench.cases.costs import p99
from bench.cases.plan import Plan
from bench.chain import get
from bench.processes import BenchError, Lab, Server
from bench.report import Figure, Limit, Measured
from local.ports import free_port

CASE = "strain"
_PROBES = 5.0  # a second
_GET = load.Request(method="GET", headers={}, body=b"")
_Call = tuple[str, load.Request]  # path and request
_AWAY_S = 15.0


def run(plan: Plan) -> Iterator[Measured]:
    """Measure each alone, on a Send that has just been started."""
    yield from _broker_away(plan)
    yield from _one_hangs(plan)
    yield from _givers_up(plan)
    yield from _slow(plan)


def _broker_away(plan: Plan) -> Iterator[Measured]:
    """300 callers at /async, a Broker that takes their connections and says nothing."""
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: the Broker is away")
        port = free_port()
        target = servers.target(lab)
        send = servers.function(lab, "send", called=target, broker_port=port, cores=lab.cores.all)
        nowhere = {"send": f"{target.url}/", "receive": f"{target.url}/"}
        broker = servers.broker(lab, nowhere, port=port, cores=lab.cores.all, like="kafka")
        os.kill(broker.pid, signal.SIGSTOP)
        request = servers.envelope(target.port)

        async def measure() -> tuple[list[int], list[float]]:
            callers = asyncio.gather(
                *(load.call(send.port, "/async", request, timeout_s=60) for _ in range(300))
            )
            others = await _others(send, ("/sync", request), _AWAY_S)
            return [status for status, _ in await callers], others

        statuses, others = asyncio.run(measure())
        if not set(statuses) <= {503, 504}:
            raise BenchError(f"callers were told {set(statuses)} by a Broker that is away")
    yield _figure("/sync, status and probes while the Broker is away, p99", others, 0.5)


def _one_hangs(plan: Plan) -> Iterator[Measured]:
    """500 callers of a target that hangs, beside another target."""
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: a target hangs")
        target, hanging = servers.target(lab), servers.target(lab)
        settings = {"ALLOWED_TARGETS": "localhost"}
        send = servers.function(lab, "send", called=target, settings=settings)
        good = ("/sync", servers.envelope(target.port))
        bad = ("/sync", servers.envelope(hanging.port, path="/hang"))

        async def measure() -> tuple[list[float], list[float]]:
            alone = await _paced(send, good, 5.0)
            callers = [asyncio.ensure_future(_repeat(send, bad)) for _ in range(500)]
            await asyncio.sleep(15.0)  # until those who were refused come one by one
            beside = await _paced(send, good, 10.0)
            for each in callers:
                each.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            return alone, beside

        alone, beside = asyncio.run(measure())
    yield Figure(
        case=CASE,
        name="/sync beside 500 callers of a target that hangs, p99, to that without",
        unit="x",
        values=(p99(beside) / p99(alone),),
        limit=Limit(at_most=2.0),
    )


def _givers_up(plan: Plan) -> Iterator[Measured]:
    """8 callers who leave after 2 s and come again, at a target that takes 29 s."""
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: callers give up")
        target = servers.target(lab)
        send = servers.function(lab, "send", called=target, cores=lab.cores.all)
        slow = ("/sync", servers.envelope(target.port, path="/slow/29"))
        quick = ("/sync", servers.envelope(target.port))

        async def measure() -> list[float]:
            callers = [asyncio.ensure_future(_repeat(send, slow, timeout_s=2.0)) for _ in range(8)]
            others = await _others(send, quick, 30.0)
            for each in callers:
                each.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            return others

        others = asyncio.run(measure())
        open_calls = get(target, "/open")["most"]
    yield _figure("/sync, status and probes beside 8 callers who give up, p99", others, 0.2)
    yield Figure(
        case=CASE,
        name="the most calls that were open at their target",
        unit="",
        values=(float(open_calls),),
        limit=Limit(at_most=16.0),
    )


def _slow(plan: Plan) -> Iterator[Measured]:
    """Many calls of 2 s at once, to two targets, as no one may have more than half."""
    for calls, threads, limit_s, limit_mb in ((1000, 1024, 3.5, 120.0), (240, None, 2.4, None)):
        with Lab(plan.cores) as lab:
            plan.show(f"{CASE}: {calls} calls of 2 s")
            targets = [servers.target(lab) for _ in range(2)]
            settings = {"ALLOWED_TARGETS": "localhost"}
            send = servers.function(
                lab, "send", called=targets[0], threads=threads, settings=settings
            )
            requests = [servers.envelope(each.port, path="/slow/2") for each in targets]

            async def measure() -> list[int]:
                calling = [
                    load.call(send.port, "/sync", requests[number % 2], timeout_s=30)  # noqa: B023
                    for number in range(calls)  # noqa: B023
                ]
                return [status for status, _ in await asyncio.gather(*calling)]

            started_s = time.monotonic()
            with PeakMemory(send.pid) as memory:
                statuses = asyncio.run(measure())
            last_s = time.monotonic() - started_s
            if set(statuses) != {200}:
                raise BenchError(f"of {calls} calls some were answered with {set(statuses)}")
        what = f"{calls} calls at once to targets that take 2 s"
        yield Figure(
            case=CASE,
            name=f"{what}, the last answer",
            unit="s",
            values=(last_s,),
            limit=Limit(at_most=limit_s),
        )
        yield Figure(
            case=CASE,
            name=f"{what}, most memory",
            unit="MB",
            values=(memory.peak_bytes / 1e6,),
            limit=None if limit_mb is None else Limit(at_most=limit_mb),
        )


async def _others(send: Server, call: _Call, seconds: float) -> list[float]:
    """Call now and then, ask for a status, and probe; return how long each took."""
    kinds = [call, ("/async/none", _GET), (servers.PROBE, _GET)]
    took = await asyncio.gather(*(_paced(send, each, seconds) for each in kinds))
    return [each for part in took for each in part]


async def _paced(send: Server, call: _Call, seconds: float) -> list[float]:
    took = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        status, took_s = await load.call(send.port, *call, timeout_s=30)
        if status not in (200, 404):
            raise BenchError(f"{call[0]} was answered with {status}")
        took.append(took_s)
        await asyncio.sleep(max(0.0, 1 / _PROBES - took_s))
    return took


async def _repeat(send: Server, call: _Call, timeout_s: float = 60.0) -> None:
    """Call again and again; when refused, about when Retry-After says."""
    while True:
        status = 0
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            status, _ = await load.call(send.port, *call, timeout_s=timeout_s)
        if status == 503:
            await asyncio.sleep(random.uniform(4.0, 6.0))  # noqa: S311 - no secret


def _figure(name: str, values: list[float], limit_s: float) -> Figure:
    limit = Limit(at_most=limit_s)
    return Figure(case=CASE, name=name, unit="s", values=(p99(values),), limit=limit)
