"""`relay.egress`: where the relay may connect to, judged by address."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.addresses import Reach, reach_of, unwrapped
from relay.egress import AllowedTarget, Policy
from relay.problems import InvalidRequest, TargetNotAllowed
from relay.urls import IPAddress, Origin, parse_target

REPOSITORY = Path(__file__).resolve().parents[2]


def origin_of(url: str) -> Origin:
    return parse_target(url, url_field="targetURL").origin


def policy(*entries: str, only: bool = False, own_service: str | None = None) -> Policy:
    allowed = tuple(AllowedTarget.from_text(entry) for entry in entries)
    return Policy(allowed=allowed, only=only, own_service=own_service)


def addresses(*texts: str) -> list[IPAddress]:
    return [ipaddress.ip_address(text) for text in texts]


def allows(rules: Policy, url: str, *found: str) -> bool:
    """Tell whether the policy lets a call to the URL through, given what its name resolves to."""
    origin = origin_of(url)
    candidates = [origin.address] if origin.address is not None else addresses(*found)
    try:
        return bool(rules.permitted(origin, candidates))
    except TargetNotAllowed:
        return False


# Every block of the IANA IPv4 and IPv6 special-purpose address registries, its first and last
# address, then what lies outside of them and is special all the same.
REGISTRY = [
    ("0.0.0.0/8", Reach.SPECIAL),
    ("0.0.0.0/32", Reach.SPECIAL),
    ("10.0.0.0/8", Reach.PRIVATE),
    ("100.64.0.0/10", Reach.PRIVATE),
    ("127.0.0.0/8", Reach.PRIVATE),
    ("169.254.0.0/16", Reach.LOCKED),
    ("172.16.0.0/12", Reach.PRIVATE),
    ("192.0.0.0/24", Reach.SPECIAL),
    ("192.0.0.0/29", Reach.SPECIAL),
    ("192.0.0.8/32", Reach.SPECIAL),
    ("192.0.0.9/32", Reach.SPECIAL),
    ("192.0.0.10/32", Reach.SPECIAL),
    ("192.0.0.170/31", Reach.SPECIAL),
    ("192.0.2.0/24", Reach.SPECIAL),
    ("192.31.196.0/24", Reach.SPECIAL),
    ("192.52.193.0/24", Reach.SPECIAL),
    ("192.88.99.0/24", Reach.SPECIAL),
    ("192.168.0.0/16", Reach.PRIVATE),
    ("192.175.48.0/24", Reach.SPECIAL),
    ("198.18.0.0/15", Reach.SPECIAL),
    ("198.51.100.0/24", Reach.SPECIAL),
    ("203.0.113.0/24", Reach.SPECIAL),
    ("240.0.0.0/4", Reach.SPECIAL),
    ("255.255.255.255/32", Reach.SPECIAL),
    ("::1/128", Reach.PRIVATE),
    ("::/128", Reach.LOCKED),
    ("64:ff9b:1::/48", Reach.LOCKED),
    ("100::/64", Reach.SPECIAL),
    ("100:0:0:1::/64", Reach.SPECIAL),
    ("2001::/32", Reach.LOCKED),
    ("2001:1::1/128", Reach.SPECIAL),
    ("2001:1::2/128", Reach.SPECIAL),
    ("2001:1::3/128", Reach.SPECIAL),
    ("2001:2::/48", Reach.SPECIAL),
    ("2001:3::/32", Reach.SPECIAL),
    ("2001:4:112::/48", Reach.SPECIAL),
    ("2001:10::/28", Reach.SPECIAL),
    ("2001:20::/28", Reach.SPECIAL),
    ("2001:30::/28", Reach.SPECIAL),
    ("2001:1ff::/32", Reach.SPECIAL),
    ("2001:db8::/32", Reach.SPECIAL),
    ("2002::/16", Reach.LOCKED),
    ("2620:4f:8000::/48", Reach.SPECIAL),
    ("3fff::/20", Reach.SPECIAL),
    ("5f00::/16", Reach.SPECIAL),
    ("fc00::/8", Reach.PRIVATE),
    ("fe80::/10", Reach.LOCKED),
    ("224.0.0.0/4", Reach.SPECIAL),
    ("ff00::/8", Reach.SPECIAL),
    ("fec0::/10", Reach.SPECIAL),
    ("::2/127", Reach.LOCKED),
    ("1000::/4", Reach.SPECIAL),
    ("4000::/3", Reach.SPECIAL),
    ("e000::/4", Reach.SPECIAL),
]


@pytest.mark.parametrize(("block", "reach"), REGISTRY, ids=[block for block, _ in REGISTRY])
def test_special_purpose_blocks_are_not_public(block: str, reach: Reach) -> None:
    """A block of the registries is judged as one, from its first address to its last."""
    network = ipaddress.ip_network(block)

    assert reach_of(network[0]) is reach
    assert reach_of(network[-1]) is reach


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",  # AWS, Azure, Google Cloud, DigitalOcean, OpenStack …
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.0.23",  # Tencent Cloud
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2a00:1450::5efe:a9fe:a9fe",
        "2a00:1450::200:5efe:a9fe:a9fe",
        "fe80::5efe:a00:1",
    ],
)
def test_metadata_is_locked_in_every_spelling(address: str) -> None:
    """No wide entry lifts what hands out credentials, whatever wraps its address."""
    wide = policy("0.0.0.0/0", "::/0", "169.254.0.0/16", "64:ff9b:1::/48", "2002::/16", "a.test")

    assert reach_of(ipaddress.ip_address(address)) is Reach.LOCKED
    assert not allows(wide, "http://a.test", address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::",
        "2001:4860:4860::8888",
        "2003::",
        "2606:4700::1111",
        "3ffe:ffff::",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ],
)
def test_other_addresses_are_public(address: str) -> None:
    """What lies beside a special block is public, and so is a public IPv4 address as IPv6."""
    assert reach_of(ipaddress.ip_address(address)) is Reach.PUBLIC


IPV4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
BOUNDARIES = st.sampled_from(
    [
        network[index] + shift
        for network in (ipaddress.ip_network(block) for block, _ in REGISTRY)
        for index in (0, -1)
        for shift in (-1, 0, 1)
        if 0 <= int(network[index]) + shift < 2**network.max_prefixlen
    ]
)


@given(IPV4 | IPV6 | BOUNDARIES)
def test_nothing_is_public_that_python_calls_special(address: IPAddress) -> None:
    """The list of our own misses nothing that this version of Python knows."""
    plain = unwrapped(address)

    if not plain.is_global or plain.is_multicast or plain.is_reserved:
        assert reach_of(address) is not Reach.PUBLIC


@given(IPV4)
def test_wrapped_addresses_are_judged_as_what_they_wrap(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address in IPv6 form never reaches farther than the plain one."""
    plain = reach_of(address)
    number = int(address)

    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)
        assert reach_of(wrapped) is plain
    for carrier in (
        number | 2 << 32,  # not the loopback address
        int(ipaddress.IPv6Address("64:ff9b:1::")) + number,
        int(ipaddress.IPv6Address("2002::")) + (number << 80),
        int(ipaddress.IPv6Address("2001::")) + (number << 64),
        int(ipaddress.IPv6Address("2001::")) + (number ^ 0xFFFFFFFF),
        int(ipaddress.IPv6Address("2a00:1450::5efe:0:0")) + number,
    ):
        assert reach_of(ipaddress.IPv6Address(carrier)) in (Reach.LOCKED, Reach.SPECIAL)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("a.test", AllowedTarget(name="a.test")),
        ("A.Test.:80", AllowedTarget(name="a.test", port=80)),
        ("*.a.test", AllowedTarget(name="*.a.test")),
        ("*.a.test:80", AllowedTarget(name="*.a.test", port=80)),
        ("10.0.0.1", AllowedTarget(network=ipaddress.ip_network("10.0.0.1/32"))),
        ("10.0.0.1:80", AllowedTarget(network=ipaddress.ip_network("10.0.0.1/32"), port=80)),
        ("10.0.0.0/8", AllowedTarget(network=ipaddress.ip_network("10.0.0.0/8"))),
        ("10.0.0.0/8:80", AllowedTarget(network=ipaddress.ip_network("10.0.0.0/8"), port=80)),
        ("::1", AllowedTarget(network=ipaddress.ip_network("::1/128"))),
        ("[::1]", AllowedTarget(network=ipaddress.ip_network("::1/128"))),
        ("[::1]:80", AllowedTarget(network=ipaddress.ip_network("::1/128"), port=80)),
        ("fd00::/8", AllowedTarget(network=ipaddress.ip_network("fd00::/8"))),
        ("[fd00::/8]:80", AllowedTarget(network=ipaddress.ip_network("fd00::/8"), port=80)),
        ("::ffff:10.0.0.1", AllowedTarget(network=ipaddress.ip_network("10.0.0.1/32"))),
        ("::ffff:10.0.0.0/104", AllowedTarget(network=ipaddress.ip_network("10.0.0.0/8"))),
        ("64:ff9b::a00:0/104", AllowedTarget(network=ipaddress.ip_network("10.0.0.0/8"))),
        ("::/0", AllowedTarget(network=ipaddress.ip_network("::/0"))),
    ],
)
def test_entries_are_read(text: str, entry: AllowedTarget) -> None:
    """An entry is a name, a suffix or a network, for one port or for all."""
    assert AllowedTarget.from_text(text) == entry


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.",
        "**.a.test",
        "a.*.test",
        "*.10.0.0.1",
        "*.[::1]",
        "http://a.test",
        "a.test/x",
        "a.test:0",
        "a.test:65536",
        "a b",
        "ü.test",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/8:0",
        "10.0.0.0/8:65536",
        "[10.0.0.0/8",
        "fd00::/8]:80",
        "127.1",
        "0x7f000001",
        "fe80::1%eth0",
        "a.test b.test",
    ],
)
def test_other_entries_are_refused(text: str) -> None:
    """An entry that could be meant in two ways is none."""
    with pytest.raises(ValueError, match=r"^the entry") as caught:
        AllowedTarget.from_text(text)

    assert str(caught.value) == (
        f"the entry {text!a}; an entry is host[:port], *.suffix[:port] or CIDR[:port]"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fd00::1:8080",
            "the entry 'fd00::1:8080', whose last number may be a port;"
            " write [fd00::1]:8080 for the port or [fd00::1:8080] for the address",
        ),
        (
            "::1:80",
            "the entry '::1:80', whose last number may be a port; write [::1]:80"
            " for the port or [::1:80] for the address",
        ),
        *(
            (text, f"the entry {text!a}, which stands for every IPv4 address: 0.0.0.0/0")
            for text in ("64:ff9b::/96", "::ffff:0:0/96", "[64:ff9b::/96]:80")
        ),
    ],
)
def test_entries_that_permit_more_than_they_seem_to_are_refused(text: str, message: str) -> None:
    """A missed bracket must not turn a port into an address, nor a prefix into the Internet."""
    with pytest.raises(ValueError, match=r"^the entry") as caught:
        AllowedTarget.from_text(text)

    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["[fd00::1:8080]", "fd00::1", "1:2:3:4:5:6:7:8", "0.0.0.0/0"])
