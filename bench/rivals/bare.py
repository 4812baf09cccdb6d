"""As little as the call can be made with: urllib3, which requests is made of, and its pool."""

import json
import os

import flask
import functions_framework
import urllib3

POOL = urllib3.PoolManager(maxsize=int(os.environ["THREADS"]), timeout=30, retries=False)


@functions_framework.http
def relay(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Call the target that the envelope names."""
    call = request.get_json()
    answer = POOL.request(
        request.method,
        call["targetURL"] + call.get("targetAPI", ""),
        headers=call.get("headers"),
        body=json.dumps(call.get("body")),
    )
    return answer.data, answer.status, list(answer.headers.items())
