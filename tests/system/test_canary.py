"""A secret goes where its owner sends it, and nowhere else: not into logs, errors or outcomes.

Each secret here is letters and digits that nobody could guess, so that JSON and percent-encoding
leave it readable; `leaks` looks for it in base64 and written out in escapes as well.

One place has whole envelopes by design: request events, and with them the Broker's storage and the
terminal of the event display. `docs/security.md` says so.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.settings import InvalidSetting, Settings
from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import serving
from tests.support.peers import Peer, answer_of
from tests.support.processes import free_port, python, running, wait_until
from tests.support.redis import redis_server
from tests.support.stack import Relay, quick_settings, started


def canary(name: str) -> str:
    return f"{name}{secrets.token_hex(16)}"


# What an envelope says to its target, and to whom it wants to be told.
TARGETS = {name: canary(name) for name in ("Authorization", "ApiKey", "Body", "Query")}
CALLBACKS = {name: canary(name) for name in ("CallbackHeader", "CallbackQuery")}
# What is for the relay alone. The last ones come with calls that it refuses.
OPERATORS = {name: canary(name) for name in ("CallbackSecret", "ApiToken", "StatePassword")}
CALLERS = {name: canary(name) for name in ("Cookie", "WrongToken", "BadField", "Unsigned")}
SECRETS = TARGETS | CALLBACKS | OPERATORS | CALLERS

CALLBACK_SECRET = f"whsec_{base64.b64encode(OPERATORS['CallbackSecret'].encode()).decode()}"
BEARER = {"Authorization": f"Bearer {OPERATORS['ApiToken']}", "Cookie": f"a={CALLERS['Cookie']}"}
ENVELOPE_HEADERS = {
    "Authorization": f"Bearer {TARGETS['Authorization']}",
    "X-Api-Key": TARGETS["ApiKey"],
}
TYPE = "dev.knative.samples.t2"


def written(secret: str) -> Iterator[str]:
    """Write a secret in the forms in which it could pass unnoticed."""
    raw = secret.encode()
    yield secret
    yield raw.hex()
    yield "".join(f"%{byte:02x}" for byte in raw)
    yield "".join(f"\\u{byte:04x}" for byte in raw)
    for before in range(3):  # base64 of a longer text, the secret anywhere in it
        encoded = base64.b64encode(bytes(before) + raw).decode()
        inside = encoded[-(-before * 8 // 6) : len(raw) * 8 // 6]
        yield inside
        yield inside.replace("+", "-").replace("/", "_")


def leaks(text: str | bytes, known: Mapping[str, str] = SECRETS) -> set[str]:
    """Name the secrets that a text has in it."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = text.lower()
    return {
        name
        for name, secret in known.items()
        if any(form.lower() in text for form in written(secret))
    }


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_a_secret_is_found_in_every_form(before: str) -> None:
    """The tests below could see what they say is not there."""
    secret = SECRETS["Body"]
    plain = f"{before}{secret}, and more"
    forms = [
        plain,
        json.dumps({"a": {plain: 1}}),
        plain.upper(),
        base64.b64encode(plain.encode()).decode(),
        base64.urlsafe_b64encode(plain.encode()).decode(),
        plain.encode().hex(),
        "".join(f"%{byte:02X}" for byte in plain.encode()),
        "".join(f"\\u{ord(character):04x}" for character in plain),
    ]

    assert [leaks(form) for form in forms] == [{"Body"}] * len(forms)
    assert leaks(secret[:-1]) == set()


@dataclass
class Story:
    """All that was seen of the relay while it dealt with calls full of secrets.

    Args:
        target: what was called, callbacks too.
        unreachable: the URL of a target that is not there.
        forbidden: the URL of one that is not allowed.
        log: what every process printed, but the event display.
        displayed: what the event display printed, one text for each event.
        answers: every answer that a caller, a target or a page was given.
        statuses: how each request ended.
    """

    target: Peer
    unreachable: str
    forbidden: str
    log: str = ""
    displayed: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    statuses: dict[str, dict[str, object]] = field(default_factory=dict)

    def ask(
        self, relay: Relay, method: str, path: str, body: str | None = None, **headers: str
    ) -> Answer:
        answer = relay.call(method, path, body, BEARER | headers)
        self.answers.append(answer)
        return answer


def envelope(url: str, path: str, **fields: object) -> str:
    """Write an envelope with a secret wherever there can be one."""
    return json.dumps(
        {
            "targetURL": url,
            "targetAPI": f"{path}?key={TARGETS['Query']}&{TARGETS['Query']}",
            "headers": ENVELOPE_HEADERS,
            "body": {"password": TARGETS["Body"]},
            **fields,
        }
    )


