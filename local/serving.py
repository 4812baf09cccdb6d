"""Serve an ASGI application on a port of this machine until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"
_GRACE_S = 3


def reason(error: OSError) -> str:
    """Say why a port cannot be listened on, without the address that `socket` appends."""
    return str(error.strerror).partition(" (")[0]


def serve(application: ASGIApp, port: int, name: str) -> int:
    """Serve until SIGTERM or SIGINT; print one line when ready.

    Args:
        application: What answers the requests.
        port: The port of 127.0.0.1 to listen on; 0 takes a free one.
        name: What it is called in what is printed.

    Returns:
        The exit code: 0 after a signal, 1 when the port cannot be had.
    """
    try:
        listener = socket.create_server((HOST, port), backlog=1024)
    except OSError as exc:
        print(f"{name}: port {port}: {reason(exc)}", flush=True)
        return 1
    # After its shutdown uvicorn raises the signal again, for the handlers that were there before.
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        application,
        access_log=False,
        date_header=False,
        log_level="warning",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
    )
    print(f"{name} on http://{HOST}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    return 0
