"""Callers who wait: woken by the end of their request, wherever that is noted."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from relay import records as records_module
from relay import waiters as waiters_module
from relay.leaving import Caller
from relay.records import Known, Records
from relay.settings import Settings
from relay.store import Record
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer
from tests.support.processes import python, running, wait_until
from tests.support.redis import redis_server
from tests.support.stores import KINDS, SHARED_KINDS, Clock, opened, store_url

SETTINGS = Settings()
# Another process, that notes an answer as Receive does.
FINISH = """
import sys
from relay.backends import open_store
from relay.records import Records
from relay.settings import Settings
from relay.store import Record
records = Records(open_store(sys.argv[1], ttl_s=9000, max_bytes=10**6), Settings())
for request_id in sys.argv[2:]:
    answer = b'{"status":200,"headers":{},"body":"done"}'
    records.finish(Record(request_id, "open", 0), "completed", 200, answer, 1)
"""


@pytest.fixture(autouse=True)
def never_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the look that a waiting caller takes now and then of itself."""
    monkeypatch.setattr(records_module, "_LOOK_S", 60.0)


@contextlib.contextmanager
def waiting(url: str) -> Iterator[tuple[Records, dict[str, Future[Known | None]]]]:
    """Let four callers wait, of whom two wait for one request."""
    ids = ("a", "b", "c", "c")
    with opened(url, clock=clock_of_now()) as store, ThreadPoolExecutor(len(ids)) as pool:
        records = Records(store, SETTINGS)
        for request_id in sorted(set(ids)):
            known, _ = records.accept(request_id, fingerprint="f", target="x", may_repeat=False)
            assert known.status == "accepted"
        waits = [pool.submit(records.wait, request_id, 50, Caller()) for request_id in ids]
        wait_until(lambda: sorted(store.waiters.ids()) == ["a", "b", "c"], 10, "them to wait")
        yield records, dict(zip(("a", "b", "c", "d"), waits, strict=True))


def clock_of_now() -> Clock:
    clock = Clock()
    clock.now_s = time.time()
    return clock


def finish(records: Records, request_id: str) -> None:
    asked = Record(request_id, "open", 0)
    records.finish(asked, "completed", 200, b'{"status":200}', 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_wakes_those_who_wait_for_it(kind: str, tmp_path: Path) -> None:
    """All of them, and nobody else."""
    with store_url(kind, tmp_path) as url, waiting(url) as (records, waits):
        finish(records, "c")

        for name in ("c", "d"):
            known = waits[name].result(20)
            assert known is not None
            assert known.status == "completed"
        assert not waits["a"].done()
        records.cancel("a")
        cancelled = waits["a"].result(20)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        finish(records, "b")


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_the_result_of_another_process_wakes(kind: str, tmp_path: Path) -> None:
    """It is told by the store, not found by a look."""
    with store_url(kind, tmp_path) as url, waiting(url) as (_, waits):
        with running(python("-c", FINISH, url, "a", "b", "c")):
            known = [each.result(20) for each in waits.values()]

        assert [each and each.status for each in known] == ["completed"] * 4


def test_a_lost_subscription_is_taken_up_again(tmp_path: Path) -> None:
    """What was published meanwhile is looked for when it is."""
    with redis_server(tmp_path) as url, waiting(url) as (_, waits), opened(url) as store:
        other = Records(store, SETTINGS)
        server = redis.Redis.from_url(url)
        wait_until(lambda: subscribers(server), 10, "the subscription")
        for request_id in ("a", "b", "c"):
            server.client_kill_filter(_type="pubsub")
            finish(other, request_id)
            known = waits[request_id].result(20)
            assert known is not None
            assert known.status == "completed"
        server.close()


def test_a_subscription_ends_when_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs nothing then, and is there again for the next one."""
    monkeypatch.setattr(waiters_module, "_LINGER_S", 0.1)
    with redis_server(tmp_path) as url, opened(url, clock=clock_of_now()) as store:
        records = Records(store, SETTINGS)
        server = redis.Redis.from_url(url)
        for request_id in ("first", "second"):
            records.accept(request_id, fingerprint="f", target="x", may_repeat=False)
            records.wait(request_id, 0.2, Caller())
            wait_until(lambda: not subscribers(server), 10, "the end of the subscription")

        with ThreadPoolExecutor(1) as pool, opened(url) as other:
            waits = pool.submit(records.wait, "second", 50, Caller())
            wait_until(lambda: subscribers(server), 10, "the next subscription")
            finish(Records(other, SETTINGS), "second")
            known = waits.result(20)

        assert known is not None
        assert known.status == "completed"
        server.close()


def subscribers(server: Any) -> int:
    ((_, count),) = server.pubsub_numsub("relay:ended")
    return int(count)


@contextlib.contextmanager
def served(broker: Peer) -> Iterator[Function]:
    """Serve Send with a place for one who waits."""
    env = {"K_SINK": broker.url, "ALLOWED_TARGETS": "127.0.0.1", "THREADS": "4"}
    with serving("send", env) as send:
        yield send


def wait_for(send: Function, request: str, body: str = "") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", send.port), timeout=20)
    head = f"{request} HTTP/1.1\r\nHost: a\r\nPrefer: wait=100\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


@pytest.mark.parametrize("request_line", ["POST /async", "GET /async/known"])
def test_a_waiting_caller_who_leaves_frees_the_place(broker: Peer, request_line: str) -> None:
    """Somebody else may wait within a moment; the log says what became of the first."""
    body = json.dumps({"targetURL": "http://127.0.0.1:9"})
    with served(broker) as send:
        call("POST", f"{send.url}/async", body, {"Idempotency-Key": "known"})

        def is_free() -> bool:
            answer = call("GET", f"{send.url}/async/known", headers={"Prefer": "wait=0"})
            return "notWaited" not in answer.json()

        connection = wait_for(send, request_line, body if request_line.startswith("POST") else "")
        with connection:
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            assert not is_free()

        wait_until(is_free, 10, "the place")
        wait_until(lambda: "the caller left" in send.process.output, 10, "the log")


def test_a_process_that_ends_lets_nobody_wait(broker: Peer) -> None:
    """A caller who waits is told what is known, and can ask another process."""
    body = json.dumps({"targetURL": "http://127.0.0.1:9"})
    with served(broker) as send, wait_for(send, "POST /async", body) as connection:
        wait_until(lambda: broker.requests, 10, "the publication")
        send.process.send_signal(signal.SIGTERM)

        assert connection.recv(65536).startswith(b"HTTP/1.1 202 ")
