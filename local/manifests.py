"""The Knative manifests of a folder: Brokers, Triggers and SinkBindings.

Read as the cluster reads them (Knative Eventing API v1): other kinds are ignored, null is the same
as absent, and a mistake is an error that names file, resource and field.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
import yaml
from msgspec import Meta, Struct

from local.broker.filters import AttributesFilter, Dialect

_API_GROUPS = ("eventing.knative.dev/", "sources.knative.dev/")
_MAX_EXPONENT = 32

_Text = Annotated[str, Meta(min_length=1)]


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names file, resource and field."""


class Reference(Struct, frozen=True, kw_only=True):
    """A Service (of Knative or of Kubernetes) or a Broker; "" is the namespace of its user."""

    kind: Annotated[str, Meta(pattern="^(Service|Broker)$")]
    name: _Text
    namespace: str = ""


class Destination(Struct, frozen=True, kw_only=True):
    """Where events go: a resource, a URI relative to it, or an absolute URI (duck v1)."""

    ref: Reference | None = None
    uri: str = ""

    def __post_init__(self) -> None:
        if self.ref is None and urlsplit(self.uri).scheme not in ("http", "https"):
            raise ValueError("Expected a ref, or an absolute http(s) uri")

    def resolve(
        self, services: Mapping[str, str], broker_base_url: str, *, namespace: str = ""
    ) -> str:
        """Return the URL (RFC 3986 section 5).

        Args:
            services: Base URL of each service by its name.
            broker_base_url: Where the Brokers' ingress is, without the path of a Broker.
            namespace: The one of the resource that has this destination.

        Raises:
            KeyError: Naming a service that is not in `services`.
        """
        if self.ref is None:
            return self.uri
        if self.ref.kind == "Service":
            return urljoin(services[self.ref.name], self.uri)
        path = f"/{self.ref.namespace or namespace}/{self.ref.name}"
        return urljoin(urljoin(broker_base_url, path), self.uri)


class DeliverySpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """How often and how patiently one event is offered to a subscriber.

    Attributes:
        retry: Further attempts after the first one.
        backoff_policy: None retries at once.
        timeout: Of one attempt; None leaves it to the sender.
        retry_after_max: Retry-After is honoured up to this; None ignores the header.
        dead_letter_sink: None drops what cannot be delivered.
    """

    retry: Annotated[int, Meta(ge=0)] = 0
    backoff_policy: Annotated[str, Meta(pattern="^(linear|exponential)$")] | None = None
    backoff_delay: timedelta = timedelta()
    timeout: timedelta | None = None
    retry_after_max: timedelta | None = None
    dead_letter_sink: Destination | None = None

    def __post_init__(self) -> None:
        for duration in (self.backoff_delay, self.timeout, self.retry_after_max):
            if duration is not None and duration < timedelta():
                raise ValueError("Expected no negative duration")

    @property
    def timeout_s(self) -> float | None:
        """Zero means no timeout, as in Knative."""
        return self.timeout.total_seconds() if self.timeout else None

    @property
    def retry_after_max_s(self) -> float | None:
        return None if self.retry_after_max is None else self.retry_after_max.total_seconds()

    def backoff_s(self, number: int) -> float:
        """Return the wait before a retry, the first of which is number 0 (1 for Kafka's Broker)."""
        # Knative's reader of durations knows tenths of a second and cuts off what is finer.
        delay_s = math.floor(round(self.backoff_delay.total_seconds() * 10, 6)) / 10
        if self.backoff_policy == "exponential":
            return delay_s * float(2 ** min(number, _MAX_EXPONENT))
        return delay_s * number if self.backoff_policy == "linear" else 0.0


# What Knative's config-br-defaults gives to a Broker without a delivery spec.
DEFAULT_DELIVERY = DeliverySpec(
    retry=10, backoff_policy="exponential", backoff_delay=timedelta(seconds=0.2)
)


class Metadata(Struct, frozen=True, kw_only=True):
    name: _Text
    namespace: _Text = "default"


class Resource(Struct, frozen=True, kw_only=True):
    metadata: Metadata

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class BrokerSpec(Struct, frozen=True, kw_only=True):
    delivery: DeliverySpec | None = None


