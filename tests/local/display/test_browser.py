"""The page in a real browser, before the whole running relay."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec import structs
from playwright.sync_api import Browser, Locator, Page, expect

from local.broker.activity import RETRY, Fact
from tests.local.display.conftest import Displaying
from tests.local.display.facts import accepted, attempted, dies, result
from tests.support.browser import chromium
from tests.support.calls import call
from tests.support.peers import listening
from tests.support.processes import free_port, python, running
from tests.support.stack import Relay, quick_settings, started

HOSTILE = '<img src="/x" onerror="window.hacked=1"><script>window.hacked=1</script>'

expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("stack")
    settings = quick_settings(folder / "knative")
    with started(folder / "broker", settings=settings) as relay:
        yield relay


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def opened(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """Open a page while the block runs; whatever it complains of fails the test."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    try:
        page.goto(url)
        yield page
        assert page.evaluate("window.hacked") is None
        assert complaints == []
    finally:
        context.close()


@pytest.fixture
def page(browser: Browser, relay: Relay) -> Iterator[Page]:
    """Open the page of the running relay, as a user would."""
    with opened(browser, f"http://localhost:{relay.ports['DISPLAY']}/") as page:
        expect(page.locator("#link")).to_have_text("Live")
        yield page


def row_of(page: Page, request_id: str) -> Locator:
    return page.get_by_role("row").filter(
        has=page.get_by_role("button", name=request_id, exact=True)
    )


def send(relay: Relay, request_id: str, api: str, **fields: object) -> None:
    target = f"http://localhost:{relay.ports['SAMPLE_API']}"
    envelope = json.dumps({"targetURL": target, "targetAPI": api, **fields})
    answer = relay.call("POST", "/async", envelope, {"Idempotency-Key": request_id})
    assert answer.status == 202, answer.body


def timeline_of(page: Page) -> Locator:
    return page.locator("#timeline .title")


def compose(page: Page, example: str) -> None:
    """Open the composer with an example, whose button has this text."""
    page.get_by_role("group", name="Begin with an example").get_by_role(
        "button", name=example
    ).click()


def press_send(page: Page) -> None:
    page.get_by_role("button", name="Send", exact=True).click()


def test_an_example_completes(page: Page) -> None:
    """The request opens by itself, its timeline grows to the result, each event can be read."""
    compose(page, "POST /event")
    press_send(page)

    expect(page.locator("#told")).to_contain_text("POST /event: 202")
    expect(page.locator("#told")).to_have_attribute("data-tone", "good")
    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    expect(timeline_of(page).nth(0)).to_have_text("Accepted by Send")
    expect(timeline_of(page).nth(1)).to_have_text("Stored by the Broker")
    expect(timeline_of(page).filter(has_text="Delivery by Trigger receive")).to_have_count(1)
    expect(timeline_of(page).filter(has_text="Result: completed")).to_have_count(1)
    expect(timeline_of(page).filter(has_text="of the result by Trigger results")).to_have_count(1)
    expect(page.locator("#tries b")).to_have_text(["200"])
    page.locator("summary").first.click()
    expect(page.locator("#timeline pre").first).to_contain_text("☁️  cloudevents.Event")


def test_a_call_of_sync_is_listed_with_its_answer(page: Page) -> None:
    """It never passes the Broker, and opens all the same."""
    compose(page, "GET /sync")
    press_send(page)

    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    expect(page.locator("#facts")).to_contain_text("GET /sync_tasks/abcdevflake")
    expect(timeline_of(page)).to_have_text(["GET /sync", "Answered by the target: 200"])
    page.locator("summary").last.click()
    expect(page.locator("#timeline pre").last).to_contain_text('"method": "GET"')


