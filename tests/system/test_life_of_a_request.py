"""What a caller learns of a request, from the 202 to the end, on the whole running relay."""

from __future__ import annotations

import base64
import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from standardwebhooks import Webhook

from tests.support.calls import Answer
from tests.support.processes import wait_until
from tests.support.redis import redis_server
from tests.support.stack import Relay, quick_settings, started

SECRET = "whsec_" + base64.b64encode(b"a key of the tests, 24 bytes or more").decode()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return quick_settings(tmp_path_factory.mktemp("manifests") / "knative")


@pytest.fixture(scope="module")
def relay(quick: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    settings = {
        **quick,
        "CALLBACK_SECRET": SECRET,
        "TARGET_TIMEOUT_S": "10",
        "THREADS": "32",  # so few that a test can have all of them in use
    }
    with started(tmp_path_factory.mktemp("broker"), settings=settings) as relay:
        yield relay


def envelope(relay: Relay, api: str, **fields: object) -> str:
    """Write an envelope for a path of the sample API."""
    url = f"http://localhost:{relay.ports['SAMPLE_API']}"
    return json.dumps({"targetURL": url, "targetAPI": api, **fields})


def status_of(relay: Relay, request_id: str) -> dict[str, object]:
    return relay.call("GET", f"/async/{request_id}").json()


def wait_for_status(relay: Relay, request_id: str, status: str) -> dict[str, object]:
    def reached() -> dict[str, object] | None:
        answer = relay.call("GET", f"/async/{request_id}")
        known = answer.json()
        return known if answer.status == 200 and known["status"] == status else None

    return cast("dict[str, object]", wait_until(reached, 20, f"{request_id} to be {status}"))


def accept(relay: Relay, body: str, **headers: str) -> str:
    answer = relay.call("POST", "/async", body, headers)
    assert answer.status == 202, answer.body
    return str(answer.json()["id"])


def test_accepted_open_completed(relay: Relay) -> None:
    """The 202 says where to ask; there the request is open, and then it has its answer."""
    accepted = relay.call("POST", "/async", envelope(relay, "/misbehave/slow/1", body={"n": 1}))

    document = accepted.json()
    url = document["statusURL"]
    assert document["status"] == "accepted"
    assert url == f"/async/{document['id']}"
    assert accepted.all("Location") == [url]
    assert accepted.all("Retry-After") == ["1"]
    asked = relay.call("GET", str(url))
    assert (asked.status, asked.json()["status"]) == (200, "accepted")
    assert asked.all("Retry-After") == ["1"]
    done = wait_for_status(relay, str(document["id"]), "completed")
    answer = cast("dict[str, object]", done["answer"])
    assert answer["status"] == 200
    assert cast("dict[str, object]", answer["body"])["path"] == "/misbehave/slow/1"
    assert done["attempts"] == 1
    assert relay.call("GET", str(url)).all("Retry-After") == []


def test_an_answer_that_says_no_is_failed(relay: Relay) -> None:
    """A 404 of the target is its answer: nothing is tried again."""
    request_id = accept(relay, envelope(relay, "/misbehave/status/404"))

    failed = wait_for_status(relay, request_id, "failed")

    assert cast("dict[str, object]", failed["answer"])["status"] == 404
    assert failed["attempts"] == 1


def test_retries_are_counted(relay: Relay) -> None:
    """Twice unavailable, then there: three attempts, one answer."""
    request_id = accept(relay, envelope(relay, "/misbehave/fail-times/2/counted"))

    assert wait_for_status(relay, request_id, "completed")["attempts"] == 3


def test_dead_then_retried(relay: Relay) -> None:
    """A target that stays away kills the request; when it is back, a retry completes it."""
    request_id = accept(relay, envelope(relay, "/misbehave/fail-times/6/phoenix"))
    dead = wait_for_status(relay, request_id, "dead")
    reason = cast("dict[str, object]", dead["reason"])
    assert reason["code"] == 503
    assert reason["detail"] == "the target answered 503"
    assert dead["attempts"] == 6
    listed = relay.call("GET", "/async?status=dead").json()["requests"]
    assert request_id in [entry["id"] for entry in cast("list[dict[str, object]]", listed)]

    retried = relay.call("POST", f"/async/{request_id}/retry")

    assert retried.status == 202
    assert retried.json()["id"] == request_id
    done = wait_for_status(relay, request_id, "completed")
    assert done["attempts"] == 7
    again = relay.call("POST", f"/async/{request_id}/retry")
    assert again.status == 409
    assert again.json()["detail"] == (
        f"{request_id} is completed; only a dead or failed request can be sent again"
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/async/unknown"), ("POST", "/async/unknown/retry"), ("GET", "/async/%2F")],
)
def test_an_unknown_request_is_404(relay: Relay, method: str, path: str) -> None:
    """Nobody can tell a request that never was from one whose time is over."""
    answer = relay.call(method, path)

    assert answer.status == 404
    assert answer.all("Content-Type") == ["application/problem+json"]


def test_prefer_wait_gives_the_answer(relay: Relay) -> None:
    """Quick enough, the caller gets what the target answered, as from /sync."""
    body = envelope(relay, "/misbehave/cookies")

    waited = relay.call("POST", "/async", body, {"Prefer": "wait=10"})
    direct = relay.call("POST", "/sync", body)

    assert waited.status == direct.status == 200
    assert waited.all("Preference-Applied") == ["wait=10"]
    assert waited.all("Set-Cookie") == direct.all("Set-Cookie") != []
    assert waited.all("Content-Type") == direct.all("Content-Type")


def test_prefer_wait_gives_the_202_when_it_takes_longer(relay: Relay) -> None:
    """Too slow, the caller gets the 202, and the answer later."""
    body = envelope(relay, "/misbehave/slow/2")

    answer = relay.call("POST", "/async", body, {"Prefer": "wait=1"})

    assert answer.status == 202
    assert answer.all("Preference-Applied") == ["wait=1"]
    assert answer.all("Retry-After") == ["1"]
    wait_for_status(relay, str(answer.json()["id"]), "completed")


def test_prefer_respond_async_makes_sync_async(relay: Relay) -> None:
    """The caller of /sync may ask to be told later; its method goes to the target."""
    answer = relay.call(
        "PUT", "/sync", envelope(relay, "/sync_tasks/later"), {"Prefer": "respond-async"}
    )

    assert answer.status == 202
    assert answer.all("Preference-Applied") == ["respond-async"]
    done = wait_for_status(relay, str(answer.json()["id"]), "failed")
    assert cast("dict[str, object]", done["answer"])["status"] == 405  # no PUT there
    (made,) = relay.calls_to_target("/sync_tasks/later", answer.json()["id"])
    assert made["method"] == "PUT"


@pytest.mark.parametrize(
    ("api", "status", "member", "code"),
    [
        pytest.param("/tasks", "completed", "answer", 200, id="completed"),
        pytest.param("/misbehave/status/404", "failed", "answer", 404, id="failed"),
        pytest.param("/misbehave/status/503", "dead", "reason", 503, id="dead"),
    ],
)
def test_a_callback_brings_the_outcome(
    relay: Relay, api: str, status: str, member: str, code: int
) -> None:
    """Whatever the outcome, one signed call tells the caller; a callback asks for no other."""
    url = f"http://localhost:{relay.ports['SAMPLE_API']}/tasks?about={status}"
    callback = {"url": url, "headers": {"X-Mine": "1"}}

    request_id = accept(relay, envelope(relay, api, callback=callback))

    callback_id = f"{request_id}.{status}.callback"
    (made,) = wait_until(lambda: relay.calls_to_target("/tasks", callback_id), 20, "the callback")
    headers = cast("dict[str, str]", made["headers"])
    body = str(made["body"])
    assert made["path"] == f"/tasks?about={status}"
    told = Webhook(SECRET).verify(body, {name.lower(): value for name, value in headers.items()})
    assert (told["id"], told["status"]) == (request_id, status)
    assert told[member]["status" if member == "answer" else "code"] == code
    assert headers["X-Mine"] == "1"
    assert re.fullmatch("relay_[0-9a-f]{64}", headers["webhook-id"])
    wait_for_status(relay, callback_id, "completed")
    assert relay.call("GET", f"/async/{callback_id}.completed.callback").status == 404


def test_a_callback_to_a_forbidden_address_is_refused(relay: Relay) -> None:
    """The callback goes where any call may go, and nowhere else."""
    body = envelope(relay, "/tasks", callback={"url": "http://127.0.0.1:1/"})

    answer = relay.call("POST", "/async", body)

    assert answer.status == 403
    assert "127.0.0.1:1" in str(answer.json()["detail"])


def test_the_targets_own_callback_joins_its_request(quick: dict[str, str], tmp_path: Path) -> None:
    """A caller that chooses the id can write the callback's address before the call."""
    request_id = "chosen-by-the-caller"
    # The sample API signs nothing, so there is no secret here.
    with started(tmp_path / "broker", settings=quick) as relay:
        host = "send-serving.default.example.com"
        uri = f"http://localhost:{relay.ports['GATEWAY']}/event/callback?id={request_id}"
        body = envelope(relay, "/callback_tasks", body={"callback_uri": uri, "host": host})

        accept(relay, body, **{"Idempotency-Key": request_id})

        def called_back() -> object:
            return status_of(relay, request_id).get("callbacks")

        (callback,) = cast("list[dict[str, object]]", wait_until(called_back, 20, "the callback"))
        assert cast("dict[str, object]", callback["body"])["idempotencyKey"] == request_id
        assert wait_for_status(relay, request_id, "completed")["status"] == "completed"


def test_waiting_callers_and_status_reads_do_not_starve_sync(relay: Relay) -> None:
    """Of 200 who wait most get their 202 at once, and /sync is answered among 500 status reads."""
    slow = envelope(relay, "/misbehave/slow/1")
    request_id = accept(relay, envelope(relay, "/tasks"))

    def one(number: int) -> Answer:
        if number % 8 == 0:
            return relay.call("POST", "/sync", envelope(relay, "/tasks"))
        if number % 8 in (1, 2):
            return relay.call("POST", "/async", slow, {"Prefer": "wait=5"})
        return relay.call("GET", f"/async/{request_id}")

    with ThreadPoolExecutor(max_workers=100) as callers:
        answers = list(callers.map(one, range(800)))

    statuses = [answer.status for answer in answers]
    assert set(statuses[0::8]) == {200}
    assert set(statuses[1::8] + statuses[2::8]) <= {200, 202}
    assert 202 in statuses[1::8]
    assert set(statuses[3::8]) == {200}


@pytest.mark.parametrize("kind", ["default", "redis"])
def test_a_restart_in_between_loses_nothing(
    kind: str, quick: dict[str, str], tmp_path: Path
) -> None:
    """Request, status, attempts, callback and dead letter outlive the Broker and both functions."""
    if kind == "default":
        outlive({}, quick, tmp_path)
    else:
        with redis_server(tmp_path) as url:
            outlive({"STATE_URL": url}, quick, tmp_path)


def outlive(settings: dict[str, str], quick: dict[str, str], folder: Path) -> None:
    settings = {**quick, **settings}
    data = folder / "broker"
    with started(data, settings=settings) as relay:
        dead = accept(relay, envelope(relay, "/misbehave/fail-times/6/restart"))
        wait_for_status(relay, dead, "dead")
        told = {"url": f"http://localhost:{relay.ports['SAMPLE_API']}/tasks?told"}
        slow = accept(relay, envelope(relay, "/misbehave/slow/3", callback=told))
        done = accept(relay, envelope(relay, "/tasks"))
        wait_for_status(relay, done, "completed")
        relay.process.send_signal(signal.SIGINT)
        assert relay.process.wait(30) == 0

    with started(data, ports=relay.ports, settings=settings) as relay:
        assert status_of(relay, dead)["status"] == "dead"
        assert status_of(relay, done)["status"] == "completed"
        wait_for_status(relay, slow, "completed")
        callback_id = f"{slow}.completed.callback"
        wait_until(lambda: relay.calls_to_target("/tasks", callback_id), 20, "the callback")
        for _ in range(2):  # the sample API's own count began anew, so it fails again first
            relay.call("POST", f"/async/{dead}/retry")
            wait_until(lambda: status_of(relay, dead)["status"] != "accepted", 20, "an outcome")
        known = status_of(relay, dead)
        assert (known["status"], known["attempts"]) == ("completed", 13)


@pytest.mark.parametrize("outcome", ["completed", "dead"])
def test_without_the_state_every_promise_is_kept(outcome: str, tmp_path: Path) -> None:
    """Requests are accepted and called; when it is back their outcomes are known, and told."""
    with redis_server(tmp_path) as url:
        port = int(url.rpartition(":")[2])
    settings = {**quick_settings(tmp_path / "knative"), "STATE_URL": url}
    results = tmp_path / "knative" / "310-results-trigger.yaml"
    # Without a delay the Broker would have given them up before the state is back.
    results.write_text(results.read_text(encoding="utf-8").replace("PT0S", "PT0.1S"))
    with started(tmp_path / "broker", settings=settings) as relay:
        target = f"http://localhost:{relay.ports['SAMPLE_API']}/tasks?told"
        api = "/tasks" if outcome == "completed" else "/misbehave/status/503"
        body = envelope(relay, api, callback={"url": target})
        request_id = accept(relay, body)
        wait_until(lambda: relay.calls_to_target(api, request_id), 20, "the call")
        asked = relay.call("GET", f"/async/{request_id}")
        assert asked.status == 503
        assert asked.json()["detail"] == "the state cannot be reached (STATE_URL)"

        with redis_server(tmp_path, port):
            wait_for_status(relay, request_id, outcome)
            callback_id = f"{request_id}.{outcome}.callback"
            wait_until(lambda: relay.calls_to_target("/tasks", callback_id), 20, "the callback")
