"""Follow the ends of requests, without missing or repeating one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from relay_client.api import Relay
from relay_client.documents import RequestStatus

ENDINGS = ("completed", "failed", "dead", "cancelled")
_INTERVAL_S = 1.0
# By how much the clocks of the relay's pods may differ, and an end be noted after a later one.
_SLACK = timedelta(seconds=10)


def endings(
    relay: Relay, statuses: Sequence[str], *, target: str | None = None, for_s: float | None = None
) -> Iterator[RequestStatus]:
    """Yield each request that ends from now on.

    All times are the relay's own; it does not matter what the clock of this machine says.

    Args:
        for_s: stop after so many seconds; None for never.
    """
    until = None if for_s is None else time.monotonic() + for_s
    followed = [_Followed(relay, status, target) for status in statuses]
    for each in followed:
        each.new()  # what has ended before
    while until is None or time.monotonic() < until:
        yield from sorted((end for each in followed for end in each.new()), key=_ended)
        time.sleep(_INTERVAL_S)


class _Followed:
    """One list, and what of it is known."""

    def __init__(self, relay: Relay, status: str, target: str | None) -> None:
        self._relay = relay
        self._status = status
        self._target = target
        newest = relay.list(status, target=target, limit=1).requests
        self._since = _before(_ended(newest[0])) if newest else None
        self._seen: set[tuple[str, str]] = set()

    def new(self) -> list[RequestStatus]:
        """Read what has come since the last time."""
        listed: list[RequestStatus] = []
        cursor = None
        while True:
            page = self._relay.list(
                self._status, target=self._target, since=self._since, limit=1000, cursor=cursor
            )
            listed += page.requests
            cursor = page.cursor
            if cursor is None:
                break
        found = {(each.id, _ended(each)): each for each in listed}
        new = [each for end, each in found.items() if end not in self._seen]
        if found:
            self._since = _before(max(ended for _, ended in found))
            self._seen = {end for end in found if end[1] >= self._since}
        return new


def _ended(request: RequestStatus) -> str:
    return str(request.document["finishedAt"])


def _before(moment: str) -> str:
    earlier = datetime.fromisoformat(moment.replace("Z", "+00:00")) - _SLACK
    return earlier.isoformat(timespec="milliseconds").replace("+00:00", "Z")
