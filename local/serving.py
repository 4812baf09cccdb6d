"""Serve an ASGI application on this machine until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from local.ports import HOST
from relay.logs import json_handler

_GRACE_S = 5


class _StreamingServer(uvicorn.Server):
    """Ends the endless answers when it is told to stop; they would hold it up."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)


def listen(port: int) -> socket.socket:
    """Listen on a port of 127.0.0.1; 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """
    return socket.create_server((HOST, port), backlog=1024)


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


def serve(
    application: ASGIApp, listener: socket.socket, end_streams: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT; warnings are logged as JSON.

    Args:
        end_streams: Called at the end, for answers that would go on for ever.
    """
    logging.basicConfig(handlers=[json_handler()])
    # After its shutdown uvicorn raises the signal again, for the handlers that were there before.
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        application,
        access_log=False,
        date_header=False,
        lifespan="on",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
    )
    _StreamingServer(config, end_streams).run(sockets=[listener])
