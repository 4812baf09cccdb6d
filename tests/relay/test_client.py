"""The client: what goes over the wire, where it goes, and how every call ends by its deadline."""

from __future__ import annotations

import contextlib
import datetime
import errno
import gc
import gzip
import itertools
import socket
import ssl
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.client import Client
from relay.connections import Deadline, start_tls
from relay.egress import AllowedTarget, Policy
from relay.envelope import IDEMPOTENT
from relay.leaving import Cut
from relay.lookups import Lookups
from relay.problems import (
    DeadlineExceeded,
    RelayError,
    TargetFailed,
    TargetNotAllowed,
    TargetUnreachable,
)
from relay.urls import Target, parse_target
from tests.support import peers
from tests.support.peers import Peer, answer_of, dripping, reset

DEADLINE_S = 0.5
# Far beyond the deadline, so that a slow machine passes, and far below what a hang would take.
END_S = 5.0


@pytest.fixture(autouse=True)
def idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep connections for as long as a slow machine may take between two calls."""
    monkeypatch.setattr("relay.connections._MAX_IDLE_S", 60.0)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peers.serving() as each:
        yield each


@pytest.fixture
def client() -> Client:
    return make_client()


def make_client(
    *allowed: str,
    pool_size: int = 4,
    connect_timeout_s: float = 5.0,
    ca_certs: str | None = None,
    client_cert: tuple[str, str] | None = None,
) -> Client:
    entries = [AllowedTarget.from_text(text) for text in ("127.0.0.1", "localhost", *allowed)]
    return Client(
        Policy(allowed=tuple(entries)),
        connect_timeout_s=connect_timeout_s,
        pool_size=pool_size,
        ca_certs=ca_certs,
        client_cert=client_cert,
    )


def target_of(url: str, api: str = "") -> Target:
    return parse_target(url, api, url_field="targetURL", api_field="targetAPI")


def get(client: Client, url: str, timeout_s: float = 5.0) -> bytes:
    """Make one call and read its whole answer."""
    return b"".join(client.call(target_of(url), method="GET", timeout_s=timeout_s))


def ends(call: Callable[[], object]) -> None:
    """Check that a call ends, by its deadline and a generous margin, with an error of the relay."""
    start = time.monotonic()

    with pytest.raises((TargetFailed, DeadlineExceeded)):
        call()

    assert time.monotonic() - start < END_S


class TestWire:
    @pytest.mark.parametrize(
        "path", ["/", "/a%2fb%2Fc", "//x", "/?a=[b]", "/a;b=c//d?e=%7A", "/*?"]
    )
    def test_the_path_is_sent_byte_for_byte(self, client: Client, peer: Peer, path: str) -> None:
        """The target sees the path as the caller wrote it."""
        answer = client.call(target_of(peer.url, path), method="GET", timeout_s=5)
        answer.close()

        assert [each.target for each in peer.requests] == [path]

    def test_any_value_of_a_header_is_sent(self, client: Client, peer: Peer) -> None:
        """No value has a meaning of its own, not even one that urllib3 gives one."""
        headers = (("X-A", "@@@SKIP_HEADER@@@"), ("X-B", "caf\xe9"), ("user-agent", "mine"))

        client.call(target_of(peer.url), method="GET", headers=headers, timeout_s=5).close()

        [received] = peer.requests
        assert received.header("X-A") == "@@@SKIP_HEADER@@@"
        assert received.header("X-B") == "caf\xe9"
        assert received.header("User-Agent") == "mine"

    @pytest.mark.parametrize(
        ("method", "length"),
        [("GET", None), ("DELETE", None), ("POST", "0"), ("PUT", "0"), ("PATCH", "0")],
    )
    def test_no_body_is_said_to_be_none(
        self, client: Client, peer: Peer, method: str, length: str | None
    ) -> None:
        """A server need not wait for what will not come (RFC 9110 section 8.6)."""
        client.call(target_of(peer.url), method=method, timeout_s=5).close()

        assert [each.header("Content-Length") for each in peer.requests] == [length]

    def test_the_environment_is_not_used(
        self, client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Proxies that are set for other programs are not for this one."""
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")

        assert get(client, peer.url) == b""

    def test_a_cookie_is_not_kept(self, client: Client, peer: Peer) -> None:
        """One call knows nothing of another's cookies."""
        peer.on("/", answer_of(200, b"", ("Set-Cookie", "a=1")))

        get(client, peer.url)
        get(client, peer.url)

        assert [each.header("Cookie") for each in peer.requests] == [None, None]


