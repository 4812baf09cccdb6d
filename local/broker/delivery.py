"""One attempt to deliver an event, and what the subscriber's answer means to Knative.

The rules are those of Knative Eventing's data plane (kncloudevents `SelectiveRetry`, the dispatcher
and the filter handler of its channel-based Broker).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from local.broker.connections import MAX_ANSWER_BYTES, Answer
from local.broker.event import KNATIVE, is_event
from relay.events import Event
from relay.headers import retry_after_s
from relay.problems import InvalidRequest
from relay.tracing import trace_context

# Kafka's dispatcher waits this long when a delivery spec sets no timeout; waiting for ever would
# let hanging subscribers use up the places for deliveries.
DEFAULT_TIMEOUT_S = 600.0
_MAX_ERROR_DATA_BYTES = 1024
_RETRIED_STATUSES = (404, 408, 409, 429)
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


def classify(answer: Answer, *, url: str, wants_reply: bool) -> Delivered | Failed:
    """Decide what an answer means.

    Args:
        url: who answered, for the dead letter sink.
        wants_reply: true for subscribers; a dead letter sink may answer with any body.
    """
    status, headers, body = answer.status, answer.headers, answer.body
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
    if len(body) > MAX_ANSWER_BYTES:
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
