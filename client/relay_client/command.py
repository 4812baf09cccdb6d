"""The `relay` command.

Exit codes:

    0   done: what was asked for happened, and the request it is about is open or completed
    1   the request failed, is dead, was cancelled, or is unknown
    2   the command line or the file is wrong
    3   the relay refused the call
    4   the relay cannot be reached, or is not able to answer
    5   the request is still open after the time that was given
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from relay_client.api import Relay
from relay_client.documents import Batch, RequestStatus
from relay_client.errors import NotFinished, RelayError, Unavailable
from relay_client.output import print_json, print_table, show
from relay_client.watching import ENDINGS, endings

FAILED, REFUSED, UNAVAILABLE, STILL_OPEN = 1, 3, 4, 5
STATES = ("accepted", "completed", "failed", "dead", "cancelled", "unknown")


class _Group(click.Group):
    """Turn the client's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
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
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="How long to try again while the relay is unavailable, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a document a line.")
@click.version_option(package_name="knative-relay-client")
@click.pass_context
def main(
    ctx: click.Context,
    url: str,
    host: str | None,
    token: str | None,
    patience_s: float,
    *,
    as_json: bool,
) -> None:
    """Call a relay, and see and steer what became of each call.

    Exit codes: 0 done; 1 failed, dead, cancelled or unknown; 2 wrong usage; 3 refused;
    4 the relay is unavailable; 5 still open.
    """

    def on_failure(failure: str, pause_s: float) -> None:
        click.echo(f"relay: {failure}; again in {pause_s:g} s", err=True)

    try:
        relay = Relay(url, host=host, token=token, patience_s=patience_s, on_failure=on_failure)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--url") from exc
    ctx.obj = (relay, as_json)


def _with_relay(command: Callable[..., None]) -> Callable[..., None]:
    """Hand a command the client, and whether to print JSON."""

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        relay, as_json = ctx.obj
        command(relay, as_json=as_json, **options)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--since", help="Only those that ended at this time (RFC 3339) or later."
    )(command)
    return click.option("--target", help="Only calls to this host[:port].")(command)


@main.command()
@click.argument("file", type=click.File("rb"))
@click.option("--wait", "wait_s", type=click.IntRange(1), help="Wait for the outcome, in seconds.")
@click.option("--key", help="The Idempotency-Key; a new one by default.")
@_with_relay
def send(
    relay: Relay, *, as_json: bool, file: BinaryIO, wait_s: int | None, key: str | None
) -> None:
    """Have the call in FILE (- for standard input) made, and print its id and state."""
    envelope = file.read()
    try:
        json.loads(envelope)
    except ValueError as exc:
        raise click.BadParameter(f"{file.name} is not JSON: {exc}", param_hint="FILE") from exc
    status = relay.submit(envelope, key=key)
    if wait_s:
        try:
            status = relay.result(status.id, timeout_s=wait_s)
        except NotFinished:
            _show(status, as_json=as_json)  # so that its id is known
            raise
    _show(status, as_json=as_json)


@main.command()
@click.argument("id")
@click.option("--wait", "wait_s", type=click.IntRange(1), help="Wait for the outcome, in seconds.")
@_with_relay
def get(relay: Relay, *, as_json: bool, id: str, wait_s: int | None) -> None:
    """Print what became of the request ID."""
    _show(relay.result(id, timeout_s=wait_s) if wait_s else relay.get(id), as_json=as_json)


@main.command("list")
@click.option("--status", type=click.Choice(STATES), default="dead", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@_filtered
@_with_relay
def list_(
    relay: Relay, *, as_json: bool, status: str, limit: int, target: str | None, since: str | None
) -> None:
    """List requests, the newest first."""
    found: list[RequestStatus] = []
    cursor = None
    while True:
        most = min(1000, limit - len(found))
        page = relay.list(status, target=target, since=since, limit=most, cursor=cursor)
        found += page.requests
        cursor = page.cursor
        if cursor is None or len(found) >= limit:
            break
    if as_json:
        for each in found:
            print_json(each.document)
        return
    print_table(found)
    more = f" of {page.total}" if page.total > len(found) else ""
    click.echo(f"{len(found)}{more} {status}", err=True)


@main.command()
@click.argument("id", required=False)
@click.option("--all", "all_", is_flag=True, help="All that match, instead of one ID.")
@click.option("--status", type=click.Choice(("dead", "failed")), default="dead", show_default=True)
@click.option("--cursor", help="Go on where an earlier run was stopped.")
@_filtered
@_with_relay
def retry(
    relay: Relay,
    *,
    as_json: bool,
    id: str | None,
    all_: bool,
    status: str,
    cursor: str | None,
    target: str | None,
    since: str | None,
) -> None:
    """Send the request ID, or with --all many requests, again."""
    if (id is None) is not all_:
        raise click.UsageError("give one ID, or --all")
    if id is not None:
        _show(relay.retry(id), as_json=as_json)
        return
    done = Batch(retried=0, skipped=0, left=0, cursor=cursor)
    bar = click.progressbar(
        length=1, label="sending again", file=sys.stderr, hidden=not sys.stderr.isatty()
    )
    try:
        with bar:
            for done in relay.retry_all(status, target=target, since=since, cursor=cursor):
                over = done.retried + done.skipped
                bar.length = max(1, over + done.left)
                bar.update(over - bar.pos)
            bar.finish()
    except (RelayError, KeyboardInterrupt):
        _told(done, as_json=as_json)
        if done.cursor is not None:
            click.echo(f"relay: stopped; --cursor {done.cursor} goes on", err=True)
        raise
    _told(done, as_json=as_json)


def _told(done: Batch, *, as_json: bool) -> None:
    if as_json:
        print_json({"retried": done.retried, "skipped": done.skipped, "cursor": done.cursor})
    else:
        skipped = f", {done.skipped} cannot be" if done.skipped else ""
        click.echo(f"{done.retried} sent again{skipped}")


@main.command()
@click.argument("id")
@_with_relay
def cancel(relay: Relay, *, as_json: bool, id: str) -> None:
    """Cancel the request ID, unless its call has been made."""
    show(relay.cancel(id), as_json=as_json)


@main.command()
@click.option(
    "--status",
    "statuses",
    type=click.Choice(ENDINGS),
    multiple=True,
    help="Only these; repeatable.",
)
@click.option("--for", "for_s", type=click.FloatRange(0), help="Stop after so many seconds.")
@click.option("--target", help="Only calls to this host[:port].")
@_with_relay
def watch(
    relay: Relay,
    *,
    as_json: bool,
    statuses: tuple[str, ...],
    for_s: float | None,
    target: str | None,
) -> None:
    """Print each request that ends from now on, until Ctrl-C."""
    try:
        has_head = as_json
        for ended in endings(relay, statuses or ENDINGS, target=target, for_s=for_s):
            if as_json:
                print_json(ended.document)
            else:
                print_table([ended], with_head=not has_head)
                has_head = True
    except KeyboardInterrupt:
        return


def _show(status: RequestStatus, *, as_json: bool) -> None:
    """Print one request, and end with its exit code."""
    show(status, as_json=as_json)
    if status.status not in ("accepted", "completed"):
        click.get_current_context().exit(FAILED)
