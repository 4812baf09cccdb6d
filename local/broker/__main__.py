"""The command: `python -m local.broker --manifests knative --data DIR --service NAME=URL ...`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette

from local import manifests
from local.broker.activity import Activity
from local.broker.database import StoreError
from local.broker.dispatch import Dispatcher
from local.broker.ingress import Ingress
from local.broker.routing import Like, Routing
from local.broker.store import Store
from local.serving import StreamingServer
from relay.logs import json_handler

_HOST = "127.0.0.1"
_GRACE_S = 5
_log = logging.getLogger("local.broker")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the Broker until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a signal, 1 when it cannot start.
    """
    arguments = _parse_arguments(argv)
    logging.basicConfig(handlers=[json_handler()])
    _log.setLevel(logging.INFO)
    # uvicorn has handlers of its own while it serves, and raises the signal again afterwards.
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: sys.exit(0))
    try:
        listener = socket.create_server((_HOST, arguments.port), backlog=1024)
        base_url = f"http://{_HOST}:{listener.getsockname()[1]}"
        routing = Routing.from_manifests(
            manifests.load(arguments.manifests),
            services=dict(arguments.service),
            base_url=base_url,
            like=arguments.like,
        )
        store = Store(arguments.data)
    except (OSError, manifests.ManifestError, StoreError) as exc:
        print(f"broker: {exc}", file=sys.stderr)
        return 1
    _warn_of_orphans(routing, store)
    _serve(listener, routing, store, max_event_bytes=arguments.max_event_bytes, like=arguments.like)
    return 0


def _serve(
    listener: socket.socket, routing: Routing, store: Store, *, max_event_bytes: int, like: Like
) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        dispatcher.start()
        # The listener takes connections already, and from here on a signal stops in order.
        urls = ", ".join(routing.ingress_url(broker) for broker in routing.routes) or "no Broker"
        print(f"broker: ready: {urls}; {len(routing.all_routes())} Triggers", flush=True)
        yield
        await dispatcher.stop(_GRACE_S)
        await store.close()

    activity = Activity()
    dispatcher = Dispatcher(routing, store, activity, like)
    ingress = Ingress(routing, store, dispatcher, activity, max_event_bytes=max_event_bytes)
    config = uvicorn.Config(
        ingress.app(lifespan),
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_S,
    )
    StreamingServer(config, activity.close).run(sockets=[listener])


def _warn_of_orphans(routing: Routing, store: Store) -> None:
    known = {route.name for route in routing.all_routes()}
    for trigger, count in store.count_pending().items():
        if trigger not in known:
            _log.warning(
                "%d deliveries wait for Trigger %s, which is not in the manifests", count, trigger
            )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=8081, help="0 takes a free one")
    parser.add_argument("--manifests", type=Path, required=True, help="folder of YAML files")
    parser.add_argument("--data", type=Path, required=True, help="folder of the database")
    parser.add_argument(
        "--service",
        type=_parse_service,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="where a Service that the manifests refer to is served; repeatable",
    )
    parser.add_argument(
        "--like",
        choices=get_args(Like),
        default="in-memory",
        help="whose dispatcher to follow where the Brokers of Knative differ",
    )
    parser.add_argument("--max-event-bytes", type=int, default=2 * 1024 * 1024)
    return parser.parse_args(argv)


def _parse_service(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or urlsplit(url).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=URL with an http(s) URL")
    return name, url


if __name__ == "__main__":
    sys.exit(main())
