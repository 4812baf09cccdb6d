"""What Prometheus is told at /metrics, of the real functions."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.egress import AllowedTarget
from relay.metrics import address_label
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import free_port, wait_until
from tests.support.redis import redis_server

TYPE = "dev.knative.samples.t2"
REQUESTS = "http_server_request_duration_seconds"
CALLS = "http_client_request_duration_seconds"
EVENT = {
    "Ce-Specversion": "1.0",
    "Ce-Id": "order-1",
    "Ce-Source": "test",
    "Ce-Type": TYPE,
    "Content-Type": "application/json",
}
TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        peer.on("/busy", answer_of(503))
        peer.on("/odd", answer_of(299))
        yield peer


@pytest.fixture
def send(target: Peer) -> Iterator[Function]:
    with peers.serving(peers.ACCEPTED) as broker:
        env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": broker.url}
        with serving("send", env) as function:
            yield function


def scrape(function: Function) -> str:
    answer = call("GET", f"{function.url}/metrics")
    assert answer.status == 200
    return answer.body.decode()


def number(function: Function, name: str, **labels: str) -> float:
    """Add up the samples of one name that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(scrape(function))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def soon(function: Function, name: str, value: float, **labels: str) -> None:
    """Wait for a number: a request counts when its caller has had the answer."""
    wait_until(
        lambda: number(function, name, **labels) == value, 10, f"{name} {labels} to be {value}"
    )


def post(function: Function, path: str, target: Peer, api: str = "/", **headers: str) -> Answer:
    envelope = f'{{"targetURL": "{target.url}", "targetAPI": "{api}"}}'
    return call("POST", function.url + path, envelope, headers)


def test_requests_and_calls_are_counted_by_route_target_and_status(
    send: Function, target: Peer
) -> None:
    """Their names and attributes are those of OpenTelemetry."""
    for api in ("/", "/busy", "/odd"):
        post(send, "/sync", target, api)
    post(send, "/async", target)
    call("PUT", f"{send.url}/async", "{}")
    call("GET", f"{send.url}/coffee")
    call("BREW", f"{send.url}/coffee")

    soon(send, f"{REQUESTS}_count", 7)
    seen = {
        (each["http_request_method"], each["http_route"], each["http_response_status_code"])
        for family in text_string_to_metric_families(scrape(send))
        for sample in family.samples
        if sample.name == f"{REQUESTS}_count"
        for each in [sample.labels]
    }
    assert seen == {
        ("POST", "/sync", "200"),
        ("POST", "/sync", "503"),
        ("POST", "/sync", "299"),
        ("POST", "/async", "202"),
        ("PUT", "/async", "405"),
        ("GET", "", "404"),
        ("_OTHER", "", "400"),
    }
    soon(send, f"{REQUESTS}_count", 1, error_type="503")
    calls = {"server_address": "127.0.0.1", "http_request_method": "POST"}
    soon(send, f"{CALLS}_count", 3, **calls)
    soon(send, f"{CALLS}_count", 1, http_response_status_code="503", error_type="503")
    soon(send, f"{CALLS}_count", 1, http_response_status_code="2xx")
    soon(send, "relay_target_calls_total", 2, lane="sync", status_class="2xx")


def test_durations_have_the_buckets_of_opentelemetry(send: Function, target: Peer) -> None:
    """So they can be laid beside those of other programs."""
    post(send, "/sync", target)
    soon(send, f"{REQUESTS}_count", 1)

    for family in text_string_to_metric_families(scrape(send)):
        if family.name == REQUESTS:
            bounds = [s.labels["le"] for s in family.samples if s.name == f"{REQUESTS}_bucket"]

    wanted = "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf"
    assert bounds == wanted.split()


def test_probes_and_scrapes_are_nobodys_requests(send: Function) -> None:
    """They would bury the others."""
    call("GET", f"{send.url}/health/readiness")
    scrape(send)

    soon(send, "http_server_active_requests", 0)
    assert number(send, f"{REQUESTS}_count") == 0


