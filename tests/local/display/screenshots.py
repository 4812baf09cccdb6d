"""Take the pictures in docs/images/ of the running system; `./dev screenshots` runs it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import chromium
from tests.support.processes import REPOSITORY, free_port
from tests.support.stack import PARTS, Relay, quick_settings, started

IMAGES = REPOSITORY / "docs" / "images"
# As a user has them, where they are free; else the pictures would show strange ports.
USUAL = {"DISPLAY": 8084, "SAMPLE_API": 30000}


def main() -> None:
    """Start the system, send it requests, and take the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = quick_settings(folder / "knative")
        ports = {part: USUAL.get(part) or free_port() for part in PARTS}
        with (
            started(folder / "broker", ports=ports, settings=settings) as relay,
            chromium() as browser,
        ):
            take_all(relay, browser)


def take_all(relay: Relay, browser: Browser) -> None:
    """Take every picture."""
    page = browser.new_page(viewport={"width": 1280, "height": 680})
    page.goto(f"http://localhost:{relay.ports['DISPLAY']}/")
    send(relay, "order-1", "/tasks?page=2", headers={"Authorization": "Bearer t"}, body={"a": 1})
    send(relay, "order-2", "/misbehave/status/404")
    send(relay, "order-3", "/misbehave/fail-times/2/order-3")
    send(relay, "order-4", "/misbehave/status/503")
    send(relay, "order-5", "/tasks", callback={"url": "http://localhost:30000/tasks"})
    wait_for(page, "order-4", "dead")
    wait_for(page, "order-5.completed.callback", "completed")
    send(relay, "order-6", "/misbehave/status/503?retry-after=50")
    send(relay, "order-7", "/misbehave/slow/25")
    wait_for(page, "order-6", "retrying")
    wait_for(page, "order-7", "accepted")
    target = f"http://localhost:{relay.ports['SAMPLE_API']}"
    for method, envelope in (
        ("GET", {"targetURL": target, "targetAPI": "/sync_tasks/abc"}),
        ("POST", {"targetURL": "http://10.0.0.1"}),
    ):
        relay.call(method, "/sync", json.dumps(envelope))
    wait_for(page, "sync-", "refused")
    take(page, "requests.png")

    page.get_by_role("button", name="order-3", exact=True).click()
    page.locator("summary").first.click()
    expect(page.locator("#timeline pre").first).to_contain_text("cloudevents.Event")
    page.set_viewport_size({"width": 1280, "height": 1750})
    take(page.locator("#details"), "timeline.png")

    page.set_viewport_size({"width": 1280, "height": 720})
    page.get_by_role("button", name="order-1", exact=True).click()
    page.get_by_role("button", name="Edit and send").click()
    expect(page.locator("#composer")).to_be_visible()
    take(page, "compose.png")
    page.locator("#compose-close").click()
    page.get_by_role("button", name="order-3", exact=True).click()
    page.locator("summary").first.click()

    page.set_viewport_size({"width": 1280, "height": 680})
    page.emulate_media(color_scheme="dark")
    take(page, "dark.png")

    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Close").click()
    page.set_viewport_size({"width": 360, "height": 740})
    take(page, "phone.png")


def send(relay: Relay, request_id: str, api: str, **fields: object) -> None:
    """Send a request of this id to the sample API."""
    target = f"http://localhost:{relay.ports['SAMPLE_API']}"
    envelope = json.dumps({"targetURL": target, "targetAPI": api, **fields})
    answer = relay.call("POST", "/async", envelope, {"Idempotency-Key": request_id})
    assert answer.status == 202, answer.body


def wait_for(page: Page, request_id: str, state: str) -> None:
    """Wait until the page shows the request in this state."""
    row = page.get_by_role("row").filter(has_text=request_id)
    expect(row.first.locator(".state")).to_have_text(state, timeout=20_000)


def take(shown: Page | Locator, name: str) -> None:
    """Take one picture, from the top, without a trace of the pointer."""
    page = shown if isinstance(shown, Page) else shown.page
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0); document.getElementById('details').scrollTop = 0")
    shown.screenshot(path=IMAGES / name, animations="disabled", caret="hide")
    print(IMAGES / name)


if __name__ == "__main__":
    main()
