"""What a Knative Broker does with a subscriber's answer, row by row.

Runs against the local Broker. To run it against another one, apply what
`python -m tests.local.broker.test_conformance http://HOST:PORT` prints, where HOST:PORT is how that
Broker reaches this machine, and set BROKER_INGRESS_URL, BROKER_SUBSCRIBER_URL (http://HOST:PORT)
and BROKER_SUBSCRIBER_PORT (the port to listen on here).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.local.broker.harness import (
    BROKER,
    REQUIRED,
    Answer,
    Call,
    Subscriber,
    broker,
    publish,
    publish_event,
    trigger,
)

RETRY = "retry: 2, backoffPolicy: exponential, backoffDelay: PT0.15S"  # which is cut to 0.1 s
TIMEOUT_S = 0.4
# Ids differ from run to run, so that a Broker may be left running between two.
RUN = uuid.uuid4().hex[:8]
EVENT = {**REQUIRED, "ce-type": "conformance.reply", "content-type": "application/json"}


def manifests(subscriber_url: str) -> str:
    """Write the Broker and the Triggers of the suite."""
    sink = f'deadLetterSink: {{uri: "{subscriber_url}/dead-letter"}}'
    bad_sink = f'deadLetterSink: {{uri: "{subscriber_url}/bad-dead-letter"}}'
    deliveries = {
        "answers": f"{{{RETRY}, timeout: PT{TIMEOUT_S}S, {sink}}}",
        "retry-after": f"{{{RETRY}, retryAfterMax: PT0.5S, {sink}}}",
        "linear": f"{{retry: 2, backoffPolicy: linear, backoffDelay: PT1S, {sink}}}",
        "only-sink": f"{{{sink}}}",
        "no-sink": f"{{{RETRY}}}",
        "bad-sink": f"{{{RETRY}, {bad_sink}}}",
        "reply": "",
        "loop": f"{{{sink}}}",
    }
    refused = subscriber_url.rpartition(":")[0] + ":1/"
    return "".join(
        (
            *(
                trigger(
                    name,
                    subscriber=f"{subscriber_url}/{name}",
                    event_type=f"conformance.{name}",
                    delivery=delivery,
                )
                for name, delivery in deliveries.items()
            ),
            trigger(
                "refused",
                subscriber=refused,
                event_type="conformance.refused",
                delivery=f"{{{RETRY}, {sink}}}",
            ),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An answer of the subscriber and what the Broker makes of it.

    Attributes:
        dead_letter: the knativeerror extensions of the dead letter; None when there is none.
    """

    name: str
    answers: tuple[Answer, ...]
    calls: int
    dead_letter: Mapping[str, str] | None = None
    trigger: str = "answers"


def failure(status: int, body: bytes = b"why") -> dict[str, str]:
    """Return the extensions of a dead letter after an answer; the URL is checked elsewhere."""
    return {"code": str(status), "data": base64.b64encode(body).decode()}


def _once(status: int) -> Case:
    return Case(
        name=f"{status} is not retried",
        answers=(Answer(status=status, body=b"why"),),
        calls=1,
        dead_letter=failure(status),
    )


def _retried(status: int) -> Case:
    return Case(
        name=f"{status} is retried",
        answers=(Answer(status=status, body=b"why"),),
        calls=3,
        dead_letter=failure(status),
    )


def _no_event(name: str, answer: Answer) -> Case:
    return Case(name=name, answers=(answer,), calls=3, dead_letter={})


