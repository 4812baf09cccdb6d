"""URI references as Go's net/url takes them and writes them again, which Knative does with each."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, unquote_to_bytes

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)?:", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# An escape in a host stands for a byte beyond ASCII, or for the percent sign.
_BAD_HOST = re.compile(r"[\x00 #%/?@\\^`{|}]")
_BAD_HOST_ESCAPE = re.compile(r"%(?!25|[89A-Fa-f][0-9A-Fa-f])")
_USERINFO = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%@-]*", re.ASCII)
_PORT = re.compile(r"(?::[0-9]*)?", re.ASCII)

# What stays as it is when all of a part is of it, and what else is written without an escape.
_VALID = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/\[\]-]*", re.ASCII)
_VALID_FRAGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]*", re.ASCII)
_PATH = "$&+,/:;=@~"
_FRAGMENT = "!$&()*+,/:;=?@~"
_HOST = "!$&'()*+,;=:[]<>\"~"
_USER = "$&+,;=~"


def parse_uri(text: str) -> str:
    """Return a URI reference as Go writes it: what has to be escaped is, and the rest stays.

    Raises:
        ValueError: Go cannot parse it.
    """
    if _CONTROL.search(text):
        raise ValueError("it has a control character")
    rest, _, fragment = text.partition("#")
    match = _SCHEME.match(rest)
    scheme = (match[1] or "").lower() if match else ""
    if match:
        if not scheme:
            raise ValueError("its scheme is missing")
        rest = rest[match.end() :]
    rest, question, query = rest.partition("?")
    after = question + query
    if fragment:
        after += "#" + _written(fragment, _VALID_FRAGMENT, _FRAGMENT)
    if scheme and not rest.startswith("/"):
        return f"{scheme}:{rest}{after}"
    if ":" in rest.partition("/")[0]:
        raise ValueError("its first segment has a colon")
    before = f"{scheme}:" if scheme else ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
        if authority or (scheme and rest):
            before += "//" + _authority(authority)
    return before + _written(rest, _VALID, _PATH) + after


def _written(part: str, valid: re.Pattern[str], safe: str) -> str:
    if _BAD_ESCAPE.search(part):
        raise ValueError("it has a percent sign that begins no escape")
    return part if valid.fullmatch(part) else _escaped(part, safe)


def _escaped(part: str, safe: str) -> str:
    return quote(unquote_to_bytes(part.encode("utf-8", "surrogateescape")), safe=safe)


def _authority(authority: str) -> str:
    user, at, host = authority.rpartition("@")
    if not _USERINFO.fullmatch(user) or _BAD_ESCAPE.search(user):
        raise ValueError("its user information is malformed")
    name, colon, password = user.partition(":")
    user = _escaped(name, _USER) + colon + _escaped(password, _USER)
    bracket = host.rfind("[")
    if bracket > 0 or (bracket == 0 and "]" not in host):
        raise ValueError("its host is malformed")
    if bracket == 0:
        literal, _, port = host[1:].rpartition("]")
        address = ipaddress.IPv6Address(literal.replace("%25", "%", 1))
        zone = f"%25{quote(address.scope_id, safe=_HOST)}" if address.scope_id else ""
        host = f"[{literal.partition('%25')[0]}{zone}]{port}"
    else:
        port = host[host.rfind(":") :] if ":" in host else ""
    if not _PORT.fullmatch(port):
        raise ValueError("its port is no number")
    if bracket < 0:
        if _BAD_HOST.search(host.replace("%", "")) or _BAD_HOST_ESCAPE.search(host):
            raise ValueError("its host is malformed")
        host = _escaped(host, _HOST)
    return user + at + host
