"""Read the environment variables, each as what it holds.

What is wrong with one stops the start, and ends up in the log. Some of them are secrets, so that no
error repeats a value, but those of `ALLOWED_TARGETS` and the names in `K_CE_OVERRIDES`.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Mapping

from relay.egress import AllowedTarget
from relay.problems import InvalidRequest
from relay.strict_json import JSONError, decode_base64, loads
from relay.urls import Target, parse_authority, parse_target

_ATTRIBUTE_VALUE = re.compile(r"[!#$&-~]{1,128}", re.ASCII)
_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
# The context attributes of CloudEvents 1.0, which an override must not touch.
_CONTEXT_ATTRIBUTES = frozenset(
    {
        "data",
        "datacontenttype",
        "dataschema",
        "id",
        "source",
        "specversion",
        "subject",
        "time",
        "type",
    }
)

# The user information of a URL (RFC 3986 section 3.2.1). The parsers that would read another one
# repeat it in their errors.
_REDIS = re.compile(
    r"rediss?://(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?([^/?#@]+)(?:/[0-9]{1,4})?", re.ASCII
)

# Standard Webhooks, "Signature scheme": between 24 and 64 bytes.
MIN_SECRET_BYTES = 24

MIN_TOKEN_CHARACTERS = 16


class InvalidSetting(ValueError):
    """Name the setting and what would be right; it stops the start."""


def k_sink(env: Mapping[str, str]) -> Target | None:
    sink = env.get("K_SINK")
    if not sink:
        return None
    try:
        return parse_target(sink, url_field="K_SINK")
    except InvalidRequest as exc:
        raise InvalidSetting(exc.detail) from exc


def certificates(env: Mapping[str, str]) -> str | None:
    pem = env.get("K_CA_CERTS")
    if not pem:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, TypeError) as exc:  # TypeError: it is not ASCII
        raise InvalidSetting("K_CA_CERTS must be certificates in PEM") from exc
    return pem


def ce_overrides(env: Mapping[str, str]) -> dict[str, str]:
    """Read `{"extensions": {name: value}}`, as Knative's SinkBinding writes it."""
    text = env.get("K_CE_OVERRIDES")
    if not text:
        return {}
    try:
        overrides = loads(text.encode("utf-8", "surrogateescape"))
    except JSONError as exc:
        raise InvalidSetting(f"K_CE_OVERRIDES {exc}") from exc
    extensions = overrides.get("extensions") or {} if isinstance(overrides, dict) else None
    if not isinstance(extensions, dict):
        raise InvalidSetting('K_CE_OVERRIDES must be JSON like {"extensions": {"name": "value"}}')
    for name, value in extensions.items():
        if not _EXTENSION_NAME.fullmatch(name) or name in _CONTEXT_ATTRIBUTES:
            raise InvalidSetting(
                f"K_CE_OVERRIDES has the extension name {name!a};"
                " a name is 1 to 20 lower-case letters or digits, and no context attribute"
            )
        if not isinstance(value, str) or not value.isprintable():
            raise InvalidSetting(f"K_CE_OVERRIDES must give {name} a string of visible characters")
    return extensions


def attribute(env: Mapping[str, str], name: str, default: str) -> str:
    value = env.get(name) or default
    if not _ATTRIBUTE_VALUE.fullmatch(value):
        raise InvalidSetting(
            f"{name} must be 1 to 128 visible ASCII characters without space, quote or %"
        )
    return value


def allowed_targets(env: Mapping[str, str]) -> tuple[AllowedTarget, ...]:
    entries = [entry.strip() for entry in env.get("ALLOWED_TARGETS", "").split(",")]
    try:
        return tuple(AllowedTarget.from_text(entry) for entry in entries if entry)
    except ValueError as exc:
        raise InvalidSetting(f"ALLOWED_TARGETS has {exc}") from exc


def boolean(env: Mapping[str, str], name: str) -> bool:
    value = (env.get(name) or "false").lower()
    if value not in ("true", "false"):
        raise InvalidSetting(f"{name} must be true or false")
    return value == "true"


def seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise InvalidSetting(f"{name} must be a number of seconds above 0, at most 86400")
    return value


def count(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or int(text) == 0:
        raise InvalidSetting(f"{name} must be a whole number above 0")
    return int(text)


def state_url(env: Mapping[str, str], default: str) -> str:
    url = env.get("STATE_URL") or default
    redis = _REDIS.fullmatch(url)
    if redis is not None:
        try:
            parse_authority(redis[1], field="STATE_URL")
        except InvalidRequest:
            redis = None
    if redis is None and not re.fullmatch(r"memory://|file:///[^?#]+", url):
        raise InvalidSetting(
            "STATE_URL must be memory://, file:///DIRECTORY"
            " or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE], the password percent-encoded"
        )
    return url


def callback_secret(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """Read one key, or two with a space between them while one takes the place of the other."""
    keys = []
    for secret in env.get("CALLBACK_SECRET", "").split():
        try:
            keys.append(decode_base64(secret.removeprefix("whsec_")))
        except JSONError:
            keys.append(b"")
    if any(len(key) < MIN_SECRET_BYTES for key in keys):
        raise InvalidSetting(
            f"CALLBACK_SECRET must be whsec_ and base64 of {MIN_SECRET_BYTES} bytes or more,"
            " or two of these with a space between them"
        )
    return tuple(keys)


def api_token(env: Mapping[str, str]) -> tuple[str, ...]:
    """Read tokens with spaces between them."""
    tokens = tuple(env.get("API_TOKEN", "").split())
    for token in tokens:
        if not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},}}", token, re.ASCII):
            raise InvalidSetting(
                f"API_TOKEN must be {MIN_TOKEN_CHARACTERS} or more visible ASCII characters,"
                " or several of these with a space between them"
            )
    return tokens


def log_level(env: Mapping[str, str], default: str) -> str:
    level = (env.get("LOG_LEVEL") or default).upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise InvalidSetting("LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level