def test_entries_that_have_one_reading_are_taken(text: str) -> None:
    """Brackets say that the whole of it is an address."""
    assert AllowedTarget.from_text(text).port is None


@pytest.mark.parametrize(
    ("entry", "url", "found", "allowed"),
    [
        pytest.param(None, "http://a.test", "93.184.216.34", True, id="public"),
        pytest.param(None, "http://a.test", "10.0.0.1", False, id="private"),
        pytest.param("a.test", "http://a.test", "10.0.0.1", True, id="name lifts private"),
        pytest.param("a.test", "http://a.test", "127.0.0.1", True, id="name lifts loopback"),
        pytest.param("a.test", "http://a.test", "::1", True, id="name lifts IPv6 loopback"),
        pytest.param("a.test", "http://a.test", "fd12::1", True, id="name lifts unique local"),
        pytest.param("a.test", "http://A.TEST.", "10.0.0.1", True, id="name in another spelling"),
        pytest.param("a.test", "http://a.test", "169.254.1.1", False, id="not link-local"),
        pytest.param("a.test", "http://a.test", "fd00:ec2::254", False, id="not metadata"),
        pytest.param("a.test", "http://a.test", "0.0.0.0", False, id="not this network"),
        pytest.param("a.test", "http://a.test", "224.0.0.1", False, id="not multicast"),
        pytest.param("a.test:80", "http://a.test", "10.0.0.1", True, id="port"),
        pytest.param("a.test:80", "http://a.test:81", "10.0.0.1", False, id="other port"),
        pytest.param("a.test:443", "https://a.test", "10.0.0.1", True, id="port of https"),
        pytest.param("a.test", "http://b.a.test", "10.0.0.1", False, id="name below"),
        pytest.param("*.a.test", "http://b.a.test", "10.0.0.1", True, id="suffix"),
        pytest.param("*.a.test", "http://c.b.a.test", "10.0.0.1", True, id="suffix, two labels"),
        pytest.param("*.a.test", "http://a.test", "10.0.0.1", False, id="suffix itself"),
        pytest.param("*.a.test", "http://ba.test", "10.0.0.1", False, id="no label boundary"),
        pytest.param("*.a.test", "http://b.a.test.evil", "10.0.0.1", False, id="suffix inside"),
        pytest.param("10.0.0.0/8", "http://a.test", "10.9.9.9", True, id="network"),
        pytest.param("10.0.0.0/8", "http://a.test", "11.9.9.9", True, id="public beside it"),
        pytest.param("10.0.0.0/8", "http://a.test", "::ffff:10.9.9.9", True, id="mapped"),
        pytest.param("::ffff:10.0.0.0/104", "http://a.test", "10.9.9.9", True, id="mapped entry"),
        pytest.param("::/0", "http://a.test", "::ffff:10.0.0.1", False, id="IPv6 for mapped"),
        pytest.param("10.0.0.0/8:80", "http://a.test:81", "10.0.0.1", False, id="network, port"),
        pytest.param("0.0.0.0/0", "http://a.test", "224.0.0.1", True, id="network lifts special"),
        pytest.param("0.0.0.0/0", "http://a.test", "169.254.169.254", False, id="wide, metadata"),
        pytest.param("169.254.0.0/16", "http://a.test", "169.254.1.1", False, id="link-local"),
        pytest.param("169.254.169.252/31", "http://a.test", "169.254.169.252", False, id="/31"),
        pytest.param("169.254.169.254/32", "http://a.test", "169.254.169.254", True, id="/32"),
        pytest.param("169.254.169.254:80", "http://169.254.169.254", "", True, id="own address"),
        pytest.param("[fd00:ec2::254]:80", "http://[fd00:ec2::254]", "", True, id="/128"),
        pytest.param("10.0.0.1", "http://10.0.0.1", "", True, id="address as host"),
        pytest.param("10.0.0.1", "http://[::ffff:a00:1]", "", True, id="address, mapped"),
        pytest.param("10.0.0.1", "http://[64:ff9b::a00:1]", "", True, id="address, NAT64"),
        pytest.param("10.0.0.1", "http://10.0.0.2", "", False, id="other address"),
    ],
)
def test_entries_lift(entry: str | None, url: str, found: str, allowed: bool) -> None:
    """An entry lifts what it says, on its port, and nothing beside it."""
    rules = policy(*([entry] if entry else []))

    assert allows(rules, url, found) is allowed


