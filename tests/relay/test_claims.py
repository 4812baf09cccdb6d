"""Work that is known to be done is not done again: Receive, given the same events once more."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relay.lifecycle import LEASE_MS
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import free_port, wait_until
from tests.support.redis import redis_server
from tests.support.stores import KINDS, SHARED_KINDS, store_url

TYPE = "dev.knative.samples.t2"


@pytest.fixture(scope="module")
def target_peer() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture
def target(target_peer: Peer) -> Peer:
    target_peer.requests.clear()
    return target_peer


@contextlib.contextmanager
def served(state_url: str, **settings: str) -> Iterator[Function]:
    env = {"ALLOWED_TARGETS": "127.0.0.1", "STATE_URL": state_url, **settings}
    with serving("receive", env) as function:
        yield function


@pytest.fixture(scope="module", params=KINDS)
def receive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("state")
    with store_url(request.param, folder) as url, served(url) as function:
        yield function


def deliver(
    receive: Function, target: Peer, event_id: str, *, path: str = "/", **attributes: str
) -> Answer:
    """Deliver a request event as the Broker does, as often as a test likes."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": "s",
        "ce-type": TYPE,
        "Content-Type": "application/json",
        **{f"ce-{name}": value for name, value in attributes.items()},
    }
    callback = {"url": "http://127.0.0.1:9/told"}
    body = {"targetURL": target.url, "targetAPI": path, "callback": callback}
    return call("POST", f"{receive.url}/", json.dumps(body), headers)


class Gate:
    """A target that answers when it is told to."""

    def __init__(self, answer: bytes) -> None:
        self.came = threading.Event()
        self.go = threading.Event()
        self._answer = answer

    def talk(self, connection: socket.socket) -> None:
        self.came.set()
        self.go.wait(30)
        with contextlib.suppress(OSError):
            connection.sendall(self._answer)


def told(answer: Answer) -> tuple[int, object, object, list[str]]:
    """Name what the Broker does something with."""
    return answer.status, answer.all("ce-id"), answer.json(), answer.all("ce-relayattempts")


@pytest.mark.parametrize("status", [200, 404])
def test_a_copy_of_what_is_done_is_answered_as_the_first(
    receive: Function, target: Peer, status: int
) -> None:
    """With the same ids, data and attempts, and without a call."""
    target.on("/done", answer_of(status, b"answer", ("X-A", "1")))

    first = deliver(receive, target, f"done-{status}", path="/done")
    copies = [deliver(receive, target, f"done-{status}", path="/done") for _ in range(3)]

    assert first.status == 200
    assert first.json()["callback"] == {"url": "http://127.0.0.1:9/told"}
    assert [told(copy) for copy in copies] == [told(first)] * 3
    assert len(target.requests) == 1


def test_a_copy_that_comes_meanwhile_is_sent_away(receive: Function, target: Peer) -> None:
    """It is told when to come again, and then gets the answer of the call that was under way."""
    gate = Gate(answer_of(200, b"slow"))
    target.on("/slow", gate.talk)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(deliver, receive, target, "slow", path="/slow")
        assert gate.came.wait(10)

        copy = deliver(receive, target, "slow", path="/slow")

        gate.go.set()
        done = first.result()
    assert copy.status == 503
    assert 1 <= int(copy.all("Retry-After")[0]) <= LEASE_MS / 1000
    assert copy.json()["detail"] == "another delivery of this request is calling the target"
    assert told(deliver(receive, target, "slow", path="/slow")) == told(done)
    assert len(target.requests) == 1


def test_a_claim_lasts_as_long_as_the_call(target: Peer, tmp_path: Path) -> None:
    """Also when that takes longer than a lease."""
    gate = Gate(answer_of(200, b"slower"))
    target.on("/slower", gate.talk)
    url = f"sqlite://{tmp_path}/state.sqlite3"
    with served(url) as receive, ThreadPoolExecutor(1) as pool:
        first = pool.submit(deliver, receive, target, "slower", path="/slower")
        assert gate.came.wait(10)
        over = threading.Event()
        over.wait(LEASE_MS / 1000 + 1)

        copy = deliver(receive, target, "slower", path="/slower")

        gate.go.set()
        assert first.result().status == 200
    assert copy.status == 503
    assert len(target.requests) == 1


def test_a_copy_of_a_failed_attempt_is_answered_as_the_first(
    receive: Function, target: Peer
) -> None:
    """The attempt was made: a copy gets the event of the same tier, and calls nobody."""
    target.on("/fails", answer_of(503))

    first, *copies = [deliver(receive, target, "fails", path="/fails") for _ in range(3)]

    assert (first.all("ce-id"), first.all("ce-relayattempts")) == (["fails.retry1"], ["1"])
    assert [(copy.status, copy.all("ce-id"), copy.all("ce-relayattempts")) for copy in copies] == [
        (200, ["fails.retry1"], ["1"])
    ] * 2
    assert len(target.requests) == 1


def test_an_event_of_another_request_is_no_copy(receive: Function, target: Peer) -> None:
    """Two sources may use the same id; what they ask for is done for both."""
    first = deliver(receive, target, "1", path="/a")
    other = deliver(receive, target, "1", path="/b")

    assert (first.status, other.status) == (200, 200)
    assert [each.target for each in target.requests] == ["/a", "/b"]


