"""Serve an ASGI application on a port of this machine until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"
_GRACE_S = 3


def reason(error: OSError) -> str:
    """Say why a port cannot be listened on, without the address that `socket` appends."""
    return str(error.strerror).partition(" (")[0]


class StreamingServer(uvicorn.Server):
    """A server whose endless answers end when it is told to stop, instead of holding it up."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        """Set what ends them."""
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, as uvicorn does, once the streams are told to end."""
        self._end_streams()
        await super().shutdown(sockets)


def serve(
    application: ASGIApp,
    port: int,
    name: str,
    *,
    has_lifespan: bool = False,
    end_streams: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT; print one line when ready.

    Args:
        application: What answers the requests.
        port: The port of 127.0.0.1 to listen on; 0 takes a free one.
        name: What it is called in what is printed.
        has_lifespan: Whether the application is to be told of its start and end.
        end_streams: Called at the end, for answers that would go on for ever.

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
        lifespan="on" if has_lifespan else "off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
    )
    print(f"{name} on http://{HOST}:{listener.getsockname()[1]}", flush=True)
    StreamingServer(config, end_streams).run(sockets=[listener])
    return 0
