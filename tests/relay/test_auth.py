"""With `CALLBACK_SECRET` and `API_TOKEN` set, Send takes only what brings its proof."""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Iterator

import pytest
from standardwebhooks import Webhook

from relay.auth import MAC, Signatures
from relay.backends import open_store
from relay.envelope import Envelope
from relay.events import Event
from relay.problems import Forbidden
from relay.settings import Settings
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import free_port

OLD, NEW, OTHER = (
    "whsec_" + base64.b64encode(f"the {name} key of the tests, long enough".encode()).decode()
    for name in ("old", "new", "other")
)
TOKENS = ("the-first-token-of-two", "the-second-token-of-two")
BEARER = {"Authorization": f"Bearer {TOKENS[0]}"}
TYPE = "dev.knative.samples.t2"
UNSIGNED = (
    "webhook-signature must be a valid and fresh one of Standard Webhooks, with webhook-id and"
    " webhook-timestamp, by a key of CALLBACK_SECRET"
)
FORGED = "ce-relaymac does not show that the event is one of the relay's own"


def settings(broker: Peer) -> dict[str, str]:
    return {
        "K_SINK": broker.url,
        "CALLBACK_SECRET": f"{NEW} {OLD}",
        "API_TOKEN": " ".join(TOKENS),
        "ALLOWED_TARGETS": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def send(broker_peer: Peer) -> Iterator[Function]:
    with serving("send", settings(broker_peer)) as function:
        yield function


def signed(
    message_id: str, body: str, *, key: str = NEW, age_s: int = 0, **changed: str
) -> dict[str, str]:
    """Make the headers of a callback as a target does; `webhook_id=…` changes one."""
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age_s)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, moment, body),
    }
    return headers | {name.replace("_", "-"): value for name, value in changed.items()}


def refused(answer: Answer, status: int, detail: str) -> bool:
    problem = answer.json()
    return (answer.status, problem["detail"], answer.all("Content-Type")) == (
        status,
        detail,
        ["application/problem+json"],
    )


@pytest.mark.parametrize("key", [NEW, OLD], ids=["in use", "being replaced"])
def test_a_signed_callback_is_published_once(send: Function, broker: Peer, key: str) -> None:
    """Either key is good; a second copy is refused."""
    headers = signed(f"msg_{key}", "{}", key=key)

    first = call("POST", f"{send.url}/event/callback?id=order-1", "{}", headers)
    second = call("POST", f"{send.url}/event/callback?id=order-1", "{}", headers)

    assert first.status == 202
    assert refused(second, 401, "webhook-id has been used before")
    [event] = broker.requests
    assert event.header("ce-subject") == "order-1"


def test_a_signed_callback_without_a_body(send: Function, broker: Peer) -> None:
    """A GET is signed over nothing."""
    answer = call("GET", f"{send.url}/event/callback?id=order-1", None, signed("msg_get", ""))

    assert answer.status == 202
    assert len(broker.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed("a", "{}", key=OTHER),
        signed("b", "{ }"),
        signed("c", "{}", age_s=301),
        signed("d", "{}", age_s=-3600),
        signed("relay_e", "{}"),
        signed("f", "{}", webhook_id="g"),
        signed("h", "{}", webhook_id="\xff"),
        signed("i", "{}", webhook_timestamp="soon"),
        signed("j", "{}", webhook_timestamp="nan"),
        signed("k", "{}", webhook_timestamp="1e400"),
        signed("l", "{}", webhook_signature="v1"),
        signed("m", "{}", webhook_signature="v1,a,b"),
        signed("n", "{}", webhook_signature="v1,a"),
        signed("o", "{}", webhook_signature="v1,\xff"),
        signed("p", "{}", webhook_signature="v2,AAAA"),
        signed("q", "{}", webhook_signature=""),
    ],
    ids=lambda headers: str(headers.get("webhook-id", "none")).encode("ascii", "replace").decode(),
)
def test_an_unsigned_callback_is_refused(
    send: Function, broker: Peer, headers: dict[str, str]
) -> None:
    """Missing, wrong, stale, malformed or the relay's own: 401, and nothing is published."""
    answer = call("POST", f"{send.url}/event/callback", "{}", headers)

    assert refused(answer, 401, UNSIGNED)
    assert answer.all("WWW-Authenticate") == ["StandardWebhooks"]
    assert broker.requests == []


