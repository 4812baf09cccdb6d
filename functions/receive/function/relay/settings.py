"""The settings of both functions, read once from the environment."""

from __future__ import annotations

import base64
import binascii
import math
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.egress import AllowedTarget
from relay.problems import InvalidRequest
from relay.strict_json import JSONError, loads
from relay.urls import Target, parse_target

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


# Standard Webhooks, "Signature scheme": between 24 and 64 bytes.
MIN_SECRET_BYTES = 24

MIN_TOKEN_CHARACTERS = 16


class InvalidSetting(ValueError):
    """Name the setting and what would be right; it stops the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an operator can set; each field is the environment variable of its name in upper case.

    Args:
        k_sink: the Broker; None when there is no SinkBinding, and then nothing is published.
        ce_overrides: extension attributes for every event, from `K_CE_OVERRIDES`.
        k_ca_certs: PEM certificates to trust for the Broker, besides the system's.
        event_type: type of a request event; results append `.completed`, `.failed`, `.callback`.
        event_source: source of every event the relay makes.
        allowed_targets: what the egress policy lets through besides public addresses.
        allowed_targets_only: nothing but `allowed_targets` is let through.
        target_timeout_s: the longest that one call to a target may take in all.
        target_connect_timeout_s: of that, for the look-up and the connection.
        publish_timeout_s: for publishing one event, retries included.
        max_body_bytes: the largest request body.
        max_result_bytes: how much of a target's answer a result event keeps.
        k_service: the name of the Knative Service that this is, set by Knative.
        state_url: where what became of requests is kept: `memory://` (this process only),
            `file:///DIRECTORY` (all processes of one machine) or `redis[s]://…` (all there are).
        state_ttl_s: for how long, whole seconds.
        callback_secret: Standard Webhooks keys from `CALLBACK_SECRET`, the one in use first; what
            callers are called back with is signed with each, and what targets call back with must
            be signed with one.
        api_token: from `API_TOKEN`; callers must carry one of them.
        log_level: of Python's `logging`.
        threads: how many requests functions-framework serves at once; sizes connection pools.
    """

    k_sink: Target | None = None
    ce_overrides: Mapping[str, str] = field(default_factory=dict)
    k_ca_certs: str | None = None
    event_type: str = "dev.knative.samples.t2"
    event_source: str = "dev.knative.samples/t2"
    allowed_targets: tuple[AllowedTarget, ...] = ()
    allowed_targets_only: bool = False
    target_timeout_s: float = 30.0
    target_connect_timeout_s: float = 5.0
    publish_timeout_s: float = 30.0
    max_body_bytes: int = 1_048_576
    max_result_bytes: int = 262_144
    k_service: str | None = None
    state_url: str = field(default="memory://", repr=False)
    state_ttl_s: int = 86_400
    callback_secret: tuple[str, ...] = field(default=(), repr=False)
    api_token: tuple[str, ...] = field(default=(), repr=False)
    log_level: str = "INFO"
    threads: int = 8

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as unset.

        Raises:
            InvalidSetting: a value is not of its kind.
        """
        default = cls()
        return cls(
            k_sink=_k_sink(env),
            ce_overrides=_ce_overrides(env),
            k_ca_certs=_certificates(env),
            event_type=_attribute(env, "EVENT_TYPE", default.event_type),
            event_source=_attribute(env, "EVENT_SOURCE", default.event_source),
            allowed_targets=_allowed_targets(env),
            allowed_targets_only=_boolean(env, "ALLOWED_TARGETS_ONLY"),
            target_timeout_s=_seconds(env, "TARGET_TIMEOUT_S", default.target_timeout_s),
            target_connect_timeout_s=_seconds(
                env, "TARGET_CONNECT_TIMEOUT_S", default.target_connect_timeout_s
            ),
            publish_timeout_s=_seconds(env, "PUBLISH_TIMEOUT_S", default.publish_timeout_s),
            max_body_bytes=_count(env, "MAX_BODY_BYTES", default.max_body_bytes),
            max_result_bytes=_count(env, "MAX_RESULT_BYTES", default.max_result_bytes),
            k_service=env.get("K_SERVICE") or None,
            state_url=_state_url(env, default.state_url),
            state_ttl_s=_count(env, "STATE_TTL_S", default.state_ttl_s),
            callback_secret=_callback_secret(env),
            api_token=_api_token(env),
            log_level=_log_level(env, default.log_level),
            threads=_count(env, "THREADS", default.threads),
        )


def _k_sink(env: Mapping[str, str]) -> Target | None:
    sink = env.get("K_SINK")
    if not sink:
        return None
    try:
        return parse_target(sink, url_field="K_SINK")
    except InvalidRequest as exc:
        raise InvalidSetting(exc.detail) from exc


def _certificates(env: Mapping[str, str]) -> str | None:
    certificates = env.get("K_CA_CERTS")
    if not certificates:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, TypeError) as exc:  # TypeError: it is not ASCII
        raise InvalidSetting("K_CA_CERTS must be certificates in PEM") from exc
    return certificates


def _ce_overrides(env: Mapping[str, str]) -> dict[str, str]:
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


def _attribute(env: Mapping[str, str], name: str, default: str) -> str:
    value = env.get(name) or default
    if not _ATTRIBUTE_VALUE.fullmatch(value):
        raise InvalidSetting(
            f"{name} must be 1 to 128 visible ASCII characters without space, quote or %"
        )
    return value


def _allowed_targets(env: Mapping[str, str]) -> tuple[AllowedTarget, ...]:
    entries = [entry.strip() for entry in env.get("ALLOWED_TARGETS", "").split(",")]
    try:
        return tuple(AllowedTarget.from_text(entry) for entry in entries if entry)
    except ValueError as exc:
        raise InvalidSetting(f"ALLOWED_TARGETS has {exc}") from exc


def _boolean(env: Mapping[str, str], name: str) -> bool:
    value = (env.get(name) or "false").lower()
    if value not in ("true", "false"):
        raise InvalidSetting(f"{name} must be true or false")
    return value == "true"


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
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


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or int(text) == 0:
        raise InvalidSetting(f"{name} must be a whole number above 0")
    return int(text)


def _state_url(env: Mapping[str, str], default: str) -> str:
    url = env.get("STATE_URL") or default
    if not re.fullmatch(r"memory://|file:///[^?#]+|rediss?://[^/?#]+(/[0-9]{1,4})?", url, re.ASCII):
        raise InvalidSetting(
            "STATE_URL must be memory://, file:///DIRECTORY"
            " or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE]"
        )
    return url


def _callback_secret(env: Mapping[str, str]) -> tuple[str, ...]:
    """Read one key, or two with a space between them while one takes the place of the other."""
    secrets = tuple(env.get("CALLBACK_SECRET", "").split())
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < MIN_SECRET_BYTES:
            raise InvalidSetting(
                f"CALLBACK_SECRET must be whsec_ and base64 of {MIN_SECRET_BYTES} bytes or more,"
                " or two of these with a space between them"
            )
    return secrets


def _api_token(env: Mapping[str, str]) -> tuple[str, ...]:
    """Read tokens with spaces between them."""
    tokens = tuple(env.get("API_TOKEN", "").split())
    for token in tokens:
        if not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},}}", token, re.ASCII):
            raise InvalidSetting(
                f"API_TOKEN must be {MIN_TOKEN_CHARACTERS} or more visible ASCII characters,"
                " or several of these with a space between them"
            )
    return tokens


def _log_level(env: Mapping[str, str], default: str) -> str:
    level = (env.get("LOG_LEVEL") or default).upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise InvalidSetting("LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level
