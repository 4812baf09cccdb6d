"""Lists, cancelling, waiting and many retries, through the functions as they are served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from tests.support.calls import Answer, call
from tests.support.peers import answer_of
from tests.support.processes import wait_until
from tests.support.relayed import Relayed, relayed
from tests.support.stores import store_url

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Relayed]:
    with (
        store_url(request.param, tmp_path_factory.mktemp("state")) as url,
        relayed(STATE_URL=url, THREADS="8") as relay,
    ):
        yield relay


@pytest.fixture(autouse=True)
def nothing_left(relay: Relayed) -> Iterator[None]:
    yield
    relay.published()
    relay.target.requests.clear()


def ask(relay: Relayed, operation: str, **headers: str) -> Answer:
    method, _, path = operation.partition(" ")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(method, relay.send.url + path, None, named)


def accept(relay: Relayed, request_id: str, path: str = "/ok", **fields: object) -> None:
    headers = {"Idempotency-Key": request_id}
    body = relay.envelope(path, **fields)
    answer = call("POST", f"{relay.send.url}/async", body, headers)
    assert answer.status == 202, answer.body


def kill(relay: Relayed, request_id: str, path: str = "/ok") -> None:
    """Have a request accepted, and given up by the Broker."""
    accept(relay, request_id, path)
    (event,) = relay.published()
    dead = {**event.headers, "ce-knativeerrorcode": "503"}
    answer = call("POST", f"{relay.send.url}/event/dead-letter", event.data, dead)
    assert answer.status == 202


def listed(relay: Relayed, query: str) -> tuple[list[str], dict[str, Any]]:
    answer = ask(relay, f"GET /async?{query}")
    assert answer.status == 200, answer.body
    document = answer.json()
    return [each["id"] for each in cast("Documents", document["requests"])], document


def test_a_list_shows_the_target_and_never_receive(relay: Relayed) -> None:
    """One of each kind is found by its status and its target; pages follow each other."""
    for number in range(3):
        kill(relay, f"listed-{number}")
    authority = relay.target.url.removeprefix("http://")

    first, document = listed(relay, f"status=dead&target={authority}&limit=2")
    rest, last = listed(relay, f"status=dead&target={authority}&cursor={document['cursor']}")

    assert first + rest == ["listed-2", "listed-1", "listed-0"]
    assert (document["total"], last["total"], "cursor" in last) == (3, 3, False)
    assert {each["target"] for each in cast("Documents", document["requests"])} == {authority}
    assert listed(relay, "status=dead&target=elsewhere.test") == ([], {"requests": [], "total": 0})
    now = cast("Documents", document["requests"])[0]["finishedAt"]
    assert listed(relay, f"status=dead&since={now}")[0] == ["listed-2"]
    assert listed(relay, "status=dead&since=2999-01-01T00:00:00%2B02:00")[0] == []


@pytest.mark.parametrize(
    ("operation", "detail"),
    [
        (
            "GET /async",
            "status in the query must be one of accepted, completed, failed, dead, cancelled,"
            " unknown",
        ),
        (
            "GET /async?status=dead&page=2",
            "page is no parameter of this route; it has status, target, since, limit, cursor",
        ),
        ("GET /async?status=dead&status=dead", "status is given twice in the query"),
        ("GET /async?status=dead&limit=1001", "limit in the query must be 1 to 1000"),
        ("POST /async/retry?status=dead&limit=101", "limit in the query must be 1 to 100"),
        (
            "GET /async?status=dead&since=2026-11-26",
            "since in the query must be a time like 2026-11-26T03:00:00Z (RFC 3339)",
        ),
        (
            "GET /async?status=dead&since=2026-13-26T00:00:00Z",
            "since in the query must be a time like 2026-11-26T03:00:00Z (RFC 3339)",
        ),
        ("GET /async?status=dead&cursor=!", "cursor in the query must be that of the page before"),
        ("GET /async?status=dead&cursor=YQ", "cursor in the query must be that of the page before"),
        (
            "GET /async?status=dead&target=http://x.test",
            "target must have a host and, after a colon, a port of 1 to 65535",
        ),
        (
            "POST /async/retry?status=completed",
            "status in the query must be one of dead, failed",
        ),
        ("GET /async/x?status=dead", "status is no parameter of this route; it has none"),
        ("DELETE /async/x?force", "force is no parameter of this route; it has none"),
    ],
)
def test_a_wrong_query_is_refused(relay: Relayed, operation: str, detail: str) -> None:
    """The parameter is named, and what would be right."""
    answer = ask(relay, operation)

    assert (answer.status, answer.json()["detail"]) == (400, detail)


def test_a_cancelled_request_is_never_called(relay: Relayed) -> None:
    """Its event is on its way; when it is delivered, nobody calls, and the Broker has done."""
    accept(relay, "cancelled")

    cancelled = ask(relay, "DELETE /async/cancelled")

    assert (cancelled.status, cancelled.json()["status"]) == (200, "cancelled")
    (event,) = relay.published()
    assert relay.deliver(event).status == 202
    assert relay.target.requests == []
    assert ask(relay, "GET /async/cancelled").json()["status"] == "cancelled"
    assert "cancelled" in listed(relay, "status=cancelled")[0]
    assert ask(relay, "DELETE /async/cancelled").status == 200
    assert ask(relay, "POST /async/cancelled/retry").status == 409
    assert ask(relay, "DELETE /async/never-heard-of").status == 404


def test_it_is_too_late_to_cancel_what_was_called(relay: Relayed) -> None:
    """The 409 says so."""
    call_and_wait = relay.run(relay.envelope("/ok"), Idempotency_Key="called")
    assert call_and_wait.status == 202

    answer = ask(relay, "DELETE /async/called")

    assert answer.status == 409
    assert answer.json()["detail"] == "called is completed; only an open request can be cancelled"


def test_without_a_shared_state_nothing_is_promised() -> None:
    """Receive would not know, so Send does not say that it is cancelled."""
    with relayed() as relay:
        accept(relay, "here")
        answer = ask(relay, "DELETE /async/here")

        assert answer.status == 409
        assert str(answer.json()["detail"]).startswith("nothing can be cancelled: Receive looks")


def test_a_failed_request_is_sent_again(relay: Relayed) -> None:
    """Its callers' 404 may have been the target's fault; under the same id it completes."""
    relay.target.on("/gone", answer_of(404))
    relay.run(relay.envelope("/gone"), Idempotency_Key="failed")
    assert relay.status("failed")["status"] == "failed"
    relay.target.on("/gone", answer_of(200))

    retried = ask(relay, "POST /async/failed/retry")

    assert retried.status == 202
    (event,) = relay.published()
    relay.deliver(event)
    assert [each.id for each in relay.events[-1:]] == ["failed.completed.2"]
    assert relay.status("failed")["status"] == "completed"
    assert [each.header("idempotency-key") for each in relay.target.requests] == ["failed"] * 2


def test_what_became_of_the_callback_stands_under_its_request(relay: Relayed) -> None:
    """The outcome was delivered, or not, and why."""
    relay.target.on("/deaf", answer_of(503))
    url = f"{relay.target.url}/deaf"
    relay_event = {"Idempotency-Key": "told"}
    call(
        "POST",
        f"{relay.send.url}/async",
        relay.envelope("/ok", callback={"url": url}),
        relay_event,
    )
    (event,) = relay.published()
    result = call("POST", relay.receive.url, event.data, event.headers)
    assert result.all("ce-type")
    named = {name: value for name, value in result.headers if name.lower() != "content-length"}
    delivery = call("POST", f"{relay.send.url}/event/callback", result.body, named)
    named = {name: value for name, value in delivery.headers if name.lower() != "content-length"}
    call("POST", relay.receive.url, delivery.body, named)

    callback = cast("dict[str, Any]", relay.status("told")["callback"])

    assert callback["id"] == "told.completed.callback"
    assert (callback["status"], callback["attempts"]) == ("accepted", 1)
    assert callback["lastError"] == "the target answered 503"


def test_whoever_waits_at_the_status_is_told_the_end(relay: Relayed) -> None:
    """`Prefer: wait` holds the answer until the request is no longer open."""
    accept(relay, "awaited")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, relay, "GET /async/awaited", Prefer="wait=20")
        (event,) = relay.published()
        relay.deliver(event)
        answer = asked.result()

    assert answer.json()["status"] == "completed"
    assert answer.all("Preference-Applied") == ["wait=20"]


def test_only_a_quarter_of_the_threads_wait(relay: Relayed) -> None:
    """The next caller is answered at once, and told why."""
    accept(relay, "crowded")
    with ThreadPoolExecutor(2) as pool:

        def waited() -> Answer:
            # Until none of those who only look is in the way.
            while True:
                answer = ask(relay, "GET /async/crowded", Prefer="wait=20")
                if answer.all("Preference-Applied"):
                    return answer

        waiting = [pool.submit(waited) for _ in range(2)]

        def refused() -> dict[str, object] | None:
            document = ask(relay, "GET /async/crowded", Prefer="wait=0").json()
            return document if "notWaited" in document else None

        told = wait_until(refused, 10, "all places to be taken")
        headers = {"Idempotency-Key": "crowded-out", "Prefer": "wait=20"}
        accepted = call("POST", f"{relay.send.url}/async", relay.envelope("/ok"), headers)
        for event in relay.published():
            relay.deliver(event)
        assert {each.result().json()["status"] for each in waiting} == {"completed"}

    reason = "2 others are waiting, and no more may (a quarter of THREADS)"
    assert told is not None
    assert told["notWaited"] == reason
    assert (accepted.status, accepted.json()["notWaited"]) == (202, reason)
    assert accepted.all("Preference-Applied") == []


def test_sync_that_responds_async_waits_as_async_does(relay: Relayed) -> None:
    """Both preferences are applied: the answer is the target's own."""
    relay.target.on("/slow", answer_of(200, b"done"))
    headers = {"Prefer": "respond-async, wait=20"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(call, "PUT", f"{relay.send.url}/sync", relay.envelope("/slow"), headers)
        wait_until(lambda: relay.broker.requests or asked.done(), 20, "the event")
        for event in relay.published():
            relay.deliver(event)
        answer = asked.result()

    assert (answer.status, answer.body) == (200, b"done")
    assert answer.all("Preference-Applied") == ["respond-async, wait=20"]
    assert relay.target.requests[-1].method == "PUT"


def test_urls_are_absolute_where_the_ingress_tells(relay: Relayed) -> None:
    """Location, statusURL and those in lists; a host that is none leaves them relative."""
    via = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "relay.example"}
    headers = {"Idempotency-Key": "absolute", **via}
    accepted = call("POST", f"{relay.send.url}/async", relay.envelope("/ok"), headers)

    url = "https://relay.example/async/absolute"
    assert accepted.all("Location") == [url]
    assert accepted.json()["statusURL"] == url
    read = call("GET", f"{relay.send.url}/async/absolute", None, via).json()
    assert read["statusURL"] == url
    assert relay.status("absolute")["statusURL"] == "/async/absolute"
    bad = {**via, "X-Forwarded-Host": "relay.example/?"}
    assert call("GET", f"{relay.send.url}/async/absolute", None, bad).json()["statusURL"] == (
        "/async/absolute"
    )


