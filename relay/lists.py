"""List requests, and publish many of them again, a page at a time."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl

from relay.events import DEAD, FAILED, JSON
from relay.forwarded import base_url
from relay.http import Request, Response
from relay.jsons import dumps
from relay.problems import (
    BrokerUnavailable,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RelayError,
    StateUnavailable,
)
from relay.records import STATUSES, Known, Records
from relay.status import describe
from relay.store import Listing, Place
from relay.urls import parse_authority

MAX_LIMIT: Final = 1000
# A batch of retries holds a thread; it ends after so many, or so long.
RETRIED: Final = 100
_BATCH_S: Final = 2.0
_RETRIABLE: Final = (DEAD, FAILED)
_PARAMETERS: Final = ("status", "target", "since", "limit", "cursor")

_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_COUNT: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_PLACE: Final = re.compile(r"([0-9]{1,15}) (.+)", re.ASCII | re.DOTALL)


class Lists:
    """Answer for many requests at once.

    Args:
        records: where they are read.
        publish_again: publishes one of them; see `Status.publish_again`.
    """

    def __init__(self, records: Records, publish_again: Callable[[str], Known]) -> None:
        self._records = records
        self._publish_again = publish_again
        self._retrying = threading.Lock()

    def list(self, request: Request) -> Response:
        """Answer `GET /async?status=…`."""
        query = query_of(request, _PARAMETERS)
        listing = self._listing(query, STATUSES)
        page, next_page = self._records.page(
            listing, limit=_limit(query, 100, MAX_LIMIT), after=_cursor(query)
        )
        base = base_url(request.headers)
        document: dict[str, object] = {
            "requests": [describe(known, base, is_listed=True) for known in page],
            "total": self._records.count(listing),
        }
        if next_page is not None:
            document["cursor"] = _cursor_of(next_page)
        return Response.whole(200, dumps(document), content_type=JSON)

    def retry(self, request: Request) -> Response:
        """Answer `POST /async/retry?status=…`: one batch; its cursor leads to the next.

        It goes from the newest to the oldest, so that what dies again meanwhile is behind it.
        """
        query = query_of(request, _PARAMETERS)
        listing = self._listing(query, _RETRIABLE)
        limit, after = _limit(query, RETRIED, RETRIED), _cursor(query)
        if not self._retrying.acquire(blocking=False):
            raise Conflict(
                "another batch is being sent again; one at a time leaves room for others",
                headers=(("Retry-After", "1"),),
            )
        try:
            retried, skipped, next_page = self._retry(listing, limit, after)
        finally:
            self._retrying.release()
        document: dict[str, object] = {"retried": retried, "skipped": skipped, "left": 0}
        if next_page is not None:
            rest = replace(listing, to_ms=min(listing.to_ms, next_page[0]))
            document["left"] = self._records.count(rest)
            document["cursor"] = _cursor_of(next_page)
        return Response.whole(200, dumps(document), content_type=JSON)

    def _retry(
        self, listing: Listing, limit: int, after: Place | None
    ) -> tuple[int, int, Place | None]:
        """Publish one batch; return how many, how many could not be, and where to go on."""
        page, next_page = self._records.page(listing, limit=limit, after=after)
        retried = skipped = 0
        until = time.monotonic() + _BATCH_S
        for place, known in enumerate(page, 1):
            try:
                self._publish_again(known.record.id)
                retried += 1
            except (BrokerUnavailable, DeadlineExceeded, StateUnavailable):
                if not retried:
                    raise
                return retried, skipped, after  # what is not sent again comes next
            except (Conflict, NotFound):
                pass  # somebody else was quicker
            except RelayError:
                skipped += 1  # the Broker does not take it
            after = (known.record.listed_ms, known.record.id)
            if time.monotonic() > until and place < len(page):
                return retried, skipped, after
        return retried, skipped, next_page

    def _listing(self, query: Mapping[str, str], statuses: Collection[str]) -> Listing:
        status = query.get("status", "")
        if status not in statuses:
            raise InvalidRequest("status", f"in the query must be one of {', '.join(statuses)}")
        target = query.get("target")
        if target is not None:
            host, port, _ = parse_authority(target, field="target")
            host = f"[{host}]" if ":" in host else host
            target = host if port is None else f"{host}:{port}"
        return self._records.listing(status, target=target, since_ms=_since(query))


def query_of(request: Request, names: Collection[str] = ()) -> Mapping[str, str]:
    """Read the query of a caller.

    Raises:
        InvalidRequest: a parameter is not one of these names, or is given twice.
    """
    query: dict[str, str] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "it has none"
            raise InvalidRequest(name[:64] or "query", f"is no parameter of this route; {known}")
        if name in query:
            raise InvalidRequest(name, "is given twice in the query")
        query[name] = value
    return query


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not _COUNT.fullmatch(text) or int(text) > most:
        raise InvalidRequest("limit", f"in the query must be 1 to {most}")
    return int(text)


def _since(query: Mapping[str, str]) -> int | None:
    text = query.get("since")
    if text is None:
        return None
    error = InvalidRequest(
        "since", "in the query must be a time like 2026-11-26T03:00:00Z (RFC 3339)"
    )
    if not _TIME.fullmatch(text):
        raise error
    seconds, _, rest = text.upper().replace("Z", "+00:00").partition(".")
    try:
        # Before 3.11 Python reads fractions of three or six digits only.
        moment = datetime.datetime.fromisoformat(seconds[:19] + (seconds + rest)[-6:])
        fraction = re.match("[0-9]*", rest)
        return int(moment.timestamp()) * 1000 + int(f"{fraction[0] if fraction else '':0<3}"[:3])
    except (ValueError, OverflowError) as exc:
        raise error from exc


def _cursor(query: Mapping[str, str]) -> Place | None:
    text = query.get("cursor")
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        match = _PLACE.fullmatch(raw.decode("utf-8"))
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        raise InvalidRequest("cursor", "in the query must be that of the page before")
    return int(match[1]), match[2]


def _cursor_of(place: Place) -> str:
    raw = f"{place[0]} {place[1]}".encode()
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")
