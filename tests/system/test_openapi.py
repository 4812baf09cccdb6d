"""`schemas/openapi.yaml`: what Send does is what its description says, and the other way round."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast
from urllib.parse import urlencode

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from relay.backends import open_store
from relay.envelope import fingerprint, read_envelope
from relay.events import Event
from relay.lifecycle import Attempt
from relay.problems import CallerLeft, RelayError
from relay.records import Records, asked_by
from relay.settings import Settings
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, Received, answer_of, until_gone
from tests.support.processes import REPOSITORY, free_port, wait_until

SCHEMAS = REPOSITORY / "schemas"
TEXT = (SCHEMAS / "openapi.yaml").read_text(encoding="utf-8")
Node = dict[str, Any]
DOCUMENT: Node = yaml.safe_load(TEXT)
METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
OPERATIONS = {
    (method.upper(), path): cast("Node", item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
}

BROKER_PATH = "/default/default"
TYPE = "dev.knative.samples.t2"
TOKEN = "a-token-of-20-letters"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
PROBLEM = "application/problem+json"

# Shown, but not an answer of Send's that a test can ask for: what the relay delivers, and what a
# process says while it ends (tests/test_shutdown.py).
NOT_ASKED_FOR = {"DeliveredOutcome", "Ending"}


def resolved(node: Node) -> Node:
    """Follow a reference within the document."""
    while "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def unfolded(node: Any, document: Node) -> Any:
    """Put what references lead to in their places; what stands beside one wins."""
    if isinstance(node, list):
        return [unfolded(each, document) for each in node]
    if not isinstance(node, dict):
        return node
    own = {name: unfolded(each, document) for name, each in node.items() if name != "$ref"}
    if "$ref" not in node:
        return own
    found: Any = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return unfolded(found, document) | own


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving() as peer:
        yield peer


@pytest.fixture(scope="module")
def broker() -> Iterator[Peer]:
    with peers.serving(peers.ACCEPTED) as peer:
        yield peer


@pytest.fixture(scope="module")
def state_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite://{tmp_path_factory.mktemp('state')}/state.sqlite3"


def settings(broker: Peer) -> dict[str, str]:
    return {
        "ALLOWED_TARGETS": "localhost",
        "K_SINK": f"http://localhost:{broker.port}{BROKER_PATH}",
        "PUBLISH_TIMEOUT_S": "1",
    }


@pytest.fixture(scope="module")
def send(broker: Peer) -> Iterator[Function]:
    with serving("send", settings(broker)) as function:
        yield function


@pytest.fixture(scope="module")
def fresh(broker: Peer, state_url: str) -> Iterator[Function]:
    """Serve a Send that no other test has told of a request."""
    with serving("send", {**settings(broker), "STATE_URL": state_url}) as function:
        yield function


@pytest.fixture(scope="module")
def forgetful(broker: Peer) -> Iterator[Function]:
    """Serve a Send whose state is not there."""
    url = f"redis://127.0.0.1:{free_port()}"
    with serving("send", {**settings(broker), "STATE_URL": url}) as function:
        yield function


@pytest.fixture(scope="module")
def guarded() -> Iterator[Function]:
    """Serve a Send that trusts nobody, and whose Broker and state are not there."""
    env = {
        "API_TOKEN": TOKEN,
        "CALLBACK_SECRET": SECRET,
        "ALLOWED_TARGETS": "localhost",
        "STATE_URL": f"redis://127.0.0.1:{free_port()}",
    }
    with serving("send", env) as function:
        yield function


class TestTheDocument:
    def test_is_openapi(self) -> None:
        """It is a valid OpenAPI 3.1 document, its schemas and references too."""
        validator = OpenAPIV31SpecValidator(DOCUMENT, base_uri=(SCHEMAS / "openapi.yaml").as_uri())

        assert [error.message for error in validator.iter_errors()] == []
        assert DOCUMENT["openapi"].startswith("3.1.")

    def test_has_the_envelope(self) -> None:
        """Its envelope is that of envelope.schema.json; /sync's are without what /sync refuses."""
        schema = json.loads((SCHEMAS / "envelope.schema.json").read_text(encoding="utf-8"))
        stated = unfolded(schema, schema)
        for name in ("$schema", "$defs", "title", "examples"):
            del stated[name]
        schemas = DOCUMENT["components"]["schemas"]
        envelope = unfolded(schemas["Envelope"], DOCUMENT)

        assert envelope == stated
        for name, refused in (
            ("SyncPostEnvelope", {"callback"}),
            ("SyncEnvelope", {"callback", "method"}),
        ):
            allowed = {
                field: each for field, each in stated["properties"].items() if field not in refused
            }
            sync = unfolded(schemas[name], DOCUMENT)
            assert sync["properties"] == allowed
            assert sync | {"properties": 0, "description": 0} == envelope | {
                "properties": 0,
                "description": 0,
            }

    def test_shows_what_the_readme_sends(self) -> None:
        """The examples of bodies are those of `examples/`."""
        shown = {
            name: example["value"]
            for body in DOCUMENT["components"]["requestBodies"].values()
            for content in body["content"].values()
            for name, example in content["examples"].items()
        }

        for file in sorted((REPOSITORY / "examples").iterdir()):
            assert shown[file.stem] == json.loads(file.read_text(encoding="utf-8"))

    def test_has_every_problem(self) -> None:
        """Each status of the relay's own errors is described, with an example."""
        examples = [each["value"] for each in DOCUMENT["components"]["examples"].values()]
        shown = {each["status"] for each in examples if each.get("type") == "about:blank"}

        told = {*errors_below(RelayError)} - {CallerLeft}  # which nobody waits for

        assert {int(error.status) for error in told} <= shown
        assert shown <= set(map(int, statuses())) | {404, 405}

    def test_has_every_member_of_a_problem(self) -> None:
        """An extension member that an example shows has its description."""
        described = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"])
        examples = [each["value"] for each in DOCUMENT["components"]["examples"].values()]

        for example in examples:
            if example.get("type") == "about:blank":
                assert set(example) <= described

    def test_leaves_nothing_unused(self) -> None:
        """Every example is referred to, and so is every other component but three.

        What any path may be answered belongs to none.
        """
        used = set(re.findall(r"#/components/(\w+/\w+)", TEXT))
        there = {
            f"{kind}/{name}"
            for kind, components in DOCUMENT["components"].items()
            if kind != "securitySchemes"
            for name in components
        }

        common = {"responses/NotFound", "responses/MethodNotAllowed", "responses/Fault"}
        assert there - used == common


