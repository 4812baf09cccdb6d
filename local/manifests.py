"""The Knative manifests of a folder: Brokers, Triggers and SinkBindings, as dataclasses.

Read as the cluster reads them (Knative Eventing API v1): other kinds are ignored, a mistake is an
error that names file, resource and field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import yaml

from local.broker.filters import Filter, FilterError, parse_filter

BackoffPolicy = Literal["linear", "exponential"]
_Resource = TypeVar("_Resource", "Broker", "Trigger", "SinkBinding")

_DURATION = re.compile(
    r"P(?=.)(?:(?P<weeks>N)W)?(?:(?P<days>N)D)?"
    r"(?:T(?=.)(?:(?P<hours>N)H)?(?:(?P<minutes>N)M)?(?:(?P<seconds>N)S)?)?".replace(
        "N", r"\d+(?:[.,]\d+)?"
    ),
    re.ASCII,
)
_UNIT_S = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
_MAX_EXPONENT = 32


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names file, resource and field."""


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
        timeout_s: bound on one attempt; None leaves it to the sender.
        retry_after_max_s: bound up to which Retry-After is honoured; None ignores the header.
        dead_letter_sink: None drops what cannot be delivered.
    """

    retry: int = 0
    backoff_policy: BackoffPolicy | None = None
    backoff_delay_s: float = 0.0
    timeout_s: float | None = None
    retry_after_max_s: float | None = None
    dead_letter_sink: Destination | None = None

    def backoff_s(self, failures: int) -> float:
        """Return the wait after a failed attempt.

        Args:
            failures: how many attempts had failed before that one, so 0 for the first.
        """
        if self.backoff_policy == "exponential":
            return self.backoff_delay_s * float(2 ** min(failures, _MAX_EXPONENT))
        return self.backoff_delay_s * failures if self.backoff_policy == "linear" else 0.0


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
    trigger_readers: list[_Reader] = []
    for reader in _read_resources(folder):
        if reader.kind == "Broker":
            _add(brokers, reader, _parse_broker)
        elif reader.kind == "Trigger":
            _add(triggers, reader, _parse_trigger)
            trigger_readers.append(reader)
        elif reader.kind == "SinkBinding":
            _add(sink_bindings, reader, _parse_sink_binding)
    for reader, trigger in zip(trigger_readers, triggers.values(), strict=True):
        if (trigger.namespace, trigger.broker) not in brokers:
            raise reader.error("spec.broker", f"must name a Broker in {folder}")
    return Manifests(
        brokers=tuple(brokers.values()),
        triggers=tuple(triggers.values()),
        sink_bindings=tuple(sink_bindings.values()),
    )


def parse_duration(text: str) -> float:
    """Return the seconds of an ISO 8601 duration in weeks, days, hours, minutes and seconds.

    Raises:
        ValueError: the text is none; years and months have no fixed length.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("must be an ISO 8601 duration such as PT0.2S")
    return sum(
        float(number.replace(",", ".")) * _UNIT_S[unit]
        for unit, number in match.groupdict().items()
        if number is not None
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """One resource of a file, read field by field with errors that say where."""

    file: Path
    kind: str
    namespace: str
    name: str
    spec: Mapping[str, object]

    def error(self, path: str, problem: str) -> ManifestError:
        return ManifestError(
            f"{self.file}: {self.kind} {self.namespace}/{self.name}: {path} {problem}"
        )

    def mapping(self, parent: Mapping[str, object], path: str) -> Mapping[str, object]:
        value = parent.get(_last(path))
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, "must be an object")
        return cast("dict[str, object]", value)

    def text(self, parent: Mapping[str, object], path: str) -> str:
        value = parent.get(_last(path), "")
        if not isinstance(value, str):
            raise self.error(path, "must be a string")
        return value

    def required_text(self, parent: Mapping[str, object], path: str) -> str:
        value = self.text(parent, path)
        if not value:
            raise self.error(path, "must be given")
        return value

    def duration_s(self, parent: Mapping[str, object], path: str) -> float | None:
        text = self.text(parent, path)
        try:
            return parse_duration(text) if text else None
        except ValueError as exc:
            raise self.error(path, f"{exc}, not {text!r}") from exc


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _read_resources(folder: Path) -> Iterator[_Reader]:
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ManifestError(f"{file}: must be YAML: {exc}") from exc
        for document in documents:
            if not isinstance(document, dict):
                continue
            api_version = document.get("apiVersion")
            if not isinstance(api_version, str) or not api_version.startswith(
                ("eventing.knative.dev/", "sources.knative.dev/")
            ):
                continue
            yield _reader(file, document)


