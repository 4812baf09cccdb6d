"""Where events go: the Brokers and Triggers of the manifests with every destination resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, TypeAlias
from urllib.parse import urljoin

from msgspec.structs import replace

from local.broker.event import Event, InvalidEvent
from local.manifests import (
    DeliverySpec,
    Destination,
    ManifestError,
    Manifests,
    TriggerResource,
    TriggerSpec,
)

Like: TypeAlias = Literal["in-memory", "kafka"]

_TTL = "knativebrokerttl"
_ARRIVAL_TIME = "knativearrivaltime"
_DEFAULT_TTL = 255


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
            InvalidEvent: It may not be published, or has been through too many replies.
        """
        event.validate()
        hops = event.attributes.get(_TTL, "")
        # As Knative's TTLDefaulter: a value that is not a number counts as absent.
        ttl = int(hops) - 1 if hops.isascii() and hops.isdigit() else _DEFAULT_TTL
        if ttl <= 0:
            raise InvalidEvent(f"{_TTL} is used up: the event has been through too many replies")
        arrival = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        attributes = {
            **event.attributes,
            _TTL: str(ttl),
            _ARRIVAL_TIME: arrival.replace("+00:00", "Z"),
        }
        triggers = [r.name for r in self.routes[broker] if r.spec.wants(attributes)]
        return Event(attributes=attributes, data=event.data), triggers

    def admit_reply(self, broker: str, reply: Event, *, to: Event) -> tuple[Event, list[str]]:
        """Take a subscriber's reply into the Broker; its hops go on from the event's.

        Raises:
            InvalidEvent: as `admit` does.
        """
        attributes = {**reply.attributes, _TTL: to.attributes[_TTL]}
        return self.admit(broker, Event(attributes=attributes, data=reply.data))


def outgoing_headers(event: Event, extensions: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an event and more extensions, without the Broker's hop count."""
    attributes = {**event.attributes, **extensions}
    del attributes[_TTL]
    return Event(attributes=attributes, data=event.data).to_headers()


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