def errors_below(error: type[RelayError]) -> Iterator[type[RelayError]]:
    for each in error.__subclasses__():
        yield each
        yield from errors_below(each)


def statuses() -> set[str]:
    return {
        status
        for operation in OPERATIONS.values()
        for status in operation["responses"]
        if status != "default"
    }


class TestTheRoutes:
    def test_are_those_of_the_index(self, send: Function) -> None:
        """`GET /` lists the paths and methods of the document but those of the process."""
        described: dict[str, set[str]] = {}
        for method, path in OPERATIONS:
            described.setdefault(path, set()).add(method)

        routes = cast("dict[str, list[str]]", call("GET", send.url).json()["routes"])

        listed = {path: set(methods) for path, methods in routes.items()}
        assert listed == {
            path: methods
            for path, methods in described.items()
            if "/health/" not in path and path != "/metrics"
        }

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            (method, path)
            for path in DOCUMENT["paths"]
            for method in ("OPTIONS", "TRACE")
            if (method, path) not in OPERATIONS
        ],
    )
    def test_other_methods_are_refused(self, send: Function, path: str, method: str) -> None:
        """405 names the methods of the document in Allow (RFC 9110 section 15.5.6)."""
        answer = call(method, send.url + path.replace("{id}", "order-7"))

        assert answer.status == 405
        allowed = set(answer.all("Allow")[0].split(", "))
        described = {one for one, its_path in OPERATIONS if its_path == path}
        assert allowed - {"HEAD"} == described - {"HEAD"}

    @pytest.mark.parametrize(
        ("path", "content_type"),
        [
            ("openapi.yaml", "application/yaml"),
            ("envelope.schema.json", "application/schema+json"),
        ],
    )
    def test_hand_out_the_schemas(self, send: Function, path: str, content_type: str) -> None:
        """The files come byte for byte, under the names by which they refer to each other."""
        answer = call("GET", f"{send.url}/{path}")

        assert answer.status == 200
        assert answer.body == (SCHEMAS / path).read_bytes()
        assert answer.all("Content-Type") == [content_type]
        assert answer.all("Cache-Control") == ["max-age=300"]


