"""Send: take calls over HTTP, and make them at once or hand them to the Broker."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from relay import logs
from relay.auth import Signatures, check_token
from relay.backends import open_store
from relay.bodies import seems
from relay.broker import Broker
from relay.envelope import METHODS, Envelope, fingerprint, new_id, parse_key, read_envelope
from relay.events import JSON, Event
from relay.forwarded import base_url
from relay.gate import Gate, Passing
from relay.headers import HOPS, Headers, Preferences
from relay.http import Request, Response, brokers_problem, problem_of, read_body
from relay.jsons import BOM, Object
from relay.lists import Lists, query_of
from relay.outcomes import Outcomes, target_callback_event
from relay.places import Places, at_most
from relay.problems import (
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RelayError,
    StateUnavailable,
)
from relay.progress import Events
from relay.records import Records, with_round
from relay.results import Result
from relay.settings import Settings
from relay.status import Accepted, Status, accepted_answer
from relay.targets import TargetClient
from relay.tracing import as_attributes, context_of, next_hop, trace_id
from relay.waiting import Waiting

log = logging.getLogger(__name__)

# The files that describe the routes; openapi.yaml (RFC 9512) refers to the other as its neighbour.
_SCHEMAS: Final = Path(__file__).with_name("schemas")
_SCHEMA_TYPES: Final = {
    "/openapi.yaml": "application/yaml",
    "/envelope.schema.json": "application/schema+json",
}

# Callers' routes; the others are for targets and the Broker, who bring proofs of their own, or tell
# nothing.
_GUARDED: Final = frozenset(
    {"/sync", "/async", "/event", "/async/{id}", "/async/{id}/retry", "/async/retry"}
)
# About one request. A query there would do nothing, so it is refused.
_WITHOUT_QUERY: Final = frozenset({"/async/{id}", "/async/{id}/retry"})

# What the Broker calls.
_BROKERS: Final = frozenset({"/event/callback", "/event/dead-letter"})

# How alike, from 0 to 1, a path that is not there must be to one that is to be taken for it.
_CLOSE: Final = 0.8

Handler = Callable[[Request], Response]


class Send:
    """The HTTP function.

    Args:
        settings: all of them count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets = TargetClient(settings)
        self._broker = Broker(settings)
        store = open_store(
            settings.state_url, ttl_s=settings.state_ttl_s, max_bytes=settings.state_max_bytes
        )
        self.census = store.census
        self._records = Records(store, settings)
        self._signatures = Signatures(settings, store)
        self._waiting = Waiting(settings.threads)
        self._events = Events(event_type=settings.event_type, source=settings.event_source)
        signed = (settings, self._records, self._broker, self._signatures)
        self._outcomes = Outcomes(*signed)
        self._status = Status(*signed, self._waiting)
        self._lists = Lists(self._records, self._status.publish_again)
        self._gate = Gate(settings)
        self._calls = Places(at_most(max(1, int(settings.threads * settings.origin_share))))
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._index, "POST": self._misdirected},
            "/sync": dict.fromkeys(METHODS, self._sync),
            "/async": {"POST": self._async, "GET": self._lists.list},
            "/event": {"POST": self._async},
            "/event/callback": {"GET": self._callback, "POST": self._callback},
            "/event/dead-letter": {"POST": self._dead_letter},
            "/async/retry": {"POST": self._lists.retry},
            "/async/{id}": {"GET": self._status.read, "DELETE": self._status.cancel},
            "/async/{id}/retry": {"POST": self._status.retry},
            **{path: {"GET": self._schema} for path in _SCHEMA_TYPES},
        }

    def handle(self, request: Request) -> Response:
        """Answer one request; an error becomes a problem document."""
        request = _joined(request)
        try:
            return self._handler(request)(request)
        except RelayError as exc:
            logs.refused(exc)
            if request.path in _BROKERS:
                return brokers_problem(
                    exc.status, exc.detail, headers=exc.headers, members=exc.members
                )
            return problem_of(exc)

    def _handler(self, request: Request) -> Handler:
        path = request.path
        if path not in self._routes:
            path = re.sub(r"^/async/[^/]+", "/async/{id}", path)
        handlers = self._routes.get(path)
        if handlers is None:
            close = get_close_matches(path[:200].lower().rstrip("/"), self._routes, 1, _CLOSE)
            hint = f"did you mean {close[0]}? " if close else ""
            raise NotFound(f"there is no {request.path[:200]!a}; {hint}GET / lists what there is")
        logs.note(route=path)
        if request.method not in handlers:
            raise MethodNotAllowed(request.method, request.path[:200], tuple(handlers))
        if path in _GUARDED:
            check_token(request.headers, self._settings.api_token)
            if path in _WITHOUT_QUERY:
                query_of(request)
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

    def _schema(self, request: Request) -> Response:
        # Read when asked for, which is seldom; the files change only with the function.
        body = (_SCHEMAS / request.path[1:]).read_bytes()
        kind, cached = _SCHEMA_TYPES[request.path], (("Cache-Control", "max-age=300"),)
        return Response.whole(200, body, content_type=kind, headers=cached)

    def _sync(self, request: Request) -> Response:
        data = self._body(request)
        envelope = self._envelope(request, data)[0]
        if envelope.method is not None and request.method != "POST":
            own = request.method
            raise InvalidRequest(
                "method", f"is for POST /sync and /async; {own} /sync calls with {own}"
            )
        method = envelope.method or request.method
        if Preferences.from_header(request.headers.get("prefer")).respond_async:
            return self._respond_async(request, data, envelope)
        if envelope.callback is not None:
            raise InvalidRequest("callback", "is for /async; /sync gives the answer to its caller")
        longest_s = self._settings.target_timeout_s
        until = time.monotonic() + min(envelope.timeout_s or longest_s, longest_s)
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
                    *request.trace,
                ),
                cut=request.caller.cut,
            )
            answer.begin()
            body = Passing(answer, passing.pop_all())
        headers = answer.headers
        if method == "HEAD" != request.method:  # it is not the length of this answer
            headers = tuple(item for item in headers if item[0].lower() != "content-length")
        # A caller who does not read has no more time than a target that does not answer.
        return Response(status=answer.status, headers=headers, body=body, until=until)

    def _respond_async(self, request: Request, data: bytes, envelope: Envelope) -> Response:
        """Do for /sync what /async does; the method goes into the envelope."""
        if envelope.method is None:
            _, brace, members = data.partition(b"{")
            data = brace + b'"method":"%b",' % request.method.encode("ascii") + members
        return self._accepted(request, data, "respond-async")

    def _async(self, request: Request) -> Response:
        return self._accepted(request, self._body(request))

    def _accepted(self, request: Request, data: bytes, *applied: str) -> Response:
        """Accept a request; answer with its result if its caller waits for that and it comes.

        Args:
            applied: the preferences that are followed so far.
        """
        accepted = self._accept(request, data)
        base = base_url(request.headers)
        wait_s = Preferences.from_header(request.headers.get("prefer")).wait_s
        if wait_s is None:
            return accepted_answer(accepted, base, _applied(*applied))
        with self._waiting.place() as has_place:
            if not has_place:
                told = self._waiting.told()
                return accepted_answer(accepted, base, _applied(*applied), **told)
            try:
                known = self._records.wait(accepted.id, wait_s, request.caller)
            except StateUnavailable:
                known = None
        headers = _applied(*applied, f"wait={wait_s}")
        answer = None if known is None or known.answer is None else Result.from_json(known.answer)
        if answer is None or answer.reason is not None:
            return accepted_answer(replace(accepted, known=known or accepted.known), base, headers)
        response = answer.to_response()
        return replace(response, headers=(*response.headers, *headers))

    def _accept(self, request: Request, data: bytes) -> Accepted:
        """Publish a request, unless that has been done; return when the Broker has it."""
        envelope, document = self._envelope(request, data)
        same, callback = fingerprint(document), document.members.get("callback")
        del document
        key = request.headers.get("idempotency-key")
        request_id = new_id() if key is None else parse_key(key)
        logs.note(id=request_id)
        # Too many are refused here, where somebody hears of it; Receive counts this pass.
        hops = next_hop(request.headers.get(HOPS)) - 1
        self._targets.check(envelope)
        more = {"datacontenttype": JSON, "relayhops": str(hops)}
        event = self._events.event(request_id, more, data=data)
        try:
            known, is_mine = self._records.accept(
                request_id,
                fingerprint=same,
                target=envelope.target.origin.authority,
                may_repeat=key is not None,
            )
        except StateUnavailable as exc:
            # The event has all that is promised; the record only tells of it.
            log.warning("the request is accepted without a record: %s", exc.detail)
            self._publish(request, event, callback, is_request=True)
            return Accepted(id=request_id, known=None)
        if is_mine:
            with self._records.publishing(known.record):
                event = with_round(event, known.record.round)
                self._publish(request, event, callback, is_request=True)
        return Accepted(id=request_id, known=known)

    def _callback(self, request: Request) -> Response:
        """Take a target's callback, or what the Broker has of the relay's own events.

        The answer has no body, or is an event: the Broker takes any other for a failure.
        """
        if self._outcomes.is_own(request.headers.get("ce-type")):
            return self._outcomes.take(Event.from_http(request.headers, self._delivery(request)))
        body = read_body(request, self._settings.max_body_bytes)
        self._signatures.verify(request.headers, body)
        event = target_callback_event(request, body, self._events)
        logs.note(id=event.attributes.get("subject"))
        with self._signatures.taking(request.headers):
            self._publish(request, event)
        return Response.empty(202)

    def _dead_letter(self, request: Request) -> Response:
        self._outcomes.take_dead_letter(request.headers, self._delivery(request))
        return Response.empty(202)

    def _body(self, request: Request) -> bytes:
        return read_body(request, self._settings.max_body_bytes).removeprefix(BOM)

    def _delivery(self, request: Request) -> bytes:
        limit_bytes = self._settings.max_delivery_bytes
        return read_body(request, limit_bytes, setting="2 * MAX_EVENT_BYTES")

    def _envelope(self, request: Request, data: bytes) -> tuple[Envelope, Object]:
        try:
            envelope, document = read_envelope(data)
        except InvalidRequest as exc:
            instead = seems(data, request.headers.get("content-type", ""))
            if not instead or not exc.detail.startswith("envelope is not "):
                raise
            raise InvalidRequest("envelope", f"is not JSON: {instead}") from exc
        longest_s = self._settings.target_timeout_s
        if envelope.timeout_s is not None and envelope.timeout_s > longest_s:
            raise InvalidRequest("timeout", f"must be at most {longest_s:g} s (TARGET_TIMEOUT_S)")
        return envelope, document

    def _publish(
        self, request: Request, event: Event, callback: object = None, *, is_request: bool = False
    ) -> None:
        event = self._signatures.stamp(event.having(as_attributes(request.trace)), callback)
        self._broker.publish(event, trace=request.trace, is_request=is_request)


def _applied(*preferences: str) -> Headers:
    return (("Preference-Applied", ", ".join(preferences)),) if preferences else ()


def _joined(request: Request) -> Request:
    """Make a request part of the trace it came with, or of that of the event that it brings."""
    own = request.headers.get("ce-traceparent") if request.path in _BROKERS else None
    came = request.headers if own is None else {**request.headers, "traceparent": own}
    trace = logs.join(context_of(came))
    if not trace:
        return request
    logs.note(trace=trace_id(dict(trace).get("traceparent")))
    return replace(request, trace=trace)
