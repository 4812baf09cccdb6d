"""The settings of both functions, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay import variables
from relay.egress import AllowedTarget
from relay.urls import Target


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
    callback_secret: tuple[bytes, ...] = field(default=(), repr=False)
    api_token: tuple[str, ...] = field(default=(), repr=False)
    log_level: str = "INFO"
    threads: int = 8

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as unset.

        Raises:
            variables.InvalidSetting: a value is not of its kind.
        """
        default = cls()
        return cls(
            k_sink=variables.k_sink(env),
            ce_overrides=variables.ce_overrides(env),
            k_ca_certs=variables.certificates(env),
            event_type=variables.attribute(env, "EVENT_TYPE", default.event_type),
            event_source=variables.attribute(env, "EVENT_SOURCE", default.event_source),
            allowed_targets=variables.allowed_targets(env),
            allowed_targets_only=variables.boolean(env, "ALLOWED_TARGETS_ONLY"),
            target_timeout_s=variables.seconds(env, "TARGET_TIMEOUT_S", default.target_timeout_s),
            target_connect_timeout_s=variables.seconds(
                env, "TARGET_CONNECT_TIMEOUT_S", default.target_connect_timeout_s
            ),
            publish_timeout_s=variables.seconds(
                env, "PUBLISH_TIMEOUT_S", default.publish_timeout_s
            ),
            max_body_bytes=variables.count(env, "MAX_BODY_BYTES", default.max_body_bytes),
            max_result_bytes=variables.count(env, "MAX_RESULT_BYTES", default.max_result_bytes),
            k_service=env.get("K_SERVICE") or None,
            state_url=variables.state_url(env, default.state_url),
            state_ttl_s=variables.count(env, "STATE_TTL_S", default.state_ttl_s),
            callback_secret=variables.callback_secret(env),
            api_token=variables.api_token(env),
            log_level=variables.log_level(env, default.log_level),
            threads=variables.count(env, "THREADS", default.threads),
        )
