"""The crash test: `python -m tests.system.crash`, or `./dev crash`.

Publishes events through Send while its processes are killed, and counts what became of each. The
exit code is 0 when every bound of docs/reliability.md was kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.crash.plan import Plan
from tests.system.crash.report import broken_together, table
from tests.system.crash.run import run

_EVENTS = 7000
_KILLS = 25
_QUICK_EVENTS = 2400
_QUICK_KILLS = 5
_STATES = ("sqlite", "redis", "memory")
_SHOW_INTERVAL_S = 5.0


def main() -> int:
    """Make the runs, print their table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev crash", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run")
    parser.add_argument("--events", type=int, default=_EVENTS, help="of each run")
    parser.add_argument("--kills", type=int, default=_KILLS, help="of each run with kills")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--state", choices=_STATES, help="of a quick run", default=_STATES[0])
    arguments = parser.parse_args()
    if arguments.quick:
        plans = [(Plan(seed=1, events=_QUICK_EVENTS, state=arguments.state), _QUICK_KILLS)]
    else:
        plans = [
            (Plan(seed=seed, events=arguments.events, state=state), kills)
            for kills in (0, arguments.kills)
            for state in _STATES
            # Without a state to share a run is for comparison, and one is enough.
            for seed in (arguments.seeds if kills and state != "memory" else arguments.seeds[:1])
        ]
    reports = []
    broken = []
    for plan, kills in plans:
        folder = Path(tempfile.mkdtemp(prefix="crash-"))
        report = run(plan, kills, folder, _progress())
        reports.append(report)
        if report.broken_bounds():
            broken += [*report.broken_bounds(), f"the logs of that run are in {folder}"]
        else:
            shutil.rmtree(folder)
    if not arguments.quick:
        broken += broken_together(reports)
    print(table(reports), end="", flush=True)
    print("\n".join(broken) or "Every bound was kept.", flush=True)
    return 1 if broken else 0


def _progress() -> Callable[[str], None]:
    """Make what shows how far a run is: in place on a terminal, else line by line."""
    is_terminal = sys.stderr.isatty()
    shown_at_s = 0.0

    def show(text: str) -> None:
        nonlocal shown_at_s
        now = time.monotonic()
        if is_terminal:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - shown_at_s >= _SHOW_INTERVAL_S:
            shown_at_s = now
            print(text, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
