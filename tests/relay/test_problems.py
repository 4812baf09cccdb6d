"""What an error carries for whoever is told of it."""

from __future__ import annotations

from relay.problems import InvalidRequest, MethodNotAllowed


def test_a_field_is_named() -> None:
    """An invalid request names its field in the detail and on its own."""
    error = InvalidRequest("headers.X-A", "must be a string or a number")

    assert error.field == "headers.X-A"
    assert error.members == {"field": "headers.X-A"}
    assert str(error) == "headers.X-A must be a string or a number"


def test_a_wrong_method_names_the_right_ones() -> None:
    """The detail and the header Allow (RFC 9110 section 15.5.6) list them."""
    error = MethodNotAllowed("PUT", "/async", ("GET", "POST"))

    assert str(error) == "/async does not answer PUT; it answers GET, POST"
    assert error.headers == (("Allow", "GET, POST"),)
