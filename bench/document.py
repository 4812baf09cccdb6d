"""The tables in docs/performance.md, written from the report so that they cannot differ from it."""

from __future__ import annotations

from bench.report import Report
from bench.tables import sections
from local.process import REPOSITORY

PATH = REPOSITORY / "docs/performance.md"

_BEGIN = "<!-- ./dev bench, {name}: begin -->\n"
_END = "<!-- ./dev bench, {name}: end -->\n"


def with_tables(text: str, report: Report) -> str:
    """Return the document with the tables of this report in the place of what is there."""
    for name, section in sections(report).items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{section}\n{end}{after}"
    return text