STRUCTURED = {"content-type": "application/cloudevents+json"}
CASES = (
    *(Case(name=f"{s} and no body", answers=(Answer(status=s),), calls=1) for s in (200, 202, 204)),
    *(_no_event(f"{s} and OK", Answer(status=s, body=b"OK")) for s in (200, 202)),
    _no_event("200 and a space", Answer(status=200, body=b" ")),
    _no_event("200 and JSON", Answer(status=200, body=b"{}")),
    _no_event("malformed reply", Answer(status=200, headers=STRUCTURED, body=b"{")),
    _no_event(
        "batch reply",
        Answer(
            status=200, headers={"content-type": "application/cloudevents-batch+json"}, body=b"[]"
        ),
    ),
    Case(
        name="reply without id",
        answers=(Answer(status=200, headers=EVENT, body=b"{}"),),
        calls=1,
        dead_letter={"code": "400"},
    ),
    *(_once(status) for status in (400, 401, 403, 405, 410, 413, 415, 422, 425)),
    *(_retried(status) for status in (404, 408, 409, 429, 500, 501, 502, 503, 504)),
    Case(
        name="503, then 204",
        answers=(Answer(status=503), Answer()),
        calls=2,
    ),
    Case(
        name="slow",
        answers=(Answer(delay_s=2 * TIMEOUT_S),),
        calls=3,
        dead_letter={},
    ),
    Case(
        name="Retry-After without retryAfterMax",
        answers=(Answer(status=429, headers={"retry-after": "60"}, body=b"why"),),
        calls=3,
        dead_letter=failure(429),
    ),
    Case(
        name="Retry-After with retryAfterMax",
        answers=(Answer(status=503, headers={"retry-after": "60"}), Answer()),
        calls=2,
        trigger="retry-after",
    ),
    Case(
        name="delivery with just a sink",
        answers=(Answer(status=503, body=b"why"),),
        calls=1,
        dead_letter=failure(503),
        trigger="only-sink",
    ),
    Case(name="no sink", answers=(Answer(status=500),), calls=3, trigger="no-sink"),
    Case(name="sink that fails", answers=(Answer(status=400),), calls=1, trigger="bad-sink"),
    Case(
        name="linear backoff",
        answers=(Answer(status=500), Answer(status=500), Answer()),
        calls=3,
        trigger="linear",
    ),
)


def event_id(name: str) -> str:
    """Return the id that a case's event has in this run."""
    return f"{RUN}-{name.replace(' ', '-')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """The Broker under test and the subscriber of its Triggers."""

    ingress_url: str
    subscriber_url: str
    subscriber: Subscriber


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    ingress_url = os.environ.get("BROKER_INGRESS_URL")
    with Subscriber(int(os.environ.get("BROKER_SUBSCRIBER_PORT", "0"))) as subscriber:
        subscriber.scripts["/bad-dead-letter"] = (Answer(status=503),)
        if ingress_url is not None:
            yield Setup(
                ingress_url=ingress_url,
                subscriber_url=os.environ["BROKER_SUBSCRIBER_URL"],
                subscriber=subscriber,
            )
            return
        folder: Path = tmp_path_factory.mktemp("broker")
        with broker(folder, manifests(subscriber.url)) as local:
            yield Setup(ingress_url=local.url, subscriber_url=subscriber.url, subscriber=subscriber)


@pytest.fixture(scope="module")
def settled(setup: Setup) -> Setup:
    """Publish the events of all cases at once and wait until nothing more can come of them.

    The last one is a fence: it is published when every other has been delivered once, and takes
    as many retries, so what another event might wrongly cause has happened when it is dead.
    """
    for case in CASES:
        subscriber_key = f"{event_id(case.name)}/{case.trigger}"
        setup.subscriber.scripts[subscriber_key] = case.answers
        publish_event(setup.ingress_url, event_id(case.name), f"conformance.{case.trigger}")
    for case in CASES:
        setup.subscriber.wait_for(case.calls, event_id=event_id(case.name))
        if case.dead_letter is not None:
            setup.subscriber.wait_for(1, "/dead-letter", event_id=event_id(case.name))
    fence = event_id("fence")
    setup.subscriber.scripts[f"{fence}/answers"] = (Answer(status=503),)
    publish_event(setup.ingress_url, fence, "conformance.answers")
    setup.subscriber.wait_for(1, "/dead-letter", event_id=fence)
    return setup


def deliver(setup: Setup, name: str, answer: Answer, trigger_name: str = "answers") -> list[Call]:
    """Publish one event whose first answer is given, and return the first call."""
    setup.subscriber.scripts[f"{event_id(name)}/{trigger_name}"] = (answer,)
    publish_event(setup.ingress_url, event_id(name), f"conformance.{trigger_name}")
    return setup.subscriber.wait_for(1, f"/{trigger_name}", event_id=event_id(name))


def error_extensions(call: Call) -> dict[str, str]:
    """Return the knativeerror extensions of a dead letter by what follows the common prefix."""
    prefix = "ce-knativeerror"
    return {
        name[len(prefix) :]: value
        for name, value in call.headers.items()
        if value and prefix in name
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_answer_is_retried_and_dead_lettered_as_knative_does(settled: Setup, case: Case) -> None:
    """Each row of Knative's behaviour: how often it is tried, and what the sink is told."""
    calls = settled.subscriber.calls(f"/{case.trigger}", event_id=event_id(case.name))
    dead_letters = settled.subscriber.calls("/dead-letter", event_id=event_id(case.name))

    assert len(calls) == case.calls
    assert len(dead_letters) == (case.dead_letter is not None)
    if dead_letters:
        extensions = error_extensions(dead_letters[0])
        dest = extensions.pop("dest", None)
        assert extensions == case.dead_letter
        if case.name == "reply without id":
            assert dest == settled.ingress_url
        elif case.dead_letter:
            assert dest == f"{settled.subscriber_url}/{case.trigger}"


