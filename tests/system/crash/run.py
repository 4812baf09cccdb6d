"""One run: publish everything, kill by plan, wait until the Broker owes nothing, count."""

from __future__ import annotations

import http.client
import json
import random
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from tests.system.crash.plan import Plan, is_poison
from tests.system.crash.report import Report
from tests.system.crash.system import REQUEST_TYPE, VICTIMS, System
from tests.system.crash.target import CALLBACKS, CALLS, Target

_PUBLISHERS = 16
_PUBLISH_TIMEOUT_S = 60.0
_PUBLISH_RETRY_S = 0.1
_POLL_S = 0.1
# Longer than any backoff of the run: nothing at all for so long means that nothing comes any more.
_STALL_TIMEOUT_S = 60.0

_REFUSED = re.compile(
    r'"id": "(poison-[^"]*)", "type": "[^"]*", "attempt": \d+, "to": "subscriber", "result": "400"'
)
# What may be said of the dead: that Receive refused poison, and by an event of Send's that it is
# dead, if the state was away when its dead letter came; that the last attempt for a hopeless event
# failed, by an event of Receive's or by a dead letter because it was down.
_CODES = {True: {"400", "dead"}, False: {"dead", "500"}}


def run(plan: Plan, kills: int, folder: Path, show: Callable[[str], None]) -> Report:
    """Publish the events of a plan and count what became of them.

    Args:
        kills: how many processes are killed while events are on their way.
        folder: an empty one for data and logs.
        show: is told how far it is, several times a second.
    """
    victims = _victims(plan, kills)
    with Target(plan) as target, System(folder, target, plan.state) as system:
        started_s = changed_s = time.monotonic()
        with closing(_Publisher(plan, system, target)) as publisher:
            killed = 0
            state = (0, 0, 0)
            while publisher.is_busy or state[2] or killed < kills:
                if killed < kills and target.settled >= victims[killed][0]:
                    system.kill(victims[killed][1])
                    killed += 1
                time.sleep(_POLL_S)
                before = state
                with suppress(sqlite3.OperationalError):  # at the moment of a restart
                    state = (len(publisher.accepted), target.settled, system.pending())
                now_s = time.monotonic()
                changed_s = now_s if state != before else changed_s
                if now_s - changed_s > _STALL_TIMEOUT_S:
                    break
                show(
                    f"seed {plan.seed}: {now_s - started_s:3.0f} s,"
                    f" accepted {state[0]}/{plan.events}, settled {state[1]},"
                    f" pending {state[2]}, killed {killed}/{kills}"
                )
            duration_s = time.monotonic() - started_s
        broker_log = system.broker_log()
    return _count(plan, killed, publisher, target, broker_log, duration_s)


def _victims(plan: Plan, kills: int) -> list[tuple[int, str]]:
    """Choose when to kill whom: by the number of settled events, each victim as often."""
    draw = random.Random(plan.seed)
    kinds = [each for each in VICTIMS if each != "state" or plan.state != "memory"]
    victims = [kinds[number % len(kinds)] for number in range(kills)]
    draw.shuffle(victims)
    moments = sorted(draw.sample(range(plan.events * 19 // 20), kills))
    return list(zip(moments, victims, strict=True))


class _Publisher:
    """Callers that do as documented: without a 202, again with the same Idempotency-Key."""

    def __init__(self, plan: Plan, system: System, target: Target) -> None:
        self.accepted: list[str] = []
        self.posts: Counter[str] = Counter()
        self._plan = plan
        self._system = system
        self._target = target
        self._ids = iter(plan.event_ids())
        self._taking = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._publish_all) for _ in range(_PUBLISHERS)]
        for thread in self._threads:
            thread.start()

    @property
    def is_busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _publish_all(self) -> None:
        send = http.client.HTTPConnection(
            self._system.authority("send"), timeout=_PUBLISH_TIMEOUT_S
        )
        broker = http.client.HTTPConnection(
            self._system.authority("broker"), timeout=_PUBLISH_TIMEOUT_S
        )
        for event_id in self._taken_ids():
            publish, connection = (
                (_publish_poison, broker) if is_poison(event_id) else (self._publish, send)
            )
            while not self._stopping.is_set():
                self.posts[event_id] += 1
                try:
                    if publish(connection, event_id) == 202:
                        self.accepted.append(event_id)
                        break
                except (OSError, http.client.HTTPException):
                    connection.close()
                self._stopping.wait(_PUBLISH_RETRY_S)
        send.close()
        broker.close()

    def _taken_ids(self) -> Iterator[str]:
        while True:
            with self._taking:
                event_id = next(self._ids, None)
            if event_id is None:
                return
            yield event_id

    def _publish(self, send: http.client.HTTPConnection, event_id: str) -> int:
        envelope: dict[str, object] = {
            "targetURL": f"http://{self._target.authority}",
            "targetAPI": f"{CALLS}{event_id}",
            # An answer that breaks off may then be asked for again.
            "method": "PUT",
            "body": {"event": event_id},
        }
        if self._plan.asks_for_callback(event_id):
            url = f"http://{self._target.authority}{CALLBACKS}{event_id}"
            envelope["callback"] = {"url": url}
        headers = {"Content-Type": "application/json", "Idempotency-Key": event_id}
        return _post(send, "/async", headers, json.dumps(envelope).encode())


def _publish_poison(broker: http.client.HTTPConnection, event_id: str) -> int:
    """Publish past Send, which would refuse it."""
    headers = {
        "Ce-Specversion": "1.0",
        "Ce-Id": event_id,
        "Ce-Source": "/crash",
        "Ce-Type": REQUEST_TYPE,
        "Content-Type": "application/json",
    }
    return _post(broker, "/default/default", headers, b'["no envelope"]')


def _post(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: bytes
) -> int:
    connection.request("POST", path, body=body, headers=headers)
    response = connection.getresponse()
    response.read()
    return response.status


def _count(
    plan: Plan,
    kills: int,
    publisher: _Publisher,
    target: Target,
    broker_log: str,
    duration_s: float,
) -> Report:
    accepted = set(publisher.accepted)
    delivered = {event_id for event_id in target.finished if target.results[event_id]}
    dead = target.dead_letters.keys()
    rightly_dead = {
        event_id
        for event_id, codes in target.dead_letters.items()
        if plan.must_die(event_id)
        and codes <= _CODES[is_poison(event_id)]
        and ("400" in codes or not is_poison(event_id))
    }
    # A publisher that heard nothing posts again: then there are two events of one id, and each is
    # tried once.
    refused = Counter(_REFUSED.findall(broker_log))
    return Report(
        seed=plan.seed,
        state=plan.state,
        kills=kills,
        published=plan.events,
        accepted=len(accepted),
        delivered=len(delivered & accepted),
        dead_lettered=len(dead),
        lost=len(accepted - delivered - dead),
        unseen=sum(not is_poison(each) for each in accepted - target.calls.keys()),
        wrongly_dead=len(dead - rightly_dead),
        duplicates=sum(times - 1 for times in target.finished.values()),
        untold=sum(
            plan.asks_for_callback(each) and not target.callbacks[each]
            for each in accepted & (delivered | dead)
        ),
        wrong_keys=target.wrong_keys,
        poison_retried=sum(times > publisher.posts[each] for each, times in refused.items()),
        calls=target.calls.total(),
        failed_calls=target.failed,
        duration_s=duration_s,
    )
