"""What the command prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from relay_client.documents import RequestStatus

_COLORS = {"completed": "green", "failed": "yellow", "dead": "red", "unknown": "red"}
_HEAD = ("ID", "STATE", "TARGET", "ATTEMPTS", "SINCE", "WHY")
# So that the lines of several tables stand below each other: a UUID, `completed`, a name, a number
# and a time.
_WIDTHS = (36, 9, 15, 8, 24, 0)


def print_json(document: Mapping[str, Any]) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


def print_table(requests: Iterable[RequestStatus], *, with_head: bool = True) -> None:
    rows: list[Sequence[str]] = [
        (
            each.id,
            each.status,
            str(each.document.get("target", "")),
            str(each.document.get("attempts", "")),
            str(each.document.get("finishedAt") or each.document.get("acceptedAt") or ""),
            each.why,
        )
        for each in requests
    ]
    lengths = ([len(cell) for cell in row] for row in rows)
    widths = [max(column) for column in zip(_WIDTHS, *lengths, strict=True)]
    for row in ([_HEAD] if with_head else []) + rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row[1] in _COLORS:
            cells[1] = click.style(cells[1], fg=_COLORS[row[1]])
        click.echo("  ".join(cells).rstrip())


def show(status: RequestStatus, *, as_json: bool) -> None:
    """Print one request, with the body of its answer."""
    if as_json:
        print_json(status.document)
        return
    print_table([status])
    body = None if status.answer is None else status.answer.body
    if isinstance(body, bytes):
        click.echo(f"({len(body)} bytes; --json shows them)")
    elif isinstance(body, str):
        click.echo(body)
    elif body is not None:
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))
