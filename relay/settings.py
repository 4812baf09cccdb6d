"""The settings of both functions, read once from the environment.

A wrong value stops the start and ends up in the log. Some settings are secrets, so no error repeats
a value, except the entries of `ALLOWED_TARGETS` and the names in `K_CE_OVERRIDES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from relay.egress import AllowedTarget
from relay.jsons import JSONError, decode_base64, loads
from relay.problems import InvalidRequest
from relay.tls import parse_ca_certs, parse_certificates, parse_client_cert
from relay.urls import Target, parse_authority, parse_target

_ATTRIBUTE_VALUE = re.compile(r"[!#$&-~]{1,128}", re.ASCII)
_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
# The context attributes of CloudEvents 1.0, which an override must not touch.
_CONTEXT_ATTRIBUTES: Final = frozenset(
    ("data", "datacontenttype", "dataschema", "id", "source", "specversion", "subject", "time")
) | {"type"}
# The user information of a URL (RFC 3986 section 3.2.1). The parsers that would read another one
# repeat it in their errors.
_REDIS = re.compile(
    r"rediss?://(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?([^/?#@]+)(?:/[0-9]{1,4})?", re.ASCII
)
# Standard Webhooks, "Signature scheme": between 24 and 64 bytes.
_MIN_SECRET_BYTES: Final = 24
_MIN_TOKEN_CHARACTERS: Final = 16
# Attributes, the usual headers of an answer, and the envelope of the callback that brings it.
_AROUND_RESULT_BYTES: Final = 64 * 1024
# Each tier of retries has a manifest.
MAX_TIERS: Final = 5


class InvalidSetting(ValueError):
    """Name the setting and what would be right; it stops the start."""


def _sink(text: str) -> Target:
    try:
        return parse_target(text, url_field="K_SINK")
    except InvalidRequest as exc:
        raise InvalidSetting(exc.detail.removeprefix("K_SINK ")) from exc


def _checked(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Make a parser of another module's that raises ValueError."""

    def checked(text: str) -> object:
        try:
            return parse(text)
        except ValueError as exc:
            raise InvalidSetting(str(exc)) from exc

    return checked


def _extensions(text: str) -> dict[str, str]:
    """Read `{"extensions": {name: value}}`, as Knative's SinkBinding writes it."""
    try:
        overrides = loads(text.encode("utf-8", "surrogateescape"))
    except JSONError as exc:
        raise InvalidSetting(str(exc)) from exc
    extensions = overrides.get("extensions") or {} if isinstance(overrides, dict) else None
    if not isinstance(extensions, dict):
        raise InvalidSetting('must be JSON like {"extensions": {"name": "value"}}')
    for name, value in extensions.items():
        if not _EXTENSION_NAME.fullmatch(name) or name in _CONTEXT_ATTRIBUTES:
            raise InvalidSetting(
                f"has the extension name {name!a};"
                " a name is 1 to 20 lower-case letters or digits, and no context attribute"
            )
        if not isinstance(value, str) or not value.isprintable():
            raise InvalidSetting(f"must give {name} a string of visible characters")
    return extensions


def _attribute(text: str) -> str:
    if not _ATTRIBUTE_VALUE.fullmatch(text):
        raise InvalidSetting("must be 1 to 128 visible ASCII characters without space, quote or %")
    return text


def _allowed_targets(text: str) -> tuple[AllowedTarget, ...]:
    entries = [entry.strip() for entry in text.split(",")]
    try:
        return tuple(AllowedTarget.from_text(entry) for entry in entries if entry)
    except ValueError as exc:
        raise InvalidSetting(f"has {exc}") from exc


def _origins(text: str) -> frozenset[str]:
    """Read origins as browsers write them: in lower case, without the scheme's own port."""
    origins = set()
    for entry in filter(None, (each.strip() for each in text.split(","))):
        try:
            target = parse_target(entry, url_field="")
        except InvalidRequest as exc:
            raise InvalidSetting("must be http(s)://host[:port], several with commas") from exc
        if target.path != "/" or entry.endswith("/"):
            raise InvalidSetting("must be http(s)://host[:port] without a path")
        origins.add(f"{target.origin.scheme}://{target.origin.authority}")
    return frozenset(origins)