def test_a_body_that_is_no_text_is_refused(send: Function, broker: Peer) -> None:
    """The signature is over text; other bytes cannot have one."""
    answer = call("POST", f"{send.url}/event/callback", b"\xff", signed("msg_bytes", "{}"))

    assert refused(answer, 401, UNSIGNED)
    assert broker.requests == []


def test_what_was_not_published_may_come_again(send: Function, broker: Peer) -> None:
    """A target repeats a webhook under its id, so that only a published one is used up."""
    headers = signed("msg_again", "{}")
    broker.default = answer_of(500)
    assert call("POST", f"{send.url}/event/callback", "{}", headers).status == 503
    broker.default = peers.ACCEPTED

    answer = call("POST", f"{send.url}/event/callback", "{}", headers)

    assert answer.status == 202


def test_without_the_state_no_callback_is_taken(broker: Peer) -> None:
    """Nobody could tell a copy."""
    url = f"redis://127.0.0.1:{free_port()}"
    with serving("send", {**settings(broker), "STATE_URL": url}) as send:
        answer = call("POST", f"{send.url}/event/callback", "{}", signed("msg_stateless", "{}"))

    assert refused(answer, 503, "the state cannot be reached (STATE_URL)")
    assert broker.requests == []


def published_mac(send: Function, broker: Peer, request_id: str, **more: object) -> str:
    """Have a request accepted and return the MAC of its event; `callback=…` is a field of it."""
    body = json.dumps({"targetURL": "http://127.0.0.1:1", **more})
    headers = {"Idempotency-Key": request_id, **BEARER}
    assert call("POST", f"{send.url}/async", body, headers).status == 202
    mac = broker.requests[-1].header("ce-relaymac")
    assert mac is not None
    return mac


def own_event(event_type: str, event_id: str, mac: str | None, **more: str) -> dict[str, str]:
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": "dev.knative.samples/t2",
        "ce-type": event_type,
        **({} if mac is None else {"ce-relaymac": mac}),
    }
    return attributes | {f"ce-{name}": value for name, value in more.items()}


def deliver(send: Function, path: str, headers: dict[str, str], **data: object) -> Answer:
    """Deliver a result; `callback=…` is what Receive has copied into it."""
    body = json.dumps({"status": 200, "headers": {}, **data})
    return call("POST", f"{send.url}{path}", body, {"Content-Type": "application/json"} | headers)


def status_of(send: Function, request_id: str) -> object:
    return call("GET", f"{send.url}/async/{request_id}", None, BEARER).json()["status"]


def test_a_result_needs_the_mac_of_its_request(send: Function, broker: Peer) -> None:
    """Nobody outside can make up an outcome."""
    mac = published_mac(send, broker, "order-2")
    event = own_event(f"{TYPE}.completed", "order-2.completed", None, subject="order-2")
    theirs = published_mac(send, broker, "order-3")
    for wrong in ({}, {"ce-relaymac": ""}, {"ce-relaymac": theirs}, {"ce-relaymac": "%C3%BC"}):
        assert refused(deliver(send, "/event/callback", event | wrong), 403, FORGED)
    assert status_of(send, "order-2") == "accepted"

    answer = deliver(send, "/event/callback", event | {"ce-relaymac": mac})

    assert (answer.status, answer.body) == (202, b"")
    assert status_of(send, "order-2") == "completed"


