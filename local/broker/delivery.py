"""One attempt to deliver an event, and what the subscriber's answer means to Knative.

The rules are those of Knative Eventing's data plane (kncloudevents `SelectiveRetry`, the dispatcher
and the filter handler of its channel-based Broker).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import http_writer
from yarl import URL

from local.broker.event import KNATIVE, RawHeaders, fields, is_event
from relay.events import Event
from relay.headers import retry_after_s
from relay.problems import InvalidRequest
from relay.tracing import trace_context

# Kafka's dispatcher waits this long when a delivery spec sets no timeout; waiting for ever would
# let hanging subscribers use up the places for deliveries.
DEFAULT_TIMEOUT_S = 600.0
_MAX_REDIRECTS = 10
_MAX_ANSWER_BYTES = 2 * 1024 * 1024
_MAX_ERROR_DATA_BYTES = 1024
# Shorter than the 2 s after which gunicorn closes an idle connection, maybe under our request.
_KEEPALIVE_EXPIRY_S = 1.0
_RETRIED_STATUSES = (404, 408, 409, 429)
_HEADERS = {"accept-encoding": "gzip", "user-agent": "local-broker"}
_PASSED_HEADERS = ("retry-after", "x-request-id")
_PASSED_PREFIXES = ("knative-", "x-b3-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The event has been taken.

    Attributes:
        reply: the event in the answer, not validated yet.
        headers: of the answer, what the Broker passes on with the reply.
    """

    summary: str
    reply: Event | None
    headers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The event has not been taken.

    Attributes:
        retried: whether another attempt may help.
        retry_after_s: what the answer asked for; None when it did not.
        extensions: for the dead letter sink, without the `knativeerrordest` that names the URL.
            None where Knative sends the dead letter as the event was.
    """

    summary: str
    retried: bool
    retry_after_s: float | None = None
    extensions: Mapping[str, str] | None = None


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that pass the Broker beside the event; all others are dropped.

    A trace context that is malformed is dropped too.
    """
    passed = {
        name: value
        for name, value in headers.items()
        if (name in _PASSED_HEADERS or name.startswith(_PASSED_PREFIXES)) and value.isascii()
    }
    return passed | dict(trace_context(headers.get("traceparent"), headers.get("tracestate")))


def error_extensions(*, dest: str, code: int, data: bytes = b"") -> dict[str, str]:
    """Return the extensions that tell a dead letter sink why it gets an event."""
    extensions = {"knativeerrordest": dest, "knativeerrorcode": str(code)}
    if data:
        extensions["knativeerrordata"] = base64.b64encode(data[:_MAX_ERROR_DATA_BYTES]).decode()
    return extensions


class Sender:
    """The HTTP client of one Trigger's deliveries, which says how many there are at a time."""

    def __init__(self) -> None:
        """Open nothing yet; there may be no event loop."""
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        url: str,
        headers: Mapping[str, str],
        data: bytes,
        *,
        timeout_s: float | None,
        wants_reply: bool,
    ) -> Delivered | Failed:
        """Post an event and decide what the answer means.

        Args:
            timeout_s: bound on the whole attempt, redirects and the answer's body included.
            wants_reply: as in `classify`.
        """
        try:
            status, answer_headers, body = await asyncio.wait_for(
                self._post(url, headers, data), timeout_s or DEFAULT_TIMEOUT_S
            )
        except asyncio.TimeoutError:
            return Failed(summary="no answer in time", retried=True)
        # A redirect to nonsense raises other errors than the client's own; whatever kept the
        # request from being answered is for the delivery spec to handle.
        except Exception as exc:
            problem = f"dispatch error: {str(exc) or type(exc).__name__}"
            return Failed(
                summary=problem,
                retried=True,
                extensions=error_extensions(dest=url, code=500, data=problem.encode()),
            )
        return classify(status, answer_headers, body, url=url, wants_reply=wants_reply)

    async def close(self) -> None:
        """Close all connections; no delivery may be in flight."""
        if self._session is not None:
            await self._session.close()

    async def _post(
        self, url: str, headers: Mapping[str, str], data: bytes
    ) -> tuple[int, RawHeaders, bytes]:
        if self._session is None:
            self._session = _new_session()
        async with self._session.post(
            URL(url, encoded=True),
            data=data,
            headers={**_HEADERS, **headers},
            max_redirects=_MAX_REDIRECTS,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    break
        return response.status, response.raw_headers, bytes(body)


def _headers_as_bytes(status_line: str, headers: Mapping[str, str]) -> bytes:
    """Write a request's head with each value as the bytes that it was read from.

    aiohttp writes UTF-8 alone, and an attribute may be Latin-1. Nothing here has a line feed in it:
    the values come from headers, or have been checked by `validate`.
    """
    lines = (status_line, *(f"{name}: {value}" for name, value in headers.items()), "", "")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


# aiohttp has no other way to give it bytes; a test over a socket notices when this one is gone.
http_writer._serialize_headers = _headers_as_bytes


def _new_session() -> aiohttp.ClientSession:
    """Make a client that, as Knative's, keeps no cookies and asks no proxy or netrc."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_EXPIRY_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "content-type"),
        timeout=aiohttp.ClientTimeout(total=None),  # `send` bounds the whole attempt instead
        trust_env=False,
    )


def classify(
    status: int, raw_headers: RawHeaders, body: bytes, *, url: str, wants_reply: bool
) -> Delivered | Failed:
    """Decide what an answer means.

    Args:
        url: who answered, for the dead letter sink.
        wants_reply: true for subscribers; a dead letter sink may answer with any body.
    """
    headers = fields(raw_headers)
    if not 200 <= status < 300:
        return Failed(
            summary=str(status),
            retried=status >= 500 or status in _RETRIED_STATUSES,
            retry_after_s=retry_after_s(headers.get("retry-after"))
            if status in (429, 503)
            else None,
            extensions=error_extensions(dest=url, code=status, data=body),
        )
    if not wants_reply:
        return Delivered(summary=str(status), reply=None, headers={})
    if len(body) > _MAX_ANSWER_BYTES:
        return Failed(summary=f"{status} with an answer that is too large", retried=True)
    # Knative: the response must be either empty or a valid CloudEvent.
    if not is_event(headers):
        if body:
            return Failed(summary=f"{status} with a body that is no CloudEvent", retried=True)
        return Delivered(summary=str(status), reply=None, headers={})
    try:
        reply = Event.from_http(headers, body, KNATIVE)
    except InvalidRequest as exc:
        return Failed(summary=f"{status} with a malformed reply: {exc}", retried=True)
    return Delivered(summary=f"{status} with a reply", reply=reply, headers=passed_on(headers))
