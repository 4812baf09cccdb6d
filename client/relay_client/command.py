"""The `relay` command.

Exit codes:

    0   done: the request completed, or what was asked for happened
    1   the request failed, is dead, was cancelled, or is unknown
    2   the command line or the file is wrong
    3   the relay refused the call
    4   the relay cannot be reached, or is unavailable
    5   the request is still open after the time that was given
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

from relay_client.api import Relay
from relay_client.documents import RequestStatus
from relay_client.errors import NotFinished, RelayError, Unavailable

FAILED, REFUSED, UNAVAILABLE, STILL_OPEN = 1, 3, 4, 5
STATES = ("accepted", "completed", "failed", "dead", "cancelled", "unknown")
_COLORS = {"completed": "green", "failed": "yellow", "dead": "red", "unknown": "red"}
_WATCH_S = 1.0


class _Group(click.Group):
    """Turn the client's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RelayError as exc:
            click.echo(f"relay: {exc}", err=True)
            code = UNAVAILABLE if isinstance(exc, Unavailable) else REFUSED
            ctx.exit(STILL_OPEN if isinstance(exc, NotFinished) else code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="RELAY_URL",
    default="http://localhost:8080",
    show_default=True,
    show_envvar=True,
    help="Where the relay, or the gateway before it, listens.",
)
@click.option("--host", envvar="RELAY_HOST", show_envvar=True, help="The Host header of Send.")
@click.option("--token", envvar="RELAY_TOKEN", show_envvar=True, help="One of API_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a document a line.")
@click.version_option(package_name="knative-relay-client")
@click.pass_context
def main(
    ctx: click.Context, url: str, host: str | None, token: str | None, *, as_json: bool
) -> None:
    """Call a relay, and see and steer what became of each call.

    Exit codes: 0 done; 1 failed, dead, cancelled or unknown; 2 wrong usage; 3 refused;
    4 the relay is unavailable; 5 still open.
    """
    ctx.obj = (Relay(url, host=host, token=token), as_json)


