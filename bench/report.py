"""What was measured: figures with their limits, curves, and docs/bench.json, which keeps them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

from local.process import REPOSITORY

PATH = REPOSITORY / "docs/bench.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What a figure has to keep."""

    at_most: float | None = None
    at_least: float | None = None

    def is_kept(self, value: float) -> bool:
        """Compare."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One thing that was measured, once in each round.

    Attributes:
        case: The name of the case, as `--only` takes it.
        name: What was measured, of whom.
        unit: Of the values; `x` for a ratio to somebody else's of the same round.
        values: One for each round; none when this machine lacks what it takes.
        limit: None when it is shown for comparison alone.
    """

    case: str
    name: str
    unit: str
    values: tuple[float, ...]
    limit: Limit | None = None

    @property
    def median(self) -> float:
        """What is compared with the limit."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Tell whether the limit is kept, if there is one."""
        return self.limit is None or not self.values or self.limit.is_kept(self.median)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """How one thing changes with another.

    Attributes:
        name: What was measured, of whom; curves of one `title` belong together.
        points: Medians, by what is varied.
    """

    case: str
    title: str
    name: str
    varied: str
    unit: str
    points: Mapping[str, float]


Measured = Figure | Curve


class _Document(TypedDict):
    """docs/bench.json."""

    machine: dict[str, str]
    rounds: int
    figures: list[dict[str, object]]
    curves: list[dict[str, object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that one run has measured, and where."""

    machine: Mapping[str, str]
    rounds: int
    figures: Sequence[Figure]
    curves: Sequence[Curve]

    def with_others_of(self, other: Report, cases: Sequence[str]) -> Report:
        """Add what another report has of other cases than these, before what is here."""
        return replace(
            self,
            figures=[each for each in other.figures if each.case not in cases] + [*self.figures],
            curves=[each for each in other.curves if each.case not in cases] + [*self.curves],
        )

    def write(self, path: Path) -> None:
        """Keep the report."""
        document: _Document = {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "figures": [_rounded(asdict(figure)) for figure in self.figures],
            "curves": [_rounded(asdict(curve)) for curve in self.curves],
        }
        text = json.dumps(document, indent=2, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` has kept."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            machine=document["machine"],
            rounds=document["rounds"],
            figures=[
                Figure(
                    **{
                        **figure,
                        "values": tuple(figure["values"]),
                        "limit": Limit(**figure["limit"]) if figure["limit"] else None,
                    }
                )
                for figure in document["figures"]
            ],
            curves=[Curve(**curve) for curve in document["curves"]],
        )


def _rounded(members: dict[str, object]) -> dict[str, object]:
    """Leave the digits that mean something."""
    values, points = members.get("values"), members.get("points")
    if isinstance(values, tuple):
        members["values"] = [float(f"{value:.5g}") for value in values]
    if isinstance(points, dict):
        members["points"] = {name: float(f"{value:.5g}") for name, value in points.items()}
    return members
