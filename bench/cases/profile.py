"""Where each microsecond of a request goes, for each way through the relay and for hello."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing

from bench import load, servers
from bench.cases.costs import Way, compare
from bench.cases.plan import Plan
from bench.processes import BenchError, Lab, Server, run_bound
from bench.report import Curve, Measured
from bench.tables import PROFILE
from local.ports import HOST
from local.process import clean_environment

CASE = "profile"
_WORKER = "worker: from the socket to the app and back"


def run(plan: Plan) -> Iterator[Measured]:
    """Sample each way in a process without a server; what a server uses besides is its worker's."""
    costs_us: dict[str, dict[str, float]] = defaultdict(dict)
    with Lab(plan.cores) as lab:
        target, broker = servers.quick_target(lab), servers.quick_broker(lab)
        send, receive = (
            servers.function(lab, name, called=target, broker_port=broker.port)
            for name in ("send", "receive")
        )
        call = servers.envelope(target.port)
        event = servers.event(call)
        ways = {
            "hello": Way(servers.rival(lab, "hello"), "/", call),
            "/sync": Way(send, "/sync", call),
            "/async": Way(send, "/async", call),
            "hello for an event": Way(servers.rival(lab, "event"), "/", event),
            "a delivery": Way(receive, "/", event),
            "its result at Send": Way(send, "/event/callback", _result(receive, event)),
        }
        whole_ms = compare(plan, CASE, ways, seconds=1, rounds=plan.few_rounds).cpu_ms
        for name, way in ways.items():
            plan.show(f"{CASE}: {name}")
            sampled = _sampled(plan, lab, way, called=target, broker=broker)
            whole_us = 1000 * statistics.median(whole_ms[name])
            sampled[_WORKER] = whole_us - sum(sampled.values())
            for group, cost_us in (sampled | {"in all": whole_us}).items():
                costs_us[group][name] = cost_us
    for group, points in costs_us.items():
        yield Curve(
            case=CASE, title=PROFILE, name=group, varied="CPU a request", unit="µs", points=points
        )


def _result(receive: Server, event: load.Request) -> load.Request:
    """Have an event delivered, and return its result as the Broker brings it to Send."""
    headers = {**event.headers, "ce-id": "profiled"}
    with closing(http.client.HTTPConnection(HOST, receive.port, timeout=10)) as connection:
        connection.request("POST", "/", event.body, headers)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise BenchError(f"a delivery was answered with {answer.status} {body!r}")
    kept = [
        each for each in answer.getheaders() if each[0].lower().startswith(("ce-", "content-t"))
    ]
    return load.Request(headers=dict(kept), body=body)


def _sampled(plan: Plan, lab: Lab, way: Way, *, called: Server, broker: Server) -> dict[str, float]:
    """Return microseconds by group, as `bench.sampler` prints them."""
    name, request = way.server.name, way.request
    if name in ("send", "receive"):
        function, env = servers.pod(lab, name, called=called, broker_port=broker.port)
        source, target, signature = function.source_folder / "main.py", name, function.invoke
    else:
        env = clean_environment(os.environ)
        source, target = servers.RIVALS / f"{name}.py", "relay"
        signature = "cloudevent" if name == "event" else "http"
    asked = {
        "function": {"target": target, "source": str(source), "signature_type": signature},
        "path": way.path,
        "headers": dict(request.headers),
        "body": request.body.decode(),
    }
    file = lab.folder / "asked.json"
    file.write_text(json.dumps(asked))
    seconds = 2 * plan.seconds
    command = (sys.executable, "-m", "bench.sampler", str(file), str(seconds))
    printed = run_bound(command, plan.cores.server, env, timeout_s=seconds + 60)
    costs_us: dict[str, float] = json.loads(printed.splitlines()[-1])
    return costs_us