def test_fields_and_json_are_one(page: Page, relay: Relay) -> None:
    """An edit of either shows in the other; numbers stay as they are written."""
    compose(page, "POST /sync")
    raw = page.get_by_label("The envelope in JSON")
    page.get_by_label("targetAPI").fill("/misbehave/status/404")
    page.get_by_label("headers, one a line").fill("X-A: b: c\nX-D: e")
    page.get_by_role("textbox", name="body").fill('{"n": 12345678901234567890, "f": 1.0}')
    page.get_by_label("callback.url").fill("http://example.com/")
    page.get_by_label("callback.url").fill("")

    assert json.loads(raw.input_value()) == {
        "targetURL": f"http://localhost:{relay.ports['SAMPLE_API']}",
        "targetAPI": "/misbehave/status/404",
        "headers": {"X-A": "b: c", "X-D": "e"},
        "body": {"n": 12345678901234567890, "f": 1.0},
    }
    assert "1.0" in raw.input_value()

    raw.fill(raw.input_value().replace("404", "418"))
    expect(page.get_by_label("targetAPI")).to_have_value("/misbehave/status/418")
    raw.fill("[1")
    expect(page.get_by_label("targetURL")).to_be_disabled()
    expect(page.locator("#raw-problem")).to_contain_text("no JSON object")
    press_send(page)
    expect(page.locator("#facts [data-state]")).to_have_text("refused")
    expect(page.locator("#told")).to_contain_text("POST /sync: refused or failed with 400")
    expect(page.locator("#told")).to_have_attribute("data-tone", "bad")


def test_an_answer_that_was_waited_for(page: Page) -> None:
    """The answer is the target's; the request that it belongs to opens all the same."""
    compose(page, "POST /event")
    page.get_by_label("targetAPI").fill("/misbehave/status/404")
    page.get_by_label("Prefer").fill("wait=10")
    press_send(page)

    expect(page.locator("#told")).to_contain_text("POST /event: refused or failed with 404")
    expect(page.locator("#facts [data-state]")).to_have_text("failed")
    expect(page.locator("#tries b")).to_have_text(["404"])


def test_an_earlier_request_is_edited_and_sent(page: Page, relay: Relay) -> None:
    """With everything in it, what is secret too, under an id of its own."""
    send(relay, "to-be-edited", "/tasks", headers={"Authorization": "Bearer c4nary"})
    page.get_by_role("button", name="to-be-edited", exact=True).click()
    page.get_by_role("button", name="Edit and send").click()

    expect(page.get_by_label("headers, one a line")).to_have_value("Authorization: Bearer c4nary")
    page.get_by_label("targetAPI").fill("/misbehave/status/404")
    page.get_by_label("Idempotency-Key").fill("edited")
    press_send(page)
    expect(page.locator("#details-title")).to_have_text("edited")
    expect(page.locator("#facts [data-state]")).to_have_text("failed")
    expect(row_of(page, "edited").locator(".call")).to_have_text("POST /misbehave/status/404")


def test_what_is_copied_can_be_pasted(browser: Browser, relay: Relay) -> None:
    """The id, and a curl command that does the same with the ports of this stack."""
    url = f"http://localhost:{relay.ports['DISPLAY']}/"
    with opened(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        compose(page, "POST /sync")
        page.get_by_role("textbox", name="body").fill('it\'s $HOME \\ "quoted"')
        page.locator("#compose-curl").click()
        expect(page.locator("#told")).to_have_text("The curl command is on the clipboard")
        answer = pasted(page)
        assert json.loads(json.loads(answer)["body"]) == 'it\'s $HOME \\ "quoted"'

        send(relay, "copied", "/tasks?x=it's")
        page.get_by_role("button", name="copied", exact=True).click()
        page.get_by_role("button", name="Copy id").click()
        expect(page.locator("#told")).to_have_text("The id is on the clipboard")
        assert page.evaluate("navigator.clipboard.readText()") == "copied"
        page.locator("#curl").click()
        expect(page.locator("#told")).to_have_text("The curl command is on the clipboard")
        assert json.loads(pasted(page))["status"] == "accepted"


def pasted(page: Page) -> str:
    """Run what is on the clipboard in a shell."""
    command = page.evaluate("navigator.clipboard.readText()")
    return subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True, timeout=30
    ).stdout


def test_a_target_calls_back(page: Page) -> None:
    """The callback of the example's target is an event in the list."""
    compose(page, "its target calls back")
    press_send(page)

    expect(
        page.locator("#rows td.call", has_text="dev.knative.samples.t2.callback").first
    ).to_be_visible()


