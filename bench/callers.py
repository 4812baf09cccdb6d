"""Make one call after the other with one client: `python -m bench.callers NAME URL SECONDS`.

Prints the CPU time of a call in microseconds, of this process alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_BODY = b'{"job": "%b"}' % (b"a" * 100)
_HEADERS = {"Content-Type": "application/json"}
_AT_A_TIME = 100


def relay(url: str) -> Callable[[], object]:
    """Call with the relay's client: guards and deadline on."""
    from relay.client import Client
    from relay.egress import AllowedTarget, Policy
    from relay.urls import parse_target

    target = parse_target(url, url_field="url")
    policy = Policy(allowed=(AllowedTarget.from_text(target.origin.host),))
    client = Client(policy, connect_timeout_s=5, pool_size=8)
    headers = tuple(_HEADERS.items())

    def call() -> object:
        answer = client.call(target, method="POST", headers=headers, content=_BODY, timeout_s=30)
        return answer.read(1_000_000)

    return call


def urllib3(url: str) -> Callable[[], object]:
    """Call with the pool that `requests` is made of: no guards, no deadline."""
    import urllib3

    pool = urllib3.PoolManager()
    return lambda: pool.request("POST", url, body=_BODY, headers=_HEADERS).data


def session(url: str) -> Callable[[], object]:
    """Call as most people do."""
    import requests

    session = requests.Session()
    return lambda: session.post(url, data=_BODY, headers=_HEADERS).content


CALLERS = {each.__name__: each for each in (relay, urllib3, session)}


def main(name: str, url: str, seconds: str) -> None:
    """Call for a while, once everything is warm."""
    call = CALLERS[name](url)
    for _ in range(_AT_A_TIME):
        call()
    count = 0
    until = time.monotonic() + float(seconds)
    before_s = time.process_time()
    while time.monotonic() < until:
        for _ in range(_AT_A_TIME):
            call()
        count += _AT_A_TIME
    print(1e6 * (time.process_time() - before_s) / count)


if __name__ == "__main__":
    main(*sys.argv[1:])
