"""Follow the Broker's activity, and go on where it broke off when the connection is lost."""

from __future__ import annotations

import asyncio
import logging

import httpx

from local.broker.activity import Accepted, Attempted
from local.display.requests import Requests

# More than the pause after which the Broker says that it is still there.
_TIMEOUTS_S = httpx.Timeout(5.0, read=45.0)
_PAUSE_S = 0.5
_log = logging.getLogger(__name__)


class Subscription:
    """One reader of the Broker's activity."""

    def __init__(self, url: str, requests: Requests) -> None:
        """Tell `requests` what is read at `url`."""
        self._url = url
        self._requests = requests
        self._last_id = ""

    async def follow(self) -> None:
        """Follow until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUTS_S) as client:
            while True:
                try:
                    await self._read(client)
                except httpx.HTTPError as exc:
                    _log.debug("the Broker's activity broke off: %s", exc)
                finally:
                    self._requests.is_connected = False
                await asyncio.sleep(_PAUSE_S)

    async def _read(self, client: httpx.AsyncClient) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        async with client.stream("GET", self._url, headers=headers) as response:
            response.raise_for_status()
            self._requests.is_connected = True
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                    continue
                if "data" in fields:
                    self._take(fields["id"], fields["event"], fields["data"])
                fields = {}

    def _take(self, event_id: str, kind: str, data: str) -> None:
        self._count_missed(event_id)
        self._last_id = event_id
        try:
            if kind == "accepted":
                self._requests.accept(Accepted.from_json(data))
            else:
                self._requests.attempt(Attempted.from_json(data))
        # One fact that cannot be shown must not end the page for all others.
        except Exception:
            _log.exception("a fact of the Broker cannot be shown")

    def _count_missed(self, event_id: str) -> None:
        run, _, number = event_id.partition("-")
        last_run, _, last_number = self._last_id.partition("-")
        if run == last_run:
            self._requests.missed += int(number) - int(last_number) - 1