def test_a_failing_target_dies_and_is_retried(page: Page, relay: Relay) -> None:
    """Each attempt shows as it happens; the button publishes the dead request again."""
    send(relay, "phoenix", "/misbehave/fail-times/6/phoenix")

    expect(row_of(page, "phoenix").locator(".state")).to_have_text("dead")
    page.get_by_role("button", name="phoenix", exact=True).click()
    tries = page.locator("#tries li")
    expect(tries.locator("b")).to_have_text(["503"] * 6)
    expect(tries.first).to_contain_text("+0 ms · took ")
    expect(tries.first).to_contain_text("then waits ")
    expect(tries.last).to_have_class("bad")
    expect(page.locator("#facts")).to_contain_text("Attempts6Status503")

    page.get_by_role("button", name="Retry", exact=True).click()

    expect(page.locator("#told")).to_contain_text("Retry: 202")
    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    expect(timeline_of(page).filter(has_text="Published again")).to_have_count(1)
    expect(page.get_by_role("button", name="Retry", exact=True)).to_be_hidden()


def test_all_dead_ones_that_match_are_retried(page: Page, relay: Relay) -> None:
    """One button for those that the filters leave."""
    for name in ("bulk-1", "bulk-2"):
        send(relay, name, f"/misbehave/fail-times/6/{name}")
    page.get_by_label("Search path, id, target and body").fill("bulk-")

    page.get_by_role("button", name="Retry 2 dead").click()

    expect(page.locator("#told")).to_have_text("Retry: 2 of 2 were published again")
    expect(page.locator("#rows td.state")).to_have_text(["completed", "completed"])
    expect(page.locator("#retry-all")).to_be_hidden()


def test_attempts_are_drawn_to_scale(browser: Browser, displaying: Displaying) -> None:
    """A bar from the start to the answer, another until the next attempt, in one scale."""
    reason = b'{"detail": "target:1 cannot be reached: connection refused"}'
    away = {"knativeerrordata": base64.b64encode(reason).decode()}
    facts: list[Fact] = [
        accepted(at=1000.0),
        attempted("502", RETRY, duration_ms=1000, at=1001.0, extensions=away),
        attempted("200 with a reply", duration_ms=1000, at=1004.0),
        result("completed", 200),
    ]
    with displaying(facts) as url, opened(browser, url) as page:
        page.get_by_role("button", name="order-7", exact=True).click()
        expect(page.locator("#tries b")).to_have_text(["not reached", "200"])
        expect(page.locator("#tries li").first).to_contain_text(
            "+0 ms · took 1 s · then waits 2 s · target:1 cannot be reached: connection refused"
        )
        bars = page.locator("#tries .bar")
        width = bars.first.evaluate("bar => bar.clientWidth")
        first, wait = (bars.first.locator(part).bounding_box() for part in (".run", ".wait"))
        second = bars.last.locator(".run").bounding_box()
        assert first
        assert wait
        assert second
        assert [each["width"] / width for each in (first, wait, second)] == pytest.approx(
            [0.25, 0.5, 0.25], abs=0.01
        )
        assert (second["x"] - first["x"]) / width == pytest.approx(0.75, abs=0.01)


def test_the_chart_tells_of_the_last_minutes(browser: Browser, displaying: Displaying) -> None:
    """How many requests began, and how long they took; what is older is not in it."""
    now = time.time()
    facts: list[Fact] = [accepted("old", at=now - 400)]
    for number in range(10):
        done = result("completed", 200, f"o{number}")
        facts += [accepted(f"o{number}", at=now - 60), structs.replace(done, at=now - 59.5)]
    with displaying(facts) as url, opened(browser, url) as page:
        expect(page.locator("#chart-text")).to_have_text(
            "5 min: 10 requests · at most 2/s · median 500 ms · p95 500 ms"
        )
        assert page.locator("#rate").get_attribute("d").count("M") == 1  # type: ignore[union-attr]


