"""The command: `python -m local.broker --manifests knative --data DIR --service NAME=URL ...`."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from starlette.applications import Starlette

from local import manifests
from local.broker.activity import Activity
from local.broker.database import StoreError
from local.broker.dispatch import Dispatcher
from local.broker.ingress import Ingress
from local.broker.routing import Like, Routing
from local.broker.store import EventStore
from local.serving import listen, serve, url_of

_GRACE_S = 5
_log = logging.getLogger("local.broker")


def main() -> int:
    """Run the Broker until a signal, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=8081, help="0 takes a free one")
    parser.add_argument("--manifests", type=Path, required=True, help="folder of YAML files")
    parser.add_argument("--data", type=Path, required=True, help="folder of the database")
    about = "where a Service that the manifests refer to is served; repeatable"
    parser.add_argument("--service", type=_service, action="append", metavar="NAME=URL", help=about)
    about = "whose dispatcher to follow where the Brokers of Knative differ"
    parser.add_argument("--like", choices=get_args(Like), default="in-memory", help=about)
    arguments = parser.parse_args()
    _log.setLevel(logging.INFO)
    os.umask(0o077)  # events carry their publishers' credentials
    try:
        listener = listen(arguments.port)
        routing = Routing.from_manifests(
            manifests.load(arguments.manifests),
            services=dict(arguments.service or ()),
            base_url=url_of(listener),
            like=arguments.like,
        )
        store = EventStore(arguments.data)
    except (OSError, manifests.ManifestError, StoreError) as exc:
        print(f"broker: {exc}", file=sys.stderr)
        return 1
    gc.freeze()  # all of this stays: to look through it again and again takes 0.1 s each time
    _serve(listener, routing, store, arguments.like)
    return 0


def _serve(listener: socket.socket, routing: Routing, store: EventStore, like: Like) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        _warn_of_orphans(routing, store)
        dispatcher.start()
        urls = ", ".join(routing.ingress_url(broker) for broker in routing.routes) or "no Broker"
        print(f"broker: ready: {urls}; {len(routing.all_routes())} Triggers", flush=True)
        yield
        await dispatcher.stop(_GRACE_S)
        await store.close()

    activity = Activity()
    dispatcher = Dispatcher(routing, store, activity, like)
    ingress = Ingress(routing, store, dispatcher, activity)
    serve(ingress.app(lifespan), listener)


def _warn_of_orphans(routing: Routing, store: EventStore) -> None:
    known = {route.name for route in routing.all_routes()}
    for trigger, count in store.count_pending().items():
        if trigger not in known:
            _log.warning(
                "%d deliveries wait for Trigger %s, which is not in the manifests", count, trigger
            )


def _service(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or urlsplit(url).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=URL with an http(s) URL")
    return name, url


if __name__ == "__main__":
    sys.exit(main())
