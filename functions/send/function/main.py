"""Send: the HTTP function."""

import os
import sys

import flask
import functions_framework

from relay import web
from relay.send import Send
from relay.settings import InvalidSetting, Settings

try:
    SETTINGS = Settings.from_env(os.environ)
except InvalidSetting as exc:
    sys.exit(str(exc))
SEND = Send(SETTINGS)

# functions-framework loads this module inside the context of the app it serves.
web.prepare(flask.current_app, SETTINGS, SEND.census)


@functions_framework.http
def send(request: flask.Request) -> flask.Response:
    """Answer one HTTP request."""
    return web.to_flask(SEND.handle(web.from_flask(request)))