def test_many_are_sent_again_and_none_twice(relay: Relayed) -> None:
    """Batch by batch along the cursor; who begins anew finds only those that are left."""
    for number in range(5):
        kill(relay, f"many-{number}", "/many")
    authority = relay.target.url.removeprefix("http://")
    query = f"status=dead&target={authority}&limit=2"
    already = set(listed(relay, f"status=dead&target={authority}")[0])
    expected = sorted(already)

    batch = ask(relay, f"POST /async/retry?{query}").json()
    kept = [batch]
    sent = [event.id for event in relay.published()]
    assert (batch["retried"], batch["skipped"], batch["left"]) == (2, 0, len(expected) - 2)
    cursor: object = None  # begun anew, as after a crash
    while True:
        also = "" if cursor is None else f"&cursor={cursor}"
        batch = ask(relay, f"POST /async/retry?{query}{also}").json()
        kept.append(batch)
        sent += [event.id for event in relay.published()]
        cursor = batch.get("cursor")
        if cursor is None:
            break

    assert sorted(sent) == expected
    assert sum(cast("int", each["retried"]) for each in kept) == len(expected)
    assert listed(relay, f"status=dead&target={authority}") == ([], {"requests": [], "total": 0})


def test_a_broker_that_is_away_stops_a_batch_where_it_is(relay: Relayed) -> None:
    """What is not sent again is dead as before, and comes next."""
    for number in range(2):
        kill(relay, f"stopped-{number}")
    relay.broker.on("/default/default", answer_of(500))

    refused = ask(relay, "POST /async/retry?status=dead")

    assert refused.status == 503
    relay.broker.on("/default/default", answer_of(202))
    relay.published()
    # Nobody knows whether the first one has been published.
    assert relay.status("stopped-1")["status"] == "unknown"
    assert relay.status("stopped-0")["status"] == "dead"
    assert ask(relay, "POST /async/retry?status=dead").json()["retried"] == 1


def test_what_dies_again_meanwhile_is_behind_the_cursor(relay: Relayed) -> None:
    """A retry of many ends, even if none of them succeeds."""
    for number in range(2):
        kill(relay, f"again-{number}")
    batch = ask(relay, "POST /async/retry?status=dead&limit=1").json()
    for event in relay.published():
        dead = {**event.headers, "ce-knativeerrorcode": "503"}
        call("POST", f"{relay.send.url}/event/dead-letter", event.data, dead)

    rest = ask(relay, f"POST /async/retry?status=dead&cursor={batch['cursor']}").json()

    assert [event.id for event in relay.published()] == ["again-0"]
    assert (rest["retried"], "cursor" in rest) == (1, False)
    assert json.dumps(listed(relay, "status=dead")[0]) == '["again-1"]'
