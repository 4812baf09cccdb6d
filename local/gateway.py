"""The gateway: sends each request on to the service that its Host header names, as an ingress does.

Bytes pass unchanged in both directions: paths as they were written, compressed bodies compressed,
repeated headers repeated; and a body that breaks off on one side breaks off on the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from local.serving import serve
from relay.logs import json_handler

log = logging.getLogger("local.gateway")

Headers = Sequence[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1; and Expect, which the server here has answered already.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# The functions keep their own deadlines; an hour only ends what everybody has forgotten.
_TIMEOUTS_S = {"connect": 5.0, "read": 3600.0, "write": 3600.0}


class Gateway:
    """The ASGI application that routes by Host."""

    def __init__(self, routes: Mapping[str, str]) -> None:
        """Set the routes.

        Args:
            routes: For each host name the URL of its service, without a path.
        """
        self._routes = {host.lower(): httpx.URL(url) for host, url in routes.items()}
        self._streams: set[asyncio.Task[None]] = set()
        # The bare transport: no redirects, cookies, proxies or decoding. No connection is kept,
        # since a server may close one at the very moment at which it is used again.
        self._transport = httpx.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        host = request.headers.get("host", "")
        service = self._routes.get(host.partition(":")[0].lower())
        if service is None:
            detail = f"no service has the Host {host!r}; known: {', '.join(self._routes)}"
            await _refuse(request, send, HTTPStatus.NOT_FOUND, detail)
        elif not scope["raw_path"].startswith(b"/"):
            detail = "the request target must be a path"
            await _refuse(request, send, HTTPStatus.BAD_REQUEST, detail)
        else:
            await self._relay_while_connected(request, service, send)

    def end_streams(self) -> None:
        """Break off the event streams; they have no end of their own to wait for."""
        for stream in self._streams:
            stream.cancel()

    async def _relay_while_connected(
        self, request: Request, service: httpx.URL, send: Send
    ) -> None:
        body_read = asyncio.Event()
        relay = asyncio.create_task(self._relay(request, service, body_read, send))
        hang_up = asyncio.create_task(_wait_for_hang_up(request, body_read))
        try:
            await asyncio.wait({relay, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(relay)
            relay.cancel()
            hang_up.cancel()
            await asyncio.wait({relay, hang_up})
        if not relay.cancelled():
            relay.result()

    async def _relay(
        self, request: Request, service: httpx.URL, body_read: asyncio.Event, send: Send
    ) -> None:
        try:
            response = await self._transport.handle_async_request(
                _outgoing(request, service, body_read)
            )
        except ClientDisconnect:
            _log(request, "client left")
            return
        except httpx.TransportError as exc:
            detail = f"{service} does not answer: {exc or type(exc).__name__}"
            await _refuse(request, send, HTTPStatus.BAD_GATEWAY, detail)
            return
        _log(request, str(response.status_code))
        relay = asyncio.current_task()
        if relay and response.headers.get("content-type", "").startswith("text/event-stream"):
            self._streams.add(relay)
        headers = _end_to_end(response.headers.raw)
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        try:
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except httpx.TransportError as exc:
            # Without the last message the server closes the connection in the middle of the body.
            _log(request, f"answer broke off: {exc}")
            return
        finally:
            await response.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _outgoing(request: Request, service: httpx.URL, body_read: asyncio.Event) -> httpx.Request:
    async def body() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            if piece:
                yield piece
        body_read.set()

    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    if not has_body:
        body_read.set()
    query = request.scope["query_string"]
    target = request.scope["raw_path"] + (b"?" + query if query else b"")
    return httpx.Request(
        request.method,
        service,
        headers=[*_end_to_end(request.headers.raw), *_forwarded(request)],
        content=body() if has_body else None,
        # Given as a stream, since httpx would add a Content-Length to a POST without content.
        stream=None if has_body else httpx.ByteStream(b""),
        extensions={"target": target, "timeout": _TIMEOUTS_S},
    )


def _end_to_end(headers: Headers) -> Headers:
    """Leave out the headers for this connection alone, also those that Connection names."""
    named = {
        name.strip().lower()
        for header, value in headers
        if header.lower() == b"connection"
        for name in value.split(b",")
    }
    left_out = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def _forwarded(request: Request) -> Headers:
    client = request.client.host if request.client else "unknown"
    return [
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", request.scope["scheme"].encode()),
    ]


async def _wait_for_hang_up(request: Request, body_read: asyncio.Event) -> None:
    await body_read.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request, send: Send, status: HTTPStatus, detail: str) -> None:
    """Answer with a problem document (RFC 9457 section 3.1)."""
    _log(request, f"{status.value}: {detail}")
    problem = {"title": status.phrase, "status": status.value, "detail": detail}
    response = Response(
        json.dumps(problem), status_code=status, media_type="application/problem+json"
    )
    await response(request.scope, request.receive, send)


def _log(request: Request, outcome: str) -> None:
    fields = {"result": outcome}
    log.info("%s %s %s", request.method, request.scope["path"], outcome, extra={"fields": fields})


def _is_news(record: logging.LogRecord) -> bool:
    """Drop uvicorn's complaint about an answer cut on purpose; the reason has been printed."""
    return "returned without completing response" not in record.getMessage()


def main() -> int:
    """Route requests until SIGTERM or Ctrl-C, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.gateway", description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--route",
        type=_parse_route,
        action="append",
        default=[],
        metavar="HOST=URL",
        help="a host name, and where its service is; repeatable",
    )
    options = parser.parse_args()
    logging.basicConfig(handlers=[json_handler()])
    log.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    gateway = Gateway(dict(options.route))
    return serve(gateway, options.port, "gateway", end_streams=gateway.end_streams)


def _parse_route(text: str) -> tuple[str, str]:
    host, _, url = text.partition("=")
    if not host or not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} must be HOST=URL with an http(s) URL")
    return host, url


if __name__ == "__main__":
    sys.exit(main())
