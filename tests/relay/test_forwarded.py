"""How a request says that it was reached; everything else leaves the URLs relative."""

from __future__ import annotations

import pytest

from relay.forwarded import base_url


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        pytest.param({}, "", id="not-told"),
        pytest.param(
            {"x-forwarded-proto": "https"}, "https://send.example.com", id="the-host-as-it-came"
        ),
        pytest.param(
            {"x-forwarded-proto": "http", "x-forwarded-host": "relay.example:8443"},
            "http://relay.example:8443",
            id="both",
        ),
        pytest.param(
            {"x-forwarded-host": "relay.example"}, "http://relay.example", id="host-alone"
        ),
        pytest.param(
            {"forwarded": 'for=192.0.2.60;proto=https;host="relay.example:8443"'},
            "https://relay.example:8443",
            id="forwarded",
        ),
        pytest.param(
            {"forwarded": "proto=https;host=a.example", "x-forwarded-host": "b.example"},
            "https://a.example",
            id="forwarded-counts-first",
        ),
        pytest.param(
            {"forwarded": "proto=http;host=evil.example, proto=https;host=relay.example"},
            "https://relay.example",
            id="the-nearest-hop-counts",
        ),
        pytest.param(
            {"x-forwarded-proto": "http, https", "x-forwarded-host": "evil.example, a.example"},
            "https://a.example",
            id="the-last-value-counts",
        ),
        pytest.param({"forwarded": "for=192.0.2.60"}, "", id="forwarded-tells-neither"),
        pytest.param(
            {"forwarded": "proto=https;host=[2001:db8::1]:80"},
            "https://[2001:db8::1]:80",
            id="address",
        ),
        pytest.param({"x-forwarded-proto": "javascript"}, "", id="no-http"),
        pytest.param({"x-forwarded-host": "a.example/path"}, "", id="more-than-a-host"),
        pytest.param({"x-forwarded-host": "user@a.example"}, "", id="user"),
        pytest.param({"x-forwarded-host": "a.example\r\nX: y"}, "", id="line-break"),
        pytest.param({"x-forwarded-proto": "https", "host": ""}, "", id="no-host-at-all"),
    ],
)
def test_the_base_of_urls(headers: dict[str, str], base: str) -> None:
    """Only what the nearest hop says counts, and only if it is a scheme and an authority."""
    assert base_url({"host": "send.example.com", **headers}) == base
