"""`relay.urls`: one reading of a URL, or none."""

from __future__ import annotations

import ipaddress

import pytest

from relay.problems import InvalidRequest
from relay.urls import MAX_URL_LENGTH, Target, parse_authority, parse_target

FORM = "targetURL must be http(s)://host[:port][/base], without user, query or fragment"
HOST = "targetURL must have a host of letters, digits, hyphens and dots (xn--… for others)"
PORT = "targetURL must have a host and, after a colon, a port of 1 to 65535"
IPV4 = "targetURL must write an IPv4 address as four decimal numbers"
IPV6 = "targetURL has brackets without an IPv6 address in them"
DOTS = "must not have . or .. as a part of its path"


def parse(url: str, api: str = "") -> Target:
    return parse_target(url, api, url_field="targetURL", api_field="targetAPI")


@pytest.mark.parametrize(
    ("url", "api", "sent"),
    [
        ("http://a.test", "", "http://a.test/"),
        ("http://a.test/", "", "http://a.test/"),
        ("http://a.test", "/x", "http://a.test/x"),
        ("http://a.test", "x", "http://a.test/x"),
        ("http://a.test/", "/x", "http://a.test/x"),
        ("http://a.test/base", "", "http://a.test/base"),
        ("http://a.test/base/", "", "http://a.test/base/"),
        ("http://a.test/base/", "/x/", "http://a.test/base/x/"),
        ("http://a.test/base", "?q=1", "http://a.test/base?q=1"),
        ("http://a.test", "?q=1", "http://a.test/?q=1"),
        ("http://a.test", "/x?", "http://a.test/x?"),
        ("http://a.test", "/x?u=http://b.test/../?&a[b]=%0a", None),
        ("http://a.test", "//b.test/x", "http://a.test//b.test/x"),
        ("http://a.test", "@b.test", "http://a.test/@b.test"),
        ("http://a.test", ".b.test", "http://a.test/.b.test"),
        ("http://a.test", ":22/x", "http://a.test/:22/x"),
        ("http://a.test/v1", "/%252e%252e/x", "http://a.test/v1/%252e%252e/x"),
        ("http://a.test/v1", "/...;a=1/a..b;..", "http://a.test/v1/...;a=1/a..b;.."),
        ("http://a.test", "/%e2%82%AC/€", "http://a.test/%e2%82%AC/%E2%82%AC"),
        ("http://a.test", '/"<>^`{|}?"<>^`{|}', None),
        ("HTTP://A.Test.:80/X", "", "http://a.test/X"),
        ("https://a.test:443", "/", "https://a.test/"),
        ("https://a.test:80", "/", "https://a.test:80/"),
        ("http://my_service.default:8080", "/", "http://my_service.default:8080/"),
        ("http://xn--bcher-kva.test", "/", "http://xn--bcher-kva.test/"),
        ("http://127.0.0.1.", "/", "http://127.0.0.1/"),
        ("http://[0:0:0:0:0:0:0:1]:8080", "/", "http://[::1]:8080/"),
        ("http://[2001:DB8::A]", "/", "http://[2001:db8::a]/"),
        ("http://1.a", "/", "http://1.a/"),
        ("http://0x7f.test", "/", "http://0x7f.test/"),
    ],
)
def test_path_and_query_are_appended(url: str, api: str, sent: str | None) -> None:
    """The API's path goes below the base; the origin stays that of the URL."""
    expected = {
        "/x?u=http://b.test/../?&a[b]=%0a": "http://a.test/x?u=http://b.test/../?&a[b]=%0a",
        '/"<>^`{|}?"<>^`{|}': "http://a.test/%22%3C%3E%5E%60%7B%7C%7D?%22%3C%3E%5E%60%7B%7C%7D",
    }

    assert parse(url, api).url == (sent or expected[api])


