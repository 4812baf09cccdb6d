"""What holds for any input: judged by the sockets that are opened and the bytes that arrive."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.client import Client
from relay.egress import AllowedTarget, Policy
from relay.envelope import Envelope
from relay.problems import InvalidRequest, RelayError, TargetNotAllowed
from relay.settings import Settings
from relay.targets import TargetClient
from relay.urls import IPAddress, Target, parse_target
from tests.system.egress.network import OK, Server, network

PUBLIC = "93.184.216.34"
REQUEST_LINE = re.compile(rb"POST (/[\x21-\x7e]*) HTTP/1\.1")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e\xa0-\xff]*)")

# Each example opens a socket or two, and the server is the same for all.
on_the_wire = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

PIECES = st.sampled_from(
    [
        *("http://", "https://", "HTTP://", "ftp://", "http:", "//", "/", "\\", "@", ":", "?", "#"),
        *("a.test", "b.test", "A.TEST.", "127.0.0.1", "2130706433", "[::1]", "[::ffff:7f00:1]"),
        *("0x7f.1", "::1", "80", ":8080", ":0", "%2e", "%2f", "%00", "..", ".", ";", "%", "[", "]"),
        *("\r\n", "\t", " ", "\0", "\u212a", "\uff0e", "\u3002", "é", "\ud800", "x", "v1", "q=1"),
    ]
)
HOSTS = st.one_of(
    st.sampled_from(["a.test", "A.Test.", "x_y", "1.1.1.1", "[2606:4700::1]", "[::ffff:1.1.1.1]"]),
    st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True),
    PIECES,
)
URLS = st.one_of(
    st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "https", "Http"]),
        HOSTS,
        st.just("") | st.integers(-1, 65536).map(":{}".format),
        st.just("") | st.sampled_from(["/", "/v1", "/v1/"]) | PIECES,
    ),
    st.lists(PIECES, max_size=7).map("".join),
    st.builds(
        "http://a.test/{}".format, st.lists(PIECES | st.text(max_size=3), max_size=3).map("".join)
    ),
    st.text(max_size=20).map("http://{}".format),
)
APIS = st.just("") | st.lists(PIECES | st.text(max_size=3), max_size=5).map("".join)


def client(policy: Policy) -> Client:
    return Client(policy, connect_timeout_s=5, pool_size=1)


def parsed(url: str, api: str) -> Target | None:
    with contextlib.suppress(InvalidRequest):
        return parse_target(url, api, url_field="url", api_field="api")
    return None


def origins(url: str) -> Iterator[tuple[str, str, int]]:
    """Read scheme, host and port as three other parsers do."""
    ports = {"http": 80, "https": 443}
    split = urlsplit(url)
    yield split.scheme, split.hostname or "", split.port or ports[split.scheme]
    third = urllib3.util.parse_url(url)
    scheme = third.scheme or ""
    yield scheme, (third.host or "").strip("[]"), third.port or ports[scheme]
    fourth = httpx.URL(url)
    yield fourth.scheme, fourth.host, fourth.port or ports[fourth.scheme]


def plain(host: str) -> str | IPAddress:
    host = host.lower().removesuffix(".")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return host


@settings(max_examples=500)
@given(URLS, APIS)
def test_other_parsers_read_the_same_origin(url: str, api: str) -> None:
    """A URL is refused, or every parser agrees where it and the URL that is sent lead."""
    target = parsed(url, api)
    if target is None:
        return
    ours = (target.origin.scheme, plain(target.origin.host), target.origin.port)

    for text in (url, target.url):
        for scheme, host, port in origins(text):
            assert (scheme, plain(host), port) == ours


@on_the_wire
@given(URLS, APIS)
@example("http://a.test", "@b.test")
@example("http://a.test", "//b.test/x")
@example("http://a.test:8080", "?http://b.test")
@example("http://[::1]:8080/", "/é")
def test_the_origin_sent_is_the_origin_parsed(module_server: Server, url: str, api: str) -> None:
    """The socket leads to the host of the URL, and the request is one, in one legal line."""
    target = parsed(url, api)
    if target is None or target.origin.scheme != "http":
        return
    module_server.requests.clear()
    allow = tuple(map(AllowedTarget.from_text, ("0.0.0.0/0", "::/0", "::", "::1")))
    origin = target.origin
    names = {} if origin.address else {origin.host: [PUBLIC]}

    with network(module_server, names) as seen:
        try:
            client(Policy(allowed=allow)).call(target, method="POST", timeout_s=5).read(10)
        except TargetNotAllowed:  # link-local
            assert seen.connections == []
            return

    address = str(origin.address) if origin.address else PUBLIC
    assert seen.connections == [(address, origin.port)]
    assert len(module_server.requests) == 1
    head = module_server.requests[0].split(b"\r\n\r\n")[0].split(b"\r\n")
    line = REQUEST_LINE.fullmatch(head[0])
    assert line is not None
    assert line[1].decode() == target.path
    hosts = [field for field in head[1:] if field.lower().startswith(b"host:")]
    assert hosts == [f"Host: {origin.authority}".encode()]


ADDRESSES = st.one_of(
    st.sampled_from(
        [
            *("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "::"),
            *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:a00:1::1"),
            *("fd00:ec2::254", "fe80::1", "2001::1", "2a00::5efe:a00:1", PUBLIC, "1.1.1.1"),
            *("2606:4700::1111", "::ffff:1.1.1.1"),
        ]
    ),
    st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number))),
)
POLICIES = st.builds(
    lambda entries, only: Policy(allowed=tuple(map(AllowedTarget.from_text, entries)), only=only),
    st.lists(
        st.sampled_from(["a.test", "*.test:81", "10.0.0.0/8", "::/0", "0.0.0.0/0:81", "127.0.0.1"]),
        max_size=2,
    ),
    st.booleans(),
)


@on_the_wire
@given(
    POLICIES,
    st.lists(st.lists(ADDRESSES, min_size=1, max_size=3), min_size=1, max_size=4),
    st.booleans(),
)
@example(Policy(), [[PUBLIC], ["127.0.0.1"]], True)
@example(Policy(), [["10.0.0.1", PUBLIC, "1.1.1.1", "169.254.169.254"]], False)
@example(Policy(), [["::ffff:10.0.0.1"], ["::ffff:1.1.1.1"]], True)
def test_no_answer_of_a_name_server_opens_a_refused_address(
    module_server: Server, policy: Policy, answers: list[list[str]], reachable: bool
) -> None:
    """Whatever a name resolves to, and however that changes, only allowed addresses are tried."""
    target = parse_target("http://a.test", url_field="url")
    module_server.answer = OK
    caller = client(policy)

    for answer in answers:
        dns = {"a.test": [answer, ["169.254.169.254"]]}  # a second look-up would be told another
        outside = network(module_server, dns, reachable=reachable)
        with outside as seen, contextlib.suppress(RelayError):
            caller.call(target, method="GET", timeout_s=5).read(10)

        permitted = [
            address
            for address in dict.fromkeys(map(ipaddress.ip_address, answer))
            if policy.allows(target.origin, address)
        ]
        tried = [ipaddress.ip_address(address) for address, _ in seen.connections]
        assert tried == (permitted[:1] if reachable else permitted)
        assert seen.lookups == ["a.test"]


NAMES = st.one_of(
    st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True),
    st.sampled_from(["Content-Type", "User-Agent", "host", "Cookie", "TE", "Content-Length"]),
    st.text(max_size=6),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(max_codepoint=0xFF), max_size=12),
    st.sampled_from(["\r\nX: 1", "a\nb", "\x00", " a ", "", "é"]),
)


@on_the_wire
@given(
    st.dictionaries(NAMES, TEXTS | st.integers() | st.floats(allow_nan=False), max_size=5),
    st.none() | st.text(max_size=20),
    TEXTS,
)
@example({"X-A": 10**300}, None, "é€\r\nX-Evil: 1")
@example({"content-type": "text/plain", "user-agent": "x"}, "é\r\n\r\n", "1")
def test_what_is_sent_is_legal_on_the_wire(
    module_server: Server, headers: dict[str, object], body: str | None, event_id: str
) -> None:
    """Headers are refused, or arrive as one message with legal fields, each once."""
    fields: dict[str, object] = {"targetURL": "http://a.test", "headers": headers}
    if body is not None:
        fields["body"] = body
    try:
        envelope = Envelope.from_json(json.dumps(fields).encode())
    except InvalidRequest:
        return
    module_server.requests.clear()
    caller = TargetClient(Settings.from_env({"ALLOWED_TARGETS": "*.test"}))

    with network(module_server, {"a.test": [PUBLIC]}), contextlib.suppress(InvalidRequest):
        caller.call(envelope, method="POST", hops=1, headers=(("Idempotency-Key", event_id),)).read(
            10
        )

    for request in module_server.requests:
        head, _, content = request.partition(b"\r\n\r\n")
        matches = [FIELD.fullmatch(line) for line in head.split(b"\r\n")[1:]]
        names = [match[1].lower() for match in matches if match is not None]
        assert len(names) == len(matches) == len(set(names))
        assert {b"host", b"relay-hops", b"idempotency-key"} <= set(names)
        assert b"transfer-encoding" not in names
        lengths = [match[2] for match in matches if match and match[1] == b"Content-Length"]
        assert [int(length) for length in lengths] in ([len(content)], [])
        assert content == (envelope.content or b"")
    assert len(module_server.requests) <= 1


def test_a_kept_connection_serves_its_own_target_only(server: Server) -> None:
    """A connection is used again for the origin it was checked for, whatever a name says now."""
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    caller = client(Policy())

    def call(url: str) -> None:
        target = parse_target(url, url_field="url")
        caller.call(target, method="GET", timeout_s=5).read(10)

    with network(
        server, {"a.test": [[PUBLIC], ["127.0.0.1"]], "b.test": ["127.0.0.1"], "c.test": [PUBLIC]}
    ) as seen:
        call("http://a.test/1")
        call("http://a.test/2")
        call("http://c.test/3")
        with pytest.raises(TargetNotAllowed):
            call("http://b.test/4")
        with pytest.raises(TargetNotAllowed):
            call("http://a.test:81/5")

    assert seen.connections == [(PUBLIC, 80), (PUBLIC, 80)]
    assert [request.split(b" ")[1] for request in server.requests] == [b"/1", b"/2", b"/3"]
