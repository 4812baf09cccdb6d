"""The egress policy: which addresses the relay may connect to, and nothing else.

Public addresses are allowed. Every other address needs an entry in `ALLOWED_TARGETS`:

    entry                                lifts
    `host[:port]`, `*.suffix[:port]`     private and loopback addresses that this name resolves to
    `CIDR[:port]`                        addresses in that network, except link-local and metadata
    `address[:port]`, `/32`, `/128`      that one address, whatever it is

The policy judges addresses, not names: the socket goes to the very address that was judged, so
there is no second look-up that could answer differently.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from relay.problems import InvalidRequest, TargetNotAllowed
from relay.urls import IPAddress, Origin, parse_authority

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Reach(enum.Enum):
    """How far an address lies from the public Internet; it decides which entry can lift it."""

    PUBLIC = "public"
    PRIVATE = "private"
    SPECIAL = "special"
    LOCKED = "locked"


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Only an entry of their own lifts these.
_LOCKED = _networks(
    "169.254.0.0/16",  # link-local (RFC 3927); AWS, Azure, Google and others: instance metadata
    "fe80::/10",  # link-local (RFC 4291)
    "100.100.100.200/32",  # Alibaba Cloud metadata
    "168.63.129.16/32",  # Azure WireServer, an address that is otherwise public
    "192.0.0.192/32",  # Oracle Cloud metadata
    "fd00:ec2::/32",  # AWS metadata, DNS and time
    "fd20:ce::254/128",  # Google Cloud metadata
    "fd00:42::42/128",  # Scaleway metadata
)

# Addresses that clusters and machines number themselves with.
_PRIVATE = _networks(
    "10.0.0.0/8",  # RFC 1918
    "172.16.0.0/12",  # RFC 1918
    "192.168.0.0/16",  # RFC 1918
    "100.64.0.0/10",  # shared address space (RFC 6598); pods of some clusters
    "127.0.0.0/8",  # loopback (RFC 1122)
    "::1/128",  # loopback (RFC 4291)
    "fc00::/7",  # unique local (RFC 4193)
)

# Special-purpose ranges (IANA registries) that `ipaddress` calls global in some Python versions,
# or that carry an IPv4 address which somebody on the way may unpack.
_SPECIAL = _networks(
    "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
    "192.31.196.0/24",  # AS112 (RFC 7535)
    "192.52.193.0/24",  # AMT (RFC 7450)
    "192.88.99.0/24",  # 6to4 relay anycast, deprecated (RFC 7526)
    "192.175.48.0/24",  # AS112 (RFC 7534)
    "224.0.0.0/4",  # multicast (RFC 5771)
    "::/96",  # IPv4-compatible, deprecated (RFC 4291)
    "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215)
    "100::/64",  # discard only (RFC 6666)
    "100:0:0:1::/64",  # dummy prefix (RFC 9780)
    "2001::/23",  # IETF protocol assignments, Teredo (RFC 4380) among them
    "2001:db8::/32",  # documentation (RFC 3849)
    "2002::/16",  # 6to4 (RFC 3056)
    "2620:4f:8000::/48",  # AS112 (RFC 7534)
    "3fff::/20",  # documentation (RFC 9637)
    "5f00::/16",  # segment routing (RFC 9602)
    "fec0::/10",  # site-local, deprecated (RFC 3879)
    "ff00::/8",  # multicast (RFC 4291)
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# ISATAP (RFC 5214) puts an IPv4 address behind this interface identifier, under any prefix.
_ISATAP = (0x00005EFE, 0x02005EFE)


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
    if _in(address, _LOCKED):
        return Reach.LOCKED
    if _in(address, _PRIVATE):
        return Reach.PRIVATE
    if _in(address, _SPECIAL) or not address.is_global:
        return Reach.SPECIAL
    if isinstance(address, ipaddress.IPv6Address) and int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return Reach.SPECIAL
    return Reach.PUBLIC


def _in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


_CIDR = re.compile(r"\[?([0-9A-Fa-f:.]+/[0-9]{1,3})\]?(?::([1-9][0-9]{0,4}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedTarget:
    """One entry of `ALLOWED_TARGETS`: a name, a name suffix or a network, with a port or for any.

    Args:
        name: in lower case; `*.suffix` stands for every name below the suffix. None for a network.
        network: None for a name.
        port: None for any port.
    """

    name: str | None = None
    network: IPNetwork | None = None
    port: int | None = None

    @classmethod
    def from_text(cls, text: str) -> AllowedTarget:
        """Read `host[:port]`, `*.suffix[:port]`, `CIDR[:port]`; IPv6 with a port in brackets.

        Raises:
            ValueError: it is none of these; the message shows the entry.
        """
        form = f"the entry {text!a}; an entry is host[:port], *.suffix[:port] or CIDR[:port]"
        cidr = _CIDR.fullmatch(text)
        try:
            if cidr is not None and int(cidr[2] or 1) <= 65535:
                # Refuses host bits (10.0.0.1/8): which network was meant is unclear.
                network = ipaddress.ip_network(cidr[1])
                return cls(network=network, port=int(cidr[2]) if cidr[2] else None)
            wildcard = "*." if text.startswith("*.") else ""
            authority = f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text
            host, port, address = parse_authority(authority.removeprefix("*."), field="it")
        except (ValueError, InvalidRequest) as exc:
            raise ValueError(form) from exc
        if address is None:
            return cls(name=wildcard + host, port=port)
        if wildcard:
            raise ValueError(form)
        return cls(network=ipaddress.ip_network(address), port=port)

    def covers_name(self, host: str, port: int | None = None) -> bool:
        """Tell whether this is a name entry for the host; without a port, for any port of it."""
        if self.name is None or not self._covers_port(port):
            return False
        if self.name.startswith("*."):
            return host.endswith(self.name[1:])
        return host == self.name

    def covers_address(self, address: IPAddress, port: int, reach: Reach) -> bool:
        """Tell whether this is a network entry that lifts the address."""
        if self.network is None or not self._covers_port(port):
            return False
        if reach is Reach.LOCKED and self.network.num_addresses > 1:
            return False
        return address in self.network or unwrapped(address) in self.network

    def _covers_port(self, port: int | None) -> bool:
        return port is None or self.port is None or self.port == port


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Decide where the relay may connect to.

    Args:
        allowed: the entries of `ALLOWED_TARGETS`.
        only: public addresses need an entry too.
    """

    allowed: tuple[AllowedTarget, ...] = ()
    only: bool = False

    def allows(self, origin: Origin, address: IPAddress) -> bool:
        """Tell whether a socket may be opened to this address for this origin."""
        reach = reach_of(address)
        if reach is Reach.PUBLIC and not self.only:
            return True
        if reach in (Reach.PUBLIC, Reach.PRIVATE) and self._covers_name(origin):
            return True
        return any(entry.covers_address(address, origin.port, reach) for entry in self.allowed)

    def permitted(self, origin: Origin, addresses: Iterable[IPAddress]) -> list[IPAddress]:
        """Keep the addresses that may be connected to, in their order.

        Raises:
            TargetNotAllowed: none of them may.
        """
        candidates = tuple(addresses)
        permitted = [address for address in candidates if self.allows(origin, address)]
        if not permitted:
            raise self._refusal(origin, candidates)
        return permitted

    def check_host_header(self, value: str, *, field: str) -> None:
        """Allow a Host header only where a name entry covers it.

        A target behind an ingress is chosen by its Host header, so whoever may choose the header
        chooses the target.

        Raises:
            InvalidRequest: no name entry covers it, or it is no `host[:port]`.
        """
        host, port, _ = parse_authority(value, field=field)
        if not any(entry.covers_name(host, port) for entry in self.allowed):
            raise InvalidRequest(
                field, f"is sent only when ALLOWED_TARGETS has an entry for it, such as {host}"
            )

    def _covers_name(self, origin: Origin) -> bool:
        return any(entry.covers_name(origin.host, origin.port) for entry in self.allowed)

    def _refusal(self, origin: Origin, addresses: tuple[IPAddress, ...]) -> TargetNotAllowed:
        """Name the entry that would lift the origin, and no address that a look-up has told."""
        refused = f"the target {origin.authority} is not allowed"
        nameable = all(reach_of(address) in (Reach.PUBLIC, Reach.PRIVATE) for address in addresses)
        if origin.address is not None:
            own = unwrapped(origin.address)
            entry = f"[{own}]:{origin.port}" if own.version == 6 else f"{own}:{origin.port}"
        elif nameable:
            entry = f"{origin.host}:{origin.port}"
        else:
            return TargetNotAllowed(
                f"{refused}: a name entry in ALLOWED_TARGETS lifts private and loopback addresses"
                " only; this name needs an entry for its own address"
            )
        return TargetNotAllowed(
            f"{refused}; the entry {entry} in ALLOWED_TARGETS would allow it", entry=entry
        )