@pytest.mark.parametrize(
    ("entry", "url", "found", "allowed"),
    [
        pytest.param(None, "http://a.test", "93.184.216.34", False, id="public"),
        pytest.param(None, "http://93.184.216.34", "", False, id="public address"),
        pytest.param("a.test", "http://a.test", "93.184.216.34", True, id="name"),
        pytest.param("*.test", "http://a.test", "93.184.216.34", True, id="suffix"),
        pytest.param("93.184.0.0/16", "http://a.test", "93.184.216.34", True, id="network"),
        pytest.param("a.test", "http://b.test", "93.184.216.34", False, id="other name"),
        pytest.param("a.test:80", "https://a.test", "93.184.216.34", False, id="other port"),
        pytest.param("a.test", "http://a.test", "169.254.169.254", False, id="metadata"),
    ],
)
def test_strict_mode_needs_an_entry_for_everything(
    entry: str | None, url: str, found: str, allowed: bool
) -> None:
    """With ALLOWED_TARGETS_ONLY nothing is allowed that is not listed."""
    rules = policy(*([entry] if entry else []), only=True)

    assert allows(rules, url, found) is allowed


def test_refused_addresses_are_left_out() -> None:
    """Of several addresses those that are allowed are tried, in their order, and no other."""
    found = addresses("10.0.0.1", "93.184.216.34", "::1", "2606:4700::1111", "169.254.169.254")

    assert policy().permitted(origin_of("http://a.test"), found) == addresses(
        "93.184.216.34", "2606:4700::1111"
    )


