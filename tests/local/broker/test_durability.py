"""What the Broker has acknowledged survives crashes, and what it cannot keep it does not take."""

from __future__ import annotations

import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.local.broker.harness import (
    REQUIRED,
    Answer,
    Subscriber,
    broker,
    publish,
    publish_event,
    trigger,
)
from tests.support.processes import free_port, python, running, wait_until


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    with Subscriber() as server:
        yield server


def pending(folder: Path) -> int:
    """Count what the database still holds, events without a delivery included."""
    with closing(sqlite3.connect(folder / "data" / "broker.sqlite3", timeout=5)) as db:
        counts = db.execute(
            "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM deliveries)"
        ).fetchone()
    return int(counts[0])


def test_a_kill_in_the_middle_loses_nothing_acknowledged(
    tmp_path: Path, subscriber: Subscriber
) -> None:
    """Killed twice while publishers write and half the deliveries fail, it delivers every 202."""
    to_all = trigger(
        "all",
        subscriber=f"{subscriber.url}/all",
        delivery="{retry: 20, backoffPolicy: linear, backoffDelay: PT0.1S}",
    )
    subscriber.scripts["/all"] = (Answer(status=503), Answer())
    port = free_port()
    acknowledged: set[str] = set()
    stop = threading.Event()

    def publish_until_stopped(url: str, publisher: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            event_id = f"{publisher}-{number}"
            try:
                if publish_event(url, event_id) == 202:
                    acknowledged.add(event_id)
            except OSError:
                stop.wait(0.01)

    url = f"http://127.0.0.1:{port}/default/default"
    publishers = [
        threading.Thread(target=publish_until_stopped, args=(url, number)) for number in range(4)
    ]
    for each in publishers:
        each.start()
    for round_number in (1, 2):
        with broker(tmp_path, to_all, port=port) as local:
            wanted = 150 * round_number
            wait_until(lambda: len(acknowledged) >= wanted, 30.0, "acknowledged events")  # noqa: B023
            local.process.send_signal(signal.SIGKILL)
            local.process.wait()
    stop.set()
    for each in publishers:
        each.join()

    with broker(tmp_path, to_all, port=port):
        wait_until(lambda: pending(tmp_path) == 0, 60.0, "an empty store")
    delivered = {
        event_id
        for event_id in acknowledged
        if len(subscriber.calls("/all", event_id=event_id)) >= 2
    }

    assert acknowledged - delivered == set()


def test_a_backoff_survives_a_restart(tmp_path: Path, subscriber: Subscriber) -> None:
    """The next attempt is neither forgotten nor made early by a restart, and its number goes on."""
    slow_retry = trigger(
        "slow",
        subscriber=f"{subscriber.url}/slow",
        delivery="{retry: 1, backoffPolicy: exponential, backoffDelay: PT3S,"
        f' deadLetterSink: {{uri: "{subscriber.url}/dead-letter"}}}}',
    )
    subscriber.scripts["/slow"] = (Answer(status=500),)
    with broker(tmp_path, slow_retry) as local:
        publish_event(local.url, "1")
        local.process.wait_for_output('"next": "retry in 3 s"')
        local.process.send_signal(signal.SIGKILL)
        local.process.wait()

    with broker(tmp_path, slow_retry):
        subscriber.wait_for(1, "/dead-letter")
    first, second = subscriber.calls("/slow")

    assert second.at_s - first.at_s >= 2.9


def test_a_reply_that_cannot_be_stored_is_kept_until_it_can(
    tmp_path: Path, subscriber: Subscriber
) -> None:
    """The subscriber is not asked again: its reply waits, and is delivered once."""
    reply = {**REQUIRED, "ce-id": "reply", "ce-type": "reply"}
    subscriber.scripts["/all"] = (Answer(status=200, headers=reply, delay_s=0.5),)
    with broker(
        tmp_path,
        trigger("all", subscriber=f"{subscriber.url}/all", event_type="tests"),
        trigger("replies", subscriber=f"{subscriber.url}/replies", event_type="reply"),
    ) as local:
        with closing(sqlite3.connect(tmp_path / "data" / "broker.sqlite3")) as db:
            publish_event(local.url, "1")
            subscriber.wait_for(1, "/all")
            db.execute("BEGIN IMMEDIATE")
            local.process.wait_for_output("trigger=default/all not stored, trying again")
        subscriber.wait_for(1, "/replies", event_id="reply")
        wait_until(lambda: pending(tmp_path) == 0, 10.0, "an empty store")

    assert len(subscriber.calls("/all")) == 1
    assert len(subscriber.calls("/replies")) == 1


def test_a_dead_letter_keeps_its_reason_through_a_kill(
    tmp_path: Path, subscriber: Subscriber
) -> None:
    """Killed while its dead letter sink is down, the Broker still tells the sink why afterwards."""
    subscriber.scripts["/all"] = (Answer(status=400, body=b"no envelope"),)
    subscriber.scripts["/dead-letter"] = (Answer(status=503), Answer())
    doomed = trigger(
        "all",
        subscriber=f"{subscriber.url}/all",
        delivery="{retry: 1, backoffPolicy: exponential, backoffDelay: PT1S,"
        f' deadLetterSink: {{uri: "{subscriber.url}/dead-letter"}}}}',
    )
    with broker(tmp_path, doomed) as local:
        publish_event(local.url, "1")
        local.process.wait_for_output('"to": "dead letter sink", "result": "503"')
        local.process.send_signal(signal.SIGKILL)
        local.process.wait()

    with broker(tmp_path, doomed):
        _, dead_letter = subscriber.wait_for(2, "/dead-letter")

    assert len(subscriber.calls("/all")) == 1
    assert dead_letter.headers["ce-knativeerrordest"] == f"{subscriber.url}/all"
    assert dead_letter.headers["ce-knativeerrorcode"] == "400"
    assert dead_letter.headers["ce-knativeerrordata"] == "bm8gZW52ZWxvcGU="


def test_a_slow_subscriber_holds_up_nobody_else(tmp_path: Path, subscriber: Subscriber) -> None:
    """With more events than may be in flight stuck at one Trigger, the other gets all of them."""
    subscriber.scripts["/slow"] = (Answer(delay_s=30.0),)
    with broker(
        tmp_path,
        trigger("slow", subscriber=f"{subscriber.url}/slow"),
        trigger("fast", subscriber=f"{subscriber.url}/fast"),
    ) as local:
        for number in range(60):
            publish_event(local.url, str(number))
        subscriber.wait_for(60, "/fast")
        ended_slow = local.process.output.count('"trigger": "default/slow"')
        started_slow = len(subscriber.calls("/slow"))
        local.process.send_signal(signal.SIGKILL)
        local.process.wait()

    assert ended_slow == 0
    assert started_slow <= 32


def test_a_slow_disk_holds_up_no_delivery(tmp_path: Path, subscriber: Subscriber) -> None:
    """What has been answered, and cannot be written down yet, has left its place to the next."""
    subscriber.scripts["/all"] = (Answer(delay_s=2.0),)
    with broker(tmp_path, trigger("all", subscriber=f"{subscriber.url}/all")) as local:
        for number in range(40):
            publish_event(local.url, str(number))
        with closing(sqlite3.connect(tmp_path / "data" / "broker.sqlite3", timeout=5)) as db:
            db.execute("BEGIN IMMEDIATE")
            answered = len(subscriber.calls("/all")) - 32
            subscriber.wait_for(40, "/all")
        wait_until(lambda: pending(tmp_path) == 0, 10.0, "an empty store")

    assert answered <= 0
    assert len(subscriber.calls("/all")) == 40


def test_a_locked_database_is_a_503(tmp_path: Path, subscriber: Subscriber) -> None:
    """While somebody else holds the write lock nothing is acknowledged; afterwards it goes on."""
    with broker(tmp_path, trigger("all", subscriber=f"{subscriber.url}/all")) as local:
        with closing(sqlite3.connect(tmp_path / "data" / "broker.sqlite3")) as db:
            db.execute("BEGIN IMMEDIATE")
            refused = publish_event(local.url, "1")
        accepted = publish_event(local.url, "2")
        subscriber.wait_for(1, "/all", event_id="2")

    assert (refused, accepted) == (503, 202)
    assert subscriber.calls("/all", event_id="1") == []


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit a process")
def test_a_full_disk_is_a_503(tmp_path: Path, subscriber: Subscriber) -> None:
    """While the database cannot grow nothing is acknowledged; afterwards it goes on."""
    event = {**REQUIRED, "ce-id": "large"}
    large = b"x" * 1_000_000
    with broker(tmp_path, trigger("all", subscriber=f"{subscriber.url}/all")) as local:
        pid = local.process.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
        refused = publish(local.url, event, large)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        accepted = publish(local.url, event, large)
        wait_until(lambda: pending(tmp_path) == 0, 10.0, "an empty store")

    assert (refused, accepted) == (503, 202)
    assert len(subscriber.calls("/all")) == 1


def test_an_event_that_is_too_large_is_a_413(tmp_path: Path, subscriber: Subscriber) -> None:
    """A body over the bound is refused, and nothing of it delivered."""
    with broker(tmp_path, trigger("all", subscriber=f"{subscriber.url}/all")) as local:
        status = publish(local.url, {**REQUIRED, "ce-id": "1"}, b"x" * (2 * 1024 * 1024 + 1))

    assert status == 413
    assert subscriber.calls() == []


def test_sigterm_ends_what_is_in_flight_and_keeps_the_rest(
    tmp_path: Path, subscriber: Subscriber
) -> None:
    """A delivery in flight ends and is not repeated; one that waits is made after the restart."""
    subscriber.scripts["1/all"] = (Answer(delay_s=1.0),)
    subscriber.scripts["2/all"] = (Answer(status=500), Answer())
    to_all = trigger(
        "all",
        subscriber=f"{subscriber.url}/all",
        delivery="{retry: 1, backoffPolicy: exponential, backoffDelay: PT2S}",
    )
    with broker(tmp_path, to_all) as local:
        publish_event(local.url, "2")
        local.process.wait_for_output('"next": "retry in 2 s"')
        publish_event(local.url, "1")
        subscriber.wait_for(1, "/all", event_id="1")
        exit_code = local.process.stop()

    with broker(tmp_path, to_all):
        subscriber.wait_for(2, "/all", event_id="2")
        wait_until(lambda: pending(tmp_path) == 0, 10.0, "an empty store")

    assert exit_code == 0
    assert len(subscriber.calls("/all", event_id="1")) == 1


def test_deliveries_of_a_trigger_that_is_gone_are_kept_and_told_of(
    tmp_path: Path, subscriber: Subscriber
) -> None:
    """Starting without the Trigger loses nothing: it says what waits, and delivers later."""
    subscriber.scripts["/all"] = (Answer(status=500), Answer())
    # The first Broker may or may not have counted an attempt before it is killed.
    to_all = trigger("all", subscriber=f"{subscriber.url}/all", delivery="{retry: 2}")
    with broker(tmp_path, trigger("all", subscriber="http://127.0.0.1:1/")) as local:
        publish_event(local.url, "1")
        local.process.send_signal(signal.SIGKILL)
        local.process.wait()

    with broker(tmp_path, trigger("other", subscriber=f"{subscriber.url}/other")) as local:
        local.process.wait_for_output(
            "1 deliveries wait for Trigger default/all, which is not in the manifests"
        )
    with broker(tmp_path, to_all):
        subscriber.wait_for(2, "/all")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(
            ("--manifests", "{folder}/none"),
            "broker: {folder}/none: must be a folder of manifests",
            id="no manifests",
        ),
        pytest.param(
            ("--manifests", "{folder}"),
            "broker: Trigger default/t: no URL is known for service 'unknown':"
            " give --service unknown=URL",
            id="unknown service",
        ),
        pytest.param(
            ("--manifests", "{folder}", "--service", "unknown=ftp://x"),
            "argument --service: 'unknown=ftp://x' must be NAME=URL with an http(s) URL",
            id="bad service",
        ),
    ],
)
def test_what_cannot_work_stops_the_start(
    tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    """One line says what is wrong; the exit code is not 0."""
    (tmp_path / "a.yaml").write_text(
        "apiVersion: eventing.knative.dev/v1\nkind: Broker\nmetadata: {name: default}\n---\n"
        "apiVersion: eventing.knative.dev/v1\nkind: Trigger\nmetadata: {name: t}\n"
        "spec: {broker: default, subscriber: {ref: {kind: Service, name: unknown}}}\n",
        encoding="utf-8",
    )
    options = [each.format(folder=tmp_path) for each in arguments]

    with running(
        python("-m", "local.broker", "--port", "0", "--data", str(tmp_path / "data"), *options)
    ) as process:
        exit_code = process.wait()

    assert exit_code != 0
    assert line.format(folder=tmp_path) in process.output
    assert "Traceback" not in process.output
