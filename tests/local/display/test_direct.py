"""Send, observed: what does not pass the Broker is told to the display, and nothing is changed."""

from __future__ import annotations

import io
from collections.abc import Iterator

import msgspec
import pytest

from local.display.direct import Call, Observer
from relay.http import Request, Response, problem, read_body
from tests.support.peers import Peer, answer_of, serving
from tests.support.processes import wait_until


@pytest.fixture
def display() -> Iterator[Peer]:
    with serving() as peer:
        peer.on("/calls", lambda connection: connection.sendall(answer_of(204, b"")))
        yield peer


def request(method: str, path: str, body: bytes = b"{}") -> Request:
    return Request(
        method=method,
        path=path,
        query="",
        headers={"content-type": "application/json"},
        stream=io.BytesIO(body),
        content_length=len(body),
    )


class Streamed:
    """A target's answer, which comes piece by piece."""

    is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"one ", b"two")

    def close(self) -> None:
        self.is_closed = True


def passed(display: Peer, asked: Request, answer: Response) -> bytes:
    """Pass a request that is answered so through an Observer; return what the caller gets."""

    def handle(watched: Request) -> Response:
        read_body(watched, 1_000_000)
        return answer

    response = Observer(display.url).watch(asked, handle)
    body = b"".join(response.body)
    close = getattr(response.body, "close", None)
    if close is not None:
        close()
    return body


def told(display: Peer) -> list[Call]:
    """Return what the display was told."""
    wait_until(lambda: display.requests, 5, "what the display is told")
    return msgspec.json.decode(display.requests[-1].body, type=list[Call])


def test_an_answer_of_a_target_is_told() -> None:
    """Both messages in full; the caller gets every piece, and the answer is closed."""
    body = Streamed()
    with serving() as peer:
        peer.on("/calls", lambda connection: connection.sendall(answer_of(204, b"")))
        answer = Response(status=201, headers=(("X-A", "b"),), body=body)
        got = passed(peer, request("PUT", "/sync", b'{"a": 1}'), answer)
        (call,) = told(peer)

    assert got == b"one two"
    assert body.is_closed
    assert (call.method, call.path, call.status, call.by_target) == ("PUT", "/sync", 201, True)
    assert call.request.body == b'{"a": 1}'
    assert (call.answer.headers, call.answer.body) == ((("X-A", "b"),), b"one two")


@pytest.mark.parametrize("path", ["/sync", "/async", "/event"])
def test_a_refusal_is_told(display: Peer, path: str) -> None:
    """Whatever route it is from: no event tells of it."""
    passed(display, request("POST", path), problem(400, "targetURL is missing"))

    (call,) = told(display)
    assert (call.path, call.status, call.by_target) == (path, 400, False)
    assert b"targetURL is missing" in call.answer.body


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("POST", "/async", Response.empty(202)),
        ("POST", "/sync", Response.empty(202, (("Preference-Applied", "respond-async"),))),
        ("POST", "/async", Response.empty(404, (("Preference-Applied", "wait=5"),))),
        ("GET", "/async/7", problem(404, "unknown")),
        ("POST", "/event/dead-letter", problem(403, "no MAC")),
    ],
    ids=["accepted", "accepted by /sync", "waited for", "status", "the Broker's"],
)
def test_what_is_seen_elsewhere_is_not_told(
    display: Peer, method: str, path: str, answer: Response
) -> None:
    """Events are in the Broker's activity; the rest is no call."""
    observer = Observer(display.url)

    assert observer.watch(request(method, path), lambda _: answer) is answer


def test_long_bodies_are_cut(display: Peer) -> None:
    """The caller gets all of them."""
    long = b"x" * 300_000

    assert (
        passed(display, request("POST", "/sync", long), Response(status=200, body=[long])) == long
    )

    (call,) = told(display)
    assert (len(call.request.body), call.request.is_cut) == (256 * 1024, True)
    assert (len(call.answer.body), call.answer.is_cut) == (256 * 1024, True)


def test_a_display_that_is_away_costs_nothing() -> None:
    """More calls than can wait are answered all the same."""
    observer = Observer("http://127.0.0.1:9")
    for _ in range(3000):
        answer = observer.watch(request("POST", "/sync"), lambda _: Response.empty(200))
        answer.body.close()  # type: ignore[attr-defined]