WOULD = "in ALLOWED_TARGETS would allow it"


@pytest.mark.parametrize(
    ("url", "found", "message"),
    [
        (
            "http://a.test",
            ["10.0.0.1"],
            f"the target a.test is not allowed; the entry a.test:80 {WOULD}",
        ),
        (
            "https://a.test:8443",
            ["127.0.0.1", "169.254.169.254"],
            f"the target a.test:8443 is not allowed; the entry a.test:8443 {WOULD}",
        ),
        (
            "http://10.0.0.1",
            [],
            f"the target 10.0.0.1 is not allowed; the entry 10.0.0.1:80 {WOULD}",
        ),
        (
            "http://[fd12::1]:8080",
            [],
            f"the target [fd12::1]:8080 is not allowed; the entry [fd12::1]:8080 {WOULD}",
        ),
        (
            "http://metadata.google.internal",
            ["169.254.169.254"],
            "the target metadata.google.internal is not allowed: a name entry in ALLOWED_TARGETS"
            " lifts private and loopback addresses only; this name needs an entry for its own"
            " address",
        ),
    ],
)
def test_refusal_names_the_entry(url: str, found: list[str], message: str) -> None:
    """The operator reads which entry to add; nobody reads what a name resolves to."""
    origin = origin_of(url)
    candidates = [origin.address] if origin.address is not None else addresses(*found)

    with pytest.raises(TargetNotAllowed) as caught:
        policy().permitted(origin, candidates)

    assert caught.value.detail == message
    assert not any(address in caught.value.detail for address in found)


