"""Request bodies, whole and of a bounded size, and problem documents."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zlib

import pytest

from relay.http import Readable, Request, problem, problem_of, read_body
from relay.problems import (
    BrokerUnavailable,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    LoopDetected,
    MethodNotAllowed,
    NotFound,
    RelayError,
    StateUnavailable,
    TargetFailed,
    TargetNotAllowed,
    TargetUnreachable,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
)


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (InvalidRequest("headers.X-A", "must be a string"), 400, "Bad Request"),
        (Unauthorized("no", scheme="Bearer"), 401, "Unauthorized"),
        (Forbidden("no"), 403, "Forbidden"),
        (TargetNotAllowed("no"), 403, "Forbidden"),
        (NotFound("no"), 404, "Not Found"),
        (MethodNotAllowed("GET", "/async", ("POST",)), 405, "Method Not Allowed"),
        (Conflict("no"), 409, "Conflict"),
        (TooLarge("no"), 413, "Content Too Large"),
        (UnsupportedMediaType("no", codings=("gzip",)), 415, "Unsupported Media Type"),
        (TargetFailed("no"), 502, "Bad Gateway"),
        (TargetUnreachable("no"), 502, "Bad Gateway"),
        (BrokerUnavailable("no"), 503, "Service Unavailable"),
        (StateUnavailable("no"), 503, "Service Unavailable"),
        (DeadlineExceeded("no"), 504, "Gateway Timeout"),
        (LoopDetected("no"), 508, "Loop Detected"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RelayError) else None,
)
def test_each_error_has_its_document(error: RelayError, status: int, title: str) -> None:
    """Type, title, status and detail are those of RFC 9457, in JSON of that media type."""
    response = problem_of(error)

    body = b"".join(response.body)
    assert response.status == status
    assert response.headers[:2] == (
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
    )
    assert json.loads(body) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": str(error),
        **error.members,
    }


def test_headers_and_members_are_added() -> None:
    """What an error has to say besides stands in headers and extension members."""
    error = BrokerUnavailable("no", headers=(("Retry-After", "7"),), id="order-17")

    response = problem_of(error)

    assert response.headers[-1] == ("Retry-After", "7")
    assert json.loads(b"".join(response.body))["id"] == "order-17"


def test_any_text_can_be_told() -> None:
    """A detail is UTF-8, even when it quotes half of a surrogate pair (which JSON can write)."""
    response = problem(400, "grüße \ud800")

    assert json.loads(b"".join(response.body))["detail"] == "grüße \ud800"


class Counting(io.BytesIO):
    """A stream that counts what was read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        return piece


def request_of(stream: Readable, content_length: int | None, coding: str | None = None) -> Request:
    headers = {} if coding is None else {"content-encoding": coding}
    return Request(
        method="POST",
        path="/",
        query="",
        headers=headers,
        stream=stream,
        content_length=content_length,
    )


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("size_bytes", [0, 1, 100, 200_000])
def test_a_body_is_read_whole(size_bytes: int, declared: bool) -> None:
    """A body up to the limit comes as it was sent."""
    body = b"x" * size_bytes

    read = read_body(request_of(io.BytesIO(body), size_bytes if declared else None), 200_000)

    assert read == body


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
def test_a_body_over_the_limit(declared: bool) -> None:
    """One byte too many is too large."""
    stream = Counting(b"x" * 101)

    with pytest.raises(TooLarge) as caught:
        read_body(request_of(stream, 101 if declared else None), 100)

    assert str(caught.value) == "the body is larger than 100 bytes (MAX_BODY_BYTES)"


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
def test_an_endless_body(declared: bool) -> None:
    """No more than the limit is read, and the byte that tells."""
    stream = Counting(b"x" * 100_000)

    with pytest.raises(TooLarge):
        read_body(request_of(stream, 100_000 if declared else None), 100)

    assert stream.count <= 101


def test_a_body_that_is_cut_short() -> None:
    """A body shorter than its Content-Length is not taken for a whole one."""
    with pytest.raises(InvalidRequest) as caught:
        read_body(request_of(io.BytesIO(b"{}"), 3), 100)

    assert str(caught.value) == "body has 2 bytes; Content-Length says 3"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


TEXT = b'{"a": 1.50}' * 50


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        pytest.param("gzip", gzip.compress(TEXT), id="gzip"),
        pytest.param("X-GZIP", gzip.compress(TEXT), id="x-gzip"),
        pytest.param("gzip", gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]), id="two members"),
        pytest.param("deflate", zlib.compress(TEXT), id="deflate"),
        pytest.param("deflate", raw_deflate(TEXT), id="deflate without zlib around it"),
        pytest.param("identity", TEXT, id="identity"),
        pytest.param("", TEXT, id="empty"),
    ],
)
def test_a_coded_body_is_decoded(coding: str, sent: bytes) -> None:
    """Both gzip and deflate, as clients send them, are read as what they hold."""
    assert read_body(request_of(io.BytesIO(sent), len(sent), coding), len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("coding", "sent", "message"),
    [
        ("gzip", TEXT, "body is not gzip, as Content-Encoding says"),
        ("deflate", b"\x78\x9c\xff\xff", "body is not deflate, as Content-Encoding says"),
        ("gzip", gzip.compress(TEXT)[:-1], "body ends before its gzip does"),
        ("gzip", gzip.compress(TEXT) + b"more", "body is not gzip, as Content-Encoding says"),
    ],
    ids=["no gzip", "no deflate", "cut short", "something behind it"],
)
def test_a_body_that_is_not_in_its_coding(coding: str, sent: bytes, message: str) -> None:
    """What cannot be decoded whole is refused."""
    with pytest.raises(InvalidRequest) as caught:
        read_body(request_of(io.BytesIO(sent), len(sent), coding), 10_000)

    assert str(caught.value) == message


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br"])
def test_another_coding_is_refused(coding: str) -> None:
    """415 names the codings that are taken."""
    with pytest.raises(UnsupportedMediaType) as caught:
        read_body(request_of(io.BytesIO(TEXT), len(TEXT), coding), 10_000)

    assert caught.value.headers == (("Accept-Encoding", "gzip, deflate"),)
    assert "gzip or deflate" in str(caught.value)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    """However much a small body would become, no more than the limit is made of it."""
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
    tracemalloc.start()

    with pytest.raises(TooLarge) as caught:
        read_body(request_of(io.BytesIO(bomb), len(bomb), coding), 200_000)

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == "the body is larger than 200000 bytes (MAX_BODY_BYTES)"
    assert peak_bytes < 2_000_000
