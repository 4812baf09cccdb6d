"""What the page sends: the calls that a developer composes, and dead requests again."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from local.display.direct import PAGE_CALL
from local.process import REPOSITORY
from relay.envelope import METHODS

# Each with what becomes of it.
_EXAMPLES: Final = (
    ("post_async_tasks", "POST", "/async", "its target calls back"),
    ("post_async_down", "POST", "/async", "its target is down"),
    ("event", "POST", "/event", "the older name"),
    ("post_sync_tasks", "POST", "/sync", "answered at once"),
    ("get_sync_tasks", "GET", "/sync", "answered at once"),
)
_TIMEOUT = aiohttp.ClientTimeout(total=150)

Sent = dict[str, object]


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the page has composed it; the body is what is sent, whatever it is."""

    method: str
    path: str
    headers: dict[str, str]
    body: str

    def __post_init__(self) -> None:
        """Refuse, by a ValueError, what is no call of a developer's."""
        if self.path not in ("/sync", "/async", "/event") or self.method not in METHODS:
            raise ValueError("a call goes to /sync, /async or /event")


class Caller:
    """A caller of Send.

    Its methods return the `status` of the answer and the `duration_ms` until it came; and the `id`
    of what is in the list now, or from Send's own answers the `detail` of what is wrong. They raise
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
        self._token = {"Authorization": f"Bearer {token}"} if token else {}
        self._sample_api = sample_api

    def guide(self) -> dict[str, object]:
        """Return where Send is, and the examples with the ports of this stack."""
        examples = []
        for name, method, path, about in _EXAMPLES:
            text = (REPOSITORY / "examples" / f"{name}.json").read_text(encoding="utf-8")
            text = text.replace("localhost:30000", self._sample_api)
            text = text.replace("http://localhost:8080", self.send_url)
            example = {"method": method, "path": path, "about": about, "body": text}
            examples.append(example)
        return {"send": self.send_url, "needs_token": bool(self._token), "examples": examples}

    async def send(self, call: Composed) -> Sent:
        name = f"{call.path[1:]}-{uuid.uuid4().hex[:8]}"
        headers = {"Content-Type": "application/json", **call.headers}
        if call.path != "/sync" and "Prefer" in headers:
            # The answer may be the target's, which does not tell the id.
            name = headers.setdefault("Idempotency-Key", name)
        headers[PAGE_CALL] = name
        status, content, duration_ms = await self._call(
            call.method, call.path, headers, call.body.encode()
        )
        sent: Sent = {"status": status, "duration_ms": duration_ms}
        document = _texts(content)
        if status == 202 and "id" in document:
            return {**sent, "id": document["id"]}
        # A good answer of /sync is the target's, not the relay's.
        if status >= 400 and "detail" in document:
            sent["detail"] = document["detail"]
        return {**sent, "id": name}

    async def retry(self, request_id: str) -> Sent:
        path = f"/async/{quote(request_id, safe='')}/retry"
        status, content, duration_ms = await self._call("POST", path, {}, b"")
        wanted = "id" if status < 400 else "detail"
        document = _texts(content)
        told = {wanted: document[wanted]} if wanted in document else {}
        return {"status": status, "duration_ms": duration_ms, **told}

    async def _call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, float]:
        started = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session,
            session.request(
                method,
                URL(self.send_url + path, encoded=True),
                headers={**self._token, **headers},
                data=body,
                allow_redirects=False,
            ) as answer,
        ):
            content = await answer.read()
        return answer.status, content, (time.monotonic() - started) * 1000


def _texts(content: bytes) -> dict[str, str]:
    """Read the string members of a JSON object; empty for anything else."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    members = document.items() if isinstance(document, dict) else ()
    return {name: value for name, value in members if isinstance(value, str)}
