"""Receive: take request events from the Broker and make the calls they ask for.

The answer steers the Broker, so it is chosen by what the Broker does with it:

    the target answered 2xx                          200 and a `.completed` event: delivered
    3xx, or 4xx but 408, 425, 429                    200 and a `.failed` event: it is an answer
    408, 425, 429, 5xx, or no answer in time         503: the Broker retries, then dead-letters
    the event is malformed                           400: dead-lettered at once
    the target is not allowed, or a loop             403: dead-lettered at once
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from relay import strict_json
from relay.calls import Caller, next_hop
from relay.client import Answer
from relay.envelope import Envelope
from relay.events import COMPLETED, FAILED, JSON, Event
from relay.headers import Headers, find, is_json, trace_context
from relay.messages import Response
from relay.problems import (
    DeadlineExceeded,
    InvalidRequest,
    LoopDetected,
    RelayError,
    TargetFailed,
    TargetNotAllowed,
    problem,
)
from relay.settings import Settings

log = logging.getLogger(__name__)

# A longer error body crashes the in-memory dispatcher (more than 768 bytes), and a dead letter
# keeps no more than 1,024.
_ERROR_BYTES = 768

_RETRIED = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event that a Broker delivers, and the call that it asks for."""

    event: Event
    envelope: Envelope


class Receive:
    """The CloudEvent function.

    Args:
        settings: those of the target and of events, and `max_result_bytes`, count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._caller = Caller(settings)

    def read(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Read the event that a Broker delivers.

        The trace context of an event that carries none is the delivery's own.

        Raises:
            InvalidRequest: see `Event.from_http` and `Envelope.from_json`.
        """
        event = Event.from_http(headers, body)
        trace = trace_context(headers.get("traceparent"), headers.get("tracestate"))
        event = replace(event, attributes={**dict(trace), **event.attributes})
        return Delivery(event=event, envelope=_envelope(event))

    def handle(self, delivery: Delivery) -> Response:
        """Make the call that an event asks for and answer the Broker; nothing is raised."""
        event = delivery.event
        try:
            response = self._result(event, delivery.envelope)
        except RelayError as exc:
            response = refusal(exc)
        log.info("%s %s: %d", event.type, event.id, response.status)
        return response

    def _result(self, event: Event, envelope: Envelope) -> Response:
        trace = trace_context(
            event.attributes.get("traceparent"), event.attributes.get("tracestate")
        )
        answer = self._caller.call(
            envelope,
            method=envelope.method or "POST",
            hops=next_hop(event.attributes.get("relayhops")),
            headers=(("Accept-Encoding", "identity"), ("Idempotency-Key", event.id), *trace),
        )
        if answer.status in _RETRIED or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            answer.close()
            return _retry(f"the target answered {answer.status}", answer.headers)
        data = json.dumps(result_of(answer, self._settings.max_result_bytes)).encode()
        ending = COMPLETED if 200 <= answer.status < 300 else FAILED
        return _reply(
            Event(
                attributes={
                    # The same for every delivery of the same event, so that whoever counts results
                    # can tell a repeated one.
                    "id": f"{event.id}.{ending}",
                    "source": self._settings.event_source,
                    "type": f"{self._settings.event_type}.{ending}",
                    "subject": event.id,
                    "datacontenttype": JSON,
                    **dict(trace),
                },
                data=data,
            )
        )


def result_of(answer: Answer, limit_bytes: int) -> dict[str, object]:
    """Read a target's answer into the data of a result event.

    Args:
        limit_bytes: how much of the body is kept; if there was more, `truncated` is true.

    Returns:
        `status`, `headers` (name to the list of its values), and the body: JSON as `body`, text as
        a string in `body`, anything else as `bodyBase64`.
    """
    raw, truncated = answer.read(limit_bytes)
    headers: dict[str, list[str]] = {}
    for name, value in answer.headers:
        headers.setdefault(name, []).append(value)
    result: dict[str, object] = {"status": answer.status, "headers": headers}
    if truncated:
        result["truncated"] = True
    if raw:
        result.update(_body(raw, find(answer.headers, "Content-Type") or "", truncated))
    return result


def _body(raw: bytes, content_type: str, truncated: bool) -> dict[str, object]:
    if is_json(content_type) and not truncated:
        try:
            return {"body": strict_json.loads(raw)}
        except strict_json.JSONError:
            pass  # what calls itself JSON and is not is kept as text, or as bytes
    try:
        # A cut may go through the middle of a character; what is before it is still text.
        return {"body": raw.decode("utf-8") if not truncated else _text_before_cut(raw)}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(raw).decode("ascii")}


def _text_before_cut(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.reason != "unexpected end of data":
            raise
        return raw[: exc.start].decode("utf-8")


def refusal(error: RelayError) -> Response:
    """Answer the Broker for a call that could not be made or had no answer."""
    if isinstance(error, TargetFailed | DeadlineExceeded):
        return _retry(error.detail)
    if isinstance(error, TargetNotAllowed | LoopDetected):
        return _problem(HTTPStatus.FORBIDDEN, error.detail)
    return _problem(HTTPStatus.BAD_REQUEST, error.detail)


def _retry(reason: str, target_headers: Headers = ()) -> Response:
    retry_after = find(target_headers, "Retry-After")
    headers = (("Retry-After", retry_after),) if retry_after else ()
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers)


def _problem(status: HTTPStatus, detail: str, headers: Headers = ()) -> Response:
    response = problem(status, detail, headers=headers)
    while sum(map(len, response.body)) > _ERROR_BYTES:
        detail = detail[: len(detail) * 3 // 4]
        response = problem(status, detail + "…", headers=headers)
    return response


def _envelope(event: Event) -> Envelope:
    if not is_json(event.attributes.get("datacontenttype", JSON)):
        raise InvalidRequest("Content-Type", "must be application/json: the data is an envelope")
    return Envelope.from_json(event.data or b"")


def _reply(event: Event) -> Response:
    headers, body = event.to_http()
    length = ("Content-Length", str(len(body)))
    return Response(status=HTTPStatus.OK, headers=(*headers, length), body=(body,))
