"""The Knative manifests of a folder: Brokers, Triggers and SinkBindings, as dataclasses.

Read as the cluster reads them (Knative Eventing API v1): other kinds are ignored, a mistake is an
error that names file, resource and field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from local.broker.filters import Filter, FilterError, parse_filter
from local.resources import ManifestError as ManifestError  # a part of this module's interface
from local.resources import Resource, read_resources

BackoffPolicy = Literal["linear", "exponential"]
_Parsed = TypeVar("_Parsed", "Broker", "Trigger", "SinkBinding")

_MAX_EXPONENT = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Where events go: a resource, a URI relative to it, or an absolute URI (duck v1).

    Attributes:
        kind: `Service` (of Knative or of Kubernetes), `Broker`, or None without a reference.
        namespace: the reference's namespace; "" without a reference.
        name: the reference's name; "" without a reference.
        uri: resolved against the reference's URL (RFC 3986 section 5); "" when not given.
    """

    kind: Literal["Service", "Broker"] | None
    namespace: str
    name: str
    uri: str

    def resolve(self, services: Mapping[str, str], broker_base_url: str) -> str:
        """Return the URL.

        Args:
            services: base URL of each service by its name.
            broker_base_url: where the Brokers' ingress is, without the path of a Broker.

        Raises:
            KeyError: naming the service that is not in `services`.
        """
        if self.kind is None:
            return self.uri
        if self.kind == "Broker":
            base = urljoin(broker_base_url, f"/{self.namespace}/{self.name}")
        else:
            base = services[self.name]
        return urljoin(base, self.uri)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliverySpec:
    """How often and how patiently one event is offered to a subscriber.

    Attributes:
        retry: further attempts after the first one.
        backoff_policy: None retries at once.
        backoff_from: what the first retry is counted as.
        timeout_s: bound on one attempt; None leaves it to the sender.
        retry_after_max_s: bound up to which Retry-After is honoured; None ignores the header.
        dead_letter_sink: None drops what cannot be delivered.
    """

    retry: int = 0
    backoff_policy: BackoffPolicy | None = None
    backoff_delay_s: float = 0.0
    backoff_from: int = 0
    timeout_s: float | None = None
    retry_after_max_s: float | None = None
    dead_letter_sink: Destination | None = None

    def backoff_s(self, failures: int) -> float:
        """Return the wait after a failed attempt.

        Args:
            failures: how many attempts had failed before that one, so 0 for the first.
        """
        number = failures + self.backoff_from
        if self.backoff_policy == "exponential":
            return self.backoff_delay_s * float(2 ** min(number, _MAX_EXPONENT))
        return self.backoff_delay_s * number if self.backoff_policy == "linear" else 0.0