def wrong_envelopes(url: str) -> Iterator[str]:
    """Write envelopes that are refused for what is wrong with them, next to a secret or in it."""
    bad = CALLERS["BadField"]
    fields = json.loads(envelope(url, "/"))
    for changed in (
        {"targetURL": f"http://user:{bad}@127.0.0.1"},
        {"targetURL": f"http://127.0.0.1/?key={bad}"},
        {"targetAPI": f"/..?key={bad}"},
        {"targetAPI": f"/#{bad}"},
        {"headers": f"Authorization: Bearer {bad}"},
        {"headers": {"Authorization": f"Bearer {bad}\n"}},
        {"headers": {"Authorization": [bad]}},
        {"headers": {f"Authorization: Bearer {bad}": ""}},
        {"headers": {"Proxy-Authorization": bad}},
        {"bodyBase64": bad},
        {"method": bad},
        {"timeout": bad},
        {"callback": bad},
        {"callback": {"url": f"http://user:{bad}@127.0.0.1"}},
        {"callback": {"url": url, "headers": {"Authorization": f"{bad}\0"}}},
        {"callback": {"url": url, "headers": {f"Authorization: Bearer {bad}": ""}}},
    ):
        yield json.dumps(fields | changed)
    yield json.dumps(fields)[:-1]
    yield f'{{"targetURL": "{bad}'
    yield json.dumps(bad)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run the whole relay through success and every failure, and keep all that it lets be seen."""
    folder = tmp_path_factory.mktemp("canary")
    with peers.serving() as target:
        unreachable, forbidden = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        story = Story(target, unreachable, forbidden)
        echo = " ".join(TARGETS.values()).encode()
        target.on("/no", answer_of(403, b'{"error": "no"}'))
        target.on("/down", answer_of(503, echo))
        target.on(
            "/garbage", lambda connection: connection.sendall(b"HTTP/9 " + echo + b"\r\n\r\n")
        )
        settings = {
            **quick_settings(folder / "knative"),
            "ALLOWED_TARGETS": f"127.0.0.1:{target.port},{unreachable.removeprefix('http://')}",
            "CALLBACK_SECRET": CALLBACK_SECRET,
            "API_TOKEN": OPERATORS["ApiToken"],
            "LOG_LEVEL": "DEBUG",
        }
        with started(folder / "broker", settings=settings) as relay:
            live_through(story, relay)
        prefix = "event-display | "
        lines = relay.process.output.splitlines(keepends=True)
        story.log = "".join(line for line in lines if not line.startswith(prefix))
        story.displayed = relay.displayed()
        yield story


def live_through(story: Story, relay: Relay) -> None:
    """Make every kind of call, wait until nothing is open, and ask for all there is to be told."""
    url = story.target.url
    for target, path in (
        *((url, path) for path in ("/", "/no", "/garbage")),
        *((story.unreachable, "/"), (story.forbidden, "/")),
    ):
        story.ask(relay, "POST", "/sync", envelope(target, path))
    for wrong in wrong_envelopes(url):
        assert story.ask(relay, "POST", "/sync", wrong).status == 400
        assert story.ask(relay, "POST", "/async", wrong).status == 400
    callback = {
        "url": f"{url}/told?key={CALLBACKS['CallbackQuery']}",
        "headers": {"Authorization": f"Bearer {CALLBACKS['CallbackHeader']}"},
    }
    expected = {
        "completed": (url, "/"),
        "failed": (url, "/no"),
        "dead": (url, "/down"),
        "dead-of-garbage": (url, "/garbage"),
        "dead-of-no-answer": (story.unreachable, "/"),
    }
    for request_id, (target, path) in expected.items():
        body = envelope(target, path, callback=callback)
        answer = story.ask(relay, "POST", "/async", body, **{"Idempotency-Key": request_id})
        assert answer.status == 202
    assert story.ask(relay, "POST", "/async", envelope(story.forbidden, "/")).status == 403
    publish_what_receive_refuses(relay, url, story.forbidden)
    refuse(story, relay)
    for request_id in expected:
        wait_until(lambda i=request_id: is_told(story, relay, i), 20, f"{request_id} to be told")  # type: ignore[misc]
    for request_id in ("by-hand-forbidden", "by-hand-wrong"):
        relay.wait_for_event(f"  id: {request_id}\n")
    for path in ("/", "/async?status=dead", "/nothing", "/openapi.yaml"):
        story.ask(relay, "GET", path)
    story.ask(relay, "POST", "/async/dead/retry")
    story.ask(relay, "POST", "/async/completed/retry")
    wait_until(lambda: is_told(story, relay, "dead"), 20, "the dead to be dead again")
    look_at_the_page(story, relay)


def look_at_the_page(story: Story, relay: Relay) -> None:
    """Fetch the list and open every request."""
    page = f"http://localhost:{relay.ports['DISPLAY']}"
    story.answers.append(call("GET", f"{page}/rows"))
    shown: list[object] = []
    while (answer := call("GET", f"{page}/requests/{len(shown) + 1}")).status == 200:
        story.answers.append(answer)
        shown.append(answer.json()["id"])
    assert {*story.statuses, "by-hand-forbidden", "by-hand-wrong"} <= set(shown)


def publish_what_receive_refuses(relay: Relay, url: str, forbidden: str) -> None:
    """Publish past Send what only Receive can refuse."""
    broker = f"http://localhost:{relay.ports['BROKER']}/default/default"
    attributes = {"ce-specversion": "1.0", "ce-source": "/tests", "ce-type": TYPE}
    bodies = {"forbidden": [envelope(forbidden, "/")], "wrong": list(wrong_envelopes(url))}
    for name, each in bodies.items():
        for body in each:
            headers = {**attributes, "ce-id": f"by-hand-{name}", "Content-Type": "application/json"}
            assert call("POST", broker, body, headers).status == 202


def refuse(story: Story, relay: Relay) -> None:
    """Come without a token, and with callbacks and outcomes that nobody has signed."""
    wrong = {"Authorization": f"Bearer {CALLERS['WrongToken']}"}
    body = envelope(story.target.url, "/")
    for path in ("/sync", "/async", "/event", "/async/completed/retry"):
        assert story.ask(relay, "POST", path, body, **wrong).status == 401
    unsigned = json.dumps({"status": 200, "password": CALLERS["Unsigned"]})
    headers = {
        "webhook-id": "1",
        "webhook-timestamp": "1",
        "webhook-signature": f"v1,{CALLERS['Unsigned']}",
    }
    path = f"/event/callback?key={CALLERS['Unsigned']}"
    assert story.ask(relay, "POST", path, unsigned, **headers).status == 401
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": "completed.failed",
        "ce-source": "/tests",
        "ce-subject": "completed",
        "ce-relaymac": CALLERS["Unsigned"],
    }
    for path in ("/event/callback", "/event/dead-letter"):
        forged = attributes | {"ce-type": f"{TYPE}.failed"}
        assert story.ask(relay, "POST", path, unsigned, **forged).status == 403


def is_told(story: Story, relay: Relay, request_id: str) -> bool:
    """Tell whether a request and its callback are both done."""
    status = request_id.partition("-")[0]
    known = story.ask(relay, "GET", f"/async/{request_id}").json()
    story.statuses[request_id] = known
    told = story.ask(relay, "GET", f"/async/{request_id}.{status}.callback")
    return known["status"] == status and told.status == 200 and told.json()["status"] == "completed"


def test_the_target_is_given_what_is_for_it(story: Story) -> None:
    """Where a secret belongs it arrives, and nothing of the relay's own goes with it."""
    called = [each for each in story.target.requests if each.target.startswith("/?")]
    told = [each for each in story.target.requests if each.target.startswith("/told")]

    assert len(called) == 2  # by /sync and by /async
    assert len({each.header("Idempotency-Key") for each in told}) == 6  # one request died twice
    for request in called:
        assert leaks(repr(request)) == set(TARGETS)
    for request in told:
        assert leaks(repr(request)) == set(CALLBACKS)