def test_a_sink_that_fails_is_tried_as_often_as_the_subscriber_may_be(settled: Setup) -> None:
    """Calls of the dead letter sink are retried in the same way."""
    name = event_id("sink that fails")

    assert len(settled.subscriber.wait_for(3, "/bad-dead-letter", event_id=name)) == 3


def test_retry_after_is_honoured_up_to_the_bound(settled: Setup) -> None:
    """With retryAfterMax, the wait is what the answer asks for, cut at the bound."""
    first, second = settled.subscriber.calls(
        "/retry-after", event_id=event_id("Retry-After with retryAfterMax")
    )

    assert 0.5 <= second.at_s - first.at_s < 30.0


def test_linear_backoff_begins_without_a_wait(settled: Setup) -> None:
    """A linear backoff waits delay times n from n = 0: the first retry comes at once."""
    first, second, third = settled.subscriber.calls("/linear", event_id=event_id("linear backoff"))

    assert second.at_s - first.at_s < 1.0 <= third.at_s - second.at_s


def test_exponential_backoff_doubles(settled: Setup) -> None:
    """An exponential backoff waits the delay after the first failure, then twice that."""
    first, second, third = settled.subscriber.calls("/answers", event_id=event_id("500 is retried"))

    assert second.at_s - first.at_s >= 0.1
    assert third.at_s - second.at_s >= 0.2


@pytest.mark.parametrize("structured", [False, True], ids=["binary", "structured"])
@pytest.mark.parametrize("status", [200, 201])
def test_a_reply_is_published_to_the_broker(setup: Setup, status: int, structured: bool) -> None:
    """An event in the answer is routed to the Triggers that want it, in binary mode.

    A structured one without a type for its data is published with the one that Go makes out.
    """
    reply_id = f"{RUN}-reply-{status}-{structured}"
    event = {
        "specversion": "1.0",
        "id": reply_id,
        "source": "/replies",
        "type": "conformance.reply",
    }
    if structured:
        answer = Answer(
            status=status, headers=STRUCTURED, body=json.dumps({**event, "data": {"a": 1}}).encode()
        )
    else:
        headers = {f"ce-{name}": value for name, value in event.items()}
        headers["content-type"] = "application/json"
        answer = Answer(status=status, headers=headers, body=b'{"a":1}')

    deliver(setup, f"asks for {reply_id}", answer)
    (call,) = setup.subscriber.wait_for(1, "/reply", event_id=reply_id)

    assert json.loads(call.body) == {"a": 1}
    assert {call.headers[f"ce-{name}"] for name in event} == set(event.values())
    expected = "text/plain; charset=utf-8" if structured else "application/json"
    assert call.headers["content-type"] == expected


def test_replies_that_go_round_are_stopped(setup: Setup) -> None:
    """A subscriber that answers each event with another of the same type is stopped by the TTL."""
    headers = {**EVENT, "ce-id": f"{RUN}-loop", "ce-type": "conformance.loop"}
    setup.subscriber.scripts["/loop"] = (Answer(status=200, headers=headers),)

    publish_event(setup.ingress_url, f"{RUN}-loop", "conformance.loop")
    (dead_letter,) = setup.subscriber.wait_for(1, "/dead-letter", event_id=f"{RUN}-loop")

    assert len(setup.subscriber.calls("/loop")) == 255
    assert error_extensions(dead_letter) == {"dest": setup.ingress_url, "code": "400"}


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (307, "POST")])
def test_redirects_are_followed(setup: Setup, status: int, method: str) -> None:
    """301 is followed as a GET without a body, 307 as the POST that it was."""
    path = f"/redirected-{status}"
    answer = Answer(status=status, headers={"location": f"{setup.subscriber_url}{path}"})

    deliver(setup, f"redirect {status}", answer)
    call = setup.subscriber.wait_for(1, path)[0]

    assert (call.method, call.body) == (method, b"{}" if method == "POST" else b"")


def test_a_connection_that_is_closed_counts_as_500(setup: Setup) -> None:
    """A subscriber that hangs up is retried; the dead letter tells of a dispatch error."""
    deliver(setup, "closed", Answer(closes=True))
    (dead_letter,) = setup.subscriber.wait_for(1, "/dead-letter", event_id=event_id("closed"))

    assert len(setup.subscriber.calls("/answers", event_id=event_id("closed"))) == 3
    extensions = error_extensions(dead_letter)
    assert extensions["code"] == "500"
    assert base64.b64decode(extensions["data"]).startswith(b"dispatch error: ")


