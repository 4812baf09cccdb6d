"""Inputs made to lead the relay astray, at both ends: what is refused, and what is sent instead."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark import ParameterSet

from tests.system.egress.ends import (
    CALLING_ENDS,
    ENDS,
    IN_PROCESS,
    RUNNING,
    SYNC,
    End,
    EndName,
    name_of,
)
from tests.system.egress.network import Server

PUBLIC = "93.184.216.34"
ENV = {"K_SERVICE": "send"}
DNS: Mapping[str, Sequence[str]] = {
    "pub.test": [PUBLIC],
    "evil.test": ["93.184.216.35"],
    "pub.test.evil.test": ["93.184.216.35"],
    "pub.testevil.test": ["93.184.216.35"],
    "svc.default.svc.cluster.local": ["10.96.1.2"],
    "send.default.svc.cluster.local": ["10.96.1.3"],
    "send.default": ["10.96.1.3"],
    "broker-ingress.knative-eventing.svc.cluster.local": ["10.96.9.8"],
    "evil-svc.cluster.local.evil.test": ["10.96.1.2"],
    "metadata.google.internal": ["169.254.169.254"],
    "private.test": ["10.0.0.1"],
    "loopback.test": ["127.0.0.1", "::1"],
    "mapped.test": ["::ffff:10.0.0.1"],
    "nat64.test": ["64:ff9b::a00:1"],
    "6to4.test": ["2002:a00:1::1"],
    "zero.test": ["0.0.0.0"],
    "allhosts.test": ["255.255.255.255", "224.0.0.1"],
}

# Refused before anything is looked up: the envelope itself is wrong.
BAD_URLS = [
    # schemes
    "file:///etc/passwd",
    "ftp://pub.test",
    "gopher://127.0.0.1:6379/_PING",
    "dict://127.0.0.1:11211/stats",
    "ldap://127.0.0.1",
    "ws://pub.test",
    "data:text/plain,x",
    "javascript:alert(1)",
    "http+unix://%2fvar%2frun%2fdocker.sock",
    "unix:///var/run/docker.sock",
    "jar:http://pub.test!/",
    "blob:http://pub.test/x",
    "url:http://127.0.0.1",
    "view-source:http://pub.test",
    "//pub.test",
    "pub.test",
    "http:pub.test",
    "http:127.0.0.1",
    "http:/pub.test",
    "http:///127.0.0.1",
    "https:\\\\pub.test",
    # users
    "http://u@pub.test",
    "http://u:p@127.0.0.1",
    "http://@127.0.0.1",
    "http://pub.test:80@127.0.0.1",
    "http://pub.test#@127.0.0.1",
    "http://pub.test?@127.0.0.1",
    "http://pub.test\\@127.0.0.1",
    "http://pub.test%40127.0.0.1",
    "http://pub.test\\.evil.test",
    "http://pub.test&@127.0.0.1",
    # numbers
    "http://2130706433",
    "http://017700000001",
    "http://0x7f000001",
    "http://0x7f.1",
    "http://0x7f.0x0.0x0.0x1",
    "http://2852039166",
    "http://00000000177.0.0.1",
    "http://127.1",
    "http://127.0.1",
    "http://0177.0.0.1",
    "http://127.0.0.01",
    "http://127.0.0.1.5",
    "http://0",
    "http://1.1.1.256",
    "http://4294967296",
    "http://a.127",
    "http://127.0.0.1..",
    "http://[127.0.0.1]",
    "http://[::ffff:127.0.0.1",
    "http://[::1%25lo]",
    "http://[::1%lo]",
    "http://[fe80::1%1]",
    "http://::1",
    "http://[::g]",
    # hosts
    "http://",
    "http://.",
    "http://..",
    "http://pub..test",
    "http://-pub.test",
    "http://*.test",
    "http://pub.test,evil.test",
    "http://pub.test;evil.test",
    "http://pub.test'",
    'http://pub.test"',
    "http://<pub.test>",
    "http://pub.test|evil.test",
    "http://127.0.0.%31",
    "http://%6cocalhost",
    f"http://{'a' * 64}.test",
    f"http://{'a.' * 125}test",
    # characters
    "http://ⓛocalhost",
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",
    "http://127\u30020\u30020\u30021",
    "http://127\uff0e0\uff0e0\uff0e1",
    "http://\u212aubernetes.default",
    "http://l\u0131nux.test",
    "http://stra\u00dfe.test",
    "http://pub\u00ad.test",
    "http://pub\u200d.test",
    "http://pub\ufeff.test",
    "http://pub\t.test",
    "http://pub\r\n.test",
    "http://pub\r.test",
    "http://pub\u3000.test",
    "http://pub\0.test",
    "http://pub .test",
    "http://pub\x7f.test",
    " http://pub.test",
    "http://pub.test\n",
    "\ufeffhttp://pub.test",
    "http://pub.test/\ud800",
    # ports
    "http://pub.test:",
    "http://pub.test:0",
    "http://pub.test:00080",
    "http://pub.test:000000000080",
    "http://pub.test:65536",
    "http://pub.test:-80",
    "http://pub.test:+80",
    "http://pub.test:80.0",
    "http://pub.test:0x50",
    "http://pub.test:http",
    "http://pub.test:80:81",
    "http://pub.test:\u0668\u0660",
    # more than a base
    "http://pub.test?x",
    "http://pub.test/#",
    "http://pub.test/a/../b",
    "http://pub.test/" + "a" * 8192,
]
BAD_APIS = [
    "http://evil.test/",
    "https:evil.test",
    "javascript:1",
    "\\\\evil.test",
    "/\\evil.test",
    "/..",
    "/../x",
    "../x",
    "/a/../../x",
    "/./x",
    "/%2e%2e/x",
    "/.%2E/x",
    "/..%2fx",
    "/..%5cx",
    "/%2e%2e%2f%2e%2e%2fx",
    "/%2E%2E%2Fx",
    "/..;/x",
    "/..;a=b/x",
    "/..%3b/x",
    "/x#y",
    "/a b",
    "/a\r\nHost: evil.test",
    "/a HTTP/1.1\r\n\r\nGET /b",
    "/a%0d%0aX:1",
    "/a\nb",
    "/a%00.png",
    "/a\0",
    "/a\ud800b",
    "/a\u0085b",
    "/a\u00a0b",
    "/a\u2028b",
    "/a\u202eb",
    "/a\ufeffb",
    "/a%",
    "/a%4",
    "/a%g0",
    "?a\nb",
    "/" + "a" * 8192,
]
BAD_HEADERS: list[object] = [
    "X-A: 1",
    ["X-A"],
    {"Host": "pub.test"},
    {"hOsT": "internal"},
    {"Host": "127.0.0.1"},
    {"Host": "a, b"},
    {"Connection": "X-A"},
    {"Keep-Alive": "1"},
    {"Proxy-Authorization": "Basic x"},
    {"Proxy-Connection": "close"},
    {"TE": "trailers"},
    {"Trailer": "X-A"},
    {"Transfer-Encoding": "chunked"},
    {"Transfer-Encoding": "x chunked"},
    {"transfer-encoding": "identity"},
    {"Transfer-Encoding ": "chunked"},
    {"Transfer\u2011Encoding": "chunked"},
    {"Transfer_Encoding": "chunked"},
    {"Content-Length": "0"},
    {"Content-Length": "5"},
    {"content_length": "0"},
    {"Upgrade": "h2c"},
    {"Expect": "100-continue"},
    {"Accept-Encoding": "br"},
    {"Relay-Hops": "0"},
    {"relay_hops": "0"},
    {"ce-type": "t"},
    {"Ce-Id": "1"},
    {"": "1"},
    {":authority": "evil.test"},
    {"X A": "1"},
    {"X-A:": "1"},
    {"X:A": "1"},
    {"X-A\r\nX-B": "1"},
    {"X\0A": "1"},
    {"X-é": "1"},
    {"X-A": "1\r\nX-B: 1"},
    {"X-A": "1\nX-B: 1"},
    {"X-A": "1\rX-B: 1"},
    {"X-A": "1\r\n 2"},
    {"X-A": "\0"},
    {"X-A": "a\0b"},
    {"X-A": "\x1b[0m"},
    {"X-A": "€"},
    {"X-A": "\ud800"},
    {"X-A": True},
    {"X-A": None},
    {"X-A": [1]},
    {"X-A": {}},
    {"X-A": "1", "x-a": "2"},
    {"Content-Type": "text/plain", "content-type": "application/json"},
    {f"X-{n}": "1" for n in range(65)},
    {"X-A": "a" * 16_384},
]
BAD_ENVELOPES: list[object] = [
    None,
    {"targetAPI": "/x"},
    {"targetURL": 2130706433},
    {"targetURL": "http://pub.test", "targetAPI": 1},
    *({"targetURL": url} for url in BAD_URLS),
    *({"targetURL": "http://pub.test/v1", "targetAPI": api} for api in BAD_APIS),
    *({"targetURL": "http://pub.test", "headers": headers} for headers in BAD_HEADERS),
]


def label(envelope: object) -> str:
    return json.dumps(list(envelope.values())[-1] if isinstance(envelope, dict) else envelope)[:70]


@pytest.mark.parametrize("envelope", BAD_ENVELOPES, ids=label)
@pytest.mark.parametrize("end", ENDS, ids=name_of, indirect=True)
def test_wrong_envelopes_are_refused_before_a_look_up(end: End, envelope: object) -> None:
    """What has no one reading is a 400: nothing is looked up, nothing connected to."""
    outcome = end.ask(envelope, dns=DNS, env=ENV)

    assert outcome.answer.status == 400
    assert outcome.lookups == []
    assert outcome.connections == []


class Refused(NamedTuple):
    """A target that the policy refuses, with the entries that do not help."""

    url: str
    allow: str = ""

    def __str__(self) -> str:
        return " ".join(self)


REFUSED = [
    *(
        Refused(f"http://{host}:8080")
        for host in (
            *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9"),
            *(
                "168.63.129.16",
                "169.254.0.1",
                "169.254.169.254",
                "169.254.170.2",
                "169.254.170.23",
                "172.16.0.1",
            ),
            *("172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
            *("192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
            *("240.0.0.1", "255.255.255.255", "127.0.0.1."),
            *("[::]", "[::1]", "[::2]", "[::7f00:1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]"),
            *(
                "[::ffff:7f00:1]",
                "[::ffff:a9fe:a9fe]",
                "[0:0:0:0:0:FFFF:A9FE:A9FE]",
                "[64:ff9b::7f00:1]",
            ),
            *("[64:ff9b::169.254.169.254]", "[64:ff9b:1::a00:1]", "[100::1]", "[100:0:0:1::1]"),
            *("[2001::1]", "[2001:0:7f00:1::]", "[2001:2::1]", "[2001:20::1]", "[2001:db8::1]"),
            *(
                "[2002:7f00:1::1]",
                "[2002:a00:1::1]",
                "[2002:5db8:d822::1]",
                "[2620:4f:8000::1]",
                "[3fff::1]",
            ),
            *(
                "[4000::1]",
                "[5f00::1]",
                "[fc00::1]",
                "[fd00:ec2::254]",
                "[fd12:3456::1]",
                "[fd20:ce::254]",
            ),
            *("[fe80::1]", "[fe80::5efe:a00:1]", "[2a00::5efe:a00:1]", "[fec0::1]", "[ff02::1]"),
        )
    ),
    *(
        Refused(f"http://{host}")
        for host in (
            *("localhost", "LOCALHOST.", "svc.default.svc.cluster.local", "private.test"),
            *("broker-ingress.knative-eventing.svc.cluster.local",),
            *("metadata.google.internal", "loopback.test", "mapped.test", "nat64.test"),
            *("6to4.test", "zero.test", "allhosts.test"),
        )
    ),
    Refused("http://localhost:81", "localhost:80"),
    Refused("http://private.test", "*.private.test,private.test:443,test,vate.test,10.0.0.2"),
    Refused("http://private.test", "::/0,::fffe:0:0/95"),
    Refused("http://evil-svc.cluster.local.evil.test", "*.svc.cluster.local"),
    Refused("http://metadata.google.internal", "metadata.google.internal,*.internal,0.0.0.0/0"),
    Refused("http://169.254.169.254", "169.254.0.0/16,169.254.169.254:81,0.0.0.0/0"),
    Refused("http://[fd00:ec2::254]", "::/0,fd00::/8"),
    Refused("http://[::ffff:169.254.169.254]", "::/0,0.0.0.0/0"),
    Refused("http://[2002:a9fe:a9fe::1]", "::/0,2002::/16,169.254.169.254"),
    Refused("http://zero.test", "zero.test"),
    Refused("http://send.default.svc.cluster.local", "*.svc.cluster.local,10.0.0.0/8"),
    Refused("http://send.default:8080", "send.default,10.0.0.0/8"),
]


def at(ends: list[EndName], cases: Sequence[Refused] | Sequence[Sent]) -> list[ParameterSet]:
    """Pair ends with cases; each running function is asked those without settings of their own."""
    return [
        pytest.param(end, case, id=f"{name_of(end)}-{case}")
        for end in ends
        for case in cases
        if end[0] == IN_PROCESS or not case.allow
    ]


@pytest.mark.parametrize(("end", "case"), at(ENDS, REFUSED), indirect=["end"])
def test_refused_targets_are_not_connected_to(end: End, case: Refused) -> None:
    """A target that leads inside is a 403 at each end, and no socket is opened."""
    env = ENV | ({"ALLOWED_TARGETS": case.allow} if case.allow else {})

    outcome = end.ask({"targetURL": case.url}, dns=DNS, env=env)

    assert outcome.answer.status == 403
    assert outcome.connections == []


@pytest.mark.parametrize("url", ["http://pub.test", f"http://{PUBLIC}", "https://pub.test"])
@pytest.mark.parametrize("end", ENDS, ids=name_of, indirect=True)
def test_strict_mode_refuses_what_is_not_listed(end: End, url: str) -> None:
    """With ALLOWED_TARGETS_ONLY a public target needs an entry too."""
    env = {"ALLOWED_TARGETS_ONLY": "true", "ALLOWED_TARGETS": "pub.test:8443,evil.test"}

    outcome = end.ask({"targetURL": url}, dns=DNS, env=env)

    assert outcome.answer.status == 403
    assert outcome.connections == []


class Sent(NamedTuple):
    """An envelope that is sent: where to, and what the request line and Host header say."""

    url: str
    api: str
    address: tuple[str, int]
    path: str
    host: str
    allow: str = ""

    def __str__(self) -> str:
        return f"{self.url} {self.api} {self.allow}"


SENT = [
    Sent("http://pub.test", "", (PUBLIC, 80), "/", "pub.test"),
    Sent("HTTP://PUB.test.:80", "/", (PUBLIC, 80), "/", "pub.test"),
    Sent("http://pub.test:8080", "/x", (PUBLIC, 8080), "/x", "pub.test:8080"),
    Sent("http://pub.test", ".evil.test/x", (PUBLIC, 80), "/.evil.test/x", "pub.test"),
    Sent("http://pub.test", "evil.test", (PUBLIC, 80), "/evil.test", "pub.test"),
    Sent("http://pub.test", "@evil.test/", (PUBLIC, 80), "/@evil.test/", "pub.test"),
    Sent("http://pub.test", ":22/", (PUBLIC, 80), "/:22/", "pub.test"),
    Sent("http://pub.test", "//evil.test/x", (PUBLIC, 80), "//evil.test/x", "pub.test"),
    Sent("http://pub.test/", "///x", (PUBLIC, 80), "///x", "pub.test"),
    Sent("http://pub.test/v1", "/%252e%252e/x", (PUBLIC, 80), "/v1/%252e%252e/x", "pub.test"),
    Sent("http://pub.test/v1", "/a%2Fb%2f", (PUBLIC, 80), "/v1/a%2Fb%2f", "pub.test"),
    Sent(
        "http://pub.test",
        "?u=http://127.0.0.1/..",
        (PUBLIC, 80),
        "/?u=http://127.0.0.1/..",
        "pub.test",
    ),
    Sent("http://pub.test", "/é?ü={}", (PUBLIC, 80), "/%C3%A9?%C3%BC=%7B%7D", "pub.test"),
    Sent("http://private.test", "/x", ("10.0.0.1", 80), "/x", "private.test", "private.test"),
    Sent("http://private.test", "/x", ("10.0.0.1", 80), "/x", "private.test", "10.0.0.0/8:80"),
    Sent("http://mapped.test", "/x", ("::ffff:10.0.0.1", 80), "/x", "mapped.test", "10.0.0.0/8"),
    Sent(
        "http://svc.default.svc.cluster.local",
        "/x",
        ("10.96.1.2", 80),
        "/x",
        "svc.default.svc.cluster.local",
        "*.svc.cluster.local",
    ),
    Sent(
        "http://[::ffff:10.96.1.2]",
        "/x",
        ("::ffff:10.96.1.2", 80),
        "/x",
        "[::ffff:a60:102]",
        "10.96.0.0/12",
    ),
    Sent(
        "http://localhost:3000", "/x", ("127.0.0.1", 3000), "/x", "localhost:3000", "localhost:3000"
    ),
    Sent("http://[::1]:3000", "/x", ("::1", 3000), "/x", "[::1]:3000", "::1"),
    Sent(
        "http://169.254.169.254",
        "/x",
        ("169.254.169.254", 80),
        "/x",
        "169.254.169.254",
        "169.254.169.254/32",
    ),
]


@pytest.mark.parametrize(("end", "case"), at(CALLING_ENDS, SENT), indirect=["end"])
def test_what_is_sent_goes_where_it_says(end: End, case: Sent, server: Server) -> None:
    """The socket, the request line and the Host header are those of the URL, byte for byte."""
    env = ENV | ({"ALLOWED_TARGETS": case.allow} if case.allow else {})

    outcome = end.ask({"targetURL": case.url, "targetAPI": case.api}, dns=DNS, env=env)

    assert outcome.answer.status == 200
    assert outcome.connections == [(str(ipaddress.ip_address(case.address[0])), case.address[1])]
    lines = server.requests[0].decode("latin-1").split("\r\n")
    assert lines[0] == f"POST {case.path} HTTP/1.1"
    assert [line for line in lines if line.lower().startswith("host:")] == [f"Host: {case.host}"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8080/",
        "//127.0.0.1/",
        "/elsewhere",
        "file:///etc/passwd",
        "/y%0d%0aX-Evil:1",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("end", CALLING_ENDS, ids=name_of, indirect=True)
def test_redirects_are_handed_back(end: End, status: int, location: str, server: Server) -> None:
    """A redirect is an answer like any other; whoever gets it decides."""
    server.answer = (
        f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n"
    ).encode()

    outcome = end.ask({"targetURL": "http://pub.test"}, dns=DNS, env=ENV)

    assert outcome.connections == [(PUBLIC, 80)]
    assert len(server.requests) == 1
    if end.path == SYNC:
        assert outcome.answer.status == status
        assert outcome.answer.all("Location") == [location]
    else:
        assert outcome.answer.status == 200
        result = outcome.answer.json()
        assert (result["status"], result["headers"]) == (
            status,
            {"Location": [location], "Content-Length": ["0"]},
        )


@pytest.mark.parametrize("end", [(RUNNING, SYNC)], ids=name_of, indirect=True)
def test_environment_and_earlier_answers_change_nothing(
    end: End, server: Server, tmp_path: Path
) -> None:
    """No proxy and no netrc of the environment is used, and no cookie is kept."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n", encoding="utf-8")
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://evil.test:3128")
    env = {**ENV, **proxies, "NETRC": str(netrc)}
    server.answer = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )

    outcomes = [end.ask({"targetURL": "http://pub.test"}, dns=DNS, env=env) for _ in range(2)]

    assert [outcome.connections for outcome in outcomes] == [[(PUBLIC, 80)]] * 2
    for request in server.requests:
        assert b"cookie" not in request.lower()
        assert b"authorization" not in request.lower()


