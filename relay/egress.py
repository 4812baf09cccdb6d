"""The egress policy: which addresses the relay may connect to, and nothing else.

Public addresses are allowed. Every other address needs an entry in `ALLOWED_TARGETS`:

    entry                                lifts
    `host[:port]`, `*.suffix[:port]`     private and loopback addresses that this name resolves to
    `CIDR[:port]`                        addresses in that network, but not link-local, metadata,
                                         nor those that carry an IPv4 address in disguise
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
    "fd00:100::100:200/128",  # Alibaba Cloud metadata
    "168.63.129.16/32",  # Azure WireServer, an address that is otherwise public
    "192.0.0.192/32",  # Oracle Cloud metadata
    "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud metadata
    "fd00:ec2::/32",  # AWS metadata, credentials of EKS pods, DNS and time
    "fd20:ce::254/128",  # Google Cloud metadata
    "fd00:42::42/128",  # Scaleway metadata
    "fd00:a9fe:a9fe::1/128",  # Akamai metadata
    # These carry an IPv4 address, any of the above too, which somebody on the way may unpack.
    "::/96",  # IPv4-compatible, deprecated (RFC 4291)
    "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215)
    "2001::/32",  # Teredo (RFC 4380)
    "2002::/16",  # 6to4 (RFC 3056)
)
# So does an ISATAP address (RFC 5214): behind this interface identifier, under any prefix.
_ISATAP = (0x00005EFE, 0x02005EFE)

# Addresses that clusters and machines number themselves with; loopback besides.
_PRIVATE = _networks(
    "10.0.0.0/8",  # RFC 1918
    "172.16.0.0/12",  # RFC 1918
    "192.168.0.0/16",  # RFC 1918
    "100.64.0.0/10",  # shared address space (RFC 6598); pods of some clusters
    "fc00::/7",  # unique local (RFC 4193)
)

# All else in the IANA special-purpose address registries. What `ipaddress` calls global depends on
# Python's version, so it is not asked.
_SPECIAL = _networks(
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
    if _in(address, _LOCKED) or _is_isatap(address):
        return Reach.LOCKED
    if _in(address, _PRIVATE):
        return Reach.PRIVATE
    if _in(address, _SPECIAL):
        return Reach.SPECIAL
    return Reach.PUBLIC


def _in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _is_isatap(address: IPAddress) -> bool:
    return address.version == 6 and int(address) >> 32 & 0xFFFFFFFF in _ISATAP


def _unwrapped_network(network: IPNetwork) -> IPNetwork:
    """Return the IPv4 network that mapped or NAT64 addresses stand for, else the network."""
    start = unwrapped(network.network_address)
    if network.version == 6 and start.version == 4 and network.prefixlen >= 96:
        return ipaddress.ip_network(f"{start}/{network.prefixlen - 96}")
    return network


_CIDR = re.compile(r"(\[)?([0-9A-Fa-f:.]+/[0-9]{1,3})(?(1)\])(?::([1-9][0-9]{0,4}))?", re.ASCII)


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
            if cidr is not None and int(cidr[3] or 1) <= 65535:
                # Refuses host bits (10.0.0.1/8): which network was meant is unclear.
                network = _unwrapped_network(ipaddress.ip_network(cidr[2]))
                return cls(network=network, port=int(cidr[3]) if cidr[3] else None)
            wildcard = "*." if text.startswith("*.") else ""
            authority = f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text
            host, port, address = parse_authority(authority.removeprefix("*."), field="it")
        except (ValueError, InvalidRequest) as exc:
            raise ValueError(form) from exc
        if address is None:
            return cls(name=wildcard + host, port=port)
        if wildcard:
            raise ValueError(form)
        return cls(network=ipaddress.ip_network(unwrapped(address)), port=port)

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
        return unwrapped(address) in self.network

    def _covers_port(self, port: int | None) -> bool:
        return port is None or self.port is None or self.port == port


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Decide where the relay may connect to.

    Args:
        allowed: the entries of `ALLOWED_TARGETS`.
        only: public addresses need an entry too.
        own_service: the name of the Knative Service that the relay runs as, which it never calls.
    """

    allowed: tuple[AllowedTarget, ...] = ()
    only: bool = False
    own_service: str | None = None

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
            TargetNotAllowed: none of them may, or the origin is the relay's own service.
        """
        if self._is_own_service(origin.host):
            raise TargetNotAllowed(
                f"the target {origin.authority} is this service itself; that would be a loop"
            )
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
            InvalidRequest: no name entry covers it, it is the relay's own service, or it is no
                `host[:port]`.
        """
        host, port, _ = parse_authority(value, field=field)
        if self._is_own_service(host):
            raise InvalidRequest(field, "is this service itself; that would be a loop")
        if not any(entry.covers_name(host, port) for entry in self.allowed):
            raise InvalidRequest(
                field, f"is sent only when ALLOWED_TARGETS has an entry for it, such as {host}"
            )

    def _is_own_service(self, host: str) -> bool:
        """Tell whether this is a name that the cluster's DNS has for the relay's own service.

        They are `service`, `service.namespace` and `service.namespace.svc`, with or without the
        cluster's domain; which namespace the service is in, Knative does not say.
        """
        name, *rest = host.split(".")
        return name == self.own_service and (len(rest) < 2 or rest[1] == "svc")

    def _covers_name(self, origin: Origin) -> bool:
        return any(entry.covers_name(origin.host, origin.port) for entry in self.allowed)

    def _refusal(self, origin: Origin, addresses: tuple[IPAddress, ...]) -> TargetNotAllowed:
        """Name the entry that would lift the origin, and no address that a look-up has told."""
        refused = f"the target {origin.authority} is not allowed"
        nameable = any(reach_of(address) in (Reach.PUBLIC, Reach.PRIVATE) for address in addresses)
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