def _hosts(text: str) -> frozenset[str]:
    hosts = set()
    for entry in filter(None, (each.strip() for each in text.split(","))):
        try:
            host, port, _ = parse_authority(entry, field="")
        except InvalidRequest as exc:
            raise InvalidSetting("must be host names or addresses, with commas") from exc
        if port is not None:
            raise InvalidSetting("must be without ports")
        hosts.add(f"[{host}]" if ":" in host else host)
    return frozenset(hosts)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidSetting("must be true or false")
    return text.lower() == "true"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise InvalidSetting("must be a number of seconds above 0, at most 86400")
    return value


def _delays(text: str) -> tuple[float, ...]:
    delays = tuple(_seconds(each.strip()) for each in text.split(","))
    if len(delays) > MAX_TIERS or list(delays) != sorted(delays):
        raise InvalidSetting(
            f"must be 1 to {MAX_TIERS} numbers of seconds with commas between, the shortest first"
        )
    return delays


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or int(text) == 0:
        raise InvalidSetting("must be a whole number above 0")
    return int(text)


def _count_or_none(text: str) -> int:
    try:
        return 0 if text == "0" else _count(text)
    except InvalidSetting as exc:
        raise InvalidSetting(f"{exc}, or 0") from exc


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise InvalidSetting("must be a number above 0, at most 1")
    return value


def _state_url(url: str) -> str:
    redis = _REDIS.fullmatch(url)
    if redis is not None:
        try:
            parse_authority(redis[1], field="STATE_URL")
        except InvalidRequest:
            redis = None
    if redis is None and not re.fullmatch(r"memory://|sqlite:///[^?#]+", url):
        raise InvalidSetting(
            "must be memory://, sqlite:///PATH"
            " or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE], the password percent-encoded"
        )
    return url


def _secrets(text: str) -> tuple[bytes, ...]:
    """Read one key, or two with a space between them while one replaces the other."""
    keys = []
    for secret in text.split():
        try:
            keys.append(decode_base64(secret.removeprefix("whsec_")))
        except JSONError:
            keys.append(b"")
    if any(len(key) < _MIN_SECRET_BYTES for key in keys):
        raise InvalidSetting(
            f"must be whsec_ and base64 of {_MIN_SECRET_BYTES} bytes or more,"
            " or two of these with a space between them"
        )
    return tuple(keys)


