"""The Broker's client, against servers that answer as the bytes of a test say."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from local.broker.connections import MAX_ANSWER_BYTES, Answer, Connections
from relay.responses import BrokenAnswer

T = TypeVar("T")

EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(kw_only=True, slots=True)
class Server:
    """Answers each request with the next of its answers, which may hold pauses.

    Attributes:
        url: where it listens.
        requests: the head of each.
        connections: how many it took.
        closes: whether it closes a connection after each answer.
    """

    answers: Sequence[bytes]
    closes: bool = False
    url: str = ""
    requests: list[str] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await self._head(reader):
            self.requests.append(head)
            for piece in self.answers[len(self.requests) - 1].split(b"<pause>"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if self.closes:
                break
        writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> str:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        await reader.readexactly(int(length or 0))
        return head


def run(server: Server, use: Callable[[Connections], Awaitable[T]]) -> T:
    """Use a client while the server runs."""

    async def main() -> T:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        client = Connections()
        try:
            return await use(client)
        finally:
            client.close()
            listening.close()
            await asyncio.sleep(0.02)

    return asyncio.run(main())


def post(server: Server, path: str = "/", *, timeout_s: float = 10) -> Answer:
    """Post an event, once."""
    return run(
        server,
        lambda client: client.post(
            f"{server.url}{path}", {"ce-id": "1"}, b"data", timeout_s=timeout_s
        ),
    )


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", b"body", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nbo\r\n<pause>2\r\ndy\r\n0\r\n\r\n",
            b"body",
            id="chunked",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nbo<pause>dy", b"body", id="until it is closed"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n<pause>"
            b"HTTP/1.1 200 OK\r\nContent-Le<pause>ngth: 4\r\n\r\nbo<pause>dy",
            b"body",
            id="in pieces",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"body", mtime=0),
            b"body",
            id="gzip",
        ),
    ],
)
def test_reads_the_whole_body(raw: bytes, body: bytes) -> None:
    """However it is framed, and however its bytes arrive."""
    answer = post(Server(answers=[raw], closes=True))

    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        pytest.param(b"", "closed the connection unanswered", id="nothing"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody", "broke off its answer", id="half"
        ),
        pytest.param(b"SSH-2.0-x\r\n", "sent what is not HTTP/1.1", id="another protocol"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
            r"Not a gzipped file \(b'bo'\)",
            id="no gzip",
        ),
    ],
)
def test_says_what_is_wrong_with_an_answer(raw: bytes, problem: str) -> None:
    """An answer that breaks off, or is none, is an error and never a short body."""
    with pytest.raises(Exception, match=problem):
        post(Server(answers=[raw], closes=True))


def test_a_connection_that_is_closed_at_once_is_an_error() -> None:
    """A server that hangs up before it is asked does not keep the delivery until its timeout."""

    async def slow_down() -> None:
        while True:
            time.sleep(0.02)  # between any two steps of the client
            await asyncio.sleep(0)

    async def post_to(url: str) -> None:
        slowing = asyncio.create_task(slow_down())
        try:
            await Connections().post(url, {}, b"", timeout_s=60)
        finally:
            slowing.cancel()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
        hanging_up.start()
        with pytest.raises(BrokenAnswer, match="closed the connection"):
            asyncio.run(post_to(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        hanging_up.join()


def test_a_bomb_is_read_up_to_the_bound() -> None:
    """What grows when it is unpacked counts as it has grown."""
    body = gzip.compress(bytes(50 * MAX_ANSWER_BYTES), mtime=0)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)

    answer = post(Server(answers=[head + body], closes=True))

    assert len(answer.body) == MAX_ANSWER_BYTES + 1


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        pytest.param(EMPTY, 1, id="kept"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 2, id="close"),
        pytest.param(EMPTY + b"HTTP/1.1 200 OK\r\n", 2, id="more than the answer"),
    ],
)
def test_connections_are_kept(first: bytes, connections: int) -> None:
    """The next request goes out on the same connection, unless the answer forbids it."""
    server = Server(answers=[first, EMPTY])

    async def twice(client: Connections) -> list[int]:
        answers = [await client.post(server.url, {}, b"", timeout_s=10) for _ in range(2)]
        return [answer.status for answer in answers]

    assert run(server, twice) == [204, 204]
    assert server.connections == connections


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    """A server that closes idle connections costs no delivery."""
    server = Server(answers=[EMPTY, EMPTY], closes=True)

    async def twice(client: Connections) -> int:
        await client.post(server.url, {}, b"", timeout_s=10)
        await asyncio.sleep(0.1)
        return (await client.post(server.url, {}, b"", timeout_s=10)).status

    assert run(server, twice) == 204
    assert server.connections == 2


def test_redirects_end() -> None:
    """After ten requests for one event it is an error."""
    there = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    server = Server(answers=[there] * 20)

    with pytest.raises(Exception, match="redirected 10 times"):
        post(server)
    assert len(server.requests) == 10


def test_a_redirect_to_another_scheme_is_refused() -> None:
    """Only HTTP is spoken."""
    there = (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: ftp://a.test/\r\nContent-Length: 0\r\n\r\n"
    )

    with pytest.raises(ValueError, match="ftp is not HTTP"):
        post(Server(answers=[there]))


def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    """The bound holds for the whole answer, whose first bytes came in time."""
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b"<pause>x" * 99

    with pytest.raises(asyncio.TimeoutError):
        post(Server(answers=[slow]), timeout_s=0.2)


def test_names_its_user() -> None:
    """User and password of a URL are sent as Basic (RFC 7617), and not as part of the target."""
    server = Server(answers=[EMPTY])

    run(
        server,
        lambda client: client.post(
            server.url.replace("//", "//me:pass@") + "/a?b=c", {}, b"", timeout_s=10
        ),
    )

    (request,) = server.requests
    assert request.startswith("POST /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:")
    assert "\r\nauthorization: Basic bWU6cGFzcw==\r\n" in request
