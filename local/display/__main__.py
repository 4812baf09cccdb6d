"""The command: `python -m local.display`; the local stack tells it where Broker and Send are."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from local.display.caller import Caller
from local.display.page import Display
from local.display.requests import Requests
from local.display.subscription import Subscription
from local.ports import reason
from local.serving import listen, serve, url_of


def main() -> int:
    """Show events until SIGTERM or Ctrl-C, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.display", description=__doc__)
    parser.add_argument("--port", type=int, default=8084)
    parser.add_argument("--broker", metavar="URL", help="the Broker that the page is about")
    parser.add_argument("--send", metavar="URL", help="where Send is, for what the page sends")
    parser.add_argument("--sample-api", metavar="HOST:PORT", default="localhost:30000")
    options = parser.parse_args()
    requests = Requests()

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
    if options.send is not None:
        token = os.environ.get("API_TOKEN", "").partition(" ")[0]
        caller = Caller(options.send, sample_api=options.sample_api, token=token)
    try:
        listener = listen(options.port)
    except OSError as exc:
        print(f"event display: port {options.port}: {reason(exc)}", flush=True)
        return 1
    print(f"event display on {url_of(listener)}", flush=True)
    serve(Display(requests, caller).app(follow), listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
