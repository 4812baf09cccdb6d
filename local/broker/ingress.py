"""The Broker's HTTP side: `POST /{namespace}/{broker}` publishes an event.

The answers are those of Knative's ingress: 202 once the event is on disk, 400 for an invalid
CloudEvent, 500 for one with a line feed in it, which it cannot send on, 404 for a Broker that does
not exist or any query, 405 for other methods; and 413 and 503 where a Broker must say that it did
not take the event.
"""

from __future__ import annotations

import logging
import re

from msgspec.json import encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from local.broker.activity import Accepted, Activity
from local.broker.attributes import Unwritable
from local.broker.database import StoreError
from local.broker.delivery import passed_on
from local.broker.dispatch import Dispatcher
from local.broker.event import KNATIVE, RawHeaders, fields
from local.broker.routing import Routing
from local.broker.store import EventStore, Publication
from local.browsers import ProgramsOnly
from relay.events import Event
from relay.problems import InvalidRequest

_RETRY_AFTER_S = "1"
_ACCEPTED = Response(status_code=202)
_log = logging.getLogger("local.broker")


class Ingress:
    """The ASGI application; all but events goes by Starlette, which costs more than they do."""

    def __init__(
        self,
        routing: Routing,
        store: EventStore,
        dispatcher: Dispatcher,
        activity: Activity,
        *,
        max_event_bytes: int = 2 * 1024 * 1024,
    ) -> None:
        self._routing = routing
        self._store = store
        self._dispatcher = dispatcher
        self._activity = activity
        self._max_event_bytes = max_event_bytes

    def app(self, lifespan: Lifespan[Starlette] | None) -> ASGIApp:
        others = Starlette(
            routes=[
                Route("/healthz", _healthz),
                Route("/activity", self._facts),
                Route("/{namespace}/{broker}", _unknown, methods=["POST"]),
            ],
            lifespan=lifespan,
            exception_handlers={404: _nowhere, 405: _nowhere},
        )
        others.router.redirect_slashes = False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
                broker = scope["path"][1:]
                if broker in self._routing.routes:
                    response = await self._publish(broker, scope["headers"], receive)
                    await response(scope, receive, send)
                    return
            await others(scope, receive, send)

        # Events are acted on, and the facts of /activity hold whole ones, credentials too.
        return ProgramsOnly(app)

    async def _facts(self, request: Request) -> Response:
        """Answer `?after=RUN-NUMBER` with the facts after one, for the event display: a `Batch`."""
        seen = re.fullmatch(r"(\w+)-([0-9]{1,18})", request.query_params.get("after", ""))
        batch = self._activity.read(seen[1], int(seen[2])) if seen else self._activity.read("", 0)
        return Response(encode(batch), media_type="application/json")

    async def _publish(self, broker: str, headers: RawHeaders, receive: Receive) -> Response:
        try:
            body = await self._read(receive)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return PlainTextResponse(
                f"an event must have at most {self._max_event_bytes} bytes\n", 413
            )
        given = fields(headers)
        try:
            event, triggers = self._routing.admit(broker, Event.from_http(given, body, KNATIVE))
        except InvalidRequest as exc:
            return PlainTextResponse(f"{exc}\n", 500 if isinstance(exc, Unwritable) else 400)
        if triggers:
            publication = Publication(event=event, headers=passed_on(given), triggers=triggers)
            try:
                event_id = await self._store.add(publication)
            except StoreError as exc:
                _log.error("id=%r not accepted: %s", event.attributes["id"], exc)
                return PlainTextResponse(
                    "the event could not be stored\n", 503, {"Retry-After": _RETRY_AFTER_S}
                )
            self._dispatcher.offer(event_id, publication)
        self._activity.note(Accepted(event=event, triggers=triggers))
        return _ACCEPTED

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None when it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_event_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


async def _unknown(_: Request) -> Response:
    return PlainTextResponse("there is no such Broker\n", 404)


async def _nowhere(_: Request, error: Exception) -> Response:
    """Help those who meant another port."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for statuses
    about = "the Broker takes events by POST to /NAMESPACE/BROKER; calls go to Send"
    return PlainTextResponse(f"{error.detail}: {about}\n", error.status_code, error.headers)


async def _healthz(_: Request) -> Response:
    return Response(status_code=200)