class BrokerResource(Resource, frozen=True, kw_only=True):
    """Where events are published."""

    spec: BrokerSpec = BrokerSpec()


class TriggerSpec(Struct, frozen=True, kw_only=True):
    broker: _Text
    subscriber: Destination
    filter: AttributesFilter = AttributesFilter()
    filters: tuple[Dialect, ...] = ()
    delivery: DeliverySpec | None = None

    def wants(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether an event passes; `filters` that are not empty replace `filter`."""
        if self.filters:
            return all(each.matches(attributes) for each in self.filters)
        return self.filter.matches(attributes)


class TriggerResource(Resource, frozen=True, kw_only=True):
    """Which events of a Broker go to which subscriber."""

    spec: TriggerSpec

    @property
    def broker_key(self) -> str:
        """`namespace/name` of its Broker."""
        return f"{self.metadata.namespace}/{self.spec.broker}"


class SinkBindingSpec(Struct, frozen=True, kw_only=True, rename="camel"):
    subject: Metadata
    sink: Destination
    ce_overrides: dict[Literal["extensions"], dict[str, str]] = {}


class SinkBindingResource(Resource, frozen=True, kw_only=True):
    """The sink and the extensions that the environment of a service gets."""

    spec: SinkBindingSpec


_Kind = TypeVar("_Kind", bound=Resource)


class Manifests(Struct, frozen=True, kw_only=True):
    """What a folder of manifests says about eventing, in the files' order."""

    brokers: tuple[BrokerResource, ...]
    triggers: tuple[TriggerResource, ...]
    sink_bindings: tuple[SinkBindingResource, ...]

    def delivery_for(self, trigger: TriggerResource) -> DeliverySpec:
        """Return the delivery spec in force: the Trigger's replaces the Broker's wholesale.

        Only a missing dead letter sink falls back to the Broker's.
        """
        broker = next(each for each in self.brokers if each.key == trigger.broker_key)
        own, brokers = trigger.spec.delivery, broker.spec.delivery
        if own is None:
            return brokers or DEFAULT_DELIVERY
        if own.dead_letter_sink is None and brokers is not None:
            return msgspec.structs.replace(own, dead_letter_sink=brokers.dead_letter_sink)
        return own


def load(folder: Path) -> Manifests:
    """Read the YAML files directly in a folder, in the order of their names.

    Raises:
        ManifestError: Naming file, resource, field and what would be right.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: must be a folder of manifests")
    documents = list(_documents(folder))
    manifests = Manifests(
        brokers=_parsed(documents, "Broker", BrokerResource),
        triggers=_parsed(documents, "Trigger", TriggerResource),
        sink_bindings=_parsed(documents, "SinkBinding", SinkBindingResource),
    )
    brokers = {broker.key for broker in manifests.brokers}
    for trigger in manifests.triggers:
        if trigger.broker_key not in brokers:
            raise ManifestError(
                f"{folder}: Trigger {trigger.key}: spec.broker must name a Broker of this folder,"
                f" not {trigger.spec.broker!r}"
            )
    return manifests


def _documents(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ManifestError(f"{file}: must be YAML: {exc}") from exc
        for document in documents:
            if isinstance(document, dict) and str(document.get("apiVersion")).startswith(
                _API_GROUPS
            ):
                yield file, document


def _parsed(
    documents: list[tuple[Path, dict[str, object]]], kind: str, resource_type: type[_Kind]
) -> tuple[_Kind, ...]:
    resources: dict[str, _Kind] = {}
    for file, document in documents:
        if document.get("kind") != kind:
            continue
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        where = f"{file}: {kind} {name or '?'}"
        try:
            resource = msgspec.convert(_without_nulls(document), resource_type)
        except msgspec.ValidationError as exc:
            problem, _, path = str(exc).removesuffix("`").partition(" - at `$.")
            raise ManifestError(f"{where}: {path}: {problem}") from exc
        if resource.key in resources:
            raise ManifestError(f"{where}: metadata.name: Expected a name that is given once")
        resources[resource.key] = resource
    return tuple(resources.values())


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
