"""The command: `python -m local.display`; the local stack gives it the Broker and the gateway."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from local.display.live import Live
from local.display.page import Display
from local.display.requests import Requests
from local.display.send import Caller
from local.display.subscription import Subscription
from local.serving import serve


def main() -> int:
    """Show events until SIGTERM or Ctrl-C, and return the exit code."""
    options = _parse_arguments()
    requests = Requests()
    live = Live(requests)

    @contextlib.asynccontextmanager
    async def follow(_: Starlette) -> AsyncIterator[None]:
        if options.broker is None:
            yield
            return
        following = asyncio.create_task(
            Subscription(f"{options.broker}/activity", requests).follow()
        )
        yield
        following.cancel()
        await asyncio.wait({following})

    caller = None
    if options.gateway is not None:
        # In the environment, since anybody on the machine can read a command.
        token = os.environ.get("API_TOKEN", "").partition(" ")[0]
        caller = Caller(
            options.gateway, options.send_host, sample_api=options.sample_api, token=token
        )
    app = Display(requests, live, caller).app(follow)
    return serve(app, options.port, "event display", has_lifespan=True, end_streams=live.close)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.display", description=__doc__)
    parser.add_argument("--port", type=int, default=8084)
    parser.add_argument("--broker", metavar="URL", help="the Broker that the page is about")
    parser.add_argument("--gateway", metavar="URL", help="the way to Send, for the page's buttons")
    parser.add_argument("--send-host", metavar="HOST", help="the Host of Send at the gateway")
    parser.add_argument("--sample-api", metavar="HOST:PORT", default="localhost:30000")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