def test_a_dead_letter_needs_its_mac_and_a_retry_has_one(send: Function, broker: Peer) -> None:
    """Only a request that was accepted here can die here; sent again, it is still the relay's."""
    mac = published_mac(send, broker, "order-4")
    forged = deliver(send, "/event/dead-letter", own_event(TYPE, "order-4", None))
    assert refused(forged, 403, FORGED)
    assert status_of(send, "order-4") == "accepted"

    assert deliver(send, "/event/dead-letter", own_event(TYPE, "order-4", mac)).status == 202

    known = call("GET", f"{send.url}/async/order-4", None, BEARER)
    assert known.json()["status"] == "dead"
    assert mac.encode() not in known.body
    assert call("POST", f"{send.url}/async/order-4/retry", None, BEARER).status == 202
    assert broker.requests[-1].header("ce-relaymac") == mac


def test_a_caller_cannot_spoil_the_signature_of_its_callback(send: Function, broker: Peer) -> None:
    """A header that the caller gave, in whatever case, makes way for the relay's own.

    Its `webhook-id` has no dot, which ends an id in what is signed, and nothing of a caller's.
    """
    callback = {"url": "http://127.0.0.1:1", "headers": {"Webhook-Id": "mine", "X-Mine": "1"}}
    mac = published_mac(send, broker, "order-6", callback=callback)
    event = own_event(f"{TYPE}.completed", "order-6.completed", mac, subject="order-6")

    reply = deliver(send, "/event/callback", event, callback=callback)

    sent = Envelope.from_json(reply.body)
    told = {name.lower(): value for name, value in sent.headers}
    assert len(told) == len(sent.headers)
    assert told["x-mine"] == "1"
    assert re.fullmatch("relay_[0-9a-f]{64}", told["webhook-id"])
    again = deliver(send, "/event/callback", event, callback=callback)
    assert told["webhook-id"].encode() in again.body  # however often the outcome is delivered
    assert sent.content is not None
    assert Webhook(OLD).verify(sent.content, told)["status"] == "completed"


@pytest.mark.parametrize(
    "headers",
    [{f"X-{n}": "1" for n in range(61)}, {"X-A": "a" * (15 * 1024 - len("X-A: \r\n"))}],
    ids=["most", "largest"],
)
def test_a_signature_has_room_beside_the_headers_of_the_callback(
    send: Function, broker: Peer, headers: dict[str, str]
) -> None:
    """What is accepted with a request is delivered, signed by both keys, for an id however long."""
    request_id = f"order-7-{len(headers)}".ljust(128, "x")
    callback = {"url": "http://127.0.0.1:1", "headers": headers}
    mac = published_mac(send, broker, request_id, callback=callback)
    event = own_event(f"{TYPE}.completed", f"{request_id}.completed", mac, subject=request_id)

    reply = deliver(send, "/event/callback", event, callback=callback)

    told = dict(Envelope.from_json(reply.body).headers)
    assert headers.items() <= told.items()
    assert len(told["webhook-signature"].split()) == 2


def test_a_callback_event_has_a_mac_of_its_own(send: Function, broker: Peer) -> None:
    """What Send publishes for a target it takes back from the Broker, and nothing else."""
    call("POST", f"{send.url}/event/callback?id=order-5", "{}", signed("msg_own", "{}"))
    [event] = broker.requests
    attributes = {name: value for name, value in event.headers if name.startswith("ce-")}

    assert deliver(send, "/event/callback", attributes).status == 202
    del attributes["ce-relaymac"]
    assert refused(deliver(send, "/event/callback", attributes), 403, FORGED)


def test_a_mac_is_of_one_callback(send: Function, broker: Peer) -> None:
    """Who knows the MAC of a request cannot have another address called for it, or none."""
    callback = {"url": "http://127.0.0.1:1", "headers": {"X-A": 1.50}}
    mac = published_mac(send, broker, "order-8", callback=callback)
    result = own_event(f"{TYPE}.completed", "order-8.completed", mac, subject="order-8")
    dead = own_event(TYPE, "order-8", mac)
    for other in ({"callback": {"url": "http://127.0.0.1:2"}}, {}, {"callback": None}):
        for path, event in (("/event/callback", result), ("/event/dead-letter", dead)):
            assert refused(deliver(send, path, event, **other), 403, FORGED)
    assert status_of(send, "order-8") == "accepted"

    reply = deliver(send, "/event/callback", result, callback=callback)

    assert reply.all("ce-id") == ["order-8.completed.callback"]


