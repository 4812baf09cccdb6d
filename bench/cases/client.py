"""The client alone, one call after the other, beside the clients that people take."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator

from bench import servers
from bench.callers import CALLERS
from bench.cases.plan import Plan, ratios
from bench.processes import Lab, run_bound
from bench.report import Figure, Limit, Measured
from local.process import clean_environment

CASE = "client"


def run(plan: Plan) -> Iterator[Measured]:
    """Measure the CPU time of a call, each client in a process of its own."""
    cpu: dict[str, list[float]] = defaultdict(list)
    with Lab(plan.cores) as lab:
        target = servers.quick_target(lab)
        callers = [name for name in CALLERS if name != "session" or not plan.is_quick]
        for number in range(1, plan.rounds + 1):
            for name in callers:
                plan.show(f"{CASE}: round {number}, {name}")
                command = (sys.executable, "-m", "bench.callers", name, target.url)
                printed = run_bound(
                    (*command, str(plan.seconds)),
                    plan.cores.server,
                    clean_environment(os.environ),
                    timeout_s=plan.seconds + 60,
                )
                cpu[name].append(float(printed))
    yield Figure(
        case=CASE,
        name="CPU per call, the relay's to urllib3",
        unit="x",
        values=ratios(cpu["relay"], cpu["urllib3"]),
        limit=Limit(at_most=0.33),
    )
    for name, values in cpu.items():
        yield Figure(
            case=CASE,
            name=f"CPU per call, {name}",
            unit="µs",
            values=tuple(values),
            limit=Limit(at_most=100.0) if name == "relay" else None,
        )
