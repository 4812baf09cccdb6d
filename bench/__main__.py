"""The command: `python -m bench`, or `./dev bench`.

Measures the relay beside its rivals on this machine, prints a table, and writes docs/bench.json,
docs/bench.svg and the tables of docs/performance.md. The exit code is 0 when every limit was kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench import document, load, machine, tables
from bench.cases import (
    backlog,
    client,
    cold,
    curves,
    deliver,
    events,
    large,
    neighbours,
    profile,
    state,
    strain,
    sync,
    wait,
)
from bench.cases.plan import Plan
from bench.processes import BenchError, Cores
from bench.report import PATH, Curve, Figure, Measured, Report

CASES: dict[str, Callable[[Plan], Iterator[Measured]]] = {
    module.CASE: module.run
    for module in (
        *(client, sync, events, deliver, wait, cold, profile),
        *(large, backlog, neighbours, strain, state, curves),
    )
}
_QUICK = ("client", "sync", "events", "cold")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and return the exit code."""
    arguments = _parse(argv)
    # Ended by SIGTERM as by Ctrl-C: with all that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        load.check_tools()
        cores = Cores.of_this_machine()
        os.sched_setaffinity(0, cores.others)
        report = _measure(arguments, cores)
    except BenchError as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 1
    if arguments.write:
        _write(report, arguments.only)
    missed = [figure for figure in report.figures if not figure.is_met]
    print(f"{len(missed)} limits missed" if missed else "every limit kept")
    return 1 if missed else 0


def _measure(arguments: argparse.Namespace, cores: Cores) -> Report:
    make_plan = Plan.quick if arguments.quick else Plan.long
    plan = make_plan(cores, _show)
    if not arguments.quick and arguments.only != list(CASES):
        plan = replace(plan, requests=1_000_000)  # which takes minutes to fill
    measured: list[Measured] = []
    for case in arguments.only:
        begun_s = time.monotonic()
        found = list(CASES[case](plan))
        measured += found
        _show("")
        print(f"{case}: {time.monotonic() - begun_s:.0f} s")
        figures = [each for each in found if isinstance(each, Figure)]
        curves = [each for each in found if isinstance(each, Curve)]
        print(tables.figures_text(figures) + tables.curves_text(curves), flush=True)
    return Report(
        machine=machine.describe(cores),
        rounds=plan.rounds,
        figures=[each for each in measured if isinstance(each, Figure)],
        curves=[each for each in measured if isinstance(each, Curve)],
    )


def _write(report: Report, cases: Sequence[str]) -> None:
    """Write docs/; what it has of other cases stays."""
    from bench import plot  # nothing else needs matplotlib

    if PATH.exists() and cases != list(CASES):
        report = report.with_others_of(Report.read(PATH), cases)
    report.write(PATH)
    report = Report.read(PATH)  # with the digits that are kept
    plot.draw(report, plot.PATH)
    text = document.PATH.read_text(encoding="utf-8")
    document.PATH.write_text(document.with_tables(text, report), encoding="utf-8")


def _show(text: str) -> None:
    """Show how far the run is: in place on a terminal, else line by line."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute: fewer cases and rounds"
    )
    parser.add_argument(
        "--only",
        type=_cases,
        help=f"the cases to run, with commas between: {','.join(CASES)}",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        default=None,
        help="write docs/ after a quick run or some cases too",
    )
    arguments = parser.parse_args(argv)
    if arguments.write is None:
        arguments.write = not (arguments.quick or arguments.only)
    arguments.only = arguments.only or (list(_QUICK) if arguments.quick else list(CASES))
    return arguments


def _cases(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in CASES:
            raise argparse.ArgumentTypeError(f"{name!r} must be one of {', '.join(CASES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
