"""Receive: the CloudEvent function."""

import os
import sys

import flask
import functions_framework
from cloudevents.http import CloudEvent

from relay import web
from relay.http import read_body
from relay.problems import RelayError
from relay.receive import Receive, refusal
from relay.settings import InvalidSetting, Settings

try:
    SETTINGS = Settings.from_env(os.environ)
except InvalidSetting as exc:
    sys.exit(str(exc))
RECEIVE = Receive(SETTINGS)

# functions-framework loads this module inside the context of the app it serves.
APP = flask.current_app
web.prepare(APP, SETTINGS)


@APP.before_request
def deliver() -> flask.Response | None:
    """Answer a delivery before functions-framework reads its event.

    It would answer 500, which is retried, to a batch or to data that is very deep JSON, repeat all
    request headers, Authorization included, to what is no event, and tell the Broker "OK", which it
    takes for a failure, after every other.
    """
    if flask.request.method != "POST":
        return None
    request = web.from_flask(flask.request)
    try:
        body = read_body(request, SETTINGS.max_delivery_bytes, setting="2 * MAX_EVENT_BYTES")
        delivery = RECEIVE.read(request.headers, body, request.caller)
    except RelayError as exc:
        return web.to_flask(refusal(exc))
    return web.to_flask(RECEIVE.handle(delivery))


@functions_framework.cloud_event
def receive(event: CloudEvent) -> None:
    """Be the function that func.yaml names; what would invoke it is answered before."""
    raise AssertionError
