"""The display over HTTP: the Broker's events at `POST /`, and what the page needs."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from local.broker.event import KNATIVE, fields
from local.browsers import foreign_host, foreign_origin
from local.display import direct
from local.display.caller import Caller, Composed, Sent
from local.display.contents import body_of, document
from local.display.event_form import render, render_unreadable
from local.display.requests import MAX_REQUESTS, Requests
from local.display.tracked import TrackedRequest
from relay import http
from relay.events import Event
from relay.problems import InvalidRequest

_STATIC = Path(__file__).parent / "static"
_MAX_ROWS_AT_ONCE = 1000
_COLUMNS = (
    *("number", "at", "id", "type", "route", "method", "target", "path"),
    *("state", "attempts", "status", "duration_ms"),
)
_GONE = "no such request, or it is no longer kept"
# The page runs and loads only what this display serves.
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Display:
    """The routes; without a `caller` the page only shows."""

    def __init__(self, requests: Requests, caller: Caller | None) -> None:
        self._requests = requests
        self._caller = caller
        self._run = uuid.uuid4().hex[:8]

    def app(self, lifespan: Lifespan[Starlette]) -> Starlette:
        return Starlette(
            routes=[
                Route("/", _print_event, methods=["POST"]),
                Route("/", self._page, methods=["GET"]),
                Route("/healthz", _health, methods=["GET"]),
                Route("/rows", self._rows, methods=["GET"]),
                Route("/requests/{number:int}", self._details, methods=["GET"]),
                Route("/requests/{number:int}/contents/{content:int}", self._content),
                Route("/requests/{number:int}/call", self._sent),
                Route("/requests/{number:int}/retry", self._retry, methods=["POST"]),
                Route("/search", self._search),
                Route("/guide", self._guide),
                Route("/send", self._send, methods=["POST"]),
                Route("/calls", self._take_calls, methods=["POST"]),
                Mount("/static", StaticFiles(directory=_STATIC)),
            ],
            middleware=[Middleware(_Guard)],
            lifespan=lifespan,
        )

    async def _page(self, _: Request) -> Response:
        return HTMLResponse((_STATIC / "index.html").read_bytes())

    async def _rows(self, request: Request) -> Response:
        """Return the rows that have changed since `after`, which an earlier answer has given."""
        seen = re.fullmatch(rf"{self._run}-([0-9]{{1,18}})", request.query_params.get("after", ""))
        revision = int(seen[1]) if seen else 0
        changed = self._requests.changed_since(revision, _MAX_ROWS_AT_ONCE)
        return JSONResponse(
            {
                "is_new": seen is None,  # another display than before: the page forgets its rows
                "limit": MAX_REQUESTS,
                "after": f"{self._run}-{changed[-1].changed if changed else revision}",
                "has_more": len(changed) == _MAX_ROWS_AT_ONCE,
                "connected": self._requests.is_connected,
                "missed": self._requests.missed,
                "rows": [_row(each) for each in changed],
            }
        )

    async def _details(self, request: Request) -> Response:
        known = self._requests.get(request.path_params["number"])
        if known is None:
            return _problem(HTTPStatus.NOT_FOUND, _GONE)
        entries = [msgspec.structs.asdict(entry) for entry in known.entries]
        tries = [msgspec.structs.asdict(attempt) for attempt in known.tries.made]
        return JSONResponse(
            {**_row(known), "source": known.source, "entries": entries, "tries": tries}
        )

    async def _content(self, request: Request) -> Response:
        """Return what was sent or answered; its secrets only when asked for by `?secrets=1`."""
        number, content = request.path_params["number"], request.path_params["content"]
        kept = self._requests.contents.get(content, number)
        if kept is None:
            return _problem(HTTPStatus.NOT_FOUND, _GONE)
        return JSONResponse(document(kept, with_secrets="secrets" in request.query_params))

    async def _sent(self, request: Request) -> Response:
        """Return a request as it can be sent again, with all that is secret in it."""
        known = self._requests.get(request.path_params["number"])
        kept = None if known is None else self._requests.contents.get(known.content, known.number)
        if known is None or kept is None:
            return _problem(HTTPStatus.NOT_FOUND, _GONE)
        if isinstance(kept, direct.Message) and kept.is_cut:
            return _problem(HTTPStatus.CONFLICT, "it is too long: only its beginning is kept")
        method = known.type.partition(" ")[0] if known.route == "/sync" else "POST"
        body = body_of(kept).decode("utf-8", "replace")
        return JSONResponse({"method": method, "path": known.route, "body": body})

    async def _search(self, request: Request) -> Response:
        numbers = self._requests.contents.search(request.query_params.get("text", ""))
        return JSONResponse({"numbers": sorted(numbers)})

    async def _guide(self, _: Request) -> Response:
        return JSONResponse(self._caller.guide() if self._caller else {"examples": []})

    async def _take_calls(self, request: Request) -> Response:
        """Take what Send tells of the calls that it has answered itself."""
        try:
            calls = msgspec.json.decode(await request.body(), type=list[direct.Call])
        except msgspec.DecodeError as exc:
            return _problem(HTTPStatus.BAD_REQUEST, str(exc))
        for call in calls:
            self._requests.direct(call)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _retry(self, request: Request) -> Response:
        known = self._requests.get(request.path_params["number"])
        if known is None:
            return _problem(HTTPStatus.NOT_FOUND, _GONE)
        return await self._call(lambda caller: caller.retry(known.id))

    async def _send(self, request: Request) -> Response:
        try:
            composed = msgspec.json.decode(await request.body(), type=Composed)
        except msgspec.DecodeError as exc:
            return _problem(HTTPStatus.BAD_REQUEST, str(exc))
        return await self._call(lambda caller: caller.send(composed))

    async def _call(self, make: Callable[[Caller], Awaitable[Sent]]) -> Response:
        if self._caller is None:
            return _problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "this display does not know where Send is"
            )
        try:
            return JSONResponse(await make(self._caller))
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as exc:
            detail = f"Send does not answer: {str(exc) or type(exc).__name__}"
            return _problem(HTTPStatus.BAD_GATEWAY, detail)


class _Guard:
    """Refuses requests of other sites' pages, and tells browsers what this page may do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        request = Request(scope)
        refused = foreign_host(request)
        # Anybody may link to the page; what it fetches is for itself alone.
        if refused is None and (request.method, request.url.path) != ("GET", "/"):
            refused = foreign_origin(request)
        app = self._app if refused is None else _problem(HTTPStatus.FORBIDDEN, refused)
        await app(scope, receive, send_with_headers)


def _row(request: TrackedRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in _COLUMNS}


async def _print_event(request: Request) -> Response:
    body = await request.body()
    try:
        event = Event.from_http(fields(request.headers.raw), body, KNATIVE)
    except InvalidRequest as exc:
        _print(render_unreadable(exc))
        return Response(status_code=HTTPStatus.BAD_REQUEST)
    _print(render(event))
    # A Broker takes an answer with a body for a failure, and sends the event again.
    return Response(status_code=HTTPStatus.ACCEPTED)


async def _health(_: Request) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _problem(status: HTTPStatus, detail: str) -> Response:
    problem = http.problem(status, detail)
    return Response(b"".join(problem.body), problem.status, dict(problem.headers))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