def test_an_outcome_leads_to_its_callback_and_back(page: Page, relay: Relay) -> None:
    """The caller's callback is a request of its own, linked both ways."""
    url = f"http://localhost:{relay.ports['SAMPLE_API']}/tasks"
    send(relay, "tell-me", "/tasks", callback={"url": url})

    page.get_by_role("button", name="tell-me", exact=True).click()
    page.locator("#timeline").get_by_role("button", name="tell-me.completed.callback").click()

    expect(page.locator("#details-title")).to_have_text("tell-me.completed.callback")
    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    page.locator("#timeline").get_by_role("button", name="tell-me", exact=True).click()
    expect(page.locator("#details-title")).to_have_text("tell-me")


def test_hostile_events_are_text(page: Page, relay: Relay) -> None:
    """Script in any attribute, in the target or in a reason is shown as it is, and never runs."""
    event = {
        "specversion": "1.0",
        "id": HOSTILE,
        "source": "urn:hostile",
        "type": "dev.knative.samples.t2",
        "subject": HOSTILE,
        "dataschema": "urn:" + HOSTILE.replace(" ", ""),
        "datacontenttype": "application/json",
        "data": {"targetURL": f"http://{HOSTILE}", HOSTILE: HOSTILE},
    }
    other = event | {"id": "of a hostile type", "type": HOSTILE}
    url = f"http://127.0.0.1:{relay.ports['BROKER']}/default/default"
    for each in (event, other):
        headers = {"Content-Type": "application/cloudevents+json"}
        assert call("POST", url, json.dumps(each), headers).status == 202

    expect(row_of(page, "of a hostile type").locator(".target")).to_contain_text("<img")
    hostile = page.get_by_role("button", name=HOSTILE, exact=True)
    expect(row_of(page, HOSTILE).locator(".state")).to_have_text("dead")
    hostile.click()
    expect(page.locator("#details-title")).to_have_text(HOSTILE)
    expect(page.locator("#timeline")).to_contain_text("<img")
    page.locator("summary").first.click()
    expect(page.locator("#timeline pre").first).to_contain_text(f"subject: {HOSTILE}")
    expect(page.locator("img[src='/x'], script:not([src])")).to_have_count(0)


