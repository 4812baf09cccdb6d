"""functions-framework's hello world: what no function can cost less than."""

import flask
import functions_framework


@functions_framework.http
def relay(request: flask.Request) -> str:
    """Greet."""
    return "Hello world!"
