"""What the page's buttons do: send an example, or a dead request again, as a caller would."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from local.process import REPOSITORY

EXAMPLES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "post_async_tasks": ("POST", "/async"),
        "event": ("POST", "/event"),
        "post_async_down": ("POST", "/async"),
        "post_sync_tasks": ("POST", "/sync"),
        "get_sync_tasks": ("GET", "/sync"),
    }
)

_TIMEOUT = aiohttp.ClientTimeout(total=150)


Sent = dict[str, object]


class Buttons:
    """A caller of Send.

    Its methods return the `status` of the answer and the `duration_ms` until it came; and from
    Send's own answers the `id` of an accepted request, or the `detail` of what is wrong. They raise
    an `aiohttp.ClientError` when Send does not answer.
    """

    def __init__(self, send_url: str, *, sample_api: str, token: str) -> None:
        """Set the way to Send.

        Args:
            send_url: Without a path.
            sample_api: `host:port` of the target that the examples name.
            token: One of `API_TOKEN`; "" when callers need none.
        """
        self.send_url = send_url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._sample_api = sample_api

    async def send_example(self, name: str) -> Sent:
        """Send one of `EXAMPLES`, with the ports of this stack in place of the usual ones."""
        method, path = EXAMPLES[name]
        text = (REPOSITORY / "examples" / f"{name}.json").read_text(encoding="utf-8")
        text = text.replace("localhost:30000", self._sample_api)
        text = text.replace("http://localhost:8080", self.send_url)
        return await self._call(method, path, text.encode())

    async def retry(self, request_id: str) -> Sent:
        return await self._call("POST", f"/async/{quote(request_id, safe='')}/retry", b"")

    async def _call(self, method: str, path: str, body: bytes) -> Sent:
        headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
        started = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session,
            session.request(
                method,
                URL(self.send_url + path, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as answer,
        ):
            content = await answer.read()
        duration_ms = (time.monotonic() - started) * 1000
        # A good answer of /sync is the target's, not the relay's.
        document = {} if path == "/sync" and answer.ok else _texts(content)
        wanted = "id" if answer.ok else "detail"
        told = {wanted: document[wanted]} if wanted in document else {}
        return {"status": answer.status, "duration_ms": duration_ms, **told}


def _texts(content: bytes) -> dict[str, str]:
    """Read the string members of a JSON object; empty for anything else."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    members = document.items() if isinstance(document, dict) else ()
    return {name: value for name, value in members if isinstance(value, str)}
