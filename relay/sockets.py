"""Open sockets to addresses the policy has judged: the very ones that the one look-up has told."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable

import requests

from relay.egress import Policy
from relay.reasons import reason_of
from relay.urls import IPAddress, Origin

# Look-ups that hang keep their thread until the resolver gives up; this bounds how many.
_lookups = threading.BoundedSemaphore(64)


class Deadline:
    """The end of a time from now on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def step_s(self) -> float:
        """Return how long the next step may take: all that is left.

        Raises:
            requests.ReadTimeout: nothing is.
        """
        if left_s := self.left_s:
            return left_s
        raise self.error()

    def error(self) -> requests.ReadTimeout:
        return requests.ReadTimeout(f"did not answer in full within {round(self._seconds, 3):g} s")


def connect(origin: Origin, policy: Policy, budget: Deadline) -> socket.socket:
    """Open a socket to the first permitted address that answers, each within its share of a budget.

    Raises:
        TargetNotAllowed, requests.ConnectionError: see `permitted`; or no address answers.
    """
    addresses = permitted(origin, policy, budget)
    reason = ""
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        try:
            sock.settimeout(max(budget.left_s / left, 0.001))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((str(address), origin.port))
        except OSError as exc:
            sock.close()
            reason = reason_of(exc)
        else:
            return sock
    raise requests.ConnectionError(reason)


def permitted(origin: Origin, policy: Policy, budget: Deadline) -> list[IPAddress]:
    """Look the host up once and judge what is found: no address leaves here that was not judged.

    Raises:
        TargetNotAllowed: the policy permits none of the addresses.
        requests.ConnectionError: the name cannot be looked up, or not in time.
    """
    if origin.address is not None:
        return policy.permitted(origin, [origin.address])
    if not _lookups.acquire(timeout=budget.left_s):
        raise requests.ConnectionError("too many look-ups hang")
    results: queue.SimpleQueue[list[IPAddress] | OSError] = queue.SimpleQueue()
    # In a thread, since no resolver keeps a deadline.
    look_up = threading.Thread(target=_look_up, args=(origin, results.put), name="look-up")
    look_up.daemon = True
    look_up.start()
    try:
        result = results.get(timeout=budget.left_s)
    except queue.Empty as exc:
        raise requests.ConnectionError("its name was not looked up in time") from exc
    if isinstance(result, OSError):
        raise requests.ConnectionError(reason_of(result)) from result
    return policy.permitted(origin, result)


def _look_up(origin: Origin, put: Callable[[list[IPAddress] | OSError], None]) -> None:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        # dict: each address once, in the resolver's order; a zone would only say which link.
        texts = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
        put([ipaddress.ip_address(text) for text in texts])
    except OSError as exc:
        put(exc)
    except UnicodeError:  # the idna codec, for a label it does not like
        put(socket.gaierror(socket.EAI_NONAME, "no name"))
    finally:
        _lookups.release()
