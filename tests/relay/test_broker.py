"""Publishing: 202 is promised by the Broker's 2xx alone, and a failure says what may be done."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import trustme

from relay.broker import Broker
from relay.events import Event
from relay.problems import RelayError, TooLarge
from relay.settings import Settings
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import serving
from tests.support.peers import Peer, answer_of

EVENT = Event(
    attributes={"id": "order-17", "source": "s", "type": "t", "datacontenttype": "text/plain"},
    data=b"data",
)
SAFE = "nothing was published; sending it again is safe"
MAYBE = (
    "it may have been published all the same; sending it again with Idempotency-Key: order-17"
    " is safe, since the target sees that key each time"
)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peers.serving(peers.ACCEPTED) as each:
        yield each


def broker_of(url: str, **env: str) -> Broker:
    return Broker(Settings.from_env({"K_SINK": f"{url}/default/default", **env}))


def failure_of(url: str, **env: str) -> RelayError:
    """Publish, in vain."""
    with pytest.raises(RelayError) as caught:
        broker_of(url, **env).publish(EVENT)
    return caught.value


class TestPublish:
    @pytest.mark.parametrize("status", [200, 202, 204])
    def test_a_2xx_is_a_promise(self, peer: Peer, status: int) -> None:
        """Any 2xx says that the Broker has the event."""
        peer.default = answer_of(status)

        broker_of(peer.url).publish(EVENT)

        [received] = peer.requests
        assert (received.method, received.target) == ("POST", "/default/default")
        assert received.header("ce-id") == "order-17"
        assert received.body == b"data"

    def test_connections_are_kept(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Broker that answers without a body keeps its connection."""
        monkeypatch.setattr("relay.connections._MAX_IDLE_S", 60.0)
        broker = broker_of(peer.url)

        for _ in range(3):
            broker.publish(EVENT)

        assert peer.connections == 1

    def test_a_2xx_counts_once_it_is_there(self, peer: Peer) -> None:
        """What comes after the headers of a 2xx, or does not, changes nothing."""
        peer.default = lambda connection: connection.sendall(
            b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nhalf"
        )

        broker_of(peer.url).publish(EVENT)

        assert len(peer.requests) == 1

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ("", {}),
            ("{}", {}),
            ('{"extensions":{"team":"a b","env":"test"}}', {"ce-team": "a%20b", "ce-env": "test"}),
        ],
        ids=["empty", "none", "two"],
    )
    def test_overrides_are_applied(
        self, peer: Peer, overrides: str, expected: Mapping[str, str]
    ) -> None:
        """The SinkBinding's extensions are in every event; it may also say nothing."""
        broker_of(peer.url, K_CE_OVERRIDES=overrides).publish(EVENT)

        sent = {name: value for name, value in peer.requests[0].headers if name.startswith("ce-")}
        known = ("ce-id", "ce-source", "ce-type", "ce-specversion", "ce-time")
        assert {name: value for name, value in sent.items() if name not in known} == expected

    def test_k_ca_certs_are_trusted(self) -> None:
        """A Broker with a certificate of the cluster's own is trusted by K_CA_CERTS."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        with peers.serving(peers.ACCEPTED, tls=context) as peer:
            url = f"https://localhost:{peer.port}"

            broker_of(url, K_CA_CERTS=authority.cert_pem.bytes().decode()).publish(EVENT)
            untrusted = failure_of(url)

        assert len(peer.requests) == 1
        assert untrusted.detail.startswith(
            f"the Broker localhost:{peer.port} cannot be reached:"
            " its certificate is from an unknown authority;"
        )
        assert untrusted.members["published"] == "no"


class TestRetries:
    @pytest.mark.parametrize("status", [429, 503])
    def test_a_broker_that_is_busy_for_a_moment(self, peer: Peer, status: int) -> None:
        """What surely was not taken is tried again for a moment."""
        answers = [answer_of(status), answer_of(status), peers.ACCEPTED]

        def talk(connection: socket.socket) -> None:
            connection.sendall(answers[len(peer.requests) - 1])

        peer.default = talk

        broker_of(peer.url).publish(EVENT)

        assert [each.header("ce-id") for each in peer.requests] == ["order-17"] * 3

    def test_a_broker_that_restarts(self) -> None:
        """A Broker that is back in a moment has lost nothing."""
        with peers.listening() as reserved:
            port = reserved.getsockname()[1]
        broker = broker_of(f"http://127.0.0.1:{port}")
        with contextlib.ExitStack() as stack:
            started: list[Peer] = []

            def start() -> None:
                started.append(stack.enter_context(peers.serving(peers.ACCEPTED, port=port)))

            timer = threading.Timer(0.1, start)
            timer.start()
            broker.publish(EVENT)
            timer.join()

            assert len(started[0].requests) == 1

    @pytest.mark.parametrize(
        ("status", "tries", "advice"),
        [
            (301, 1, SAFE),
            (408, 1, SAFE),
            (429, 4, SAFE),
            (503, 4, SAFE),
            (500, 1, MAYBE),
            (502, 1, MAYBE),
            (504, 1, MAYBE),
        ],
    )
    def test_a_broker_that_says_no(self, peer: Peer, status: int, tries: int, advice: str) -> None:
        """503 says whether it is safe to send again; what may have been taken is not repeated."""
        peer.default = answer_of(status)

        failure = failure_of(peer.url)

        assert failure.status == 503
        assert failure.detail == f"the Broker answered {status}; {advice}"
        assert failure.headers == (("Retry-After", "1"),)
        assert failure.members == {
            "id": "order-17",
            "published": "no" if advice == SAFE else "unknown",
        }
        assert len(peer.requests) == tries

    @pytest.mark.parametrize(
        ("status", "told"), [(400, 400), (403, 400), (404, 400), (413, 413), (415, 400)]
    )
    def test_a_broker_that_refuses_the_event(self, peer: Peer, status: int, told: int) -> None:
        """A 4xx is the publisher's mistake: nobody is told to send the same again."""
        peer.default = answer_of(status)

        failure = failure_of(peer.url)

        assert failure.status == told
        assert failure.detail.endswith(
            f"the Broker answered {status}: it does not take this event, and would not if it were"
            " sent again"
        )
        assert "safe" not in failure.detail
        assert failure.headers == ()
        assert failure.members["published"] == "no"
        assert failure.members["brokerStatus"] == status
        assert len(peer.requests) == 1

    def test_an_event_that_is_too_large(self, peer: Peer) -> None:
        """Attributes, headers and data count together; nothing is sent, and no more would fit."""
        broker = broker_of(
            peer.url,
            MAX_EVENT_BYTES="100000",
            MAX_RESULT_BYTES="1000",
            K_CE_OVERRIDES='{"extensions":{"team":"a"}}',
        )
        room = broker.room_left(replace(EVENT, data=b""))

        with pytest.raises(TooLarge) as caught:
            broker.publish(replace(EVENT, data=b"x" * (room + 1)))
        sent_before = len(peer.requests)
        broker.publish(replace(EVENT, data=b"x" * room))

        assert sent_before == 0
        [received] = peer.requests
        written = [each for each in received.headers if each[0].lower().startswith(("ce-", "con"))]
        lines = sum(len(f"{name}: {value}\r\n") for name, value in written)
        length = len(f"Content-Length: {len(received.body)}\r\n")
        assert lines - length + len(received.body) == 100_000
        assert caught.value.detail == (
            "the event would have 100001 bytes; at most 100000 are published (MAX_EVENT_BYTES)"
        )
        assert caught.value.members == {"size": 100_001, "limit": 100_000, "published": "no"}

    def test_a_broker_that_asks_for_time(self, peer: Peer) -> None:
        """A longer wait is the caller's, who is told how long."""
        peer.default = answer_of(429, b"", ("Retry-After", "7"))

        failure = failure_of(peer.url)

        assert failure.status == 503
        assert failure.headers == (("Retry-After", "7"),)
        assert len(peer.requests) == 1

    def test_a_broker_that_is_down(self) -> None:
        """No connection, nothing published."""
        failure = failure_of("http://127.0.0.1:1")

        assert failure.status == 503
        assert failure.detail == (
            f"the Broker 127.0.0.1:1 cannot be reached: the connection was refused; {SAFE}"
        )

    def test_a_broker_that_is_slow(self, peer: Peer) -> None:
        """504 when the Broker does not answer in time; it may have the event."""
        peer.default = peers.until_gone

        failure = failure_of(peer.url, PUBLISH_TIMEOUT_S="0.3")

        assert failure.status == 504
        assert failure.detail == (
            f"the Broker 127.0.0.1:{peer.port} did not answer in full within 0.3 s; {MAYBE}"
        )
        assert len(peer.requests) == 1

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"", "closed the connection unanswered"),
            (b"HTTP/1.1 202 Acc", "broke off its answer"),
            (b"HTTP/1.1 202 Accepted\r\nX: ", "broke off its answer"),
        ],
        ids=["nothing", "half a status line", "half the headers"],
    )
    def test_a_broker_that_is_killed(self, peer: Peer, raw: bytes, reason: str) -> None:
        """Half an answer is no promise, not even half of a 202."""
        peer.default = lambda connection: connection.sendall(raw)

        failure = failure_of(peer.url)

        assert failure.status == 503
        assert failure.detail == (f"the Broker 127.0.0.1:{peer.port} {reason}; {MAYBE}")
        assert len(peer.requests) == 1

    def test_all_attempts_end_in_time(self, peer: Peer) -> None:
        """The time is for all attempts together."""
        peer.default = answer_of(503)

        failure = failure_of(peer.url, PUBLISH_TIMEOUT_S="0.25")

        assert failure.status == 503
        assert len(peer.requests) < 4


def test_what_a_caller_sees(peer: Peer) -> None:
    """A caller of Send gets the problem document, with the id to send again."""
    peer.default = answer_of(500, b"s3cret")
    env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": f"{peer.url}/default/default"}
    with serving("send", env) as send:
        answer: Answer = call(
            "POST",
            f"{send.url}/async",
            json.dumps({"targetURL": "http://127.0.0.1:9"}),
            {"Idempotency-Key": "order-17"},
        )

    assert answer.status == 503
    assert answer.all("Retry-After") == ["1"]
    assert answer.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": f"the Broker answered 500; {MAYBE}",
        "id": "order-17",
        "published": "unknown",
    }
