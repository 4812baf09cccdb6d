"""The Python client: one method for each route of the relay."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

from relay_client.documents import Page, RequestStatus
from relay_client.errors import NotFinished, Refused, Unavailable

# The relay holds a caller no longer than this; see Prefer: wait in its README.
MAX_WAIT_S = 120
# A pause between tries, unless the relay asks for another by Retry-After.
_PAUSE_S = 1.0
# Beyond the time that the relay itself may take to answer.
_MARGIN_S = 5.0


class Relay:
    """A relay, as its callers see it.

    Args:
        url: where it listens, such as `http://localhost:8080`, or the gateway's address.
        host: the Host header, where `url` is the gateway of a cluster.
        token: for `Authorization: Bearer`, where the relay asks for one.
        timeout_s: the longest wait for one answer, in seconds. It must exceed the relay's
            TARGET_TIMEOUT_S where `sync` calls slow targets.
        patience_s: for how long, in seconds, what a 503 or a refused connection interrupts is
            tried again.
        sleep: pauses between tries.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._sleep = sleep
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy or netrc of the shell
        if host is not None:
            self._session.headers["Host"] = host
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def sync(self, envelope: Mapping[str, Any], *, method: str = "POST") -> requests.Response:
        """Make a call now and return the target's answer as it came, whatever its status.

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
        self, envelope: Mapping[str, Any], *, key: str | None = None, wait_s: int | None = None
    ) -> RequestStatus:
        """Have a call made later.

        Args:
            envelope: `targetURL`, `targetAPI`, `headers`, `body`, `method`, `callback`.
            key: the Idempotency-Key; a new UUID by default. It becomes the id of the request. What
                is interrupted is tried again under the same key, so that the call is made once.
            wait_s: stay for the outcome up to this many seconds; afterwards the request is open.

        Raises:
            Refused: the relay will not take this call.
            Unavailable: the relay cannot be reached, or its Broker is away.
        """
        key = key or str(uuid.uuid4())
        answer = self._call("POST", "/async", json=dict(envelope), key=key)
        status = RequestStatus.from_document(answer.json())
        if wait_s:
            try:
                return self.result(status.id, timeout_s=wait_s)
            except NotFinished:
                return self.get(status.id)
        return status

    def get(self, id: str, *, wait_s: int | None = None) -> RequestStatus:
        """Read what became of a request.

        Args:
            id: of the request.
            wait_s: stay until it is no longer open, up to this many seconds.

        Raises:
            Refused: there is no such request (404), or it was too long ago.
            Unavailable: the relay cannot be reached, or its store is away.
        """
        prefer = f"wait={min(wait_s, MAX_WAIT_S)}" if wait_s else None
        answer = self._call("GET", f"/async/{quote(id, safe='')}", prefer=prefer, waits_s=wait_s)
        return RequestStatus.from_document(answer.json())

    def result(self, id: str, *, timeout_s: float = 60.0) -> RequestStatus:
        """Wait until a request is no longer open.

        Raises:
            NotFinished: it is still open after `timeout_s` seconds.
            Refused, Unavailable: see `get`.
        """
        until = time.monotonic() + timeout_s
        while True:
            left_s = until - time.monotonic()
            status = self.get(id, wait_s=max(1, round(left_s)) if left_s > 0 else None)
            if not status.is_open:
                return status
            if left_s <= 0:
                raise NotFinished(id, timeout_s)
            self._sleep(min(_PAUSE_S, max(0.0, until - time.monotonic())))

    def list(
        self,
        *,
        status: str = "dead",
        target: str | None = None,
        since: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """Read one page of requests, the newest first.

        Args:
            status: `accepted`, `completed`, `failed`, `dead`, `cancelled` or `unknown`.
            target: only calls to this `host[:port]`.
            since: only requests accepted at or after this time (RFC 3339).
            limit: of the page; the relay's own limit by default.
            cursor: of a page before; with None the list begins.

        Raises:
            Refused: a parameter is wrong.
            Unavailable: the relay cannot be reached, or its store is away.
        """
        query = _query(status=status, target=target, since=since, limit=limit, cursor=cursor)
        document = self._call("GET", "/async", query=query).json()
        return Page(
            requests=tuple(RequestStatus.from_document(each) for each in document["requests"]),
            total=document.get("total"),
            cursor=document.get("cursor"),
        )

    def retry(self, id: str) -> RequestStatus:
        """Send a dead or failed request again, under its id.

        Raises:
            Refused: it is unknown (404), or in another state (409).
            Unavailable: the relay cannot be reached, or its Broker is away.
        """
        answer = self._call("POST", f"/async/{quote(id, safe='')}/retry")
        return RequestStatus.from_document(answer.json())

    def retry_all(
        self,
        *,
        status: str = "dead",
        target: str | None = None,
        since: str | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Send all requests of a state again, a batch at a time.

        Yields:
            after each batch, how many were sent again by then, and how many are left.

        Raises:
            Refused: a parameter is wrong.
            Unavailable: the relay cannot be reached. What was sent again stays so; begin anew.
        """
        cursor, sent = None, 0
        while True:
            query = _query(status=status, target=target, since=since, cursor=cursor)
            document = self._call("POST", "/async/retry", query=query).json()
            sent += document["retried"]
            cursor = document.get("cursor")
            yield sent, document.get("left", 0)
            if cursor is None:
                return

    def cancel(self, id: str) -> RequestStatus:
        """Cancel a request whose call has not been made yet.

        Raises:
            Refused: it is unknown (404), or it is too late (409).
            Unavailable: the relay cannot be reached, or its store is away.
        """
        answer = self._call("DELETE", f"/async/{quote(id, safe='')}")
        return RequestStatus.from_document(answer.json())

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: object = None,
        key: str | None = None,
        prefer: str | None = None,
        waits_s: float | None = None,
    ) -> requests.Response:
        """Call a route until the relay answers below 500, for as long as patience lasts."""
        headers = {"Idempotency-Key": key, "Prefer": prefer}
        until = time.monotonic() + self._patience_s
        while True:
            pause_s = _PAUSE_S
            try:
                answer = self._session.request(
                    method,
                    self._url + path,
                    params=query,
                    json=json,
                    headers={name: value for name, value in headers.items() if value},
                    timeout=max(self._timeout_s, (waits_s or 0) + _MARGIN_S),
                    allow_redirects=False,
                )
            except requests.RequestException as exc:
                failure = _reason(exc)
            else:
                if answer.status_code < 300:
                    return answer
                failure = _detail(answer)
                # 409 with Retry-After: another attempt with this key is being published.
                passing = answer.status_code >= 500 or "Retry-After" in answer.headers
                if not passing:
                    raise Refused(answer.status_code, failure, _field(answer))
                pause_s = _seconds(answer.headers.get("Retry-After"), _PAUSE_S)
            if time.monotonic() + pause_s > until:
                raise Unavailable(failure, key)
            self._sleep(pause_s)


def _query(**parameters: object) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _seconds(text: str | None, default: float) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else default


def _problem(answer: requests.Response) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _detail(answer: requests.Response) -> str:
    detail = _problem(answer).get("detail")
    if isinstance(detail, str):
        return detail
    return f"{answer.url} answered {answer.status_code}; is this the address of a relay?"


def _field(answer: requests.Response) -> str | None:
    field = _problem(answer).get("field")
    return field if isinstance(field, str) else None


def _reason(exc: requests.RequestException) -> str:
    if isinstance(exc, requests.Timeout):
        return "the relay did not answer in time"
    if isinstance(exc, requests.ConnectionError):
        return "the relay cannot be reached: is its address right, and is it running?"
    return f"the relay cannot be called: {exc}"
