"""An event accepted by Send and one delivered to Receive, each alone, with each kind of store.

Broker and target answer at once, so that what is measured is the function's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from bench import servers
from bench.cases.costs import Way, compare, each
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, Server
from bench.report import Figure, Limit, Measured

CASE = "events"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure both beside bare functions that take the same requests."""
    with Lab(plan.cores) as lab, ExitStack() as stack:
        target, broker = servers.quick_target(lab), servers.quick_broker(lab)
        call = servers.envelope(target.port)
        event = servers.event(call)
        ways = {
            "hello": Way(servers.rival(lab, "hello"), "/", call),
            "event": Way(servers.rival(lab, "event"), "/", event),
            "publish": Way(servers.rival(lab, "publish", broker_port=broker.port), "/", call),
        }
        urls = {"SQLite": f"sqlite://{lab.folder}/state.sqlite3", "memory": "memory://"}
        if servers.has_redis():
            urls["Redis"] = stack.enter_context(servers.redis_server(lab.folder / "redis"))
        if plan.is_quick:
            urls = {"SQLite": urls["SQLite"]}

        def start(name: str, url: str) -> Server:
            settings = {"STATE_URL": url}
            return servers.function(
                lab, name, called=target, broker_port=broker.port, settings=settings
            )

        for kind, url in urls.items():
            ways[f"{kind}: send"] = Way(start("send", url), "/async", call)
            ways[f"{kind}: receive"] = Way(start("receive", url), "/", event)
        costs = compare(plan, CASE, ways)
    cpu_ms, rate = costs.cpu_ms, costs.rate
    yield Figure(
        case=CASE,
        name="CPU per event accepted by /async, Send to hello",
        unit="x",
        values=ratios(cpu_ms["SQLite: send"], cpu_ms["hello"]),
        limit=Limit(at_most=2.4),
    )
    yield Figure(
        case=CASE,
        name="CPU per delivery, Receive to functions-framework's own hello for an event",
        unit="x",
        values=ratios(cpu_ms["SQLite: receive"], cpu_ms["event"]),
        limit=Limit(at_most=2.0),
    )
    yield Figure(
        case=CASE,
        name="accepted a second, Send to a bare function",
        unit="x",
        values=ratios(rate["SQLite: send"], rate["publish"]),
        limit=Limit(at_least=0.9),
    )
    rivals = {way: cpu_ms[way] for way in ("hello", "event", "publish")}
    yield from each(CASE, "CPU per event", "ms", rivals)
    for kind in ("SQLite",) if plan.is_quick else ("SQLite", "memory", "Redis"):
        stored = {way: cpu_ms[f"{kind}: {way}"] for way in ("send", "receive")}
        yield from each(CASE, f"CPU per event, store in {kind}", "ms", stored)
