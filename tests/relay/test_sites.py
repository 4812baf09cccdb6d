"""Other sites' pages, which a browser on the operator's machine or network may have open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from relay.settings import InvalidSetting, Settings
from tests.support import peers
from tests.support.calls import call
from tests.support.functions import Function, serving
from tests.support.peers import Peer, answer_of

PAGE = "https://app.test"
SETTINGS = {
    "ALLOWED_TARGETS": "127.0.0.1",
    "CORS_ORIGINS": f"{PAGE}, http://localhost:3000",
    "ALLOWED_HOSTS": "localhost, 127.0.0.1, [::1], relay.test",
}
ORIGIN = "Origin must be this server's own, or one of CORS_ORIGINS"
SITE = "Sec-Fetch-Site must be same-origin, or Origin one of CORS_ORIGINS"
ACTING = [
    *(("GET", "/sync"), ("POST", "/sync"), ("POST", "/async"), ("GET", "/async/1")),
    *(("POST", "/async/1/retry"), ("GET", "/event/callback"), ("POST", "/event/dead-letter")),
]


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    own = ("Access-Control-Allow-Origin", "*"), ("Vary", "Accept"), ("X-A", "1")
    with peers.serving(answer_of(200, b"{}", *own)) as peer:
        yield peer


@pytest.fixture(scope="module")
def send() -> Iterator[Function]:
    with serving("send", SETTINGS) as function:
        yield function


@pytest.fixture(scope="module", params=["send", "receive"])
def function(request: pytest.FixtureRequest) -> Iterator[Function]:
    with serving(request.param, {}) as function:
        yield function


FOREIGN = [
    ({"Origin": "https://evil.test"}, ORIGIN),
    ({"Origin": "null"}, ORIGIN),
    ({"Origin": ""}, ORIGIN),
    ({"Origin": "https://evil.test", "Connection": "origin"}, ORIGIN),
    ({"Origin": "https://evil.test", "Sec-Fetch-Site": "same-origin"}, ORIGIN),
    ({"Sec-Fetch-Site": "cross-site"}, SITE),
    ({"Sec-Fetch-Site": "same-site"}, SITE),
    ({"Sec-Fetch-Site": "cross-site", "Connection": "sec-fetch-site"}, SITE),
]


@pytest.mark.parametrize(("headers", "detail"), FOREIGN)
def test_other_sites_can_do_nothing(
    function: Function, headers: dict[str, str], detail: str
) -> None:
    """Whatever a function does on its own, a page of another site cannot have it done."""
    for method, path in ACTING if function.name == "send" else [("POST", "/")]:
        answer = call(method, f"{function.url}{path}", "{}", headers)

        assert (answer.status, answer.json()["detail"]) == (403, detail)
        assert answer.all("Access-Control-Allow-Origin") == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "own"}],
    ids=["program", "typed", "fetched", "posted"],
)
def test_programs_and_own_pages_are_let_in(function: Function, headers: dict[str, str]) -> None:
    """What is no other site's page gets as far as ever."""
    if headers.get("Origin") == "own":
        headers = {"Origin": function.url}

    assert call("POST", f"{function.url}/sync", "", headers).status == 400


@pytest.mark.parametrize("path", ["/", "/openapi.yaml", "/health/readiness"])
def test_what_only_describes_may_be_linked_to(send: Function, path: str) -> None:
    """A document may link to the description, and probes are asked by whom they are."""
    assert call("GET", f"{send.url}{path}", None, {"Sec-Fetch-Site": "cross-site"}).status == 200


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
def test_a_page_that_is_named_may_call_and_read(send: Function, target: Peer, origin: str) -> None:
    """Its browser asks first, and is told that it may; a target's own word on that is dropped."""
    asked = {
        "Origin": origin,
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,idempotency-key, b@d",
    }
    body = f'{{"targetURL": "{target.url}"}}'

    preflight = call("OPTIONS", f"{send.url}/sync", None, asked)
    answer = call("POST", f"{send.url}/sync", body, {"Origin": origin})

    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.all("Access-Control-Allow-Headers") == ["content-type, idempotency-key"]
    assert "POST" in preflight.all("Access-Control-Allow-Methods")[0]
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.all("X-A") == ["1"]
    for each in (preflight, answer):
        assert each.all("Access-Control-Allow-Origin") == [origin]
        assert "Origin" in each.all("Vary")


def test_errors_can_be_read_too(send: Function) -> None:
    """A page that is named learns what was wrong."""
    answer = call("POST", f"{send.url}/sync", "", {"Origin": PAGE})

    assert answer.status == 400
    assert answer.all("Access-Control-Allow-Origin") == [PAGE]


def test_nobody_else_is_told_that_it_may(send: Function, function: Function) -> None:
    """Without CORS_ORIGINS there is no preflight; with it, the others are refused."""
    asked = {"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"}

    for server in (send, function):
        answer = call("OPTIONS", f"{server.url}/sync", None, asked)

        assert answer.status == 403
        assert answer.all("Access-Control-Allow-Origin") == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:80", "[::1]"]
)
def test_a_host_that_is_known(send: Function, host: str) -> None:
    """With or without a port."""
    assert call("GET", send.url, None, {"Host": host}).status == 200


@pytest.mark.parametrize("host", ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test:80", ""])
def test_a_host_that_is_not_known(send: Function, host: str) -> None:
    """DNS rebinding makes evil.test this machine, and its page same-origin; its Host tells."""
    for path in ("/", "/sync"):
        answer = call("GET", f"{send.url}{path}", None, {"Host": host, "Origin": f"http://{host}"})

        assert answer.status == 403
        assert str(answer.json()["detail"]).startswith("Host must be one of ALLOWED_HOSTS")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("CORS_ORIGINS", "*", "CORS_ORIGINS must be http(s)://host[:port], several with commas"),
        ("CORS_ORIGINS", "app.test", "CORS_ORIGINS must be http(s)://host[:port], several with"),
        ("CORS_ORIGINS", f"{PAGE}/", "CORS_ORIGINS must be http(s)://host[:port] without a path"),
        ("ALLOWED_HOSTS", "a.test:80", "ALLOWED_HOSTS must be without ports"),
        ("ALLOWED_HOSTS", "a_b c", "ALLOWED_HOSTS must be host names or addresses, with commas"),
    ],
)
def test_a_setting_that_names_nobody(name: str, value: str, error: str) -> None:
    """It stops the start."""
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: value})

    assert str(caught.value).startswith(error)


def test_origins_are_read_as_browsers_write_them() -> None:
    """The scheme's own port is left out, and names are in lower case."""
    settings = Settings.from_env({"CORS_ORIGINS": "HTTPS://App.Test:443,http://a:8080"})

    assert settings.cors_origins == {"https://app.test", "http://a:8080"}
