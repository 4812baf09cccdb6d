"""Serve an ASGI application on this machine until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from local.ports import HOST
from relay.logs import JSONHandler

_GRACE_S = 5


def listen(port: int) -> socket.socket:
    """Listen on a port of 127.0.0.1; 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """
    return socket.create_server((HOST, port), backlog=1024)


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


def serve(application: ASGIApp, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; warnings are logged as JSON."""
    logging.basicConfig(handlers=[JSONHandler()])
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
    uvicorn.Server(config).run(sockets=[listener])