BODIES = [
    pytest.param(method, path, content_type, example["value"], id=f"{method} {path} {name}")
    for (method, path), operation in OPERATIONS.items()
    for content_type, content in resolved(operation.get("requestBody", {}))
    .get("content", {})
    .items()
    for name, example in content["examples"].items()
]


@pytest.mark.parametrize(("method", "path", "content_type", "value"), BODIES)
def test_every_body_shown_is_taken(
    send: Function, target: Peer, method: str, path: str, content_type: str, value: object
) -> None:
    """Each example of a request is answered as a success that the document has."""
    headers = {"Content-Type": content_type}
    if path == "/event/dead-letter" and content_type == "application/json":
        headers |= request_event("order-8")

    answer = call(method, send.url + path, encoded(value, content_type, target), headers)

    assert answer.status == (200 if path == "/sync" else 202), answer.body
    assert_described(method, path, answer)


def encoded(value: object, content_type: str, target: Peer) -> str:
    if content_type.endswith("json"):
        return json.dumps(value).replace("localhost:30000", f"localhost:{target.port}")
    return urlencode(cast("Node", value)) if isinstance(value, dict) else str(value)


def request_event(request_id: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-id": request_id,
        "ce-source": "dev.knative.samples/t2",
        "ce-type": TYPE,
    }


def result_event(request_id: str) -> dict[str, str]:
    return request_event(f"{request_id}.completed") | {
        "ce-type": f"{TYPE}.completed",
        "ce-subject": request_id,
        "ce-relayattempts": "1",
        "Content-Type": "application/json",
    }


def assert_described(method: str, path: str, answer: Answer) -> None:
    """Find the answer's status, headers and Content-Type in the document."""
    responses = OPERATIONS[method, path]["responses"]
    response = resolved(responses.get(str(answer.status)) or responses["default"])
    headers = {name.lower(): resolved(each) for name, each in response.get("headers", {}).items()}
    sent = {name.lower() for name, _ in answer.headers}
    servers_own = {"server", "date", "connection", "content-length", "content-type"}
    assert sent - servers_own <= set(headers), f"{method} {path} {answer.status}"
    assert {name for name, each in headers.items() if each.get("required")} <= sent
    if "content" in response and answer.body:
        (content_type,) = answer.all("Content-Type") or ["*/*"]
        assert content_type in response["content"] or "*/*" in response["content"]


