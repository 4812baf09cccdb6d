"""The report as a table of the terminal, and as the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report import Curve, Figure, Limit, Report

_HEADINGS = ("case", "figure", "median", "lowest to highest", "limit", "met")


def figures_text(figures: Iterable[Figure]) -> str:
    """Write figures in columns."""
    rows = [_HEADINGS, *map(_row, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def markdown(report: Report) -> str:
    """Write what docs/performance.md shows of a report."""
    limited = [figure for figure in report.figures if figure.limit]
    others = [figure for figure in report.figures if not figure.limit]
    parts = [
        _table(_HEADINGS, map(_row, limited)),
        "For comparison, the figures behind them:\n",
        _table(_HEADINGS[:4], [_row(figure)[:4] for figure in others]),
    ]
    for title in dict.fromkeys(curve.title for curve in report.curves):
        curves = [curve for curve in report.curves if curve.title == title]
        parts += [f"{title}:\n", _curves(curves)]
    parts += [
        f"Measured on this machine, {report.rounds} rounds each:\n",
        _table(("", ""), report.machine.items()),
    ]
    return "\n".join(parts)


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
