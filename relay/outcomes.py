"""Take what comes back about requests: their results, and what became a dead letter."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlencode

from relay import logs
from relay.auth import Signatures
from relay.bodies import FORM, charset_of, codec_of
from relay.broker import Broker
from relay.envelope import Callback, Envelope, fingerprint, new_id, parse_callback, parse_id
from relay.events import CALLBACK, DEAD, JSON, RESULTS, Event, is_text, text_of
from relay.headers import is_json
from relay.http import Request, Response
from relay.jsons import BOM, JSONError, Object, Raw, decode_base64, dumps, loads
from relay.problems import Forbidden, InvalidRequest, StateUnavailable
from relay.progress import Events, Progress, Why, attempts_of
from relay.records import Records, asked_by, callback_id, round_of
from relay.results import parse_result
from relay.settings import Settings
from relay.tracing import trace_id


class Outcomes:
    """Record outcomes, and tell the callers who asked to be told.

    Args:
        settings: `event_type` and `event_source` count.
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
        self._events = Events(event_type=settings.event_type, source=settings.event_source)
        self._own = {f"{settings.event_type}.{ending}" for ending in (*RESULTS, DEAD, CALLBACK)}

    def is_own(self, event_type: str | None) -> bool:
        """Tell whether an event is one that the relay made, back from the Broker."""
        return event_type in self._own

    def _check_type(self, event_type: str) -> None:
        """Refuse events that are neither a request, nor an attempt at one, nor follow from one.

        A retry would publish it as it is.
        """
        rest = event_type.removeprefix(self._settings.event_type)
        is_request = event_type != rest and re.fullmatch(r"(?:\.retry[0-9])?", rest, re.ASCII)
        if not is_request and not self.is_own(event_type):
            raise Forbidden("ce-type must be that of a request or a result of this relay")

    def take(self, event: Event) -> Response:
        """Note an outcome, or a target's callback, that the Broker delivers.

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
        callback = self._note(event)
        return Response.empty(202) if callback is None else callback.to_response()

    def take_dead_letter(self, headers: Mapping[str, str], body: bytes) -> None:
        """Note a dead letter, and publish the callback if its caller asked for one.

        A result that could not be delivered is not a dead request: this is its last delivery. It is
        the last one, too, of what cannot be read, which is kept as it came under its id.

        Raises:
            InvalidRequest: it cannot be read, and has no id.
            Forbidden: it only says that it is one of the relay's own.
            StateUnavailable, BrokerUnavailable, DeadlineExceeded: the Broker is to try again.
        """
        try:
            event = Event.from_http(headers, body)
            self._check_type(event.type)
            is_own = self.is_own(event.type)
            follows = self._note(event, is_last=True) if is_own else self._bury(event)
        except InvalidRequest as exc:
            attributes = _attributes_of(headers, body)
            if "id" not in attributes:
                raise
            self._keep_unread(attributes, body, exc)
            return
        if follows is not None:
            # No reply: the Broker does not publish what a dead letter sink answers.
            self._broker.publish(follows)

    def _bury(self, event: Event) -> Event | None:
        """Note a dead request; return its callback, or without the state what tells of it later."""
        reason = reason_of(event)
        try:
            return self._note_dead(self._events.request(event), reason)
        except StateUnavailable as exc:
            # The Broker gives up on dead letters as soon as on requests; as an event of its own
            # this one waits for the state as long as results do.
            logs.explain(f"the dead letter is published again: {exc.detail}", logging.WARNING)
            progress = Progress.of(event, self._settings.event_type, time.time())
            if isinstance(attempts := reason.get("attempts"), int):
                progress = replace(progress, attempts=attempts)
            return self._events.dead(event, progress, Why.from_reason(reason))

    def _keep_unread(self, known: dict[str, str], body: bytes, error: InvalidRequest) -> None:
        event = self._events.event("", known, data=body)
        self._check_type(event.type)
        about = event.attributes.get("subject") if self.is_own(event.type) else None
        data = Object.within(body)
        self._check(event, about or event.id, data.members.get("callback"))
        logs.note(id=event.id, outcome=DEAD)
        reason = reason_of(event) | {"detail": f"the dead letter cannot be read: {error.detail}"}
        self._records.die(asked_by(event, event.id, fingerprint(data)), event, reason)
        logs.explain(str(reason["detail"]), logging.WARNING)

    def _note(self, event: Event, *, is_last: bool = False) -> Event | None:
        """Note what one of the relay's own events tells; return the callback it gives rise to.

        Args:
            is_last: the event is not delivered again, so its callback cannot wait for a state
                that is unavailable.
        """
        ending = event.type.rpartition(".")[2]
        request_id = event.attributes.get("subject")
        if ending == CALLBACK:
            self._check(event, event.id)
            logs.note(id=request_id)
            if request_id is not None:
                self._records.add_callback(request_id, event)
            return None
        if request_id is None:
            raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
        if ending == DEAD:
            return self._note_dead(self._events.request(event), reason_of(event))
        logs.note(id=request_id)
        try:
            data = Object.from_json(event.data, "data")
        except InvalidRequest:
            self._check(event, request_id)  # if it is forged, that is what to say
            raise
        self._check(event, request_id, data.members.get("callback"))
        result, answer, callback = parse_result(data)
        try:
            counts = self._records.finish(
                asked_by(event, request_id), ending, result.status, answer, attempts_of(event)
            )
        except StateUnavailable as exc:
            if callback is None or not is_last:
                raise
            logs.explain(f"the outcome is not noted: {exc.detail}", logging.ERROR)
            counts = ending
        logs.note(outcome=ending)
        # What another answer gave rise to is on its way already.
        if callback is None or counts != ending:
            return None
        asked = parse_callback(callback)
        about = {"id": request_id, "status": ending, "answer": Raw(answer)}
        delivery = self._callback(event, asked, about)
        if self._broker.room_left(delivery, is_request=True) < 0:
            around = self._callback(event, asked, about | {"answer": Raw(b"")})
            room = self._broker.room_left(around, is_request=True)
            about |= {"answer": Raw(result.to_json(room))}
            delivery = self._callback(event, asked, about)
        return delivery

    def _note_dead(self, event: Event, reason: Mapping[str, object]) -> Event | None:
        """Note the death of the request that an event asked for; return the callback."""
        data = Object.within(event.data)
        callback = data.members.get("callback")
        self._check(event, event.id, callback)
        try:
            target = Envelope.from_object(data).target.origin.authority
        except InvalidRequest:  # which may be why it is dead
            target = None
        asked = asked_by(event, event.id, fingerprint(data), target)
        if not self._records.die(asked, event, reason):
            return None
        logs.note(outcome=DEAD, target=target)
        # What its subscriber sent may hold what is not for the log.
        why = reason.get("detail") or f"its subscriber answered {reason.get('code', 'nothing')}"
        logs.explain(f"the request is dead: {why}", logging.ERROR)
        if callback is None:
            return None
        about: dict[str, object] = {"id": event.id, "status": DEAD, "reason": reason}
        return self._callback(event, parse_callback(callback), about)

    def _check(self, event: Event, request_id: str, callback: object = None) -> None:
        """Refuse what only says that it comes from here."""
        logs.note(id=request_id, trace=trace_id(event.attributes.get("traceparent")))
        self._signatures.check(event, request_id, callback)

    def _callback(self, event: Event, callback: Callback, about: dict[str, object]) -> Event:
        """Make the request event that brings an outcome to the url the caller gave.

        However often the Broker delivers an outcome, the caller sees one `Idempotency-Key` and one
        `webhook-id`.

        Args:
            event: that tells the outcome.
            about: what the caller is told.
        """
        own_id = callback_id(str(about["id"]), str(about["status"]), round_of(event))
        body = dumps(about)
        signature = self._signatures.sign(own_id, body)
        theirs = {name: value for name, value in callback.headers if name.lower() not in signature}
        envelope = {**callback.envelope(), "headers": {**theirs, **signature}, "body": Raw(body)}
        more = {"datacontenttype": JSON}
        return self._signatures.stamp(self._events.event(own_id, more, data=dumps(envelope)))


def _attributes_of(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """Take what can be had of the attributes of an event that cannot be read."""
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("application/cloudevents"):
        event_id = Object.within(body).members.get("id")
        if event_id and isinstance(event_id, str) and is_text(event_id):
            return {"id": event_id, "datacontenttype": "application/octet-stream"}
        return {}
    attributes = {
        name.removeprefix("ce-"): unquote(text_of(value.encode("latin-1")))
        for name, value in headers.items()
        if re.fullmatch("ce-[a-z0-9]+", name, re.ASCII) and value
    }
    attributes = {name: value for name, value in attributes.items() if is_text(value)}
    attributes.pop("specversion", None)
    if content_type:
        attributes["datacontenttype"] = content_type
    return attributes


def reason_of(event: Event) -> dict[str, object]:
    """Read why a request was given up, by Receive or by the Broker.

    Returns:
        `code` (of the target), `detail` and `attempts`, as Receive says; of a dead letter
        `destination` and `code` as Knative's extensions give them, `data` as the subscriber sent
        it, and, where that is a problem of Receive's, its `detail` and `attempts`. Empty when
        neither has said anything.
    """
    why = Why.of(event)
    known = {"code": why.status, "detail": why.reason, "attempts": attempts_of(event)}
    reason: dict[str, object] = {name: value for name, value in known.items() if value}
    if "knativeerrordest" in event.attributes:
        reason["destination"] = event.attributes["knativeerrordest"]
    code = event.attributes.get("knativeerrorcode", "")
    if re.fullmatch("[0-9]{1,6}", code, re.ASCII):
        reason["code"] = int(code)
    try:
        raw = decode_base64(event.attributes.get("knativeerrordata", ""))
    except JSONError:
        return reason
    try:
        data = loads(raw)
    except JSONError:
        return reason | ({"data": raw.decode("utf-8", "replace")} if raw else {})
    reason["data"] = data
    if isinstance(data, dict):
        reason |= {name: data[name] for name in ("detail", "attempts") if name in data}
    return reason


def target_callback_event(request: Request, body: bytes, events: Events) -> Event:
    """Make the event of a target's callback.

    Args:
        request: its query may name a request (`id`), which becomes the event's subject.
        body: JSON, a form, a CloudEvent, anything else or nothing. A callback without a body, by
            GET say, has its data in the query.

    Raises:
        InvalidRequest: the id is invalid, or the body is not what its Content-Type says.
    """
    more = {}
    query = parse_qsl(request.query, keep_blank_values=True)
    for request_id in (value for name, value in query if name == "id"):
        more["subject"] = parse_id(request_id, field="id")
    parameters = [(name, value) for name, value in query if name != "id"]
    if body:
        more["datacontenttype"], body = _callback_data(request, body)
    elif parameters:
        more["datacontenttype"], body = FORM, urlencode(parameters).encode("ascii")
    return events.event(new_id(), more, CALLBACK, body)


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
            loads(body if codec == "utf_8" else body.decode(codec).encode("utf-8"))
        except JSONError as exc:
            raise InvalidRequest("body", str(exc)) from exc
        except UnicodeError as exc:
            raise InvalidRequest("body", "is not in the charset of its Content-Type") from exc
    return content_type, body
