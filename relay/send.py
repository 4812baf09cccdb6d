"""Send: take calls over HTTP, and make them at once or hand them to the Broker."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from relay import jsons, logs
from relay.auth import Signatures, check_token
from relay.broker import Broker
from relay.client import TargetClient
from relay.envelope import METHODS, Callback, Envelope, new_id, parse_id
from relay.events import CALLBACK, JSON, Event
from relay.gate import Gate, Passing
from relay.headers import HOPS, Headers, Preferences
from relay.http import Request, Response, problem_of, read_body
from relay.outcomes import Outcomes, target_callback_event
from relay.places import Places, at_most
from relay.problems import (
    BrokerUnavailable,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RelayError,
    StateUnavailable,
)
from relay.records import Record, Records
from relay.results import as_response
from relay.settings import Settings
from relay.state import State
from relay.status import Status, status_answer
from relay.tracing import hops_of, next_hop, trace_context, trace_id

log = logging.getLogger(__name__)

# The files that describe the routes.
_SCHEMAS: Final = Path(__file__).with_name("schemas")

# Callers' routes; the others are for targets and the Broker, who bring proofs of their own, or tell
# nothing.
_GUARDED: Final = frozenset({"/sync", "/async", "/event", "/async/{id}", "/async/{id}/retry"})

Handler = Callable[[Request], Response]


class Send:
    """The HTTP function.

    Args:
        settings: all of them count, but `max_result_bytes`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        self._broker = Broker(settings)
        self._records = Records(State(settings.state_url, settings.state_ttl_s))
        self._signatures = Signatures(settings.callback_secret, settings.state_url)
        self._outcomes = Outcomes(settings, self._records, self._broker, self._signatures)
        self._status = Status(self._records, self._broker, self._signatures)
        self._gate = Gate(settings)
        self._calls = Places(at_most(max(1, int(settings.threads * settings.origin_share))))
        # Who waits holds a thread; most of them stay free for everybody else.
        self._waiting = threading.BoundedSemaphore(max(1, settings.threads // 4))
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._index, "POST": self._misdirected},
            "/sync": dict.fromkeys(METHODS, self._sync),
            "/async": {"POST": self._async, "GET": self._status.list},
            "/event": {"POST": self._async},
            "/event/callback": {"GET": self._callback, "POST": self._callback},
            "/event/dead-letter": {"POST": self._dead_letter},
            "/async/{id}": {"GET": self._status.read},
            "/async/{id}/retry": {"POST": self._status.retry},
            "/openapi.yaml": {"GET": self._openapi},
            "/envelope.schema.json": {"GET": self._envelope_schema},
        }

    def handle(self, request: Request) -> Response:
        """Answer one request; an error becomes a problem document."""
        logs.note(trace=trace_id(request.headers.get("traceparent")))
        try:
            return self._handler(request)(request)
        except RelayError as exc:
            logs.refused(exc)
            return problem_of(exc)

    def _handler(self, request: Request) -> Handler:
        path = re.sub(r"^/async/[^/]+", "/async/{id}", request.path)
        handlers = self._routes.get(path)
        if handlers is None:
            raise NotFound(f"there is no {request.path[:200]!a}; GET / lists what there is")
        logs.note(route=path)
        if request.method not in handlers:
            raise MethodNotAllowed(request.method, request.path[:200], tuple(handlers))
        if path in _GUARDED:
            check_token(request.headers, self._settings.api_token)
        return handlers[request.method]

    def _index(self, request: Request) -> Response:
        routes = {path: list(handlers) for path, handlers in self._routes.items()}
        document = {"service": "sync/async HTTP relay", "routes": routes}
        return Response.whole(200, json.dumps(document).encode(), content_type=JSON)

    def _misdirected(self, request: Request) -> Response:
        """Tell what a call looks like: `func invoke` posts here."""
        raise InvalidRequest(
            "envelope",
            'must go to /sync or /async: {"targetURL", "targetAPI", "headers", "body"} as JSON',
        )

    def _openapi(self, request: Request) -> Response:
        return self._schema("openapi.yaml", "application/yaml")  # RFC 9512

    def _envelope_schema(self, request: Request) -> Response:
        # openapi.yaml refers to it as its neighbour.
        return self._schema("envelope.schema.json", "application/schema+json")

    def _schema(self, name: str, content_type: str) -> Response:
        # Read when asked for, which is seldom; the files change only with the function.
        body = (_SCHEMAS / name).read_bytes()
        cached = (("Cache-Control", "max-age=300"),)
        return Response.whole(200, body, content_type=content_type, headers=cached)

    def _sync(self, request: Request) -> Response:
        data = self._body(request)
        envelope = self._envelope(data)
        if envelope.method is not None and request.method != "POST":
            own = request.method
            raise InvalidRequest(
                "method", f"is for POST /sync and /async; {own} /sync calls with {own}"
            )
        method = envelope.method or request.method
        if Preferences.from_header(request.headers.get("prefer")).respond_async:
            return self._respond_async(request, data, method)
        if envelope.callback is not None:
            raise InvalidRequest("callback", "is for /async; /sync gives the answer to its caller")
        with contextlib.ExitStack() as passing:
            passing.enter_context(self._gate.passing(envelope.target.origin, self._calls))
            passing.enter_context(request.caller.watched())
            answer = self._targets.call(
                envelope,
                method=method,
                hops=next_hop(request.headers.get(HOPS)),
                # The body goes back as it came, so the encodings must be ones the caller can read.
                headers=(
                    ("Accept-Encoding", request.headers.get("accept-encoding", "identity")),
                    *_trace(request),
                ),
                cut=request.caller.cut,
            )
            answer.begin()
            body = Passing(answer, passing.pop_all())
        headers = answer.headers
        if method == "HEAD" != request.method:  # it is not the length of this answer
            headers = tuple(item for item in headers if item[0].lower() != "content-length")
        return Response(status=answer.status, headers=headers, body=body)

    def _respond_async(self, request: Request, data: bytes, method: str) -> Response:
        """Do for /sync what /async does; the method goes into the envelope."""
        value = jsons.loads(data)
        assert isinstance(value, dict)  # noqa: S101 - it has been read as an envelope
        data = json.dumps(value | {"method": method}).encode("ascii")
        record = self._accept(request, data, self._envelope(data))
        return status_answer(202, record, ("Preference-Applied", "respond-async"))

    def _async(self, request: Request) -> Response:
        data = self._body(request)
        record = self._accept(request, data, self._envelope(data))
        wait_s = Preferences.from_header(request.headers.get("prefer")).wait_s
        if wait_s is None or not self._waiting.acquire(blocking=False):
            return status_answer(202, record)
        applied = ("Preference-Applied", f"wait={wait_s}")
        try:
            known = self._records.wait(record.id, wait_s) or record
        except StateUnavailable:
            known = record
        finally:
            self._waiting.release()
        answer = known.answer()
        if answer is None or "truncated" in answer:
            return status_answer(202, known, applied)
        response = as_response(answer)
        return replace(response, headers=(*response.headers, applied))

    def _accept(self, request: Request, data: bytes, envelope: Envelope) -> Record:
        """Publish a request; return when the Broker has it."""
        key = request.headers.get("idempotency-key")
        request_id = new_id() if key is None else parse_id(key, field="Idempotency-Key")
        logs.note(id=request_id)
        hops = request.headers.get(HOPS)
        next_hop(hops)  # refused here, where somebody hears of it; Receive counts
        self._targets.check(envelope)
        self._note(request_id, envelope.callback)
        attributes = {
            "id": request_id,
            "source": self._settings.event_source,
            "type": self._settings.event_type,
            "datacontenttype": JSON,
            "relayhops": str(hops_of(hops)),
        }
        try:
            self._publish(request, Event(attributes=attributes, data=data))
        except BrokerUnavailable as exc:
            if exc.members.get("published") == "no":
                with contextlib.suppress(StateUnavailable):
                    self._records.forget(request_id)
            raise
        return Record.accepted_now(request_id)

    def _note(self, request_id: str, callback: Callback | None) -> None:
        """Note a request before it is published; nothing can overtake that.

        Without the state a request is accepted all the same, unless it asks for a callback: that
        promise could not be kept.
        """
        asked = None if callback is None else callback.envelope()
        try:
            self._records.accept(request_id, callback=asked)
        except StateUnavailable as exc:
            if callback is not None:
                raise
            log.warning("the request is accepted without a record: %s", exc.detail)

    def _callback(self, request: Request) -> Response:
        """Take a target's callback, or what the Broker has of the relay's own events.

        The answer has no body, or is an event: the Broker takes any other for a failure.
        """
        body = self._body(request)
        if self._outcomes.is_own(request.headers.get("ce-type")):
            return self._outcomes.take(Event.from_http(request.headers, body))
        self._signatures.verify(request.headers, body)
        event = target_callback_event(
            request,
            body,
            event_type=f"{self._settings.event_type}.{CALLBACK}",
            source=self._settings.event_source,
        )
        logs.note(id=event.attributes.get("subject"))
        self._signatures.take(request.headers)
        try:
            self._publish(request, event)
        except RelayError:
            with contextlib.suppress(StateUnavailable):
                self._signatures.give_back(request.headers)
            raise
        return Response.empty(202)

    def _dead_letter(self, request: Request) -> Response:
        self._outcomes.bury(Event.from_http(request.headers, self._body(request)))
        return Response.empty(202)

    def _body(self, request: Request) -> bytes:
        return read_body(request.stream, request.content_length, self._settings.max_body_bytes)

    def _envelope(self, data: bytes) -> Envelope:
        envelope = Envelope.from_json(data)
        longest_s = self._settings.target_timeout_s
        if envelope.timeout_s is not None and envelope.timeout_s > longest_s:
            raise InvalidRequest("timeout", f"must be at most {longest_s:g} s (TARGET_TIMEOUT_S)")
        return envelope

    def _publish(self, request: Request, event: Event) -> None:
        trace = _trace(request)
        attributes = {**event.attributes, **dict(trace)}
        event = self._signatures.stamp(replace(event, attributes=attributes))
        self._broker.publish(event, trace=trace)


def _trace(request: Request) -> Headers:
    return trace_context(request.headers.get("traceparent"), request.headers.get("tracestate"))
