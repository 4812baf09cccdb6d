"""Send: take calls over HTTP, and make them at once or hand them to the Broker."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode

from relay import strict_json
from relay.bodies import read_body
from relay.broker import Broker
from relay.calls import Caller, next_hop
from relay.envelope import METHODS, Envelope
from relay.events import CALLBACK, JSON, RESULTS, Event
from relay.headers import HOPS, Headers, hops_of, is_json, trace_context
from relay.messages import Request, Response
from relay.problems import InvalidRequest, MethodNotAllowed, NotFound, RelayError, problem_of
from relay.settings import Settings

log = logging.getLogger(__name__)

FORM: Final = "application/x-www-form-urlencoded"

# Fit for an event's id, a header and a path segment alike; with or without the quotes of
# draft-ietf-httpapi-idempotency-key-header.
_ID = re.compile(r'("?)([A-Za-z0-9._~:+=@-]{1,128})\1', re.ASCII)
_ID_RULE = "must be 1 to 128 letters, digits or . _ ~ : + = @ -"

Handler = Callable[[Request], Response]


class Send:
    """The HTTP function.

    Args:
        settings: all of them count, but `max_result_bytes`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._caller = Caller(settings)
        self._broker = Broker(settings)
        self._routes: Mapping[str, tuple[tuple[str, ...], Handler]] = {
            "/": (("GET", "POST"), self._index),
            "/sync": (METHODS, self._sync),
            "/async": (("POST",), self._async),
            "/event": (("POST",), self._async),
            "/event/callback": (("GET", "POST"), self._callback),
            "/event/dead-letter": (("POST",), self._dead_letter),
        }

    def handle(self, request: Request) -> Response:
        """Answer one request; an error becomes a problem document."""
        try:
            response = self._handler(request)(request)
        except RelayError as exc:
            response = problem_of(exc)
            log.warning("%s %a: %d %s", request.method, request.path, exc.status, exc.detail)
        else:
            log.info("%s %a: %d", request.method, request.path, response.status)
        return response

    def _handler(self, request: Request) -> Handler:
        if request.path not in self._routes:
            raise NotFound(f"there is no {request.path[:200]!a}; GET / lists what there is")
        methods, handler = self._routes[request.path]
        if request.method not in methods:
            raise MethodNotAllowed(request.method, request.path, methods)
        return handler

    def _index(self, request: Request) -> Response:
        if request.method == "POST":  # as `func invoke` does
            raise InvalidRequest(
                "envelope",
                'must go to /sync or /async: {"targetURL", "targetAPI", "headers", "body"} as JSON',
            )
        routes = {path: list(methods) for path, (methods, _) in self._routes.items()}
        document = {"service": "sync/async HTTP relay", "routes": routes}
        return Response.whole(200, json.dumps(document).encode(), content_type=JSON)

    def _sync(self, request: Request) -> Response:
        envelope = self._envelope(self._body(request))
        if envelope.method is not None:
            raise InvalidRequest("method", "is for /async; /sync relays the method it is called by")
        answer = self._caller.call(
            envelope,
            method=request.method,
            hops=next_hop(request.headers.get(HOPS)),
            # The body goes back as it came, so the encodings must be ones the caller can read.
            headers=(
                ("Accept-Encoding", request.headers.get("accept-encoding", "identity")),
                *_trace(request),
            ),
        )
        answer.begin()
        return Response(status=answer.status, headers=answer.headers, body=answer)

    def _async(self, request: Request) -> Response:
        data = self._body(request)
        envelope = self._envelope(data)
        event_id = _idempotency_key(request)
        hops = request.headers.get(HOPS)
        next_hop(hops)  # refused here, where somebody hears of it; Receive counts
        self._caller.check(envelope)
        self._publish(
            request,
            {
                "id": event_id,
                "type": self._settings.event_type,
                "datacontenttype": JSON,
                "relayhops": str(hops_of(hops)),
            },
            data,
        )
        document = {"id": event_id, "status": "accepted"}
        return Response.whole(202, json.dumps(document).encode(), content_type=JSON)

    def _callback(self, request: Request) -> Response:
        """Republish what a target calls back with, so that any Trigger can have it.

        The answer has no body: the Broker delivers results here too, and takes any body that is no
        event for a failure.
        """
        body = self._body(request)
        if request.headers.get("ce-type") in self._own_types():
            event = Event.from_http(request.headers, body)
            log.info("%s: %s", event.type, event.attributes.get("subject", event.id))
            return Response.empty(202)
        attributes = {"id": str(uuid.uuid4()), "type": f"{self._settings.event_type}.{CALLBACK}"}
        query = parse_qsl(request.query, keep_blank_values=True)
        for subject in (value for name, value in query if name == "id"):
            if not _ID.fullmatch(subject):
                raise InvalidRequest("id", f"in the query {_ID_RULE}")
            attributes["subject"] = subject
        parameters = [(name, value) for name, value in query if name != "id"]
        if body:
            attributes["datacontenttype"], body = _callback_data(request, body)
        elif parameters:
            # A callback by GET has its data in the query.
            attributes["datacontenttype"], body = FORM, urlencode(parameters).encode("ascii")
        self._publish(request, attributes, body or None)
        return Response.empty(202)

    def _dead_letter(self, request: Request) -> Response:
        event = Event.from_http(request.headers, self._body(request))
        log.error(
            "dead letter %s: %s answered %s",
            event.id,
            event.attributes.get("knativeerrordest", "its subscriber"),
            event.attributes.get("knativeerrorcode", "nothing the Broker understood"),
        )
        return Response.empty(202)

    def _own_types(self) -> tuple[str, ...]:
        return tuple(f"{self._settings.event_type}.{end}" for end in (*RESULTS, CALLBACK))

    def _body(self, request: Request) -> bytes:
        return read_body(request.stream, request.content_length, self._settings.max_body_bytes)

    def _envelope(self, data: bytes) -> Envelope:
        envelope = Envelope.from_json(data)
        longest_s = self._settings.target_timeout_s
        if envelope.timeout_s is not None and envelope.timeout_s > longest_s:
            raise InvalidRequest("timeout", f"must be at most {longest_s:g} s (TARGET_TIMEOUT_S)")
        return envelope

    def _publish(self, request: Request, attributes: dict[str, str], data: bytes | None) -> None:
        trace = _trace(request)
        attributes = {"source": self._settings.event_source, **attributes, **dict(trace)}
        self._broker.publish(Event(attributes=attributes, data=data), trace=trace)


def _trace(request: Request) -> Headers:
    return trace_context(request.headers.get("traceparent"), request.headers.get("tracestate"))


def _idempotency_key(request: Request) -> str:
    """Return the caller's own id for this request, or a new one."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return str(uuid.uuid4())
    match = _ID.fullmatch(key)
    if match is None:
        raise InvalidRequest("Idempotency-Key", _ID_RULE)
    return match[2]


def _callback_data(request: Request, body: bytes) -> tuple[str, bytes]:
    """Return the media type and bytes of a callback, as they go into an event.

    Raises:
        InvalidRequest: it is called JSON, or a CloudEvent, and is none.
    """
    content_type = request.headers.get("content-type", "application/octet-stream")
    if content_type.lower().startswith("application/cloudevents"):
        # In binary mode this Content-Type would turn the data into the event itself.
        event = Event.from_http(request.headers, body)
        return event.attributes.get("datacontenttype", JSON), event.data or b"null"
    if is_json(content_type):
        try:
            strict_json.loads(body)
        except strict_json.JSONError as exc:
            raise InvalidRequest("body", str(exc)) from exc
    return content_type, body
