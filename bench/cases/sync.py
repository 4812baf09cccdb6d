"""`/sync` under load beside its rivals, then one call at a time."""

from __future__ import annotations

from collections.abc import Iterator

from bench import servers
from bench.cases.costs import CONNECTIONS, Way, compare, each
from bench.cases.plan import Plan, differences, ratios
from bench.processes import Lab
from bench.report import Figure, Limit, Measured

CASE = "sync"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure CPU and latency."""
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        request = servers.envelope(target.port)
        rivals = ("hello", "bare") if plan.is_quick else ("hello", "bare", "naive")
        ways = {name: Way(servers.rival(lab, name), "/", request) for name in rivals}
        ways["send"] = Way(servers.function(lab, "send", called=target), "/sync", request)
        if not plan.is_quick:
            settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": servers.target(lab).url}
            traced = servers.function(lab, "send", called=target, settings=settings)
            ways["traced"] = Way(traced, "/sync", request)
            if servers.has_nginx():
                ways["nginx"] = Way(servers.proxy(lab, target), "/", request)
        loaded = compare(plan, CASE, ways)
        alone = {"target": Way(target, "/", request), **ways}
        left_out = ("hello", "bare") if plan.is_quick else ("traced", "nginx")
        alone = {name: way for name, way in alone.items() if name not in left_out}
        p50_ms = compare(plan, CASE, alone, connections=1, seconds=1).p50_ms
    ratio_of = {f"Send to {name}": ("send", name) for name in rivals}
    limits = {"Send to bare": Limit(at_most=0.85), "Send to hello": Limit(at_most=1.8)}
    if not plan.is_quick:
        ratio_of["Send with traces to without"] = ("traced", "send")
    for name, (own, other) in ratio_of.items():
        yield Figure(
            case=CASE,
            name=f"CPU per request, {name}",
            unit="x",
            values=ratios(loaded.cpu_ms[own], loaded.cpu_ms[other]),
            limit=limits.get(name),
        )
    yield Figure(
        case=CASE,
        name=f"p99 at {CONNECTIONS} connections, Send to bare",
        unit="x",
        values=ratios(loaded.p99_ms["send"], loaded.p99_ms["bare"]),
        limit=Limit(at_most=2.0),
    )
    yield Figure(
        case=CASE,
        name="p50 at 1 connection, Send over the direct call",
        unit="ms",
        values=differences(p50_ms["send"], p50_ms["target"]),
        limit=Limit(at_most=0.5),
    )
    yield from each(CASE, "CPU per request", "ms", loaded.cpu_ms)
    yield from each(CASE, "requests a second", "/s", loaded.rate)
    yield from each(CASE, f"p99 at {CONNECTIONS} connections", "ms", loaded.p99_ms)
    yield from each(CASE, "p50 at 1 connection", "ms", p50_ms)