ADDRESSES = IPV4 | IPV6 | BOUNDARIES
AUTHORITIES = st.one_of(
    st.sampled_from(["a.test", "A.Test.", "x_y.default", "xn--bcher-kva.test"]),
    IPV4.map(str),
    (IPV6 | BOUNDARIES.filter(lambda address: address.version == 6)).map("[{}]".format),
)


@given(
    st.sampled_from(["http", "https"]),
    AUTHORITIES,
    st.none() | st.integers(1, 65535),
    st.lists(ADDRESSES, min_size=1, max_size=4),
    st.booleans(),
)
def test_the_named_entry_really_allows_the_target(
    scheme: str, host: str, port: int | None, found: list[IPAddress], only: bool
) -> None:
    """Whoever copies the entry out of a refusal into ALLOWED_TARGETS gets the call through."""
    origin = origin_of(f"{scheme}://{host}" + (f":{port}" if port else ""))
    candidates = [origin.address] if origin.address is not None else found
    try:
        policy(only=only).permitted(origin, candidates)
    except TargetNotAllowed as exc:
        entry = exc.members.get("entry")
    else:
        return

    if entry is None:
        named = policy(f"{origin.host}:{origin.port}", only=only)
        with pytest.raises(TargetNotAllowed):
            named.permitted(origin, candidates)
    else:
        assert policy(str(entry), only=only).permitted(origin, candidates)