def has_envelope(event: str) -> bool:
    """Tell a request event, that of a tier, or that of a dead request."""
    return re.search(rf"^  type: {re.escape(TYPE)}(\.retry[1-5]|\.dead)?$", event, re.M) is not None


def test_request_events_have_what_is_for_targets(story: Story) -> None:
    """They are the calls themselves, so they have all of an envelope, and nothing else."""
    events = [event for event in story.displayed if has_envelope(event)]

    seen = [leaks(event) for event in events]

    allowed = {*TARGETS, *CALLBACKS, "BadField"}
    assert set.union(*seen) == allowed
    for event in events:
        if re.search(r"\.callback(\.retry[1-5]|\.dead)?\n", event):
            assert leaks(event) == set(CALLBACKS)


def test_no_other_event_has_a_secret(story: Story) -> None:
    """Results tell what the target answered, and of what it was asked only whom to call back."""
    events = [event for event in story.displayed if not has_envelope(event)]

    with_callback = [event for event in events if '"callback"' in event]

    assert len(events) > len(with_callback) >= 2
    for event in events:
        assert leaks(event) == (set(CALLBACKS) if event in with_callback else set())


def test_no_answer_has_a_secret(story: Story) -> None:
    """Neither a problem, nor a status, nor the list of the dead tells one."""
    assert {each["status"] for each in story.statuses.values()} == {"completed", "failed", "dead"}
    assert {400, 401, 403, 404, 409, 502} <= {answer.status for answer in story.answers}
    for answer in story.answers:
        assert leaks(repr(answer.headers)) == leaks(answer.body) == set()


