"""What the page's buttons do: send an example, or a dead request again, as a caller would."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import httpx

EXAMPLES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "post_async_tasks": ("POST", "/async"),
        "event": ("POST", "/event"),
        "post_async_down": ("POST", "/async"),
        "post_sync_tasks": ("POST", "/sync"),
        "get_sync_tasks": ("GET", "/sync"),
    }
)

_FOLDER = Path(__file__).resolve().parents[2] / "examples"
_TIMEOUT_S = 150.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What came back.

    Attributes:
        status: of the answer.
        duration_ms: until it was there.
        id: of the request that was accepted; "" when none was.
        detail: what the relay says is wrong; "" when nothing is.
    """

    status: int
    duration_ms: float
    id: str = ""
    detail: str = ""


class Caller:
    """A caller of Send."""

    def __init__(self, gateway: str, host: str, *, sample_api: str, token: str) -> None:
        """Set the way to Send.

        Args:
            gateway: the gateway's URL, without a path.
            host: the Host by which it knows Send.
            sample_api: `host:port` of the target that the examples name.
            token: one of `API_TOKEN`; "" for none.
        """
        self._gateway = gateway
        self._headers = {"Host": host}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._sample_api = sample_api

    async def send_example(self, name: str) -> Sent:
        """Send one of `EXAMPLES`, with the ports of this stack in the place of the usual ones.

        Raises:
            httpx.HTTPError: there is no answer.
        """
        method, path = EXAMPLES[name]
        text = (_FOLDER / f"{name}.json").read_text(encoding="utf-8")
        text = text.replace("localhost:30000", self._sample_api)
        text = text.replace("http://localhost:8080", self._gateway)
        return await self._call(method, path, text.encode())

    async def retry(self, request_id: str) -> Sent:
        """Have a dead request published again.

        Raises:
            httpx.HTTPError: there is no answer.
        """
        return await self._call("POST", f"/async/{quote(request_id, safe='')}/retry", b"")

    async def _call(self, method: str, path: str, body: bytes) -> Sent:
        headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
        started = time.monotonic()
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = await client.request(
                method, self._gateway + path, headers=headers, content=body
            )
        duration_ms = (time.monotonic() - started) * 1000
        # An answer of /sync is the target's, and only counted.
        document = {} if path == "/sync" and answer.is_success else _document(answer)
        return Sent(
            status=answer.status_code,
            duration_ms=duration_ms,
            id=document.get("id", "") if answer.is_success else "",
            detail=document.get("detail", ""),
        )


def _document(answer: httpx.Response) -> dict[str, str]:
    """Read the relay's own answer; empty for another's."""
    try:
        document = json.loads(answer.content)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    return {
        name: document[name] for name in ("id", "detail") if isinstance(document.get(name), str)
    }