@pytest.fixture(scope="module")
def answers(
    send: Function,
    fresh: Function,
    guarded: Function,
    forgetful: Function,
    target: Peer,
    broker: Peer,
    state_url: str,
) -> Mapping[str, tuple[str, str, Answer]]:
    """Have every example of an answer produced; each with the operation that produced it."""
    produced: dict[str, tuple[str, str, Answer]] = {}
    token = {"Authorization": f"Bearer {TOKEN}"}
    envelope = {"targetURL": target.url.replace("127.0.0.1", "localhost")}

    def ask(
        name: str,
        operation: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        of: Function = fresh,
    ) -> Answer:
        method, _, path_and_query = operation.partition(" ")
        raw = body if body is None or isinstance(body, str) else json.dumps(body)
        answer = call(method, of.url + path_and_query, raw, headers)
        path = re.sub(r"/async/(?!retry$)[^/]+", "/async/{id}", path_and_query.partition("?")[0])
        produced[name] = (method, path, answer)
        return answer

    asked = {"callback": {"url": f"{envelope['targetURL']}/done?job=7", "headers": {"X-Job": 7}}}

    def publish(name: str, *, of: Function = fresh, hops: str = "0") -> None:
        headers = {"Idempotency-Key": "order-7", "Relay-Hops": hops}
        ask(name, "POST /async", envelope | asked, headers, of=of)

    ask("WrongField", "POST /async", {**envelope, "headers": {"X-A": None}})
    ask("UnknownField", "POST /sync", {"target": "x"})
    ask("AnotherList", "GET /async?status=lost")
    ask("UnknownParameter", "GET /async?page=2")
    ask("WrongTime", "POST /async/retry?status=dead&since=yesterday")
    ask("WrongId", "GET /event/callback?id=%20")
    ask("NoJSON", "POST /event/callback", "done", {"Content-Type": "application/json"})
    ask("NoEvent", "POST /event/dead-letter", "{}")
    ask("Misdirected", "POST /", envelope)
    ask("NoToken", "POST /sync", envelope, of=guarded)
    ask("NotSigned", "POST /event/callback", "{}", of=guarded)
    ask("NoMAC", "POST /event/dead-letter", envelope, request_event("order-7"), of=guarded)
    ask("TargetNotAllowed", "POST /sync", {"targetURL": "http://10.0.0.1"})
    ask("NoRoute", "GET /nowhere")
    ask("UnknownRequest", "GET /async/unknown")
    ask("NoMethod", "GET /event")
    ask("OtherCoding", "POST /async", envelope, {"Content-Encoding": "br"})
    ask("TooLarge", "POST /event/callback", "x" * 1_048_577)
    ask("Unreachable", "POST /sync", {"targetURL": "http://nowhere.invalid"})
    ask("NoBroker", "POST /async", envelope, token, of=guarded)
    ask("StateAway", "GET /async/order-7", None, token, of=guarded)
    target.on("/never", until_gone)
    ask("OutOfTime", "POST /sync", {**envelope, "targetAPI": "/never", "timeout": 0.1})
    publish("Loop", hops="3")

    broker.on(BROKER_PATH, answer_of(500))
    publish("MaybePublished")
    ask("LostRequest", "GET /async/order-7")
    broker.on(BROKER_PATH, answer_of(400))
    publish("Refused")
    broker.on(BROKER_PATH, until_gone)
    broker.requests.clear()
    with ThreadPoolExecutor(1) as pool:
        out_of_time = pool.submit(publish, "BrokerOutOfTime")
        wait_until(lambda: broker.requests, 10, "the publication")
        publish("BeingPublished")
        out_of_time.result()
    broker.on(BROKER_PATH, peers.ACCEPTED)

    examples = DOCUMENT["components"]["examples"]
    publish("UnrecordedRequest", of=forgetful)
    publish("AcceptedRequest")
    ask("KeyReused", "POST /async", envelope, {"Idempotency-Key": "order-7"})
    ask("OpenRequest", "GET /async/order-7")
    call("POST", f"{send.url}/async", json.dumps(envelope), {"Idempotency-Key": "order-7"})
    ask("NothingToCancel", "DELETE /async/order-7", of=send)
    fail_twice(state_url, broker.requests[-2])
    ask("TooLateToCancel", "DELETE /async/order-7")
    ask("FailingRequest", "GET /async/order-7")
    answer = examples["CompletedRequest"]["value"]["answer"]
    event = result_event("order-7") | {"ce-relayattempts": "3"}
    ask("CallbackCall", "POST /event/callback", answer | asked, event)
    called_back = {"task": "abcdevflake", "state": "done"}
    json_type = {"Content-Type": "application/json"}
    call("POST", f"{fresh.url}/event/callback?id=order-7", json.dumps(called_back), json_type)
    delivered = dict(broker.requests[-1].headers)
    call("POST", f"{fresh.url}/event/callback", json.dumps(called_back), delivered)
    ask("CompletedRequest", "GET /async/order-7")
    ask("NotOver", "POST /async/order-7/retry")
    no = '{"status":404,"headers":{}}'
    call("POST", f"{fresh.url}/event/callback", no, failed_event("order-9"))
    ask("EventGone", "POST /async/order-9/retry")

    call("POST", f"{fresh.url}/async", json.dumps(envelope), {"Idempotency-Key": "order-8"})
    dead = request_event("order-8") | {
        "ce-id": "order-8.dead",
        "ce-type": f"{TYPE}.dead",
        "ce-subject": "order-8",
        "ce-relayattempts": "6",
        "ce-relayreason": "the target answered 503",
        "ce-relaystatus": "503",
    }
    call("POST", f"{fresh.url}/event/callback", json.dumps(envelope), dead)
    ask("DeadRequest", "GET /async/order-8")
    ask("DeadRequests", "GET /async?status=dead")
    ask("RetriedRequest", "POST /async/order-8/retry")
    call("POST", f"{fresh.url}/event/dead-letter", json.dumps(envelope), dead | ROUND_2)
    ask("RetriedRequests", "POST /async/retry?status=dead")
    call("POST", f"{fresh.url}/async", json.dumps(envelope), {"Idempotency-Key": "order-6"})
    ask("CancelledRequest", "DELETE /async/order-6")
    return produced