def _reader(file: Path, document: Mapping[str, object]) -> _Reader:
    draft = _Reader(
        file=file, kind=str(document.get("kind")), namespace="default", name="?", spec={}
    )
    metadata = draft.mapping(document, "metadata")
    named = replace(
        draft,
        namespace=draft.text(metadata, "metadata.namespace") or "default",
        name=draft.required_text(metadata, "metadata.name"),
    )
    return replace(named, spec=named.mapping(document, "spec"))


def _add(
    resources: dict[tuple[str, str], _Resource],
    reader: _Reader,
    parse: Callable[[_Reader], _Resource],
) -> None:
    key = (reader.namespace, reader.name)
    if key in resources:
        raise reader.error("metadata.name", "must be given to one resource only")
    resources[key] = parse(reader)


def _parse_broker(reader: _Reader) -> Broker:
    return Broker(namespace=reader.namespace, name=reader.name, delivery=_parse_delivery(reader))


def _parse_trigger(reader: _Reader) -> Trigger:
    try:
        event_filter = parse_filter(reader.spec)
    except FilterError as exc:
        path, _, problem = str(exc).partition(" ")
        raise reader.error(path, problem) from exc
    return Trigger(
        namespace=reader.namespace,
        name=reader.name,
        broker=reader.required_text(reader.spec, "spec.broker"),
        filter=event_filter,
        subscriber=_parse_destination(reader, reader.spec, "spec.subscriber"),
        delivery=_parse_delivery(reader),
    )


def _parse_sink_binding(reader: _Reader) -> SinkBinding:
    overrides = reader.mapping(reader.spec, "spec.ceOverrides")
    extensions = reader.mapping(overrides, "spec.ceOverrides.extensions")
    subject = reader.mapping(reader.spec, "spec.subject")
    return SinkBinding(
        namespace=reader.namespace,
        name=reader.name,
        subject_name=reader.required_text(subject, "spec.subject.name"),
        sink=_parse_destination(reader, reader.spec, "spec.sink"),
        ce_overrides={
            name: reader.text(extensions, f"spec.ceOverrides.extensions.{name}")
            for name in extensions
        },
    )


def _parse_delivery(reader: _Reader) -> DeliverySpec | None:
    if reader.spec.get("delivery") is None:
        return None
    path = "spec.delivery"
    delivery = reader.mapping(reader.spec, path)
    retry = delivery.get("retry", 0)
    if not isinstance(retry, int) or isinstance(retry, bool) or retry < 0:
        raise reader.error(f"{path}.retry", "must be an integer of at least 0")
    policy = reader.text(delivery, f"{path}.backoffPolicy") or None
    if policy not in ("linear", "exponential", None):
        raise reader.error(f"{path}.backoffPolicy", "must be linear or exponential")
    delay_s = reader.duration_s(delivery, f"{path}.backoffDelay")
    has_sink = delivery.get("deadLetterSink") is not None
    return DeliverySpec(
        retry=retry,
        backoff_policy=cast("BackoffPolicy | None", policy),
        backoff_delay_s=delay_s or 0.0,
        timeout_s=reader.duration_s(delivery, f"{path}.timeout") or None,
        retry_after_max_s=reader.duration_s(delivery, f"{path}.retryAfterMax"),
        dead_letter_sink=(
            _parse_destination(reader, delivery, f"{path}.deadLetterSink") if has_sink else None
        ),
    )


def _parse_destination(reader: _Reader, parent: Mapping[str, object], path: str) -> Destination:
    value = reader.mapping(parent, path)
    uri = reader.text(value, f"{path}.uri")
    if value.get("ref") is None:
        if urlsplit(uri).scheme not in ("http", "https"):
            raise reader.error(path, "must have a ref, or an absolute http(s) uri")
        return Destination(kind=None, namespace="", name="", uri=uri)
    ref = reader.mapping(value, f"{path}.ref")
    kind = reader.required_text(ref, f"{path}.ref.kind")
    if kind not in ("Service", "Broker"):
        raise reader.error(f"{path}.ref.kind", f"must be Service or Broker, not {kind!r}")
    return Destination(
        kind=cast("Literal['Service', 'Broker']", kind),
        namespace=reader.text(ref, f"{path}.ref.namespace") or reader.namespace,
        name=reader.required_text(ref, f"{path}.ref.name"),
        uri=uri,
    )
