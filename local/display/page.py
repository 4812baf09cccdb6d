"""The display over HTTP: the Broker's events at `POST /`, and everything that the page needs."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from local.broker.event import KNATIVE, fields
from local.browsers import foreign_host, foreign_origin
from local.display.event_form import render, render_unreadable
from local.display.live import Live, row
from local.display.requests import Requests
from local.display.send import EXAMPLES, Caller, Sent
from relay.events import Event
from relay.problems import InvalidRequest

_STATIC = Path(__file__).parent / "static"
_FILES: Final[Mapping[str, str]] = {
    "/": "index.html",
    **{f"/{name}": name for name in ("page.css", "page.js", "list.js", "details.js", "icon.svg")},
}
# Nothing runs, and nothing is asked, but what this display serves itself.
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
    """The routes."""

    def __init__(self, requests: Requests, live: Live, caller: Caller | None) -> None:
        """Show these requests.

        Args:
            requests: what the Broker says about them.
            live: the streams of the pages.
            caller: does what the buttons ask for; None when there is no stack around.
        """
        self._requests = requests
        self._live = live
        self._caller = caller

    def app(self, lifespan: Lifespan[Starlette]) -> Starlette:
        """Return the ASGI application."""
        files = [Route(path, _file(name), methods=["GET"]) for path, name in _FILES.items()]
        return Starlette(
            routes=[
                Route("/", _print_event, methods=["POST"]),
                Route("/healthz", _health, methods=["GET"]),
                Route("/live", self._stream, methods=["GET"]),
                Route("/requests/{number:int}", self._details, methods=["GET"]),
                Route("/requests/{number:int}/retry", self._retry, methods=["POST"]),
                Route("/examples/{name}", self._send_example, methods=["POST"]),
                *files,
            ],
            middleware=[Middleware(_Guard)],
            lifespan=lifespan,
        )

    async def _stream(self, _: Request) -> Response:
        return StreamingResponse(self._live.stream(), media_type="text/event-stream")

    async def _details(self, request: Request) -> Response:
        known = self._requests.get(request.path_params["number"])
        if known is None:
            return _problem(HTTPStatus.NOT_FOUND, "the request is too long ago, or never was")
        entries = [entry.document() for entry in known.entries]
        return JSONResponse({**row(known), "source": known.source, "entries": entries})

    async def _retry(self, request: Request) -> Response:
        known = self._requests.get(request.path_params["number"])
        if known is None:
            return _problem(HTTPStatus.NOT_FOUND, "the request is too long ago, or never was")
        return await self._call(lambda caller: caller.retry(known.id))

    async def _send_example(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in EXAMPLES:
            return _problem(HTTPStatus.NOT_FOUND, f"the examples are {', '.join(EXAMPLES)}")
        return await self._call(lambda caller: caller.send_example(name))

    async def _call(self, make: Callable[[Caller], Awaitable[Sent]]) -> Response:
        if self._caller is None:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "this display knows no gateway")
        try:
            return JSONResponse(asdict(await make(self._caller)))
        except httpx.HTTPError as exc:
            detail = f"the gateway does not answer: {exc or type(exc).__name__}"
            return _problem(HTTPStatus.BAD_GATEWAY, detail)


class _Guard:
    """Refuses what pages of elsewhere ask for, and says to browsers what this page may do."""

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


async def _print_event(request: Request) -> Response:
    body = await request.body()
    try:
        event = Event.from_http(fields(request.headers.raw), body, KNATIVE)
    except InvalidRequest as exc:
        _print(render_unreadable(exc))
        return Response(status_code=HTTPStatus.BAD_REQUEST)
    _print(render(event))
    # With any body a Broker takes this answer for a failure, and sends the event again.
    return Response(status_code=HTTPStatus.ACCEPTED)


async def _health(_: Request) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(_STATIC / name)

    return answer


def _problem(status: HTTPStatus, detail: str) -> Response:
    """Answer with a problem document (RFC 9457 section 3.1)."""
    problem = {"title": status.phrase, "status": status.value, "detail": detail}
    return JSONResponse(problem, status_code=status, media_type="application/problem+json")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