class TestPool:
    def test_a_connection_is_used_again(self, client: Client, peer: Peer) -> None:
        """Calls one after the other share a connection."""
        peer.on("/body", answer_of(200, b"body"))

        bodies = [get(client, f"{peer.url}/body"), get(client, peer.url), get(client, peer.url)]

        assert bodies == [b"body", b"", b""]
        assert peer.connections == 1

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_answer_without_a_body_gives_its_connection_back(
        self, client: Client, peer: Peer, status: int
    ) -> None:
        """There is nothing to read, so closing is enough."""
        peer.on("/", b"HTTP/1.1 %d X\r\n\r\n" % status)

        for _ in range(2):
            client.call(target_of(peer.url), method="GET", timeout_s=5).close()

        assert peer.connections == 1

    def test_an_unread_body_costs_its_connection(self, client: Client, peer: Peer) -> None:
        """A connection with a rest of a body in it is never used for another call."""
        peer.on("/rest", answer_of(200, b"x" * 1_000_000))

        client.call(target_of(f"{peer.url}/rest"), method="GET", timeout_s=5).close()

        assert get(client, peer.url) == b""
        assert peer.connections == 2

    def test_a_deadline_ends_no_other_call(self, client: Client, peer: Peer) -> None:
        """The deadline of a call that is over leaves its connection alone."""
        go_on = threading.Event()

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\na")
            assert go_on.wait(peers.TIMEOUT_S)
            connection.sendall(b"b")

        peer.on("/slow", talk)
        first = client.call(target_of(peer.url), method="GET", timeout_s=DEADLINE_S)
        until = time.monotonic() + DEADLINE_S
        first.close()
        pieces = iter(client.call(target_of(f"{peer.url}/slow"), method="GET", timeout_s=10))
        assert next(pieces) == b"a"
        with pytest.raises(DeadlineExceeded):  # the watchdog has come by when this is over
            silent(client, until - time.monotonic() + 0.2)
        go_on.set()

        assert list(pieces) == [b"b"]
        assert peer.connections == 1

    def test_a_deadline_ends_no_call_when_the_reader_is_slow(
        self, client: Client, peer: Peer
    ) -> None:
        """Once a body has come in full, its reader may take as long as it likes."""
        peer.on("/", answer_of(200, b"whole"))
        answer = client.call(target_of(peer.url), method="GET", timeout_s=DEADLINE_S)
        pieces = iter(answer)
        assert next(pieces) == b"whole"
        with pytest.raises(DeadlineExceeded):
            silent(client, DEADLINE_S + 0.2)

        assert list(pieces) == []
        assert peer.connections == 1

    def test_a_connection_that_the_target_has_closed(self, client: Client, peer: Peer) -> None:
        """A connection that was closed while it was idle is noticed before it is used."""
        closed = threading.Event()

        def talk(connection: socket.socket) -> None:
            connection.sendall(peers.OK)
            connection.shutdown(socket.SHUT_RDWR)
            closed.set()

        peer.on("/once", talk)
        for _ in range(5):
            assert get(client, f"{peer.url}/once") == b""
            assert closed.wait(peers.TIMEOUT_S)
            closed.clear()

        assert len(peer.requests) == 5

    def test_a_connection_that_was_idle_for_long(
        self, client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not used again: the target may be about to close it."""
        get(client, peer.url)
        monkeypatch.setattr("relay.connections._MAX_IDLE_S", 0.0)

        get(client, peer.url)

        assert peer.connections == 2

    @pytest.mark.parametrize("method", sorted(IDEMPOTENT))
    def test_a_request_that_meets_a_close_is_sent_once_more(
        self, client: Client, peer: Peer, method: str
    ) -> None:
        """A kept connection may close at any time, which is nothing to an idempotent request."""
        peer.on("/last", first(lambda connection: None))
        get(client, peer.url)

        answer = client.call(target_of(f"{peer.url}/last"), method=method, timeout_s=5)

        assert answer.read(10) == (b"", None)
        assert len(peer.received("/last")) == 2
        assert peer.connections == 2

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_a_post_that_meets_a_close_is_not_sent_again(
        self, client: Client, peer: Peer, method: str
    ) -> None:
        """Nobody can know what the target made of it, so the caller decides."""
        peer.on("/last", lambda connection: None)
        get(client, peer.url)

        with pytest.raises(TargetFailed):
            client.call(target_of(f"{peer.url}/last"), method=method, content=b"x", timeout_s=5)

        assert len(peer.received("/last")) == 1

    def test_a_post_that_cannot_have_been_read_is_sent(
        self, client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the system does not take from the relay has not reached the target."""
        gone = threading.Event()

        def talk(connection: socket.socket) -> None:
            connection.sendall(peers.OK)
            reset(connection)
            gone.set()

        peer.on("/reset", talk)
        get(client, f"{peer.url}/reset")
        assert gone.wait(peers.TIMEOUT_S)
        # As if the reset came after the look at the connection.
        monkeypatch.setattr("relay.connections._has_input", lambda sock: False)

        client.call(target_of(peer.url), method="POST", content=b"x", timeout_s=5).close()

        assert [each.method for each in peer.requests] == ["GET", "POST"]

    def test_a_close_is_met_no_more_than_once(self, client: Client, peer: Peer) -> None:
        """A new connection that closes without an answer is a failure."""
        peer.on("/last", lambda connection: None)
        get(client, peer.url)

        for sent in (2, 3):  # on a kept connection and a new one; then on a new one
            with pytest.raises(TargetFailed):
                get(client, f"{peer.url}/last")
            assert len(peer.received("/last")) == sent

    def test_what_was_answered_is_not_sent_again(self, client: Client, peer: Peer) -> None:
        """Half an answer shows that the connection was not closed for being idle."""
        peer.on("/last", lambda connection: connection.sendall(b"HTTP/1.1 2"))
        get(client, peer.url)

        with pytest.raises(TargetFailed):
            get(client, f"{peer.url}/last")

        assert len(peer.received("/last")) == 1

    def test_a_target_that_closes_after_each_answer(self, client: Client, peer: Peer) -> None:
        """Not one of many calls, each at the moment of a close, fails for it."""

        def talk(connection: socket.socket) -> None:
            connection.sendall(peers.OK)
            time.sleep(0.001)

        peer.default = talk

        assert [get(client, peer.url) for _ in range(100)] == [b""] * 100

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 X\r\n\r\n",
            b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
        ids=["length", "204", "304", "chunks"],
    )
    def test_more_than_the_answer_costs_the_connection(
        self, client: Client, peer: Peer, answer: bytes, method: str
    ) -> None:
        """The next call is not answered with what is left of this one."""
        peer.on("/more", answer + answer_of(200, b"evil"))
        peer.on("/next", answer_of(200, b"good"))

        client.call(target_of(f"{peer.url}/more"), method=method, timeout_s=5).read(10)

        assert get(client, f"{peer.url}/next") == b"good"
        assert peer.connections == 2

    def test_an_answer_to_head_gives_its_connection_back(self, client: Client, peer: Peer) -> None:
        """It has the length of a body and no body."""
        peer.on("/head", b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n")

        for _ in range(2):
            answer = client.call(target_of(f"{peer.url}/head"), method="HEAD", timeout_s=5)
            assert answer.headers == (("Content-Length", "5"),)
            assert answer.read(10) == (b"", None)

        assert peer.connections == 1

    @pytest.mark.parametrize(
        ("head", "connections"),
        [
            (b"HTTP/1.1 200 X\r\nConnection: close\r\n", 2),
            (b"HTTP/1.1 200 X\r\nConnection: Keep-Alive\r\n", 1),
            (b"HTTP/1.0 200 X\r\n", 2),
            (b"HTTP/1.0 200 X\r\nConnection: keep-alive\r\n", 1),
        ],
        ids=["close", "1.1", "1.0", "1.0 keep-alive"],
    )
    def test_a_target_may_close(
        self, client: Client, peer: Peer, head: bytes, connections: int
    ) -> None:
        """A connection is kept when the target says so (RFC 9112 section 9.3)."""
        peer.on("/", head + b"Content-Length: 2\r\n\r\nok")

        assert [get(client, peer.url) for _ in range(2)] == [b"ok", b"ok"]
        assert peer.connections == connections

    def test_so_many_connections_are_kept(self, peer: Peer) -> None:
        """The one that has been idle longest is closed."""
        client = make_client(pool_size=1)
        with peers.serving() as other:
            for each in (peer, other, peer):
                get(client, each.url)

        assert peer.connections == 2


def first(talk: peers.Talk) -> peers.Talk:
    """Do this for the first request, and answer the others."""
    talks = iter([talk])
    return lambda connection: next(talks, lambda each: each.sendall(peers.OK))(connection)


def silent(client: Client, timeout_s: float) -> None:
    """Call a server that says nothing, for as long as the deadline lets it."""
    with peers.listening() as listener:
        get(client, f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s)


ENDLESS = {
    "silence": peers.until_gone,
    "status line": dripping(b"", b"H"),
    "headers": dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
    "100-continue": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body with a length": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "body to the end": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "last body": dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
    "HTTP/1.0": dripping(b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
    "silence for a body": dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b""),
    "chunks of a byte at full speed": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 5000, 0
    ),
    "chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk size": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n"
    ),
    "body at full speed": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0),
}

