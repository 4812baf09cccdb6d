"""The whole relay on one machine: the calls that the README shows, from start to Ctrl-C."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.calls import call
from tests.support.processes import is_listening, wait_until
from tests.support.stack import PARTS, Relay, started


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Run one stack for all calls."""
    with started(tmp_path_factory.mktemp("broker")) as relay:
        yield relay


@pytest.mark.parametrize(
    ("method", "example", "path"),
    [
        ("GET", "get_sync_tasks.json", "/sync_tasks/abcdevflake"),
        ("POST", "post_sync_tasks.json", "/tasks"),
    ],
)
def test_sync_answers_with_the_answer_of_the_target(
    relay: Relay, method: str, example: str, path: str
) -> None:
    """The target gets the method, headers and body of the envelope; the caller gets its answer."""
    envelope = relay.example(example)

    answer = relay.call(method, "/sync", envelope)

    echo = answer.json()
    assert answer.status == 200
    assert answer.all("Content-Type") == ["application/json"]
    assert (echo["method"], echo["path"]) == (method, path)
    assert cast(dict[str, str], echo["headers"])["Header1"] == "Header1"
    assert json.loads(str(echo["body"])) == json.loads(envelope)["body"]


def test_async_ends_in_the_callback_shown_as_an_event(relay: Relay) -> None:
    """The call is accepted at once, made once, and the target's callback becomes an event."""
    envelope = relay.example("post_async_tasks.json")

    answer = relay.call("POST", "/async", envelope)

    key = answer.json()["id"]
    assert answer.status == 202
    request = relay.wait_for_event("  type: dev.knative.samples.t2\n", f"  id: {key}\n")
    assert json.loads(request.partition("Data,\n")[2]) == json.loads(envelope)
    relay.wait_for_event("  type: dev.knative.samples.t2.completed\n", f"  subject: {key}\n")
    relay.wait_for_event(
        "Validation: valid\n",
        "  type: dev.knative.samples.t2.callback\n",
        f'  "idempotencyKey": "{key}"\n',
    )
    (made,) = relay.calls_to_target("/callback_tasks", key)
    assert made["method"] == "POST"


def test_a_callback_becomes_an_event(relay: Relay) -> None:
    """Whatever JSON a target sends to the callback route is shown as an event."""
    answer = relay.call("POST", "/event/callback?id=42", relay.example("post_async_tasks.json"))

    assert (answer.status, answer.body) == (202, b"")
    relay.wait_for_event(
        "  type: dev.knative.samples.t2.callback\n", "  subject: 42\n", '"/callback_tasks"'
    )


def test_the_old_route_for_events_still_works(relay: Relay) -> None:
    """`POST /event` is `POST /async`."""
    answer = relay.call("POST", "/event", relay.example("event.json"))

    key = answer.json()["id"]
    assert answer.status == 202
    wait_until(lambda: relay.calls_to_target("/test", key), 20, "the call of the target")


@pytest.mark.parametrize("path", ["/sync", "/async", "/event"])
def test_an_envelope_with_a_string_for_headers_is_explained(relay: Relay, path: str) -> None:
    """What old callers send by mistake is a 400 that names the field; nothing is published."""
    envelope = {"targetURL": "http://localhost:1", "targetAPI": "/old", "headers": "headers"}

    answer = relay.call("POST", path, json.dumps({**envelope, "body": "body"}))

    assert answer.status == 400
    assert answer.all("Content-Type") == ["application/problem+json"]
    assert answer.json()["detail"] == "headers must be an object, not a string"
    later = relay.call("POST", "/event", relay.example("event.json")).json()["id"]
    relay.wait_for_event(f"  id: {later}\n")
    assert not any('"/old"' in event for event in relay.displayed())


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("http://localhost:30000", "completed", id="delivered"),
        pytest.param("http://192.0.2.1", "dead", id="dead letter"),
    ],
)
def test_an_event_of_another_publisher_survives_its_attributes(
    relay: Relay, target: str, status: str
) -> None:
    """Subject and extension come as bytes of UTF-8 and Latin-1, to Receive and to the sink."""
    request_id = f"korean-{status}"
    attributes = {
        "specversion": "1.0",
        "id": request_id,
        "source": "/한글/소스",
        "type": "dev.knative.samples.t2",
        "subject": "한글",
    }
    headers = {f"ce-{name}": value.encode().decode("latin-1") for name, value in attributes.items()}
    headers |= {"ce-french": "caf\xe9", "Content-Type": "application/json"}
    envelope = relay.here(json.dumps({"targetURL": target, "targetAPI": "/test"}))
    broker_url = f"http://localhost:{relay.ports['BROKER']}/default/default"

    def known() -> dict[str, object]:
        return relay.call("GET", f"/async/{request_id}").json()

    # Send knows of it when its result, or its dead letter, has come.
    assert call("POST", broker_url, envelope, headers).status == 202
    wait_until(lambda: known().get("status") == status, 20, f"{request_id} to be {status}")

    shown = relay.wait_for_event(f"  id: {request_id}\n", "  subject: 한글\n")
    assert "  source: /%ED%95%9C%EA%B8%80/%EC%86%8C%EC%8A%A4\n" in shown
    if status == "dead":
        assert cast(dict[str, object], known()["reason"])["code"] == 403
        assert relay.call("POST", f"/async/{request_id}/retry").status == 202
    else:
        assert len(relay.calls_to_target("/test", request_id)) == 1


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """After Ctrl-C nothing listens any more, and an idle stack has nothing to complain about."""
    with started(tmp_path) as relay:
        listening = [part for part, port in relay.ports.items() if is_listening(port)]
        relay.process.send_signal(signal.SIGINT)
        exit_code = relay.process.wait(30)

    assert listening == list(PARTS)
    assert exit_code == 0
    assert not any(is_listening(port) for port in relay.ports.values())
    assert relay.process.output.endswith("Stopped.\n")
    assert "Traceback" not in relay.process.output
