"""The egress policy: which addresses the relay may connect to.

Public addresses are allowed. Every other address needs an entry in `ALLOWED_TARGETS`:

    entry                                permits
    `host[:port]`, `*.suffix[:port]`     private and loopback addresses that this name resolves to
    `CIDR[:port]`                        addresses in that network, but not link-local or metadata
                                         addresses, nor those that carry an IPv4 address in disguise
    `address[:port]`, `/32`, `/128`      that one address, whatever it is

The policy judges addresses, not names: the socket goes to the very address that was judged, and no
second look-up can answer differently.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from relay.addresses import IPNetwork, Reach, reach_of, unwrapped
from relay.problems import InvalidRequest, TargetNotAllowed
from relay.urls import IPAddress, Origin, parse_authority


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


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
            ValueError: the entry has another form, or can be read in two ways; the message shows
                it.
        """
        form = f"the entry {text!a}; an entry is host[:port], *.suffix[:port] or CIDR[:port]"
        before, _, after = text.rpartition(":")
        if after.isdecimal() and _is_ipv6(before):
            raise ValueError(
                f"the entry {text!a}, whose last number may be a port;"
                f" write [{before}]:{after} for the port or [{text}] for the address"
            )
        cidr = _CIDR.fullmatch(text)
        wildcard = "*." if text.startswith("*.") else ""
        network: IPNetwork | None = None
        try:
            if cidr is not None and int(cidr[3] or 1) <= 65535:
                # Refuses host bits (10.0.0.1/8): which network was meant is unclear.
                network = _unwrapped_network(ipaddress.ip_network(cidr[2]))
                port = int(cidr[3]) if cidr[3] else None
            else:
                authority = f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text
                host, port, address = parse_authority(authority.removeprefix("*."), field="it")
                if address is not None:
                    network = ipaddress.ip_network(unwrapped(address))
        except (ValueError, InvalidRequest) as exc:
            raise ValueError(form) from exc
        if network is None:
            return cls(name=wildcard + host, port=port)
        if wildcard:
            raise ValueError(form)
        if network.version == 4 and network.prefixlen == 0 and ":" in text.partition("/")[0]:
            raise ValueError(f"the entry {text!a}, which stands for every IPv4 address: 0.0.0.0/0")
        return cls(network=network, port=port)

    def covers_name(self, host: str, port: int | None = None) -> bool:
        """Tell whether this is a name entry for the host; without a port, for any port of it."""
        if self.name is None or not self._covers_port(port):
            return False
        if self.name.startswith("*."):
            return host.endswith(self.name[1:])
        return host == self.name

    def covers_address(self, address: IPAddress, port: int, reach: Reach) -> bool:
        """Tell whether this is a network entry that permits the address."""
        if self.network is None or not self._covers_port(port):
            return False
        if reach is Reach.LOCKED and self.network.num_addresses > 1:
            return False
        return unwrapped(address) in self.network

    def _covers_port(self, port: int | None) -> bool:
        return port is None or self.port is None or self.port == port


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Decide where the relay may connect.

    Args:
        allowed: the entries of `ALLOWED_TARGETS`.
        only: public addresses need an entry too (`ALLOWED_TARGETS_ONLY`).
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
            TargetNotAllowed: no address may be, or the origin is the relay's own service.
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

        An ingress chooses a target by its Host header, so choosing the header chooses the target.

        Raises:
            InvalidRequest: no name entry covers it, it is the relay's own service, or it is not
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
        """Tell whether the cluster's DNS has this name for the relay's own service.

        The names are `service`, `service.namespace` and `service.namespace.svc`, with or without
        the cluster's domain. Knative does not tell the namespace of a service.
        """
        name, *rest = host.split(".")
        return name == self.own_service and (len(rest) < 2 or rest[1] == "svc")

    def _covers_name(self, origin: Origin) -> bool:
        return any(entry.covers_name(origin.host, origin.port) for entry in self.allowed)

    def _refusal(self, origin: Origin, addresses: tuple[IPAddress, ...]) -> TargetNotAllowed:
        """Name the entry that would permit the origin, and no address that a look-up found."""
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
