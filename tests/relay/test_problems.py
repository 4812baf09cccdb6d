"""Errors: one tree, and for each the problem document that tells of it."""

from __future__ import annotations

import json

import pytest

from relay.http import problem, problem_of
from relay.problems import (
    BrokerUnavailable,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    LoopDetected,
    MethodNotAllowed,
    NotFound,
    RelayError,
    StateUnavailable,
    TargetFailed,
    TargetNotAllowed,
    TargetUnreachable,
    TooLarge,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (InvalidRequest("headers.X-A", "must be a string"), 400, "Bad Request"),
        (Unauthorized("no", scheme="Bearer"), 401, "Unauthorized"),
        (Forbidden("no"), 403, "Forbidden"),
        (TargetNotAllowed("no"), 403, "Forbidden"),
        (NotFound("no"), 404, "Not Found"),
        (MethodNotAllowed("GET", "/async", ("POST",)), 405, "Method Not Allowed"),
        (Conflict("no"), 409, "Conflict"),
        (TooLarge("no"), 413, "Content Too Large"),
        (TargetFailed("no"), 502, "Bad Gateway"),
        (TargetUnreachable("no"), 502, "Bad Gateway"),
        (BrokerUnavailable("no"), 503, "Service Unavailable"),
        (StateUnavailable("no"), 503, "Service Unavailable"),
        (DeadlineExceeded("no"), 504, "Gateway Timeout"),
        (LoopDetected("no"), 508, "Loop Detected"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RelayError) else None,
)
def test_each_error_has_its_document(error: RelayError, status: int, title: str) -> None:
    """Type, title, status and detail are those of RFC 9457, in JSON of that media type."""
    response = problem_of(error)

    body = b"".join(response.body)
    assert response.status == status
    assert response.headers[:2] == (
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
    )
    assert json.loads(body) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": str(error),
        **error.members,
    }


def test_a_field_is_named() -> None:
    """An invalid request names its field in the detail and on its own."""
    error = InvalidRequest("headers.X-A", "must be a string or a number")

    assert error.field == "headers.X-A"
    assert error.members == {"field": "headers.X-A"}
    assert str(error) == "headers.X-A must be a string or a number"


def test_a_wrong_method_lists_the_right_ones() -> None:
    """405 carries Allow (RFC 9110 section 15.5.6)."""
    response = problem_of(MethodNotAllowed("PUT", "/async", ("GET", "POST")))

    assert response.headers[-1] == ("Allow", "GET, POST")
    assert json.loads(b"".join(response.body))["detail"] == (
        "/async does not answer PUT; it answers GET, POST"
    )


def test_headers_and_members_are_added() -> None:
    """What an error has to say besides stands in headers and extension members."""
    error = BrokerUnavailable("no", headers=(("Retry-After", "7"),), id="order-17")

    response = problem_of(error)

    assert response.headers[-1] == ("Retry-After", "7")
    assert json.loads(b"".join(response.body))["id"] == "order-17"


def test_any_text_can_be_told() -> None:
    """A detail is UTF-8, even when it quotes half of a surrogate pair (which JSON can write)."""
    response = problem(400, "grüße \ud800")

    assert json.loads(b"".join(response.body))["detail"] == "grüße \ud800"
