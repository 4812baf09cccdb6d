"""The Broker tells what it does to whoever watches, and never waits for anybody who does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from local.broker.activity import Accepted, Activity, Batch
from relay.events import Event
from tests.local.broker.harness import (
    Answer,
    RunningBroker,
    Subscriber,
    broker,
    publish_event,
    trigger,
)
from tests.support.calls import call
from tests.support.processes import wait_until


def accepted(number: int, data: bytes = b"") -> Accepted:
    attributes = {"specversion": "1.0", "id": str(number), "source": "/tests", "type": "tests"}
    return Accepted(event=Event(attributes=attributes, data=data), triggers=[])


def numbers(batch: Batch) -> list[int]:
    return list(range(batch.first, batch.first + len(batch.facts)))


def read(running: RunningBroker, after: str = "") -> Batch:
    """Read the activity of a Broker."""
    url = running.url.replace("/default/default", "/activity")
    return msgspec.json.decode(call("GET", f"{url}?after={after}").body, type=Batch)


def wait_for_facts(running: RunningBroker, count: int) -> list[Any]:
    """Wait until so many facts are there, and return them as they are in JSON."""
    wait_until(lambda: len(read(running).facts) >= count, 20, f"{count} facts")
    facts: list[Any] = msgspec.to_builtins(read(running).facts)
    return facts


def test_tells_of_acceptance_attempts_and_replies(tmp_path: Path) -> None:
    """Each fact with what comes next; a reply names the event that it replies to."""
    reply = {"ce-specversion": "1.0", "ce-id": "r", "ce-source": "/s", "ce-type": "other"}
    with Subscriber() as subscriber:
        subscriber.scripts["/"] = [
            Answer(status=503, body=b'{"detail": "away"}'),
            Answer(status=200, headers=reply),
        ]
        delivery = "{retry: 1, backoffPolicy: linear, backoffDelay: PT0.2S}"
        wants = trigger("t", subscriber=subscriber.url, event_type="tests", delivery=delivery)
        with broker(tmp_path, wants) as running:
            publish_event(running.url, "1")
            facts = wait_for_facts(running, 4)

    stored, failed, delivered, replied = facts
    assert [fact["fact"] for fact in facts] == ["accepted", "attempted", "attempted", "accepted"]
    assert (stored["triggers"], stored["reply_to"]) == (["default/t"], None)
    assert (failed["id"], failed["attempt"], failed["result"]) == ("1", 1, "503")
    assert (failed["next_step"], failed["wait_s"]) == ("retry", 0)
    assert (delivered["attempt"], delivered["next_step"]) == (2, "delivered")
    assert (replied["triggers"], replied["reply_to"]) == ([], ("/tests", "1"))


def test_tells_of_the_dead_letter(tmp_path: Path) -> None:
    """What is given up goes to the dead letter sink, or is dropped where that fails too."""
    with Subscriber() as subscriber:
        subscriber.scripts["/"] = [Answer(status=400)]
        subscriber.scripts["/dead"] = [Answer(status=400)]
        delivery = f'{{retry: 0, deadLetterSink: {{uri: "{subscriber.url}/dead"}}}}'
        wants = trigger("t", subscriber=subscriber.url, delivery=delivery)
        with broker(tmp_path, wants) as running:
            publish_event(running.url, "1")
            _, refused, dropped = wait_for_facts(running, 3)

    assert refused["to_dead_letter_sink"] is False
    assert refused["next_step"] == "to the dead letter sink"
    assert dropped["to_dead_letter_sink"] is True
    assert dropped["url"] == f"{subscriber.url}/dead"
    assert dropped["next_step"] == "dropped"


def test_tells_of_a_dead_letter_whose_sink_is_gone(tmp_path: Path) -> None:
    """The manifests of the next start have no sink any more: the event is dropped, and told of."""
    with Subscriber() as subscriber:
        subscriber.scripts["/"] = [Answer(status=400)]
        subscriber.scripts["/dead"] = [Answer(status=503)]
        delivery = "{retry: 1, backoffPolicy: exponential, backoffDelay: PT1S"
        with_sink = f'{delivery}, deadLetterSink: {{uri: "{subscriber.url}/dead"}}}}'
        wants = trigger("t", subscriber=subscriber.url, delivery=with_sink)
        with broker(tmp_path, wants) as running:
            publish_event(running.url, "1")
            running.process.wait_for_output('"next": "retry in 1 s"')
        wants = trigger("t", subscriber=subscriber.url, delivery=f"{delivery}}}")
        with broker(tmp_path, wants) as running:
            running.process.wait_for_output("EVENT DROPPED")
            (dropped,) = wait_for_facts(running, 1)

    assert dropped["to_dead_letter_sink"] is True
    assert dropped["result"] == "its dead letter sink is no longer in the manifests"
    assert dropped["next_step"] == "dropped"
    assert len(subscriber.calls("/dead")) == 1


def test_goes_on_where_a_reader_was(tmp_path: Path) -> None:
    """Its next read has the facts after its last; a number of another run begins at the oldest."""
    with broker(tmp_path) as running:
        for number in range(3):
            publish_event(running.url, str(number))
        first = read(running)
        second = read(running, f"{first.run}-1")
        last = read(running, f"{first.run}-3")
        again = read(running, "otherrun-2")

    assert numbers(first) == numbers(again) == [1, 2, 3]
    assert numbers(second) == [2, 3]
    assert (last.first, last.facts) == (4, [])


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Host": "rebound.example.com"}, "Host must be localhost or 127.0.0.1"),
        ({"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site must be same-origin"),
        ({"Origin": "http://localhost:1"}, "Origin must be this page's own"),
    ],
    ids=["rebinding", "cross-site", "other origin"],
)
def test_is_not_for_web_pages(headers: dict[str, str], refused: str, tmp_path: Path) -> None:
    """The facts hold whole events, so no page of elsewhere gets them."""
    with broker(tmp_path) as running:
        url = running.url.replace("/default/default", "/activity")
        answer = call("GET", url, headers=headers)

    assert answer.status == 403
    assert answer.body.decode().startswith(refused)


def test_keeps_the_newest_in_number() -> None:
    """The oldest facts beyond the bound are dropped, and the numbers go on."""
    activity = Activity()
    for number in range(1, 10_003):
        activity.note(accepted(number))
    run = activity.read("", 0).run

    assert numbers(activity.read(run, 0)) == list(range(3, 1003))
    assert numbers(activity.read(run, 10_001)) == [10_002]
    assert activity.read(run, 10**15).first == 10_003


def test_keeps_the_newest_in_bytes() -> None:
    """Large events push older ones out."""
    activity = Activity()
    for number in range(1, 11):
        activity.note(accepted(number, b"x" * 1024 * 1024))

    assert numbers(activity.read("", 0)) == list(range(3, 11))
