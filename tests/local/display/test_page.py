"""The display's routes: what the page is served and told, and whom it does nothing for."""

from __future__ import annotations

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
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/requests/1", "application/json"),
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
    assert "//" not in page.replace("curl http://", "")
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
        "target": "target:1",
        "state": "dead",
        "attempts": 2,
        "status": "503",
    }
    assert [row["state"] for row in listed] == ["dead", "completed"]


def test_a_page_is_told_what_has_changed_since(display: str) -> None:
    """Nothing comes twice; to a page of another display everything is new."""
    after = rows(display)["after"]

    again, other = rows(display, after), rows(display, f"x{after}")

    assert (again["is_new"], again["rows"], again["after"]) == (False, [], after)
    assert (other["is_new"], other["after"]) == (True, after)


def test_the_details_of_a_request(display: str) -> None:
    """The row, and the timeline with events in event_display's form."""
    document = call("GET", f"{display}/requests/2").json()

    entries = document["entries"]
    assert isinstance(entries, list)
    assert (document["id"], document["state"]) == ("done", "completed")
    assert entries[1]["event"].startswith("☁️  cloudevents.Event\nValidation: valid\n")
    assert entries[2]["title"] == "Result: completed"


@pytest.mark.parametrize("method_and_path", ["GET /requests/99", "POST /requests/99/retry"])
def test_an_unknown_request_is_404(display: str, method_and_path: str) -> None:
    """A request that was dropped from the list, or never was in it."""
    method, path = method_and_path.split()
    answer = call(method, display + path)

    assert answer.status == 404
    assert answer.json()["detail"] == "no such request, or it is no longer kept"


def test_an_unknown_example_is_404(display: str) -> None:
    """Only the examples can be sent, by name."""
    answer = call("POST", f"{display}/examples/..%2Fpyproject")

    assert answer.status == 404


def test_says_that_send_is_away(display: str) -> None:
    """A button that cannot do its work says why."""
    answer = call("POST", f"{display}/examples/event")

    assert answer.status == 502
    assert str(answer.json()["detail"]).startswith("Send does not answer: Cannot connect to host ")


@pytest.mark.parametrize(
    "path",
    ["/", "/rows", "/requests/1", "/static/page.js"],
    ids=["page", "rows", "details", "script"],
)
def test_a_name_that_was_bound_anew_is_refused(display: str, path: str) -> None:
    """Somebody else's name that leads here by DNS gets nothing, whatever it asks for."""
    answer = call("GET", display + path, headers={"Host": "rebound.example.com:8084"})

    assert answer.status == 403
    assert answer.json()["detail"] == (
        "Host must be localhost or 127.0.0.1, not 'rebound.example.com:8084'"
    )


@pytest.mark.parametrize("path", ["/examples/event", "/requests/1/retry", "/"])
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


def test_its_own_page_can(display: str) -> None:
    """The same request from this page is let through."""
    headers = {"Origin": display, "Sec-Fetch-Site": "same-origin"}

    assert call("POST", f"{display}/examples/event", b"", headers).status == 502


def test_the_page_has_a_port_of_its_own(relay: Relay) -> None:
    """At the port of callers Send answers, to the names of this machine and its own."""
    page, send = (f"http://localhost:{relay.ports[name]}" for name in ("DISPLAY", "GATEWAY"))

    assert b"<title>Requests" in call("GET", page).body
    assert rows(page)["is_new"] is True
    for host in ("localhost", "127.0.0.1:8080", "send-serving.default.example.com"):
        answer = call("GET", f"{send}/async/none", headers={"Host": host})
        assert (answer.status, answer.json()["title"]) == (401, "Unauthorized")
    assert call("GET", f"{send}/async/none", headers={"Host": "evil.test:8080"}).status == 403


@pytest.mark.parametrize(
    ("name", "status", "is_listed"),
    [
        ("post_async_tasks", 202, True),
        ("event", 202, True),
        ("post_async_down", 202, True),
        ("post_sync_tasks", 200, False),
        ("get_sync_tasks", 200, False),
    ],
)
def test_sends_the_examples(relay: Relay, name: str, status: int, is_listed: bool) -> None:
    """Each as its curl line would, with the token of the stack; the target is the sample API."""
    url = f"http://127.0.0.1:{relay.ports['DISPLAY']}"

    sent = call("POST", f"{url}/examples/{name}").json()

    assert (sent["status"], "detail" in sent) == (status, False)
    assert ("id" in sent) == is_listed