@pytest.mark.parametrize(
    ("url", "host", "port", "is_address"),
    [
        ("http://a.test", "a.test", 80, False),
        ("https://a.test", "a.test", 443, False),
        ("https://a.test:8443", "a.test", 8443, False),
        ("http://10.0.0.1:65535", "10.0.0.1", 65535, True),
        ("http://[::1]:1", "::1", 1, True),
    ],
)
def test_origin_is_complete(url: str, host: str, port: int, is_address: bool) -> None:
    """An origin always has a port, and its address when the host is one."""
    origin = parse(url).origin

    assert (origin.host, origin.port) == (host, port)
    assert origin.address == (ipaddress.ip_address(host) if is_address else None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("", FORM, id="empty"),
        pytest.param("a.test", FORM, id="no scheme"),
        pytest.param("ftp://a.test", FORM, id="ftp"),
        pytest.param("file:///etc/passwd", FORM, id="file"),
        pytest.param("gopher://a.test", FORM, id="gopher"),
        pytest.param("http\u017f://a.test", FORM, id="long s"),
        pytest.param(" http://a.test", FORM, id="leading space"),
        pytest.param("http:a.test", FORM, id="no slash"),
        pytest.param("http:/a.test", FORM, id="one slash"),
        pytest.param("http:\\\\a.test", FORM, id="backslashes"),
        pytest.param("http:///a.test", HOST, id="three slashes"),
        pytest.param("http://user@a.test", FORM, id="user"),
        pytest.param("http://u:p@a.test", FORM, id="user and password"),
        pytest.param("http://@a.test", FORM, id="empty user"),
        pytest.param("http://a.test?q", FORM, id="query"),
        pytest.param("http://a.test/#f", FORM, id="fragment"),
        pytest.param("http://a.test\\@b.test", FORM, id="backslash before user"),
        pytest.param("http://", HOST, id="no host"),
        pytest.param("http://.", HOST, id="only a dot"),
        pytest.param("http://a..test", HOST, id="empty label"),
        pytest.param("http://a.test..", HOST, id="two trailing dots"),
        pytest.param("http://-a.test", HOST, id="leading hyphen"),
        pytest.param("http://a-.test", HOST, id="trailing hyphen"),
        pytest.param(f"http://{'a' * 64}.test", HOST, id="label of 64"),
        pytest.param(f"http://{'a.' * 126}aa", HOST, id="name of 254"),
        pytest.param("http://bücher.test", HOST, id="not ASCII"),
        pytest.param("http://ⓐ.test", HOST, id="circled letter"),
        pytest.param("http://\u212aubernetes.default", HOST, id="Kelvin sign"),
        pytest.param("http://a\uff0etest", HOST, id="full-width dot"),
        pytest.param("http://a\u3002test", HOST, id="ideographic dot"),
        pytest.param("http://a\u200b.test", HOST, id="zero width space"),
        pytest.param("http://a.test\n", HOST, id="newline"),
        pytest.param("http://a%2etest", HOST, id="encoded dot"),
        pytest.param("http://a.test,b.test", HOST, id="comma"),
        pytest.param("http://*.test", HOST, id="star"),
        pytest.param("http://a b", HOST, id="space"),
        pytest.param("http://a.test:", PORT, id="empty port"),
        pytest.param("http://a.test:0", PORT, id="port 0"),
        pytest.param("http://a.test:65536", PORT, id="port 65536"),
        pytest.param("http://a.test:080", PORT, id="port with zero"),
        pytest.param("http://a.test:+80", PORT, id="port with sign"),
        pytest.param("http://a.test:\uff18\uff10", PORT, id="full-width port"),
        pytest.param("http://a.test:80:81", PORT, id="two ports"),
        pytest.param("http://::1", PORT, id="IPv6 without brackets"),
        pytest.param("http://[::1]x", PORT, id="text after brackets"),
        pytest.param("http://[::1", PORT, id="open bracket"),
        pytest.param("http://2130706433", IPV4, id="decimal"),
        pytest.param("http://0x7f000001", IPV4, id="hexadecimal"),
        pytest.param("http://0177.0.0.1", IPV4, id="octal"),
        pytest.param("http://127.1", IPV4, id="short"),
        pytest.param("http://127.0.0.0x1", IPV4, id="hexadecimal part"),
        pytest.param("http://1.2.3.4.5", IPV4, id="five parts"),
        pytest.param("http://1.2.3.256", IPV4, id="256"),
        pytest.param("http://a.0", IPV4, id="name that ends in a number"),
        pytest.param("http://a.0x", IPV4, id="name that ends in 0x"),
        pytest.param("http://[127.0.0.1]", IPV6, id="IPv4 in brackets"),
        pytest.param("http://[a.test]", IPV6, id="name in brackets"),
        pytest.param("http://[]", IPV6, id="empty brackets"),
        pytest.param("http://[v1.a]", IPV6, id="future address"),
        pytest.param("http://[fe80::1%eth0]", "targetURL must not have an IPv6 zone", id="zone"),
        pytest.param(
            "http://[fe80::1%25eth0]", "targetURL must not have an IPv6 zone", id="encoded zone"
        ),
        pytest.param("http://a.test/..", f"targetURL {DOTS}", id="dots in the base"),
        pytest.param(
            "http://a.test/\ud800",
            "targetURL must not have the character U+D800; percent-encode it",
            id="lone surrogate",
        ),
        pytest.param(
            "http://a.test/" + "a" * MAX_URL_LENGTH,
            "targetURL is too long: at most 8192 characters",
            id="too long",
        ),
    ],
)
def test_urls_without_one_reading_are_refused(url: str, message: str) -> None:
    """Where parsers disagree, or would repair, nothing is sent."""
    with pytest.raises(InvalidRequest) as caught:
        parse(url)

    assert caught.value.detail == message
    assert caught.value.field == "targetURL"


