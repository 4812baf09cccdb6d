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
from local.display.buttons import EXAMPLES, Buttons, Sent
from local.display.event_form import render, render_unreadable
from local.display.requests import MAX_REQUESTS, Requests, TrackedRequest
from relay import http
from relay.events import Event
from relay.problems import InvalidRequest

_STATIC = Path(__file__).parent / "static"
_MAX_ROWS_AT_ONCE = 1000
_COLUMNS = ("number", "at", "id", "type", "target", "state", "attempts", "status")
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
    """The routes; without `buttons` the page only shows."""

    def __init__(self, requests: Requests, buttons: Buttons | None) -> None:
        self._requests = requests
        self._buttons = buttons
        self._run = uuid.uuid4().hex[:8]

    def app(self, lifespan: Lifespan[Starlette]) -> Starlette:
        return Starlette(
            routes=[
                Route("/", _print_event, methods=["POST"]),
                Route("/", self._page, methods=["GET"]),
                Route("/healthz", _health, methods=["GET"]),
                Route("/rows", self._rows, methods=["GET"]),
                Route("/requests/{number:int}", self._details, methods=["GET"]),
                Route("/requests/{number:int}/retry", self._retry, methods=["POST"]),
                Route("/examples/{name}", self._send_example, methods=["POST"]),
                Mount("/static", StaticFiles(directory=_STATIC)),
            ],
            middleware=[Middleware(_Guard)],
            lifespan=lifespan,
        )

    async def _page(self, _: Request) -> Response:
        page = (_STATIC / "index.html").read_text(encoding="utf-8")
        if self._buttons is not None:
            page = page.replace("http://localhost:8080", self._buttons.send_url)
        return HTMLResponse(page)

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
            return _problem(HTTPStatus.NOT_FOUND, "no such request, or it is no longer kept")
        entries = [entry.document() for entry in known.entries]
        return JSONResponse({**_row(known), "source": known.source, "entries": entries})

    async def _retry(self, request: Request) -> Response:
        known = self._requests.get(request.path_params["number"])
        if known is None:
            return _problem(HTTPStatus.NOT_FOUND, "no such request, or it is no longer kept")
        return await self._call(lambda buttons: buttons.retry(known.id))

    async def _send_example(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in EXAMPLES:
            return _problem(HTTPStatus.NOT_FOUND, f"the examples are {', '.join(EXAMPLES)}")
        return await self._call(lambda buttons: buttons.send_example(name))

    async def _call(self, make: Callable[[Buttons], Awaitable[Sent]]) -> Response:
        if self._buttons is None:
            return _problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "this display does not know where Send is"
            )
        try:
            return JSONResponse(await make(self._buttons))
        except (aiohttp.ClientError, asyncio.TimeoutError) as exc:
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
        if refused is None and request.method not in ("GET", "HEAD"):
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
