"""What becomes of an answer, however odd: for who called `/sync`, and for the Broker."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

import h11
import pytest

from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer
from tests.support.processes import wait_until

TIMEOUT_S = 1.0
# The relay's own limit; what is one byte longer is too long.
MAX_HEAD_BYTES = 65_536

CUT = "cut"
BAD_GATEWAY = "502"
TOO_LATE = "504"

OK = b"HTTP/1.1 200 OK\r\n"
TWO = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = OK + CHUNKED + b"\r\n"
WHOLE = OK + TWO + b"\r\nok"


@dataclass(frozen=True, slots=True)
class Case:
    """An answer, and what becomes of it.

    Args:
        raw: what the target sends before it closes the connection.
        sync: what the caller of `/sync` may see: status and body, `502`, `504`, or that the
            connection is cut before the body ends.
        post: what Receive answers the Broker about a POST: the ending of the event, or `retried`.
        broken: the target's answer is not all there: `truncated`, and called again by GET.
        reason: in the detail of the 502, and in `truncatedReason`.
        seen: headers that the caller sees, with their exact values.
        unseen: a name that no caller sees.
        for_ever: sent again and again until the relay closes.
    """

    raw: bytes
    sync: tuple[str, ...] = ("200 ok",)
    post: str = "completed"
    broken: bool = False
    reason: str = ""
    seen: tuple[tuple[bytes, bytes], ...] = ()
    unseen: bytes = b""
    for_ever: bytes = b""


def fine(
    raw: bytes, *sync: str, seen: tuple[bytes, bytes] | None = None, unseen: bytes = b""
) -> Case:
    """Make the case of an answer that is passed on."""
    return Case(raw, sync or ("200 ok",), seen=(seen,) if seen else (), unseen=unseen)


def broken(raw: bytes, reason: str, *sync: str, for_ever: bytes = b"", unseen: bytes = b"") -> Case:
    """Make the case of a final status whose answer is no good."""
    sync = sync or (BAD_GATEWAY,)
    return Case(raw, sync, broken=True, reason=reason, for_ever=for_ever, unseen=unseen)


def none(raw: bytes, reason: str, *sync: str, for_ever: bytes = b"") -> Case:
    """Make the case of no final status."""
    return Case(raw, sync or (BAD_GATEWAY,), "retried", reason=reason, for_ever=for_ever)


def fields(count: int) -> bytes:
    return b"".join(b"X-%d: y\r\n" % number for number in range(count))


def of_length(length: int) -> bytes:
    """Write a head of this length."""
    start, end = OK + TWO + b"X-A: ", b"\r\n\r\n"
    return start + b"a" * (length - len(start) - len(end)) + end


NOT_HTTP = "sent what is not HTTP/1.1"
TOO_LARGE = "sent a head of more than 65536 bytes"
BROKE_OFF = "broke off its answer"
LATE = "did not answer in full within 1 s"
CODING = "sent a transfer coding other than chunked"

CASES = {
    # Heads.
    "plain": fine(WHOLE),
    "no reason phrase": fine(b"HTTP/1.1 200\r\n" + TWO + b"\r\nok"),
    "a reason phrase of any bytes": fine(b"HTTP/1.1 200 \xff\t \r\n" + TWO + b"\r\nok"),
    "an empty line in front": fine(b"\r\n" + WHOLE),
    "lines that end in LF": fine(WHOLE.replace(b"\r\n", b"\n")),
    "one line that ends in LF": fine(OK + b"X-A: a\n" + TWO + b"\r\nok", seen=(b"X-A", b"a")),
    "101 headers": fine(OK + fields(101) + TWO + b"\r\nok", seen=(b"X-100", b"y")),
    "5,000 headers": fine(OK + fields(5000) + TWO + b"\r\nok", seen=(b"X-4999", b"y")),
    "10,000 headers": broken(OK + fields(10_000) + TWO + b"\r\nok", TOO_LARGE),
    "a head of 64 KiB": fine(of_length(MAX_HEAD_BYTES) + b"ok"),
    "a head of 64 KiB and a byte": broken(of_length(MAX_HEAD_BYTES + 1) + b"ok", TOO_LARGE),
    "a header of 1 MB": broken(of_length(1_000_000) + b"ok", TOO_LARGE),
    "an empty value": fine(OK + b"X-A:\r\n" + TWO + b"\r\nok", seen=(b"X-A", b"")),
    "white space around a value": fine(
        OK + b"X-A:\t a b \t\r\n" + TWO + b"\r\nok", seen=(b"X-A", b"a b")
    ),
    "three cookies, one twice": Case(
        OK + b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nSet-Cookie: a=1\r\n" + TWO + b"\r\nok",
        seen=tuple((b"Set-Cookie", value) for value in (b"a=1", b"b=2", b"a=1")),
    ),
    "a redirect": Case(
        b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n",
        ("302 ",),
        "failed",
        seen=((b"Location", b"/next"),),
    ),
    "a header that is listed in Connection": fine(
        OK + b"Connection: X-A\r\nX-A: a\r\n" + TWO + b"\r\nok", unseen=b"X-A"
    ),
    "a folded header": broken(OK + b"X-A: a\r\n  b\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a fold first of all": broken(OK + b" X: y\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a line without a colon": broken(OK + b"foo\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a header without a name": broken(OK + b": y\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a space in a name": broken(OK + b"X A: y\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a space before a colon": broken(OK + b"X-A : y\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a control character in a name": broken(OK + b"X\x01: y\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a control character in a value": broken(OK + b"X: \x01\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "NUL in a value": broken(OK + b"X-A: a\0b\r\n" + TWO + b"\r\nok", NOT_HTTP, unseen=b"X-A"),
    "CR in a value": broken(
        OK + b"X-A: a\rSet-Cookie: b\r\n" + TWO + b"\r\nok", NOT_HTTP, unseen=b"Set-Cookie"
    ),
    "headers cut off": broken(OK + b"Content-Type: text/plain\r\nContent-Le", BROKE_OFF),
    "a status line and no more": broken(OK, BROKE_OFF),
    "headers for ever": broken(OK, TOO_LARGE, BAD_GATEWAY, TOO_LATE, for_ever=b"X: y\r\n" * 50),
    "folds for ever": broken(
        OK + b"X: y\r\n", TOO_LARGE, BAD_GATEWAY, TOO_LATE, for_ever=b" f\r\n" * 50
    ),
    # Interim answers.
    "100, then 200": fine(b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE),
    "103 fifty times, then 200": fine(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 50 + WHOLE, unseen=b"Link"
    ),
    "104, then 200": fine(b"HTTP/1.1 104 X\r\nLocation: /u\r\n\r\n" + WHOLE, unseen=b"Location"),
    "103 with a length, then 200": fine(b"HTTP/1.1 103 X\r\nContent-Length: 9\r\n\r\n" + WHOLE),
    "interim heads of more than 64 KiB": none(
        b"HTTP/1.1 103 X\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"
        b"HTTP/1.1 103 X\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n" + WHOLE,
        TOO_LARGE,
    ),
    "199, then the end": none(b"HTTP/1.1 199 X\r\n\r\n", "closed the connection unanswered"),
    "103, then nonsense": none(b"HTTP/1.1 103 X\r\n\r\nnonsense\r\n", NOT_HTTP),
    "100 for ever": none(
        b"", TOO_LARGE, BAD_GATEWAY, TOO_LATE, for_ever=b"HTTP/1.1 100 Continue\r\n\r\n" * 20
    ),
    "101": none(
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        "switched to a protocol that was not asked for",
    ),
    "101 without a word": none(b"HTTP/1.1 101 X\r\n\r\n", "switched to a protocol"),
    # Status lines.
    "nothing": none(b"", "closed the connection unanswered"),
    "half a status line": none(b"HTTP/1.1 20", BROKE_OFF),
    "a status line without its end": none(b"HTTP/1.1 200 OK", BROKE_OFF),
    "status 099": none(b"HTTP/1.1 099 X\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "status 20": none(b"HTTP/1.1 20 X\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "status 2000": none(b"HTTP/1.1 2000 X\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "status +20": none(b"HTTP/1.1 +20 X\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "status abc": none(b"HTTP/1.1 abc X\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "a space in front": none(b" " + WHOLE, NOT_HTTP),
    "two spaces": none(b"HTTP/1.1  200 OK\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "HTTP/2.0": none(b"HTTP/2.0 200 OK\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "HTTP/0.9": none(b"HTTP/0.9 200 OK\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "RTSP": none(b"RTSP/1.0 200 OK\r\n" + TWO + b"\r\nok", NOT_HTTP),
    "SSH": none(b"SSH-2.0-OpenSSH_9\r\n", NOT_HTTP),
    "TLS": none(b"\x15\x03\x01\x00\x02\x02\x46", NOT_HTTP),
    # Bodies with a length.
    "the same length twice": fine(OK + TWO + TWO + b"\r\nok"),
    "the same length three times": fine(
        OK + TWO + b"X: y\r\ncontent-length:2 \r\n" + TWO + b"\r\nok"
    ),
    "more than the length": fine(WHOLE + b"EXTRA"),
    "a second answer": fine(WHOLE + OK + b"Content-Length: 4\r\n\r\nevil"),
    "less than the length": broken(
        OK + b"Content-Length: 10\r\n\r\nok", BROKE_OFF, BAD_GATEWAY, CUT
    ),
    "a length and no body": broken(OK + b"Content-Length: 10\r\n\r\n", BROKE_OFF),
    "length -1": broken(OK + b"Content-Length: -1\r\n\r\nok", NOT_HTTP),
    "length +2": broken(OK + b"Content-Length: +2\r\n\r\nok", NOT_HTTP),
    "length 1_0": broken(OK + b"Content-Length: 1_0\r\n\r\n0123456789", NOT_HTTP),
    "length 0x2": broken(OK + b"Content-Length: 0x2\r\n\r\nok", NOT_HTTP),
    "length of nothing": broken(OK + b"Content-Length:\r\n\r\nok", NOT_HTTP),
    "length 2, 5": broken(OK + b"Content-Length: 2, 5\r\n\r\nhello", NOT_HTTP),
    "two lengths": broken(OK + TWO + b"Content-Length: 5\r\n\r\nhello", NOT_HTTP),
    "a length beyond 64 bits": broken(
        OK + b"Content-Length: 99999999999999999999\r\n\r\nok", NOT_HTTP
    ),
    "a length and chunks": fine(
        OK + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n",
        unseen=b"Content-Length",
    ),
    "length 2, 2": fine(OK + b"Content-Length: 2, 2\r\n\r\nok", seen=(b"Content-Length", b"2")),
    "204 with a body": Case(
        b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nhello", ("204 ",), unseen=b"Content-Length"
    ),
    "304 with a length": Case(b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", ("304 ",), "failed"),
    # Bodies that the end of the connection ends.
    "no length": fine(OK + b"\r\nok"),
    "HTTP/1.0": fine(b"HTTP/1.0 200 OK\r\n\r\nok"),
    "a body for ever": broken(OK + b"\r\n", LATE, CUT, for_ever=b"x"),
    # Chunks.
    "chunks": fine(IN_CHUNKS + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"),
    "chunked on two lines": fine(OK + CHUNKED + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n"),
    "CHUNKED": fine(OK + b"transfer-encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "chunks and more": fine(IN_CHUNKS + b"2\r\nok\r\n0\r\n\r\nEXTRA"),
    "a chunk extension": fine(IN_CHUNKS + b'2;a="b"\r\nok\r\n0;c\r\n\r\n'),
    "a size with zeros": fine(IN_CHUNKS + b"0002\r\nok\r\n000\r\n\r\n"),
    "a trailer": fine(IN_CHUNKS + b"2\r\nok\r\n0\r\nX-T: evil\r\n\r\n", unseen=b"X-T"),
    "a length as a trailer": fine(IN_CHUNKS + b"2\r\nok\r\n0\r\nContent-Length: 99\r\n\r\n"),
    "a broken trailer": fine(IN_CHUNKS + b"2\r\nok\r\n0\r\nfoo\r\n\r\n"),
    "chunks in HTTP/1.0": fine(b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n"),
    "chunks broken off": broken(IN_CHUNKS + b"2\r\nok\r\n", BROKE_OFF, BAD_GATEWAY, CUT),
    "no end of trailers": broken(IN_CHUNKS + b"2\r\nok\r\n0\r\n", BROKE_OFF, BAD_GATEWAY, CUT),
    "size 0x5": broken(IN_CHUNKS + b"0x5\r\nhello\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "size +5": broken(IN_CHUNKS + b"+5\r\nhello\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "size -5": broken(IN_CHUNKS + b"-5\r\nhello\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "size 1_0": broken(
        IN_CHUNKS + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT
    ),
    "size zzz": broken(IN_CHUNKS + b"zzz\r\nhello\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "no size": broken(IN_CHUNKS + b"\r\nok\r\n0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "a size beyond 64 bits": broken(
        IN_CHUNKS + b"fffffffffffffffff\r\nok", NOT_HTTP, BAD_GATEWAY, CUT
    ),
    "no CRLF after a chunk": broken(IN_CHUNKS + b"2\r\nokX0\r\n\r\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "LF after a size": broken(IN_CHUNKS + b"2\nok\n0\n\n", NOT_HTTP, BAD_GATEWAY, CUT),
    "chunks of a byte for ever": broken(IN_CHUNKS, LATE, CUT, for_ever=b"1\r\nx\r\n" * 50),
    "an extension for ever": broken(
        IN_CHUNKS + b"2;", "of trailers or extensions", for_ever=b"a" * 500
    ),
    "trailers for ever": broken(
        IN_CHUNKS + b"2\r\nok\r\n0\r\n", "of trailers or extensions", CUT, for_ever=b"X: y\r\n" * 50
    ),
    # Transfer codings.
    "identity": broken(OK + b"Transfer-Encoding: identity\r\n\r\nok", CODING),
    "identity and a length": broken(
        OK + b"Transfer-Encoding: identity\r\n" + TWO + b"\r\nok", CODING
    ),
    "gzip, chunked": broken(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", CODING),
    "chunked, gzip": broken(OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", CODING),
    "xchunked": broken(OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", CODING),
    "\\x0bchunked": broken(OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", NOT_HTTP),
    "no coding": broken(OK + b"Transfer-Encoding:\r\n\r\nok", NOT_HTTP),
    # Statuses that are tried again, and one that is not.
    "503, broken off": Case(
        b"HTTP/1.1 503 X\r\nContent-Length: 10\r\n\r\nok", ("503 ok, cut", BAD_GATEWAY), "retried"
    ),
    "503, headers cut off": Case(b"HTTP/1.1 503 X\r\nConte", (BAD_GATEWAY,), "retried"),
    "429, headers cut off": Case(b"HTTP/1.1 429 X\r\nConte", (BAD_GATEWAY,), "retried"),
    "404, headers cut off": Case(
        b"HTTP/1.1 404 X\r\nConte", (BAD_GATEWAY,), "failed", broken=True, reason=BROKE_OFF
    ),
}


def answering(case: Case) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(case.raw)
        with suppress(OSError):  # the relay has closed
            while case.for_ever:
                connection.sendall(case.for_ever)

    return talk


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        for number, case in enumerate(CASES.values()):
            peer.on(f"/{number}", answering(case))
        yield peer


@pytest.fixture(autouse=True)
def closed(target: Peer) -> Iterator[None]:
    """Let the target close its connections: a POST that meets that fails, as it may."""
    yield
    wait_until(lambda: target.ended == target.connections, 20, "the end of each connection")


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    # One target gives all the answers: its breaker must not open for those that never come.
    return {
        "ALLOWED_TARGETS": "127.0.0.1",
        "TARGET_TIMEOUT_S": str(TIMEOUT_S),
        "BREAKER_FAILURES": "0",
    }


@pytest.fixture(scope="module")
def send(env: dict[str, str]) -> Iterator[Function]:
    with serving("send", env) as function:
        yield function


@pytest.fixture(scope="module")
def receive(env: dict[str, str]) -> Iterator[Function]:
    with serving("receive", env) as function:
        yield function


def envelope(target: Peer, name: str, **fields: str) -> bytes:
    path = f"/{list(CASES).index(name)}"
    return json.dumps({"targetURL": target.url, "targetAPI": path, **fields}).encode()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the caller of `/sync` sees, and whether it is all there."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool

    def __str__(self) -> str:
        text = f"{self.status} {self.body.decode()}"
        return text if self.whole else f"{text}, cut"


def post(send: Function, body: bytes) -> Seen:
    """Post to `/sync`; the bytes of the answer are taken as they are, to their end."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * MAX_HEAD_BYTES)
    head = h11.Request(
        method="POST",
        target="/sync",
        headers=[("Host", "send"), ("Content-Length", str(len(body))), ("Connection", "close")],
    )
    status, received, whole = 0, b"", False
    headers: list[tuple[bytes, bytes]] = []
    with socket.create_connection(("127.0.0.1", send.port), timeout=peers.TIMEOUT_S) as connection:
        connection.sendall(
            b"".join(
                client.send(each) or b"" for each in (head, h11.Data(data=body), h11.EndOfMessage())
            )
        )
        with suppress(h11.RemoteProtocolError, ConnectionResetError):
            while not whole:
                event = client.next_event()
                if event is h11.NEED_DATA:
                    client.receive_data(connection.recv(65536))
                elif isinstance(event, h11.Response):
                    status, headers = event.status_code, list(event.headers)
                elif isinstance(event, h11.Data):
                    received += event.data
                elif isinstance(event, h11.EndOfMessage):
                    whole = True
    return Seen(status, headers, received, whole)


