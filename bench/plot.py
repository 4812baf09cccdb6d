"""docs/bench.svg: the report in pictures, readable on light and dark pages alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.report import Curve, Figure, Report

PATH = Path(__file__).resolve().parent.parent / "docs/bench.svg"

_BARS = ("CPU per request", "p50 at 1 connection", "start to first 200", "memory, idle")
_RELAY = ("send", "receive")
_RELAY_COLOR = "#1f6feb"
_OTHER_COLOR = "#8c959f"
_LINE_COLORS = {"send": _RELAY_COLOR, "bare": "#1a7f37", "naive": "#bc4c00"}
_STYLE = {
    # Text stays text, in whatever sans-serif the reader has.
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "figure.constrained_layout.w_pad": 0.15,
    "figure.constrained_layout.h_pad": 0.15,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(report: Report, path: Path) -> None:
    """Draw bars for what was compared, and the curves; what was not measured is left out."""
    bars = {name: _bars_of(report.figures, name) for name in _BARS}
    bars = {name: figures for name, figures in bars.items() if figures}
    titles = list(dict.fromkeys(curve.title for curve in report.curves))
    titles = [title for title in titles if "CPU" in title]
    count = len(bars) + len(titles)
    if not count:
        return
    with mpl.rc_context(_STYLE):
        rows = -(-count // 2)
        canvas = Canvas(figsize=(9, 2.9 * rows), layout="constrained", facecolor="white")
        panels = canvas.subplots(rows, 2, squeeze=False).flatten().tolist()
        for (name, figures), axes in zip(bars.items(), panels, strict=False):
            _draw_bars(axes, name, figures)
        for title, axes in zip(titles, panels[len(bars) :], strict=False):
            _draw_curves(axes, title, [each for each in report.curves if each.title == title])
        for axes in panels[count:]:
            axes.set_visible(False)
        canvas.savefig(path, format="svg", metadata={"Date": None})


def _bars_of(figures: Sequence[Figure], name: str) -> list[Figure]:
    """Return the figures of one name, one a server; those of the first case that has them."""
    found = [figure for figure in figures if figure.name.startswith(f"{name}: ")]
    return [figure for figure in found if figure.case == found[0].case]


def _draw_bars(axes: Axes, name: str, figures: Sequence[Figure]) -> None:
    servers = [figure.name.rpartition(": ")[2] for figure in figures]
    medians = [figure.median for figure in figures]
    # From the median to the lowest and the highest round.
    spread = [
        [figure.median - min(figure.values) for figure in figures],
        [max(figure.values) - figure.median for figure in figures],
    ]
    colors = [_RELAY_COLOR if server in _RELAY else _OTHER_COLOR for server in servers]
    bars = axes.barh(servers, medians, xerr=spread, color=colors, ecolor="#24292f")
    axes.bar_label(bars, labels=[f"{median:.3g}" for median in medians], padding=6)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    case = {"sync": "/sync, ", "async": "/async, "}.get(figures[0].case, "")
    axes.set_title(f"{case}{name}, {figures[0].unit}", loc="left", fontweight="bold")


def _draw_curves(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    for curve in curves:
        points = list(curve.points)
        axes.plot(
            points,
            [curve.points[point] for point in points],
            marker="o",
            label=curve.name,
            color=_LINE_COLORS.get(curve.name, _OTHER_COLOR),
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel(curves[0].varied)
    axes.set_title(f"{title}, {curves[0].unit}", loc="left", fontweight="bold")
    axes.legend(frameon=False)