TOO_LARGE = "sent a head of more than 65536 bytes"

BROKEN = {
    "nothing": (b"", "closed the connection unanswered"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "sent what is not HTTP/1.1"),
    "half a status line": (b"HTTP/1.1 2", "broke off its answer"),
    "half the headers": (b"HTTP/1.1 200 OK\r\nContent-Len", "broke off its answer"),
    "half a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "broke off its answer"),
    "half a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
        "broke off its answer",
    ),
    "no last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        "broke off its answer",
    ),
    "bad chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "sent what is not HTTP/1.1: Invalid character in chunk size",
    ),
    "10,000 headers": (b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n", TOO_LARGE),
    "1 MB header": (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000_000 + b"\r\n\r\n", TOO_LARGE),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "sent what is not HTTP/1.1: Duplicate Content-Length",
    ),
    "interim only": (b"HTTP/1.1 103 Early Hints\r\n\r\n", "closed the connection unanswered"),
    "endless interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, TOO_LARGE),
    "other protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "switched to a protocol that was not asked for",
    ),
}


@pytest.fixture
def hanging_look_ups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the resolver hang until the test is over."""
    released = threading.Event()

    def hang(*args: object, **kwargs: object) -> list[object]:
        released.wait(peers.TIMEOUT_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    released.set()


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Listen on a port that takes no more connections."""
    with peers.listening(backlog=0) as listener, contextlib.ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(4):  # more than Linux queues for a backlog of 0
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


