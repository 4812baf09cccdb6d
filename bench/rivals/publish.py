"""`/async` without a relay: posts what it gets to the Broker as an event."""

import json
import os
import uuid

import flask
import functions_framework
import requests
from requests.adapters import HTTPAdapter

SESSION = requests.Session()
SESSION.mount("http://", HTTPAdapter(pool_maxsize=int(os.environ["THREADS"])))


@functions_framework.http
def relay(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Publish a request event, and tell its id once the Broker has it."""
    event_id = str(uuid.uuid4())
    answer = SESSION.post(
        os.environ["K_SINK"],
        data=request.get_data(),
        headers={
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": "dev.knative.samples.t2",
            "ce-source": "dev.knative.samples/t2",
            "Content-Type": "application/json",
        },
        timeout=30,
    )
    answer.raise_for_status()
    body = json.dumps({"id": event_id, "status": "accepted"})
    return body, 202, {"Content-Type": "application/json"}
