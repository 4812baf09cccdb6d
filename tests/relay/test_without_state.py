"""What comes back while the store is away: nothing is lost, and the Broker is told to wait."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relay.test_keys import CALLBACK, TYPE, deliver, finish, post, served, status_of
from tests.support.calls import call
from tests.support.functions import Function
from tests.support.peers import Peer, Received, answer_of
from tests.support.processes import free_port
from tests.support.redis import redis_server
from tests.support.stores import SHARED_KINDS

REASON = {
    "knativeerrordest": "http://receive",
    "knativeerrorcode": "503",
    "knativeerrordata": "eyJkZXRhaWwiOiJ3aHkiLCJhdHRlbXB0cyI6Nn0=",  # {"detail":"why","attempts":6}
}
DATA = {"targetURL": "http://127.0.0.1:9", "targetAPI": "/a", "callback": CALLBACK}


class Away:
    """A store that is away until `back` is entered."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._port = free_port()
        if kind == "redis":
            self.url = f"redis://127.0.0.1:{self._port}"
        else:
            self.url = f"sqlite://{folder}/data/state.sqlite3"
            (folder / "data").write_text("no folder")

    @contextlib.contextmanager
    def back(self) -> Iterator[None]:
        if self._kind == "redis":
            with redis_server(self._folder, self._port):
                yield
        else:
            (self._folder / "data").unlink()
            yield


@pytest.fixture(params=SHARED_KINDS)
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Away:
    return Away(request.param, tmp_path)


def bring_back(send: Function, published: Received) -> tuple[int, list[str]]:
    """Deliver an event that Send has published, as the Trigger for results does."""
    headers = {name: value for name, value in published.headers if name.startswith("ce-")}
    attributes = {name.removeprefix("ce-"): value for name, value in headers.items()}
    for name in ("specversion", "source"):
        attributes.pop(name)
    answer = deliver(
        send,
        "/event/callback",
        attributes.pop("type"),
        json.loads(published.body),
        attributes.pop("id"),
        **attributes,
    )
    return answer.status, answer.all("ce-id")


def test_a_result_waits_in_the_broker(broker: Peer, away: Away) -> None:
    """503 as long as the store is away; then it is noted, and its callback is made."""
    with served(broker, away.url) as send:
        assert post(send, "r", path="/a", callback=CALLBACK).status == 202
        for _ in range(3):
            refused = finish(send, "r", callback=CALLBACK)
            assert refused.status == 503
        with away.back():
            reply = finish(send, "r", callback=CALLBACK)

            assert reply.all("ce-id") == ["r.completed.callback"]
            assert status_of(send, "r")["status"] == "completed"


def test_the_last_delivery_of_a_result_brings_its_callback(broker: Peer, away: Away) -> None:
    """Nobody would come again; what is lost is an answer to a question, and no promise."""
    result = {"status": 200, "headers": {}, "callback": CALLBACK}
    with served(broker, away.url) as send:
        last = deliver(
            send, "/event/dead-letter", f"{TYPE}.completed", result, "r.completed", subject="r"
        )
        del result["callback"]
        without = deliver(
            send, "/event/dead-letter", f"{TYPE}.completed", result, "s.completed", subject="s"
        )

    assert (last.status, without.status) == (202, 503)
    [told] = broker.requests
    assert told.header("ce-id") == "r.completed.callback"


def test_a_dead_letter_waits_as_an_event_of_its_own(broker: Peer, away: Away) -> None:
    """The Broker has it whole before it hears 2xx, and brings it back until it is kept."""
    with served(broker, away.url) as send:
        taken = deliver(send, "/event/dead-letter", TYPE, DATA, "r", **REASON)

        assert taken.status == 202
        [event] = broker.requests
        assert event.header("ce-id") == "r.dead"
        assert event.header("ce-type") == f"{TYPE}.dead"
        assert event.header("ce-subject") == "r"
        assert json.loads(event.body) == DATA
        assert not [name for name, _ in event.headers if name.startswith("ce-knative")]
        assert bring_back(send, event) == (503, [])
        with away.back():
            assert bring_back(send, event) == (200, ["r.dead.callback"])
            known = status_of(send, "r")

    assert (known["status"], known["attempts"]) == ("dead", 6)
    assert known["reason"] == {"code": 503, "detail": "why", "attempts": 6}


def test_a_dead_letter_that_nobody_can_take_is_refused(broker: Peer, away: Away) -> None:
    """Neither store nor Broker: whoever delivers it keeps it."""
    broker.default = answer_of(503, b"", ("Retry-After", "9"))
    with served(broker, away.url) as send:
        refused = deliver(send, "/event/dead-letter", TYPE, DATA, "r", **REASON)

    assert refused.status == 503


def test_a_retry_is_what_was_accepted(broker: Peer, away: Away) -> None:
    """Id, type and data are the request's, though its dead letter came as another event."""
    with served(broker, away.url) as send:
        deliver(send, "/event/dead-letter", TYPE, DATA, "r", **REASON, relayhops="1")
        with away.back():
            bring_back(send, broker.requests[-1])
            assert call("POST", f"{send.url}/async/r/retry").status == 202

    retried = broker.requests[-1]
    assert json.loads(retried.body) == DATA
    names = ("ce-id", "ce-type", "ce-subject", "ce-relayhops", "ce-relayround", "ce-relayreason")
    assert [retried.header(name) for name in names] == ["r", TYPE, None, "1", "2", None]