@pytest.mark.parametrize(
    ("api", "message"),
    [
        pytest.param("http://b.test", "targetAPI must be a path and query, not a URL", id="URL"),
        pytest.param("javascript:1", "targetAPI must be a path and query, not a URL", id="scheme"),
        pytest.param("/a#b", "targetAPI must not have a fragment (#)", id="fragment"),
        pytest.param("/..", f"targetAPI {DOTS}", id="up"),
        pytest.param("..", f"targetAPI {DOTS}", id="up, relative"),
        pytest.param("/./a", f"targetAPI {DOTS}", id="here"),
        pytest.param("/a/%2e%2E/b", f"targetAPI {DOTS}", id="encoded dots"),
        pytest.param("/.%2e/b", f"targetAPI {DOTS}", id="half encoded dots"),
        pytest.param("/..%2fb", f"targetAPI {DOTS}", id="encoded slash"),
        pytest.param("/a%5c..%5Cb", f"targetAPI {DOTS}", id="encoded backslash"),
        pytest.param("/..;a=1/b", f"targetAPI {DOTS}", id="path parameter"),
        pytest.param("/..%3ba=1/b", f"targetAPI {DOTS}", id="encoded path parameter"),
        pytest.param(
            "/a%00",
            "targetAPI must not have an encoded control character in its path",
            id="encoded NUL",
        ),
        pytest.param(
            "/a%0d%0aX: 1",
            "targetAPI must not have the character U+0020; percent-encode it",
            id="encoded newline and space",
        ),
        pytest.param(
            "/a%0d%0aX:1",
            "targetAPI must not have an encoded control character in its path",
            id="encoded newline",
        ),
        pytest.param(
            "/a%7f",
            "targetAPI must not have an encoded control character in its path",
            id="encoded DEL",
        ),
        pytest.param(
            "/%zz", "targetAPI must have two hexadecimal digits after each %", id="bad escape"
        ),
        pytest.param(
            "/?%", "targetAPI must have two hexadecimal digits after each %", id="bad escape, query"
        ),
        pytest.param(
            "\\\\b.test\\x",
            "targetAPI must not have the character U+005C; percent-encode it",
            id="backslash",
        ),
        pytest.param(
            "/a\r\nX: 1",
            "targetAPI must not have the character U+000D; percent-encode it",
            id="newline",
        ),
        pytest.param(
            "/?a\nb",
            "targetAPI must not have the character U+000A; percent-encode it",
            id="newline in the query",
        ),
        pytest.param(
            "/\u202eb",
            "targetAPI must not have the character U+202E; percent-encode it",
            id="right to left",
        ),
    ],
)
def test_api_stays_below_the_base(api: str, message: str) -> None:
    """An API neither changes the origin, nor leaves the base, nor breaks the request line."""
    with pytest.raises(InvalidRequest) as caught:
        parse("http://a.test/base", api)

    assert caught.value.detail == message
    assert caught.value.field == "targetAPI"


def test_length_is_of_both_together() -> None:
    """URL and API have one limit."""
    parse("http://a.test", "/" + "a" * (MAX_URL_LENGTH - 14))
    with pytest.raises(InvalidRequest) as caught:
        parse("http://a.test", "/" + "a" * (MAX_URL_LENGTH - 13))

    assert caught.value.detail == "targetURL is too long: at most 8192 characters"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A.Test", ("a.test", None, None)),
        ("a.test:80", ("a.test", 80, None)),
        ("10.0.0.1:80", ("10.0.0.1", 80, ipaddress.ip_address("10.0.0.1"))),
        ("[::1]", ("::1", None, ipaddress.ip_address("::1"))),
    ],
)
def test_authority_is_parsed(text: str, expected: tuple[object, ...]) -> None:
    """A Host header and an entry of ALLOWED_TARGETS are read as a URL's authority is."""
    assert parse_authority(text, field="headers.Host") == expected
