"""Take what comes back about requests: their results, and what became a dead letter."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qsl, unquote, urlencode

from relay import jsons, logs
from relay.auth import Signatures
from relay.bodies import FORM, charset_of, codec_of
from relay.broker import Broker
from relay.envelope import new_id, parse_id
from relay.events import CALLBACK, JSON, RESULTS, Event
from relay.http import Request, Response
from relay.jsons import BOM, Raw, dumps, is_json
from relay.problems import InvalidRequest
from relay.records import DEAD, Record, Records
from relay.results import Result
from relay.settings import Settings
from relay.tracing import trace_id

log = logging.getLogger(__name__)


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

    def is_own(self, event_type: str | None) -> bool:
        """Tell whether an event is one that the relay made, back from the Broker."""
        return event_type in [
            f"{self._settings.event_type}.{ending}" for ending in (*RESULTS, CALLBACK)
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

    def bury(self, headers: Mapping[str, str], body: bytes) -> None:
        """Note a dead letter, and publish the callback if one was asked for.

        A result that could not be delivered is no dead request: this is its last delivery. It is
        the last one, too, of what cannot be read, which is kept as it came under its id.

        Raises:
            InvalidRequest: it cannot be read, and has no id.
            Forbidden: it only says that it is one of the relay's own.
            StateUnavailable, BrokerUnavailable, DeadlineExceeded: the Broker is to try again.
        """
        try:
            callback = self._bury(Event.from_http(headers, body))
        except InvalidRequest as exc:
            attributes = _attributes_of(headers, body)
            if "id" not in attributes:
                raise
            callback = None
            self._keep_unread(attributes, body, exc)
        if callback is not None:
            # No reply: what a dead letter sink answers, nobody publishes.
            self._broker.publish(callback)

    def _bury(self, event: Event) -> Event | None:
        self._check(event)
        if self.is_own(event.type):
            return self._note(event)
        reason = reason_of(event)
        self._records.bury(event, reason)
        logs.note(outcome=DEAD)
        logs.explain(_epitaph(reason), logging.ERROR)
        return self._callback(self._records.read(event.id))

    def _keep_unread(self, known: dict[str, str], body: bytes, error: InvalidRequest) -> None:
        own = {"source": self._settings.event_source, "type": self._settings.event_type}
        event = Event(attributes=own | known, data=body or None)
        self._check(event)
        reason = reason_of(event) | {"detail": f"the dead letter cannot be read: {error.detail}"}
        self._records.bury(event, reason)
        logs.note(id=event.id, outcome=DEAD)
        logs.explain(str(reason["detail"]), logging.WARNING)

    def _note(self, event: Event) -> Event | None:
        """Note what one of the relay's own events tells; return the callback it gives rise to."""
        request_id = event.attributes.get("subject")
        ending = event.type.rpartition(".")[2]
        if ending == CALLBACK:
            if request_id is not None:
                self._records.add_callback(request_id, event)
            return None
        data = (event.data or b"").removeprefix(BOM)
        Result.from_json(data)  # else it is refused
        if request_id is None:
            raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
        attempts = event.attributes.get("relayattempts", "0")
        self._records.finish(
            request_id, ending, data, int(attempts) if re.fullmatch("[0-9]{1,6}", attempts) else 0
        )
        logs.note(outcome=ending)
        return self._callback(self._records.read(request_id))

    def _check(self, event: Event) -> None:
        """Refuse what only says that it comes from here: a result has the MAC of its request."""
        about = event.attributes.get("subject") if self.is_own(event.type) else event.id
        logs.note(id=about, trace=trace_id(event.attributes.get("traceparent")))
        results = [f"{self._settings.event_type}.{ending}" for ending in RESULTS]
        request_id = event.attributes.get("subject", "") if event.type in results else event.id
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
        known = record.document()
        told = ("id", "status", "answer", "reason")
        body = {name: value for name, value in known.items() if name in told}
        event = self._callback_event(record, asked, body)
        answer = record.answer()
        if answer is not None and self._broker.room_left(event) < 0:
            rest = self._callback_event(record, asked, body | {"answer": {}})
            body["answer"] = Raw(answer.to_json(self._broker.room_left(rest)))
            event = self._callback_event(record, asked, body)
        return event

    def _callback_event(
        self, record: Record, asked: Mapping[str, object], body: Mapping[str, object]
    ) -> Event:
        callback_id = f"{record.id}.{record.status}.{CALLBACK}"
        content = dumps(body)
        signature = self._signatures.sign(callback_id, content)
        theirs = cast("dict[str, str]", asked["headers"])
        headers = {
            **{name: value for name, value in theirs.items() if name.lower() not in signature},
            **signature,
        }
        envelope = {**asked, "headers": headers, "body": Raw(content)}
        event = Event(
            attributes={
                "id": callback_id,
                "source": self._settings.event_source,
                "type": self._settings.event_type,
                "datacontenttype": JSON,
            },
            data=dumps(envelope),
        )
        return self._signatures.stamp(event)


def _attributes_of(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """Take what can be had of the attributes of an event that cannot be read."""
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("application/cloudevents"):
        with suppress(jsons.JSONError):
            value = jsons.loads(body)
            event_id = value.get("id") if isinstance(value, dict) else None
            if event_id and isinstance(event_id, str):
                return {"id": event_id, "datacontenttype": "application/octet-stream"}
        return {}
    attributes = {
        name.removeprefix("ce-"): unquote(value)
        for name, value in headers.items()
        if re.fullmatch("ce-[a-z0-9]+", name, re.ASCII) and value
    }
    attributes.pop("specversion", None)
    if content_type:
        attributes["datacontenttype"] = content_type
    return attributes


def reason_of(event: Event) -> dict[str, object]:
    """Read why the Broker gave an event up.

    Returns:
        `destination` and `code` as Knative's extensions give them, `data` as the subscriber sent
        it, and, where that is a problem of Receive's, its `detail` and `attempts`. Empty when the
        Broker understood nothing of the answer.
    """
    reason: dict[str, object] = {}
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
    return Event(attributes=attributes, data=body or None)


def _callback_data(request: Request, body: bytes) -> tuple[str, bytes]:
    content_type = request.headers.get("content-type", "application/octet-stream")
    if is_json(content_type):
        body = body.removeprefix(BOM)
    if content_type.lower().startswith("application/cloudevents"):
        # In binary mode this Content-Type would turn the data into the event itself.
        event = Event.from_http(request.headers, body)
        return event.attributes.get("datacontenttype", JSON), event.data or b"null"
    if is_json(content_type):
        codec = codec_of(charset_of(content_type)) or "utf_8"
        try:
            jsons.loads(body if codec == "utf_8" else body.decode(codec).encode("utf-8"))
        except jsons.JSONError as exc:
            raise InvalidRequest("body", str(exc)) from exc
        except UnicodeError as exc:
            raise InvalidRequest("body", "is not in the charset of its Content-Type") from exc
    return content_type, body