ROUND_2 = {"ce-relayround": "2"}


def failed_event(request_id: str) -> dict[str, str]:
    return result_event(request_id) | {
        "ce-id": f"{request_id}.failed",
        "ce-type": f"{TYPE}.failed",
    }


def fail_twice(state_url: str, published: Received) -> None:
    """Note what Receive would, of two attempts that failed."""
    headers = {name: value for name, value in published.headers if name.startswith("ce-")}
    event = Event.from_http(headers, published.body)
    print_ = fingerprint(read_envelope(published.body)[1])
    with closing(open_store(state_url, ttl_s=86_400, max_bytes=2**30)) as store:
        records = Records(store, Settings())
        for number in (1, 2):
            attempt = records.claim(asked_by(event, event.id, print_, "t"), number)
            assert isinstance(attempt, Attempt)
            assert attempt.caller is not None
            error = "the target answered 503"
            records.attempt_failed(event.id, attempt, error=error, next_in_s=number)


def test_every_answer_shown_is_produced(answers: Mapping[str, object]) -> None:
    """No example of an answer is left to the imagination."""
    assert set(answers) == set(DOCUMENT["components"]["examples"]) - NOT_ASKED_FOR


@pytest.mark.parametrize(
    "name", [name for name in DOCUMENT["components"]["examples"] if name not in NOT_ASKED_FOR]
)
def test_an_answer_is_what_is_shown(
    answers: Mapping[str, tuple[str, str, Answer]], target: Peer, broker: Peer, name: str
) -> None:
    """Send answers as the example has it, times and ports apart, and where the document has it."""
    method, path, answer = answers[name]
    shown = json.dumps(DOCUMENT["components"]["examples"][name]["value"])
    shown = shown.replace("localhost:30000", f"localhost:{target.port}")
    shown = shown.replace("localhost:8081", f"localhost:{broker.port}")
    time = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")

    assert json.loads(time.sub("TIME", answer.body.decode())) == json.loads(time.sub("TIME", shown))
    if (method, path) in OPERATIONS:
        assert_described(method, path, answer)


def test_a_delivered_outcome_is_the_data_of_its_event() -> None:
    """What a caller's callback brings is the body of the call that the Broker was given."""
    examples = DOCUMENT["components"]["examples"]

    assert examples["CallbackCall"]["value"]["body"] == examples["DeliveredOutcome"]["value"]
