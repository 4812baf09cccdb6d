"""The gateway routes by Host, and changes nothing that passes it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.calls import Answer, call
from tests.support.processes import free_port, is_listening, python, running, wait_until

SAMPLE_HOST = "sample.example.com"
RAW_HOST = "raw.example.com"
DEAD_HOST = "dead.example.com"


class RawUpstream:
    """A server that keeps the bytes of one request after another, and answers each the same."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: bytes | None = None
        self.is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def expect(self, answer: bytes | None) -> None:
        """Forget the last request, and choose the answer to the next; None never answers."""
        self.received, self.answer, self.is_closed = b"", answer, False

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while piece := connection.recv(65536):
                    self.received += piece
                    if self.answer is not None and b"\r\n\r\n" in self.received:
                        connection.sendall(self.answer)
                        break
                self.is_closed = True


@pytest.fixture(scope="module")
def raw_upstream() -> Iterator[RawUpstream]:
    """Run the upstream whose bytes can be looked at."""
    with contextlib.closing(RawUpstream()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(raw_upstream: RawUpstream) -> Iterator[int]:
    """Run the gateway before the sample API, the raw upstream and a dead one; give its port."""
    port, sample_port = free_port(), free_port()
    routes = {SAMPLE_HOST: sample_port, RAW_HOST: raw_upstream.port, DEAD_HOST: free_port()}
    command = python("-m", "local.gateway", "--port", str(port))
    for host, upstream_port in routes.items():
        command += ["--route", f"{host}=http://127.0.0.1:{upstream_port}"]
    with (
        running(
            python("local/sample_api.py", "--port", str(sample_port)), ready_output="sample API on"
        ),
        running(command, ready_output=f"gateway on http://127.0.0.1:{port}") as process,
    ):
        yield port
    assert process.exit_code == 0
    assert "Traceback" not in process.output


def through(gateway: int, method: str, path: str, body: bytes | None = None) -> Answer:
    """Call the sample API through the gateway."""
    return call(method, f"http://127.0.0.1:{gateway}{path}", body, {"Host": SAMPLE_HOST})


def test_adds_nothing_but_where_the_call_came_from(gateway: int, raw_upstream: RawUpstream) -> None:
    """The path passes as it was written; the headers pass, hop-by-hop ones apart."""
    raw_upstream.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    call(
        "PATCH",
        f"http://127.0.0.1:{gateway}/a%2fb//../c;d?x=%20&y&x=",
        headers={
            "Host": f"{RAW_HOST.upper()}:8080",
            "X-Forwarded-For": "10.0.0.1",
            "Connection": "keep-alive, X-Hop",
            "Keep-Alive": "timeout=1",
            "X-Hop": "1",
            "TE": "trailers",
            "X-End": "caf\xe9",
        },
    )

    assert raw_upstream.received == (
        b"PATCH /a%2fb//../c;d?x=%20&y&x= HTTP/1.1\r\n"
        b"host: RAW.EXAMPLE.COM:8080\r\n"
        b"x-forwarded-for: 10.0.0.1\r\n"
        b"x-end: caf\xe9\r\n"
        b"x-forwarded-for: 127.0.0.1\r\n"
        b"x-forwarded-proto: http\r\n"
        b"\r\n"
    )


def test_passes_the_answer_as_it_came(gateway: int, raw_upstream: RawUpstream) -> None:
    """Status, repeated headers and body are the upstream's; no Server or Date is added."""
    raw_upstream.expect(
        b"HTTP/1.1 599 Whatever\r\nSet-Cookie: a=1; Path=/\r\nset-cookie: b=2\r\n"
        b"Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\nabc"
    )

    answer = call("GET", f"http://127.0.0.1:{gateway}/", headers={"Host": RAW_HOST})

    assert answer == Answer(
        status=599,
        headers=(("Set-Cookie", "a=1; Path=/"), ("set-cookie", "b=2"), ("Content-Length", "3")),
        body=b"abc",
    )


@pytest.mark.parametrize("query", ["", "?chunked=1"], ids=["content-length", "chunked"])
def test_streams_large_bodies(gateway: int, query: str) -> None:
    """A large answer arrives byte for byte, in either framing."""
    answer = through(gateway, "GET", f"/misbehave/bytes/3000000{query}")

    assert answer.body == (bytes(range(256)) * 11719)[:3_000_000]


def test_leaves_compressed_bodies_compressed(gateway: int) -> None:
    """What is gzipped stays so, although nobody asked for it."""
    answer = through(gateway, "GET", "/misbehave/gzip?bytes=1000")

    assert answer.all("Content-Encoding") == ["gzip"]
    assert gzip.decompress(answer.body) == bytes(1000)


def test_answers_head_without_a_body(gateway: int) -> None:
    """A HEAD keeps the Content-Length of the answer it stands for."""
    answer = through(gateway, "HEAD", "/misbehave/bytes/10")

    assert (answer.status, answer.body, answer.all("Content-Length")) == (200, b"", ["10"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_passes_the_body_of_any_method(gateway: int, method: str) -> None:
    """A GET may carry a body as well."""
    answer = through(gateway, method, "/test", b'{"a": 1}')

    assert (answer.json()["method"], answer.json()["body"]) == (method, '{"a": 1}')


def test_passes_chunked_bodies(gateway: int) -> None:
    """A body without a length arrives whole."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway, timeout=10)
    pieces = iter([b"x" * 100_000, b"y"])
    headers = {"Host": SAMPLE_HOST, "Transfer-Encoding": "chunked"}
    connection.request("POST", "/test", pieces, headers, encode_chunked=True)
    echo = connection.getresponse().read()
    connection.close()

    assert b"x" * 100_000 + b"y" in echo


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        (b"Content-Length: 100", b"0123456789"),
        (b"Transfer-Encoding: chunked", b"a\r\n0123456789\r\n"),
    ],
    ids=["content-length", "chunked"],
)
def test_a_request_that_breaks_off_breaks_off_upstream(
    gateway: int, raw_upstream: RawUpstream, framing: bytes, sent: bytes
) -> None:
    """A client that dies within its body never makes a short request that looks complete."""
    raw_upstream.expect(None)
    with socket.create_connection(("127.0.0.1", gateway)) as client:
        head = b"POST / HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n" % (RAW_HOST.encode(), framing)
        client.sendall(head + sent)
        wait_until(lambda: b"0123456789" in raw_upstream.received, 10, "the part that was sent")

    wait_until(lambda: raw_upstream.is_closed, 10, "the end of the connection")
    head, _, body = raw_upstream.received.partition(b"\r\n\r\n")
    assert framing.lower() in head.lower()
    assert body == sent


@pytest.mark.parametrize("query", ["", "?chunked=1"], ids=["content-length", "chunked"])
def test_an_answer_that_breaks_off_breaks_off_here(gateway: int, query: str) -> None:
    """An upstream that dies within its answer never makes a short answer that looks complete."""
    with pytest.raises(http.client.IncompleteRead):
        through(gateway, "GET", f"/misbehave/truncate{query}")


def test_gives_up_the_call_of_a_client_that_left(gateway: int, raw_upstream: RawUpstream) -> None:
    """The upstream sees the connection close when the client does not wait any longer."""
    raw_upstream.expect(None)
    with socket.create_connection(("127.0.0.1", gateway)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % RAW_HOST.encode())
        wait_until(lambda: raw_upstream.received, 10, "the request")

    wait_until(lambda: raw_upstream.is_closed, 10, "the end of the connection")


def test_names_the_known_hosts(gateway: int) -> None:
    """A Host without a service is a 404 that says which there are."""
    answer = call("GET", f"http://127.0.0.1:{gateway}/", headers={"Host": "nope.example.com"})

    assert answer.all("Content-Type") == ["application/problem+json"]
    assert answer.json() == {
        "title": "Not Found",
        "status": 404,
        "detail": "no service has the Host 'nope.example.com';"
        " known: sample.example.com, raw.example.com, dead.example.com",
    }


@pytest.mark.parametrize(
    ("host", "path"),
    [(DEAD_HOST, "/"), (SAMPLE_HOST, "/misbehave/close"), (SAMPLE_HOST, "/misbehave/garbage")],
    ids=["refused", "closed", "not HTTP"],
)
def test_answers_502_for_a_service_that_does_not(gateway: int, host: str, path: str) -> None:
    """A service that cannot be reached, or does not speak HTTP, is a 502."""
    answer = call("GET", f"http://127.0.0.1:{gateway}{path}", headers={"Host": host})

    assert (answer.status, answer.json()["title"]) == (502, "Bad Gateway")
    assert "does not answer" in str(answer.json()["detail"])


def test_stops_although_a_call_is_open() -> None:
    """SIGTERM ends it with exit code 0, also while an upstream takes its time."""
    port, sample_port = free_port(), free_port()
    route = f"{SAMPLE_HOST}=http://127.0.0.1:{sample_port}"
    with (
        running(
            python("local/sample_api.py", "--port", str(sample_port)), ready_output="sample API on"
        ),
        running(
            python("-m", "local.gateway", "--port", str(port), "--route", route),
            ready_output="gateway on",
        ) as process,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(
            b"GET /misbehave/slow/60 HTTP/1.1\r\nHost: %s\r\n\r\n" % SAMPLE_HOST.encode()
        )
        wait_until(
            lambda: b"slow" in call("GET", f"http://127.0.0.1:{sample_port}/calls").body,
            10,
            "the call",
        )
        process.send_signal(signal.SIGTERM)
        exit_code = process.wait()

    assert exit_code == 0
    assert not is_listening(port)


def test_says_when_its_port_is_taken() -> None:
    """A port that cannot be had ends it with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(python("-m", "local.gateway", "--port", str(port))) as process:
            exit_code = process.wait()

    assert exit_code == 1
    assert process.output == f"gateway: port {port}: Address already in use\n"
