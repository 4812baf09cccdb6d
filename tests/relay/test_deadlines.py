"""Deadlines: they shut down the sockets of calls that are not done, and no others."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator

import pytest

from relay.deadlines import Deadline
from relay.problems import DeadlineExceeded

TIMEOUT_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection; a read that is never ended fails the test."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    with ours, theirs:
        yield ours, theirs


def passed(seconds: float) -> None:
    """Wait until a deadline of so many seconds, begun now, has shut its socket down."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    with ours, theirs:
        Deadline(seconds, "the test").watch(ours)
        assert ours.recv(1) == b""


def test_a_read_ends_at_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    """What waits for the peer is woken up."""
    ours, _ = pair
    deadline = Deadline(0.1, "the target a.example")
    deadline.watch(ours)

    assert ours.recv(1) == b""
    assert deadline.expired
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.check()
    assert str(caught.value) == "the target a.example did not answer in full within 0.1 s"


def test_calls_that_are_done_do_not_pile_up(pair: tuple[socket.socket, socket.socket]) -> None:
    """However long a call might have taken, it is forgotten not long after it is done."""
    ours, _ = pair
    before = sum(isinstance(each, Deadline) for each in gc.get_objects())
    open_ones = [Deadline(3600, "the test") for _ in range(10)]
    for each in open_ones:
        each.watch(ours)

    for _ in range(5000):
        deadline = Deadline(3600, "the test")
        deadline.watch(ours)
        deadline.done()

    assert sum(isinstance(each, Deadline) for each in gc.get_objects()) - before < 2100
    for each in open_ones:
        each.done()


def test_a_call_that_is_done_is_left_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    """After `done` the socket may serve another call."""
    ours, theirs = pair
    deadline = Deadline(0.05, "the target")
    deadline.watch(ours)
    deadline.done()
    passed(0.1)

    theirs.sendall(b"x")

    assert ours.recv(1) == b"x"
    deadline.check()


def test_the_socket_watched_last_counts(pair: tuple[socket.socket, socket.socket]) -> None:
    """A second socket takes the place of the first."""
    ours, theirs = pair
    other, others_peer = socket.socketpair()
    other.settimeout(TIMEOUT_S)
    with other, others_peer:
        deadline = Deadline(0.1, "the target")
        deadline.watch(ours)
        deadline.watch(other)

        assert other.recv(1) == b""
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"


def test_a_socket_watched_too_late_is_shut_down(pair: tuple[socket.socket, socket.socket]) -> None:
    """A deadline that passed between two sockets holds for the second at once."""
    ours, theirs = pair
    deadline = Deadline(0.05, "the target")
    deadline.watch(ours)
    deadline.done()
    passed(0.1)

    deadline.watch(theirs)

    assert ours.recv(1) == b""


def test_closing_does_not_end_the_watch(pair: tuple[socket.socket, socket.socket]) -> None:
    """Whoever closes or takes over the watched socket, what still reads from it is ended."""
    ours, _ = pair
    stream = ours.makefile("rb")
    Deadline(0.1, "the target").watch(ours)
    ours.close()

    with stream:
        assert stream.read() == b""


def test_many_deadlines_in_any_order() -> None:
    """An earlier deadline that comes later is not held up."""
    pairs = [socket.socketpair() for _ in range(3)]
    deadlines = [Deadline(seconds, "the target") for seconds in (60.0, 0.2, 0.1)]
    start = time.monotonic()
    for deadline, (ours, _) in zip(deadlines, pairs, strict=True):
        ours.settimeout(TIMEOUT_S)
        deadline.watch(ours)

    assert pairs[2][0].recv(1) == b""
    assert pairs[1][0].recv(1) == b""
    assert time.monotonic() - start < TIMEOUT_S
    deadlines[0].done()
    for sockets in pairs:
        for each in sockets:
            each.close()


def test_time_runs_out_and_no_further() -> None:
    """The remaining time ends at 0, fit for a timeout."""
    deadline = Deadline(1e-9, "the target")

    assert deadline.remaining_s == 0.0
    assert deadline.expired
