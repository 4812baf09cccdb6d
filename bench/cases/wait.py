"""`Prefer: wait` on the local stack beside the direct call, one caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from bench import servers
from bench.cases.costs import Way, compare, each
from bench.cases.plan import Plan, differences
from bench.chain import Chain
from bench.processes import Lab
from bench.report import Figure, Limit, Measured

CASE = "wait"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure it as `./dev up` has it, and with results that come to another pod of Send."""
    yield from _measure(plan, "SQLite", others_results=False)
    yield from _measure(plan, "Redis", others_results=True)


def _measure(plan: Plan, kind: str, *, others_results: bool) -> Iterator[Measured]:
    name = f"store in {kind}" + (", the result comes to another pod" if others_results else "")
    p50_ms: dict[str, list[float]] = {"send": [], "target": []}
    if kind == "SQLite" or servers.has_redis():
        with Lab(plan.cores) as lab, ExitStack() as stack:
            settings = {}
            if kind == "Redis":
                url = stack.enter_context(servers.redis_server(lab.folder / "redis"))
                settings["STATE_URL"] = url
            chain = Chain(lab, settings=settings, others_results=others_results)
            request = servers.envelope(chain.target.port)
            waiting = replace(request, headers={**request.headers, "Prefer": "wait=10"})
            ways = {
                "target": Way(chain.target, "/", request),
                "send": Way(chain.send, "/async", waiting),
            }
            p50_ms = compare(plan, f"{CASE}, {name}", ways, connections=1, seconds=1).p50_ms
    yield Figure(
        case=CASE,
        name=f"p50 of a caller who waits, over the direct call, {name}",
        unit="ms",
        values=differences(p50_ms["send"], p50_ms["target"]),
        limit=Limit(at_most=5.0),
    )
    yield from each(CASE, f"p50 of a caller who waits, {name}", "ms", p50_ms)
