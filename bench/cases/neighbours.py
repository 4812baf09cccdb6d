"""What calls have to suffer from others whose targets fail or hang, on Kafka's dispatcher."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench import servers
from bench.cases.costs import p99
from bench.cases.plan import Plan
from bench.chain import Chain, get
from bench.processes import BenchError, Lab, Server
from bench.report import Figure, Limit, Measured
from local.ports import HOST

CASE = "neighbours"
_PUBLISHERS = 8
_ATTEMPTS = 6
_TIMEOUT_S = 120.0
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Some calls of one kind."""

    name: str
    count: int
    path: str
    target: Server

    def ids(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(self.count)]


class _Chain(Chain):
    """One with Kafka's dispatcher, and targets that hang beside the good one."""

    def __init__(self, lab: Lab, hanging: int) -> None:
        super().__init__(lab, like="kafka", settings={"ALLOWED_TARGETS": "localhost"})
        self.hanging = [servers.target(lab) for _ in range(hanging)]

    def publish(self, kinds: Sequence[_Kind]) -> dict[str, float]:
        """Hand calls to Send, by some callers at once, and return when each had its 202."""
        calls = [(kind, event_id) for kind in kinds for event_id in kind.ids()]
        accepted: dict[str, float] = {}
        connections = threading.local()

        def one(call: tuple[_Kind, str]) -> None:
            kind, event_id = call
            if not hasattr(connections, "own"):
                connections.own = http.client.HTTPConnection(HOST, self.send.port, timeout=30)
            request = servers.envelope(kind.target.port, path=kind.path)
            headers = {**request.headers, "Idempotency-Key": event_id}
            connections.own.request("POST", "/async", request.body, headers)
            answer = connections.own.getresponse()
            body = answer.read()
            if answer.status != 202:
                raise BenchError(f"/async was answered with {answer.status} {body!r}")
            accepted[event_id] = time.monotonic()

        with ThreadPoolExecutor(_PUBLISHERS) as publishers:
            list(publishers.map(one, calls))
        return accepted

    def received(self, target: Server) -> dict[str, list[float]]:
        """Return when a target was called, by the ids of the requests."""
        times: dict[str, list[float]] = get(target, "/receipts")
        return times

    def wait_until_dead(self, ids: Sequence[str]) -> None:
        """Wait until Send knows that all of these are dead."""
        waiting = set(ids)
        until_s = time.monotonic() + _TIMEOUT_S
        while waiting:
            for each in sorted(waiting):
                if get(self.send, f"/async/{each}").get("status") != "dead":
                    break
                waiting.remove(each)
            if time.monotonic() > until_s:
                raise BenchError(f"{len(waiting)} are not dead after {_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)


def run(plan: Plan) -> Iterator[Measured]:
    """Put good calls behind failing ones and hanging ones, then behind three hanging targets."""
    yield from _behind_failing(plan)
    yield from _behind_hanging(plan)
    yield from _restarted(plan)


def _behind_failing(plan: Plan) -> Iterator[Measured]:
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: 1,000 that fail and 200 that hang")
        chain = _Chain(lab, hanging=1)
        bad = _Kind(name="bad", count=1000, path="/status/503", target=chain.target)
        hang = _Kind(name="hang", count=200, path="/hang", target=chain.hanging[0])
        accepted = chain.publish([bad, hang])
        begun_s = max(accepted.values())
        first, later = _measure(chain)
        chain.wait_until_dead(bad.ids())
        dead_s = time.monotonic() - begun_s
        calls = [len(chain.received(chain.target)[each]) for each in bad.ids()]
    what = "behind 1,000 that fail and 200 that hang"
    yield _figure(f"a good call {what}, p99", first, Limit(at_most=1.0))
    yield _figure(f"one that fails once {what}, p99", later, Limit(at_most=3.0))
    yield _figure("until all 1,000 are dead", dead_s, Limit(at_most=60.0))
    yield Figure(
        case=CASE,
        name="of these, calls that were too many or too few",
        unit="",
        values=(float(sum(abs(count - _ATTEMPTS) for count in calls)),),
        limit=Limit(at_most=0.0),
    )


def _behind_hanging(plan: Plan) -> Iterator[Measured]:
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: three targets that hang")
        chain = _Chain(lab, hanging=3)
        chain.publish(
            [
                _Kind(name=f"hang{number}", count=60, path="/hang", target=target)
                for number, target in enumerate(chain.hanging)
            ]
        )
        first, later = _measure(chain)
    what = "behind three targets of 60 calls that hang"
    yield _figure(f"a good call {what}, p99", first, Limit(at_most=4.0))
    yield _figure(f"one that fails once {what}, p99", later, Limit(at_most=4.0))


def _restarted(plan: Plan) -> Iterator[Measured]:
    with Lab(plan.cores) as lab:
        plan.show(f"{CASE}: a restart of the dispatcher")
        chain = _Chain(lab, hanging=0)
        bad = _Kind(name="bad", count=500, path="/status/503", target=chain.target)
        good = _Kind(name="good", count=2000, path="/", target=chain.target)
        chain.publish([bad])
        publishing = threading.Thread(target=chain.publish, args=([good],))
        publishing.start()
        _wait_for(chain, good.ids(), good.count // 2)
        publishing.join()
        chain.restart_broker()
        chain.wait_until_dead(bad.ids())
        _wait_for(chain, good.ids(), good.count)
        received = chain.received(chain.target)
    again = sum(len(received[each]) - 1 for each in good.ids())
    yield Figure(
        case=CASE,
        name="calls made again after a restart of the dispatcher, of 2,000",
        unit="",
        values=(float(again),),
        limit=Limit(at_most=20.0),
    )


def _measure(chain: _Chain) -> tuple[float, float]:
    """Publish 200 good calls and 50 that fail once.

    Returns:
        seconds from the 202 to the call of the slowest but one in a hundred, of either kind; to
        the second call for those that fail once.
    """
    good = _Kind(name="good", count=200, path="/", target=chain.target)
    once = _Kind(name="once", count=50, path="/once", target=chain.target)
    accepted = chain.publish([good, once])
    received = _wait_for(chain, [*good.ids(), *once.ids()], good.count + once.count, once.ids())
    return (
        p99(received[each][0] - accepted[each] for each in good.ids()),
        p99(received[each][1] - accepted[each] for each in once.ids()),
    )


def _wait_for(
    chain: _Chain, ids: Sequence[str], count: int, twice: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Wait until the target was called for so many of these, and two times for some."""
    until_s = time.monotonic() + _TIMEOUT_S
    while True:
        received = chain.received(chain.target)
        came = sum(each in received for each in ids)
        if came >= count and all(len(received[each]) > 1 for each in twice):
            return received
        if time.monotonic() > until_s:
            raise BenchError(f"{came} of {count} calls came in {_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def _figure(name: str, value: float, limit: Limit) -> Figure:
    return Figure(case=CASE, name=name, unit="s", values=(value,), limit=limit)
