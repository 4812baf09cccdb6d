"""What Knative's own Broker answers to an event, and what its subscriber gets.

`knative_events.json` has a row for each event that was sent the Broker's way, through ingress,
channel and filter, with the library that reads and writes it in each of them (sdk-go 2.16.1):

    headers      in binary mode, what differs from `BINARY`; null leaves a header out
    body         in binary mode, if not `{}`
    members      in structured mode, what follows the members of `STRUCTURED`
    structured   in structured mode, the whole body
    answer       the ingress's status
    got          what the subscriber's headers differ in from those that were sent; null: not there
    data         the subscriber's body, if not the one that was sent; in structured mode, if any

Bytes that are not UTF-8 are U+DC80 to U+DCFF. Ids and times that the Broker sets are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.local.broker.harness import RunningBroker, broker, trigger
from tests.support.calls import call
from tests.support.peers import ACCEPTED, Peer, Received, serving
from tests.support.processes import wait_until

Row = dict[str, Any]

BINARY = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/s",
    "ce-type": "t",
    "content-type": "application/json",
}
STRUCTURED = '{"specversion":"1.0","id":"1","source":"/s","type":"t",%s}'
ROWS = cast(
    list[Row],
    json.loads(Path(__file__).with_name("knative_events.json").read_text(encoding="utf-8")),
)


def is_binary(row: Row) -> bool:
    return "members" not in row and "structured" not in row


def wire(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def name(row: Row) -> str:
    asked = {key: value for key, value in row.items() if key not in ("answer", "got", "data")}
    return ascii(json.dumps(asked, ensure_ascii=False))[1:-1][:80]


def message(row: Row) -> tuple[dict[str, str], str]:
    """Return the headers and the body of an event."""
    if is_binary(row):
        changed = {**BINARY, **row.get("headers", {})}
        return {key: value for key, value in changed.items() if value is not None}, row.get(
            "body", "{}"
        )
    content_type = row.get("content-type", "application/cloudevents+json")
    body = row["structured"] if "structured" in row else STRUCTURED % row["members"]
    return {"content-type": content_type, **row.get("headers", {})}, body


@pytest.fixture(scope="module")
def subscriber() -> Iterator[Peer]:
    with serving(ACCEPTED) as peer:
        yield peer


@pytest.fixture(scope="module")
def ingress(subscriber: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("broker")
    with broker(folder, trigger("all", subscriber=subscriber.url)) as running_broker:
        yield running_broker


def post(ingress: RunningBroker, headers: dict[str, str], body: str) -> int:
    sent = {key: wire(value).decode("latin-1") for key, value in headers.items()}
    return call("POST", ingress.url, wire(body), sent).status


def delivered(subscriber: Peer, count: int) -> Received:
    """Wait for one more request than there have been."""
    wait_until(lambda: len(subscriber.requests) > count, 20, "the delivery")
    return subscriber.requests[count]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_local_broker_does_as_knatives_own(
    row: Row, ingress: RunningBroker, subscriber: Peer
) -> None:
    """The ingress gives Knative's answer, and the subscriber gets the same bytes."""
    headers, body = message(row)
    before = len(subscriber.requests)

    assert post(ingress, headers, body) == row["answer"]
    if row["answer"] != 202:
        assert len(subscriber.requests) == before
        return
    request = delivered(subscriber, before)

    sent = {key.lower(): value.strip(" \t") for key, value in headers.items()}
    expected = sent if is_binary(row) else {**BINARY, "content-type": None}
    expected = {**expected, **row.get("got", {})}
    got = {key.lower(): value.encode("latin-1") for key, value in request.headers}
    assert {
        key: value
        for key, value in got.items()
        if key == "content-type" or (key.startswith("ce-") and key != "ce-knativearrivaltime")
    } == {key: wire(value) for key, value in expected.items() if value is not None}
    assert request.body == wire(row.get("data", body if is_binary(row) else ""))


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        pytest.param("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True, id="whole"),
        pytest.param("nonsense", False, id="nonsense"),
        pytest.param("00-" + "0" * 32 + "-b7ad6b7169203331-01", False, id="no id"),
    ],
)
def test_a_malformed_trace_context_is_dropped(
    ingress: RunningBroker, subscriber: Peer, sent: str, passed: bool
) -> None:
    """A traceparent that no tracer can read does not pass the Broker, and no tracestate without."""
    before = len(subscriber.requests)

    post(ingress, {**BINARY, "traceparent": sent, "tracestate": "a=b"}, "{}")
    request = delivered(subscriber, before)

    assert request.header("traceparent") == (sent if passed else None)
    assert request.header("tracestate") == ("a=b" if passed else None)
