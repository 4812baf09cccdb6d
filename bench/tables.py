"""The report as a table of the terminal, and as the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report import Curve, Figure, Limit, Report

_HEADINGS = ("case", "figure", "median", "lowest to highest", "limit", "met")

PROFILE = "Where each microsecond goes"

# The cases of the first table.
_BOUNDS = ("client", "sync", "events", "deliver", "wait", "cold")
# The order of the columns.
_SERVERS = (
    *("send", "receive", "broker", "traced", "bare", "naive", "hello", "event", "publish"),
    *("nginx", "target"),
)


def figures_text(figures: Iterable[Figure]) -> str:
    """Write figures in columns."""
    rows = [*map(_row, figures)]
    if not rows:
        return ""
    rows.insert(0, _HEADINGS)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def curves_text(curves: Iterable[Curve]) -> str:
    """Write each curve on a line."""
    return "".join(
        f"{curve.title}, {curve.name}: "
        + ", ".join(f"{point}: {_number(value)}" for point, value in curve.points.items())
        + f" {curve.unit}\n"
        for curve in curves
    )


def sections(report: Report) -> dict[str, str]:
    """Write what docs/performance.md shows of a report, by the names of its markers there."""
    shown = [each for each in report.figures if each.limit or not _server_of(each)]
    bounds = [each for each in shown if each.limit and each.case in _BOUNDS]
    titles = list(dict.fromkeys(curve.title for curve in report.curves))
    curves = {title: [each for each in report.curves if each.title == title] for title in titles}
    profile = curves.pop(PROFILE, [])
    parts = [
        _table(_HEADINGS, map(_row, (each for each in shown if each not in bounds))),
        "Each server for itself, medians:\n",
        _comparison(report.figures),
    ]
    for title, of_title in curves.items():
        parts += [f"{title}:\n", _curves(of_title)]
    parts += [
        f"Measured on this machine, {report.rounds} rounds each:\n",
        _table(("", ""), report.machine.items()),
    ]
    return {
        "bounds": _table(_HEADINGS, map(_row, bounds)) + _day(report.figures),
        "profile": _curves(profile) if profile else "",
        "figures": "\n".join(parts),
    }


def _day(figures: Iterable[Figure]) -> str:
    """Say what the rivals cost in the same run, so that another machine's can be compared."""
    costs = [
        f"`{_server_of(each)}` {_median(each)} ms"
        for each in figures
        if each.case == "sync" and each.name in ("CPU per request: hello", "CPU per request: bare")
    ]
    return f"\nIn the same run, CPU a request: {', '.join(costs)}.\n" if costs else ""


def _comparison(figures: Iterable[Figure]) -> str:
    """Write a table with a column for each server."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for figure in figures:
        if server := _server_of(figure):
            name = figure.name.removesuffix(f": {server}")
            row = rows.setdefault((figure.case, name, figure.unit), {})
            row[server] = _median(figure)
    servers = sorted({server for row in rows.values() for server in row}, key=_SERVERS.index)
    return _table(
        ("case", "figure", *servers),
        [
            (case, f"{name}, {unit}", *(row.get(server, "") for server in servers))
            for (case, name, unit), row in rows.items()
        ],
    )


def _server_of(figure: Figure) -> str:
    """Return whose figure it is; empty when it tells of more than one."""
    return figure.name.rpartition(": ")[2] if ": " in figure.name else ""


def _row(figure: Figure) -> tuple[str, ...]:
    met = "" if figure.limit is None else "yes" if figure.is_met else "NO"
    return (
        figure.case,
        figure.name,
        f"{_median(figure)} {figure.unit}" if figure.values else _median(figure),
        f"{_number(min(figure.values))} to {_number(max(figure.values))}" if figure.values else "",
        _limit(figure.limit, figure.unit),
        met if figure.values else "",
    )


def _median(figure: Figure) -> str:
    return _number(figure.median) if figure.values else "not measured"


def _limit(limit: Limit | None, unit: str) -> str:
    if limit is None:
        return ""
    sign, value = ("≤", limit.at_most) if limit.at_most is not None else ("≥", limit.at_least)
    assert value is not None
    return f"{sign} {value:g} {unit}"


def _number(value: float) -> str:
    """Write three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _curves(curves: Sequence[Curve]) -> str:
    varied = list(dict.fromkeys(point for curve in curves for point in curve.points))
    rows = [
        (f"{curve.name}, {curve.unit}", *(_number(curve.points[point]) for point in varied))
        for curve in curves
    ]
    return _table((curves[0].varied, *varied), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
