"""Answer one request again and again, without a server: `python -m bench.sampler FILE SECONDS`.

Prints, as JSON, the CPU time of a request in microseconds by group: the kernel's as the kernel
counts it, the rest by where a timer of the process's own time finds it, in the innermost frame of a
module that has a group.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

# Of what is not named here.
RULES = "rules, and what leads through them"
GROUPS = {
    "framework": "flask werkzeug functions_framework cloudevents main relay.web",
    "reading and writing events": "relay.bodies relay.envelope relay.events relay.forwarded"
    " relay.headers relay.http relay.jsons relay.progress relay.results relay.urls",
    "client and publishing": "requests urllib3 relay.broker relay.client relay.connections"
    " relay.lookups relay.reasons relay.responses relay.targets relay.tls",
    "store": "relay.backends relay.claims relay.lifecycle relay.records relay.store"
    " relay.store_redis relay.store_sqlite relay.waiters relay.waiting",
    "log and metrics": "prometheus_client relay.logs relay.metrics relay.operations relay.traces"
    " relay.tracing",
}
_GROUP_OF = {module: group for group, names in GROUPS.items() for module in names.split()}
_INTERVAL_S = 0.001
_AT_A_TIME = 100


def group_of(module: str) -> str | None:
    """Return the group of a module, or of its package; None when its caller's counts."""
    package, _, rest = module.partition(".")
    if package != "relay":
        return _GROUP_OF.get(package)
    return _GROUP_OF.get(f"relay.{rest.partition('.')[0]}", RULES)


def main(path: str, seconds: str) -> None:
    """Measure, once everything is warm.

    Args:
        path: Of a file with the function (`target`, `source`, `signature_type`) and the POST: its
            `path`, `headers` and `body`; ce-id is another one each time.
    """
    from functions_framework import create_app
    from werkzeug.test import create_environ

    asked = json.loads(Path(path).read_text())
    app = create_app(**asked["function"])  # type: ignore[no-untyped-call]
    # Only now: what breaks before is told to whoever started this.
    os.dup2(os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    body = asked["body"].encode()
    environ = create_environ(
        asked["path"], "http://localhost:8080", method="POST", headers=asked["headers"], data=body
    )
    numbers = itertools.count()

    def begin(status: str, *_: object) -> None:
        if not status.startswith("2"):
            print(f"{asked['path']} was answered with {status}")
            sys.exit(1)

    def answer_some() -> None:
        for _ in range(_AT_A_TIME):
            own = {"HTTP_CE_ID": f"sampled-{next(numbers)}", "wsgi.input": io.BytesIO(body)}
            answer = app(environ | own, begin)
            for _ in answer:
                pass
            answer.close()

    found: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            group = group_of(frame.f_globals.get("__name__", ""))
            if group is not None:
                found[group] += 1
                return
            frame = frame.f_back

    signal.signal(signal.SIGVTALRM, sample)
    answer_some()
    count, until_s = 0, time.monotonic() + float(seconds)
    used_s, kernel_s = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_stime
    signal.setitimer(signal.ITIMER_VIRTUAL, _INTERVAL_S, _INTERVAL_S)
    while time.monotonic() < until_s:
        answer_some()
        count += _AT_A_TIME
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    used_s = time.process_time() - used_s
    kernel_s = resource.getrusage(resource.RUSAGE_SELF).ru_stime - kernel_s
    sample_us = 1e6 / count * (used_s - kernel_s) / found.total()
    costs_us = {group: sample_us * found[group] for group in (*GROUPS, RULES)}
    print(json.dumps({**costs_us, "kernel": 1e6 / count * kernel_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
