"""One target's trouble is nobody else's: the breaker and the shares, at both functions."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import wait_until

TYPE = "dev.knative.samples.t2"
NUMBERS = itertools.count()
SETTINGS = {
    "ALLOWED_TARGETS": "127.0.0.1",
    "BREAKER_FAILURES": "3",
    "BREAKER_PAUSE_S": "2",
    "TARGET_TIMEOUT_S": "20",
    "THREADS": "16",
    "TRIGGER_PLACES": "8",
}


@pytest.fixture
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture
def other() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


def envelope(url: str, **fields: object) -> str:
    return json.dumps({"targetURL": url, **fields})


def deliver(receive: Function, data: str, *, tier: int = 0) -> Answer:
    """Deliver a request, each time another, or the event of a tier that is due."""
    request_id = f"r{next(NUMBERS)}"
    attributes = {"id": request_id, "type": TYPE}
    if tier:
        ending = f"retry{tier}"
        attributes = {"id": f"{request_id}.{ending}", "type": f"{TYPE}.{ending}"}
        attributes["subject"] = request_id
    headers = {"Ce-Specversion": "1.0", "Ce-Source": "test", "Content-Type": "application/json"}
    headers |= {f"Ce-{name.title()}": value for name, value in attributes.items()}
    return call("POST", f"{receive.url}/", data, headers)


def closed_port() -> int:
    """Return a port that nobody listens on, and that nobody is given meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Hanging:
    """An answer that comes when the test lets it."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        assert self.end.wait(20)
        connection.sendall(answer_of(200, b"", ("Connection", "close")))


class TestBreaker:
    def test_receive_passes_on_without_counting(self, target: Peer) -> None:
        """What was out of reach is left alone for the pause; then one call is let through."""
        port = closed_port()
        away = envelope(f"http://127.0.0.1:{port}")
        with serving("receive", SETTINGS) as receive:
            for _ in range(3):
                assert deliver(receive, away).all("ce-relayattempts") == ["1"]

            avoided = deliver(receive, away, tier=2)

            assert avoided.all("ce-type") == [f"{TYPE}.retry3"]
            assert avoided.all("ce-relayattempts") == ["0"]
            [reason] = avoided.all("ce-relayreason")
            assert "was%20out%20of%20reach%20several%20times%20in%20a%20row" in reason
            assert deliver(receive, envelope(target.url)).all("ce-type") == [f"{TYPE}.completed"]

            with peers.serving(port=port) as back:
                completed = [f"{TYPE}.completed"]
                wait_until(lambda: deliver(receive, away).all("ce-type") == completed, 20, "a call")
                assert deliver(receive, away).all("ce-type") == completed
                assert len(back.requests) == 2

    def test_sync_says_so(self) -> None:
        """503 with the reason and when to come again."""
        away = envelope(f"http://127.0.0.1:{closed_port()}")
        with serving("send", SETTINGS) as send:
            statuses = [call("POST", f"{send.url}/sync", away).status for _ in range(3)]
            avoided = call("POST", f"{send.url}/sync", away)

        assert (statuses, avoided.status) == ([502] * 3, 503)
        assert avoided.all("Retry-After") == ["2"]
        assert "was out of reach several times in a row, and is left alone for" in str(
            avoided.json()["detail"]
        )

    def test_out_of_time_counts(self, target: Peer) -> None:
        """A target that does not answer in all of TARGET_TIMEOUT_S is as good as away."""
        target.on("/", peers.until_gone)
        with serving("send", {**SETTINGS, "TARGET_TIMEOUT_S": "0.2"}) as send:
            answers = [call("POST", f"{send.url}/sync", envelope(target.url)) for _ in range(4)]

        assert [answer.status for answer in answers] == [504, 504, 504, 503]

    def test_impatience_does_not_count(self, target: Peer) -> None:
        """A caller cannot have others refused by giving its own calls no time."""
        target.on("/", peers.until_gone)
        with serving("send", SETTINGS) as send:
            answers = [
                call("POST", f"{send.url}/sync", envelope(target.url, timeout=0.1))
                for _ in range(5)
            ]

        assert [answer.status for answer in answers] == [504] * 5

    def test_answers_do_not_count(self, target: Peer) -> None:
        """Honest errors are quick, and may be meant for one call."""
        target.on("/", answer_of(503))
        with serving("send", SETTINGS) as send:
            answers = [call("POST", f"{send.url}/sync", envelope(target.url)) for _ in range(6)]

        assert [answer.all("Retry-After") for answer in answers] == [[]] * 6

    def test_it_can_be_off(self) -> None:
        """BREAKER_FAILURES=0 lets every call through."""
        away = envelope(f"http://127.0.0.1:{closed_port()}")
        with serving("send", {**SETTINGS, "BREAKER_FAILURES": "0"}) as send:
            answers = [call("POST", f"{send.url}/sync", away) for _ in range(8)]

        assert [answer.status for answer in answers] == [502] * 8


class TestShares:
    def test_one_target_on_sync(self, target: Peer, other: Peer) -> None:
        """Half of the threads, and no more, wait for a target that hangs; the others serve."""
        hanging = Hanging()
        target.on("/", hanging)
        slow, quick = envelope(target.url), envelope(other.url)
        with serving("send", SETTINGS) as send, ThreadPoolExecutor(20) as pool:
            calls = [pool.submit(call, "POST", f"{send.url}/sync", slow) for _ in range(20)]
            wait_until(lambda: sum(each.done() for each in calls) == 12, 10, "twelve refusals")
            assert call("POST", f"{send.url}/sync", quick).status == 200
            assert len(target.requests) == 8
            refused = next(each.result() for each in calls if each.done())
            hanging.end.set()
            statuses = sorted(each.result().status for each in calls)

        assert statuses == [200] * 8 + [503] * 12
        assert refused.all("Retry-After") == ["5"]
        assert refused.json()["detail"] == (
            f"the target 127.0.0.1:{target.port} has as many calls open as one may have"
        )

    def test_one_target_of_a_trigger(self, target: Peer, other: Peer) -> None:
        """Beyond half of a Trigger's places a request is passed on, and others are called."""
        hanging = Hanging()
        target.on("/", hanging)
        slow, quick = envelope(target.url), envelope(other.url)
        with serving("receive", SETTINGS) as receive, ThreadPoolExecutor(10) as pool:
            calls = [pool.submit(deliver, receive, slow) for _ in range(7)]
            wait_until(lambda: sum(each.done() for each in calls) == 3, 10, "three passed on")
            passed_on = next(each.result() for each in calls if each.done())
            assert deliver(receive, quick).all("ce-type") == [f"{TYPE}.completed"]
            # Another tier has a Trigger, and places, of its own.
            other_tier = pool.submit(deliver, receive, slow, tier=1)
            wait_until(lambda: len(target.requests) == 5, 10, "a call of the other tier")
            hanging.end.set()
            types = sorted(each.result().all("ce-type")[0] for each in (*calls, other_tier))

        assert types == [f"{TYPE}.completed"] * 5 + [f"{TYPE}.retry1"] * 3
        assert passed_on.all("ce-relayattempts") == ["0"]

    def test_a_burst_to_a_quick_target(self, target: Peer) -> None:
        """What is over in a moment is waited for: all are called at once."""

        def talk(connection: socket.socket) -> None:
            time.sleep(0.05)
            connection.sendall(answer_of(200, b"", ("Connection", "close")))

        target.on("/", talk)
        env = {**SETTINGS, "THREADS": "64"}
        with serving("receive", env) as receive, ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda _: deliver(receive, envelope(target.url)), range(40)))

        assert {answer.all("ce-type")[0] for answer in answers} == {f"{TYPE}.completed"}

    def test_publishing(self, other: Peer) -> None:
        """A Broker that hangs keeps some threads; who comes beside them is told at once."""
        hanging = Hanging()
        with peers.serving(hanging) as broker:
            env = {**SETTINGS, "K_SINK": broker.url, "PUBLISH_TIMEOUT_S": "20"}
            with serving("send", env) as send, ThreadPoolExecutor(14) as pool:
                posts = [
                    pool.submit(call, "POST", f"{send.url}/async", envelope(other.url))
                    for _ in range(14)
                ]
                wait_until(lambda: sum(each.done() for each in posts) == 12, 10, "refusals")
                refused = next(each.result() for each in posts if each.done())
                assert call("POST", f"{send.url}/sync", envelope(other.url)).status == 200
                hanging.end.set()
                statuses = sorted(each.result().status for each in posts)

        assert statuses == [202] * 2 + [503] * 12
        assert refused.all("Retry-After") == ["1"]
        assert refused.json()["published"] == "no"
        assert str(refused.json()["detail"]).startswith(
            "the Broker is slow, and as many publish to it as may at once"
        )
