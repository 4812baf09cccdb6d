"""Other projects' guards against SSRF as oracles: what they block, the relay blocks."""

from __future__ import annotations

import ipaddress
import logging
import random
from collections.abc import Callable, Iterator

import pytest
from requests_hardened.ip_filter import (  # type: ignore[import-untyped]
    InvalidIPAddress,
    get_ip_address,
)
from ssrfguard import DEFAULT_DENIED

from relay.addresses import Reach, reach_of, unwrapped
from relay.urls import IPAddress

SEED = 20_260_101
COUNT = 12_000

NAT64 = ipaddress.ip_network("64:ff9b::/96")
PREFIXES = [int(ipaddress.IPv6Address(text)) for text in ("::ffff:0:0", "::", "64:ff9b::")]
NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
        *("::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32"),
        *("2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10"),
        *("fec0::/10", "ff00::/8", "2000::/3", "::/0"),
    )
]


def generated() -> Iterator[IPAddress]:
    """Generate addresses: anywhere, in and around special blocks, and IPv4 ones as IPv6."""
    chance = random.Random(SEED)
    for _ in range(COUNT // 4):
        yield ipaddress.IPv4Address(chance.getrandbits(32))
        network = chance.choice(NETWORKS)
        inside = int(network[0]) + chance.randrange(network.num_addresses)
        yield type(network[0])(inside)
        near = int(chance.choice((network[0], network[-1]))) + chance.randint(-2, 2)
        yield type(network[0])(min(max(near, 0), 2**network.max_prefixlen - 1))
        plain = inside if network.version == 4 else chance.getrandbits(32)
        yield ipaddress.IPv6Address(chance.choice(PREFIXES) + plain)


Blocks = Callable[[IPAddress], bool]


def requests_hardened() -> Blocks:
    logging.getLogger("requests_hardened").setLevel(logging.ERROR)

    def blocks(address: IPAddress) -> bool:
        try:
            get_ip_address(str(address), 80, allow_loopback=False)
        except InvalidIPAddress:
            return True
        return False

    return blocks


def ssrfguard() -> Blocks:
    return lambda address: DEFAULT_DENIED.classify(address).blocked


def antissrf() -> Blocks:
    antissrf = pytest.importorskip(
        "AntiSSRF.antissrf_policy", reason="microsoft-antissrf needs Python 3.11"
    )
    policy = antissrf.AntiSSRFPolicy(antissrf.PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    return lambda address: not policy._is_str_ip_address_connection_allowed(str(address))


@pytest.mark.parametrize("oracle", [requests_hardened, ssrfguard, antissrf])
def test_what_an_oracle_blocks_the_relay_blocks(oracle: Callable[[], Blocks]) -> None:
    """No address passes the relay that another guard stops.

    One difference is meant: behind DNS64 every IPv4 server has a NAT64 address (RFC 6147), so such
    an address is judged by the IPv4 address it stands for; two of the oracles block them all.
    """
    blocks = oracle()

    blocked = [
        address
        for address in generated()
        if blocks(unwrapped(address) if address in NAT64 else address)
    ]

    assert len(blocked) > COUNT // 4
    assert [address for address in blocked if reach_of(address) is Reach.PUBLIC] == []
