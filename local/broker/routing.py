"""Where events go: the Brokers and Triggers of the manifests with every destination resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal, TypeAlias
from urllib.parse import urljoin

from local.broker.event import Event, InvalidEvent
from local.broker.filters import Filter
from local.manifests import DeliverySpec, Destination, ManifestError, Manifests, Trigger

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
    """

    name: str
    namespace: str
    broker: str
    filter: Filter
    delivery: DeliverySpec
    subscriber_url: str
    dead_letter_url: str | None


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
            like: whose reading of delivery specs counts.
            services: base URL of each service by its name.
            base_url: where the ingress is, without the path of a Broker.

        Raises:
            ManifestError: naming the Trigger and the service that has no URL.
        """
        routes: dict[str, list[Route]] = {f"{b.namespace}/{b.name}": [] for b in manifests.brokers}
        for trigger in manifests.triggers:
            delivery = manifests.delivery_for(trigger)
            if like == "kafka":
                delivery = _as_kafka_reads(delivery, trigger)
            sink = delivery.dead_letter_sink
            broker = f"{trigger.namespace}/{trigger.broker}"
            routes[broker].append(
                Route(
                    name=f"{trigger.namespace}/{trigger.name}",
                    namespace=trigger.namespace,
                    broker=broker,
                    filter=trigger.filter,
                    delivery=delivery,
                    subscriber_url=_resolve(trigger.subscriber, trigger, services, base_url),
                    dead_letter_url=(_resolve(sink, trigger, services, base_url) if sink else None),
                )
            )
        return cls(base_url=base_url, routes={name: tuple(each) for name, each in routes.items()})

    def all_routes(self) -> list[Route]:
        """Return the routes of all Brokers."""
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
            InvalidEvent: it may not be published, or has been round too often.
        """
        event.validate()
        hops = event.attributes.get(_TTL, "")
        # As Knative's TTLDefaulter: what is not a number counts as not given.
        ttl = int(hops) - 1 if hops.isascii() and hops.isdigit() else _DEFAULT_TTL
        if ttl <= 0:
            raise InvalidEvent(f"{_TTL} is used up: the event has been through too many replies")
        arrival = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        attributes = {
            **event.attributes,
            _TTL: str(ttl),
            _ARRIVAL_TIME: arrival.replace("+00:00", "Z"),
        }
        triggers = [r.name for r in self.routes[broker] if r.filter.matches(attributes)]
        return Event(attributes=attributes, data=event.data), triggers

    def admit_reply(self, broker: str, reply: Event, *, to: Event) -> tuple[Event, list[str]]:
        """Take a subscriber's reply into the Broker; its hops go on from the event's.

        Raises:
            InvalidEvent: as `admit` does.
        """
        attributes = {**reply.attributes, _TTL: to.attributes[_TTL]}
        return self.admit(broker, Event(attributes=attributes, data=reply.data))


def outgoing_headers(event: Event, extensions: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an event and more extensions for a subscriber or dead letter sink.

    Neither ever sees the Broker's hop count.
    """
    attributes = {**event.attributes, **extensions}
    del attributes[_TTL]
    return Event(attributes=attributes, data=event.data).to_headers()


def _as_kafka_reads(delivery: DeliverySpec, trigger: Trigger) -> DeliverySpec:
    """Count a backoff from 1, know no Retry-After, and let no sink of the Broker's step in."""
    own = trigger.delivery
    return replace(
        delivery,
        backoff_from=1,
        retry_after_max_s=None,
        dead_letter_sink=delivery.dead_letter_sink if own is None else own.dead_letter_sink,
    )


def _resolve(
    destination: Destination, trigger: Trigger, services: Mapping[str, str], base_url: str
) -> str:
    try:
        return destination.resolve(services, base_url)
    except KeyError as exc:
        raise ManifestError(
            f"Trigger {trigger.namespace}/{trigger.name}: no URL is known for service"
            f" {destination.name!r}: give --service {destination.name}=URL"
        ) from exc