def test_injected_script_would_not_run(browser: Browser, relay: Relay) -> None:
    """Should markup get in all the same, the browser refuses to run it."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://localhost:{relay.ports['DISPLAY']}/")
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("html => { document.body.innerHTML = html }", HOSTILE)

    assert page.evaluate("window.hacked") is None
    context.close()


def test_secrets_come_when_they_are_asked_for(page: Page, relay: Relay) -> None:
    """Of headers, bodies and queries nothing comes by itself; what is named secret, by a click."""
    fetched: list[str] = []
    page.on("response", lambda response: fetched.append(response.text()))
    secret, plain = "c4nary", "pl41n"
    send(
        relay,
        "secretive",
        f"/tasks?key={secret}&page={plain}",
        headers={"Authorization": f"Bearer {secret}", "X-Plain": plain},
        body={"password": secret, "name": plain},
    )
    expect(row_of(page, "secretive").locator(".state")).to_have_text("completed")
    page.get_by_role("button", name="secretive", exact=True).click()
    expect(timeline_of(page).filter(has_text="Result: completed")).to_have_count(1)
    assert plain not in "".join(fetched)
    assert secret not in "".join(fetched)

    page.locator("summary").first.click()
    content = page.locator("#timeline pre").first
    expect(content).to_contain_text('"Authorization": "(hidden)"')
    expect(content).to_contain_text(f'"name": "{plain}"')
    assert secret not in "".join(fetched)
    page.get_by_role("button", name="Show secrets").click()
    expect(content).to_contain_text(f'"Authorization": "Bearer {secret}"')
    expect(page.get_by_role("button", name="Show secrets")).to_be_hidden()


def test_filters_by_state_and_text(browser: Browser, displaying: Displaying) -> None:
    """Both together; the counts follow the text, and one button shows everything again."""
    facts = [
        *dies("order-1"),
        *dies("order-2"),
        accepted("order-3"),
        result("failed", 404, "order-3"),
    ]
    with displaying(facts) as url, opened(browser, url) as page:
        ids = page.locator("#rows td.id")
        expect(ids).to_have_text(["order-3", "order-2", "order-1"])

        page.get_by_role("button", name="dead 2").click()
        expect(ids).to_have_text(["order-2", "order-1"])
        expect(page.get_by_role("button", name="dead 2")).to_have_attribute("aria-pressed", "true")
        page.get_by_label("Search path, id, target and body").fill("ORDER-2")
        expect(ids).to_have_text(["order-2"])
        expect(page.get_by_role("button", name="all 1")).to_be_visible()
        page.get_by_label("Search path, id, target and body").fill("nothing like it")
        expect(ids).to_have_count(0)
        page.get_by_role("button", name="Show all").click()
        expect(ids).to_have_count(3)


def test_filters_by_status_and_time(browser: Browser, displaying: Displaying) -> None:
    """By the first digit or by the whole code; by the last minutes."""
    facts = [
        accepted("new", at=time.time()),
        result("failed", 404, "new"),
        accepted("old"),
        result("failed", 410, "old"),
        *dies("dead"),
    ]
    with displaying(facts) as url, opened(browser, url) as page:
        ids = page.locator("#rows td.id")
        page.get_by_label("Status code").select_option("4xx")
        expect(ids).to_have_text(["old", "new"])
        page.get_by_label("Status code").select_option("410")
        expect(ids).to_have_text(["old"])
        page.get_by_label("Status code").select_option("any status")
        page.locator("#since").select_option("last minute")
        expect(ids).to_have_text(["new"])


def test_bodies_are_searched(browser: Browser, displaying: Displaying) -> None:
    """The text stands in no row, and finds the request all the same."""
    facts = [
        accepted("order-1", {"targetURL": "http://target:1", "body": {"name": "Ada"}}),
        accepted("order-2", {"targetURL": "http://target:1/Adam"}),
        accepted("order-3"),
    ]
    with displaying(facts) as url, opened(browser, url) as page:
        page.get_by_label("Search path, id, target and body").fill("ada")
        expect(page.locator("#rows td.id")).to_have_text(["order-2", "order-1"])


def test_ten_thousand_requests(browser: Browser, displaying: Displaying) -> None:
    """The document holds one page of them, whatever there is, and finds any of them."""
    facts = [
        fact
        for number in range(10_050)
        for fact in (accepted(f"order-{number}"), attempted("503", RETRY, f"order-{number}"))
    ]
    with displaying(facts) as url, opened(browser, url) as page:
        rows = page.locator("#rows tr")
        expect(page.get_by_role("button", name="retrying 10000")).to_be_visible()
        expect(rows).to_have_count(100)
        expect(rows.first).to_contain_text("order-10049")

        page.get_by_role("button", name="Older", exact=True).click()
        expect(page.locator("#place")).to_have_text("101\u2013200 of 10000")
        expect(rows).to_have_count(100)
        page.get_by_label("Search path, id, target and body").fill("order-1234")
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="order-1234", exact=True).click()
        expect(timeline_of(page).last).to_have_text("Delivery by Trigger receive failed")
        page.get_by_label("Search path, id, target and body").fill("order-0")  # it is too long ago
        expect(rows).to_have_count(0)


def test_by_keyboard_alone(page: Page, relay: Relay) -> None:
    """Tab, Enter and Escape are all it takes, and the focus goes along."""
    send(relay, "typed", "/tasks")
    expect(row_of(page, "typed")).to_be_visible()
    page.get_by_label("Search path, id, target and body").focus()
    page.keyboard.type("typed")
    expect(page.locator("#rows tr")).to_have_count(1)

    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="typed", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details-title")).to_be_focused()
    expect(page.locator("summary").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    for name in ("Edit and send", "Copy as curl", "Copy id"):
        page.keyboard.press("Tab")
        expect(page.locator("#details").get_by_role("button", name=name)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("summary").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#timeline pre").first).to_be_visible()
    page.keyboard.press("Escape")

    expect(page.locator("#details")).to_be_hidden()
    expect(page.get_by_role("button", name="typed", exact=True)).to_be_focused()


def test_arrows_walk_the_list(browser: Browser, displaying: Displaying) -> None:
    """From the search down and up again; an open request goes along, and Back closes it."""
    facts = [accepted(f"order-{number}") for number in range(3)]
    with displaying(facts) as url, opened(browser, url) as page:
        expect(page.locator("#rows tr")).to_have_count(3)
        page.get_by_label("Search path, id, target and body").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("button", name="order-1", exact=True)).to_be_focused()
        expect(page.locator("#details")).to_be_hidden()
        page.get_by_role("button", name="order-1", exact=True).click()
        page.get_by_role("button", name="order-1", exact=True).focus()
        page.keyboard.press("ArrowDown")
        expect(page.locator("#details-title")).to_have_text("order-0")
        expect(page.get_by_role("button", name="order-0", exact=True)).to_be_focused()
        page.keyboard.press("ArrowDown")  # there is no further one
        page.keyboard.press("ArrowUp")
        expect(page.locator("#details-title")).to_have_text("order-1")

        page.go_back()

        expect(page.locator("#details")).to_be_hidden()
        expect(page).to_have_url(f"{url}/")
        expect(page.get_by_role("button", name="order-1", exact=True)).to_be_focused()


def test_forced_colours_show_what_is_chosen(browser: Browser, displaying: Displaying) -> None:
    """Where the system has the colours, an outline marks the row and the filter."""
    outline = "e => getComputedStyle(e).outlineStyle"
    with (
        displaying([accepted("a"), accepted("b")]) as url,
        opened(browser, url, forced_colors="active") as page,
    ):
        page.get_by_role("button", name="a", exact=True).click()
        expect(page.locator("#details")).to_be_visible()
        assert [row_of(page, name).evaluate(outline) for name in "ab"] == ["solid", "none"]
        assert page.get_by_role("button", name="all 2").evaluate(outline) == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(
    browser: Browser, displaying: Displaying, width: int, scheme: str
) -> None:
    """No violation of WCAG or of good practice: list, composer, details and contents."""
    size = {"width": width, "height": 740}
    with (
        displaying([*dies("order-7"), accepted("order-8")]) as url,
        opened(browser, url, viewport=size, color_scheme=scheme) as page,
    ):
        expect(page.locator("#rows tr")).to_have_count(2)
        assert Axe().run(page).response["violations"] == []
        compose(page, "POST /async its target is down")
        assert Axe().run(page).response["violations"] == []
        page.get_by_role("button", name="order-7", exact=True).click()
        expect(timeline_of(page).last).to_be_visible()
        page.locator("summary").first.click()
        expect(page.locator("#timeline pre").first).to_contain_text("cloudevents.Event")
        assert Axe().run(page).response["violations"] == []


def test_a_link_opens_its_request(browser: Browser, relay: Relay) -> None:
    """The address names the request by its id, also one that is still to come."""
    url = f"http://localhost:{relay.ports['DISPLAY']}/#linked%3Aone"
    with opened(browser, url) as page:
        expect(page.locator("#details-title")).to_have_text("linked:one")
        expect(page.locator("#gone")).to_be_visible()

        send(relay, "linked:one", "/tasks")

        expect(page.locator("#facts [data-state]")).to_have_text("completed")
        page.get_by_role("button", name="Close").click()
        expect(page).to_have_url(url.partition("#")[0])


def test_has_the_roles_of_a_table(browser: Browser, displaying: Displaying) -> None:
    """Also on a phone, where a row takes two lines, a screen reader finds a table."""
    with (
        displaying(dies("order-7")) as url,
        opened(browser, url, viewport={"width": 360, "height": 740}) as page,
    ):
        expect(page.locator("#rows tr")).to_have_count(1)

        expect(page.get_by_role("table", name="Requests")).to_match_aria_snapshot(
            """
            - table "Requests":
              - rowgroup:
                - row:
                  - columnheader "Time"
                  - columnheader "Request"
                  - columnheader "Target"
                  - columnheader "Id"
                  - columnheader "State"
                  - columnheader "Attempts"
                  - columnheader "Status"
              - rowgroup:
                - row:
                  - cell
                  - cell "POST /"
                  - cell "order-7":
                    - button "order-7"
                  - cell "dead"
                  - cell "503"
            """
        )


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, displaying: Displaying, width: int, scheme: str
) -> None:
    """From a phone up, with long names too, there is no scrolling sideways; text stands out."""
    long = "a-very-long-name-without-a-break." * 20
    facts = [*dies("order-7"), *dies(long)]
    size = {"width": width, "height": 740}
    with (
        displaying(facts) as url,
        opened(browser, url, viewport=size, color_scheme=scheme) as page,
    ):
        expect(page.locator("#rows tr")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRASTS) == []
        page.get_by_role("button", name=long, exact=True).click()
        expect(timeline_of(page).last).to_be_visible()
        page.locator("summary").first.click()

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRASTS) == []


# Names each element with text whose contrast is below WCAG 2.2's AA (1.4.3).
CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = rgb(getComputedStyle(each).backgroundColor);
      if (color.length === 3) return color;
    }
    return [255, 255, 255];
  };
  const hasText = (element) =>
    [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((element) => hasText(element) && element.checkVisibility() && !element.disabled)
    .map((element) => {
      const [a, b] = [rgb(getComputedStyle(element).color), ground(element)].map(luminance);
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return contrast < 4.5 ? `${element.tagName} ${element.className} ${contrast}` : "";
    })
    .filter(Boolean);
}"""