# What Knative's config-br-defaults gives to a Broker without a delivery spec.
DEFAULT_DELIVERY = DeliverySpec(retry=10, backoff_policy="exponential", backoff_delay_s=0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Broker:
    """A Broker: where events are published."""

    namespace: str
    name: str
    delivery: DeliverySpec | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """A Trigger: which events of a Broker go to which subscriber."""

    namespace: str
    name: str
    broker: str
    filter: Filter
    subscriber: Destination
    delivery: DeliverySpec | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkBinding:
    """A SinkBinding: the sink and the extensions that a service's environment gets."""

    namespace: str
    name: str
    subject_name: str
    sink: Destination
    ce_overrides: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifests:
    """What a folder of manifests says about eventing, in the files' order."""

    brokers: tuple[Broker, ...]
    triggers: tuple[Trigger, ...]
    sink_bindings: tuple[SinkBinding, ...]

    def delivery_for(self, trigger: Trigger) -> DeliverySpec:
        """Return the delivery spec in force: the Trigger's replaces the Broker's wholesale.

        Only a missing dead letter sink falls back to the Broker's.
        """
        broker = next(
            each
            for each in self.brokers
            if (each.namespace, each.name) == (trigger.namespace, trigger.broker)
        )
        if trigger.delivery is None:
            return broker.delivery or DEFAULT_DELIVERY
        if trigger.delivery.dead_letter_sink is None and broker.delivery is not None:
            return replace(trigger.delivery, dead_letter_sink=broker.delivery.dead_letter_sink)
        return trigger.delivery


def load(folder: Path) -> Manifests:
    """Read the YAML files directly in a folder, in the order of their names.

    Raises:
        ManifestError: naming file, resource, field and what would be right.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: must be a folder of manifests")
    brokers: dict[tuple[str, str], Broker] = {}
    triggers: dict[tuple[str, str], Trigger] = {}
    sink_bindings: dict[tuple[str, str], SinkBinding] = {}
    trigger_resources: list[Resource] = []
    for resource in read_resources(folder):
        if resource.kind == "Broker":
            _add(brokers, resource, _parse_broker)
        elif resource.kind == "Trigger":
            _add(triggers, resource, _parse_trigger)
            trigger_resources.append(resource)
        elif resource.kind == "SinkBinding":
            _add(sink_bindings, resource, _parse_sink_binding)
    for resource, trigger in zip(trigger_resources, triggers.values(), strict=True):
        if (trigger.namespace, trigger.broker) not in brokers:
            raise resource.error("spec.broker", f"must name a Broker in {folder}")
    return Manifests(
        brokers=tuple(brokers.values()),
        triggers=tuple(triggers.values()),
        sink_bindings=tuple(sink_bindings.values()),
    )


def _add(
    resources: dict[tuple[str, str], _Parsed],
    resource: Resource,
    parse: Callable[[Resource], _Parsed],
) -> None:
    key = (resource.namespace, resource.name)
    if key in resources:
        raise resource.error("metadata.name", "must be given to one resource only")
    resources[key] = parse(resource)


def _parse_broker(resource: Resource) -> Broker:
    return Broker(
        namespace=resource.namespace, name=resource.name, delivery=_parse_delivery(resource)
    )


def _parse_trigger(resource: Resource) -> Trigger:
    try:
        event_filter = parse_filter(resource.spec)
    except FilterError as exc:
        path, _, problem = str(exc).partition(" ")
        raise resource.error(path, problem) from exc
    return Trigger(
        namespace=resource.namespace,
        name=resource.name,
        broker=resource.required_text(resource.spec, "spec.broker"),
        filter=event_filter,
        subscriber=_parse_destination(resource, resource.spec, "spec.subscriber"),
        delivery=_parse_delivery(resource),
    )


def _parse_sink_binding(resource: Resource) -> SinkBinding:
    overrides = resource.mapping(resource.spec, "spec.ceOverrides")
    extensions = resource.mapping(overrides, "spec.ceOverrides.extensions")
    subject = resource.mapping(resource.spec, "spec.subject")
    return SinkBinding(
        namespace=resource.namespace,
        name=resource.name,
        subject_name=resource.required_text(subject, "spec.subject.name"),
        sink=_parse_destination(resource, resource.spec, "spec.sink"),
        ce_overrides={
            name: resource.text(extensions, f"spec.ceOverrides.extensions.{name}")
            for name in extensions
        },
    )


def _parse_delivery(resource: Resource) -> DeliverySpec | None:
    if resource.spec.get("delivery") is None:
        return None
    path = "spec.delivery"
    delivery = resource.mapping(resource.spec, path)
    retry = delivery.get("retry", 0)
    if not isinstance(retry, int) or isinstance(retry, bool) or retry < 0:
        raise resource.error(f"{path}.retry", "must be an integer of at least 0")
    policy = resource.text(delivery, f"{path}.backoffPolicy") or None
    if policy not in ("linear", "exponential", None):
        raise resource.error(f"{path}.backoffPolicy", "must be linear or exponential")
    delay_s = resource.duration_s(delivery, f"{path}.backoffDelay")
    has_sink = delivery.get("deadLetterSink") is not None
    return DeliverySpec(
        retry=retry,
        backoff_policy=cast("BackoffPolicy | None", policy),
        backoff_delay_s=delay_s or 0.0,
        timeout_s=resource.duration_s(delivery, f"{path}.timeout") or None,
        retry_after_max_s=resource.duration_s(delivery, f"{path}.retryAfterMax"),
        dead_letter_sink=(
            _parse_destination(resource, delivery, f"{path}.deadLetterSink") if has_sink else None
        ),
    )


def _parse_destination(resource: Resource, parent: Mapping[str, object], path: str) -> Destination:
    value = resource.mapping(parent, path)
    uri = resource.text(value, f"{path}.uri")
    if value.get("ref") is None:
        if urlsplit(uri).scheme not in ("http", "https"):
            raise resource.error(path, "must have a ref, or an absolute http(s) uri")
        return Destination(kind=None, namespace="", name="", uri=uri)
    ref = resource.mapping(value, f"{path}.ref")
    kind = resource.required_text(ref, f"{path}.ref.kind")
    if kind not in ("Service", "Broker"):
        raise resource.error(f"{path}.ref.kind", f"must be Service or Broker, not {kind!r}")
    return Destination(
        kind=cast("Literal['Service', 'Broker']", kind),
        namespace=resource.text(ref, f"{path}.ref.namespace") or resource.namespace,
        name=resource.required_text(ref, f"{path}.ref.name"),
        uri=uri,
    )
