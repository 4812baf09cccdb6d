"""The display's routes: what the page is served and told, and whom it does nothing for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.display import requests
from tests.local.display.conftest import Displaying
from tests.local.display.facts import accepted, dies, result
from tests.support.calls import call
from tests.support.processes import wait_until
from tests.support.stack import Relay, quick_settings, started

TOKEN = "a-token-of-the-tests"
COMPOSED = {"method": "POST", "path": "/async", "headers": {}, "body": "{}"}


@pytest.fixture(scope="module")
def display(displaying: Displaying) -> Iterator[str]:
    """Run a display that knows a dead request (1) and a completed one (2)."""
    with displaying([*dies("dead"), accepted("done"), result("completed", 200, "done")]) as url:
        wait_until(lambda: call("GET", f"{url}/requests/2").status == 200, 10, "the facts")
        yield url


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("stack")
    settings = {
        **quick_settings(folder / "knative"),
        "API_TOKEN": TOKEN,
    }
    with started(folder / "broker", settings=settings) as relay:
        yield relay


def rows(url: str, after: object = "") -> dict[str, object]:
    """Fetch the rows that have changed."""
    return call("GET", f"{url}/rows?after={after}").json()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/static/page.js", "text/javascript; charset=utf-8"),
        ("/static/list.js", "text/javascript; charset=utf-8"),
        ("/static/details.js", "text/javascript; charset=utf-8"),
        ("/static/compose.js", "text/javascript; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/requests/1", "application/json"),
        ("/requests/1/contents/1", "application/json"),
        ("/nowhere", "text/plain; charset=utf-8"),
    ],
)
def test_every_answer_tells_the_browser_what_it_may_do(
    display: str, path: str, content_type: str
) -> None:
    """Nothing but the page's own files runs or is asked, and types are not guessed."""
    answer = call("GET", display + path)

    assert answer.all("Content-Type") == [content_type]
    assert answer.all("Content-Security-Policy") == [
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ]
    assert answer.all("X-Content-Type-Options") == ["nosniff"]
    assert answer.all("Cross-Origin-Resource-Policy") == ["same-origin"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """Each file it names is its own, and its markup holds no script or style of its own."""
    folder = Path(requests.__file__).parent / "static"
    page = (folder / "index.html").read_text(encoding="utf-8")
    scripts = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.js"))

    assert "<noscript>" in page
    assert " style=" not in page
    assert " on" + "click=" not in page
    assert "//" not in page
    assert "innerHTML" not in scripts
    assert "http" not in scripts


def test_a_new_page_is_told_everything(display: str) -> None:
    """To forget what it has, and every row."""
    document = rows(display)

    listed = document["rows"]
    assert isinstance(listed, list)
    assert (document["is_new"], document["limit"], document["has_more"]) == (True, 10_000, False)
    assert (document["connected"], document["missed"]) == (True, 0)
    assert listed[0] == {
        "number": 1,
        "at": 1000.0,
        "id": "dead",
        "type": "dev.knative.samples.t2",
        "route": "/async",
        "method": "POST",
        "target": "target:1",
        "path": "/",
        "state": "dead",
        "attempts": 2,
        "status": "503",
        "duration_ms": 500.0,
    }
    assert [row["state"] for row in listed] == ["dead", "completed"]


def test_a_page_is_told_what_has_changed_since(display: str) -> None:
    """Nothing comes twice; to a page of another display everything is new."""
    after = rows(display)["after"]

    again, other = rows(display, after), rows(display, f"x{after}")

    assert (again["is_new"], again["rows"], again["after"]) == (False, [], after)
    assert (other["is_new"], other["after"]) == (True, after)


def test_the_details_of_a_request(display: str) -> None:
    """The row, the attempts and the timeline; each event is fetched when it is asked for."""
    document = call("GET", f"{display}/requests/2").json()

    entries, tries = document["entries"], document["tries"]
    assert isinstance(entries, list)
    assert isinstance(tries, list)
    assert (document["id"], document["state"]) == ("done", "completed")
    assert entries[2]["title"] == "Result: completed"
    assert [each["outcome"] for each in tries] == ["200"]
    content = call("GET", f"{display}/requests/2/contents/{entries[1]['content']}").json()
    assert str(content["text"]).startswith("☁️  cloudevents.Event\nValidation: valid\n")


def test_a_request_as_it_can_be_sent_again(display: str) -> None:
    """With the route, the method and the very body."""
    assert call("GET", f"{display}/requests/2/call").json() == {
        "method": "POST",
        "path": "/async",
        "body": '{"targetURL": "http://target:1"}',
    }


def test_bodies_are_found(display: str) -> None:
    """The page asks which requests have a text in their bodies."""
    assert call("GET", f"{display}/search?text=TARGETurl").json() == {"numbers": [1, 2]}
    assert call("GET", f"{display}/search?text=elsewhere").json() == {"numbers": []}


@pytest.mark.parametrize(
    "method_and_path",
    [
        "GET /requests/99",
        "GET /requests/99/call",
        "GET /requests/99/contents/1",
        "GET /requests/1/contents/99",
        "POST /requests/99/retry",
    ],
)
def test_an_unknown_request_is_404(display: str, method_and_path: str) -> None:
    """A request that was dropped from the list, or never was in it."""
    method, path = method_and_path.split()
    answer = call(method, display + path)

    assert answer.status == 404
    assert answer.json()["detail"] == "no such request, or it is no longer kept"


@pytest.mark.parametrize(
    ("composed", "detail"),
    [
        ({"path": "/../metrics"}, "a call goes to /sync, /async or /event"),
        ({"method": "get"}, "a call goes to /sync, /async or /event"),
        ({"headers": {"A": 1}}, "Expected `str`, got `int` - at `$.headers[...]`"),
    ],
    ids=["path", "method", "headers"],
)
def test_only_calls_are_sent(display: str, composed: dict[str, object], detail: str) -> None:
    """Whatever else the page could be made to ask for."""
    answer = call("POST", f"{display}/send", json.dumps(COMPOSED | composed))

    assert (answer.status, answer.json()["detail"]) == (400, detail)


def test_what_send_tells_must_be_calls(display: str) -> None:
    """Anything else is refused."""
    assert call("POST", f"{display}/calls", '[{"method": "GET"}]').status == 400


def test_says_that_send_is_away(display: str) -> None:
    """A button that cannot do its work says why."""
    answer = call("POST", f"{display}/send", json.dumps(COMPOSED))

    assert answer.status == 502
    assert str(answer.json()["detail"]).startswith("Send does not answer: Cannot connect to host ")


@pytest.mark.parametrize(
    "path",
    ["/", "/rows", "/requests/1", "/requests/1/call", "/static/page.js"],
    ids=["page", "rows", "details", "call", "script"],
)
def test_a_name_that_was_bound_anew_is_refused(display: str, path: str) -> None:
    """Somebody else's name that leads here by DNS gets nothing, whatever it asks for."""
    answer = call("GET", display + path, headers={"Host": "rebound.example.com:8084"})

    assert answer.status == 403
    assert answer.json()["detail"] == (
        "Host must be localhost or 127.0.0.1, not 'rebound.example.com:8084'"
    )


@pytest.mark.parametrize("path", ["/send", "/calls", "/requests/1/retry", "/"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://example.com"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Host": "rebound.example.com"},
        {"Host": "localhost.example.com"},
        {"Host": "[::1]:8084"},
    ],
    ids=lambda headers: "-".join(next(iter(headers.items()))),
)
def test_other_sites_can_send_nothing(display: str, path: str, headers: dict[str, str]) -> None:
    """A page of another origin, or of a name bound to here, cannot press the buttons."""
    assert call("POST", display + path, b"", headers).status == 403


@pytest.mark.parametrize("path", ["/rows", "/requests/1/call", "/search?text=a", "/guide"])
def test_other_sites_can_read_nothing(display: str, path: str) -> None:
    """Not even as a script or an image; a link to the page itself works."""
    headers = {"Sec-Fetch-Site": "cross-site"}

    assert call("GET", display + path, headers=headers).status == 403
    assert call("GET", f"{display}/", headers=headers).status == 200


def test_its_own_page_can(display: str) -> None:
    """The same request from this page is let through."""
    headers = {"Origin": display, "Sec-Fetch-Site": "same-origin"}

    assert call("POST", f"{display}/send", json.dumps(COMPOSED), headers).status == 502


def test_the_page_has_a_port_of_its_own(relay: Relay) -> None:
    """At the port of callers Send answers, to the names of this machine and its own."""
    page, send = (f"http://localhost:{relay.ports[name]}" for name in ("DISPLAY", "GATEWAY"))

    assert b"<title>Requests" in call("GET", page).body
    assert rows(page)["is_new"] is True
    for host in ("localhost", "127.0.0.1:8080", "send-serving.default.example.com"):
        answer = call("GET", f"{send}/async/none", headers={"Host": host})
        assert (answer.status, answer.json()["title"]) == (401, "Unauthorized")
    assert call("GET", f"{send}/async/none", headers={"Host": "evil.test:8080"}).status == 403


def test_sends_the_examples(relay: Relay) -> None:
    """Each as its curl line would, with the token of the stack; the target is the sample API.

    All of them get into the list, those of /sync too.
    """
    url = f"http://127.0.0.1:{relay.ports['DISPLAY']}"
    guide = call("GET", f"{url}/guide").json()
    examples = guide["examples"]
    assert isinstance(examples, list)

    sent = [
        call("POST", f"{url}/send", json.dumps({**each, "headers": {}})).json() for each in examples
    ]

    assert (guide["send"], guide["needs_token"]) == (
        f"http://localhost:{relay.ports['GATEWAY']}",
        True,
    )
    assert TOKEN not in json.dumps(guide)
    assert [
        (each["path"], answer["status"]) for each, answer in zip(examples, sent, strict=True)
    ] == [
        ("/async", 202),
        ("/async", 202),
        ("/event", 202),
        ("/sync", 200),
        ("/sync", 200),
    ]

    def listed() -> bool:
        found = rows(url)["rows"]
        assert isinstance(found, list)
        return {each["id"] for each in sent} <= {row["id"] for row in found}

    wait_until(listed, 10, "all of them in the list")


def test_a_sync_call_is_kept_whole(relay: Relay) -> None:
    """What was asked and answered; the token of the caller is told apart as a secret."""
    url = f"http://127.0.0.1:{relay.ports['DISPLAY']}"
    headers = {"Authorization": f"Bearer {TOKEN}", "Page-Call": "kept"}
    answer = relay.call("POST", "/sync", relay.example("post_sync_tasks.json"), headers)

    def found() -> list[dict[str, object]]:
        listed = rows(url)["rows"]
        assert isinstance(listed, list)
        return [row for row in listed if row["id"] == "kept"]

    (row,) = wait_until(found, 10, "the call in the list")
    assert (row["state"], row["method"], row["path"]) == ("completed", "POST", "/tasks")
    request = f"{url}/requests/{row['number']}"
    entries = call("GET", request).json()["entries"]
    assert isinstance(entries, list)
    texts = [
        [
            str(call("GET", f"{request}/contents/{entry['content']}{query}").json()["text"])
            for query in ("", "?secrets=1")
        ]
        for entry in entries
    ]
    assert texts[0][0].startswith("POST /sync\n")
    assert [TOKEN in text for text in texts[0]] == [False, True]
    assert json.loads(texts[1][1].partition("\n\n")[2]) == json.loads(answer.body)


def test_what_is_cut_is_not_sent_again(relay: Relay) -> None:
    """Of a long call only the beginning is kept, which is no request."""
    url = f"http://127.0.0.1:{relay.ports['DISPLAY']}"
    envelope = json.loads(relay.example("post_sync_tasks.json")) | {"body": "x" * 300_000}
    headers = {"Authorization": f"Bearer {TOKEN}", "Page-Call": "long"}
    assert relay.call("POST", "/sync", json.dumps(envelope), headers).status == 200

    def found() -> list[object]:
        listed = rows(url)["rows"]
        assert isinstance(listed, list)
        return [row["number"] for row in listed if row["id"] == "long"]

    (number,) = wait_until(found, 10, "the call in the list")
    answer = call("GET", f"{url}/requests/{number}/call")
    assert answer.status == 409
    assert answer.json()["detail"] == "it is too long: only its beginning is kept"