def _tokens(text: str) -> tuple[str, ...]:
    tokens = tuple(text.split())
    for token in tokens:
        if not re.fullmatch(rf"[!-~]{{{_MIN_TOKEN_CHARACTERS},}}", token, re.ASCII):
            raise InvalidSetting(
                f"must be {_MIN_TOKEN_CHARACTERS} or more visible ASCII characters,"
                " or several of these with a space between them"
            )
    return tokens


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise InvalidSetting("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level


# Any: a field's type is that of its default and of what its parser returns, which mypy cannot say.
def _setting(
    default: Any, parse: Callable[[str], object], meaning: str, *, secret: bool = False
) -> Any:
    metadata = {"parse": parse, "meaning": meaning}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an operator can set; each field is the environment variable of its name in upper case.

    A line is the default, the parser and the meaning; docs/settings.md begins each entry with
    the same words.
    """

    k_sink: Target | None = _setting(None, _sink, "set by the SinkBinding")
    k_ce_overrides: Mapping[str, str] | None = _setting(None, _extensions, "set by the SinkBinding")
    k_ca_certs: str | None = _setting(None, _checked(parse_certificates), "set by the SinkBinding")
    k_service: str | None = _setting(None, str, "set by Knative")
    event_type: str = _setting("dev.knative.samples.t2", _attribute, "of the events")
    event_source: str = _setting("dev.knative.samples/t2", _attribute, "of the events")
    allowed_targets: tuple[AllowedTarget, ...] = _setting(
        (), _allowed_targets, "what may be called besides public addresses"
    )
    allowed_targets_only: bool = _setting(False, _boolean, "nothing else may be called")
    target_timeout_s: float = _setting(
        30.0, _seconds, "the longest a call to a target may take in all"
    )
    target_connect_timeout_s: float = _setting(
        5.0, _seconds, "of that, for the look-up and the connection"
    )
    target_ca_certs: str | None = _setting(
        None, _checked(parse_ca_certs), "authorities to trust besides the system's"
    )
    target_client_cert: tuple[str, str] | None = _setting(
        None, _checked(parse_client_cert), "for targets that ask for a client certificate"
    )
    publish_timeout_s: float = _setting(10.0, _seconds, "for publishing one event")
    retry_delays_s: tuple[float, ...] = _setting(
        (1.0, 2.0, 4.0, 8.0, 16.0), _delays, "the waits before a request is tried again"
    )
    max_age_s: float = _setting(3600.0, _seconds, "what is older is not tried again")
    waiting_places: int = _setting(300, _count, "how many requests may wait inside Receive")
    trigger_places: int = _setting(50, _count, "how many requests of one Trigger run at once")
    breaker_failures: int = _setting(
        5, _count_or_none, "after so many failures in a row a target is left alone"
    )
    breaker_pause_s: float = _setting(10.0, _seconds, "for how long")
    origin_share: float = _setting(
        0.5, _share, "the part of the threads that `/sync` may use for one target"
    )
    max_body_bytes: int = _setting(1_048_576, _count, "the largest request body")
    max_bodies_bytes: int = _setting(
        67_108_864, _count, "of all request bodies that are held at once"
    )
    max_header_bytes: int = _setting(8190, _count, "the longest header of a request")
    request_timeout_s: float = _setting(
        30.0, _seconds, "for a request to arrive, and for an answer to be read"
    )
    max_event_bytes: int = _setting(1_000_000, _count, "the largest event that is written")
    max_result_bytes: int = _setting(262_144, _count, "how much of an answer a result keeps")
    state_url: str = _setting(
        "memory://", _state_url, "where what became of requests is kept", secret=True
    )
    state_ttl_s: int = _setting(86_400, _count, "for how long after a request's end")
    state_max_bytes: int = _setting(268_435_456, _count, "how much that may be")
    callback_secret: tuple[bytes, ...] = _setting(
        (), _secrets, "signs delivered callbacks", secret=True
    )
    api_token: tuple[str, ...] = _setting((), _tokens, "callers of `/sync`", secret=True)
    cors_origins: frozenset[str] = _setting(
        frozenset(), _origins, "whose pages may call, from browsers"
    )
    allowed_hosts: frozenset[str] = _setting(
        frozenset(), _hosts, "the only Host names that are answered"
    )
    log_level: str = _setting("INFO", _log_level, "what is [logged](logs.md#logs)")
    threads: int = _setting(8, _count, "functions-framework's own")
    workers: int = _setting(1, _count, "functions-framework's own")
    otel_exporter_otlp_endpoint: str | None = _setting(
        None, str, "where [traces](operate.md#traces) go"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as unset.

        Raises:
            InvalidSetting: a value is not of its kind.
        """
        values = {}
        for each in fields(cls):
            name = each.name.upper()
            if env.get(name):
                try:
                    values[each.name] = each.metadata["parse"](env[name])
                except InvalidSetting as exc:
                    raise InvalidSetting(f"{name} {exc}") from exc.__cause__
        settings = cls(**values)
        settings._check_sizes()
        return settings

    @property
    def max_delivery_bytes(self) -> int:
        """Return the largest body with an event in it that is read.

        In structured mode base64 and what stands around it make more of an event.
        """
        return 2 * self.max_event_bytes

    def _check_sizes(self) -> None:
        """Refuse a result that an event cannot hold; base64 makes four bytes of three."""
        largest = (self.max_event_bytes - _AROUND_RESULT_BYTES) // 4 * 3
        if self.max_result_bytes > largest:
            raise InvalidSetting(
                f"MAX_RESULT_BYTES must be at most {max(largest, 0)}:"
                f" MAX_EVENT_BYTES is {self.max_event_bytes}, of which attributes and headers take"
                f" up to {_AROUND_RESULT_BYTES}, and base64 makes four bytes of three"
            )