def test_a_lost_connection_is_told_and_mended(browser: Browser, displaying: Displaying) -> None:
    """While the display is away the page says so; when it is back, its rows are there."""
    display_port = free_port()
    context = browser.new_context()
    page = context.new_page()
    with displaying([accepted("before")], port=display_port) as url:
        page.goto(url)
        expect(page.locator("#link")).to_have_text("Live")
        page.get_by_role("button", name="before").click()
    expect(page.locator("#link")).to_contain_text("The stack has stopped")
    expect(page.locator("#link")).to_have_attribute("data-link", "lost")
    page.get_by_role("button", name="Edit and send").click()
    expect(page.locator("#told")).to_contain_text("The request cannot be read")
    page.get_by_role("button", name="Empty request").click()
    press_send(page)
    expect(page.locator("#told")).to_contain_text(
        "not sent. The server of this page does not answer"
    )

    with displaying([accepted("other"), *dies("before")], port=display_port):
        expect(page.locator("#link")).to_have_text("Live")
        expect(page.locator("#rows td.id")).to_have_text(["before", "other"])
        expect(page.locator("#facts [data-state]")).to_have_text("dead")
    context.close()


@pytest.mark.parametrize("is_stuck", [False, True], ids=["gone", "stuck"])
def test_says_that_the_broker_is_away(browser: Browser, is_stuck: bool) -> None:
    """One that is gone, and one that takes connections and never answers: the page says so."""
    port, broker_port = free_port(), free_port()
    command = python("-m", "local.display", "--port", str(port))
    command += ["--broker", f"http://127.0.0.1:{broker_port}"]
    with (
        listening(broker_port) if is_stuck else nullcontext(),
        running(command, ready_output="event display on"),
        opened(browser, f"http://127.0.0.1:{port}") as page,
    ):
        expect(page.locator("#link")).to_contain_text("The Broker does not answer")
        expect(page.locator(".send")).to_be_hidden()  # nor does it know where Send is


def test_an_empty_list_says_what_to_do(browser: Browser, displaying: Displaying) -> None:
    """Where there is nothing to be seen, the first steps are."""
    with displaying([]) as url, opened(browser, url) as page:
        expect(page.locator("#empty")).to_contain_text("No request yet. Begin with an example")
        expect(page.locator("#empty pre")).to_contain_text(
            re.compile(r"curl -X POST http://127\.0\.0\.1:[0-9]+/async")
        )


def test_without_javascript_it_says_what_it_needs(browser: Browser, relay: Relay) -> None:
    """And where to look instead."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://localhost:{relay.ports['DISPLAY']}/")

    expect(page.locator("noscript p")).to_be_visible()
    for control in page.locator("button, input, select, textarea").all():
        expect(control).to_be_hidden()
    context.close()
