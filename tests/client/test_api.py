"""The Python client before a relay that fails, and before the real Send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from relay_client import Batch, NotFinished, Refused, Relay, Unavailable
from tests.support import peers
from tests.support.calls import call
from tests.support.peers import Peer, answer_of, reset
from tests.support.processes import free_port
from tests.support.relayed import Relayed, relayed

JSON = ("Content-Type", "application/json")
PROBLEM = ("Content-Type", "application/problem+json")
ACCEPTED = answer_of(202, b'{"id":"k","status":"accepted","statusURL":"/async/k"}', JSON)
AWAY = answer_of(
    503, b'{"status":503,"detail":"there is no Broker"}', PROBLEM, ("Retry-After", "7")
)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peers.serving(ACCEPTED) as peer:
        yield peer


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def relay(peer: Peer, pauses: list[float]) -> Relay:
    return Relay(peer.url, sleep=pauses.append)


def one_after_the_other(*answers: bytes | peers.Talk) -> peers.Talk:
    """Answer each call with the next, and then with the last."""
    left = list(answers)

    def talk(connection: socket.socket) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, bytes):
            # It is closed after each, and the client must know.
            connection.sendall(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        else:
            answer(connection)

    return talk


class TestBeforeARelayThatFails:
    def test_what_passes_is_tried_again_under_the_same_key(
        self, peer: Peer, relay: Relay, pauses: list[float]
    ) -> None:
        """A 503, a broken connection, a 409 that asks for it: one request, whatever comes."""
        busy = answer_of(409, b'{"detail":"being published"}', PROBLEM, ("Retry-After", "2"))
        peer.on("/async", one_after_the_other(AWAY, reset, busy, answer_of(502), ACCEPTED))

        status = relay.submit({"targetURL": "http://x.test"})

        assert (status.id, status.is_open) == ("k", True)
        assert pauses == [7.0, 1.0, 2.0, 1.0]
        keys = {each.header("Idempotency-Key") for each in peer.requests}
        assert len(peer.requests) == 5
        assert len(keys) == 1
        assert None not in keys

    def test_patience_ends(self, peer: Peer) -> None:
        """The error has what the relay said, and how to go on."""
        peer.on("/async", AWAY)
        told: list[tuple[str, float]] = []
        relay = Relay(
            peer.url,
            patience_s=6.0,  # less than the pause that is asked for
            on_failure=lambda failure, pause_s: told.append((failure, pause_s)),
        )

        with pytest.raises(Unavailable) as caught:
            relay.submit({"targetURL": "http://x.test"}, key="order-7")

        assert caught.value.detail == "there is no Broker"
        assert caught.value.key == "order-7"
        assert str(caught.value) == (
            "there is no Broker; submit it again with the key order-7, which is safe"
        )
        assert told == []

    def test_what_cannot_succeed_is_not_tried_again(self, peer: Peer, relay: Relay) -> None:
        """A refusal names the field and what would be right."""
        detail = b'{"status":400,"detail":"headers must be an object","field":"headers"}'
        peer.on("/async", answer_of(400, detail, PROBLEM))

        with pytest.raises(Refused) as caught:
            relay.submit({"targetURL": "http://x.test", "headers": 1})

        assert (caught.value.status, caught.value.field) == (400, "headers")
        assert str(caught.value) == "400: headers must be an object"
        assert len(peer.requests) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            answer_of(404, b"<html>", ("Content-Type", "text/html")),
            answer_of(200, b"<html>", ("Content-Type", "text/html")),
            answer_of(301, b"", ("Location", "http://elsewhere.test/")),
        ],
        ids=["no-route", "a-page", "elsewhere"],
    )
    def test_something_else_listens_there(self, peer: Peer, relay: Relay, answer: bytes) -> None:
        """It is told apart from a relay, and never followed elsewhere."""
        peer.on("/async/x", answer)

        with pytest.raises(Refused, match="is this the address of a relay"):
            relay.get("x")

    def test_nobody_listens_there(self) -> None:
        """The call is tried for as long as patience lasts."""
        relay = Relay(f"http://127.0.0.1:{free_port()}", patience_s=0)

        with pytest.raises(Unavailable) as caught:
            relay.get("x")

        assert str(caught.value) == (
            "the relay cannot be reached: is its address right, and is it running?"
        )
        with pytest.raises(Unavailable):
            relay.sync({"targetURL": "http://x.test"})

    def test_an_address_without_a_scheme_is_refused(self) -> None:
        """Before anything is sent."""
        with pytest.raises(ValueError, match="url must begin with http:// or https://"):
            Relay("localhost:8080")

    def test_host_and_token_go_with_each_call(self, peer: Peer) -> None:
        """A gateway routes by the one, Send asks for the other; nothing of the shell goes along."""
        Relay(peer.url, host="send.example.com", token="a-token").submit({}, key="k")

        (request,) = peer.requests
        assert request.header("Host") == "send.example.com"
        assert request.header("Authorization") == "Bearer a-token"

    def test_bytes_are_sent_as_they_are(self, peer: Peer, relay: Relay) -> None:
        """No digit of a number changes on its way."""
        relay.submit(b'{"body": 1.10}', key="k")

        assert peer.requests[0].body == b'{"body": 1.10}'


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed]:
    url = f"sqlite://{tmp_path_factory.mktemp('state')}/state.sqlite3"
    with relayed(STATE_URL=url) as served:
        yield served


@pytest.fixture
def client(real: Relayed) -> Iterator[Relay]:
    yield Relay(real.send.url, patience_s=0)
    real.published()


def envelope(real: Relayed, path: str = "/ok") -> dict[str, object]:
    document: dict[str, object] = json.loads(real.envelope(path))
    return document


def kill(real: Relayed, *ids: str) -> None:
    """Have requests given up by the Broker."""
    for event in real.published():
        assert event.id in ids
        dead = {**event.headers, "ce-knativeerrorcode": "503"}
        call("POST", f"{real.send.url}/event/dead-letter", event.data, dead)


class TestBeforeTheRealSend:
    def test_a_call_from_the_202_to_its_answer(self, real: Relayed, client: Relay) -> None:
        """The target's JSON comes as values, and no time is lost between."""
        body = b'{"n": [1, "\xc3\xbc"]}'
        real.target.on("/json", answer_of(200, body, JSON))
        accepted = client.submit(envelope(real, "/json"), key="order-1")
        with pytest.raises(NotFinished, match=r"the request order-1 is still open after 0\.1 s"):
            client.result("order-1", timeout_s=0.1)
        for event in real.published():
            real.deliver(event)

        done = client.result(accepted.id, timeout_s=20)

        assert (done.status, done.why) == ("completed", "")
        assert done.answer is not None
        assert (done.answer.status, done.answer.body) == (200, {"n": [1, "ü"]})

    def test_sync_hands_back_the_targets_answer(self, real: Relayed, client: Relay) -> None:
        """Whatever its status is."""
        real.target.on("/teapot", answer_of(418, b"short and stout"))

        answer = client.sync(envelope(real, "/teapot"), method="PUT")

        assert (answer.status_code, answer.content) == (418, b"short and stout")
        assert real.target.received("/teapot")[0].method == "PUT"

    def test_lists_retries_and_cancels(self, real: Relayed, client: Relay) -> None:
        """All that the relay tells is there, typed, and pages follow each other."""
        for name in ("d1", "d2", "d3"):
            client.submit(envelope(real), key=name)
        kill(real, "d1", "d2", "d3")

        page = client.list("dead", limit=2)
        rest = client.list("dead", limit=2, cursor=page.cursor)

        assert page.total == 3
        assert [each.id for each in (*page.requests, *rest.requests)] == ["d3", "d2", "d1"]
        assert rest.cursor is None
        assert page.requests[0].why == "503" or page.requests[0].document["reason"] == {"code": 503}
        assert client.retry("d1").is_open
        batches = list(client.retry_all("dead"))
        assert batches == [Batch(retried=2, skipped=0, left=0, cursor=None)]
        assert sorted(event.id for event in real.published()) == ["d1", "d2", "d3"]
        client.submit(envelope(real), key="c1")
        assert client.cancel("c1").status == "cancelled"
        with pytest.raises(Refused) as caught:
            client.retry("c1")
        assert caught.value.status == 409
        with pytest.raises(Refused) as caught:
            client.get("never-heard-of")
        assert caught.value.status == 404