def test_callers_make_no_labels(send: Function, target: Peer) -> None:
    """A target that ALLOWED_TARGETS does not name is `other`, whatever its name."""
    for name in ("a", "b"):
        call("POST", f"{send.url}/sync", f'{{"targetURL": "http://{name}.invalid:{target.port}"}}')
        call("POST", f"{send.url}/{name}", "")

    text = scrape(send)

    assert number(send, f"{CALLS}_count", server_address="other", error_type="TargetUnreachable")
    assert ".invalid" not in text
    soon(send, f"{REQUESTS}_count", 2, http_route="", http_response_status_code="404")


@pytest.mark.parametrize(
    ("host", "port", "label"),
    [
        pytest.param("orders.internal", 443, "orders.internal", id="name"),
        pytest.param("orders.internal", 80, "other", id="another port"),
        pytest.param("a.example.org", 80, "*.example.org", id="suffix"),
        pytest.param("10.1.2.3", 80, "10.0.0.0/8", id="network"),
        pytest.param("192.0.2.7", 80, "192.0.2.7", id="address"),
        pytest.param("::1", 80, "::1", id="IPv6"),
        pytest.param("example.com", 443, "other", id="public"),
    ],
)
def test_a_target_is_called_as_the_operator_wrote_it(host: str, port: int, label: str) -> None:
    """The label is the entry of ALLOWED_TARGETS that covers it."""
    entries = "orders.internal:443 *.example.org 10.0.0.0/8 192.0.2.7 ::1"
    allowed = tuple(AllowedTarget.from_text(entry) for entry in entries.split())

    assert address_label(allowed, host, port) == label


def test_deliveries_and_their_attempts_are_counted(target: Peer) -> None:
    """Those that are tried again stand apart from those that come for the first time."""
    env = {"ALLOWED_TARGETS": "127.0.0.1", "RETRY_DELAYS_S": "0.1"}
    with serving("receive", env) as receive:
        failed = post(receive, "/", target, "/busy", **EVENT)
        retry = {name: value for name, value in failed.headers if name.lower().startswith("ce-")}
        post(receive, "/", target, "/busy", **retry, **{"Content-Type": "application/json"})

        for lane, attempt in (("first", "1"), ("retry", "2")):
            soon(receive, f"{REQUESTS}_count", 1, http_route="/", lane=lane)
            labels = {"server_address": "127.0.0.1", "lane": lane, "attempt": attempt}
            soon(receive, "relay_target_calls_total", 1, status_class="5xx", **labels)
        assert "relay_open_requests" not in scrape(receive)  # Send tells


def test_outcomes_open_and_dead_requests_are_told(send: Function, target: Peer) -> None:
    """The store is asked when somebody scrapes."""
    for key in ("a", "b", "c"):
        post(send, "/async", target, **{"Idempotency-Key": key})
    was_open = number(send, "relay_open_requests")
    envelope = f'{{"targetURL": "{target.url}"}}'
    lost = {**EVENT, "Ce-Id": "a", "Ce-Knativeerrorcode": "503"}
    call("POST", f"{send.url}/event/dead-letter", envelope, lost)
    result = {**EVENT, "Ce-Id": "b.completed", "Ce-Type": f"{TYPE}.completed", "Ce-Subject": "b"}
    told = call("POST", f"{send.url}/event/callback", '{"status": 200, "headers": {}}', result)

    assert told.status == 202
    assert was_open == 3
    soon(send, "relay_open_requests", 1)
    soon(send, "relay_dead_requests", 1)
    assert number(send, "relay_oldest_open_request_age_seconds") > 0
    soon(send, "relay_outcomes_total", 1, outcome="dead")
    soon(send, "relay_outcomes_total", 1, outcome="completed")


def test_a_broker_that_is_away_is_seen(target: Peer) -> None:
    """Publications are counted by whether the Broker has the event."""
    env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": f"http://127.0.0.1:{free_port()}"}
    with serving("send", env) as send:
        post(send, "/async", target)

        publications = {"published": "no", "error_type": "BrokerUnavailable"}
        name = "messaging_client_operation_duration_seconds_count"
        soon(send, name, 1, **publications)


def test_a_target_that_is_left_alone_is_seen(target: Peer) -> None:
    """And how much memory the bodies of requests take."""
    env = {"ALLOWED_TARGETS": "127.0.0.1", "BREAKER_FAILURES": "1"}
    with serving("send", env) as send:
        soon(send, "relay_open_circuits", 0)
        closed = f'{{"targetURL": "http://127.0.0.1:{free_port()}"}}'
        call("POST", f"{send.url}/sync", closed)
        soon(send, "relay_open_circuits", 1)

        target.on("/slow", peers.until_gone)
        hanging = threading.Thread(target=_until_cut, args=(send, target))
        hanging.start()
        wait_until(lambda: number(send, "relay_bodies_held_bytes") > 0, 10, "a body that is held")
        send.process.kill()
        hanging.join()


