"""Open sockets to addresses the policy has judged: the very ones that the one look-up has told."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable

from relay.deadlines import Deadline
from relay.egress import Policy
from relay.problems import TargetUnreachable
from relay.urls import IPAddress, Origin

# Look-ups that hang keep their thread until the resolver gives up; this bounds how many.
_lookups = threading.BoundedSemaphore(64)


def connect(origin: Origin, policy: Policy, deadline: Deadline, timeout_s: float) -> socket.socket:
    """Open a socket to the first permitted address that answers; one look-up in all.

    Args:
        origin: where to.
        policy: judges every address that the look-up tells.
        deadline: ends the call that the socket is for.
        timeout_s: for the look-up and all addresses together; each has its share of it.

    Returns:
        a socket without a timeout: from here on the deadline ends what hangs.

    Raises:
        TargetNotAllowed: the policy permits none of the addresses.
        TargetUnreachable: none of them answers, or there is none.
    """
    budget = Deadline(timeout_s, deadline.peer)
    addresses = permitted(origin, policy, budget)
    reason = "no address"
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            sock = _open(address, origin.port, max(budget.remaining_s / left, 0.001))
        except OSError as exc:
            reason = "timed out" if isinstance(exc, TimeoutError) else (exc.strerror or "failed")
            continue
        sock.settimeout(None)
        return sock
    raise TargetUnreachable(f"{budget.peer} cannot be reached: {reason}")


def _open(address: IPAddress, port: int, timeout_s: float) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def permitted(origin: Origin, policy: Policy, budget: Deadline) -> list[IPAddress]:
    """Look the host up and judge what is found; no address leaves here that was not judged.

    Raises:
        TargetNotAllowed: the policy permits none of the addresses.
        TargetUnreachable: the name cannot be resolved, or not in time.
    """
    return policy.permitted(origin, _addresses(origin, budget))


def _addresses(origin: Origin, budget: Deadline) -> list[IPAddress]:
    """Look the host up, for no longer than the budget, whatever the resolver does."""
    if origin.address is not None:
        return [origin.address]
    failed = f"{budget.peer} cannot be reached: "
    if not _lookups.acquire(timeout=budget.remaining_s):
        raise TargetUnreachable(failed + "too many look-ups hang")
    results: queue.SimpleQueue[list[IPAddress] | OSError] = queue.SimpleQueue()
    threading.Thread(
        target=_look_up, args=(origin, results.put), name="look-up", daemon=True
    ).start()
    try:
        result = results.get(timeout=budget.remaining_s)
    except queue.Empty as exc:
        raise TargetUnreachable(failed + "its name was not resolved in time") from exc
    if isinstance(result, OSError):
        raise TargetUnreachable(failed + "its name cannot be resolved") from result
    return result


def _look_up(origin: Origin, put: Callable[[list[IPAddress] | OSError], None]) -> None:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        # dict: each address once, in the resolver's order; a zone would only say which link.
        texts = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
        put([ipaddress.ip_address(text) for text in texts])
    except OSError as exc:
        put(exc)
    except UnicodeError:  # the idna codec, for a label it does not like
        put(OSError("no name"))
    finally:
        _lookups.release()
