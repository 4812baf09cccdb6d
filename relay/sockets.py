"""Open sockets to the very addresses that the look-up returned and the policy judged."""

from __future__ import annotations

import queue
import socket
import time
from functools import partial

import requests

from relay.egress import Policy
from relay.leaving import Cut
from relay.lookups import Lookups
from relay.reasons import reason_of
from relay.urls import IPAddress, Origin


class Deadline:
    """The end of a time from now on.

    Args:
        cut: ends what waits before that.
    """

    def __init__(self, seconds: float, cut: Cut | None = None) -> None:
        self.cut = cut or Cut()
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def step_s(self) -> float:
        """Return how long the next step may take: all that is left.

        Raises:
            requests.ReadTimeout: nothing is left.
        """
        if left_s := self.left_s:
            return left_s
        raise self.error()

    def error(self) -> requests.ReadTimeout:
        return requests.ReadTimeout(f"did not answer in full within {round(self._seconds, 3):g} s")


def shut_down(sock: socket.socket) -> None:
    """End all waits on a socket, of whatever thread."""
    # Not TLS's own method, which must not be called while another thread reads.
    socket.socket.shutdown(sock, socket.SHUT_RDWR)


def connect(origin: Origin, policy: Policy, budget: Deadline, lookups: Lookups) -> socket.socket:
    """Open a socket to the first permitted address that answers, each within its share of a budget.

    Raises:
        TargetNotAllowed, requests.ConnectionError: see `permitted`; or no address answers.
    """
    addresses = permitted(origin, policy, budget, lookups)
    reason = ""
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        if budget.cut.is_cut:
            break
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        try:
            sock.settimeout(max(budget.left_s / left, 0.001))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            budget.cut.ends_by(partial(shut_down, sock))
            sock.connect((str(address), origin.port))
        except OSError as exc:
            sock.close()
            reason = reason_of(exc)
        else:
            return sock
    raise requests.ConnectionError(reason)


def permitted(
    origin: Origin, policy: Policy, budget: Deadline, lookups: Lookups
) -> list[IPAddress]:
    """Look the host up once and judge each address: none leaves here that was not judged.

    Raises:
        TargetNotAllowed: the policy permits none of the addresses.
        requests.ConnectionError: the name cannot be looked up, or not in time.
    """
    if origin.address is not None:
        return policy.permitted(origin, [origin.address])
    results = lookups.ask(origin)
    budget.cut.ends_by(partial(results.put, TimeoutError()))
    try:
        result = results.get(timeout=budget.left_s)
    except queue.Empty as exc:
        raise requests.ConnectionError("its name was not looked up in time") from exc
    if isinstance(result, OSError):
        raise requests.ConnectionError(reason_of(result)) from result
    return policy.permitted(origin, result)
