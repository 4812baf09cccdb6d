"""Parse the target of a call by one strict grammar: the checked URL is the URL that is called.

A URL that browsers, curl and Python read differently has no right reading. It is refused, not
repaired.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass

from relay.problems import InvalidRequest

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_LENGTH = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"(https?)://([^/?#@\\]*)(/[^?#]*)?", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
# A host whose last label looks like a number must be an IPv4 address (WHATWG URL, "ends in a
# number"); inet_aton would read 2130706433, 0x7f.1 and 127.1 all as 127.0.0.1.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_CONTROL_ESCAPE = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])", re.ASCII)
_SEPARATOR = re.compile(r"/|%2[Ff]|%5[Cc]", re.ASCII)
_PARAMETERS = re.compile(r"(?:;|%3[Bb]).*", re.ASCII | re.DOTALL)
# What RFC 3986 wants escaped. Brackets are left as they are: `?filter[a]=b` is everywhere, and
# every server takes it.
_TO_ESCAPE = re.compile(r"[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The scheme, host and port of a target (RFC 9110 section 4.3.1).

    Args:
        scheme: `http` or `https`.
        host: a name in lower case without a trailing dot, or an address in its shortest form;
            an IPv6 address stands without brackets.
        port: always set; the scheme's own when the URL names none.
        address: the address when the host is one.
    """

    scheme: str
    host: str
    port: int
    address: IPAddress | None = None

    @property
    def authority(self) -> str:
        """The value of the Host header: the port is left out when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where one call goes.

    Args:
        origin: the server.
        path: path and query exactly as they go on the request line.
    """

    origin: Origin
    path: str

    @property
    def url(self) -> str:
        return f"{self.origin.scheme}://{self.origin.authority}{self.path}"


def parse_target(url: str, api: str = "", *, url_field: str, api_field: str = "") -> Target:
    """Join a base URL with a path and query.

    Args:
        url: `http(s)://host[:port][/base]`, nothing else.
        api: a path, a query or both; appended to the base.
        url_field: the name of the field that holds the url, for errors.
        api_field: the name of the field that holds the api.

    Raises:
        InvalidRequest: one of them has another form or climbs out of the base, or both together
            are longer than `MAX_URL_LENGTH`.
    """
    if len(url) + len(api) > MAX_URL_LENGTH:
        raise InvalidRequest(url_field, f"is too long: at most {MAX_URL_LENGTH} characters")
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidRequest(
            url_field,
            "must be http(s)://host[:port][/base], without user, query or fragment",
        )
    scheme = match[1].lower()
    host, port, address = parse_authority(match[2], field=url_field)
    origin = Origin(scheme=scheme, host=host, port=port or DEFAULT_PORTS[scheme], address=address)
    base = _clean_path(match[3] or "", field=url_field)
    if _SCHEME.match(api):
        raise InvalidRequest(api_field, "must be a path and query, not a URL")
    if "#" in api:
        raise InvalidRequest(api_field, "must not have a fragment (#)")
    api_path, question_mark, query = api.partition("?")
    if api_path:
        base = base.removesuffix("/")
        if not api_path.startswith("/"):
            api_path = "/" + api_path
    path = (base + _clean_path(api_path, field=api_field)) or "/"
    return Target(origin=origin, path=path + question_mark + _clean(query, field=api_field))


def parse_authority(text: str, *, field: str) -> tuple[str, int | None, IPAddress | None]:
    """Parse `host[:port]`.

    Returns:
        the host (see `Origin`), the port if given, and the address if the host is one.

    Raises:
        InvalidRequest: it is not a name, a dotted IPv4 address or a bracketed IPv6 address, with a
            port from 1 to 65535.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise InvalidRequest(field, "must have a host and, after a colon, a port of 1 to 65535")
    port = int(match[2]) if match[2] else None
    if match[1].startswith("["):
        try:
            address: IPAddress = ipaddress.IPv6Address(match[1][1:-1])
        except ValueError as exc:
            raise InvalidRequest(field, "has brackets without an IPv6 address in them") from exc
        if "%" in match[1]:
            raise InvalidRequest(field, "must not have an IPv6 zone")
        return str(address), port, address
    host = match[1].removesuffix(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError as exc:
            raise InvalidRequest(
                field, "must write an IPv4 address as four decimal numbers"
            ) from exc
        return host, port, address
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidRequest(
            field, "must have a host of letters, digits, hyphens and dots (xn--… for others)"
        )
    # Only now: the lower case of the Kelvin sign (U+212A) is a plain k.
    return host.lower(), port, None


def _clean_path(path: str, *, field: str) -> str:
    """Refuse a path that some servers read as climbing up; otherwise leave it unchanged."""
    path = _clean(path, field=field)
    if _CONTROL_ESCAPE.search(path):
        raise InvalidRequest(field, "must not have an encoded control character in its path")
    for segment in _SEPARATOR.split(path):
        # Java servers drop `;parameters` before they look at the dots.
        bare = _PARAMETERS.sub("", segment).replace("%2e", ".").replace("%2E", ".")
        if bare in (".", ".."):
            raise InvalidRequest(field, "must not have . or .. as a part of its path")
    return path


def _clean(text: str, *, field: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise InvalidRequest(field, "must have two hexadecimal digits after each %")

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        if character in "\\ " or unicodedata.category(character)[0] in "CZ":
            raise InvalidRequest(
                field, f"must not have the character U+{ord(character):04X}; percent-encode it"
            )
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))

    return _TO_ESCAPE.sub(escaped, text)