@pytest.mark.parametrize("end", CALLING_ENDS, ids=name_of, indirect=True)
def test_host_header_is_sent_where_it_is_listed(end: End, server: Server) -> None:
    """With a name entry for it, a Host header replaces the target's own."""
    envelope = {"targetURL": "http://pub.test", "headers": {"Host": "internal.test"}}

    end.ask(envelope, dns=DNS, env={"ALLOWED_TARGETS": "internal.test"})

    hosts = [line for line in server.requests[0].split(b"\r\n") if line.lower()[:5] == b"host:"]
    assert hosts == [b"Host: internal.test"]


@pytest.mark.parametrize("end", CALLING_ENDS, ids=name_of, indirect=True)
def test_a_name_that_is_not_there_is_the_targets_failure(end: End) -> None:
    """It may be there later: the caller of /sync gets a 502, the event waits in a tier."""
    outcome = end.ask({"targetURL": "http://nx.test"}, dns=DNS, env=ENV)

    assert outcome.answer.status == (502 if end.path == SYNC else 200)
    assert end.path == SYNC or outcome.answer.all("ce-type")[0].endswith(".retry1")
    assert outcome.connections == []


@pytest.mark.parametrize("found", [["10.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"]], ids=str)
@pytest.mark.parametrize("end", CALLING_ENDS, ids=name_of, indirect=True)
def test_of_several_addresses_the_public_one_is_called(end: End, found: list[str]) -> None:
    """One that leads inside is passed over, wherever it stands in the answer."""
    outcome = end.ask({"targetURL": "http://mixed.test:8080"}, dns={"mixed.test": found}, env=ENV)

    assert outcome.answer.status == 200
    assert outcome.connections == [(PUBLIC, 8080)]
