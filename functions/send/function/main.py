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
APP = web.serve(flask.current_app, SETTINGS, SEND.handle, SEND.census)


@functions_framework.http
def send(request: flask.Request) -> flask.Response:
    """Be the function that func.yaml names; what would invoke it is answered before."""
    raise AssertionError
