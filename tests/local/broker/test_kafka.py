"""What the Broker does when it is told to be like Kafka's dispatcher."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from local import manifests
from local.broker.routing import Like, Routing
from tests.local.broker.harness import (
    REQUIRED,
    Answer,
    Subscriber,
    broker,
    publish_event,
    trigger,
)
from tests.support.processes import wait_until


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    with Subscriber() as server:
        yield server


def delivery(retry: int, delay: str, **more: str) -> str:
    members = {"retry": retry, "backoffPolicy": "exponential", "backoffDelay": delay, **more}
    return "{" + ", ".join(f"{name}: {value}" for name, value in members.items()) + "}"


@pytest.mark.parametrize(("like", "held"), [("kafka", True), ("in-memory", False)])
def test_fifty_waiting_records_hold_all_others(
    tmp_path: Path, subscriber: Subscriber, like: str, held: bool
) -> None:
    """A record that waits for its retry keeps its place among the 50 of its Trigger."""
    one = trigger("one", subscriber=f"{subscriber.url}/one", delivery=delivery(1, "PT1S"))
    for number in range(50):
        subscriber.scripts[f"bad-{number}/one"] = (Answer(status=503), Answer())
    with broker(tmp_path, one, like=like) as local:
        for number in range(50):
            publish_event(local.url, f"bad-{number}")
        subscriber.wait_for(50)
        publish_event(local.url, "good")
        subscriber.wait_for(1, event_id="good")
        calls = [call.headers["ce-id"] for call in subscriber.calls()]

    assert len(set(calls[:50])) == 50
    assert (calls.index("good") > 50) == held


def test_a_backoff_begins_with_twice_the_delay(tmp_path: Path, subscriber: Subscriber) -> None:
    """The waits are delay times 2, 4, 8 …, whatever Retry-After asks for."""
    one = trigger(
        "one",
        subscriber=f"{subscriber.url}/one",
        delivery=delivery(2, "PT0.2S", retryAfterMax="PT60S"),
    )
    subscriber.scripts["/one"] = (Answer(status=503, headers={"Retry-After": "30"}),)
    with broker(tmp_path, one, like="kafka") as local:
        publish_event(local.url, "1")
        first, second, third = (call.at_s for call in subscriber.wait_for(3))

    assert 0.4 <= second - first < 5
    assert 0.8 <= third - second < 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda each: each.name)
def test_a_restart_repeats_what_came_after_a_waiting_record(
    tmp_path: Path, subscriber: Subscriber, number: signal.Signals
) -> None:
    """A commit reaches up to the oldest record that is not done; attempts begin anew."""
    one = trigger(
        "one",
        subscriber=f"{subscriber.url}/one",
        delivery=delivery(1, "PT30S", deadLetterSink=f'{{uri: "{subscriber.url}/dead"}}'),
    )
    subscriber.scripts["bad/one"] = (Answer(status=503),)
    with broker(tmp_path, one, like="kafka") as local:
        for event_id in ("before", "bad", "after"):
            publish_event(local.url, event_id)
            subscriber.wait_for(1, event_id=event_id)
        # SIGTERM commits; a killed dispatcher has done so every 5 s.
        if number == signal.SIGKILL:
            publish_event(local.url, "later")
            wait_until(lambda: not _pending(tmp_path, "before"), 30.0, "a commit")
        local.process.send_signal(number)
        local.process.wait()
    subscriber.scripts["bad/one"] = (Answer(),)

    with broker(tmp_path, one, like="kafka"):
        subscriber.wait_for(2, event_id="after")
        subscriber.wait_for(2, event_id="bad")
        assert len(subscriber.calls(event_id="before")) == 1
        assert not subscriber.calls("/dead")


def _pending(folder: Path, event_id: str) -> bool:
    with closing(sqlite3.connect(folder / "data" / "broker.sqlite3", timeout=5)) as db:
        return any(f'"{event_id}"' in row[0] for row in db.execute("SELECT attributes FROM events"))


def test_replies_and_dead_letters_end_a_record(tmp_path: Path, subscriber: Subscriber) -> None:
    """A reply is published, a dead letter sent, and then nothing of the record comes again."""
    reply = {**REQUIRED, "ce-id": "reply", "ce-type": "reply"}
    subscriber.scripts["a/one"] = (Answer(status=200, headers=reply),)
    subscriber.scripts["b/one"] = (Answer(status=400),)
    one = trigger(
        "one",
        subscriber=f"{subscriber.url}/one",
        event_type="tests",
        delivery=delivery(1, "PT1S", deadLetterSink=f'{{uri: "{subscriber.url}/dead"}}'),
    )
    two = trigger("two", subscriber=f"{subscriber.url}/two", event_type="reply")
    with broker(tmp_path, one, two, like="kafka") as local:
        publish_event(local.url, "a")
        publish_event(local.url, "b")
        subscriber.wait_for(1, "/two", event_id="reply")
        [dead] = subscriber.wait_for(1, "/dead", event_id="b")
        assert dead.headers["ce-knativeerrorcode"] == "400"
        wait_until(lambda: not _pending(tmp_path, "a"), 30.0, "a commit")
        wait_until(lambda: not _pending(tmp_path, "b"), 30.0, "a commit")

    assert len(subscriber.calls("/one")) == 2


@pytest.mark.parametrize(("like", "sink"), [("in-memory", "http://sink.test"), ("kafka", None)])
def test_a_trigger_without_a_sink(tmp_path: Path, like: Like, sink: str | None) -> None:
    """On Kafka a Trigger's delivery replaces the Broker's whole, its dead letter sink included."""
    resources = """\
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default, namespace: default}
spec: {delivery: {retry: 1, deadLetterSink: {uri: "http://sink.test"}}}
""" + trigger("own", subscriber="http://subscriber.test", delivery="{retry: 2}")
    (tmp_path / "all.yaml").write_text(resources, encoding="utf-8")

    routing = Routing.from_manifests(
        manifests.load(tmp_path), services={}, base_url="http://broker.test", like=like
    )

    assert [route.dead_letter_url for route in routing.all_routes()] == [sink]
