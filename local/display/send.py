"""What functions-framework serves as Send on the local stack: the function, observed."""

from __future__ import annotations

import os

import flask
import functions_framework

from functions.send.function.main import SEND
from local.display.direct import Observer
from relay import web

_OBSERVER = Observer(os.environ["DISPLAY_URL"])


@functions_framework.http
def send(request: flask.Request) -> flask.Response:
    """Answer one HTTP request."""
    return web.to_flask(_OBSERVER.watch(web.from_flask(request), SEND.handle))