def test_an_answer_that_is_not_kept_is_still_an_answer(target: Peer, tmp_path: Path) -> None:
    """When its body had to go, a copy is told the status, and calls nobody."""
    big = b"x" * 100_000
    for number in range(12):
        target.on(f"/big{number}", answer_of(404, big, ("Content-Type", "text/plain")))
    with served(f"sqlite://{tmp_path}/state.sqlite3", STATE_MAX_BYTES="500000") as receive:
        for number in range(12):
            deliver(receive, target, f"big{number}", path=f"/big{number}")

        copy = deliver(receive, target, "big0", path="/big0")

    assert copy.all("ce-id") == ["big0.failed"]
    assert copy.json() == {
        "status": 404,
        "headers": {},
        "truncated": True,
        "truncatedReason": "the answer is no longer kept",
        "callback": {"url": "http://127.0.0.1:9/told"},
    }
    assert len(target.requests) == 12


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_a_call_that_died_with_its_process_is_free_after_a_lease(
    kind: str, target: Peer, tmp_path: Path
) -> None:
    """The Broker's retries, which are few, are not all in vain, however slow the target is."""
    gate = Gate(answer_of(200))
    target.on("/killed", gate.talk)
    with store_url(kind, tmp_path) as url:
        with served(url) as receive, ThreadPoolExecutor(1) as pool:
            lost = pool.submit(try_to_deliver, receive, target)
            assert gate.came.wait(10)
            receive.process.kill()
            lost.result()
        gate.go.set()
        target.on("/killed", answer_of(200, b"second"))

        with served(url) as receive:

            def done() -> Answer | None:
                answer = deliver(receive, target, "killed", path="/killed")
                return answer if answer.status == 200 else None

            answer = wait_until(done, LEASE_MS / 1000 + 5, "the end of the lease")

    assert answer is not None
    assert answer.all("ce-relayattempts") == ["1"]  # nobody knows what became of the other one
    assert len(target.requests) == 2


def try_to_deliver(receive: Function, target: Peer) -> None:
    with contextlib.suppress(OSError):
        deliver(receive, target, "killed", path="/killed")


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_two_functions_share_claims(kind: str, target: Peer, tmp_path: Path) -> None:
    """Many deliver the same event to two of them at once: one call, one answer."""
    with (
        store_url(kind, tmp_path) as url,
        served(url, WORKERS="2") as one,
        served(url) as two,
        ThreadPoolExecutor(16) as pool,
    ):

        def until_done(number: int) -> str:
            while True:
                answer = deliver((one, two)[number % 2], target, "shared", path="/shared")
                if answer.status == 200:
                    return repr(told(answer))
                assert answer.status == 503

        answers = set(pool.map(until_done, range(32)))

    assert len(answers) == 1
    assert len(target.requests) == 1


def test_without_the_store_it_calls(target: Peer, tmp_path: Path) -> None:
    """As often as it is asked to; the event counts, not the store."""
    port = free_port()
    with served(f"redis://127.0.0.1:{port}") as receive:
        first, copy = (deliver(receive, target, "alone", path="/alone") for _ in range(2))
        with redis_server(tmp_path, port):
            third, fourth = (deliver(receive, target, "alone", path="/alone") for _ in range(2))

    assert [each.status for each in (first, copy, third, fourth)] == [200] * 4
    assert (first.all("ce-relayattempts"), third.all("ce-relayattempts")) == (["1"], ["1"])
    assert len(target.requests) == 3


def test_a_store_that_comes_back_in_a_call_hears_of_it(target: Peer, tmp_path: Path) -> None:
    """A call that nobody could claim is known to be done all the same."""
    gate = Gate(answer_of(200, b"done"))
    target.on("/back", gate.talk)
    port = free_port()
    with served(f"redis://127.0.0.1:{port}") as receive, ThreadPoolExecutor(1) as pool:
        first = pool.submit(deliver, receive, target, "back", path="/back")
        assert gate.came.wait(10)
        with redis_server(tmp_path, port):
            gate.go.set()
            done = first.result()

            copy = deliver(receive, target, "back", path="/back")

    assert (copy.all("ce-id"), copy.json()) == (done.all("ce-id"), done.json())
    assert len(target.requests) == 1


def test_a_store_that_goes_away_in_a_call_spoils_nothing(target: Peer, tmp_path: Path) -> None:
    """The Broker hears of the answer all the same."""
    gate = Gate(answer_of(200, b"done"))
    target.on("/gone", gate.talk)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server(tmp_path))
        receive = stack.enter_context(served(url))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        first = pool.submit(deliver, receive, target, "gone", path="/gone")
        assert gate.came.wait(10)
        port = int(url.rpartition(":")[2])
        call_redis(port, b"SHUTDOWN NOSAVE\r\n")
        gate.go.set()

        answer = first.result()

    assert answer.all("ce-id") == ["gone.completed"]
    assert answer.all("ce-relayattempts") == ["1"]


def call_redis(port: int, command: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(command)
        connection.recv(100)
