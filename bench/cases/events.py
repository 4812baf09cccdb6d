"""An event accepted by Send and one delivered to Receive, each alone, with each kind of store.

Broker and target answer at once, so that what is measured is the function's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

from bench import servers
from bench.cases.costs import Way, compare, each
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, Server
from bench.report import Figure, Limit, Measured

CASE = "events"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure both beside bare functions that take the same requests, then store beside store."""
    with Lab(plan.cores) as lab, ExitStack() as stack:
        target, broker = servers.quick_target(lab), servers.quick_broker(lab)
        call = servers.envelope(target.port)
        event = servers.event(call)
        ways = {
            "hello": Way(servers.rival(lab, "hello"), "/", call),
            "event": Way(servers.rival(lab, "event"), "/", event),
            "publish": Way(servers.rival(lab, "publish", broker_port=broker.port), "/", call),
        }

        def start(name: str, settings: Mapping[str, str]) -> Server:
            return servers.function(
                lab, name, called=target, broker_port=broker.port, settings=settings
            )

        ways["send"] = Way(start("send", {}), "/async", call)
        ways["receive"] = Way(start("receive", {}), "/", event)
        costs = compare(plan, CASE, ways)
        stored_ms: dict[str, list[float]] = {}
        if not plan.is_quick:
            urls = {"memory": "memory://"}
            if servers.has_redis():
                urls["Redis"] = stack.enter_context(servers.redis_server(lab.folder / "redis"))
            stores = {f"SQLite: {name}": ways[name] for name in ("send", "receive")}
            for kind, url in urls.items():
                settings = {"STATE_URL": url}
                stores[f"{kind}: send"] = replace(ways["send"], server=start("send", settings))
                stores[f"{kind}: receive"] = replace(
                    ways["receive"], server=start("receive", settings)
                )
            stored_ms = compare(plan, CASE, stores, seconds=1, rounds=plan.few_rounds).cpu_ms
    cpu_ms = costs.cpu_ms
    yield Figure(
        case=CASE,
        name="CPU per event accepted by /async, Send to hello",
        unit="x",
        values=ratios(cpu_ms["send"], cpu_ms["hello"]),
        limit=Limit(at_most=2.4),
    )
    yield Figure(
        case=CASE,
        name="CPU per delivery, Receive to functions-framework's own hello for an event",
        unit="x",
        values=ratios(cpu_ms["receive"], cpu_ms["event"]),
        limit=Limit(at_most=2.0),
    )
    yield Figure(
        case=CASE,
        name="accepted a second, Send to a bare function",
        unit="x",
        values=ratios(costs.rate["send"], costs.rate["publish"]),
        limit=Limit(at_least=0.9),
    )
    yield from each(CASE, "CPU per event", "ms", cpu_ms)
    for kind in () if plan.is_quick else ("SQLite", "memory", "Redis"):
        of_kind = {name: stored_ms.get(f"{kind}: {name}", []) for name in ("send", "receive")}
        yield from each(CASE, f"CPU per event, store in {kind}", "ms", of_kind)
