"""Receive: the CloudEvent function."""

import io
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
def read_event() -> flask.Response | None:
    """Read the event before functions-framework does.

    It would answer 500, which is retried, to a batch or to data that is very deep JSON, and repeat
    all request headers, Authorization included, to what is no event.
    """
    request = web.from_flask(flask.request)
    if request.method != "POST":
        return None
    try:
        body = read_body(request, SETTINGS.max_delivery_bytes, setting="2 * MAX_EVENT_BYTES")
        flask.g.delivery = RECEIVE.read(request.headers, body, request.caller)
    except RelayError as exc:
        return web.to_flask(refusal(exc))
    flask.request.environ["wsgi.input"] = io.BytesIO(body)
    return None


@functions_framework.cloud_event
def receive(event: CloudEvent) -> None:
    """Make the call an event asks for.

    functions-framework answers every event with a body of "OK", which a Broker takes for a
    failure; the real answer takes its place.
    """
    answer = web.to_flask(RECEIVE.handle(flask.g.delivery))
    flask.after_this_request(lambda _: answer)