def test_a_store_that_is_away_is_seen(target: Peer, tmp_path: Path) -> None:
    """Its metrics say so, and the others are there all the same."""
    uses = "db_client_operation_duration_seconds_count"
    with peers.serving(peers.ACCEPTED) as broker:
        with redis_server(tmp_path) as url:
            env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": broker.url, "STATE_URL": url}
            running = serving("send", env)
            send = running.__enter__()
            post(send, "/async", target)
            soon(send, "relay_store_up", 1)
            assert number(send, uses, db_system_name="redis", error_type="") > 0
        try:
            post(send, "/async", target)

            text = scrape(send)
            assert "relay_store_up 0.0" in text
            assert "relay_open_requests" not in text
            assert number(send, uses, error_type="StateUnavailable") > 0
            soon(send, f"{REQUESTS}_count", 2, http_route="/async")
        finally:
            running.__exit__(None, None, None)


def test_all_workers_are_counted_together(target: Peer, tmp_path: Path) -> None:
    """Whichever answers a scrape, the numbers are those of all; nothing stays behind on disk."""
    env = {"ALLOWED_TARGETS": "127.0.0.1", "WORKERS": "2", "THREADS": "2", "TMPDIR": str(tmp_path)}
    with serving("send", env) as send:
        posted = 0
        (folder,) = tmp_path.glob("relay-metrics-*")
        while len(list(folder.glob("histogram_*.db"))) < 2 and posted < 1000:
            with ThreadPoolExecutor(12) as pool:  # one worker may be quick enough for all of them
                list(pool.map(lambda _: post(send, "/sync", target), range(12)))
            posted += 12
        soon(send, f"{REQUESTS}_count", posted, http_route="/sync")
        counts = {number(send, f"{REQUESTS}_count", http_route="/sync") for _ in range(10)}
        text = scrape(send)
        counters = list(folder.glob("histogram_*.db"))

    assert len(counters) == 2
    assert counts == {posted}
    assert "relay_threads 4.0" in text
    assert "relay_store_up 1.0" in text
    assert not folder.exists()


def test_a_worker_that_was_killed_is_not_busy_for_ever(target: Peer) -> None:
    """What it was serving is forgotten; what it had counted stays."""
    target.on("/slow", peers.until_gone)
    env = {"ALLOWED_TARGETS": "127.0.0.1", "WORKERS": "2"}
    with serving("send", env) as send:
        post(send, "/sync", target)
        hanging = threading.Thread(target=_until_cut, args=(send, target))
        hanging.start()
        wait_until(lambda: target.received("/slow"), 10, "the call")
        soon(send, "http_server_active_requests", 1)
        children = Path(f"/proc/{send.process.pid}/task/{send.process.pid}/children").read_text()
        for child in children.split():
            os.kill(int(child), signal.SIGKILL)
        hanging.join()

        wait_until(lambda: _answers(send), 15, "new workers")
        soon(send, "http_server_active_requests", 0)
        soon(send, f"{REQUESTS}_count", 1, http_route="/sync")


def _until_cut(send: Function, target: Peer) -> None:
    try:
        post(send, "/sync", target, "/slow")
    except OSError:
        return


def _answers(send: Function) -> bool:
    try:
        return call("GET", f"{send.url}/metrics").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("name", ["send", "receive"])
def test_metrics_need_the_token(name: str) -> None:
    """Where API_TOKEN is set, only who has it sees them; nothing but GET asks for them."""
    with serving(name, {"API_TOKEN": TOKEN}) as function:
        url = f"{function.url}/metrics"

        assert call("GET", url).status == 401
        assert call("GET", url, headers={"Authorization": "Bearer wrong"}).status == 401
        assert call("GET", url, headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        refused = call("POST", url, "{}", {"Authorization": f"Bearer {TOKEN}"})
        assert refused.status == 405
        assert refused.all("Allow") == ["GET, HEAD"]
