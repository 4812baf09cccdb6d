"""Request bodies: whole, of a bounded size, or refused."""

from __future__ import annotations

import io

import pytest

from relay.http import read_body
from relay.problems import InvalidRequest, TooLarge


class Counting(io.BytesIO):
    """A stream that counts what was read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        return piece


class Broken:
    """A stream of a client that dies."""

    def read(self, size: int, /) -> bytes:
        raise ConnectionResetError


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("size_bytes", [0, 1, 100, 200_000])
def test_a_body_is_read_whole(size_bytes: int, declared: bool) -> None:
    """A body up to the limit comes as it was sent."""
    body = b"x" * size_bytes

    read = read_body(io.BytesIO(body), size_bytes if declared else None, 200_000)

    assert read == body


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
def test_a_body_over_the_limit(declared: bool) -> None:
    """One byte too many is too large; the rest is read, for clients that send before they read."""
    stream = Counting(b"x" * 101)

    with pytest.raises(TooLarge) as caught:
        read_body(stream, 101 if declared else None, 100)

    assert str(caught.value) == "the body is larger than 100 bytes (MAX_BODY_BYTES)"
    assert stream.count == 101


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
def test_an_endless_body(declared: bool) -> None:
    """No more than a few times the limit is ever read."""
    stream = Counting(b"x" * 100_000)

    with pytest.raises(TooLarge):
        read_body(stream, 100_000 if declared else None, 100)

    assert stream.count < 1000


def test_a_body_that_is_cut_short() -> None:
    """A body shorter than its Content-Length is not taken for a whole one."""
    with pytest.raises(InvalidRequest) as caught:
        read_body(io.BytesIO(b"{}"), 3, 100)

    assert str(caught.value) == "body has 2 bytes; Content-Length says 3"


def test_a_client_that_dies() -> None:
    """An error of the connection is told as what it means."""
    with pytest.raises(InvalidRequest) as caught:
        read_body(Broken(), None, 100)

    assert str(caught.value) == "body broke off before its end"
