"""Take what comes back about requests: their results, and what became a dead letter."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import parse_qsl, urlencode

from relay import jsons, logs
from relay.auth import Signatures
from relay.broker import Broker
from relay.envelope import new_id, parse_id
from relay.events import CALLBACK, JSON, RESULTS, Event
from relay.http import Request, Response
from relay.jsons import is_json
from relay.problems import InvalidRequest
from relay.progress import Followers, Why, attempts_of, request_id_of
from relay.records import DEAD, Record, Records
from relay.results import parse_result
from relay.settings import Settings
from relay.tracing import trace_id

FORM: Final = "application/x-www-form-urlencoded"


class Outcomes:
    """Record outcomes, and tell the callers who asked to be told.

    Args:
        settings: `event_type` and `event_source` count.
        records: where outcomes are noted.
        broker: where a callback for a dead request is published.
        signatures: tell the relay's own events, and sign the callbacks.
    """

    def __init__(
        self, settings: Settings, records: Records, broker: Broker, signatures: Signatures
    ) -> None:
        self._settings = settings
        self._records = records
        self._broker = broker
        self._signatures = signatures
        self._followers = Followers(event_type=settings.event_type, source=settings.event_source)

    def is_own(self, event_type: str | None) -> bool:
        """Tell whether an event is one that the relay made, back from the Broker."""
        return event_type in [
            f"{self._settings.event_type}.{ending}" for ending in (*RESULTS, DEAD, CALLBACK)
        ]

    def take(self, event: Event) -> Response:
        """Note a result, or a target's callback, that the Broker delivers.

        Returns:
            what the Broker needs: no body, or the request event of the caller's callback, which it
            publishes in the same step as it takes the delivery for done.

        Raises:
            InvalidRequest: the event is not one of the relay's own.
            Forbidden: it only says that it is.
            StateUnavailable: nothing is noted; the Broker is to try again.
        """
        # A structured event has its type in the body, whatever ce-type says.
        if not self.is_own(event.type):
            raise InvalidRequest("ce-type", "must be that of the event")
        self._check(event)
        callback = self._note(event)
        return Response.empty(202) if callback is None else callback.to_response()

    def bury(self, event: Event) -> None:
        """Note a dead letter, and publish the callback if one was asked for.

        A result that could not be delivered is no dead request: this is its last delivery.

        Raises:
            InvalidRequest, Forbidden: as for `take`.
            StateUnavailable, BrokerUnavailable, DeadlineExceeded: the Broker is to try again.
        """
        self._check(event)
        callback = self._note(event) if self.is_own(event.type) else self._bury(event)
        if callback is not None:
            # No reply: what a dead letter sink answers, nobody publishes.
            self._broker.publish(callback)

    def _bury(self, event: Event) -> Event | None:
        """Note a dead request, and keep its request event; return the callback."""
        reason = reason_of(event)
        request = self._followers.request(event)
        self._records.bury(request, reason)
        logs.note(outcome=DEAD)
        logs.explain(_epitaph(reason), logging.ERROR)
        return self._callback(self._records.read(request.id))

    def _note(self, event: Event) -> Event | None:
        """Note what one of the relay's own events tells; return the callback it gives rise to."""
        request_id = event.attributes.get("subject")
        ending = event.type.rpartition(".")[2]
        if ending == CALLBACK:
            if request_id is not None:
                self._records.add_callback(request_id, event)
            return None
        if request_id is None:
            raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
        if ending == DEAD:
            return self._bury(event)
        answer = parse_result(event.data or b"")
        self._records.finish(request_id, ending, answer, attempts_of(event))
        logs.note(outcome=ending)
        return self._callback(self._records.read(request_id))

    def _check(self, event: Event) -> None:
        """Refuse what only says that it comes from here: it has the MAC of its request."""
        request_id = event.id
        if event.type != f"{self._settings.event_type}.{CALLBACK}":
            request_id = request_id_of(event, self._settings.event_type)
        logs.note(
            id=event.attributes.get("subject") if self.is_own(event.type) else request_id,
            trace=trace_id(event.attributes.get("traceparent")),
        )
        self._signatures.check(event, request_id)

    def _callback(self, record: Record | None) -> Event | None:
        """Make the request event that brings an outcome to the url the caller gave.

        Its id depends on nothing but the request and the outcome: however often the Broker
        delivers an outcome, the caller sees one `Idempotency-Key` and one `webhook-id`.
        """
        accepted = record.accepted if record is not None else None
        if record is None or accepted is None or not isinstance(accepted.get("callback"), dict):
            return None
        asked = cast("dict[str, object]", accepted["callback"])
        callback_id = f"{record.id}.{record.status}.{CALLBACK}"
        known = record.document()
        body = {name: known[name] for name in ("id", "status", "answer", "reason") if name in known}
        signature = self._signatures.sign(callback_id, body)
        theirs = cast("dict[str, str]", asked["headers"])
        headers = {
            **{name: value for name, value in theirs.items() if name.lower() not in signature},
            **signature,
        }
        envelope = asked | {"headers": headers, "body": body}
        event = Event(
            attributes={
                "id": callback_id,
                "source": self._settings.event_source,
                "type": self._settings.event_type,
                "datacontenttype": JSON,
            },
            data=json.dumps(envelope).encode("ascii"),
        )
        return self._signatures.stamp(event)