def test_a_connection_that_is_refused_counts_as_500(setup: Setup) -> None:
    """Nothing that listens is treated as a connection that is closed."""
    publish_event(setup.ingress_url, event_id("refused"), "conformance.refused")
    (dead_letter,) = setup.subscriber.wait_for(1, "/dead-letter", event_id=event_id("refused"))

    extensions = error_extensions(dead_letter)
    assert extensions["code"] == "500"
    assert base64.b64decode(extensions["data"]).startswith(b"dispatch error: ")


def test_the_subscriber_gets_a_binary_event_and_the_headers_that_pass(setup: Setup) -> None:
    """Attributes as Ce- headers, Knative's own and trace headers; everything else is dropped."""
    passed = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "x-request-id": "r1",
        "knative-test": "k1",
        "x-b3-sampled": "1",
    }
    dropped = {"authorization": "Bearer secret", "x-other": "1"}
    own = {
        "ce-id": event_id("headers"),
        "ce-type": "conformance.answers",
        "ce-extension": "e",
        "content-type": "text/plain",
    }

    publish(setup.ingress_url, {**REQUIRED, **own, **passed, **dropped}, b"data")
    (call,) = setup.subscriber.wait_for(1, "/answers", event_id=event_id("headers"))

    assert call.method == "POST"
    assert call.body == b"data"
    expected = {
        **REQUIRED,
        **own,
        **passed,
        "prefer": "reply",
        "kn-namespace": "default",
        "accept-encoding": "gzip",
    }
    assert {name: call.headers.get(name) for name in expected} == expected
    assert "ce-knativearrivaltime" in call.headers
    assert "ce-knativebrokerttl" not in call.headers
    assert not dropped.keys() & call.headers.keys()


def _structured(**members: object) -> tuple[dict[str, str], bytes]:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "nobody", **members}
    return STRUCTURED, json.dumps(event).encode()


def _binary(**changes: str | None) -> tuple[dict[str, str], bytes]:
    headers: dict[str, str | None] = {**REQUIRED, "ce-id": "1", "ce-type": "nobody"}
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in headers.items() if value is not None}, b"{}"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        pytest.param(_binary(), 202, id="binary"),
        pytest.param((_binary()[0], b""), 202, id="binary, no body"),
        pytest.param(_binary(ce_specversion="0.3"), 202, id="binary 0.3"),
        pytest.param(_structured(), 202, id="structured"),
        pytest.param(_binary(ce_id=None), 400, id="no id"),
        pytest.param(_binary(ce_source=None), 400, id="no source"),
        pytest.param(_binary(ce_type=None), 400, id="no type"),
        pytest.param(_binary(ce_specversion=None), 400, id="no specversion"),
        pytest.param(_binary(ce_specversion="2.0"), 400, id="unknown specversion"),
        pytest.param(_binary(ce_time="yesterday"), 400, id="bad time"),
        pytest.param(_binary(ce_source="%zz"), 400, id="bad source"),
        pytest.param(_binary(content_type="a/"), 400, id="bad Content-Type"),
        pytest.param(({**_binary()[0], "ce-a-b": "1"}, b""), 400, id="hyphen in extension"),
        pytest.param(({**_binary()[0], "ce-a_b": "1"}, b""), 400, id="underscore in extension"),
        pytest.param((STRUCTURED, b"{"), 400, id="structured, malformed"),
        pytest.param((STRUCTURED, b"[" * 10_000), 400, id="structured, very deep"),
        pytest.param(_structured(data_base64="*"), 400, id="structured, bad base64"),
        pytest.param(
            ({"content-type": "application/cloudevents-batch+json"}, b"[]"), 400, id="batch"
        ),
    ],
)
def test_the_ingress_answers(
    setup: Setup, message: tuple[dict[str, str], bytes], status: int
) -> None:
    """202 for a valid event, 400 for everything else."""
    assert publish(setup.ingress_url, *message) == status


def test_the_ingress_knows_its_brokers_and_takes_no_query(setup: Setup) -> None:
    """404 for a Broker that does not exist and for any query."""
    unknown = setup.ingress_url.rpartition("/")[0] + "/unknown"

    assert publish(unknown, *_binary()) == 404
    assert publish(f"{setup.ingress_url}?a=b", *_binary()) == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_the_ingress_takes_post_only(setup: Setup, method: str) -> None:
    """405 for other methods."""
    assert publish(setup.ingress_url, *_binary(), method=method) == 405


if __name__ == "__main__":
    print(BROKER + manifests(sys.argv[1]))
