"""The Broker tells what it does to whoever watches, and never waits for anybody who does."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local.broker.activity import Accepted, Activity, Fact
from relay.events import Event
from tests.local.broker.harness import Answer, Subscriber, broker, publish_event, trigger
from tests.support.calls import call


def accepted(number: int, data: bytes = b"") -> Accepted:
    attributes = {"specversion": "1.0", "id": str(number), "source": "/tests", "type": "tests"}
    return Accepted(event=Event(attributes=attributes, data=data), triggers=[])


def read_until(last: int, activity: Activity, after: int = 0) -> list[tuple[int, Fact]]:
    """Read to the fact of this number, or to where there is nothing to be read."""

    async def read() -> list[tuple[int, Fact]]:
        facts: list[tuple[int, Fact]] = []
        async for batch in activity.read(after):
            facts += batch
            if not batch or batch[-1][0] == last:
                break
        return facts

    return asyncio.run(read())


@contextmanager
def watching(url: str, last_id: str = "") -> Iterator[http.client.HTTPResponse]:
    """Read the feed of a Broker while the block runs."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("GET", "/activity", headers={"Last-Event-ID": last_id})
        yield connection.getresponse()
    finally:
        connection.close()


def next_fact(feed: http.client.HTTPResponse) -> tuple[str, str, dict[str, object]]:
    """Read one event of the feed: its id, its kind and its fact."""
    fields: dict[str, str] = {}
    while "data" not in fields:
        name, _, value = feed.readline().decode().rstrip("\n").partition(": ")
        fields[name] = value
    return fields["id"], fields["event"], json.loads(fields["data"])


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
        with broker(tmp_path, wants) as running, watching(running.url) as feed:
            publish_event(running.url, "1")
            facts = [next_fact(feed) for _ in range(4)]

    stored, failed, delivered, replied = [fact for _, _, fact in facts]
    assert [kind for _, kind, _ in facts] == ["accepted", "attempted", "attempted", "accepted"]
    assert (stored["triggers"], stored["reply_to"]) == (["default/t"], None)
    assert (failed["id"], failed["attempt"], failed["result"]) == ("1", 1, "503")
    assert (failed["next_step"], failed["wait_s"]) == ("retry", 0)
    assert (delivered["attempt"], delivered["next_step"]) == (2, "delivered")
    assert (replied["triggers"], replied["reply_to"]) == ([], ["/tests", "1"])


def test_tells_of_the_dead_letter(tmp_path: Path) -> None:
    """What is given up goes to the dead letter sink, or is dropped where that fails too."""
    with Subscriber() as subscriber:
        subscriber.scripts["/"] = [Answer(status=400)]
        subscriber.scripts["/dead"] = [Answer(status=400)]
        delivery = f'{{retry: 0, deadLetterSink: {{uri: "{subscriber.url}/dead"}}}}'
        wants = trigger("t", subscriber=subscriber.url, delivery=delivery)
        with broker(tmp_path, wants) as running, watching(running.url) as feed:
            publish_event(running.url, "1")
            _, refused, dropped = [next_fact(feed)[2] for _ in range(3)]

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
        with broker(tmp_path, wants) as running, watching(running.url) as feed:
            _, _, dropped = next_fact(feed)
            running.process.wait_for_output("EVENT DROPPED")

    assert dropped["to_dead_letter_sink"] is True
    assert dropped["result"] == "its dead letter sink is no longer in the manifests"
    assert dropped["next_step"] == "dropped"
    assert len(subscriber.calls("/dead")) == 1


def test_goes_on_where_a_reader_left(tmp_path: Path) -> None:
    """After a reconnect comes the next fact; an id of another run begins at the oldest."""
    with broker(tmp_path) as running:
        for number in range(3):
            publish_event(running.url, str(number))
        with watching(running.url) as feed:
            first_id, _, _ = next_fact(feed)
        with watching(running.url, first_id) as feed:
            second_id, _, _ = next_fact(feed)
        with watching(running.url, "otherrun-2") as feed:
            again_id, _, _ = next_fact(feed)

    assert first_id.endswith("-1")
    assert second_id.endswith("-2")
    assert again_id == first_id


def test_a_reader_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Told to stop, the Broker sends its readers home at once, not after their time is over."""
    with broker(tmp_path) as running, watching(running.url) as feed:
        publish_event(running.url, "1")
        next_fact(feed)
        exit_code = running.process.stop()
        rest = feed.read().strip()

    assert exit_code == 0
    assert "graceful shutdown exceeded" not in running.process.output
    assert rest == b""


def test_a_reader_that_does_not_read_costs_nothing(tmp_path: Path) -> None:
    """Events are accepted as ever while a reader leaves megabytes unread."""
    headers = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t"}
    body = b"x" * 1_000_000
    with (
        broker(tmp_path) as running,
        socket.create_connection(("127.0.0.1", urlsplit(running.url).port or 0)) as reader,
    ):
        reader.sendall(b"GET /activity HTTP/1.1\r\nHost: localhost\r\n\r\n")
        statuses = [
            call("POST", running.url, body, {**headers, "ce-id": str(number)}).status
            for number in range(20)
        ]

    assert statuses == [202] * 20


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

    facts = read_until(10_002, activity)

    assert [number for number, _ in facts] == list(range(3, 10_003))
    assert read_until(10_002, activity, after=10_001) == facts[-1:]
    assert read_until(10_002, activity, after=10**15) == []


def test_keeps_the_newest_in_bytes() -> None:
    """Large events push older ones out."""
    activity = Activity()
    for number in range(1, 11):
        activity.note(accepted(number, b"x" * 1024 * 1024))

    assert [number for number, _ in read_until(10, activity)] == list(range(3, 11))


def test_cuts_off_who_falls_behind() -> None:
    """A reader whose next fact is gone from the ring is ended, and may come back."""

    async def read_slowly() -> int:
        activity = Activity()
        activity.note(accepted(1))
        batches = 0
        async for _ in activity.read(0):
            batches += 1
            for number in range(10_001):
                activity.note(accepted(number))
        return batches

    assert asyncio.run(read_slowly()) == 1
