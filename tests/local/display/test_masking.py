"""What the page shows of an event names and measures what may be secret, and never shows it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from local.display.event_form import render
from local.display.masking import masked, target_of
from relay.events import Event
from tests.local.display.facts import accepted

SECRET = "c4nary"


def shown(data: object, **attributes: str) -> str:
    """Render what the page shows of an event."""
    event = accepted(data=data).event
    return render(masked(replace(event, attributes={**event.attributes, **attributes})))


def test_an_envelope_keeps_its_fields() -> None:
    """Where it goes and how can be read; headers have names, the body its kind and size."""
    text = shown(
        {
            "targetURL": "http://api.example.com:81/base",
            "targetAPI": "/tasks/1?token=x&page=2",
            "method": "PUT",
            "timeout": 5,
            "headers": {"Authorization": "Bearer x", "X-Number": 1},
            "body": {"a": 1, "b": 2},
            "callback": {"url": "https://me.example.com/hooks/x", "headers": {"X-Key": "x"}},
        }
    )

    assert json.loads(text.partition("Data,\n")[2]) == {
        "targetURL": "http://api.example.com:81/base",
        "targetAPI": "/tasks/1?token=(hidden)&page=(hidden)",
        "method": "PUT",
        "timeout": 5,
        "headers": {"Authorization": "(hidden)", "X-Number": "(hidden)"},
        "body": "(hidden: object of 2 members)",
        "callback": {"url": "me.example.com", "headers": {"X-Key": "(hidden)"}},
    }


@pytest.mark.parametrize(
    "data",
    [
        {"targetURL": f"http://user:{SECRET}@host/"},
        {"targetURL": f"http://[{SECRET}"},
        {"targetURL": {"x": SECRET}},
        {"targetURL": f"http://host/?{SECRET}=1&x={SECRET}"},
        {"targetAPI": f"/?token={SECRET}"},
        {"targetAPI": f"/?{SECRET}"},
        {"targetAPI": f"/#{SECRET}"},
        {"targetAPI": [SECRET]},
        {"headers": {f"Authorization: Bearer {SECRET}": ""}},
        {"headers": {"Authorization": SECRET}},
        {"headers": [SECRET]},
        {"headers": SECRET},
        {"body": SECRET},
        {"body": {"deep": [SECRET]}},
        {"bodyBase64": SECRET},
        {"method": SECRET},
        {"timeout": SECRET},
        {"callback": {"url": f"http://host/{SECRET}", "headers": {"X": SECRET}, "more": SECRET}},
        {"callback": SECRET},
        {"status": SECRET, "headers": {"Set-Cookie": [SECRET]}, "body": {"echo": SECRET}},
        {"anything": SECRET},
        [SECRET],
        SECRET,
    ],
    ids=repr,
)
def test_no_secret_is_shown(data: object) -> None:
    """Wherever a secret stands in an event's data, the page does not have it."""
    assert SECRET not in shown(data)


@pytest.mark.parametrize("name", ["relaymac", "knativeerrordata"])
def test_attributes_that_hold_secrets_are_hidden(name: str) -> None:
    """The relay's MAC, and what a subscriber answered in full."""
    text = shown({}, **{name: SECRET})

    assert f"  {name}: (hidden)\n" in text
    assert SECRET not in text


def test_data_that_is_not_json_is_measured() -> None:
    """Its size is all there is to see."""
    event = Event(attributes=accepted().event.attributes, data=SECRET.encode())

    assert render(masked(event)).endswith("Data,\n  (hidden: 6 bytes)\n")


def test_what_is_shown_is_short() -> None:
    """However long names and values are, and however many."""
    many = {f"{number}{'x' * 1000}": "y" for number in range(1000)}

    text = shown({"targetAPI": "/" + "z" * 10_000, "headers": many, **many}, subject="s" * 10_000)

    assert len(text) < 50_000


def test_deep_json_is_measured() -> None:
    """What is nested too deeply to be read is hidden like any other data."""
    event = Event(attributes=accepted().event.attributes, data=b"[" * 100_000)

    assert render(masked(event)).endswith("(hidden: 100000 bytes)\n")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://api.example.com:81/base", "api.example.com:81"),
        ("http://user:password@host", "host"),
        ("http://[::1", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_target(url: object, target: str) -> None:
    """The list names the target by its authority, without user and password."""
    assert target_of(accepted(data={"targetURL": url}).event) == target
