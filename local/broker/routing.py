"""Where events go: the Brokers and Triggers of the manifests with every destination resolved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, TypeAlias
from urllib.parse import urljoin

from msgspec.structs import replace

from local.broker.attributes import validate
from local.broker.event import to_headers
from local.manifests import (
    DeliverySpec,
    Destination,
    ManifestError,
    Manifests,
    TriggerResource,
    TriggerSpec,
)
from relay.events import Event
from relay.problems import InvalidRequest

Like: TypeAlias = Literal["in-memory", "kafka"]

_TTL = "knativebrokerttl"
_ARRIVAL_TIME = "knativearrivaltime"
_DEFAULT_TTL = 255
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A Trigger, ready to deliver.

    Attributes:
        name: `namespace/name` of the Trigger.
        broker: `namespace/name` of its Broker.
        spec: Says which events the Trigger wants.
        delivery: The delivery spec in force.
        first_retry: What the first retry is counted as, for the backoff.
    """

    name: str
    namespace: str
    broker: str
    spec: TriggerSpec
    delivery: DeliverySpec
    subscriber_url: str
    dead_letter_url: str | None
    first_retry: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """The routes of each Broker, and the rules for what enters one."""

    base_url: str
    routes: Mapping[str, tuple[Route, ...]]

    @classmethod
    def from_manifests(
        cls,
        manifests: Manifests,
        *,
        services: Mapping[str, str],
        base_url: str,
        like: Like = "in-memory",
    ) -> Routing:
        """Resolve every destination.

        Args:
            services: Base URL of each service by its name.
            base_url: Where the ingress is, without the path of a Broker.
            like: Whose reading of delivery specs counts.

        Raises:
            ManifestError: Naming the Trigger and the service that has no URL.
        """
        routes: dict[str, list[Route]] = {broker.key: [] for broker in manifests.brokers}
        for trigger in manifests.triggers:
            delivery = manifests.delivery_for(trigger)
            if like == "kafka":
                delivery = _as_kafka_reads(delivery, trigger)
            sink = delivery.dead_letter_sink
            routes[trigger.broker_key].append(
                Route(
                    name=trigger.key,
                    namespace=trigger.metadata.namespace,
                    broker=trigger.broker_key,
                    spec=trigger.spec,
                    delivery=delivery,
                    subscriber_url=_resolve(trigger.spec.subscriber, trigger, services, base_url),
                    dead_letter_url=(_resolve(sink, trigger, services, base_url) if sink else None),
                    first_retry=1 if like == "kafka" else 0,
                )
            )
        return cls(base_url=base_url, routes={name: tuple(each) for name, each in routes.items()})

    def all_routes(self) -> list[Route]:
        return [route for routes in self.routes.values() for route in routes]

    def ingress_url(self, broker: str) -> str:
        """Return where events for a Broker are posted to."""
        return urljoin(self.base_url, f"/{broker}")

    def admit(self, broker: str, event: Event) -> tuple[Event, list[str]]:
        """Take an event into a Broker, as its ingress does for publishers and replies alike.

        Returns:
            The event with its arrival time and one hop less to live, and the names of the
            Triggers that want it.

        Raises:
            Unwritable: It cannot be sent on.
            InvalidRequest: It may not be published, or has been through too many replies.
        """
        ttl = _hops_left(event.attributes.get(_TTL, ""))
        if ttl <= 0:
            raise InvalidRequest(f"ce-{_TTL}", "is used up: there were too many replies")
        arrival = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        attributes = {
            **event.attributes,
            _TTL: str(ttl),
            _ARRIVAL_TIME: arrival.replace("+00:00", "Z"),
        }
        event = Event(attributes=attributes, data=event.data)
        validate(event)
        return event, [r.name for r in self.routes[broker] if r.spec.wants(attributes)]

    def admit_reply(self, broker: str, reply: Event, *, to: Event) -> tuple[Event, list[str]]:
        """Take a subscriber's reply into the Broker; its hops go on from the event's.

        Data without a type gets the one that Go's HTTP server makes out for the answer in which
        Knative's filter passes the reply on. Raises as `admit` does.
        """
        attributes = {**reply.attributes, _TTL: to.attributes[_TTL]}
        if reply.data and "datacontenttype" not in attributes:
            is_binary = _BINARY.search(reply.data[:512])
            attributes["datacontenttype"] = (
                "application/octet-stream" if is_binary else "text/plain; charset=utf-8"
            )
        return self.admit(broker, Event(attributes=attributes, data=reply.data))


def outgoing_headers(event: Event, extensions: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an event and more extensions, without the Broker's hop count."""
    attributes = {**event.attributes, **extensions}
    del attributes[_TTL]
    return to_headers(Event(attributes=attributes))


def _hops_left(given: str) -> int:
    """Count this hop as Knative's TTLDefaulter does: what is not a number counts as not given."""
    number = float(given) if _NUMBER.fullmatch(given) else math.inf
    return int(number) - 1 if abs(number) < 2**31 else _DEFAULT_TTL


def _as_kafka_reads(delivery: DeliverySpec, trigger: TriggerResource) -> DeliverySpec:
    """Ignore Retry-After, and let no dead letter sink of the Broker's step in."""
    own = trigger.spec.delivery
    sink = delivery.dead_letter_sink if own is None else own.dead_letter_sink
    return replace(delivery, retry_after_max=None, dead_letter_sink=sink)


def _resolve(
    destination: Destination, trigger: TriggerResource, services: Mapping[str, str], base_url: str
) -> str:
    try:
        return destination.resolve(services, base_url, namespace=trigger.metadata.namespace)
    except KeyError as exc:
        (name,) = exc.args
        raise ManifestError(
            f"Trigger {trigger.key}: no URL is known for service {name!r}:"
            f" give --service {name}=URL"
        ) from exc