def reason_of(event: Event) -> dict[str, object]:
    """Read why a request was given up, by Receive or by the Broker.

    Returns:
        `code` (of the target), `detail` and `attempts`, as Receive says; of a dead letter
        `destination` and `code` as Knative's extensions give them, `data` as the subscriber sent
        it, and, where that is a problem of Receive's, its `detail` and `attempts`. Empty when
        nobody has said anything.
    """
    why = Why.of(event)
    known = {"code": why.status, "detail": why.reason, "attempts": attempts_of(event)}
    reason: dict[str, object] = {name: value for name, value in known.items() if value}
    if "knativeerrordest" in event.attributes:
        reason["destination"] = event.attributes["knativeerrordest"]
    code = event.attributes.get("knativeerrorcode", "")
    if code.isascii() and code.isdigit():
        reason["code"] = int(code)
    try:
        raw = jsons.decode_base64(event.attributes.get("knativeerrordata", ""))
    except jsons.JSONError:
        return reason
    try:
        data = jsons.loads(raw)
    except jsons.JSONError:
        return reason | ({"data": raw.decode("utf-8", "replace")} if raw else {})
    reason["data"] = data
    if isinstance(data, dict):
        reason |= {name: data[name] for name in ("detail", "attempts") if name in data}
    return reason


def _epitaph(reason: Mapping[str, object]) -> str:
    """Say why a request is dead; what its subscriber sent may hold what is not for the log."""
    why = reason.get("detail") or f"its subscriber answered {reason.get('code', 'nothing')}"
    return f"the request is dead: {why}"


def target_callback_event(request: Request, body: bytes, *, event_type: str, source: str) -> Event:
    """Make the event of a target's callback.

    Args:
        request: its query may name a request (`id`), which becomes the event's subject.
        body: JSON, a form, a CloudEvent, anything else or nothing. A callback without a body, by
            GET say, has its data in the query.
        event_type: of the event.
        source: of the event.

    Raises:
        InvalidRequest: the id is none, or the body is not what its Content-Type says.
    """
    attributes = {"id": new_id(), "type": event_type, "source": source}
    query = parse_qsl(request.query, keep_blank_values=True)
    for request_id in (value for name, value in query if name == "id"):
        attributes["subject"] = parse_id(request_id, field="id")
    parameters = [(name, value) for name, value in query if name != "id"]
    if body:
        attributes["datacontenttype"], body = _callback_data(request, body)
    elif parameters:
        attributes["datacontenttype"], body = FORM, urlencode(parameters).encode("ascii")
    return Event(attributes=attributes, data=body)


def _callback_data(request: Request, body: bytes) -> tuple[str, bytes]:
    content_type = request.headers.get("content-type", "application/octet-stream")
    if content_type.lower().startswith("application/cloudevents"):
        # In binary mode this Content-Type would turn the data into the event itself.
        event = Event.from_http(request.headers, body)
        return event.attributes.get("datacontenttype", JSON), event.data or b"null"
    if is_json(content_type):
        try:
            jsons.loads(body)
        except jsons.JSONError as exc:
            raise InvalidRequest("body", str(exc)) from exc
    return content_type, body