def test_no_process_logs_a_secret(story: Story) -> None:
    """At the level DEBUG the log tells of every call, and of none what it carried."""
    for request_id in story.statuses:
        assert request_id in story.log
    for line in story.log.splitlines():
        assert leaks(line) == set(), line


@pytest.mark.parametrize("state", ["away", "wants another password"])
def test_nothing_is_told_when_broker_and_state_are_away(state: str, tmp_path: Path) -> None:
    """The errors of Redis and of connections hold no password, and no envelope."""
    if state == "away":
        answers, log = without_broker_and_state(free_port())
    else:
        with redis_server(tmp_path, password=canary("another")) as url:
            answers, log = without_broker_and_state(int(url.rpartition(":")[2]))

    assert {answer.status for answer in answers} == {503}
    assert "/async" in log
    assert leaks(log) == set()
    for answer in answers:
        assert leaks(repr(answer.headers)) == leaks(answer.body) == set()


def without_broker_and_state(redis_port: int) -> tuple[list[Answer], str]:
    settings = {
        "K_SINK": f"http://127.0.0.1:{free_port()}",
        "STATE_URL": f"redis://:{OPERATORS['StatePassword']}@127.0.0.1:{redis_port}/0",
        "CALLBACK_SECRET": CALLBACK_SECRET,
        "API_TOKEN": OPERATORS["ApiToken"],
        "ALLOWED_TARGETS": "127.0.0.1",
        "PUBLISH_TIMEOUT_S": "1",
        "LOG_LEVEL": "DEBUG",
    }
    url = "http://127.0.0.1:9"
    callback = {"url": url, "headers": {"Authorization": CALLBACKS["CallbackHeader"]}}
    with serving("send", settings) as send:
        answers = [
            call("POST", f"{send.url}/async", envelope(url, "/"), BEARER),
            call("POST", f"{send.url}/async", envelope(url, "/", callback=callback), BEARER),
            call("GET", f"{send.url}/async/1", None, BEARER),
            call("GET", f"{send.url}/async?status=dead", None, BEARER),
        ]
    return answers, send.process.output


BAD_SETTINGS = {
    "CALLBACK_SECRET": ["{}", "whsec_{}!", "whsec_AAAA {}"],
    "API_TOKEN": ["{} short", "{}é"],
    "STATE_URL": [
        "{}",
        "redis://:{}",
        "redis://:{}@",
        "redis://:{}@127.0.0.1:port/0",
        "redis://:{}@127.0.0.1:{}",
        "redis://:{}/{}@127.0.0.1/0",
        "redis://:[{}]@127.0.0.1/0",
        "redis://:{}]@127.0.0.1/0",
        "redis://:{}@[127.0.0.1]/0",
        "redis://:{}@127.0.0.1:70000/0",
        "rediss://:{}@127.0.0.1/99999",
        "memory://{}",
        "file://{}/state",
    ],
    "K_SINK": ["http://user:{}@127.0.0.1", "http://127.0.0.1?token={}", "{}"],
    "K_CA_CERTS": ["-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD_SETTINGS.items() for value in values],
)
def test_a_bad_setting_is_named_but_not_repeated(name: str, value: str) -> None:
    """What stops the start says which setting it was; its value is in none of the errors."""
    secret = OPERATORS["StatePassword"]

    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: value.replace("{}", secret)})

    printed = "".join(traceback.format_exception(caught.value))
    assert f"InvalidSetting: {name} " in printed
    assert leaks(printed) == set()


@pytest.mark.parametrize("function", ["send", "receive"])
def test_a_start_that_fails_logs_no_secret(function: str) -> None:
    """So does the log of a function that did not start."""
    source = f"functions/{function}/function/main.py"
    command = python(*("-m", "functions_framework", "--source", source, "--target", function))
    env = {"STATE_URL": f"redis://:[{OPERATORS['StatePassword']}]@127.0.0.1"}

    with running(command, env={**env, "PORT": str(free_port())}) as process:
        code = process.wait(20)

    assert code != 0
    assert "STATE_URL must be " in process.output
    assert leaks(process.output) == set()
