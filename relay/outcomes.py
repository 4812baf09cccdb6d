"""Take what comes back about requests: their results, and what became a dead letter."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

from relay import jsons, logs
from relay.auth import Signatures
from relay.broker import Broker
from relay.envelope import (
    Envelope,
    callback_in,
    fingerprint,
    new_id,
    parse_callback,
    parse_id,
)
from relay.events import CALLBACK, DEAD, JSON, RESULTS, Event
from relay.http import Request, Response
from relay.jsons import is_json
from relay.problems import InvalidRequest, StateUnavailable
from relay.records import Records, round_of
from relay.results import parse_result
from relay.settings import Settings
from relay.tracing import trace_id

FORM: Final = "application/x-www-form-urlencoded"

# Why a request is dead, as JSON, on the event that tells it.
_REASON: Final = "relayreason"


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
            f"{self._settings.event_type}.{ending}" for ending in (*RESULTS, DEAD, CALLBACK)
        ]

    def _is_ours(self, event_type: str) -> bool:
        """Tell whether an event is a request, an attempt at one, or what follows from one.

        Any other would be published again, as it is, when somebody retries it.
        """
        rest = event_type.removeprefix(self._settings.event_type)
        is_request = rest == "" or re.fullmatch(r"\.retry[0-9]", rest, re.ASCII) is not None
        return self.is_own(event_type) or (is_request and rest != event_type)

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

    def take_dead_letter(self, event: Event) -> None:
        """Note a dead letter, and publish the callback if its caller asked for one.

        A result that could not be delivered is no dead request: this is its last delivery.

        Raises:
            InvalidRequest, Forbidden: as for `take`.
            StateUnavailable, BrokerUnavailable, DeadlineExceeded: the Broker is to try again.
        """
        if not self._is_ours(event.type):
            raise InvalidRequest("ce-type", "must be that of a request or a result of this relay")
        if self.is_own(event.type):
            callback = self._note(event, is_last=True)
        else:
            try:
                callback = self._note_dead(event, reason_of(event))
            except StateUnavailable as exc:
                # The Broker gives up on dead letters as soon as on requests; as an event of its own
                # this one waits for the state as long as results do.
                logs.explain(f"the dead letter is published again: {exc.detail}", logging.WARNING)
                self._broker.publish(_dead_event(event, reason_of(event)))
                return
        if callback is not None:
            # No reply: what a dead letter sink answers, nobody publishes.
            self._broker.publish(callback)

    def _note(self, event: Event, *, is_last: bool = False) -> Event | None:
        """Note what one of the relay's own events tells; return the callback it gives rise to.

        Args:
            is_last: nobody delivers the event again, so that its callback cannot wait for a state
                that is away.
        """
        ending = event.type.rpartition(".")[2]
        if ending == CALLBACK:
            self._note_targets_callback(event)
            return None
        request_id = event.attributes.get("subject")
        if request_id is None:
            raise InvalidRequest("ce-subject", "is missing; it is the id of the request")
        if ending == DEAD:
            return self._note_dead(*_request_of(event, self._settings.event_type))
        callback = callback_in(event.data)
        self._check(event, request_id, callback)
        answer = parse_result(event.data or b"")
        answer.pop("callback", None)
        try:
            counts = self._records.finish(request_id, ending, answer, _attempts_of(event))
        except StateUnavailable as exc:
            if callback is None or not is_last:
                raise
            logs.explain(f"the outcome is not noted: {exc.detail}", logging.ERROR)
            counts = ending
        logs.note(outcome=ending)
        # What another answer gave rise to is on its way already.
        about: dict[str, object] = {"status": ending, "answer": answer}
        return self._callback(event, request_id, callback, about) if counts == ending else None

    def _note_targets_callback(self, event: Event) -> None:
        self._check(event, event.id)
        request_id = event.attributes.get("subject")
        logs.note(id=request_id)
        if request_id is not None:
            self._records.add_callback(request_id, event)

    def _note_dead(self, event: Event, reason: Mapping[str, object]) -> Event | None:
        """Note the death of the request that an event asked for; return the callback."""
        data = event.data or b""
        callback = callback_in(data)
        self._check(event, event.id, callback)
        try:
            target = Envelope.from_json(data).target.origin.authority
        except InvalidRequest:  # which may be why it is dead
            target = None
        is_dead = self._records.die(event, reason, fingerprint=fingerprint(data), target=target)
        if not is_dead:
            return None
        logs.note(outcome=DEAD)
        logs.explain(_why_dead(reason), logging.ERROR)
        return self._callback(event, event.id, callback, {"status": DEAD, "reason": reason})

    def _check(self, event: Event, request_id: str, callback: object = None) -> None:
        """Refuse what only says that it comes from here."""
        logs.note(id=request_id, trace=trace_id(event.attributes.get("traceparent")))
        self._signatures.check(event, request_id, callback)

    def _callback(
        self, event: Event, request_id: str, asked: object, about: dict[str, object]
    ) -> Event | None:
        """Make the request event that brings an outcome to the url the caller gave.

        Its id depends on nothing but the request, its round and the outcome: however often the
        Broker delivers an outcome, the caller sees one `Idempotency-Key` and one `webhook-id`.

        Args:
            event: that tells the outcome.
            asked: the field `callback` of the request's envelope; None when there was none.
            about: what the caller is told, besides the id.

        Raises:
            InvalidRequest: it is no callback, so that Send never accepted it.
        """
        if asked is None:
            return None
        callback = parse_callback(asked)
        parts = [request_id, str(about["status"])]
        if (round := round_of(event)) > 1:
            parts.append(str(round))
        callback_id = ".".join([*parts, CALLBACK])
        body = {"id": request_id, **about}
        signature = self._signatures.sign(callback_id, body)
        theirs = {name: value for name, value in callback.headers if name.lower() not in signature}
        envelope = {**callback.envelope(), "headers": {**theirs, **signature}, "body": body}
        request = Event(
            attributes={
                "id": callback_id,
                "source": self._settings.event_source,
                "type": self._settings.event_type,
                "datacontenttype": JSON,
            },
            data=json.dumps(envelope).encode("ascii"),
        )
        return self._signatures.stamp(request)


def _attempts_of(event: Event) -> int:
    attempts = event.attributes.get("relayattempts", "")
    return int(attempts) if re.fullmatch("[0-9]{1,6}", attempts) else 0


def _dead_event(event: Event, reason: Mapping[str, object]) -> Event:
    """Make the event that tells of a dead request: its event as it is, and why it is dead."""
    attributes = {
        name: value for name, value in event.attributes.items() if not name.startswith("knative")
    }
    attributes |= {
        "id": f"{event.id}.{DEAD}",
        "type": f"{event.type}.{DEAD}",
        "subject": event.id,
        _REASON: json.dumps(reason, separators=(",", ":")),
    }
    return replace(event, attributes=attributes)


def _request_of(event: Event, event_type: str) -> tuple[Event, dict[str, object]]:
    """Read from such an event the one of the request, and the reason."""
    attributes = {**event.attributes, "id": event.attributes["subject"], "type": event_type}
    del attributes["subject"]
    try:
        reason = jsons.loads(attributes.pop(_REASON, "{}").encode("utf-8"))
    except jsons.JSONError as exc:
        raise InvalidRequest(f"ce-{_REASON}", str(exc)) from exc
    if not isinstance(reason, dict):
        raise InvalidRequest(f"ce-{_REASON}", "must be a JSON object")
    return replace(event, attributes=attributes), reason


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
    if re.fullmatch("[0-9]{1,6}", code, re.ASCII):
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


def _why_dead(reason: Mapping[str, object]) -> str:
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
