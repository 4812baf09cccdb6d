"""The function that everybody writes first."""

import flask
import functions_framework
import requests


@functions_framework.http
def relay(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Call the target that the envelope names."""
    call = request.get_json()
    answer = requests.request(
        request.method,
        call["targetURL"] + call.get("targetAPI", ""),
        headers=call.get("headers"),
        json=call.get("body"),
        timeout=30,
    )
    return answer.content, answer.status_code, list(answer.headers.items())