@pytest.mark.parametrize(
    ("value", "entries", "allowed"),
    [
        ("a.test", ["a.test"], True),
        ("A.test.:80", ["a.test"], True),
        ("a.test:80", ["a.test:80"], True),
        ("a.test", ["a.test:80"], True),
        ("a.test:81", ["a.test:80"], False),
        ("b.a.test", ["*.a.test"], True),
        ("a.test", [], False),
        ("a.test", ["0.0.0.0/0", "::/0"], False),
        ("10.0.0.1", ["10.0.0.1"], False),
    ],
)
def test_host_header_needs_a_name_entry(value: str, entries: list[str], allowed: bool) -> None:
    """A Host header chooses a target too, so a name entry has to cover it."""
    rules = policy(*entries)

    if allowed:
        rules.check_host_header(value, field="headers.Host")
    else:
        with pytest.raises(InvalidRequest) as caught:
            rules.check_host_header(value, field="headers.Host")
        host = value.partition(":")[0]
        assert caught.value.detail == (
            f"headers.Host is sent only when ALLOWED_TARGETS has an entry for it, such as {host}"
        )


@pytest.mark.parametrize("value", ["", "a b", "a.test:", "a.test,b.test", "u@a.test", "a.test/x"])
def test_host_header_is_a_host(value: str) -> None:
    """A Host header that is no `host[:port]` is refused, whatever is allowed."""
    with pytest.raises(InvalidRequest) as caught:
        policy("*.test", "a.test").check_host_header(value, field="headers.Host")

    assert caught.value.field == "headers.Host"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("send-serving", True),
        ("SEND-serving.", True),
        ("send-serving.default", True),
        ("send-serving.other.svc", True),
        ("send-serving.default.svc.cluster.local", True),
        ("send-serving.default.svc.my.domain", True),
        ("send-serving.default.example.com", False),
        ("other.send-serving.svc", False),
        ("send-serving-2.default.svc", False),
    ],
)
def test_own_service_is_never_called(host: str, own: bool) -> None:
    """A name that the cluster has for this very service is refused, listed or not."""
    rules = policy("*.svc.cluster.local", host, own_service="send-serving")
    origin = origin_of(f"http://{host}:8080")

    if own:
        with pytest.raises(TargetNotAllowed) as caught:
            rules.permitted(origin, addresses("10.0.0.1"))
        with pytest.raises(InvalidRequest) as header:
            rules.check_host_header(host, field="headers.Host")
        assert caught.value.detail == (
            f"the target {origin.authority} is this service itself; that would be a loop"
        )
        assert header.value.detail == "headers.Host is this service itself; that would be a loop"
    else:
        assert rules.permitted(origin, addresses("10.0.0.1"))
        rules.check_host_header(host, field="headers.Host")


def test_python_s_opinion_does_not_count() -> None:
    """Versions of Python differ in what they call global; the policy asks none of them."""
    program = (
        "import ipaddress, json, sys\n"
        "for name in ('is_global', 'is_private', 'is_reserved', 'is_multicast'):\n"
        "    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):\n"
        "        setattr(kind, name, property(lambda self: 1 / 0))\n"
        "from relay.addresses import reach_of\n"
        "blocks = json.load(sys.stdin)\n"
        "print(json.dumps([reach_of(ipaddress.ip_network(b)[0]).name for b in blocks]))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([block for block, _ in REGISTRY]),
        capture_output=True,
        check=True,
        cwd=REPOSITORY,
        text=True,
        timeout=60,
    )

    assert json.loads(result.stdout) == [reach.name for _, reach in REGISTRY]
