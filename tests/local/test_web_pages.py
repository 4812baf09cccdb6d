"""Web pages of other sites, in a browser on the machine that the stack runs on."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import call
from tests.support.stack import PARTS, Relay, started

FOREIGN = {
    "rebinding": {"Host": "evil.test:8080", "Origin": "http://evil.test:8080"},
    "simple-request": {"Origin": "https://evil.test", "Content-Type": "text/plain"},
    "sandbox": {"Origin": "null"},
    "image": {"Sec-Fetch-Site": "cross-site"},
    "dropped-on-the-way": {"Origin": "https://evil.test", "Connection": "origin"},
}
ACTING = {
    "GATEWAY": ("POST", "/async"),
    "BROKER": ("POST", "/default/default"),
    "RECEIVE": ("POST", "/"),
    "DISPLAY": ("POST", "/examples/event"),
    "SAMPLE_API": ("POST", "/tasks"),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "data"


@pytest.fixture(scope="module")
def relay(data_dir: Path) -> Iterator[Relay]:
    with started(data_dir) as relay:
        yield relay


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("part", PARTS)
def test_no_port_acts_for_a_page_of_another_site(
    relay: Relay, part: str, headers: dict[str, str]
) -> None:
    """Each refuses what gives it away: its Host, its Origin, or what the browser says of it."""
    method, path = ACTING[part]
    url = f"http://127.0.0.1:{relay.ports[part]}{path}"

    assert call(method, url, "{}", headers).status == 403


@pytest.mark.parametrize("part", PARTS)
def test_no_port_is_read_by_a_name_of_another_site(relay: Relay, part: str) -> None:
    """DNS rebinding would make the page and the port one origin."""
    url = f"http://127.0.0.1:{relay.ports[part]}/"

    assert call("GET", url, None, {"Host": "evil.test"}).status == 403


def test_what_is_kept_is_its_owners_alone(relay: Relay, data_dir: Path) -> None:
    """Events are in there, with the credentials of their publishers."""
    assert relay.call("POST", "/async", relay.example("post_async_tasks.json")).status == 202
    files = [path for path in data_dir.rglob("*") if path.is_file()]

    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
