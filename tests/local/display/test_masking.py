"""What looks like a secret is told from the rest, wherever it stands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from local.display.direct import Message
from local.display.masking import call_in, masked
from relay.events import Event
from tests.local.display.facts import accepted

SECRET = "c4nary"


def shown(data: object, **attributes: str) -> str:
    """Return all that is left of an event."""
    event = accepted(data=data).event
    clean = masked(replace(event, attributes={**event.attributes, **attributes}))
    assert isinstance(clean, Event)
    return repr(clean)


def test_what_is_no_secret_stays() -> None:
    """An event without secrets is the very same, numbers and escapes and all."""
    data = b'{"targetURL": "http://a:1/?page=2", "n": 1.0e5, "Idempotency-Key": "k", "author": 1}'
    event = replace(accepted().event, data=data)

    assert masked(event) is event


def test_an_envelope_keeps_its_form() -> None:
    """What is secret is replaced, and nothing beside it."""
    data = {
        "targetURL": "http://me:x@api.example.com:81/base",
        "targetAPI": "/tasks/1?token=x&page=2",
        "headers": {"Authorization": "Bearer x", "X-Number": 1},
        "body": {"user": "me", "password": "x", "deep": [{"client_secret": "x"}]},
    }

    clean = masked(accepted(data=data).event)

    assert isinstance(clean, Event)
    assert json.loads(clean.data) == {
        "targetURL": "http://(hidden)@api.example.com:81/base",
        "targetAPI": "/tasks/1?token=(hidden)&page=2",
        "headers": {"Authorization": "(hidden)", "X-Number": 1},
        "body": {"user": "me", "password": "(hidden)", "deep": [{"client_secret": "(hidden)"}]},
    }


@pytest.mark.parametrize(
    "data",
    [
        {"headers": {"X-API-Key": SECRET}},
        {"headers": {"set-cookie": [SECRET, SECRET]}},
        {"callback": {"url": f"http://host/?api_key={SECRET}", "headers": {"X-Token": SECRET}}},
        {"body": {"accessToken": {"value": SECRET}}},
        {"body": f"see http://user:{SECRET}@host/"},
        {"body": f"/login?user=me&password={SECRET}"},
        [{"signature": SECRET}],
    ],
    ids=repr,
)
def test_no_secret_with_a_name_is_left(data: object) -> None:
    """In headers, members, URLs and parameters, however deep."""
    assert SECRET not in shown(data)


@pytest.mark.parametrize("name", ["relaymac", "knativeerrordata"])
def test_attributes_that_hold_secrets_are_hidden(name: str) -> None:
    """The relay's MAC, and what a subscriber answered in full."""
    assert SECRET not in shown({}, **{name: SECRET})


def test_a_message_is_masked_too() -> None:
    """The headers, and a form in the body."""
    message = Message(
        start_line="POST /sync",
        headers=(("authorization", f"Bearer {SECRET}"), ("accept", "*/*")),
        body=f"user=me&password={SECRET}".encode(),
        is_cut=False,
    )

    clean = masked(message)

    assert isinstance(clean, Message)
    assert clean.headers == (("authorization", "(hidden)"), ("accept", "*/*"))
    assert clean.body == b"user=me&password=(hidden)"


@pytest.mark.parametrize("data", [b"\xff\x00", b"[" * 100_000, b"", b"1"])
def test_what_cannot_be_read_stays(data: bytes) -> None:
    """Bytes, and JSON that is too deep."""
    event = replace(accepted().event, data=data)

    assert masked(event) is event


@pytest.mark.parametrize(
    ("envelope", "call"),
    [
        ({"targetURL": "http://api:81/base"}, ("POST", "api:81", "/base")),
        (
            {"targetURL": "http://u:p@api/b/", "targetAPI": "/t?x=1#y", "method": "PUT"},
            ("PUT", "api", "/b/t?…"),
        ),
        ({"targetURL": "http://api/?x=1"}, ("POST", "api", "/?…")),
        ({"targetURL": "http://api", "method": "SECRET"}, ("", "api", "/")),
        ({"targetURL": "http://[::1"}, ("", "", "")),
        ({"body": 1}, ("", "", "")),
        ([1], ("", "", "")),
    ],
    ids=repr,
)
def test_the_call_of_an_envelope(envelope: object, call: tuple[str, str, str]) -> None:
    """The list names it without user, password and query."""
    assert call_in(json.dumps(envelope).encode()) == call


def test_what_the_list_shows_is_short() -> None:
    """However long a path is."""
    assert len(call_in(b'{"targetURL": "http://a/%s"}' % (b"z" * 10_000))[2]) < 400