@pytest.mark.parametrize("name", CASES)
def test_the_caller_of_sync_sees_it(send: Function, target: Peer, name: str) -> None:
    """A good answer is passed on; of any other the caller hears the reason while that can be."""
    case = CASES[name]
    target.requests.clear()

    seen = post(send, envelope(target, name))

    assert len(target.requests) == 1
    if seen.status in (502, 504) and seen.whole:
        assert str(seen.status) in case.sync
        detail = json.loads(seen.body)["detail"]
        assert detail.startswith(f"the target 127.0.0.1:{target.port} ")
        assert (LATE if seen.status == 504 else case.reason) in detail
    elif not seen.whole and CUT in case.sync:
        assert seen.status in (0, 200)
    else:
        assert str(seen) in case.sync
        named = [(key.lower(), value) for key, value in seen.headers]
        for key, _ in case.seen:
            expected = [value for each, value in case.seen if each == key]
            assert [value for each, value in named if each == key.lower()] == expected
        assert not case.unseen or case.unseen.lower() not in dict(named)


def deliver(receive: Function, body: bytes) -> tuple[str, dict[str, object]]:
    """Deliver an event; return the ending of the event that comes back, or `retried`."""
    event = {"Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "test", "Ce-Type": "test"}
    answer = call("POST", receive.url, body, {**event, "Content-Type": "application/json"})
    assert answer.status == 200
    ending = answer.all("ce-type")[0].rpartition(".")[2]
    if ending == "retry1":
        return "retried", {"detail": unquote(answer.all("ce-relayreason")[0])}
    return ending, answer.json()


@pytest.mark.parametrize("name", CASES)
def test_the_broker_hears_of_a_post(receive: Function, target: Peer, name: str) -> None:
    """A final status decides: what is broken after it shortens the result, and is told."""
    case = CASES[name]
    target.requests.clear()

    ending, data = deliver(receive, envelope(target, name, method="POST"))

    assert (ending, len(target.requests)) == (case.post, 1)
    if ending == "retried":
        assert case.reason in str(data["detail"])
    else:
        reason = str(data.get("truncatedReason", ""))
        assert data.get("truncated", False) is case.broken
        assert (case.reason in reason and bool(reason) is case.broken) or (
            case.for_ever and (LATE in reason or "longer than" in reason)
        )


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("name", ["less than the length", "headers cut off", "size zzz"])
def test_what_is_harmless_is_called_again(
    receive: Function, target: Peer, name: str, method: str
) -> None:
    """A broken answer to an idempotent method is worth another call (RFC 9110 section 9.2.2)."""
    ending, _ = deliver(receive, envelope(target, name, method=method))

    assert ending == ("completed" if method == "PATCH" else "retried")