def half_an_answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    peers.until_gone(connection)


class TestDeadlines:
    @pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS)
    def test_an_endless_answer_ends(self, client: Client, peer: Peer, talk: peers.Talk) -> None:
        """Whatever never ends is cut off at the deadline, and called late."""
        peer.on("/", talk)
        start = time.monotonic()

        with pytest.raises(DeadlineExceeded) as caught:
            get(client, peer.url, DEADLINE_S)

        assert time.monotonic() - start < END_S
        assert str(caught.value) == (
            f"the target 127.0.0.1:{peer.port} did not answer in full within 0.5 s"
        )

    @pytest.mark.parametrize(("raw", "reason"), BROKEN.values(), ids=BROKEN)
    def test_a_broken_answer_ends(
        self, client: Client, peer: Peer, raw: bytes, reason: str
    ) -> None:
        """What is not HTTP, or not all of it, is told from an answer, and never quoted."""
        peer.on("/", lambda connection: connection.sendall(raw))

        with pytest.raises(TargetFailed) as caught:
            get(client, peer.url)

        assert str(caught.value) == f"the target 127.0.0.1:{peer.port} {reason}"

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_final_status_decides(self, client: Client, peer: Peer, method: str) -> None:
        """Once it was read there is an answer; what fails after it is for its reader."""
        peer.on("/", lambda connection: connection.sendall(b"HTTP/1.1 201 X\r\nX-A"))

        answer = client.call(target_of(peer.url), method=method, timeout_s=5)

        assert answer.status == 201
        assert answer.headers == ()
        assert answer.read(10, or_less=True) == (
            b"",
            f"the target 127.0.0.1:{peer.port} broke off its answer",
        )
        with pytest.raises(TargetFailed):
            answer.begin()

    def test_many_endless_answers_at_once(self, peer: Peer) -> None:
        """Each of 30 ends by its own deadline, however fast it comes, and costs little memory."""
        hostile = {
            "folds": dripping(b"HTTP/1.1 200 OK\r\nX: y\r\n", b" f\r\n" * 5000, 0),
            "headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10, 0.001),
            "one header": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 60_000, 0.05),
            "trailers": dripping(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 900, 0
            ),
            "chunks": ENDLESS["chunks of a byte at full speed"],
            "body": ENDLESS["body at full speed"],
        }
        client = make_client(pool_size=30)
        ended: list[float] = []

        def call(path: str) -> None:
            start = time.monotonic()
            with contextlib.suppress(TargetFailed, DeadlineExceeded):
                for _ in client.call(
                    target_of(peer.url + path), method="GET", timeout_s=DEADLINE_S
                ):
                    pass
            ended.append(time.monotonic() - start)

        for name, talk in hostile.items():
            peer.on(f"/{name.replace(' ', '')}", talk)

        def at_once() -> None:
            paths = [f"/{name.replace(' ', '')}" for name in hostile] * 5
            threads = [threading.Thread(target=call, args=(path,)) for path in paths]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(END_S)

        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            at_once()
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
            at_once()
            gc.collect()
            again, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert len(ended) == 60
        assert max(ended) < END_S
        assert peak - before < 16_000_000
        assert again - after < 1_000_000

    def test_a_reset(self, client: Client, peer: Peer) -> None:
        """A reset connection is a broken answer."""
        peer.default = reset

        ends(lambda: get(client, peer.url))

    def test_a_target_that_reads_nothing(self, client: Client) -> None:
        """A body that is never read cannot hold a call."""
        with peers.listening() as listener:
            target = target_of(f"http://127.0.0.1:{listener.getsockname()[1]}")

            ends(
                lambda: client.call(
                    target, method="POST", content=b"x" * 20_000_000, timeout_s=DEADLINE_S
                )
            )

    def test_a_half_closed_connection(self, client: Client, peer: Peer) -> None:
        """A target that stops sending but keeps reading has given no answer."""

        def talk(connection: socket.socket) -> None:
            connection.shutdown(socket.SHUT_WR)
            peers.until_gone(connection)

        peer.default = talk

        ends(lambda: get(client, peer.url, DEADLINE_S))

    def test_a_connect_that_hangs(self) -> None:
        """A target whose backlog is full does not hold a call beyond the connect timeout."""
        client = make_client(connect_timeout_s=DEADLINE_S)
        with full_backlog() as port, pytest.raises(TargetUnreachable) as caught:
            get(client, f"http://127.0.0.1:{port}", 10)

        assert str(caught.value) == f"the target 127.0.0.1:{port} cannot be reached: timed out"

    def test_a_look_up_that_hangs(self, hanging_look_ups: None) -> None:
        """A resolver that hangs holds a call no longer than the connect timeout."""
        client = make_client(connect_timeout_s=DEADLINE_S)

        with pytest.raises(TargetUnreachable) as caught:
            get(client, "http://localhost", 10)

        assert str(caught.value) == (
            "the target localhost cannot be reached: its name was not looked up in time"
        )

    def test_many_look_ups_that_hang(
        self, hanging_look_ups: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many look-ups hang, only so many threads wait for them."""
        client = make_client(connect_timeout_s=0.1)
        monkeypatch.setattr(client, "_lookups", Lookups(most=1))
        for _ in range(2):  # they share one look-up
            with pytest.raises(TargetUnreachable, match="its name was not looked up in time"):
                get(client, "http://localhost", 10)

        with pytest.raises(TargetUnreachable) as caught:
            get(client, "http://other.test", 10)

        assert str(caught.value) == (
            "the target other.test cannot be reached: too many look-ups hang"
        )

    @pytest.mark.parametrize("waits_for", ["look-up", "connection", "handshake", "head", "body"])
    def test_a_call_is_cut(self, waits_for: str, request: pytest.FixtureRequest) -> None:
        """Whatever a call waits for, it ends when it is called off, and so does one that begins."""
        client = make_client(connect_timeout_s=30)
        with contextlib.ExitStack() as stack:
            url = "http://localhost"
            if waits_for == "look-up":
                request.getfixturevalue("hanging_look_ups")
            elif waits_for == "connection":
                url = f"http://127.0.0.1:{stack.enter_context(full_backlog())}"
            else:
                peer = stack.enter_context(peers.serving(peers.until_gone))
                url = peer.url
                if waits_for == "handshake":
                    url = url.replace("http", "https")
                    peer.talk = peers.until_gone  # type: ignore[method-assign]
                if waits_for == "body":
                    peer.on("/", half_an_answer)
            cut = Cut()
            timer = threading.Timer(0.3, cut.cut)
            timer.start()

            def call() -> None:
                client.call(target_of(url), method="GET", timeout_s=30, cut=cut).read(10)

            for _ in range(2):  # the second is cut before it begins
                ends(call)
            timer.join()

    def test_a_handshake_that_drips(self, client: Client) -> None:
        """A TLS handshake a byte at a time ends with the call."""

        def talk(connection: socket.socket) -> None:
            hello = itertools.chain(b"\x16\x03\x03\x3f\xff", itertools.repeat(0))
            never = threading.Event()
            while not never.wait(0.05):
                connection.sendall(bytes([next(hello)]))

        with peers.serving() as peer:
            peer.talk = talk  # type: ignore[method-assign] # before any HTTP

            ends(lambda: get(client, f"https://127.0.0.1:{peer.port}", DEADLINE_S))

    @settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
    @given(
        start=st.sampled_from(
            [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: "]
        ),
        noise=st.binary(max_size=200),
    )
    def test_noise_is_an_answer_or_an_error_of_the_relay(self, start: bytes, noise: bytes) -> None:
        """No answer, however odd, makes another kind of error."""
        with (
            peers.serving(lambda connection: connection.sendall(start + noise)) as peer,
            contextlib.suppress(TargetFailed),
        ):
            get(make_client(), peer.url)


class TestMemory:
    @pytest.mark.parametrize("bomb", [False, True], ids=["endless", "gzip"])
    def test_a_body_costs_no_more_than_a_buffer(
        self, client: Client, peer: Peer, bomb: bool
    ) -> None:
        """64 MB pass through in pieces, and what is packed stays packed."""
        piece = gzip.compress(bytes(1_000_000)) * 60 if bomb else b"x" * 65536
        coding = b"Content-Encoding: gzip\r\n" if bomb else b""

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\n" + coding + b"\r\n")
            for _ in range(1024):
                connection.sendall(piece)

        peer.on("/", talk)
        tracemalloc.start()
        try:
            answer = client.call(target_of(peer.url), method="GET", timeout_s=60)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            read_bytes = sum(map(len, answer))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert read_bytes == 1024 * len(piece)
        assert peak - before < 1_000_000

    def test_only_as_much_is_read_as_is_asked_for(self, client: Client, peer: Peer) -> None:
        """A limit cuts an endless body, and ends the call."""
        peer.on("/", dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0))

        answer = client.call(target_of(peer.url), method="GET", timeout_s=10)

        assert answer.read(100_000) == (b"x" * 100_000, "the body is longer than 100000 bytes")


def no_route(*args: object) -> None:
    raise OSError(errno.EHOSTUNREACH, "whatever the system says")


class TestAddresses:
    def look_up(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[object]:
        """Make the name `many.example` resolve to these addresses; keep who was asked."""
        asked: list[object] = []

        def resolve(host: str, port: int, **kwargs: object) -> list[object]:
            asked.append(host)
            return [(socket.AF_INET, 1, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        return asked

    def test_every_address_is_tried(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Addresses are tried in the resolver's order until one answers, after one look-up."""
        asked = self.look_up(monkeypatch, "::1", "127.0.0.1")

        get(make_client("many.example"), f"http://many.example:{peer.port}/")

        assert peer.requests[0].header("Host") == f"many.example:{peer.port}"
        assert asked == ["many.example"]

    def test_no_address_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last reason is told when none answers."""
        self.look_up(monkeypatch, "::1", "127.0.0.1")

        with pytest.raises(TargetUnreachable) as caught:
            get(make_client("many.example"), "http://many.example:1/")

        assert str(caught.value) == (
            "the target many.example:1 cannot be reached: the connection was refused"
        )

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (socket.EAI_NONAME, "its name was not found"),
            (socket.EAI_AGAIN, "its name cannot be looked up at the moment"),
        ],
    )
    def test_a_name_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
    ) -> None:
        """A name that does not exist is told from a name server that does not answer."""

        def fail(*args: object, **kwargs: object) -> list[object]:
            raise socket.gaierror(code, "whatever the system says")

        monkeypatch.setattr(socket, "getaddrinfo", fail)

        with pytest.raises(TargetUnreachable) as caught:
            get(make_client(), "http://nowhere.example/")

        assert str(caught.value) == f"the target nowhere.example cannot be reached: {reason}"

    def test_there_is_no_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address that no network leads to is told from one that refuses."""
        monkeypatch.setattr(socket.socket, "connect", no_route)

        with pytest.raises(TargetUnreachable, match="cannot be reached: there is no route to it"):
            get(make_client(), "http://127.0.0.1:1/")

    def test_only_permitted_addresses_are_tried(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that hides a refused address among good ones never reaches it."""
        self.look_up(monkeypatch, "169.254.169.254", "127.0.0.1")

        get(make_client("many.example"), f"http://many.example:{peer.port}/")

        assert len(peer.requests) == 1

    def test_a_refused_target_is_not_called(self, client: Client) -> None:
        """The policy's refusal is its own error, never an error of the network."""
        with pytest.raises(TargetNotAllowed):
            get(client, "http://10.1.2.3/")

    def test_a_check_makes_no_call(self, client: Client, peer: Peer) -> None:
        """What would be refused is refused without a connection; what may come passes."""
        client.check(target_of(peer.url))
        with pytest.raises(TargetNotAllowed):
            client.check(target_of("http://10.1.2.3/"))

        assert peer.connections == 0

    def test_a_check_of_an_unknown_name_passes(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name may be there when the call is made."""

        def fail(*args: object, **kwargs: object) -> list[object]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", fail)

        client.check(target_of("http://later.example/"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_peer(authority: trustme.CA) -> Iterator[tuple[Peer, list[str | None]]]:
    """Serve HTTPS as `localhost`, and keep the names that clients ask for (SNI)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    names: list[str | None] = []

    def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = note
    with peers.serving(tls=context) as peer:
        yield peer, names


UTC = datetime.timezone.utc


def context_of(issued: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def trusting(authority: trustme.CA, *, client_cert: Path | None = None) -> Client:
    return make_client(
        ca_certs=authority.cert_pem.bytes().decode(),
        client_cert=None if client_cert is None else (str(client_cert), str(client_cert)),
    )


class TestTLS:
    def test_a_certificate_of_the_operators_own(
        self, authority: trustme.CA, tls_peer: tuple[Peer, list[str | None]]
    ) -> None:
        """What the operator trusts is trusted, and the name is the URL's everywhere."""
        peer, names = tls_peer
        client = trusting(authority)

        get(client, f"https://localhost:{peer.port}/a%2fb")
        get(client, f"https://localhost:{peer.port}/a%2fb")

        assert names == ["localhost"]
        assert [each.target for each in peer.requests] == ["/a%2fb"] * 2
        assert peer.requests[0].header("Host") == f"localhost:{peer.port}"
        assert peer.connections == 1

    def test_ssl_cert_file(
        self,
        authority: trustme.CA,
        tls_peer: tuple[Peer, list[str | None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """OpenSSL's own SSL_CERT_FILE adds certificates to trust."""
        peer, _ = tls_peer
        with authority.cert_pem.tempfile() as path:
            monkeypatch.setenv("SSL_CERT_FILE", path)

            get(make_client(), f"https://localhost:{peer.port}")

        assert len(peer.requests) == 1

    @pytest.mark.parametrize(
        ("identity", "days", "reason"),
        [
            ("localhost", (-2, -1), "its certificate has expired"),
            ("localhost", (1, 2), "its certificate is not yet valid"),
            ("other.example", (-1, 1), "its certificate is for another name"),
        ],
        ids=["expired", "not yet", "another name"],
    )
    def test_a_certificate_that_is_not_valid(
        self, authority: trustme.CA, identity: str, days: tuple[int, int], reason: str
    ) -> None:
        """Each fault of a certificate has words of its own, and nothing is sent."""
        start, end = (datetime.datetime.now(UTC) + datetime.timedelta(days=day) for day in days)
        issued = authority.issue_cert(identity, not_before=start, not_after=end)
        with (
            peers.serving(tls=context_of(issued)) as peer,
            pytest.raises(TargetUnreachable) as caught,
        ):
            get(trusting(authority), f"https://localhost:{peer.port}")

        assert str(caught.value) == f"the target localhost:{peer.port} cannot be reached: {reason}"
        assert peer.requests == []

    def test_a_certificate_for_another_address(self, authority: trustme.CA) -> None:
        """An address is held against the certificate as a name is."""
        with (
            peers.serving(tls=context_of(authority.issue_cert("localhost"))) as peer,
            pytest.raises(TargetUnreachable, match="its certificate is for another name"),
        ):
            get(trusting(authority), f"https://127.0.0.1:{peer.port}")

    def test_an_unknown_authority(self, tls_peer: tuple[Peer, list[str | None]]) -> None:
        """A target that nobody vouches for is not called."""
        peer, _ = tls_peer

        with pytest.raises(TargetUnreachable) as caught:
            get(make_client(), f"https://localhost:{peer.port}")

        assert str(caught.value) == (
            f"the target localhost:{peer.port} cannot be reached:"
            " its certificate is from an unknown authority"
        )
        assert peer.requests == []

    def test_no_common_version(self, authority: trustme.CA) -> None:
        """A target that is too old is said to be that."""
        context = context_of(authority.issue_cert("localhost"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")

        with (
            peers.serving(tls=context) as peer,
            pytest.raises(
                TargetUnreachable, match="it has no TLS version in common with the relay"
            ),
        ):
            get(trusting(authority), f"https://localhost:{peer.port}")

    @pytest.mark.parametrize(
        ("version", "without", "with_another"),
        [
            (
                ssl.TLSVersion.TLSv1_2,
                "it wants a client certificate, or no cipher of the relay",
                "it does not accept the client certificate",
            ),
            (
                ssl.TLSVersion.TLSv1_3,
                "it wants a client certificate",
                "it does not accept the client certificate",
            ),
        ],
        ids=["1.2", "1.3"],
    )
    def test_a_client_certificate(
        self,
        authority: trustme.CA,
        tmp_path: Path,
        version: ssl.TLSVersion,
        without: str,
        with_another: str,
    ) -> None:
        """A target that wants a certificate is shown the operator's, and a refusal is told."""
        context = context_of(authority.issue_cert("localhost"))
        context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
        ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
        for path, issuer in ((ours, authority), (theirs, trustme.CA())):
            path.write_bytes(issuer.issue_cert("relay").private_key_and_cert_chain_pem.bytes())

        with peers.serving(tls=context) as peer:
            url = f"https://localhost:{peer.port}"
            get(trusting(authority, client_cert=ours), url)
            for client_cert, reason in ((None, without), (theirs, with_another)):
                with pytest.raises(TargetFailed) as caught:
                    get(trusting(authority, client_cert=client_cert), url)
                assert str(caught.value).endswith(f": {reason}")

        assert len(peer.requests) == 1

    def test_plain_http_where_tls_belongs(self, client: Client, peer: Peer) -> None:
        """A target without TLS is not called without TLS."""
        peer.talk = lambda connection: connection.sendall(b"HTTP/1.1 400 X\r\n\r\n")  # type: ignore[method-assign]

        with pytest.raises(TargetUnreachable, match="it does not speak TLS"):
            get(client, f"https://127.0.0.1:{peer.port}")

    def test_no_time_is_left_for_a_handshake(self) -> None:
        """A call whose connection took all of its time is late; nothing is wrong with TLS."""
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(requests.ReadTimeout, match="did not answer in full within 0 s"):
            start_tls(ours, "localhost", ssl.create_default_context(), Deadline(0.0))

        assert ours.fileno() == -1

    def test_a_reset_handshake(self, client: Client, peer: Peer) -> None:
        """A connection that ends before there is TLS has no answer to wait for."""
        peer.talk = reset  # type: ignore[method-assign] # before any HTTP

        with pytest.raises(TargetUnreachable, match=r"the connection was (reset|closed)"):
            get(client, f"https://127.0.0.1:{peer.port}")

    @pytest.mark.parametrize("padding", [0, 16_000, 16_300, 20_000, 60_000])
    def test_more_than_the_answer_costs_the_connection(
        self, authority: trustme.CA, tls_peer: tuple[Peer, list[str | None]], padding: int
    ) -> None:
        """No next call is answered with bytes that TLS has read already."""
        peer, _ = tls_peer
        evil = answer_of(200, b"evil")
        fill = b"x" * max(0, padding - len(answer_of(200, b"x" * padding)) + padding)
        peer.on("/more", answer_of(200, fill) + evil)
        peer.on("/next", answer_of(200, b"good"))
        client = trusting(authority)

        for _ in range(5):
            assert get(client, f"https://localhost:{peer.port}/more") == fill
            assert get(client, f"https://localhost:{peer.port}/next") == b"good"

    def test_a_body_that_nobody_reads_over_tls(
        self, authority: trustme.CA, tls_peer: tuple[Peer, list[str | None]]
    ) -> None:
        """The deadline holds for each piece that is sent under TLS as well."""
        peer, _ = tls_peer
        peer.talk = lambda connection: time.sleep(2 * DEADLINE_S)  # type: ignore[method-assign]
        target = target_of(f"https://localhost:{peer.port}")

        with pytest.raises(DeadlineExceeded):
            trusting(authority).call(
                target, method="POST", content=b"x" * 20_000_000, timeout_s=DEADLINE_S
            )

    def test_an_endless_answer_over_tls_ends(
        self, authority: trustme.CA, tls_peer: tuple[Peer, list[str | None]]
    ) -> None:
        """The deadline holds under TLS as well."""
        peer, _ = tls_peer
        peer.on("/", dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"))
        client = trusting(authority)

        with pytest.raises(DeadlineExceeded):
            get(client, f"https://localhost:{peer.port}", DEADLINE_S)


def test_errors_are_no_network_errors() -> None:
    """`requests`' exceptions are OSErrors, and a refusal must not look like one of them."""
    assert not issubclass(RelayError, OSError)