def _with_relay(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command the client, and whether to print JSON."""

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        relay, as_json = ctx.obj
        command(relay, as_json=as_json, **options)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


@main.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("--wait", "wait_s", type=click.IntRange(1), help="Wait for the outcome, in seconds.")
@click.option("--key", help="The Idempotency-Key; a new one by default.")
@_with_relay
def send(relay: Relay, *, as_json: bool, file: TextIO, wait_s: int | None, key: str | None) -> None:
    """Have the call in FILE (- for standard input) made, and print its id and state."""
    try:
        envelope = json.load(file)
    except ValueError as exc:
        raise click.BadParameter(f"{file.name} is not JSON: {exc}", param_hint="FILE") from exc
    if not isinstance(envelope, dict):
        raise click.BadParameter(f"{file.name} must hold one JSON object", param_hint="FILE")
    status = relay.submit(envelope, key=key)
    if wait_s:
        status = relay.result(status.id, timeout_s=wait_s)
    _show(status, as_json=as_json)


@main.command()
@click.argument("id")
@click.option("--wait", "wait_s", type=click.IntRange(1), help="Wait for the outcome, in seconds.")
@_with_relay
def get(relay: Relay, *, as_json: bool, id: str, wait_s: int | None) -> None:
    """Print what became of the request ID."""
    _show(relay.result(id, timeout_s=wait_s) if wait_s else relay.get(id), as_json=as_json)


_filters: tuple[Callable[..., Any], ...] = (
    click.option("--since", help="Only what was accepted at or after this time (RFC 3339)."),
    click.option("--target", help="Only calls to this host[:port]."),
)


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in _filters:
        command = option(command)
    return command


@main.command("list")
@click.option("--status", type=click.Choice(STATES), default="dead", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@_filtered
@_with_relay
def list_(
    relay: Relay,
    *,
    as_json: bool,
    status: str,
    limit: int,
    target: str | None,
    since: str | None,
) -> None:
    """List requests, the newest first."""
    found: list[RequestStatus] = []
    cursor, total = None, None
    while len(found) < limit:
        page = relay.list(
            status=status, target=target, since=since, limit=limit - len(found), cursor=cursor
        )
        found += page.requests
        total, cursor = page.total, page.cursor
        if cursor is None:
            break
    if as_json:
        for each in found:
            _print_json(each.document)
        return
    _print_table(found)
    more = f" of {total}" if total is not None and total > len(found) else ""
    click.echo(f"{len(found)}{more} {status}", err=True)


@main.command()
@click.argument("id", required=False)
@click.option("--all", "all_", is_flag=True, help="All that match, instead of one ID.")
@click.option("--status", type=click.Choice(("dead", "failed")), default="dead", show_default=True)
@_filtered
@_with_relay
def retry(
    relay: Relay,
    *,
    as_json: bool,
    id: str | None,
    all_: bool,
    status: str,
    target: str | None,
    since: str | None,
) -> None:
    """Send the request ID, or with --all many requests, again."""
    if (id is None) is not all_:
        raise click.UsageError("give one ID, or --all")
    if id is not None:
        _show(relay.retry(id), as_json=as_json)
        return
    batches = relay.retry_all(status=status, target=target, since=since)
    sent = 0
    with click.progressbar(length=1, label="sending again", file=sys.stderr) as bar:
        for sent, left in batches:
            bar.length = max(1, sent + left)
            bar.pos = 0
            bar.update(sent)
    if as_json:
        _print_json({"retried": sent})
    else:
        click.echo(f"{sent} sent again")


@main.command()
@click.argument("id")
@_with_relay
def cancel(relay: Relay, *, as_json: bool, id: str) -> None:
    """Cancel the request ID, unless its call has been made."""
    status = relay.cancel(id)
    if as_json:
        _print_json(status.document)
    else:
        _print_table([status])


@main.command()
@click.option("--status", type=click.Choice(STATES), default="dead", show_default=True)
@click.option("--for", "for_s", type=click.IntRange(1), help="Stop after so many seconds.")
@_filtered
@_with_relay
def watch(
    relay: Relay,
    *,
    as_json: bool,
    status: str,
    for_s: int | None,
    target: str | None,
    since: str | None,
) -> None:
    """Print each request that comes into a state, until Ctrl-C."""
    until = None if for_s is None else time.monotonic() + for_s
    seen: set[tuple[str, object]] = set()
    first = True
    while until is None or time.monotonic() < until:
        page = relay.list(status=status, target=target, since=since)
        news = [each for each in reversed(page.requests) if _moment(each) not in seen]
        seen |= {_moment(each) for each in page.requests}
        if as_json:
            for each in news:
                _print_json(each.document)
        elif news:
            _print_table(news, with_head=first)
        first = first and not news
        time.sleep(_WATCH_S)


def _moment(status: RequestStatus) -> tuple[str, object]:
    return status.id, status.document.get("finishedAt") or status.document.get("acceptedAt")


def _show(status: RequestStatus, *, as_json: bool) -> None:
    """Print one request, with the body of its answer, and end with its exit code."""
    if as_json:
        _print_json(status.document)
    else:
        _print_table([status])
        if status.answer is not None and status.answer.body is not None:
            body = status.answer.body
            if isinstance(body, bytes):
                click.echo(f"({len(body)} bytes; --json shows them)")
            elif isinstance(body, str):
                click.echo(body)
            else:
                click.echo(json.dumps(body, indent=2, ensure_ascii=False))
    if status.status not in ("accepted", "completed"):
        click.get_current_context().exit(FAILED)


def _print_json(document: Mapping[str, Any]) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


def _print_table(requests: Iterable[RequestStatus], *, with_head: bool = True) -> None:
    head = ("ID", "STATE", "TARGET", "ATTEMPTS", "SINCE", "WHY")
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
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in ([head] if with_head else []) + rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = click.style(cells[1], fg=_COLORS.get(row[1]))
        click.echo("  ".join(cells).rstrip())
