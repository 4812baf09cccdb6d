"""From an envelope to a call."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from relay.envelope import Envelope
from relay.problems import DeadlineExceeded, InvalidRequest, LoopDetected, TargetNotAllowed
from relay.settings import Settings
from relay.targets import TargetClient
from relay.tracing import MAX_HOPS, next_hop
from tests.support import peers
from tests.support.peers import Peer


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peers.serving() as each:
        yield each


def envelope_of(fields: dict[str, object]) -> Envelope:
    return Envelope.from_json(json.dumps(fields).encode())


def client(**env: str) -> TargetClient:
    return TargetClient(Settings.from_env({"ALLOWED_TARGETS": "127.0.0.1,b.example", **env}))


@pytest.mark.parametrize(
    ("received", "hop"),
    [(None, 1), ("0", 1), ("2", 3), ("", 1), ("many", 1), ("-1", 1)],
)
def test_a_hop_is_counted(received: str | None, hop: int) -> None:
    """Each pass through the relay counts; what is no number counts as none."""
    assert next_hop(received) == hop


@pytest.mark.parametrize("received", [str(MAX_HOPS), "999"])
def test_a_loop_is_ended(received: str) -> None:
    """After so many passes the relay calls itself."""
    with pytest.raises(LoopDetected) as caught:
        next_hop(received)

    assert str(caught.value) == "the call has passed a relay 3 times; the relay calls itself"


def test_the_envelope_is_sent(peer: Peer) -> None:
    """What the relay adds gives way to what the caller asked for."""
    envelope = envelope_of(
        {"targetURL": peer.url, "headers": {"Traceparent": "mine", "Host": "b.example"}, "body": 1}
    )

    added = (("traceparent", "theirs"), ("X-Added", "yes"))
    client().call(envelope, method="PATCH", hops=2, headers=added).close()

    [received] = peer.requests
    assert received.method == "PATCH"
    assert received.header("traceparent") == "mine"
    assert received.header("X-Added") == "yes"
    assert received.header("Host") == "b.example"
    assert received.header("relay-hops") == "2"
    assert received.body == b"1"


@pytest.mark.parametrize(("asked", "limit"), [(0.2, "30"), (None, "0.2"), (30, "0.2")])
def test_the_shorter_time_counts(peer: Peer, asked: float | None, limit: str) -> None:
    """An envelope may ask for less than TARGET_TIMEOUT_S, not for more."""
    peer.default = peers.until_gone
    fields = {} if asked is None else {"timeout": asked}
    envelope = envelope_of({"targetURL": peer.url, **fields})

    with pytest.raises(DeadlineExceeded) as caught:
        client(TARGET_TIMEOUT_S=limit).call(envelope, method="GET", hops=1, headers=())

    assert str(caught.value).endswith("did not answer in full within 0.2 s")


def test_a_host_header_needs_an_entry(peer: Peer) -> None:
    """Who chooses the Host header chooses the target, so the policy is asked."""
    envelope = envelope_of({"targetURL": peer.url, "headers": {"host": "c.example"}})

    for refused in (
        lambda: client().check(envelope),
        lambda: client().call(envelope, method="GET", hops=1, headers=()),
    ):
        with pytest.raises(InvalidRequest) as caught:
            refused()
        assert caught.value.field == "headers.Host"
    assert peer.requests == []


def test_a_check_makes_no_call(peer: Peer) -> None:
    """What would be refused is refused before the event is published."""
    client().check(envelope_of({"targetURL": peer.url}))

    with pytest.raises(TargetNotAllowed):
        client().check(envelope_of({"targetURL": "http://10.1.2.3"}))
    assert peer.connections == 0
