"""Receive: the CloudEvent function."""

import os
import sys

import flask
import functions_framework
from cloudevents.http import CloudEvent

from relay import web
from relay.receive import Receive
from relay.settings import InvalidSetting, Settings

try:
    SETTINGS = Settings.from_env(os.environ)
except InvalidSetting as exc:
    sys.exit(str(exc))
RECEIVE = Receive(SETTINGS)

# functions-framework loads this module inside the context of the app it serves.
web.serve(flask.current_app, SETTINGS, RECEIVE.answer)


@functions_framework.cloud_event
def receive(event: CloudEvent) -> None:
    """Be the function that func.yaml names; what would invoke it is answered before."""
    raise AssertionError
