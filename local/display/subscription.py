"""Follow the Broker's activity, and go on where it broke off when the connection is lost."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import msgspec

from local.broker.activity import Accepted, Fact
from local.display.requests import Requests

# The Broker is silent for at most 15 s.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=45)
# A fact is one line, with an event of up to 2 MiB in base64.
_BUFFER_BYTES = 4 * 1024 * 1024
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
        async with aiohttp.ClientSession(
            timeout=_TIMEOUT, trust_env=False, read_bufsize=_BUFFER_BYTES
        ) as session:
            while True:
                try:
                    await self._read(session)
                except (aiohttp.ClientError, asyncio.TimeoutError) as exc:
                    _log.debug("the Broker's activity broke off: %s", exc)
                finally:
                    self._requests.is_connected = False
                await asyncio.sleep(_PAUSE_S)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        async with session.get(self._url, headers=headers, raise_for_status=True) as response:
            self._requests.is_connected = True
            event_id = ""
            async for line in response.content:
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if name == b"id":
                    event_id = value.decode()
                elif name == b"data":
                    self._take(event_id, value)

    def _take(self, event_id: str, data: bytes) -> None:
        self._count_missed(event_id)
        self._last_id = event_id
        try:
            fact = msgspec.json.decode(data, type=Fact)
            if isinstance(fact, Accepted):
                self._requests.accept(fact)
            else:
                self._requests.attempt(fact)
        # One fact that cannot be shown must not end the page for all others.
        except Exception:
            _log.exception("a fact of the Broker cannot be shown")

    def _count_missed(self, event_id: str) -> None:
        run, _, number = event_id.partition("-")
        last_run, _, last_number = self._last_id.partition("-")
        if run == last_run:
            self._requests.missed += int(number) - int(last_number) - 1
