"""The page in a real browser, before the whole running relay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from local.broker.activity import RETRY
from tests.local.display.conftest import Displaying
from tests.local.display.facts import accepted, attempted, dies, result
from tests.support.browser import chromium
from tests.support.calls import call
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


def test_an_example_sent_by_its_button_completes(page: Page) -> None:
    """The request opens by itself, and its timeline grows to the result."""
    page.get_by_role("button", name="POST /event").click()

    expect(page.locator("#told")).to_contain_text("POST /event: 202")
    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    expect(timeline_of(page).nth(0)).to_have_text("Accepted by Send")
    expect(timeline_of(page).nth(1)).to_have_text("Stored by the Broker")
    expect(timeline_of(page).filter(has_text="Delivery by Trigger receive")).to_have_count(1)
    expect(timeline_of(page).filter(has_text="Result: completed")).to_have_count(1)
    expect(timeline_of(page).filter(has_text="of the result by Trigger results")).to_have_count(1)
    page.locator("summary").first.click()
    expect(page.locator("#timeline pre").first).to_contain_text("☁️  cloudevents.Event")


def test_a_direct_answer_is_told_beside_the_list(page: Page) -> None:
    """What /sync answers does not pass the Broker, and the page says so."""
    page.get_by_role("button", name="GET /sync").click()

    expect(page.locator("#told")).to_contain_text("GET /sync: 200")
    expect(page.locator("#told")).to_contain_text("past the Broker")


def test_a_target_calls_back(page: Page) -> None:
    """The callback of the example's target is an event in the list."""
    page.get_by_role("button", name="its target calls back").click()

    expect(
        page.locator("#rows td.target", has_text="dev.knative.samples.t2.callback").first
    ).to_be_visible()


def test_a_failing_target_dies_and_is_retried(page: Page, relay: Relay) -> None:
    """Each attempt shows as it happens; the button publishes the dead request again."""
    send(relay, "phoenix", "/misbehave/fail-times/6/phoenix")

    expect(row_of(page, "phoenix").locator(".state")).to_have_text("dead")
    page.get_by_role("button", name="phoenix", exact=True).click()
    waits = page.locator("#timeline li", has_text="To be tried again")
    expect(waits).to_have_count(5)
    expect(waits.first).to_contain_text("the target answered 503 · attempt 1 · ")
    expect(waits.first).to_contain_text("next attempt after")
    expect(page.locator("#timeline li", has_text="Dead").first).to_contain_text("attempt 6")
    expect(timeline_of(page).last).to_have_text("Delivery of the dead request by Trigger results")
    expect(page.locator("#facts")).to_contain_text("Attempts6Last status503")

    page.get_by_role("button", name="Retry", exact=True).click()

    expect(page.locator("#told")).to_contain_text("Retry: 202")
    expect(page.locator("#facts [data-state]")).to_have_text("completed")
    expect(timeline_of(page).filter(has_text="Published again")).to_have_count(1)
    expect(page.get_by_role("button", name="Retry", exact=True)).to_be_hidden()


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


def test_secrets_are_not_in_the_page(page: Page, relay: Relay) -> None:
    """Neither header, body nor query of a call; their names are."""
    secret = "c4nary"
    send(
        relay,
        "secretive",
        f"/tasks?key={secret}",
        headers={"Authorization": f"Bearer {secret}"},
        body={"password": secret},
        callback={
            "url": f"http://localhost:{relay.ports['SAMPLE_API']}/tasks",
            "headers": {"X": secret},
        },
    )

    expect(row_of(page, "secretive").locator(".state")).to_have_text("completed")
    page.get_by_role("button", name="secretive", exact=True).click()
    expect(page.locator("#timeline")).to_contain_text('"Authorization": "(hidden)"')
    expect(timeline_of(page).filter(has_text="The caller is told by")).to_have_count(1)
    assert secret not in page.content()


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
        page.get_by_label("Filter by id or target").fill("ORDER-2")
        expect(ids).to_have_text(["order-2"])
        expect(page.get_by_role("button", name="all 1")).to_be_visible()
        page.get_by_label("Filter by id or target").fill("nothing like it")
        expect(ids).to_have_count(0)
        page.get_by_role("button", name="Show all").click()
        expect(ids).to_have_count(3)


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
        page.get_by_label("Filter by id or target").fill("order-1234")
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="order-1234", exact=True).click()
        expect(timeline_of(page).last).to_have_text("Delivery by Trigger receive failed")
        page.get_by_label("Filter by id or target").fill("order-0")  # it is too long ago
        expect(rows).to_have_count(0)


def test_by_keyboard_alone(page: Page, relay: Relay) -> None:
    """Tab, Enter and Escape are all it takes, and the focus goes along."""
    send(relay, "typed", "/tasks")
    expect(row_of(page, "typed")).to_be_visible()
    page.get_by_label("Filter by id or target").focus()
    page.keyboard.type("typed")
    expect(page.locator("#rows tr")).to_have_count(1)

    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="typed", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details-title")).to_be_focused()
    expect(page.locator("summary").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("summary").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#timeline pre").first).to_be_visible()
    page.keyboard.press("Escape")

    expect(page.locator("#details")).to_be_hidden()
    expect(page.get_by_role("button", name="typed", exact=True)).to_be_focused()


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
                  - columnheader "Id"
                  - columnheader "Target"
                  - columnheader "State"
                  - columnheader "Attempts"
                  - columnheader "Last status"
              - rowgroup:
                - row:
                  - cell
                  - cell "order-7":
                    - button "order-7"
                  - cell "target:1"
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
    expect(page.locator("#link")).to_have_text("Connection lost; trying again")

    with displaying([accepted("other"), *dies("before")], port=display_port):
        expect(page.locator("#link")).to_have_text("Live")
        expect(page.locator("#rows td.id")).to_have_text(["before", "other"])
        expect(page.locator("#facts [data-state]")).to_have_text("dead")
    context.close()


def test_says_that_the_broker_is_away(browser: Browser) -> None:
    """A display without its Broker has nothing to show, and says why."""
    port = free_port()
    command = python("-m", "local.display", "--port", str(port))
    command += ["--broker", f"http://127.0.0.1:{free_port()}"]
    with (
        running(command, ready_output="event display on"),
        opened(browser, f"http://127.0.0.1:{port}") as page,
    ):
        expect(page.locator("#link")).to_have_text("The Broker does not answer; trying again")


def test_an_empty_list_says_what_to_do(browser: Browser, displaying: Displaying) -> None:
    """Where there is nothing to be seen, the first steps are."""
    with displaying([]) as url, opened(browser, url) as page:
        expect(page.locator("#empty")).to_contain_text("No request yet. Send an example")
        expect(page.locator("#empty pre")).to_contain_text(
            re.compile(r"curl http://127\.0\.0\.1:[0-9]+/async")
        )


def test_without_javascript_it_says_what_it_needs(browser: Browser, relay: Relay) -> None:
    """And where to look instead."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://localhost:{relay.ports['DISPLAY']}/")

    expect(page.locator("noscript p")).to_be_visible()
    context.close()
