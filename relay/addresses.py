"""How far an IP address lies from the public Internet, by the IANA special-purpose registries."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable

from relay.urls import IPAddress

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Reach(enum.Enum):
    """How far away an address is; the egress policy decides by it which entry permits it."""

    PUBLIC = "public"
    PRIVATE = "private"
    SPECIAL = "special"
    LOCKED = "locked"


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Only an entry for the single address permits these.
LOCKED = _networks(
    "169.254.0.0/16",  # link-local (RFC 3927); AWS, Azure, Google and others: instance metadata
    "fe80::/10",  # link-local (RFC 4291)
    "100.100.100.200/32",  # Alibaba Cloud metadata
    "fd00:100::100:200/128",  # Alibaba Cloud metadata
    "168.63.129.16/32",  # Azure WireServer, an address that is otherwise public
    "192.0.0.192/32",  # Oracle Cloud metadata
    "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud metadata
    "fd00:ec2::/32",  # AWS metadata, credentials of EKS pods, DNS and time
    "fd20:ce::254/128",  # Google Cloud metadata
    "fd00:42::42/128",  # Scaleway metadata
    "fd00:a9fe:a9fe::1/128",  # Akamai metadata
    # These carry an IPv4 address, perhaps one of the above, that a router on the way may unpack.
    "::/96",  # IPv4-compatible, deprecated (RFC 4291)
    "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215)
    "2001::/32",  # Teredo (RFC 4380)
    "2002::/16",  # 6to4 (RFC 3056)
)
# An ISATAP address (RFC 5214) carries one too, behind this interface identifier under any prefix.
_ISATAP = (0x00005EFE, 0x02005EFE)

# Private addresses of clusters and machines, and loopback.
PRIVATE = _networks(
    "10.0.0.0/8",  # RFC 1918
    "172.16.0.0/12",  # RFC 1918
    "192.168.0.0/16",  # RFC 1918
    "100.64.0.0/10",  # shared address space (RFC 6598); pods of some clusters
    "fc00::/7",  # unique local (RFC 4193)
)

# All else in the IANA special-purpose address registries. What `ipaddress` calls global depends on
# Python's version, so it is not asked.
SPECIAL = _networks(
    "0.0.0.0/8",  # this network (RFC 791); 0.0.0.0 reaches this host
    "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
    "192.0.2.0/24",  # documentation (RFC 5737)
    "192.31.196.0/24",  # AS112 (RFC 7535)
    "192.52.193.0/24",  # AMT (RFC 7450)
    "192.88.99.0/24",  # 6to4 relay anycast, deprecated (RFC 7526)
    "192.175.48.0/24",  # AS112 (RFC 7534)
    "198.18.0.0/15",  # benchmarking (RFC 2544)
    "198.51.100.0/24",  # documentation (RFC 5737)
    "203.0.113.0/24",  # documentation (RFC 5737)
    "224.0.0.0/4",  # multicast (RFC 5771)
    "240.0.0.0/4",  # reserved (RFC 1112), limited broadcast (RFC 919)
    # Global unicast is 2000::/3 and nothing else (RFC 4291 section 2.4):
    "::/3",  # discard only 100::/64 (RFC 6666), dummy prefix 100:0:0:1::/64 (RFC 9780)
    "4000::/2",  # segment routing 5f00::/16 (RFC 9602)
    "8000::/1",  # site-local fec0::/10 (RFC 3879), multicast ff00::/8 (RFC 4291)
    # and within it:
    "2001::/23",  # IETF protocol assignments (RFC 2928)
    "2001:db8::/32",  # documentation (RFC 3849)
    "2620:4f:8000::/48",  # AS112 (RFC 7534)
    "3fff::/20",  # documentation (RFC 9637)
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


def unwrapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv4-mapped or NAT64 address stands for, else the address.

    A mapped address (RFC 4291 section 2.5.5.2) is the IPv4 address to every socket; behind DNS64
    every IPv4-only server looks like a NAT64 address (RFC 6147).
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def reach_of(address: IPAddress) -> Reach:
    """Judge an address by the IANA special-purpose registries."""
    address = unwrapped(address)
    if address.is_loopback:
        return Reach.PRIVATE
    if _in(address, LOCKED) or _is_isatap(address):
        return Reach.LOCKED
    if _in(address, PRIVATE):
        return Reach.PRIVATE
    if _in(address, SPECIAL):
        return Reach.SPECIAL
    return Reach.PUBLIC


def _in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _is_isatap(address: IPAddress) -> bool:
    return address.version == 6 and int(address) >> 32 & 0xFFFFFFFF in _ISATAP
