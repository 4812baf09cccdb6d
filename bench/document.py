"""The tables in docs/performance.md, written from the report so that they cannot differ from it."""

from __future__ import annotations

from bench.report import Report
from bench.tables import markdown
from local.process import REPOSITORY

PATH = REPOSITORY / "docs/performance.md"

_BEGIN = "<!-- what ./dev bench has measured: begin -->\n"
_END = "<!-- what ./dev bench has measured: end -->\n"


def with_tables(text: str, report: Report) -> str:
    """Return the document with the tables of this report in the place of what is there."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{markdown(report)}\n{_END}{after}"