def test_a_token_alone_makes_macs(broker: Peer) -> None:
    """Else a forged dead letter would have calls made that the token guards."""
    env = {**settings(broker), "CALLBACK_SECRET": ""}
    callback = {"url": "http://127.0.0.1:1"}
    with serving("send", env) as send:
        mac = published_mac(send, broker, "order-9", callback=callback)
        forged = own_event(TYPE, "order-10", None)
        answer = deliver(send, "/event/dead-letter", forged, callback=callback)
        assert refused(answer, 403, FORGED)
        assert broker.requests[-1].header("ce-id") == "order-9"

        result = own_event(f"{TYPE}.completed", "order-9.completed", mac, subject="order-9")
        reply = deliver(send, "/event/callback", result, callback=callback)

    assert reply.all("ce-id") == ["order-9.completed.callback"]


def signatures(secrets: tuple[bytes, ...] = (), tokens: tuple[str, ...] = ()) -> Signatures:
    store = open_store("memory://", ttl_s=60, max_bytes=1_000_000)
    return Signatures(Settings(callback_secret=secrets, api_token=tokens), store)


def test_macs_of_both_keys_are_accepted_while_one_replaces_the_other() -> None:
    """Events that are under way when the key changes keep their worth."""
    event = Event(attributes={"id": "a", "source": "s", "type": "t"})
    old = signatures((b"old",)).stamp(event)

    signatures((b"new", b"old")).check(old, "a")

    assert signatures().stamp(event) == event
    new = signatures((b"new", b"old")).stamp(event)
    assert old.attributes[MAC] != new.attributes[MAC]


def test_a_secret_takes_the_place_of_tokens() -> None:
    """Whoever has a token could make the MAC of another caller's request."""
    event = Event(attributes={"id": "a", "source": "s", "type": "t"})
    by_token = signatures(tokens=TOKENS).stamp(event)
    signatures(tokens=(TOKENS[1], TOKENS[0])).check(by_token, "a")

    with pytest.raises(Forbidden):
        signatures((b"new",), TOKENS).check(by_token, "a")


GUARDED = [
    ("GET", "/sync"),
    ("POST", "/sync"),
    ("POST", "/async"),
    ("POST", "/event"),
    ("GET", "/async?status=dead"),
    ("GET", "/async/order-1"),
    ("POST", "/async/order-1/retry"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", f"Basic {TOKENS[0]}", f"Bearer {TOKENS[0]}x", "Bearer caf\xe9"],
)
def test_callers_need_a_token(
    send: Function, broker: Peer, method: str, path: str, authorization: str | None
) -> None:
    """Without one of them nothing is called, published or told."""
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = call(method, f"{send.url}{path}", None, headers)

    assert refused(answer, 401, "Authorization must be Bearer and a token of API_TOKEN")
    assert answer.all("WWW-Authenticate") == ["Bearer"]
    assert broker.requests == []


@pytest.mark.parametrize("token", TOKENS)
def test_every_token_is_let_in(send: Function, token: str) -> None:
    """All of them are good, and the scheme's case does not matter."""
    headers = {"Authorization": f"bearer {token}"}

    assert call("GET", f"{send.url}/async?status=dead", None, headers).status == 200


@pytest.mark.parametrize("path", ["/", "/health/readiness"])
def test_the_index_and_the_probes_need_no_token(send: Function, path: str) -> None:
    """They tell nothing of anybody's."""
    assert call("GET", f"{send.url}{path}").status == 200
