"""Follow the Broker's activity."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import msgspec

from local.broker.activity import Accepted, Batch, Fact
from local.display.requests import Requests

_TIMEOUT = aiohttp.ClientTimeout(total=2)
_POLL_S = 0.2
_log = logging.getLogger(__name__)


class Subscription:
    """One reader of the Broker's activity."""

    def __init__(self, url: str, requests: Requests) -> None:
        """Tell `requests` what is read at `url`."""
        self._url = url
        self._requests = requests
        self._run = ""
        self._last = 0

    async def follow(self) -> None:
        """Follow until cancelled."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
            while True:
                try:
                    await self._read(session)
                except (aiohttp.ClientError, asyncio.TimeoutError) as exc:
                    _log.debug("the Broker's activity cannot be read: %s", exc)
                    self._requests.is_connected = False
                await asyncio.sleep(_POLL_S)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        after = {"after": f"{self._run}-{self._last}"}
        async with session.get(self._url, params=after, raise_for_status=True) as response:
            batch = msgspec.json.decode(await response.read(), type=Batch)
        self._requests.is_connected = True
        if batch.run == self._run:
            self._requests.missed += batch.first - self._last - 1
        self._run, self._last = batch.run, batch.first + len(batch.facts) - 1
        for fact in batch.facts:
            self._take(fact)

    def _take(self, fact: Fact) -> None:
        try:
            if isinstance(fact, Accepted):
                self._requests.accept(fact)
            else:
                self._requests.attempt(fact)
        # One fact that cannot be shown must not end the page for all others.
        except Exception:
            _log.exception("a fact of the Broker cannot be shown")
