"""The report as a table of the terminal, and as the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report import Curve, Figure, Limit, Report

_HEADINGS = ("case", "figure", "median", "lowest to highest", "limit", "met")

# The order of the columns.
_SERVERS = ("send", "receive", "broker", "bare", "naive", "hello", "publish", "nginx", "target")


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


def markdown(report: Report) -> str:
    """Write what docs/performance.md shows of a report."""
    limited = [figure for figure in report.figures if figure.limit]
    parts = [
        _table(_HEADINGS, map(_row, limited)),
        "Each server for itself, medians:\n",
        _comparison(report.figures),
    ]
    for title in dict.fromkeys(curve.title for curve in report.curves):
        curves = [curve for curve in report.curves if curve.title == title]
        parts += [f"{title}:\n", _curves(curves)]
    parts += [
        f"Measured on this machine, {report.rounds} rounds each:\n",
        _table(("", ""), report.machine.items()),
    ]
    return "\n".join(parts)


def _comparison(figures: Iterable[Figure]) -> str:
    """Write a table with a column for each server; a figure's name ends in its server's."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for figure in figures:
        name, of_server, server = figure.name.rpartition(": ")
        if of_server:
            row = rows.setdefault((figure.case, name, figure.unit), {})
            row[server] = _number(figure.median)
    servers = sorted({server for row in rows.values() for server in row}, key=_SERVERS.index)
    return _table(
        ("case", "figure", *servers),
        [
            (case, f"{name}, {unit}", *(row.get(server, "") for server in servers))
            for (case, name, unit), row in rows.items()
        ],
    )


def _row(figure: Figure) -> tuple[str, ...]:
    lowest, highest = min(figure.values), max(figure.values)
    return (
        figure.case,
        figure.name,
        f"{_number(figure.median)} {figure.unit}",
        f"{_number(lowest)} to {_number(highest)}",
        _limit(figure.limit, figure.unit),
        "" if figure.limit is None else "yes" if figure.is_met else "NO",
    )


def _limit(limit: Limit | None, unit: str) -> str:
    if limit is None:
        return ""
    sign, value = ("≤", limit.at_most) if limit.at_most is not None else ("≥", limit.at_least)
    assert value is not None
    return f"{sign} {value:g} {unit}{' (aim)' if limit.aimed_for else ''}"


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
