"""The Python client: one method for each thing that the relay does for callers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

from relay_client.documents import Batch, Page, RequestStatus
from relay_client.errors import NotFinished, Refused, Unavailable

# The relay holds a caller no longer than this.
MAX_WAIT_S = 120
# Between tries, unless the relay asks for another pause by Retry-After.
_PAUSE_S = 1.0
# Beyond the time that the relay itself may take to answer.
_MARGIN_S = 5.0
# What passes: no Broker, no store, a gateway whose pods are starting.
_PASSING = (502, 503, 504)


class Relay:
    """A relay, as its callers see it.

    Args:
        url: where it listens, such as `http://localhost:8080`, or the gateway's address.
        host: the Host header, where `url` is the gateway of a cluster.
        token: for `Authorization: Bearer`, where the relay asks for one.
        timeout_s: the longest wait for one answer, in seconds; more than the relay's
            TARGET_TIMEOUT_S where `sync` calls slow targets.
        patience_s: for how long, in seconds, a call is tried again that a 502, 503, 504 or a broken
            connection has stopped.
        on_failure: is told of each of these, and of the pause that follows, in seconds.
        sleep: pauses.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
        on_failure: Callable[[str, float], None] = lambda failure, pause_s: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._on_failure = on_failure
        self._sleep = sleep
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a netrc of the shell
        if host is not None:
            self._session.headers["Host"] = host
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def sync(self, envelope: Mapping[str, Any], *, method: str = "POST") -> requests.Response:
        """Make a call now and return the answer as it came: the target's, or a problem document.

        Args:
            envelope: `targetURL`, `targetAPI`, `headers`, `body`.
            method: of the call to the target.

        Raises:
            Unavailable: the relay cannot be reached. The call is not tried again, since the target
                may have had it.
        """
        try:
            return self._session.request(
                method,
                f"{self._url}/sync",
                json=dict(envelope),
                timeout=self._timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            raise Unavailable(_reason(exc)) from exc

    def submit(
        self, envelope: Mapping[str, Any] | bytes, *, key: str | None = None
    ) -> RequestStatus:
        """Have a call made later.

        Args:
            envelope: `targetURL`, `targetAPI`, `headers`, `body`, `method`, `callback`; as bytes,
                JSON that is sent as it is.
            key: the Idempotency-Key, which becomes the id of the request; a new UUID by default.
                What fails on the way is tried again under the same key: it is one request.

        Raises:
            Refused: the relay will not take this call.
            Unavailable: the relay cannot be reached, or its Broker is away.
        """
        key = key or str(uuid.uuid4())
        body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
        return self._status("POST", "/async", body=body, key=key)

    def get(self, id: str, *, wait_s: float | None = None) -> RequestStatus:
        """Read what became of a request.

        Args:
            id: of the request.
            wait_s: up to this many seconds, stay until it is no longer open.

        Raises:
            Refused: there is no such request (404), or it was too long ago.
            Unavailable: the relay cannot be reached, or its store is away.
        """
        return self._status("GET", _path(id), wait_s=wait_s)

    def result(self, id: str, *, timeout_s: float = 60.0) -> RequestStatus:
        """Wait until a request is no longer open.

        Raises:
            NotFinished: it is still open after `timeout_s` seconds.
            Refused, Unavailable: see `get`.
        """
        until = time.monotonic() + timeout_s
        while True:
            left_s = until - time.monotonic()
            status = self.get(id, wait_s=max(1.0, left_s) if left_s > 0 else None)
            if not status.is_open:
                return status
            if left_s <= 0:
                raise NotFinished(id, timeout_s)
            # As many wait at the relay as may, or it has been MAX_WAIT_S.
            self._sleep(min(_PAUSE_S, max(0.0, until - time.monotonic())))

    def list(
        self,
        status: str = "dead",
        *,
        target: str | None = None,
        since: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """Read one page of requests, the newest first.

        Args:
            status: `accepted`, `completed`, `failed`, `dead`, `cancelled` or `unknown`.
            target: only calls to this `host[:port]`.
            since: only requests that ended at or after this time (RFC 3339).
            limit: of the page; the relay's own limit by default.
            cursor: of the page before; None for the first.

        Raises:
            Refused: a parameter is wrong.
            Unavailable: the relay cannot be reached, or its store is away.
        """
        query = _query(status=status, target=target, since=since, limit=limit, cursor=cursor)
        document = self._call("GET", "/async", query=query).json()
        return Page(
            requests=tuple(map(RequestStatus.from_document, document["requests"])),
            total=document["total"],
            cursor=document.get("cursor"),
        )

    def retry(self, id: str) -> RequestStatus:
        """Send a dead or failed request again, under its id.

        Raises:
            Refused: it is unknown (404), or in another state (409).
            Unavailable: the relay cannot be reached, or its Broker is away.
        """
        return self._status("POST", f"{_path(id)}/retry")

    def retry_all(
        self,
        status: str = "dead",
        *,
        target: str | None = None,
        since: str | None = None,
        cursor: str | None = None,
    ) -> Iterator[Batch]:
        """Send all requests of a state again, a batch at a time, the newest first.

        After each batch it rests for as long as that took, so that others are served as well.

        Args:
            status: `dead` or `failed`.
            target, since: see `list`.
            cursor: of the batch after which an earlier run was stopped.

        Yields:
            how far it has come, after each batch.

        Raises:
            Refused: a parameter is wrong.
            Unavailable: the relay cannot be reached, or its Broker is away. What was sent again
                stays so.
        """
        retried = skipped = 0
        while True:
            query = _query(status=status, target=target, since=since, cursor=cursor)
            began = time.monotonic()
            document = self._call("POST", "/async/retry", query=query).json()
            took_s = time.monotonic() - began
            retried += document["retried"]
            skipped += document["skipped"]
            cursor = document.get("cursor")
            yield Batch(retried=retried, skipped=skipped, left=document["left"], cursor=cursor)
            if cursor is None:
                return
            self._sleep(took_s)

    def cancel(self, id: str) -> RequestStatus:
        """Cancel a request whose call has not been made yet.

        Raises:
            Refused: it is unknown (404), or it is too late (409).
            Unavailable: the relay cannot be reached, or its store is away.
        """
        return self._status("DELETE", _path(id))

    def _status(self, method: str, path: str, **options: Any) -> RequestStatus:
        return RequestStatus.from_document(self._call(method, path, **options).json())

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        key: str | None = None,
        wait_s: float | None = None,
    ) -> requests.Response:
        """Call a route until the relay has an answer, for as long as patience lasts."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if wait_s is not None:
            headers["Prefer"] = f"wait={min(int(wait_s), MAX_WAIT_S)}"
        until = time.monotonic() + self._patience_s
        while True:
            pause_s = _PAUSE_S
            try:
                answer = self._session.request(
                    method,
                    self._url + path,
                    params=query,
                    data=body,
                    headers=headers,
                    timeout=max(self._timeout_s, (wait_s or 0) + _MARGIN_S),
                    allow_redirects=False,
                )
            except requests.RequestException as exc:
                failure = _reason(exc)
            else:
                kind = answer.headers.get("Content-Type", "").partition(";")[0]
                if answer.status_code in (200, 202) and kind == "application/json":
                    return answer
                failure, field = _problem(answer)
                asked = answer.headers.get("Retry-After")
                # A 409 that asks for another try: a copy of the call is being handled.
                if answer.status_code not in _PASSING and asked is None:
                    raise Refused(answer.status_code, failure, field)
                pause_s = float(asked) if asked and asked.isdecimal() else _PAUSE_S
            if time.monotonic() + pause_s > until:
                raise Unavailable(failure, key)
            self._on_failure(failure, pause_s)
            self._sleep(pause_s)


def _path(id: str) -> str:
    return f"/async/{quote(id, safe='')}"


def _query(**parameters: object) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _problem(answer: requests.Response) -> tuple[str, str | None]:
    """Read what is wrong, and the field that is."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    detail = document.get("detail") if isinstance(document, dict) else None
    if not isinstance(detail, str):
        told = f"{answer.url} answered {answer.status_code}; is this the address of a relay?"
        return told, None
    field = document.get("field")
    return detail, field if isinstance(field, str) else None


def _reason(exc: requests.RequestException) -> str:
    if isinstance(exc, requests.Timeout):
        return "the relay did not answer in time"
    if isinstance(exc, requests.ConnectionError):
        return "the relay cannot be reached: is its address right, and is it running?"
    return f"the relay cannot be called: {exc}"
